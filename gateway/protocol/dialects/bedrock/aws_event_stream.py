"""Binary event streams (application/vnd.amazon.eventstream), incremental, bounded and checked.

Source: https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream. A frame is
total length, length of the headers, CRC of these eight bytes, headers, payload, CRC of all before it; numbers are
big-endian. A header is the length of its name, its name, the kind of its value, its value.

Not botocore's EventStreamBuffer: it takes frames up to 24 MiB, does not check that the parts of a frame fit its
length, raises errors of five unrelated kinds, and copies its buffer for every piece.
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
#: Sizes of values in bytes by their kinds: true, false, byte, short, integer, long, timestamp, UUID.
FIXED_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
SIZED = frozenset({6, STRING})  # byte arrays and strings begin with their length
MAX_CACHED_BLOCKS = 64


def broken(what: str) -> UpstreamFault:
    return UpstreamFault(f"The upstream sent an event {what}.", finish="upstream_broken")


@dataclass(frozen=True, slots=True)
class Frame:
    headers: Mapping[str, str]  # those whose values are strings
    payload: bytes


class FrameSplitter:
    """Bytes in any pieces → whole frames. Raises UpstreamFault for a frame that is damaged or too large."""

    __slots__ = ("_buffer", "_headers_by_block", "_needed")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = PRELUDE.size  # bytes that the next step needs
        self._headers_by_block: dict[bytes, Mapping[str, str]] = {}  # a stream repeats the same few

    @property
    def is_inside_frame(self) -> bool:
        """True where a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that are now whole, then the fault of a damaged one. The caller reads the iterator to its end."""
        buffer = self._buffer
        buffer += piece
        at = 0
        try:
            while len(buffer) - at >= self._needed:
                total, headers_size, crc = PRELUDE.unpack_from(buffer, at)
                if self._needed == PRELUDE.size:
                    _check_prelude(bytes(buffer[at : at + 8]), total, headers_size, crc)
                    self._needed = total
                    continue
                frame = self._frame(bytes(buffer[at : at + total]), headers_size)
                at += total
                self._needed = PRELUDE.size
                yield frame
        finally:
            del buffer[:at]

    def _frame(self, frame: bytes, headers_size: int) -> Frame:
        if crc32(memoryview(frame)[:-4]) != CRC.unpack_from(frame, len(frame) - 4)[0]:
            raise broken("that was damaged on its way")
        end = PRELUDE.size + headers_size
        block = frame[PRELUDE.size : end]
        headers = self._headers_by_block.get(block)
        if headers is None:
            headers = _headers(block)
            if len(self._headers_by_block) < MAX_CACHED_BLOCKS:
                self._headers_by_block[block] = headers
        return Frame(headers, frame[end:-4])


def _check_prelude(lengths: bytes, total: int, headers_size: int, crc: int) -> None:
    if crc32(lengths) != crc:
        raise broken("that was damaged on its way")
    if total > MAX_FRAME_BYTES:
        raise broken("that is too large")
    if total < PRELUDE.size + headers_size + CRC.size:
        raise broken("whose lengths contradict each other")


def _headers(block: bytes) -> Mapping[str, str]:
    """The string headers of a block. Raises UpstreamFault for an unreadable block."""
    headers: dict[str, str] = {}
    names: set[str] = set()
    at = 0
    try:
        while at < len(block):
            name, at = _take(block, at + 1, block[at])
            kind, at = block[at], at + 1
            if kind in SIZED:
                value, at = _take(block, at + LENGTH.size, LENGTH.unpack_from(block, at)[0])
            else:
                value, at = _take(block, at, FIXED_SIZES[kind])
            text = name.decode()
            if text in names:
                raise broken("with a header that stands twice")
            names.add(text)
            if kind == STRING:
                headers[text] = value.decode()
    except (IndexError, KeyError, ValueError, struct_error):
        raise broken("whose headers cannot be read") from None
    return headers


def _take(block: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(block):
        raise IndexError
    return block[at : at + size], at + size
