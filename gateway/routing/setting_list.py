"""The routing settings as people read and write them: each one's kind, unit, default and meaning. read_settings.py says
what a value must be."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.protocol.json.types import Json, JsonMapping
from gateway.routing.breaker import BreakerSettings
from gateway.routing.read_settings import LONGEST_COOLDOWN_S, LONGEST_TIMEOUT_S, MAX_RETRIES
from gateway.routing.settings import ANY_GROUP, DEFAULT_SETTINGS


class Kind(StrEnum):
    STRATEGY = "strategy"
    COUNT = "count"
    SECONDS = "seconds"
    FLAG = "flag"
    NAMES = "names"  # of model groups
    FALLBACKS = "fallbacks"  # [{group: [groups]}], or one such mapping
    STRATEGIES = "strategies"  # {group: strategy}
    ALIASES = "aliases"  # {alias: group, or {"model": group, "hidden": flag}}
    COUNTS = "counts"  # {name: count}
    NUMBERS = "numbers"  # {name: number}
    GROUP_NUMBERS = "group_numbers"  # {group: {name: number}}
    GROUP_CHOICES = "group_choices"  # {group: text}
    GROUP_RULES = "group_rules"  # {group: {name: text or number}}


@dataclass(frozen=True, slots=True)
class Setting:
    """`default`: the value that counts where none is set. `most`: the largest count or number of seconds."""

    kind: Kind
    text: str
    default: Json = None
    most: int = 0


_BREAKER = BreakerSettings()
SETTINGS: Mapping[str, Setting] = {
    "routing_strategy": Setting(
        Kind.STRATEGY, "Chooses among the deployments of a model group.", DEFAULT_SETTINGS.strategy.name
    ),
    "model_group_routing_strategy": Setting(Kind.STRATEGIES, "Model group → its own strategy."),
    "routing_strategy_args": Setting(
        Kind.NUMBERS, "Of latency-based-routing: lowest_latency_buffer (0.1, a share) and ttl (3600, seconds)."
    ),
    "fallbacks": Setting(Kind.FALLBACKS, "Model group → the groups that stand in when it fails, in their order."),
    "default_fallbacks": Setting(Kind.NAMES, "The groups that stand in for every group without fallbacks of its own."),
    "context_window_fallbacks": Setting(Kind.FALLBACKS, "The same for requests that are too long for the model."),
    "content_policy_fallbacks": Setting(Kind.FALLBACKS, "The same for requests that the upstream's filter refuses."),
    "max_fallbacks": Setting(
        Kind.COUNT, "The most groups of one of these lists that one request tries.", DEFAULT_SETTINGS.max_fallbacks, 100
    ),
    "num_retries": Setting(
        Kind.COUNT, "Attempts after the first, fallbacks included.", DEFAULT_SETTINGS.retry_policy.retries, MAX_RETRIES
    ),
    "retry_policy": Setting(Kind.COUNTS, "Class of the last error, such as TimeoutErrorRetries → its own number."),
    "model_group_retry_policy": Setting(Kind.GROUP_NUMBERS, "Model group → its own retry policy."),
    "cooldown_time": Setting(
        Kind.SECONDS, "Seconds for which a failing deployment is left out at first.", _BREAKER.ejection_s,
        LONGEST_COOLDOWN_S,
    ),
    "allowed_fails": Setting(
        Kind.COUNT,
        "Failures of one class within a minute after which a deployment is left out. Without it: "
        f"{_BREAKER.consecutive} in a row, or half of at least {_BREAKER.least_calls} calls within "
        f"{_BREAKER.window_s:g} s.",
        None,
        10**6,
    ),
    "allowed_fails_policy": Setting(Kind.COUNTS, "Class of error, such as TimeoutErrorAllowedFails → its own number."),
    "disable_cooldowns": Setting(Kind.FLAG, "Never leaves a failing deployment out.", False),
    "connect_timeout": Setting(Kind.SECONDS, "Seconds to connect, DNS included.", None, LONGEST_TIMEOUT_S),
    "timeout": Setting(Kind.SECONDS, "Seconds to a whole answer.", None, LONGEST_TIMEOUT_S),
    "stream_timeout": Setting(Kind.SECONDS, "Seconds to the first event of a stream.", None, LONGEST_TIMEOUT_S),
    "stream_idle_timeout": Setting(Kind.SECONDS, "Seconds of silence in a stream.", None, LONGEST_TIMEOUT_S),
    "max_stream_duration": Setting(Kind.SECONDS, "Seconds to the end of a stream.", None, LONGEST_TIMEOUT_S),
    "model_group_timeouts": Setting(Kind.GROUP_NUMBERS, "Model group → these limits of its own, in seconds."),
    "hedging": Setting(
        Kind.GROUP_RULES,
        "Model group → after: p95 or seconds, the silence after which a second deployment tries a call too.",
    ),
    "recover": Setting(
        Kind.GROUP_CHOICES,
        "Model group → continue: a stream that breaks goes on at a deployment that takes a prefill; or error.",
    ),
    "model_group_alias": Setting(Kind.ALIASES, "Another name of a model group → the group."),
    "enable_tag_filtering": Setting(
        Kind.FLAG, "Calls with tags go only to deployments that have one of them.", DEFAULT_SETTINGS.has_tags
    ),
    "tag_filtering_match_any": Setting(
        Kind.FLAG, "One of a call's tags is enough; otherwise a deployment has all of them.",
        not DEFAULT_SETTINGS.needs_all_tags,
    ),
}  # fmt: skip


def named_groups(values: JsonMapping) -> Iterator[tuple[str, str]]:
    """(setting, model group) of each model group that valid settings name."""
    for name, setting in SETTINGS.items():
        value = values.get(name)
        if not value:
            continue
        groups: set[str] = set()
        if setting.kind is Kind.NAMES:
            groups = {value} if isinstance(value, str) else set(value)
        elif setting.kind in {Kind.STRATEGIES, Kind.GROUP_NUMBERS, Kind.GROUP_CHOICES, Kind.GROUP_RULES}:
            groups = set(value)
        elif setting.kind is Kind.ALIASES:
            groups = {target["model"] if isinstance(target, dict) else target for target in value.values()}
        elif setting.kind is Kind.FALLBACKS:
            for row in value if isinstance(value, list) else [value]:
                for group, names in row.items():
                    groups |= {group, *([names] if isinstance(names, str) else names)}
        yield from ((name, group) for group in sorted(groups - {ANY_GROUP}))
