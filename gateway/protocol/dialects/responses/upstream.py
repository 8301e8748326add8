"""Upstreams that speak the Responses API: their bytes pass through, and the gateway keeps the state.

The upstream gets the whole history, `store: false`, and none of our ids. The gateway relays its answer event by event.
It replaces the response's id and echo, the items' ids, and the encrypted content of reasoning, which it seals.
Source: https://platform.openai.com/docs/api-reference/responses and …/responses-streaming.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil

import orjson

from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.call import Call
from gateway.protocol.dialects.openai.passthrough import DONE, broken, read_metadata
from gateway.protocol.dialects.responses.client_answer import render_event
from gateway.protocol.dialects.responses.conversation import (
    OUTPUT_TYPES,
    SUMMARY_HEADING,
    drop_unfinished_calls,
)
from gateway.protocol.dialects.responses.event_log import LIFECYCLE
from gateway.protocol.dialects.responses.items import ENCRYPTED_REASONING, PREFIXES, PRIVATE, render_response
from gateway.protocol.dialects.responses.open_item import PART_ADDED, PART_DONE, PART_STEMS, PART_TEXTS, OpenItem
from gateway.protocol.dialects.responses.seal import Seal
from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.dialects.responses.stream import encode_frame, new_response, usage_object
from gateway.protocol.dialects.shared.parameters import GATEWAY_PARAMETERS
from gateway.protocol.dialects.shared.translate import EventPasser, incomplete
from gateway.protocol.error_classes import TOO_LONG, error_in_answer
from gateway.protocol.errors import UpstreamFault, sanitize
from gateway.protocol.input_estimate import estimate_content
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.body import ABSENT, edit_members
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.provider import Target
from gateway.protocol.routing_options import OPTIONS
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.usage import Usage, estimate_tokens, from_openai

WIRE = "responses"
PATH = "/responses"
#: Fields that are meant for the gateway, so that the upstream does not act on them a second time.
GATEWAY_FIELDS = (
    *("previous_response_id", "conversation", "background", "metadata", "type", "generate", "stream_id"),
    *("cache", "tags", "litellm_metadata", "litellm_session_id", "litellm_trace_id", "no-log"),
    *sorted(OPTIONS),
)
#: A deployment's own parameters have the names of Chat Completions. Their names here; CHAT_ONLY have none.
RENAMED = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}
NESTED = {"reasoning_effort": ("reasoning", "effort"), "verbosity": ("text", "verbosity")}
CHAT_ONLY = frozenset({"n", "stop", "seed", "logit_bias", "logprobs", "stream_options", "response_format"})
#: Items that go without their id. An upstream that stores nothing would look the id up and refuse the request.
WITHOUT_ID = frozenset(
    {
        *("message", "reasoning", "function_call", "function_call_output"),
        *("custom_tool_call", "custom_tool_call_output", "web_search_call", "tool_search_call"),
        *("local_shell_call", "local_shell_call_output", "compaction"),
    }
)
#: Items from the model other than messages and calls.
MODEL_ITEMS = frozenset({"mcp_list_tools", "mcp_approval_request", "program"})

MAX_ITEMS = 16_384
#: {terminal event of an answer that was not refused: the status of its response}
FINAL_STATUSES = {"response.completed": "completed", "response.incomplete": "incomplete"}
WITH_RESPONSE = LIFECYCLE | FINAL_STATUSES.keys() | {"response.failed"}
CHECKED_EVENTS = WITH_RESPONSE | {"response.output_item.added", "response.output_item.done"}
#: Codes of errors that the caller's input causes.
INPUT_ERROR_CODES = frozenset(
    {
        *("invalid_prompt", "bio_policy", "misalignment_policy_violation", "image_content_policy_violation"),
        *("invalid_image", "invalid_image_format", "invalid_image_mode", "invalid_image_url", "invalid_base64_image"),
        *("image_too_large", "image_too_small", "image_parse_error", "image_file_too_large", "empty_image_file"),
        *("unsupported_image_media_type", "failed_to_download_image", "image_file_not_found"),
    }
)
#: {type of an item: (members it needs to be stored and sent again, the one more that it needs once it is done)}
REQUIRED_MEMBERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "message": (("role",), ""),
    "function_call": (("call_id", "name"), "arguments"),
    "custom_tool_call": (("call_id", "name"), "input"),
    "compaction": ((), "encrypted_content"),
}
PART_LISTS = {"message": ("content",), "reasoning": ("content", "summary"), **dict.fromkeys(OUTPUT_TYPES, ("output",))}


# Request


def upstream_body(call: Call, target: Target, items: Sequence[Item]) -> bytes:
    """The client's request with the whole history as its input. It asks for encrypted reasoning."""
    body = call.body
    edits: JsonObject = dict.fromkeys(
        (name for name in (*GATEWAY_FIELDS, *target.unsupported_parameters) if name in body), ABSENT
    )
    edits |= _default_parameters(body, target)
    edits |= {"model": target.upstream_model, "store": False, "input": list(items)}
    edits["stream"] = True if call.stream else ABSENT
    if target.capabilities.reasoning_model and "include" not in target.unsupported_parameters:
        edits["include"] = sorted({*(body.get("include") or ()), ENCRYPTED_REASONING})
    return edit_members(call.raw, edits)


def _default_parameters(body: JsonMapping, target: Target) -> JsonObject:
    """The deployment's parameters that the client does not set."""
    defaults: JsonObject = {}
    for name, value in target.parameters.items():
        if name in NESTED:
            holder_name, member = NESTED[name]
            holder = defaults.get(holder_name) or body.get(holder_name) or {}
            if holder.get(member) is None and holder_name not in target.unsupported_parameters:
                defaults[holder_name] = {**holder, member: value}
        elif name not in CHAT_ONLY | GATEWAY_PARAMETERS | target.provider.own_parameters:
            field = RENAMED.get(name, name)
            if field not in body and field not in target.unsupported_parameters:
                defaults.setdefault(field, value)
    return defaults


def upstream_items(items: Sequence[Item], *, origin: str, seal: Seal) -> list[JsonObject]:
    """The items that the upstream gets: without our names and without unfinished calls. Reasoning stays only where this
    deployment made it and an item of the model follows it."""
    result: list[JsonObject] = []
    reasoning: list[JsonObject] = []
    for item in drop_unfinished_calls(items):
        kind = item["type"]
        if kind == "reasoning":
            sealed = seal.open(item.get("encrypted_content") or "")
            if sealed is not None and sealed.get("origin") == origin:
                reasoning.append(_strip_item({**item, "encrypted_content": sealed["signature"]}))
            continue
        if _is_from_model(item):
            result += reasoning
        reasoning.clear()
        result.append(_strip_item(_decode_compaction(item, seal) if kind == "compaction" else item))
    return result


def _is_from_model(item: Item) -> bool:
    kind: str = item["type"]
    return kind.endswith("_call") or kind in MODEL_ITEMS or (kind == "message" and item["role"] == "assistant")


def _strip_item(item: Item) -> JsonObject:
    hidden = {PRIVATE, "id"} if item["type"] in WITHOUT_ID else {PRIVATE}
    if item.get("encrypted_content") == "":  # reasoning that the upstream did not encrypt
        hidden.add("encrypted_content")
    return {name: member for name, member in item.items() if name not in hidden}


def _decode_compaction(item: Item, seal: Seal) -> Item:
    """The summary as a user message where the gateway sealed it. Any other compaction is the upstream's own."""
    sealed = seal.open(item.get("encrypted_content") or "")
    if sealed is None or not isinstance(sealed.get("summary"), str):
        return item
    return {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": SUMMARY_HEADING + sealed["summary"]}],
    }


# Answer


def build_fault(error: Json) -> UpstreamFault:
    """The fault for the error of a failed response or of an `error` event."""
    code = error.get("code") if isinstance(error, Mapping) else None
    text = error.get("message") if isinstance(error, Mapping) else error
    message = sanitize(text) if isinstance(text, str) else ""
    if code == "context_length_exceeded" or TOO_LONG.search(message):
        return error_in_answer({"code": "context_length_exceeded", "message": message})
    if code == "rate_limit_exceeded":
        return UpstreamFault(
            message or "The upstream's rate limit is reached.",
            status=429,
            kind="rate_limit_error",
            code=code,
            is_retryable=True,
        )
    if isinstance(code, str) and code in INPUT_ERROR_CODES:
        message = message or "The upstream refused the request."
        return UpstreamFault(message, status=400, kind="invalid_request_error", code=code)
    return UpstreamFault(message or "The upstream answered with an error.", is_retryable=True)


def check_item(item: Json, *, is_done: bool = True) -> Item:
    """Raises UpstreamFault for an item that the gateway cannot store, show and send again."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise broken("The upstream sent an item that is none.")
    required, final_text = REQUIRED_MEMBERS.get(item["type"], ((), ""))
    for name in (*required, final_text) if is_done and final_text else required:
        if not isinstance(item.get(name), str):
            raise broken("The upstream sent an item that lacks a member.")
    for name in PART_LISTS.get(item["type"], ()):
        parts = item.get(name)
        is_list = isinstance(parts, list) and all(_is_part(part) for part in parts)
        if parts is not None and not is_list and not (name == "output" and isinstance(parts, str)):
            raise broken("The upstream sent an item whose parts are none.")
    return item


def _is_part(part: Json, *, is_done: bool = True) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    stem = PART_STEMS.get(part["type"])
    return stem is None or not is_done or isinstance(part.get(PART_TEXTS[stem][1]), str)


class NativeAnswer:
    """The state of one relayed response. `ours`: the members that the gateway sets. `echo`: the members that it fills
    in where the upstream sends none. An item is known by its output index: several servers give two items one id."""

    __slots__ = (
        "_done_items",
        "_ids",
        "_include",
        "_input_estimate",
        "_new_id",
        "_now",
        "_open_items",
        "_origin",
        "_ours",
        "_seal",
        "is_ended",
        "is_open",
        "next_number",
        "response",
    )

    def __init__(
        self,
        echo: JsonObject,
        ours: JsonObject,
        new_id: Callable[[str], str],
        *,
        origin: str,
        seal: Seal,
        now: Callable[[], float],
        include: frozenset[str] = frozenset(),
        input_estimate: int = 0,
    ) -> None:
        self.response = new_response({**echo, **ours})
        self.is_open = False  # the client has its first event
        self.is_ended = False
        self.next_number = 0
        self._ours = ours
        self._new_id = new_id
        self._origin = origin
        self._seal = seal
        self._now = now
        self._include = include
        self._input_estimate = input_estimate
        self._ids: dict[int, str] = {}  # by output index
        self._done_items: dict[int, Item] = {}
        self._open_items: dict[int, OpenItem] = {}

    def merge(self, response: JsonObject) -> None:
        """Takes over the upstream's members of the response, except those that the gateway manages."""
        managed = {PRIVATE, "status", "completed_at", "error", "output", "usage"}
        self.response |= {
            name: member
            for name, member in response.items()
            if name not in managed and (member is not None or name not in self.response)
        }
        self.response |= self._ours
        if isinstance(response.get("usage"), dict):
            self.response["usage"] = _complete_usage(response["usage"])

    def whole(self, response: JsonObject, output_estimate: int) -> bytes:
        """The body of a whole answer. Raises UpstreamFault for a response that has failed, or has not ended."""
        status = response.get("status") or "completed"
        if status == "failed" or response.get("error"):
            raise build_fault(response.get("error"))
        if status not in FINAL_STATUSES.values():
            raise UpstreamFault("The upstream's answer is a response that has not ended.")
        self.is_open = True
        self._finish(status, response, output_estimate)
        return orjson.dumps(render_response(self.response, self._include))

    def relay(self, event: JsonObject, raw: bytes) -> bytes:
        """The frames for one event of the stream. `raw`: its lines where they have our form, else empty; they are
        relayed if nothing changes in them. The first events leave together with the next one: until then another
        deployment may still answer."""
        kind: str = event["type"]
        if kind in LIFECYCLE:
            self.merge(event["response"])
            return b""
        opening = self._opening()
        is_same = raw != b"" and event.get("sequence_number") == self.next_number
        event["sequence_number"] = self.next_number
        self.next_number += 1
        index = event.get("output_index")
        if kind == "response.output_item.added":
            event |= self._add_item(event, index)
            is_same = False
        elif kind == "response.output_item.done":
            event |= self._end_item(event, index)
            is_same = False
        elif type(index) is int:
            item_id, item = self._ids.get(index), self._open_items.get(index)
            upstream_id = event.get("item_id")
            if item_id is not None and upstream_id is not None:
                event["item_id"] = item_id
                old = b'"item_id":%b' % orjson.dumps(upstream_id)
                is_same = is_same and raw.count(old) == 1
                raw = raw.replace(old, b'"item_id":"%b"' % item_id.encode())
            if item is not None:
                item.feed(kind, event)
        rendered = render_event(event, self._include)
        return opening + (raw + b"\n\n" if is_same and rendered is event else encode_frame(rendered))

    def end(self, kind: str, response: JsonObject, output_estimate: int) -> bytes:
        """The frames that end the stream, for the upstream's terminal event."""
        frames = self._opening() + self._close_items(FINAL_STATUSES[kind])
        self._finish(FINAL_STATUSES[kind], response, output_estimate)
        return frames + self._encode_event(kind, {"response": self.response})

    def failure(self, code: str, message: str) -> bytes:
        return self._interrupt("failed", "response.failed", {"code": code, "message": message})

    def cancellation(self) -> bytes:
        return self._interrupt("cancelled", "response.incomplete", None)

    def _opening(self) -> bytes:
        """The first two frames, once."""
        if self.is_open:
            return b""
        self.is_open = True
        started = {**self.response, "usage": None, "incomplete_details": None}
        created = self._encode_event("response.created", {"response": started})
        return created + self._encode_event("response.in_progress", {"response": started})

    def _finish(self, status: str, response: JsonObject, output_estimate: int) -> None:
        """Ends the response. An item that the client has already got stays as it is, whatever `output` holds."""
        self.merge(response)
        output = response.get("output")
        for index, item in enumerate(output if isinstance(output, list) else ()):
            if index not in self._done_items:
                self._done_items[index] = self._seal_item(check_item(item), index)
        self.is_ended = True
        self.response |= {
            "status": status,
            "completed_at": int(self._now()) if status == "completed" else None,
            "output": self._output(),
        }
        if self.response["usage"] is None:
            self.response["usage"] = usage_object(
                Usage(input_tokens=self._input_estimate, output_tokens=output_estimate)
            )

    def _interrupt(self, status: str, kind: str, error: JsonObject | None) -> bytes:
        """Ends a stream that the upstream did not end: the open items are closed with what they have so far."""
        if self.is_ended:
            return b""
        self.is_ended = True
        frames = self._opening() + self._close_items("incomplete")
        self.response |= {"status": status, "error": error, "incomplete_details": None, "output": self._output()}
        return frames + self._encode_event(kind, {"response": self.response}) + DONE

    def _output(self) -> list[Item]:
        return [item for _, item in sorted(self._done_items.items())]

    def _close_items(self, status: str) -> bytes:
        """Ends the open items. In a cut answer only the last item is incomplete."""
        frames: list[bytes] = []
        last = max(self._ids, default=0)
        for index, item in sorted(self._open_items.items()):
            events, self._done_items[index] = item.end(status if index == last else "completed")
            frames += [self._encode_event(kind, members) for kind, members in events]
        self._open_items.clear()
        return b"".join(frames)

    def _encode_event(self, kind: str, members: JsonObject) -> bytes:
        event = {"type": kind, "sequence_number": self.next_number, **members}
        self.next_number += 1
        return encode_frame(render_event(event, self._include))

    # Items

    def _add_item(self, event: JsonObject, output_index: Json) -> JsonObject:
        index = output_index if type(output_index) is int else len(self._ids)
        item = self._rename_item(check_item(event.get("item"), is_done=False), index)
        if item["type"] == "reasoning":  # it is not complete before the item is done
            item.pop("encrypted_content", None)
        self._open_items[index] = OpenItem(item, index)
        return {"output_index": index, "item": item}

    def _end_item(self, event: JsonObject, output_index: Json) -> JsonObject:
        index = output_index if type(output_index) is int else max(self._open_items, default=len(self._ids))
        self._open_items.pop(index, None)
        item = self._done_items[index] = self._seal_item(check_item(event.get("item")), index)
        return {"output_index": index, "item": item}

    def _seal_item(self, item: Item, index: int) -> Item:
        """The item with our id, and with sealed reasoning, which only this deployment can use."""
        item = self._rename_item(item, index)
        encrypted = item.get("encrypted_content")
        if item["type"] == "reasoning" and (isinstance(encrypted, str) or item.get("content")):
            sealed = {"origin": self._origin, "signature": encrypted if isinstance(encrypted, str) else ""}
            item["encrypted_content"] = self._seal.close(sealed)
        return item

    def _rename_item(self, item: Item, index: int) -> Item:
        item_id = self._ids.get(index)
        if item_id is None:
            if len(self._ids) >= MAX_ITEMS:
                raise broken("The upstream sent too many items.")
            item_id = self._ids[index] = self._new_id(PREFIXES.get(item["type"], "item_"))
        return {"id": item_id, **{name: member for name, member in item.items() if name not in {"id", PRIVATE}}}


def _complete_usage(raw: JsonObject) -> JsonObject | None:
    """The upstream's usage with all members that clients require."""
    parsed = from_openai(raw)
    if parsed is None:
        return None
    usage = usage_object(parsed)
    for name in ("input_tokens_details", "output_tokens_details"):
        details = raw.get(name)
        usage[name] = {**(details if isinstance(details, dict) else {}), **usage[name]}
    return usage | {name: value for name, value in raw.items() if name not in usage}


class NativeRelay(EventPasser):
    """StreamRelay of a streamed response."""

    __slots__ = ("_answer", "_splitter", "_terminal", "_text_size", "metadata")

    def __init__(self, answer: NativeAnswer) -> None:
        super().__init__()
        self.metadata = AnswerMetadata()
        self._answer = answer
        self._splitter = EventSplitter()
        self._terminal = b""
        self._text_size = 0.0

    def feed(self, piece: bytes) -> bytes:
        return self._relay_events(self._splitter.feed(piece))

    def finish(self) -> bytes:
        rest = self._relay_events(self._splitter.finish())
        self._raise_fault()
        if not self._terminal:
            raise incomplete()
        return rest + self._terminal + DONE

    def _through(self, raw: bytes) -> bytes:
        name, mark, data = raw.partition(b"\ndata: ")
        is_usual = bool(mark) and b"\n" not in data and name.startswith(b"event: ")
        payload = data if is_usual else event_data(raw)
        if not payload or payload == b"[DONE]" or self.is_done:
            return b""
        try:
            event = load_answer(payload)
        except orjson.JSONDecodeError:
            raise broken("The upstream sent an event that is not JSON.") from None
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "error" or (kind is None and isinstance(event, dict) and event.get("error")):
            raise build_fault(event.get("error") or event)
        if not isinstance(kind, str) or not _is_event(kind, event):
            raise broken("The upstream sent an event that is no event of a response.")
        response = event.get("response")
        if kind not in CHECKED_EVENTS and (response is not None or "item" in event):
            return b""  # an unknown event with a response or an item in it: the gateway cannot rewrite its ids
        if response is not None:
            read_metadata(self.metadata, response)
            if kind in LIFECYCLE and self.metadata.usage is not None:
                self.metadata.early_usage, self.metadata.usage = self.metadata.usage, None
        if kind == "response.failed":
            self._answer.merge(response)
            raise build_fault(response.get("error"))
        if kind in FINAL_STATUSES:
            self._terminal = self._answer.end(kind, response, self.metadata.output_estimate)
            self.is_done = True  # the terminal event leaves when the response is stored
            return b""
        delta = event.get("delta")
        if isinstance(delta, str):
            self._text_size += len(delta) / 4 if delta.isascii() else estimate_tokens(delta)
            self.metadata.output_estimate = ceil(self._text_size)
        is_named = is_usual and name[7:] == kind.encode()
        return self._answer.relay(event, raw if is_named else b"")


def _is_event(kind: str, event: JsonObject) -> bool:
    """True where the members that the gateway reads have their types."""
    if kind in WITH_RESPONSE and not isinstance(event.get("response"), dict):
        return False
    has_part = "part" in event or kind in PART_ADDED or kind in PART_DONE
    if has_part and not _is_part(event.get("part"), is_done=kind in PART_DONE):
        return False
    return isinstance(event.get("logprobs"), list | None)


def relay_whole(answer: NativeAnswer, body: bytes) -> tuple[bytes, AnswerMetadata]:
    """(the client's body, its metadata). Raises UpstreamFault for all but a completed or an incomplete response."""
    try:
        response = load_answer(body)
    except orjson.JSONDecodeError:
        raise UpstreamFault("The upstream's answer is not JSON.") from None
    if not isinstance(response, dict):
        raise UpstreamFault("The upstream's answer is not a JSON object.")
    if response.get("error"):
        raise build_fault(response["error"])
    output = response.get("output")
    if not isinstance(output, list):
        raise UpstreamFault("The upstream's answer holds no output.")
    metadata = AnswerMetadata()
    read_metadata(metadata, response)
    metadata.output_estimate = estimate_content([check_item(item) for item in output])
    return answer.whole(response, metadata.output_estimate), metadata
