"""Some kills of pricing workers; `make soak` makes a hundred."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Backend
from tests.e2e.gateway import Gateway
from tests.soak.pricing_kills import check, run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_killed_workers_neither_lose_a_row_nor_price_one_twice(production: Backend, tmp_path: Path) -> None:
    environment = production.environment()
    gateway = Gateway(tmp_path, env=environment)
    try:
        check(run(gateway, environment["DATABASE_URL"], environment["REDIS_URL"], 11))
    finally:
        gateway.close()
