"""Answers on their way to a client: relayed as bytes, or written from events in the client's dialect."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.protocol.events import Event
from gateway.protocol.usage import Usage


@dataclass(slots=True)
class AnswerMetadata:
    """The facts of an answer: the events Started, UsageReported and Finished of a passed-through answer, collected
    while its bytes go by."""

    upstream_id: str = ""
    model: str = ""
    service_tier: str = ""
    usage: Usage | None = None
    raw_usage: Mapping[str, object] | None = None
    early_usage: Usage | None = None  # counts from the start of an answer, which `usage` replaces at its end
    output_estimate: int = 0  # tokens, for answers without usage


@dataclass(frozen=True, slots=True)
class AnswerCost:
    """The cost of a streamed answer, for its last frames. `usd`: exact decimal text."""

    usd: str
    usage: Usage
    answer_id: str
    created_s: int


class StreamRelay(Protocol):
    """A streamed answer on its way through. Raises UpstreamFault for what must not reach the client."""

    @property
    def metadata(self) -> AnswerMetadata: ...

    @property
    def is_done(self) -> bool:
        """The upstream has said that the answer is complete."""

    @property
    def takes_json(self) -> bool:
        """The upstream was asked for a whole answer, which the relay turns into a stream."""

    def feed(self, piece: bytes) -> bytes:
        """The bytes that may leave now, whole events only, never the terminal one."""

    def finish(self) -> bytes:
        """The end of the stream, the terminal event included. Raises UpstreamFault when the answer was cut."""


class Transcript(Protocol):
    """A stream as its client has it, read so that another upstream's answer can go on with it."""

    @property
    def text(self) -> str | None:
        """The text of the answer; None where it cannot be continued: it has ended, holds more than text, or is long."""

    def note(self, events: bytes) -> None:
        """Reads whole events, in the client's dialect."""

    def join(self, usage: Usage) -> Callable[[bytes], bytes]:
        """Makes whole events of an answer that goes on where `text` ends those of this stream. `usage`: of the answer
        so far, which the client is told together with that of the rest."""


class AnswerEncoder(Protocol):
    """Writes events in a client's dialect."""

    def chunks(self, events: Iterable[Event]) -> bytes: ...

    def last_chunks(self) -> bytes:
        """The end of a complete stream, the terminal event included."""

    def body(self, events: Iterable[Event]) -> bytes: ...
