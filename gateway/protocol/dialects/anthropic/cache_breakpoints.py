"""`cache_control` in a request in Anthropic's Messages format whose client has set none."""

from collections.abc import Iterable

from gateway.protocol.cache_breakpoints import plan_breakpoints
from gateway.protocol.json.types import Json, JsonObject

MARK = {"type": "ephemeral"}
#: The blocks of a user's turn that take a mark.
MARKABLE = frozenset({"text", "image", "document", "tool_result", "search_result"})


def add_breakpoints(body: JsonObject, minimum_tokens: int) -> frozenset[str]:
    """Marks a valid body in place, if it has no mark. Returns the names of the members that changed."""
    tools, system, messages = body.get("tools") or [], body.get("system") or "", body["messages"]
    if "cache_control" in body or _has_mark([*tools, system, *(message["content"] for message in messages)]):
        return frozenset()
    plan = plan_breakpoints(tools, system, messages, minimum_tokens)
    changed: set[str] = set()
    if plan.after_tools and _mark_tool(tools):
        changed.add("tools")
    if plan.after_system and _mark_content(body, "system"):
        changed.add("system")
    for place in plan.messages:
        if _mark_content(messages[place], "content"):
            changed.add("messages")
    return frozenset(changed)


def _has_mark(values: Iterable[Json]) -> bool:
    """Tools are marked themselves, blocks too, and the results of tools hold blocks."""
    todo = list(values)
    while todo:
        value = todo.pop()
        if type(value) is list:
            todo += value
        elif type(value) is dict:
            if value.get("cache_control") is not None:
                return True
            todo.append(value.get("content"))
    return False


def _mark_tool(tools: list[JsonObject]) -> bool:
    """A tool that is loaded later takes no mark."""
    tool = next((tool for tool in reversed(tools) if tool.get("defer_loading") is not True), None)
    if tool is not None:
        tool["cache_control"] = MARK
    return tool is not None


def _mark_content(holder: JsonObject, name: str) -> bool:
    """Marks the last block, which a string becomes. A blank text takes no mark."""
    content = holder[name]
    if type(content) is str:
        if not content.strip():
            return False
        holder[name] = [{"type": "text", "text": content, "cache_control": MARK}]
        return True
    block = content[-1] if content else {}
    if block.get("type") not in MARKABLE or (block["type"] == "text" and not block["text"].strip()):
        return False
    holder[name] = [*content[:-1], {**block, "cache_control": MARK}]
    return True
