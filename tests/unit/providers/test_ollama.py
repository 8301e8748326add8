"""Ollama's native API and its compatible one: requests, and the lines of an answer."""

import base64
import struct
from typing import Any

import orjson
import pytest

from gateway.protocol.attempt_context import AttemptContext, Fetched
from gateway.protocol.call import Call
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.provider import Target
from gateway.providers import ollama
from tests.fakes import memory
from tests.fakes.memory import decode
from tests.fakes.provider_cases import (
    MOMENT,
    Case,
    Streamed,
    cases,
    check_error,
    check_invariants,
    check_request,
    check_response,
    check_stream,
    cuttings,
    streamed,
)

types = pytest.importorskip("ollama._types")
PROVIDER = ollama.PROVIDER
USER = {"role": "user", "content": "Hi"}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "d", "parameters": {"type": "object"}},
}
CLOCK = {"type": "function", "function": {"name": "clock_now"}}


def target(**changes: Any) -> Target:
    flags = {name: changes.pop(name) for name in list(changes) if hasattr(Capabilities, name)}
    fields = {"api_base": "http://127.0.0.1:11434", "upstream_model": "qwen3:8b", "credential": {}}
    return memory.target(**{**fields, "capabilities": Capabilities(**flags), **changes})


def target_of(case: Case) -> Target:
    context = case.get("context", {})
    return target(
        upstream_model=context.get("upstream_model", "qwen3:8b"),
        parameters={name: context[name] for name in ("num_ctx", "keep_alive") if name in context},
        thinking="level" if context.get("think") == "level" else "none",
    )


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "alias-1", "messages": [USER], **fields}


def sent_body(body: dict[str, Any], context: AttemptContext = MOMENT, **changes: Any) -> dict[str, Any]:
    """The request's body, checked against the types of Ollama's SDK."""
    request = PROVIDER.request(decode(body), target(**changes), context)
    encoded = orjson.loads(request.body)
    types.ChatRequest(**encoded)
    for message in encoded["messages"]:
        images = [types.Image(value=image) for image in message.get("images", ())]
        types.Message(**{**message, "images": images})
    return {**encoded, "dropped": list(request.dropped)}


def line(message: dict[str, Any] | None = None, **fields: Any) -> bytes:
    content = {"model": "qwen3:8b", "message": {"role": "assistant", "content": "", **(message or {})}, "done": False}
    return orjson.dumps({**content, **fields}) + b"\n"


END = line(done=True, done_reason="stop", prompt_eval_count=9, eval_count=5)


def read_answer(body: bytes, *, fields: dict[str, Any] | None = None, **changes: Any) -> Streamed:
    call = decode(chat(stream=True, stream_options={"include_usage": True}, **(fields or {})))
    answers = [streamed(PROVIDER, target(**changes), call, pieces) for pieces in cuttings(body)]
    for answer in answers:
        assert answer.whole() == answers[0].whole()
    check_invariants(answers[0].chunks, has_usage=answers[0].usage is not None)
    return answers[0]


def choice(answer: Streamed) -> dict[str, Any]:
    choices: dict[str, Any] = answer.whole()["choices"][0]
    return choices


@pytest.mark.parametrize("case", cases("ollama_"))
def test_requests_and_answers_equal_their_wire_cases(case: Case) -> None:
    checks = {"request": check_request, "response": check_response, "stream": check_stream, "error": check_error}
    checks[case["kind"]](PROVIDER, target_of(case), case)


# Requests


def test_tool_results_carry_the_names_of_their_tools() -> None:
    tool_call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [tool_call]}]
    messages.append({"role": "tool", "tool_call_id": "c1", "content": "4 C"})
    assert sent_body(chat(messages=messages, tools=[WEATHER, CLOCK], tool_choice="auto")) == {
        "model": "qwen3:8b",
        "stream": False,
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}],
            },
            {"role": "tool", "content": "4 C", "tool_name": "get_weather"},
        ],
        "tools": [
            WEATHER,
            {"type": "function", "function": {"name": "clock_now", "parameters": {"type": "object", "properties": {}}}},
        ],
        "dropped": [],
    }


@pytest.mark.parametrize("arguments", ['{"cut', '"text"', "[1]"])
def test_arguments_other_than_an_object_keep_their_text(arguments: str) -> None:
    tool_call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    body = sent_body(chat(messages=[{"role": "assistant", "tool_calls": [tool_call]}]))
    call = body["messages"][0]["tool_calls"][0]["function"]["arguments"]["input"]
    assert call in (arguments, "text", [1])


@pytest.mark.parametrize(
    ("tool_choice", "names", "dropped"),
    [
        ("none", None, []),
        ("auto", {"get_weather", "clock_now"}, []),
        ("required", {"get_weather", "clock_now"}, ["tool_choice"]),
        ({"type": "function", "function": {"name": "clock_now"}}, {"clock_now"}, ["tool_choice"]),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CLOCK]}}, {"clock_now"}, []),
    ],
)
def test_a_tool_choice_limits_the_tools(tool_choice: Any, names: Any, dropped: list[str]) -> None:
    body = sent_body(chat(tools=[WEATHER, CLOCK], tool_choice=tool_choice))
    assert ({tool["function"]["name"] for tool in body["tools"]} if "tools" in body else None) == names
    assert body["dropped"] == dropped


@pytest.mark.parametrize(
    ("fields", "model", "think"),
    [
        ({"reasoning_effort": "low"}, "qwen3:8b", True),
        ({"reasoning_effort": "none"}, "qwen3:8b", False),
        ({"reasoning_effort": "minimal"}, "gpt-oss:20b", "low"),
        ({"reasoning_effort": "xhigh"}, "gpt-oss:20b", "high"),
        ({"reasoning_effort": "none"}, "gpt-oss:20b", False),
        ({"reasoning_effort": "high", "thinking": {"type": "disabled"}}, "qwen3:8b", False),
        ({}, "qwen3:8b", None),
    ],
)
def test_thinking_has_the_models_form(fields: dict[str, Any], model: str, think: Any) -> None:
    assert sent_body(chat(**fields), upstream_model=model).get("think") == think


def test_a_schema_is_the_format_and_options_are_grouped() -> None:
    body = chat(
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        stream=True,
        top_k=3,
        min_p=0.1,
        stop=["a", "b"],
        parallel_tool_calls=False,
        logprobs=True,
        unknown_field=1,
    )
    encoded = sent_body(
        body, parameters={"num_ctx": 4096, "repeat_penalty": 1.1, "keep_alive": -1}, max_output_tokens=9
    )
    assert encoded["format"] == {"type": "object"}
    assert encoded["stream"] is True
    assert encoded["keep_alive"] == -1
    assert encoded["options"] == {"num_ctx": 4096, "repeat_penalty": 1.1, "min_p": 0.1, "top_k": 3, "stop": ["a", "b"]}
    assert encoded["logprobs"] is True
    assert encoded["dropped"] == ["parallel_tool_calls", "unknown_field"]


def test_sampling_follows_flags_and_refused_parameters() -> None:
    body = chat(temperature=0.1, top_p=0.2, seed=0, reasoning_effort="low")
    assert sent_body(body, sampling="one_of")["options"] == {"temperature": 0.1, "seed": 0}
    assert sent_body(body, sampling="none")["dropped"] == ["temperature", "top_p"]
    encoded = sent_body(
        body, unsupported_parameters=frozenset({"seed", "reasoning_effort", "top_k", "frequency_penalty"})
    )
    assert encoded["options"] == {"temperature": 0.1, "top_p": 0.2}
    assert "think" not in encoded
    assert encoded["dropped"] == ["reasoning_effort", "seed"]
    body = chat(logprobs=True, top_logprobs=1, thinking={"type": "enabled"})
    encoded = sent_body(body, unsupported_parameters=frozenset({"logprobs", "reasoning_effort"}))
    assert not {"logprobs", "top_logprobs", "think"} & encoded.keys()
    assert encoded["dropped"] == ["logprobs", "thinking", "top_logprobs"]


def test_options_of_a_deployment_are_defaults() -> None:
    parameters = {"temperature": 0.5, "top_k": 4, "max_tokens": 7, "reasoning_effort": "low"}
    body = sent_body(chat(temperature=0.1), parameters=parameters)
    assert body["options"] == {"temperature": 0.1, "top_k": 4, "num_predict": 7}
    assert body["think"] is True
    assert body.keys() == {"model", "messages", "stream", "options", "think", "dropped"}


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"reasoning_content": "hm"}, "hm"),
        ({"reasoning": "hm"}, "hm"),
        ({"reasoning_content": "all", "thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}, "hm"),
        ({"reasoning_content": "hm", "thinking_blocks": []}, "hm"),
        ({"reasoning_content": 7, "thinking_blocks": None}, None),
    ],
)
def test_thoughts_of_the_history_go_back(fields: dict[str, Any], thinking: str | None) -> None:
    body = sent_body(chat(messages=[USER, {"role": "assistant", "content": "a", **fields}, USER]))
    assert body["messages"][1].get("thinking") == thinking
    assert body["messages"][1]["content"] == "a"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, "messages"),
    ],
)
def test_fields_that_change_the_meaning_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sent_body(chat(**fields))
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_a_strict_deployment_refuses_dropped_fields() -> None:
    with pytest.raises(BadRequest) as caught:
        sent_body(chat(user="u", logit_bias={"1": 2}), on_unsupported="error")
    assert caught.value.param == "logit_bias"
    assert sent_body(chat(user="u"), on_unsupported="error")["dropped"] == ["user"]


def test_an_image_is_fetched_first() -> None:
    url = "https://example.com/x.png"
    body = chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])
    assert PROVIDER.media(decode(body), target()) == (url,)
    encoded = sent_body(body, AttemptContext("a", 1.0, fetched={url: Fetched("image/png", "iVBORw0KGgo=")}))
    assert encoded["messages"] == [{"role": "user", "content": "", "images": ["iVBORw0KGgo="]}]
    with pytest.raises(BadRequest):
        PROVIDER.request(decode(body), target(), MOMENT)


def test_a_base_that_ends_in_v1_is_the_compatible_api() -> None:
    at = target(api_base="http://127.0.0.1:11434/v1")
    request = PROVIDER.request(decode(chat(stream=True)), at, MOMENT)
    assert request.url == "http://127.0.0.1:11434/v1/chat/completions"
    assert "stream_options" in orjson.loads(request.body)
    body = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    answer = streamed(PROVIDER, at, decode(chat(stream=True)), [body])
    assert choice(answer)["message"]["content"] == "x"


# Answers


def test_calls_arrive_whole_and_in_order() -> None:
    first = {"function": {"name": "get_weather", "arguments": {"city": "Zürich"}}}
    second = {"id": "call_x", "function": {"name": "get_weather", "arguments": {}}}
    body = line({"thinking": "hm"}) + line({"tool_calls": [first]}) + line({"tool_calls": [second]}) + END
    answer = read_answer(body)
    calls = choice(answer)["message"]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == ['{"city":"Zürich"}', "{}"]
    assert len(calls[0]["id"]) == 29
    assert calls[1]["id"] == "call_x"
    assert choice(answer)["finish_reason"] == "tool_calls"
    assert answer.usage == {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}


@pytest.mark.parametrize(
    ("done_reason", "reason"), [("length", "length"), ("load", "stop"), ("unload", "stop"), (None, "stop")]
)
def test_finish_reasons_are_openais(done_reason: str | None, reason: str) -> None:
    assert (
        choice(read_answer(line({"content": "x"}) + line(done=True, done_reason=done_reason)))["finish_reason"]
        == reason
    )


def test_a_cached_prompt_has_no_count() -> None:
    answer = read_answer(line({"content": "x"}) + line(done=True, eval_count=5))
    assert answer.usage == {"prompt_tokens": 0, "completion_tokens": 5, "total_tokens": 5}
    assert read_answer(line({"content": "x"}) + line(done=True)).usage is None


def test_reasoning_and_calls_may_stand_in_the_text() -> None:
    text = '<think>a</think>b<tool_call>{"name": "get_weather", "arguments": {"x": 1}}</tool_call>'
    body = b"".join([line({"content": text[start : start + 5]}) for start in range(0, len(text), 5)]) + END
    answer = read_answer(body, fields={"tools": [WEATHER]}, tool_call_parser="qwen25", think_tags=True)
    message = choice(answer)["message"]
    assert (message["reasoning_content"], message["content"]) == ("a", "b")
    assert message["tool_calls"][0]["function"]["arguments"] == '{"x": 1}'


SCORED = {"token": "x", "logprob": -0.5, "top_logprobs": [{"token": "y", "logprob": -1, "bytes": [121]}]}
SHOWN = {
    "token": "x",
    "logprob": -0.5,
    "bytes": None,
    "top_logprobs": [{"token": "y", "logprob": -1, "bytes": [121]}],
}


def test_log_probabilities_arrive_with_their_tokens() -> None:
    answer = read_answer(
        line({"content": "x"}, logprobs=[SCORED]) + line({"content": "z"}) + END, fields={"logprobs": True}
    )
    logprobs = [choice["logprobs"] for chunk in answer.chunks for choice in chunk["choices"] if choice.get("logprobs")]
    assert logprobs == [{"content": [SHOWN], "refusal": None}]


@pytest.mark.parametrize("value", [None, 7, {}, [7], [None]])
def test_malformed_log_probabilities_are_ignored(value: Any) -> None:
    answer = read_answer(line({"content": "x"}, logprobs=value) + END, fields={"logprobs": True})
    assert choice(answer)["message"]["content"] == "x"


@pytest.mark.parametrize(
    "broken", [b'{"error":"model runner at 10.0.0.1 stopped"}\n', b"{\n", b"[]\n", b"<html>\n", b""]
)
def test_text_before_a_fault_arrives(broken: bytes) -> None:
    body = line({"content": "x"}) + broken
    for pieces in cuttings(body):
        relay = PROVIDER.relay(decode(chat(stream=True)), target(), MOMENT)
        seen, message = b"", ""
        try:
            for piece in pieces:
                seen += relay.feed(piece)
            relay.finish()
        except UpstreamFault as fault:
            message = fault.message
        assert message
        assert "10.0.0.1" not in message
        assert b'"content":"x"' in seen


def test_a_too_long_prompt_has_its_code_in_a_stream_too() -> None:
    with pytest.raises(UpstreamFault) as caught:
        streamed(PROVIDER, target(), decode(chat(stream=True)), [b'{"error":"exceeds the context window"}\n'])
    assert caught.value.code == "context_length_exceeded"


def test_nothing_follows_the_end() -> None:
    assert (
        choice(read_answer(line({"content": "x"}) + END + line({"content": "y"}) + b"{"))["message"]["content"] == "x"
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"message": 7}', b'{"error": "x"}'])
def test_an_unusable_answer_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        PROVIDER.relay_body(decode(chat()), target(), MOMENT, body, {})
    with pytest.raises(UpstreamFault):
        PROVIDER.relay_body(decode({"model": "m", "input": "x"}, "embedding"), target(), MOMENT, body, {})


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (400, "qwen does not support tools", (400, None)),
        (500, "model requires more system memory (9 GiB)", (502, "upstream_error")),
        (503, "server busy, please try again.", (503, "overloaded")),
        (401, "unauthorized", (502, "upstream_auth_failed")),
    ],
)
def test_an_error_has_its_class(status: int, text: str, expected: tuple[int, str | None]) -> None:
    fault = PROVIDER.failure(target(), status, {}, orjson.dumps({"error": text}))
    assert (fault.status, fault.code) == expected


# Completions


def complete(**fields: Any) -> Call:
    return decode({"model": "alias-1", "prompt": "Once", **fields}, "completion")


def generated(call: Call, **changes: Any) -> dict[str, Any]:
    request = PROVIDER.request(call, target(**changes), MOMENT)
    assert request.url == "http://127.0.0.1:11434/api/generate"
    body = orjson.loads(request.body)
    types.GenerateRequest(**body)
    return {**body, "dropped": list(request.dropped)}


def text_line(text: str, **fields: Any) -> bytes:
    return orjson.dumps({"model": "qwen3:8b", "response": text, "done": False, **fields}) + b"\n"


TEXT_END = text_line("", done=True, done_reason="length", prompt_eval_count=9, eval_count=5, context=[1, 2])


def test_dropped_fields_of_a_completion_are_named() -> None:
    call = complete(suffix="end", echo=True, best_of=2, logprobs=2, user="u", tools=[WEATHER])
    body = generated(call)
    assert (body["prompt"], body["suffix"]) == ("Once", "end")
    assert body.keys() == {"model", "prompt", "suffix", "stream", "think", "dropped"}
    assert sorted(body["dropped"]) == ["best_of", "echo", "logprobs", "tools", "user"]
    with pytest.raises(BadRequest) as caught:
        generated(complete(echo=True), on_unsupported="error")
    assert caught.value.param == "echo"


@pytest.mark.parametrize("fields", [{"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"n": 2}])
def test_a_completion_of_several_prompts_or_choices_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        generated(complete(**fields))
    assert caught.value.param in fields


def test_a_deployment_may_use_its_template_for_a_prompt() -> None:
    assert generated(complete())["raw"] is True
    body = generated(complete(), parameters={"raw": False, "system": "Be terse."})
    assert (body["raw"], body["system"]) == (False, "Be terse.")
    assert body["think"] is False
    assert generated(complete(reasoning_effort="low"))["think"] is True
    assert "raw" not in sent_body(chat(), parameters={"raw": False})


def test_a_whole_completion() -> None:
    encoded, metadata = PROVIDER.relay_body(complete(), target(), MOMENT, TEXT_END.replace(b'""', b'" upon"', 1), {})
    answer = orjson.loads(encoded)
    assert answer["object"] == "text_completion"
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == (" upon", "length")
    assert answer["usage"] == {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    assert metadata.usage is not None


@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_streamed_completion_keeps_the_models_text(wants_usage: bool) -> None:
    text = '<think>hm</think> <tool_call>{"name": "f", "arguments": {}}</tool_call>\n'
    body = b"".join([text_line(piece) for piece in (text[:3], text[3:])]) + TEXT_END
    call = complete(stream=True, **({"stream_options": {"include_usage": True}} if wants_usage else {}))
    for pieces in cuttings(body):
        where = target(tool_call_parser="qwen25", think_tags=True)
        answer = streamed(PROVIDER, where, call, pieces)
        choices = [choice for chunk in answer.chunks for choice in chunk["choices"]]
        assert "".join(choice["text"] for choice in choices) == text
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
        assert answer.is_done
        assert bool(answer.usage) is wants_usage
        assert answer.metadata.usage is not None
        assert (answer.metadata.usage.total_input, answer.metadata.usage.total_output) == (9, 5)


def test_a_cut_completion_is_a_fault() -> None:
    for body in (text_line("x"), text_line("x") + b'{"error":"stopped"}\n'):
        with pytest.raises(UpstreamFault):
            streamed(PROVIDER, target(), complete(stream=True), [body])


# Embeddings


def test_embeddings_have_their_own_path() -> None:
    call = decode({"model": "alias-1", "input": "a", "dimensions": 8, "user": "u"}, "embedding")
    request = PROVIDER.request(call, target(parameters={"num_ctx": 512, "keep_alive": "1m", "x": 1}), MOMENT)
    body = orjson.loads(request.body)
    types.EmbedRequest(**body)
    assert request.url == "http://127.0.0.1:11434/api/embed"
    assert body == {
        "model": "qwen3:8b",
        "input": ["a"],
        "truncate": False,
        "dimensions": 8,
        "keep_alive": "1m",
        "options": {"num_ctx": 512},
    }
    assert request.dropped == ("user",)
    with pytest.raises(BadRequest) as caught:
        PROVIDER.request(decode({"model": "alias-1", "input": [1, 2]}, "embedding"), target(), MOMENT)
    assert caught.value.param == "input"


def test_embeddings_are_base64_on_request() -> None:
    call = decode({"model": "alias-1", "input": ["a"], "encoding_format": "base64"}, "embedding")
    answer = orjson.dumps({"model": "m", "embeddings": [[0.5, -0.25]], "prompt_eval_count": 2})
    encoded, metadata = PROVIDER.relay_body(call, target(), MOMENT, answer, {})
    packed = base64.b64decode(orjson.loads(encoded)["data"][0]["embedding"])
    assert struct.unpack("<2f", packed) == (0.5, -0.25)
    assert metadata.usage is not None
    assert metadata.usage.total_input == 2
