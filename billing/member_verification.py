"""The check of the rollups of end users and tags: each day of each organization against its spend rows.

The rows are summed by the database, by the end user and the tags as they stand in a row. The names that a day has tell
which sums a row belongs to.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from itertools import groupby
from operator import add, itemgetter
from typing import Any

from django.db.models import Q, QuerySet

from billing.latency import SLOTS
from billing.models import UsageCoverage, UsageMember, UsageMemberDay
from billing.rollup_verification import (
    DAY_S,
    NOTHING,
    compare_sums,
    counts_of_sums,
    first_checked,
    group_rows,
    group_sums,
    series_of,
    series_of_sums,
    sums_of,
)
from billing.sides import Bucket, Disagreement, Sums, stream
from billing.tag_index import read_tags
from billing.usage_members import END_USER, NO_TAGS, TAG, TAGGED, UNNAMED

HAS_MEMBERS = ~Q(end_user="", tags__in=sorted(NO_TAGS))
_DAY = itemgetter("number", "organization_id")


def find_wrong_members() -> Iterator[tuple[date, Disagreement]]:
    """The days of UTC with sums that differ. One day of one organization is held at a time."""
    coverage = UsageCoverage.objects.first()
    if coverage is None:
        return
    begin = first_checked(max(coverage.complete_from, coverage.members_complete_from))
    rows: QuerySet[Any, Any] = group_rows(begin, DAY_S, "end_user", "tags", where=HAS_MEMBERS)
    checked: set[tuple[datetime, str]] = set()
    for (number, organization_id), groups in groupby(stream(rows.order_by("number", "organization_id")), key=_DAY):
        day = datetime.fromtimestamp(number * DAY_S, UTC)
        checked.add((day, organization_id))
        for disagreement in _compare_day(day, organization_id, groups):
            yield day.date(), disagreement
    days = UsageMember.objects.filter(starts_at__gte=begin).order_by("starts_at", "organization_id")
    for day, organization_id in days.values_list("starts_at", "organization_id").distinct():
        if (day, organization_id) not in checked:
            for disagreement in _compare_day(day, organization_id, ()):
                yield day.date(), disagreement


def _compare_day(day: datetime, organization_id: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Disagreement]:
    members = UsageMember.objects.filter(starts_at=day, organization=organization_id)
    known = frozenset(members.values_list("dimension", "name"))
    expected: dict[Bucket, Sums] = {}
    for row in rows:
        for dimension, name in _names_of(row):
            bucket = (dimension, name if (dimension, name) in known else UNNAMED, *series_of(row))
            expected[bucket] = tuple(map(add, expected.get(bucket, NOTHING), sums_of(row)))
    sums = UsageMemberDay.objects.filter(starts_at=day, organization=organization_id).order_by()
    groups = group_sums(sums, "member__dimension", "member__name", timed=SLOTS["duration"])
    found: dict[Bucket, Sums] = {
        (row["member__dimension"], row["member__name"], *series_of_sums(row)): sums_of({**row, **counts_of_sums(row)})
        for row in stream(groups)
    }
    yield from compare_sums(f"day {day:%Y-%m-%d}Z", expected, found)


def _names_of(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if row["end_user"]:
        yield END_USER, row["end_user"]
    tags = read_tags(row["tags"])
    if tags:
        yield TAGGED
    yield from ((TAG, tag) for tag in tags)
