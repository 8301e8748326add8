"""A stored response → the events of its stream, each text in one delta.

The order is that of stream.py. Some items come only from an upstream that speaks this format (web search, MCP, code
interpreter and others); they get the events of their kind.
"""

from collections.abc import Iterator, Mapping

from gateway.protocol.dialects.responses.event_log import number_events
from gateway.protocol.dialects.responses.items import render_response, without_member
from gateway.protocol.dialects.responses.open_item import UnnumberedEvent
from gateway.protocol.dialects.responses.stored import TERMINAL_EVENTS
from gateway.protocol.json.types import JsonObject

#: {type of an item: the phases before its last one, each an event of its own}
PHASES: Mapping[str, tuple[str, ...]] = {
    "web_search_call": ("in_progress", "searching"),
    "file_search_call": ("in_progress", "searching"),
    "image_generation_call": ("in_progress", "generating"),
    "code_interpreter_call": ("in_progress", "interpreting"),
    "mcp_list_tools": ("in_progress",),
    "mcp_call": ("in_progress",),
}
#: Items that have a `failed` event.
CAN_FAIL = frozenset({"mcp_list_tools", "mcp_call"})
#: {type of an item: the members that its `added` event has with a blank value}
BLANKS: Mapping[str, JsonObject] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
    "mcp_call": {"arguments": "", "output": None, "error": None},
    "code_interpreter_call": {"code": "", "outputs": None},
    "image_generation_call": {"result": None},
    "file_search_call": {"results": None},
}


def replay_events(response: JsonObject, include: frozenset[str] = frozenset()) -> list[JsonObject]:
    """All events of a response that has ended, from `response.created` to the terminal one."""
    return number_events(_response_events(render_response(response, include)))


def _response_events(response: JsonObject) -> Iterator[UnnumberedEvent]:
    blank: JsonObject = {"completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None}
    started = {**response, **blank, "status": "in_progress"}
    if response.get("background"):
        queued = {**started, "status": "queued"}
        yield "response.created", {"response": queued}
        yield "response.queued", {"response": queued}
    else:
        yield "response.created", {"response": started}
    yield "response.in_progress", {"response": started}
    for index, item in enumerate(response["output"]):
        yield "response.output_item.added", {"output_index": index, "item": _blank_item(item)}
        yield from _item_events(item, {"item_id": item.get("id", ""), "output_index": index})
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield TERMINAL_EVENTS[response["status"]], {"response": response}


def _blank_item(item: JsonObject) -> JsonObject:
    """The item as its `added` event has it."""
    blanks = dict(BLANKS.get(item["type"], {}))
    if item["type"] == "reasoning":
        blanks = {"summary": [], "content": []}
        item = without_member(item, "encrypted_content")
    if "status" in item:
        blanks["status"] = "in_progress"
    return item | {name: blank for name, blank in blanks.items() if name in item}


def _item_events(item: JsonObject, place: JsonObject) -> Iterator[UnnumberedEvent]:
    kind = item["type"]
    if kind == "message":
        yield from _content_events(item, place)
    elif kind == "reasoning":
        yield from _summary_events(item, place)
        yield from _content_events(item, place)
    elif kind == "function_call":
        yield from _text_events("response.function_call_arguments", place, "arguments", item["arguments"])
    elif kind == "custom_tool_call":
        yield from _text_events("response.custom_tool_call_input", place, "input", item["input"])
    elif kind in PHASES:
        yield from _phase_events(item, place)


def _content_events(item: JsonObject, item_place: JsonObject) -> Iterator[UnnumberedEvent]:
    for index, part in enumerate(item.get("content") or ()):
        kind = part["type"]
        member = "refusal" if kind == "refusal" else "text"
        place = {**item_place, "content_index": index}
        blank_part = {**part, member: ""}
        logprobs: JsonObject = {}
        if kind == "output_text":
            blank_part |= {name: [] for name in ("annotations", "logprobs") if name in part}
            logprobs = {"logprobs": part.get("logprobs") or []}
        yield "response.content_part.added", {**place, "part": blank_part}
        if part[member]:
            yield f"response.{kind}.delta", {**place, "delta": part[member], **logprobs}
        for number, annotation in enumerate(part.get("annotations") or ()):
            members = {**place, "annotation_index": number, "annotation": annotation}
            yield "response.output_text.annotation.added", members
        yield f"response.{kind}.done", {**place, member: part[member], **logprobs}
        yield "response.content_part.done", {**place, "part": part}


def _summary_events(item: JsonObject, item_place: JsonObject) -> Iterator[UnnumberedEvent]:
    for index, part in enumerate(item.get("summary") or ()):
        place = {**item_place, "summary_index": index}
        yield "response.reasoning_summary_part.added", {**place, "part": {**part, "text": ""}}
        yield from _text_events("response.reasoning_summary_text", place, "text", part["text"])
        yield "response.reasoning_summary_part.done", {**place, "part": part}


def _phase_events(item: JsonObject, place: JsonObject) -> Iterator[UnnumberedEvent]:
    kind = item["type"]
    for phase in PHASES[kind]:
        if phase == "interpreting":
            yield from _text_events("response.code_interpreter_call_code", place, "code", item.get("code") or "")
        yield f"response.{kind}.{phase}", place
    if kind == "mcp_call":
        yield from _text_events("response.mcp_call_arguments", place, "arguments", item.get("arguments") or "")
    if kind in CAN_FAIL and (item.get("error") or item.get("status") == "failed"):
        yield f"response.{kind}.failed", place
    elif item.get("status", "completed") == "completed":
        yield f"response.{kind}.completed", place


def _text_events(stem: str, place: JsonObject, member: str, text: str) -> Iterator[UnnumberedEvent]:
    if text:
        yield f"{stem}.delta", {**place, "delta": text}
    yield f"{stem}.done", {**place, member: text}
