"""Calls of OpenAI's built-in client tools (shell, local shell, apply patch) and their outputs, read as function calls.

Source: ShellCall, LocalShellCall, ApplyPatchCall and their outputs in openai.types.responses.ResponseInputItemParam,
3.51.0. Such items are stored unchecked, so every member may be absent or of another type.
"""

from collections.abc import Mapping

import orjson

from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.items import Text, ToolCall, ToolResult

#: {type of a call: (the tool's name, the member that holds its arguments)}
CLIENT_TOOLS: Mapping[str, tuple[str, str]] = {
    "local_shell_call": ("local_shell", "action"),
    "shell_call": ("shell", "action"),
    "apply_patch_call": ("apply_patch", "operation"),
}
CLIENT_OUTPUTS = frozenset(f"{kind}_output" for kind in CLIENT_TOOLS)


def read_call_id(item: Item) -> str:
    """Empty where the item has none. The output of a local shell has its call id in `id`."""
    call_id = item.get("call_id")
    if call_id is None and item["type"] == "local_shell_call_output":
        call_id = item.get("id")
    return call_id if type(call_id) is str else ""


def read_call(item: Item) -> ToolCall:
    name, member = CLIENT_TOOLS[item["type"]]
    arguments = item.get(member)
    text = orjson.dumps(arguments).decode() if type(arguments) is dict else "{}"
    return ToolCall(read_call_id(item), name, text)


def read_result(item: Item, call_id: str) -> ToolResult:
    output = item.get("output")
    if output is None:  # the output of a patch may be its status alone
        output = item.get("status") or ""
    text = output if type(output) is str else orjson.dumps(output).decode()
    return ToolResult(call_id, (Text(text),), is_error=item.get("status") == "failed")
