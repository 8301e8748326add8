"""The rollups of reports: what settled rows add to the sums of their series, in the transaction that settles them.

A request counts once, at its last attempt: what settles an attempt moves the request from the attempt that was the
last one so far. Two transactions must not settle two attempts of one request at the same time, or both would count it;
so the one that settles an attempt holds the locks of all earlier attempts too. It does not wait for them: where another
transaction has one, the attempt is left to the next batch. Series, quarters, days and the days of end users and tags
are written sorted, so that two transactions cannot wait for each other.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from operator import add
from typing import NamedTuple, TypeAlias
from uuid import UUID

import orjson
from django.db import connection

from billing.grow import Value, grow_sums
from billing.latency import COLUMNS, find_slot
from billing.models import SpendLog
from billing.pricing import COUNTS
from billing.retention_lease import Kind, read_all_complete_from
from billing.spend_rows import (
    COMPLETE,
    EXTRAS,
    NO_EXTRAS,
    SKIP_LOCKED,
    SUMS,
    Outcome,
    Row,
    extra_sums,
    read_instant,
    read_rows,
    sum_lost,
    sum_row,
)
from billing.usage_members import Member, Name, find_members, names_of
from gateway.state import sql

#: The dimensions of a series, in the order of `UsageSeries`.
SERIES = (
    *("organization_id", "team_id", "user_id", "key_id", "model_group", "provider", "deployment_id"),
    *("upstream_model", "application", "operation", "is_failure"),
)
MEASURES = ("requests", "attempts", "estimated", "unpriced", *COUNTS, "cost_pusd", *EXTRAS)
#: The code of an attempt whose client was answered by another one, made at the same time.
OUTRUN = "hedge_lost"
MILLISECOND = timedelta(milliseconds=1)
FIRST_INSTANT = datetime.min.replace(tzinfo=UTC)
RANK_OF_END = 100_000  # above every number of an attempt
#: The advisory lock of PostgreSQL that a transaction shares while it adds to rollups, and that a rebuild has alone.
ROLLUP_LOCK = 0x746F6C6C726F6C6C

State = SpendLog.State
_COUNTED = frozenset({State.PRICED, State.UNPRICED, State.LOST, State.LATE})
_WAS_LOST = frozenset({State.LATE, State.PARKED})
_REQUEST = (1, *(0,) * (len(MEASURES) - 1))
_FAILURES = SUMS.index("failures")
_KEYS = ("starts_at", "series_id")
_MEMBER_KEYS = ("starts_at", "member_id", "series_id")
_COLUMNS = {"starts_at": "timestamptz", "series_id": "bigint", "organization_id": "text"} | dict.fromkeys(
    MEASURES, "bigint"
)
_MEMBER_COLUMNS = {"starts_at": "timestamptz", "member_id": "bigint"} | _COLUMNS

Instant: TypeAlias = datetime | str
Series: TypeAlias = tuple[str | bool, ...]


class Counted(NamedTuple):
    """An attempt as the rollups count it, without its request. `sums`: in the order of MEASURES; `slots`: places in the
    columns of latency; `names`: its end user and tags."""

    rank: int
    started_at: Instant
    series: Series
    sums: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()
    names: tuple[Name, ...] = ()


class Amounts(NamedTuple):
    """`sums`: of MEASURES; `slots`: place in the columns of latency → attempts."""

    sums: list[int]
    slots: dict[int, int]


#: Request → number of an attempt → the attempt, where the rollups count it.
Requests: TypeAlias = dict[str, dict[int, Counted]]


def share_rollups() -> None:
    """For the rest of this transaction no rebuild reads rows or writes sums."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [ROLLUP_LOCK])


def lock_rollups() -> None:
    """For the rest of this transaction nothing is settled. SQLite has one writer anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ROLLUP_LOCK])


def hold_requests(rows: Sequence[Row]) -> tuple[list[Row], Requests]:
    """The rows that may be settled now, and the attempts of their requests that are counted already."""
    share_rollups()
    requests: Requests = {}
    _add_counted(requests, rows)
    others = _find_others(rows)
    if not others:
        return list(rows), requests
    last: dict[str, int] = {}
    for row in rows:
        last[str(row.request_id)] = max(row.attempt, last.get(str(row.request_id), 0))
    earlier = [row_id for row_id, request_id, attempt in others if attempt < last[str(request_id)]]
    later = [row_id for row_id, request_id, attempt in others if attempt > last[str(request_id)]]
    locked = _read_by_id(earlier, SKIP_LOCKED)
    _add_counted(requests, [*locked, *_read_by_id(later, "")])
    missing = set(earlier).difference(row.id for row in locked)
    busy = {str(request_id) for row_id, request_id, _ in others if row_id in missing}
    return [row for row in rows if str(row.request_id) not in busy], requests


def find_counted(rows: Sequence[Row]) -> Requests:
    """The attempts of the rows' requests that are counted, without any lock."""
    requests: Requests = {}
    _add_counted(requests, [*rows, *_read_by_id([row_id for row_id, _, _ in _find_others(rows)], "")])
    return requests


def _add_counted(requests: Requests, rows: Iterable[Row]) -> None:
    for row in rows:
        if (counted := count_row(row)) is not None:
            requests.setdefault(str(row.request_id), {})[row.attempt] = counted


def _read_by_id(ids: Sequence[UUID | str], lock: str) -> list[Row]:
    return read_rows(_one_of(ids), len(ids), *ids, lock=lock) if ids else []


def _find_others(rows: Sequence[Row]) -> list[tuple[UUID | str, UUID | str, int]]:
    """(id, request id, number) of the other attempts of the rows' requests."""
    if not rows:
        return []
    text = "SELECT id, request_id, attempt FROM billing_spendlog WHERE request_id IN ({marks})"
    requests = {row.request_id for row in rows}
    with connection.cursor() as cursor:
        cursor.execute(sql.fill(text, marks=", ".join(["%s"] * len(requests))), list(requests))
        found = cursor.fetchall()
    own = {row.id for row in rows}
    return [row for row in found if row[0] not in own]


def _one_of(ids: Sequence[UUID | str]) -> str:
    return sql.fill("id IN ({marks})", marks=", ".join(["%s"] * len(ids)))


def count_row(row: Row, delta_pusd: int = 0, extra_deltas: Sequence[int] = NO_EXTRAS) -> Counted | None:
    """The attempt as it is counted by now; None where it is not. `delta_pusd` and `extra_deltas`: of its
    adjustments."""
    is_parked = row.state == State.PARKED and (row.cost_pusd is not None or row.lost_tokens > 0)
    if row.state not in _COUNTED and not is_parked:
        return None
    if row.state in _WAS_LOST:
        rank, is_failure, sums = _rank(row.attempt, ""), True, sum_lost(row)
    else:
        rank, is_failure = _rank(row.attempt, row.error_code), has_failed(row)
        sums = sum_row(row.finish, row.usage_source, row.tokens, row.cost_pusd)
    extras = tuple(map(add, extra_sums(row), extra_deltas))
    measures = _measure((*sums[:-1], sums[-1] + delta_pusd), extras)
    slots = () if is_failure else _find_slots(row)
    return Counted(rank, row.started_at, _series_of(row, is_failure), measures, slots, names_of(row))


def has_failed(row: Row) -> bool:
    return row.finish != COMPLETE or row.error_code != "" or row.status_code != 200


def _rank(attempt: int, error_code: str) -> int:
    """The place of an attempt among those of its request; one that another has outrun is behind all others."""
    return attempt if error_code == OUTRUN else attempt + RANK_OF_END


def _series_of(row: Row, is_failure: bool) -> Series:
    return (*row.bucket, row.upstream_model, row.application, row.operation, is_failure)


def count_outcomes(outcomes: Iterable[Outcome], requests: Requests) -> None:
    """Adds rows that are settled, or settled once more, to the rollups. `requests`: those of `hold_requests`."""
    changes = Changes()
    counted = {request_id: dict(attempts) for request_id, attempts in requests.items()}
    for outcome in outcomes:
        row = outcome.row
        attempts = counted.setdefault(str(row.request_id), {})
        is_failure = has_failed(row)
        sums = outcome.sums if outcome.charged is None else tuple(map(add, outcome.sums, outcome.charged))
        new = Counted(
            _rank(row.attempt, row.error_code),
            row.started_at,
            _series_of(row, is_failure),
            _measure(sums, outcome.extras),
            () if is_failure else _find_slots(row),
            names_of(row),
        )
        old_end = max(attempts.values(), default=None)
        if outcome.charged is not None:
            changes.take_attempt(attempts[row.attempt])
        attempts[row.attempt] = new
        new_end = max(attempts.values())
        changes.add_attempt(new)
        if new_end is not old_end:
            if old_end is not None:
                changes.add_request(old_end, -1)
            changes.add_request(new_end)
    changes.write()


def adjust_outcomes(outcomes: Iterable[Outcome]) -> None:
    """Adds what changes of rows that stay as they are counted: their cost, and whether it is known."""
    changes = Changes()
    for outcome in outcomes:
        row, measures = outcome.row, _measure(outcome.sums, outcome.extras)
        changes.add(row.started_at, _series_of(row, has_failed(row)), measures, names=names_of(row))
    changes.write()


def _measure(sums: Sequence[int], extras: Sequence[int]) -> tuple[int, ...]:
    """The MEASURES of an attempt, without its request, from its hourly SUMS and its EXTRAS."""
    return (0, sums[0], *sums[_FAILURES + 1 :], *extras)


def _find_slots(row: Row) -> tuple[int, ...]:
    begin = read_instant(row.started_at)
    times = (("duration", row.ended_at), ("ttft", row.first_token_at))
    return tuple(
        find_slot(metric, (read_instant(end) - begin) // MILLISECOND) for metric, end in times if end is not None
    )


def quarter_of(instant: Instant) -> Instant:
    """The start of an instant's quarter of an hour, as its database takes it."""
    if isinstance(instant, str):
        return f"{instant[:14]}{int(instant[14:16]) // 15 * 15:02d}:00"
    begin = _in_utc(instant)
    return begin.replace(minute=begin.minute // 15 * 15, second=0, microsecond=0)


def day_of(instant: Instant) -> Instant:
    if isinstance(instant, str):
        return f"{instant[:10]} 00:00:00"
    return _in_utc(instant).replace(hour=0, minute=0, second=0, microsecond=0)


def _in_utc(instant: datetime) -> datetime:
    """SQLite's instants are in UTC and do not say it."""
    return instant if instant.tzinfo is None else instant.astimezone(UTC)


class Changes:
    """Amounts to add to quarters and days, and to the days of end users and tags."""

    def __init__(self) -> None:
        self._quarters: dict[tuple[Instant, Series], Amounts] = {}
        self._days: dict[tuple[Instant, Series], Amounts] = {}
        self._members: dict[tuple[Member, Series], Amounts] = {}

    def add(
        self,
        started_at: Instant,
        series: Series,
        sums: Sequence[int],
        slots: Sequence[int] = (),
        names: Sequence[Name] = (),
    ) -> None:
        day = day_of(started_at)
        changed = [
            self._quarters.setdefault((quarter_of(started_at), series), Amounts([0] * len(MEASURES), {})),
            self._days.setdefault((day, series), Amounts([0] * len(MEASURES), {})),
        ]
        for name in names:
            key = Member(day, str(series[0]), *name), series
            changed.append(self._members.setdefault(key, Amounts([0] * len(MEASURES), {})))
        for amounts in changed:
            amounts.sums[:] = map(add, amounts.sums, sums)
            for slot in slots:
                amounts.slots[slot] = amounts.slots.get(slot, 0) + 1

    def add_attempt(self, attempt: Counted, *, is_end: bool = False) -> None:
        self.add(attempt.started_at, attempt.series, attempt.sums, attempt.slots, attempt.names)
        if is_end:
            self.add_request(attempt)

    def add_request(self, end: Counted, count: int = 1) -> None:
        """`end`: the attempt where the request is counted; -1 takes it from there."""
        self.add(end.started_at, end.series, [count * value for value in _REQUEST], names=end.names)

    def take_attempt(self, attempt: Counted) -> None:
        """Takes back a failure, which has no latency."""
        self.add(attempt.started_at, attempt.series, [-value for value in attempt.sums], names=attempt.names)

    @property
    def size(self) -> int:
        return len(self._quarters) + len(self._members)

    def write(self) -> None:
        """Within a transaction that shares or has the lock of rollups."""
        self._leave_deleted()
        ids = find_series({series for _, series in self._days})
        for table, changes in (("billing_usagequarter", self._quarters), ("billing_usageday", self._days)):
            keyed = [((starts_at, ids[series], series[0]), amounts) for (starts_at, series), amounts in changes.items()]
            _grow(table, _COLUMNS, _KEYS, keyed)
        if self._members:
            self._write_members(ids)

    def _leave_deleted(self) -> None:
        """Days and quarters that were deleted stay so: what is settled of them now would make sums of a part."""
        kept_from = read_all_complete_from()
        days_from = kept_from.get(Kind.DAYS, FIRST_INSTANT)
        quarters_from = max(days_from, kept_from.get(Kind.QUARTERS, FIRST_INSTANT))
        if quarters_from == FIRST_INSTANT:
            return
        for key in [key for key in self._quarters if read_instant(key[0]) < quarters_from]:
            del self._quarters[key]
        for key in [key for key in self._days if read_instant(key[0]) < days_from]:
            del self._days[key]
        for of_member in [key for key in self._members if read_instant(key[0].starts_at) < days_from]:
            del self._members[of_member]

    def _write_members(self, ids: Mapping[Series, int]) -> None:
        numbers = find_members(list(dict.fromkeys(member for member, _ in self._members)))
        keyed: dict[tuple[Value, ...], Amounts] = {}
        for (member, series), amounts in self._members.items():
            known = keyed.setdefault(
                (member.starts_at, numbers[member], ids[series], series[0]), Amounts([0] * len(MEASURES), {})
            )
            known.sums[:] = map(add, known.sums, amounts.sums)  # all that have no name of their own are one member
            for slot, count in amounts.slots.items():
                known.slots[slot] = known.slots.get(slot, 0) + count
        _grow("billing_usagememberday", _MEMBER_COLUMNS, _MEMBER_KEYS, keyed.items())


def _grow(
    table: str,
    columns: dict[str, str],
    keys: Collection[str],
    changes: Collection[tuple[tuple[Value, ...], Amounts]],
) -> None:
    """`changes`: (the first columns, which are an instant, numbers and the organization; what they grow by)."""
    used = sorted({slot for _, amounts in changes for slot in amounts.slots})
    rows = [
        (*first, *amounts.sums, *map(amounts.slots.get, used))
        for first, amounts in changes
        if any(amounts.sums) or amounts.slots
    ]
    rows.sort(key=lambda row: (str(row[0]), row[1 : len(keys)]))
    slots = [COLUMNS[slot] for slot in used]
    grow_sums(table, columns | dict.fromkeys(slots, "integer"), keys, [*MEASURES, *slots], rows)


_FIND_SERIES = "SELECT digest, id FROM billing_usageseries WHERE digest IN ({marks})"
_MAKE_SERIES = sql.fill(
    "INSERT INTO billing_usageseries (digest, {columns}) VALUES ({marks}) ON CONFLICT DO NOTHING",
    columns=sql.names(SERIES),
    marks=", ".join(["%s"] * (1 + len(SERIES))),
)


@lru_cache(maxsize=4096)
def _digest(series: Series) -> UUID:
    return UUID(bytes=blake2b(orjson.dumps(series), digest_size=16).digest())


def find_series(wanted: Iterable[Series]) -> Mapping[Series, int]:
    """The ids of series; new ones are made."""
    digests = {_digest(series): series for series in wanted}
    found = _read_series(digests)
    if missing := sorted(digests.keys() - found.keys()):
        with connection.cursor() as cursor:
            cursor.executemany(_MAKE_SERIES, [(_bind(digest), *digests[digest]) for digest in missing])
        found |= _read_series(missing)
    return {series: found[digest] for digest, series in digests.items()}


def _read_series(digests: Iterable[UUID]) -> dict[UUID, int]:
    values = [_bind(digest) for digest in digests]
    found: dict[UUID, int] = {}
    for first in range(0, len(values), 500):
        part = values[first : first + 500]
        with connection.cursor() as cursor:
            cursor.execute(sql.fill(_FIND_SERIES, marks=", ".join(["%s"] * len(part))), part)
            rows = cursor.fetchall()
        found |= {digest if isinstance(digest, UUID) else UUID(digest): number for digest, number in rows}
    return found


def _bind(digest: UUID) -> UUID | str:
    return digest if connection.vendor == "postgresql" else digest.hex
