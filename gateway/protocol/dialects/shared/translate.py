"""Translation: an upstream's answer in one dialect to a client's in another, by way of events."""

from collections.abc import Iterable, Sized
from math import ceil
from typing import Protocol

from gateway.protocol.answer import AnswerEncoder, AnswerMetadata
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import (
    MAX_ARGUMENT_CHARS,
    MAX_TOOL_CALLS,
    Event,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.usage import Usage, estimate_tokens

INCOMPLETE = "The upstream's stream ended before its answer was complete."


class Decoder(Protocol):
    """One streamed answer of an upstream, as events. Any chunking of the bytes gives the same events."""

    is_done: bool  # the upstream has said that the answer is complete

    @property
    def takes_json(self) -> bool:
        """The upstream is asked for a whole answer, which the relay turns into a stream."""

    def feed(self, piece: bytes) -> list[Event]:
        """Raises UpstreamFault for content that is no part of such a stream, and for an error in it."""

    def finish(self) -> list[Event]:
        """The stream has ended. Raises UpstreamFault (`incomplete()`) where the answer was cut."""


def incomplete() -> UpstreamFault:
    return UpstreamFault(INCOMPLETE, code="upstream_incomplete_stream", finish="upstream_broken")


def oversized() -> UpstreamFault:
    """The fault of an answer whose tool calls or signatures are beyond a limit."""
    return UpstreamFault(
        f"The upstream sent more than {MAX_TOOL_CALLS:,} tool calls, or a call or a signature with more than"
        f" {MAX_ARGUMENT_CHARS:,} characters.",
        code="upstream_tool_call_too_large",
        finish="upstream_broken",
    )


class PendingText:
    """A text in pieces, which waits until it is whole."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0

    def add(self, text: str) -> None:
        """Raises UpstreamFault for a text that grows beyond what the arguments of a call may have."""
        self._size += len(text)
        if self._size > MAX_ARGUMENT_CHARS:
            raise oversized()
        self._pieces.append(text)

    def __str__(self) -> str:
        return "".join(self._pieces)

    def __bool__(self) -> bool:
        return self._size > 0


class StreamReader:
    """Base of readers of an upstream's stream. Events that come before a fault leave before the fault is raised."""

    __slots__ = ("_fault", "is_done")
    takes_json = False

    def __init__(self) -> None:
        self.is_done = False
        self._fault: UpstreamFault | None = None

    def _defer_fault(self, fault: UpstreamFault, before: Sized) -> None:
        """Keeps the fault for `finish` and ends the reading where events came `before` it, else raises it at once."""
        if not before:
            raise fault
        self._fault = fault
        self.is_done = True

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault


class EventPasser(StreamReader):
    """Base of relays that pass an upstream's events one by one: `_through` returns the bytes for one event."""

    __slots__ = ()

    def _through(self, event: bytes) -> bytes:
        raise NotImplementedError

    def _relay_events(self, events: Iterable[bytes]) -> bytes:
        relayed = bytearray()
        try:
            for event in events:
                relayed += self._through(event)
        except UpstreamFault as fault:
            self._defer_fault(fault, relayed)
        return bytes(relayed)


class TranslatedRelay:
    """StreamRelay over a decoder and an encoder."""

    __slots__ = ("_decoder", "_encoder", "_meter")

    def __init__(self, decoder: Decoder, encoder: AnswerEncoder) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._meter = AnswerMeter()

    @property
    def metadata(self) -> AnswerMetadata:
        return self._meter.metadata

    @property
    def takes_json(self) -> bool:
        return self._decoder.takes_json

    @property
    def is_done(self) -> bool:
        return self._decoder.is_done

    def feed(self, piece: bytes) -> bytes:
        return self._through(self._decoder.feed(piece))

    def finish(self) -> bytes:
        rest = self._through(self._decoder.finish())
        return rest + self._encoder.last_chunks()

    def _through(self, events: list[Event]) -> bytes:
        if not events:
            return b""
        self._meter.note(events)
        return self._encoder.chunks(events)


def translate_body(events: list[Event], encoder: AnswerEncoder) -> tuple[bytes, AnswerMetadata]:
    meter = AnswerMeter()
    meter.note(events)
    return encoder.body(events), meter.metadata


class AnswerMeter:
    """Reads the metadata of an answer from its events, and bounds its tool calls."""

    __slots__ = ("_argument_chars", "_text_size", "metadata")

    def __init__(self) -> None:
        self.metadata = AnswerMetadata()
        self._text_size = 0.0  # in estimated tokens
        self._argument_chars: dict[tuple[int, int], int] = {}  # by choice and call

    def note(self, events: Iterable[Event]) -> None:
        """Raises UpstreamFault for a tool call beyond a limit."""
        size = 0.0
        for event in events:
            if isinstance(event, TextDelta | ReasoningDelta | RefusalDelta | ToolArgumentsDelta):
                size += len(event.text) / 4 if event.text.isascii() else estimate_tokens(event.text)
                if isinstance(event, ToolArgumentsDelta):
                    self._add_arguments(event)
            elif isinstance(event, ToolCallStarted):
                size += len(event.name) / 4
                self._argument_chars[event.choice, event.index] = 0
                if len(self._argument_chars) > MAX_TOOL_CALLS:
                    raise oversized()
            elif isinstance(event, UsageReported):
                self.metadata.service_tier = event.service_tier or self.metadata.service_tier
                if event.usage != Usage():
                    self.metadata.usage, self.metadata.raw_usage = event.usage, event.raw
            elif isinstance(event, Started):
                self._note_start(event)
        self._text_size += size
        self.metadata.output_estimate = ceil(self._text_size)

    def _add_arguments(self, event: ToolArgumentsDelta) -> None:
        place = event.choice, event.index
        chars = self._argument_chars[place] = self._argument_chars.get(place, 0) + len(event.text)
        if chars > MAX_ARGUMENT_CHARS:
            raise oversized()

    def _note_start(self, event: Started) -> None:
        metadata = self.metadata
        metadata.upstream_id = metadata.upstream_id or event.upstream_id
        metadata.model = metadata.model or event.model
        if event.usage is not None:
            metadata.early_usage, metadata.raw_usage = event.usage.usage, event.usage.raw
            metadata.service_tier = event.usage.service_tier or metadata.service_tier
