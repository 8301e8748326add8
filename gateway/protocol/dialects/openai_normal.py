"""OpenAI's dialect as other servers speak it: requests by the rules of a server's Traits, answers as events.

Used where bytes cannot pass as they are: for a client of another dialect, a server with quirks, and calls or reasoning
that arrive as text. The rules and where they come from: docs/dialects/openai.md.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import orjson

from gateway.protocol.call import Call, Operation
from gateway.protocol.dialect import Facts, StreamRelay
from gateway.protocol.dialects.openai import ANSWERS, PATHS, classify
from gateway.protocol.dialects.openai_models import OpenAIModels
from gateway.protocol.dialects.openai_normal_request import (
    PLAIN,
    WIRE,
    Traits,
    asked_body,
    image_url,
    is_chat_path,
    prepare,
    reads_whole,
    split_stop,
    tells_functions,
    tool_names,
)
from gateway.protocol.dialects.responses_native import PATH as RESPONSES_PATH
from gateway.protocol.dialects.responses_native import NativeRelay, is_native, native_answer, native_body, relay_whole
from gateway.protocol.dialects.stop_cutter import StopCutter
from gateway.protocol.dialects.whole_answer import WholeDecoder
from gateway.protocol.errors import UpstreamFault, harmless_name, sanitize
from gateway.protocol.events import (
    AnnotationAdded,
    Event,
    Finished,
    ImageMade,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.freeform import answer_of
from gateway.protocol.items import Image
from gateway.protocol.moment import Moment
from gateway.protocol.passthrough import EventRelay, body_through, broken, error_in_answer
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.translate import StreamReader, TranslatedRelay, incomplete, translated_body
from gateway.protocol.usage import from_openai

Json = dict[str, Any]
MAX_CALL_ID = 40  # OpenAI refuses longer ones when they come back
MAX_CHOICES = 1024


# What is put between the content and the events, given by the providers: parsers stand above this package.


class TextReader(Protocol):
    def feed(self, text: str) -> list[Event]: ...


class CallReader(TextReader, Protocol):
    @property
    def is_open(self) -> bool: ...

    def finish(self, finish_reason: str) -> list[Event]: ...


class ThinkReader(TextReader, Protocol):
    def finish(self) -> list[Event]: ...


class CallParser(Protocol):
    def open(
        self, tools: frozenset[str], *, new_id: Callable[[], str], parallel: bool = True, choice: int = 0
    ) -> CallReader: ...


# Answers


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers to one call are read."""

    traits: Traits = PLAIN
    parser: CallParser | None = None
    #: For content that repeats the calls as text although the server found them.
    parsers: tuple[CallParser, ...] = ()
    think: Callable[..., ThinkReader] | None = None
    tools: frozenset[str] = frozenset()
    parallel: bool = True
    stop: tuple[str, ...] = ()  # which the server was not told
    choices: int = 1  # that were asked for
    #: Puts a chunk, or a whole answer, right before it is read.
    mend: Callable[[Json], Json] | None = None


FINISH = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
}
#: Finish reasons that say that the answer failed.
FAILED = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})


@dataclass(slots=True)
class _ToolCall:
    id: str
    index: int | None  # None: the call was told already
    arguments: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        try:
            orjson.loads("".join(self.arguments) or "{}")
        except ValueError:
            return False
        return True


class _Choice:
    """One choice of one answer: puts its text through the readers, and its calls in order."""

    def __init__(self, number: int, reading: Reading, new_id: Callable[[], str]) -> None:
        self._number = number
        self._reading = reading
        self._new_id = new_id
        self._think = reading.think(choice=number) if reading.think else None
        self._stop = StopCutter(reading.stop, number) if reading.stop else None
        self._reader: CallReader | None = None
        if reading.parser:
            self.read_calls_with(reading.parser)
        self._calls: list[_ToolCall] = []  # that the server told as such
        self._by_index: dict[int, _ToolCall] = {}
        self._read_indexes: dict[int, int | None] = {}  # of the calls read from text
        self._told = (Counter[str](), Counter[str]())  # names: of the server's calls, and of those in text
        self._ids: set[str] = set()
        self._count = 0
        self.reason = ""

    def read_calls_with(self, parser: CallParser) -> None:
        reading = self._reading
        self._reader = parser.open(reading.tools, new_id=self._new_id, parallel=reading.parallel, choice=self._number)

    def feed(self, delta: Mapping[str, Any]) -> list[Event]:
        events: list[Event] = []
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning and isinstance(reasoning, str):
            events.append(ReasoningDelta(reasoning, choice=self._number))
        content = delta.get("content")
        if content:
            if isinstance(content, str):
                events += self._text(content)
            elif isinstance(content, list):
                events += self._parts(content)
        refusal = delta.get("refusal")
        if refusal and isinstance(refusal, str):
            events.append(RefusalDelta(refusal, choice=self._number))
        images = delta.get("images")
        if isinstance(images, list):
            events += [image for item in images for image in self._image(item)]
        annotations = delta.get("annotations")
        if isinstance(annotations, list):
            events += [AnnotationAdded(item, choice=self._number) for item in annotations if isinstance(item, dict)]
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            for call in calls:
                events += self._call(call)
        elif isinstance(delta.get("function_call"), dict):
            events += self._call({"function": delta["function_call"]})
        return events

    def finish(self, *, is_whole: bool) -> list[Event]:
        """The choice is over. Raises UpstreamFault where nothing says why: a server that gives up ends its stream as
        if it were complete. A whole answer needs no reason, nor does one that ends with a whole call."""
        if (not self.reason and not (is_whole or self._calls)) or not (self.reason or self._is_whole()):
            raise incomplete()
        reason = FINISH.get(self.reason, "stop")
        events = self._answer(self._read(self._think.finish())) if self._think else []
        if self._reader:
            ending = self._reader.finish(reason)
            reason = next(event.reason for event in ending if isinstance(event, Finished))
            events += self._answer([event for event in ending if not isinstance(event, Finished)])
        if self._stop:
            events += self._stop.finish()
            reason = "stop" if self._stop.is_cut else reason
        for call in self._calls:
            if call.index is not None and not "".join(call.arguments).strip():
                events.append(ToolArgumentsDelta(call.index, "{}", choice=self._number))
        if self._count and reason == "stop":
            reason = "tool_calls"
        elif not self._count and reason == "tool_calls":
            reason = "stop"
        events.append(Finished(reason, choice=self._number))
        return events

    def _is_whole(self) -> bool:
        return not (self._reader and self._reader.is_open) and all(call.is_complete for call in self._calls)

    def scored(self, events: list[Event], told: Any) -> list[Event]:
        """The events of a delta with the log probabilities of its tokens, which stand alone where its text is none, or
        is held back by a reader."""
        if not isinstance(told, dict):
            return events
        spoken, refused = _scores(told.get("content")), _scores(told.get("refusal"))
        for place in range(len(events) - 1, -1, -1):
            event = events[place]
            if spoken and isinstance(event, TextDelta):
                events[place], spoken = replace(event, logprobs=spoken), ()
            elif refused and isinstance(event, RefusalDelta):
                events[place], refused = replace(event, logprobs=refused), ()
        if spoken and not (self._stop and self._stop.is_cut):
            events.append(TextDelta("", self._number, spoken))
        return [*events, RefusalDelta("", self._number, refused)] if refused else events

    # Text

    def _image(self, given: Any) -> list[Event]:
        """OpenRouter's way of telling images: each as an `image_url` part."""
        url = image_url(given) if isinstance(given, dict) and "image_url" in given else ""
        return [ImageMade(url, choice=self._number)] if url else []

    def _parts(self, content: list[Any]) -> list[Event]:
        events: list[Event] = []
        for part in content:
            if not isinstance(part, dict):
                continue
            if isinstance(part.get("text"), str):
                events += self._text(part["text"])
            events += self._image(part)
            for thought in part["thinking"] if isinstance(part.get("thinking"), list) else ():
                if isinstance(thought, dict) and isinstance(thought.get("text"), str):
                    events.append(ReasoningDelta(thought["text"], choice=self._number))
        return events

    def _text(self, text: str) -> list[Event]:
        if self._think:
            return self._answer(self._read(self._think.feed(text)))
        if self._reader:
            return self._answer(self._reader.feed(text))
        return self._stop.feed(text) if self._stop else [TextDelta(text, choice=self._number)]

    def _read(self, events: list[Event]) -> list[Event]:
        """Through the parser of calls."""
        if not self._reader:
            return events
        read: list[Event] = []
        for event in events:
            read += self._reader.feed(event.text) if isinstance(event, TextDelta) else [event]
        return read

    def _answer(self, events: list[Event]) -> list[Event]:
        """What text became, as it leaves: calls numbered with the server's own, text up to a stop sequence."""
        left: list[Event] = []
        for event in events:
            if isinstance(event, ToolCallStarted):
                index = self._read_indexes[event.index] = self._number_of(event.name, is_text=True)
                if index is not None:
                    left.append(ToolCallStarted(index, event.id, event.name, choice=self._number))
            elif isinstance(event, ToolArgumentsDelta):
                index = self._read_indexes[event.index]
                if index is not None:
                    left.append(ToolArgumentsDelta(index, event.text, choice=self._number))
            elif isinstance(event, TextDelta) and self._stop:
                left += self._stop.feed(event.text)
            else:
                left.append(event)
        return left

    # Calls

    def _number_of(self, name: str, *, is_text: bool) -> int | None:
        """The next number; None for a call that the other of the two places has told already."""
        own, other = self._told[is_text], self._told[not is_text]
        own[name] += 1
        if own[name] <= other[name]:
            return None
        self._count += 1
        return self._count - 1

    def _call(self, given: Any) -> list[Event]:
        if not isinstance(given, dict):
            return []
        kind = "custom" if isinstance(given.get("custom"), dict) else "function"
        function = given.get(kind)
        function = function if isinstance(function, dict) else {}
        name = function.get("name")
        name = name if isinstance(name, str) else ""
        arguments = function.get("input" if kind == "custom" else "arguments")
        if isinstance(arguments, dict):
            arguments = orjson.dumps(arguments).decode()
        arguments = arguments if isinstance(arguments, str) else ""
        call_id = given.get("id")
        call_id = call_id if isinstance(call_id, str) else ""
        index = given.get("index")
        call = self._find(index, name, call_id)
        events: list[Event] = []
        if call is None:
            if not name:
                if arguments.strip():
                    raise UpstreamFault(
                        "The upstream sent a tool call without a name.",
                        code="upstream_malformed_tool_call",
                        is_retryable=True,
                    )
                return []
            call = _ToolCall(call_id, self._number_of(name, is_text=False))
            self._calls.append(call)
            if type(index) is int:
                self._by_index[index] = call
            if call.index is not None:
                signature = _signature(given)
                shown = self._shown_id(call_id)
                events.append(ToolCallStarted(call.index, shown, name, kind, signature, choice=self._number))
        if arguments:
            call.arguments.append(arguments)
            if call.index is not None:
                events.append(ToolArgumentsDelta(call.index, arguments, choice=self._number))
        return events

    def _find(self, index: Any, name: str, call_id: str) -> _ToolCall | None:
        """The call that a delta goes on with. An index may be missing, or be a tool's position in the list of tools,
        so that two calls share one; a name may be repeated in each delta."""
        if type(index) is int:
            call = self._by_index.get(index)
        else:
            call = self._calls[-1] if self._calls and not name else None
        if call is None or not name:
            return call
        if call_id and call_id == call.id and not self._reading.traits.has_positional_ids:
            return call
        is_over = call.is_complete if call.arguments else bool(call_id)
        return None if is_over else call

    def _shown_id(self, call_id: str) -> str:
        is_usable = 0 < len(call_id) <= MAX_CALL_ID and call_id not in self._ids
        if not is_usable or self._reading.traits.has_positional_ids:
            call_id = self._new_id()
        self._ids.add(call_id)
        return call_id


def _scores(told: Any) -> tuple[Json, ...]:
    return tuple(item for item in told if isinstance(item, dict)) if isinstance(told, list) else ()


def _signature(call: Mapping[str, Any]) -> str:
    """Gemini's thought signature, in Google's own form."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


class AnswerReader:
    """Chunks of an answer, parsed, as events; a whole answer is one chunk."""

    def __init__(self, reading: Reading, moment: Moment) -> None:
        self._reading = reading
        ids = itertools.count()
        self._new_id = lambda: moment.new_id("call_", next(ids))
        self._choices: dict[int, _Choice] = {}
        self._usages: dict[int, Json] = {}
        self._is_started = False

    def feed(self, chunk: Any) -> list[Event]:
        if not isinstance(chunk, dict):
            raise broken("The upstream sent an event that is not a JSON object.")
        if self._reading.mend:
            chunk = self._reading.mend(chunk)
        if chunk.get("error") or chunk.get("object") == "error":
            raise error_in_answer(chunk.get("error") or chunk)
        events: list[Event] = []
        choices = chunk.get("choices")
        choices = choices if isinstance(choices, list) else []
        if choices and not self._is_started:
            self._is_started = True
            known = (value if isinstance(value, str) else "" for value in (chunk.get("id"), chunk.get("model")))
            events.append(Started(*known))
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                events += self._choice(choice, position, is_alone=len(choices) == 1)
        usage = chunk.get("usage")
        if usage and isinstance(usage, dict):
            events += self._usage(usage, choices)
        return events

    def finish(self, *, is_told: bool, is_whole: bool = False) -> list[Event]:
        """The answer is over; `is_told`: the upstream said so; `is_whole`: it came in one piece."""
        if not self._choices or (not is_told and len(self._choices) < self._reading.choices):
            raise incomplete()
        events: list[Event] = []
        for _, choice in sorted(self._choices.items()):
            events += choice.finish(is_whole=is_whole)
        return events

    def _choice(self, given: Json, position: int, *, is_alone: bool) -> list[Event]:
        index = given.get("index")
        number = index if type(index) is int and 0 <= index < MAX_CHOICES else 0 if is_alone else position
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = _Choice(number, self._reading, self._new_id)
        delta = given.get("delta") or given.get("message")
        if not isinstance(delta, dict):
            delta = {"content": given.get("text")}
        elif "message" in given and not self._reading.parser:
            self._look_for_repeated_calls(choice, delta)
        events = choice.feed(delta)
        told = given.get("logprobs")
        if told:
            events = choice.scored(events, told)
        reason = given.get("finish_reason")
        if reason and isinstance(reason, str):
            if reason in FAILED:
                raise broken("The upstream broke its answer off.")
            choice.reason = reason
        return events

    def _look_for_repeated_calls(self, choice: _Choice, message: Json) -> None:
        content, calls = message.get("content"), message.get("tool_calls")
        if not (self._reading.parsers and calls and content) or not isinstance(content, str):
            return
        for parser in self._reading.parsers:
            reader = parser.open(self._reading.tools, new_id=str)
            events = reader.feed(content) + reader.finish("stop")
            if any(isinstance(event, ToolCallStarted) for event in events):
                choice.read_calls_with(parser)
                return

    def _usage(self, raw: Json, choices: list[Any]) -> list[Event]:
        if self._reading.traits.has_usage_by_choice and choices and isinstance(choices[0], dict):
            number = choices[0].get("index")
            self._usages[number if type(number) is int else 0] = raw
            if len(self._usages) > 1:
                completion = [usage.get("completion_tokens") for usage in self._usages.values()]
                total = sum(count for count in completion if type(count) is int)
                raw = {**raw, "completion_tokens": total}
                raw.pop("total_tokens", None)
        usage = from_openai(raw)
        return [UsageReported(usage, raw)] if usage is not None else []


class Decoder(StreamReader):
    """A streamed answer as events."""

    __slots__ = ("_reader", "_splitter")

    def __init__(self, reading: Reading, moment: Moment) -> None:
        super().__init__()
        self._reader = AnswerReader(reading, moment)
        self._splitter = EventSplitter()

    def feed(self, piece: bytes) -> list[Event]:
        return self._events(self._splitter.feed(piece))

    def finish(self) -> list[Event]:
        events = self._events(self._splitter.finish())
        self._raise_held()
        if not self.is_done:  # several servers close without [DONE]
            events += self._reader.finish(is_told=False)
            self.is_done = True
        return events

    def _events(self, received: Iterable[bytes]) -> list[Event]:
        events: list[Event] = []
        try:
            for event in received:
                data = event_data(event)
                if data and not self.is_done:
                    events += self._read(data)
        except UpstreamFault as fault:
            self._hold(fault, events)
        return events

    def _read(self, data: bytes) -> list[Event]:
        if data == b"[DONE]":
            self.is_done = True
            return self._reader.finish(is_told=True)
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise broken("The upstream sent an event that is not JSON.") from None
        return self._reader.feed(chunk)


def decode_body(body: bytes, reading: Reading, moment: Moment) -> list[Event]:
    """A whole answer as events. Raises UpstreamFault for anything else."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UpstreamFault("The upstream's answer is not JSON.") from None
    if not isinstance(answer, dict):
        raise UpstreamFault("The upstream's answer is not a JSON object.")
    if not answer.get("error") and not isinstance(answer.get("choices"), list):
        raise UpstreamFault("The upstream's answer holds no choices.")
    reader = AnswerReader(reading, moment)
    return reader.feed(answer) + reader.finish(is_told=True, is_whole=True)


# Errors


def read_error(body: bytes) -> Mapping[str, Any]:
    """The error object of all the shapes in use: OpenAI's, the same in a list (Google), a bare one, a text with or
    without `error_type`, FastAPI's `detail` as text or as a list."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(answer, list) and answer:
        answer = answer[0]
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    if isinstance(answer.get("message"), str):
        return answer
    detail = answer.get("detail")
    if isinstance(detail, list):
        detail = "; ".join(str(item.get("msg")) for item in detail if isinstance(item, dict) and item.get("msg"))
    return {"message": detail} if isinstance(detail, str) else {}


BAD_KEY = re.compile(r"api key not valid|api_key_invalid|invalid api key", re.IGNORECASE)


def failure(target: Target, status: int, headers: Mapping[str, str], error: Mapping[str, Any]) -> UpstreamFault:
    """The fault that an error object stands for, by the table of docs/errors.md."""
    secrets = [secret.reveal() for secret in target.credential.values()]
    message = str(error.get("message") or "")
    if status == 400 and BAD_KEY.search(message):
        status = 401
    return classify(
        status,
        message=sanitize(message, secrets),
        code=harmless_name(error.get("code"), secrets),
        param=harmless_name(error.get("param"), secrets),
        retry_after=headers.get("retry-after"),
    )


@dataclass(frozen=True, slots=True)
class NormalUpstream(OpenAIModels, PlainProvider):
    """A provider that speaks this dialect in its own way: its traits, and where parsers of text are to be had."""

    name: str
    title: str
    traits: Traits = PLAIN
    aliases: tuple[str, ...] = ()
    default_api_base: str = ""
    needs_api_base: bool = False
    needs_api_key: bool = False
    operations: frozenset[Operation] = field(default=frozenset(Operation))
    parsers: Mapping[str, CallParser] = field(default_factory=dict)  # by the names of `tool_call_parser`
    think: Callable[..., ThinkReader] | None = None
    own_parameters: frozenset[str] = frozenset()
    own_secrets: frozenset[str] = frozenset()
    replays_reasoning: bool = False

    def request(self, call: Call, target: Target, moment: Moment) -> UpstreamRequest:
        headers = {"content-type": "application/json", "accept-encoding": "identity", **target.headers}
        headers |= self.credential_headers(target, moment)
        if is_native(call, target):
            dropped = tuple(sorted(target.learned.intersection(call.body)))
            return UpstreamRequest(self.responses_url(target), headers, native_body(call, target), dropped=dropped)
        traits = self.traits_of(target)
        prepared = prepare(call, target, moment, traits)
        operation = Operation.CHAT if is_chat_path(call, traits) else call.operation
        return UpstreamRequest(
            url=self.url(operation, target),
            headers=headers | self.body_headers(prepared.body),
            body=orjson.dumps(prepared.body),
            dropped=tuple(dict.fromkeys(prepared.dropped)),
        )

    def relay(self, call: Call, target: Target, moment: Moment) -> StreamRelay:
        if is_native(call, target):
            return NativeRelay(native_answer(call))
        if self._passes(call, target):
            return EventRelay(call)
        traits, reading = self.traits_of(target), self.reading(call, target)
        is_whole = reads_whole(asked_body(call, traits), target, traits)
        decoder = (
            WholeDecoder(partial(decode_body, reading=reading, moment=moment)) if is_whole else Decoder(reading, moment)
        )
        return TranslatedRelay(decoder, answer_of(call, moment, is_wrapped=tells_functions(call, traits)))

    def relay_body(
        self, call: Call, target: Target, moment: Moment, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, Facts]:
        if is_native(call, target):
            return relay_whole(native_answer(call), body)
        if self._passes(call, target):
            return body_through(call, body, ANSWERS[call.operation])
        events = decode_body(body, self.reading(call, target), moment)
        is_wrapped = tells_functions(call, self.traits_of(target))
        return translated_body(events, answer_of(call, moment, is_wrapped=is_wrapped))

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        return failure(target, status, headers, read_error(body))

    def wire(self, target: Target) -> str:
        return WIRE

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        return image_addresses(call) if self.traits.inlines_images and not is_native(call, target) else ()

    def token(self, target: Target) -> str:
        return ""

    # What a provider may say otherwise

    def traits_of(self, target: Target) -> Traits:
        return self.traits

    def url(self, operation: Operation, target: Target) -> str:
        return target.api_base + PATHS[operation]

    def has_responses(self, target: Target) -> bool:
        return target.capabilities.responses is True

    def responses_url(self, target: Target) -> str:
        return target.api_base + RESPONSES_PATH

    def credential_headers(self, target: Target, moment: Moment) -> dict[str, str]:
        key = target.credential.get("api_key")
        return {"authorization": f"Bearer {key.reveal()}"} if key else {}

    def body_headers(self, body: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def reading(self, call: Call, target: Target) -> Reading:
        capabilities, traits = target.capabilities, self.traits_of(target)
        body = asked_body(call, traits)
        parser = self.parsers.get(capabilities.tool_call_parser) if body.get("tool_choice") != "none" else None
        return Reading(
            traits=traits,
            parser=parser,
            parsers=tuple(self.parsers.values()) if traits.has_positional_ids else (),
            think=self.think if capabilities.think_tags else None,
            tools=tool_names(body),
            parallel=body.get("parallel_tool_calls") is not False,
            stop=split_stop(body, traits, target.learned)[1],
            choices=body.get("n") or 1,
        )

    def _passes(self, call: Call, target: Target) -> bool:
        """Whether the answer goes to the client as it is: what is no chat, and spoken answers, which events cannot
        carry."""
        if not is_chat_path(call, self.traits_of(target)):
            return True
        if call.dialect.wire != WIRE or call.operation is not Operation.CHAT:
            return False
        if target.capabilities.tool_call_parser or target.capabilities.think_tags:
            return False
        return "audio" in (call.body.get("modalities") or ())


def image_addresses(call: Call) -> tuple[str, ...]:
    """Of images that are not inline."""
    if call.operation is not Operation.CHAT:
        return ()
    if call.dialect.wire == WIRE:
        contents = (message.get("content") for message in call.body["messages"])
        parts = (part for content in contents if isinstance(content, list) for part in content)
        found = [image_url(part) for part in parts if part.get("type") == "image_url"]
    else:
        messages = call.dialect.conversation(call).messages
        found = [part.url for message in messages for part in message.parts if isinstance(part, Image)]
    return tuple(dict.fromkeys(url for url in found if url.startswith(("http://", "https://"))))
