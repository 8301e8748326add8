"""A stored response → the events that a stream of it would have been, each text in one delta.

The order is that of stream.py. Items that the gateway makes none of itself, which came from an
upstream of the same wire, are told with the events of their kind.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.protocol.dialects.responses.items import render_response
from gateway.protocol.dialects.responses.stored import TERMINAL_EVENTS
from gateway.protocol.json.types import JsonObject

#: Phases of the items that have them, up to the last one.
PHASES: Mapping[str, tuple[str, ...]] = {
    "web_search_call": ("in_progress", "searching"),
    "file_search_call": ("in_progress", "searching"),
    "image_generation_call": ("in_progress", "generating"),
    "code_interpreter_call": ("in_progress", "interpreting"),
    "mcp_list_tools": ("in_progress",),
    "mcp_call": ("in_progress",),
}
#: Those that can tell that they failed.
CAN_FAIL = frozenset({"mcp_list_tools", "mcp_call"})
#: What an item has from its beginning only in name: its members, empty.
BLANKS: Mapping[str, JsonObject] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
    "mcp_call": {"arguments": "", "output": None, "error": None},
    "code_interpreter_call": {"code": "", "outputs": None},
    "image_generation_call": {"result": None},
    "file_search_call": {"results": None},
}

_Told = Iterator[tuple[str, JsonObject]]


def replay_events(response: JsonObject, include: frozenset[str] = frozenset()) -> list[JsonObject]:
    """All events of a response that has ended, from `response.created` to the terminal one."""
    seen = render_response(response, include)
    return [{"type": kind, "sequence_number": number, **members} for number, (kind, members) in enumerate(_told(seen))]


def _told(response: JsonObject) -> _Told:
    blank: JsonObject = {"completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None}
    begun = {**response, **blank, "status": "in_progress"}
    if response.get("background"):
        queued = {**begun, "status": "queued"}
        yield "response.created", {"response": queued}
        yield "response.queued", {"response": queued}
    else:
        yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(response["output"]):
        yield "response.output_item.added", {"output_index": index, "item": _begun(item)}
        yield from _inside(item, {"item_id": item.get("id", ""), "output_index": index})
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield TERMINAL_EVENTS[response["status"]], {"response": response}


def _begun(item: JsonObject) -> JsonObject:
    blanks = dict(BLANKS.get(item["type"], {}))
    if item["type"] == "reasoning":
        blanks = {"summary": [], "content": []}
        item = {name: member for name, member in item.items() if name != "encrypted_content"}
    if "status" in item:
        blanks["status"] = "in_progress"
    return item | {name: blank for name, blank in blanks.items() if name in item}


def _inside(item: JsonObject, place: JsonObject) -> _Told:
    kind = item["type"]
    if kind == "message":
        yield from _content(item, place)
    elif kind == "reasoning":
        yield from _summary(item, place)
        yield from _content(item, place)
    elif kind == "function_call":
        yield from _text("response.function_call_arguments", place, "arguments", item["arguments"])
    elif kind == "custom_tool_call":
        yield from _text("response.custom_tool_call_input", place, "input", item["input"])
    elif kind in PHASES:
        yield from _phases(item, place)


def _content(item: JsonObject, place: JsonObject) -> _Told:
    for index, part in enumerate(item.get("content") or ()):
        kind = part["type"]
        member = "refusal" if kind == "refusal" else "text"
        here = {**place, "content_index": index}
        begun = {**part, member: ""}
        scores: JsonObject = {}
        if kind == "output_text":
            begun |= {name: [] for name in ("annotations", "logprobs") if name in part}
            scores = {"logprobs": part.get("logprobs") or []}
        yield "response.content_part.added", {**here, "part": begun}
        if part[member]:
            yield f"response.{kind}.delta", {**here, "delta": part[member], **scores}
        for number, annotation in enumerate(part.get("annotations") or ()):
            told = {**here, "annotation_index": number, "annotation": annotation}
            yield "response.output_text.annotation.added", told
        yield f"response.{kind}.done", {**here, member: part[member], **scores}
        yield "response.content_part.done", {**here, "part": part}


def _summary(item: JsonObject, place: JsonObject) -> _Told:
    for index, part in enumerate(item.get("summary") or ()):
        here = {**place, "summary_index": index}
        yield "response.reasoning_summary_part.added", {**here, "part": {**part, "text": ""}}
        yield from _text("response.reasoning_summary_text", here, "text", part["text"])
        yield "response.reasoning_summary_part.done", {**here, "part": part}


def _phases(item: JsonObject, place: JsonObject) -> _Told:
    kind = item["type"]
    for phase in PHASES[kind]:
        if phase == "interpreting":
            yield from _text("response.code_interpreter_call_code", place, "code", item.get("code") or "")
        yield f"response.{kind}.{phase}", place
    if kind == "mcp_call":
        yield from _text("response.mcp_call_arguments", place, "arguments", item.get("arguments") or "")
    if kind in CAN_FAIL and (item.get("error") or item.get("status") == "failed"):
        yield f"response.{kind}.failed", place
    elif item.get("status", "completed") == "completed":
        yield f"response.{kind}.completed", place


def _text(stem: str, place: JsonObject, member: str, text: Any) -> _Told:
    if text:
        yield f"{stem}.delta", {**place, "delta": text}
    yield f"{stem}.done", {**place, member: text}
