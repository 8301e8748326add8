"""The event logs of background responses in the database, and the end of a response by another process than its worker.

Every transaction locks in one order: the run, the response, its conversation. Only the transaction that has locked or
deleted the run's row may add to the log, or, if there is no run, the one that has locked the response's row. So the
numbers have no gap and nothing follows a terminal event.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django_scopes import scope

from gateway.models import BackgroundRun, Conversation, EventBatch
from gateway.models import StoredResponse as StoredResponseRow
from gateway.protocol.dialects.responses.event_log import EventLog
from gateway.protocol.dialects.responses.stored import StoredResponse
from gateway.protocol.json.types import JsonObject
from gateway.state import sql
from gateway.state.packing import pack, pack_response, unpack, unpack_response
from gateway.state.statement import Row, Statement

ACTIVE = (StoredResponseRow.Status.QUEUED, StoredResponseRow.Status.IN_PROGRESS)
BATCHES_AT_ONCE = 50
#: A response is written together with its run. An older one that has not ended and has no run has lost it.
LOST = timedelta(minutes=1)

EVENTS = {
    "response_id": "text",
    "organization_id": "text",
    "first_number": "integer",
    "last_number": "integer",
    "body": "bytea",
}
_ROW = {**EVENTS, "worker_id": "text"}


def _append(name: str, *, is_durable: bool) -> Statement:
    return Statement(
        name=name,
        types=tuple(_ROW.values()),
        sqlite=sql.fill(
            "INSERT INTO gateway_eventbatch ({columns}) SELECT ?1, ?2, ?3, ?4, ?5 "
            "WHERE EXISTS (SELECT 1 FROM gateway_backgroundrun WHERE response_id = ?1 AND worker_id = ?6) "
            "ON CONFLICT DO NOTHING",
            columns=sql.names(EVENTS),
        ),
        postgres=sql.fill(
            "INSERT INTO gateway_eventbatch ({columns}) "
            "SELECT v.response_id, v.organization_id, v.first_number, v.last_number, v.body "
            "FROM {rows} JOIN gateway_backgroundrun r "
            "ON r.response_id = v.response_id AND r.worker_id = v.worker_id FOR UPDATE OF r ON CONFLICT DO NOTHING",
            columns=sql.names(EVENTS),
            rows=sql.unnest(_ROW),
        ),
        is_durable=is_durable,
        rank=-3,
        is_set_aside=False,
    )


#: Batches within a log, and batches that are written together with a state of the response.
APPEND = _append("append events", is_durable=False)
APPEND_DURABLY = _append("append events durably", is_durable=True)
STATEMENTS = (APPEND, APPEND_DURABLY)


#: The status of a response and the batches of events after a number.
EVENTS_AFTER = sql.query(
    "SELECT s.status, e.body FROM gateway_storedresponse s "
    "LEFT JOIN gateway_eventbatch e ON e.response_id = s.id AND e.last_number > {mark} "
    "WHERE s.id = {mark} AND s.organization_id = {mark} AND s.owner = {mark} AND s.expires_at > {now} "
    "ORDER BY e.last_number LIMIT {most}",
    most=BATCHES_AT_ONCE,
)


def row_of_events(stored: StoredResponse, events: Sequence[JsonObject], worker_id: str) -> Row:
    first, last = events[0]["sequence_number"], events[-1]["sequence_number"]
    return stored.id, stored.owner.organization_id, first, last, pack(events), worker_id


def add_events(organization_id: str, response_id: str, events: Sequence[JsonObject]) -> None:
    """Adds events to a log. The caller's transaction has locked the run."""
    EventBatch.objects.create(
        response_id=response_id,
        organization_id=organization_id,
        first_number=events[0]["sequence_number"],
        last_number=events[-1]["sequence_number"],
        body=pack(events),
    )


def end_run(
    organization_id: str,
    response_id: str,
    *,
    status: str,
    error: JsonObject | None = None,
    worker_id: str | None = None,
    expired_at: datetime | None = None,
    is_lost: bool = False,
) -> bool:
    """Ends a response and closes its log where the log has come to; returns False if the response has ended already.
    With `worker_id` only a run of that worker is ended, with `expired_at` only a run whose lease had expired then, with
    `is_lost` only a response without a run.
    """
    log = EventLog()
    with scope(organization=organization_id):
        batches = EventBatch.objects.filter(response_id=response_id).order_by("last_number")
        _read(log, batches)  # most of it, before the write lock is taken
        with transaction.atomic():
            runs = BackgroundRun.objects.filter(pk=response_id)
            if worker_id is not None:
                runs = runs.filter(worker_id=worker_id)
            if expired_at is not None:
                runs = runs.filter(lease_until__lt=expired_at)
            rows = StoredResponseRow.objects.filter(pk=response_id, status__in=ACTIVE)
            if is_lost and runs.exists():
                return False
            if not runs.delete()[0]:
                if worker_id is not None or expired_at is not None:
                    return False
                rows = rows.filter(created_at__lt=timezone.now() - LOST)
            row = rows.select_for_update().values("body", "head", "conversation_id").first()
            if row is None:
                return False
            _read(log, batches.filter(last_number__gte=log.next_number))  # the rest: the lock keeps other writers out
            input_items, queued = unpack_response(row["body"], row["head"])
            events, response = log.end(queued, status=status, error=error)
            body, head = pack_response(input_items, response)
            rows.update(status=status, body=body, head=head)
            add_events(organization_id, response_id, events)
            if row["conversation_id"]:
                conversations = Conversation.objects.filter(pk=row["conversation_id"], locked_by=response_id)
                conversations.update(locked_by="", locked_until=None)
    return True


def _read(log: EventLog, batches: "QuerySet[EventBatch]") -> None:
    for body in batches.values_list("body", flat=True).iterator(chunk_size=BATCHES_AT_ONCE):
        log.feed(unpack(body))
