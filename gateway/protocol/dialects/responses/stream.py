"""The state machine that turns events into a response of OpenAI's Responses API, both its stream and its object.

Every translated answer passes it. It keeps the order of the Responses event stream: created [queued] in_progress, then
for each item `output_item.added`, the parts and texts of the item, `output_item.done`, and last one terminal event. A
message or reasoning item ends before the next item begins. A call ends there too once its arguments are a whole JSON
object; else it stays open beside later items, because an upstream may interleave parallel calls. `output_index` says
which item an event belongs to. An item gets its id when it begins. Choices other than 0 are dropped: the API has no
place for them.

Source: the event and item types of the `openai` package (openai.types.responses), Open Responses specification.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import assert_never

import orjson

from gateway.protocol.dialects.responses.items import PRIVATE, strip_private
from gateway.protocol.dialects.responses.seal import Seal
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
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.usage import NO_USAGE, Usage, estimate_tokens

NO_NAMESPACES: Mapping[str, tuple[str, str]] = {}

EMPTY_ANSWER = "The upstream's answer was empty."
#: {finish reason of an answer that is cut short: its name in `incomplete_details`}
INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
COMPLETE_REASONS = frozenset({"stop", "tool_calls", "function_call"})
IMAGE_FORMATS = {
    "image/png": "png",
    "image/webp": "webp",
    "image/jpeg": "jpeg",
    "image/gif": "gif",
    "image/svg+xml": "svg",
}


def encode_frame(event: JsonObject) -> bytes:
    """An event on the wire. The caller writes it at once: some clients lose an event that is split."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


def usage_object(usage: Usage) -> JsonObject:
    return {
        "input_tokens": usage.total_input,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.total_output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_input + usage.total_output,
    }


def new_response(head: JsonMapping) -> JsonObject:
    """A response in progress, without output. `head`: the members that do not change."""
    first = {name: head[name] for name in ("id", "object", "created_at") if name in head}
    state = {"status": "in_progress", "completed_at": None, "error": None, "incomplete_details": None}
    return {**first, **state, **head, **state, "output": [], "usage": None}


def flatten_annotation(annotation: JsonMapping, offset: int = 0) -> JsonObject:
    """An annotation with its fields beside its type; Chat Completions nest them under the type. Its indexes count from
    the start of the whole answer, and become relative to the part that starts `offset` characters later."""
    kind = annotation.get("type") or ("url_citation" if "url_citation" in annotation else "")
    nested = annotation.get(kind)
    flat: JsonObject = {"type": kind, **(nested if isinstance(nested, Mapping) else annotation)}
    if kind == "url_citation":
        flat["url"], flat["title"] = str(flat.get("url") or ""), str(flat.get("title") or "")
        for name in ("start_index", "end_index"):
            position = flat.get(name)
            flat[name] = max(0, position - offset) if type(position) is int else 0
    return flat


class _EventBuffer:
    """The events that the caller has not taken yet, and the number of the next one."""

    __slots__ = ("events", "number")

    def __init__(self) -> None:
        self.events: list[JsonObject] = []
        self.number = 0

    def add(self, kind: str, members: JsonObject) -> None:
        self.events.append({"type": kind, "sequence_number": self.number, **members})
        self.number += 1

    def drain(self) -> list[JsonObject]:
        events, self.events = self.events, []
        return events


class _StreamedText:
    """A text that the client gets in deltas and then whole: `{stem}.delta`…, `{stem}.done`."""

    __slots__ = ("_buffer", "_delta_template", "_member", "_place", "_stem", "deltas", "logprobs")

    def __init__(
        self, buffer: _EventBuffer, stem: str, member: str, place: JsonObject, *, has_logprobs: bool = False
    ) -> None:
        self.deltas: list[str] = []
        self.logprobs: list[JsonMapping] | None = [] if has_logprobs else None
        self._buffer = buffer
        self._stem = stem
        self._member = member
        self._place = place
        # A copy of this template is the fastest way to make a delta, the most frequent event.
        self._delta_template: JsonObject = {"type": f"{stem}.delta", "sequence_number": 0, **place, "delta": ""}
        if has_logprobs:
            self._delta_template["logprobs"] = []

    def append(self, text: str) -> None:
        buffer = self._buffer
        event = self._delta_template.copy()
        event["sequence_number"] = buffer.number
        event["delta"] = text
        buffer.number += 1
        buffer.events.append(event)
        self.deltas.append(text)

    def append_with_logprobs(self, text: str, logprobs: Sequence[JsonMapping]) -> None:
        self.append(text)
        self._buffer.events[-1]["logprobs"] = list(logprobs)
        self.add_logprobs(logprobs)

    def add_logprobs(self, logprobs: Sequence[JsonMapping]) -> None:
        """Adds log probabilities to the whole text, not to a delta."""
        if self.logprobs is not None:
            self.logprobs.extend(logprobs)

    def value(self) -> str:
        return "".join(self.deltas)

    def end(self) -> str:
        text = self.value()
        done = {**self._place, self._member: text}
        if self.logprobs is not None:
            done["logprobs"] = self.logprobs
        self._buffer.add(f"{self._stem}.done", done)
        return text


class _Part:
    """An open part: of a message's content, or of the content or the summary of reasoning."""

    __slots__ = ("_buffer", "_place", "_stem", "annotations", "kind", "text")

    def __init__(self, buffer: _EventBuffer, kind: str, item_id: str, output_index: int, number: int) -> None:
        self.kind = kind  # output_text | refusal | reasoning_text | summary_text
        self.annotations: list[JsonObject] = []
        self._buffer = buffer
        self._stem, index, stem = "response.content_part", "content_index", f"response.{kind}"
        if kind == "summary_text":
            self._stem, index = "response.reasoning_summary_part", "summary_index"
            stem = "response.reasoning_summary_text"
        self._place: JsonObject = {"item_id": item_id, "output_index": output_index, index: number}
        member = "refusal" if kind == "refusal" else "text"
        self.text = _StreamedText(buffer, stem, member, self._place, has_logprobs=kind == "output_text")
        buffer.add(f"{self._stem}.added", {**self._place, "part": self.snapshot()})

    def annotate(self, annotation: JsonObject) -> None:
        members = {**self._place, "annotation_index": len(self.annotations), "annotation": annotation}
        self._buffer.add("response.output_text.annotation.added", members)
        self.annotations.append(annotation)

    def snapshot(self) -> JsonObject:
        return self._render(self.text.value())

    def end(self) -> JsonObject:
        part = self._render(self.text.end())
        self._buffer.add(f"{self._stem}.done", {**self._place, "part": part})
        return part

    def _render(self, text: str) -> JsonObject:
        if self.kind != "output_text":
            return {"type": self.kind, "refusal" if self.kind == "refusal" else "text": text}
        logprobs = list(self.text.logprobs or ())
        return {"type": self.kind, "annotations": list(self.annotations), "logprobs": logprobs, "text": text}


class _OutputItem(ABC):
    """An output item from its `added` event on. `done`: the item of its `done` event."""

    __slots__ = ("_buffer", "done", "id", "index")

    def __init__(self, buffer: _EventBuffer, item_id: str, index: int) -> None:
        self.id = item_id
        self.index = index
        self.done: JsonObject | None = None
        self._buffer = buffer

    def start(self) -> None:
        item = strip_private(self.snapshot("in_progress"))
        self._buffer.add("response.output_item.added", {"output_index": self.index, "item": item})

    def end(self, status: str) -> None:
        self.done = self.snapshot(status)
        item = strip_private(self.done)
        self._buffer.add("response.output_item.done", {"output_index": self.index, "item": item})

    @abstractmethod
    def snapshot(self, status: str) -> JsonObject:
        """The item as it is now, its private member included."""


class _ContentItem(_OutputItem):
    """An item that consists of parts."""

    __slots__ = ("content", "part")

    def __init__(self, buffer: _EventBuffer, item_id: str, index: int) -> None:
        super().__init__(buffer, item_id, index)
        self.content: list[JsonObject] = []
        self.part: _Part | None = None

    def open_part(self, kind: str) -> _Part:
        self.part = _Part(self._buffer, kind, self.id, self.index, len(self.content))
        return self.part

    def close_part(self) -> None:
        if self.part is not None:
            self.content.append(self.part.end())
            self.part = None

    def end(self, status: str) -> None:
        self.close_part()
        super().end(status)

    def content_snapshot(self) -> list[JsonObject]:
        return [*self.content, self.part.snapshot()] if self.part is not None else list(self.content)


class _MessageItem(_ContentItem):
    __slots__ = ()

    def snapshot(self, status: str) -> JsonObject:
        content = self.content_snapshot()
        return {"id": self.id, "type": "message", "status": status, "content": content, "role": "assistant"}


class _ReasoningItem(_ContentItem):
    """`is_summary`: the parts are its summary, else its content. `sealed`: the provider's state, sealed."""

    __slots__ = ("is_summary", "sealed")

    def __init__(self, buffer: _EventBuffer, item_id: str, index: int, *, is_summary: bool) -> None:
        super().__init__(buffer, item_id, index)
        self.is_summary = is_summary
        self.sealed = ""

    def append(self, text: str) -> None:
        part = self.part or self.open_part("summary_text" if self.is_summary else "reasoning_text")
        part.text.append(text)

    def snapshot(self, status: str) -> JsonObject:
        parts = self.content_snapshot()
        texts: JsonObject = {"summary": parts} if self.is_summary else {"summary": [], "content": parts}
        item: JsonObject = {"id": self.id, "type": "reasoning", **texts}
        if self.sealed:
            item["encrypted_content"] = self.sealed
        item["status"] = status
        return item


class _CallItem(_OutputItem):
    """`call_fields`: the call id and the tool's names."""

    __slots__ = ("_fields", "_is_custom", "_member", "_private", "text")

    def __init__(
        self,
        buffer: _EventBuffer,
        item_id: str,
        index: int,
        started: ToolCallStarted,
        call_fields: JsonObject,
        origin: str,
    ) -> None:
        super().__init__(buffer, item_id, index)
        self._is_custom = started.kind == "custom"
        self._member = "input" if self._is_custom else "arguments"
        self._fields = call_fields
        self._private = {"origin": origin, "signature": started.signature} if started.signature else None
        stem = "response.custom_tool_call_input" if self._is_custom else "response.function_call_arguments"
        self.text = _StreamedText(buffer, stem, self._member, {"item_id": item_id, "output_index": index})

    def snapshot(self, status: str) -> JsonObject:
        item: JsonObject = {
            "id": self.id,
            "type": "custom_tool_call" if self._is_custom else "function_call",
            "status": status,
            self._member: self.text.value(),
            **self._fields,
        }
        if self._private is not None:
            item[PRIVATE] = self._private
        return item

    def end(self, status: str) -> None:
        if status == "completed" and not self._is_custom and not self.text.value().strip():
            self.text.append("{}")  # clients parse the arguments
        self.text.end()
        super().end(status)

    def is_whole(self) -> bool:
        """True once the arguments are a JSON object. The input of a custom tool has no such end."""
        text = "" if self._is_custom else self.text.value()
        if not text.lstrip().startswith("{"):
            return False
        try:
            orjson.loads(text)
        except ValueError:
            return False
        return True


class _ImageItem(_OutputItem):
    __slots__ = ("_format", "_result")

    def __init__(self, buffer: _EventBuffer, item_id: str, index: int, result: str, media_type: str) -> None:
        super().__init__(buffer, item_id, index)
        self._result = result
        self._format = IMAGE_FORMATS.get(media_type)

    def snapshot(self, status: str) -> JsonObject:
        result = self._result if status == "completed" else None
        item: JsonObject = {"id": self.id, "type": "image_generation_call", "status": status, "result": result}
        if self._format is not None:
            item["output_format"] = self._format
        return item

    def end(self, status: str) -> None:
        for phase in ("in_progress", "generating", "completed"):
            members: JsonObject = {"output_index": self.index, "item_id": self.id}
            self._buffer.add(f"response.image_generation_call.{phase}", members)
        super().end(status)


class ResponseStream:
    """One response. A complete answer without a reported usage gets an estimated one, of `input_estimate` input
    tokens."""

    __slots__ = (
        "_are_items_closed",
        "_buffer",
        "_calls",
        "_finish_reason",
        "_items",
        "_latest_call",
        "_members",
        "_namespaces",
        "_new_id",
        "_open_item",
        "_open_text",
        "_origin",
        "_pending_annotations",
        "_pending_logprobs",
        "_reasoning_as_summary",
        "_seal",
        "_text_offset",
        "_usage",
        "_used_call_ids",
        "input_estimate",
        "is_ended",
        "is_open",
    )

    def __init__(
        self,
        head: JsonObject,
        new_id: Callable[[str], str],
        *,
        origin: str = "",
        seal: Seal | None = None,
        input_estimate: int = 0,
        reasoning_as_summary: bool = False,
        used_call_ids: Iterable[str] = (),
        namespaces: Mapping[str, tuple[str, str]] = NO_NAMESPACES,
    ) -> None:
        """`head`: the members that do not change: id, object, created_at, model and the echo of the request.
        `new_id("msg_")` makes a fresh id. `origin`: the deployment that answers. `seal`: without it the provider's
        reasoning state is dropped. `reasoning_as_summary`: the client gets reasoning as a summary. `used_call_ids`: the
        call ids of the conversation so far; some servers repeat theirs in each answer, and some clients refuse that.
        `namespaces`: the tools that have another name at the upstream, {that name: (namespace, name)}."""
        self.is_open = False
        self.is_ended = False
        self.input_estimate = input_estimate
        self._members = new_response(head)
        self._new_id = new_id
        self._origin = origin
        self._seal = seal
        self._reasoning_as_summary = reasoning_as_summary
        self._used_call_ids = set(used_call_ids)
        self._namespaces = namespaces
        self._buffer = _EventBuffer()
        self._items: list[_OutputItem] = []
        self._open_item: _MessageItem | _ReasoningItem | None = None
        self._open_text: _StreamedText | None = None  # of the open output_text part
        self._calls: dict[int, _CallItem] = {}
        self._latest_call: _CallItem | None = None  # None once another item has begun
        self._pending_annotations: list[JsonMapping] = []  # for the next output_text part
        self._pending_logprobs: list[JsonMapping] = []  # for the next delta
        self._text_offset = 0  # characters of text before the open part
        self._finish_reason: str | None = None
        self._are_items_closed = False
        self._usage: Usage | None = None

    @property
    def response(self) -> JsonObject:
        """The whole object as it is now. Its items have their private members."""
        output = [item.done if item.done is not None else item.snapshot("in_progress") for item in self._items]
        return {**self._members, "output": output}

    def open(self, *, is_queued: bool = False) -> list[JsonObject]:
        self._open(is_queued)
        return self._buffer.drain()

    def feed(self, events: Iterable[Event]) -> list[JsonObject]:
        if self.is_ended:
            return []
        for event in events:
            if (  # the most frequent event by far
                isinstance(event, TextDelta)
                and self._open_text is not None
                and event.text
                and not (event.choice or event.logprobs or self._pending_logprobs)
            ):
                self._open_text.append(event.text)
                continue
            if not self.is_open:
                self._open()
            if isinstance(event, UsageReported):
                if event.usage != NO_USAGE:
                    self._usage = event.usage
            elif not isinstance(event, Started) and not event.choice and self._finish_reason is None:
                self._add(event)
        return self._buffer.drain()

    def complete(self, at_s: int) -> list[JsonObject]:
        """The events that end the answer. One without content and without a known finish reason has failed."""
        if self.is_ended:
            return []
        if not self._items and self._finish_reason not in INCOMPLETE_REASONS.keys() | COMPLETE_REASONS:
            return self.fail("server_error", EMPTY_ANSWER)
        self._open()
        self._close(is_cut=False, needs_message=True)
        self._members["usage"] = usage_object(self._usage if self._usage is not None else self._estimate_usage())
        if self._finish_reason in INCOMPLETE_REASONS:
            self._members["incomplete_details"] = {"reason": INCOMPLETE_REASONS[self._finish_reason]}
            return self._end("incomplete", "response.incomplete")
        self._members["completed_at"] = at_s
        return self._end("completed", "response.completed")

    def fail(self, code: str, message: str) -> list[JsonObject]:
        if self.is_ended:
            return []
        self._interrupt()
        self._members["error"] = {"code": code, "message": message}
        return self._end("failed", "response.failed")

    def cancel(self) -> list[JsonObject]:
        """The API has no event `response.cancelled`; the terminal event is `response.incomplete`."""
        if self.is_ended:
            return []
        self._interrupt()
        return self._end("cancelled", "response.incomplete")

    # Begin and end

    def _open(self, is_queued: bool = False) -> None:
        if self.is_open:
            return
        self.is_open = True
        if is_queued:
            self._members["status"] = "queued"
            self._buffer.add("response.created", {"response": self._render_response()})
            self._buffer.add("response.queued", {"response": self._render_response()})
            self._members["status"] = "in_progress"
        else:
            self._buffer.add("response.created", {"response": self._render_response()})
        self._buffer.add("response.in_progress", {"response": self._render_response()})

    def _render_response(self) -> JsonObject:
        return {**self._members, "output": [strip_private(item.done) for item in self._items if item.done is not None]}

    def _finish(self, event: Finished) -> None:
        self._finish_reason = event.reason
        if self._items or event.reason in INCOMPLETE_REASONS or event.reason in COMPLETE_REASONS:
            self._close(is_cut=event.reason in INCOMPLETE_REASONS, needs_message=True)

    def _interrupt(self) -> None:
        self._open()
        self._close(is_cut=True, needs_message=False)
        if self._usage is not None:
            self._members["usage"] = usage_object(self._usage)

    def _close(self, *, is_cut: bool, needs_message: bool) -> None:
        """Ends all items. In a cut answer only the last one is incomplete."""
        if self._are_items_closed:
            return
        self._are_items_closed = True
        if needs_message and not self._has_answer_item(is_cut):
            self._open_text_part()
        self._end_text()
        last = self._items[-1] if self._items else None
        for item in self._items:
            if item.done is None:
                self._end_item(item, "incomplete" if is_cut and item is last else "completed")
        self._open_item = self._open_text = self._latest_call = None

    def _has_answer_item(self, is_cut: bool) -> bool:
        """False where the answer needs an empty message. An answer that was cut within its reasoning needs none."""
        return any(is_cut or not isinstance(item, _ReasoningItem) for item in self._items)

    def _end(self, status: str, kind: str) -> list[JsonObject]:
        self.is_ended = True
        self._members["status"] = status
        self._buffer.add(kind, {"response": self._render_response()})
        return self._buffer.drain()

    def _estimate_usage(self) -> Usage:
        size = 0.0
        for item in self._items:
            done = item.done or {}
            parts = (*done.get("summary", ()), *done.get("content", ()))
            texts = [part.get("text") or part.get("refusal") or "" for part in parts]
            texts += [done.get("arguments", ""), done.get("input", ""), done.get("name", "")]
            size += sum(len(text) / 4 if text.isascii() else estimate_tokens(text) for text in texts)
        return Usage(input_tokens=self.input_estimate, output_tokens=ceil(size))

    # Items

    def _start_item(self, item: _OutputItem) -> None:
        self._items.append(item)
        item.start()

    def _end_item(self, item: _OutputItem, status: str, signature: str = "", redacted: str = "") -> None:
        if isinstance(item, _ReasoningItem) and self._seal is not None and status == "completed":
            text = "".join([part["text"] for part in item.content_snapshot()])
            state = {"origin": self._origin, "text": text, "signature": signature, "redacted": redacted}
            item.sealed = self._seal.close(state)
        item.end(status)

    def _end_text(self) -> None:
        """Ends the open text, if there is one."""
        if self._open_text is not None:
            self._open_text.add_logprobs(self._pending_logprobs)
            self._pending_logprobs = []
            self._text_offset += sum(map(len, self._open_text.deltas))
            self._open_text = None

    def _close_current(self) -> None:
        """Ends the items that end when another one begins."""
        self._end_text()
        if self._open_item is not None:
            self._end_item(self._open_item, "completed")
            self._open_item = None
        if self._latest_call is not None and self._latest_call.is_whole():
            self._latest_call.end("completed")
        self._latest_call = None

    def _open_part(self, kind: str) -> _Part:
        """The open part of the message where it is of this kind, else a new one."""
        message = self._open_item
        if not isinstance(message, _MessageItem):
            self._close_current()
            message = self._open_item = _MessageItem(self._buffer, self._new_id("msg_"), len(self._items))
            self._start_item(message)
        if message.part is not None:
            if message.part.kind == kind:
                return message.part
            self._end_text()
            message.close_part()
        return message.open_part(kind)

    def _open_text_part(self) -> _Part:
        part = self._open_part("output_text")
        self._open_text = part.text
        return part

    # Events

    def _add(self, event: Event) -> None:
        match event:
            case TextDelta():
                self._add_text(event)
            case ToolArgumentsDelta():
                self._add_arguments(event)
            case ReasoningDelta():
                self._add_reasoning(event)
            case ToolCallStarted():
                self._start_call(event)
            case RefusalDelta():
                self._add_refusal(event)
            case AnnotationAdded():
                self._add_annotation(event)
            case ImageMade():
                self._add_image(event)
            case Finished():
                self._finish(event)
            case Started() | UsageReported():
                pass
            case _:
                assert_never(event)

    def _add_text(self, event: TextDelta) -> None:
        if not event.text:
            self._pending_logprobs.extend(event.logprobs)
            return
        is_new = self._open_text is None
        part = self._open_text_part()
        if self._pending_logprobs or event.logprobs:
            part.text.append_with_logprobs(event.text, [*self._pending_logprobs, *event.logprobs])
            self._pending_logprobs = []
        else:
            part.text.append(event.text)
        if is_new and self._pending_annotations:
            annotations, self._pending_annotations = self._pending_annotations, []
            for annotation in annotations:
                part.annotate(flatten_annotation(annotation, self._text_offset))

    def _add_refusal(self, event: RefusalDelta) -> None:
        if event.text:
            self._open_part("refusal").text.append(event.text)

    def _add_annotation(self, event: AnnotationAdded) -> None:
        if self._open_text is None:
            self._pending_annotations.append(event.annotation)
        else:
            self._open_text_part().annotate(flatten_annotation(event.annotation, self._text_offset))

    def _add_reasoning(self, event: ReasoningDelta) -> None:
        if event.text:
            self._open_reasoning().append(event.text)
        if event.signature:
            self._end_item(self._open_reasoning(), "completed", signature=event.signature)
            self._open_item = None
        if event.redacted:  # a block of its own
            self._close_current()
            self._end_item(self._open_reasoning(), "completed", redacted=event.redacted)
            self._open_item = None

    def _open_reasoning(self) -> _ReasoningItem:
        if isinstance(self._open_item, _ReasoningItem):
            return self._open_item
        self._close_current()
        item_id = self._new_id("rs_")
        item = _ReasoningItem(self._buffer, item_id, len(self._items), is_summary=self._reasoning_as_summary)
        self._open_item = item
        self._start_item(item)
        return item

    def _start_call(self, event: ToolCallStarted) -> None:
        self._close_current()
        item_id = self._new_id("ctc_" if event.kind == "custom" else "fc_")
        call_id = event.id
        while not call_id or call_id in self._used_call_ids:
            call_id = self._new_id("call_")
        self._used_call_ids.add(call_id)
        call_fields: JsonObject = {"call_id": call_id, "name": event.name}
        if event.name in self._namespaces:
            call_fields["namespace"], call_fields["name"] = self._namespaces[event.name]
        call = _CallItem(self._buffer, item_id, len(self._items), event, call_fields, self._origin)
        self._calls[event.index] = self._latest_call = call
        self._start_item(call)

    def _add_arguments(self, event: ToolArgumentsDelta) -> None:
        call = self._calls.get(event.index)
        if call is not None and call.done is None and event.text:
            call.text.append(event.text)

    def _add_image(self, event: ImageMade) -> None:
        head, mark, data = event.url.partition(";base64,")
        if not mark or not head.startswith("data:"):  # a URL; the API takes images as data only
            self._add_text(TextDelta(event.text))
            return
        self._close_current()
        media_type = head.removeprefix("data:").partition(";")[0].lower()
        image = _ImageItem(self._buffer, self._new_id("ig_"), len(self._items), data, media_type)
        self._start_item(image)
        image.end("completed")
