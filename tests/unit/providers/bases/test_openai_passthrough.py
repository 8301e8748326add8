"""OpenAIPassthrough: a client's bytes pass through, or the answer is read as events; and the moment's ids."""

import re
from typing import Any

import orjson
import pytest

from gateway.protocol.attempt_context import AttemptContext, Fetched
from gateway.protocol.call import Call
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic import client as anthropic_client
from gateway.protocol.dialects.openai.passthrough import EventRelay
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated
from gateway.protocol.dialects.shared.translate import TranslatedRelay
from gateway.providers.bases.openai_passthrough import OpenAIPassthrough, can_pass
from gateway.providers.registry import PROVIDERS
from tests.fakes.memory import (
    CREDENTIAL,
    DONE,
    USAGE_CHUNK,
    WHOLE_ANSWER,
    WHOLE_STREAM,
    chat,
    chunk,
    data_of,
    decode,
    event,
    target,
)

ID = "01a1f7ee-f382-757a-934c-dda522f02992"
MOMENT = AttemptContext(ID, 1_800_000_000.0)
SERVER = PROVIDERS["openai_compatible"]
READS_CALLS = Capabilities(tool_call_parser="qwen25")
READS_THOUGHTS = Capabilities(think_tags=True)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def message(*, stream: bool = False, **fields: Any) -> Call:
    """A call of a client that speaks Anthropic's dialect."""
    body = {"model": "public", "max_tokens": 50, "messages": [{"role": "user", "content": "say hello"}], **fields}
    return anthropic_client.DIALECT.decode(orjson.dumps(body | ({"stream": True} if stream else {})), Hints())


def answer(content: str) -> bytes:
    whole = orjson.loads(WHOLE_ANSWER)
    whole["choices"][0]["message"]["content"] = content
    return orjson.dumps(whole)


# What passes

OTHERS = [
    decode({"model": "public", "prompt": "x"}, "completion"),
    decode({"model": "public", "input": "x"}, "embedding"),
]


@pytest.mark.parametrize("call", [chat(), chat(stream=True), chat(tools=[WEATHER]), *OTHERS])
def test_a_client_of_the_same_dialect_passes(call: Call) -> None:
    assert can_pass(call, target())


@pytest.mark.parametrize("capabilities", [READS_CALLS, READS_THOUGHTS])
def test_an_answer_whose_text_is_read_does_not(capabilities: Capabilities) -> None:
    assert not can_pass(chat(), target(capabilities=capabilities))


def test_a_client_of_another_dialect_does_not() -> None:
    assert not can_pass(message(), target())


def test_its_bytes_are_the_clients() -> None:
    raw = b'{ "model":"public",\n "messages":[{"role":"user","content":"x"}], "own_number":1.50e+1, "own_field":[1] }'
    made = SERVER.request(decode(raw), target(), MOMENT)
    assert made.body == raw.replace(b'"public"', b'"private"')
    assert made.dropped == ()


def test_an_answer_passes_with_all_that_the_server_says() -> None:
    raw = WHOLE_ANSWER.replace(b'"object"', b'"x_extra":{"a":1},"object"')
    shown, metadata = SERVER.relay_body(chat(), target(), MOMENT, raw, {})
    assert orjson.loads(shown) == {**orjson.loads(raw), "model": orjson.loads(shown)["model"]}
    assert orjson.loads(shown)["x_extra"] == {"a": 1}
    assert metadata.usage is not None


def test_a_stream_passes_or_is_translated() -> None:
    call = chat(stream=True)
    assert isinstance(SERVER.relay(call, target(), MOMENT), EventRelay)
    for mended in (target(capabilities=READS_CALLS), target(capabilities=READS_THOUGHTS)):
        assert isinstance(SERVER.relay(call, mended, MOMENT), TranslatedRelay)
    assert isinstance(SERVER.relay(message(stream=True), target(), MOMENT), TranslatedRelay)


def test_the_translated_server_is_the_same_one() -> None:
    assert isinstance(SERVER, OpenAIPassthrough)
    mended = SERVER.translated()
    assert isinstance(mended, OpenAITranslated)
    for name in ("name", "title", "traits", "operations", "parsers", "think"):
        assert getattr(mended, name) == getattr(SERVER, name)
    assert {"qwen25", "llama3", "mistral"} <= mended.parsers.keys()


# Another dialect's client


@pytest.mark.parametrize(
    "name", sorted(name for name, server in PROVIDERS.items() if type(server) is OpenAIPassthrough)
)
def test_an_anthropic_call_is_sent_as_a_chat_body(name: str) -> None:
    where = target(provider=PROVIDERS[name])
    tool = {"name": "weather", "description": "of a city", "input_schema": {"type": "object"}}
    call = message(system="Be brief.", tools=[tool], stop_sequences=["END"], temperature=0.5)
    made = where.provider.request(call, where, MOMENT)
    assert made.url == "http://first.test/v1/chat/completions"
    assert made.headers["authorization"] == f"Bearer {CREDENTIAL}"
    assert not any(header.startswith("anthropic") for header in made.headers)
    body = orjson.loads(made.body)
    assert body["model"] == "private"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say hello"}]
    assert body["tools"][0]["type"] == "function"
    assert body["tools"][0]["function"]["name"] == "weather"
    assert body["tools"][0]["function"]["parameters"] == {"type": "object"}
    assert body["stop"] in ("END", ["END"])
    assert body["temperature"] == 0.5
    assert 50 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    assert {"system", "stop_sequences", "stream"}.isdisjoint(body)


def test_a_streamed_anthropic_call_asks_for_usage() -> None:
    body = orjson.loads(SERVER.request(message(stream=True), target(), MOMENT).body)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_its_whole_answer_is_a_message() -> None:
    shown, metadata = SERVER.relay_body(message(), target(), MOMENT, WHOLE_ANSWER, {})
    told = orjson.loads(shown)
    assert told["type"] == "message"
    assert told["content"] == [{"type": "text", "text": "Hello"}]
    assert told["stop_reason"] == "end_turn"
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (7, 3)
    assert metadata.upstream_id == "chatcmpl-1"


def test_its_stream_is_a_message() -> None:
    relay = SERVER.relay(message(stream=True), target(), MOMENT)
    shown = b"".join([relay.feed(piece) for piece in WHOLE_STREAM]) + relay.finish()
    kinds = re.findall(rb"event: (\w+)", shown)
    assert kinds[0] == b"message_start"
    assert kinds[-1] == b"message_stop"
    assert shown.count(b"text_delta") == 2
    assert b"[DONE]" not in shown
    assert relay.metadata.usage is not None
    assert relay.metadata.usage.input_tokens == 7


# Text that is read


def test_calls_in_a_whole_answers_text_become_tool_calls() -> None:
    where = target(capabilities=READS_CALLS)
    shown, metadata = SERVER.relay_body(chat(tools=[WEATHER]), where, MOMENT, answer(CALL_TEXT), {})
    choice = orjson.loads(shown)["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert orjson.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert choice["finish_reason"] == "tool_calls"
    assert not choice["message"]["content"]
    assert metadata.usage is not None


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_calls_in_a_streams_text_become_tool_calls_however_it_is_cut(size: int) -> None:
    cut = [event(chunk(CALL_TEXT[start : start + size])) for start in range(0, len(CALL_TEXT), size)]
    relay = SERVER.relay(chat(stream=True, tools=[WEATHER]), target(capabilities=READS_CALLS), MOMENT)
    stream = [*cut, event(chunk(finish="stop")), event(USAGE_CHUNK), DONE]
    shown = b"".join([relay.feed(piece) for piece in stream]) + relay.finish()
    assert b"<tool_call>" not in shown
    choices = [choice for data in data_of(shown) if data != "[DONE]" for choice in data["choices"]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls") or ()]
    assert calls[0]["function"]["name"] == "weather"
    assert calls[0]["id"] == MOMENT.new_id("call_")
    assert orjson.loads("".join(call["function"].get("arguments") or "" for call in calls)) == {"city": "Oslo"}
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert relay.is_done


def test_without_a_parser_the_same_text_is_left_alone() -> None:
    shown, _ = SERVER.relay_body(chat(tools=[WEATHER]), target(), MOMENT, answer(CALL_TEXT), {})
    assert orjson.loads(shown)["choices"][0]["message"]["content"] == CALL_TEXT


def test_thoughts_in_the_text_become_reasoning() -> None:
    where = target(capabilities=READS_THOUGHTS)
    shown, _ = SERVER.relay_body(chat(), where, MOMENT, answer("<think>hm</think>Hello"), {})
    told = orjson.loads(shown)["choices"][0]["message"]
    assert (told["reasoning_content"], told["content"]) == ("hm", "Hello")


def test_an_anthropic_client_gets_calls_in_the_text_as_tool_use() -> None:
    where = target(capabilities=READS_CALLS)
    call = message(tools=[{"name": "weather", "input_schema": {"type": "object"}}])
    shown, _ = SERVER.relay_body(call, where, MOMENT, answer(CALL_TEXT), {})
    told = orjson.loads(shown)
    assert told["stop_reason"] == "tool_use"
    (block,) = [block for block in told["content"] if block["type"] == "tool_use"]
    assert (block["name"], block["input"]) == ("weather", {"city": "Oslo"})


def test_a_parser_of_an_unknown_name_reads_nothing() -> None:
    where = target(capabilities=Capabilities(tool_call_parser="unheard_of"))
    shown, _ = SERVER.relay_body(chat(tools=[WEATHER]), where, MOMENT, answer(CALL_TEXT), {})
    assert orjson.loads(shown)["choices"][0]["message"]["content"] == CALL_TEXT


@pytest.mark.parametrize("capabilities", [READS_CALLS, READS_THOUGHTS])
@pytest.mark.parametrize(
    ("call", "whole"),
    [
        (OTHERS[0], {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "x<think>"}]}),
        (OTHERS[1], {"object": "list", "model": "private", "data": [{"index": 0, "embedding": [0.5]}]}),
    ],
)
def test_what_is_no_chat_passes_even_where_text_is_read(
    call: Call, whole: dict[str, Any], capabilities: Capabilities
) -> None:
    where = target(capabilities=capabilities)
    shown, _ = SERVER.relay_body(call, where, MOMENT, orjson.dumps(whole), {})
    told = orjson.loads(shown)
    for name in ("choices", "data"):
        assert told.get(name) == whole.get(name)


# The moment


@pytest.mark.parametrize("prefix", ["call_", "msg_", ""])
def test_an_id_is_its_prefix_and_hexadecimal_digits(prefix: str) -> None:
    assert re.fullmatch(prefix + "[0-9a-f]{24}", MOMENT.new_id(prefix))
    assert re.fullmatch(prefix + "[0-9a-f]{8}", MOMENT.new_id(prefix, size=8))


def test_an_id_is_the_same_within_an_attempt_and_another_for_anything_else() -> None:
    assert MOMENT.new_id("call_", 3) == AttemptContext(ID, 0.0, token="t").new_id("call_", 3)
    others = [MOMENT.new_id("call_", number)[5:] for number in range(50)]
    others += [MOMENT.new_id("msg_")[4:], AttemptContext("another", MOMENT.at_s).new_id("call_")[5:]]
    assert len(set(others)) == len(others)


def test_an_id_does_not_tell_the_attempts() -> None:
    assert ID[:8] not in MOMENT.new_id("call_")


def test_a_moment_shows_no_token_and_has_fetched_nothing_unless_told() -> None:
    context = AttemptContext(ID, 0.0, token="secret-token")
    assert "secret-token" not in repr(context)
    assert MOMENT.token == ""
    assert MOMENT.fetched == {}
    fetched = {"http://x.test/a.png": Fetched("image/png", "AAAA")}
    assert AttemptContext(ID, 0.0, fetched=fetched).fetched == fetched
