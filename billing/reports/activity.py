"""Daily activity in LiteLLM's shape: the metrics of each day, and what models, providers, keys and so on had of them.

Source: litellm 1.106.10, types/proxy/management_endpoints/common_daily_activity.py. LiteLLM pages by the rows of its
tables, so a day may be on two of its pages; here a page is whole days, and its totals are those of its days. Sums are
made of integers and become JSON numbers at the end.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from billing.pricing import COUNTS, INPUTS
from billing.reports.spend import COUNTERS, NOTHING, Report, Sums
from gateway.protocol.amounts import PUSD
from gateway.protocol.json.types import JsonObject

#: The keys that a page names, those that spent most first; LiteLLM has such a limit too.
MAX_KEYS = 100
#: LiteLLM's name of a breakdown → the dimension.
BREAKDOWNS: Mapping[str, str] = {
    "models": "upstream_model",
    "model_groups": "model_group",
    "providers": "provider",
    "endpoints": "endpoint",
}
KEY = "key"
DIMENSIONS = ("day", *BREAKDOWNS.values(), KEY)


@dataclass(frozen=True, slots=True)
class KeyName:
    """A key as LiteLLM tells of it: its digest, alias and team."""

    digest: str
    alias: str | None = None
    team_id: str | None = None

    def render(self) -> JsonObject:
        return {"key_alias": self.alias, "team_id": self.team_id}


@dataclass(slots=True)
class _Bucket:
    """The sums of one member, and of each key in it."""

    sums: Sums = NOTHING
    keys: dict[str, Sums] = field(default_factory=lambda: defaultdict(lambda: NOTHING))

    def add(self, key: str, sums: Sums) -> None:
        self.sums += sums
        self.keys[key] += sums


@dataclass(slots=True)
class _Day:
    sums: Sums = NOTHING
    keys: dict[str, Sums] = field(default_factory=lambda: defaultdict(lambda: NOTHING))
    breakdowns: dict[str, dict[str, _Bucket]] = field(
        default_factory=lambda: {name: defaultdict(_Bucket) for name in (*BREAKDOWNS, "entities")}
    )


@dataclass(frozen=True, slots=True)
class Names:
    """`keys`: key id → what is told of it. `entities`: entity → its metadata."""

    keys: Mapping[str, KeyName]
    entities: Mapping[str, JsonObject]

    def find_key(self, key_id: str) -> KeyName:
        """A key that was deleted has its id."""
        return self.keys.get(key_id, KeyName(key_id))


@dataclass(frozen=True, slots=True)
class _Shown:
    """`key_ids`: those of the keys that are named."""

    names: Names
    key_ids: frozenset[str]


def render_days(report: Report, entities: Report, entity: str, names: Names) -> Iterator[JsonObject]:
    """The days of a report by DIMENSIONS, the newest first. `entities`: the report by day, key and `entity`, which may
    count a call under several entities."""
    days: dict[str, _Day] = defaultdict(_Day)
    totals: dict[str, int] = defaultdict(int)
    for members, sums in report.rows:
        member = dict(zip(report.group_by, members, strict=True))
        day = days[member["day"]]
        day.sums += sums
        day.keys[member[KEY]] += sums
        totals[member[KEY]] += sums.cost_pusd
        for name, dimension in BREAKDOWNS.items():
            _add(day, name, member, dimension, sums)
    for members, sums in entities.rows:
        member = dict(zip(entities.group_by, members, strict=True))
        _add(days[member["day"]], "entities", member, entity, sums)
    dearest = sorted((key_id for key_id in totals if key_id), key=lambda key_id: -totals[key_id])
    shown = _Shown(names, frozenset(dearest[:MAX_KEYS]))
    return (_render_day(name, days[name], shown) for name in sorted(days, reverse=True))


def _add(day: _Day, breakdown: str, member: Mapping[str, str], dimension: str, sums: Sums) -> None:
    if member[dimension]:
        day.breakdowns[breakdown][member[dimension]].add(member[KEY], sums)


def _render_day(name: str, day: _Day, shown: _Shown) -> JsonObject:
    breakdown: dict[str, JsonObject] = {
        kind: {
            member: {
                "metrics": render_metrics(bucket.sums),
                "metadata": dict(shown.names.entities.get(member, {})) if kind == "entities" else {},
                "api_key_breakdown": _render_keys(bucket.keys, shown),
            }
            for member, bucket in sorted(buckets.items())
        }
        for kind, buckets in day.breakdowns.items()
    }
    breakdown |= {"api_keys": _render_keys(day.keys, shown), "mcp_servers": {}}
    return {"date": name, "metrics": render_metrics(day.sums), "breakdown": breakdown}


def _render_keys(keys: Mapping[str, Sums], shown: _Shown) -> JsonObject:
    """By digest; calls of the master key have none."""
    found = {shown.names.find_key(key_id): keys[key_id] for key_id in sorted(shown.key_ids & keys.keys())}
    return {name.digest: {"metrics": render_metrics(sums), "metadata": name.render()} for name, sums in found.items()}


def describe_keys(report: Report) -> JsonObject:
    """LiteLLM's words for the limit of keys."""
    return {"api_key_limit": MAX_KEYS, "total_api_keys": len(find_members(report, KEY))}


def render_metrics(sums: Sums) -> JsonObject:
    """LiteLLM's counts of tokens are whole inputs and outputs. A request counts once, by its last attempt."""
    counts = dict(zip(COUNTERS, sums.counts, strict=True))
    tokens = dict(zip(COUNTS, sums.tokens, strict=True))
    return {
        "spend": sums.cost_pusd / PUSD,
        "prompt_tokens": sum(sums.tokens[:INPUTS]),
        "completion_tokens": sum(sums.tokens[INPUTS:]),
        "cache_read_input_tokens": tokens["cache_read_tokens"],
        "cache_creation_input_tokens": tokens["cache_write_5m_tokens"] + tokens["cache_write_1h_tokens"],
        "total_tokens": sum(sums.tokens),
        "successful_requests": counts["requests"] - counts["failures"],
        "failed_requests": counts["failures"],
        "api_requests": counts["requests"],
    }


def render_totals(sums: Sums) -> JsonObject:
    """The sums of a page, by the names of LiteLLM's metadata."""
    return {
        name if name.startswith("total_") else f"total_{name}": value for name, value in render_metrics(sums).items()
    }


def find_members(report: Report, dimension: str) -> Sequence[str]:
    place = report.group_by.index(dimension)
    return sorted({members[place] for members, _ in report.rows if members[place]})
