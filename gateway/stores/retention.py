"""Retention: the purge of expired responses, and erasure by hand.

No client sees an expired response. Its row stays as long as an unexpired response builds upon it, so the purge deletes
chains from their leaves. Erasure by hand ignores that: a response that built upon an erased one cannot be continued.

A batch is one short transaction, because every writer waits for SQLite's one write lock. Measured: 50 responses of
2 KB, or 512 KB of bodies, hold the lock for about 0.6 ms and one fsync; 500 would for 30 ms. Between them it is free.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone
from django_scopes import scope, scopes_disabled

from gateway.models import (
    BackgroundRun,
    Conversation,
    ConversationItem,
    EventBatch,
    IdempotencyKey,
    StoredResponse,
)
from gateway.state import sql
from gateway.stores.conversations import PLACES
from gateway.stores.erasure import empty_log
from gateway.stores.responses import SIZE, erase
from tenants.models import Organization

#: How long an expired response stays for a follow-up that was requested before it expired and still runs.
GRACE = timedelta(hours=1)
PAUSE_S = 0.002  # for the answers that wait for SQLite's one write lock
ALWAYS = float("inf")
Instant = datetime | str  # as the database gives and takes it: a text on SQLite
BEGINNING = ("0001-01-01 00:00:00", "")

#: '' is a literal, as in the index of the parents: with a parameter SQLite would not use the index.
_CHILD = "SELECT 1 FROM gateway_storedresponse c WHERE c.parent_id = r.id AND NOT (c.parent_id = '')"
#: A response that has not ended does not expire: its run, or the sweeper, ends it first.
_EXPIRED = "r.expires_at < %s AND r.status NOT IN ('queued', 'in_progress')"
_STAYS = "NOT (c.expires_at < %s AND c.status NOT IN ('queued', 'in_progress'))"
_FOUND = (
    "SELECT r.expires_at, r.id, r.parent_id, r.is_background, length(r.body) + length(r.head) "
    "FROM gateway_storedresponse r "
)
_LEAVES = (
    "{found} WHERE {expired} {within} AND (r.expires_at, r.id) > (%s, %s) "
    "AND NOT EXISTS ({child}) ORDER BY r.expires_at, r.id LIMIT %s"
)
_CHILDLESS = "{found} WHERE r.id IN ({ids}) AND {expired} AND NOT EXISTS ({child} {others}) ORDER BY r.expires_at, r.id"
_COUNT_EXPIRED = "SELECT count(*) FROM gateway_storedresponse r WHERE {expired} {within}"
_COUNT_STAYING = (
    "WITH RECURSIVE held(id, parent_id) AS ("
    "SELECT r.id, r.parent_id FROM gateway_storedresponse r WHERE {expired} {within} AND EXISTS ({child} AND {stays}) "
    "UNION SELECT r.id, r.parent_id FROM gateway_storedresponse r JOIN held ON r.id = held.parent_id "
    "WHERE {expired}) SELECT count(*) FROM held"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The size of one batch."""

    rows: int
    size: int  # bytes of bodies


def limits() -> Limits:
    return Limits(50, 512 * 1024) if connection.vendor == "sqlite" else Limits(1000, 64 * 1024 * 1024)


class Candidate(NamedTuple):
    """A row that may be erased. `expires_at` is as the database gives it."""

    expires_at: Instant
    id: str
    parent_id: str
    is_background: bool
    size: int


@dataclass(slots=True)
class Batch:
    limits: Limits
    rows: dict[str, Candidate] = field(default_factory=dict)
    size: int = 0

    def take(self, row: Candidate) -> bool:
        """Adds a row; returns False if the batch is full. An empty batch takes a row of any size."""
        if row.id in self.rows:
            return True
        if self.rows and (len(self.rows) >= self.limits.rows or self.size + row.size > self.limits.size):
            return False
        self.rows[row.id] = row
        self.size += row.size
        return True


@dataclass(slots=True)
class Erased:
    responses: int = 0
    conversations: int = 0
    is_done: bool = True

    def __iadd__(self, other: "Erased") -> "Erased":
        self.responses += other.responses
        self.conversations += other.conversations
        return self


# Expired responses


def purge_expired(organization_id: str = "", *, busy_s: float = ALWAYS) -> Erased:
    """Erases expired responses of one organization or of all, for about so many seconds. Several processes may purge at
    the same time."""
    end = time.monotonic() + busy_s
    erased = Erased()
    with scopes_disabled():  # retention spans all organizations
        for rows in _expired(_expired_before(), organization_id):
            erased.responses += _erase(rows)
            if time.monotonic() > end:
                erased.is_done = False
                break
            time.sleep(PAUSE_S)
    empty_log()  # also without an erasure: an earlier try may have met a reader
    return erased


def count_expired(organization_id: str = "") -> tuple[int, int]:
    """(erasable, staying): the expired responses that no unexpired response builds upon, and the others."""
    before = _expired_before()
    within, parameters = _within(organization_id)
    with scopes_disabled(), connection.cursor() as cursor:
        cursor.execute(sql.fill(_COUNT_EXPIRED, expired=_EXPIRED, within=within), [before, *parameters])
        expired: int = cursor.fetchone()[0]
        staying_query = sql.fill(_COUNT_STAYING, expired=_EXPIRED, within=within, child=_CHILD, stays=_STAYS)
        cursor.execute(staying_query, [before, *parameters, before, before])
        staying: int = cursor.fetchone()[0]
    return expired - staying, staying


def _expired_before() -> Instant:
    before: Instant | None = connection.ops.adapt_datetimefield_value(timezone.now() - GRACE)
    assert before is not None
    return before


def _expired(before: Instant, organization_id: str) -> Iterator[Collection[Candidate]]:
    """Batches of expired rows upon which only rows of the same batch build. The caller erases each batch before it
    takes the next."""
    cursor: tuple[Instant, str] = BEGINNING
    waiting: set[str] = set()
    while True:
        batch = Batch(limits())
        level = _childless(waiting, before, ())
        waiting = set()
        while not waiting:
            if not level:
                level = _leaves(cursor, before, organization_id, batch.limits.rows)
                if not level:
                    break
                cursor = level[-1][:2]
            waiting = {row.id for row in level if not batch.take(row)}
            parents = {row.parent_id for row in level if row.parent_id and row.id in batch.rows}
            if waiting:
                waiting |= parents
            else:
                level = _childless(parents, before, batch.rows)
        if not batch.rows:
            return
        yield batch.rows.values()


def _leaves(after: tuple[Instant, str], before: Instant, organization_id: str, limit: int) -> list[Candidate]:
    within, parameters = _within(organization_id)
    query = sql.fill(_LEAVES, found=_FOUND, expired=_EXPIRED, within=within, child=_CHILD)
    return _fetch(query, [before, *parameters, *after, limit])


def _childless(ids: Collection[str], before: Instant, taken: Collection[str]) -> list[Candidate]:
    """The expired responses among `ids` that no response except the taken ones builds upon."""
    if not ids:
        return []
    others = f"AND c.id NOT IN ({_marks(taken)})" if taken else ""
    query = sql.fill(_CHILDLESS, found=_FOUND, ids=_marks(ids), expired=_EXPIRED, child=_CHILD, others=others)
    return _fetch(query, [*ids, before, *taken])


def _within(organization_id: str) -> tuple[str, list[str]]:
    """The condition that keeps to an organization, and its parameters."""
    return ("AND r.organization_id = %s", [organization_id]) if organization_id else ("", [])


def _marks(values: Collection[str]) -> str:
    return ", ".join(["%s"] * len(values))


def _fetch(query: str, parameters: Sequence[Instant | int]) -> list[Candidate]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return [Candidate(*row) for row in cursor.fetchall()]


# By hand


@dataclass(frozen=True, slots=True)
class Selection:
    """The stored data of an organization, an owner, or before an instant; an empty field does not restrict."""

    organization_id: str = ""
    owner: str = ""  # `team:…`, `user:…` or `key:…`
    before: datetime | None = None

    def organizations(self) -> list[str]:
        ids = Organization.objects.order_by("pk").values_list("pk", flat=True)
        return list(ids.filter(pk=self.organization_id) if self.organization_id else ids)

    def owners(self) -> list[str]:
        """The owners within the organization of the scope."""
        if self.owner:
            return [self.owner]
        return sorted({owner for model in (StoredResponse, Conversation, IdempotencyKey) for owner in _owners(model)})

    def responses(self, owner: str) -> "QuerySet[StoredResponse]":
        rows = StoredResponse.objects.filter(owner=owner)
        return rows.filter(created_at__lt=self.before) if self.before else rows

    def conversations(self, owner: str) -> "QuerySet[Conversation]":
        """The conversations without an item since `before`."""
        rows = Conversation.objects.filter(owner=owner)
        if self.before is None:
            return rows
        since = round(self.before.timestamp() * 1e6) * PLACES
        later = ConversationItem.objects.filter(conversation_id=OuterRef("pk"), position__gte=since)
        return rows.filter(~Exists(later), created_at__lt=self.before)

    def claims(self, owner: str) -> "QuerySet[IdempotencyKey]":
        rows = IdempotencyKey.objects.filter(owner=owner)
        return rows.filter(created_at__lt=self.before) if self.before else rows


def erase_selected(selection: Selection) -> Erased:
    """Erases the selection, expired or not, with all rows that belong to it; running responses end."""
    erased = Erased()
    for organization_id in selection.organizations():
        with scope(organization=organization_id):
            for owner in selection.owners():
                erased += erase_responses(selection.responses(owner))
                erased += erase_conversations(selection.conversations(owner))
                _in_slices(selection.claims(owner), lambda claims: claims.delete())
    empty_log()
    return erased


def count_selected(selection: Selection) -> Erased:
    total = Erased()
    for organization_id in selection.organizations():
        with scope(organization=organization_id):
            for owner in selection.owners():
                total += Erased(selection.responses(owner).count(), selection.conversations(owner).count())
    return total


def erase_responses(rows: "QuerySet[StoredResponse]") -> Erased:
    erased = Erased()
    columns = rows.order_by().annotate(size=SIZE).values_list("expires_at", "pk", "parent_id", "is_background", "size")
    while True:
        batch = Batch(limits())
        for row in columns[: batch.limits.rows]:
            if not batch.take(Candidate(*row)):
                break
        if not batch.rows:
            return erased
        erased.responses += _erase(batch.rows.values())
        time.sleep(PAUSE_S)


def erase_conversations(rows: "QuerySet[Conversation]") -> Erased:
    """Erases conversations with their items. Stored responses keep their own items."""
    erased = Erased()
    while keys := list(rows.order_by().values_list("pk", flat=True)[: limits().rows]):
        _in_slices(ConversationItem.objects.filter(conversation_id__in=keys), lambda items: items.delete())
        erased.conversations += Conversation.objects.filter(pk__in=keys).delete()[1].get(Conversation._meta.label, 0)
        time.sleep(PAUSE_S)
    return erased


def _erase(rows: Collection[Candidate]) -> int:
    """Erases one batch. The event log of a background response can be longer than the response, so it is erased before
    it, in slices; the run is erased first, because no worker adds to a log without a run."""
    background = [row.id for row in rows if row.is_background]
    if background:
        BackgroundRun.objects.filter(pk__in=background).delete()
        _in_slices(EventBatch.objects.filter(response_id__in=background), lambda events: events.delete())
    with transaction.atomic():
        return erase([row.id for row in rows])


def _in_slices(rows: "QuerySet[Any]", act: Callable[["QuerySet[Any]"], object]) -> None:
    while keys := list(rows.order_by().values_list("pk", flat=True)[: limits().rows]):
        act(rows.model._default_manager.filter(pk__in=keys))
        time.sleep(PAUSE_S)


def _owners(model: Any) -> Iterator[str]:
    """The distinct owners, each by one look-up in the index of (organization, owner)."""
    last = ""
    owners = model.objects.order_by("owner").values_list("owner", flat=True)
    while owner := owners.filter(owner__gt=last).first():
        yield owner
        last = owner
