"""A whole answer for a client that wants a stream, where the upstream cannot stream it."""

from collections.abc import Callable

from gateway.protocol.dialects.openai.passthrough import broken
from gateway.protocol.events import Event

MAX_WHOLE_BYTES = 32 * 1024 * 1024


class WholeDecoder:
    """A translate.Decoder that decodes the answer when it is complete."""

    __slots__ = ("_decode", "_pieces", "_size", "is_done")
    takes_json = True

    def __init__(self, decode: Callable[[bytes], list[Event]]) -> None:
        self.is_done = False
        self._decode = decode
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[Event]:
        self._size += len(piece)
        if self._size > MAX_WHOLE_BYTES:
            raise broken("The upstream sent an answer that is too large.")
        self._pieces.append(piece)
        return []

    def finish(self) -> list[Event]:
        events = self._decode(b"".join(self._pieces))
        self.is_done = True
        return events
