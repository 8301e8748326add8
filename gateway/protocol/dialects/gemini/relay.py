"""A call's answer in Gemini's wire format to the client's dialect, for each provider that speaks it."""

from typing import Any

from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.dialects.gemini import upstream_answer as gemini_answer
from gateway.protocol.dialects.gemini.json_schema import renamed_tools
from gateway.protocol.dialects.shared.translate import TranslatedRelay, translated_body
from gateway.protocol.provider import Target


def relay(call: Call, target: Target, context: AttemptContext) -> StreamRelay:
    decoder = gemini_answer.Decoder(context, **_reading(call, target))
    return TranslatedRelay(decoder, call.dialect.answer(call, context))


def relay_body(call: Call, target: Target, context: AttemptContext, body: bytes) -> tuple[bytes, AnswerMetadata]:
    events = gemini_answer.decode_body(body, context, **_reading(call, target))
    return translated_body(events, call.dialect.answer(call, context))


def _reading(call: Call, target: Target) -> dict[str, Any]:
    """What was asked decides how the answer is read."""
    asked = call.dialect.chat_request(call)
    return {
        "tools": renamed_tools(asked.tools, is_subset=target.capabilities.schema_mode == "openapi_subset"),
        "is_single_tool": target.capabilities.force_single_tool and asked.parallel_tools is False,
    }
