"""After a crash, a stop or an outage every call is on the books once, and no process is left."""

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import BUSY, Gateway, decimal_cost, events, eventually
from tests.fakes.services import Postgres, running_postgres, running_redis
from tests.fakes.upstream import Answer, FakeUpstream, Talking

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ASK: list[Any] = [{"role": "user", "content": "hi"}]
STREAMS = 100
COST = Decimal("0.000348450")  # of the fake upstream's usual usage on `priced`


class Streams:
    """Streams read in a thread of their own, each with an end user by which its row is known.

    `ended` has, by end user, whether the stream came to its [DONE].
    """

    def __init__(self, gateway: Gateway, key: str, count: int, prefix: str = "u") -> None:
        self.names = [f"{prefix}{number}" for number in range(count)]
        self.ended: dict[str, bool] = {}
        self._gateway, self._key = gateway, key
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read_all()), daemon=True)

    def start(self) -> "Streams":
        self._thread.start()
        return self

    def join(self, within_s: float = 30) -> dict[str, bool]:
        self._thread.join(BUSY * within_s)
        assert not self._thread.is_alive(), "streams are still open"
        return self.ended

    async def _read_all(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._gateway.url, timeout=60, limits=limits) as http:
            await asyncio.gather(*(self._read(http, name) for name in self.names))

    async def _read(self, http: httpx.AsyncClient, name: str) -> None:
        body = {"model": "priced", "messages": ASK, "stream": True, "user": name}
        try:
            response = await http.post(
                "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {self._key}"}
            )
            self.ended[name] = response.status_code == 200 and events(response.content)[-1:] == ["[DONE]"]
        except httpx.HTTPError:
            self.ended[name] = False


def asked_by(upstream: FakeUpstream, prefix: str) -> list[str]:
    """The end users whose requests reached the upstream."""
    users = [str(recorded.json.get("user", "")) for recorded in upstream.of("up-priced")]
    return [user for user in users if user.startswith(prefix)]


def settled_rows(gateway: Gateway, key: str, reached: list[str], within_s: float) -> list[JsonObject]:
    """Exactly one row for every request that reached the upstream, each settled in time."""

    def settled() -> list[JsonObject]:
        rows = gateway.settled_rows(api_key=key)
        return rows if {row["end_user"] for row in rows} >= set(reached) else []

    rows = eventually(settled, within_s=within_s, what="every request is settled")
    per_user = Counter(row["end_user"] for row in rows)
    assert {user: count for user, count in per_user.items() if count != 1} == {}
    return [row for row in rows if row["end_user"] in set(reached)]


@pytest.mark.parametrize("whole", [True, False], ids=["everything", "main process"])
def test_after_a_kill_amid_streams_every_call_has_one_settled_row(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream, whole: bool
) -> None:
    gateway = launch(config, env=backend.environment())
    key = gateway.issue_key()
    prefix = f"kill-{backend.name}-{whole}-"
    for number in range(5):  # acknowledged: these rows were durable before their last byte
        assert gateway.call(key, model="priced", user=f"{prefix}done{number}").status_code == 200
    with upstream.script("up-priced", Talking(gap_s=0.1)):
        streams = Streams(gateway, key, STREAMS, prefix).start()
        eventually(
            lambda: sum(r.sent_bytes > 1000 for r in upstream.of("up-priced")[-STREAMS:]) == STREAMS,
            within_s=20,
            what=f"{STREAMS} streams run",
        )
        gateway.kill(whole=whole)
        assert not any(streams.join().values())
    reached = asked_by(upstream, prefix)
    assert len(reached) == 5 + STREAMS
    gateway.start()
    rows = settled_rows(gateway, key, reached, within_s=30)
    assert {row["cost_status"] for row in rows} <= {"priced", "lost"}
    for row in rows:
        if "done" in row["end_user"]:
            assert (row["cost_status"], decimal_cost(row)) == ("priced", COST)
        else:
            assert row["usage_estimated"] is True
            assert decimal_cost(row) > 0
    assert gateway.call(key, model="priced").status_code == 200


def test_a_kill_loses_no_acknowledged_call(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    gateway = launch(config, env=backend.environment())
    key = gateway.issue_key()
    prefix = f"ack-{backend.name}-"
    acknowledged: list[str] = []
    stopped = threading.Event()

    def call_on() -> None:
        with httpx.Client(base_url=gateway.url, timeout=10) as http:
            for number in itertools.count():
                body = {"model": "priced", "messages": ASK, "user": f"{prefix}{number}", "stream": bool(number % 2)}
                try:
                    answer = http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
                except httpx.HTTPError:
                    return
                if answer.status_code == 200 and ("[DONE]" in answer.text or not number % 2):
                    acknowledged.append(f"{prefix}{number}")
                if stopped.is_set():
                    return

    caller = threading.Thread(target=call_on)
    caller.start()
    eventually(lambda: len(acknowledged) >= 30, within_s=20, what="30 calls are answered")
    gateway.kill(whole=True)
    stopped.set()
    caller.join()
    gateway.start()
    rows = settled_rows(gateway, key, asked_by(upstream, prefix), within_s=30)
    exact = {row["end_user"] for row in rows if row["cost_status"] == "priced" and decimal_cost(row) == COST}
    assert set(acknowledged) <= exact


def test_sigterm_drains_running_streams_and_leaves_no_process(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    gateway = launch(config, env=backend.environment())
    key = gateway.issue_key()
    prefix = f"drain-{backend.name}-"
    with upstream.script("up-priced", Answer(gap_s=0.1, text="w " * 20)):
        streams = Streams(gateway, key, 10, prefix).start()
        eventually(lambda: len(asked_by(upstream, prefix)) == 10, within_s=5, what="10 streams run")
        assert len(gateway.processes()) >= 2  # the web process and a worker at least
        gateway.stop()
        assert streams.join() == dict.fromkeys(streams.names, True)
    assert gateway.processes() == []
    gateway.start()
    rows = settled_rows(gateway, key, streams.names, within_s=15)
    assert {(row["cost_status"], decimal_cost(row)) for row in rows} == {("priced", COST)}


def test_an_idle_gateway_stops_at_once(launch: Launch, config: JsonObject) -> None:
    gateway = launch(config, env={"TOLLGATE_DRAIN_GRACE_S": "3600"})
    with httpx.Client(base_url=gateway.url) as client:
        client.get("/health/liveliness")  # an idle keep-alive connection must not hold it up
        gateway.stop()


def test_a_client_that_left_before_the_stop_is_on_the_books(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    gateway = launch(config, env=backend.environment())
    key = gateway.issue_key()
    with upstream.script("up-priced", Answer(gap_s=0.1, text="w " * 100)):
        stream = gateway.openai(key).chat.completions.create(model="priced", messages=ASK, stream=True)
        next(iter(stream))
        stream.close()
        gateway.stop()
    gateway.start()
    [row] = gateway.wait_priced(api_key=key)
    assert row["usage_estimated"] is True


# Other ways to run it


def test_several_web_processes_serve_one_address_and_end_together(
    launch: Launch, backend: Backend, config: JsonObject
) -> None:
    gateway = launch(config, env={**backend.environment(), "WEB_CONCURRENCY": "2"})
    key = gateway.issue_key()
    for _ in range(30):  # a connection each, so that both processes are met
        assert httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": key}).status_code == 200
    for _ in range(10):
        assert gateway.call(key, model="priced").status_code == 200
    assert [decimal_cost(row) for row in gateway.wait_priced(10, api_key=key)] == [COST] * 10
    gateway.admin.post("/key/block", json={"key": key})

    def statuses() -> set[int]:
        return {httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": key}).status_code for _ in range(30)}

    eventually(lambda: statuses() == {401}, within_s=5, what="each web process refuses the blocked key")
    gateway.stop()


def test_web_worker_and_beat_run_as_commands_of_their_own(
    launch: Launch, production: Backend, config: JsonObject
) -> None:
    gateway = launch(config, env=production.environment(), start=False)
    gateway.start("--web-only")
    key = gateway.issue_key()
    for count in (1, 2):  # the second row comes after the time to price the first
        assert gateway.call(key, model="priced").status_code == 200
        rows = gateway.wait_rows(count, api_key=key)
        assert [(row["cost_status"], row["cost"]) for row in rows] == [("metered", None)] * count
    others = [gateway.spawn(command) for command in ("worker", "beat")]
    assert [decimal_cost(row) for row in gateway.wait_priced(2, api_key=key)] == [COST] * 2
    for process in others:
        process.terminate()
        assert process.wait(20) in {0, -15, 143}
    gateway.stop()


# Two runs on one PostgreSQL and one Redis


SHARED_KEY = {"TOLLGATE_ENCRYPTION_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}


def wait_for_changes(writer: Gateway, reader: Gateway) -> None:
    """Returns when the reader's poll has read all that the writer has written so far: the block of a key comes last."""
    key = writer.issue_key()
    eventually(lambda: reader.call(key).status_code == 200, within_s=5, what="the key works on the other run")
    assert writer.admin.post("/key/block", json={"key": key}).status_code == 200
    eventually(lambda: reader.call(key).status_code == 401, within_s=5, what="the key is blocked on the other run")


def test_two_runs_with_homes_of_their_own_serve_the_same_models(
    launch: Launch, production: Backend, config: JsonObject
) -> None:
    env = production.environment()
    first, second = launch(config, env=env), launch(config, env=env)
    key = first.issue_key()
    eventually(lambda: second.call(key).status_code == 200, within_s=1, what="the key works on both")
    wait_for_changes(first, second)
    wait_for_changes(second, first)
    for gateway in (first, second):
        assert gateway.call(key, model="priced").status_code == 200


def test_two_runs_share_keys_revocation_and_books(launch: Launch, production: Backend, config: JsonObject) -> None:
    env = {**production.environment(), **SHARED_KEY}
    first, second = launch(config, env=env), launch(config, env=env)
    key = first.issue_key()
    eventually(lambda: second.call(key, model="priced").status_code == 200, within_s=1, what="the key works on both")
    rounds = 20
    for gateway in (first, second) * rounds:
        assert gateway.call(key, model="priced").status_code == 200
    rows = first.wait_priced(2 * rounds + 1, api_key=key)
    assert sum((decimal_cost(row) for row in rows), Decimal(0)) == COST * len(rows)
    for gateway in (first, second):  # the workers look for rows to price again
        assert gateway.call(key, model="priced").status_code == 200
    costs = {row["request_id"]: row["cost"] for row in second.wait_priced(2 * rounds + 3, api_key=key)}
    assert [costs[row["request_id"]] for row in rows] == [row["cost"] for row in rows]
    second.admin.post("/key/block", json={"key": key})
    eventually(lambda: first.call(key).status_code == 401, within_s=1, what="blocked on the other run too")


def test_two_runs_may_start_at_once_on_an_empty_database(
    launch: Launch, production: Backend, config: JsonObject
) -> None:
    env = {**production.environment(), **SHARED_KEY}
    gateways = [launch(config, env=env, start=False) for _ in range(2)]
    failures: list[BaseException] = []

    def start(gateway: Gateway) -> None:
        try:
            gateway.start()
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(gateway,)) for gateway in gateways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    key = gateways[0].issue_key()
    models = [sorted(model.id for model in gateway.openai(key).models.list()) for gateway in gateways]
    assert models[0] == models[1]
    weighted = [row for row in config["model_list"] if row["model_name"] == "weighted"]
    assert len(weighted) == 2
    assert models[0].count("weighted") == 1


# A database that is away


@contextmanager
def outage(postgres: Postgres) -> Iterator[None]:
    postgres.stop()
    try:
        yield
    finally:
        postgres.start()


def test_a_database_outage_stops_no_known_key_and_loses_no_row(
    launch: Launch, config: JsonObject, upstream: FakeUpstream
) -> None:
    with running_postgres() as postgres, running_redis() as redis_url:
        gateway = launch(config, env={"DATABASE_URL": postgres.migrated_database(), "REDIS_URL": redis_url})
        good_key, bad_key = gateway.issue_key(), "sk-" + "u" * 48
        assert gateway.call(good_key, model="priced").status_code == 200
        with outage(postgres):
            for number in range(6):
                answer = gateway.call(good_key, model="priced", stream=bool(number % 2))
                assert answer.status_code == 200, answer.text
            assert gateway.call(bad_key).status_code == 503  # it may well be a good key
            ready = gateway.http.get("/health/readiness")
            assert ready.status_code == 503
            assert ready.json()["db"] != "connected"
            assert gateway.http.get("/health/liveliness").status_code == 200
        eventually(lambda: gateway.http.get("/health/readiness").status_code == 200, within_s=10, what="ready again")
        eventually(
            lambda: len(gateway.settled_rows(api_key=good_key)) >= 7,
            within_s=30,
            what="the rows of the outage are replayed and priced",
        )
        assert [decimal_cost(row) for row in gateway.spend_rows(api_key=good_key)] == [COST] * 7
        assert gateway.call(bad_key).status_code == 401
        assert gateway.call(gateway.issue_key()).status_code == 200


def test_a_restart_of_the_database_while_nobody_asks_is_not_noticed(launch: Launch, config: JsonObject) -> None:
    with running_postgres() as postgres, running_redis() as redis_url:
        gateway = launch(config, env={"DATABASE_URL": postgres.migrated_database(), "REDIS_URL": redis_url})
        head = {"authorization": f"Bearer {gateway.issue_key()}"}
        with httpx.Client(base_url=gateway.url, headers=head, timeout=20) as http:
            body = {"model": "priced", "input": "hi"}
            first = http.post("/v1/responses", json=body).json()["id"]

            def answers(count: int) -> set[int]:
                """The statuses of reads, of calls through the ORM and of writes, all at once."""
                with ThreadPoolExecutor(count) as crowd:
                    futures = [crowd.submit(http.get, f"/v1/responses/{first}") for _ in range(count)]
                    futures += [crowd.submit(http.post, "/v1/conversations", json={}) for _ in range(count)]
                    futures += [
                        crowd.submit(http.post, "/v1/responses", json={**body, "previous_response_id": first})
                        for _ in range(count)
                    ]
                    return {answer.result().status_code for answer in futures}

            assert answers(8) == {200}  # every connection is made
            with outage(postgres):
                pass
            assert answers(8) == {200}


def test_a_frozen_database_stops_no_known_key_and_readiness_says_so(launch: Launch, config: JsonObject) -> None:
    """A frozen database is like one behind a cut network: it refuses nothing and does not answer."""
    with running_postgres() as postgres, running_redis() as redis_url:
        gateway = launch(config, env={"DATABASE_URL": postgres.migrated_database(), "REDIS_URL": redis_url})
        key = gateway.issue_key()
        assert gateway.call(key, model="priced").status_code == 200
        with postgres.frozen():
            for number in range(6):
                answer = gateway.call(key, model="priced", stream=bool(number % 2))
                assert answer.status_code == 200, answer.text
            eventually(lambda: gateway.http.get("/health/readiness").status_code == 503, within_s=20, what="not ready")
            assert gateway.call("sk-" + "u" * 48).status_code == 503
        eventually(lambda: gateway.http.get("/health/readiness").status_code == 200, within_s=20, what="ready again")
        eventually(lambda: len(gateway.settled_rows(api_key=key)) >= 7, within_s=30, what="the rows are replayed")
        assert [decimal_cost(row) for row in gateway.spend_rows(api_key=key)] == [COST] * 7


def test_rows_spooled_in_an_outage_outlive_a_kill(launch: Launch, config: JsonObject) -> None:
    with running_postgres() as postgres, running_redis() as redis_url:
        gateway = launch(config, env={"DATABASE_URL": postgres.migrated_database(), "REDIS_URL": redis_url})
        key = gateway.issue_key()
        assert gateway.call(key, model="priced").status_code == 200
        with outage(postgres):
            for _ in range(3):
                assert gateway.call(key, model="priced").status_code == 200
            gateway.kill(whole=True)
        gateway.start()
        eventually(lambda: len(gateway.settled_rows(api_key=key)) >= 4, within_s=30, what="the spool is replayed")
        assert [decimal_cost(row) for row in gateway.spend_rows(api_key=key)] == [COST] * 4
