"""Calls of tools that OpenAI's models know and the client runs, and what came of them, as a function's would be told.

Source: ShellCall, LocalShellCall, ApplyPatchCall and their outputs in openai.types.responses.ResponseInputItemParam,
3.51.0. Nothing is checked when they are stored, so nothing is taken for granted here.
"""

from collections.abc import Mapping

import orjson

from gateway.protocol.dialects.responses.items import Item
from gateway.protocol.items import Text, ToolCall, ToolResult

#: {type of a call: (the tool's name, where its arguments stand)}
CLIENT_TOOLS: Mapping[str, tuple[str, str]] = {
    "local_shell_call": ("local_shell", "action"),
    "shell_call": ("shell", "action"),
    "apply_patch_call": ("apply_patch", "operation"),
}
CLIENT_OUTPUTS = frozenset(f"{kind}_output" for kind in CLIENT_TOOLS)


def read_call_id(item: Item) -> str:
    """Empty where it has none. That of a local shell's result stands under `id` in the types."""
    call_id = item.get("call_id")
    if call_id is None and item["type"] == "local_shell_call_output":
        call_id = item.get("id")
    return call_id if type(call_id) is str else ""


def read_call(item: Item) -> ToolCall:
    name, member = CLIENT_TOOLS[item["type"]]
    given = item.get(member)
    arguments = orjson.dumps(given).decode() if type(given) is dict else "{}"
    return ToolCall(read_call_id(item), name, arguments)


def read_result(item: Item, call_id: str) -> ToolResult:
    output = item.get("output")
    if output is None:  # a patch may say no more than whether it was applied
        output = item.get("status") or ""
    text = output if type(output) is str else orjson.dumps(output).decode()
    return ToolResult(call_id, (Text(text),), is_error=item.get("status") == "failed")
