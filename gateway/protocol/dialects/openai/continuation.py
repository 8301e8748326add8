"""The continuation of a chat's stream.

Source of the format: https://platform.openai.com/docs/api-reference/chat-streaming.
"""

from collections.abc import Callable, Sequence

import orjson

from gateway.protocol.continuation import PlainText, Seam
from gateway.protocol.dialects.openai.client_answer import DETAILS, usage_object
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.sse import event_data
from gateway.protocol.usage import NO_USAGE, Usage, from_openai

#: Members of a chunk that are those of the whole stream.
HEAD = ("id", "created")
#: Members of a delta that a text may have, with others that are empty.
TEXT_MEMBERS = frozenset({"role", "content"})
FREE_CHOICES = (None, "auto", "none")


def may_continue(body: JsonMapping) -> bool:
    """True for a request whose answer is one plain text, as long as it calls no tool."""
    output, thinking, last = body.get("response_format"), body.get("thinking"), body["messages"][-1]
    return (
        body.get("n") in (None, 1)
        and not any(body.get(name) for name in ("logprobs", "top_logprobs", "audio", "web_search_options"))
        and (output is None or output.get("type") == "text")
        and body.get("reasoning_effort") in (None, "", "none")
        and (not isinstance(thinking, dict) or thinking.get("type") == "disabled")
        and body.get("tool_choice") in FREE_CHOICES
        and body.get("function_call") in FREE_CHOICES
        and body.get("modalities") in (None, ["text"])
        and last["role"] != "assistant"  # it has a prefill of its own
    )


class ChatTranscript:
    """Transcript of a chat's stream."""

    __slots__ = ("_has_role", "_head", "_text")

    def __init__(self, stops: Sequence[str]) -> None:
        self._text = PlainText(stops)
        self._head: JsonObject = {}
        self._has_role = False

    @property
    def text(self) -> str | None:
        return self._text.read()

    def note(self, events: bytes) -> None:
        for event in events.split(b"\n\n"):
            data = event_data(event)
            if data and data != b"[DONE]":
                self._note(orjson.loads(data))

    def join(self, usage: Usage) -> Callable[[bytes], bytes]:
        return _Join(self._head, self._text.read() or "", usage, has_role=self._has_role)

    def _note(self, chunk: JsonMapping) -> None:
        if not self._head:
            self._head = {name: chunk[name] for name in HEAD if name in chunk}
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if isinstance(delta, dict) and _is_text(choice, delta):
                self._has_role = self._has_role or "role" in delta
                self._text.add(delta.get("content") or "")
            else:
                self._text.lose()


def _is_text(choice: JsonMapping, delta: JsonMapping) -> bool:
    """True for a piece of text, or of nothing, of the first choice."""
    if choice.get("finish_reason") or choice.get("logprobs") or choice.get("index", 0) != 0:
        return False
    if not isinstance(delta.get("content"), str | None):
        return False
    return not any(value for name, value in delta.items() if name not in TEXT_MEMBERS)


class _Join:
    """The events of a second answer as those of the first one's stream."""

    __slots__ = ("_has_role", "_head", "_seam", "_usage")

    def __init__(self, head: JsonMapping, text: str, usage: Usage, *, has_role: bool) -> None:
        self._head = head
        self._has_role = has_role
        self._seam = Seam(text)
        self._usage = usage

    def __call__(self, events: bytes) -> bytes:
        return b"".join([self._event(event) for event in events.split(b"\n\n") if event])

    def _event(self, event: bytes) -> bytes:
        data = event_data(event)
        if not data or data == b"[DONE]":
            return event + b"\n\n"
        chunk: JsonObject = {**orjson.loads(data), **self._head}
        usage, choices = chunk.get("usage"), chunk.get("choices")
        if isinstance(choices, list) and choices:
            chunk["choices"] = [choice for choice in choices if not isinstance(choice, dict) or self._keeps(choice)]
            if not chunk["choices"] and not usage:
                return b""
        if isinstance(usage, dict):
            others = {name: value for name, value in usage.items() if name not in DETAILS}
            chunk["usage"] = {**others, **usage_object(self._usage + (from_openai(usage) or NO_USAGE), usage)}
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _keeps(self, choice: JsonObject) -> bool:
        """Takes from the choice what the client has already. False where nothing is left of it."""
        delta: Json = choice.get("delta")
        if not isinstance(delta, dict):
            return True
        if self._has_role:
            delta.pop("role", None)
        content = delta.get("content")
        if isinstance(content, str):
            delta["content"] = self._seam.cut(content)
        if self._has_role and not delta.get("content") and "content" in delta:
            del delta["content"]
        return bool(delta or choice.get("finish_reason"))
