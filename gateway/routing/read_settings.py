"""Reads LiteLLM's `router_settings` into RoutingSettings. Units: seconds, counts.

Source: https://docs.litellm.ai/docs/proxy/config_settings#router_settings---reference
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from gateway.protocol.json.types import Json, JsonMapping
from gateway.protocol.timeouts import NAMES as TIMEOUT_FIELDS
from gateway.protocol.timeouts import Timeouts
from gateway.routing.breaker import BreakerSettings
from gateway.routing.error_class import ErrorClass
from gateway.routing.registry import DEFAULT_STRATEGY, STRATEGIES
from gateway.routing.settings import (
    ANY_GROUP,
    DEFAULT_RETRY_POLICY,
    Fallbacks,
    Hedging,
    RetryPolicy,
    RoutingSettings,
)
from gateway.routing.strategy import Strategy, StrategyWithArguments

MAX_RETRIES = 10
MAX_NAMES = 10_000
LONGEST_COOLDOWN_S = 86_400
LONGEST_TIMEOUT_S = 86_400
PERCENTILE = re.compile(r"p([5-9][0-9])")
#: {what becomes of a stream that breaks: whether it goes on}
RECOVERIES: Mapping[str, bool] = {"continue": True, "error": False}
TIMEOUTS = tuple(name.removesuffix("_s") for name in TIMEOUT_FIELDS)
#: LiteLLM's names of the classes, which end in "Retries" or "AllowedFails".
CLASSES: Mapping[str, tuple[ErrorClass, ...]] = {
    "BadRequestError": (ErrorClass.BAD_REQUEST,),
    "AuthenticationError": (ErrorClass.AUTHENTICATION,),
    "TimeoutError": (ErrorClass.TIMEOUT,),
    "RateLimitError": (ErrorClass.RATE_LIMIT, ErrorClass.QUOTA),
    "ContentPolicyViolationError": (ErrorClass.CONTENT_POLICY,),
    "InternalServerError": (ErrorClass.SERVER,),
    "BadGatewayError": (ErrorClass.CONNECT,),
    "ServiceUnavailableError": (ErrorClass.OVERLOADED,),
    "NotFoundError": (ErrorClass.NOT_FOUND,),
}
Problems: TypeAlias = list[tuple[str, str]]


class SettingInvalid(Exception):
    """A value that a setting cannot have; the message says what it must be."""


def read_settings(values: JsonMapping) -> tuple[RoutingSettings, Problems]:
    """The settings, and (name, what it must be) of each value that cannot be used. A value of None counts as absent."""
    problems: Problems = []

    def read(name: str, reader: Callable[[Json], Json], default: Json) -> Json:
        value = values.get(name)
        if value is None:
            return default
        try:
            return reader(value)
        except SettingInvalid as error:
            problems.append((name, str(error)))
            return default

    fallbacks: Fallbacks = read("fallbacks", read_fallbacks, {})
    general = read("default_fallbacks", _read_names, ())
    if general and ANY_GROUP not in fallbacks:
        fallbacks = {**fallbacks, ANY_GROUP: general}
    allowed = read("allowed_fails", _count(10**6), None)
    by_class = read("allowed_fails_policy", lambda value: _read_policy(value, "AllowedFails", 10**6), {})
    if allowed is not None:
        by_class = dict.fromkeys(ErrorClass, allowed) | by_class
    retries = read("num_retries", _count(MAX_RETRIES), DEFAULT_RETRY_POLICY.retries)
    policy = read("retry_policy", read_retry_policy, {})
    groups = read("model_group_retry_policy", _read_group_policies, {})
    aliases = read("model_group_alias", _read_aliases, {})
    strategy = read("routing_strategy", read_strategy, DEFAULT_STRATEGY)
    group_strategies = read("model_group_routing_strategy", _read_strategies, {})
    used = [strategy, *group_strategies.values()]
    arguments = read("routing_strategy_args", lambda value: _read_arguments(value, used), {})
    settings = RoutingSettings(
        strategy=_with_arguments(strategy, arguments),
        group_strategies={group: _with_arguments(own, arguments) for group, own in group_strategies.items()},
        latency_ttl_s=arguments.get("ttl", RoutingSettings().latency_ttl_s),
        aliases={alias: group for alias, (group, _) in aliases.items()},
        hidden_aliases=frozenset(alias for alias, (_, is_hidden) in aliases.items() if is_hidden),
        fallbacks=fallbacks,
        context_window_fallbacks=read("context_window_fallbacks", read_fallbacks, {}),
        content_policy_fallbacks=read("content_policy_fallbacks", read_fallbacks, {}),
        retry_policy=RetryPolicy(retries, policy),
        group_retry_policies={group: RetryPolicy(retries, policy | own) for group, own in groups.items()},
        breaker=BreakerSettings(
            ejection_s=read("cooldown_time", _seconds(LONGEST_COOLDOWN_S), BreakerSettings().ejection_s),
            allowed_fails=by_class,
            is_disabled=read("disable_cooldowns", _read_flag, False),
        ),
        timeouts=Timeouts(**{f"{name}_s": read(name, _seconds(LONGEST_TIMEOUT_S), None) for name in TIMEOUTS}),
        group_timeouts=read("model_group_timeouts", _read_group_timeouts, {}),
        hedging=read("hedging", _read_hedging, {}),
        recovering=read("recover", _read_recovery, {}),
        has_tags=read("enable_tag_filtering", _read_flag, False),
        needs_all_tags=not read("tag_filtering_match_any", _read_flag, True),
        max_fallbacks=read("max_fallbacks", _count(100), 5),
    )
    return settings, problems


#: The settings that are read; any other name of `router_settings` is not this version's.
NAMES = frozenset(
    {
        "routing_strategy",
        "model_group_routing_strategy",
        "routing_strategy_args",
        "num_retries",
        "retry_policy",
        "model_group_retry_policy",
        "fallbacks",
        "default_fallbacks",
        "context_window_fallbacks",
        "content_policy_fallbacks",
        "max_fallbacks",
        "allowed_fails",
        "allowed_fails_policy",
        "cooldown_time",
        "disable_cooldowns",
        *TIMEOUTS,
        "model_group_timeouts",
        "hedging",
        "recover",
        "model_group_alias",
        "enable_tag_filtering",
        "tag_filtering_match_any",
    }
)


def read_strategy(value: Json) -> Json:
    strategy = STRATEGIES.get(value) if isinstance(value, str) else None
    if strategy is None:
        raise SettingInvalid(f"must be one of {', '.join(sorted(STRATEGIES))}")
    return strategy


def _read_arguments(value: Json, used: Sequence[Strategy]) -> Mapping[str, float]:
    """`routing_strategy_args`: those of the strategies in use, in all of which they count."""
    most: dict[str, float] = {}
    for strategy in used:
        most |= strategy.arguments if isinstance(strategy, StrategyWithArguments) else {}
    arguments: dict[str, float] = {}
    for name, number in _read_mapping(value).items():
        if number is None:
            continue
        if name not in most:
            known = f"known: {', '.join(sorted(most))}" if most else "it takes no arguments"
            names = ", ".join(sorted({strategy.name for strategy in used}))
            raise SettingInvalid(f"has no {name[:40]!r} for {names}; {known}")
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not 0 <= number <= most[name]:
            raise SettingInvalid(f"must have a number from 0 to {most[name]:g} as {name!r}")
        arguments[name] = float(number)
    return arguments


def _with_arguments(strategy: Strategy, arguments: Mapping[str, float]) -> Strategy:
    return strategy.with_arguments(arguments) if isinstance(strategy, StrategyWithArguments) else strategy


def read_fallbacks(value: Json) -> Fallbacks:
    """`[{group: [groups]}, …]`, or one such mapping."""
    rows = value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        raise SettingInvalid("must be a list of mappings from a model group to the groups that stand in for it")
    return {_read_name(group): _read_names(names) for row in rows for group, names in row.items()}


def read_retry_policy(value: Json) -> Mapping[ErrorClass, int]:
    return _read_policy(value, "Retries", MAX_RETRIES)


def _read_policy(value: Json, suffix: str, most: int) -> Mapping[ErrorClass, int]:
    policy: dict[ErrorClass, int] = {}
    for name, count in _read_mapping(value).items():
        stem = name.removesuffix(suffix)
        if count is None:
            continue
        if stem not in CLASSES and not (stem == "Default" and suffix == "Retries"):
            raise SettingInvalid(f"has no {name!r}; known: {', '.join(f'{stem}{suffix}' for stem in CLASSES)}")
        kinds = CLASSES.get(stem, tuple(kind for kind in ErrorClass if kind not in policy))
        policy |= dict.fromkeys(kinds, _count(most)(count))
    return policy


def _read_group_policies(value: Json) -> Mapping[str, Mapping[ErrorClass, int]]:
    return {_read_name(group): read_retry_policy(policy) for group, policy in _read_mapping(value).items()}


def _read_group_timeouts(value: Json) -> Mapping[str, Timeouts]:
    """`{group: {timeout: seconds, …}}`"""
    return {_read_name(group): read_timeouts(limits) for group, limits in _read_mapping(value).items()}


def read_timeouts(value: Json) -> Timeouts:
    """`{timeout: seconds, …}`. Raises SettingInvalid."""
    limits = _read_mapping(value)
    unknown = sorted(limits.keys() - {*TIMEOUTS})
    if unknown:
        raise SettingInvalid(f"has no {unknown[0]!r}; known: {', '.join(TIMEOUTS)}")
    read = _seconds(LONGEST_TIMEOUT_S)
    return Timeouts(**{f"{name}_s": read(limit) for name, limit in limits.items() if limit is not None})


def _read_hedging(value: Json) -> Mapping[str, Hedging]:
    """`{group: {after: p95}}`, or `after` in seconds."""
    return {_read_name(group): _read_hedge(rule) for group, rule in _read_mapping(value).items()}


def _read_hedge(value: Json) -> Hedging:
    rule = _read_mapping(value)
    unknown = sorted(rule.keys() - {"after"})
    if unknown:
        raise SettingInvalid(f"has no {unknown[0]!r}; known: after")
    after = rule.get("after", "p95")
    if not isinstance(after, str):
        return Hedging(after_s=_seconds(LONGEST_TIMEOUT_S)(after))
    percentile = PERCENTILE.fullmatch(after)
    if percentile is None:
        raise SettingInvalid("must have an 'after' from p50 to p99, or of seconds")
    return Hedging(percentile=int(percentile[1]))


def _read_recovery(value: Json) -> Mapping[str, bool]:
    """`{group: continue}`; `error` is what holds without the setting."""
    return {_read_name(group): _read_choice(way, RECOVERIES) for group, way in _read_mapping(value).items()}


def _read_choice(value: Json, choices: Mapping[str, bool]) -> bool:
    if not isinstance(value, str) or value not in choices:
        raise SettingInvalid(f"must be one of {', '.join(choices)}")
    return choices[value]


def _read_strategies(value: Json) -> Json:
    return {_read_name(group): read_strategy(name) for group, name in _read_mapping(value).items()}


def _read_aliases(value: Json) -> Mapping[str, tuple[str, bool]]:
    """{alias: (model group, whether the list of models hides it)}"""
    aliases = {}
    for alias, target in _read_mapping(value).items():
        if isinstance(target, dict):
            aliases[_read_name(alias)] = _read_name(target.get("model")), target.get("hidden") is True
        else:
            aliases[_read_name(alias)] = _read_name(target), False
    return aliases


def _read_mapping(value: Json) -> JsonMapping:
    if not isinstance(value, dict) or len(value) > MAX_NAMES:
        raise SettingInvalid("must be a mapping")
    return value


def _read_names(value: Json) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) > MAX_NAMES:
        raise SettingInvalid("must be a list of model groups")
    return tuple(_read_name(name) for name in names)


def _read_name(value: Json) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 255:
        raise SettingInvalid("must name model groups, as text")
    return value


def _read_flag(value: Json) -> bool:
    if not isinstance(value, bool):
        raise SettingInvalid("must be true or false")
    return value


def _count(most: int) -> Callable[[Json], int]:
    def read(value: Json) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise SettingInvalid(f"must be a whole number from 0 to {most}")
        return value

    return read


def _seconds(most: float) -> Callable[[Json], float]:
    def read(value: Json) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SettingInvalid("must be a number of seconds")
        if not 0 < value <= most:
            raise SettingInvalid(f"must be above 0 and at most {most} seconds")
        return float(value)

    return read
