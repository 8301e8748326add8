"""A hard budget is a wall for many clients, on several replicas, whatever of them is killed."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import psycopg
import pytest
import redis

from billing.bookkeeping import STALE
from gateway.protocol.amounts import PUSD
from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT, PRICES, Launch
from tests.e2e.gateway import Gateway, decimal_cost, eventually, start_together
from tests.fakes.services import Postgres, running_postgres, running_redis
from tests.fakes.upstream import FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

SHARED = {"TOLLGATE_ENCRYPTION_KEY": "shared-by-the-replicas-of-this-test-0123456789"}
ASK: list[Any] = [{"role": "user", "content": "How much is left? " * 300}]  # no fewer tokens than the scripted usage
CLIENTS = 64  # of each gateway
DEAD_AFTER_S = 2 * STALE.total_seconds()  # a process gives no sign of life, is suspected, and then given up
LIMIT = Decimal("0.03")
CALL_USD = Decimal("0.00034845")  # of the scripted answer
REPLICAS = 3

#: Settled and leased picodollars of each window.
Sample: TypeAlias = list[tuple[int, int]]
WINDOWS = "SELECT settled_pusd, leased_pusd FROM tenants_budgetwindow"


@contextmanager
def reading_sqlite(home: Path) -> Iterator[Callable[[], Sample]]:
    with closing(sqlite3.connect(f"file:{home / 'db.sqlite3'}?mode=ro", uri=True, timeout=30)) as connection:
        yield lambda: connection.execute(WINDOWS).fetchall()


@contextmanager
def reading_postgres(url: str) -> Iterator[Callable[[], Sample]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield lambda: connection.execute(WINDOWS).fetchall()


class Sampler:
    """Samples the windows in a thread, until the end of the block; `worst` is the most that was settled and leased."""

    def __init__(self, reading: Callable[[], Any]) -> None:
        self.worst = self.samples = 0
        self._reading = reading
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._reading() as read:
            while not self._is_over.wait(0.005):
                for settled, leased in read():
                    assert settled >= 0 <= leased
                    self.worst = max(self.worst, settled + leased)
                    self.samples += 1

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(30)


def spend(gateways: Sequence[Gateway], key: str, count: int) -> list[httpx.Response]:
    """The answers of clients that ask until the budget is spent. A replica that is killed answers no more."""

    def ask(number: int) -> list[httpx.Response]:
        gateway = gateways[number % len(gateways)]
        answers: list[httpx.Response] = []
        while True:
            try:
                answer = gateway.call(key, model="priced", messages=ASK, max_tokens=311)
            except httpx.HTTPError:
                return answers
            answers.append(answer)
            if answer.status_code == 200:
                continue
            code = answer.json()["error"]["code"]
            if code != "budget_held":
                assert (answer.status_code, code) == (429, "insufficient_quota"), answer.text
                return answers
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["x-should-retry"] == "true"
            time.sleep(0.2)

    with ThreadPoolExecutor(count) as pool:
        return [answer for answers in pool.map(ask, range(count)) for answer in answers]


def make_key(gateway: Gateway, duration: str = "30d") -> JsonObject:
    response = gateway.admin.post("/key/generate", json={"max_budget": float(LIMIT), "budget_duration": duration})
    assert response.status_code == 200, response.text
    issued: JsonObject = response.json()
    return issued


def wait_settled(reading: Callable[[], Any]) -> int:
    """The settled amount, once nothing is leased any more."""
    with reading() as read:
        return eventually(
            lambda: (rows := read()) and not any(leased for _, leased in rows) and sum(row[0] for row in rows),
            within_s=2 * DEAD_AFTER_S,
            what="no reservation is left",
        )


@pytest.mark.parametrize("duration", ["30d", "rolling 24h"])
def test_clients_of_one_gateway_never_pass_a_budget(launch: Launch, config: JsonObject, duration: str) -> None:
    gateway = launch(config)
    issued = make_key(gateway, duration)
    with Sampler(lambda: reading_sqlite(gateway.home)) as sampler:
        answers = spend([gateway], issued["key"], CLIENTS)
    admitted = sum(answer.status_code == 200 for answer in answers)
    settled = wait_settled(lambda: reading_sqlite(gateway.home))
    assert sampler.samples > 20
    assert sampler.worst <= LIMIT * PUSD
    assert settled == admitted * CALL_USD * PUSD
    assert LIMIT * 9 / 10 < admitted * CALL_USD <= LIMIT
    rows = gateway.wait_priced(admitted, api_key=issued["token"])
    assert sum(map(decimal_cost, rows)) * PUSD == settled


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    with running_postgres() as postgres:
        yield postgres


@pytest.mark.parametrize(
    ("is_killed", "duration"),
    [(False, "30d"), (True, "30d"), (True, "rolling 24h")],
    ids=["all live", "one killed", "one killed, rolling"],
)
def test_clients_of_three_replicas_never_pass_a_budget(
    own_postgres: Postgres, config: JsonObject, tmp_path: Path, is_killed: bool, duration: str
) -> None:
    """Redis is emptied amid: budgets do not ask it."""
    url = own_postgres.migrated_database()
    with ExitStack() as stack:
        redis_url = stack.enter_context(running_redis())
        env = {**ENVIRONMENT, **SHARED, "DATABASE_URL": url, "REDIS_URL": redis_url, "WEB_CONCURRENCY": "1"}
        gateways = [
            stack.enter_context(closing(Gateway(tmp_path / f"replica-{number}", config=config, env=env)))
            for number in range(REPLICAS)
        ]
        start_together(gateways)
        issued = make_key(gateways[0], duration)
        disturbed = threading.Event()

        def disturb() -> None:
            with reading_postgres(url) as read:
                eventually(
                    lambda: sum(row[0] for row in read()) > LIMIT * PUSD / 3, within_s=60, what="a third is spent"
                )
            with closing(redis.Redis.from_url(redis_url)) as client:
                client.flushall()
            if is_killed:
                gateways[2].kill(whole=True)
            disturbed.set()

        thread = threading.Thread(target=disturb)
        with Sampler(lambda: reading_postgres(url)) as sampler:
            thread.start()
            answers = spend(gateways, issued["key"], CLIENTS * REPLICAS)
        thread.join(60)
        assert disturbed.is_set()
        admitted = sum(answer.status_code == 200 for answer in answers)
        settled = wait_settled(lambda: reading_postgres(url))
        assert sampler.samples > 20
        assert sampler.worst <= LIMIT * PUSD
        assert settled <= LIMIT * PUSD
        if not is_killed:
            assert settled == admitted * CALL_USD * PUSD
            assert admitted * CALL_USD > LIMIT * 9 / 10
        rows = gateways[0].settled_rows(api_key=issued["token"])
        assert sum((decimal_cost(row) for row in rows if row["cost"] is not None), Decimal()) * PUSD == settled
        # What the killed replica had leased can be spent
        again = spend(gateways[:2], issued["key"], 8)
        assert (settled + CALL_USD * 2 * PUSD > LIMIT * PUSD) or any(answer.status_code == 200 for answer in again)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_the_output_is_lowered_to_what_a_budget_still_pays(
    launch: Launch, config: JsonObject, upstream: FakeUpstream, path: str
) -> None:
    """By whole answers and by streams; the budget is no less of a wall."""
    gateway = launch(config, env={"TOLLGATE_LOWER_MAX_TOKENS": "true"})
    field = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    question = {"input": ASK[0]["content"]} if path == "/v1/responses" else {"messages": ASK}
    key = make_key(gateway)["key"]
    lowered = []
    for stream in (False, True):
        answer = gateway.call(key, path, model="priced", stream=stream, **question, **{field: 100_000})
        assert answer.status_code == 200, answer.text
        limit = int(answer.headers["x-tollgate-max-tokens-lowered"])
        sent = upstream.last("up-priced").json
        assert limit in {sent.get("max_tokens"), sent.get("max_completion_tokens")}
        assert 16 <= limit < LIMIT / Decimal(PRICES["output_cost_per_token"])
        lowered.append(limit)
    assert lowered[1] < lowered[0]  # the first answer has been paid
    answer = gateway.call(key, path, model="priced", **question, **{field: 100})
    assert "x-tollgate-max-tokens-lowered" not in answer.headers
    poor = gateway.admin.post("/key/generate", json={"max_budget": 0.00001}).json()["key"]
    refused = gateway.call(poor, path, model="priced", **question, **{field: 100_000})
    assert refused.status_code == 429
    assert "Budget has been exceeded!" in refused.text
