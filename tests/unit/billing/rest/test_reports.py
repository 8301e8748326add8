"""A streamed text is made while a server of either kind sends it."""

import asyncio
from collections.abc import Generator, Iterator

from billing.rest.reports import PART_BYTES, SPOOLED_BYTES, StreamedText, spool


def test_parts_are_made_as_they_are_sent() -> None:
    made: list[bytes] = []

    def make() -> Iterator[bytes]:
        for part in (b"a,b\r\n", b"1,2\r\n"):
            made.append(part)
            yield part

    async def send() -> list[int]:
        return [len(made) async for _ in StreamedText(make())]

    assert asyncio.run(send()) == [1, 2]
    assert b"".join(StreamedText(iter(made))) == b"a,b\r\n1,2\r\n"


def test_a_file_is_whole_before_it_is_sent() -> None:
    made: list[int] = []

    def make() -> Iterator[bytes]:
        for place in range(SPOOLED_BYTES // 1024 + 100):
            made.append(place)
            yield bytes([place % 256]) * 1024

    parts = spool(make())
    assert len(made) == SPOOLED_BYTES // 1024 + 100
    sent = list(parts)
    assert b"".join(sent) == b"".join(make())
    assert max(map(len, sent)) == PART_BYTES


def test_a_file_that_no_one_reads_to_its_end_is_closed() -> None:
    parts = spool(iter([b"x" * (2 * SPOOLED_BYTES)]))
    next(parts)
    assert isinstance(parts, Generator)
    parts.close()  # an open file would be a ResourceWarning
