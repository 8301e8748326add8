"""Habits of servers that clients trip over, put right in answers that otherwise pass as they are.

`reasoning` is told as `reasoning_content` as well; a choice's role stands once; empty `tool_calls`, finish reasons and
deltas are none; a call without arguments has `{}`; and who calls has not just stopped.
"""

from collections.abc import Collection

from gateway.protocol.json.open_text import is_open
from gateway.protocol.json.types import Json, JsonObject

#: How much of a chunk changed: nothing, a role that went, or more.
SAME, ROLE_GONE, FIXED = range(3)
ROLES = (b'"role":"assistant",', b'"role": "assistant", ')


class AnswerFixes:
    """Of one stream. Each method changes what it is given and says how much of it."""

    __slots__ = ("_arguments", "_roles")

    def __init__(self) -> None:
        self._roles: set[int] = set()
        self._arguments: dict[int, dict[int, list[str]]] = {}  # by choice and call

    def delta(self, index: int, delta: JsonObject) -> int:
        changed = SAME
        if "role" in delta:
            if index in self._roles:
                del delta["role"]
                changed = ROLE_GONE
            else:
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
        """At a finish reason that is not null."""
        if choice["finish_reason"] == "":
            choice["finish_reason"] = None
            return FIXED
        calls = self._arguments.get(index)
        if not calls or not isinstance(choice.get("delta"), dict):
            return SAME
        changed = SAME
        empty = [number for number, said in calls.items() if not "".join(said).strip()]
        if empty:
            filled = [{"index": number, "function": {"arguments": "{}"}} for number in empty]
            choice["delta"]["tool_calls"] = [*(choice["delta"].get("tool_calls") or ()), *filled]
            changed = FIXED
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = "tool_calls"
            changed = FIXED
        return changed

    def has_open_call(self, finished: Collection[int]) -> bool:
        """Whether a choice that gave no reason to finish broke off within a call."""
        left = [calls for index, calls in self._arguments.items() if index not in finished]
        return any(is_open("".join(said)) for calls in left for said in calls.values())

    def _note(self, index: int, calls: list[Json]) -> None:
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict) and type(call.get("index")) is int:
                said = self._arguments.setdefault(index, {}).setdefault(call["index"], [])
                if isinstance(function.get("arguments"), str):
                    said.append(function["arguments"])


def remove_role(event: bytes) -> bytes | None:
    """The event without its one role; None where its place in the bytes is not certain."""
    for role in ROLES:
        if role in event and event.count(b'"role"') == 1:  # within a string its quotes would be escaped
            return event.replace(role, b"", 1)
    return None


def fix_choice(choice: Json) -> bool:
    """A choice of a whole answer; whether it was changed."""
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


def _name_reasoning(said: JsonObject) -> bool:
    reasoning = said.get("reasoning")
    if not reasoning or not isinstance(reasoning, str) or said.get("reasoning_content"):
        return False
    said["reasoning_content"] = reasoning
    return True
