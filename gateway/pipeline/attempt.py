"""One attempt at one upstream: the request is sent, the answer relayed, and the spend row closed before the last byte
leaves, on every path, also when the client is gone."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace

from gateway.pipeline.answer_headers import answer_headers, upstream_limits
from gateway.pipeline.attempt_timer import COMMENT, AttemptTimer
from gateway.pipeline.embedding_batch import Batch
from gateway.pipeline.hedge import Lane
from gateway.pipeline.labels import labels_of
from gateway.pipeline.large_bodies import LARGE_PART_BYTES, read_aside, read_sized
from gateway.pipeline.ports import Attempt, ClientStalled, Reply
from gateway.pipeline.recovery import WrapRelay, pass_relay
from gateway.pipeline.services import Services
from gateway.pipeline.stream_cost import add_cost
from gateway.pipeline.time_limits import AttemptLimits
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext, Fetched
from gateway.protocol.call import Call, Finish, Operation
from gateway.protocol.errors import ConnectFault, Fault, UpstreamFault, sanitize
from gateway.protocol.provider import UpstreamRequest
from gateway.protocol.usage import NO_USAGE, REPORTED, Usage, UsageSource
from gateway.routing.error_class import error_class
from gateway.upstream.client import UpstreamAnswer

NOTHING_FETCHED: Mapping[str, Fetched] = {}
MAX_ERROR_BYTES = 64 * 1024
#: The content types of streams: server-sent events, JSON lines, Amazon's event stream.
STREAM_TYPES = ("text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream")


async def make_attempt(
    attempt: Attempt,
    services: Services,
    reply: Reply,
    limits: AttemptLimits,
    sent: list[UpstreamRequest],
    lane: Lane | None = None,
    wrap: WrapRelay = pass_relay,
) -> None:
    """Closes the attempt's row on every path, then sends the last bytes or raises the Fault to answer with. The request
    to the upstream is added to `sent`. `lane`: of an attempt that another one may run beside; `wrap`: for the relay of
    a stream."""
    call, target, provider = attempt.call, attempt.target, attempt.target.provider
    answer: UpstreamAnswer | None = None
    batch: Batch | None = None
    cause: BaseException | None = None
    timer = _timer(attempt, services, reply, limits)
    try:
        context = await _attempt_context(attempt, services)
        if call.operation is Operation.EMBEDDING and (parts := provider.split(call, target)):
            batch = Batch(call, target, parts)
            body, metadata = await batch.ask(lambda part: _part(attempt, part, context, services, limits))
        else:
            request = await _encode(attempt, call, context)
            sent.append(request)
            attempt.dropped = _dropped_parameters(attempt, request)
            call.release_body()
            attempt.is_sent = True
            answer = await services.client.send(request, connect_timeout_s=limits.connect_s)
            attempt.upstream_status = answer.status
            attempt.upstream_limits = upstream_limits(answer.headers, target)
            if answer.status != 200:
                raise await _failure(attempt, answer)
            if call.stream:
                relay = wrap(await read_sized(_request_size(call, context), provider.relay, call, target, context))
                call.release_body()
                attempt.ending = last = await _relay_events(attempt, answer, relay, services, reply, timer, lane)
                timer.stop()
                _claim(lane)
                attempt.is_begun = reply.is_started
                await _close(attempt, services)
                await _settle(attempt, lane)
                await reply.start_stream(answer_headers(attempt))
                if call.tells_cost:
                    last = await read_sized(len(last), add_cost, attempt, last)
                await reply.end_stream(last)
                return
            raw = await answer.read()
            body, metadata = await read_sized(len(raw), provider.relay_body, call, target, context, raw, answer.headers)
            del raw
        timer.stop()
        _claim(lane)
        _note_metadata(attempt, metadata)
        attempt.upstream_s = services.now() - attempt.started_at
        await _close(attempt, services)
        await _settle(attempt, lane)
        await reply.send_body(200, answer_headers(attempt), body)
    except BaseException as error:
        timer.stop()
        cause = timer.take_cause(error)
        if attempt.ended_at is None:
            attempt.is_begun = reply.is_started
            if lane is not None:
                lane.is_ending = True
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
    labels = labels_of(attempt.principal)
    tags = provider.session_tags(attempt.target, labels) if kind else ()
    urls = provider.media(attempt.call, attempt.target)
    return AttemptContext(
        attempt.id,
        attempt.started_at,
        token=await services.tokens.get(kind, attempt.target, tags) if kind else "",
        fetched=await services.media.fetch(urls) if urls else NOTHING_FETCHED,
        labels=labels,
    )


async def _part(
    attempt: Attempt, part: Call, context: AttemptContext, services: Services, limits: AttemptLimits
) -> tuple[bytes, AnswerMetadata]:
    """One upstream call of several."""
    target, provider = attempt.target, attempt.target.provider
    request = await _encode(attempt, part, context)
    attempt.dropped = _dropped_parameters(attempt, request)
    attempt.is_sent = True
    answer = await services.client.send(request, connect_timeout_s=limits.connect_s)
    attempt.upstream_status = answer.status
    attempt.upstream_limits = upstream_limits(answer.headers, target)
    try:
        if answer.status != 200:
            raise await _failure(attempt, answer)
        raw = await answer.read()
        return await read_sized(len(raw), provider.relay_body, part, target, context, raw, answer.headers)
    finally:
        answer.close()


async def _encode(attempt: Attempt, call: Call, context: AttemptContext) -> UpstreamRequest:
    """The upstream's request for the call of an attempt, or for a part of it."""
    target = attempt.target
    request = await read_sized(_request_size(call, context), target.provider.request, call, target, context)
    if attempt.step is not None and attempt.step.needs_new_connection:
        return replace(request, needs_new_connection=True)
    return request


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


def _timer(attempt: Attempt, services: Services, reply: Reply, limits: AttemptLimits) -> AttemptTimer:
    async def comment() -> None:
        await reply.start_stream(answer_headers(attempt))
        await reply.send_events(COMMENT)

    return AttemptTimer(
        limits=limits,
        keepalive_s=services.keepalive_s,
        stalled_s=services.stalled_client_s,
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
    target = attempt.target
    fault = target.provider.failure(target, answer.status, answer.headers, body)
    fault.headers += tuple(attempt.upstream_limits)
    fault.upstream_status = answer.status
    fault.upstream_text = sanitize(body.decode("utf-8", "replace").strip(), target.reveal_secrets())
    return fault


def _claim(lane: Lane | None) -> None:
    """From here on the attempt is the one that answers."""
    if lane is not None:
        lane.claim()


async def _relay_events(
    attempt: Attempt,
    answer: UpstreamAnswer,
    relay: StreamRelay,
    services: Services,
    reply: Reply,
    timer: AttemptTimer,
    lane: Lane | None,
) -> bytes:
    """Relays whole events as they come. Returns the bytes that end the stream, which leave after Close."""
    is_json = "application/json" in answer.content_type
    if is_json and not relay.takes_json:  # several servers answer an error this way
        raw = await answer.read()
        raise await read_sized(len(raw), attempt.target.provider.failure, attempt.target, 200, answer.headers, raw)
    if not is_json and not answer.content_type.startswith(STREAM_TYPES):
        raise UpstreamFault("The upstream answered a stream with something else.")
    timer.begin_answer()
    size = waiting = 0  # bytes of the stream, and of its part that no event has left for
    try:
        async for piece in answer.pieces():
            size += len(piece)
            waiting += len(piece)
            events = relay.feed(piece) if waiting < LARGE_PART_BYTES else await read_aside(relay.feed, piece)
            if events:
                waiting = 0
                _claim(lane)
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
            attempt.error_class = error_class(error)
        has_answers = batch is not None and batch.has_answers
        attempt.is_sent = attempt.is_sent and (has_answers or not isinstance(error, ConnectFault))
        attempt.finish = Finish(error.finish) if isinstance(error, UpstreamFault) else Finish.UPSTREAM_ERROR
        attempt.status_code = error.status
        attempt.error_code = error.code or error.type
    elif isinstance(error, asyncio.CancelledError | ClientStalled):
        code = "hedge_lost" if attempt.has_lost else "client_gone"
        attempt.finish, attempt.status_code, attempt.error_code = Finish.CLIENT_GONE, 499, code
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


async def open_row(attempt: Attempt, services: Services) -> None:
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
        services.observer.note_attempt(attempt)


async def _settle(attempt: Attempt, lane: Lane | None) -> None:
    """Before the last byte leaves, so that the client's next request finds what this one gave back."""
    if lane is not None:
        await lane.wait_for_others()
    if attempt.reservation is not None:
        await attempt.reservation.settle()
