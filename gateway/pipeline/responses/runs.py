"""A response that is made in the background: how it is queued, and how a worker answers it.

What a client sees of it stands in the store alone: the response, and the log of its events. The worker that has claimed
a run writes both for as long as it holds it; what it writes after somebody else has ended the response is dropped.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import orjson

from gateway.pipeline.exchange import Services
from gateway.pipeline.interpret import HINT_HEADERS
from gateway.pipeline.ports import Attempt, Catalog, Headers, Ledger, Principal
from gateway.pipeline.responses.create import Sessions, answer, interpret, open_session
from gateway.pipeline.responses.turn import Session, owner_of
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.client_request import ResponsesRequest
from gateway.protocol.dialects.responses.event_log import LIFECYCLE, QUEUED_EVENTS, read_events
from gateway.protocol.dialects.responses.items import INCLUDABLE, LOGPROBS
from gateway.protocol.dialects.responses.stored import Owner, StoredResponse
from gateway.protocol.errors import Forbidden, GatewayFault
from gateway.protocol.json.types import JsonObject

FLUSH_S = 0.1
FLUSH_EVENTS = 64
#: The headers of a create that say how it is answered and booked. No other one is kept.
KEPT_HEADERS = HINT_HEADERS | {b"x-litellm-timeout", b"x-litellm-stream-timeout"}


@dataclass(frozen=True, slots=True)
class Run:
    """What a worker needs to make a response. `stored` is the response as it was queued."""

    stored: StoredResponse
    key_digest: str
    request_id: str
    request: bytes = field(repr=False)  # the create, as the client sent it
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Runs(Protocol):
    """The store of runs and of their events. Raises GatewayFault while it is away.

    A worker claims runs, and holds each for as long as it renews that one; a run that was ended by anybody is held by
    nobody.
    """

    def queue(self, run: Run, events: Sequence[JsonObject]) -> Awaitable[None]:
        """Queues the response, its run and its first events at once; done when they are durable."""

    async def claim(self, limit: int) -> tuple[Run, ...]:
        """The oldest that nobody has claimed, now this worker's and in progress."""

    async def held(self) -> frozenset[str]:
        """The responses that this worker holds."""

    def renew(self, response_ids: Collection[str]) -> None:
        """Queues that this worker works on these still, where it holds them. Raises GatewayFault like `append`."""

    def append(self, stored: StoredResponse, events: Sequence[JsonObject]) -> "asyncio.Future[None]":
        """Queues at once that the log goes on with these, if the run is still held. Raises GatewayFault where nothing
        can be queued."""

    def finish(self, stored: StoredResponse, events: Sequence[JsonObject]) -> Awaitable[object]:
        """Queues at once that the response has ended as `stored` says, and its log with these events, if the run is
        still held; in the transaction of what is queued next."""

    async def fail(self, run: Run, code: str, message: str) -> None:
        """Ends the response and its log, if the run is still held."""

    async def put_back(self, run: Run) -> bool:
        """Nobody's again, to be claimed by anybody; False, and nothing is done, where it is not held or its answer is
        told already."""

    async def told(self, owner: Owner, response_id: str, after: int) -> tuple[str, list[JsonObject]] | None:
        """(status, some next events of the log, those with a number above `after`); None: it is gone."""

    async def holder(self, key_digest: str) -> Principal | None:
        """Whoever has the key, if it may still be used."""


class Unbegun(GatewayFault):
    """The gateway could not go on, for the moment, before any upstream was asked: nothing was paid, nothing told."""


# In the web process


async def queue(
    session: Session, inbound: Inbound, principal: Principal, runs: Runs, wake: Callable[[], None]
) -> StoredResponse:
    """The response as it is queued: durable, whatever becomes of the client."""
    events = session.opening()[:QUEUED_EVENTS]
    run = Run(
        stored=session.stored(events[0]["response"]),
        key_digest=principal.key_digest,
        request_id=inbound.request_id,
        request=inbound.body,
        headers={
            name.decode(): inbound.headers[name].decode("latin-1") for name in KEPT_HEADERS & set(inbound.headers)
        },
    )
    try:
        await runs.queue(run, events)
    finally:
        wake()
    return run.stored


# In the worker


class LogReply:
    """The Reply of a run: its events go into the log, in small batches. Counts on from the lifecycle events that stand
    in the log already; those of the stream are left out."""

    def __init__(self, run: Run, runs: Runs) -> None:
        self._stored = run.stored
        self._runs = runs
        self._events: list[JsonObject] = []
        self._number = QUEUED_EVENTS + 1
        self._timer: asyncio.TimerHandle | None = None
        self.failure: GatewayFault | None = None  # the log has a gap

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        """A run is always a stream."""

    async def start_stream(self, headers: Headers) -> None:
        """Nobody reads headers of it."""

    async def send_events(self, events: bytes) -> None:
        """Waits for the store where it is slower than the upstream. Raises GatewayFault where it took something not."""
        self._note(events)
        if self.failure is not None:
            raise self.failure
        if len(self._events) >= FLUSH_EVENTS:
            await asyncio.shield(self._flush())
        elif self._events and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_by_timer)

    async def end_stream(self, events: bytes) -> None:
        """The last events were taken when the response was stored."""

    def take(self, ending: bytes) -> list[JsonObject]:
        """What is not in the log yet, the stream's end included."""
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
        except GatewayFault as fault:  # what it should have taken is in no log
            self.failure = fault
            raise
        future.add_done_callback(self._look)
        return future

    def _flush_by_timer(self) -> None:
        self._timer = None
        with contextlib.suppress(GatewayFault):  # it is noted
            self._flush()

    def _look(self, future: "asyncio.Future[None]") -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, GatewayFault):
            self.failure = error

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class RunBooks:
    """Books that end the response and its log in the transaction of its spend row. One that was cut off here is left:
    whoever cut it off has ended it, or will."""

    def __init__(self, ledger: Ledger, session: Session, runs: Runs, log: LogReply) -> None:
        self._books = ledger
        self._session = session
        self._runs = runs
        self._log = log
        self._kept: StoredResponse | None = None
        self.is_finished = False

    def keep(self, stored: StoredResponse) -> None:
        self._kept = stored

    async def open(self, attempt: Attempt) -> None:
        await self._books.open(attempt)

    async def close(self, attempt: Attempt) -> None:
        finishing: Awaitable[object] | None = None
        stored, self._kept = self._kept, None
        if stored is not None and stored.status != "cancelled":
            events = self._log.take(self._session.ending(attempt))
            if self._log.failure is None:
                finishing = self._runs.finish(stored, events)
        await self._books.close(attempt)
        if finishing is not None:
            await finishing
            self.is_finished = True


class NotedBooks:
    """Books that know whether an attempt was opened on them: before that no upstream is asked."""

    def __init__(self, ledger: Ledger) -> None:
        self._books = ledger
        self.is_opened = False

    async def open(self, attempt: Attempt) -> None:
        await self._books.open(attempt)
        self.is_opened = True

    async def close(self, attempt: Attempt) -> None:
        await self._books.close(attempt)


async def perform(
    run: Run,
    runs: Runs,
    catalog: Catalog,
    services: Services,
    sessions: Sessions,
    draw: Callable[[], float],
) -> None:
    """Answers it to its end. Raises Unbegun where it may be answered later, or the Fault that the response is to be
    ended with, where it was not."""
    noted = NotedBooks(services.ledger)
    try:
        await _perform(run, runs, catalog, replace(services, ledger=noted), sessions, draw)
    except GatewayFault as fault:
        if noted.is_opened or fault.status != GatewayFault.status:  # another one is no matter of time
            raise
        raise Unbegun(fault.message) from fault


async def _perform(
    run: Run,
    runs: Runs,
    catalog: Catalog,
    services: Services,
    sessions: Sessions,
    draw: Callable[[], float],
) -> None:
    principal = await runs.holder(run.key_digest)
    is_expired = (
        principal is not None and principal.expires_at_s is not None and principal.expires_at_s <= services.now()
    )
    if principal is None or is_expired or owner_of(principal) != run.stored.owner:
        raise Forbidden("The key that asked for this response may no longer be used.")
    headers = {name.encode(): value.encode("latin-1") for name, value in run.headers.items()}
    inbound = Inbound(run.request_id, headers, run.request)
    request = _as_run(interpret(inbound, run.stored.id), run.stored)
    session = await open_session(request, principal, services, sessions, is_background=True)
    session.created_s = run.stored.created_s
    log = LogReply(run, runs)
    ledger = RunBooks(services.ledger, session, runs, log)
    try:
        await answer(session, inbound, principal, catalog, replace(services, ledger=ledger), ledger.keep, log, draw)
    finally:
        log.close()
    if not ledger.is_finished:
        raise log.failure or GatewayFault("The response could not be stored.")


def _as_run(request: ResponsesRequest, stored: StoredResponse) -> ResponsesRequest:
    """With the items' ids that the client may have seen; always streamed, so that it can be followed, and is ended by
    silence rather than by its length; and with all that any reader of the log may ask to see."""
    for _ in stored.input:  # an item may have had its second id when it was queued; the answer's are other ones
        request.ids("")
    body = request.body
    if not request.stream:
        body = {**body, "stream": True}
    include = request.include | (INCLUDABLE - {LOGPROBS})  # log probabilities are asked for upstream
    return replace(
        request,
        body=body,
        raw=request.raw if request.stream else orjson.dumps(body),
        stream=True,
        input=stored.input,
        include=include,
    )
