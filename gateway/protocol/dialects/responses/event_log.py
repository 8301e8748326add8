"""The log of a background response's stream: its events in order, and the events that end it.

When a response is cancelled or its worker is lost, another process ends it: it reads the log, closes every open item
and adds the terminal event. So a client that follows the stream always gets an end by the grammar of stream.py.
"""

from collections.abc import Iterable

import orjson

from gateway.protocol.dialects.responses.open_item import OpenItem, UnnumberedEvent
from gateway.protocol.dialects.responses.stored import TERMINAL_EVENTS, Item
from gateway.protocol.json.types import JsonObject
from gateway.protocol.sse import event_data

#: Every log begins with these: created and queued when the response is stored, in_progress when a worker takes it.
QUEUED_EVENTS = 2
LIFECYCLE = frozenset({"response.created", "response.queued", "response.in_progress"})


def read_events(frames: bytes) -> list[JsonObject]:
    """The events of whole frames, without comments and [DONE]."""
    payloads = map(event_data, frames.split(b"\n\n"))
    return [orjson.loads(data) for data in payloads if data is not None and data != b"[DONE]"]


class EventLog:
    """The state of the stream after the events so far. Feed it every event, in order; then `end` it, once."""

    __slots__ = ("_done", "_is_in_progress", "_open", "next_number")

    def __init__(self) -> None:
        self.next_number = 0
        self._is_in_progress = False
        self._open: dict[int, OpenItem] = {}
        self._done: dict[int, Item] = {}

    def feed(self, events: Iterable[JsonObject]) -> None:
        for event in events:
            self.next_number = event["sequence_number"] + 1
            kind, index = event["type"], event.get("output_index")
            if kind == "response.in_progress":
                self._is_in_progress = True
            elif kind == "response.output_item.added":
                self._open[event["output_index"]] = OpenItem(event["item"], event["output_index"])
            elif index in self._open:
                if kind == "response.output_item.done":
                    del self._open[index]
                    self._done[index] = event["item"]
                else:
                    self._open[index].feed(kind, event)

    def end(
        self, response: JsonObject, *, status: str, error: JsonObject | None = None
    ) -> tuple[list[JsonObject], JsonObject]:
        """(the events that end the stream, the final response). Of the open items only the last one is incomplete."""
        events: list[UnnumberedEvent] = []
        if not self._is_in_progress:
            events.append(("response.in_progress", {"response": {**response, "status": "in_progress"}}))
        last = max((*self._open, *self._done), default=0)
        for index, item in sorted(self._open.items()):
            closing, self._done[index] = item.end("incomplete" if index == last else "completed")
            events += closing
        self._open.clear()
        output = [self._done[index] for index in sorted(self._done)]
        final = {**response, "status": status, "error": error, "output": output}
        events.append((TERMINAL_EVENTS[status], {"response": final}))
        return number_events(events, self.next_number), final


def number_events(events: Iterable[UnnumberedEvent], first: int = 0) -> list[JsonObject]:
    return [
        {"type": kind, "sequence_number": number, **members} for number, (kind, members) in enumerate(events, first)
    ]
