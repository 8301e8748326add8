"""The one state machine that turns events into a response of OpenAI's Responses API, as its stream and as its object.

Every translated answer passes it. It keeps the order of the Responses event stream: created [queued] in_progress, then
for each item `output_item.added`, what the item is made of, `output_item.done`, and one terminal event; nothing before,
nothing after. A message or reasoning item ends before the next item begins. A call ends there too once its arguments
are a whole JSON object; else it stays open beside later items, told apart by `output_index`, because an upstream may
tell parallel calls in turns. Ids are fixed when an item begins. Only choice 0 is told: the API has no place for others.

Source: the event and item types of the `openai` package (openai.types.responses), Open Responses specification.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import Any

import orjson

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
from gateway.protocol.json.types import JsonObject
from gateway.protocol.usage import NO_USAGE, Usage, estimate_tokens

#: A member of stored items that no client sees.
PRIVATE = "tollgate"

NO_NAMESPACES: Mapping[str, tuple[str, str]] = {}

EMPTY_ANSWER = "The upstream's answer was empty."
#: Finish reasons of an answer that was cut, and what `incomplete_details` calls them.
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
    """An event on the wire, to be written at once: some clients lose one that is split."""
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


def strip_private(item: JsonObject) -> JsonObject:
    """The item without its private member."""
    return {name: value for name, value in item.items() if name != PRIVATE} if PRIVATE in item else item


def flatten_annotation(given: Mapping[str, Any], offset: int = 0) -> JsonObject:
    """An annotation with its fields beside its type, where Chat Completions nest them under its name. Its places count
    from the beginning of the answer's text, `offset` characters before the part that it stands in."""
    kind = given.get("type") or ("url_citation" if "url_citation" in given else "")
    nested = given.get(kind)
    flat: JsonObject = {"type": kind, **(nested if isinstance(nested, Mapping) else given)}
    if kind == "url_citation":
        flat["url"], flat["title"] = str(flat.get("url") or ""), str(flat.get("title") or "")
        for name in ("start_index", "end_index"):
            place = flat.get(name)
            flat[name] = max(0, place - offset) if type(place) is int else 0
    return flat


class _Journal:
    """The events that were not handed over yet, and the number of the next one."""

    __slots__ = ("events", "number")

    def __init__(self) -> None:
        self.events: list[JsonObject] = []
        self.number = 0

    def add(self, kind: str, members: JsonObject) -> None:
        self.events.append({"type": kind, "sequence_number": self.number, **members})
        self.number += 1

    def take(self) -> list[JsonObject]:
        taken, self.events = self.events, []
        return taken


class _Text:
    """A text that is told in deltas and then whole: `{stem}.delta`…, `{stem}.done`."""

    __slots__ = ("_head", "_journal", "_member", "_place", "_stem", "pieces", "scores")

    def __init__(
        self, journal: _Journal, stem: str, member: str, place: JsonObject, *, is_scored: bool = False
    ) -> None:
        self.pieces: list[str] = []
        self.scores: list[Mapping[str, Any]] | None = [] if is_scored else None
        self._journal = journal
        self._stem = stem
        self._member = member
        self._place = place
        # A delta is this head, copied: most of a stream's time goes here.
        self._head: JsonObject = {"type": f"{stem}.delta", "sequence_number": 0, **place, "delta": ""}
        if is_scored:
            self._head["logprobs"] = []

    def say(self, text: str) -> None:
        journal = self._journal
        event = self._head.copy()
        event["sequence_number"] = journal.number
        event["delta"] = text
        journal.number += 1
        journal.events.append(event)
        self.pieces.append(text)

    def say_scored(self, text: str, scores: Sequence[Mapping[str, Any]]) -> None:
        self.say(text)
        self._journal.events[-1]["logprobs"] = list(scores)
        self.note(scores)

    def note(self, scores: Sequence[Mapping[str, Any]]) -> None:
        """Log probabilities that no delta carries any more."""
        if self.scores is not None:
            self.scores.extend(scores)

    def told(self) -> str:
        return "".join(self.pieces)

    def end(self) -> str:
        text = self.told()
        done = {**self._place, self._member: text}
        if self.scores is not None:
            done["logprobs"] = self.scores
        self._journal.add(f"{self._stem}.done", done)
        return text


class _Part:
    """A part of a message's content, or of reasoning: of its content or its summary."""

    __slots__ = ("_journal", "_place", "_stem", "annotations", "kind", "text")

    def __init__(self, journal: _Journal, kind: str, item_id: str, output_index: int, number: int) -> None:
        self.kind = kind  # output_text | refusal | reasoning_text | summary_text
        self.annotations: list[JsonObject] = []
        self._journal = journal
        self._stem, index, stem = "response.content_part", "content_index", f"response.{kind}"
        if kind == "summary_text":
            self._stem, index = "response.reasoning_summary_part", "summary_index"
            stem = "response.reasoning_summary_text"
        self._place: JsonObject = {"item_id": item_id, "output_index": output_index, index: number}
        member = "refusal" if kind == "refusal" else "text"
        self.text = _Text(journal, stem, member, self._place, is_scored=kind == "output_text")
        journal.add(f"{self._stem}.added", {**self._place, "part": self.as_of_now()})

    def annotate(self, annotation: JsonObject) -> None:
        members = {**self._place, "annotation_index": len(self.annotations), "annotation": annotation}
        self._journal.add("response.output_text.annotation.added", members)
        self.annotations.append(annotation)

    def as_of_now(self) -> JsonObject:
        return self._shaped(self.text.told())

    def end(self) -> JsonObject:
        part = self._shaped(self.text.end())
        self._journal.add(f"{self._stem}.done", {**self._place, "part": part})
        return part

    def _shaped(self, text: str) -> JsonObject:
        if self.kind != "output_text":
            return {"type": self.kind, "refusal" if self.kind == "refusal" else "text": text}
        scores = list(self.text.scores or ())
        return {"type": self.kind, "annotations": list(self.annotations), "logprobs": scores, "text": text}


class _Item:
    """An output item between its `added` and its `done`."""

    __slots__ = ("_journal", "done", "id", "index")

    def __init__(self, journal: _Journal, item_id: str, index: int) -> None:
        self.id = item_id
        self.index = index
        self.done: JsonObject | None = None
        self._journal = journal

    def begin(self) -> None:
        item = strip_private(self.as_of_now("in_progress"))
        self._journal.add("response.output_item.added", {"output_index": self.index, "item": item})

    def end(self, status: str) -> None:
        self._finish(self.as_of_now(status))

    def as_of_now(self, status: str) -> JsonObject:
        raise NotImplementedError

    def _finish(self, item: JsonObject) -> None:
        self.done = item
        self._journal.add("response.output_item.done", {"output_index": self.index, "item": strip_private(item)})


class _Contents(_Item):
    """Of an item that is made of content parts."""

    __slots__ = ("content", "part")

    def __init__(self, journal: _Journal, item_id: str, index: int) -> None:
        super().__init__(journal, item_id, index)
        self.content: list[JsonObject] = []
        self.part: _Part | None = None

    def open_part(self, kind: str) -> _Part:
        self.part = _Part(self._journal, kind, self.id, self.index, len(self.content))
        return self.part

    def close_part(self) -> None:
        if self.part is not None:
            self.content.append(self.part.end())
            self.part = None

    def end(self, status: str) -> None:
        self.close_part()
        super().end(status)

    def content_as_of_now(self) -> list[JsonObject]:
        return [*self.content, self.part.as_of_now()] if self.part is not None else list(self.content)


class _Message(_Contents):
    __slots__ = ()

    def as_of_now(self, status: str) -> JsonObject:
        content = self.content_as_of_now()
        return {"id": self.id, "type": "message", "status": status, "content": content, "role": "assistant"}


class _Reasoning(_Contents):
    """`is_summary`: its parts are told as its summary. `sealed`: what its provider wants back, opaque."""

    __slots__ = ("is_summary", "sealed")

    def __init__(self, journal: _Journal, item_id: str, index: int, *, is_summary: bool) -> None:
        super().__init__(journal, item_id, index)
        self.is_summary = is_summary
        self.sealed = ""

    def say(self, text: str) -> None:
        part = self.part or self.open_part("summary_text" if self.is_summary else "reasoning_text")
        part.text.say(text)

    def as_of_now(self, status: str) -> JsonObject:
        parts = self.content_as_of_now()
        told: JsonObject = {"summary": parts} if self.is_summary else {"summary": [], "content": parts}
        item: JsonObject = {"id": self.id, "type": "reasoning", **told}
        if self.sealed:
            item["encrypted_content"] = self.sealed
        item["status"] = status
        return item


class _Call(_Item):
    """`called`: its members that do not change."""

    __slots__ = ("_called", "_is_custom", "_member", "_private", "text")

    def __init__(
        self, journal: _Journal, item_id: str, index: int, started: ToolCallStarted, called: JsonObject, origin: str
    ) -> None:
        super().__init__(journal, item_id, index)
        self._is_custom = started.kind == "custom"
        self._member = "input" if self._is_custom else "arguments"
        self._called = called
        self._private = {"origin": origin, "signature": started.signature} if started.signature else None
        stem = "response.custom_tool_call_input" if self._is_custom else "response.function_call_arguments"
        self.text = _Text(journal, stem, self._member, {"item_id": item_id, "output_index": index})

    def as_of_now(self, status: str) -> JsonObject:
        item: JsonObject = {
            "id": self.id,
            "type": "custom_tool_call" if self._is_custom else "function_call",
            "status": status,
            self._member: self.text.told(),
            **self._called,
        }
        if self._private is not None:
            item[PRIVATE] = self._private
        return item

    def end(self, status: str) -> None:
        if status == "completed" and not self._is_custom and not self.text.told().strip():
            self.text.say("{}")  # clients parse what they get
        self.text.end()
        super().end(status)

    def is_whole(self) -> bool:
        """Whether nothing more can come: a JSON object knows its own end, free text does not."""
        text = "" if self._is_custom else self.text.told()
        if not text.lstrip().startswith("{"):
            return False
        try:
            orjson.loads(text)
        except ValueError:
            return False
        return True


class _Image(_Item):
    __slots__ = ("_format", "_result")

    def __init__(self, journal: _Journal, item_id: str, index: int, result: str, media_type: str) -> None:
        super().__init__(journal, item_id, index)
        self._result = result
        self._format = IMAGE_FORMATS.get(media_type)

    def as_of_now(self, status: str) -> JsonObject:
        result = self._result if status == "completed" else None
        item: JsonObject = {"id": self.id, "type": "image_generation_call", "status": status, "result": result}
        if self._format is not None:
            item["output_format"] = self._format
        return item

    def end(self, status: str) -> None:
        for phase in ("in_progress", "generating", "completed"):
            members: JsonObject = {"output_index": self.index, "item_id": self.id}
            self._journal.add(f"response.image_generation_call.{phase}", members)
        super().end(status)


class ResponseStream:
    """One response. Where no usage is reported, that of a complete answer is `input_estimate` tokens and what its
    output seems to be."""

    __slots__ = (
        "_annotations",
        "_call",
        "_calls",
        "_front",
        "_is_closed",
        "_items",
        "_journal",
        "_namespaces",
        "_new_id",
        "_offset",
        "_origin",
        "_reason",
        "_reasoning_as_summary",
        "_scores",
        "_seal",
        "_shape",
        "_speech",
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
        `new_id("msg_")` gives a fresh id for each call. `origin`: who answers. Without `seal` reasoning keeps nothing
        that its provider wants back. `reasoning_as_summary`: reasoning is told as its summary. `used_call_ids`: those
        of the conversation so far; some servers count anew in each answer, and some clients refuse an id that was used.
        `namespaces`: the tools that were told by another name, {that name: (namespace, name)}."""
        self.is_open = False
        self.is_ended = False
        self.input_estimate = input_estimate
        first: JsonObject = {name: head[name] for name in ("id", "object", "created_at") if name in head}
        state = {"status": "in_progress", "completed_at": None, "error": None, "incomplete_details": None}
        self._shape: JsonObject = {**first, **state, **head, **state, "output": [], "usage": None}
        self._new_id = new_id
        self._origin = origin
        self._seal = seal
        self._reasoning_as_summary = reasoning_as_summary
        self._used_call_ids = set(used_call_ids)
        self._namespaces = namespaces
        self._journal = _Journal()
        self._items: list[_Item] = []
        self._front: _Message | _Reasoning | None = None  # the open one
        self._speech: _Text | None = None  # of the open output_text part
        self._calls: dict[int, _Call] = {}
        self._call: _Call | None = None  # the latest, while nothing came after it
        self._annotations: list[Mapping[str, Any]] = []  # that wait for a text to stand in
        self._scores: list[Mapping[str, Any]] = []  # that wait for a delta
        self._offset = 0  # characters of text before the open part
        self._reason: str | None = None
        self._is_closed = False  # all items are
        self._usage: Usage | None = None

    @property
    def response(self) -> JsonObject:
        """The whole object as of now. Its items have their private members."""
        output = [item.done if item.done is not None else item.as_of_now("in_progress") for item in self._items]
        return {**self._shape, "output": output}

    def open(self, *, is_queued: bool = False) -> list[JsonObject]:
        self._open(is_queued)
        return self._journal.take()

    def feed(self, events: Iterable[Event]) -> list[JsonObject]:
        if self.is_ended:
            return []
        for event in events:
            if (  # the most frequent event by far
                isinstance(event, TextDelta)
                and self._speech is not None
                and event.text
                and not (event.choice or event.logprobs or self._scores)
            ):
                self._speech.say(event.text)
                continue
            if not self.is_open:
                self._open()
            if isinstance(event, UsageReported):
                if event.usage != NO_USAGE:
                    self._usage = event.usage
            elif not isinstance(event, Started) and not event.choice and self._reason is None:
                _HANDLERS[type(event)](self, event)
        return self._journal.take()

    def complete(self, at_s: int) -> list[JsonObject]:
        """The answer is over. One of which nothing is known, neither content nor why it ended, has failed."""
        if self.is_ended:
            return []
        if not self._items and self._reason not in INCOMPLETE_REASONS.keys() | COMPLETE_REASONS:
            return self.fail("server_error", EMPTY_ANSWER)
        self._open()
        self._close(is_cut=False, needs_message=True)
        self._shape["usage"] = usage_object(self._usage if self._usage is not None else self._estimated())
        if self._reason in INCOMPLETE_REASONS:
            self._shape["incomplete_details"] = {"reason": INCOMPLETE_REASONS[self._reason]}
            return self._end("incomplete", "response.incomplete")
        self._shape["completed_at"] = at_s
        return self._end("completed", "response.completed")

    def fail(self, code: str, message: str) -> list[JsonObject]:
        if self.is_ended:
            return []
        self._cut_short()
        self._shape["error"] = {"code": code, "message": message}
        return self._end("failed", "response.failed")

    def cancel(self) -> list[JsonObject]:
        """The API has no event of its own for this one."""
        if self.is_ended:
            return []
        self._cut_short()
        return self._end("cancelled", "response.incomplete")

    # Begin and end

    def _open(self, is_queued: bool = False) -> None:
        if self.is_open:
            return
        self.is_open = True
        if is_queued:
            self._shape["status"] = "queued"
            self._journal.add("response.created", {"response": self._shown()})
            self._journal.add("response.queued", {"response": self._shown()})
            self._shape["status"] = "in_progress"
        else:
            self._journal.add("response.created", {"response": self._shown()})
        self._journal.add("response.in_progress", {"response": self._shown()})

    def _shown(self) -> JsonObject:
        return {**self._shape, "output": [strip_private(item.done) for item in self._items if item.done is not None]}

    def _finished(self, event: Finished) -> None:
        self._reason = event.reason
        if self._items or event.reason in INCOMPLETE_REASONS or event.reason in COMPLETE_REASONS:
            self._close(is_cut=event.reason in INCOMPLETE_REASONS, needs_message=True)

    def _cut_short(self) -> None:
        self._open()
        self._close(is_cut=True, needs_message=False)
        if self._usage is not None:
            self._shape["usage"] = usage_object(self._usage)

    def _close(self, *, is_cut: bool, needs_message: bool) -> None:
        """Ends all items. Of a cut answer only the last one is incomplete."""
        if self._is_closed:
            return
        self._is_closed = True
        if needs_message and not self._has_content(is_cut):
            self._open_text()
        self._count_text()
        last = self._items[-1] if self._items else None
        for item in self._items:
            if item.done is None:
                self._end_item(item, "incomplete" if is_cut and item is last else "completed")
        self._front = self._speech = self._call = None

    def _has_content(self, is_cut: bool) -> bool:
        """An answer of nothing has one empty message; one that was cut while it was reasoned has not come so far."""
        return any(is_cut or not isinstance(item, _Reasoning) for item in self._items)

    def _end(self, status: str, kind: str) -> list[JsonObject]:
        self.is_ended = True
        self._shape["status"] = status
        self._journal.add(kind, {"response": self._shown()})
        return self._journal.take()

    def _estimated(self) -> Usage:
        size = 0.0
        for item in self._items:
            done = item.done or {}
            parts = (*done.get("summary", ()), *done.get("content", ()))
            texts = [part.get("text") or part.get("refusal") or "" for part in parts]
            texts += [done.get("arguments", ""), done.get("input", ""), done.get("name", "")]
            size += sum(len(text) / 4 if text.isascii() else estimate_tokens(text) for text in texts)
        return Usage(input_tokens=self.input_estimate, output_tokens=ceil(size))

    # Items

    def _begin_item(self, item: _Item) -> None:
        self._items.append(item)
        item.begin()

    def _end_item(self, item: _Item, status: str, signature: str = "", redacted: str = "") -> None:
        if isinstance(item, _Reasoning) and self._seal is not None and status == "completed":
            text = "".join([part["text"] for part in item.content_as_of_now()])
            held = {"origin": self._origin, "text": text, "signature": signature, "redacted": redacted}
            item.sealed = self._seal.close(held)
        item.end(status)

    def _count_text(self) -> None:
        """The open text, if any, will get nothing more."""
        if self._speech is not None:
            self._speech.note(self._scores)
            self._scores = []
            self._offset += sum(map(len, self._speech.pieces))
            self._speech = None

    def _settle(self) -> None:
        """Ends what ends when another item begins."""
        self._count_text()
        if self._front is not None:
            self._end_item(self._front, "completed")
            self._front = None
        if self._call is not None and self._call.is_whole():
            self._call.end("completed")
        self._call = None

    def _open_part(self, kind: str) -> _Part:
        """The open part of the message, if it is of this kind, or a new one."""
        message = self._front
        if not isinstance(message, _Message):
            self._settle()
            message = self._front = _Message(self._journal, self._new_id("msg_"), len(self._items))
            self._begin_item(message)
        if message.part is not None:
            if message.part.kind == kind:
                return message.part
            self._count_text()
            message.close_part()
        return message.open_part(kind)

    def _open_text(self) -> _Part:
        part = self._open_part("output_text")
        self._speech = part.text
        return part

    # Events

    def _text(self, event: TextDelta) -> None:
        if not event.text:
            self._scores.extend(event.logprobs)
            return
        is_new = self._speech is None
        part = self._open_text()
        if self._scores or event.logprobs:
            part.text.say_scored(event.text, [*self._scores, *event.logprobs])
            self._scores = []
        else:
            part.text.say(event.text)
        if is_new and self._annotations:
            waiting, self._annotations = self._annotations, []
            for annotation in waiting:
                part.annotate(flatten_annotation(annotation, self._offset))

    def _refusal(self, event: RefusalDelta) -> None:
        if event.text:
            self._open_part("refusal").text.say(event.text)

    def _annotation(self, event: AnnotationAdded) -> None:
        if self._speech is None:
            self._annotations.append(event.annotation)
        else:
            self._open_text().annotate(flatten_annotation(event.annotation, self._offset))

    def _reasoning(self, event: ReasoningDelta) -> None:
        if event.text:
            self._thought().say(event.text)
        if event.signature:
            self._end_item(self._thought(), "completed", signature=event.signature)
            self._front = None
        if event.redacted:  # a block of its own
            self._settle()
            self._end_item(self._thought(), "completed", redacted=event.redacted)
            self._front = None

    def _thought(self) -> _Reasoning:
        if isinstance(self._front, _Reasoning):
            return self._front
        self._settle()
        item_id = self._new_id("rs_")
        item = _Reasoning(self._journal, item_id, len(self._items), is_summary=self._reasoning_as_summary)
        self._front = item
        self._begin_item(item)
        return item

    def _start_call(self, event: ToolCallStarted) -> None:
        self._settle()
        item_id = self._new_id("ctc_" if event.kind == "custom" else "fc_")
        call_id = event.id
        while not call_id or call_id in self._used_call_ids:
            call_id = self._new_id("call_")
        self._used_call_ids.add(call_id)
        called: JsonObject = {"call_id": call_id, "name": event.name}
        if event.name in self._namespaces:
            called["namespace"], called["name"] = self._namespaces[event.name]
        call = _Call(self._journal, item_id, len(self._items), event, called, self._origin)
        self._calls[event.index] = self._call = call
        self._begin_item(call)

    def _arguments(self, event: ToolArgumentsDelta) -> None:
        call = self._calls.get(event.index)
        if call is not None and call.done is None and event.text:
            call.text.say(event.text)

    def _image(self, event: ImageMade) -> None:
        head, mark, data = event.url.partition(";base64,")
        if not mark or not head.startswith("data:"):  # an address: the API's images are data
            self._text(TextDelta(event.text))
            return
        self._settle()
        media_type = head.removeprefix("data:").partition(";")[0].lower()
        image = _Image(self._journal, self._new_id("ig_"), len(self._items), data, media_type)
        self._begin_item(image)
        image.end("completed")


_HANDLERS: dict[type, Callable[[ResponseStream, Any], None]] = {
    TextDelta: ResponseStream._text,
    ToolArgumentsDelta: ResponseStream._arguments,
    ReasoningDelta: ResponseStream._reasoning,
    ToolCallStarted: ResponseStream._start_call,
    RefusalDelta: ResponseStream._refusal,
    AnnotationAdded: ResponseStream._annotation,
    ImageMade: ResponseStream._image,
    Finished: ResponseStream._finished,
}
