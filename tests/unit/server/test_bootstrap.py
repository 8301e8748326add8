"""The warnings of a start."""

import pytest
from pytest_django import Settings

from gateway.server.bootstrap import plan_start


@pytest.mark.parametrize(("web_processes", "is_shared", "count"), [(1, False, 0), (2, False, 1), (2, True, 0)])
def test_web_processes_that_count_rate_limits_alone_are_warned_of(
    settings: Settings, web_processes: int, is_shared: bool, count: int
) -> None:
    settings.WEB_CONCURRENCY = web_processes
    settings.HAS_SHARED_RATE_LIMITS = is_shared
    assert sum("set REDIS_URL" in warning for warning in plan_start("").warnings) == count
