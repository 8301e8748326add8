"""Dialect: one wire format, seen from the client's side. One module in protocol/dialects/ for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.protocol.call import Call, Operation
from gateway.protocol.errors import Fault
from gateway.protocol.usage import Usage


@dataclass(frozen=True, slots=True)
class Hints:
    """What request headers add to a call."""

    end_user: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Facts:
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

    facts: Facts
    is_done: bool  # the upstream said that the answer is complete

    def feed(self, piece: bytes) -> bytes:
        """The bytes that may leave now, whole events only, never the terminal one."""

    def finish(self) -> bytes:
        """The upstream's stream has ended: what is left to send. Raises UpstreamFault when it was cut."""


class Dialect(Protocol):
    name: str
    operation: Operation
    terminal: bytes  # the last bytes of a complete stream

    def decode(self, raw: bytes, hints: Hints) -> Call:
        """Raises ClientFault naming the `param`."""

    def relay(self, call: Call) -> StreamRelay: ...

    def relay_body(self, call: Call, body: bytes) -> tuple[bytes, Facts]:
        """A whole answer, with the model's public name. Raises UpstreamFault for an unusable one."""

    def error_body(self, fault: Fault) -> bytes: ...

    def error_event(self, fault: Fault) -> bytes: ...
