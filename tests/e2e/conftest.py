"""One gateway per backend and session before a scripted upstream, and the means to start more of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import openai
import pytest
from pytest_django import DjangoDbBlocker

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway
from tests.e2e.ledger import find_disagreements
from tests.fakes.raw import RAW_FAULTS, RAW_STREAM_FAULTS, RawUpstreams
from tests.fakes.services import running_postgres, running_redis
from tests.fakes.upstream import CREDENTIAL, FAULTS, ODDITIES, USAGES, FakeUpstream

# Text, so that the file holds the very digits: YAML reads `6e-7` as a string, which must still be a price.
PRICES = {
    "input_cost_per_token": "0.00000015",
    "output_cost_per_token": "6e-7",
    "cache_read_input_token_cost": "7.5e-8",
}
LOCAL_SERVERS = ("ollama", "xinference", "mindie", "lightllm", "hosted_vllm", "sglang", "openai_compatible")
SHORT: JsonObject = {"timeout": 1, "stream_timeout": 1}
ENVIRONMENT = {
    "FAKE_UPSTREAM_KEY": CREDENTIAL,
    "TOLLGATE_KEEPALIVE_S": "1.5",  # longer than SHORT: a failure before it is told by the status
    "TOLLGATE_STREAM_IDLE_TIMEOUT_S": "3",
    "TOLLGATE_MAX_BODY_BYTES": str(1024 * 1024),
    "TOLLGATE_MAX_UPSTREAM_BYTES": str(4 * 1024 * 1024),
}


def served(upstream: FakeUpstream, raw: RawUpstreams) -> JsonObject:
    """The config.yaml of the tests: public model `x` is `up-x` at the upstream."""

    def at(name: str, *, model: str = "", base: str = upstream.url, **params: Any) -> JsonObject:
        params = {"model": model or f"openai/up-{name}", "api_base": base, "api_key": CREDENTIAL, **params}
        return {"model_name": name, "litellm_params": params}

    rows = [
        at("chat", api_key="os.environ/FAKE_UPSTREAM_KEY"),
        at("priced", **PRICES),
        at("unpriced"),
        at("free", input_cost_per_token=0, output_cost_per_token=0),
        at("embed", input_cost_per_token="2e-8"),
        at("gone", base=raw.refused_url, **PRICES),
        at("nohost", base="http://no-such-host.invalid/v1", **SHORT),
        at("tls", base=upstream.url.replace("http:", "https:"), **SHORT),
        at("weighted", model="openai/up-weighted-a", weight=1),
        at("weighted", model="openai/up-weighted-b", weight=3),
        at("timeouted", **SHORT),
        at("redirected"),
        at("hangs-up", base=raw.url("hangs-up")),
    ]
    rows += [at(f"local-{name}", model=f"{name}/up-local-{name}") for name in LOCAL_SERVERS]
    rows += [at(name, **PRICES) for name in {**ODDITIES, **USAGES}]
    rows += [at(f"fault-{name}", model=f"openai/up-{name}", **SHORT) for name in FAULTS]
    rows += [at(f"fault-{name}", base=raw.url(name), **SHORT) for name in {**RAW_FAULTS, **RAW_STREAM_FAULTS}]
    return {"model_list": rows}


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of place for a gateway's data. `environment()` points to a new, empty one."""

    name: str
    environment: Callable[[], dict[str, str]]


class Launch(Protocol):
    def __call__(self, config: JsonObject | None = None, *, start: bool = True, **options: Any) -> Gateway: ...


@pytest.fixture(scope="session")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as running:
        yield running


@pytest.fixture(scope="session")
def raw() -> Iterator[RawUpstreams]:
    with RawUpstreams() as running:
        yield running


@pytest.fixture(scope="session")
def config(upstream: FakeUpstream, raw: RawUpstreams) -> JsonObject:
    return served(upstream, raw)


@pytest.fixture(scope="session")
def production() -> Iterator[Backend]:
    """PostgreSQL and Redis, for the tests that ask for nothing else."""
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())

        def environment() -> dict[str, str]:
            redis_url = stack.enter_context(running_redis())
            return {"DATABASE_URL": postgres.migrated_database(), "REDIS_URL": redis_url}

        yield Backend("postgres", environment)


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "sqlite":
        return Backend("sqlite", dict)
    production: Backend = request.getfixturevalue("production")
    return production


@pytest.fixture(scope="session")
def gateway(
    backend: Backend,
    config: JsonObject,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp(f"gateway-{backend.name}")
    running = Gateway(home, config=config, env={**ENVIRONMENT, **backend.environment()})
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()
    assert find_disagreements(running, django_db_blocker) == []


@pytest.fixture
def launch(
    request: pytest.FixtureRequest, tmp_path: Path, django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[Launch]:
    """Starts a gateway for this test alone; options as of `Gateway`."""
    launched: list[Gateway] = []
    with ExitStack() as stack:

        def start_one(config: JsonObject | None = None, *, start: bool = True, **options: Any) -> Gateway:
            options["env"] = {**ENVIRONMENT, **options.get("env", {})}
            gateway = Gateway(tmp_path / f"gateway-{len(launched) + 1}", config=config, **options)
            launched.append(gateway)
            stack.callback(gateway.close)
            return gateway.start() if start else gateway

        yield start_one
    if request.node.get_closest_marker("rows_by_hand") is None:
        assert [find_disagreements(gateway, django_db_blocker) for gateway in launched] == [[]] * len(launched)


@pytest.fixture
def key(gateway: Gateway) -> str:
    return gateway.issue_key()


@pytest.fixture
def client(gateway: Gateway, key: str) -> openai.OpenAI:
    return gateway.openai(key)
