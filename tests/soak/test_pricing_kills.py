"""A hundred kills of pricing workers in the middle of their work: every row once, every sum exact."""

from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway
from tests.fakes.services import running_postgres, running_redis
from tests.soak.conftest import amount
from tests.soak.pricing_kills import check, run

pytestmark = pytest.mark.timeout(1800)


def test_a_hundred_kills_neither_lose_a_row_nor_price_one_twice(tmp_path: Path) -> None:
    with running_postgres() as postgres, running_redis() as redis_url:
        database = postgres.migrated_database()
        gateway = Gateway(tmp_path, env={"DATABASE_URL": database, "REDIS_URL": redis_url})
        try:
            outcome = run(gateway, database, redis_url, amount("SOAK_KILLS", 100))
        finally:
            gateway.close()
    print(f"{outcome.kills} kills, {outcome.rows:,} rows, {outcome.rolled_back:,} transactions cut")
    check(outcome)
