"""The event logs of background responses: a reader follows one from any event, while it is made and after that."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import orjson

from gateway.protocol.dialects.responses.client_answer import render_event
from gateway.protocol.dialects.responses.stream import encode_frame
from gateway.protocol.json.types import JsonObject
from gateway.sdk.details import NO_DETAILS, CallFailed, Details

MAX_KEPT_BYTES = 64 * 1024 * 1024  # of the logs of responses that have ended
MAX_BATCH = 256  # events that a reader takes at once: other calls share the event loop


class EventLog:
    """The events of one response, in order, each with its place as its number."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._news = asyncio.Event()
        self.size_bytes = 0
        self.is_ended = False

    def add(self, events: Iterable[JsonObject]) -> None:
        for event in events:
            self._events.append(orjson.dumps(event))
            self.size_bytes += len(self._events[-1])
        self._tell()

    def end(self) -> None:
        """Nothing more comes."""
        self.is_ended = True
        self._tell()

    def read(self, start: int, end: int | None = None) -> list[JsonObject]:
        return [orjson.loads(event) for event in self._events[start:end]]

    @property
    def count(self) -> int:
        return len(self._events)

    async def wait_for(self, number: int) -> int:
        """The count of events, when there is one with this number or the log has ended."""
        while len(self._events) <= number and not self.is_ended:
            await self._news.wait()
        return len(self._events)

    async def wait_for_end(self) -> None:
        while not self.is_ended:
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


@dataclass(frozen=True, slots=True)
class CallLog:
    """A log, and the details of its call as far as it has come."""

    log: EventLog
    read_details: Callable[[], Details]

    def read(self, after: int = -1, include: frozenset[str] = frozenset()) -> "LogReader":
        """A stream of the events with numbers above `after`."""
        return LogReader(self, after, include)


class LogReader:
    """See gateway.sdk.streams.EventSource. The response goes on when its reader is closed."""

    def __init__(self, call_log: CallLog, after: int, include: frozenset[str]) -> None:
        self._call_log = call_log
        self._log = call_log.log
        self._include = include
        self._start = self._end = after + 1  # of the batch that was taken last
        self._taken = 0  # batches

    @property
    def details(self) -> Details:
        return self._call_log.read_details()

    async def take(self, received: int) -> tuple[bytes, bool, CallFailed | None]:
        if received >= self._taken:
            count = await self._log.wait_for(self._end)
            self._start, self._end = self._end, max(min(count, self._end + MAX_BATCH), self._end)
            self._taken += 1
        events = self._log.read(self._start, self._end)
        frames = b"".join([encode_frame(render_event(event, self._include)) for event in events])
        return frames, self._log.is_ended and self._log.count <= self._end, None

    def cancel(self) -> None:
        """Nothing waits for this reader."""


class KeptLogs:
    """The logs of responses that have ended; the oldest ones go where they are too large."""

    def __init__(self) -> None:
        self._logs: OrderedDict[str, CallLog] = OrderedDict()
        self._size_bytes = 0

    def add(self, response_id: str, call_log: CallLog) -> None:
        self._logs[response_id] = call_log
        self._size_bytes += call_log.log.size_bytes
        while self._size_bytes > MAX_KEPT_BYTES:
            self.drop(next(iter(self._logs)))

    def find(self, response_id: str) -> CallLog | None:
        return self._logs.get(response_id)

    def drop(self, response_id: str) -> None:
        kept = self._logs.pop(response_id, None)
        if kept is not None:
            self._size_bytes -= kept.log.size_bytes

    def clear(self) -> None:
        self._logs.clear()
        self._size_bytes = 0


def replay_log(events: Sequence[JsonObject]) -> CallLog:
    """The log of a response that has ended, from its events."""
    log = EventLog()
    log.add(events)
    log.end()
    return CallLog(log, lambda: NO_DETAILS)
