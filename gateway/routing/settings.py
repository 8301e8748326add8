"""RoutingSettings: the rules of routing, frozen for the data path.

Names and meanings are those of LiteLLM's `router_settings` (https://docs.litellm.ai/docs/routing,
https://docs.litellm.ai/docs/proxy/reliability).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.protocol.timeouts import NO_TIMEOUTS, Timeouts
from gateway.routing.breaker import BreakerSettings
from gateway.routing.error_class import ErrorClass
from gateway.routing.model_patterns import Pattern
from gateway.routing.registry import DEFAULT_STRATEGY
from gateway.routing.strategy import Strategy

Value = TypeVar("Value")
#: {model group: the groups that stand in for it, in this order}
Fallbacks = Mapping[str, tuple[str, ...]]
#: The key of the fallbacks of every group that has none of its own.
ANY_GROUP = "*"
MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The most attempts after the first, in all and by the class of the last error."""

    retries: int = MAX_ATTEMPTS - 1
    by_class: Mapping[ErrorClass, int] = field(default_factory=dict)

    def allows(self, kind: ErrorClass, retries: int) -> bool:
        """Another attempt after an error of this class, when so many retries have been made."""
        return retries < self.by_class.get(kind, self.retries)


DEFAULT_RETRY_POLICY = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Hedging:
    """A second attempt begins when the first is silent for `after_s`, or for longer than this share of the lately
    measured times (`percentile`, 50 to 99)."""

    percentile: int = 95
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    """Those of one model group win over those of all."""

    strategy: Strategy = DEFAULT_STRATEGY
    latency_ttl_s: float = 3600.0  # a latency that is older is unknown
    group_strategies: Mapping[str, Strategy] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)  # {name: model group}
    hidden_aliases: frozenset[str] = frozenset()  # not in the list of models
    fallbacks: Fallbacks = field(default_factory=dict)
    context_window_fallbacks: Fallbacks = field(default_factory=dict)
    content_policy_fallbacks: Fallbacks = field(default_factory=dict)
    retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY
    group_retry_policies: Mapping[str, RetryPolicy] = field(default_factory=dict)
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    timeouts: Timeouts = NO_TIMEOUTS  # of deployments that have none of their own
    group_timeouts: Mapping[str, Timeouts] = field(default_factory=dict)
    hedging: Mapping[str, Hedging] = field(default_factory=dict)  # by model group, or ANY_GROUP; others have none
    recovering: Mapping[str, bool] = field(default_factory=dict)  # by model group, or ANY_GROUP: broken streams go on
    has_tags: bool = False
    needs_all_tags: bool = False  # of a call; of those of its key one is enough
    max_fallbacks: int = 5  # groups that are tried for one request

    def strategy_of(self, groups: tuple[str, ...]) -> Strategy:
        """`groups` here and below: the names of one model group, as Target.group_names has them."""
        return _first(self.group_strategies, groups, self.strategy)

    def retry_policy_of(self, groups: tuple[str, ...]) -> RetryPolicy:
        return _first(self.group_retry_policies, groups, self.retry_policy)

    def timeouts_of(self, groups: tuple[str, ...]) -> Timeouts:
        """The limits that bind all deployments of the group."""
        return _first(self.group_timeouts, groups, NO_TIMEOUTS)

    def hedging_of(self, groups: tuple[str, ...]) -> Hedging | None:
        return _first(self.hedging, groups, self.hedging.get(ANY_GROUP)) if self.hedging else None

    def recovers(self, groups: tuple[str, ...]) -> bool:
        return _first(self.recovering, groups, self.recovering.get(ANY_GROUP, False)) if self.recovering else False

    def fallbacks_of(self, groups: tuple[str, ...], kind: ErrorClass) -> tuple[str, ...]:
        """The groups that stand in after an error of this class, without the group itself. An error of the request
        has the fallbacks of its own class alone."""
        if kind is ErrorClass.BAD_REQUEST:
            return ()
        table = {
            ErrorClass.CONTEXT_WINDOW: self.context_window_fallbacks,
            ErrorClass.CONTENT_POLICY: self.content_policy_fallbacks,
        }.get(kind, self.fallbacks)
        return pick_fallbacks(table, groups, self.max_fallbacks)


def pick_fallbacks(table: Fallbacks, groups: tuple[str, ...], most: int) -> tuple[str, ...]:
    """At most `most` fallbacks of a group. Where a pattern serves it, a `*` in the name of a fallback is the text that
    the pattern's stands for."""
    name, *patterns = groups
    named = _first(table, groups, table.get(ANY_GROUP, ()))
    if patterns:
        pattern = Pattern.read(patterns[0])
        named = tuple(pattern.fill(fallback, name) for fallback in named)
    return tuple(fallback for fallback in named if fallback != name)[:most]


def _first(table: Mapping[str, Value], groups: tuple[str, ...], default: Value) -> Value:
    return next((table[group] for group in groups if group in table), default)


DEFAULT_SETTINGS = RoutingSettings()
