"""A request whose bytes pass: only what breaks a rule of the server is changed, and what is lost is named."""

from typing import Any

import orjson
import pytest

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.openai.passthrough import EventRelay
from gateway.protocol.dialects.openai.passthrough_edits import Edits, edits_of
from gateway.protocol.dialects.openai.upstream_request import OPENAI, OPENAI_ONLY, PLAIN, Traits
from gateway.protocol.dialects.shared.translate import TranslatedRelay
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.body import ABSENT
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.providers.bases.openai_passthrough import OpenAIPassthrough, can_pass
from gateway.providers.registry import PROVIDERS
from tests.fakes.memory import DONE, chat, chunk, data_of, decode, event, target

MOMENT = AttemptContext("01a1f7ee-f382-757a-934c-dda522f02992", 1_800_000_000.0)
PASSING = sorted(
    name for name, server in PROVIDERS.items() if isinstance(server, OpenAIPassthrough) and server.name != "mock"
)
TOOL = {"type": "function", "function": {"name": "f"}}
USER = {"role": "user", "content": "x"}


def at(provider: str = "openai", **changes: Any) -> Target:
    flags = {name: changes.pop(name) for name in list(changes) if hasattr(Capabilities, name)}
    return target(provider=PROVIDERS[provider], capabilities=Capabilities(**flags), **changes)


def request(call: Call, where: Target) -> UpstreamRequest:
    return where.provider.request(call, where, MOMENT)


def sent(call: Call, where: Target) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(request(call, where).body)
    return body


@pytest.mark.parametrize("name", PASSING)
def test_a_request_that_breaks_no_rule_goes_byte_for_byte(name: str) -> None:
    raw = (
        b'{ "model":"private",\n "temperature":1.0, "max_tokens": 5, "stop":["a"], "seed":null, "own_field":[1.50e+1],'
        b' "tools":[{"type":"function","function":{"name":"f"}}], "messages":[{"role":"system","content":"S"},'
        b'{"role":"user","content":[{"type":"text","text":"\\u4f60"}]}] }'
    )
    made = request(decode(raw), at(name))
    assert made.body == raw
    assert made.dropped == ()


@pytest.mark.parametrize("name", PASSING)
def test_an_embedding_goes_byte_for_byte(name: str) -> None:
    raw = b'{"model":"private", "input" : ["a"],"dimensions":8}'
    assert request(decode(raw, "embedding"), at(name)).body == raw


@pytest.mark.parametrize("name", [name for name in PASSING if name != "openai"])
def test_a_developer_is_told_as_the_system(name: str) -> None:
    messages = [{"role": "developer", "content": "D"}, USER]
    assert sent(chat(messages=messages), at(name))["messages"] == [{"role": "system", "content": "D"}, USER]


def test_what_the_gateway_added_to_messages_is_taken_out_again() -> None:
    messages = [USER, {"role": "assistant", "content": "a", "thinking_blocks": [], "reasoning_content": "hm"}]
    kept = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    assert sent(chat(messages=messages), at("deepseek"))["messages"] == [USER, kept]
    assert sent(chat(messages=messages), at("groq"))["messages"] == [USER, {"role": "assistant", "content": "a"}]


def test_a_function_keeps_its_name_where_names_are_unknown() -> None:
    messages = [{"role": "function", "name": "f", "content": "1"}, {"role": "user", "name": "ann", "content": "x"}]
    assert sent(chat(messages=messages), at("lm_studio"))["messages"] == [messages[0], USER]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"max_tokens": 5}, {"max_completion_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_completion_tokens": 6}),
        ({"max_tokens": 500}, {"max_completion_tokens": 100}),
        ({"max_tokens": None}, {"max_tokens": None}),
    ],
)
def test_a_reasoning_model_knows_the_limit_by_its_newer_name(given: dict[str, Any], left: dict[str, Any]) -> None:
    made = sent(chat(**given), at(reasoning_model=True, max_output_tokens=100))
    assert {name: value for name, value in made.items() if name not in {"model", "messages"}} == left


def test_a_deployments_own_parameters_obey_the_rules_too() -> None:
    where = at(reasoning_model=True, sampling="none", parameters={"max_tokens": 7, "temperature": 0.5})
    made = request(chat(), where)
    assert orjson.loads(made.body) == {**chat().body, "model": "private", "max_completion_tokens": 7}
    assert made.dropped == ("temperature",)


def test_default_values_that_are_left_out_are_worth_no_word() -> None:
    made = request(chat(temperature=1, top_p=0.5), at(sampling="none"))
    assert made.dropped == ("top_p",)
    assert orjson.loads(made.body).keys() == {"model", "messages"}


@pytest.mark.parametrize("lonely", [{"parallel_tool_calls": True}, {"tool_choice": "auto"}, {"tools": []}])
def test_nothing_of_tools_goes_without_tools(lonely: dict[str, Any]) -> None:
    made = request(chat(**lonely), at())
    assert orjson.loads(made.body).keys() == {"model", "messages"}
    assert made.dropped == ()


def test_a_deployment_without_parallel_tools_is_not_told_of_them() -> None:
    made = request(chat(tools=[TOOL], parallel_tool_calls=False), at(parallel_tools=False))
    assert made.dropped == ("parallel_tool_calls",)


def test_thinking_is_an_effort_for_a_reasoning_model_and_else_nothing() -> None:
    asked = chat(thinking={"type": "enabled", "budget_tokens": 1024})
    assert sent(asked, at(reasoning_model=True))["reasoning_effort"] == "low"
    assert "thinking" not in sent(asked, at(reasoning_model=True))
    assert request(asked, at()).dropped == ("thinking",)
    assert sent(asked, at("deepseek"))["thinking"] == asked.body["thinking"]


@pytest.mark.parametrize("name", sorted(OPENAI_ONLY))
def test_a_field_that_only_openai_knows_stays_there(name: str) -> None:
    value = {"user": "u", "store": True, "metadata": {"a": "b"}, "logit_bias": {"1": 1}}.get(name, "x")
    call = chat(**{name: value})
    assert sent(call, at())[name] == value
    made = request(call, at("openai_compatible"))
    assert name not in orjson.loads(made.body)
    assert made.dropped == (name,)


def test_an_unknown_field_that_is_null_goes_without_a_word() -> None:
    edits = edits_of(chat(user=None, seed=None), target(), PLAIN)
    assert edits == Edits({"user": ABSENT}, {}, ())


def test_metadata_of_the_gateway_alone_is_not_named_as_dropped() -> None:
    made = request(chat(metadata={"tags": ["a"]}), at("openai_compatible"))
    assert made.dropped == ()
    assert "metadata" not in orjson.loads(made.body)


def test_a_deployment_that_wants_nothing_dropped_refuses_the_call() -> None:
    with pytest.raises(BadRequest) as refused:
        request(chat(logit_bias={"1": 1}), at("openai_compatible", on_unsupported="error"))
    assert (refused.value.param, refused.value.code) == ("logit_bias", "unsupported_parameter")
    assert request(chat(user="u"), at("openai_compatible", on_unsupported="error")).dropped == ("user",)


def test_a_limit_that_was_refused_by_one_name_is_told_by_the_other() -> None:
    for refused, other in (("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")):
        made = request(chat(**{refused: 5}), at(unsupported_parameters=frozenset({refused})))
        assert orjson.loads(made.body) == {**chat().body, "model": "private", other: 5}
        assert made.dropped == ()
    made = request(chat(max_tokens=5), at(unsupported_parameters=frozenset({"max_tokens", "max_completion_tokens"})))
    assert not {"max_tokens", "max_completion_tokens"} & orjson.loads(made.body).keys()
    assert len(made.dropped) == 1


# Stop sequences


def test_more_stop_sequences_than_the_server_takes_are_looked_for_here() -> None:
    call = chat(stream=True, stop=["1", "2", "3", "4", "end"])
    where = at()
    assert sent(call, where)["stop"] == ["1", "2", "3", "4"]
    relay = where.provider.relay(call, where, MOMENT)
    assert isinstance(relay, TranslatedRelay)
    shown = b"".join(relay.feed(event(chunk(text))) for text in ("one e", "nd two")) + relay.feed(
        event(chunk(finish="length")) + DONE
    )
    choices = [choice for data in data_of(shown + relay.finish()) if data != "[DONE]" for choice in data["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "one "
    assert choices[-1]["finish_reason"] == "stop"


def test_as_many_as_it_takes_pass() -> None:
    call = chat(stream=True, stop=["1", "2", "3", "4"])
    assert isinstance(at().provider.relay(call, at(), MOMENT), EventRelay)
    assert can_pass(chat(stop=list("abcdef")), target(), Traits())
    assert not can_pass(chat(stop=list("abcde")), target(), OPENAI)
    assert can_pass(decode({"model": "public", "prompt": "x", "stop": list("abcde")}, "completion"), target(), OPENAI)
