"""The counters, as a view sees those that the calls of its process use."""

import asyncio
from collections.abc import Sequence

from gateway.pipeline.ports import Dimension, LimitRule
from gateway.protocol.errors import GatewayFault
from gateway.state.rate_limits import MINUTE_S, Level
from tenants.live_limits import LiveLimits

RULE = LimitRule("{o}:key:k:requests:minute:", "key", Dimension.REQUESTS, 10, MINUTE_S)


class Counters:
    def __init__(self, fault: GatewayFault | None = None) -> None:
        self._fault = fault

    async def read_levels(self, rules: Sequence[LimitRule]) -> Sequence[Level]:
        if self._fault is not None:
            raise self._fault
        return [Level(4, 30.0) for _ in rules]


def test_a_process_that_answers_no_calls_knows_no_use() -> None:
    assert LiveLimits().read([RULE]) is None


async def test_a_view_asks_the_event_loop() -> None:
    live = LiveLimits()
    live.connect(Counters())
    assert await asyncio.to_thread(live.read, [RULE]) == [Level(4, 30.0)]
    live.disconnect()
    assert live.read([RULE]) is None


async def test_counters_that_are_away_are_not_an_error() -> None:
    live = LiveLimits()
    live.connect(Counters(GatewayFault("away")))
    assert await asyncio.to_thread(live.read, [RULE]) is None
