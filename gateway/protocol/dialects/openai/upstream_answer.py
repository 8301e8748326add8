"""OpenAI's dialect as other servers speak it: requests by the rules of a server's Traits, answers as events.

Used where bytes cannot pass as they are: for a client of another dialect, a server with quirks, and calls or reasoning
that arrive as text. The rules and where they come from: docs/dialects/openai.md.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import orjson

from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.gemini import upstream_answer as gemini_answer
from gateway.protocol.dialects.openai.model_list import OpenAIModels
from gateway.protocol.dialects.openai.passthrough import EventRelay, broken, relay_whole_body
from gateway.protocol.dialects.openai.upstream_choice import (
    FAILED,
    MAX_CHOICES,
    CallParser,
    Choice,
    Reading,
    ThinkReader,
)
from gateway.protocol.dialects.openai.upstream_request import (
    PLAIN,
    Traits,
    image_url,
    is_chat_path,
    needs_whole_answer,
    prepare,
    request_body,
    sends_functions,
    split_stop,
    tool_names,
)
from gateway.protocol.dialects.openai.wire import ANSWERS, PATHS, WIRE
from gateway.protocol.dialects.responses.dialect import native_dialect
from gateway.protocol.dialects.responses.upstream import PATH as RESPONSES_PATH
from gateway.protocol.dialects.responses.upstream import NativeRelay, relay_whole
from gateway.protocol.dialects.shared.translate import StreamReader, TranslatedRelay, incomplete, translate_body
from gateway.protocol.dialects.shared.whole_answer import WholeDecoder
from gateway.protocol.error_classes import classify, error_in_answer
from gateway.protocol.errors import UpstreamFault, harmless_name, sanitize
from gateway.protocol.events import Event, Started, ToolCallStarted, UsageReported
from gateway.protocol.freeform import answer_encoder
from gateway.protocol.items import Image
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest
from gateway.protocol.retry_after import find_retry_after_s
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.usage import from_openai


class AnswerReader:
    """Turns the parsed chunks of an answer into events. A whole answer is one chunk."""

    def __init__(self, reading: Reading, context: AttemptContext) -> None:
        self._reading = reading
        ids = itertools.count()
        self._new_id = lambda: context.new_id("call_", next(ids))
        self._choices: dict[int, Choice] = {}
        self._usages: dict[int, JsonObject] = {}
        self._is_started = False
        self._is_counted = False  # the last usage has come: the answer is complete

    def feed(self, chunk: Json) -> list[Event]:
        if not isinstance(chunk, dict):
            first = chunk[0] if isinstance(chunk, list) and chunk else None
            if isinstance(first, dict) and first.get("error"):  # Google's form of an error
                raise error_in_answer(first["error"])
            raise broken("The upstream sent an event that is not a JSON object.")
        if self._reading.fix:
            chunk = self._reading.fix(chunk)
        if chunk.get("error") or chunk.get("object") == "error":
            raise error_in_answer(chunk.get("error") or chunk)
        events: list[Event] = []
        choices = chunk.get("choices")
        choices = choices if isinstance(choices, list) else []
        if choices and not self._is_started:
            self._is_started = True
            upstream_id, model = chunk.get("id"), chunk.get("model")
            events.append(
                Started(
                    upstream_id if isinstance(upstream_id, str) else "",
                    model if isinstance(model, str) else "",
                )
            )
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                events += self._choice(choice, position, is_alone=len(choices) == 1)
        usage = chunk.get("usage")
        if usage and isinstance(usage, dict):
            tier = chunk.get("service_tier")
            events += self._usage(usage, choices, tier if isinstance(tier, str) else "")
            self._is_counted = not choices and bool(self._choices)
        elif choices:
            self._is_counted = False
        return events

    def finish(self, *, is_complete: bool, is_whole: bool = False) -> list[Event]:
        """Ends the answer. `is_complete`: the upstream has said so; `is_whole`: the answer came in one piece. A stream
        counts as whole once its last usage has come."""
        if not self._choices or (not is_complete and len(self._choices) < self._reading.choices):
            raise incomplete()
        events: list[Event] = []
        for _, choice in sorted(self._choices.items()):
            events += choice.finish(is_whole=is_whole or self._is_counted)
        return events

    def _choice(self, choice_object: JsonObject, position: int, *, is_alone: bool) -> list[Event]:
        index = choice_object.get("index")
        number = index if type(index) is int and 0 <= index < MAX_CHOICES else 0 if is_alone else position
        choice = self._choices.get(number)
        if choice is None:
            if number >= MAX_CHOICES:
                raise broken("The upstream sent too many choices.")
            choice = self._choices[number] = Choice(number, self._reading, self._new_id)
        delta = choice_object.get("delta") or choice_object.get("message")
        if not isinstance(delta, dict):
            delta = {"content": choice_object.get("text")}
        elif "message" in choice_object and not self._reading.parser:
            self._look_for_repeated_calls(choice, delta)
        events = choice.feed(delta)
        scores = choice_object.get("logprobs")
        if scores:
            events = choice.add_logprobs(events, scores)
        reason = choice_object.get("finish_reason")
        if reason and isinstance(reason, str):
            if reason in FAILED:
                raise broken("The upstream broke its answer off.")
            choice.reason = reason
        return events

    def _look_for_repeated_calls(self, choice: Choice, message: JsonObject) -> None:
        content, calls = message.get("content"), message.get("tool_calls")
        if not (self._reading.parsers and calls and content) or not isinstance(content, str):
            return
        for parser in self._reading.parsers:
            reader = parser.open(self._reading.tools, new_id=str)
            events = reader.feed(content) + reader.finish("stop")
            if any(isinstance(event, ToolCallStarted) for event in events):
                choice.read_calls_with(parser)
                return

    def _usage(self, raw: JsonObject, choices: list[Json], tier: str) -> list[Event]:
        if self._reading.traits.has_usage_by_choice and choices and isinstance(choices[0], dict):
            number = choices[0].get("index")
            self._usages[number if type(number) is int and 0 <= number < MAX_CHOICES else 0] = raw
            if len(self._usages) > 1:
                completion = [usage.get("completion_tokens") for usage in self._usages.values()]
                total = sum(count for count in completion if type(count) is int)
                raw = {**raw, "completion_tokens": total}
                raw.pop("total_tokens", None)
        usage = from_openai(raw)
        return [UsageReported(usage, raw, tier)] if usage is not None else []


class Decoder(StreamReader):
    """A streamed answer as events."""

    __slots__ = ("_reader", "_splitter")

    def __init__(self, reading: Reading, context: AttemptContext) -> None:
        super().__init__()
        self._reader = AnswerReader(reading, context)
        self._splitter = EventSplitter()

    def feed(self, piece: bytes) -> list[Event]:
        return self._events(self._splitter.feed(piece))

    def finish(self) -> list[Event]:
        events = self._events(self._splitter.finish())
        self._raise_fault()
        if not self.is_done:  # several servers close without [DONE]
            events += self._reader.finish(is_complete=False)
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
            self._defer_fault(fault, events)
        return events

    def _read(self, data: bytes) -> list[Event]:
        if data == b"[DONE]":
            self.is_done = True
            return self._reader.finish(is_complete=True)
        try:
            chunk = load_answer(data)
        except orjson.JSONDecodeError:
            raise broken("The upstream sent an event that is not JSON.") from None
        return self._reader.feed(chunk)


def decode_body(body: bytes, reading: Reading, context: AttemptContext) -> list[Event]:
    """A whole answer as events. Raises UpstreamFault for anything else."""
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        raise UpstreamFault("The upstream's answer is not JSON.") from None
    if not isinstance(answer, dict):
        raise UpstreamFault("The upstream's answer is not a JSON object.")
    if not answer.get("error") and not isinstance(answer.get("choices"), list):
        raise UpstreamFault("The upstream's answer holds no choices.")
    reader = AnswerReader(reading, context)
    return reader.feed(answer) + reader.finish(is_complete=True, is_whole=True)


# Errors


def read_error(body: bytes) -> JsonMapping:
    """The error object of an error answer in any shape in use: OpenAI's, the same in a list (Google), a bare one, a
    text with or without `error_type`, FastAPI's `detail` as text or as a list."""
    try:
        answer = load_answer(body)
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


def failure(target: Target, status: int, headers: Mapping[str, str], error: JsonMapping) -> UpstreamFault:
    """The fault that an error object stands for, by the table of docs/errors.md."""
    secrets = target.reveal_secrets()
    message = sanitize(str(error.get("message") or ""), secrets)
    if status == 200:
        return error_in_answer({**error, "message": message})
    if status == 400 and BAD_KEY.search(message):
        status = 401
    return classify(
        status,
        message=message,
        code=harmless_name(error.get("code"), secrets),
        param=harmless_name(error.get("param"), secrets),
        retry_after_s=find_retry_after_s(headers),
    )


def failure_of(target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
    """The fault that an error answer stands for. Google's errors say more in their details."""
    error = read_error(body)
    name = error.get("status")
    if isinstance(name, str) and name.isupper() and b'"error"' in body:
        return gemini_answer.read_failure(status, headers, body, target.reveal_secrets())
    return failure(target, status, headers, error)


@dataclass(frozen=True, slots=True)
class OpenAITranslated(OpenAIModels, PlainProvider):
    """A provider whose server speaks this dialect in its own way, as its traits say.

    `parsers` and `think` read tool calls and thoughts out of text."""

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

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        headers = {"content-type": "application/json", "accept-encoding": "identity", **target.headers}
        headers |= self.credential_headers(target, context)
        native = native_dialect(call, target)
        if native is not None:
            dropped = tuple(sorted(target.unsupported_parameters.intersection(call.body)))
            return UpstreamRequest(
                self.responses_url(target), headers, native.native_body(call, target), dropped=dropped
            )
        traits = self.traits_of(target)
        prepared = prepare(call, target, context, traits)
        operation = Operation.CHAT if is_chat_path(call, traits) else call.operation
        return UpstreamRequest(
            url=self.url(operation, target),
            headers=headers | self.body_headers(prepared.body),
            body=orjson.dumps(prepared.body),
            dropped=tuple(dict.fromkeys(prepared.dropped)),
        )

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        native = native_dialect(call, target)
        if native is not None:
            return NativeRelay(native.native_answer)
        if self._passes(call, target):
            return EventRelay(call)
        traits, reading = self.traits_of(target), self.reading(call, target)
        is_whole = needs_whole_answer(request_body(call, traits), target, traits)
        decoder = (
            WholeDecoder(partial(decode_body, reading=reading, context=context))
            if is_whole
            else Decoder(reading, context)
        )
        return TranslatedRelay(decoder, answer_encoder(call, context, is_wrapped=sends_functions(call, traits)))

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        native = native_dialect(call, target)
        if native is not None:
            return relay_whole(native.native_answer, body)
        if self._passes(call, target):
            return relay_whole_body(call, body, ANSWERS[call.operation])
        events = decode_body(body, self.reading(call, target), context)
        is_wrapped = sends_functions(call, self.traits_of(target))
        return translate_body(events, answer_encoder(call, context, is_wrapped=is_wrapped))

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        return failure_of(target, status, headers, body)

    def wire(self, target: Target) -> str:
        return WIRE

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        is_inlined = self.traits.inlines_images and native_dialect(call, target) is None
        return image_addresses(call) if is_inlined else ()

    def token(self, target: Target) -> str:
        return ""

    # Methods that providers override

    def traits_of(self, target: Target) -> Traits:
        return self.traits

    def url(self, operation: Operation, target: Target) -> str:
        return target.api_base + PATHS[operation]

    def has_responses(self, target: Target) -> bool:
        return target.capabilities.responses is True

    def responses_url(self, target: Target) -> str:
        return target.api_base + RESPONSES_PATH

    def credential_headers(self, target: Target, context: AttemptContext) -> dict[str, str]:
        key = target.credential.get("api_key")
        return {"authorization": f"Bearer {key.reveal()}"} if key else {}

    def body_headers(self, body: JsonMapping) -> dict[str, str]:
        return {}

    def reading(self, call: Call, target: Target) -> Reading:
        capabilities, traits = target.capabilities, self.traits_of(target)
        body = request_body(call, traits)
        parser = self.parsers.get(capabilities.tool_call_parser) if body.get("tool_choice") != "none" else None
        return Reading(
            traits=traits,
            parser=parser,
            parsers=tuple(self.parsers.values()) if traits.has_positional_ids else (),
            think=self.think if capabilities.think_tags else None,
            tools=tool_names(body),
            parallel=body.get("parallel_tool_calls") is not False,
            stop=split_stop(body, traits, target.unsupported_parameters)[1],
            choices=body.get("n") or 1,
        )

    def _passes(self, call: Call, target: Target) -> bool:
        """True where the answer goes to the client unchanged: any but a chat, and spoken answers, which events cannot
        carry."""
        if not is_chat_path(call, self.traits_of(target)):
            return True
        if call.dialect.wire != WIRE or call.operation is not Operation.CHAT:
            return False
        if target.capabilities.tool_call_parser or target.capabilities.think_tags:
            return False
        return "audio" in (call.body.get("modalities") or ())


def image_addresses(call: Call) -> tuple[str, ...]:
    """The addresses of the images that are not inline."""
    if call.operation is not Operation.CHAT:
        return ()
    if call.dialect.wire == WIRE:
        contents = (message.get("content") for message in call.body["messages"])
        parts = (part for content in contents if isinstance(content, list) for part in content)
        urls = [image_url(part) for part in parts if part.get("type") == "image_url"]
    else:
        messages = call.dialect.chat_request(call).messages
        urls = [part.url for message in messages for part in message.parts if isinstance(part, Image)]
    return tuple(dict.fromkeys(url for url in urls if url.startswith(("http://", "https://"))))
