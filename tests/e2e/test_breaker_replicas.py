"""Two replicas on one PostgreSQL and one Redis: what one learns of a deployment, the other one knows."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from cryptography.fernet import Fernet

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT
from tests.e2e.gateway import MASTER_KEY, Gateway, eventually, start_together
from tests.fakes.services import RedisServer, restartable_redis, running_postgres
from tests.fakes.upstream import CREDENTIAL, FAULTS, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

AWAY = "Redis is away: each process decides alone which deployments are out"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with restartable_redis() as server:
        yield server


@pytest.fixture(scope="module")
def replicas(
    redis: RedisServer, upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Gateway]]:
    def at(group: str, model: str) -> dict[str, Any]:
        params = {"model": f"openai/{model}", "api_base": upstream.url, "api_key": CREDENTIAL}
        return {"model_name": group, "litellm_params": params, "model_info": {"id": model}}

    groups = ("broken", "refused", "alone")
    config: JsonObject = {
        "model_list": [
            *(at(group, f"shared-{group}") for group in groups),
            *(at(group, f"shared-{group}-twin") for group in groups),
        ],
        "router_settings": {"routing_strategy": "least-busy", "num_retries": 1},
    }
    with running_postgres() as postgres, ExitStack() as stack:
        env = {
            **ENVIRONMENT,
            "TOLLGATE_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
            "DATABASE_URL": postgres.migrated_database(),
            "REDIS_URL": redis.url,
        }
        homes = [tmp_path_factory.mktemp("replica") for _ in range(2)]
        gateways = [stack.enter_context(closing(Gateway(home, config=config, env=env))) for home in homes]
        start_together(gateways)
        yield gateways


def row(gateway: Gateway, model_id: str) -> JsonObject:
    answer = gateway.admin.get("/health", params={"model_id": model_id}).json()
    (found,) = answer["healthy_endpoints"] + answer["unhealthy_endpoints"]
    return dict(found)


def call_until(gateways: list[Gateway], model: str, check: Callable[[], object], what: str) -> None:
    """Calls of the replicas in turn, none of which fails, until the condition holds."""

    def call_and_check() -> object:
        for gateway in gateways:
            answer = gateway.call(MASTER_KEY, model=model)
            assert answer.status_code == 200, answer.text
        return check()

    eventually(call_and_check, within_s=30, what=what)


def test_an_ejection_of_one_replica_holds_on_the_other_and_ends_on_both(
    replicas: list[Gateway], upstream: FakeUpstream
) -> None:
    one, other = replicas
    name = "shared-broken"
    with upstream.script(name, FAULTS["500"]):
        call_until([one], "broken", lambda: row(one, name)["state"] == "out", "the first replica takes it out")
        known = eventually(
            lambda: (found := row(other, name))["state"] != "in" and found, within_s=2, what="the other one knows"
        )
        assert known["cooldown"]["error_class"] == "server"
        for _ in range(50):
            for gateway in replicas:
                assert gateway.call(MASTER_KEY, model="broken").status_code == 200
        assert len(upstream.of(name)) < 15
    states = lambda: {row(gateway, name)["state"] for gateway in replicas} == {"in"}  # noqa: E731
    call_until(replicas, "broken", states, "both ask it again")


def test_a_refused_credential_is_marked_on_both_and_named_once_in_the_log(
    replicas: list[Gateway], upstream: FakeUpstream
) -> None:
    name = "shared-refused"
    member = "credentials_refused_since"
    with upstream.script(name, FAULTS["401"]):
        call_until(replicas[:1], "refused", lambda: all(row(one, name)[member] for one in replicas), "both know")
    for gateway in replicas:
        answer = gateway.admin.get("/health", params={"model_id": name}).json()
        assert answer["unhealthy_endpoints"][0]["error_code"] == "upstream_auth_failed"
    call_until(replicas, "refused", lambda: not any(row(one, name)[member] for one in replicas), "the mark is gone")
    logs = "".join(gateway.output() for gateway in replicas)
    assert logs.count("an upstream refuses a deployment's credential") == 1
    assert logs.count("a deployment's credential is no longer refused") in {1, 2}, "by each that was admitted first"
    assert CREDENTIAL not in logs


def test_without_redis_each_replica_decides_alone(
    replicas: list[Gateway], upstream: FakeUpstream, redis: RedisServer
) -> None:
    one, other = replicas
    name = "shared-alone"
    redis.kill()
    try:
        with upstream.script(name, FAULTS["500"]):
            call_until([one], "alone", lambda: row(one, name)["state"] == "out", "the first replica takes it out")
            assert row(other, name)["state"] == "in"
    finally:
        redis.start()
    eventually(lambda: "Redis is back: all processes" in one.output(), within_s=10, what="Redis is back")
    eventually(lambda: row(other, name)["state"] != "in", within_s=10, what="the other one knows")
    call_until(replicas, "alone", lambda: {row(g, name)["state"] for g in replicas} == {"in"}, "both ask it again")
    assert [gateway.output().count(AWAY) for gateway in replicas] == [1, 1]
