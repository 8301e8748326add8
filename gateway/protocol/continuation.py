"""The continuation of a broken stream: another upstream gets what the client has read as the beginning of its answer
(a prefill), and what it adds leaves as the same stream.

The client's text stays as it is. Servers refuse a prefill that ends in white space, so it is sent without, and what of
it the continuation repeats is left out.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson

from gateway.protocol.answer import AnswerMetadata, StreamRelay, Transcript
from gateway.protocol.call import Call
from gateway.protocol.json.large_body import body_of
from gateway.protocol.output_limit import lower_output
from gateway.protocol.usage import estimate_tokens

#: The longest text that is kept for a continuation, some 30,000 English tokens. A longer answer cannot be continued.
MAX_TEXT_CHARS = 128 * 1024
#: All stop sequences of a request together: each of their beginnings is looked for.
MAX_STOP_CHARS = 4096


class PlainText:
    """The text of a stream, as long as it is plain, not complete and not too long. `stops`: the request's stop
    sequences, of which an upstream that continues the text would not see the first part."""

    __slots__ = ("_is_lost", "_parts", "_size", "_stops")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = stops
        self._parts: list[str] = []
        self._size = 0
        self._is_lost = sum(map(len, stops)) > MAX_STOP_CHARS

    def add(self, text: str) -> None:
        self._size += len(text)
        if self._size > MAX_TEXT_CHARS:
            self.lose()
        if not self._is_lost and text:
            self._parts.append(text)

    def lose(self) -> None:
        """The stream has ended, or holds more than text."""
        self._is_lost = True
        self._parts.clear()

    def read(self) -> str | None:
        """None where the text cannot be continued."""
        text = "".join(self._parts)
        return None if self._is_lost or any(_has_begun(stop, text) for stop in self._stops) else text


def _has_begun(stop: str, text: str) -> bool:
    return any(text.endswith(stop[:size]) for size in range(1, len(stop)))


def read_stops(value: object) -> tuple[str, ...]:
    """The stop sequences of a request, one or several."""
    values = value if isinstance(value, list) else [value]
    return tuple(stop for stop in values if isinstance(stop, str))


class Seam:
    """Takes the white space at the end of a text from the beginning of its continuation, as far as it is repeated."""

    __slots__ = ("_left",)

    def __init__(self, text: str) -> None:
        self._left = text[len(text.rstrip()) :]

    def cut(self, piece: str) -> str:
        if not self._left or not piece:
            return piece
        size = 0
        while size < min(len(self._left), len(piece)) and self._left[size] == piece[size]:
            size += 1
        self._left = self._left[size:] if size == len(piece) else ""
        return piece[size:]


def continue_call(call: Call, text: str, output_limit: int | None) -> Call:
    """The call whose answer goes on with `text`, at most `output_limit` tokens of it."""
    prefill = text.rstrip()
    if prefill:
        body = json.loads(call.raw)  # which keeps all digits of its numbers
        body["messages"].append({"role": "assistant", "content": prefill})
        raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        call = replace(
            call,
            body=body_of(raw, orjson.loads(raw)),
            raw=raw,
            input_estimate=call.input_estimate + estimate_tokens(prefill),
            is_continued=True,
        )
    return call if output_limit is None else lower_output(call, output_limit)


class NotedRelay:
    """StreamRelay around one whose stream may have to be continued."""

    __slots__ = ("_relay", "_transcript")

    def __init__(self, relay: StreamRelay, transcript: Transcript) -> None:
        self._relay = relay
        self._transcript = transcript

    @property
    def metadata(self) -> AnswerMetadata:
        return self._relay.metadata

    @property
    def is_done(self) -> bool:
        return self._relay.is_done

    @property
    def takes_json(self) -> bool:
        return self._relay.takes_json

    def feed(self, piece: bytes) -> bytes:
        events = self._relay.feed(piece)
        if events:
            self._transcript.note(events)
        return events

    def finish(self) -> bytes:
        return self._relay.finish()


class JoinedRelay:
    """StreamRelay around one that continues a stream. `comment` leaves before its first event."""

    __slots__ = ("_comment", "_join", "_relay")

    def __init__(self, relay: StreamRelay, join: Callable[[bytes], bytes], comment: bytes) -> None:
        self._relay = relay
        self._join = join
        self._comment = comment

    @property
    def metadata(self) -> AnswerMetadata:
        return self._relay.metadata

    @property
    def is_done(self) -> bool:
        return self._relay.is_done

    @property
    def takes_json(self) -> bool:
        return self._relay.takes_json

    def feed(self, piece: bytes) -> bytes:
        return self._send(self._relay.feed(piece))

    def finish(self) -> bytes:
        return self._send(self._relay.finish())

    def _send(self, events: bytes) -> bytes:
        joined = self._join(events) if events else b""
        if not joined:
            return b""
        comment, self._comment = self._comment, b""
        return comment + joined
