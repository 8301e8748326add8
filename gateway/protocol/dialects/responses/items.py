"""Items of the Responses API: what a client may send as one, how it is stored, and what of a stored one is shown.

Source: https://platform.openai.com/docs/api-reference/responses and the types of the `openai` package 3.51.0. Whatever
an answer's `output` may hold is taken back as input as it stands; a type that is not known here is kept untouched.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject

Item = dict[str, Any]
NewId = Callable[[str], str]

MAX_ITEMS = 10_000
#: What an id looks like that can stand in a path; any other is known to be nobody's.
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")
#: The member of a stored item that is the gateway's own: never shown, and never taken from a client.
PRIVATE = "tollgate"

#: What stands in an item's content, and is none itself.
TEXT_PARTS = frozenset({"input_text", "text", "summary_text", "reasoning_text"})
PARTS = TEXT_PARTS | {"input_image", "input_file", "input_audio", "output_text", "refusal"}
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


# What is wrong, as a fault that names the place


def invalid_value(param: str, problem: str) -> BadRequest:
    return BadRequest(f"Invalid value for '{param}': {problem}.", param=param, code="invalid_value")


def missing_parameter(param: str) -> BadRequest:
    return BadRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def read_text(holder: Mapping[str, Any], name: str, param: str) -> str:
    """A member that must be there and be a string."""
    value = holder.get(name)
    if value is None:
        raise missing_parameter(f"{param}.{name}")
    if type(value) is not str:
        raise invalid_value(f"{param}.{name}", "it must be a string")
    return value


def read_optional_text(holder: Mapping[str, Any], name: str, param: str) -> str | None:
    value = holder.get(name)
    if value is not None and type(value) is not str:
        raise invalid_value(f"{param}.{name}", "it must be a string")
    return value


def read_objects(holder: Mapping[str, Any], name: str, param: str) -> list[JsonObject]:
    """A member that is absent, null or an array of objects with a type."""
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


# Input → stored


def read_input(value: Any, new_id: NewId, *, param: str = "input") -> tuple[Item, ...]:
    """Items as they are stored: each with an id of its own, a type, and its content as a list of parts.

    Raises BadRequest naming the place, in OpenAI's way: `input[3].content[0].type`. Nothing of `value` is changed.
    """
    if value is None:
        return ()
    if type(value) is str:
        return (_message({"role": "user", "content": value}, param) | {"id": new_id(PREFIXES["message"])},)
    if type(value) is not list:
        raise invalid_value(param, "it must be a string or an array of items")
    if len(value) > MAX_ITEMS:
        raise invalid_value(param, f"it holds {len(value)} items, and {MAX_ITEMS} are the most")
    used: set[str] = set()
    read = []
    for index, given in enumerate(value):
        item = _read_item(given, f"{param}[{index}]")
        if item["type"] != "item_reference":
            item_id = item.get("id")
            # clients that make up ids give several items the same one
            if item_id is None or item_id in used or not ID_PATTERN.fullmatch(item_id):
                item_id = item["id"] = new_id(PREFIXES.get(item["type"], "item_"))
            used.add(item_id)
        read.append(item)
    return tuple(read)


def _read_item(given: Any, param: str) -> Item:
    if type(given) is not dict:
        raise invalid_value(param, "it must be an object")
    kind = read_optional_text(given, "type", param)
    if kind is None:
        if given.get("role") is not None:
            kind = "message"
        elif given.get("id") is not None:
            kind = "item_reference"
        else:
            raise missing_parameter(f"{param}.type")
    read_optional_text(given, "id", param)
    given = {name: member for name, member in given.items() if name != PRIVATE}
    if kind in PARTS:
        raise invalid_value(f"{param}.type", f"{kind!r} is a part of a message's content, which a message must hold")
    read = READERS.get(kind)
    return {**given, "type": kind} if read is None else read(given, param)


def _message(given: JsonObject, param: str) -> Item:
    role = read_text(given, "role", param)
    if role not in {"user", "assistant", "system", "developer"}:
        raise invalid_value(f"{param}.role", f"{role[:40]!r} is no role")
    content = given.get("content")
    if content is None:
        raise missing_parameter(f"{param}.content")
    if type(content) is str:
        part: JsonObject = {"type": "input_text", "text": content}
        if role == "assistant":
            part = {"type": "output_text", "text": content, "annotations": []}
        parts = [part]
    else:
        parts = _parts(given, "content", param)
    read_optional_text(given, "phase", param)
    return {**given, "type": "message", "role": role, "status": _status(given, param), "content": parts}


def _status(given: JsonObject, param: str) -> str:
    return read_optional_text(given, "status", param) or "completed"


def _parts(holder: JsonObject, name: str, param: str) -> list[JsonObject]:
    return [_part(part, f"{param}.{name}[{index}]") for index, part in enumerate(read_objects(holder, name, param))]


def _part(part: JsonObject, param: str) -> JsonObject:
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
        given = [read_optional_text(part, name, param) for name in ("file_data", "file_url", "file_id")]
        read_optional_text(part, "filename", param)
        if given == [None, None, None]:
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


def _call_id(given: JsonObject, param: str) -> str:
    call_id = read_text(given, "call_id", param)
    if not call_id:
        raise invalid_value(f"{param}.call_id", "it must not be empty")
    return call_id


def _function_call(given: JsonObject, param: str) -> Item:
    _call_id(given, param)
    if not read_text(given, "name", param):
        raise invalid_value(f"{param}.name", "it must not be empty")
    read_text(given, "arguments", param)
    read_optional_text(given, "namespace", param)
    return {**given, "status": _status(given, param)}


def _custom_tool_call(given: JsonObject, param: str) -> Item:
    _call_id(given, param)
    if not read_text(given, "name", param):
        raise invalid_value(f"{param}.name", "it must not be empty")
    read_text(given, "input", param)
    read_optional_text(given, "namespace", param)
    return {**given, "status": _status(given, param)}


def _function_call_output(given: JsonObject, param: str) -> Item:
    """Without a `call_id` it is what a tool says unasked."""
    if given.get("call_id") is not None:
        _call_id(given, param)
    read_optional_text(given, "name", param)
    return _output(given, param)


def _custom_tool_call_output(given: JsonObject, param: str) -> Item:
    _call_id(given, param)
    return _output(given, param)


def _output(given: JsonObject, param: str) -> Item:
    output = given.get("output")
    if output is None:
        raise missing_parameter(f"{param}.output")
    if type(output) is not str:
        if type(output) is not list:
            raise invalid_value(f"{param}.output", "it must be a string or an array of parts")
        output = _parts(given, "output", param)
    return {**given, "output": output, "status": _status(given, param)}


def _reasoning(given: JsonObject, param: str) -> Item:
    for name in ("summary", "content"):
        for index, part in enumerate(read_objects(given, name, param)):
            read_text(part, "text", f"{param}.{name}[{index}]")
    read_optional_text(given, "encrypted_content", param)
    return {**given, "summary": given.get("summary") or []}


def _compaction(given: JsonObject, param: str) -> Item:
    read_text(given, "encrypted_content", param)
    return given


def _item_reference(given: JsonObject, param: str) -> Item:
    read_text(given, "id", param)
    return {**given, "type": "item_reference"}


READERS: Mapping[str, Callable[[JsonObject, str], Item]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "custom_tool_call": _custom_tool_call,
    "custom_tool_call_output": _custom_tool_call_output,
    "reasoning": _reasoning,
    "compaction": _compaction,
    "item_reference": _item_reference,
}


# Stored → shown


def render_item(item: Item, include: frozenset[str]) -> Item:
    """`item` without what is the gateway's own and what the client did not ask to see. `item` itself stays as it is."""
    if PRIVATE in item:
        item = {name: member for name, member in item.items() if name != PRIVATE}
    hide = HIDERS.get(item["type"])
    return item if hide is None else hide(item, include)


def render_response(response: JsonObject, include: frozenset[str]) -> JsonObject:
    kept = {name: member for name, member in response.items() if name != PRIVATE}
    return kept | {"output": [render_item(item, include) for item in response.get("output") or ()]}


def _without(holder: JsonObject, name: str) -> JsonObject:
    return {key: member for key, member in holder.items() if key != name} if name in holder else holder


def _shown_reasoning(item: Item, include: frozenset[str]) -> Item:
    return item if ENCRYPTED_REASONING in include else _without(item, "encrypted_content")


def _shown_message(item: Item, include: frozenset[str]) -> Item:
    content = item.get("content")
    if type(content) is not list:
        return item
    parts = [_shown_part(part, include) for part in content]
    is_whole = all(new is old for new, old in zip(parts, content, strict=True))
    return item if is_whole else {**item, "content": parts}


def _shown_part(part: JsonObject, include: frozenset[str]) -> JsonObject:
    if part.get("logprobs") and LOGPROBS not in include:
        return {**part, "logprobs": []}
    if part.get("type") == "input_image" and part.get("image_url") is not None and INPUT_IMAGE_URLS not in include:
        return {**part, "image_url": None}
    return part


def _shown_file_search(item: Item, include: frozenset[str]) -> Item:
    return item if "file_search_call.results" in include else _without(item, "results")


def _shown_web_search(item: Item, include: frozenset[str]) -> Item:
    if "web_search_call.results" not in include:
        item = _without(item, "results")
    action = item.get("action")
    if "web_search_call.action.sources" not in include and type(action) is dict and "sources" in action:
        item = {**item, "action": _without(action, "sources")}
    return item


def _shown_code(item: Item, include: frozenset[str]) -> Item:
    if "code_interpreter_call.outputs" in include or item.get("outputs") is None:
        return item
    return {**item, "outputs": None}


def _shown_screen(item: Item, include: frozenset[str]) -> Item:
    output = item.get("output")
    if "computer_call_output.output.image_url" in include or type(output) is not dict or "image_url" not in output:
        return item
    return {**item, "output": _without(output, "image_url")}


HIDERS: Mapping[str, Callable[[Item, frozenset[str]], Item]] = {
    "message": _shown_message,
    "reasoning": _shown_reasoning,
    "file_search_call": _shown_file_search,
    "web_search_call": _shown_web_search,
    "code_interpreter_call": _shown_code,
    "computer_call_output": _shown_screen,
}
