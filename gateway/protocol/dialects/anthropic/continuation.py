"""The continuation of a stream in Anthropic's Messages format.

Source of the format: https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from collections.abc import Callable, Sequence

import orjson

from gateway.protocol.continuation import PlainText, Seam
from gateway.protocol.dialects.anthropic.wire import broken, member, merge_usage, read_usage, usage_object
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.sse import event_data
from gateway.protocol.usage import NO_USAGE, Usage

MAX_BLOCKS = 16_384  # of the answer that goes on
#: Members of a request with which a server does more than to write a text.
SERVER_STATE = ("container", "mcp_servers", "context_management")


def may_continue(body: JsonMapping) -> bool:
    """True for a request whose answer is plain text, as long as it calls no tool."""
    thinking, choice, config = body.get("thinking"), body.get("tool_choice"), body.get("output_config")
    return (
        (thinking is None or thinking["type"] == "disabled")
        and (choice is None or choice["type"] in {"auto", "none"})
        and not (config or {}).get("format")
        and not any(body.get(name) for name in SERVER_STATE)
        and body["messages"][-1]["role"] != "assistant"  # it has a prefill of its own
    )


class MessagesTranscript:
    """Transcript of a stream of Messages."""

    __slots__ = ("_blocks", "_is_begun", "_open", "_text")

    def __init__(self, stops: Sequence[str]) -> None:
        self._text = PlainText(stops)
        self._is_begun = False
        self._blocks = 0  # content blocks that were begun
        self._open: int | None = None  # the text block that has no end

    @property
    def text(self) -> str | None:
        return self._text.read()

    def note(self, events: bytes) -> None:
        for event in events.split(b"\n\n"):
            data = event_data(event)
            if data:
                self._note(orjson.loads(data))

    def join(self, usage: Usage) -> Callable[[bytes], bytes]:
        return _Join(
            self._text.read() or "", usage, blocks=self._blocks, open_block=self._open, is_begun=self._is_begun
        )

    def _note(self, event: JsonMapping) -> None:
        kind, index = event.get("type"), event.get("index")
        if kind == "content_block_delta":
            delta = event.get("delta")
            is_open = self._open is not None and index == self._open
            if is_open and isinstance(delta, dict) and delta.get("type") == "text_delta":
                self._add(delta.get("text"))
            else:
                self._text.lose()
        elif kind == "content_block_start":
            block = event.get("content_block")
            if isinstance(block, dict) and block.get("type") == "text" and not block.get("citations"):
                self._add(block.get("text"))
            else:
                self._text.lose()
            if index != self._blocks or self._open is not None:  # blocks are numbered, and end one after the other
                self._text.lose()
            self._blocks, self._open = self._blocks + 1, self._blocks
        elif kind == "content_block_stop":
            if self._open is None or index != self._open:
                self._text.lose()
            self._open = None
        elif kind == "message_start":
            self._is_begun = True
        elif kind != "ping":
            self._text.lose()

    def _add(self, text: object) -> None:
        if isinstance(text, str):
            self._text.add(text)
        else:
            self._text.lose()


class _Join:
    """The events of a second answer as those of the first one's stream."""

    __slots__ = ("_blocks", "_is_begun", "_open", "_own_usage", "_places", "_seam", "_usage")

    def __init__(self, text: str, usage: Usage, *, blocks: int, open_block: int | None, is_begun: bool) -> None:
        self._seam = Seam(text)
        self._usage = usage
        self._own_usage: JsonObject = {}  # of the second answer, as far as it is reported
        self._blocks = blocks
        self._open = open_block  # of the first answer
        self._is_begun = is_begun
        self._places: dict[int, int] = {}  # {the block's place in the second answer: that in the stream}

    def __call__(self, events: bytes) -> bytes:
        return b"".join([self._event(event) for event in events.split(b"\n\n") if event])

    def _event(self, raw: bytes) -> bytes:
        data = event_data(raw)
        if not data:
            return raw + b"\n\n"
        event: JsonObject = orjson.loads(data)
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._delta(event)
        if kind == "content_block_start":
            return self._start(event)
        if kind == "content_block_stop":
            return self._numbered(event)
        if kind == "message_start":
            return self._begin(event)
        if kind == "message_delta":
            return self._end(event)
        return raw + b"\n\n"

    def _begin(self, event: JsonObject) -> bytes:
        usage = member(event, "message").get("usage")
        self._own_usage = usage if isinstance(usage, dict) else {}
        return b"" if self._is_begun else _encode(event)

    def _start(self, event: JsonObject) -> bytes:
        block, index = member(event, "content_block"), event.get("index")
        if type(index) is not int or index in self._places:
            raise broken("a content block out of order")
        if len(self._places) >= MAX_BLOCKS:
            raise broken("too many content blocks")
        if self._open is not None and block.get("type") == "text":
            self._places[index], self._open = self._open, None
            text = block.get("text")
            delta = {"type": "text_delta", "text": text if isinstance(text, str) else ""}
            return self._delta({"type": "content_block_delta", "index": index, "delta": delta})
        ended = self._close()
        self._places[index] = self._blocks
        self._blocks += 1
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            block["text"] = self._seam.cut(block["text"])
        return ended + self._numbered(event)

    def _delta(self, event: JsonObject) -> bytes:
        delta = member(event, "delta")
        if delta.get("type") == "text_delta" and isinstance(delta.get("text"), str):
            delta["text"] = self._seam.cut(delta["text"])
            if not delta["text"]:
                return b""
        return self._numbered(event)

    def _numbered(self, event: JsonObject) -> bytes:
        index = event.get("index")
        if type(index) is not int or index not in self._places:
            raise broken("a piece of no content block")
        event["index"] = self._places[index]
        return _encode(event)

    def _end(self, event: JsonObject) -> bytes:
        ended = self._close()
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._own_usage = merge_usage(self._own_usage, usage)
            event["usage"] = usage_object(self._usage + (read_usage(self._own_usage) or NO_USAGE))
        return ended + _encode(event)

    def _close(self) -> bytes:
        """The end of the first answer's text, where the second one does not go on with it."""
        if self._open is None:
            return b""
        index, self._open = self._open, None
        return _encode({"type": "content_block_stop", "index": index})


def _encode(event: JsonObject) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event))
