"""The three inbound dialects of OpenAI: what is refused, naming its param, and what a call then knows."""

from typing import Any

import orjson
import pytest

from gateway.protocol.call import Call, Operation
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.openai.wire import REDIRECTING
from gateway.protocol.errors import BadRequest
from tests.fakes.memory import decode

USER = {"role": "user", "content": "你是谁?"}
MINIMAL: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [USER]},
    "completion": {"model": "m", "prompt": "你是谁?"},
    "embedding": {"model": "m", "input": "Embedding text..."},
}


def refused(body: Any, kind: str) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        decode(body, kind)
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    return caught.value


@pytest.mark.parametrize("kind", MINIMAL)
def test_the_smallest_call_is_read(kind: str) -> None:
    call = decode(MINIMAL[kind], kind)
    assert (call.operation, call.model, call.stream) == (Operation(kind), "m", False)
    assert call.body == MINIMAL[kind]
    assert call.raw == orjson.dumps(MINIMAL[kind])
    assert call.input_estimate > 0


BAD: dict[str, list[tuple[str, Any]]] = {
    "chat": [
        ("messages", "hello"),
        ("messages", []),
        ("messages", {}),
        ("messages", None),
        ("messages", ["hello"]),
        ("messages", [{}]),
        ("messages", [{"role": 7}]),
        ("messages", [{"role": "user", "content": 7}]),
        ("messages", [{"role": "user", "content": {}}]),
        ("messages", [{"role": "user", "content": ["part"]}]),
        ("messages", [USER, None]),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", "7"),
        ("max_tokens", 1.5),
        ("max_completion_tokens", -1),
        ("max_completion_tokens", True),
        ("n", 0),
        ("n", 129),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("top_p", 1.1),
        ("presence_penalty", -3),
        ("frequency_penalty", 3),
        ("seed", "x"),
        ("logprobs", 1),
        ("top_logprobs", -1),
        ("logit_bias", []),
        ("stop", 7),
        ("stop", [7]),
        ("tools", {}),
        ("tools", [7]),
        ("tools", [{}]),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "function", "function": {}}]),
        ("tool_choice", 7),
        ("parallel_tool_calls", "yes"),
        ("response_format", "json"),
        ("reasoning_effort", 7),
        ("stream", "true"),
        ("stream", 1),
        ("stream_options", True),
        ("store", 1),
        ("metadata", "x"),
        ("metadata", []),
        ("user", 7),
        ("user", "a\0b"),
        ("tags", "x"),
        ("tags", [7]),
        ("tags", {"a": 1}),
    ],
    "completion": [
        ("prompt", None),
        ("prompt", []),
        ("prompt", 7),
        ("prompt", {}),
        ("prompt", [1, "x"]),
        ("prompt", [-1]),
        ("prompt", [[1], ["x"]]),
        ("prompt", [1.5]),
        ("max_tokens", -1),
        ("n", 0),
        ("best_of", 0),
        ("temperature", 3),
        ("logprobs", True),
        ("logprobs", -1),
        ("echo", "yes"),
        ("suffix", 7),
        ("stop", {}),
        ("stream", "no"),
        ("stream_options", []),
        ("user", []),
    ],
    "embedding": [
        ("input", None),
        ("input", []),
        ("input", {}),
        ("input", 7),
        ("input", ["x", 7]),
        ("input", [None]),
        ("input", [True]),
        ("encoding_format", "binary"),
        ("encoding_format", []),
        ("dimensions", 0),
        ("dimensions", "8"),
        ("user", 7),
    ],
}


@pytest.mark.parametrize(("kind", "param", "value"), [(k, *entry) for k, table in BAD.items() for entry in table])
def test_a_wrong_field_is_refused_by_its_name(kind: str, param: str, value: Any) -> None:
    assert refused({**MINIMAL[kind], param: value}, kind).param == param


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize("asked", ["yes", 1, [], {}])
def test_asking_for_usage_is_a_yes_or_a_no(kind: str, asked: Any) -> None:
    fields = {"stream": True, "stream_options": {"include_usage": asked}}
    assert refused({**MINIMAL[kind], **fields}, kind).param == "stream_options.include_usage"


@pytest.mark.parametrize("kind", MINIMAL)
@pytest.mark.parametrize("model", [None, "", "  ", 7, [], True, "a\0b"])
def test_a_wrong_or_missing_model_is_refused(kind: str, model: Any) -> None:
    assert refused({**MINIMAL[kind], "model": model}, kind).param == "model"


@pytest.mark.parametrize("kind", MINIMAL)
def test_each_missing_field_is_named(kind: str) -> None:
    for name in MINIMAL[kind]:
        fault = refused({key: value for key, value in MINIMAL[kind].items() if key != name}, kind)
        assert (fault.param, fault.code) == (name, "missing_required_parameter")


@pytest.mark.parametrize("kind", MINIMAL)
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"model":"m","model":"n"}', b'{"n": NaN}'])
def test_a_body_that_is_no_strict_object_is_refused(kind: str, raw: bytes) -> None:
    refused(raw, kind)


GOOD: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {"temperature": 0, "top_p": 1, "n": 128, "seed": -(2**63), "stop": ["a", "b"], "logit_bias": {"1": -100}},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": []}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {"tools": [{"type": "custom", "custom": {}}, {"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}, "response_format": {"type": "json_object"}},
        {"max_tokens": None, "stream": None, "user": None, "stop": None, "metadata": None, "stream_options": None},
        {"guided_json": {"a": 1}, "top_k": 7, "chat_template_kwargs": {"enable_thinking": False}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"api_base": {"type": "string"}}}}]},
        {"messages": [{"role": "user", "content": 'set "api_key" to "x"'}]},
    ],
    "completion": [
        {"prompt": ["a", "b"], "max_tokens": 0, "echo": True},
        {"prompt": [1, 2, 3], "logprobs": 5},
        {"prompt": [[1, 2], [3]], "stop": "\n", "suffix": "x"},
    ],
    "embedding": [
        {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 8},
        {"input": [1, 2, 3]},
        {"input": [[1], [2, 3]], "encoding_format": "float"},
    ],
}


@pytest.mark.parametrize(("kind", "fields"), [(k, fields) for k, table in GOOD.items() for fields in table])
def test_whatever_an_upstream_may_take_passes(kind: str, fields: dict[str, Any]) -> None:
    body = MINIMAL[kind] | fields
    assert decode(body, kind).raw == orjson.dumps(body)


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize(
    ("fields", "stream", "usage"),
    [
        ({}, False, False),
        ({"stream": True}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": None}, True, False),
        ({"stream_options": {"include_usage": True}}, False, False),
    ],
)
def test_a_call_knows_whether_it_streams_and_whether_usage_was_asked(
    kind: str, fields: dict[str, Any], stream: bool, usage: bool
) -> None:
    call = decode(MINIMAL[kind] | fields, kind)
    assert (call.stream, call.include_usage) == (stream, usage)


# Fields that would redirect a call


@pytest.mark.parametrize("name", sorted(REDIRECTING))
@pytest.mark.parametrize("kind", MINIMAL)
def test_a_field_that_would_redirect_the_call_is_refused(kind: str, name: str) -> None:
    assert refused({**MINIMAL[kind], name: "http://evil.test"}, kind).param == name


@pytest.mark.parametrize("name", ["api_base", "api_key", "extra_headers", "user_config", "litellm_params", "base_url"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: {"metadata": inner},
        lambda inner: {"litellm_metadata": {"a": [{"b": inner}]}},
        lambda inner: {"unknown": [[[inner]]]},
        lambda inner: {"stream_options": {"deep": {"deeper": inner}}},
    ],
)
def test_a_redirecting_field_is_refused_at_any_depth(name: str, wrap: Any) -> None:
    assert refused({**MINIMAL["chat"], **wrap({name: "x"})}, "chat").param == name


@pytest.mark.parametrize("kind", MINIMAL)
@pytest.mark.parametrize("written", [b"api\\u005fbase", b"\\u0061pi_base", b"api_b\\u0061se"])
def test_a_redirecting_field_written_with_escapes_is_refused(kind: str, written: bytes) -> None:
    raw = orjson.dumps(MINIMAL[kind])[:-1] + b',"' + written + b'":"http://evil.test"}'
    assert refused(raw, kind).param == "api_base"


# What the caller says of itself


def metadata(fields: dict[str, Any], hints: Hints | None = None) -> Call:
    return decode(MINIMAL["chat"] | fields, hints=hints)


def test_end_user_tags_and_metadata_come_from_the_body() -> None:
    call = metadata({"user": "ann", "metadata": {"tags": ["a"], "spend_logs_metadata": {"k": 1}}})
    assert (call.end_user, call.tags, call.metadata) == ("ann", ("a",), {"k": 1})
    assert metadata({"tags": ["x", "y"], "metadata": {"tags": ["a"]}}).tags == ("x", "y")
    assert metadata({"litellm_metadata": {"tags": ["l"]}, "metadata": {"tags": ["m"]}}).tags == ("l",)


def test_headers_win_over_the_body() -> None:
    hints = Hints(end_user="head", tags=("h",), metadata={"from": "head"})
    call = metadata({"user": "ann", "tags": ["a"], "metadata": {"spend_logs_metadata": {"k": 1}}}, hints)
    assert (call.end_user, call.tags, call.metadata) == ("head", ("h",), {"from": "head"})


DEEP: Any = {}
for _ in range(300):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("fields", "hints", "param"),
    [
        ({"metadata": {"spend_logs_metadata": {"k": "x" * 16_384}}}, None, "spend_logs_metadata"),
        ({}, Hints(metadata=DEEP), "spend_logs_metadata"),
        ({"litellm_metadata": {"spend_logs_metadata": {"k": ["x" * 99] * 200}}}, None, "spend_logs_metadata"),
        ({}, Hints(metadata={"k": "x" * 16_384}), "spend_logs_metadata"),
        ({"tags": ["a"] * 51}, None, "tags"),
        ({"metadata": {"tags": ["a" * 256]}}, None, "tags"),
        ({}, Hints(tags=("a",) * 51), "tags"),
        ({"metadata": {str(number): "x" for number in range(17)}}, None, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, None, "metadata"),
        ({"metadata": {"k": "x" * 513}}, None, "metadata.k"),
    ],
)
def test_metadata_that_no_row_should_keep_is_refused(fields: dict[str, Any], hints: Hints | None, param: str) -> None:
    """20 MB were kept for ever, and a page of the spend log was 385 MB."""
    with pytest.raises(BadRequest) as fault:
        metadata(fields, hints)
    assert fault.value.param == param


def test_metadata_at_its_limits_is_taken() -> None:
    pairs = {f"{number:064}": "x" * 512 for number in range(16)}
    ours = {"tags": ["t" * 255] * 50, "spend_logs_metadata": {"k": "x" * 16_000}, "session_id": "s" * 600}
    call = metadata({"metadata": pairs | ours})
    assert (len(call.tags), len(call.metadata["k"])) == (50, 16_000)


def test_token_arrays_are_counted_and_text_is_estimated() -> None:
    assert decode({"model": "m", "input": [[1, 2, 3], [4]]}, "embedding").input_estimate == 4
    assert decode({"model": "m", "prompt": [1, 2]}, "completion").input_estimate == 2
    assert decode({"model": "m", "input": ["x" * 40, "x" * 40]}, "embedding").input_estimate == 22
    parts = [{"type": "text", "text": "x" * 40}, {"type": "image_url", "image_url": {"url": "data:" + "x" * 4000}}]
    assert metadata({"messages": [{"role": "user", "content": parts}]}).input_estimate == 11 + 765 + 4
