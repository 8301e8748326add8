"""The report of spend: sums of the rows of a period by one or two dimensions, from the rows themselves.

The database groups by the columns and by the local hour or day; the units of time and the tags are folded here. A
request counts once, by the attempt that was its end; each attempt counts its own cost and tokens.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from django.db.models import BigIntegerField, Case, Count, Exists, F, OuterRef, Q, QuerySet, Value, When
from django.db.models.expressions import Combinable

from billing.bookkeeping import COMPLETE, WITH_ESTIMATES
from billing.counted_rows import (
    COUNTED,
    OUTRUN,
    WAS_LOST,
    EpochSeconds,
    cost_of_row,
    count_if,
    join_halves,
    number_if,
    sum_halves,
    sum_tokens,
)
from billing.models import SpendLog
from billing.pricing import COUNTS
from billing.reports.period import DAY_S, HOUR_S, UNITS, Period, name_unit
from billing.reports.query import COLUMNS, ReportQuery
from billing.row_ids import first_id
from gateway.protocol.amounts import usd_text
from gateway.protocol.errors import BadRequest

#: Rows of one answer, each about a kilobyte in memory.
MAX_ROWS = 50_000
CHUNK_ROWS = 2_000  # that the database hands over at once
#: The id of a row is made when its call begins; the clock may have been set back since.
SLACK = timedelta(days=1)
RANK_OF_END = 100_000  # above every number of an attempt
COUNTERS = ("requests", "attempts", "failures", "failed_attempts", "estimated", "unpriced")
FAILED = WAS_LOST | ~Q(finish=COMPLETE) | ~Q(error_code="") | ~Q(status_code=200)


@dataclass(frozen=True, slots=True)
class Sums:
    """`counts`: in the order of COUNTERS; `tokens`: in the order of COUNTS."""

    cost_pusd: int
    counts: tuple[int, ...]
    tokens: tuple[int, ...]

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.cost_pusd + other.cost_pusd,
            tuple(map(sum, zip(self.counts, other.counts, strict=True))),
            tuple(map(sum, zip(self.tokens, other.tokens, strict=True))),
        )

    def render(self) -> dict[str, str | int]:
        tokens = dict(zip(COUNTS, self.tokens, strict=True))
        writes = tokens["cache_write_5m_tokens"] + tokens["cache_write_1h_tokens"]
        return {
            "cost": usd_text(self.cost_pusd),
            **dict(zip(COUNTERS, self.counts, strict=True)),
            **tokens,
            "cache_write_tokens": writes,
        }


NOTHING = Sums(0, (0,) * len(COUNTERS), (0,) * len(COUNTS))
MEASURES = tuple(NOTHING.render())


@dataclass(frozen=True, slots=True)
class Report:
    """`rows`: (members, in the order of `group_by`; sums), sorted. `total` counts each row of the spend log once."""

    group_by: tuple[str, ...]
    rows: Sequence[tuple[tuple[str, ...], Sums]]
    total: Sums


def report_spend(rows: QuerySet[SpendLog], query: ReportQuery, *, max_rows: int = MAX_ROWS) -> Report:
    """`rows`: those that the reader may see. Raises BadRequest where the answer would have too many rows."""
    period, group_by = query.period, query.group_by
    folded: dict[tuple[str, ...], Sums] = {}
    total = NOTHING
    for group in _find_groups(rows, period, group_by):
        sums = _read_sums(group)
        total += sums
        for members in product(*(_members_of(name, group) for name in group_by)):
            known = folded.get(members)
            folded[members] = sums if known is None else known + sums
        if len(folded) > max_rows:
            raise BadRequest(
                f"The report has more than {max_rows:,} rows. Ask for fewer days, or group by less.", param="group_by"
            )
    return Report(group_by, sorted(folded.items(), key=lambda row: order_of(group_by, row[0])), total)


def _find_groups(rows: QuerySet[SpendLog], period: Period, group_by: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    starts_at = period.starts_at
    found = rows.filter(COUNTED, id__gte=first_id(starts_at - SLACK))
    found = found.filter(started_at__gte=starts_at, started_at__lt=period.ends_at)
    others = SpendLog.objects.filter(~Q(attempt=OuterRef("attempt")), request_id=OuterRef("request_id"))
    later = others.filter(COUNTED).annotate(rank=_rank())
    is_end = ~Q(Exists(later.filter(rank__gt=OuterRef("rank"))))
    keys = _key_expressions(period, group_by)
    sums = {
        "attempts": Count("id"),
        "requests": count_if(is_end),
        "failures": count_if(FAILED & is_end),
        "failed_attempts": count_if(FAILED),
        "estimated": count_if(WAS_LOST | Q(usage_source__in=WITH_ESTIMATES)),
        "unpriced": count_if(Q(cost_pusd__isnull=True)),
        **sum_tokens(),
        **sum_halves(cost_of_row()),
    }
    groups = found.order_by().annotate(rank=_rank(), **keys).values(*keys).annotate(**sums)
    yield from groups.iterator(chunk_size=CHUNK_ROWS)


def _rank() -> Case:
    """The place of an attempt among those of its request; one that another has outrun is behind all others."""
    return Case(
        When(error_code=OUTRUN, then=F("attempt")),
        default=F("attempt") + RANK_OF_END,
        output_field=BigIntegerField(),
    )


def _key_expressions(period: Period, group_by: Sequence[str]) -> dict[str, Combinable]:
    keys: dict[str, Combinable] = {}
    for name in group_by:
        if name in COLUMNS:
            keys[f"of_{name}"] = F(COLUMNS[name])
    if "tag" in group_by:
        keys["of_tag"] = F("tags")
    if "status" in group_by:
        keys["of_status"] = number_if(FAILED)
    units = [name for name in group_by if name in UNITS]
    if units:
        epoch, offset = EpochSeconds("started_at"), _offset_of(period)
        unit_s = HOUR_S if "hour" in units else DAY_S
        keys["local_unit"] = (epoch + offset) / unit_s
        if "hour" in units:
            keys["offset"] = offset
    return keys


def _offset_of(period: Period) -> Combinable:
    """The seconds that a row's local time is ahead of UTC."""
    (_, first), *changes = period.find_offsets()
    if not changes:
        return Value(first, output_field=BigIntegerField())
    cases = [
        When(started_at__gte=datetime.fromtimestamp(epoch, UTC), then=Value(offset)) for epoch, offset in changes[::-1]
    ]
    return Case(*cases, default=Value(first), output_field=BigIntegerField())


def _read_sums(group: Mapping[str, Any]) -> Sums:
    return Sums(
        join_halves(group),
        tuple(int(group[name] or 0) for name in COUNTERS),
        tuple(int(group[f"sum_{name}"] or 0) for name in COUNTS),
    )


def _members_of(dimension: str, group: Mapping[str, Any]) -> Sequence[str]:
    """The members that a group of rows is of: of a tag there may be several, else one."""
    if dimension in UNITS:
        unit_s = HOUR_S if "offset" in group else DAY_S
        return [name_unit(dimension, int(group["local_unit"]) * unit_s, int(group.get("offset", 0)))]
    if dimension == "tag":
        return read_tags(group["of_tag"])
    if dimension == "status":
        return ["failure" if group["of_status"] else "success"]
    return [str(group[f"of_{dimension}"])]


def read_tags(text: str) -> Sequence[str]:
    """The tags of a row, each once; the empty tag for a row without any."""
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        tags = None
    names = [str(tag).encode(errors="replace").decode() for tag in tags] if isinstance(tags, list) else []
    return list(dict.fromkeys(names)) or [""]


def order_of(group_by: Sequence[str], members: Sequence[str]) -> tuple[float | str, ...]:
    """Hours by their instants: where the clock is set back, their names are not in order."""
    return tuple(
        datetime.fromisoformat(member).timestamp() if name == "hour" else member
        for name, member in zip(group_by, members, strict=True)
    )
