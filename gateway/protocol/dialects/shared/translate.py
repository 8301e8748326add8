"""Translation: an upstream's answer in one dialect to a client's in another, by way of events."""

from collections.abc import Iterable, Sized
from math import ceil
from typing import Protocol

from gateway.protocol.answer import AnswerEncoder, AnswerMetadata
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import (
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

    __slots__ = ("_decoder", "_encoder", "_text_size", "metadata")

    def __init__(self, decoder: Decoder, encoder: AnswerEncoder) -> None:
        self.metadata = AnswerMetadata()
        self._decoder = decoder
        self._encoder = encoder
        self._text_size = 0.0

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
        self._text_size += note_events(self.metadata, events)
        self.metadata.output_estimate = ceil(self._text_size)
        return self._encoder.chunks(events)


def translate_body(events: list[Event], encoder: AnswerEncoder) -> tuple[bytes, AnswerMetadata]:
    metadata = AnswerMetadata()
    metadata.output_estimate = ceil(note_events(metadata, events))
    return encoder.body(events), metadata


def note_events(metadata: AnswerMetadata, events: Iterable[Event]) -> float:
    """Writes Started and UsageReported to the metadata. Returns the estimated tokens of the text."""
    size = 0.0
    for event in events:
        if isinstance(event, TextDelta | ReasoningDelta | RefusalDelta | ToolArgumentsDelta):
            size += len(event.text) / 4 if event.text.isascii() else estimate_tokens(event.text)
        elif isinstance(event, ToolCallStarted):
            size += len(event.name) / 4
        elif isinstance(event, UsageReported):
            if event.usage != Usage():
                metadata.usage, metadata.raw_usage = event.usage, event.raw
        elif isinstance(event, Started):
            metadata.upstream_id = metadata.upstream_id or event.upstream_id
            metadata.model = metadata.model or event.model
            if event.usage is not None:
                metadata.early_usage, metadata.raw_usage = event.usage.usage, event.usage.raw
    return size
