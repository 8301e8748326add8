"""An upstream that speaks the Responses API: whole and streamed by its grammar, and wrong in the ways that servers are.

The model chooses the answer: after `~` stand names of `KINDS` and twists of the form (`TWISTS`), several of them one
after the other. On all other paths it is the upstream of every other wire.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.protocol.json.types import JsonObject
from tests.fakes.upstream import INTERNAL_URL, SECRET, TRACE, Exchange, Reply
from tests.fakes.wire_server import FakeWires

PATHS = ("/v1/responses", "/openai/v1/responses", "/openai/responses")
RESPONSE_ID = "resp_upstream_1"
USAGE: JsonObject = {
    "input_tokens": 1207,
    "input_tokens_details": {"cached_tokens": 256, "cache_write_tokens": 0},
    "output_tokens": 311,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 1518,
}
ENCRYPTED = "gAAAAA-of-the-upstream"
THOUGHT = "First, 想一想."
SUMMARY = "**Thinking**"
WORDS = ["Hello ", "北京 ", "🚀 ", 'x"y\\ ', "done."]
TEXT = "".join(WORDS)
CITATION: JsonObject = {
    "type": "url_citation",
    "url": "https://a.test/",
    "title": "A",
    "start_index": 0,
    "end_index": 5,
}
ARGUMENTS = ('{"city": "Paris"}', '{"city": "北京"}')
FREE_TEXT = "print('naïve 北京')"
MEMBERS = {"output_text": "text", "reasoning_text": "text", "summary_text": "text", "refusal": "refusal"}


# The contents of answers: whole items, as they stand in a response


def message(*parts: JsonObject, item_id: str = "msg_up") -> JsonObject:
    return {"id": item_id, "type": "message", "status": "completed", "role": "assistant", "content": list(parts)}


def output_text(request: JsonObject, text: str = TEXT, annotations: Iterable[JsonObject] = ()) -> JsonObject:
    scores = [score(word) for word in pieces(text)] if request.get("top_logprobs") else []
    return {"type": "output_text", "text": text, "annotations": list(annotations), "logprobs": scores}


def score(word: str) -> JsonObject:
    return {"token": word, "logprob": -0.25, "bytes": list(word.encode()), "top_logprobs": []}


def call(index: int, name: str, arguments: str) -> JsonObject:
    return {
        "id": f"fc_up{index}",
        "type": "function_call",
        "status": "completed",
        "arguments": arguments,
        "call_id": f"call_up{index}",
        "name": name,
    }


def text(request: JsonObject) -> list[JsonObject]:
    return [message(output_text(request))]


def calls(request: JsonObject) -> list[JsonObject]:
    """Calls of the first tool and the last; text where the request has their results."""
    if any(item["type"].endswith("_output") for item in items_of(request)):
        return text(request)
    tools = request["tools"]
    if tools[0]["type"] == "custom":
        one = {"id": "ctc_up", "type": "custom_tool_call", "status": "completed", "call_id": "call_up"}
        return [{**one, "name": tools[0]["name"], "input": FREE_TEXT}]
    return [call(0, tools[0]["name"], ARGUMENTS[0]), call(1, tools[-1]["name"], ARGUMENTS[1])]


def thoughts(request: JsonObject) -> list[JsonObject]:
    """Reasoning, encrypted where the request includes that, like the API's."""
    one: JsonObject = {"id": "rs_up", "type": "reasoning", "summary": [{"type": "summary_text", "text": SUMMARY}]}
    if "reasoning.encrypted_content" in (request.get("include") or ()):
        one["encrypted_content"] = ENCRYPTED
    return [one]


def plain_thoughts(request: JsonObject) -> list[JsonObject]:
    """Reasoning of a server that does not encrypt it."""
    content = [{"type": "reasoning_text", "text": THOUGHT}]
    return [{"id": "rs_up", "type": "reasoning", "summary": [], "content": content, "encrypted_content": None}]


def search(request: JsonObject) -> list[JsonObject]:
    action = {"type": "search", "query": "北京", "sources": [{"type": "url", "url": "https://a.test/"}]}
    call = {"id": "ws_up", "type": "web_search_call", "status": "completed", "action": action}
    return [call, message(output_text(request, TEXT, [CITATION]))]


def hosted(request: JsonObject) -> list[JsonObject]:
    """One item of every other tool that the upstream runs itself."""
    tool = {"name": "t", "input_schema": {}, "description": None, "annotations": None}
    return [
        {
            "id": "fs_up", "type": "file_search_call", "status": "completed", "queries": ["q"],
            "results": [{"file_id": "file-1", "text": "found"}],
        },
        {
            "id": "ci_up", "type": "code_interpreter_call", "status": "completed", "code": "print(1)",
            "container_id": "cntr_1", "outputs": [{"type": "logs", "logs": "1"}],
        },
        {"id": "ig_up", "type": "image_generation_call", "status": "completed", "result": "aGk="},
        {"id": "mcpl_up", "type": "mcp_list_tools", "server_label": "s", "tools": [tool], "error": None},
        {
            "id": "mcp_up", "type": "mcp_call", "status": "completed", "server_label": "s", "name": "t",
            "arguments": '{"a":1}', "output": "ok", "error": None,
        },
        {"id": "mcpr_up", "type": "mcp_approval_request", "server_label": "s", "name": "t", "arguments": "{}"},
    ]  # fmt: skip


def refusal(request: JsonObject) -> list[JsonObject]:
    return [message({"type": "refusal", "refusal": "I must not."})]


KINDS = {
    "text": text,
    "calls": calls,
    "thinks": thoughts,
    "plain": plain_thoughts,
    "search": search,
    "hosted": hosted,
    "refuses": refusal,
}


def items_of(request: JsonObject) -> list[JsonObject]:
    items = request.get("input")
    return [{"type": "message", **item} for item in items] if isinstance(items, list) else []


def pieces(text: str) -> list[str]:
    if text == TEXT:
        return WORDS
    return [text[start : start + 5] for start in range(0, len(text), 5)]


# The response, whole and as events


def response_of(request: JsonObject, output: list[JsonObject], **members: Any) -> JsonObject:
    """The response object: it repeats the request's fields, `metadata` and the rest."""
    return {
        "id": RESPONSE_ID,
        "object": "response",
        "created_at": 1_790_000_000,
        "status": "completed",
        "background": False,
        "billing": {"payer": "developer"},
        "completed_at": 1_790_000_009,
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "max_tool_calls": None,
        "model": f"{request['model']}-2026-01-01",
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": request.get("prompt_cache_key"),
        "reasoning": {"effort": "low", "summary": None},
        "safety_identifier": None,
        "service_tier": "flex",
        "store": False,
        "temperature": request.get("temperature", 0.5),
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": request.get("tools") or [],
        "top_logprobs": 0,
        "top_p": 0.9,
        "truncation": "disabled",
        "usage": USAGE,
        "user": None,
        "metadata": {},
    } | members


def events_of(response: JsonObject, *, is_queued: bool = False, obfuscation: str = "") -> Iterator[JsonObject]:
    """All events of a stream, without their numbers."""
    begun = {**response, "status": "in_progress", "completed_at": None, "output": [], "usage": None}
    begun |= {"error": None, "incomplete_details": None}
    yield {"type": "response.created", "response": {**begun, **({"status": "queued"} if is_queued else {})}}
    if is_queued:
        yield {"type": "response.queued", "response": {**begun, "status": "queued"}}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response["output"]):
        place = {"item_id": item["id"], "output_index": index}
        yield {"type": "response.output_item.added", "output_index": index, "item": _blank(item)}
        for event in _inside(item, place):
            is_masked = obfuscation and event["type"].endswith(".delta")
            yield {**event, "obfuscation": obfuscation} if is_masked else event
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{response['status']}", "response": response}


BLANK: Mapping[str, JsonObject] = {
    "content": {"content": []}, "summary": {"summary": []}, "arguments": {"arguments": ""}, "input": {"input": ""},
    "status": {"status": "in_progress"}, "result": {"result": None}, "encrypted_content": {"encrypted_content": "gA"},
    "code": {"code": ""}, "outputs": {"outputs": None}, "results": {"results": None}, "output": {"output": None},
}  # fmt: skip


def _blank(item: JsonObject) -> JsonObject:
    return {**item, **{name: BLANK[name][name] for name in item if name in BLANK and item[name] is not None}}


PHASES = {
    "web_search_call": ("in_progress", "searching", "completed"),
    "file_search_call": ("in_progress", "searching", "completed"),
    "image_generation_call": ("in_progress", "generating", "completed"),
    "mcp_list_tools": ("in_progress", "completed"),
}


def _inside(item: JsonObject, place: JsonObject) -> Iterator[JsonObject]:
    kind = item["type"]
    for number, part in enumerate(item.get("summary") or ()):
        yield from _part(part, {**place, "summary_index": number}, "reasoning_summary_part", "reasoning_summary_text")
    for number, part in enumerate(item.get("content") or ()):
        yield from _part(part, {**place, "content_index": number}, "content_part", part["type"])
    if kind == "function_call":
        yield from _text("function_call_arguments", "arguments", item, place)
    elif kind == "custom_tool_call":
        yield from _text("custom_tool_call_input", "input", item, place)
    elif kind == "mcp_call":
        yield {"type": "response.mcp_call.in_progress", **place}
        yield from _text("mcp_call_arguments", "arguments", item, place)
        yield {"type": "response.mcp_call.completed", **place}
    elif kind == "code_interpreter_call":
        yield {"type": "response.code_interpreter_call.in_progress", **place}
        yield from _text("code_interpreter_call_code", "code", item, place)
        yield {"type": "response.code_interpreter_call.interpreting", **place}
        yield {"type": "response.code_interpreter_call.completed", **place}
    for phase in PHASES.get(kind, ()):
        yield {"type": f"response.{kind}.{phase}", **place}


def _part(part: JsonObject, place: JsonObject, holder: str, stem: str) -> Iterator[JsonObject]:
    member = MEMBERS[part["type"]]
    blank = {name: [] for name in ("annotations", "logprobs") if name in part}
    yield {"type": f"response.{holder}.added", **place, "part": {**part, member: "", **blank}}
    scores = part.get("logprobs")
    for number, piece in enumerate(pieces(part[member])):
        scored = {} if scores is None else {"logprobs": scores[number : number + 1]}
        yield {"type": f"response.{stem}.delta", **place, "delta": piece, **scored}
    for number, annotation in enumerate(part.get("annotations") or ()):
        noted = {"annotation_index": number, "annotation": annotation}
        yield {"type": "response.output_text.annotation.added", **place, **noted}
    scored = {} if scores is None else {"logprobs": scores}
    yield {"type": f"response.{stem}.done", **place, member: part[member], **scored}
    yield {"type": f"response.{holder}.done", **place, "part": part}


def _text(stem: str, member: str, item: JsonObject, place: JsonObject) -> Iterator[JsonObject]:
    for piece in pieces(item[member]):
        yield {"type": f"response.{stem}.delta", **place, "delta": piece}
    named = {"name": item["name"]} if stem == "function_call_arguments" else {}
    yield {"type": f"response.{stem}.done", **place, member: item[member], **named}


# The form of answers

UNKNOWN: JsonObject = {
    "type": "response.from_the_future",
    "output_index": 0,
    "item_id": "msg_up",
    "told": {"a": [1.50]},
}
FLAT_ERROR: JsonObject = {"type": "error", "code": "server_error", "message": TRACE + SECRET, "param": None}
RATE_LIMIT: JsonObject = {"code": "rate_limit_exceeded", "message": f"Refused at {INTERNAL_URL}"}
FAILED: JsonObject = {"status": "failed", "completed_at": None, "error": {"code": "server_error", "message": TRACE}}
SHORT: JsonObject = {
    "status": "incomplete",
    "completed_at": None,
    "incomplete_details": {"reason": "max_output_tokens"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """`keep` events are sent (all, when None), then `inserted`, then the end: clean, or the connection is cut."""

    members: JsonObject | None = None  # of the response
    keep: int | None = None
    inserted: tuple[JsonObject, ...] = ()
    is_cut: bool = False
    is_stalled: bool = False
    has_numbers: bool = True
    has_ids: bool = True
    ids: str = ""  # of all items, in all events
    is_queued: bool = False
    is_spaced: bool = False  # JSON as Python writes it
    is_named: bool = True  # an `event:` line before the data
    obfuscation: str = ""
    newline: bytes = b"\n"
    piece_bytes: int = 0
    gap_s: float = 0

    def whole(self, request: JsonObject, output: list[JsonObject]) -> JsonObject:
        response = response_of(request, output, **(self.members or {}))
        if response["status"] == "incomplete" and output:
            response["output"] = [*output[:-1], {**output[-1], "status": "incomplete"}]
        return response

    def events(self, request: JsonObject, output: list[JsonObject]) -> list[JsonObject]:
        events = list(
            events_of(self.whole(request, output), is_queued=self.is_queued, obfuscation=self.obfuscation),
        )
        events = [*events[: self.keep], *self.inserted]
        if self.ids:
            events = [_renamed(event, self.ids) for event in events]
        if not self.has_numbers:
            return events
        return [{"type": event["type"], "sequence_number": number, **event} for number, event in enumerate(events)]

    def frame(self, event: JsonObject) -> bytes:
        separators = (", ", ": ") if self.is_spaced else (",", ":")
        data = json.dumps(event, ensure_ascii=False, separators=separators).encode()
        name = b"event: %b%b" % (event["type"].encode(), self.newline) if self.is_named else b""
        return b"%bdata: %b%b%b" % (name, data, self.newline, self.newline)

    async def answer(self, exchange: Exchange, output: list[JsonObject]) -> None:
        if not exchange.streams:
            await asyncio.sleep(self.gap_s)
            await exchange.reply(json.dumps(self.whole(exchange.json, output), ensure_ascii=False).encode())
            return
        await exchange.start(content_type="text/event-stream")
        for event in self.events(exchange.json, output):
            data = self.frame(event)
            step = self.piece_bytes or len(data)
            for start in range(0, len(data), step):
                await exchange.write(data[start : start + step])
            await asyncio.sleep(self.gap_s)
        if self.is_stalled:
            await asyncio.sleep(3600)
        if not self.is_cut:
            await exchange.end()


def _renamed(event: JsonObject, item_id: str) -> JsonObject:
    if "item_id" in event:
        return {**event, "item_id": item_id}
    return {**event, "item": {**event["item"], "id": item_id}} if "item" in event else event


def refused(status: int, message: str, param: str | None = None, code: str | None = None) -> Reply:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Reply(status, json.dumps({"error": error}).encode())


TWISTS: Mapping[str, JsonObject] = {
    "bytewise": {"piece_bytes": 1},
    "crlf": {"newline": b"\r\n"},
    "spaced": {"is_spaced": True},
    "unnamed": {"is_named": False},
    "unnumbered": {"has_numbers": False},
    "reused": {"ids": "msg_same"},
    "queued": {"is_queued": True},
    "masked": {"obfuscation": "xYz"},
    "slow": {"gap_s": 0.05},
    "short": {"members": SHORT},
    "unpaid": {"members": {"usage": None}},
    "fails": {"members": {**FAILED, "usage": None}},
    "limited": {"members": {**FAILED, "error": RATE_LIMIT, "usage": None}},
    "cut": {"keep": 7, "is_cut": True, "gap_s": 0.05},
    "ends": {"keep": 7, "gap_s": 0.05},
    "stalls": {"keep": 7, "is_stalled": True, "gap_s": 0.05},
    "errs": {"keep": 7, "inserted": (FLAT_ERROR,), "gap_s": 0.05},
    "error": {"keep": 2, "inserted": (FLAT_ERROR,)},
    "running": {"members": {"status": "in_progress"}},
}
REPLIES: Mapping[str, Reply] = {
    "400": refused(400, "Invalid value: 'x'.", "input[0].content", "invalid_value"),
    "429": refused(429, "Slow down.", code="rate_limit_exceeded"),
    "500": refused(500, TRACE),
}


def twisted(names: Iterable[str]) -> Native:
    native = Native()
    for name in names:
        native = replace(native, **TWISTS[name])
    return native


class FakeNative(FakeWires):
    """Closes: itself, as a context manager. `refuses`: parameters that it does not support, by model."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: dict[str, str] = {}

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.recorded.path not in PATHS:
            await super()._answer(exchange)
            return
        model, *names = exchange.recorded.model.split("~")
        name = self.refuses.get(model)
        if name is not None and name in exchange.json:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            await refused(400, message, name)(exchange)
            return
        reply = next((REPLIES[name] for name in names if name in REPLIES), None)
        if reply is not None:
            await reply(exchange)
            return
        kinds = [name for name in names if name in KINDS] or ["text"]
        output = [item for name in kinds for item in KINDS[name](exchange.json)]
        await twisted(name for name in names if name in TWISTS).answer(exchange, output)
