"""Stored responses in the database: written with the group commit, read by the data path without the ORM."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Func, Q, TextField, Value
from django.db.models.functions import Length
from django.db.models.lookups import Exact
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone
from django_scopes import scope

from gateway.models import BackgroundRun, Conversation, EventBatch
from gateway.models import StoredResponse as StoredResponseRow
from gateway.pipeline.responses.limits import MAX_HISTORY_BYTES
from gateway.pipeline.responses.rows import READ, STORE, ResponseRows, row_of, stored_of
from gateway.protocol.dialects.responses.stored import Chain, Listing, Owner, Page, StoredResponse
from gateway.protocol.errors import BadRequest
from gateway.state.group_commit import GroupCommit
from gateway.state.reader import Found, Reader
from gateway.state.unit_of_work import UnitOfWork
from gateway.stores.erasure import empty_log
from gateway.stores.orm import reporting_outage
from gateway.stores.run_events import ACTIVE, end_run
from tenants.database import InThread

STATEMENTS = (STORE,)


Result = TypeVar("Result")
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
        self._rows = ResponseRows(reader, max_history_bytes)
        self._in_thread = in_thread
        self._max_page_bytes = max_page_bytes
        self._on_stored = on_stored

    def add(self, unit: UnitOfWork, response: StoredResponse) -> None:
        row = row_of(response)
        unit.add(STORE, row)
        self._on_stored(response.owner.organization_id, sum(len(part) for part in row if isinstance(part, bytes)))

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        with reporting_outage("read stored responses"):
            return await self._rows.find(owner, response_id)

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        """None if the response or one of its ancestors is missing. Raises BadRequest if they are too large."""
        with reporting_outage("read stored responses"):
            return await self._rows.chain(owner, response_id)

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
