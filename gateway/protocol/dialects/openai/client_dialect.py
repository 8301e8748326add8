"""The part that the dialects of OpenAI's clients share: chat, completions and embeddings are decoded alike."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from gateway.protocol.answer import AnswerCost, AnswerEncoder, Transcript
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.dialects.openai.stream_cost import add_cost
from gateway.protocol.fields import (
    Check,
    boolean,
    check_fields,
    integer,
    list_of,
    mapping,
    nonempty_text,
    number,
    one_of,
    text,
)
from gateway.protocol.input_estimate import estimate_request
from gateway.protocol.items import ChatRequest
from gateway.protocol.json.body import parse_object
from gateway.protocol.json.large_body import body_of
from gateway.protocol.routing_options import CHECKS as ROUTING_CHECKS

#: The fields of every format.
COMMON_CHECKS: Mapping[str, Check] = {**ROUTING_CHECKS, "model": nonempty_text, "metadata": mapping, "user": text}
#: The fields of the formats that generate text.
TEXT_CHECKS: Mapping[str, Check] = {
    **COMMON_CHECKS,
    "stream": boolean,
    "stream_options": mapping,
    "n": integer(1, 128),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "seed": integer(-(2**63), 2**63),
    "logit_bias": mapping,
    "stop": one_of(text, list_of(text), says="it must be a string or an array of strings"),
}
#: A prompt, or the input of an embedding.
PROMPT_CHECK = one_of(
    text,
    list_of(text, minimum=1),
    list_of(integer(0), minimum=1),
    list_of(list_of(integer(0)), minimum=1),
    says="it must be a string, an array of strings, or arrays of tokens",
)


class OpenAIDialect(ABC):
    """Base of one format of OpenAI's dialect, as a Dialect."""

    name: str
    wire = openai_wire.WIRE
    operation: Operation
    input_field: str  # messages, prompt or input
    checks: Mapping[str, Check]
    error_body = staticmethod(openai_wire.error_body)
    error_event = staticmethod(openai_wire.error_event)

    def decode(self, raw: bytes, hints: Hints) -> Call:
        body = parse_object(raw)
        check_fields(body, self.checks, ("model", self.input_field))
        openai_wire.refuse_redirection(body)
        openai_wire.check_metadata(body.get("metadata") or {})
        end_user, tags, metadata = openai_wire.read_caller_data(body, hints)
        stream = self.operation is not Operation.EMBEDDING and bool(body.get("stream"))
        return Call(
            operation=self.operation,
            dialect=self,
            model=body["model"],
            stream=stream,
            include_usage=stream and openai_wire.asks_usage(body),
            body=body_of(raw, body),
            raw=raw,
            input_estimate=estimate_request(body),
            end_user=end_user,
            tags=tags,
            metadata=metadata,
            application=hints.application,
        )

    @abstractmethod
    def chat_request(self, call: Call) -> ChatRequest: ...

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def answer(self, call: Call, context: AttemptContext) -> AnswerEncoder: ...

    def transcripts(self, call: Call) -> Callable[[], Transcript] | None:
        return None

    def with_cost(self, call: Call, ending: bytes, cost: AnswerCost) -> bytes:
        return add_cost(call, ending, cost)
