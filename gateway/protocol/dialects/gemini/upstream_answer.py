"""Answers of Gemini's generateContent → events, errors → faults.

Source: https://ai.google.dev/api/generate-content and the types of google-genai 3.3.0.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypedDict

import orjson

from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.dialects.gemini.json_schema import renamed_tools
from gateway.protocol.dialects.shared.translate import StreamReader, TranslatedRelay, incomplete, translate_body
from gateway.protocol.error_classes import classify
from gateway.protocol.errors import UpstreamFault, sanitize
from gateway.protocol.events import (
    Event,
    Finished,
    ImageMade,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.items import Tool
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.provider import Target
from gateway.protocol.retry_after import bound_wait_s, find_retry_after_s, read_duration_s
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.usage import MAX_TOKENS, Usage

BLOCKED = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY"}
    | {"IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR", "ESCALATION"}
)
MALFORMED = frozenset(
    {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE"}
    | {"MISSING_THOUGHT_SIGNATURE"}
)
FINISHES = {"MAX_TOKENS": "length", **dict.fromkeys(BLOCKED, "content_filter")}  # all others: stop
MAX_CHOICES = 128
MAX_ID = 40
#: The tiers whose prices differ from the standard one.
TIERS = ("flex", "priority", "batch")


def malformed_call() -> UpstreamFault:
    """The fault of an unreadable tool call, which Google has billed."""
    return UpstreamFault(
        "The upstream's model made a malformed tool call.",
        code="upstream_malformed_tool_call",
        is_retryable=True,
        finish="upstream_broken",
    )


def decode_body(
    body: bytes, context: AttemptContext, *, tools: Mapping[str, Tool] | None = None, is_single_tool: bool = False
) -> list[Event]:
    """The events of a whole answer. Raises UpstreamFault for an unusable one."""
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        raise UpstreamFault("The upstream's answer is not JSON.", is_retryable=True) from None
    reader = _AnswerReader(context, tools or {}, is_single_tool=is_single_tool)
    pieces = answer if isinstance(answer, list) else [answer]  # an array is a stream without alt=sse
    events = [event for piece in pieces for event in reader.feed(piece)]
    if not reader.has_end:
        raise UpstreamFault("The upstream's answer holds no candidates.", is_retryable=True)
    return events + reader.finish()


class StreamDecoder(StreamReader):
    """Decoder of a stream with `alt=sse`: each event is a fragment of the answer, and nothing marks the last one."""

    __slots__ = ("_reader", "_splitter")

    def __init__(
        self, context: AttemptContext, *, tools: Mapping[str, Tool] | None = None, is_single_tool: bool = False
    ) -> None:
        super().__init__()  # is_done waits for the end of the stream: usage may follow the finish reason
        self._reader = _AnswerReader(context, tools or {}, is_single_tool=is_single_tool)
        self._splitter = EventSplitter()

    def feed(self, piece: bytes) -> list[Event]:
        return self._read(self._splitter.feed(piece))

    def finish(self) -> list[Event]:
        self._raise_fault()
        try:
            events = self._read(self._splitter.finish())
        except _NotJson:
            raise incomplete() from None
        self._raise_fault()
        if not self._reader.is_complete:
            raise incomplete()
        self.is_done = True
        return events + self._reader.finish()

    def _read(self, received: list[bytes]) -> list[Event]:
        events: list[Event] = []
        try:
            for event in received:
                data = event_data(event)
                if data and data != b"[DONE]" and not self.is_done:
                    events += self._reader.feed(_parse_fragment(data))
        except UpstreamFault as fault:
            self._defer_fault(fault, events)
        return events


def _parse_fragment(data: bytes) -> Json:
    try:
        return load_answer(data)
    except orjson.JSONDecodeError:
        raise _NotJson("The upstream sent an event that is not JSON.", finish="upstream_broken") from None


class _NotJson(UpstreamFault):
    """An event that is not JSON: at the end of a stream, one that was cut off."""


class _Choice:
    __slots__ = ("calls", "finish")

    def __init__(self) -> None:
        self.calls = 0
        self.finish = ""  # the upstream's finish reason


class _AnswerReader:
    """Fragments of one answer → events. Finish reasons wait for the end: some streams send one before the last call,
    others in a fragment of its own."""

    __slots__ = (
        *("_calls", "_choices", "_ids", "_is_blocked", "_is_single_tool", "_is_started"),
        *("_context", "_tools", "_usage"),
    )

    def __init__(self, context: AttemptContext, tools: Mapping[str, Tool], *, is_single_tool: bool) -> None:
        self._context = context
        self._tools = tools
        self._is_single_tool = is_single_tool
        self._choices: dict[int, _Choice] = {}
        self._calls = 0
        self._ids: set[str] = set()
        self._is_started = False
        self._is_blocked = False
        self._usage: Json = None

    @property
    def has_end(self) -> bool:
        return bool(self._choices) or self._is_blocked

    @property
    def is_complete(self) -> bool:
        """True once every choice has a finish reason."""
        return self.has_end and all(choice.finish for choice in self._choices.values())

    def feed(self, chunk: Json) -> list[Event]:
        if not isinstance(chunk, dict):
            raise UpstreamFault("The upstream sent an answer that is not a JSON object.", finish="upstream_broken")
        if chunk.get("error"):
            raise _classify_error(chunk["error"], 200, None, ())
        events: list[Event] = []
        if not self._is_started:
            self._is_started = True
            events.append(Started(_text(chunk.get("responseId")), _text(chunk.get("modelVersion"))))
        candidates = chunk.get("candidates")
        if isinstance(candidates, list):
            for position, candidate in enumerate(candidates):
                if isinstance(candidate, dict):
                    self._add_candidate(candidate, position, events)
        if member(chunk, "promptFeedback").get("blockReason"):
            self._is_blocked = True
        usage = chunk.get("usageMetadata")
        if isinstance(usage, dict) and usage != self._usage:
            self._usage = usage
            events.append(UsageReported(read_usage(usage), usage, read_tier(usage)))
        return events

    def _add_candidate(self, candidate: JsonObject, position: int, events: list[Event]) -> None:
        index = candidate.get("index")
        if type(index) is not int or not 0 <= index < MAX_CHOICES:
            index = min(position, MAX_CHOICES - 1)  # the API omits an index of zero
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        start = len(events)
        if isinstance(parts, list):
            for part in parts:
                if isinstance(part, dict):
                    self._add_part(part, index, choice, events)
        if "logprobsResult" in candidate:
            _add_scores(read_logprobs(candidate["logprobsResult"]), index, events, start)
        finish = candidate.get("finishReason")
        if isinstance(finish, str) and finish:
            if finish in MALFORMED:
                raise malformed_call()
            choice.finish = finish

    def _add_part(self, part: JsonObject, index: int, choice: _Choice, events: list[Event]) -> None:
        text = part.get("text")
        if text and isinstance(text, str):
            thought = part.get("thought") is True
            events.append(ReasoningDelta(text, choice=index) if thought else TextDelta(text, index))
        if "functionCall" in part:
            self._add_call(part, index, choice, events)
            return
        for name in ("inlineData", "executableCode", "codeExecutionResult"):
            if name in part:
                events += _media_events(name, member(part, name), index)

    def _add_call(self, part: JsonObject, index: int, choice: _Choice, events: list[Event]) -> None:
        call = part["functionCall"]
        name = call.get("name") if isinstance(call, dict) else None
        args = call.get("args") if isinstance(call, dict) else None
        if not name or not isinstance(name, str) or not (args is None or isinstance(args, dict)):
            raise malformed_call()
        if self._is_single_tool and choice.calls:
            return
        tool = self._tools.get(name)
        try:
            arguments = orjson.dumps(args or {}).decode()
        except TypeError:  # nested too deeply
            raise malformed_call() from None
        if tool is not None and tool.kind == "custom":
            text = (args or {}).get("input")
            arguments = text if isinstance(text, str) else arguments
        started = ToolCallStarted(
            choice.calls,
            self._call_id(call.get("id")),
            tool.name if tool is not None else name,
            kind=tool.kind if tool is not None else "function",
            signature=_text(part.get("thoughtSignature")),
            choice=index,
        )
        events += (started, ToolArgumentsDelta(choice.calls, arguments, index))
        choice.calls += 1

    def _call_id(self, value: Json) -> str:
        """The upstream's id where it is usable and new, else one of our own."""
        self._calls += 1
        call_id = _text(value)
        if not 0 < len(call_id) <= MAX_ID or call_id in self._ids:
            call_id = self._context.new_id("call_", self._calls - 1)
        self._ids.add(call_id)
        return call_id

    def finish(self) -> list[Event]:
        if not self._choices:
            return [Finished("content_filter")]
        events: list[Event] = []
        for index, choice in sorted(self._choices.items()):
            reason = FINISHES.get(choice.finish, "stop")
            events.append(Finished("tool_calls" if choice.calls and reason == "stop" else reason, index))
        return events


def member(holder: Json, name: str) -> JsonMapping:
    value = holder.get(name) if isinstance(holder, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _media_events(name: str, value: JsonMapping, index: int) -> list[Event]:
    """The events of a part other than text: an image, code in a fence, or other media as a link with the data."""
    if name == "executableCode":
        return [TextDelta(f"\n```{_text(value.get('language')).lower()}\n{_text(value.get('code'))}\n```\n", index)]
    if name == "codeExecutionResult":
        return [TextDelta(f"\n```\n{_text(value.get('output'))}\n```\n", index)]
    kind, data = _text(value.get("mimeType")), _text(value.get("data"))
    if not data:
        return []
    url = f"data:{kind};base64,{data}"
    word = kind.partition("/")[0]
    return [ImageMade(url, index)] if word == "image" else [TextDelta(f"[{word or 'file'}]({url})", index)]


# Log probabilities


def read_logprobs(result: Json) -> tuple[JsonObject, ...]:
    """A `logprobsResult` in OpenAI's shape: the chosen tokens, each with the likeliest ones at its position."""
    chosen = result.get("chosenCandidates") if isinstance(result, dict) else None
    likely = result.get("topCandidates") if isinstance(result, dict) else None
    likely = likely if isinstance(likely, list) else []
    scores: list[JsonObject] = []
    for place, candidate in enumerate(chosen if isinstance(chosen, list) else ()):
        if not isinstance(candidate, dict):
            continue
        at_place = likely[place].get("candidates") if place < len(likely) and isinstance(likely[place], dict) else None
        others = [_score(item) for item in at_place if isinstance(item, dict)] if isinstance(at_place, list) else []
        scores.append({**_score(candidate), "top_logprobs": others})
    return tuple(scores)


def _score(candidate: JsonObject) -> JsonObject:
    token, logprob = _text(candidate.get("token")), candidate.get("logProbability")
    value = logprob if type(logprob) in {int, float} else 0.0  # the API omits zero
    return {"token": token, "logprob": value, "bytes": list(token.encode())}


def _add_scores(scores: tuple[JsonObject, ...], index: int, events: list[Event], start: int) -> None:
    """Adds the log probabilities to the candidate's last text, else as an event of their own."""
    if not scores:
        return
    for place in range(len(events) - 1, start - 1, -1):
        event = events[place]
        if isinstance(event, TextDelta):
            events[place] = replace(event, logprobs=scores)
            return
    events.append(TextDelta("", index, scores))


# Usage


def read_tier(raw: JsonMapping) -> str:
    """The service tier of a `usageMetadata`: the Gemini API's `serviceTier`, Vertex AI's `trafficType`; empty for the
    standard one. Source: https://googleapis.github.io/js-genai, UsageMetadata and TrafficType."""
    texts = [value.lower() for name in ("serviceTier", "trafficType") if isinstance(value := raw.get(name), str)]
    return next((tier for text in texts for tier in TIERS if text == tier or text.endswith(f"_{tier}")), "")


def read_usage(raw: JsonMapping) -> Usage:
    """The disjoint counts of a `usageMetadata`, whose prompt count includes cached tokens and whose candidates count
    excludes thoughts."""
    bad_counts: list[str] = []

    def count(name: str) -> int:
        value = raw.get(name)
        if value is None:
            return 0
        if type(value) is int and 0 <= value <= MAX_TOKENS:
            return value
        bad_counts.append(name)
        return 0

    def audio(name: str, most: int) -> int:
        details = raw.get(name)
        if not isinstance(details, list):
            return 0
        counts = [item.get("tokenCount") for item in details if _is_audio(item)]
        return min(sum(number for number in counts if type(number) is int and number > 0), most)

    prompt = count("promptTokenCount") + count("toolUsePromptTokenCount")
    cached = count("cachedContentTokenCount")
    if cached > prompt:
        bad_counts.append("cachedContentTokenCount")
        prompt = cached
    output = count("candidatesTokenCount")
    thoughts = count("thoughtsTokenCount")
    excess = count("totalTokenCount") - (prompt + output + thoughts)
    if excess > 0:  # price the larger total
        bad_counts.append("totalTokenCount")
        if prompt:
            output += excess
        else:
            prompt = excess
    spoken_input = max(audio("promptTokensDetails", prompt) - audio("cacheTokensDetails", cached), 0)
    spoken_input = min(spoken_input, prompt - cached)
    spoken_output = audio("candidatesTokensDetails", output)
    return Usage(
        input_tokens=prompt - cached - spoken_input,
        input_audio_tokens=spoken_input,
        cache_read_tokens=cached,
        output_tokens=output - spoken_output,
        output_audio_tokens=spoken_output,
        reasoning_tokens=thoughts,
        is_inconsistent=bool(bad_counts),
    )


def _is_audio(item: Json) -> bool:
    return isinstance(item, dict) and item.get("modality") == "AUDIO"


# Failures

#: HTTP statuses of google.rpc.Code, for an error inside an answer.
STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
BAD_KEY = re.compile(r"API key (?:not valid|expired|not found)", re.IGNORECASE)
NO_SERVICE = re.compile(r"location|country|region|billing|free tier", re.IGNORECASE)
ACCOUNT = re.compile(r"\b(projects?(?:/|_number:| number:? | ))(?=[\w.:-]*[\d-])[\w.:-]+|\b(projects/)[\w.:-]+")


def read_failure(status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str] = ()) -> UpstreamFault:
    """The fault that an error answer stands for: `{"error": {…}}`, or an array of it."""
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        answer = None
    if isinstance(answer, list) and answer:
        answer = answer[0]
    error = answer.get("error") if isinstance(answer, dict) else None
    return _classify_error(error, status, find_retry_after_s(headers), secrets)


def _classify_error(error: Json, status: int, retry_after_s: float | None, secrets: Iterable[str]) -> UpstreamFault:
    fields: JsonMapping = error if isinstance(error, dict) else {"message": error or ""}
    name = _text(fields.get("status"))
    if status < 400:  # an error inside an answer
        code = fields.get("code")
        status = code if type(code) is int and 400 <= code < 600 else STATUSES.get(name, 500)
    message = _text(fields.get("message"))
    details = fields.get("details")
    details = [item for item in details if isinstance(item, dict)] if isinstance(details, list) else []
    if status == 400 and (
        any(item.get("reason") == "API_KEY_INVALID" for item in details)
        or BAD_KEY.search(message)
        or (name == "FAILED_PRECONDITION" and NO_SERVICE.search(message))
    ):
        status = 401
    if status == 499:  # "cancelled", although the gateway did not cancel
        status = 500
    return classify(
        status,
        message=sanitize(ACCOUNT.sub(lambda match: f"{match[1] or match[2]}***", message), secrets),
        code="insufficient_quota" if any(_is_daily(item) for item in details) else None,
        retry_after_s=_delay_s(details) or retry_after_s,
    )


def _is_daily(detail: JsonMapping) -> bool:
    """True for a QuotaFailure of a daily quota, which does not return within seconds."""
    violations = detail.get("violations")
    return isinstance(violations, list) and any(
        isinstance(item, dict) and "PerDay" in _text(item.get("quotaId")) for item in violations
    )


def _delay_s(details: Iterable[JsonMapping]) -> float | None:
    """The delay of a RetryInfo."""
    for detail in details:
        delay_s = read_duration_s(_text(detail.get("retryDelay")))
        if delay_s is not None:
            return bound_wait_s(delay_s)
    return None


# Through to the client


def relay_stream(call: Call, target: Target, context: AttemptContext) -> StreamRelay:
    decoder = StreamDecoder(context, **_tool_options(call, target))
    return TranslatedRelay(decoder, call.dialect.answer(call, context))


def relay_body(call: Call, target: Target, context: AttemptContext, body: bytes) -> tuple[bytes, AnswerMetadata]:
    events = decode_body(body, context, **_tool_options(call, target))
    return translate_body(events, call.dialect.answer(call, context))


class _ToolOptions(TypedDict):
    """The options by which a decoder reads the tool calls of an answer."""

    tools: Mapping[str, Tool]
    is_single_tool: bool


def _tool_options(call: Call, target: Target) -> _ToolOptions:
    request = call.dialect.chat_request(call)
    return {
        "tools": renamed_tools(request.tools, is_subset=target.capabilities.schema_mode == "openapi_subset"),
        "is_single_tool": target.capabilities.force_single_tool and request.parallel_tools is False,
    }
