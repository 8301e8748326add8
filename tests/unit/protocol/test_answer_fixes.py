"""Habits of servers that clients trip over are put right in answers that pass; all else keeps its bytes."""

from typing import Any

import orjson
import pytest

from gateway.protocol.dialects.openai.passthrough import EventRelay, relay_whole_body
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.open_text import is_open
from tests.fakes.memory import DONE, USAGE_CHUNK, WHOLE_ANSWER, chat, chunk, data_of, event

CALL = chat(stream=True, usage=True)


def said(delta: Any, finish: Any = None, index: int = 0, **others: Any) -> bytes:
    return event(chunk(choices=[{"index": index, "delta": delta, "finish_reason": finish}], **others))


def called(arguments: str | None, index: int = 0, **others: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}, **others}]}


def relayed(*events: bytes) -> bytes:
    relay = EventRelay(CALL)
    return b"".join(relay.feed(one) for one in events)


def choices(*events: bytes) -> list[Any]:
    return [choice for data in data_of(relayed(*events)) for choice in data["choices"]]


def deltas(*events: bytes) -> list[Any]:
    return [choice["delta"] for choice in choices(*events)]


# Streams


@pytest.mark.parametrize(
    "delta",
    [
        {"role": "assistant", "content": "x"},
        {"content": "x"},
        {"content": None, "reasoning": None, "refusal": None, "tool_calls": None},
        {"reasoning_content": "hm"},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"reasoning": {"text": "hm"}},
        {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": {}},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {},
    ],
)
def test_what_is_right_keeps_its_bytes(delta: dict[str, Any]) -> None:
    """Odd spacing included."""
    raw = event(chunk(model="public", choices=[{"index": 0, "delta": delta, "finish_reason": None}]))
    raw = raw.replace(b',"', b' , "')
    assert relayed(raw) == raw


def test_reasoning_is_told_by_its_name() -> None:
    said_so = {"role": "assistant", "reasoning": "hm", "content": ""}
    assert deltas(said(said_so)) == [{**said_so, "reasoning_content": "hm"}]


def test_a_role_stands_once_for_each_choice() -> None:
    first, again = {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}
    shown = deltas(said(first), said(again), said(first, index=1), said(again, index=1))
    assert shown == [first, {"content": "b"}, first, {"content": "b"}]
    assert deltas(said({"content": ""}), said(first)) == [{"content": ""}, first], "a late role is not lost"


@pytest.mark.parametrize("role", ['"role":"assistant",', '"role": "assistant", ', '"role" : "assistant" , '])
def test_a_repeated_role_goes_and_every_other_byte_stays(role: str) -> None:
    shape = b'{"id":"1","model":"public","choices":[{"index":0,"delta":{%s"content":"\\u4f60"},"finish_reason":null}]}'
    first, again = event(shape % role.encode()), event(shape % role.encode())
    shown = relayed(first, again)
    if " : " in role:  # where its place is not certain the event is encoded anew
        assert data_of(shown)[1]["choices"][0]["delta"] == {"content": "你"}
    else:
        assert shown == first + event(shape % b"")


def test_a_role_in_the_text_is_no_role() -> None:
    text = 'say "role":"assistant", twice'
    first = said({"role": "assistant", "content": "a"})
    assert deltas(first, said({"content": text, "role": "assistant"}))[1] == {"content": text}
    assert deltas(first, said({"role": "assistant", "x": {"role": "assistant", "y": 1}}))[1] == {
        "x": {"role": "assistant", "y": 1}
    }


def test_what_is_empty_is_none() -> None:
    assert choices(said({"content": "a", "tool_calls": []}, "")) == [
        {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
    ]
    assert deltas(said(None)) == [{}]


def test_an_empty_finish_reason_ends_nothing() -> None:
    relay = EventRelay(CALL)
    relay.feed(said({"content": "a"}, ""))
    with pytest.raises(UpstreamFault) as cut:
        relay.finish()
    assert cut.value.code == "upstream_incomplete_stream"


@pytest.mark.parametrize(
    ("told", "shown"), [("stop", "tool_calls"), ("tool_calls", "tool_calls"), ("length", "length")]
)
def test_who_calls_has_not_just_stopped(told: str, shown: str) -> None:
    events = [said(called("{}", id="1")), said({}, told), said({}, "stop", index=1)]
    assert [choice["finish_reason"] for choice in choices(*events)] == [None, shown, "stop"]


def test_a_call_without_arguments_has_an_empty_object_before_it_ends() -> None:
    events = [said(called("")), said(called(None, index=1)), said(called('{"a":1}', index=2)), said({}, "tool_calls")]
    filled = [{"index": number, "function": {"arguments": "{}"}} for number in (0, 1)]
    assert choices(*events)[-1] == {"index": 0, "delta": {"tool_calls": filled}, "finish_reason": "tool_calls"}


def test_a_mended_event_has_the_public_name_and_hides_usage() -> None:
    relay = EventRelay(chat(stream=True))
    shown = relay.feed(said({"reasoning": "hm"}, usage={"prompt_tokens": 1, "completion_tokens": 1}))
    (only,) = data_of(shown)
    assert only["model"] == "public"
    assert only["choices"][0]["delta"]["reasoning_content"] == "hm"
    assert "usage" not in only
    assert data_of(relayed(said({"reasoning": "hm"})))[0]["model"] == "public"


def test_reasoning_by_two_names_is_counted_once() -> None:
    one, two = EventRelay(CALL), EventRelay(CALL)
    one.feed(said({"reasoning": "x" * 400}))
    two.feed(said({"reasoning": "x" * 400, "reasoning_content": "x" * 400}))
    assert one.metadata.output_estimate == two.metadata.output_estimate == 100


def test_a_marker_does_not_complete_a_call_that_is_open() -> None:
    relay = EventRelay(CALL)
    relay.feed(said(called('{"a": "x')) + event(USAGE_CHUNK))
    with pytest.raises(UpstreamFault) as cut:
        relay.feed(DONE)
    assert cut.value.code == "upstream_incomplete_stream"


@pytest.mark.parametrize(
    "events", [said(called('{"a":1}')), said(called('{"a')) + said({}, "length"), said({"content": "{"})]
)
def test_a_marker_completes_what_is_whole_or_says_why_not(events: bytes) -> None:
    relay = EventRelay(CALL)
    relay.feed(events + DONE)
    assert relay.is_done


@pytest.mark.parametrize("index", ["0", None, [], {}, 1.5, -1])
def test_an_odd_index_causes_no_internal_error(index: Any) -> None:
    odd = {"index": index, "delta": called("{}", index=index), "finish_reason": "stop"}
    assert relayed(event(chunk(choices=[odd])), event(chunk(choices=[odd])))


# Errors


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"code": 503, "message": "EngineCore overloaded"}, 503, "overloaded"),
        ({"code": "503", "message": "x"}, 503, "overloaded"),
        ({"code": 429, "message": "slow down"}, 429, "rate_limit_exceeded"),
        ({"code": "insufficient_quota", "message": "x"}, 429, "insufficient_quota"),
        ({"code": 400, "message": "This model's maximum context length is 8"}, 400, "context_length_exceeded"),
        ({"message": "prompt is too long: 9 tokens"}, 400, "context_length_exceeded"),
        ("prompt is too long: 9 tokens", 400, "context_length_exceeded"),
        ({"code": 400, "message": "bad"}, 400, None),
        ({"code": "content_filter", "message": "x"}, 400, "content_filter"),
        ({"code": 401, "message": "sk-secretsecret"}, 502, "upstream_auth_failed"),
        ({"code": 500, "message": "x"}, 502, "upstream_error"),
        ({"code": 504, "message": "x"}, 504, "upstream_timeout"),
        ({"code": 200, "message": "x"}, 502, "upstream_error"),
        ({"code": True, "message": []}, 502, "upstream_error"),
        ({"code": "²²²"}, 502, "upstream_error"),
        (7, 502, "upstream_error"),
    ],
)
def test_an_error_in_an_answer_has_its_class(error: Any, status: int, code: str | None) -> None:
    with pytest.raises(UpstreamFault) as streamed:
        relayed(event({"error": error}))
    with pytest.raises(UpstreamFault) as whole:
        relay_whole_body(chat(), orjson.dumps({"error": error}), "choices")
    for fault in (streamed.value, whole.value):
        assert (fault.status, fault.code) == (status, code)
        assert "secret" not in fault.message


def test_the_text_of_a_class_is_shown_without_addresses() -> None:
    with pytest.raises(UpstreamFault) as told:
        relayed(event({"error": {"code": 400, "message": "bad seed at http://10.0.0.1/v1"}}))
    assert told.value.message == "bad seed at [upstream]"


def test_an_error_without_a_wrapper_is_one() -> None:
    with pytest.raises(UpstreamFault) as told:
        relayed(event({"object": "error", "message": "busy", "type": "E", "code": 503}))
    assert told.value.code == "overloaded"


# Whole answers


def whole(message: dict[str, Any], finish: Any = "stop", **others: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return orjson.dumps({**orjson.loads(WHOLE_ANSWER), "choices": [choice], **others})


TOOL_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("given", "shown", "finish"),
    [
        (({"content": "x", "reasoning": "hm"}, "stop"), {"reasoning_content": "hm"}, "stop"),
        (({"content": None, "tool_calls": [TOOL_CALL]}, "stop"), {"tool_calls": [TOOL_CALL]}, "tool_calls"),
        (({"content": None, "tool_calls": [TOOL_CALL]}, ""), {"tool_calls": [TOOL_CALL]}, "tool_calls"),
        (({"content": "x", "tool_calls": []}, ""), {"tool_calls": None}, "stop"),
    ],
)
def test_a_whole_answer_is_mended_too(given: Any, shown: dict[str, Any], finish: str) -> None:
    body, _ = relay_whole_body(chat(), whole(*given, big=10**18), "choices")
    told = orjson.loads(body)
    assert {name: told["choices"][0]["message"].get(name) for name in shown} == shown
    assert told["choices"][0]["finish_reason"] == finish
    assert (told["model"], told["big"]) == ("public", 10**18)


@pytest.mark.parametrize("finish", ["length", "tool_calls", None])
def test_a_whole_answer_that_is_right_is_the_upstreams_own_bytes(finish: Any) -> None:
    body = whole({"content": None, "tool_calls": [TOOL_CALL]}, finish, model="public")
    assert relay_whole_body(chat(), body, "choices")[0] is body


# JSON that breaks off


@pytest.mark.parametrize("text", ["", " ", "{}", '{"a": "}{[\\""}', "[[{}]]", '"x"', "nonsense", "}{"])
def test_what_is_closed_is_not_open(text: str) -> None:
    assert not is_open(text)


@pytest.mark.parametrize("text", ["{", '{"a', '{"a":[1', '{"a":"x}', '{"a":"\\"}', '{"a":"x\\', '["'])
def test_what_breaks_off_is_open(text: str) -> None:
    assert is_open(text)
