"""OpenAI embeddings, inbound. Source: https://platform.openai.com/docs/api-reference/embeddings/create."""

from gateway.protocol.answer import AnswerEncoder
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.dialects.openai.completions import PROMPT, estimate_input
from gateway.protocol.fields import Check, check_fields, integer, mapping, nonempty_text, text
from gateway.protocol.items import ChatRequest
from gateway.protocol.json.body import parse_object

CHECKS: dict[str, Check] = {
    "model": nonempty_text,
    "input": PROMPT,
    "encoding_format": lambda value: None if value in ("float", "base64") else "it must be float or base64",
    "dimensions": integer(1),
    "metadata": mapping,
    "user": text,
}


class OpenAIEmbeddings:
    name = "openai_embeddings"
    wire = "openai"
    operation = Operation.EMBEDDING
    error_body = staticmethod(openai_wire.error_body)
    error_event = staticmethod(openai_wire.error_event)

    def decode(self, raw: bytes, hints: Hints) -> Call:
        body = parse_object(raw)
        check_fields(body, CHECKS, ("model", "input"))
        openai_wire.refuse_redirection(body)
        end_user, tags, metadata = openai_wire.caller_facts(body, hints)
        return Call(
            operation=self.operation,
            dialect=self,
            model=body["model"],
            stream=False,
            include_usage=False,
            body=body,
            raw=raw,
            input_estimate=estimate_input(body["input"]),
            end_user=end_user,
            tags=tags,
            metadata=metadata,
        )

    def chat_request(self, call: Call) -> ChatRequest:
        raise AssertionError("an embedding is no conversation")

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        return ()

    def answer(self, call: Call, context: AttemptContext) -> AnswerEncoder:
        raise AssertionError("an embedding has no events")


DIALECT = OpenAIEmbeddings()
