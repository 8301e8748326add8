"""Three replicas on one PostgreSQL and one Redis, before one upstream that each test scripts."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway, eventually, start_together
from tests.fakes.services import restartable_redis, running_postgres
from tests.fakes.upstream import CREDENTIAL
from tests.soak.client import Fleet, ReplicaClient

REPLICAS = 3
#: The groups of config.yaml, and how many deployments each has.
GROUPS = {"half-broken": 2, "outage": 2, "keep-alive": 1, "restart": 1}


def amount(name: str, default: int) -> int:
    """The size of a test: `make soak SOAK_REQUESTS=100000`."""
    return int(os.environ.get(name, default))


#: Requests of a test, and how many of them run at once.
REQUESTS = amount("SOAK_REQUESTS", 10_000)
TASKS = 24


@dataclass(frozen=True, slots=True)
class Replicas:
    gateways: list[Gateway]
    listener: socket.socket
    database: str

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def fleet(self) -> Fleet:
        key = self.gateways[0].issue_key()
        return Fleet([ReplicaClient(gateway.port, key) for gateway in self.gateways])

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def count_open_rows(self, model_group: str) -> int:
        """The spend rows that the worker has not priced yet."""
        final = "('priced', 'unpriced', 'aborted')"
        query = f"SELECT count(*) FROM billing_spendlog WHERE model_group = %s AND state NOT IN {final}"
        return int(self.rows(query, model_group)[0][0])

    def wait_settled(self, model_group: str) -> None:
        eventually(lambda: self.count_open_rows(model_group) == 0, within_s=30, what="the rows are settled")


def served(url: str) -> JsonObject:
    """Deployment n of group x is `x-n` at the upstream."""

    def at(group: str, number: int) -> JsonObject:
        model = f"{group}-{number}"
        params = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": CREDENTIAL}
        return {"model_name": group, "litellm_params": params, "model_info": {"id": model}}

    return {"model_list": [at(group, number) for group, count in GROUPS.items() for number in range(count)]}


@pytest.fixture(scope="session")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        postgres = stack.enter_context(running_postgres())
        redis = stack.enter_context(restartable_redis())
        env = {
            "TOLLGATE_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
            "DATABASE_URL": postgres.migrated_database(),
            "REDIS_URL": redis.url,
        }
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        homes = [tmp_path_factory.mktemp("replica") for _ in range(REPLICAS)]
        gateways = [stack.enter_context(closing(Gateway(home, config=served(url), env=env))) for home in homes]
        start_together(gateways)
        yield Replicas(gateways, listener, env["DATABASE_URL"])


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Prints figures of a test, for docs/routing.md."""

    def show(**figures: object) -> None:
        print(f"\n{request.node.name}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))

    return show
