"""Items of the Responses API: how a client's input is read and stored, and how a stored item is rendered for a client.

Source: https://platform.openai.com/docs/api-reference/responses and the types of the `openai` package 3.51.0. Every
item of an answer's `output` is accepted as input unchanged; an item of an unknown type is stored as it is.
"""

import re
from collections.abc import Callable, Mapping

from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import Json, JsonMapping, JsonObject

#: Makes a fresh id with the given prefix.
NewId = Callable[[str], str]

MAX_ITEMS = 10_000
#: The ids that can be part of a path; the gateway gives no others.
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")
#: The member of a stored item that belongs to the gateway: never rendered, and never read from a client.
PRIVATE = "tollgate"

#: Types of the parts of an item's content; none of them is an item.
TEXT_PARTS = frozenset({"input_text", "text", "summary_text", "reasoning_text"})
CONTENT_PARTS = TEXT_PARTS | {"input_image", "input_file", "input_audio", "output_text", "refusal"}
#: {type of a call: the member that holds its arguments}
CALL_TYPES: Mapping[str, str] = {"function_call": "arguments", "custom_tool_call": "input"}
#: {type of an item: the prefix of its ids}
PREFIXES: Mapping[str, str] = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "reasoning": "rs_",
    "compaction": "cmp_",
    "web_search_call": "ws_",
    "file_search_call": "fs_",
    "code_interpreter_call": "ci_",
    "image_generation_call": "ig_",
    "computer_call": "cu_",
    "computer_call_output": "cuo_",
    "local_shell_call": "lsh_",
    "local_shell_call_output": "lsho_",
    "shell_call": "sh_",
    "shell_call_output": "sho_",
    "apply_patch_call": "apc_",
    "apply_patch_call_output": "apco_",
    "mcp_call": "mcp_",
    "mcp_list_tools": "mcpl_",
    "mcp_approval_request": "mcpr_",
    "mcp_approval_response": "mcpa_",
    "tool_search_call": "tsc_",
    "tool_search_output": "tso_",
    "additional_tools": "at_",
    "configuration_update": "cfg_",
    "program": "prog_",
    "program_output": "progo_",
}

ENCRYPTED_REASONING = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
INPUT_IMAGE_URLS = "message.input_image.image_url"
INCLUDABLE = frozenset(
    {
        ENCRYPTED_REASONING,
        LOGPROBS,
        INPUT_IMAGE_URLS,
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    }
)


# Faults that name the member


def invalid_value(param: str, problem: str) -> BadRequest:
    return BadRequest(f"Invalid value for '{param}': {problem}.", param=param, code="invalid_value")


def missing_parameter(param: str) -> BadRequest:
    return BadRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def unsupported_parameter(param: str, message: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_parameter")


def read_text(holder: JsonMapping, name: str, param: str) -> str:
    """A required string."""
    value = holder.get(name)
    if type(value) is str:
        return value
    if value is None:
        raise missing_parameter(f"{param}.{name}")
    raise invalid_value(f"{param}.{name}", "it must be a string")


def read_nonempty_text(holder: JsonMapping, name: str, param: str) -> str:
    value = read_text(holder, name, param)
    if not value:
        raise invalid_value(f"{param}.{name}", "it must not be empty")
    return value


def read_optional_text(holder: JsonMapping, name: str, param: str) -> str | None:
    value = holder.get(name)
    if value is None or type(value) is str:
        return value
    raise invalid_value(f"{param}.{name}", "it must be a string")


def read_objects(holder: JsonMapping, name: str, param: str) -> list[JsonObject]:
    """An array of objects that each have a type; empty where the member is absent or null."""
    value = holder.get(name)
    if value is None:
        return []
    if type(value) is not list:
        raise invalid_value(f"{param}.{name}", "it must be an array")
    for index, element in enumerate(value):
        at = f"{param}.{name}[{index}]"
        if type(element) is not dict:
            raise invalid_value(at, "it must be an object")
        read_text(element, "type", at)
    return value


# Input → stored items


def read_input(value: Json, new_id: NewId, *, param: str = "input") -> tuple[Item, ...]:
    """Items as they are stored: each has an id of its own and a type, and its content is a list of parts.

    Raises BadRequest naming the member in OpenAI's way: `input[3].content[0].type`. `value` is not changed.
    """
    if value is None:
        return ()
    if type(value) is str:
        message = _read_message({"role": "user", "content": value}, param)
        return (message | {"id": new_id(PREFIXES["message"])},)
    if type(value) is not list:
        raise invalid_value(param, "it must be a string or an array of items")
    if len(value) > MAX_ITEMS:
        raise invalid_value(param, f"it holds {len(value)} items, and {MAX_ITEMS} are the most")
    used_ids: set[str] = set()
    items = []
    for index, element in enumerate(value):
        item = _read_item(element, f"{param}[{index}]")
        if item["type"] != "item_reference":
            item_id = item.get("id")
            # clients that make up ids give several items the same one
            if item_id is None or item_id in used_ids or not ID_PATTERN.fullmatch(item_id):
                item_id = item["id"] = new_id(PREFIXES.get(item["type"], "item_"))
            used_ids.add(item_id)
        items.append(item)
    return tuple(items)


def _read_item(value: Json, param: str) -> Item:
    if type(value) is not dict:
        raise invalid_value(param, "it must be an object")
    kind = read_optional_text(value, "type", param)
    if kind is None:
        if value.get("role") is not None:
            kind = "message"
        elif value.get("id") is not None:
            kind = "item_reference"
        else:
            raise missing_parameter(f"{param}.type")
    read_optional_text(value, "id", param)
    item = {name: member for name, member in value.items() if name != PRIVATE}
    if kind in CONTENT_PARTS:
        raise invalid_value(f"{param}.type", f"{kind!r} is a part of a message's content, which a message must hold")
    read = READERS.get(kind)
    return {**item, "type": kind} if read is None else read(item, param)


def _read_message(item: JsonObject, param: str) -> Item:
    role = read_text(item, "role", param)
    if role not in {"user", "assistant", "system", "developer"}:
        raise invalid_value(f"{param}.role", f"{role[:40]!r} is no role")
    content = item.get("content")
    if content is None:
        raise missing_parameter(f"{param}.content")
    if type(content) is str:
        part: JsonObject = {"type": "input_text", "text": content}
        if role == "assistant":
            part = {"type": "output_text", "text": content, "annotations": []}
        parts = [part]
    else:
        parts = _read_parts(item, "content", param)
    read_optional_text(item, "phase", param)
    return {**item, "type": "message", "role": role, "status": _read_status(item, param), "content": parts}


def _read_status(item: JsonObject, param: str) -> str:
    return read_optional_text(item, "status", param) or "completed"


def _read_parts(item: JsonObject, name: str, param: str) -> list[JsonObject]:
    parts = read_objects(item, name, param)
    return [_read_part(part, f"{param}.{name}[{index}]") for index, part in enumerate(parts)]


def _read_part(part: JsonObject, param: str) -> JsonObject:
    kind = part["type"]
    if kind in TEXT_PARTS:
        read_text(part, "text", param)
    elif kind == "output_text":
        read_text(part, "text", param)
        read_objects(part, "annotations", param)
        if type(part.get("logprobs")) not in {list, type(None)}:
            raise invalid_value(f"{param}.logprobs", "it must be an array")
        return part if part.get("annotations") is not None else {**part, "annotations": []}
    elif kind == "refusal":
        read_text(part, "refusal", param)
    elif kind in {"input_image", "computer_screenshot"}:
        if read_optional_text(part, "image_url", param) is None and read_optional_text(part, "file_id", param) is None:
            raise missing_parameter(f"{param}.image_url")
        if read_optional_text(part, "detail", param) is None:
            return {**part, "detail": "auto"}
    elif kind == "input_file":
        sources = [read_optional_text(part, name, param) for name in ("file_data", "file_url", "file_id")]
        read_optional_text(part, "filename", param)
        if sources == [None, None, None]:
            raise missing_parameter(f"{param}.file_data")
    elif kind == "input_audio":
        audio = part.get("input_audio")
        if type(audio) is not dict:
            raise invalid_value(f"{param}.input_audio", "it must be an object")
        read_text(audio, "data", f"{param}.input_audio")
        read_text(audio, "format", f"{param}.input_audio")
    else:
        raise invalid_value(f"{param}.type", f"{kind[:40]!r} is no kind of content")
    return part


def _read_call(item: JsonObject, param: str) -> Item:
    read_nonempty_text(item, "call_id", param)
    read_nonempty_text(item, "name", param)
    read_text(item, CALL_TYPES[item["type"]], param)
    read_optional_text(item, "namespace", param)
    return {**item, "status": _read_status(item, param)}


def _read_function_output(item: JsonObject, param: str) -> Item:
    """A tool may send an output without a call; such an item has no `call_id`."""
    if item.get("call_id") is not None:
        read_nonempty_text(item, "call_id", param)
    read_optional_text(item, "name", param)
    return _read_output(item, param)


def _read_custom_output(item: JsonObject, param: str) -> Item:
    read_nonempty_text(item, "call_id", param)
    return _read_output(item, param)


def _read_output(item: JsonObject, param: str) -> Item:
    output = item.get("output")
    if output is None:
        raise missing_parameter(f"{param}.output")
    if type(output) is not str:
        if type(output) is not list:
            raise invalid_value(f"{param}.output", "it must be a string or an array of parts")
        output = _read_parts(item, "output", param)
    return {**item, "output": output, "status": _read_status(item, param)}


def _read_reasoning(item: JsonObject, param: str) -> Item:
    for name in ("summary", "content"):
        for index, part in enumerate(read_objects(item, name, param)):
            read_text(part, "text", f"{param}.{name}[{index}]")
    read_optional_text(item, "encrypted_content", param)
    return {**item, "summary": item.get("summary") or []}


def _read_compaction(item: JsonObject, param: str) -> Item:
    read_text(item, "encrypted_content", param)
    return item


def _read_reference(item: JsonObject, param: str) -> Item:
    read_text(item, "id", param)
    return {**item, "type": "item_reference"}


READERS: Mapping[str, Callable[[JsonObject, str], Item]] = {
    "message": _read_message,
    **dict.fromkeys(CALL_TYPES, _read_call),
    "function_call_output": _read_function_output,
    "custom_tool_call_output": _read_custom_output,
    "reasoning": _read_reasoning,
    "compaction": _read_compaction,
    "item_reference": _read_reference,
}


# Stored items → what a client gets


def strip_private(item: JsonObject) -> JsonObject:
    """`item` itself where it has no private member."""
    return without_member(item, PRIVATE)


def without_member(holder: JsonObject, name: str) -> JsonObject:
    """`holder` itself where it has no such member."""
    return {key: member for key, member in holder.items() if key != name} if name in holder else holder


def render_item(item: Item, include: frozenset[str]) -> Item:
    """`item` without its private member and the members that the client did not include. `item` is not changed."""
    item = strip_private(item)
    render = RENDERERS.get(item["type"])
    return item if render is None else render(item, include)


def render_response(response: JsonObject, include: frozenset[str]) -> JsonObject:
    output = [render_item(item, include) for item in response.get("output") or ()]
    return strip_private(response) | {"output": output}


def _render_reasoning(item: Item, include: frozenset[str]) -> Item:
    return item if ENCRYPTED_REASONING in include else without_member(item, "encrypted_content")


def _render_message(item: Item, include: frozenset[str]) -> Item:
    content = item.get("content")
    if type(content) is not list:
        return item
    parts = [_render_part(part, include) for part in content]
    is_unchanged = all(new is old for new, old in zip(parts, content, strict=True))
    return item if is_unchanged else {**item, "content": parts}


def _render_part(part: JsonObject, include: frozenset[str]) -> JsonObject:
    if part.get("logprobs") and LOGPROBS not in include:
        return {**part, "logprobs": []}
    if part.get("type") == "input_image" and part.get("image_url") is not None and INPUT_IMAGE_URLS not in include:
        return {**part, "image_url": None}
    return part


def _render_file_search(item: Item, include: frozenset[str]) -> Item:
    return item if "file_search_call.results" in include else without_member(item, "results")


def _render_web_search(item: Item, include: frozenset[str]) -> Item:
    if "web_search_call.results" not in include:
        item = without_member(item, "results")
    action = item.get("action")
    if "web_search_call.action.sources" not in include and type(action) is dict and "sources" in action:
        item = {**item, "action": without_member(action, "sources")}
    return item


def _render_code_interpreter(item: Item, include: frozenset[str]) -> Item:
    if "code_interpreter_call.outputs" in include or item.get("outputs") is None:
        return item
    return {**item, "outputs": None}


def _render_screenshot(item: Item, include: frozenset[str]) -> Item:
    output = item.get("output")
    if "computer_call_output.output.image_url" in include or type(output) is not dict or "image_url" not in output:
        return item
    return {**item, "output": without_member(output, "image_url")}


RENDERERS: Mapping[str, Callable[[Item, frozenset[str]], Item]] = {
    "message": _render_message,
    "reasoning": _render_reasoning,
    "file_search_call": _render_file_search,
    "web_search_call": _render_web_search,
    "code_interpreter_call": _render_code_interpreter,
    "computer_call_output": _render_screenshot,
}
