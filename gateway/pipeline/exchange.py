"""Stations 6 to 8 for one plan: Exchange with the upstream, Relay to the client, Close the spend row.

Whatever happens after the open row, the row is closed before the last byte leaves, also when the client is gone.
Another deployment is tried only while nothing has reached the client.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.pipeline.answer_headers import answer_headers, upstream_limits
from gateway.pipeline.attempt_timer import COMMENT, AttemptTimer
from gateway.pipeline.deployment_limits import (
    DeploymentBudgets,
    DeploymentFull,
    DeploymentLimits,
    NoDeploymentBudgets,
)
from gateway.pipeline.embedding_batch import Batch
from gateway.pipeline.frame_release import FRAME_RELEASE
from gateway.pipeline.large_bodies import LARGE_PART_BYTES, read_aside, read_sized
from gateway.pipeline.ports import (
    Admission,
    Attempt,
    ClientStalled,
    Ledger,
    Principal,
    Reply,
    Reservation,
    Unlimited,
)
from gateway.pipeline.visit import BoundCall, Place, Visit
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext, Fetched
from gateway.protocol.call import Call, Finish, Operation
from gateway.protocol.errors import ConnectFault, Fault, UpstreamFault, sanitize
from gateway.protocol.output_limit import lower_output
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.protocol.reasoning_replay import Memory
from gateway.protocol.usage import NO_USAGE, REPORTED, Usage, UsageSource
from gateway.routing.unsupported_parameters import MAX_LESSONS, UnsupportedParameters
from gateway.routing.walk import Routing, Step, Walk
from gateway.upstream.client import IDLE_CLOSED, UpstreamAnswer, UpstreamClient

UNLIMITED = Unlimited()
NO_DEPLOYMENT_BUDGETS = NoDeploymentBudgets()
NOTHING_FETCHED: Mapping[str, Fetched] = {}
MAX_ERROR_BYTES = 64 * 1024
#: For an attempt that begins when the client's time is over.
LEAST_TIME_S = 0.01
#: Faults that may not happen a second time: one more try in all, at another deployment if there is one.
ONCE_MORE = frozenset({"upstream_malformed_tool_call", "upstream_incomplete_stream", IDLE_CLOSED})
#: The content types of streams: server-sent events, JSON lines, Amazon's event stream.
STREAM_TYPES = ("text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream")


class Clock(Protocol):
    def __call__(self) -> float: ...


class Tokens(Protocol):
    async def get(self, kind: str, target: Target) -> str: ...


class Media(Protocol):
    async def fetch(self, urls: Sequence[str]) -> Mapping[str, Fetched]: ...


@dataclass(frozen=True, slots=True)
class Services:
    """The services of an exchange; built once in runtime.py."""

    ledger: Ledger
    unsupported_parameters: UnsupportedParameters
    memory: Memory
    tokens: Tokens
    media: Media
    client: UpstreamClient
    now: Clock  # seconds since the epoch
    new_id: Callable[[], str]
    timeout_s: float
    idle_timeout_s: float
    keepalive_s: float
    stalled_client_s: float
    stream_timeout_s: float  # to the end of a stream
    routing: Routing
    deployment_limits: DeploymentLimits
    deployment_budgets: DeploymentBudgets = NO_DEPLOYMENT_BUDGETS
    admission: Admission = UNLIMITED


async def exchange(
    bind: Callable[[Target], BoundCall],
    walk: Walk,
    principal: Principal,
    services: Services,
    reply: Reply,
    *,
    request_id: str,
    timeout_s: float | None,
    first_number: int = 0,
) -> None:
    """Answers on `reply`. `timeout_s` is the client's, for all attempts together; `first_number` numbers the first
    attempt of a request that is exchanged again. Raises the Fault of the last attempt where no deployment answers, or
    that of a limit or budget that refuses the request."""
    began_at = services.now()
    tried: list[str] = []  # deployments, in this order
    number = first_number
    lessons = 0
    is_once_more = False
    reservation: Reservation | None = None
    refusals: dict[str, Fault] = {}
    place = await _find_place(walk.first(), walk, bind, principal, services, refusals)
    if place is None:
        raise _refusal(walk, refusals)
    try:
        reservation = await services.admission.reserve(
            principal, place.bound.call, place.target, is_repeat=first_number > 0
        )
        while True:
            target, bound = place.target, await _lower(place.bound, reservation)
            call = bound.call
            attempt = Attempt(
                id=services.new_id(),
                request_id=request_id,
                number=number,
                principal=principal,
                call=call,
                target=target,
                started_at=services.now(),
                fallbacks=len({*tried} - {target.deployment_id}),
                retries=tried.count(target.deployment_id),
                steps=bound.steps,
                reservation=reservation,
                deployment_hold=place.hold,
            )
            limit_s = _time_limit(call, target, services)
            if timeout_s is not None and (left_s := began_at + timeout_s - attempt.started_at) < limit_s:
                limit_s, attempt.is_hurried = max(left_s, LEAST_TIME_S), True
            tried.append(target.deployment_id)
            sent: list[UpstreamRequest] = []
            try:
                async with Visit(attempt, place, services.routing, services.deployment_limits):
                    await _open(attempt, services)
                    with FRAME_RELEASE:
                        await _attempt(attempt, services, reply, limit_s, sent)
                return
            except UpstreamFault as fault:
                number += 1
                narrowed = services.unsupported_parameters.note(target, call, fault, sent[-1].body if sent else b"")
                is_partly_paid = call.operation is Operation.EMBEDDING and attempt.usage.total_input > 0
                if attempt.first_token_at is not None or is_partly_paid:
                    raise  # what the client has, or has paid for, is not made again
                step: Step | None
                if narrowed is not None and lessons < MAX_LESSONS:
                    lessons += 1
                    step = Step(narrowed, place.group)  # the same deployment once more, without what it refused
                elif fault.code == IDLE_CLOSED and not is_once_more:
                    step = Step(target, place.group)  # the request was not worked on
                elif fault.code in ONCE_MORE:
                    step = None
                    if not is_once_more:
                        step = walk.after(fault, is_retryable=True) or Step(target, place.group)
                else:
                    step = walk.after(fault)
                is_once_more = is_once_more or fault.code in ONCE_MORE
                following = await _find_place(step, walk, bind, principal, services, refusals)
                if following is None:
                    raise
                place = following
                if reservation is not None and not await reservation.extend(call, place.target):
                    raise  # the client gets the upstream's error
    except Fault as fault:
        if reservation is not None:
            fault.headers += tuple(reservation.headers)
        raise
    finally:
        if place.hold is not None:
            place.hold.settle(0)  # of an attempt that was not begun
        if place.grant is not None:
            await asyncio.shield(services.deployment_limits.give_back(place.grant))
        if reservation is not None:
            await asyncio.shield(reservation.settle())


async def _lower(bound: BoundCall, reservation: Reservation | None) -> BoundCall:
    """The call with the output limit that was reserved for it."""
    if reservation is None or reservation.output_limit is None:
        return bound
    size = len(bound.call.raw)
    return replace(bound, call=await read_sized(size, lower_output, bound.call, reservation.output_limit))


async def _find_place(
    step: Step | None,
    walk: Walk,
    bind: Callable[[Target], BoundCall],
    principal: Principal,
    services: Services,
    refusals: dict[str, Fault],
) -> Place | None:
    """The place of the next attempt, at the first deployment whose own limits and budgets admit it; None where there is
    none. The refusals of budgets are added to `refusals`, by the id of the deployment."""
    while step is not None:
        if step.delay_s:
            await asyncio.sleep(step.delay_s)
        target = services.unsupported_parameters.apply(step.target)
        bound = bind(target)
        try:
            return await _take_place(target, bound, step.group, principal, services)
        except DeploymentFull as full:
            if full.fault is not None:  # another call may cost less
                refusals[target.deployment_id] = full.fault
            else:
                services.routing.load.note_full(target.deployment_id, full.wait_s)
        step = walk.full()
    return None


async def _take_place(
    target: Target, bound: BoundCall, group: Sequence[Target], principal: Principal, services: Services
) -> Place:
    """Takes of the budgets and the limits of the deployment, or of none. Raises DeploymentFull."""
    hold = await services.deployment_budgets.hold(principal, bound.call, target)
    with contextlib.ExitStack() as undo:
        if hold is not None:
            undo.callback(hold.settle, 0)
        grant = await services.deployment_limits.take(target, bound.call)
        undo.pop_all()
    return Place(target, bound, group, grant, hold)


def _refusal(walk: Walk, refusals: Mapping[str, Fault]) -> Fault:
    """The budget's refusal where budgets have refused at every deployment of the group, else that of the limits."""
    faults = [refusals.get(target.deployment_id) for target in walk.targets]
    return next((fault for fault in faults if fault is not None and None not in faults), walk.refusal())


def _time_limit(call: Call, target: Target, services: Services) -> float:
    """Seconds to the first byte of a stream, or to the last byte of a whole answer."""
    own = target.stream_timeout_s or target.timeout_s if call.stream else target.timeout_s
    return own or services.timeout_s


async def _attempt(
    attempt: Attempt, services: Services, reply: Reply, limit_s: float, sent: list[UpstreamRequest]
) -> None:
    """Closes the attempt's row on every path, then sends the last bytes or raises the Fault to answer with. The request
    to the upstream is added to `sent`."""
    call, target, provider = attempt.call, attempt.target, attempt.target.provider
    answer: UpstreamAnswer | None = None
    batch: Batch | None = None
    cause: BaseException | None = None
    timer = _timer(attempt, services, reply, limit_s)
    try:
        context = await _attempt_context(attempt, services)
        if call.operation is Operation.EMBEDDING and (parts := provider.split(call, target)):
            batch = Batch(call, target, parts)
            body, metadata = await batch.ask(lambda part: _part(attempt, part, context, services))
        else:
            request = await read_sized(_request_size(call, context), provider.request, call, target, context)
            sent.append(request)
            attempt.dropped = _dropped_parameters(attempt, request)
            call.release_body()
            attempt.is_sent = True
            answer = await services.client.send(request)
            attempt.upstream_limits = upstream_limits(answer.headers, target)
            if answer.status != 200:
                raise await _failure(attempt, answer)
            if call.stream:
                relay = await read_sized(_request_size(call, context), provider.relay, call, target, context)
                call.release_body()
                attempt.ending = last = await _relay_events(attempt, answer, relay, services, reply, timer)
                timer.stop()
                attempt.is_begun = reply.is_started
                await _close(attempt, services)
                await _settle(attempt)
                await reply.start_stream(answer_headers(attempt))
                await reply.end_stream(last)
                return
            raw = await answer.read()
            body, metadata = await read_sized(len(raw), provider.relay_body, call, target, context, raw, answer.headers)
            del raw
        timer.stop()
        _note_metadata(attempt, metadata)
        attempt.upstream_s = services.now() - attempt.started_at
        await _close(attempt, services)
        await _settle(attempt)
        await reply.send_body(200, answer_headers(attempt), body)
    except BaseException as error:
        timer.stop()
        cause = timer.take_cause(error)
        if attempt.ended_at is None:
            attempt.is_begun = reply.is_started
            _fail(attempt, cause, batch)
            # Shielded: the row is closed even when this task is being cancelled once more.
            await asyncio.shield(_close(attempt, services))
        if cause is not error:
            raise cause from None
        raise
    finally:
        cause = None  # its traceback refers to this frame: the cycle would keep the request in memory
        if answer is not None:
            answer.close()


async def _attempt_context(attempt: Attempt, services: Services) -> AttemptContext:
    """The provider's input from outside the core: identity, time, a token, media."""
    provider = attempt.target.provider
    kind = provider.token(attempt.target)
    urls = provider.media(attempt.call, attempt.target)
    return AttemptContext(
        attempt.id,
        attempt.started_at,
        token=await services.tokens.get(kind, attempt.target) if kind else "",
        fetched=await services.media.fetch(urls) if urls else NOTHING_FETCHED,
    )


async def _part(
    attempt: Attempt, part: Call, context: AttemptContext, services: Services
) -> tuple[bytes, AnswerMetadata]:
    """One upstream call of several."""
    target, provider = attempt.target, attempt.target.provider
    request = await read_sized(_request_size(part, context), provider.request, part, target, context)
    attempt.dropped = _dropped_parameters(attempt, request)
    attempt.is_sent = True
    answer = await services.client.send(request)
    attempt.upstream_limits = upstream_limits(answer.headers, target)
    try:
        if answer.status != 200:
            raise await _failure(attempt, answer)
        raw = await answer.read()
        return await read_sized(len(raw), provider.relay_body, part, target, context, raw, answer.headers)
    finally:
        answer.close()


def _request_size(call: Call, context: AttemptContext) -> int:
    """The bytes of a request with the history that it continues, and the media that were fetched for it."""
    media_size = sum(len(medium.data) for medium in context.fetched.values())
    return max(len(call.raw), 4 * call.input_estimate) + media_size


def _dropped_parameters(attempt: Attempt, request: UpstreamRequest) -> tuple[str, ...]:
    """The parameters that the provider could not express, and those that the client's dialect alone has. For a
    completion the provider alone knows: its upstream may have that endpoint or not."""
    call, dialect = attempt.call, attempt.call.dialect
    if call.operation is Operation.COMPLETION or attempt.target.provider.wire(attempt.target) == dialect.wire:
        return request.dropped
    return tuple(dict.fromkeys((*request.dropped, *dialect.unsupported_fields(call))))


def _timer(attempt: Attempt, services: Services, reply: Reply, limit_s: float) -> AttemptTimer:
    async def comment() -> None:
        await reply.start_stream(answer_headers(attempt))
        await reply.send_events(COMMENT)

    return AttemptTimer(
        limit_s=limit_s,
        keepalive_s=services.keepalive_s,
        stalled_s=services.stalled_client_s,
        total_s=services.stream_timeout_s,
        comment=comment if attempt.call.stream else None,
    )


async def _failure(attempt: Attempt, answer: UpstreamAnswer) -> UpstreamFault:
    if 300 <= answer.status < 400 or answer.status < 200:
        return UpstreamFault("The upstream answered with a redirect, which is never followed.")
    if answer.status < 300:
        return UpstreamFault("The upstream answered with a status that is no answer.")
    body = b""
    with contextlib.suppress(UpstreamFault):  # the status says enough where the text breaks off
        async for piece in answer.pieces():
            body += piece
            if len(body) > MAX_ERROR_BYTES:
                break
    fault = attempt.target.provider.failure(attempt.target, answer.status, answer.headers, body)
    fault.headers += tuple(attempt.upstream_limits)
    return fault


async def _relay_events(
    attempt: Attempt, answer: UpstreamAnswer, relay: StreamRelay, services: Services, reply: Reply, timer: AttemptTimer
) -> bytes:
    """Relays whole events as they come. Returns the bytes that end the stream, which leave after Close."""
    is_json = "application/json" in answer.content_type
    if is_json and not relay.takes_json:  # several servers answer an error this way
        raw = await answer.read()
        raise await read_sized(len(raw), attempt.target.provider.failure, attempt.target, 200, answer.headers, raw)
    if not is_json and not answer.content_type.startswith(STREAM_TYPES):
        raise UpstreamFault("The upstream answered a stream with something else.")
    timer.limit(services.idle_timeout_s)
    size = waiting = 0  # bytes of the stream, and of its part that no event has left for
    try:
        async for piece in answer.pieces():
            size += len(piece)
            waiting += len(piece)
            events = relay.feed(piece) if waiting < LARGE_PART_BYTES else await read_aside(relay.feed, piece)
            if events:
                waiting = 0
                timer.busy()
                if attempt.first_token_at is None:
                    attempt.first_token_at = services.now()
                    await reply.start_stream(answer_headers(attempt))
                await reply.send_events(events)
            timer.heard()
            if relay.is_done:
                break
        return await read_sized(size, relay.finish)
    finally:
        _note_metadata(attempt, relay.metadata)


def _note_metadata(attempt: Attempt, metadata: AnswerMetadata) -> None:
    """Copies the answer's metadata as far as it came. Only counts that it lacks are estimated."""
    attempt.upstream_id = metadata.upstream_id
    attempt.served_model = metadata.model
    attempt.service_tier = metadata.service_tier
    attempt.raw_usage = metadata.raw_usage
    if metadata.usage is not None:
        attempt.usage = _fill_sides(metadata.usage, attempt.call.input_estimate, metadata.output_estimate)
        is_whole = attempt.usage is metadata.usage
        attempt.usage_source = UsageSource.PROVIDER if is_whole else UsageSource.PARTIAL
    elif metadata.early_usage is not None:
        output = max(metadata.early_usage.output_tokens, metadata.output_estimate)
        attempt.usage = replace(metadata.early_usage, output_tokens=output)
        attempt.usage_source = UsageSource.PARTIAL
    else:
        attempt.usage = Usage(input_tokens=attempt.call.input_estimate, output_tokens=metadata.output_estimate)
        attempt.usage_source = UsageSource.ESTIMATED


def _fill_sides(usage: Usage, input_estimate: int, output_estimate: int) -> Usage:
    """The usage with estimates for a side whose reported counts are all nonsense (negative, fractions, text)."""
    if not usage.is_inconsistent:
        return usage
    if not usage.total_input and input_estimate:
        usage = replace(usage, input_tokens=input_estimate)
    if not usage.total_output and output_estimate:
        usage = replace(usage, output_tokens=output_estimate)
    return usage


def _fail(attempt: Attempt, error: BaseException, batch: Batch | None = None) -> None:
    """An error answer costs nothing but what the upstream has reported before it. An upstream may bill an answer that
    was cut short: its usage is estimated."""
    if isinstance(error, Fault):
        secrets = attempt.target.reveal_secrets()
        attempt.error_message = sanitize(error.message, secrets)
        if isinstance(error, UpstreamFault):  # an error inside an answer was read without the credential at hand
            error.message = attempt.error_message
        has_answers = batch is not None and batch.has_answers
        attempt.is_sent = attempt.is_sent and (has_answers or not isinstance(error, ConnectFault))
        attempt.finish = Finish(error.finish) if isinstance(error, UpstreamFault) else Finish.UPSTREAM_ERROR
        attempt.status_code = error.status
        attempt.error_code = error.code or error.type
    elif isinstance(error, asyncio.CancelledError | ClientStalled):
        attempt.finish, attempt.status_code, attempt.error_code = Finish.CLIENT_GONE, 499, "client_gone"
    else:
        attempt.finish, attempt.status_code, attempt.error_code = (
            Finish.UPSTREAM_BROKEN,
            500,
            "internal_error",
        )
    if attempt.finish is Finish.UPSTREAM_ERROR and batch is not None:
        attempt.usage, attempt.usage_source = batch.paid()
    elif attempt.finish is Finish.UPSTREAM_ERROR and attempt.first_token_at is None:
        if attempt.usage_source not in REPORTED:
            attempt.usage, attempt.usage_source = NO_USAGE, UsageSource.NONE
    elif attempt.is_sent and attempt.usage_source is UsageSource.NONE:
        attempt.usage = Usage(input_tokens=attempt.call.input_estimate)
        attempt.usage_source = UsageSource.ESTIMATED


async def _open(attempt: Attempt, services: Services) -> None:
    """Raises GatewayFault where the row cannot be written: then the upstream is not asked."""
    try:
        await services.ledger.open(attempt)
    except asyncio.CancelledError as error:
        _fail(attempt, error)
        await asyncio.shield(_close(attempt, services))
        raise


async def _close(attempt: Attempt, services: Services) -> None:
    attempt.ended_at = services.now()
    try:
        await services.ledger.close(attempt)
    finally:
        if attempt.deployment_hold is not None:
            attempt.deployment_hold.settle(attempt.cost_pusd or 0)
        if attempt.reservation is not None:
            attempt.reservation.add(attempt)


async def _settle(attempt: Attempt) -> None:
    """Before the last byte leaves, so that the client's next request finds what this one gave back."""
    if attempt.reservation is not None:
        await attempt.reservation.settle()
