"""One choice of an answer in OpenAI's dialect, as events: readers read its text, its calls keep their order.

The rules and where they come from: docs/dialects/openai.md.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import orjson

from gateway.protocol.dialects.openai.upstream_request import PLAIN, Traits, image_url
from gateway.protocol.dialects.shared.stop_sequences import StopCutter
from gateway.protocol.dialects.shared.translate import incomplete, oversized
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import (
    MAX_ARGUMENT_CHARS,
    MAX_TOOL_CALLS,
    AnnotationAdded,
    Event,
    Finished,
    ImageMade,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
)
from gateway.protocol.json.open_text import JsonProgress
from gateway.protocol.json.types import Json, JsonMapping, JsonObject

MAX_CALL_ID = 40  # OpenAI refuses longer ones when they come back
MAX_CHOICES = 1024
MAX_WORD_CHARS = 64  # of arguments that are a number or a word


# Readers between the content and the events. Providers pass them in, because parsers stand above this package.


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


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings for reading the answers to one call."""

    traits: Traits = PLAIN
    parser: CallParser | None = None
    #: For content that repeats as text the calls that the server has parsed.
    parsers: tuple[CallParser, ...] = ()
    think: Callable[..., ThinkReader] | None = None
    tools: frozenset[str] = frozenset()
    parallel: bool = True
    stop: tuple[str, ...] = ()  # the sequences that the server does not look for
    choices: int = 1  # the number that the client asks for
    #: Corrects a chunk, or a whole answer, before it is read.
    fix: Callable[[JsonObject], JsonObject] | None = None


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
#: Finish reasons of answers that failed.
FAILED = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})


@dataclass(slots=True)
class _ToolCall:
    id: str
    index: int | None  # None: the call has been reported already
    is_custom: bool = False  # the input is free text
    progress: JsonProgress = field(default_factory=JsonProgress)
    _pieces: list[str] = field(default_factory=list)  # of the arguments, until they are checked
    _is_valid: bool | None = None  # None: not checked yet

    def add(self, arguments: str) -> None:
        self.progress.feed(arguments)
        if self._is_valid is None:
            self._pieces.append(arguments)
        elif self._is_valid:
            self._is_valid = not arguments.strip()
        if self.progress.size > MAX_ARGUMENT_CHARS:
            raise oversized()

    @property
    def is_complete(self) -> bool:
        """True where the arguments are JSON, or none have come. They are read once: after the end of an object nothing
        can make it valid."""
        if self.is_custom or not self.progress.size:
            return True
        if self.progress.has_ended:
            if self._is_valid is None:
                self._is_valid = _is_json("".join(self._pieces))
                self._pieces.clear()
            return self._is_valid
        return not self.progress.is_open and self.progress.size <= MAX_WORD_CHARS and _is_json("".join(self._pieces))

    @property
    def is_cut(self) -> bool:
        return not self.is_custom and self.progress.is_open


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


class Choice:
    """One choice of one answer: passes its text through the readers and numbers its calls."""

    def __init__(self, number: int, reading: Reading, new_id: Callable[[], str]) -> None:
        self._number = number
        self._reading = reading
        self._new_id = new_id
        self._think = reading.think(choice=number) if reading.think else None
        self._stop = StopCutter(reading.stop, number) if reading.stop else None
        self._reader: CallReader | None = None
        if reading.parser:
            self.read_calls_with(reading.parser)
        self._calls: list[_ToolCall] = []  # as the server reports them
        self._by_index: dict[int, _ToolCall] = {}
        self._read_indexes: dict[int, int | None] = {}  # of the calls read from text
        self._call_names = (Counter[str](), Counter[str]())  # names of the server's calls, and of the calls in text
        self._ids: set[str] = set()
        self._count = 0
        self.reason = ""

    def read_calls_with(self, parser: CallParser) -> None:
        reading = self._reading
        self._reader = parser.open(reading.tools, new_id=self._new_id, parallel=reading.parallel, choice=self._number)

    def feed(self, delta: JsonMapping) -> list[Event]:
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
        """Ends the choice. Raises UpstreamFault where it has no finish reason: a server that gives up ends its stream
        as if it were complete. A whole answer (`is_whole`), or one that ends with a whole call, needs no reason."""
        if (not self.reason and not (is_whole or self._calls)) or not (self.reason or self._is_whole()):
            raise incomplete()
        reason = FINISH.get(self.reason, "stop")
        if reason in {"stop", "tool_calls"} and any(call.is_cut for call in self._calls):
            raise _malformed("The upstream sent a tool call that breaks off.")
        events = self._answer(self._read(self._think.finish())) if self._think else []
        if self._reader:
            ending = self._reader.finish(reason)
            reason = next(event.reason for event in ending if isinstance(event, Finished))
            events += self._answer([event for event in ending if not isinstance(event, Finished)])
        if self._stop:
            events += self._stop.finish()
            reason = "stop" if self._stop.is_cut else reason
        for call in self._calls:
            if call.index is not None and call.progress.is_blank:
                events.append(ToolArgumentsDelta(call.index, "{}", choice=self._number))
        if self._count and reason == "stop":
            reason = "tool_calls"
        elif not self._count and reason == "tool_calls":
            reason = "stop"
        events.append(Finished(reason, choice=self._number))
        return events

    def _is_whole(self) -> bool:
        return not (self._reader and self._reader.is_open) and all(call.is_complete for call in self._calls)

    def add_logprobs(self, events: list[Event], value: Json) -> list[Event]:
        """The events of a delta with the log probabilities of its tokens. These get an event of their own where the
        delta has no text, or a reader holds it back."""
        if not isinstance(value, dict):
            return events
        spoken, refused = _scores(value.get("content")), _scores(value.get("refusal"))
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

    def _image(self, item: Json) -> list[Event]:
        """Images in OpenRouter's form: each is an `image_url` part."""
        url = image_url(item) if isinstance(item, dict) and "image_url" in item else ""
        return [ImageMade(url, choice=self._number)] if url else []

    def _parts(self, content: list[Json]) -> list[Event]:
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
        """The events after the parser of calls has read their text."""
        if not self._reader:
            return events
        read: list[Event] = []
        for event in events:
            read += self._reader.feed(event.text) if isinstance(event, TextDelta) else [event]
        return read

    def _answer(self, events: list[Event]) -> list[Event]:
        """Events read from text: calls numbered along with the server's own, text up to a stop sequence."""
        result: list[Event] = []
        for event in events:
            if isinstance(event, ToolCallStarted):
                index = self._read_indexes[event.index] = self._number_of(event.name, is_text=True)
                if index is not None:
                    result.append(ToolCallStarted(index, event.id, event.name, choice=self._number))
            elif isinstance(event, ToolArgumentsDelta):
                index = self._read_indexes[event.index]
                if index is not None:
                    result.append(ToolArgumentsDelta(index, event.text, choice=self._number))
            elif isinstance(event, TextDelta) and self._stop:
                result += self._stop.feed(event.text)
            else:
                result.append(event)
        return result

    # Calls

    def _number_of(self, name: str, *, is_text: bool) -> int | None:
        """The next number; None for a call that the other of the two sources has reported already."""
        own, other = self._call_names[is_text], self._call_names[not is_text]
        own[name] += 1
        if own[name] <= other[name]:
            return None
        self._count += 1
        return self._count - 1

    def _call(self, item: Json) -> list[Event]:
        if not isinstance(item, dict):
            return []
        kind = "custom" if isinstance(item.get("custom"), dict) else "function"
        function = item.get(kind)
        function = function if isinstance(function, dict) else {}
        name = function.get("name")
        name = name if isinstance(name, str) else ""
        arguments = function.get("input" if kind == "custom" else "arguments")
        if isinstance(arguments, dict):
            try:
                arguments = orjson.dumps(arguments).decode()
            except TypeError:  # orjson limits the depth
                raise _malformed("The upstream sent a tool call that is nested too deeply.") from None
        arguments = arguments if isinstance(arguments, str) else ""
        call_id = item.get("id")
        call_id = call_id if isinstance(call_id, str) else ""
        index = item.get("index")
        call = self._find(index, name, call_id)
        events: list[Event] = []
        if call is None:
            if not name:
                if arguments.strip():
                    raise _malformed("The upstream sent a tool call without a name.")
                return []
            call = _ToolCall(call_id, self._number_of(name, is_text=False), is_custom=kind == "custom")
            self._calls.append(call)
            if len(self._calls) > MAX_TOOL_CALLS:
                raise oversized()
            if type(index) is int:
                self._by_index[index] = call
            if call.index is not None:
                signature = _signature(item)
                client_id = self._client_id(call_id)
                events.append(ToolCallStarted(call.index, client_id, name, kind, signature, choice=self._number))
        if arguments:
            call.add(arguments)
            if call.index is not None:
                events.append(ToolArgumentsDelta(call.index, arguments, choice=self._number))
        return events

    def _find(self, index: Json, name: str, call_id: str) -> _ToolCall | None:
        """The call that a delta continues. An index may be missing, or be a tool's position in the list of tools, so
        that two calls share it; each delta may repeat the name."""
        if type(index) is int:
            call = self._by_index.get(index)
        else:
            call = self._calls[-1] if self._calls and not name else None
        if call is None or not name:
            return call
        if call_id and call_id == call.id and not self._reading.traits.has_positional_ids:
            return call
        is_over = call.is_complete if call.progress.size else bool(call_id)
        return None if is_over else call

    def _client_id(self, call_id: str) -> str:
        is_usable = 0 < len(call_id) <= MAX_CALL_ID and call_id not in self._ids
        if not is_usable or self._reading.traits.has_positional_ids:
            call_id = self._new_id()
        self._ids.add(call_id)
        return call_id


def _malformed(message: str) -> UpstreamFault:
    return UpstreamFault(message, code="upstream_malformed_tool_call", is_retryable=True)


def _scores(value: Json) -> tuple[JsonObject, ...]:
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _signature(call: JsonMapping) -> str:
    """Gemini's thought signature, in Google's own form."""
    extra = call.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""
