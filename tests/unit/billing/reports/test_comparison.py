"""The period before is the one that a reader means, and each unit of time has its counterpart there."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from billing.pricing import COUNTS
from billing.reports.comparison import compare, find_previous
from billing.reports.period import Period
from billing.reports.spend import COUNTERS, NOTHING, Report, Sums


def period(start: str, end: str, zone: str = "Europe/Berlin") -> Period:
    return Period(date.fromisoformat(start), date.fromisoformat(end), ZoneInfo(zone))


def sums(pusd: int) -> Sums:
    return Sums(pusd, (1,) * len(COUNTERS), (0,) * len(COUNTS))


def report(group_by: str, rows: dict[str, int]) -> Report:
    lines = [(tuple(members.split("|")), sums(pusd)) for members, pusd in rows.items()]
    return Report(tuple(group_by.split(",")), lines, sum((each for _, each in lines), NOTHING))


def costs(
    group_by: str, now: dict[str, int], before: dict[str, int], some: Period
) -> dict[str, tuple[int, int | None]]:
    compared = compare(report(group_by, now), report(group_by, before), some)
    return {
        "|".join(members): (each.sums.cost_pusd, None if each.previous is None else each.previous.cost_pusd)
        for members, each in compared.rows
    }


@pytest.mark.parametrize(
    ("days", "previous"),
    [
        (("2026-11-01", "2026-11-30"), ("2026-10-01", "2026-10-31")),
        (("2026-03-01", "2026-03-31"), ("2026-02-01", "2026-02-28")),
        (("2026-01-01", "2026-03-31"), ("2025-10-01", "2025-12-31")),
        (("2026-01-01", "2026-12-31"), ("2025-01-01", "2025-12-31")),
        (("2026-11-16", "2026-11-22"), ("2026-11-09", "2026-11-15")),
        (("2026-11-21", "2026-11-21"), ("2026-11-20", "2026-11-20")),
        (("2026-11-01", "2026-11-29"), ("2026-10-03", "2026-10-31")),
        (("2026-10-15", "2026-11-30"), ("2026-08-29", "2026-10-14")),
    ],
)
def test_the_period_before(days: tuple[str, str], previous: tuple[str, str]):
    before = find_previous(period(*days))
    assert (str(before.start), str(before.end)) == previous


def test_a_change_of_the_clock_moves_no_day():
    before = find_previous(period("2026-10-26", "2026-10-26"))
    assert before.ends_at - before.starts_at == datetime(2026, 1, 2, 1) - datetime(2026, 1, 1)  # 25 hours
    assert before.ends_at == datetime(2026, 10, 25, 23, tzinfo=UTC)


def test_a_member_of_one_period_alone_has_a_row():
    found = costs("team", {"a": 1, "b": 2}, {"b": 20, "c": 30}, period("2026-11-01", "2026-11-30"))
    assert found == {"a": (1, 0), "b": (2, 20), "c": (0, 30)}


def test_a_day_is_beside_the_day_of_the_same_place():
    week = period("2026-11-16", "2026-11-22")
    now, before = {"2026-11-16|a": 1, "2026-11-22|a": 2}, {"2026-11-09|a": 10, "2026-11-14|b": 30}
    assert costs("day,team", now, before, week) == {
        "2026-11-16|a": (1, 10),
        "2026-11-21|b": (0, 30),
        "2026-11-22|a": (2, 0),
    }


def test_a_day_that_the_month_before_lacks_has_no_counterpart():
    october = period("2026-10-01", "2026-10-31")
    assert costs("day", {"2026-10-30": 1, "2026-10-31": 2}, {"2026-09-30": 10}, october) == {
        "2026-10-30": (1, 10),
        "2026-10-31": (2, None),
    }
    november = period("2026-11-01", "2026-11-30")
    compared = compare(report("day", {}), report("day", {"2026-10-31": 5}), november)
    assert list(compared.rows) == []
    assert compared.total.previous is not None
    assert compared.total.previous.cost_pusd == 5


def test_weeks_and_months_are_counted_from_the_first():
    weeks = period("2026-11-09", "2026-11-22")
    assert costs("week", {"2026-11-16": 1}, {"2026-11-02": 10, "2026-10-26": 20}, weeks) == {
        "2026-11-09": (0, 20),
        "2026-11-16": (1, 10),
    }
    quarter = period("2026-07-01", "2026-09-30")
    assert costs("month", {"2026-08": 1}, {"2026-04": 10, "2026-05": 20}, quarter) == {
        "2026-07": (0, 10),
        "2026-08": (1, 20),
    }


def test_an_hour_is_beside_the_hour_of_the_same_clock():
    monday = period("2026-10-26", "2026-10-26")  # the Sunday before has 25 hours
    before = {"2026-10-25T02:00:00+02:00": 10, "2026-10-25T02:00:00+01:00": 20, "2026-10-25T03:00:00+01:00": 30}
    assert costs("hour", {"2026-10-26T03:00:00+01:00": 1}, before, monday) == {
        "2026-10-26T02:00:00+01:00": (0, 30),
        "2026-10-26T03:00:00+01:00": (1, 30),
    }
    sunday = period("2026-03-29", "2026-03-29")  # its clock skips two
    assert costs("hour", {}, {"2026-03-28T02:00:00+01:00": 10, "2026-03-28T03:00:00+01:00": 20}, sunday) == {
        "2026-03-29T03:00:00+02:00": (0, 20)
    }


def test_a_row_has_the_measures_of_the_period_before():
    some = period("2026-11-16", "2026-11-22")
    [(_, row)] = compare(report("team", {"a": 1}), report("team", {"a": 5}), some).rows
    assert (row.render()["previous_cost"], row.render()["previous_requests"]) == ("0.000000000005", 1)
    october = period("2026-10-01", "2026-10-31")
    [(_, alone)] = compare(report("day", {"2026-10-31": 1}), report("day", {}), october).rows
    assert (alone.render()["previous_cost"], alone.render()["previous_requests"]) == (None, None)
    assert list(alone.render()) == list(row.render())
