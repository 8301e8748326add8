"""An outage of the database while the gateway runs: readiness tells it, and the log has a line, not a flood."""

import json
import resource
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.e2e.conftest import Launch
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.services import Postgres, running_postgres, running_redis

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

MODEL = "tollgate-echo"
OUTAGE_S = 15.0  # every task of the schedule comes several times


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


def is_unready(gateway: Gateway) -> bool:
    answer = gateway.http.get("/health/readiness")
    return answer.status_code == 503 and "The database" in answer.json()["reason"]


def is_ready(gateway: Gateway) -> bool:
    return gateway.http.get("/health/readiness").status_code == 200


def fill_disk(gateway: Gateway) -> Callable[[], None]:
    """No file of the web process may grow."""
    web = psutil.Process(gateway.pid)
    web.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    return lambda: web.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def lock(gateway: Gateway) -> Callable[[], None]:
    connection = sqlite3.connect(gateway.home / "db.sqlite3", isolation_level=None, timeout=20)
    connection.execute("BEGIN IMMEDIATE")

    def unlock() -> None:
        connection.execute("ROLLBACK")
        connection.close()

    return unlock


@pytest.mark.parametrize("begin", [fill_disk, lock])
def test_readiness_tells_when_sqlite_cannot_be_written(
    launch: Launch, begin: Callable[[Gateway], Callable[[], None]]
) -> None:
    gateway = launch()
    key = gateway.issue_key()
    end = begin(gateway)
    eventually(lambda: is_unready(gateway), within_s=12, what="readiness tells it")
    assert gateway.http.get("/health/readiness").json()["reason"] == "The database takes no writes."
    assert gateway.http.get("/health/liveliness").status_code == 200
    end()
    eventually(lambda: is_ready(gateway), within_s=12, what="readiness tells the end")
    assert gateway.call(key, model=MODEL).status_code == 200


@pytest.mark.parametrize("web_processes", [1, 2])
def test_an_outage_is_a_line_of_each_process_and_part(
    launch: Launch, own_postgres: Postgres, web_processes: int
) -> None:
    address = own_postgres.migrated_database()
    with running_redis() as redis_url:
        env = {"WEB_CONCURRENCY": str(web_processes), "DATABASE_URL": address, "REDIS_URL": redis_url}
        gateway = launch(env=env)
        key = gateway.issue_key()
        assert gateway.call(key, model=MODEL).status_code == 200
        beginning = len(gateway.output())
        own_postgres.stop()
        eventually(lambda: is_unready(gateway), within_s=10, what="readiness tells it")
        calls = Counter(gateway.call(key, model=MODEL).status_code for _ in range(20))
        with pytest.raises(AssertionError):
            eventually(lambda: is_ready(gateway), within_s=OUTAGE_S / 5, what="the outage ends by itself")
        own_postgres.start()
        eventually(lambda: is_ready(gateway), within_s=12, what="readiness tells the end")
        eventually(
            lambda: "the database is back" in gateway.output()[beginning:], within_s=10, what="the worker goes on"
        )
    entries = [json.loads(line) for line in gateway.output()[beginning:].splitlines() if line.startswith("{")]
    lines = Counter(entry["message"] for entry in entries if entry["level"] in {"error", "warning"})
    assert "Traceback" not in gateway.output(), lines
    assert lines["the database is away"] <= web_processes + 1, lines  # of each web process and the worker
    assert lines["the database is away, rows go to the spool"] <= web_processes, lines
    assert sum(lines.values()) <= 5 * (web_processes + 1), lines
    assert set(calls) <= {200, 503}, calls
