"""Stored responses in the database: written with the group commit, read by the data path without the ORM."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from operator import itemgetter
from typing import NamedTuple, TypeVar

import orjson
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Func, Q, TextField, Value
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone
from django_scopes import scope

from billing.ledger import instant
from gateway.models import BackgroundRun, Conversation, EventBatch
from gateway.models import StoredResponse as StoredResponseRow
from gateway.pipeline.responses.limits import MAX_HISTORY_BYTES, history_too_large
from gateway.protocol.dialects.responses.stored import MAX_CHAIN, Chain, Listing, Owner, Page, StoredResponse
from gateway.protocol.errors import BadRequest
from gateway.state import sql
from gateway.state.group_commit import GroupCommit
from gateway.state.packing import TooManyBytes, pack_response, unpack_all, unpack_response
from gateway.state.reader import Found, Query, Reader
from gateway.state.statement import Row, Statement
from gateway.state.unit_of_work import UnitOfWork
from gateway.stores.erasure import empty_log
from gateway.stores.orm import reporting_outage
from gateway.stores.run_events import ACTIVE, end_run
from tenants.database import InThread

COLUMNS = {
    "id": "text",
    "organization_id": "text",
    "owner": "text",
    "parent_id": "text",
    "conversation_id": "text",
    "depth": "integer",
    "model_group": "text",
    "deployment_id": "text",
    "provider": "text",
    "status": "text",
    "is_background": "boolean",
    "is_streamed": "boolean",
    "created_at": "timestamptz",
    "completed_at": "timestamptz",
    "expires_at": "timestamptz",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "metadata": "jsonb",
    "spend_id": "text",
    "body": "bytea",
    "head": "bytea",
}
STORE = Statement(
    name="store response",
    types=tuple(COLUMNS.values()),
    sqlite=sql.sqlite_insert("gateway_storedresponse", COLUMNS),
    postgres=sql.postgres_insert("gateway_storedresponse", COLUMNS),
    is_durable=True,
    rank=2,
    is_set_aside=False,
)
STATEMENTS = (STORE,)


class ReadRow(NamedTuple):
    """The columns that make a StoredResponse. An instant is as the database gives it."""

    id: str
    organization_id: str
    owner: str
    parent_id: str
    conversation_id: str
    depth: int
    model_group: str
    deployment_id: str
    provider: str
    is_background: bool
    is_streamed: bool
    created_at: datetime | str
    completed_at: datetime | str | None
    expires_at: datetime | str
    spend_id: str
    body: bytes
    head: bytes
    status: str


READ = ReadRow._fields


class ChainRow(NamedTuple):
    """One response of a chain. The columns behind `body` are empty except for the last response, which has back 0."""

    back: int
    size: int  # bytes of the bodies from the last response to this one
    parent_id: str
    body: bytes | None
    conversation_id: str
    deployment_id: str
    depth: int
    status: str


#: The response and all its ancestors, in no order. Only the response itself must not have expired: an ancestor lives as
#: long as the responses that build upon it. When the chain has more bytes than the limit, the oldest row found has
#: passed it and no row has a body; `length` reads no body.
CHAIN = sql.query(
    "WITH RECURSIVE chain AS MATERIALIZED ("
    "SELECT id, parent_id, organization_id, owner, 0 AS back, length(body) AS size FROM gateway_storedresponse "
    "WHERE id = {mark} AND organization_id = {mark} AND owner = {mark} AND expires_at > {now} "
    "UNION ALL SELECT r.id, r.parent_id, r.organization_id, r.owner, chain.back + 1, chain.size + length(r.body) "
    "FROM gateway_storedresponse r JOIN chain "
    "ON r.id = chain.parent_id AND r.organization_id = chain.organization_id AND r.owner = chain.owner "
    "WHERE chain.back < {most} AND chain.size <= {mark}) "
    "SELECT chain.back, chain.size, chain.parent_id, "
    "CASE WHEN (SELECT max(size) FROM chain) <= {mark} THEN r.body END, {last} "
    "FROM chain JOIN gateway_storedresponse r ON r.id = chain.id",
    most=MAX_CHAIN,
    # of the chain's last response, as Chain has them
    last=", ".join(
        f"CASE WHEN chain.back = 0 THEN r.{name} END"
        for name in ("conversation_id", "deployment_id", "depth", "status")
    ),
)
ONE = sql.query(
    "SELECT {columns} FROM gateway_storedresponse "
    "WHERE id = {mark} AND organization_id = {mark} AND owner = {mark} AND expires_at > {now}",
    columns=sql.names(READ),
)


Result = TypeVar("Result")
_BACK, _BODY = (itemgetter(ChainRow._fields.index(name)) for name in ("back", "body"))
SIZE = Length("body") + Length("head")  # as it is stored
MAX_PAGE_BYTES = 16 * 1024 * 1024  # of stored bodies and heads in one page of a list


Compiled = tuple[str, tuple[str | int, ...]]  # a text and its parameters


class TextUnder(Func):
    """The text under a key of an object in a JSON column. Django's own look-up reads a key of digits as an index of an
    array, and SQLite's JSON paths cannot express every key."""

    output_field = TextField()

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: object) -> Compiled:
        text = "(SELECT value FROM json_each(%(expressions)s)"
        return super().as_sql(compiler, connection, template=text, arg_joiner=") WHERE key = ")

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: object) -> Compiled:
        return super().as_sql(compiler, connection, template="(%(expressions)s::text)", arg_joiner=" ->> ")


class ResponseStore:
    """The pipeline's Responses port. Every call writes and reads without the ORM; rare operations use it."""

    def __init__(
        self,
        commits: GroupCommit,
        reader: Reader,
        in_thread: InThread,
        *,
        max_history_bytes: int = MAX_HISTORY_BYTES,
        max_page_bytes: int = MAX_PAGE_BYTES,
        on_stored: Callable[[str, int], None] = lambda organization_id, size: None,
    ) -> None:
        self._commits = commits
        self._reader = reader
        self._in_thread = in_thread
        self._max_history_bytes = max_history_bytes
        self._max_page_bytes = max_page_bytes
        self._on_stored = on_stored

    def add(self, unit: UnitOfWork, response: StoredResponse) -> None:
        row = row_of(response)
        unit.add(STORE, row)
        self._on_stored(response.owner.organization_id, sum(len(part) for part in row if isinstance(part, bytes)))

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        rows = await self._fetch(ONE, owner, response_id)
        return stored_of(rows[0]) if rows else None

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        """None if the response or one of its ancestors is missing. Raises BadRequest if they are too large."""
        limit = self._max_history_bytes
        rows = await self._fetch(CHAIN, owner, response_id, limit, limit)
        if not rows:
            return None
        rows.sort(key=_BACK, reverse=True)  # sorting in SQL would copy all bodies, in one step
        oldest, last = ChainRow._make(rows[0]), ChainRow._make(rows[-1])
        try:
            if oldest.size > limit:
                raise TooManyBytes
            if oldest.parent_id:
                return None
            bodies = await unpack_all(map(_BODY, rows), limit)
        except TooManyBytes:
            raise history_too_large(limit, param="previous_response_id") from None
        items = tuple([item for body in bodies for part in (body["input"], body["output"]) for item in part])
        return Chain(last.conversation_id, last.deployment_id, last.depth, last.status, items)

    async def page(self, owner: Owner, listing: Listing) -> Page[StoredResponse]:
        columns = {"model_group": listing.model, "status": listing.status}
        filters = {name: value for name, value in columns.items() if value}
        pairs = [Exact(TextUnder("metadata", Value(key)), Value(value)) for key, value in listing.metadata.items()]
        after, is_descending = listing.after, listing.is_descending

        def read() -> Page[StoredResponse]:
            with scope(organization=owner.organization_id):
                rows = StoredResponseRow.objects.filter(owner=owner.scope, expires_at__gt=timezone.now())
                if after:
                    last = rows.filter(pk=after).values_list("created_at", flat=True).first()
                    if last is None:
                        raise BadRequest(f"Response with id '{after[:128]}' not found.", param="after")
                    older = Q(created_at__lt=last) | Q(created_at=last, pk__lt=after)
                    newer = Q(created_at__gt=last) | Q(created_at=last, pk__gt=after)
                    rows = rows.filter(older if is_descending else newer)
                order = ("-created_at", "-pk") if is_descending else ("created_at", "pk")
                rows = rows.filter(*pairs, **filters).order_by(*order)
                sizes = list(rows.values_list("pk", SIZE)[: listing.limit + 1])
                fitting = _fitting(sizes[: listing.limit], self._max_page_bytes)
                found = StoredResponseRow.objects.filter(pk__in=fitting).order_by(*order).values_list(*READ)
                return Page(tuple(map(_listed_of, found)), has_more=len(sizes) > len(fitting))

        return await self._with_orm(read)

    async def delete(self, owner: Owner, response_id: str) -> bool:
        def delete() -> bool:
            with scope(organization=owner.organization_id), transaction.atomic():
                rows = StoredResponseRow.objects.filter(pk=response_id, owner=owner.scope)
                if not rows.filter(expires_at__gt=timezone.now()).exists():
                    return False
                is_erased = erase([response_id]) > 0
            empty_log()
            return is_erased

        return await self._with_orm(delete)

    async def cancel(self, stored: StoredResponse) -> StoredResponse | None:
        if stored.status in ACTIVE:
            cancelled = StoredResponseRow.Status.CANCELLED.value
            await self._with_orm(lambda: end_run(stored.owner.organization_id, stored.id, status=cancelled))
        return await self.find(stored.owner, stored.id)

    async def _with_orm(self, function: Callable[[], Result]) -> Result:
        with reporting_outage("read stored responses"):
            return await self._in_thread(function)

    async def _fetch(self, query: Query, owner: Owner, response_id: str, *more: object) -> list[Found]:
        with reporting_outage("read stored responses"):
            return await self._reader.fetch(query, (response_id, owner.organization_id, owner.scope, *more))


def erase(response_ids: Sequence[str]) -> int:
    """Deletes responses with their runs, their events and their leases of conversations; returns how many responses
    there were. The caller holds a transaction."""
    rows = StoredResponseRow.objects.filter(pk__in=response_ids)
    active = rows.filter(status__in=ACTIVE).exclude(conversation_id="").order_by()
    conversation_ids = list(active.values_list("conversation_id", flat=True))
    BackgroundRun.objects.filter(pk__in=response_ids).delete()  # first: without a run no worker adds events
    EventBatch.objects.filter(response_id__in=response_ids).delete()
    if conversation_ids:
        conversations = Conversation.objects.filter(pk__in=conversation_ids, locked_by__in=response_ids)
        conversations.update(locked_by="", locked_until=None)
    return rows.delete()[0]


def row_of(stored: StoredResponse) -> Row:
    usage = stored.response.get("usage") or {}
    return (
        stored.id,
        stored.owner.organization_id,
        stored.owner.scope,
        stored.parent_id,
        stored.conversation_id,
        stored.depth,
        stored.model_group,
        stored.deployment_id,
        stored.provider,
        stored.status,
        stored.is_background,
        stored.is_streamed,
        instant(stored.created_s),
        instant(stored.completed_s),
        instant(stored.expires_s),
        usage.get("input_tokens") or 0,
        usage.get("output_tokens") or 0,
        orjson.dumps(stored.response.get("metadata") or {}).decode(),
        stored.spend_id,
        *pack_response(stored.input, stored.response),
    )


def _fitting(sizes: Sequence[tuple[str, int]], limit: int) -> list[str]:
    """The first responses that have at most so many bytes together, and the first one in any case."""
    total = 0
    fitting: list[str] = []
    for response_id, size in sizes:
        total += size
        if fitting and total > limit:
            break
        fitting.append(response_id)
    return fitting


def _listed_of(row: Found) -> StoredResponse:
    """Without its input, which a list does not show and which may be large."""
    return replace(stored_of(row), input=())


def stored_of(row: Found) -> StoredResponse:
    columns = ReadRow._make(row)
    input_items, response = unpack_response(columns.body, columns.head)
    response["status"] = columns.status  # the object of a response that has not ended is as it was queued
    return StoredResponse(
        id=columns.id,
        owner=Owner(columns.organization_id, columns.owner),
        parent_id=columns.parent_id,
        conversation_id=columns.conversation_id,
        depth=columns.depth,
        model_group=columns.model_group,
        deployment_id=columns.deployment_id,
        provider=columns.provider,
        is_background=bool(columns.is_background),
        is_streamed=bool(columns.is_streamed),
        created_s=_seconds(columns.created_at),
        completed_s=None if columns.completed_at is None else _seconds(columns.completed_at),
        expires_s=_seconds(columns.expires_at),
        spend_id=columns.spend_id,
        input=tuple(input_items),
        response=response,
    )


def _seconds(value: datetime | str) -> float:
    """An instant as the database gives it: on SQLite a text, in UTC but without a time zone."""
    at = datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value
    return at.timestamp()
