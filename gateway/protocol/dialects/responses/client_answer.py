"""Events → OpenAI's Responses answers, streamed and whole: the bytes of what ResponseStream makes.

Source: https://platform.openai.com/docs/api-reference/responses-streaming. A stream ends with `data: [DONE]`, as Open
Responses specifies; OpenAI's own clients stop there too.
"""

from collections.abc import Callable, Iterable

import orjson

from gateway.protocol.dialects.openai.passthrough import DONE, broken
from gateway.protocol.dialects.responses.items import LOGPROBS, render_item, render_response
from gateway.protocol.dialects.responses.stream import ResponseStream, encode_frame
from gateway.protocol.events import Event
from gateway.protocol.json.types import JsonObject


def render_event(event: JsonObject, include: frozenset[str]) -> JsonObject:
    """`event` without the members that the client did not include. `event` is not changed."""
    if "delta" in event and not event.get("logprobs"):
        return event
    if "response" in event:
        return {**event, "response": render_response(event["response"], include)}
    if "item" in event:
        return {**event, "item": render_item(event["item"], include)}
    if LOGPROBS in include:
        return event
    if event.get("logprobs"):
        return {**event, "logprobs": []}
    part = event.get("part")
    if part is not None and part.get("logprobs"):
        return {**event, "part": {**part, "logprobs": []}}
    return event


class ResponsesAnswer:
    """AnswerEncoder of the Responses API. `now` gives the time in seconds, for `completed_at`."""

    __slots__ = ("_include", "_now", "stream")

    def __init__(
        self, stream: ResponseStream, now: Callable[[], float], *, include: frozenset[str] = frozenset()
    ) -> None:
        self.stream = stream
        self._now = now
        self._include = include

    @property
    def response(self) -> JsonObject:
        return self.stream.response

    @property
    def is_open(self) -> bool:
        return self.stream.is_open

    def chunks(self, events: Iterable[Event]) -> bytes:
        return self._frames(self.stream.feed(events))

    def last_chunks(self) -> bytes:
        return self._last_frames(self.stream.complete(int(self._now())))

    def failure(self, code: str, message: str) -> bytes:
        """The last bytes of a stream that failed."""
        return self._last_frames(self.stream.fail(code, message))

    def cancellation(self) -> bytes:
        """The last bytes of a stream that was cancelled."""
        return self._last_frames(self.stream.cancel())

    def body(self, events: Iterable[Event]) -> bytes:
        """Raises UpstreamFault for an empty answer."""
        stream = self.stream
        stream.feed(events)
        stream.complete(int(self._now()))
        response = stream.response
        if response["error"] is not None:
            raise broken(response["error"]["message"])
        return orjson.dumps(render_response(response, self._include))

    def _frames(self, events: list[JsonObject]) -> bytes:
        include = self._include
        return b"".join([encode_frame(render_event(event, include)) for event in events])

    def _last_frames(self, events: list[JsonObject]) -> bytes:
        """Empty where the stream has ended before."""
        return self._frames(events) + DONE if events else b""
