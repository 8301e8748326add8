"""Call: one request, in no dialect's words; and the words that the pipeline uses for how it went."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.protocol.dialect import Dialect
    from gateway.protocol.provider import Target


class Operation(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


class Finish(StrEnum):
    """How an attempt ended, as the spend log keeps it."""

    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"
    UPSTREAM_ERROR = "upstream_error"  # answered with an error, or with something unusable
    UPSTREAM_BROKEN = "upstream_broken"  # broke off after it had begun
    TIMEOUT = "timeout"
    GATEWAY_CRASH = "gateway_crash"


@dataclass(frozen=True, slots=True)
class Call:
    """Shape: `body` is the parsed `raw`; a same-dialect upstream gets `raw` with few bytes changed, any other one
    gets what `dialect.chat_request(call)` makes of `body`."""

    operation: Operation
    dialect: "Dialect"
    model: str  # the public name, as the client asked for it
    stream: bool
    include_usage: bool  # the client asked for usage in its stream
    body: Mapping[str, Any]
    raw: bytes
    input_estimate: int  # tokens
    end_user: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)  # for the spend log
    #: Told the target of each attempt, by calls whose conversation depends on it.
    bind_target: "Callable[[Target], None] | None" = None
    betas: tuple[str, ...] = ()  # features on trial that the client asks for, by the names of its dialect
