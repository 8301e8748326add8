"""A call that wants the response cache: its answer is replayed from there, or recorded on its way to the client.

Calls at the same time each ask an upstream, and the last one's answer stays: nothing waits for another call.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from gateway.pipeline.answer_headers import answer_headers
from gateway.pipeline.attempt_timer import COMMENT
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Attempt, ClientStalled, Headers, Principal, Reply
from gateway.pipeline.response_cache import CachedAnswer, CacheSlot, may_be_cached
from gateway.pipeline.services import Services
from gateway.pipeline.stream_cost import add_cost
from gateway.protocol.call import Call, Finish
from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.state.unit_of_work import UnitOfWork

STATE_HEADER = b"x-tollgate-cache"
KEY_HEADER = b"x-litellm-cache-key"
EVENT_END = b"\n\n"
PIECE_BYTES = 32 * 1024  # of a stream that is replayed


async def open_cached_call(
    call: Call,
    headers: Mapping[bytes, bytes],
    principal: Principal,
    targets: Sequence[Target],
    request: RoutingRequest,
    services: Services,
) -> "CachedCall | None":
    """None for a call that does not want the cache, or may not have it. Raises BadRequest."""
    control = services.cache.find_control(call, headers, principal)
    if control is None:
        return None
    find_slot = services.cache.find_slot
    slot = await read_sized(2 * len(call.raw), find_slot, call, control, principal, targets, request)
    return None if slot is None else CachedCall(call, slot, principal, targets, services)


class CachedCall:
    """`targets`: those of the call's own model group."""

    __slots__ = ("_answer", "_call", "_is_begun", "_principal", "_services", "_slot", "_targets")

    def __init__(
        self, call: Call, slot: CacheSlot, principal: Principal, targets: Sequence[Target], services: Services
    ) -> None:
        self._call = call
        self._slot = slot
        self._principal = principal
        self._targets = targets
        self._services = services
        self._is_begun = False  # the client has a part of an answer
        self._answer: CachedAnswer | None = None  # the one that is to be kept, without its body

    async def replay(self, reply: Reply, request_id: str) -> bool:
        """Answers from the cache, after the limits of requests and the spend row; False where there is no answer.
        Raises ClientFault where a limit refuses the call."""
        services, started_at = self._services, self._services.now()
        answer = await services.cache.read(self._slot, self._targets, started_at)
        if answer is None:
            return False
        limits = await services.admission.charge_request(self._principal, self._call)
        attempt = self._attempt_of(answer, request_id, started_at)
        await services.ledger.record(attempt)
        services.observer.note_attempt(attempt)
        headers = [
            *answer_headers(attempt),
            *limits,
            (STATE_HEADER, b"hit"),
            (KEY_HEADER, self._slot.key.encode()),
            (b"age", b"%d" % max(0, started_at - answer.created_at)),
        ]
        if self._call.tells_cost:
            await self._replay_stream(reply, headers, add_cost(attempt, answer.body))
        elif self._call.stream:
            await self._replay_stream(reply, headers, answer.body)
        else:
            await reply.send_body(200, headers, answer.body)
        return True

    async def _replay_stream(self, reply: Reply, headers: Headers, body: bytes) -> None:
        *pieces, last = split_events(body)
        try:
            async with asyncio.timeout(self._services.stalled_client_s) as time_left:
                await reply.start_stream(headers)
                for piece in pieces:
                    await reply.send_events(piece)
                    time_left.reschedule(asyncio.get_running_loop().time() + self._services.stalled_client_s)
        except TimeoutError:
            raise ClientStalled from None
        await reply.end_stream(last)

    def _attempt_of(self, answer: CachedAnswer, request_id: str, started_at: float) -> Attempt:
        """The attempt that the spend log shows: at the deployment that gave the answer once."""
        target = next(target for target in self._targets if target.deployment_id == answer.deployment_id)
        return Attempt(
            id=self._services.new_id(),
            request_id=request_id,
            number=0,
            principal=self._principal,
            call=self._call,
            target=target,
            started_at=started_at,
            ended_at=self._services.now(),
            dropped=answer.dropped,
            finish=Finish.COMPLETE,
            served_model=answer.served_model,
            upstream_id=answer.upstream_id,
            service_tier=answer.service_tier,
            usage=answer.usage,
            usage_source=answer.usage_source,
            cost_pusd=0,
            is_cached=True,
        )

    def note(self, attempt: Attempt, unit: UnitOfWork) -> None:
        """A step at the close of each attempt. It keeps no attempt: that refers to its steps, and the cycle would keep
        the request in memory."""
        if attempt.finish is not Finish.COMPLETE and attempt.first_token_at is None:
            return
        is_kept = not self._is_begun and may_be_cached(attempt, self._targets)
        self._answer = CachedAnswer.of(attempt, b"", 0.0) if is_kept else None
        self._is_begun = True

    def record(self, reply: Reply) -> Reply:
        """The reply that keeps a whole answer before its last bytes leave, so that the client's next call finds it."""
        return _RecordingReply(reply, self)

    @property
    def max_bytes(self) -> int:
        return self._services.cache.max_entry_bytes if self._slot.control.may_write else 0

    async def keep(self, body: bytes) -> None:
        """Keeps an answer that one attempt alone gave."""
        if self._answer is not None:
            answer = replace(self._answer, body=body, created_at=self._services.now())
            await self._services.cache.write(self._slot, answer)


class _RecordingReply:
    """See gateway.pipeline.ports.Reply."""

    __slots__ = ("_cached", "_parts", "_reply", "_size")

    def __init__(self, reply: Reply, cached: CachedCall) -> None:
        self._reply = reply
        self._cached = cached
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def is_started(self) -> bool:
        return self._reply.is_started

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        if status == 200:
            self._add(body)
            await self._keep()
        await self._reply.send_body(status, [*headers, (STATE_HEADER, b"miss")], body)

    async def start_stream(self, headers: Headers) -> None:
        await self._reply.start_stream([*headers, (STATE_HEADER, b"miss")])

    async def send_events(self, events: bytes) -> None:
        if events != COMMENT:
            self._add(events)
        await self._reply.send_events(events)

    async def end_stream(self, events: bytes) -> None:
        self._add(events)
        await self._keep()
        await self._reply.end_stream(events)

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._cached.max_bytes:
            self._parts.append(data)
        else:
            self._parts.clear()

    async def _keep(self) -> None:
        if self._size <= self._cached.max_bytes:
            await self._cached.keep(b"".join(self._parts))
        self._parts.clear()


def split_events(body: bytes) -> Iterator[bytes]:
    """The stream in pieces of whole events, of some PIECE_BYTES each; at least one."""
    start = 0
    while len(body) - start > PIECE_BYTES:
        end = body.rfind(EVENT_END, start, start + PIECE_BYTES)
        if end < 0:
            end = body.find(EVENT_END, start + PIECE_BYTES - 1)
        if end < 0:
            break
        yield body[start : end + len(EVENT_END)]
        start = end + len(EVENT_END)
    yield body[start:]
