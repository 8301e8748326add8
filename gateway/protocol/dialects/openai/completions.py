"""OpenAI completions, inbound. Source: https://platform.openai.com/docs/api-reference/completions/create."""

from dataclasses import replace

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.openai.client_answer import ChatAnswer
from gateway.protocol.dialects.openai.client_dialect import (
    PROMPT_CHECK,
    TEXT_CHECKS,
    OpenAIDialect,
)
from gateway.protocol.dialects.openai.client_request import read_chat_request
from gateway.protocol.errors import BadRequest
from gateway.protocol.fields import Check, boolean, integer, text
from gateway.protocol.items import ChatRequest, Text, User

CHECKS: dict[str, Check] = {
    **TEXT_CHECKS,
    "prompt": PROMPT_CHECK,
    "max_tokens": integer(0),
    "best_of": integer(1, 128),
    "logprobs": integer(0),
    "echo": boolean,
    "suffix": text,
}
#: Fields that a chat has no place for.
UNSUPPORTED_FIELDS = ("suffix", "echo", "best_of", "logprobs")
COMPLETION_FIELDS = frozenset({"prompt", *UNSUPPORTED_FIELDS})


class OpenAICompletions(OpenAIDialect):
    name = "openai_completions"
    operation = Operation.COMPLETION
    input_field = "prompt"
    checks = CHECKS

    def chat_request(self, call: Call) -> ChatRequest:
        """The completion emulated as a chat: the prompt is a message of the user."""
        prompt = call.body["prompt"]
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if not isinstance(prompt, str):
            raise BadRequest("This model takes one prompt, as text.", param="prompt", code="unsupported_parameter")
        fields = {name: value for name, value in call.body.items() if name not in COMPLETION_FIELDS}
        return replace(read_chat_request({**fields, "messages": []}), messages=(User((Text(prompt),)),))

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        """Leaves out fields whose value asks for nothing, such as the best of as many as are asked for. `logprobs` of 0
        asks for those of the tokens themselves."""
        body = call.body
        idle = {"suffix": ("",), "echo": (False,), "best_of": (1, body.get("n") or 1), "logprobs": ()}
        return tuple(name for name in UNSUPPORTED_FIELDS if body.get(name) is not None and body[name] not in idle[name])

    def answer(self, call: Call, context: AttemptContext) -> ChatAnswer:
        return ChatAnswer(call, answer_id=context.new_id("cmpl-"), created_s=int(context.at_s))


DIALECT = OpenAICompletions()
