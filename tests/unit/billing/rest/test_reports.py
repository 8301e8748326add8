"""A streamed text is made while a server of either kind sends it."""

import asyncio
from collections.abc import Iterator

from billing.rest.reports import StreamedText


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
