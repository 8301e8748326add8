"""An output item of a stream that is made elsewhere: what was told of it so far, and how it is ended where nobody else
ends it.

Source: the event and item types of the `openai` package (openai.types.responses).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.json.types import JsonObject

#: Texts of parts: the stem of their events → the part's type and its member.
PART_TEXTS: Mapping[str, tuple[str, str]] = {
    "response.output_text": ("output_text", "text"),
    "response.refusal": ("refusal", "refusal"),
    "response.reasoning_text": ("reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary_text", "text"),
}
PART_STEMS: Mapping[str, str] = {kind: stem for stem, (kind, _) in PART_TEXTS.items()}
#: Texts of items: the stem of their events → the item's member.
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
#: Items that have no status `incomplete`.
WITHOUT_INCOMPLETE = frozenset({"web_search_call", "image_generation_call"})
PART_ADDED = frozenset({"response.content_part.added", "response.reasoning_summary_part.added"})
PART_DONE = frozenset({"response.content_part.done", "response.reasoning_summary_part.done"})
#: The type of an event, and its other members without its number.
UnnumberedEvent = tuple[str, JsonObject]


class OpenItem:
    """`item` is what its `added` event told, under our id."""

    __slots__ = (
        "_content",
        "_index",
        "_is_text_done",
        "_notes",
        "_part",
        "_pieces",
        "_place",
        "_scores",
        "_summary",
        "id",
        "item",
    )

    def __init__(self, item: Item, index: int) -> None:
        self.id: str = item["id"]
        self.item = item
        self._index = index
        self._content: list[JsonObject] = []  # parts that are done
        self._summary: list[JsonObject] = []
        self._begin(None, {})

    def _begin(self, part: JsonObject | None, place: JsonObject) -> None:
        self._part = part
        self._place = place
        self._pieces: list[str] = []
        self._scores: list[Any] = []
        self._notes: list[Any] = []
        self._is_text_done = False

    def note(self, kind: str, event: JsonObject) -> None:
        """One event about this item."""
        delta = event.get("delta")
        if kind.endswith(".delta") and isinstance(delta, str):  # the most frequent by far
            if self._part is None and kind[:-6] in PART_TEXTS:  # a server that begins no parts
                self._begin({"type": PART_TEXTS[kind[:-6]][0]}, self._place_of(event))
            self._pieces.append(delta)
            if event.get("logprobs"):
                self._scores += event["logprobs"]
        elif kind in PART_ADDED:
            self._begin(event["part"], self._place_of(event))
        elif kind in PART_DONE:
            (self._summary if "summary_index" in event else self._content).append(event["part"])
            self._begin(None, {})
        elif kind == "response.output_text.annotation.added":
            self._notes.append(event.get("annotation"))
        elif kind.endswith(".done"):
            stem = kind[:-5]
            text = event.get(PART_TEXTS[stem][1] if stem in PART_TEXTS else ITEM_TEXTS.get(stem, ""))
            if isinstance(text, str):
                self._pieces = [text]
                self._is_text_done = True

    def _place_of(self, event: JsonObject) -> JsonObject:
        if "summary_index" in event:
            return {"summary_index": event["summary_index"]}
        return {"content_index": event.get("content_index", len(self._content))}

    def end(self, status: str) -> tuple[list[UnnumberedEvent], Item]:
        """The events that end it as it stands, the last of them its `done`; and the item."""
        item = dict(self.item)
        place = {"item_id": self.id, "output_index": self._index}
        told: list[UnnumberedEvent] = []
        if item["type"] == "message" and not self._content and self._part is None:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._begin(part, {"content_index": 0})
            told.append(("response.content_part.added", {**place, **self._place, "part": part}))
        stem = ITEM_STEMS.get(item["type"])
        if self._part is not None:
            told += self._part_end(self._part, place)
        elif stem is not None:
            member = ITEM_TEXTS[stem]
            item[member] = "".join(self._pieces)
            if item["type"] == "function_call" and status == "completed" and not item[member].strip():
                item[member] = "{}"  # clients parse what they get
                told.append((f"{stem}.delta", {**place, "delta": "{}"}))
            if not self._is_text_done:
                told.append((f"{stem}.done", {**place, member: item[member]}))
        if item["type"] == "message" or self._content:
            item["content"] = self._content
        if item["type"] == "reasoning":
            item["summary"] = self._summary
        if "status" in item or item["type"] in {"message", "function_call"}:
            item["status"] = "failed" if status == "incomplete" and item["type"] in WITHOUT_INCOMPLETE else status
        told.append(("response.output_item.done", {"output_index": self._index, "item": item}))
        return told, item

    def _part_end(self, part: JsonObject, place: JsonObject) -> Iterator[UnnumberedEvent]:
        place = {**place, **self._place}
        stem = PART_STEMS.get(part["type"])
        if stem is not None:
            member, text = PART_TEXTS[stem][1], "".join(self._pieces)
            scores = {"logprobs": self._scores} if part["type"] == "output_text" else {}
            if not self._is_text_done:
                yield f"{stem}.done", {**place, member: text, **scores}
            part = {**part, member: text, **({"annotations": self._notes, **scores} if scores else {})}
        is_summary = "summary_index" in place
        (self._summary if is_summary else self._content).append(part)
        holder = "reasoning_summary_part" if is_summary else "content_part"
        yield f"response.{holder}.done", {**place, "part": part}
        self._begin(None, {})
