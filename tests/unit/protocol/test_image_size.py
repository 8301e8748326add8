"""Sizes out of the headers of images, and nothing out of anything else."""

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.image_size import read_image_size

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1920, 1080) + b"\x08\x06\0\0\0" + bytes(50)
GIF = b"GIF89a" + struct.pack("<HH", 320, 200) + bytes(40)
EXIF = b"\xff\xe1" + struct.pack(">H", 20_002) + bytes(20_000)
TABLE = b"\xff\xdb" + struct.pack(">H", 67) + bytes(65)


def jpeg(frame: int, *segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + bytes([0xFF, frame, 0, 17, 8]) + struct.pack(">HH", 600, 800) + bytes(50)


def webp(kind: bytes, rest: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + kind + b"\0\0\0\0" + rest + bytes(40)


IMAGES = {
    "PNG": (PNG, (1920, 1080)),
    "GIF": (GIF, (320, 200)),
    "JPEG": (jpeg(0xC0), (800, 600)),
    "JPEG, progressive": (jpeg(0xC2, TABLE), (800, 600)),
    "JPEG behind a large EXIF": (jpeg(0xC0, EXIF, TABLE), (800, 600)),
    "JPEG with fill bytes": (jpeg(0xC0, TABLE, b"\xff"), (800, 600)),
    "WebP, lossy": (webp(b"VP8 ", bytes(6) + struct.pack("<HH", 640, 480)), (640, 480)),
    "WebP, lossless": (webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 479 << 14)), (640, 480)),
    "WebP, extended": (webp(b"VP8X", bytes(4) + b"\x7f\x02\0" + b"\xdf\x01\0"), (640, 480)),
}


@pytest.mark.parametrize(("image", "size"), IMAGES.values(), ids=IMAGES.keys())
@pytest.mark.parametrize("prefix", ["", "data:image/x;base64,"])
def test_the_size_stands_in_the_header(image: bytes, size: tuple[int, int], prefix: str) -> None:
    assert read_image_size(prefix + base64.b64encode(image).decode(), len(prefix)) == size


@pytest.mark.parametrize("image", [image for image, _ in IMAGES.values()], ids=IMAGES.keys())
def test_a_cut_header_has_no_size(image: bytes) -> None:
    for size in range(60):
        read = read_image_size(base64.b64encode(image[:size]).decode())
        assert read is None or read in {size for _, size in IMAGES.values()}


def test_an_endless_chain_of_segments_ends() -> None:
    assert read_image_size(base64.b64encode(b"\xff\xd8" + TABLE * 10_000).decode()) is None
    assert read_image_size(base64.b64encode(b"\xff\xd8\xff\xdb\0\0" * 100).decode()) is None


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode()))
def test_anything_else_has_no_size_or_a_plausible_one(data: str) -> None:
    size = read_image_size(data)
    assert size is None or all(0 < side <= 65_535 for side in size)
