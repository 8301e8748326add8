"""The streams that a caller iterates over: typed events, each as soon as its frame is there.

A stream that is closed, left (as a context manager) or no longer referred to ends the upstream's call.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import orjson

from gateway.protocol.json.types import JsonObject
from gateway.protocol.sse import EventSplitter, event_data
from gateway.sdk.background_loop import BackgroundLoop
from gateway.sdk.details import CallFailed, Details

Event = TypeVar("Event")
ReadEvent = Callable[[JsonObject], Event]
MakeError = Callable[[CallFailed], Exception]


class EventSource(Protocol):
    """A stream under way, in the background loop."""

    @property
    def details(self) -> Details: ...

    async def take(self, received: int) -> tuple[bytes, bool, CallFailed | None]:
        """(whole frames, True if they are the last, the failure that follows them), after `received` batches."""

    def cancel(self) -> None:
        """The reader has gone."""


class _Frames(Generic[Event]):
    """The events of frames that have been taken, and the error that follows them. An interrupt (Ctrl-C) at any place
    loses none: an event is passed once it is made."""

    def __init__(self, call: EventSource, background: BackgroundLoop, read: ReadEvent[Event], error: MakeError) -> None:
        self.call = call
        self.background = background
        self._read = read
        self._error = error
        self._batch: list[bytes] = []  # events
        self._place = 0  # of the next one
        self._failure: CallFailed | None = None
        self._is_last = False
        self._received = 0  # batches of frames

    def take(self) -> Coroutine[object, None, tuple[bytes, bool, CallFailed | None]]:
        return self.call.take(self._received)

    def feed(self, frames: bytes, is_last: bool, failure: CallFailed | None) -> None:
        events = EventSplitter().feed(frames)
        self._batch, self._place = events, 0
        self._is_last, self._failure = is_last, failure
        self._received += 1

    def next(self) -> Event | None:
        """The next event; None where frames must be taken first. Raises the error of the call, or StopIteration."""
        while self._place < len(self._batch):
            data = event_data(self._batch[self._place])
            event = self._read(orjson.loads(data)) if data is not None and data != b"[DONE]" else None
            self._place += 1
            if event is not None:
                return event
        if self._is_last:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise self._error(failure)
            raise StopIteration
        return None

    def close(self) -> None:
        if not self._is_last:
            self.background.post(self.call.cancel)
        self._is_last, self._failure = True, None
        self._batch, self._place = [], 0


class Stream(Generic[Event]):
    """An iterator of events, and a context manager."""

    def __init__(self, call: EventSource, background: BackgroundLoop, read: ReadEvent[Event], error: MakeError) -> None:
        self._frames = _Frames(call, background, read, error)

    @property
    def _details(self) -> Details:
        return self._frames.call.details

    @property
    def _hidden_params(self) -> dict[str, object]:
        return self._details.hidden_params

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        frames = self._frames
        while (event := frames.next()) is None:
            frames.feed(*frames.background.run(frames.take()))
        return event

    def __enter__(self) -> "Stream[Event]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Ends the upstream's call, where it has not ended."""
        self._frames.close()


class AsyncStream(Generic[Event]):
    """An asynchronous iterator of events, and a context manager."""

    def __init__(self, call: EventSource, background: BackgroundLoop, read: ReadEvent[Event], error: MakeError) -> None:
        self._frames = _Frames(call, background, read, error)

    @property
    def _details(self) -> Details:
        return self._frames.call.details

    @property
    def _hidden_params(self) -> dict[str, object]:
        return self._details.hidden_params

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        frames = self._frames
        try:
            while (event := frames.next()) is None:
                frames.feed(*await frames.background.wait(frames.take()))
        except StopIteration:
            raise StopAsyncIteration from None
        return event

    async def __aenter__(self) -> "AsyncStream[Event]":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames.close()

    def __del__(self) -> None:
        self._frames.close()

    async def close(self) -> None:
        """Ends the upstream's call, where it has not ended."""
        self._frames.close()
