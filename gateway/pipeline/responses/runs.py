"""A response that is made in the background: how it is queued, and how a worker answers it.

The client reads it from the store alone: the response, and the log of its events. The worker that has claimed a run
writes both while it holds the run; the store drops what a worker writes after another process has ended the response.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

import orjson

from gateway.pipeline.admit import admit
from gateway.pipeline.interpret import HINT_HEADERS
from gateway.pipeline.ports import Attempt, Catalog, Headers, Principal
from gateway.pipeline.responses.close import TurnClose, stored_response
from gateway.pipeline.responses.create import answer, interpret, open_turn
from gateway.pipeline.responses.ports import Commit, ResponseServices
from gateway.pipeline.responses.turn import ResponseTurn, owner_of
from gateway.pipeline.run import Inbound
from gateway.pipeline.services import Clock, Services
from gateway.protocol.applications import USER_AGENT, name_application
from gateway.protocol.dialects.responses.client_request import ResponsesRequest
from gateway.protocol.dialects.responses.event_log import LIFECYCLE, QUEUED_EVENTS, read_events
from gateway.protocol.dialects.responses.hosted_tools import may_drop_hosted
from gateway.protocol.dialects.responses.items import INCLUDABLE, LOGPROBS
from gateway.protocol.dialects.responses.stored import Owner, StoredResponse
from gateway.protocol.errors import Forbidden, GatewayFault, RateLimited
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target
from gateway.state.unit_of_work import UnitOfWork

FLUSH_S = 0.1
FLUSH_EVENTS = 64
#: The headers of a create that say how it is answered and booked. No other header is stored.
RUN_HEADERS = HINT_HEADERS | {b"x-litellm-timeout", b"x-litellm-stream-timeout"}


def _select_headers(inbound: Inbound) -> dict[str, str]:
    """With the name of the application in place of what the client tells of itself."""
    headers = {name.decode(): inbound.headers[name].decode("latin-1") for name in RUN_HEADERS & set(inbound.headers)}
    application = name_application(inbound.headers)
    return headers | {USER_AGENT.decode(): application} if application else headers


@dataclass(frozen=True, slots=True)
class Run:
    """A response to be made, as a worker claims it. `stored` is the response as it was queued."""

    stored: StoredResponse
    key_digest: str
    request_id: str
    request: bytes = field(repr=False)  # the create, as the client sent it
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class RunLogs(Protocol):
    """The store of runs, for the answer to one that is held. Raises GatewayFault while it is away."""

    def append(self, stored: StoredResponse, events: Sequence[JsonObject]) -> "asyncio.Future[None]":
        """Queues events for the log; the store takes them while the worker holds the run. Raises GatewayFault when
        nothing can be queued."""

    def finish(self, unit: UnitOfWork, stored: StoredResponse, events: Sequence[JsonObject]) -> None:
        """Adds the end of the response, as `stored` says, and of its log with these events, if the worker still holds
        the run."""

    async def find_principal(self, key_digest: str) -> Principal | None:
        """The holder of the key; None for a key that may no longer be used."""


class Runs(RunLogs, Protocol):
    """The store of runs and of their events. Raises GatewayFault while it is away.

    A worker claims runs, and holds each while it renews it. No worker holds a run that has ended.
    """

    def reserve_place(self, organization_id: str, key_digest: str) -> AbstractAsyncContextManager[None]:
        """A place in the queue, taken until the run is queued. Raises ClientFault (429) where the key or the
        organization has none left."""

    def queue(self, unit: UnitOfWork, run: Run, events: Sequence[JsonObject]) -> None:
        """Adds the response, its run and its first events."""

    async def claim(self, limit: int) -> tuple[Run, ...]:
        """Claims waiting runs for this worker, as many as the slots of keys and organizations let begin; their
        responses are then in progress."""

    async def claimed_ids(self) -> frozenset[str]:
        """The ids of the responses that this worker makes."""

    def renew(self, response_ids: Collection[str]) -> None:
        """Queues the renewal of the runs that this worker holds. Raises GatewayFault like `append`."""

    async def fail(self, run: Run, code: str, message: str) -> None:
        """Ends the response and its log, if this worker holds the run."""

    async def put_back(self, run: Run) -> bool:
        """Gives up the claim, so that any worker can claim the run. False: this worker does not hold the run, or the
        log has events of the answer already."""

    async def read_log(self, owner: Owner, response_id: str, after: int) -> tuple[str, list[JsonObject]] | None:
        """(status, some of the next events, with numbers above `after`); None: the response is gone."""


class RunPostponed(GatewayFault):
    """The gateway cannot make the response now, and has asked no upstream yet: a later attempt costs nothing twice."""


def make_run(turn: ResponseTurn, inbound: Inbound, principal: Principal, now: Clock) -> tuple[Run, list[JsonObject]]:
    """The run of a response that is to be made, and its lifecycle events: two while it is queued, one as it begins."""
    events = turn.dialect(now).translated_answer.stream.open(is_queued=True)
    run = Run(
        stored=stored_response(turn, events[0]["response"]),
        key_digest=principal.key_digest,
        request_id=inbound.request_id,
        request=inbound.body,
        headers=_select_headers(inbound),
    )
    return run, events


def check_upstreams(turn: ResponseTurn, principal: Principal, catalog: Catalog, now: Clock) -> tuple[Target, ...]:
    """The targets that may answer. Raises ClientFault for a request that none of them takes, before it is queued."""
    dialect = turn.dialect(now)
    targets = admit(dialect.call(), principal, catalog)
    if not any(target.provider.has_responses(target) for target in targets):
        dialect.check_translation(drops_hosted=any(may_drop_hosted(target) for target in targets))
    return targets


# In the web process


async def queue(
    turn: ResponseTurn,
    unit: UnitOfWork,
    inbound: Inbound,
    principal: Principal,
    runs: Runs,
    now: Clock,
    commit: Commit,
    wake: Callable[[], None],
    charge: Callable[[], Awaitable[None]],
) -> StoredResponse:
    """Commits the response as it is queued, and its run, with `unit`. `wake` wakes the workers. Raises ClientFault
    where the queue has no place for it, or a rate limit refuses it (`charge`): then nothing is committed."""
    run, events = make_run(turn, inbound, principal, now)
    async with runs.reserve_place(principal.organization_id, principal.key_digest):
        await charge()
        runs.queue(unit, run, events[:QUEUED_EVENTS])
        try:
            await commit(unit)
        finally:
            wake()
    return run.stored


# In the worker


class LogReply:
    """The Reply of a run: it writes the events to the log, in small batches. The log has the lifecycle events already;
    those of the stream are left out, and the numbers go on."""

    is_started = False  # the client reads the log

    def __init__(self, run: Run, runs: RunLogs) -> None:
        self._stored = run.stored
        self._runs = runs
        self._events: list[JsonObject] = []
        self._number = QUEUED_EVENTS + 1
        self._timer: asyncio.TimerHandle | None = None
        self.failure: GatewayFault | None = None  # the log has a gap

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        """A run is always a stream."""

    async def start_stream(self, headers: Headers) -> None:
        """A run has no headers."""

    async def send_events(self, events: bytes) -> None:
        """Waits for the store where it is slower than the upstream. Raises GatewayFault when the log has a gap."""
        self._note(events)
        if self.failure is not None:
            raise self.failure
        if len(self._events) >= FLUSH_EVENTS:
            await asyncio.shield(self._flush())
        elif self._events and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_by_timer)

    async def end_stream(self, events: bytes) -> None:
        """The last events were written with the response."""

    def take(self, ending: bytes) -> list[JsonObject]:
        """The events that are not in the log yet, the stream's end included."""
        self._note(ending)
        self._stop()
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._stop()

    def _note(self, frames: bytes) -> None:
        for event in read_events(frames):
            if event["type"] not in LIFECYCLE:
                self._events.append({**event, "sequence_number": self._number})
                self._number += 1

    def _flush(self) -> "asyncio.Future[None]":
        try:
            future = self._runs.append(self._stored, self.take(b""))
        except GatewayFault as fault:  # these events are in no log
            self.failure = fault
            raise
        future.add_done_callback(self._look)
        return future

    def _flush_by_timer(self) -> None:
        self._timer = None
        with contextlib.suppress(GatewayFault):  # `failure` has it
            self._flush()

    def _look(self, future: "asyncio.Future[None]") -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, GatewayFault):
            self.failure = error

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class RunEnd:
    """The step that ends a run, its response and its log with the spend row. A response that was cut off is left: the
    process that cut it off ends it."""

    def __init__(self, runs: RunLogs, close: TurnClose, log: LogReply) -> None:
        self._runs = runs
        self._close = close
        self._log = log
        self.is_finished = False

    def add(self, attempt: Attempt, unit: UnitOfWork) -> None:
        response = self._close.response
        if response is None or response.status == "cancelled":
            return
        events = self._log.take(self._close.ending)
        if self._log.failure is None:
            self._runs.finish(unit, response, events)
            unit.follow_up(self._note_finished)

    async def _note_finished(self) -> None:
        self.is_finished = True


async def perform(
    run: Run,
    runs: RunLogs,
    catalog: Catalog,
    services: Services,
    response_services: ResponseServices,
) -> None:
    """Answers a run to its end. Raises RunPostponed where it may be answered later, or the Fault that the response is
    to be ended with."""
    close: TurnClose | None = None
    try:
        turn, inbound, principal = await _open_run(run, runs, services, response_services)
        close = TurnClose(turn, services.now)
        log = LogReply(run, runs)
        end = RunEnd(runs, close, log)
        try:
            await answer(turn, close, inbound, principal, catalog, services, log, (end.add,))
        finally:
            log.close()
        if not end.is_finished:
            raise log.failure or GatewayFault("The response could not be stored.")
    except (GatewayFault, RateLimited) as fault:  # the slots of parallel calls are all in use, or the gateway is away
        is_paid = close is not None and close.has_attempts
        if is_paid or fault.status not in {GatewayFault.status, RateLimited.status}:  # another does not pass with time
            raise
        raise RunPostponed(fault.message) from fault


async def _open_run(
    run: Run, runs: RunLogs, services: Services, response_services: ResponseServices
) -> tuple[ResponseTurn, Inbound, Principal]:
    """Raises Forbidden where the key of the run may no longer be used."""
    principal = await runs.find_principal(run.key_digest)
    is_expired = (
        principal is not None and principal.expires_at_s is not None and principal.expires_at_s <= services.now()
    )
    if principal is None or is_expired or owner_of(principal) != run.stored.owner:
        raise Forbidden("The key that asked for this response may no longer be used.")
    headers = {name.encode(): value.encode("latin-1") for name, value in run.headers.items()}
    inbound = Inbound(run.request_id, headers, run.request)
    request = _as_run(interpret(inbound, run.stored.id), run.stored)
    turn = await open_turn(request, principal, services, response_services, is_background=True)
    return replace(turn, created_s=run.stored.created_s), inbound, principal


def _as_run(request: ResponsesRequest, stored: StoredResponse) -> ResponsesRequest:
    """The request with the item ids that the client may have seen. It is always streamed, so that clients can follow
    it, and only silence ends it; and it includes everything that a reader of the log may ask to see."""
    for _ in stored.input:  # an item may have got its second id when it was queued; the answer gets further ones
        request.ids("")
    body = request.body
    if not request.stream:
        body = {**body, "stream": True}
    include = request.include | (INCLUDABLE - {LOGPROBS})  # only the upstream knows log probabilities
    return replace(
        request,
        body=body,
        raw=request.raw if request.stream else orjson.dumps(body),
        stream=True,
        input=stored.input,
        include=include,
    )
