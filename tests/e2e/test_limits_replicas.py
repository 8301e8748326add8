"""Three replicas on one PostgreSQL and one Redis enforce one limit."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import httpx
import pytest
from cryptography.fernet import Fernet

from tests.e2e.conftest import ENVIRONMENT, Launch
from tests.e2e.gateway import Gateway, eventually, start_together
from tests.fakes.services import RedisServer, restartable_redis, running_postgres

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ECHO = "tollgate-echo"
REPLICAS = 3
CLIENTS = 48


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with restartable_redis() as server:
        yield server


@pytest.fixture(scope="module")
def replicas(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    with running_postgres() as postgres, ExitStack() as stack:
        config = {"model_list": [{"model_name": ECHO, "litellm_params": {"model": f"mock/{ECHO}"}}]}
        env = {
            **ENVIRONMENT,
            "TOLLGATE_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
            "DATABASE_URL": postgres.migrated_database(),
            "REDIS_URL": redis.url,
        }
        homes = [tmp_path_factory.mktemp("replica") for _ in range(REPLICAS)]
        gateways = [stack.enter_context(closing(Gateway(home, config=config, env=env))) for home in homes]
        start_together(gateways)
        yield gateways


def issue(replicas: list[Gateway], **limits: int) -> str:
    """A key that every replica knows."""
    answer = replicas[0].admin.post("/key/generate", json=limits)
    assert answer.status_code == 200, answer.text
    key: str = answer.json()["key"]
    for gateway in replicas:
        eventually(lambda gateway=gateway: knows(gateway, key), within_s=2, what="the key works")
    return key


def knows(gateway: Gateway, key: str) -> bool:
    return gateway.http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200


def call_all(replicas: list[Gateway], key: str, count: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(CLIENTS) as pool:
        turns = itertools.islice(itertools.cycle(replicas), count)
        return list(pool.map(lambda gateway: gateway.call(key, model=ECHO), turns))


def statuses(answers: list[httpx.Response]) -> dict[int, int]:
    return {status: sum(a.status_code == status for a in answers) for status in {a.status_code for a in answers}}


def test_three_replicas_admit_exactly_the_limit(replicas: list[Gateway]) -> None:
    key = issue(replicas, rpm_limit=10)
    answers = call_all(replicas, key, 200)
    assert statuses(answers) == {200: 10, 429: 190}
    remaining = [int(a.headers["x-ratelimit-remaining-requests"]) for a in answers if a.status_code == 200]
    assert sorted(remaining) == list(range(10))


def test_parallel_slots_are_shared_and_given_back(replicas: list[Gateway]) -> None:
    key = issue(replicas, max_parallel_requests=1)
    assert statuses([gateway.call(key, model=ECHO) for gateway in replicas * 3]) == {200: 9}


def test_each_replica_counts_alone_while_redis_is_away(replicas: list[Gateway], redis: RedisServer) -> None:
    """No call fails; afterwards the replicas count together again, from nothing, as Redis kept nothing."""
    key = issue(replicas, rpm_limit=10)
    call_all(replicas, key, 3)
    redis.kill()
    try:
        assert statuses(call_all(replicas, key, 100)) == {200: 10 * REPLICAS, 429: 100 - 10 * REPLICAS}
    finally:
        redis.start()
    for gateway in replicas:
        eventually(lambda gateway=gateway: "Redis is back" in gateway.output(), within_s=5, what="it is back")
        assert gateway.output().count('"Redis is away: each process counts alone"') == 1
    assert statuses(call_all(replicas, key, 100)) == {200: 10, 429: 90}


def test_a_restart_of_redis_amid_the_run_fails_no_call(replicas: list[Gateway], redis: RedisServer) -> None:
    key = issue(replicas, rpm_limit=1_000_000, max_parallel_requests=1000)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(call_all, replicas, key, 400)
        time.sleep(0.5)
        redis.kill()
        time.sleep(0.5)
        redis.start()
        assert statuses(run.result()) == {200: 400}


def test_calls_with_limits_are_refused_while_redis_is_away_where_the_setting_says_so(launch: Launch) -> None:
    with restartable_redis() as redis:
        env = {"REDIS_URL": redis.url, "TOLLGATE_RATE_LIMITS_FAIL_CLOSED": "1", "TOLLGATE_RATELIMIT_DRAFT_HEADERS": "1"}
        gateway = launch(env=env)
        key, free = issue([gateway], rpm_limit=10), issue([gateway])
        answer = gateway.call(key, model=ECHO)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"key-requests-minute";q=10;w=60'
        assert answer.headers["ratelimit"].startswith('"key-requests-minute";r=9;t=6')
        redis.kill()
        refusal = gateway.call(key, model=ECHO)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "gateway_unavailable")
        assert gateway.call(free, model=ECHO).status_code == 200
        redis.start()
        eventually(lambda: gateway.call(key, model=ECHO).status_code == 200, within_s=5, what="Redis is back")
