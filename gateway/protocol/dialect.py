"""Dialect: one wire format, seen from the client's side. One module in protocol/dialects/ for each."""

from dataclasses import dataclass
from typing import Protocol

from gateway.protocol.call import Call, CallDialect, Operation
from gateway.protocol.errors import Fault
from gateway.protocol.json.types import JsonMapping


@dataclass(frozen=True, slots=True)
class Hints:
    """The fields that request headers add to a call."""

    end_user: str = ""
    tags: tuple[str, ...] = ()
    metadata: JsonMapping | None = None
    betas: str = ""  # the header's text, not parsed
    application: str = ""  # that makes the call: see protocol.applications


class Dialect(CallDialect, Protocol):
    operation: Operation

    def decode(self, raw: bytes, hints: Hints) -> Call:
        """Raises ClientFault naming the `param`."""

    def error_body(self, fault: Fault) -> bytes: ...

    def error_event(self, fault: Fault) -> bytes: ...
