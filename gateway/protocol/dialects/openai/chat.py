"""OpenAI chat completions, inbound. Source: https://platform.openai.com/docs/api-reference/chat/create."""

from collections.abc import Callable
from functools import partial

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.continuation import read_stops
from gateway.protocol.dialects.openai.client_answer import ChatAnswer
from gateway.protocol.dialects.openai.client_dialect import TEXT_CHECKS, OpenAIDialect
from gateway.protocol.dialects.openai.client_request import read_chat_request
from gateway.protocol.dialects.openai.continuation import ChatTranscript, may_continue
from gateway.protocol.fields import Check, boolean, integer, list_of, mapping, one_of, text
from gateway.protocol.items import ChatRequest
from gateway.protocol.json.types import Json


def check_message(value: Json) -> str | None:
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


def check_tool(value: Json) -> str | None:
    if type(value) is not dict or type(value.get("type")) is not str:
        return "it must be an object with a type"
    if value["type"] == "function":
        function = value.get("function")
        if type(function) is not dict or type(function.get("name")) is not str:
            return "its function must be an object with a name"
    return None


CHECKS: dict[str, Check] = {
    **TEXT_CHECKS,
    "messages": list_of(check_message, minimum=1),
    "max_tokens": integer(1),
    "max_completion_tokens": integer(1),
    "logprobs": boolean,
    "top_logprobs": integer(0),
    "tools": list_of(check_tool),
    "tool_choice": one_of(text, mapping, says="it must be a string or an object"),
    "parallel_tool_calls": boolean,
    "response_format": mapping,
    "reasoning_effort": text,
    "store": boolean,
}


class OpenAIChat(OpenAIDialect):
    name = "openai_chat"
    operation = Operation.CHAT
    input_field = "messages"
    checks = CHECKS

    def chat_request(self, call: Call) -> ChatRequest:
        return read_chat_request(call.body)

    def answer(self, call: Call, context: AttemptContext) -> ChatAnswer:
        return ChatAnswer(call, answer_id=context.new_id("chatcmpl-"), created_s=int(context.at_s))

    def transcripts(self, call: Call) -> Callable[[], ChatTranscript] | None:
        if not may_continue(call.body):
            return None
        # read now: the body is released before another attempt begins
        return partial(ChatTranscript, read_stops(call.body.get("stop")))


DIALECT = OpenAIChat()
