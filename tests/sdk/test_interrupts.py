"""Ctrl-C amid a stream: the program may go on with it, and no event is lost."""

from collections.abc import Iterator

import pytest

from gateway import sdk
from gateway.protocol.json.types import JsonObject
from gateway.sdk.background_loop import BackgroundLoop
from gateway.sdk.details import NO_DETAILS, CallFailed, Details

FRAMES = b"".join(b'data: {"n": %d}\n\n' % number for number in range(6)) + b"data: [DONE]\n\n"


class Ready:
    """A stream whose frames are all there."""

    details: Details = NO_DETAILS

    async def take(self, received: int) -> tuple[bytes, bool, CallFailed | None]:
        return FRAMES, True, None

    def cancel(self) -> None:
        """Nothing is under way."""


@pytest.fixture
def background() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


def test_an_interrupt_while_an_event_is_read_loses_none(background: BackgroundLoop) -> None:
    interrupts = iter([False, True, False, False, True, True])

    def read(data: JsonObject) -> int:
        if next(interrupts, False):
            raise KeyboardInterrupt
        number: int = data["n"]
        return number

    stream = sdk.Stream(Ready(), background, read, lambda failed: failed)
    numbers: list[int] = []
    count = 0
    while len(numbers) < 6:
        try:
            numbers.extend(iter(lambda: next(stream), 5))
            numbers.append(5)
        except KeyboardInterrupt:
            count += 1
    assert count == 3
    assert list(stream) == []
