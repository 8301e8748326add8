"""Conversations in the database. A response enters, appends and leaves by the group commit, without the ORM; the
operations of the conversations API use the ORM.

Conversations do not expire. A response holds its conversation by a lease on the database's clock: another response may
enter after the holder has left, or has not renewed the lease for its length. A background response holds its
conversation while its run waits, and while a worker renews the run. `released_by` is the fence: only the items of the
response that released the conversation last are added, so one that comes late, after another has entered, adds nothing.

A writer locks the conversation's row before it adds items, and gives them positions behind all items it sees. So two
writers never collide, and a clock that is late never puts new items before old ones.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from django.db import transaction
from django.db.models import Max, QuerySet
from django_scopes import scope

from gateway.models import Conversation, ConversationItem
from gateway.pipeline.responses.conversations import (
    LEASE_S,
    MAX_ITEMS,
    RENEW_S,
    ConversationContents,
    LeaseRenewals,
    assign_free_ids,
    conversation_locked,
    conversation_not_found,
)
from gateway.pipeline.responses.limits import MAX_HISTORY_BYTES, history_too_large
from gateway.protocol.dialects.responses.stored import Item, Owner, Page, StoredConversation
from gateway.protocol.errors import BadRequest
from gateway.state import sql
from gateway.state.group_commit import GroupCommit
from gateway.state.packing import TooManyBytes, pack, unpack, unpack_all
from gateway.state.reader import Found, Reader
from gateway.state.statement import Row, Statement
from gateway.state.unit_of_work import UnitOfWork
from gateway.stores.erasure import empty_log
from gateway.stores.orm import reporting_outage
from tenants.database import InThread

PLACES = 1000  # positions in one microsecond; a longer write continues into the next microseconds
ERASED_AT_ONCE = 500  # every writer waits for SQLite's one write lock

_HOLDER = {"id": "text", "organization_id": "text", "owner": "text", "response_id": "text"}
_OWNED = "c.id = v.id AND c.organization_id = v.organization_id AND c.owner = v.owner"
#: No other response holds the conversation `c`.
_IS_FREE = (
    "(c.locked_by IN ('', {response_id}) OR (c.locked_until < {now} "
    "AND NOT EXISTS (SELECT 1 FROM gateway_backgroundrun r WHERE r.response_id = c.locked_by "
    "AND (r.worker_id = '' OR r.lease_until >= {now}))))"
)
#: The response has released `c`, and no other one since. An earlier version spooled rows without the response's id.
_IS_HOLDER = "{response_id} IN ('', c.released_by)"

# Never spooled: a lease that is written late would close the conversation to every other response.
LOCK = Statement(
    name="lock conversation",
    types=tuple(_HOLDER.values()),
    sqlite=sql.fill(
        "UPDATE gateway_conversation AS c SET locked_by = ?4, "
        "locked_until = strftime('%Y-%m-%d %H:%M:%f', 'now', '+{seconds} seconds') "
        "WHERE c.id = ?1 AND c.organization_id = ?2 AND c.owner = ?3 AND {is_free}",
        seconds=LEASE_S,
        is_free=sql.fill(_IS_FREE, response_id="?4", now=sql.SQLITE_NOW),
    ),
    # In one order everywhere, or two replicas could wait for each other
    postgres=sql.fill(
        "UPDATE gateway_conversation SET locked_by = free.response_id, "
        "locked_until = now() + interval '{seconds} seconds' "
        "FROM (SELECT c.id, v.response_id FROM gateway_conversation c JOIN {holders} ON {owned} "
        "WHERE {is_free} ORDER BY c.id FOR NO KEY UPDATE OF c) AS free "
        "WHERE gateway_conversation.id = free.id",
        seconds=LEASE_S,
        holders=sql.unnest(_HOLDER),
        owned=_OWNED,
        is_free=sql.fill(_IS_FREE, response_id="v.response_id", now=sql.POSTGRES_NOW),
    ),
    is_durable=False,
    is_spooled=False,
    rank=3,
    is_set_aside=False,
)
RENEW = Statement(
    name="renew conversation",
    types=tuple(_HOLDER.values()),
    sqlite=sql.fill(
        "UPDATE gateway_conversation SET locked_until = strftime('%Y-%m-%d %H:%M:%f', 'now', '+{seconds} seconds') "
        "WHERE id = ?1 AND organization_id = ?2 AND owner = ?3 AND locked_by = ?4",
        seconds=LEASE_S,
    ),
    postgres=sql.fill(
        "UPDATE gateway_conversation SET locked_until = now() + interval '{seconds} seconds' "
        "FROM (SELECT c.id FROM gateway_conversation c JOIN {holders} ON {owned} "
        "WHERE c.locked_by = v.response_id ORDER BY c.id FOR NO KEY UPDATE OF c) AS kept "
        "WHERE gateway_conversation.id = kept.id",
        seconds=LEASE_S,
        holders=sql.unnest(_HOLDER),
        owned=_OWNED,
    ),
    is_durable=False,
    is_spooled=False,
    rank=3,
    is_set_aside=False,
)
# Before APPEND in a transaction, and also on a conversation that another response holds: this takes the row's lock.
RELEASE = Statement(
    name="release conversation",
    types=tuple(_HOLDER.values()),
    sqlite="UPDATE gateway_conversation SET "
    "released_by = CASE WHEN locked_by = ?4 THEN locked_by ELSE released_by END, "
    "locked_by = CASE WHEN locked_by = ?4 THEN '' ELSE locked_by END, "
    "locked_until = CASE WHEN locked_by = ?4 THEN NULL ELSE locked_until END "
    "WHERE id = ?1 AND organization_id = ?2 AND owner = ?3",
    # One row for each conversation: of several that match a row, PostgreSQL takes any one
    postgres=sql.fill(
        "UPDATE gateway_conversation c SET "
        "released_by = CASE WHEN c.locked_by = ANY(v.responses) THEN c.locked_by ELSE c.released_by END, "
        "locked_by = CASE WHEN c.locked_by = ANY(v.responses) THEN '' ELSE c.locked_by END, "
        "locked_until = CASE WHEN c.locked_by = ANY(v.responses) THEN NULL ELSE c.locked_until END "
        "FROM (SELECT v.id, v.organization_id, v.owner, array_agg(v.response_id) AS responses "
        "FROM {holders} GROUP BY 1, 2, 3) AS v WHERE {owned}",
        holders=sql.unnest(_HOLDER),
        owned=_OWNED,
    ),
    is_durable=True,
    is_owed=True,  # or the conversation would stay closed until the lease ends
    rank=4,
    is_set_aside=False,
)
APPEND = Statement(
    name="append to conversation",
    types=("text", "text", "text", "text", "bigint", "bytea", "text"),
    sqlite=sql.fill(
        "INSERT INTO gateway_conversationitem (conversation_id, organization_id, item_id, position, body) "
        "SELECT c.id, c.organization_id, ?4, max(?5, 1 + (SELECT coalesce(max(position), 0) "
        "FROM gateway_conversationitem WHERE conversation_id = c.id)), ?6 "
        "FROM gateway_conversation c WHERE c.id = ?1 AND c.organization_id = ?2 AND c.owner = ?3 AND {is_holder} "
        "ON CONFLICT (conversation_id, item_id) DO NOTHING",
        is_holder=sql.fill(_IS_HOLDER, response_id="?7"),
    ),
    # Every row of a batch sees what was there before the batch: so each adds its place among them
    postgres=sql.fill(
        "INSERT INTO gateway_conversationitem (conversation_id, organization_id, item_id, position, body) "
        "SELECT c.id, c.organization_id, v.item_id, "
        "greatest(max(v.position) OVER (PARTITION BY c.id), 1 + last.position) + v.place - 1, v.body "
        "FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::bytea[], %b::text[]) "
        "WITH ORDINALITY AS v(id, organization_id, owner, item_id, position, body, response_id, place) "
        "JOIN gateway_conversation c ON {owned} AND {is_holder} "
        "CROSS JOIN LATERAL (SELECT coalesce(max(i.position), 0) AS position "
        "FROM gateway_conversationitem i WHERE i.conversation_id = c.id) AS last "
        "ON CONFLICT (conversation_id, item_id) DO NOTHING",
        owned=_OWNED,
        is_holder=sql.fill(_IS_HOLDER, response_id="v.response_id"),
    ),
    is_durable=True,
    rank=5,
    is_set_aside=False,
)
STATEMENTS = (LOCK, RENEW, RELEASE, APPEND)


#: The bytes of all items of the conversation `f`; `length` reads none of them.
_SIZE = sql.fill(
    "(SELECT coalesce(sum(size), 0) FROM (SELECT length(i.body) AS size FROM gateway_conversationitem i "
    "WHERE i.conversation_id = f.id LIMIT {most}) AS sizes)",
    most=MAX_ITEMS + 1,
)
ITEMS = sql.query(
    "WITH found AS MATERIALIZED (SELECT f.id, {size} AS size FROM gateway_conversation f "
    "WHERE f.id = {mark} AND f.organization_id = {mark} AND f.owner = {mark}) "
    "SELECT f.size, i.position, i.body FROM found f LEFT JOIN gateway_conversationitem i "
    "ON i.conversation_id = f.id AND f.size <= {mark} LIMIT {most}",
    size=_SIZE,
    most=MAX_ITEMS + 1,
)
#: The response that holds the conversation and the deployment that answered last in it. If the holder is the response
#: that enters: also the size of the items and, unless they are too large, the items in no order, because sorting in SQL
#: would copy them all in one step. The condition on '' is the index's.
ENTERED = sql.query(
    "WITH found AS MATERIALIZED (SELECT c.id, c.locked_by, coalesce(("
    "SELECT r.deployment_id FROM gateway_storedresponse r WHERE r.conversation_id = c.id "
    "AND NOT (r.conversation_id = '') AND r.deployment_id != '' ORDER BY r.created_at DESC LIMIT 1"
    "), '') AS last "
    "FROM gateway_conversation c WHERE c.id = {mark} AND c.organization_id = {mark} AND c.owner = {mark}), "
    "sized AS MATERIALIZED (SELECT f.*, CASE WHEN f.locked_by = {mark} THEN {size} END AS size FROM found f) "
    "SELECT s.locked_by, s.last, s.size, i.position, i.body FROM sized s LEFT JOIN gateway_conversationitem i "
    "ON i.conversation_id = s.id AND s.size <= {mark} LIMIT {most}",
    size=_SIZE,
    most=MAX_ITEMS + 1,
)

Result = TypeVar("Result")


class ConversationStore:
    """The pipeline's Conversations port. `now` gives seconds since the epoch."""

    def __init__(
        self,
        commits: GroupCommit,
        reader: Reader,
        in_thread: InThread,
        new_id: Callable[[str], str],
        now: Callable[[], float] = time.time,
        *,
        max_history_bytes: int = MAX_HISTORY_BYTES,
        renew_s: float = RENEW_S,
    ) -> None:
        self._commits = commits
        self._reader = reader
        self._in_thread = in_thread
        self._new_id = new_id
        self._now = now
        self._max_history_bytes = max_history_bytes
        self._renewals = LeaseRenewals[Row](self._renew, renew_s)

    # For a response

    async def enter(self, owner: Owner, conversation_id: str, response_id: str) -> ConversationContents:
        """Takes the conversation's lease for one response and reads the items. Raises NotFound, or ClientFault if
        another response holds the conversation or the items are too large; then the lease is released."""
        may_hold = True
        holder = _holder(owner, conversation_id, response_id)
        try:
            with reporting_outage("read conversations"):
                await self._commits.submit(LOCK, holder)
                limit = self._max_history_bytes
                parameters = (conversation_id, owner.organization_id, owner.scope, response_id, limit)
                rows = await self._reader.fetch(ENTERED, parameters)
            if not rows:
                may_hold = False
                raise conversation_not_found(conversation_id, param="conversation")
            locked_by, deployment_id, *_ = rows[0]
            if locked_by != response_id:
                may_hold = not locked_by  # without a holder, a LOCK whose connection was cut may still arrive
                raise conversation_locked()
            items = await self._unpack(rows)
            may_hold = False
        finally:
            if may_hold:
                self._commits.submit(RELEASE, holder).add_done_callback(_seen)
        return ConversationContents(items, deployment_id)

    async def read(self, owner: Owner, conversation_id: str) -> tuple[Item, ...]:
        parameters = (conversation_id, owner.organization_id, owner.scope, self._max_history_bytes)
        with reporting_outage("read conversations"):
            rows = await self._reader.fetch(ITEMS, parameters)
        if not rows:
            raise conversation_not_found(conversation_id, param="conversation")
        return await self._unpack(rows)

    async def _unpack(self, rows: Sequence[Found]) -> tuple[Item, ...]:
        """The items of rows that end with the size of all items, a position and a body. Raises BadRequest if
        the items are too large."""
        limit = self._max_history_bytes
        *_, size, _, _ = rows[0]
        bodies = sorted((position, body) for *_, position, body in rows if body is not None)
        try:
            if size > limit:
                raise TooManyBytes
            return tuple(await unpack_all((body for _, body in bodies), limit))
        except TooManyBytes:
            raise history_too_large(limit, param="conversation") from None

    def keep(self, owner: Owner, conversation_id: str, response_id: str) -> None:
        self._renewals.add(_holder(owner, conversation_id, response_id))

    def append(
        self,
        unit: UnitOfWork,
        owner: Owner,
        conversation_id: str,
        response_id: str,
        items: Sequence[Item],
    ) -> None:
        """Adds the items, and the end of the lease."""
        first = self._first_position()
        where = conversation_id, owner.organization_id, owner.scope
        for item in items:
            unit.add(APPEND, (*where, item["id"], first, pack(item), response_id))
        self.release(unit, owner, conversation_id, response_id)

    def release(self, unit: UnitOfWork, owner: Owner, conversation_id: str, response_id: str) -> None:
        holder = _holder(owner, conversation_id, response_id)
        self._renewals.discard(holder)
        unit.add(RELEASE, holder)

    def leave(self, owner: Owner, conversation_id: str, response_id: str) -> Awaitable[object]:
        holder = _holder(owner, conversation_id, response_id)
        self._renewals.discard(holder)
        return self._commits.submit(RELEASE, holder)

    def _renew(self, holders: Collection[Row]) -> None:
        self._commits.submit_rows(RENEW, holders).add_done_callback(_seen)

    def _first_position(self) -> int:
        return round(self._now() * 1e6) * PLACES

    # With the ORM

    async def create(self, conversation: StoredConversation, items: Sequence[Item]) -> None:
        def write() -> None:
            with scope(organization=conversation.owner.organization_id), transaction.atomic():
                Conversation.objects.create(
                    id=conversation.id,
                    organization_id=conversation.owner.organization_id,
                    owner=conversation.owner.scope,
                    metadata=dict(conversation.metadata),
                    created_at=datetime.fromtimestamp(conversation.created_s, UTC),
                )
                self._insert(conversation.owner, conversation.id, items)

        await self._with_orm(write)

    async def find(self, owner: Owner, conversation_id: str) -> StoredConversation | None:
        def read() -> StoredConversation | None:
            with scope(organization=owner.organization_id):
                return _conversation(_rows(owner, conversation_id).first())

        return await self._with_orm(read)

    async def update(
        self, owner: Owner, conversation_id: str, metadata: Mapping[str, str]
    ) -> StoredConversation | None:
        def write() -> StoredConversation | None:
            with scope(organization=owner.organization_id):
                rows = _rows(owner, conversation_id)
                return _conversation(rows.first()) if rows.update(metadata=dict(metadata)) else None

        return await self._with_orm(write)

    async def delete(self, owner: Owner, conversation_id: str) -> bool:
        def erase() -> bool:
            with scope(organization=owner.organization_id):
                rows = _rows(owner, conversation_id)
                items = ConversationItem.objects.filter(conversation_id=conversation_id, conversation__in=rows)
                while keys := list(items.order_by().values_list("pk", flat=True)[:ERASED_AT_ONCE]):
                    ConversationItem.objects.filter(pk__in=keys).delete()
                with transaction.atomic():  # with items that were added meanwhile
                    row = rows.select_for_update().first()
                    if row is None:
                        return False
                    row.delete()
            empty_log()
            return True

        return await self._with_orm(erase)

    async def page(
        self, owner: Owner, conversation_id: str, *, limit: int, is_descending: bool, after: str
    ) -> Page[Item] | None:
        def read() -> Page[Item] | None:
            with scope(organization=owner.organization_id):
                if not _rows(owner, conversation_id).exists():
                    return None
                items = ConversationItem.objects.filter(conversation_id=conversation_id)
                if after:
                    last = items.filter(item_id=after).values_list("position", flat=True).first()
                    if last is None:
                        raise BadRequest(
                            f"Item with id '{after[:128]}' not found.", param="after", code="invalid_value"
                        )
                    items = items.filter(**{"position__lt" if is_descending else "position__gt": last})
                order = "-position" if is_descending else "position"
                bodies = list(items.order_by(order).values_list("body", flat=True)[: limit + 1])
            return Page(tuple(map(unpack, bodies[:limit])), has_more=len(bodies) > limit)

        return await self._with_orm(read)

    async def item(self, owner: Owner, conversation_id: str, item_id: str) -> Item | None:
        def read() -> Item | None:
            with scope(organization=owner.organization_id):
                body = _items(owner, conversation_id, item_id).values_list("body", flat=True).first()
            return None if body is None else unpack(body)

        return await self._with_orm(read)

    async def add(self, owner: Owner, conversation_id: str, items: Sequence[Item]) -> tuple[Item, ...] | None:
        def write() -> tuple[Item, ...] | None:
            with scope(organization=owner.organization_id), transaction.atomic():
                row = _rows(owner, conversation_id).select_for_update().first()
                if row is None:
                    return None
                ids = {item["id"] for item in items}
                # The ids that a running response will add are not known yet, so every item gets a new id
                used_ids = ids if row.locked_by else _used_ids(conversation_id, ids)
                added = assign_free_ids(items, used_ids, self._new_id)
                self._insert(owner, conversation_id, added)
            return added

        return await self._with_orm(write)

    async def remove(self, owner: Owner, conversation_id: str, item_id: str) -> StoredConversation | None:
        def write() -> StoredConversation | None:
            with scope(organization=owner.organization_id):
                if not _items(owner, conversation_id, item_id).delete()[0]:
                    return None
                return _conversation(_rows(owner, conversation_id).first())

        return await self._with_orm(write)

    def _insert(self, owner: Owner, conversation_id: str, items: Sequence[Item]) -> None:
        """Inserts items. The caller's transaction has locked the conversation or created it."""
        existing = ConversationItem.objects.filter(conversation_id=conversation_id)
        last = existing.aggregate(last=Max("position"))["last"] or 0
        first = max(self._first_position(), last + 1)
        ConversationItem.objects.bulk_create(
            ConversationItem(
                conversation_id=conversation_id,
                organization_id=owner.organization_id,
                item_id=item["id"],
                position=first + place,
                body=pack(item),
            )
            for place, item in enumerate(items)
        )

    async def _with_orm(self, function: Callable[[], Result]) -> Result:
        with reporting_outage("read conversations"):
            return await self._in_thread(function)


def _holder(owner: Owner, conversation_id: str, response_id: str) -> Row:
    return conversation_id, owner.organization_id, owner.scope, response_id


def _seen(future: "asyncio.Future[None]") -> None:
    """Takes the result, which no caller waits for: after a failure the lease ends by itself."""
    if not future.cancelled():
        future.exception()


def _rows(owner: Owner, conversation_id: str) -> QuerySet[Conversation]:
    return Conversation.objects.filter(pk=conversation_id, owner=owner.scope)


def _items(owner: Owner, conversation_id: str, item_id: str) -> QuerySet[ConversationItem]:
    return ConversationItem.objects.filter(
        conversation_id=conversation_id, conversation__owner=owner.scope, item_id=item_id
    )


def _used_ids(conversation_id: str, ids: set[str]) -> set[str]:
    items = ConversationItem.objects.filter(conversation_id=conversation_id, item_id__in=ids)
    return set(items.values_list("item_id", flat=True))


def _conversation(row: Conversation | None) -> StoredConversation | None:
    if row is None:
        return None
    return StoredConversation(
        id=row.pk,
        owner=Owner(row.organization_id, row.owner),
        created_s=row.created_at.timestamp(),
        metadata=row.metadata,
    )
