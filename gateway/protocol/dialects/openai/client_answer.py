"""Events → OpenAI's chat and completions answers, streamed and whole.

Source: https://platform.openai.com/docs/api-reference/chat-streaming. Invariants (a test holds them for every
provider): the role stands in a choice's first delta only; a tool call's first delta has its index, id, type and name,
later ones only the index and arguments; one finish reason a choice, after all deltas; usage in a last chunk of its
own, and only where the client asks for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import orjson

from gateway.protocol.call import Call, Operation
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
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.usage import Usage

DONE = b"data: [DONE]\n\n"


#: Token counts of a `prediction`, which only OpenAI's dialect knows. They are billed as output.
PREDICTED = ("accepted_prediction_tokens", "rejected_prediction_tokens")
#: The members beside which OpenAI's `content` is null until there is text.
NO_CONTENT = frozenset({"tool_calls", "refusal"})


def usage_object(usage: Usage, raw: JsonMapping | None = None) -> JsonObject:
    """OpenAI's usage object. A detail of zero appears only where the upstream reports it."""
    raw_input, raw_output = _read_details(raw, "prompt_tokens_details"), _read_details(raw, "completion_tokens_details")
    result: JsonObject = {
        "prompt_tokens": usage.total_input,
        "completion_tokens": usage.total_output,
        "total_tokens": usage.total_input + usage.total_output,
    }
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    prompt = {
        "cached_tokens": usage.cache_read_tokens,
        "cache_creation_tokens": written,
        "audio_tokens": usage.input_audio_tokens,
    }
    completion = {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.output_audio_tokens}
    details: JsonObject = {name: count for name, count in prompt.items() if count or raw_input.get(name) == 0}
    if usage.cache_write_1h_tokens:
        details["cache_creation_token_details"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    if details:
        result["prompt_tokens_details"] = details
    output_details = {name: count for name, count in completion.items() if count or raw_output.get(name) == 0}
    output_details |= {name: raw_output[name] for name in PREDICTED if type(raw_output.get(name)) is int}
    if output_details:
        result["completion_tokens_details"] = output_details
    return result


def billed_usage(usage: Usage, raw: JsonMapping) -> JsonObject | None:
    """The upstream's usage object with the counts that are billed; None where it shows them already."""
    prompt, completion = raw.get("prompt_tokens"), raw.get("completion_tokens") or 0
    if not usage.is_inconsistent and prompt == usage.total_input and completion == usage.total_output:
        return None
    billed = usage_object(usage, raw)
    if usage.is_inconsistent:
        return {**{name: value for name, value in raw.items() if name not in DETAILS}, **billed}
    return {**raw, **billed, **{name: {**_read_details(raw, name), **billed.get(name, {})} for name in DETAILS}}


DETAILS = ("prompt_tokens_details", "completion_tokens_details")


def _read_details(raw: JsonMapping | None, name: str) -> JsonMapping:
    details = (raw or {}).get(name)
    return details if isinstance(details, dict) else {}


@dataclass(slots=True)
class _Choice:
    """The part of a choice that has been encoded so far."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    blocks: list[JsonObject] = field(default_factory=list)
    annotations: list[Json] = field(default_factory=list)
    images: list[Json] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)  # of the text
    refusal_logprobs: list[Json] = field(default_factory=list)
    tool_calls: dict[int, JsonObject] = field(default_factory=dict)
    arguments: dict[int, list[str]] = field(default_factory=dict)  # of the calls
    closed_reasoning: int = 0  # pieces of the reasoning that a signature has closed
    finish: str = ""
    is_begun: bool = False


class ChatAnswer:
    """Encodes the events of one answer. `answer_id` and `created_s` are the same in all that it makes."""

    __slots__ = ("_call", "_choices", "_is_chat", "_usage", "answer_id", "created_s")

    def __init__(self, call: Call, *, answer_id: str, created_s: int) -> None:
        self._call = call
        self._is_chat = call.operation is Operation.CHAT
        self._choices: dict[int, _Choice] = {}
        self._usage: UsageReported | None = None
        self.answer_id = answer_id
        self.created_s = created_s

    # Streamed

    def chunks(self, events: Iterable[Event]) -> bytes:
        return b"".join([self._chunk(event) for event in events])

    def last_chunks(self) -> bytes:
        """Usage, where the client wants it, and the terminal event."""
        if not self._call.include_usage or self._usage is None:
            return DONE
        return self._encoded({"choices": [], "usage": usage_object(self._usage.usage, self._usage.raw)}) + DONE

    def _chunk(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            if event.logprobs:
                return self._delta(event.choice, {"content": event.text}, logprobs=logprobs(content=event.logprobs))
            return self._delta(event.choice, {"content": event.text}) if event.text else b""
        if isinstance(event, ToolArgumentsDelta):
            if not event.text:
                return b""
            return self._delta(
                event.choice, {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}
            )
        if isinstance(event, ToolCallStarted):
            return self._delta(event.choice, {"tool_calls": [{"index": event.index, **tool_call(event)}]})
        if isinstance(event, ReasoningDelta):
            return self._reasoning_delta(event)
        if isinstance(event, RefusalDelta):
            scores = logprobs(refusal=event.logprobs) if event.logprobs else None
            return self._delta(event.choice, {"refusal": event.text}, logprobs=scores)
        if isinstance(event, ImageMade):
            if not self._is_chat:
                return self._delta(event.choice, {"content": event.text})
            images = self._choices.setdefault(event.choice, _Choice()).images
            return self._delta(event.choice, {"images": [_append_numbered(images, image_part(event))]})
        if isinstance(event, AnnotationAdded):
            annotations = self._choices.setdefault(event.choice, _Choice()).annotations
            return self._delta(event.choice, {"annotations": [_append_numbered(annotations, event.annotation)]})
        if isinstance(event, Finished):
            return self._finish(event)
        if isinstance(event, UsageReported):
            self._usage = event
        return b""

    def _reasoning_delta(self, event: ReasoningDelta) -> bytes:
        delta: JsonObject = {}
        if event.text:
            delta["reasoning_content"] = event.text
        block = self._thinking_block(event)
        if block is not None:
            blocks = self._choices[event.choice].blocks
            delta["thinking_blocks"] = [_append_numbered(blocks, block)]
        return self._delta(event.choice, delta) if delta else b""

    def _thinking_block(self, event: ReasoningDelta) -> JsonObject | None:
        """The block that a signature closes, for the client to send back."""
        choice = self._choices.setdefault(event.choice, _Choice())
        choice.reasoning.append(event.text)
        if event.redacted:
            return {"type": "redacted_thinking", "data": event.redacted}
        if not event.signature:
            return None
        block = {"type": "thinking", "thinking": "".join(choice.reasoning), "signature": event.signature}
        choice.reasoning.clear()
        return block

    def _delta(
        self,
        index: int,
        delta: JsonObject,
        finish: str | None = None,
        *,
        logprobs: JsonMapping | None = None,
    ) -> bytes:
        choice = self._choices.setdefault(index, _Choice())
        if not self._is_chat:
            text = delta.get("content") or ""
            return self._encoded(
                {"choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": finish}]}
            )
        if not choice.is_begun:
            choice.is_begun = True
            delta = {"role": "assistant", "content": None if delta.keys() & NO_CONTENT else "", **delta}
        chunk_choice: JsonObject = {"index": index, "delta": delta, "finish_reason": finish}
        if logprobs is not None:
            chunk_choice["logprobs"] = logprobs
        return self._encoded({"choices": [chunk_choice]})

    def _finish(self, event: Finished) -> bytes:
        choice = self._choices.setdefault(event.choice, _Choice())
        if choice.finish:
            return b""
        choice.finish = event.reason
        return self._delta(event.choice, {}, event.reason)

    def _encoded(self, body: JsonObject) -> bytes:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        head = {"id": self.answer_id, "object": kind, "created": self.created_s, "model": self._call.model}
        if self._call.include_usage and "usage" not in body:
            body["usage"] = None
        return b"data: " + orjson.dumps({**head, **body}) + b"\n\n"

    # Whole

    def body(self, events: Iterable[Event]) -> bytes:
        for event in events:
            self._add(event)
        choices = [self._whole(index, choice) for index, choice in sorted(self._choices.items())]
        answer: JsonObject = {
            "id": self.answer_id,
            "object": "chat.completion" if self._is_chat else "text_completion",
            "created": self.created_s,
            "model": self._call.model,
            "choices": choices or [self._whole(0, _Choice(finish="stop"))],
        }
        if self._usage is not None:
            answer["usage"] = usage_object(self._usage.usage, self._usage.raw)
        return orjson.dumps(answer)

    def _add(self, event: Event) -> None:
        if isinstance(event, UsageReported):
            self._usage = event
            return
        if isinstance(event, Started):
            return
        choice = self._choices.setdefault(event.choice, _Choice())
        if isinstance(event, TextDelta):
            choice.text.append(event.text)
            choice.logprobs += event.logprobs
        elif isinstance(event, RefusalDelta):
            choice.refusal.append(event.text)
            choice.refusal_logprobs += event.logprobs
        elif isinstance(event, ImageMade):
            if self._is_chat:
                choice.images.append(image_part(event))
            else:
                choice.text.append(event.text)
        elif isinstance(event, ReasoningDelta):
            self._add_reasoning(choice, event)
        elif isinstance(event, ToolCallStarted):
            choice.tool_calls[event.index] = tool_call(event)
            choice.arguments[event.index] = []
        elif isinstance(event, ToolArgumentsDelta):
            choice.arguments[event.index].append(event.text)
        elif isinstance(event, AnnotationAdded):
            choice.annotations.append(event.annotation)
        else:
            choice.finish = choice.finish or event.reason

    def _add_reasoning(self, choice: _Choice, event: ReasoningDelta) -> None:
        if event.redacted:
            choice.blocks.append({"type": "redacted_thinking", "data": event.redacted})
        elif event.signature:
            open_text = "".join(choice.reasoning[choice.closed_reasoning :]) + event.text
            choice.blocks.append({"type": "thinking", "thinking": open_text, "signature": event.signature})
            choice.closed_reasoning = len(choice.reasoning) + 1
        choice.reasoning.append(event.text)

    def _whole(self, index: int, choice: _Choice) -> JsonObject:
        text = "".join(choice.text)
        if not self._is_chat:
            return {"index": index, "text": text, "logprobs": None, "finish_reason": choice.finish or "stop"}
        has_content = text or not (choice.tool_calls or choice.refusal)
        message: JsonObject = {"role": "assistant", "content": text if has_content else None}
        if choice.refusal:
            message["refusal"] = "".join(choice.refusal)
        if any(choice.reasoning):
            message["reasoning_content"] = "".join(choice.reasoning)
        if choice.blocks:
            message["thinking_blocks"] = choice.blocks
        if choice.annotations:
            message["annotations"] = choice.annotations
        if choice.images:
            message["images"] = choice.images
        if choice.tool_calls:
            message["tool_calls"] = [_whole_call(choice, index) for index in sorted(choice.tool_calls)]
        result: JsonObject = {"index": index, "message": message, "finish_reason": choice.finish or "stop"}
        if choice.logprobs or choice.refusal_logprobs:
            result["logprobs"] = logprobs(choice.logprobs, choice.refusal_logprobs)
        return result


def _whole_call(choice: _Choice, index: int) -> JsonObject:
    call, text = choice.tool_calls[index], "".join(choice.arguments[index])
    kind = call["type"]
    return {**call, kind: {**call[kind], "input" if kind == "custom" else "arguments": text}}


def logprobs(content: Sequence[Json] = (), refusal: Sequence[Json] = ()) -> JsonObject:
    return {"content": content or None, "refusal": refusal or None}


def _append_numbered(items: list[Json], item: JsonMapping) -> JsonObject:
    """Appends the item and returns it with its index, without which OpenAI's client cannot add up a streamed list."""
    items.append(item)
    return {**item, "index": len(items) - 1}


def image_part(event: ImageMade) -> JsonObject:
    """An image in OpenRouter's form (https://openrouter.ai/docs/features/multimodal/image-generation): OpenAI's own
    chat has no place for one."""
    return {"type": "image_url", "image_url": {"url": event.url}}


def tool_call(event: ToolCallStarted) -> JsonObject:
    """The beginning of a tool call, with empty arguments."""
    if event.kind == "custom":
        return {"id": event.id, "type": "custom", "custom": {"name": event.name, "input": ""}}
    call: JsonObject = {
        "id": event.id,
        "type": "function",
        "function": {"name": event.name, "arguments": ""},
    }
    if event.signature:
        call["extra_content"] = {"google": {"thought_signature": event.signature}}
    return call
