"""Items of the Responses API as the messages of a ChatRequest: the history and the new input, for any provider.

A run of what a model made (reasoning, text, calls) becomes one Assistant message, and the results of its calls follow
it at once, wherever in the list they stand. The table: docs/dialects/responses.md.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.protocol.dialects.openai.client_request import split_data_url
from gateway.protocol.dialects.responses.client_tools import (
    CLIENT_OUTPUTS,
    CLIENT_TOOLS,
    read_call,
    read_call_id,
    read_result,
)
from gateway.protocol.dialects.responses.items import PRIVATE, invalid_value
from gateway.protocol.dialects.responses.namespaces import Namespaces
from gateway.protocol.dialects.responses.seal import Seal
from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.errors import BadRequest
from gateway.protocol.items import (
    Assistant,
    Audio,
    Cache,
    File,
    Image,
    Message,
    Part,
    Reasoning,
    System,
    Text,
    ToolCall,
    ToolResult,
    User,
)
from gateway.protocol.json.types import JsonObject
from gateway.protocol.usage import estimate_tokens

#: {type of a call: where its arguments stand}. Of all other calls some are told (TOOLS), with what came of them.
CALL_TYPES: Mapping[str, str] = {"function_call": "arguments", "custom_tool_call": "input"}
OUTPUT_TYPES = frozenset({"function_call_output", "custom_tool_call_output"})
UNFINISHED_STATUSES = frozenset({"in_progress", "incomplete"})
SUMMARY_HEADING = "Summary of the conversation so far:\n\n"
BETWEEN_MESSAGES = "\n\n"  # of one turn
DETAILS = {"auto": "", "original": "high"}  # what others call it
IMAGE_BEFORE = "(image made before)"
IMAGE_GONE = "(image made before, not shown again)"
#: Of the images that answers had, the last ones are shown again, and no more than every provider takes.
MAX_IMAGES, MAX_IMAGE_SIZE = 4, 5_000_000  # characters of base64
#: What base64 begins with, by what it holds; an item may say another format, or none.
IMAGE_TYPES = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
#: Marks live as long as asked for, or as long as there is one to ask for.
CACHE_TTLS = {"30m": "1h", "12h": "1h"}


def build_messages(
    items: Sequence[Item],
    *,
    instructions: str,
    origin: str,
    seal: Seal,
    history: int = 0,
    namespaces: Namespaces | None = None,
    shows_images: bool = True,
) -> tuple[Message, ...]:
    """`items` are the history, which are the first `history` ones, and then the request's own, references resolved.

    `origin` is who will read this: reasoning and signatures that another one made are left out, and so are items that
    only their own server can read. `namespaces`: those of the request. `shows_images`: whether the reader can see those
    that were made before. Raises BadRequest naming what cannot be told.
    """
    shown = _latest_images(items) if shows_images else frozenset()
    told = _Told(items, history, origin, seal, namespaces or Namespaces(), shown)
    if instructions:
        told.messages.append(System((Text(instructions),)))
    for index, item in enumerate(items):
        told.add(index, item)
    told.end_turn()
    return tuple(told.messages)


def check_calls(items: Sequence[Item]) -> None:
    """Raises BadRequest for an output without its call, and for a call that nobody has answered."""
    pairs = CallPairs(items)
    if pairs.orphans:
        item = items[pairs.orphans[0]]
        raise BadRequest(
            f"No tool call found for {_spoken(item)} output with call_id {item['call_id'][:128]}.", param="input"
        )
    if pairs.unanswered:
        item = items[pairs.unanswered[0]]
        raise BadRequest(f"No tool output found for {_spoken(item)} {item['call_id'][:128]}.", param="input")


def drop_unpaired_calls(items: Sequence[Item]) -> tuple[Item, ...]:
    """Without the calls whose outputs were deleted from a conversation, and the other way round. Calls in its last
    turn stay: their outputs are still to come."""
    pairs = CallPairs(items)
    end = len(items)
    while end and not _ends_turn(items[end - 1]):
        end -= 1
    gone = {*pairs.orphans, *(index for index in pairs.unanswered if index < end)}
    return tuple(item for index, item in enumerate(items) if index not in gone) if gone else tuple(items)


def drop_unfinished_calls(items: Sequence[Item]) -> Sequence[Item]:
    """Without the calls whose writing was cut short, so that nobody could answer them."""
    dropped = CallPairs(items).dropped
    return [item for index, item in enumerate(items) if index not in dropped] if dropped else items


def collect_call_ids(items: Iterable[Item]) -> set[str]:
    """Those of all calls."""
    return {read_call_id(item) for item in items if item["type"].endswith("_call")}


def _ends_turn(item: Item) -> bool:
    kind = item["type"]
    return (
        kind in OUTPUT_TYPES
        or kind in CLIENT_OUTPUTS
        or kind == "compaction"
        or (kind == "message" and item["role"] != "assistant")
    )


def _spoken(item: Item) -> str:
    return "custom tool call" if item["type"].startswith("custom") else "function call"


def estimate_item_tokens(items: Sequence[Item], instructions: str) -> int:
    """Tokens of the text; what a picture costs differs too much between models to be guessed."""
    return (estimate_tokens(instructions) + 4 if instructions else 0) + sum(map(_item_tokens, items))


def _item_tokens(item: Item) -> int:
    kind = item["type"]
    if kind in CALL_TYPES:
        return estimate_tokens(item["name"] + item[CALL_TYPES[kind]]) + 4
    if kind == "compaction":
        return estimate_tokens(item["encrypted_content"]) * 3 // 4  # base64
    if kind in CLIENT_TOOLS:
        return estimate_tokens(read_call(item).arguments) + 4
    if kind in CLIENT_OUTPUTS:
        return sum(estimate_tokens(part.text) for part in read_result(item, "").parts if isinstance(part, Text)) + 4
    if kind not in {"message", "reasoning"} and kind not in OUTPUT_TYPES:
        return 0
    content = item.get("output" if kind in OUTPUT_TYPES else "content") or ()
    if type(content) is str:
        return estimate_tokens(content) + 4
    texts = (part.get("text") or part.get("refusal") for part in content)
    return sum(estimate_tokens(text) for text in texts if type(text) is str) + 4


# Calls and their outputs


class CallPairs:
    """Which output answers which call: by `call_id`, over the whole list, several of one id in their order. A tool of
    the client's that has items of its own may also be answered as a function is."""

    __slots__ = ("dropped", "orphans", "outputs", "unanswered")

    def __init__(self, items: Sequence[Item]) -> None:
        waiting: defaultdict[str, deque[int]] = defaultdict(deque)
        results: defaultdict[str, deque[int]] = defaultdict(deque)
        for index, item in enumerate(items):
            kind = item["type"]
            if kind in OUTPUT_TYPES and item.get("call_id") is not None:
                waiting[item["call_id"]].append(index)
            elif kind in CLIENT_OUTPUTS:
                results[read_call_id(item)].append(index)
        self.outputs: dict[int, int] = {}  # {call: its output}, by their places
        self.unanswered: list[int] = []
        self.dropped: set[int] = set()  # calls whose writing was cut short, so that nobody could answer them
        for index, item in enumerate(items):
            kind = item["type"]
            if kind == "message":
                continue
            if kind not in CALL_TYPES:
                if kind.endswith("_call") and read_call_id(item):
                    other = results.get(read_call_id(item)) or waiting.get(read_call_id(item))
                    if other:
                        self.outputs[index] = other.popleft()
                continue
            outputs = waiting.get(item["call_id"])
            if outputs:
                self.outputs[index] = outputs.popleft()
            elif _is_cut(item):
                self.dropped.add(index)
            else:
                self.unanswered.append(index)
        self.orphans = sorted(index for outputs in waiting.values() for index in outputs)


def _is_cut(call: Item) -> bool:
    """Whether a call that has no output was never written to its end."""
    if call.get("status") in UNFINISHED_STATUSES:
        return True
    if call["type"] != "function_call" or not call["arguments"].strip():
        return False
    try:
        orjson.loads(call["arguments"])
    except orjson.JSONDecodeError:
        return True
    return False


# Items, one after the other


@dataclass(slots=True)
class _Turn:
    """What a model made in one go."""

    parts: list[Part] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    reasoning: list[Reasoning] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    images: list[Part] = field(default_factory=list)


class _Told:
    __slots__ = ("_history", "_items", "_namespaces", "_origin", "_pairs", "_seal", "_shown", "_turn", "messages")

    def __init__(
        self,
        items: Sequence[Item],
        history: int,
        origin: str,
        seal: Seal,
        namespaces: Namespaces,
        shown: Set[int],
    ) -> None:
        self.messages: list[Message] = []
        self._turn = _Turn()
        self._items = items
        self._history = history
        self._pairs = CallPairs(items)
        self._origin = origin
        self._seal = seal
        self._namespaces = namespaces
        self._shown = shown  # images, by their places

    def add(self, index: int, item: Item) -> None:
        kind, param = item["type"], self._param(index)
        if kind == "message":
            self._add_message(item, param)
        elif kind in CALL_TYPES:
            if index not in self._pairs.dropped:
                self._add_call(index, item)
        elif kind == "reasoning":
            reasoning = self._reasoning(item)
            if reasoning is not None:
                self._turn.reasoning.append(reasoning)
        elif kind in OUTPUT_TYPES:
            self.end_turn()  # an output with a `call_id` was told with its call
            if item.get("call_id") is None:
                said = Text(f"Output of the tool {item.get('name') or 'that was run'}:")
                self.messages.append(User((said, *_output_parts(item, param))))
        elif kind in CLIENT_TOOLS:
            self._add_client_call(index, item)
        elif kind in CLIENT_OUTPUTS:
            self.end_turn()
        elif kind == "image_generation_call":
            self._add_image(index, item)
        elif kind == "compaction":
            self.end_turn()
            self.messages.append(User((Text(SUMMARY_HEADING + self._summary(item, param)),)))
        elif kind == "item_reference":
            raise invalid_value(f"{param}.id", "there is no item of this id")

    def _param(self, index: int) -> str:
        return f"input[{index - self._history}]" if index >= self._history else "input"

    def end_turn(self) -> None:
        """A turn of nothing but reasoning was cut before it led to anything, and is left out."""
        turn = self._turn
        if turn.parts or turn.refusals or turn.calls:
            self.messages.append(
                Assistant(tuple(turn.parts), tuple(turn.calls), tuple(turn.reasoning), "".join(turn.refusals))
            )
            self.messages += turn.results
        elif not (turn.reasoning or turn.images):
            return
        if turn.images:  # no provider takes them from an assistant
            self.messages.append(User(tuple(turn.images)))
        self._turn = _Turn()

    def _add_message(self, item: Item, param: str) -> None:
        at = f"{param}.content"
        if item["role"] == "assistant":
            self._add_answer(item["content"], at)
            return
        self.end_turn()
        parts = _parts(item["content"], at)
        self.messages.append(User(parts) if item["role"] == "user" else System(parts))

    def _add_answer(self, content: Sequence[JsonObject], param: str) -> None:
        """The texts of one message are one text; where more are to come they are told apart."""
        turn = self._turn
        texts = []
        for index, part in enumerate(content):
            if part["type"] == "refusal":
                turn.refusals.append(part["refusal"])
                continue
            made = _part(part, f"{param}[{index}]")
            if isinstance(made, Text):
                texts.append(made.text)
            else:
                turn.parts.append(made)
        text = "".join(texts)
        if not text:
            return
        before = turn.parts[-1] if turn.parts else None
        if isinstance(before, Text):
            turn.parts[-1] = Text(before.text + BETWEEN_MESSAGES + text)
        else:
            turn.parts.append(Text(text))

    def _add_call(self, index: int, item: Item) -> None:
        private = item.get(PRIVATE) or {}
        is_own = private.get("origin") == self._origin
        self._turn.calls.append(
            ToolCall(
                item["call_id"],
                self._namespaces.upstream_name(_string(item, "namespace"), item["name"]),
                item[CALL_TYPES[item["type"]]],
                kind="custom" if item["type"] == "custom_tool_call" else "function",
                signature=_string(private, "signature") if is_own else "",
            )
        )
        output = self._pairs.outputs.get(index)
        if output is not None:
            parts = _output_parts(self._items[output], self._param(output))
            self._turn.results.append(ToolResult(item["call_id"], parts))

    def _add_client_call(self, index: int, item: Item) -> None:
        """Left out without its result, because these were never held to have one."""
        place = self._pairs.outputs.get(index)
        if place is None:
            return
        call, output = read_call(item), self._items[place]
        self._turn.calls.append(call)
        if output["type"] in OUTPUT_TYPES:
            self._turn.results.append(ToolResult(call.id, _output_parts(output, self._param(place))))
        else:
            self._turn.results.append(read_result(output, call.id))

    def _add_image(self, index: int, item: Item) -> None:
        """What has no picture in it is left out."""
        data = item.get("result")
        if type(data) is not str or not data:
            return
        if index in self._shown:
            self._turn.images += [Text(IMAGE_BEFORE), Image(data=data, media_type=_image_type(data))]
        else:
            self._turn.images.append(Text(IMAGE_GONE))

    def _reasoning(self, item: Item) -> Reasoning | None:
        """None for what was made by another one, or whose maker is not known."""
        sealed = item.get("encrypted_content")
        if sealed:
            opened = self._seal.open(sealed)
            if opened is None or opened.get("origin") != self._origin:
                return None
            text, signature, redacted = (_string(opened, name) for name in ("text", "signature", "redacted"))
            return Reasoning(text or ("" if redacted else _reasoning_text(item)), signature, redacted)
        if (item.get(PRIVATE) or {}).get("origin") != self._origin:
            return None
        text = _reasoning_text(item)
        return Reasoning(text) if text else None

    def _summary(self, item: Item, param: str) -> str:
        opened = self._seal.open(item["encrypted_content"])
        summary = None if opened is None else opened.get("summary")
        if type(summary) is not str:
            raise invalid_value(f"{param}.encrypted_content", "it was not made by this gateway for this caller")
        return summary


def _latest_images(items: Sequence[Item]) -> Set[int]:
    """The places of those that are shown again."""
    found: set[int] = set()
    for index in range(len(items) - 1, -1, -1):
        if items[index]["type"] == "image_generation_call" and len(found) < MAX_IMAGES:
            data = items[index].get("result")
            if type(data) is str and len(data) <= MAX_IMAGE_SIZE and _image_type(data):
                found.add(index)
    return found


def _image_type(data: str) -> str:
    return next((kind for start, kind in IMAGE_TYPES.items() if data.startswith(start)), "")


def _string(holder: Mapping[str, Any], name: str) -> str:
    value = holder.get(name)
    return value if type(value) is str else ""


def _reasoning_text(item: Item) -> str:
    return "".join(part["text"] for part in item.get("content") or item.get("summary") or ())


# Parts


def _output_parts(item: Item, param: str) -> tuple[Part, ...]:
    output = item["output"]
    if type(output) is str:
        return (Text(output),)
    return _parts(output, f"{param}.output")


def _parts(content: Iterable[JsonObject], param: str) -> tuple[Part, ...]:
    return tuple(_part(part, f"{param}[{index}]") for index, part in enumerate(content))


def _part(part: JsonObject, param: str) -> Part:
    kind = part["type"]
    cache = _cache(part.get("prompt_cache_breakpoint"))
    if kind == "refusal":
        return Text(part["refusal"], cache)
    if kind in {"input_image", "computer_screenshot"}:
        url = part.get("image_url")
        if not url:
            raise _unsupported(f"{param}.file_id", "An image by its file id is not supported by this model: send it.")
        media_type, data = split_data_url(url)
        detail = part.get("detail") or ""
        return Image("" if data else url, data, media_type, DETAILS.get(detail, detail), cache)
    if kind == "input_file":
        media_type, data = split_data_url(part.get("file_data") or "")
        return File(
            filename=part.get("filename") or "",
            media_type=media_type,
            data=data or part.get("file_data") or "",
            url=part.get("file_url") or "",
            file_id=part.get("file_id") or "",
            cache=cache,
        )
    if kind == "input_audio":
        return Audio(part["input_audio"]["format"], part["input_audio"]["data"], cache)
    return Text(part["text"], cache)


def _cache(given: Any) -> Cache | None:
    if type(given) is not dict:
        return None
    ttl = given.get("ttl")
    return Cache(CACHE_TTLS.get(ttl, "") if type(ttl) is str else "")


def _unsupported(param: str, message: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_parameter")
