"""Width and height of an image in base64, from its header alone.

Sources: PNG (https://www.w3.org/TR/png-3/#11IHDR), JPEG (ITU-T T.81, B.2.2), GIF89a and WebP
(https://developers.google.com/speed/webp/docs/riff_container).
"""

import binascii
from collections.abc import Callable

MAX_SIDE = 65_535
MAX_SEGMENTS = 64  # of a JPEG in front of its frame header
#: The markers of JPEG's frame headers: SOF0 to SOF15 without the tables DHT, JPG and DAC.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

#: (first byte, number of bytes) → the bytes
Read = Callable[[int, int], bytes]


def read_image_size(data: str, start: int = 0) -> tuple[int, int] | None:
    """(width, height) of the base64 that begins at `start`; None where the header cannot be read."""

    def read(first: int, count: int) -> bytes:
        quad = start + first // 3 * 4
        piece = binascii.a2b_base64(data[quad : quad + (count // 3 + 2) * 4])[first % 3 : first % 3 + count]
        if len(piece) < count:
            raise ValueError("the header is cut")
        return piece

    try:
        size = _read_size(read)
    except ValueError:
        return None
    return size if size is not None and all(0 < side <= MAX_SIDE for side in size) else None


def _read_size(read: Read) -> tuple[int, int] | None:
    head = read(0, 30)
    if head.startswith(b"\x89PNG"):
        return _number(head[16:20]), _number(head[20:24])
    if head.startswith(b"\xff\xd8"):
        return _read_jpeg(read)
    if head.startswith(b"GIF8"):
        return _little(head[6:8]), _little(head[8:10])
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _read_webp(head)
    return None


def _read_jpeg(read: Read) -> tuple[int, int] | None:
    place = 2
    for _ in range(MAX_SEGMENTS):
        segment = read(place, 9)
        if segment[0] != 0xFF:
            return None
        if segment[1] in FRAMES:
            return _number(segment[7:9]), _number(segment[5:7])
        place += 1 if segment[1] == 0xFF else 2 + _number(segment[2:4])  # 0xFF may repeat in front of a marker
    return None


def _read_webp(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return _little(head[24:27]) + 1, _little(head[27:30]) + 1
    if kind == b"VP8 ":
        return _little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF
    if kind == b"VP8L":
        bits = _little(head[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
