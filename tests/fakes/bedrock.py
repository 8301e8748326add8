"""Bedrock for its tests: calls, deployments, binary frames, and botocore's check of requests."""

import json
import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import orjson
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.capabilities import apply_flags, default_capabilities
from gateway.protocol.dialects.bedrock import upstream_answer as bedrock_answer
from gateway.protocol.dialects.bedrock.aws_event_stream import Frame, FrameSplitter
from gateway.protocol.events import Event, TextDelta
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.providers.bedrock import PROVIDER
from tests.fakes.memory import decode
from tests.fakes.provider_cases import MOMENT, Case

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-2-lite-v1:0"
PROFILE = "arn:aws:bedrock:eu-west-1:111122223333:application-inference-profile/abc123"
KEYS = {
    "aws_access_key_id": Secret("AKIDEXAMPLE"),
    "aws_secret_access_key": Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
}
HI = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLED = {
    "role": "assistant",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "Rain"}
PNG = "iVBORw0KGgo="
SERVICE = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"), "bedrock-runtime")


def target(model: str = CLAUDE, *, parameters: Mapping[str, Any] | None = None, **changes: Any) -> Target:
    flags = changes.pop("flags", {})
    fields = {
        "deployment_id": "d1",
        "model_group": "alias-1",
        "organization_id": None,
        "provider": PROVIDER,
        "upstream_model": model,
        "api_base": "",
        "credential": KEYS,
        "parameters": {"aws_region_name": "us-east-1", **(parameters or {})},
        "capabilities": apply_flags(flags, default_capabilities(model)),
    }
    return Target(**(fields | changes))


def target_of(case: Case) -> Target:
    context = case.get("context", {})
    return target(context.get("upstream_model", CLAUDE), flags=context)


def chat(messages: Any = HI, **fields: Any) -> Call:
    return decode({"model": "alias-1", "messages": messages, **fields})


def embedding(texts: Any, **fields: Any) -> Call:
    return decode({"model": "alias-1", "input": texts, **fields}, "embedding")


def encode(call: Call, where: Target | None = None, context: AttemptContext = MOMENT) -> dict[str, Any]:
    """The body, which botocore must find valid."""
    body = orjson.loads(PROVIDER.request(call, where or target(), context).body)
    check_valid(body, "ConverseStream" if call.stream else "Converse")
    return body


def check_valid(body: dict[str, Any], operation: str = "Converse") -> None:
    shape = SERVICE.operation_model(operation).input_shape
    report = ParamValidator().validate({"modelId": "m", **body}, shape)
    assert not report.has_errors(), report.generate_report()


def dropped(call: Call, where: Target | None = None) -> tuple[str, ...]:
    return PROVIDER.request(call, where or target(), MOMENT).dropped


# Answers


def header(name: str, value: bytes | str, kind: int = 7) -> bytes:
    encoded = bytes([len(name)]) + name.encode() + bytes([kind])
    if isinstance(value, str):
        value = value.encode()
    return encoded + (struct.pack(">H", len(value)) if kind in {6, 7} else b"") + value


def raw_frame(headers: bytes, payload: bytes) -> bytes:
    lengths = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
    frame = lengths + struct.pack(">I", crc32(lengths)) + headers + payload
    return frame + struct.pack(">I", crc32(frame))


def frame(kind: str, payload: Any, *, message: str = "event") -> bytes:
    headers = header(f":{message}-type", kind) + header(":content-type", "application/json")
    return raw_frame(headers + header(":message-type", message), json.dumps(payload).encode())


def stream(*events: tuple[str, Any]) -> bytes:
    return b"".join([frame(kind, payload) for kind, payload in events])


START = ("messageStart", {"role": "assistant"})
END = ("metadata", {"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, "metrics": {"latencyMs": 1}})


def stop(reason: str = "end_turn") -> tuple[str, Any]:
    return ("messageStop", {"stopReason": reason})


def delta(index: int = 0, **content: Any) -> tuple[str, Any]:
    return ("contentBlockDelta", {"contentBlockIndex": index, "delta": content})


def tool_start(index: int, call_id: str, name: str, **more: Any) -> tuple[str, Any]:
    use = {"toolUseId": call_id, "name": name, **more}
    return ("contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": use}})


def block_stop(index: int = 0) -> tuple[str, Any]:
    return ("contentBlockStop", {"contentBlockIndex": index})


def read(body: bytes, **options: Any) -> list[Event]:
    decoder = bedrock_answer.StreamDecoder(**options)
    events = decoder.feed(body)
    return events + decoder.finish()


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def split_all(body: bytes) -> list[Frame]:
    return list(FrameSplitter().feed(body))


def whole(content: list[Any], reason: Any = "end_turn", **more: Any) -> bytes:
    usage = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
    message = {"role": "assistant", "content": content}
    return json.dumps({"output": {"message": message}, "stopReason": reason, "usage": usage, **more}).encode()
