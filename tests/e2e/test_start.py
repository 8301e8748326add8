"""A start whose database cannot be used yet waits for it, says why, and goes on without a restart."""

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Launch
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.services import Postgres, running_postgres, running_redis

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

MODEL = "tollgate-echo"


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


def readiness_of(gateway: Gateway) -> httpx.Response:
    """The first answer of a gateway that has just begun to start."""

    def ask() -> httpx.Response | bool:
        try:
            return gateway.http.get("/health/readiness")
        except httpx.HTTPError:
            return False

    answer = eventually(ask, within_s=20, what="the gateway listens")  # type: ignore[arg-type]
    assert isinstance(answer, httpx.Response)
    return answer


def assert_waiting(gateway: Gateway, reason: str) -> None:
    answer = readiness_of(gateway)
    assert answer.status_code == 503, answer.text
    assert reason in answer.json()["reason"]
    assert gateway.http.get("/health/liveliness").status_code == 200
    for path in ("/console/", "/console/login/", "/key/list", "/v1/models", "/static/admin/js/core.js"):
        refused = gateway.http.get(path)
        assert (refused.status_code, "error" in refused.json()) == (503, True), path
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    assert gateway.http.post("/v1/chat/completions", json=body).status_code == 503


def waits(gateway: Gateway) -> list[JsonObject]:
    """The log lines of a start that waits."""
    lines = [line for line in gateway.output().splitlines() if line.startswith("{")]
    return [entry for entry in map(json.loads, lines) if entry["message"] == "the start waits"]


def assert_recovered(gateway: Gateway, processes: int) -> None:
    gateway.wait_ready()
    key = eventually(lambda: issue(gateway), within_s=10, what="every process is ready")
    # A process may have started before another one stored the built-in model, and learns of it within a second
    calls = [eventually(lambda: is_answered(gateway, key), within_s=5, what="the model answers") for _ in range(4)]
    assert all(calls)
    assert "Traceback" not in gateway.output()
    away = [entry for entry in waits(gateway) if "cannot be used" in entry["why"]]
    assert 1 <= len(away) <= processes, "one line of each process"
    assert len(waits(gateway)) <= 2 * processes  # another process migrates meanwhile
    assert gateway.wait_priced(4, api_key=key), "the worker started too"
    gateway.stop()


def is_answered(gateway: Gateway, key: str) -> bool:
    return gateway.call(key, model=MODEL).status_code == 200


def issue(gateway: Gateway) -> str:
    answer = gateway.admin.post("/key/generate", json={})
    return answer.json()["key"] if answer.status_code == 200 else ""


def unusable_file(gateway: Gateway) -> Callable[[], None]:
    place = gateway.home / "db.sqlite3"
    place.mkdir(parents=True)
    return place.rmdir


@pytest.mark.parametrize("web_processes", [1, 2])
@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_a_start_waits_for_its_sqlite_file(launch: Launch, web_processes: int, server: str) -> None:
    gateway = launch(start=False, env={"WEB_CONCURRENCY": str(web_processes)})
    mend = unusable_file(gateway)
    gateway.begin("--server", server)
    assert_waiting(gateway, "database")
    mend()
    assert_recovered(gateway, web_processes + 1)


@pytest.mark.parametrize("web_processes", [1, 2])
def test_a_start_waits_for_postgresql(launch: Launch, own_postgres: Postgres, web_processes: int) -> None:
    address = own_postgres.fresh_database()
    own_postgres.stop()
    with running_redis() as redis_url:
        env = {"WEB_CONCURRENCY": str(web_processes), "DATABASE_URL": address, "REDIS_URL": redis_url}
        gateway = launch(start=False, env=env)
        gateway.begin()
        assert_waiting(gateway, "database")
        own_postgres.start()
        assert_recovered(gateway, web_processes + 1)


def test_a_start_names_the_migration_that_is_missing(launch: Launch) -> None:
    gateway = launch(start=False, env={"TOLLGATE_MIGRATE": "false"})
    gateway.begin()
    assert_waiting(gateway, "gateway.0001_initial")
    assert gateway.manage("migrate").returncode == 0
    gateway.wait_ready()
    gateway.stop()
    assert gateway.manage("migrate", "gateway", "0004").returncode == 0  # half migrated
    gateway.begin()
    assert_waiting(gateway, "gateway.0005_response_head_default")
    lines = [entry["why"] for entry in waits(gateway)]
    assert len(lines) <= 4, "one line of each process and start"
    assert {line.split()[5].rstrip(":") for line in lines} == {
        "gateway.0001_initial",
        "gateway.0005_response_head_default",
    }
    assert gateway.manage("migrate").returncode == 0
    gateway.wait_ready()


def test_a_start_refuses_a_bad_configuration_also_without_its_database(launch: Launch) -> None:
    gateway = launch({"model_list": [{"model_name": "m"}]}, start=False)
    unusable_file(gateway)
    with pytest.raises(AssertionError, match=r"serve ended with [1-9]"):
        gateway.start(ready_within_s=30)
