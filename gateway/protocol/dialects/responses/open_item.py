"""An open output item in a stream that another process or an upstream writes: its state, and the events that close it.

Source: the event and item types of the `openai` package (openai.types.responses).
"""

from collections.abc import Iterator, Mapping

from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.dialects.shared.translate import oversized
from gateway.protocol.events import MAX_ARGUMENT_CHARS
from gateway.protocol.json.types import Json, JsonObject

#: {stem of the events of a part's text: (the part's type, the member that holds the text)}
PART_TEXTS: Mapping[str, tuple[str, str]] = {
    "response.output_text": ("output_text", "text"),
    "response.refusal": ("refusal", "refusal"),
    "response.reasoning_text": ("reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary_text", "text"),
}
PART_STEMS: Mapping[str, str] = {kind: stem for stem, (kind, _) in PART_TEXTS.items()}
#: {stem of the events of an item's text: the member that holds the text}
ITEM_TEXTS: Mapping[str, str] = {
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
    "response.mcp_call_arguments": "arguments",
    "response.code_interpreter_call_code": "code",
}
ITEM_STEMS: Mapping[str, str] = {
    "function_call": "response.function_call_arguments",
    "custom_tool_call": "response.custom_tool_call_input",
    "mcp_call": "response.mcp_call_arguments",
    "code_interpreter_call": "response.code_interpreter_call_code",
}
#: Items without a status `incomplete`.
WITHOUT_INCOMPLETE = frozenset({"web_search_call", "image_generation_call"})
PART_ADDED = frozenset({"response.content_part.added", "response.reasoning_summary_part.added"})
PART_DONE = frozenset({"response.content_part.done", "response.reasoning_summary_part.done"})
#: The type of an event, and its members without `sequence_number`.
UnnumberedEvent = tuple[str, JsonObject]


class OpenItem:
    """One item between its `added` and its `done` event. `item` is the item of the `added` event, with our id."""

    __slots__ = (
        *("_annotations", "_content", "_deltas", "_index", "_is_text_done", "_logprobs", "_part", "_part_place"),
        *("_summary", "_text_size", "id", "item"),
    )

    def __init__(self, item: Item, index: int) -> None:
        self.id: str = item["id"]
        self.item = item
        self._index = index
        self._content: list[JsonObject] = []  # parts that are done
        self._summary: list[JsonObject] = []
        self._start_part(None, {})

    def _start_part(self, part: JsonObject | None, place: JsonObject) -> None:
        self._part = part
        self._part_place = place
        self._deltas: list[str] = []
        self._text_size = 0  # of an item's own text
        self._logprobs: list[Json] = []
        self._annotations: list[Json] = []
        self._is_text_done = False

    def feed(self, kind: str, event: JsonObject) -> None:
        """Takes one event about this item."""
        delta = event.get("delta")
        if kind.endswith(".delta") and isinstance(delta, str):  # the most frequent by far
            if self._part is None and kind[:-6] in PART_TEXTS:  # some servers send no event that begins a part
                self._start_part({"type": PART_TEXTS[kind[:-6]][0]}, self._place_of(event))
            self._deltas.append(delta)
            if kind[:-6] in ITEM_TEXTS:
                self._text_size += len(delta)
                if self._text_size > MAX_ARGUMENT_CHARS:
                    raise oversized()
            if event.get("logprobs"):
                self._logprobs += event["logprobs"]
        elif kind in PART_ADDED:
            self._start_part(event["part"], self._place_of(event))
        elif kind in PART_DONE:
            (self._summary if "summary_index" in event else self._content).append(event["part"])
            self._start_part(None, {})
        elif kind == "response.output_text.annotation.added":
            self._annotations.append(event.get("annotation"))
        elif kind.endswith(".done"):
            stem = kind[:-5]
            text = event.get(PART_TEXTS[stem][1] if stem in PART_TEXTS else ITEM_TEXTS.get(stem, ""))
            if isinstance(text, str):
                self._deltas = [text]
                self._is_text_done = True

    def _place_of(self, event: JsonObject) -> JsonObject:
        if "summary_index" in event:
            return {"summary_index": event["summary_index"]}
        return {"content_index": event.get("content_index", len(self._content))}

    def end(self, status: str) -> tuple[list[UnnumberedEvent], Item]:
        """(the events that close the item with what it has so far, the item). The last event is its `done`."""
        item = dict(self.item)
        place = {"item_id": self.id, "output_index": self._index}
        events: list[UnnumberedEvent] = []
        if item["type"] == "message" and not self._content and self._part is None:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._start_part(part, {"content_index": 0})
            events.append(("response.content_part.added", {**place, **self._part_place, "part": part}))
        stem = ITEM_STEMS.get(item["type"])
        if self._part is not None:
            events += self._end_part(self._part, place)
        elif stem is not None:
            member = ITEM_TEXTS[stem]
            item[member] = "".join(self._deltas)
            if item["type"] == "function_call" and status == "completed" and not item[member].strip():
                item[member] = "{}"  # clients parse the arguments
                events.append((f"{stem}.delta", {**place, "delta": "{}"}))
            if not self._is_text_done:
                events.append((f"{stem}.done", {**place, member: item[member]}))
        if item["type"] == "message" or self._content:
            item["content"] = self._content
        if item["type"] == "reasoning":
            item["summary"] = self._summary
        if "status" in item or item["type"] in {"message", "function_call"}:
            item["status"] = "failed" if status == "incomplete" and item["type"] in WITHOUT_INCOMPLETE else status
        events.append(("response.output_item.done", {"output_index": self._index, "item": item}))
        return events, item

    def _end_part(self, part: JsonObject, item_place: JsonObject) -> Iterator[UnnumberedEvent]:
        place = {**item_place, **self._part_place}
        stem = PART_STEMS.get(part["type"])
        if stem is not None:
            member, text = PART_TEXTS[stem][1], "".join(self._deltas)
            logprobs = {"logprobs": self._logprobs} if part["type"] == "output_text" else {}
            if not self._is_text_done:
                yield f"{stem}.done", {**place, member: text, **logprobs}
            part = {**part, member: text, **({"annotations": self._annotations, **logprobs} if logprobs else {})}
        is_summary = "summary_index" in place
        (self._summary if is_summary else self._content).append(part)
        part_event = "reasoning_summary_part" if is_summary else "content_part"
        yield f"response.{part_event}.done", {**place, "part": part}
        self._start_part(None, {})
