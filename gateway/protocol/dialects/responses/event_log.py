"""The log of a background response's stream: its events in order, as far as they were told, and how to end it.

Whoever ends a response that he does not make himself, because it was cancelled or its worker is gone, finds in the log
what was begun, and closes it: a stream that is followed always ends as the grammar of stream.py says.
"""

from collections.abc import Iterable

import orjson

from gateway.protocol.dialects.responses.open_item import OpenItem, UnnumberedEvent
from gateway.protocol.dialects.responses.stored import TERMINAL_EVENTS, Item
from gateway.protocol.json.types import JsonObject
from gateway.protocol.sse import event_data

#: What every log begins with: created and queued when the response is stored, in_progress when a worker takes it.
QUEUED_EVENTS = 2
LIFECYCLE = frozenset({"response.created", "response.queued", "response.in_progress"})


def read_events(frames: bytes) -> list[JsonObject]:
    """The events of whole frames, without comments and [DONE]."""
    found = map(event_data, frames.split(b"\n\n"))
    return [orjson.loads(data) for data in found if data is not None and data != b"[DONE]"]


class EventLog:
    """What was told so far. Feed it every event, in order; then `end` it, once."""

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
                    self._open[index].note(kind, event)

    def end(
        self, response: JsonObject, *, status: str, error: JsonObject | None = None
    ) -> tuple[list[JsonObject], JsonObject]:
        """(the events that end it, the response as it is then). Of what is open, only the last item is incomplete."""
        told: list[UnnumberedEvent] = []
        if not self._is_in_progress:
            told.append(("response.in_progress", {"response": {**response, "status": "in_progress"}}))
        last = max((*self._open, *self._done), default=0)
        for index, item in sorted(self._open.items()):
            events, self._done[index] = item.end("incomplete" if index == last else "completed")
            told += events
        self._open.clear()
        ended = {**response, "status": status, "error": error, "output": [self._done[i] for i in sorted(self._done)]}
        told.append((TERMINAL_EVENTS[status], {"response": ended}))
        return number_events(told, self.next_number), ended


def number_events(told: Iterable[UnnumberedEvent], first: int) -> list[JsonObject]:
    return [{"type": kind, "sequence_number": first + place, **members} for place, (kind, members) in enumerate(told)]
