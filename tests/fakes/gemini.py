"""Gemini for its tests: calls, deployments, the fixtures and the rules to compare by."""

import json
import warnings
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.capabilities import apply_flags, default_capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.gemini import upstream_answer as gemini_answer
from gateway.protocol.dialects.openai import chat as openai_chat
from gateway.protocol.dialects.openai import embeddings as openai_embeddings
from gateway.protocol.events import Event
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.protocol.secret import Secret
from gateway.providers.gemini import PROVIDER

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an escape in one of its docstrings
    from google.genai import types

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "providers"
CASES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FIXTURES.glob("gemini_*.json")}
MOMENT = AttemptContext("attempt-1", 1_800_000_000.0)
HI = [{"role": "user", "content": "Hi"}]


def of_kind(kind: str) -> list[str]:
    return sorted(name for name, case in CASES.items() if case["kind"] == kind and case["provider"] == "gemini")


def target(model: str = "gemini-2.5-flash", *, parameters: dict[str, Any] | None = None, **flags: Any) -> Target:
    return Target(
        deployment_id="d1",
        model_group="alias-1",
        organization_id=None,
        provider=PROVIDER,
        upstream_model=model,
        api_base="https://generativelanguage.googleapis.com/v1beta",
        credential={"api_key": Secret("g-test")},
        parameters=parameters or {},
        capabilities=apply_flags(flags, default_capabilities(model)),
    )


def chat(messages: Any = HI, **fields: Any) -> Call:
    body = {"model": "alias-1", "messages": messages, **fields}
    return openai_chat.DIALECT.decode(json.dumps(body).encode(), Hints())


def embeddings(**fields: Any) -> Call:
    return openai_embeddings.DIALECT.decode(json.dumps({"model": "alias-1", **fields}).encode(), Hints())


def encode(call: Call, where: Target | None = None, context: AttemptContext = MOMENT) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(PROVIDER.request(call, where or target(), context).body)
    return body


def of_case(case: dict[str, Any]) -> tuple[Call, Target]:
    context = dict(case.get("context", {}))
    is_embedding = context.pop("api", "") == "embeddings"
    where = target(context.pop("upstream_model", "gemini-2.5-flash"), **context)
    body = case["openai"]
    return (embeddings if is_embedding else chat)(**{k: v for k, v in body.items() if k != "model"}), where


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


# The comparison rules of the fixtures


def assert_like(actual: Any, expected: Any, at: str = "") -> None:
    if isinstance(expected, str) and expected.startswith("<"):
        if expected == "<any>":
            assert isinstance(actual, str), at
            assert actual, at
        elif expected == "<any:int>":
            assert type(actual) is int, at
        else:
            assert expected[10:-1].lower() in actual.lower(), (at, actual)
    elif isinstance(expected, dict):
        extra = {name for name, value in actual.items() if name not in expected and value not in (None, [])}
        assert not extra, (at, extra)
        for name, value in expected.items():
            assert_like(actual[name], value, f"{at}.{name}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), at
        for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_like(one, other, f"{at}.{index}")
    else:
        assert actual == expected, at


def accumulated(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Adds the chunks up like an OpenAI client, and checks the invariants of a stream on the way."""
    choices: dict[int, dict[str, Any]] = {}
    answer: dict[str, Any] = {"object": "chat.completion"}
    for chunk in chunks:
        assert chunk["id"] == chunks[0]["id"]
        answer |= {name: chunk[name] for name in ("id", "created", "model")}
        if chunk.get("usage"):
            assert chunk is chunks[-1]
            assert not chunk["choices"]
            answer["usage"] = chunk["usage"]
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice["delta"]
            total = choices.setdefault(index, {"index": index, "message": {}, "finish_reason": None})
            assert total["finish_reason"] is None
            message = total["message"]
            assert ("role" in delta) == (not message)
            for name, value in delta.items():
                if name == "tool_calls":
                    for call in value:
                        add_call(message.setdefault("tool_calls", []), call)
                elif isinstance(value, str) and name != "role":
                    message[name] = (message.get(name) or "") + value
                else:
                    message.setdefault(name, value)
            total["finish_reason"] = choice["finish_reason"]
    assert all(choice["finish_reason"] for choice in choices.values())
    answer["choices"] = [choice for _, choice in sorted(choices.items())]
    return answer


def add_call(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    if delta["index"] == len(calls):
        assert {"id", "type", "function"} <= delta.keys()
        assert delta["function"]["name"]
        calls.append({name: value for name, value in delta.items() if name != "index"})
    else:
        assert delta.keys() == {"index", "function"}
        calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]


def relayed(pieces: Iterable[bytes], *, include_usage: bool = True) -> tuple[list[dict[str, Any]], bool]:
    """(chunks, whether [DONE] came)"""
    call = chat(stream=True, stream_options={"include_usage": include_usage})
    relay = PROVIDER.relay(call, target(), MOMENT)
    text = b"".join([relay.feed(piece) for piece in pieces]) + relay.finish()
    frames = [frame.removeprefix(b"data: ") for frame in text.split(b"\n\n") if frame]
    return [json.loads(frame) for frame in frames if frame != b"[DONE]"], frames[-1] == b"[DONE]"


def chunkings(body: bytes, cuts: list[int]) -> Iterator[list[bytes]]:
    yield [body]
    yield [body[index : index + 1] for index in range(len(body))]
    edges = [0, *cuts, len(body)]
    yield [body[start:end] for start, end in pairwise(edges)]
    for cut in range(1, len(body)):
        yield [body[:cut], body[cut:]]


# What Google's own types say


def check_types(request: UpstreamRequest) -> None:
    """Every member is one that Google's own client knows, under its own name."""
    body = json.loads(request.body)
    config = {**body.get("generationConfig", {})}
    types.GenerationConfig.model_validate(config)
    for content in [*body["contents"], *([body["systemInstruction"]] if "systemInstruction" in body else [])]:
        types.Content.model_validate(content)
    for tool in body.get("tools", []):
        types.Tool.model_validate(tool)
    if "toolConfig" in body:
        types.ToolConfig.model_validate(body["toolConfig"])
    members = {"contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "serviceTier"}
    assert body.keys() <= members | {"cachedContent", "safetySettings", "labels"}


# Answers


def candidate(*parts: Any, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, **fields}
    return fields | ({"finishReason": finish} if finish else {})


def frames(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)


def decoded(body: bytes, **options: Any) -> list[Event]:
    decoder = gemini_answer.StreamDecoder(MOMENT, **options)
    return decoder.feed(body) + decoder.finish()
