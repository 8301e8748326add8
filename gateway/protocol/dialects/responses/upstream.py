"""The Responses API towards an upstream that speaks it: bytes pass through, and the state stays with the gateway.

The upstream gets the whole history, `store: false`, and none of our ids. What comes back is relayed event by event;
what is changed are the response's id and echo, the items' ids, and reasoning, whose encrypted content only we hand out.
Source: https://platform.openai.com/docs/api-reference/responses and …/responses-streaming.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import orjson

from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.call import Call
from gateway.protocol.dialects.openai.passthrough import DONE, broken, learn
from gateway.protocol.dialects.responses.client_answer import render_event
from gateway.protocol.dialects.responses.conversation import (
    OUTPUT_TYPES,
    SUMMARY_HEADING,
    drop_unfinished_calls,
    estimate_item_tokens,
)
from gateway.protocol.dialects.responses.items import ENCRYPTED_REASONING, PREFIXES, PRIVATE, render_response
from gateway.protocol.dialects.responses.open_item import PART_ADDED, PART_DONE, PART_STEMS, PART_TEXTS, OpenItem
from gateway.protocol.dialects.responses.seal import Seal
from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.dialects.responses.stream import encode_frame, usage_object
from gateway.protocol.dialects.shared.parameters import GATEWAY_PARAMETERS
from gateway.protocol.dialects.shared.translate import EventPasser, incomplete
from gateway.protocol.error_classes import error_in_answer
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.body import ABSENT, edit_members
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.usage import Usage, estimate_tokens, from_openai

WIRE = "responses"
PATH = "/responses"
#: What the gateway does itself, or is addressed to it; the upstream must not do it a second time.
GATEWAY_FIELDS = (
    *("previous_response_id", "conversation", "background", "metadata", "type", "generate", "stream_id"),
    *("tags", "litellm_metadata", "litellm_session_id", "litellm_trace_id", "no-log"),
)
#: A deployment's own parameters have the names of Chat Completions: what those are here, and which are nothing here.
RENAMED = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}
NESTED = {"reasoning_effort": ("reasoning", "effort"), "verbosity": ("text", "verbosity")}
CHAT_ONLY = frozenset({"n", "stop", "seed", "logit_bias", "logprobs", "stream_options", "response_format"})
#: Items that are complete without an id. An upstream that keeps nothing would look it up in vain, and refuse.
WITHOUT_ID = frozenset(
    {
        *("message", "reasoning", "function_call", "function_call_output"),
        *("custom_tool_call", "custom_tool_call_output", "web_search_call", "tool_search_call"),
        *("local_shell_call", "local_shell_call_output", "compaction"),
    }
)
#: What a model makes beside messages and calls.
MODEL_ITEMS = frozenset({"mcp_list_tools", "mcp_approval_request", "program"})

BEGINNING = frozenset({"response.created", "response.queued", "response.in_progress"})
ENDINGS = {"response.completed": "completed", "response.incomplete": "incomplete"}
WITH_RESPONSE = BEGINNING | ENDINGS.keys() | {"response.failed"}
CHECKED_EVENTS = WITH_RESPONSE | {"response.output_item.added", "response.output_item.done"}
#: Codes of errors for which the caller's input is to blame.
INPUT_ERROR_CODES = frozenset(
    {
        *("invalid_prompt", "bio_policy", "misalignment_policy_violation", "image_content_policy_violation"),
        *("invalid_image", "invalid_image_format", "invalid_image_mode", "invalid_image_url", "invalid_base64_image"),
        *("image_too_large", "image_too_small", "image_parse_error", "image_file_too_large", "empty_image_file"),
        *("unsupported_image_media_type", "failed_to_download_image", "image_file_not_found"),
    }
)
#: Without these an item could not be stored and sent again. The last ones are there when it is done.
REQUIRED_MEMBERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "message": (("role",), ""),
    "function_call": (("call_id", "name"), "arguments"),
    "custom_tool_call": (("call_id", "name"), "input"),
    "compaction": ((), "encrypted_content"),
}
PART_LISTS = {"message": ("content",), "reasoning": ("content", "summary"), **dict.fromkeys(OUTPUT_TYPES, ("output",))}


# What a call of this dialect knows of it


def is_native(call: Call, target: Target) -> bool:
    return call.dialect.wire == WIRE and target.provider.has_responses(target)


def native_body(call: Call, target: Target) -> bytes:
    dialect: Any = call.dialect
    items: list[JsonObject] = dialect.native_items()
    return upstream_body(call, target, items)


def native_answer(call: Call) -> "NativeAnswer":
    dialect: Any = call.dialect
    answer: NativeAnswer = dialect.native_answer(call.input_estimate)
    return answer


# Request


def upstream_body(call: Call, target: Target, items: Sequence[Item]) -> bytes:
    """The client's request with the whole history in it, its reasoning to come back sealed."""
    body = call.body
    edits: dict[str, Any] = dict.fromkeys(
        (name for name in (*GATEWAY_FIELDS, *target.unsupported_parameters) if name in body), ABSENT
    )
    edits |= _own_parameters(body, target)
    edits |= {"model": target.upstream_model, "store": False, "input": list(items)}
    edits["stream"] = True if call.stream else ABSENT
    if target.capabilities.reasoning_model and "include" not in target.unsupported_parameters:
        edits["include"] = sorted({*(body.get("include") or ()), ENCRYPTED_REASONING})
    return edit_members(call.raw, edits)


def _own_parameters(body: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """The deployment's, where the client says nothing."""
    own: dict[str, Any] = {}
    for name, value in target.parameters.items():
        if name in NESTED:
            holder, member = NESTED[name]
            given = own.get(holder) or body.get(holder) or {}
            if given.get(member) is None and holder not in target.unsupported_parameters:
                own[holder] = {**given, member: value}
        elif name not in CHAT_ONLY | GATEWAY_PARAMETERS | target.provider.own_parameters:
            known = RENAMED.get(name, name)
            if known not in body and known not in target.unsupported_parameters:
                own.setdefault(known, value)
    return own


def upstream_items(items: Sequence[Item], *, origin: str, seal: Seal) -> list[JsonObject]:
    """Items as the upstream may see them: without our names, without calls that were cut, and only with reasoning that
    it made itself, and that led to something."""
    sent: list[JsonObject] = []
    thoughts: list[JsonObject] = []
    for item in drop_unfinished_calls(items):
        kind = item["type"]
        if kind == "reasoning":
            sealed = seal.open(item.get("encrypted_content") or "")
            if sealed is not None and sealed.get("origin") == origin:
                thoughts.append(_named({**item, "encrypted_content": sealed["signature"]}))
            continue
        if _is_made(item):
            sent += thoughts
        thoughts.clear()
        if kind == "compaction":
            item = _told(item, seal)  # noqa: PLW2901
        sent.append(_named(item))
    return sent


def _is_made(item: Item) -> bool:
    kind: str = item["type"]
    return kind.endswith("_call") or kind in MODEL_ITEMS or (kind == "message" and item["role"] == "assistant")


def _named(item: Item) -> JsonObject:
    hidden = {PRIVATE, "id"} if item["type"] in WITHOUT_ID else {PRIVATE}
    if item.get("encrypted_content") == "":  # reasoning that came in plain words
        hidden.add("encrypted_content")
    return {name: member for name, member in item.items() if name not in hidden}


def _told(item: Item, seal: Seal) -> Item:
    """A compaction of ours in words; one that is not ours is the upstream's."""
    sealed = seal.open(item.get("encrypted_content") or "")
    if sealed is None or not isinstance(sealed.get("summary"), str):
        return item
    return {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": SUMMARY_HEADING + sealed["summary"]}],
    }


# Answer


def build_fault(error: Any) -> UpstreamFault:
    """The fault for the error of a response that failed, or of an `error` event. Its text is told where the input was
    too long, and not else."""
    code = error.get("code") if isinstance(error, Mapping) else None
    if code == "context_length_exceeded":
        return error_in_answer(error)
    if code == "rate_limit_exceeded":
        return UpstreamFault(
            "The upstream's rate limit is reached.", status=429, type="rate_limit_error", code=code, is_retryable=True
        )
    if isinstance(code, str) and code in INPUT_ERROR_CODES:
        return UpstreamFault("The upstream refused the request.", status=400, type="invalid_request_error", code=code)
    return UpstreamFault("The upstream answered with an error.", is_retryable=True)


def check_item(item: Any, *, is_done: bool = True) -> Item:
    """Raises UpstreamFault for what could not be stored, shown and sent again."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise broken("The upstream sent an item that is none.")
    needed, text = REQUIRED_MEMBERS.get(item["type"], ((), ""))
    for name in (*needed, text) if is_done and text else needed:
        if not isinstance(item.get(name), str):
            raise broken("The upstream sent an item that lacks a member.")
    for name in PART_LISTS.get(item["type"], ()):
        parts = item.get(name)
        is_list = isinstance(parts, list) and all(_is_part(part) for part in parts)
        if parts is not None and not is_list and not (name == "output" and isinstance(parts, str)):
            raise broken("The upstream sent an item whose parts are none.")
    return item


def _is_part(part: Any, *, is_done: bool = True) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    stem = PART_STEMS.get(part["type"])
    return stem is None or not is_done or isinstance(part.get(PART_TEXTS[stem][1]), str)


class NativeAnswer:
    """What is known of one relayed response. `ours` are the members that the gateway sets, `echo` those it fills in
    where the upstream says nothing. Items are told apart by their place: several servers give two of them one id."""

    __slots__ = (
        *("_ids", "_include", "_input_estimate", "_items", "_new_id", "_now", "_open", "_origin", "_ours", "_seal"),
        *("is_ended", "is_open", "next_number", "response"),
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
        first: JsonObject = {name: echo[name] for name in ("id", "object", "created_at") if name in echo}
        state: JsonObject = {"status": "in_progress", "completed_at": None, "error": None, "incomplete_details": None}
        self.response: JsonObject = {**first, **state, **echo, **ours, **state, "output": [], "usage": None}
        self.is_open = False  # the client was told of it
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
        self._items: dict[int, Item] = {}  # that are done
        self._open: dict[int, OpenItem] = {}

    def adopt(self, response: JsonObject) -> None:
        """What the upstream says of the response, beside what the gateway knows better."""
        managed = {PRIVATE, "status", "completed_at", "error", "output", "usage"}
        self.response |= {
            name: member
            for name, member in response.items()
            if name not in managed and (member is not None or name not in self.response)
        }
        self.response |= self._ours
        if isinstance(response.get("usage"), dict):
            self.response["usage"] = _whole_usage(response["usage"])

    def whole(self, response: JsonObject, output_estimate: int) -> bytes:
        """Raises UpstreamFault for a response that has failed, or has not ended."""
        status = response.get("status") or "completed"
        if status == "failed" or response.get("error"):
            raise build_fault(response.get("error"))
        if status not in ENDINGS.values():
            raise UpstreamFault("The upstream's answer is a response that has not ended.")
        self.is_open = True
        self._finish(status, response, output_estimate)
        return orjson.dumps(render_response(self.response, self._include))

    def through(self, event: JsonObject, raw: bytes) -> bytes:
        """One event of the stream; `raw`, its lines if they are as ours would be, where nothing had to be changed. The
        beginning is told together with what follows it: until then another deployment may still answer."""
        kind: str = event["type"]
        if kind in BEGINNING:
            self.adopt(event["response"])
            return b""
        begun = self._begun()
        is_same = raw != b"" and event.get("sequence_number") == self.next_number
        event["sequence_number"] = self.next_number
        self.next_number += 1
        index = event.get("output_index")
        if kind == "response.output_item.added":
            event |= self._added(event, index)
            is_same = False
        elif kind == "response.output_item.done":
            event |= self._done(event, index)
            is_same = False
        elif type(index) is int:
            name, item = self._ids.get(index), self._open.get(index)
            theirs = event.get("item_id")
            if name is not None and theirs is not None:
                event["item_id"] = name
                old = b'"item_id":%b' % orjson.dumps(theirs)
                is_same = is_same and raw.count(old) == 1
                raw = raw.replace(old, b'"item_id":"%b"' % name.encode())
            if item is not None:
                item.note(kind, event)
        seen = render_event(event, self._include)
        return begun + (raw + b"\n\n" if is_same and seen is event else encode_frame(seen))

    def end(self, kind: str, response: JsonObject, output_estimate: int) -> bytes:
        """The terminal event, by the upstream's."""
        frames = self._begun() + self._close(ENDINGS[kind])
        self._finish(ENDINGS[kind], response, output_estimate)
        return frames + self._event(kind, {"response": self.response})

    def failure(self, code: str, message: str) -> bytes:
        return self._cut("failed", "response.failed", {"code": code, "message": message})

    def cancellation(self) -> bytes:
        return self._cut("cancelled", "response.incomplete", None)

    def _begun(self) -> bytes:
        if self.is_open:
            return b""
        self.is_open = True
        begun = {**self.response, "usage": None, "incomplete_details": None}
        created = self._event("response.created", {"response": begun})
        return created + self._event("response.in_progress", {"response": begun})

    def _finish(self, status: str, response: JsonObject, output_estimate: int) -> None:
        """Items that were told one by one are what they were told to be."""
        self.adopt(response)
        given = response.get("output")
        for index, item in enumerate(given if isinstance(given, list) else ()):
            if index not in self._items:
                self._items[index] = self._kept(check_item(item), index)
        self.is_ended = True
        self.response |= {
            "status": status,
            "completed_at": int(self._now()) if status == "completed" else None,
            "output": [item for _, item in sorted(self._items.items())],
        }
        if self.response["usage"] is None:
            self.response["usage"] = usage_object(
                Usage(input_tokens=self._input_estimate, output_tokens=output_estimate)
            )

    def _cut(self, status: str, kind: str, error: JsonObject | None) -> bytes:
        """Ends a stream that the upstream did not end: what is open is closed as it stands."""
        if self.is_ended:
            return b""
        self.is_ended = True
        frames = self._begun() + self._close("incomplete")
        output = [item for _, item in sorted(self._items.items())]
        self.response |= {"status": status, "error": error, "incomplete_details": None, "output": output}
        return frames + self._event(kind, {"response": self.response}) + DONE

    def _close(self, status: str) -> bytes:
        """Ends what is open. Of a cut answer only the last item is incomplete."""
        frames = b""
        last = max(self._ids, default=0)
        for index, item in sorted(self._open.items()):
            told, self._items[index] = item.end(status if index == last else "completed")
            frames += b"".join([self._event(kind, members) for kind, members in told])
        self._open.clear()
        return frames

    def _event(self, kind: str, members: JsonObject) -> bytes:
        event = {"type": kind, "sequence_number": self.next_number, **members}
        self.next_number += 1
        return encode_frame(render_event(event, self._include))

    # Items

    def _added(self, event: JsonObject, index: Any) -> JsonObject:
        place = index if type(index) is int else len(self._ids)
        item = self._renamed(check_item(event.get("item"), is_done=False), place)
        if item["type"] == "reasoning":  # what there is of it now is of no use to anybody
            item.pop("encrypted_content", None)
        self._open[place] = OpenItem(item, place)
        return {"output_index": place, "item": item}

    def _done(self, event: JsonObject, index: Any) -> JsonObject:
        place = index if type(index) is int else max(self._open, default=len(self._ids))
        self._open.pop(place, None)
        item = self._items[place] = self._kept(check_item(event.get("item")), place)
        return {"output_index": place, "item": item}

    def _kept(self, item: Item, index: int) -> Item:
        """Under our name; reasoning under our seal: it is of use at this deployment only."""
        item = self._renamed(item, index)
        encrypted = item.get("encrypted_content")
        if item["type"] == "reasoning" and (isinstance(encrypted, str) or item.get("content")):
            sealed = {"origin": self._origin, "signature": encrypted if isinstance(encrypted, str) else ""}
            item["encrypted_content"] = self._seal.close(sealed)
        return item

    def _renamed(self, item: Item, index: int) -> Item:
        name = self._ids.get(index)
        if name is None:
            name = self._ids[index] = self._new_id(PREFIXES.get(item["type"], "item_"))
        return {"id": name, **{member: value for member, value in item.items() if member not in {"id", PRIVATE}}}


def _whole_usage(raw: JsonObject) -> JsonObject | None:
    """With all members that clients require, and any further ones."""
    read = from_openai(raw)
    if read is None:
        return None
    usage = usage_object(read)
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
        return self._all_through(self._splitter.feed(piece))

    def finish(self) -> bytes:
        rest = self._all_through(self._splitter.finish())
        self._raise_held()
        if not self._terminal:
            raise incomplete()
        return rest + self._terminal + DONE

    def _through(self, raw: bytes) -> bytes:
        name, mark, data = raw.partition(b"\ndata: ")
        is_usual = bool(mark) and b"\n" not in data and name.startswith(b"event: ")
        found = data if is_usual else event_data(raw)
        if not found or found == b"[DONE]" or self.is_done:
            return b""
        try:
            event = orjson.loads(found)
        except orjson.JSONDecodeError:
            raise broken("The upstream sent an event that is not JSON.") from None
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "error" or (kind is None and isinstance(event, dict) and event.get("error")):
            raise build_fault(event.get("error") or event)
        if not isinstance(kind, str) or not _is_event(kind, event):
            raise broken("The upstream sent an event that is no event of a response.")
        response = event.get("response")
        if kind not in CHECKED_EVENTS and (response is not None or "item" in event):
            return b""  # they would have to be changed, and in which way is not known
        if response is not None:
            learn(self.metadata, response)
        if kind == "response.failed":
            self._answer.adopt(response)
            raise build_fault(response.get("error"))
        if kind in ENDINGS:
            self._terminal = self._answer.end(kind, response, self.metadata.output_estimate)
            self.is_done = True  # the terminal event leaves when the response is stored
            return b""
        delta = event.get("delta")
        if isinstance(delta, str):
            self._text_size += len(delta) / 4 if delta.isascii() else estimate_tokens(delta)
            self.metadata.output_estimate = ceil(self._text_size)
        is_named = is_usual and name[7:] == kind.encode()
        return self._answer.through(event, raw if is_named else b"")


def _is_event(kind: str, event: JsonObject) -> bool:
    """Whether it holds what is looked at."""
    if kind in WITH_RESPONSE and not isinstance(event.get("response"), dict):
        return False
    has_part = "part" in event or kind in PART_ADDED or kind in PART_DONE
    if has_part and not _is_part(event.get("part"), is_done=kind in PART_DONE):
        return False
    return isinstance(event.get("logprobs"), list | None)


def relay_whole(answer: NativeAnswer, body: bytes) -> tuple[bytes, AnswerMetadata]:
    """Raises UpstreamFault for anything but a response that has ended well."""
    try:
        response = orjson.loads(body)
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
    learn(metadata, response)
    metadata.output_estimate = estimate_item_tokens([check_item(item) for item in output], "")
    return answer.whole(response, metadata.output_estimate), metadata
