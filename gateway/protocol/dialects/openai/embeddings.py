"""OpenAI embeddings, inbound. Source: https://platform.openai.com/docs/api-reference/embeddings/create."""

from gateway.protocol.answer import AnswerEncoder
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.openai.client_dialect import (
    COMMON_CHECKS,
    PROMPT_CHECK,
    OpenAIDialect,
)
from gateway.protocol.fields import Check, integer
from gateway.protocol.items import ChatRequest

CHECKS: dict[str, Check] = {
    **COMMON_CHECKS,
    "input": PROMPT_CHECK,
    "encoding_format": lambda value: None if value in ("float", "base64") else "it must be float or base64",
    "dimensions": integer(1),
}


class OpenAIEmbeddings(OpenAIDialect):
    name = "openai_embeddings"
    operation = Operation.EMBEDDING
    input_field = "input"
    checks = CHECKS

    def chat_request(self, call: Call) -> ChatRequest:
        raise AssertionError("an embedding is no chat")

    def answer(self, call: Call, context: AttemptContext) -> AnswerEncoder:
        raise AssertionError("an embedding has no events")


DIALECT = OpenAIEmbeddings()
