"""Wire cases of the providers: their reader, and the rules to compare a provider's requests and answers with them.

A case holds a client's side in OpenAI's dialect and the provider's own; `"<any>"` and the like stand for values
that differ from one answer to the next.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest

from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Provider, Target
from gateway.protocol.sse import EventSplitter, event_data
from tests.fakes.memory import decode

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "providers"
ALIAS = "alias-1"
MOMENT = AttemptContext("attempt-1", 1_800_000_000.0)
#: Members that OpenAI's side may have beside those of a case.
MAY_BE_EXTRA = frozenset({"system_fingerprint", "service_tier"})
Case = dict[str, Any]


def cases(*prefixes: str, kind: str = "") -> list[Any]:
    """The cases as parameters of a test, by name."""
    params = []
    for path in sorted(FOLDER.glob("*.json")):
        if path.name.startswith(prefixes):
            case = json.loads(path.read_text(encoding="utf-8"))
            if not kind or case["kind"] == kind:
                params.append(pytest.param(case, id=case["name"]))
    return params


def call_of(case: Case) -> Call:
    """The client's call: the case's own for requests, any that fits for the others."""
    if case["kind"] == "request":
        body = case["openai"]
        return decode(body, "embedding" if "input" in body else "completion" if "prompt" in body else "chat")
    if case.get("context", {}).get("api") == "embeddings":
        return decode({"model": ALIAS, "input": "x"}, "embedding")
    body = {"model": ALIAS, "messages": [{"role": "user", "content": "x"}]}
    if case["kind"] == "stream":
        body["stream"] = True
        if case["openai"].get("include_usage"):
            body["stream_options"] = {"include_usage": True}
    return decode(body)


# Comparison


def like(actual: Any, expected: Any, at: str = "", *, is_exact: bool = False) -> None:
    """`is_exact`: no keys beside the expected ones, as in a provider's request."""
    if isinstance(expected, str) and expected.startswith("<") and expected.endswith(">"):
        _like_mark(actual, expected, at)
    elif isinstance(expected, dict):
        assert isinstance(actual, dict), at
        for key, value in expected.items():
            assert key in actual, f"{at}.{key} is missing in {actual}"
            if key == "arguments" and isinstance(value, str):
                _like_arguments(actual[key], value, f"{at}.{key}")
            else:
                like(actual[key], value, f"{at}.{key}", is_exact=is_exact)
        extra = {key: actual[key] for key in actual.keys() - expected.keys()}
        if not is_exact:
            extra = {key: value for key, value in extra.items() if value not in (None, []) and key not in MAY_BE_EXTRA}
        assert extra == {}, at
    elif isinstance(expected, list):
        assert isinstance(actual, list), at
        assert len(actual) == len(expected), at
        for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
            like(one, other, f"{at}.{index}", is_exact=is_exact)
    else:
        assert actual == expected, at


def _like_mark(actual: Any, expected: str, at: str) -> None:
    if expected == "<any:int>":
        assert type(actual) is int, at
    elif expected.startswith("<contains:"):
        assert expected[10:-1].lower() in actual.lower(), at
    elif expected == "<any>":
        assert isinstance(actual, str), at
        assert actual, at
    else:
        raise AssertionError(f"{at}: {expected} is no mark")


def _like_arguments(actual: str, expected: str, at: str) -> None:
    try:
        assert json.loads(actual) == json.loads(expected), at
    except json.JSONDecodeError:
        assert actual == expected, at


# The four kinds


def check_request(provider: Provider, target: Target, case: Case, context: AttemptContext = MOMENT) -> None:
    request = provider.request(call_of(case), target, context)
    expected = case["provider_wire"]
    parts = urlsplit(request.url)
    assert parts.path == expected["path"]
    assert dict(parse_qsl(parts.query)) == expected.get("query", {})
    headers = {name.lower(): value for name, value in request.headers.items()}
    for name, value in expected["headers"].items():
        assert headers[name.lower()] == value
    for secret in target.credential.values():
        assert secret.reveal() not in request.url
    like(orjson.loads(request.body), expected["body"], is_exact=True)


def check_response(provider: Provider, target: Target, case: Case) -> AnswerMetadata:
    body = orjson.dumps(case["provider_wire"]["body"])
    answer, metadata = provider.relay_body(call_of(case), target, MOMENT, body, {"content-type": "application/json"})
    like(orjson.loads(answer), case["openai"])
    return metadata


def check_error(provider: Provider, target: Target, case: Case) -> UpstreamFault:
    wire = case["provider_wire"]
    call = call_of(case)
    fault = provider.failure(target, wire["status"], wire["headers"], orjson.dumps(wire["body"]))
    assert fault.status == case["openai"]["status"]
    like(orjson.loads(call.dialect.error_body(fault)), case["openai"]["body"])
    return fault


def check_stream(provider: Provider, target: Target, case: Case) -> None:
    """Checks every cut of the stream: the case's own, whole, byte by byte, and in every two pieces."""
    body = case["provider_wire"]["body_text"].encode()
    expected = case["openai"]
    call = call_of(case)
    first: Any = None
    for pieces in cuttings(body, case["provider_wire"].get("cuts", ())):
        answer = streamed(provider, target, call, pieces)
        if first is None:
            first = answer
            usage = expected["accumulated"].get("usage")
            like(answer.whole(), {**expected["accumulated"], "usage": _shown_usage(answer, usage)})
            assert answer.is_done == expected["done"]
            assert bool(answer.usage) == expected["include_usage"]
            check_invariants(answer.chunks, has_usage=expected["include_usage"])
            if usage != "<estimated>":
                assert answer.metadata.usage is not None
                assert answer.metadata.usage.total_input == usage["prompt_tokens"]
                assert answer.metadata.usage.total_output == usage["completion_tokens"]
            else:
                assert answer.metadata.usage is None
                assert answer.metadata.output_estimate > 0
        assert answer.whole() == first.whole()
        assert answer.metadata.usage == first.metadata.usage


def _shown_usage(answer: "Streamed", usage: Any) -> Any:
    """The usage that the client sees: none unless the request includes it."""
    return usage if answer.usage is not None else None


def cuttings(body: bytes, cuts: Iterable[int] = ()) -> Iterator[list[bytes]]:
    edges = [0, *cuts, len(body)]
    yield [body[start:end] for start, end in pairwise(edges)]
    yield [body]
    yield [body[index : index + 1] for index in range(len(body))]
    for cut in range(1, len(body)):
        yield [body[:cut], body[cut:]]


# The sum of a stream


class Streamed:
    """A streamed answer in OpenAI's dialect, as its client adds it up."""

    def __init__(self, body: bytes, metadata: AnswerMetadata) -> None:
        self.metadata = metadata
        splitter = EventSplitter()
        data = [event_data(event) for event in splitter.feed(body) + splitter.finish()]
        self.is_done = data[-1:] == [b"[DONE]"]
        self.chunks = [orjson.loads(one) for one in data if one and one != b"[DONE]"]
        self.usage = next((chunk["usage"] for chunk in self.chunks if chunk.get("usage")), None)

    def whole(self) -> dict[str, Any]:
        choices: dict[int, dict[str, Any]] = {}
        for chunk in self.chunks:
            for choice in chunk["choices"]:
                total = choices.setdefault(
                    choice["index"], {"index": choice["index"], "message": {"content": None}, "finish_reason": None}
                )
                total["finish_reason"] = choice["finish_reason"] or total["finish_reason"]
                _add(total["message"], choice["delta"])
        for choice in choices.values():
            calls = choice["message"].get("tool_calls")
            if calls:
                choice["message"]["content"] = choice["message"]["content"] or None
        head = {name: self.chunks[0].get(name) for name in ("id", "created", "model")}
        return {
            **head,
            "object": "chat.completion",
            "choices": [choice for _, choice in sorted(choices.items())],
            "usage": self.usage,
        }


def _add(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for call in value:
                if call["index"] == len(calls):
                    calls.append({key: value for key, value in call.items() if key != "index"} | {"function": {}})
                    calls[-1]["function"] = dict(call["function"])
                else:
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        elif isinstance(value, list):
            items = message.setdefault(name, [])
            items += [{key: value for key, value in item.items() if key != "index"} for item in value]
        elif isinstance(value, str) and name != "role":
            message[name] = (message.get(name) or "") + value
        elif value is not None:
            message[name] = value


def streamed(provider: Provider, target: Target, call: Call, pieces: Iterable[bytes]) -> Streamed:
    """Raises UpstreamFault as the relay does."""
    relay = provider.relay(call, target, MOMENT)
    body = b"".join([relay.feed(piece) for piece in pieces])
    body += relay.finish()
    assert relay.is_done
    return Streamed(body, relay.metadata)


def check_invariants(chunks: list[Any], *, has_usage: bool) -> None:
    assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks}) == 1
    seen: dict[int, set[int]] = {}
    finished: set[int] = set()
    for chunk in chunks:
        for choice in chunk["choices"]:
            number, delta = choice["index"], choice["delta"]
            assert number not in finished
            assert ("role" in delta) == (number not in seen)
            calls = seen.setdefault(number, set())
            for call in delta.get("tool_calls", ()):
                if call["index"] in calls:
                    assert call.keys() == {"index", "function"}
                    assert call["function"].keys() == {"arguments"}
                else:
                    assert call["index"] == len(calls)
                    assert {"id", "type", "function"} <= call.keys()
                    assert len(call["id"]) <= 40
                    assert call["function"]["name"]
                    calls.add(call["index"])
            if choice["finish_reason"]:
                finished.add(number)
    assert finished == seen.keys()
    if has_usage:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]
    with_usage = [chunk for chunk in chunks if chunk.get("usage")]
    assert len(with_usage) == has_usage
