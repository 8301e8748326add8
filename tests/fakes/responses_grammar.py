"""The grammar of every stream of a response: our own, a replayed one, and one passed through.

`check(events)` raises AssertionError that names the event, and returns the terminal response. `read_frames(raw)` reads
the wire form and checks it too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.protocol.json.types import JsonObject

TERMINAL = {
    "response.completed": {"completed"},
    "response.incomplete": {"incomplete", "cancelled"},
    "response.failed": {"failed"},
}
LIFECYCLE = {"response.created", "response.queued", "response.in_progress", *TERMINAL}
#: Texts of items: the stem of their events, by the item's type; and the member that holds the whole.
TEXTS = {
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input"),
    "response.mcp_call_arguments": ("mcp_call", "arguments"),
    "response.code_interpreter_call_code": ("code_interpreter_call", "code"),
}
#: Texts of parts, by the stem of their events.
PARTS = {
    "response.output_text": ("output_text", "text"),
    "response.refusal": ("refusal", "refusal"),
    "response.reasoning_text": ("reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary_text", "text"),
}
PART_HOLDERS = {
    "output_text": "message",
    "refusal": "message",
    "reasoning_text": "reasoning",
    "summary_text": "reasoning",
}
PHASES = {
    "web_search_call": ("in_progress", "searching", "completed"),
    "file_search_call": ("in_progress", "searching", "completed"),
    "image_generation_call": ("in_progress", "generating", "partial_image", "completed"),
    "code_interpreter_call": ("in_progress", "interpreting", "completed"),
    "mcp_list_tools": ("in_progress", "completed", "failed"),
    "mcp_call": ("in_progress", "completed", "failed"),
}
#: The empty members of an item and a part when they begin.
BLANK_ITEM: dict[str, JsonObject] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
}
USAGE = {"input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"}


@dataclass
class _Part:
    kind: str
    deltas: list[str] = field(default_factory=list)
    annotations: list[Any] = field(default_factory=list)
    text: str | None = None  # the text of its `done` event


@dataclass
class _Item:
    added: JsonObject
    content: list[Any] = field(default_factory=list)
    summary: list[Any] = field(default_factory=list)
    part: _Part | None = None
    deltas: list[str] = field(default_factory=list)
    text: str | None = None
    phases: list[str] = field(default_factory=list)
    done: JsonObject | None = None

    @property
    def kind(self) -> str:
        return str(self.added["type"])


def read_frames(raw: bytes, *, done: bool = True) -> list[JsonObject]:
    """The events of a whole stream."""
    text = raw.decode()
    assert text.endswith("\n\n"), "the last event is not closed"
    frames = [part for part in text.removesuffix("\n\n").split("\n\n") if not part.startswith(":")]
    if done:
        assert frames.pop() == "data: [DONE]", "no [DONE] at the end"
    events = []
    for one in frames:
        first, _, second = one.partition("\n")
        assert first.startswith("event: "), one
        assert second.startswith("data: "), one
        assert "\n" not in second, one
        event = json.loads(second.removeprefix("data: "))
        assert first.removeprefix("event: ") == event["type"], one
        events.append(event)
    return events


def check(events: Sequence[JsonObject]) -> JsonObject:
    """Shape: every event as it was read from the wire. Returns the response of the terminal event."""
    grammar = Grammar()
    for event in events:
        try:
            grammar.feed(event)
        except AssertionError as broken:
            raise AssertionError(f"{broken} — at {event}") from None
    return grammar.end()


class Grammar:
    def __init__(self) -> None:
        self.items: list[_Item] = []
        self.ids: set[str] = set()
        self.number = 0
        self.lifecycle: list[str] = []
        self.created: JsonObject = {}
        self.last: JsonObject | None = None

    def feed(self, event: JsonObject) -> None:
        kind = event["type"]
        assert event["sequence_number"] == self.number, f"sequence_number is not {self.number}"
        self.number += 1
        assert self.last is None, "something follows the terminal event"
        if kind in LIFECYCLE:
            self._lifecycle(kind, event["response"])
            return
        assert self.lifecycle[-1:] == ["response.in_progress"], "before the response is in progress"
        if kind == "error":
            assert isinstance(event["code"], str | None)
            assert isinstance(event["message"], str)
        elif kind == "response.output_item.added":
            self._item_added(event)
        elif kind == "response.output_item.done":
            self._item_done(event)
        else:
            self._inside(kind, event)

    def end(self) -> JsonObject:
        assert self.last is not None, "the stream has no terminal event"
        return self.last

    # The response

    def _lifecycle(self, kind: str, response: JsonObject) -> None:
        before = self.lifecycle
        if kind == "response.created":
            assert before == [], "created twice"
            assert response["status"] in {"queued", "in_progress"}
            assert type(response["created_at"]) is int, "created_at is no whole number"
            self.created = response
        elif kind == "response.queued":
            assert before == ["response.created"], "queued out of place"
            assert response["status"] == "queued"
        elif kind == "response.in_progress":
            assert before in (["response.created"], ["response.created", "response.queued"]), "in_progress out of place"
            assert response["status"] == "in_progress"
        else:
            assert before[-1:] == ["response.in_progress"], "ended before it was in progress"
            self._ended(kind, response)
        if kind not in TERMINAL:
            assert response["output"] == [], "output before any item"
            assert response.get("usage") is None, "usage before the end"
            assert response.get("completed_at") is None
        for name in ("id", "object", "created_at", "model"):
            assert response[name] == self.created[name], f"{name} changed"
        assert response["object"] == "response"
        assert "output_text" not in response, "output_text is the client's own"
        before.append(kind)

    def _ended(self, kind: str, response: JsonObject) -> None:
        status = response["status"]
        assert status in TERMINAL[kind], f"status {status} in {kind}"
        assert all(item.done is not None for item in self.items), "an item is still open"
        assert response["output"] == [item.done for item in self.items], "output is not what the items were"
        assert (response.get("completed_at") is not None) == (status == "completed"), "completed_at"
        assert (response.get("error") is not None) == (status == "failed"), "error"
        assert (response.get("incomplete_details") is not None) == (status == "incomplete"), "incomplete_details"
        if status == "failed":
            assert isinstance(response["error"]["code"], str)
            assert isinstance(response["error"]["message"], str)
        usage = response.get("usage")
        if status in {"completed", "incomplete"}:
            assert usage is not None, "no usage"
        if usage is not None:
            assert set(usage) >= USAGE, "usage lacks members"
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
            assert {"cached_tokens", "cache_write_tokens"} <= set(usage["input_tokens_details"])
            assert "reasoning_tokens" in usage["output_tokens_details"]
        for item in self.items:
            assert item.done is not None
            if item.done.get("status") == "incomplete":
                assert status != "completed", "an incomplete item in a completed response"
                assert item is self.items[-1], "an item that was cut and is not the last"
        self.last = response

    # Items

    def _item_added(self, event: JsonObject) -> None:
        item = event["item"]
        assert event["output_index"] == len(self.items), "output_index is not the next one"
        assert item["id"], "an item without id"
        assert item["id"] not in self.ids, "an item's id is not its own"
        assert "tollgate" not in item, "a private member"
        self.ids.add(item["id"])
        assert item.get("status", "in_progress") == "in_progress", "it begins with another status"
        for name, blank in BLANK_ITEM.get(item["type"], {}).items():
            assert item[name] == blank, f"it begins with {name}"
        if item["type"] == "reasoning":
            assert item["summary"] == [], "it begins with a summary"
            assert not item.get("content"), "it begins with content"
        if item["type"] == "message":
            assert item["role"] == "assistant"
        if item["type"] in {"function_call", "custom_tool_call"}:
            assert item["call_id"], "a call without call_id"
            assert item["name"], "a call without name"
            assert item["call_id"] != item["id"], "call_id is the item's id"
        self.items.append(_Item(item))

    def _item_done(self, event: JsonObject) -> None:
        done, item = event["item"], self._open_item(event, done=True)
        assert "tollgate" not in done, "a private member"
        for name in ("id", "type", "call_id", "name", "namespace", "role"):
            assert done.get(name) == item.added.get(name), f"the item's {name} changed"
        assert item.part is None, "a part is still open"
        if item.kind == "message":
            assert done["content"] == item.content, "content is not what the parts were"
            assert done["content"], "a message without parts"
        if item.kind == "reasoning":
            assert (done.get("content") or []) == item.content, "content is not what the parts were"
            assert done["summary"] == item.summary, "summary is not what the parts were"
        for kind, member in TEXTS.values():
            if kind == item.kind:
                assert done[member] == item.text, f"{member} differs from the deltas"
        status = done.get("status")
        if item.kind == "function_call" and status == "completed":
            assert done["arguments"].strip(), "a call with no arguments must have {}"
        if item.kind in {"message", "function_call"}:
            assert status in {"completed", "incomplete"}, "it ends with another status"
        assert status != "in_progress", "it ends in progress"
        if item.kind in PHASES and status == "completed":
            assert item.phases[-1:] == ["completed"], "it never was completed"
        item.done = done

    def _open_item(self, event: JsonObject, *, done: bool = False) -> _Item:
        index = event["output_index"]
        assert 0 <= index < len(self.items), "no item has this output_index"
        item = self.items[index]
        assert item.done is None, "the item has ended"
        assert (event["item"]["id"] if done else event["item_id"]) == item.added["id"], "another item's id"
        return item

    def _inside(self, kind: str, event: JsonObject) -> None:
        item = self._open_item(event)
        stem, _, word = kind.rpartition(".")
        name = stem.removeprefix("response.")
        if kind in {"response.content_part.added", "response.reasoning_summary_part.added"}:
            self._part_added(item, event)
        elif kind in {"response.content_part.done", "response.reasoning_summary_part.done"}:
            self._part_done(item, event)
        elif kind == "response.output_text.annotation.added":
            part = self._open_part(item, event, "output_text")
            assert event["annotation_index"] == len(part.annotations), "annotation_index is not the next one"
            assert isinstance(event["annotation"]["type"], str)
            assert not isinstance(event["annotation"].get(event["annotation"]["type"]), dict), "a nested annotation"
            part.annotations.append(event["annotation"])
        elif stem in PARTS:
            part_kind, member = PARTS[stem]
            part = self._open_part(item, event, part_kind)
            if part_kind == "output_text":
                assert isinstance(event["logprobs"], list), "no logprobs"
            part.text = self._text(part.deltas, word, event, member, part.text)
        elif stem in TEXTS:
            item_kind, member = TEXTS[stem]
            assert item.kind == item_kind, "an event of another kind of item"
            item.text = self._text(item.deltas, word, event, member, item.text)
        elif name in PHASES:
            assert item.kind == name, "an event of another kind of item"
            order = PHASES[name]
            assert word in order, "an unknown phase"
            last = item.phases[-1] if item.phases else order[0]
            assert order.index(word) >= order.index(last), "phases out of order"
            item.phases.append(word)
        else:
            raise AssertionError("an unknown event")

    def _text(self, deltas: list[str], word: str, event: JsonObject, member: str, text: str | None) -> str | None:
        assert text is None, "something follows the text's done"
        if word == "delta":
            assert event["delta"], "a delta of nothing"
            deltas.append(event["delta"])
            return None
        assert word == "done", "an unknown event"
        assert event[member] == "".join(deltas), f"{member} is not what the deltas were"
        return str(event[member])

    # Parts

    def _open_part(self, item: _Item, event: JsonObject, kind: str) -> _Part:
        assert item.part is not None, "no part is open"
        assert item.part.kind == kind, "another kind of part is open"
        if kind == "summary_text":
            assert event["summary_index"] == len(item.summary), "summary_index is not the open part's"
        else:
            assert event["content_index"] == len(item.content), "content_index is not the open part's"
        assert item.part.text is None or event["type"].endswith(".part.done"), "the part's text is done"
        return item.part

    def _part_added(self, item: _Item, event: JsonObject) -> None:
        part = event["part"]
        assert item.part is None, "another part is open"
        assert PART_HOLDERS.get(part["type"]) == item.kind, "a part of another kind of item"
        item.part = _Part(part["type"])
        self._open_part(item, event, part["type"])
        assert part["refusal" if part["type"] == "refusal" else "text"] == "", "a part begins with text"
        assert not part.get("annotations"), "a part begins with annotations"

    def _part_done(self, item: _Item, event: JsonObject) -> None:
        part = event["part"]
        assert item.part is not None, "no part is open"
        assert item.part.text is not None, "its text is not done"
        kind, is_summary = item.part.kind, item.part.kind == "summary_text"
        assert part["type"] == kind, "the part's type changed"
        index = event["summary_index"] if is_summary else event["content_index"]
        assert index == len(item.summary if is_summary else item.content), "the part's index changed"
        assert part["refusal" if kind == "refusal" else "text"] == item.part.text, "the part's text is another"
        if kind == "output_text":
            assert part["annotations"] == item.part.annotations, "annotations differ from their events"
        (item.summary if is_summary else item.content).append(part)
        item.part = None
