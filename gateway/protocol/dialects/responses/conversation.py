"""Items of the Responses API → the messages of a ChatRequest: the history and the new input, for any provider.

Consecutive items from the model (reasoning, text, calls) become one Assistant message. The results of its calls follow
right after it, wherever in the list they stand. The table is in docs/dialects/responses.md.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

import orjson

from gateway.protocol.dialects.openai.client_request import split_data_url
from gateway.protocol.dialects.responses.client_tools import (
    CLIENT_OUTPUTS,
    CLIENT_TOOLS,
    read_call,
    read_call_id,
    read_result,
)
from gateway.protocol.dialects.responses.items import CALL_TYPES, PRIVATE, invalid_value, unsupported_parameter
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
from gateway.protocol.json.types import Json, JsonMapping, JsonObject

OUTPUT_TYPES = frozenset({"function_call_output", "custom_tool_call_output"})
UNFINISHED_STATUSES = frozenset({"in_progress", "incomplete"})
SUMMARY_HEADING = "Summary of the conversation so far:\n\n"
MESSAGE_SEPARATOR = "\n\n"  # within one turn
DETAILS = {"auto": "", "original": "high"}  # the names in other formats
IMAGE_BEFORE = "(image made before)"
IMAGE_OMITTED = "(image made before, not shown again)"
#: The model sees the latest images of earlier answers again, within the limits of every provider.
MAX_IMAGES, MAX_IMAGE_SIZE = 4, 5_000_000  # characters of base64
#: {start of the base64 text: media type}. An item's own format may be wrong or absent.
IMAGE_TYPES = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
#: {lifetime of a cache mark: the nearest one that other formats have}
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
    """The messages of `items`: first the `history` items of earlier turns, then the request's own, without references.

    `origin`: the deployment that gets the messages. Reasoning and signatures of another deployment are left out, and so
    are items that only their own server can read. `shows_images`: the model can see images. Raises BadRequest naming an
    item that no message can carry.
    """
    shown_images = _latest_images(items) if shows_images else frozenset()
    builder = _MessageBuilder(items, history, origin, seal, namespaces or Namespaces(), shown_images)
    if instructions:
        builder.messages.append(System((Text(instructions),)))
    for index, item in enumerate(items):
        builder.add(index, item)
    builder.end_turn()
    return tuple(builder.messages)


def check_calls(items: Sequence[Item]) -> None:
    """Raises BadRequest for an output without its call, and for a call without its output."""
    pairs = CallPairs(items)
    if pairs.orphans:
        item = items[pairs.orphans[0]]
        raise BadRequest(
            f"No tool call found for {_name_call_type(item)} output with call_id {item['call_id'][:128]}.",
            param="input",
        )
    if pairs.unanswered:
        item = items[pairs.unanswered[0]]
        raise BadRequest(f"No tool output found for {_name_call_type(item)} {item['call_id'][:128]}.", param="input")


def drop_unpaired_calls(items: Sequence[Item]) -> tuple[Item, ...]:
    """`items` without calls whose outputs a client deleted from the conversation, and without outputs whose calls are
    deleted. Calls in the last turn stay, because the client still has to send their outputs."""
    pairs = CallPairs(items)
    end = len(items)
    while end and not _ends_turn(items[end - 1]):
        end -= 1
    unpaired = {*pairs.orphans, *(index for index in pairs.unanswered if index < end)}
    return tuple(item for index, item in enumerate(items) if index not in unpaired) if unpaired else tuple(items)


def drop_unfinished_calls(items: Sequence[Item]) -> Sequence[Item]:
    unfinished = CallPairs(items).unfinished
    return [item for index, item in enumerate(items) if index not in unfinished] if unfinished else items


def collect_call_ids(items: Iterable[Item]) -> set[str]:
    return {read_call_id(item) for item in items if item["type"].endswith("_call")}


def _ends_turn(item: Item) -> bool:
    kind = item["type"]
    return (
        kind in OUTPUT_TYPES
        or kind in CLIENT_OUTPUTS
        or kind == "compaction"
        or (kind == "message" and item["role"] != "assistant")
    )


def _name_call_type(item: Item) -> str:
    return "custom tool call" if item["type"].startswith("custom") else "function call"


# Calls and their outputs


class CallPairs:
    """The output of each call: by `call_id` over the whole list; outputs of one id in their order. A call of a built-in
    client tool may also have the output of a function call. All members are indexes of items."""

    __slots__ = ("orphans", "outputs", "unanswered", "unfinished")

    def __init__(self, items: Sequence[Item]) -> None:
        function_outputs: defaultdict[str, deque[int]] = defaultdict(deque)
        client_outputs: defaultdict[str, deque[int]] = defaultdict(deque)
        for index, item in enumerate(items):
            kind = item["type"]
            if kind in OUTPUT_TYPES and item.get("call_id") is not None:
                function_outputs[item["call_id"]].append(index)
            elif kind in CLIENT_OUTPUTS:
                client_outputs[read_call_id(item)].append(index)
        self.outputs: dict[int, int] = {}  # {call: its output}
        self.unanswered: list[int] = []
        self.unfinished: set[int] = set()  # calls that the model did not write to their end, without an output
        for index, item in enumerate(items):
            kind = item["type"]
            if kind == "message":
                continue
            if kind not in CALL_TYPES:
                if kind.endswith("_call") and read_call_id(item):
                    outputs = client_outputs.get(read_call_id(item)) or function_outputs.get(read_call_id(item))
                    if outputs:
                        self.outputs[index] = outputs.popleft()
                continue
            outputs = function_outputs.get(item["call_id"])
            if outputs:
                self.outputs[index] = outputs.popleft()
            elif _is_unfinished(item):
                self.unfinished.add(index)
            else:
                self.unanswered.append(index)
        self.orphans = sorted(index for indexes in function_outputs.values() for index in indexes)


def _is_unfinished(call: Item) -> bool:
    """True for a call without an output that the model did not write to its end."""
    if call.get("status") in UNFINISHED_STATUSES:
        return True
    if call["type"] != "function_call" or not call["arguments"].strip():
        return False
    try:
        orjson.loads(call["arguments"])
    except orjson.JSONDecodeError:
        return True
    return False


# Items → messages


@dataclass(slots=True)
class _ModelTurn:
    """Consecutive items from the model."""

    parts: list[Part] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    reasoning: list[Reasoning] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    images: list[Part] = field(default_factory=list)


class _MessageBuilder:
    __slots__ = (
        "_history",
        "_items",
        "_namespaces",
        "_origin",
        "_pairs",
        "_seal",
        "_shown_images",
        "_turn",
        "messages",
    )

    def __init__(
        self,
        items: Sequence[Item],
        history: int,
        origin: str,
        seal: Seal,
        namespaces: Namespaces,
        shown_images: Set[int],
    ) -> None:
        self.messages: list[Message] = []
        self._turn = _ModelTurn()
        self._items = items
        self._history = history
        self._pairs = CallPairs(items)
        self._origin = origin
        self._seal = seal
        self._namespaces = namespaces
        self._shown_images = shown_images  # their indexes

    def add(self, index: int, item: Item) -> None:
        kind, param = item["type"], self._param(index)
        if kind == "message":
            self._add_message(item, param)
        elif kind in CALL_TYPES:
            if index not in self._pairs.unfinished:
                self._add_call(index, item)
        elif kind == "reasoning":
            reasoning = self._decode_reasoning(item)
            if reasoning is not None:
                self._turn.reasoning.append(reasoning)
        elif kind in OUTPUT_TYPES:
            self.end_turn()  # an output with a `call_id` is added together with its call
            if item.get("call_id") is None:
                heading = Text(f"Output of the tool {item.get('name') or 'that was run'}:")
                self.messages.append(User((heading, *_decode_output(item, param))))
        elif kind in CLIENT_TOOLS:
            self._add_client_call(index, item)
        elif kind in CLIENT_OUTPUTS:
            self.end_turn()
        elif kind == "image_generation_call":
            self._add_image(index, item)
        elif kind == "compaction":
            self.end_turn()
            self.messages.append(User((Text(SUMMARY_HEADING + self._decode_summary(item, param)),)))
        elif kind == "item_reference":
            raise invalid_value(f"{param}.id", "there is no item of this id")

    def _param(self, index: int) -> str:
        return f"input[{index - self._history}]" if index >= self._history else "input"

    def end_turn(self) -> None:
        """Adds the messages of the open turn. A turn that holds nothing but reasoning is left out."""
        turn = self._turn
        if turn.parts or turn.refusals or turn.calls:
            self.messages.append(
                Assistant(tuple(turn.parts), tuple(turn.calls), tuple(turn.reasoning), "".join(turn.refusals))
            )
            self.messages += turn.results
        elif not (turn.reasoning or turn.images):
            return
        if turn.images:  # no provider accepts images in an assistant message
            self.messages.append(User(tuple(turn.images)))
        self._turn = _ModelTurn()

    def _add_message(self, item: Item, param: str) -> None:
        at = f"{param}.content"
        if item["role"] == "assistant":
            self._add_answer(item["content"], at)
            return
        self.end_turn()
        parts = _decode_parts(item["content"], at)
        self.messages.append(User(parts) if item["role"] == "user" else System(parts))

    def _add_answer(self, content: Sequence[JsonObject], param: str) -> None:
        """Joins the texts of one message; a separator stands between the texts of two messages of one turn."""
        turn = self._turn
        texts = []
        for index, part in enumerate(content):
            if part["type"] == "refusal":
                turn.refusals.append(part["refusal"])
                continue
            decoded = _decode_part(part, f"{param}[{index}]")
            if isinstance(decoded, Text):
                texts.append(decoded.text)
            else:
                turn.parts.append(decoded)
        text = "".join(texts)
        if not text:
            return
        previous = turn.parts[-1] if turn.parts else None
        if isinstance(previous, Text):
            turn.parts[-1] = Text(previous.text + MESSAGE_SEPARATOR + text)
        else:
            turn.parts.append(Text(text))

    def _add_call(self, index: int, item: Item) -> None:
        private = item.get(PRIVATE) or {}
        is_own = private.get("origin") == self._origin
        self._turn.calls.append(
            ToolCall(
                item["call_id"],
                self._namespaces.upstream_name(_text_or_empty(item, "namespace"), item["name"]),
                item[CALL_TYPES[item["type"]]],
                kind="custom" if item["type"] == "custom_tool_call" else "function",
                signature=_text_or_empty(private, "signature") if is_own else "",
            )
        )
        output = self._pairs.outputs.get(index)
        if output is not None:
            parts = _decode_output(self._items[output], self._param(output))
            self._turn.results.append(ToolResult(item["call_id"], parts))

    def _add_client_call(self, index: int, item: Item) -> None:
        """Adds a call of a built-in client tool with its output. One without an output is left out: no check requires
        the output."""
        output_index = self._pairs.outputs.get(index)
        if output_index is None:
            return
        call, output = read_call(item), self._items[output_index]
        self._turn.calls.append(call)
        if output["type"] in OUTPUT_TYPES:
            self._turn.results.append(ToolResult(call.id, _decode_output(output, self._param(output_index))))
        else:
            self._turn.results.append(read_result(output, call.id))

    def _add_image(self, index: int, item: Item) -> None:
        """Leaves an item without an image out."""
        data = item.get("result")
        if type(data) is not str or not data:
            return
        if index in self._shown_images:
            self._turn.images += [Text(IMAGE_BEFORE), Image(data=data, media_type=_detect_image_type(data))]
        else:
            self._turn.images.append(Text(IMAGE_OMITTED))

    def _decode_reasoning(self, item: Item) -> Reasoning | None:
        """None where another deployment made it, or an unknown one."""
        sealed = item.get("encrypted_content")
        if sealed:
            opened = self._seal.open(sealed)
            if opened is None or opened.get("origin") != self._origin:
                return None
            text, signature, redacted = (_text_or_empty(opened, name) for name in ("text", "signature", "redacted"))
            return Reasoning(text or ("" if redacted else _join_reasoning(item)), signature, redacted)
        if (item.get(PRIVATE) or {}).get("origin") != self._origin:
            return None
        text = _join_reasoning(item)
        return Reasoning(text) if text else None

    def _decode_summary(self, item: Item, param: str) -> str:
        opened = self._seal.open(item["encrypted_content"])
        summary = None if opened is None else opened.get("summary")
        if type(summary) is not str:
            raise invalid_value(f"{param}.encrypted_content", "it was not made by this gateway for this caller")
        return summary


def _latest_images(items: Sequence[Item]) -> Set[int]:
    """The indexes of the images that the model sees again."""
    indexes: set[int] = set()
    for index in range(len(items) - 1, -1, -1):
        if items[index]["type"] == "image_generation_call" and len(indexes) < MAX_IMAGES:
            data = items[index].get("result")
            if type(data) is str and len(data) <= MAX_IMAGE_SIZE and _detect_image_type(data):
                indexes.add(index)
    return indexes


def _detect_image_type(data: str) -> str:
    return next((kind for start, kind in IMAGE_TYPES.items() if data.startswith(start)), "")


def _text_or_empty(holder: JsonMapping, name: str) -> str:
    value = holder.get(name)
    return value if type(value) is str else ""


def _join_reasoning(item: Item) -> str:
    return "".join(part["text"] for part in item.get("content") or item.get("summary") or ())


# Parts


def _decode_output(item: Item, param: str) -> tuple[Part, ...]:
    output = item["output"]
    if type(output) is str:
        return (Text(output),)
    return _decode_parts(output, f"{param}.output")


def _decode_parts(content: Iterable[JsonObject], param: str) -> tuple[Part, ...]:
    return tuple(_decode_part(part, f"{param}[{index}]") for index, part in enumerate(content))


def _decode_part(part: JsonObject, param: str) -> Part:
    kind = part["type"]
    cache = _decode_cache_mark(part.get("prompt_cache_breakpoint"))
    if kind == "refusal":
        return Text(part["refusal"], cache)
    if kind in {"input_image", "computer_screenshot"}:
        url = part.get("image_url")
        if not url:
            raise unsupported_parameter(
                f"{param}.file_id", "An image by its file id is not supported by this model: send it."
            )
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


def _decode_cache_mark(mark: Json) -> Cache | None:
    if type(mark) is not dict:
        return None
    ttl = mark.get("ttl")
    return Cache(CACHE_TTLS.get(ttl, "") if type(ttl) is str else "")
