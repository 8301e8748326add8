"""OpenAI chat completions, inbound. Source: https://platform.openai.com/docs/api-reference/chat/create."""

from typing import Any

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.dialects.openai.client_answer import ChatAnswer
from gateway.protocol.dialects.openai.client_request import read_chat_request
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
from gateway.protocol.items import ChatRequest
from gateway.protocol.json.body import parse_object
from gateway.protocol.usage import estimate_tokens


def message(value: Any) -> str | None:
    if type(value) is not dict:
        return "it must be an object"
    if type(value.get("role")) is not str:
        return "its role must be a string"
    content = value.get("content")
    if content is not None and type(content) is not str and type(content) is not list:
        return "its content must be a string or an array of parts"
    if type(content) is list and any(type(part) is not dict for part in content):
        return "each part of its content must be an object"
    return None


def tool(value: Any) -> str | None:
    if type(value) is not dict or type(value.get("type")) is not str:
        return "it must be an object with a type"
    if value["type"] == "function":
        function = value.get("function")
        if type(function) is not dict or type(function.get("name")) is not str:
            return "its function must be an object with a name"
    return None


CHECKS: dict[str, Check] = {
    "model": nonempty_text,
    "messages": list_of(message, minimum=1),
    "stream": boolean,
    "stream_options": mapping,
    "max_tokens": integer(1),
    "max_completion_tokens": integer(1),
    "n": integer(1, 128),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "seed": integer(-(2**63), 2**63),
    "logprobs": boolean,
    "top_logprobs": integer(0),
    "logit_bias": mapping,
    "stop": one_of(text, list_of(text), says="it must be a string or an array of strings"),
    "tools": list_of(tool),
    "tool_choice": one_of(text, mapping, says="it must be a string or an object"),
    "parallel_tool_calls": boolean,
    "response_format": mapping,
    "reasoning_effort": text,
    "metadata": mapping,
    "store": boolean,
    "user": text,
}


class OpenAIChat:
    name = "openai_chat"
    wire = "openai"
    operation = Operation.CHAT
    error_body = staticmethod(openai_wire.error_body)
    error_event = staticmethod(openai_wire.error_event)

    def decode(self, raw: bytes, hints: Hints) -> Call:
        body = parse_object(raw)
        check_fields(body, CHECKS, ("model", "messages"))
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
            input_estimate=_estimate(body["messages"]),
            end_user=end_user,
            tags=tags,
            metadata=metadata,
        )

    def chat_request(self, call: Call) -> ChatRequest:
        return read_chat_request(call.body)

    def unsupported_fields(self, call: Call) -> tuple[str, ...]:
        return ()

    def answer(self, call: Call, context: AttemptContext) -> ChatAnswer:
        return ChatAnswer(call, answer_id=context.new_id("chatcmpl-"), created_s=int(context.at_s))


def _estimate(messages: list[dict[str, Any]]) -> int:
    """Text only: what an image costs differs too much between models to be guessed from its bytes."""
    total = 0
    for item in messages:
        content = item.get("content")
        if type(content) is str:
            total += estimate_tokens(content) + 4
        elif content:
            total += sum(estimate_tokens(part["text"]) for part in content if type(part.get("text")) is str) + 4
    return total


DIALECT = OpenAIChat()
