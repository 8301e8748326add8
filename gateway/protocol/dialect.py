"""Dialect: one wire format, seen from the client's side. One module in protocol/dialects/ for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.protocol.call import Call, CallDialect, Operation
from gateway.protocol.errors import Fault


@dataclass(frozen=True, slots=True)
class Hints:
    """What request headers add to a call."""

    end_user: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None
    betas: str = ""  # the header's text, not parsed


class Dialect(CallDialect, Protocol):
    operation: Operation

    def decode(self, raw: bytes, hints: Hints) -> Call:
        """Raises ClientFault naming the `param`."""

    def error_body(self, fault: Fault) -> bytes: ...

    def error_event(self, fault: Fault) -> bytes: ...
