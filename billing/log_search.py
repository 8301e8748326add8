"""The search of the spend log: pages of rows, the newest first, of any size of table.

A page is read along one index, or along a few whose rows together are all that the reader may see; each such way is a
`Lead`. Conditions that the lead does not have are tried on the rows that it gives, in windows whose number is bounded:
a page may hold fewer rows than it could, and still name the place where the next one begins. No row is counted.

The indexes of a caller's columns have rows that are settled only, so that a row costs each of them one entry. The rows
before that, open and metered, are few and have indexes of their own: two more leads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import orjson
from django.db import connection
from django.db.models import BooleanField, Case, Exists, F, Func, OuterRef, Q, QuerySet, Value, When
from django.db.models.expressions import RawSQL
from django.db.models.functions import StrIndex
from django.db.models.lookups import GreaterThan
from django.db.models.sql.datastructures import BaseTable

from billing.counted_rows import COUNTED, FAILED, is_end_of_request, rank_of_row
from billing.models import SpendLog, SpendLogTag
from billing.row_ids import first_id
from gateway.protocol.call import Finish
from tenants.models import Organization
from tenants.permissions import Area, Caller, Reach, reach_of

#: Rows of a lead that are looked at for one page, a window at a time.
WINDOWS = (1_000, 4_000, 15_000)
MOST_TEAMS = 20  # that an admin's own leads are made of; with more, the organization's rows are read
MOST_ORGANIZATIONS = 32
#: An id is made with the clock that says when the call began, but it never goes back: it may be ahead after the clock
#: was set back.
SLACK_BEFORE, SLACK_AFTER = timedelta(days=1), timedelta(minutes=10)
FIRST_INSTANT, LAST_INSTANT = datetime(1971, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
State = SpendLog.State
SUCCESS, FAILURE = "success", "failure"
#: The rows that a number of a report counts: the ends of requests, or the attempts without a price.
REQUESTS, WITHOUT_PRICE = "requests", "unpriced"


# SQLite uses a partial index only if the query repeats the index's condition with its very values, not with parameters
EMPTY = RawSQL("''", [])
SETTLED = ~Q(state__in=[RawSQL("'open'", []), RawSQL("'metered'", [])])
SUCCEEDED = Q(finish=Finish.COMPLETE.value, error_code="", status_code=200)
_FAILED = ~Q(finish=RawSQL("'complete'", []), error_code=EMPTY, status_code=RawSQL("200", []))
_ODD = Q(state__in=[RawSQL("'aborted'", []), RawSQL("'lost'", []), RawSQL("'parked'", [])])
_UNCOSTED = Q(state__in=[RawSQL("'unpriced'", []), RawSQL("'lost'", [])])


@dataclass(frozen=True, slots=True)
class LogSearch:
    """The conditions of a list. `equal`: column → the value, or the values one of which a row must have. `tag` and
    `status` (success or failure) are empty, and instants None, where they do not restrict. `counted`: REQUESTS or
    WITHOUT_PRICE, for the rows that this number of a report counts."""

    equal: Mapping[str, Sequence[str]] = field(default_factory=dict)
    request: Q | None = None  # the rows of one request, by an index of their own
    tag: str = ""
    status: str = ""
    starts_at: datetime | None = None
    ends_before: datetime | None = None
    counted: str = ""
    is_untagged: bool = False

    def filter(self, rows: QuerySet[SpendLog]) -> QuerySet[SpendLog]:
        for column, values in self.equal.items():
            one = _IsOneOf(F(column), Value(values[0])) if len(values) == 1 else Q(**{f"{column}__in": values})
            rows = rows.filter(one)
        if self.request is not None:
            rows = rows.filter(self.request)
        if self.tag:
            rows = rows.filter(has_tag(self.tag))
        if self.is_untagged:
            rows = rows.filter(Q(tags__in=("[]", "")) | has_tag(""))
        if self.counted:
            rows = self._keep_counted(rows)
        elif self.status:
            is_success = self.status == SUCCESS
            rows = rows.exclude(state=State.OPEN).filter(SUCCEEDED if is_success else ~SUCCEEDED)
        if self.starts_at is not None:
            rows = rows.filter(started_at__gte=self.starts_at)
        return rows if self.ends_before is None else rows.filter(started_at__lt=self.ends_before)

    def _keep_counted(self, rows: QuerySet[SpendLog]) -> QuerySet[SpendLog]:
        """The rows that a report counts: it knows more failures than the columns of a row that settles late."""
        if self.status:
            rows = rows.filter(~FAILED if self.status == SUCCESS else FAILED)
        if self.counted == WITHOUT_PRICE:
            return rows.filter(COUNTED, cost_pusd=None)
        return rows.annotate(rank=rank_of_row()).filter(COUNTED, is_end_of_request())

    def find_span(self, after: UUID | None) -> "Span":
        """The ids that may be of the search's time, and older than `after`."""
        ends = [after] if after is not None else []
        if self.ends_before is not None:
            ends.append(_id_at(self.ends_before, SLACK_AFTER))
        start = None if self.starts_at is None else _id_at(self.starts_at, -SLACK_BEFORE)
        return Span(min(ends, default=None), start)

    def is_led_by(self, lead: "Lead") -> bool:
        """True if the lead has no other rows than those of the search, within an organization."""
        if self.request is not None:
            return True
        if not isinstance(lead, IndexLead) or lead is METERED or lead is OPEN:
            return False
        if self.tag or self.status or self.counted or self.is_untagged:
            return False
        return not self.equal.keys() - lead.values.keys()


def _id_at(instant: datetime, slack: timedelta) -> UUID:
    """Ids begin in 1970; those of the years 1 and 9999 are those of the first and the last instant that they know."""
    return first_id(min(max(instant, FIRST_INSTANT), LAST_INSTANT) + slack)


class LogPage(NamedTuple):
    """`next_after`: the page of the rows that are older than this id; None where there are none."""

    ids: list[UUID]
    next_after: UUID | None


class Lead(Protocol):
    """A way to read rows in the order of their ids."""

    def read(self, rows: QuerySet[SpendLog], span: "Span") -> QuerySet[SpendLog]:
        """Those of these rows that the lead has within the span, the newest first."""

    def find_end(self, span: "Span", size: int) -> UUID | None:
        """The id of the row of this number in the lead; None if it has fewer rows."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of ids: older than `before`, from `start` on; None where it has no such end."""

    before: UUID | None = None
    start: UUID | None = None

    def filter(self, column: str = "id") -> Q:
        ends = {f"{column}__lt": self.before, f"{column}__gte": self.start}
        return Q(**{name: end for name, end in ends.items() if end is not None})


@dataclass(frozen=True, slots=True)
class IndexLead:
    """The rows of one range of an index. `values`: column → value of its first columns, behind which it has the id.
    `condition`: the index's own."""

    index: str = ""  # empty: the primary key
    values: Mapping[str, str] = field(default_factory=dict)
    condition: Q = field(default_factory=Q)

    def read(self, rows: QuerySet[SpendLog], span: Span) -> QuerySet[SpendLog]:
        """The order begins with a column that PostgreSQL does not take for constant, so that this index alone gives it;
        to SQLite the index is named."""
        first, *others = self.values.items() or [("", "")]
        equal = [_IsOneOf(F(first[0]), Value(first[1]))] if first[0] else []
        rows = rows.filter(*equal, self.condition, span.filter(), **dict(others))
        return _name_index(rows.order_by(*self.values, "-id"), self.index)

    def find_end(self, span: Span, size: int) -> UUID | None:
        return self.read(SpendLog.objects.all(), span).values_list("id", flat=True)[size - 1 : size].first()


@dataclass(frozen=True, slots=True)
class TagLead:
    """The settled rows of one tag in one organization."""

    organization_id: str
    tag: str

    def read(self, rows: QuerySet[SpendLog], span: Span) -> QuerySet[SpendLog]:
        return rows.filter(pk__in=self._ids(span)).order_by("-id")

    def find_end(self, span: Span, size: int) -> UUID | None:
        return self._ids(span).order_by("-spend_id")[size - 1 : size].first()

    def _ids(self, span: Span) -> QuerySet[SpendLogTag, UUID]:
        found = SpendLogTag.objects.filter(organization=self.organization_id, tag=self.tag)
        return found.filter(span.filter("spend_id")).values_list("spend_id", flat=True)


class _IsOneOf(Func):
    """column = value; in PostgreSQL the value is the only member of a list."""

    output_field = BooleanField()
    template = "%(expressions)s"
    arg_joiner = " = "

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="%(expressions)s])", arg_joiner=" = ANY(ARRAY[", **context)


class _IndexedTable(BaseTable):
    """A table that SQLite reads by one index and by no other."""

    index = ""

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        text, parameters = super().as_sql(compiler, connection)
        return f"{text} INDEXED BY {connection.ops.quote_name(self.index)}", parameters


def _name_index(rows: QuerySet[SpendLog], index: str) -> QuerySet[SpendLog]:
    if not index or connection.vendor != "sqlite":
        return rows
    name = SpendLog._meta.db_table
    table = _IndexedTable(name, name)
    table.index = index
    rows.query.get_initial_alias()
    rows.query.alias_map[name] = table
    return rows


# Which leads


OPEN = IndexLead("spend_log_open", condition=Q(state=RawSQL("'open'", [])))
METERED = IndexLead("spend_log_metered", condition=Q(state=RawSQL("'metered'", [])))
LATE = IndexLead("spend_log_late", condition=Q(state=RawSQL("'late'", [])))
UNPRICED = IndexLead("spend_log_uncosted", condition=_UNCOSTED)
EVERY = IndexLead()
#: Column → its index, which begins with the column; the most selective first,
ALONE: Mapping[str, str] = {"key_id": "spend_log_key_id", "user_id": "spend_log_user", "team_id": "spend_log_team"}
#: or with the organization, because many organizations have the same values.
WITHIN: Mapping[str, str] = {
    "end_user": "spend_log_end_user",
    "error_code": "spend_log_error",
    "deployment_id": "spend_log_deployment",
    "application": "spend_log_application",
    "model_group": "spend_log_model_group",
}
NEVER_EMPTY = frozenset({"deployment_id", "model_group"})


def find_leads(caller: Caller, search: LogSearch) -> list[Lead]:
    """Leads that together have every row which the caller sees and the search is for."""
    digests = search.equal.get("key_digest", ())
    if search.request is not None:
        return [EVERY]
    if digests:
        return [IndexLead("spend_log_key", {"key_digest": digest}) for digest in digests]
    if settled := _find_settled(caller, search):
        return [*settled, METERED, OPEN]
    if leads := _find_leads_of_states(search.equal.get("state", ())):
        return leads
    if search.counted == WITHOUT_PRICE:
        return [UNPRICED, LATE, _odd("parked")]
    organizations = _organizations_of(caller, search)
    if organizations is None:
        return [EVERY]
    return [IndexLead("spend_log_organization", {"organization_id": each}) for each in organizations]


def _find_settled(caller: Caller, search: LogSearch) -> list[Lead]:
    """Leads that have every settled row of the search, by the first column that has an index; none without one."""
    for column, index in ALONE.items():
        if values := _named(search, column):
            return [_alone(index, column, value) for value in values]
    reach = reach_of(caller, Area.SPEND)
    if reach < Reach.ORGANIZATION and len(caller.admin_teams) <= MOST_TEAMS:
        return _find_own(caller, reach)
    organizations = _find_organizations(caller, search)
    if search.tag and organizations:
        # Tags are indexed with the price: these rows never get one
        return [_odd("aborted"), _odd("parked"), *(TagLead(each, search.tag) for each in organizations)]
    for column, index in WITHIN.items():
        values = _named(search, column)
        if values and 0 < len(values) * len(organizations) <= MOST_ORGANIZATIONS:
            return [_within(index, each, column, value) for each in organizations for value in values]
    if sources := _named(search, "source"):
        condition = SETTLED & ~Q(source=EMPTY)
        return [IndexLead("spend_log_source", {"source": value}, condition) for value in sources]
    if search.status == FAILURE and "state" not in search.equal and organizations:
        late = [LATE, _odd("parked")] if search.counted else []
        return [
            *late,
            *(IndexLead("spend_log_failure", {"organization_id": each}, SETTLED & _FAILED) for each in organizations),
        ]
    return []


def _find_own(caller: Caller, reach: Reach) -> list[Lead]:
    """Leads of what a caller sees whose right ends at its teams, its user and its key."""
    leads: list[Lead] = []
    if caller.username:
        leads.append(_alone("spend_log_user", "user_id", caller.username))
    if reach == Reach.TEAMS:
        leads += [_alone("spend_log_team", "team_id", team) for team in sorted(caller.admin_teams)]
    if caller.key is not None:
        leads.append(_alone("spend_log_key_id", "key_id", caller.key.id))
    return leads


def _find_leads_of_states(states: Sequence[str]) -> list[Lead]:
    """None where one of the states has no index, as most rows are priced."""
    by_state: Mapping[str, Lead] = {"open": OPEN, "metered": METERED, "late": LATE, "unpriced": UNPRICED}
    odd = {state: _odd(state) for state in ("aborted", "lost", "parked")}
    known = {**by_state, **odd}
    return [known[state] for state in states] if all(state in known for state in states) else []


def _alone(index: str, column: str, value: str) -> IndexLead:
    return IndexLead(index, {column: value}, SETTLED & ~Q(**{column: EMPTY}))


def _within(index: str, organization_id: str, column: str, value: str) -> IndexLead:
    condition = SETTLED if column in NEVER_EMPTY else SETTLED & ~Q(**{column: EMPTY})
    return IndexLead(index, {"organization_id": organization_id, column: value}, condition)


def _odd(state: str) -> IndexLead:
    return IndexLead("spend_log_odd_state", {"state": state}, _ODD)


def _named(search: LogSearch, column: str) -> Sequence[str]:
    """The values of a column, none if one of them is empty: rows without a value have no place in its index."""
    values = search.equal.get(column, ())
    return values if all(values) or column in NEVER_EMPTY else ()


def _organizations_of(caller: Caller, search: LogSearch) -> Sequence[str] | None:
    """The organizations that the search is within; None: all of them."""
    if named := search.equal.get("organization_id"):
        return named
    if reach_of(caller, Area.SPEND) < Reach.PLATFORM and caller.organization_id is not None:
        return [caller.organization_id]
    return None


def _find_organizations(caller: Caller, search: LogSearch) -> Sequence[str]:
    """The same, all of them by name; none if they are too many for a lead each."""
    named = _organizations_of(caller, search)
    if named is not None:
        return named
    every = list(Organization.objects.order_by("id").values_list("id", flat=True)[: MOST_ORGANIZATIONS + 1])
    return every if len(every) <= MOST_ORGANIZATIONS else []


# Pages


def find_page(
    caller: Caller,
    rows: QuerySet[SpendLog],
    search: LogSearch,
    *,
    size: int,
    after: UUID | None = None,
    is_folded: bool = False,
    windows: Sequence[int] = WINDOWS,
) -> LogPage:
    """The ids of a page of `rows`, which are those that the caller sees. Folded: of the rows of a request that the
    search is for, its last attempt alone."""
    matching = search.filter(rows)
    if is_folded and search.counted != REQUESTS:  # which are one a request
        matching = keep_last(matching)
    span = search.find_span(after)
    is_narrow = reach_of(caller, Area.SPEND) < Reach.ORGANIZATION
    walks = [
        _walk(matching, lead, span, size, windows if is_narrow or not search.is_led_by(lead) else ())
        for lead in find_leads(caller, search)
    ]
    floor = max((walk.next_after for walk in walks if walk.next_after is not None), default=None)
    found = {row_id for walk in walks for row_id in walk.ids}
    ids = sorted((row_id for row_id in found if floor is None or row_id >= floor), reverse=True)
    if len(ids) > size:
        return LogPage(ids[:size], ids[size - 1])
    return LogPage(ids, floor)


def _walk(matching: QuerySet[SpendLog], lead: Lead, span: Span, size: int, windows: Sequence[int]) -> LogPage:
    """Up to one row more than a page has, and the id down to which the lead has no other one; None if it has ended.
    Without windows all that the lead gives are rows of the search."""
    ids: list[UUID] = []
    for window in windows or (0,):
        end = lead.find_end(span, max(window, size + 1)) if window else None
        part = replace(span, start=end) if end is not None else span
        ids += lead.read(matching, part).values_list("id", flat=True)[: size + 1 - len(ids)]
        if len(ids) > size:
            return LogPage(ids, ids[-1])
        if end is None:
            return LogPage(ids, None)
        span = replace(span, before=end)
    return LogPage(ids, span.before)


def keep_last(rows: QuerySet[SpendLog]) -> QuerySet[SpendLog]:
    """One row of each request: the last attempt of those in `rows`. It is found in the index of requests, row by row,
    so that a page of any table reads its own rows only. The conditions of `rows` are hidden from the planner: it would
    read all rows of a value that it takes for rare, having not seen it yet, for each row of the page."""
    found = SpendLog._base_manager.filter(request_id=OuterRef("request_id"), attempt__gt=OuterRef("attempt"))
    # Not as =, for which PostgreSQL may first read all of `rows` into a hash
    same = rows.order_by().filter(_IsOneOf(F("id"), OuterRef("id")))
    is_one = Case(When(Exists(same.values("pk")), then=True), default=False)
    return rows.filter(~Exists(found.filter(is_one).values("pk")))


def has_tag(tag: str) -> Q:
    """The tags are a JSON list of texts. Within a text no quotation mark stands alone, so its own are its bounds."""
    text = orjson.dumps(tag.encode(errors="replace").decode()).decode()
    starts = [StrIndex(F("tags"), Value(f"{before}{text}")) for before in ("[", ",")]
    return reduce(or_, (Q(GreaterThan(start, 0)) for start in starts))
