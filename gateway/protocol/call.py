"""Call: one request, in the words of no dialect, and the words of the pipeline for how it went."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from gateway.protocol.answer import AnswerCost, AnswerEncoder, Transcript
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.items import ChatRequest
from gateway.protocol.json.large_body import LargeBody
from gateway.protocol.json.types import JsonMapping


class Operation(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


class Finish(StrEnum):
    """The end of an attempt, as the spend log keeps it."""

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
    dialect: "CallDialect"
    model: str  # the public name, as the client asked for it
    stream: bool
    include_usage: bool  # the client asked for usage in its stream
    body: JsonMapping
    raw: bytes
    input_estimate: int  # tokens
    end_user: str = ""
    tags: tuple[str, ...] = ()
    metadata: JsonMapping = field(default_factory=dict)  # for the spend log
    tells_cost: bool = False  # the usage of its stream has the cost of the answer
    is_continued: bool = False  # its last message is the beginning of the answer, which another upstream has written
    application: str = ""  # that makes the call: see protocol.applications
    betas: tuple[str, ...] = ()  # features on trial that the client asks for, by the names of its dialect

    def release_body(self) -> None:
        """Frees the memory of a large body's members; they can still be read. An embedding's answer needs them."""
        if isinstance(self.body, LargeBody) and self.operation is not Operation.EMBEDDING:
            self.body.release()


class CallDialect(Protocol):
    """The client's wire format, as far as providers use it: it reads the call's request and writes its answer."""

    @property
    def name(self) -> str: ...

    @property
    def wire(self) -> str:
        """Upstreams of the same wire get a client's bytes as they are."""

    def chat_request(self, call: Call) -> ChatRequest:
        """The request for an upstream of another wire. Raises ClientFault for what it cannot express."""

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        """The fields of the request that its conversation cannot carry, and that change the answer's meaning little."""

    def answer(self, call: Call, context: AttemptContext) -> AnswerEncoder: ...

    def transcripts(self, call: Call) -> Callable[[], Transcript] | None:
        """Makes the transcript of a stream; None where a broken stream of this call cannot be continued."""

    def with_cost(self, call: Call, ending: bytes, cost: AnswerCost) -> bytes:
        """The frames that end a stream, with the cost in its usage; as they are where the format has no place for
        it."""
