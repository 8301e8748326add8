"""Server-sent events, incremental and bounded.

Source: WHATWG HTML Living Standard, §9.2.6 "Interpreting an event stream": lines end in LF, CR LF or CR, an event
ends at an empty line, a leading byte order mark is dropped, lines that start with a colon are comments.
"""

from gateway.protocol.errors import UpstreamFault

#: As much as a whole answer may have by default: a generated image is one event, and stands once more in the last.
MAX_EVENT_BYTES = 32 * 1024 * 1024


class EventSplitter:
    """Bytes in any pieces → whole events, each without its final empty line and with LF line ends.

    Raises UpstreamFault when one event grows past MAX_EVENT_BYTES.
    """

    __slots__ = ("_ends_line", "_has_cr", "_parts", "_size", "_started")

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the unfinished event
        self._size = 0
        self._ends_line = False
        self._has_cr = False  # the last piece ended in a CR, which an LF may follow
        self._started = False

    def feed(self, piece: bytes) -> list[bytes]:
        if self._has_cr:
            piece = b"\r" + piece
            self._has_cr = False
        if b"\r" in piece:
            if piece.endswith(b"\r"):
                self._has_cr = True
                piece = piece[:-1]
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n\n" not in piece and not (self._ends_line and piece.startswith(b"\n")):
            self._hold(piece)  # joined only where an event ends
            return []
        if self._parts:
            piece = b"".join([*self._parts, piece])
            self._parts.clear()
            self._size = 0
            self._ends_line = False
        if not self._started:
            self._started = True
            piece = piece.removeprefix(b"\xef\xbb\xbf")
        events = piece.split(b"\n\n")
        self._hold(events.pop())
        return [event for event in (event.strip(b"\n") for event in events) if event]

    def _hold(self, piece: bytes) -> None:
        if not piece:
            return
        self._parts.append(piece)
        self._ends_line = piece.endswith(b"\n")
        self._size += len(piece)
        if self._size > MAX_EVENT_BYTES:
            raise UpstreamFault("The upstream sent an event that is too large.", finish="upstream_broken")

    def finish(self) -> list[bytes]:
        """The event that the end of the stream cut off from its empty line, if any."""
        rest = b"".join(self._parts).removeprefix(b"\xef\xbb\xbf" if not self._started else b"").strip(b"\n")
        self._parts.clear()
        return [rest] if rest else []


def event_data(event: bytes) -> bytes | None:
    """The event's data lines joined by LF; None for an event without any (comments, retry)."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].removeprefix(b" ")
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
