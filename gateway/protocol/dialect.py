"""Dialect: one wire format, seen from the client's side. One module in protocol/dialects/ for each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.errors import Fault
from gateway.protocol.events import Event
from gateway.protocol.items import ChatRequest
from gateway.protocol.usage import Usage


@dataclass(frozen=True, slots=True)
class Hints:
    """What request headers add to a call."""

    end_user: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None
    betas: str = ""  # unread, as the header has it


@dataclass(slots=True)
class AnswerMetadata:
    """What an answer tells about itself: the events Started, UsageReported and Finished of a passed-through answer,
    gathered while its bytes go by."""

    upstream_id: str = ""
    model: str = ""
    service_tier: str = ""
    usage: Usage | None = None
    raw_usage: Mapping[str, Any] | None = None
    output_estimate: int = 0  # tokens, for answers without usage


class StreamRelay(Protocol):
    """A streamed answer on its way through. Raises UpstreamFault for what must not reach the client."""

    @property
    def metadata(self) -> AnswerMetadata: ...

    @property
    def is_done(self) -> bool:
        """Whether the upstream said that the answer is complete."""

    def feed(self, piece: bytes) -> bytes:
        """The bytes that may leave now, whole events only, never the terminal one."""

    def finish(self) -> bytes:
        """What ends the stream, the terminal event included. Raises UpstreamFault when the answer was cut."""


class AnswerEncoder(Protocol):
    """Events in a client's dialect."""

    def chunks(self, events: Iterable[Event]) -> bytes: ...

    def last_chunks(self) -> bytes:
        """What ends a complete stream, the terminal event included."""

    def body(self, events: Iterable[Event]) -> bytes: ...


class Dialect(Protocol):
    name: str
    wire: str  # upstreams of the same wire get a client's bytes as they are
    operation: Operation

    def decode(self, raw: bytes, hints: Hints) -> Call:
        """Raises ClientFault naming the `param`."""

    def chat_request(self, call: Call) -> ChatRequest:
        """The request for an upstream of another wire. Raises ClientFault for what cannot be told in it."""

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        """The fields of the request that its conversation cannot carry, and that change the answer's meaning little."""

    def answer(self, call: Call, context: AttemptContext) -> AnswerEncoder: ...

    def error_body(self, fault: Fault) -> bytes: ...

    def error_event(self, fault: Fault) -> bytes: ...
