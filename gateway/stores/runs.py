"""Background responses in the database: the queue, the claims of the workers, and the sweeping of lost runs.

A claim is a compare-and-set with a lease on the database's clock. Workers claim one after the other, so that the slots
of a key and of an organization hold for all workers together; see run_slots.py. A claimed run is claimed again only if
its worker has put it back: the run of a dead worker ends as failed, because its upstream may have been called already.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import orjson
from django.db import transaction
from django.db.models import Count, Exists, Min, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.models import BackgroundRun, EventBatch
from gateway.models import StoredResponse as StoredResponseRow
from gateway.pipeline.ports import Principal
from gateway.pipeline.responses.rows import READ, STORE, row_of, stored_of
from gateway.pipeline.responses.runs import Run
from gateway.protocol.dialects.responses.event_log import QUEUED_EVENTS, number_events
from gateway.protocol.dialects.responses.stored import Owner, StoredResponse
from gateway.protocol.errors import ClientFault
from gateway.protocol.json.types import JsonObject
from gateway.state import sql
from gateway.state.group_commit import GroupCommit
from gateway.state.instants import instant
from gateway.state.packing import pack_response, unpack
from gateway.state.reader import Found, Query, Reader
from gateway.state.statement import DatabaseAway, Statement
from gateway.state.unit_of_work import UnitOfWork
from gateway.stores.orm import reporting_outage
from gateway.stores.run_events import (
    ACTIVE,
    APPEND,
    APPEND_DURABLY,
    EVENTS_AFTER,
    LOST,
    add_events,
    end_run,
    row_of_events,
)
from gateway.stores.run_slots import KeyRuns, RunLimits, share_slots
from tenants.database import InThread, database_now, lock_rows, lock_transaction
from tenants.directory import load_principal

#: A worker renews its runs far more often. A run whose lease has ended leaves its conversation free; its worker may
#: still renew it, until a sweeper ends it.
LEASE_S = 9
#: How long a lease may still be renewed after a sweeper has seen it expired: after an outage of the database all have
#: expired, and living workers need a moment.
SUSPECT = timedelta(seconds=8)
#: How long a run may be without its response after a sweeper has seen it so: the spool is replayed row by row if the
#: database refuses one of them.
ABANDONED = timedelta(hours=1)
#: How old a lost response may be for the sweeper to find it.
LOOKED_BACK = timedelta(days=1)
SWEPT_AT_ONCE = 100
#: The number of the claims' advisory lock in PostgreSQL.
CLAIM_LOCK = 0x70_6C_6C_52
DEFAULT_LIMITS = RunLimits()
WORKER_GONE: JsonObject = {"code": "server_error", "message": "The gateway was stopped while it made this response."}
RUN_GONE: JsonObject = {"code": "server_error", "message": "The gateway has lost what it needs to make this response."}

# The run is written before its rows: see run_events.py
QUEUED = {
    "response_id": "text",
    "organization_id": "text",
    "key_digest": "text",
    "request_id": "text",
    "request": "bytea",
    "headers": "jsonb",
    "queued_at": "timestamptz",
}
QUEUE = Statement(
    name="queue run",
    types=tuple(QUEUED.values()),
    sqlite=sql.sqlite_insert("gateway_backgroundrun", QUEUED, {"worker_id": "''"}),
    postgres=sql.postgres_insert("gateway_backgroundrun", QUEUED, {"worker_id": "''"}),
    is_durable=True,
    rank=-4,
    is_set_aside=False,
)
_HELD = {"response_id": "text", "worker_id": "text"}
RENEW = Statement(
    name="renew leases",
    types=tuple(_HELD.values()),
    sqlite=sql.fill(
        "UPDATE gateway_backgroundrun SET suspected_at = NULL, "
        "lease_until = strftime('%Y-%m-%d %H:%M:%f', 'now', '+{seconds} seconds') "
        "WHERE response_id = ? AND worker_id = ?",
        seconds=LEASE_S,
    ),
    # locked in one order, so that no two statements that lock runs can wait for each other
    postgres=sql.fill(
        "UPDATE gateway_backgroundrun SET suspected_at = NULL, "
        "lease_until = now() + interval '{seconds} seconds' WHERE response_id IN (SELECT r.response_id "
        "FROM gateway_backgroundrun r JOIN {rows} "
        "ON r.response_id = v.response_id AND r.worker_id = v.worker_id ORDER BY r.response_id FOR UPDATE OF r)",
        seconds=LEASE_S,
        rows=sql.unnest(_HELD),
    ),
    is_durable=False,
    is_spooled=False,
    rank=-5,
)
ENDED = {
    "id": "text",
    "worker_id": "text",
    "deployment_id": "text",
    "provider": "text",
    "status": "text",
    "completed_at": "timestamptz",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "spend_id": "text",
    "body": "bytea",
    "head": "bytea",
}
_IS_ACTIVE = (
    "s.id = {id} AND s.status IN ('queued', 'in_progress') AND EXISTS "
    "(SELECT 1 FROM gateway_backgroundrun r WHERE r.response_id = {id} AND r.worker_id = {worker_id})"
)
FINISH = Statement(
    name="finish response",
    types=tuple(ENDED.values()),
    sqlite=sql.sqlite_update("gateway_storedresponse", ENDED, _IS_ACTIVE, keys=("id", "worker_id")),
    postgres=sql.postgres_update("gateway_storedresponse", ENDED, _IS_ACTIVE, keys=("id", "worker_id")),
    is_durable=True,
    rank=-2,
    is_set_aside=False,
)
RELEASE = Statement(
    name="release run",
    types=tuple(_HELD.values()),
    sqlite="DELETE FROM gateway_backgroundrun WHERE response_id = ? AND worker_id = ?",
    postgres=sql.fill(
        "DELETE FROM gateway_backgroundrun r USING {rows} "
        "WHERE r.response_id = v.response_id AND r.worker_id = v.worker_id",
        rows=sql.unnest(_HELD),
    ),
    is_durable=True,
    rank=-1,
    is_set_aside=False,
)
STATEMENTS = (QUEUE, RENEW, FINISH, RELEASE)
#: (waiting runs of an organization, those of one key among them)
QUEUED_COUNTS = sql.query(
    "SELECT count(*), coalesce(sum(CASE WHEN key_digest = {mark} THEN 1 ELSE 0 END), 0) FROM gateway_backgroundrun "
    "WHERE organization_id = {mark} AND worker_id = ''"
)
CLAIMED = sql.query("SELECT response_id FROM gateway_backgroundrun WHERE worker_id = {mark}")

Result = TypeVar("Result")


class BackgroundStore:
    """The pipeline's Runs port, for the worker of this id."""

    def __init__(
        self,
        commits: GroupCommit,
        reader: Reader,
        in_thread: InThread,
        worker_id: str,
        limits: RunLimits = DEFAULT_LIMITS,
    ) -> None:
        self._commits = commits
        self._reader = reader
        self._in_thread = in_thread
        self._worker_id = worker_id
        self._limits = limits
        self._pending = Counter[str]()  # {organization or key: its runs that are being queued here}

    @asynccontextmanager
    async def reserve_place(self, organization_id: str, key_digest: str) -> AsyncIterator[None]:
        try:
            [(of_organization, of_key)] = await self._reader.fetch(QUEUED_COUNTS, (key_digest, organization_id))
        except DatabaseAway:  # the run is spooled
            of_organization = of_key = 0
        limits, pending = self._limits, self._pending
        if of_key + pending[key_digest] >= limits.queued_per_key:
            raise _queue_full("key", limits.queued_per_key)
        if of_organization + pending[organization_id] >= limits.queued_per_organization:
            raise _queue_full("organization", limits.queued_per_organization)
        names = Counter((organization_id, key_digest))
        pending.update(names)
        try:
            yield
        finally:
            pending.subtract(names)
            for name in names:
                if not pending[name]:
                    del pending[name]

    def queue(self, unit: UnitOfWork, run: Run, events: Sequence[JsonObject]) -> None:
        stored = run.stored
        row = (
            stored.id,
            stored.owner.organization_id,
            run.key_digest,
            run.request_id,
            run.request,
            orjson.dumps(run.headers).decode(),
            instant(stored.created_s),
        )
        unit.add(STORE, row_of(stored))
        unit.add(QUEUE, row)
        unit.add(APPEND_DURABLY, row_of_events(stored, events, ""))

    async def claim(self, limit: int) -> tuple[Run, ...]:
        return await self._with_orm(lambda: _claim(self._worker_id, limit, self._limits))

    async def claimed_ids(self) -> frozenset[str]:
        return frozenset(row[0] for row in await self._fetch(CLAIMED, (self._worker_id,)))

    def renew(self, response_ids: Collection[str]) -> None:
        rows = [(response_id, self._worker_id) for response_id in sorted(response_ids)]
        self._commits.submit_rows(RENEW, rows).add_done_callback(_seen)

    def append(self, stored: StoredResponse, events: Sequence[JsonObject]) -> "asyncio.Future[None]":
        return self._commits.submit(APPEND, row_of_events(stored, events, self._worker_id))

    def finish(self, unit: UnitOfWork, stored: StoredResponse, events: Sequence[JsonObject]) -> None:
        usage = stored.response.get("usage") or {}
        row = (
            stored.id,
            self._worker_id,
            stored.deployment_id,
            stored.provider,
            stored.status,
            instant(stored.completed_s),
            usage.get("input_tokens") or 0,
            usage.get("output_tokens") or 0,
            stored.spend_id,
            *pack_response(stored.input, stored.response),
        )
        unit.add(APPEND_DURABLY, row_of_events(stored, events, self._worker_id))
        unit.add(FINISH, row)
        unit.add(RELEASE, (stored.id, self._worker_id))

    async def fail(self, run: Run, code: str, message: str) -> None:
        owner, response_id = run.stored.owner, run.stored.id
        error = {"code": code, "message": message}
        await self._with_orm(
            lambda: end_run(owner.organization_id, response_id, status="failed", error=error, worker_id=self._worker_id)
        )

    async def put_back(self, run: Run) -> bool:
        return await self._with_orm(lambda: _put_back(self._worker_id, run.stored.id))

    async def read_log(self, owner: Owner, response_id: str, after: int) -> tuple[str, list[JsonObject]] | None:
        rows = await self._fetch(EVENTS_AFTER, (after, response_id, owner.organization_id, owner.scope))
        if not rows:
            return None
        events = [event for _, body in rows if body is not None for event in unpack(body)]
        return str(rows[0][0]), [event for event in events if event["sequence_number"] > after]

    async def find_principal(self, key_digest: str) -> Principal | None:
        return await self._with_orm(lambda: load_principal(key_digest))

    async def _with_orm(self, function: Callable[[], Result]) -> Result:
        with reporting_outage("read stored responses"):
            return await self._in_thread(function)

    async def _fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
        with reporting_outage("read stored responses"):
            return await self._reader.fetch(query, parameters)


def _seen(future: "asyncio.Future[None]") -> None:
    """Takes the result, which no caller waits for: the next renewal may succeed."""
    if not future.cancelled():
        future.exception()


def _queue_full(whose: str, limit: int) -> ClientFault:
    return ClientFault(
        f"The {whose} has {limit:,} background responses that wait, which is the most; try again when some have begun.",
        status=429,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        param="background",
        headers=((b"retry-after", b"10"),),
    )


def _claim(worker_id: str, limit: int, limits: RunLimits) -> tuple[Run, ...]:
    with scopes_disabled():  # a worker serves every organization
        if not BackgroundRun.objects.filter(worker_id="").exists():
            return ()  # without the write lock
        return _claim_in_turn(worker_id, limit, limits)


@transaction.atomic
def _claim_in_turn(worker_id: str, limit: int, limits: RunLimits) -> tuple[Run, ...]:
    lock_transaction(CLAIM_LOCK)
    rows = {row.response_id: row for row in _next_runs(limit, limits)}
    if not rows:
        return ()
    BackgroundRun.objects.filter(pk__in=rows).update(
        worker_id=worker_id, lease_until=Now() + timedelta(seconds=LEASE_S), suspected_at=None
    )
    responses = StoredResponseRow.objects.filter(pk__in=rows, status__in=ACTIVE)
    claimed = [stored_of(row) for row in responses.select_for_update().values_list(*READ)]
    responses.update(status=StoredResponseRow.Status.IN_PROGRESS)
    ended = rows.keys() - {stored.id for stored in claimed}  # queued once more by the replay of a spool
    BackgroundRun.objects.filter(pk__in=ended).delete()
    claimed_before = EventBatch.objects.filter(response_id__in=rows, last_number=QUEUED_EVENTS)
    started = set(claimed_before.values_list("response_id", flat=True))
    for stored in claimed:
        if stored.id not in started:
            response = {**stored.response, "status": "in_progress"}
            events = number_events([("response.in_progress", {"response": response})], QUEUED_EVENTS)
            add_events(stored.owner.organization_id, stored.id, events)
    return tuple(
        Run(
            stored=stored,
            key_digest=row.key_digest,
            request_id=row.request_id,
            request=bytes(row.request),
            headers=row.headers,
        )
        for stored in claimed
        for row in (rows[stored.id],)
    )


def _next_runs(limit: int, limits: RunLimits) -> list[BackgroundRun]:
    """The runs to claim, locked."""
    waits = Q(worker_id="")
    counts = (
        BackgroundRun.objects.order_by()
        .values("organization_id", "key_digest")
        .annotate(
            running=Count("worker_id", filter=~waits),
            waiting=Count("worker_id", filter=waits),
            oldest_at=Min("queued_at", filter=waits),
        )
    )
    keys = {
        (row["organization_id"], row["key_digest"]): KeyRuns(row["running"], row["waiting"], row["oldest_at"])
        for row in counts
    }
    while True:
        rows: list[BackgroundRun] = []
        is_short = False
        for key, share in share_slots(keys, limit, limits).items():
            organization_id, digest = key
            queued = _queued().filter(organization_id=organization_id, key_digest=digest).order_by("queued_at")
            claimable = list(lock_rows(queued)[:share])
            rows += claimable
            if len(claimable) < share:  # the others are locked, or their responses are not there yet
                is_short = True
                keys[key] = replace(keys[key], waiting=len(claimable))
        if not is_short:
            return rows


def _put_back(worker_id: str, response_id: str) -> bool:
    with scopes_disabled():
        begun = EventBatch.objects.filter(response_id=response_id, last_number__gt=QUEUED_EVENTS)
        runs = BackgroundRun.objects.filter(~Exists(begun), pk=response_id, worker_id=worker_id)
        return bool(runs.update(worker_id="", lease_until=None, suspected_at=None))


def _queued() -> "QuerySet[BackgroundRun]":
    """The runs that can be claimed: those whose response is in the database."""
    return BackgroundRun.objects.filter(_has_response(), worker_id="")


def _has_response() -> Exists:
    return Exists(StoredResponseRow.objects.filter(pk=OuterRef("pk")))


def sweep_runs(limit: int = SWEPT_AT_ONCE) -> int:
    """Ends the runs of dead workers as failed; returns how many. Erases runs that have had no response for long."""
    with scopes_disabled():
        now = database_now()
        expired = BackgroundRun.objects.exclude(worker_id="").filter(lease_until__lt=now)
        _suspect(expired, now, limit)
        alone = BackgroundRun.objects.filter(~_has_response(), worker_id="")
        _suspect(alone, now, limit)
        alone.filter(suspected_at__lt=now - ABANDONED).delete()
        gone = list(expired.filter(suspected_at__lt=now - SUSPECT).values_list("organization_id", "pk")[:limit])
    return sum(
        end_run(organization_id, response_id, status="failed", error=WORKER_GONE, expired_at=now)
        for organization_id, response_id in gone
    )


def _suspect(runs: "QuerySet[BackgroundRun]", now: datetime, limit: int) -> None:
    with transaction.atomic():
        fresh = lock_rows(runs.filter(suspected_at=None).order_by("pk"))
        keys = list(fresh.values_list("pk", flat=True)[:limit])
        if keys:
            BackgroundRun.objects.filter(pk__in=keys).update(suspected_at=now)


def sweep_lost(limit: int = SWEPT_AT_ONCE) -> int:
    """Ends responses without a run as failed; returns how many. Reads a day of responses."""
    with scopes_disabled():
        now = timezone.now()
        run = BackgroundRun.objects.filter(pk=OuterRef("pk"))
        active = StoredResponseRow.objects.filter(
            ~Exists(run), status__in=ACTIVE, created_at__gt=now - LOOKED_BACK, created_at__lt=now - LOST
        )
        lost = list(active.order_by("created_at").values_list("organization_id", "pk")[:limit])
    return sum(
        end_run(organization_id, response_id, status="failed", error=RUN_GONE, is_lost=True)
        for organization_id, response_id in lost
    )


def has_queued() -> bool:
    with scopes_disabled():
        return _queued().exists()
