"""Answers of Converse and ConverseStream → events, errors → faults.

Source: botocore's model bedrock-runtime 2023-09-30 (version 1.44.5) and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html; other sources stand beside what they
tell. Blobs travel as base64.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from gateway.protocol.dialects.bedrock.aws_event_stream import Frame, FrameSplitter, broken
from gateway.protocol.dialects.shared.translate import PendingText, StreamReader, incomplete
from gateway.protocol.error_classes import classify
from gateway.protocol.errors import UpstreamFault, sanitize
from gateway.protocol.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.freeform import unwrap_text
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.usage import MAX_TOKENS, Usage

FINISH_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
MAX_BLOCKS = 16_384
MALFORMED = ("malformed_model_output", "malformed_tool_use")
#: Nova shows this in place of its reasoning: https://docs.aws.amazon.com/nova/latest/nova2-userguide/reasoning-capabilities.html
REDACTED = "[REDACTED]"


def read_usage(raw: JsonMapping) -> Usage | None:
    """The counts of a TokenUsage, whose `inputTokens` exclude the cache's. None where it holds no usable count."""
    is_inconsistent = False

    def count(holder: JsonMapping, name: str) -> int:
        nonlocal is_inconsistent
        value = holder.get(name)
        if type(value) is int and 0 <= value <= MAX_TOKENS:
            return value
        is_inconsistent = is_inconsistent or value is not None
        return 0

    prompt, output = count(raw, "inputTokens"), count(raw, "outputTokens")
    read, written = count(raw, "cacheReadInputTokens"), count(raw, "cacheWriteInputTokens")
    details = raw.get("cacheDetails") if isinstance(raw.get("cacheDetails"), list) else []
    hours = [item for item in details or () if isinstance(item, dict) and item.get("ttl") == "1h"]
    hour = sum(count(item, "inputTokens") for item in hours)
    if hour > written:
        is_inconsistent, hour = True, written
    excess = count(raw, "totalTokens") - (prompt + output + read + written)
    if excess > 0:  # price the larger total
        is_inconsistent = True
        if output and not prompt:
            prompt = excess
        else:
            output += excess
    if prompt + output + read + written == 0:
        return None
    counts = Usage(input_tokens=prompt, output_tokens=output, cache_read_tokens=read, is_inconsistent=is_inconsistent)
    return replace(counts, cache_write_5m_tokens=written - hour, cache_write_1h_tokens=hour)


def decode_body(
    body: bytes, *, upstream_id: str = "", answer_tool: str = "", custom_tools: frozenset[str] = frozenset()
) -> list[Event]:
    """The events of a whole answer, read in the steps of a stream. Raises UpstreamFault for an unusable one."""
    try:
        answer = load_answer(body)
        if b'"toolUse"' in body:
            answer = json.loads(body)  # integers beyond 64 bits keep their digits
    except (ValueError, RecursionError):
        raise UpstreamFault("The upstream's answer is not JSON.", is_retryable=True) from None
    content = _member(_member(answer, "output"), "message").get("content")
    if not isinstance(content, list):
        raise UpstreamFault("The upstream's answer holds no message.", is_retryable=True)
    decoder = StreamDecoder(answer_tool=answer_tool, custom_tools=custom_tools)
    events: list[Event] = [Started(upstream_id, "")]
    for index, block in enumerate(content):
        for kind, payload in _stream_steps(block):
            events += HANDLERS[kind](decoder, {"contentBlockIndex": index, **payload})
    events += HANDLERS["metadata"](decoder, answer)
    return events + HANDLERS["messageStop"](decoder, answer)


def text_of(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _member(holder: Json, name: str) -> JsonObject:
    """The object under this name; an empty one where there is none."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, dict) else {}


def _stream_steps(block: Json) -> Iterable[tuple[str, JsonObject]]:
    """The (event name, payload) pairs by which a stream would send this block; none for kinds unknown to a chat."""
    if not isinstance(block, dict):
        return
    use = _member(block, "toolUse")
    cited = _member(block, "citationsContent").get("content")
    reasoning = _member(block, "reasoningContent")
    if use:
        tool_input = use.get("input")
        yield "contentBlockStart", {"start": {"toolUse": use}}
        yield "contentBlockDelta", {"delta": {"toolUse": {"input": text_of(tool_input) if tool_input else ""}}}
    elif reasoning:
        fields = {**_member(reasoning, "reasoningText"), **reasoning}
        yield "contentBlockDelta", {"delta": {"reasoningContent": fields}}
    for part in [block, *(cited if isinstance(cited, list) else ())]:
        if isinstance(part, dict) and part.get("text") is not None:
            yield "contentBlockDelta", {"delta": {"text": part["text"]}}
    yield "contentBlockStop", {}


@dataclass(slots=True)
class _OpenBlock:
    """A content block of a stream, as far as it has arrived."""

    call: int = -1  # the number of its tool call
    is_answer: bool = False  # a call of the tool whose input is the answer
    is_ignored: bool = False
    has_input: bool = False
    custom_input: PendingText | None = None  # of a custom call: an object around the text, in pieces
    pending_thought: str | None = ""  # as long as it may still become REDACTED
    signature: PendingText = field(default_factory=PendingText)
    redacted: list[str] = field(default_factory=list)


class StreamDecoder(StreamReader):
    """Decoder of a ConverseStream. Usage follows the end of the message."""

    def __init__(
        self, *, answer_tool: str = "", custom_tools: frozenset[str] = frozenset(), secrets: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._answer_tool = answer_tool
        self._custom_tools = custom_tools
        self._secrets = secrets
        self._splitter = FrameSplitter()
        self._blocks: dict[int, _OpenBlock] = {}
        self._calls = 0
        self._is_finished = False

    def feed(self, piece: bytes) -> list[Event]:
        self._raise_fault()
        events: list[Event] = []
        try:
            for frame in self._splitter.feed(piece):
                events += self._events(frame)
        except UpstreamFault as fault:
            self._defer_fault(fault, events)
        return events

    def finish(self) -> list[Event]:
        self._raise_fault()
        if not self._is_finished:
            raise incomplete()
        self.is_done = True
        return []

    def _events(self, frame: Frame) -> list[Event]:
        kind = frame.headers.get(":message-type")
        if kind in {"exception", "error"}:
            name = frame.headers.get(":exception-type") or frame.headers.get(":error-code", "")
            error = frame.payload or orjson.dumps({"message": frame.headers.get(":error-message", "")})
            raise read_failure(name, 500, error, secrets=self._secrets)
        handle = HANDLERS.get(frame.headers.get(":event-type", "")) if kind == "event" else None
        if handle is None or self.is_done:
            return []
        try:
            payload = load_answer(frame.payload)
        except orjson.JSONDecodeError:
            raise broken("that is not JSON") from None
        if not isinstance(payload, dict):
            raise broken("that is not a JSON object")
        return handle(self, payload)

    def _block_of(self, payload: JsonMapping) -> _OpenBlock:
        index = payload.get("contentBlockIndex", 0)
        if type(index) is not int:
            raise broken("whose block has no number")
        block = self._blocks.get(index)
        if block is None:
            if len(self._blocks) >= MAX_BLOCKS:
                raise broken("of one block too many")
            block = self._blocks[index] = _OpenBlock()
        return block

    def _block_start(self, payload: JsonMapping) -> list[Event]:
        block, start = self._block_of(payload), payload.get("start")
        if self._is_finished or not isinstance(start, dict) or "toolUse" not in start:
            return []
        use = _member(start, "toolUse")
        if use.get("type") == "server_tool_use":
            block.is_ignored = True
            return []
        if self._answer_tool and use.get("name") == self._answer_tool:
            block.is_answer = True
            return []
        call_id, name = use.get("toolUseId"), use.get("name")
        if not isinstance(call_id, str) or not isinstance(name, str) or not call_id or not name:
            raise malformed_call("The upstream sent a tool call without its name.")
        is_custom = name in self._custom_tools
        block.custom_input = PendingText() if is_custom else None
        block.call = self._calls
        self._calls += 1
        return [ToolCallStarted(block.call, call_id, name, kind="custom" if is_custom else "function")]

    def _block_delta(self, payload: JsonMapping) -> list[Event]:
        delta = payload.get("delta")
        if self._is_finished:
            return []
        if not isinstance(delta, dict):
            raise broken("without its content")
        text = delta.get("text")
        if type(text) is str:
            return [TextDelta(text)] if text else []
        if text is not None:
            raise broken("whose text is not a string")
        if "toolUse" in delta:
            return self._arguments(self._block_of(payload), _member(delta, "toolUse").get("input"))
        if "reasoningContent" in delta:
            return self._reasoning(self._block_of(payload), _member(delta, "reasoningContent"))
        return []

    def _arguments(self, block: _OpenBlock, text: Json) -> list[Event]:
        if block.is_ignored:
            return []
        if type(text) is not str or (block.call < 0 and not block.is_answer):
            raise malformed_call("The upstream sent a tool call that cannot be read.")
        block.has_input = block.has_input or bool(text)
        if block.custom_input is not None:
            block.custom_input.add(text)
            return []
        if not text:
            return []
        return [TextDelta(text) if block.is_answer else ToolArgumentsDelta(block.call, text)]

    def _reasoning(self, block: _OpenBlock, delta: JsonMapping) -> list[Event]:
        """The reasoning's text. Its signature and redacted pieces wait until the block ends."""
        text, signature, redacted = delta.get("text"), delta.get("signature"), delta.get("redactedContent")
        if isinstance(signature, str) and signature:
            block.signature.add(signature)
        if isinstance(redacted, str) and redacted:
            block.redacted.append(redacted)
        if not isinstance(text, str) or not text:
            return []
        if block.pending_thought is not None:
            text = block.pending_thought + text
            block.pending_thought = text if REDACTED.startswith(text) else None
        return [ReasoningDelta(text=text)] if block.pending_thought is None else []

    def _block_stop(self, payload: JsonMapping) -> list[Event]:
        block = self._block_of(payload)
        self._blocks[payload.get("contentBlockIndex", 0)] = _OpenBlock(is_ignored=True)
        return [] if self._is_finished else _close_block(block)

    def _message_stop(self, payload: JsonMapping) -> list[Event]:
        if self._is_finished:
            return []
        events = [event for block in self._blocks.values() for event in _close_block(block)]
        self._blocks.clear()
        reason = payload.get("stopReason")
        if reason in MALFORMED:
            raise malformed_call("The model's answer could not be read by the upstream.")
        finish = FINISH_REASONS.get(reason) if isinstance(reason, str) else None
        self._is_finished = True
        return [*events, Finished(finish or ("tool_calls" if self._calls else "stop"))]

    def _metadata(self, payload: JsonMapping) -> list[Event]:
        self.is_done = self._is_finished
        raw = _member(payload, "usage")
        usage = read_usage(raw)
        tier = _member(payload, "serviceTier").get("type")
        return [UsageReported(usage, raw, tier if isinstance(tier, str) else "")] if usage is not None else []


HANDLERS: Mapping[str, Callable[[StreamDecoder, JsonMapping], list[Event]]] = {
    "messageStart": lambda decoder, payload: [Started("", "")],
    "contentBlockStart": StreamDecoder._block_start,
    "contentBlockDelta": StreamDecoder._block_delta,
    "contentBlockStop": StreamDecoder._block_stop,
    "messageStop": StreamDecoder._message_stop,
    "metadata": StreamDecoder._metadata,
}


def malformed_call(message: str) -> UpstreamFault:
    """The fault of an unreadable answer, which AWS has billed."""
    return UpstreamFault(message, code="upstream_malformed_tool_call", is_retryable=True, finish="upstream_broken")


def _close_block(block: _OpenBlock) -> list[Event]:
    """The events that a block has left for its end."""
    if block.is_ignored:
        return []
    if block.custom_input is not None:
        return [ToolArgumentsDelta(block.call, unwrap_text(str(block.custom_input)))]
    if block.is_answer or block.call >= 0:
        empty = TextDelta("{}") if block.is_answer else ToolArgumentsDelta(block.call, "{}")
        return [] if block.has_input else [empty]
    events: list[Event] = []
    if block.pending_thought and block.pending_thought != REDACTED:
        events.append(ReasoningDelta(text=block.pending_thought))
    if block.signature:
        events.append(ReasoningDelta(signature=str(block.signature)))
    if block.redacted:
        events.append(ReasoningDelta(redacted=_join_base64(block.redacted)))
    return events


def _join_base64(pieces: list[str]) -> str:
    """Several base64 texts as one."""
    if len(pieces) == 1:
        return pieces[0]
    try:
        return base64.b64encode(b"".join([base64.b64decode(piece) for piece in pieces])).decode()
    except ValueError:
        raise broken("whose hidden reasoning is not base64") from None


# Errors

#: HTTP statuses by the short names of exceptions: AccessDeniedException is `accessdenied`.
STATUSES = {
    name: status
    for status, names in {
        400: "validation",
        403: "accessdenied unrecognizedclient expiredtoken invalidsignature signaturedoesnotmatch incompletesignature"
        " missingauthenticationtoken invalidclienttokenid notauthorized optinrequired",
        404: "resourcenotfound",
        408: "modeltimeout",
        429: "throttling throttled toomanyrequests servicequotaexceeded",
        500: "internalserver internalfailure model modelstream",
        503: "modelnotready serviceunavailable",
    }.items()
    for name in names.split()
}
#: A ValidationException about the model, not about the request.
NO_SUCH_MODEL = re.compile(r"model identifier is invalid|end of its life", re.IGNORECASE)
NEEDS_PROFILE = re.compile(r"on-demand throughput isn.t supported", re.IGNORECASE)
ACCOUNT = re.compile(r"\b\d{12}\b")


def _short_name(name: str) -> str:
    """`com.amazon.coral#ThrottlingException:http://…` → `throttling`."""
    return name.partition(":")[0].rpartition("#")[2].lower().removesuffix("exception").removesuffix("error")


def read_failure(
    name: str, status: int, body: bytes, *, secrets: Sequence[str] = (), retry_after_s: float | None = None
) -> UpstreamFault:
    """The fault that an error answer stands for: its name decides, then its status.

    `name` is the header x-amzn-errortype or the name of a stream's exception; the body may name it too.
    """
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        answer = {}
    answer = answer if isinstance(answer, dict) else {}
    error = _short_name(name or str(answer.get("__type") or answer.get("code") or ""))
    message = answer.get("message") or answer.get("Message") or ""
    text = ACCOUNT.sub("[account]", sanitize(message if isinstance(message, str) else "", secrets))
    status = STATUSES.get(error, status)
    if status == 400 and NEEDS_PROFILE.search(text):
        return classify(404, message="The upstream serves this model through an inference profile only: name that one.")
    if status == 400 and NO_SUCH_MODEL.search(text):
        return classify(404, message=text)
    if error == "servicequotaexceeded":
        return classify(429, message=text, code="insufficient_quota", retry_after_s=retry_after_s)
    return classify(status, message=text, retry_after_s=retry_after_s)
