"""Log lines about rate limits that are nearly used up, and about shadow limits that would refuse.

Each process writes at most one line of a kind for a counter and window.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence

from gateway.pipeline.ports import LimitRule
from gateway.state.rate_limits import MINUTE_S, Level

logger = logging.getLogger(__name__)

MOST_COUNTERS = 10_000
NEAR = "a rate limit is nearly reached"
SHADOW = "a shadow rate limit would refuse"


class LimitEvents:
    """The lines written, so that none repeats within its window."""

    def __init__(self) -> None:
        self._quiet_until: OrderedDict[tuple[str, str], float] = OrderedDict()

    def note(self, rules: Sequence[LimitRule], levels: Sequence[Level], now_s: float) -> None:
        for rule, level in zip(rules, levels, strict=True):
            if level.used * 5 >= rule.limit * 4 > 0:  # 80 %
                self._write(SHADOW if rule.is_shadow and level.used > rule.limit else NEAR, rule, level, now_s)

    def _write(self, message: str, rule: LimitRule, level: Level, now_s: float) -> None:
        key = (rule.counter, message)
        if self._quiet_until.get(key, 0.0) > now_s:
            return
        self._quiet_until.pop(key, None)
        self._quiet_until[key] = now_s + (rule.span_s or MINUTE_S)
        if len(self._quiet_until) > MOST_COUNTERS:
            self._quiet_until.popitem(last=False)
        fields = {
            "counter": rule.counter,
            "owner": rule.owner,
            "dimension": rule.dimension.value,
            "model": rule.model,
            "limit": rule.limit,
            "used": level.used,
            "span_s": rule.span_s,
            "is_shadow": rule.is_shadow,
        }
        logger.info(message, extra=fields)
