"""Fixes for habits of servers that break clients, in answers that otherwise pass unchanged.

`reasoning` is repeated as `reasoning_content`; a choice's role appears once; empty `tool_calls`, finish reasons and
deltas are removed; a call without arguments gets `{}`; and an answer with tool calls does not end with `stop`.
"""

from collections.abc import Collection

from gateway.protocol.events import MAX_TOOL_CALLS
from gateway.protocol.json.open_text import JsonProgress
from gateway.protocol.json.types import Json, JsonObject

#: The extent of a fix in a chunk: none, the role removed, or more.
SAME, ROLE_GONE, FIXED = range(3)
ROLES = (b'"role":"assistant",', b'"role": "assistant", ')


class AnswerFixes:
    """The fixes of one stream. Each method changes its argument and returns the extent of the change."""

    __slots__ = ("_arguments", "_roles")

    def __init__(self) -> None:
        self._roles: set[int] = set()
        self._arguments: dict[int, dict[int, JsonProgress]] = {}  # by choice and call

    def delta(self, index: int, delta: JsonObject) -> int:
        changed = SAME
        if "role" in delta:
            if index in self._roles:
                del delta["role"]
                changed = ROLE_GONE
            elif len(self._roles) < MAX_TOOL_CALLS:
                self._roles.add(index)
        if _name_reasoning(delta):
            changed = FIXED
        calls = delta.get("tool_calls")
        if calls == []:
            del delta["tool_calls"]
            changed = FIXED
        elif isinstance(calls, list):
            self._note(index, calls)
        return changed

    def finish(self, index: int, choice: JsonObject) -> int:
        """Fixes a choice whose finish reason is not null."""
        if choice["finish_reason"] == "":
            choice["finish_reason"] = None
            return FIXED
        calls = self._arguments.get(index)
        if not calls or not isinstance(choice.get("delta"), dict):
            return SAME
        changed = SAME
        empty = [number for number, progress in calls.items() if progress.is_blank]
        if empty:
            filled = [{"index": number, "function": {"arguments": "{}"}} for number in empty]
            choice["delta"]["tool_calls"] = [*(choice["delta"].get("tool_calls") or ()), *filled]
            changed = FIXED
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = "tool_calls"
            changed = FIXED
        return changed

    def has_open_call(self, finished: Collection[int]) -> bool:
        """True where a choice without a finish reason breaks off within a call."""
        open_calls = [calls for index, calls in self._arguments.items() if index not in finished]
        return any(progress.is_open for calls in open_calls for progress in calls.values())

    def _note(self, index: int, calls: list[Json]) -> None:
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict) and type(call.get("index")) is int:
                progress = self._find_progress(index, call["index"])
                if progress is not None and isinstance(function.get("arguments"), str):
                    progress.feed(function["arguments"])

    def _find_progress(self, index: int, number: int) -> JsonProgress | None:
        """The arguments of a call; None for one of too many calls, which pass as they are."""
        calls = self._arguments.get(index)
        if calls is None:
            if len(self._arguments) >= MAX_TOOL_CALLS:
                return None
            calls = self._arguments[index] = {}
        if number not in calls and len(calls) < MAX_TOOL_CALLS:
            calls[number] = JsonProgress()
        return calls.get(number)


def remove_role(event: bytes) -> bytes | None:
    """The event without its role; None where the place of the role in the bytes is not certain."""
    for role in ROLES:
        if role in event and event.count(b'"role"') == 1:  # within a string its quotes would be escaped
            return event.replace(role, b"", 1)
    return None


def fix_choice(choice: Json) -> bool:
    """Fixes a choice of a whole answer. Returns True where it changed."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return False
    is_changed = _name_reasoning(message)
    calls = message.get("tool_calls")
    if calls == []:
        del message["tool_calls"]
        is_changed = True
    reason = choice.get("finish_reason")
    if reason == "" or (reason == "stop" and calls):
        choice["finish_reason"] = "tool_calls" if calls else "stop"
        is_changed = True
    return is_changed


def _name_reasoning(message: JsonObject) -> bool:
    reasoning = message.get("reasoning")
    if not reasoning or not isinstance(reasoning, str) or message.get("reasoning_content"):
        return False
    message["reasoning_content"] = reasoning
    return True
