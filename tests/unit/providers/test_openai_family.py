"""Servers of OpenAI's dialect with ways of their own: what they are asked, and what becomes of their answers."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.answer import StreamRelay
from gateway.protocol.attempt_context import AttemptContext, Fetched
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic import client as anthropic_client
from gateway.protocol.dialects.openai.client_request import read_chat_request
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated
from gateway.protocol.dialects.openai.upstream_request import OPENAI, Traits, encode
from gateway.protocol.dialects.shared.stop_sequences import StopCutter
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.events import TextDelta
from gateway.protocol.provider import Provider, Target
from gateway.protocol.secret import Secret
from gateway.providers import azure, lightllm, mindie, ollama, xinference
from gateway.providers.registry import PREFIXES
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

PLAIN_SERVER = OpenAITranslated(name="plain", title="A server without quirks", parsers=PARSERS, think=ThinkSplitter)
OPENAI_SERVER = OpenAITranslated(name="strict", title="OpenAI's own rules", traits=OPENAI)
LIGHTLLM, MINDIE, XINFERENCE = lightllm.PROVIDER, mindie.PROVIDER, xinference.PROVIDER
AZURE = azure.PROVIDER
PROVIDERS: Mapping[str, Provider] = {
    "azure": AZURE,
    "lightllm": LIGHTLLM,
    "mindie": MINDIE,
    "xinference": XINFERENCE,
    "vllm": PREFIXES["vllm"],
    "openai": PREFIXES["openai"],
    "gemini_compat": PREFIXES["gemini_compat"],
}
FAMILY = ("azure_", "gemini_compat_", "lightllm_", "mindie_", "openai_", "vllm_", "xinference_")
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CLOCK = {"type": "function", "function": {"name": "clock_now"}}
USER = {"role": "user", "content": "Hi"}


def target_of(case: Case) -> Target:
    context = case.get("context", {})
    return target(
        api_base=context.get("endpoint") or PROVIDERS[case["provider"]].default_api_base or "http://127.0.0.1:8000/v1",
        upstream_model=context.get("upstream_model") or context.get("deployment") or "qwen3",
        parameters={"api_version": context["api_version"]} if "api_version" in context else {},
        credential={"api_key": Secret("az-test")},
        tool_call_parser=context.get("tool_parser", ""),
        **{name: context[name] for name in ("reasoning_model", "sampling") if name in context},
    )


def target(**changes: Any) -> Target:
    flags = {name: changes.pop(name) for name in list(changes) if hasattr(Capabilities, name)}
    return memory.target(**{"upstream_model": "qwen3", "capabilities": Capabilities(**flags), **changes})


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "alias-1", "messages": [USER], **fields}


def sent(provider: Provider, body: dict[str, Any], context: AttemptContext = MOMENT, **changes: Any) -> dict[str, Any]:
    request = provider.request(decode(body), target(**changes), context)
    return {**orjson.loads(request.body), "dropped": list(request.dropped)}


def event(delta: dict[str, Any] | None = None, finish: Any = None, index: int = 0, **others: Any) -> bytes:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "up-1", "model": "m", "choices": [choice], **others}) + b"\n\n"


def call_delta(
    name: str = "",
    arguments: str | None = None,
    *,
    index: int | None = None,
    id: str | None = None,  # noqa: A002
) -> dict[str, Any]:
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if index is not None:
        call["index"] = index
    if id is not None:
        call["id"] = id
    return {"tool_calls": [call]}


DONE = b"data: [DONE]\n\n"


def read(
    provider: Provider, body: bytes, *, asked: dict[str, Any] | None = None, usage: bool = False, **changes: Any
) -> Streamed:
    """The answer, which is the same however it is cut."""
    options = {"stream_options": {"include_usage": True}} if usage else {}
    call = decode(chat(stream=True, **options, **(asked or {})))
    answers = [streamed(provider, target(**changes), call, pieces) for pieces in cuttings(body)]
    for answer in answers:
        assert answer.whole() == answers[0].whole()
    check_invariants(answers[0].chunks, has_usage=answers[0].usage is not None)
    return answers[0]


def message(answer: Streamed, index: int = 0) -> dict[str, Any]:
    held: dict[str, Any] = answer.whole()["choices"][index]["message"]
    return held


def calls(answer: Streamed, index: int = 0) -> list[tuple[str, str]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in message(answer, index)["tool_calls"]]


def finish(answer: Streamed, index: int = 0) -> str:
    return str(answer.whole()["choices"][index]["finish_reason"])


def until_a_fault(relay: StreamRelay, pieces: list[bytes]) -> tuple[bytes, UpstreamFault]:
    seen = b""
    try:
        for piece in pieces:
            seen += relay.feed(piece)
        relay.finish()
    except UpstreamFault as fault:
        return seen, fault
    raise AssertionError("there was no fault")


# The wire cases


@pytest.mark.parametrize("case", cases(*FAMILY, kind="request"))
def test_a_request_is_what_the_case_says(case: Case) -> None:
    check_request(PROVIDERS[case["provider"]], target_of(case), case)


@pytest.mark.parametrize("case", cases(*FAMILY, kind="response"))
def test_a_whole_answer_is_what_the_case_says(case: Case) -> None:
    check_response(PROVIDERS[case["provider"]], target_of(case), case)


@pytest.mark.parametrize("case", cases(*FAMILY, kind="stream"))
def test_a_stream_is_what_the_case_says_however_it_is_cut(case: Case) -> None:
    check_stream(PROVIDERS[case["provider"]], target_of(case), case)


@pytest.mark.parametrize("case", cases(*FAMILY, kind="error"))
def test_an_error_is_what_the_case_says(case: Case) -> None:
    check_error(PROVIDERS[case["provider"]], target_of(case), case)


# Requests


def test_a_plain_server_gets_openais_fields_by_the_names_it_knows() -> None:
    body = chat(
        messages=[{"role": "developer", "content": "D", "name": "x"}, {**USER, "name": "Ann"}],
        max_completion_tokens=9,
        stream=True,
        user="u",
        metadata={"a": "b"},
        store=True,
        top_k=3,
        temperature=0,
    )
    assert sent(PLAIN_SERVER, body) == {
        "model": "qwen3",
        "messages": [{"role": "system", "content": "D"}, USER],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "top_k": 3,
        "temperature": 0,
        "dropped": ["metadata", "store", "user"],
    }


def test_openais_own_rules() -> None:
    body = chat(
        messages=[
            {"role": "developer", "content": "D"},
            {"role": "assistant", "content": "x", "reasoning_content": "y"},
        ],
        max_tokens=9,
        temperature=0.5,
        top_p=1,
        stop=["a", "b", "c", "d", "e"],
        user="u",
    )
    made = sent(OPENAI_SERVER, body, sampling="none", reasoning_model=True)
    assert made["messages"] == [{"role": "developer", "content": "D"}, {"role": "assistant", "content": "x"}]
    assert made["max_completion_tokens"] == 9
    assert made["stop"] == ["a", "b", "c", "d"]
    assert made["user"] == "u"
    assert made["dropped"] == ["temperature"]
    assert not {"max_tokens", "temperature", "top_p"} & made.keys()


def test_the_fifth_stop_sequence_is_looked_for_here() -> None:
    body = event({"content": "one e"}) + event({"content": "nd two"}) + event({}, "length") + DONE
    answer = read(OPENAI_SERVER, body, asked={"stop": ["1", "2", "3", "4", "end"]})
    assert message(answer)["content"] == "one "
    assert finish(answer) == "stop"


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_text_ends_before_the_stop_sequence_that_is_complete_first(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(text)))
    for pieces in ([text], [text[:cut], text[cut:]], list(text)):
        cutter = StopCutter(tuple(stops), 0)
        events = [found for piece in pieces for found in cutter.feed(piece)] + cutter.finish()
        shown = "".join(found.text for found in events if isinstance(found, TextDelta))
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        assert shown == (text[: min(ends)[1]] if ends else text)
        assert cutter.is_cut == bool(ends)


@pytest.mark.parametrize(
    ("choice", "names"), [("none", None), ({"type": "function", "function": {"name": "clock_now"}}, {"clock_now"})]
)
def test_a_server_without_tool_choice_gets_the_tools_that_are_meant(choice: Any, names: Any) -> None:
    made = sent(ollama.COMPATIBLE, chat(tools=[WEATHER, CLOCK], tool_choice=choice))
    assert "tool_choice" not in made
    assert made["dropped"] == ([] if names is None else ["tool_choice"])
    assert ({tool["function"]["name"] for tool in made["tools"]} if "tools" in made else None) == names


def test_what_belongs_to_tools_does_not_go_without_them() -> None:
    assert sent(PLAIN_SERVER, chat(tools=[], parallel_tool_calls=True, tool_choice="auto")) == {
        "model": "qwen3",
        "messages": [USER],
        "dropped": [],
    }


def test_the_form_before_tools_becomes_tools() -> None:
    messages = [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ]
    made = sent(LIGHTLLM, chat(messages=messages, functions=[{"name": "f"}], function_call="auto"))
    assert made["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert made["tool_choice"] == "auto"
    assert made["messages"][0]["tool_calls"][0]["id"] == made["messages"][1]["tool_call_id"] == "f"
    assert made["messages"][1]["role"] == "tool"
    assert not {"functions", "function_call"} & made.keys()


def test_what_cannot_be_dropped_is_refused() -> None:
    for provider, body in (
        (LIGHTLLM, chat(n=2, stream=True)),
        (MINDIE, chat(n=2, temperature=0)),
        (MINDIE, chat(n=2, tools=[WEATHER])),
        (ollama.COMPATIBLE, chat(n=2)),
    ):
        with pytest.raises(BadRequest) as caught:
            sent(provider, body)
        assert (caught.value.param, caught.value.code) == ("n", "unsupported_parameter")
    with pytest.raises(BadRequest) as caught:
        sent(LIGHTLLM, chat(logit_bias={"1": 1}), on_unsupported="error")
    assert caught.value.param == "logit_bias"


@pytest.mark.parametrize("provider", [AZURE, PREFIXES["openai"]], ids=lambda provider: provider.name)
def test_another_dialects_limit_outlives_a_refusal_and_its_own_fields_do_not_reach_openai(provider: Provider) -> None:
    asked = {"model": "alias-1", "max_tokens": 50, "messages": [USER], "top_k": 5}
    asked["thinking"] = {"type": "enabled", "budget_tokens": 2048}
    call = anthropic_client.DIALECT.decode(orjson.dumps(asked), Hints())
    made = provider.request(call, target(), MOMENT)
    assert orjson.loads(made.body) == {"model": "qwen3", "messages": [USER], "max_tokens": 50}
    assert set(made.dropped) == {"thinking", "top_k"}
    made = provider.request(
        call, target(reasoning_model=True, unsupported_parameters=frozenset({"max_tokens"})), MOMENT
    )
    told = {"model": "qwen3", "messages": [USER], "max_completion_tokens": 50, "reasoning_effort": "medium"}
    assert orjson.loads(made.body) == told
    made = provider.request(call, target(unsupported_parameters=frozenset({"max_tokens"})), MOMENT)
    assert orjson.loads(made.body)["max_completion_tokens"] == 50


def test_an_effort_that_a_client_asks_for_itself_stays() -> None:
    assert sent(OPENAI_SERVER, chat(thinking={"type": "disabled"}, reasoning_effort="low"))["reasoning_effort"] == "low"


def test_what_a_server_refused_before_is_left_out() -> None:
    made = sent(
        PLAIN_SERVER, chat(temperature=1, seed=3), unsupported_parameters=frozenset({"seed", "temperature", "messages"})
    )
    assert made == {"model": "qwen3", "messages": [USER], "dropped": ["seed"]}


def test_mindie_is_told_whether_to_think_and_never_gets_empty_content() -> None:
    messages = [{"role": "system", "content": None}, {"role": "user", "content": []}]
    tool_call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages.append({"role": "assistant", "content": "", "tool_calls": [tool_call]})
    made = sent(MINDIE, chat(messages=messages, reasoning_effort="none"))
    assert [item["content"] for item in made["messages"]] == [" ", " ", ""]
    assert made["chat_template_kwargs"] == {"enable_thinking": False}
    assert "reasoning_effort" not in made


def test_mindie_has_no_logprobs_beside_tools_and_forces_none() -> None:
    made = sent(MINDIE, chat(tools=[WEATHER], logprobs=True, tool_choice="required"))
    assert made["dropped"] == ["tool_choice", "logprobs"]
    assert made["tool_choice"] == "required"


def test_images_are_put_inline_where_addresses_are_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    image = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    call = decode(chat(messages=[{"role": "user", "content": [*parts, image]}]))
    assert ollama.COMPATIBLE.media(call, target()) == ("https://example.com/x.png",)
    assert PLAIN_SERVER.media(call, target()) == ()
    context = AttemptContext("a", 1.0, fetched={"https://example.com/x.png": Fetched("image/png", "AAAA")})
    request = ollama.COMPATIBLE.request(call, target(), context)
    assert orjson.loads(request.body)["messages"][0]["content"] == [
        {"type": "text", "text": "a\nb"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    with pytest.raises(BadRequest):
        ollama.COMPATIBLE.request(call, target(), MOMENT)


def test_a_conversation_becomes_the_body_it_came_from() -> None:
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}},
                    {"type": "input_audio", "input_audio": {"format": "wav", "data": "AAAA"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"a": 1}'}},
                    {"id": "c2", "type": "custom", "custom": {"name": "run", "input": "ls"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "4 C"},
        ],
        "tools": [WEATHER, {"type": "custom", "custom": {"name": "run", "description": "d"}}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}, "strict": True}},
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 5,
        "seed": 0,
        "stop": ["x"],
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
        "logit_bias": {"1": 2},
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "reasoning_effort": "low",
        "service_tier": "auto",
        "user": "u",
        "min_p": 0.1,
    }
    assert encode(read_chat_request(body)) == body


# Streams


def test_a_call_goes_on_in_the_delta_without_a_name() -> None:
    body = event(call_delta("get_weather", "", id="3"), "function_call")
    body += event(call_delta("", '{"city": "Os', id="0"), "function_call")
    body += event(call_delta("", 'lo"}', id="0"), "function_call")
    body += event(call_delta("get_weather", "", id="3"), "function_call")
    body += event(call_delta("", "{}", id="0"), "function_call")
    answer = read(LIGHTLLM, body)
    assert calls(answer) == [("get_weather", '{"city": "Oslo"}'), ("get_weather", "{}")]
    ids = [call["id"] for call in message(answer)["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") and len(one) == 29 for one in ids)
    assert finish(answer) == "tool_calls"


def test_two_calls_that_share_an_index_stay_two() -> None:
    """An index that is the tool's position in the list of tools."""
    body = event(call_delta("get_weather", '{"city": ', index=0, id="call_a"))
    body += event(call_delta("", '"Oslo"}', index=0))
    body += event(call_delta("get_weather", '{"city": "Rome"}', index=0, id="call_b"))
    answer = read(PLAIN_SERVER, body + event({}, "stop") + DONE)
    assert calls(answer) == [("get_weather", '{"city": "Oslo"}'), ("get_weather", '{"city": "Rome"}')]
    assert [call["id"] for call in message(answer)["tool_calls"]] == ["call_a", "call_b"]


def test_calls_may_be_interleaved() -> None:
    body = event(call_delta("a", "", index=0, id="1")) + event(call_delta("b", "", index=1, id="2"))
    body += event(call_delta("", '{"x"', index=0)) + event(call_delta("", '{"y"', index=1))
    body += event(call_delta("", ":1}", index=0)) + event(call_delta("", ":2}", index=1))
    assert calls(read(PLAIN_SERVER, body + event({}, "tool_calls") + DONE)) == [("a", '{"x":1}'), ("b", '{"y":2}')]


def test_a_name_in_each_delta_is_one_call() -> None:
    body = event(call_delta("a", '{"x"', index=0, id="1")) + event(call_delta("a", ":1}", index=0, id="1"))
    assert calls(read(PLAIN_SERVER, body + event({}, "tool_calls") + DONE)) == [("a", '{"x":1}')]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    body = event(call_delta("a", None, index=0, id="x" * 50)) + event({}, "stop") + DONE
    answer = read(PLAIN_SERVER, body)
    assert calls(answer) == [("a", "{}")]
    assert len(message(answer)["tool_calls"][0]["id"]) == 29  # a longer one would be refused when it comes back


def test_arguments_as_an_object_become_text() -> None:
    delta = {"tool_calls": [{"function": {"name": "a", "arguments": {"x": [1, "é"]}}}]}
    assert calls(read(PLAIN_SERVER, event(delta) + event({}, "stop") + DONE)) == [("a", '{"x":[1,"é"]}')]


def test_a_call_in_the_form_before_tools_is_a_call() -> None:
    body = event({"function_call": {"name": "a", "arguments": '{"x"'}}) + event({"function_call": {"arguments": ":1}"}})
    answer = read(PLAIN_SERVER, body + event({}, "function_call") + DONE)
    assert calls(answer) == [("a", '{"x":1}')]
    assert finish(answer) == "tool_calls"


def test_a_thought_signature_stays_with_its_call() -> None:
    delta = call_delta("a", "{}", index=0, id="1")
    delta["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": "sig"}}
    answer = read(PLAIN_SERVER, event(delta) + event({}, "stop") + DONE)
    assert message(answer)["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "sig"}}


def test_reasoning_by_any_name_and_content_in_parts() -> None:
    body = event({"reasoning": "a"}) + event({"reasoning_content": "b", "reasoning": "b", "content": None})
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "c"}]}, {"type": "text", "text": "d"}]
    answer = read(PLAIN_SERVER, body + event({"content": parts, "tool_calls": None}) + event({}, "stop") + DONE)
    assert message(answer) == {"role": "assistant", "content": "d", "reasoning_content": "abc"}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("eos", "stop"),
        ("sensitive", "content_filter"),
        ("nonsense", "stop"),
        ("tool_calls", "stop"),  # without any call
    ],
)
def test_a_finish_reason_is_one_of_openais(told: str, reason: str) -> None:
    assert finish(read(PLAIN_SERVER, event({"content": "x"}, "") + event({}, told) + DONE)) == reason


def test_usage_by_choice_is_added_up() -> None:
    first = {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}
    second = {"prompt_tokens": 6, "completion_tokens": 3, "total_tokens": 9}
    body = event({"content": "a"}) + event({"content": "b"}, index=1)
    body += event({}, "stop", usage=first) + event({}, "stop", index=1, usage=second) + DONE
    answer = read(MINDIE, body, asked={"n": 2, "temperature": 1}, usage=True)
    assert answer.usage == {"prompt_tokens": 6, "completion_tokens": 5, "total_tokens": 11}


def test_the_last_usage_counts_where_every_chunk_repeats_it() -> None:
    body = event({"content": "a"}, usage={"prompt_tokens": 6, "completion_tokens": 1})
    body += event({"content": "b"}, "stop", usage={"prompt_tokens": 6, "completion_tokens": 2}) + DONE
    answer = read(PLAIN_SERVER, body, usage=True)
    assert answer.usage == {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}


def test_an_answer_may_end_without_its_marker_but_not_without_its_reason() -> None:
    assert finish(read(PLAIN_SERVER, event({"content": "x"}) + event({}, "stop"))) == "stop"
    for body in (event({"content": "x"}), event(call_delta("a", '{"x', index=0)), b"", b": ping\n\n"):
        with pytest.raises(UpstreamFault) as caught:
            streamed(PLAIN_SERVER, target(), decode(chat(stream=True)), [body])
        assert (caught.value.code, caught.value.finish) == ("upstream_incomplete_stream", "upstream_broken")


def test_an_answer_with_a_whole_call_needs_no_reason() -> None:
    body = event(call_delta("a", '{"x": 1}', index=0))
    assert finish(read(PLAIN_SERVER, body)) == "tool_calls"


def test_a_marker_without_a_reason_completes_no_text() -> None:
    with pytest.raises(UpstreamFault) as caught:
        streamed(PLAIN_SERVER, target(), decode(chat(stream=True)), [event({"content": "x"}) + DONE])
    assert caught.value.code == "upstream_incomplete_stream"


USAGE = {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}
LAST = b"data: " + orjson.dumps({"id": "up-1", "model": "m", "choices": [], "usage": USAGE}) + b"\n\n"


@pytest.mark.parametrize("end", [b"", DONE])
def test_the_last_usage_completes_an_answer_without_a_reason(end: bytes) -> None:
    answer = read(PLAIN_SERVER, event({"content": "x"}) + LAST + end, usage=True)
    assert (finish(answer), answer.usage) == ("stop", USAGE)
    answer = read(PLAIN_SERVER, event(call_delta("a", "{}", index=0)) + LAST + end, usage=True)
    assert finish(answer) == "tool_calls"


@pytest.mark.parametrize(
    "body",
    [
        event({"content": "x"}, usage=USAGE) + DONE,  # as servers tell it in every chunk
        event({"content": "x"}) + LAST + event({"content": "y"}) + DONE,
        LAST + event({"content": "x"}) + DONE,
        LAST + DONE,
        event(call_delta("a", '{"x', index=0)) + LAST + DONE,
    ],
)
def test_no_other_usage_does(body: bytes) -> None:
    with pytest.raises(UpstreamFault) as caught:
        streamed(PLAIN_SERVER, target(), decode(chat(stream=True)), [body])
    assert caught.value.code == "upstream_incomplete_stream"


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call"])
def test_a_call_that_breaks_off_is_no_call(reason: str) -> None:
    body = event(call_delta("a", '{"x": "y', index=0)) + event({}, reason) + DONE
    with pytest.raises(UpstreamFault) as caught:
        streamed(PLAIN_SERVER, target(), decode(chat(stream=True)), [body])
    assert caught.value.code == "upstream_malformed_tool_call"
    with pytest.raises(UpstreamFault) as caught:
        whole(PLAIN_SERVER, None, [{"id": "1", "function": {"name": "a", "arguments": '{"x": '}}])
    assert caught.value.code == "upstream_malformed_tool_call"


@pytest.mark.parametrize("text", ['print("{")', "{", '"'])
def test_a_custom_tool_takes_any_text(text: str) -> None:
    delta = {"tool_calls": [{"index": 0, "id": "1", "type": "custom", "custom": {"name": "run", "input": text}}]}
    for body in (event(delta) + event({}, "stop") + DONE, event(delta) + DONE):
        relay = OPENAI_SERVER.relay(decode(chat(stream=True)), target(), MOMENT)
        shown = relay.feed(body) + relay.finish()
        assert orjson.dumps(text) in shown
        assert b'"finish_reason":"tool_calls"' in shown


def test_a_marker_does_not_complete_a_cut_call() -> None:
    with pytest.raises(UpstreamFault) as caught:
        streamed(PLAIN_SERVER, target(), decode(chat(stream=True)), [event(call_delta("a", '{"x', index=0)) + DONE])
    assert caught.value.code == "upstream_incomplete_stream"
    answer = read(PLAIN_SERVER, event(call_delta("a", '{"x', index=0)) + event({}, "length") + DONE)
    assert calls(answer) == [("a", '{"x')]
    assert finish(answer) == "length"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"error": {"message": "EngineCore overloaded", "type": "X", "code": 503}}, (503, "overloaded")),
        ({"error": {"message": "slow down", "code": 429}}, (429, "rate_limit_exceeded")),
        ({"object": "error", "message": "maximum context length", "code": 400}, (400, "context_length_exceeded")),
        ([{"error": {"message": "x", "code": 503, "status": "UNAVAILABLE"}}], (503, "overloaded")),
    ],
)
def test_an_error_in_an_answer_has_its_class(error: Any, expected: tuple[int, str]) -> None:
    relay = PLAIN_SERVER.relay(decode(chat(stream=True)), target(), MOMENT)
    told = b"data: " + orjson.dumps(error) + b"\n\n"
    _, fault = until_a_fault(relay, [event({"content": "x"}), told])
    assert (fault.status, fault.code) == expected
    assert fault.is_retryable is (fault.status != 400)


@pytest.mark.parametrize(
    "broken",
    [
        b'data: {"error": "out of memory at 10.0.0.1"}\n\n',
        b'data: {"error": {"message": "x", "code": 500}}\n\n',
        b'data: {"object": "error", "message": "x"}\n\n',
        b"data: {\n\n",
        b"data: []\n\n",
        event({}, "network_error"),
        event(call_delta("", '{"x":1}', index=0)),
    ],
)
def test_text_before_a_fault_is_not_lost(broken: bytes) -> None:
    body = event({"content": "x"}) + broken + event({"content": "y"}, "stop") + DONE
    for pieces in cuttings(body):
        relay = PLAIN_SERVER.relay(decode(chat(stream=True)), target(), MOMENT)
        seen, fault = until_a_fault(relay, pieces)
        assert b'"content":"x"' in seen
        assert b'"content":"y"' not in seen
        assert "10.0.0.1" not in fault.message


SCORES = [
    {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": [{"token": "x", "logprob": -0.5, "bytes": [120]}]},
    {"token": "y", "logprob": -1, "bytes": [121], "top_logprobs": []},
]


def scored_event(delta: Any, scores: Any, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": scores, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "1", "model": "m", "choices": [choice]}) + b"\n\n"


def scores_of(body: bytes) -> list[Any]:
    chunks = [orjson.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    return [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if "logprobs" in choice]


def test_streamed_logprobs_stay_with_their_text() -> None:
    call = decode(chat(stream=True, logprobs=True))
    relay = PLAIN_SERVER.relay(call, target(), MOMENT)
    body = relay.feed(scored_event({"content": "x"}, {"content": SCORES[:1], "refusal": None}))
    assert b'"content":"x"' in body
    assert scores_of(body) == [{"content": SCORES[:1], "refusal": None}]
    rest = relay.feed(scored_event({"refusal": "no"}, {"content": None, "refusal": SCORES[1:]}, "stop") + DONE)
    assert scores_of(rest) == [{"content": None, "refusal": SCORES[1:]}]


def test_whole_logprobs_stay_with_their_choice() -> None:
    choices = [
        {"index": 0, "message": {"content": "xy"}, "logprobs": {"content": SCORES}, "finish_reason": "stop"},
        {"index": 1, "message": {"content": "z"}, "logprobs": None, "finish_reason": "stop"},
    ]
    body = orjson.dumps({"id": "1", "model": "m", "choices": choices})
    shown, _ = PLAIN_SERVER.relay_body(decode(chat(logprobs=True, n=2)), target(), MOMENT, body, {})
    first, second = orjson.loads(shown)["choices"]
    assert first["logprobs"] == {"content": SCORES, "refusal": None}
    assert "logprobs" not in second


def test_logprobs_of_text_that_a_reader_holds_back_are_not_lost() -> None:
    """Nor those of tokens that were a call or a thought: whose they were cannot be told."""
    call = decode(chat(stream=True, logprobs=True, tools=[WEATHER]))
    relay = PLAIN_SERVER.relay(call, target(tool_call_parser="qwen25"), MOMENT)
    body = relay.feed(scored_event({"content": "<tool"}, {"content": SCORES[:1]}))
    body += relay.feed(scored_event({"content": " x"}, {"content": SCORES[1:]}, "stop") + DONE)
    assert [score for told in scores_of(body) for score in told["content"]] == SCORES


@pytest.mark.parametrize("told", [[], "x", {"content": "x"}, {"content": [1, None]}, {"tokens": ["x"]}])
def test_logprobs_in_another_shape_are_left_out(told: Any) -> None:
    body = PLAIN_SERVER.relay(decode(chat(stream=True)), target(), MOMENT).feed(scored_event({"content": "x"}, told))
    assert scores_of(body) == []
    assert b'"content":"x"' in body


@pytest.mark.parametrize("stream", [False, True])
def test_predicted_tokens_are_told(stream: bool) -> None:
    details = {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 0, "reasoning_tokens": 1}
    told = {"prompt_tokens": 6, "completion_tokens": 9, "total_tokens": 15, "completion_tokens_details": details}
    if stream:
        shown: Any = read(AZURE, event({"content": "x"}, "stop", usage=told) + DONE, usage=True).usage
    else:
        body = {
            "id": "1",
            "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}],
            "usage": told,
        }
        shown = orjson.loads(AZURE.relay_body(decode(chat()), target(), MOMENT, orjson.dumps(body), {})[0])["usage"]
    assert shown == told


# Images


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.parametrize("delta", [{"images": [IMAGE]}, {"content": [IMAGE]}])
def test_images_of_an_answer_reach_the_client(delta: Any) -> None:
    answer = read(PLAIN_SERVER, event(delta) + event({"content": "done"}, "stop") + DONE)
    assert message(answer)["images"] == [IMAGE]
    body = orjson.dumps({"id": "1", "choices": [{"index": 0, "message": delta, "finish_reason": "stop"}]})
    shown, _ = PLAIN_SERVER.relay_body(decode(chat()), target(), MOMENT, body, {})
    assert orjson.loads(shown)["choices"][0]["message"]["images"] == [IMAGE]


@pytest.mark.parametrize("images", ["x", [1], [{}], [{"image_url": {}}], [{"image_url": {"url": 1}}]])
def test_what_is_no_image_is_left_out(images: Any) -> None:
    answer = read(PLAIN_SERVER, event({"images": images, "content": "x"}, "stop") + DONE)
    assert "images" not in message(answer)


# Calls and reasoning as text


TEXT = """<think>
hm <tool_call>
</think>

Sure.
<tool_call>
{"name": "get_weather", "arguments": {"a": 1}}
</tool_call>"""


def test_text_goes_through_the_splitter_and_the_parser() -> None:
    body = b"".join([event({"content": TEXT[start : start + 7]}) for start in range(0, len(TEXT), 7)])
    flags = {"tool_call_parser": "qwen25", "think_tags": True}
    answer = read(PLAIN_SERVER, body + event({}, "stop") + DONE, asked={"tools": [WEATHER]}, **flags)
    assert message(answer)["reasoning_content"] == "hm <tool_call>"
    assert message(answer)["content"] == "Sure."
    assert calls(answer) == [("get_weather", '{"a": 1}')]
    assert finish(answer) == "tool_calls"


def test_no_calls_are_read_where_none_were_allowed() -> None:
    body = event({"content": TEXT}) + event({}, "stop") + DONE
    answer = read(PLAIN_SERVER, body, asked={"tools": [WEATHER], "tool_choice": "none"}, tool_call_parser="qwen25")
    assert message(answer)["content"] == TEXT


def whole(provider: Provider, content: Any, tool_calls: Any, **changes: Any) -> dict[str, Any]:
    answer = {
        "id": "88",
        "choices": [{"index": 0, "message": {"content": content, "tool_calls": tool_calls}, "finish_reason": "stop"}],
        "full_text": "x",
    }
    shown, _ = provider.relay_body(decode(chat(tools=[WEATHER])), target(**changes), MOMENT, orjson.dumps(answer), {})
    choice: dict[str, Any] = orjson.loads(shown)["choices"][0]
    return choice


REPEATED = 'Sure.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
STRUCTURED = {"id": "0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}


@pytest.mark.parametrize("parser", ["", "qwen25"])
def test_calls_that_stand_in_the_content_too_are_told_once(parser: str) -> None:
    choice = whole(LIGHTLLM, REPEATED, [STRUCTURED], tool_call_parser=parser)
    assert choice["message"]["content"] == "Sure."
    assert [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == ['{"city": "Oslo"}']
    assert choice["finish_reason"] == "tool_calls"


def test_a_second_call_in_one_of_the_two_places_is_not_lost() -> None:
    second = {**STRUCTURED, "id": "1", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    choice = whole(LIGHTLLM, REPEATED, [STRUCTURED, second])
    assert [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == [
        '{"city": "Oslo"}',
        '{"city": "Rome"}',
    ]
    assert len({call["id"] for call in choice["message"]["tool_calls"]}) == 2


def test_an_empty_list_of_calls_is_no_call() -> None:
    choice = whole(MINDIE, "x", [])
    assert choice["message"] == {"role": "assistant", "content": "x"}
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": 7}', b'{"error": "x"}', b'{"detail": 1}']
)
def test_what_is_no_answer_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        PLAIN_SERVER.relay_body(decode(chat()), target(), MOMENT, body, {})


@pytest.mark.parametrize(("provider", "model"), [(XINFERENCE, "my-model"), (MINDIE, "llama-3")])
def test_a_server_that_cannot_stream_calls_needs_whole_answer(provider: Provider, model: str) -> None:
    body = chat(tools=[WEATHER], stream=True, stream_options={"include_usage": True})
    made = sent(provider, body, upstream_model=model)
    assert not {"stream", "stream_options"} & made.keys()
    assert sent(provider, body)["stream"] is True
    answer = orjson.dumps(
        {
            "id": "1",
            "choices": [{"index": 0, "message": {"content": "x", "tool_calls": [STRUCTURED]}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
    )
    shown = streamed(provider, target(upstream_model=model), decode(body), [answer[:9], answer[9:]])
    assert calls(shown) == [("get_weather", '{"city": "Oslo"}')]
    check_invariants(shown.chunks, has_usage=True)
    with pytest.raises(UpstreamFault):
        streamed(provider, target(upstream_model=model), decode(body), [answer[:9]])


# Errors


@pytest.mark.parametrize(
    ("provider", "status", "body", "expected"),
    [
        (PLAIN_SERVER, 400, {"object": "error", "message": "bad", "type": "E", "code": 40303}, (400, None, "bad")),
        (PLAIN_SERVER, 422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, (400, None, "field required")),
        (
            PLAIN_SERVER,
            400,
            [{"error": {"code": 400, "message": "API key not valid."}}],
            (502, "upstream_auth_failed", ""),
        ),
        (PLAIN_SERVER, 400, {"detail": "prompt is too long"}, (400, "context_length_exceeded", "prompt is too long")),
        (PLAIN_SERVER, 500, "Internal Server Error", (502, "upstream_error", "")),
        (MINDIE, 422, {"error": "bad n", "error_type": "Input validation error"}, (400, None, "bad n")),
        (MINDIE, 422, {"error": "Model not found", "error_type": "x"}, (404, "model_not_found", "Model not found")),
        (MINDIE, 424, {"error": "dependency", "error_type": "x"}, (502, "upstream_error", "")),
        (LIGHTLLM, 400, {"message": "logit_bias"}, (400, None, "logit_bias")),
        (LIGHTLLM, 503, {"message": "busy"}, (503, "overloaded", "")),
        (XINFERENCE, 500, {"detail": "[address=10.0.0.1:5, pid=7] CUDA out of memory"}, (502, "upstream_error", "")),
        (XINFERENCE, 400, {"detail": "[address=10.0.0.1:5, pid=7] no chat"}, (400, None, "no chat")),
        (
            AZURE,
            404,
            {"error": {"code": "DeploymentNotFound", "message": "The API deployment"}},
            (404, "model_not_found", ""),
        ),
        (AZURE, 401, {"error": {"code": "PermissionDenied", "message": "x"}}, (502, "upstream_auth_failed", "")),
        (
            AZURE,
            400,
            {"error": {"code": "content_filter", "message": "filtered", "innererror": {"content_filter_result": {}}}},
            (400, "content_filter", "filtered"),
        ),
    ],
)
def test_an_error_is_read_in_the_shape_of_its_server(
    provider: Provider, status: int, body: Any, expected: tuple[int, str | None, str]
) -> None:
    raw = body.encode() if isinstance(body, str) else orjson.dumps(body)
    fault = provider.failure(target(), status, {}, raw)
    assert (fault.status, fault.code) == expected[:2]
    assert expected[2] in fault.message
    assert "10.0.0.1" not in fault.message
    assert "pid" not in fault.message


def test_completions_and_embeddings_pass_as_they_are() -> None:
    call = decode({"model": "alias-1", "prompt": "Once", "user": "u"}, "completion")
    made = PLAIN_SERVER.request(call, target(), MOMENT)
    assert made.url.endswith("/v1/completions")
    assert orjson.loads(made.body) == {"model": "qwen3", "prompt": "Once"}
    assert made.dropped == ("user",)
    call = decode({"model": "alias-1", "input": ["a"], "encoding_format": "base64"}, "embedding")
    made = PLAIN_SERVER.request(call, target(), MOMENT)
    assert made.url.endswith("/v1/embeddings")
    answer = b'{"object":"list","model":"m","data":[{"embedding":"AAAA","index":0}],"usage":{"prompt_tokens":1}}'
    shown, metadata = PLAIN_SERVER.relay_body(call, target(), MOMENT, answer, {})
    assert orjson.loads(shown)["model"] == "alias-1"
    assert metadata.usage is not None


def test_a_server_may_have_every_trait_at_once() -> None:
    """No two rules stand in each other's way."""
    traits = Traits(joins_text=True, fills_content=True, inlines_images=True, switches_thinking=True, max_stop=1)
    server = OpenAITranslated(name="odd", title="Odd", traits=traits)
    made = sent(server, chat(stop=["a", "b"], reasoning_effort="high", thinking={"type": "disabled"}))
    assert made["stop"] == ["a"]
    assert made["chat_template_kwargs"] == {"enable_thinking": False}
