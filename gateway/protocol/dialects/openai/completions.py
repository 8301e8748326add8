"""OpenAI completions, inbound. Source: https://platform.openai.com/docs/api-reference/completions/create."""

from dataclasses import replace
from typing import Any

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.dialects.openai.client_answer import ChatAnswer
from gateway.protocol.dialects.openai.client_request import read_chat_request
from gateway.protocol.errors import BadRequest
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
from gateway.protocol.items import ChatRequest, Text, User
from gateway.protocol.json.body import parse_object
from gateway.protocol.usage import estimate_tokens

PROMPT = one_of(
    text,
    list_of(text, minimum=1),
    list_of(integer(0), minimum=1),
    list_of(list_of(integer(0)), minimum=1),
    says="it must be a string, an array of strings, or arrays of tokens",
)
CHECKS: dict[str, Check] = {
    "model": nonempty_text,
    "prompt": PROMPT,
    "stream": boolean,
    "stream_options": mapping,
    "max_tokens": integer(0),
    "n": integer(1, 128),
    "best_of": integer(1, 128),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "seed": integer(-(2**63), 2**63),
    "logprobs": integer(0),
    "logit_bias": mapping,
    "echo": boolean,
    "suffix": text,
    "stop": one_of(text, list_of(text), says="it must be a string or an array of strings"),
    "metadata": mapping,
    "user": text,
}


#: What a chat has no place for.
UNSUPPORTED_FIELDS = ("suffix", "echo", "best_of", "logprobs")
OWN = frozenset({"prompt", *UNSUPPORTED_FIELDS})


class OpenAICompletions:
    name = "openai_completions"
    wire = "openai"
    operation = Operation.COMPLETION
    error_body = staticmethod(openai_wire.error_body)
    error_event = staticmethod(openai_wire.error_event)

    def decode(self, raw: bytes, hints: Hints) -> Call:
        body = parse_object(raw)
        check_fields(body, CHECKS, ("model", "prompt"))
        openai_wire.refuse_redirection(body)
        end_user, tags, metadata = openai_wire.caller_facts(body, hints)
        stream = bool(body.get("stream"))
        return Call(
            operation=self.operation,
            dialect=self,
            model=body["model"],
            stream=stream,
            include_usage=stream and openai_wire.asks_usage(body),
            body=body,
            raw=raw,
            input_estimate=estimate_input(body["prompt"]),
            end_user=end_user,
            tags=tags,
            metadata=metadata,
        )

    def chat_request(self, call: Call) -> ChatRequest:
        """Emulated over chat: the prompt is what the user says."""
        prompt = call.body["prompt"]
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if not isinstance(prompt, str):
            raise BadRequest("This model takes one prompt, as text.", param="prompt", code="unsupported_parameter")
        others = {name: value for name, value in call.body.items() if name not in OWN}
        return replace(read_chat_request({**others, "messages": []}), messages=(User((Text(prompt),)),))

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        """What asks for nothing is not missed: the best of as many as are asked for. `logprobs` of 0 asks for those of
        the tokens themselves."""
        body = call.body
        idle = {"suffix": ("",), "echo": (False,), "best_of": (1, body.get("n") or 1), "logprobs": ()}
        return tuple(name for name in UNSUPPORTED_FIELDS if body.get(name) is not None and body[name] not in idle[name])

    def answer(self, call: Call, context: AttemptContext) -> ChatAnswer:
        return ChatAnswer(call, answer_id=context.new_id("cmpl-"), created_s=int(context.at_s))


def estimate_input(value: Any) -> int:
    """Tokens of a prompt or an embedding input: text is estimated, token arrays are counted."""
    if type(value) is str:
        return estimate_tokens(value)
    return sum(1 if type(item) is int else estimate_input(item) for item in value)


DIALECT = OpenAICompletions()
