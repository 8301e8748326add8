"""Binary event streams (application/vnd.amazon.eventstream), incremental, bounded and checked.

Source: https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream. A frame is
total length, length of the headers, CRC of these eight bytes, headers, payload, CRC of all before it; numbers are
big-endian. A header is the length of its name, its name, the kind of its value, its value.

By hand rather than with botocore's EventStreamBuffer: that one takes frames up to 24 MiB, does not check that the
parts of a frame fit its length, raises errors of five unrelated kinds, and copies its buffer for every piece.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from struct import error as struct_error
from zlib import crc32

from gateway.protocol.errors import UpstreamFault

MAX_FRAME_BYTES = 16 * 1024 * 1024
CONTENT_TYPE = "application/vnd.amazon.eventstream"

PRELUDE = Struct(">III")
CRC = Struct(">I")
LENGTH = Struct(">H")
STRING = 7
#: Bytes of a value by its kind: true, false, byte, short, integer, long, timestamp, UUID.
FIXED_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
SIZED = frozenset({6, STRING})  # byte arrays and strings say their length
MAX_REMEMBERED = 64


def broken(what: str) -> UpstreamFault:
    return UpstreamFault(f"The upstream sent an event {what}.", finish="upstream_broken")


@dataclass(frozen=True, slots=True)
class Frame:
    headers: Mapping[str, str]  # those whose values are strings
    payload: bytes


class FrameSplitter:
    """Bytes in any pieces → whole frames. Raises UpstreamFault for a frame that is damaged or too large."""

    __slots__ = ("_held", "_known_headers", "_needed")

    def __init__(self) -> None:
        self._held = bytearray()
        self._needed = PRELUDE.size  # bytes to hold before there is anything to do
        self._known_headers: dict[bytes, Mapping[str, str]] = {}  # a stream repeats the same few

    @property
    def is_inside_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._held)

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """To be read to its end: what is whole comes before the fault of what follows it."""
        held = self._held
        held += piece
        at = 0
        try:
            while len(held) - at >= self._needed:
                total, headers_size, crc = PRELUDE.unpack_from(held, at)
                if self._needed == PRELUDE.size:
                    _check_prelude(bytes(held[at : at + 8]), total, headers_size, crc)
                    self._needed = total
                    continue
                frame = self._frame(bytes(held[at : at + total]), headers_size)
                at += total
                self._needed = PRELUDE.size
                yield frame
        finally:
            del held[:at]

    def _frame(self, frame: bytes, headers_size: int) -> Frame:
        if crc32(memoryview(frame)[:-4]) != CRC.unpack_from(frame, len(frame) - 4)[0]:
            raise broken("that was damaged on its way")
        end = PRELUDE.size + headers_size
        block = frame[PRELUDE.size : end]
        headers = self._known_headers.get(block)
        if headers is None:
            headers = _headers(block)
            if len(self._known_headers) < MAX_REMEMBERED:
                self._known_headers[block] = headers
        return Frame(headers, frame[end:-4])


def _check_prelude(lengths: bytes, total: int, headers_size: int, crc: int) -> None:
    if crc32(lengths) != crc:
        raise broken("that was damaged on its way")
    if total > MAX_FRAME_BYTES:
        raise broken("that is too large")
    if total < PRELUDE.size + headers_size + CRC.size:
        raise broken("whose lengths contradict each other")


def _headers(block: bytes) -> Mapping[str, str]:
    """Raises UpstreamFault where the headers do not end where they should."""
    headers: dict[str, str] = {}
    names: set[str] = set()
    at = 0
    try:
        while at < len(block):
            name, at = _taken(block, at + 1, block[at])
            kind, at = block[at], at + 1
            if kind in SIZED:
                value, at = _taken(block, at + LENGTH.size, LENGTH.unpack_from(block, at)[0])
            else:
                value, at = _taken(block, at, FIXED_SIZES[kind])
            text = name.decode()
            if text in names:
                raise broken("with a header that stands twice")
            names.add(text)
            if kind == STRING:
                headers[text] = value.decode()
    except (IndexError, KeyError, ValueError, struct_error):
        raise broken("whose headers cannot be read") from None
    return headers


def _taken(block: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(block):
        raise IndexError
    return block[at : at + size], at + size
