"""A streamed or whole answer on its way through: model renamed, usage learned and hidden, nothing broken relayed."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.call import Call, Finish
from gateway.protocol.dialects.openai.passthrough import EventRelay, relay_whole_body
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.usage import from_openai
from tests.fakes.memory import DONE, USAGE, USAGE_CHUNK, WHOLE_ANSWER, WHOLE_STREAM, chat, chunk, data_of, decode, event

FIXTURES = Path(__file__).parents[4] / "fixtures"
ASKS = chat(stream=True, usage=True)
SILENT = chat(stream=True)


def relayed(call: Call, pieces: list[bytes]) -> tuple[bytes, EventRelay]:
    relay = EventRelay(call)
    out = b"".join(relay.feed(piece) for piece in pieces)
    return (out + relay.finish()).removesuffix(DONE), relay


def data(call: Call, *events: bytes) -> list[Any]:
    return data_of(relayed(call, [b"".join(events)])[0])


def models(events: list[Any]) -> set[Any]:
    return {chunk["model"] for chunk in events if "model" in chunk}


TOOL_CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x":'}}
STREAMS = {
    "a plain answer": b"".join(WHOLE_STREAM),
    "CR LF": b"".join(WHOLE_STREAM).replace(b"\n", b"\r\n"),
    "a byte order mark and comments": b"\xef\xbb\xbf: hello\n\n" + b"".join(WHOLE_STREAM),
    "Chinese, and a model that occurs in the text": event(chunk('你好 "model":"private"'))
    + event(chunk(finish="stop"))
    + DONE,
    "tool calls": event(chunk(choices=[{"index": 0, "delta": {"tool_calls": [TOOL_CALL]}, "finish_reason": None}]))
    + event(chunk(finish="tool_calls"))
    + DONE,
    "usage in the last chunk": event(chunk("a")) + event(chunk(finish="stop", usage=USAGE)) + DONE,
    "data in two lines": b'data: {"id":"1","model":"private",\ndata: "choices":[]}\n\n'
    + event(chunk(finish="stop"))
    + DONE,
    "no [DONE]": event(chunk("a")) + event(chunk(finish="stop")) + event(USAGE_CHUNK),
}


@pytest.mark.parametrize("call", [ASKS, SILENT], ids=["asks for usage", "does not ask"])
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_every_cut_in_two_relays_the_same_bytes(stream: bytes, call: Call) -> None:
    whole, relay = relayed(call, [stream])
    assert models(data_of(whole)) == {"public"}
    assert b"private" not in whole.replace(rb"\"private\"", b"")
    assert relay.is_done
    for at in range(len(stream) + 1):
        cut, again = relayed(call, [stream[:at], stream[at:]])
        assert cut == whole, f"cut at {at}"
        assert again.metadata == relay.metadata, f"cut at {at}"


@given(st.sampled_from(sorted(STREAMS)), st.data())
def test_any_chunking_relays_the_same_bytes(name: str, data: st.DataObject) -> None:
    stream = STREAMS[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert relayed(SILENT, pieces)[0] == relayed(SILENT, [stream])[0]


def test_only_whole_events_leave_and_never_the_terminal_one() -> None:
    relay = EventRelay(SILENT)
    first = event(chunk("Hel"))
    assert relay.feed(first[:-1]) == b""
    assert relay.feed(first[-1:]).endswith(b"\n\n")
    assert relay.feed(event(chunk(finish="stop"))) != b""
    assert relay.feed(DONE) == b""
    assert relay.is_done


@pytest.mark.parametrize(
    "text",
    [
        b'{"id":"1","model":"private","choices":[]}',
        b'{"id":"1","model": "private","choices":[]}',
        b'{"id":"1" , "model" : "private" , "choices":[]}',
        b'{"id":"1","model":"private","choices":[],"inner":{"model":"private"}}',
        b'{"id":"1","model":"priv\\u0061te","choices":[]}',
        b'{"id":"1","\\u006dodel":"private","choices":[]}',
        b'{"id":"1","model":"","choices":[]}',
        b'{"id":"1","model":"another","choices":[]}',
        b'{"id":"1","model":7,"choices":[]}',
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_the_public_name_stands_in_every_event_however_the_upstream_writes_it(text: bytes, is_first: bool) -> None:
    events = data(ASKS, *([] if is_first else [event(chunk("a"))]), event(text), event(chunk(finish="stop")), DONE)
    assert models(events) == {"public"}


def test_a_remembered_spelling_is_not_taken_for_the_member_of_an_inner_object() -> None:
    odd = b'{"id":"1","model" : "private-2","choices":[],"inner":{"model":"private"}}'
    events = data(ASKS, event(chunk("a")), event(odd), event(chunk(finish="stop")), DONE)
    assert models(events) == {"public"}
    assert events[1]["inner"] == {"model": "private"}


def test_events_without_a_model_pass_as_they_are() -> None:
    text = b'{"id":"1",  "choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}'
    assert relayed(ASKS, [event(text), DONE])[0] == event(text)


def test_an_upstream_that_has_the_public_name_is_relayed_byte_for_byte() -> None:
    stream = b"".join(WHOLE_STREAM[:-1]).replace(b"private", b"public")
    assert relayed(ASKS, [stream, DONE])[0] == stream


def test_usage_is_shown_to_a_client_that_asked() -> None:
    assert data(ASKS, *WHOLE_STREAM)[-1]["usage"] == USAGE


def test_usage_is_learned_and_hidden_from_a_client_that_did_not_ask() -> None:
    out, relay = relayed(SILENT, list(WHOLE_STREAM))
    assert b"usage" not in out
    assert len(data_of(out)) == 3
    assert relay.metadata.raw_usage == USAGE
    assert relay.metadata.usage is not None
    assert relay.metadata.usage.total_input == 7


@pytest.mark.parametrize("usage", [None, USAGE])
def test_usage_beside_content_is_taken_out_and_the_content_kept(usage: Any) -> None:
    events = data(SILENT, event(chunk("Hi", usage=usage)), event(chunk(finish="stop")), DONE)
    assert "usage" not in events[0]
    assert events[0]["choices"][0]["delta"] == {"content": "Hi"}
    assert models(events) == {"public"}


def test_usage_null_on_every_chunk_is_kept_for_a_client_that_asked() -> None:
    assert data(ASKS, event(chunk("Hi", usage=None)), *WHOLE_STREAM[2:])[0]["usage"] is None


def test_the_last_usage_counts() -> None:
    early = {"prompt_tokens": 7, "completion_tokens": 1}
    _, relay = relayed(SILENT, [event(chunk("a", usage=early)), *WHOLE_STREAM[1:]])
    assert relay.metadata.raw_usage == USAGE


def test_facts_are_learned_from_the_first_words() -> None:
    _, relay = relayed(SILENT, [event(chunk("a", service_tier="flex")), *WHOLE_STREAM[1:]])
    metadata = relay.metadata
    assert (metadata.upstream_id, metadata.model, metadata.service_tier) == (
        "chatcmpl-1",
        "private",
        "flex",
    )


@pytest.mark.parametrize(
    "after", [DONE, DONE * 3, event(chunk("too late")), event(b"{broken"), event({"error": {"message": "x"}})]
)
def test_whatever_follows_the_end_is_dropped(after: bytes) -> None:
    expected = relayed(SILENT, list(WHOLE_STREAM))[0]
    assert relayed(SILENT, [b"".join(WHOLE_STREAM) + after])[0] == expected
    relay = EventRelay(SILENT)
    relay.feed(b"".join(WHOLE_STREAM))
    assert relay.feed(after) == b""


def test_a_stream_that_ends_after_its_finish_reason_is_complete_without_done() -> None:
    out, relay = relayed(SILENT, list(WHOLE_STREAM[:-1]))
    assert relay.is_done
    assert out == relayed(SILENT, list(WHOLE_STREAM))[0]


def test_a_last_event_without_its_empty_line_is_relayed() -> None:
    out, relay = relayed(SILENT, [event(chunk("a")), event(chunk(finish="stop")).rstrip(b"\n")])
    assert relay.is_done
    assert data_of(out)[-1]["choices"][0]["finish_reason"] == "stop"


CUT = {
    "nothing at all": b"",
    "comments only": b": ping\n\n",
    "in the middle of the answer": b"".join(WHOLE_STREAM[:2]),
    "in the middle of an event": b"".join(WHOLE_STREAM)[:250],
    "one of two choices unfinished": event(chunk("a")) + event(chunk("b", index=1)) + event(chunk(finish="stop")),
    "usage without a finish reason": event(chunk("a")) + event(USAGE_CHUNK),
}


@pytest.mark.parametrize("stream", CUT.values(), ids=CUT.keys())
def test_a_cut_stream_is_never_taken_for_a_complete_one(stream: bytes) -> None:
    with pytest.raises(UpstreamFault) as broken:
        relayed(SILENT, [stream])
    assert broken.value.finish == Finish.UPSTREAM_BROKEN


def test_a_stream_cut_before_the_second_of_two_asked_choices_began_is_not_complete() -> None:
    with pytest.raises(UpstreamFault):
        relayed(chat(stream=True, n=2), [event(chunk("a")), event(chunk(finish="stop"))])


def test_two_choices_that_both_finished_are_complete() -> None:
    events = [chunk("a"), chunk("b", index=1), chunk(finish="stop", index=1), chunk(finish="length")]
    _, relay = relayed(chat(stream=True, n=2), [event(value) for value in events])
    assert relay.is_done


BROKEN = {
    "half a JSON": b"{broken",
    "plain text": b"upstream http://10.0.0.1 died",
    "an array": b"[]",
    "a number": b"7",
    "null": b"null",
    "bad UTF-8": b'{"x":"\xff"}',
    "an error object": b'{"error":{"message":"sk-proj-AbCdEf1234567890AbCdEf","code":500}}',
    "an error text": b'{"error":"boom"}',
    "an error beside choices": b'{"choices":[],"error":{"message":"boom"}}',
    "an error event's data": b'{"error":true}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_no_chunk_breaks_the_stream_and_repeats_no_secret(text: bytes, is_first: bool) -> None:
    relay = EventRelay(SILENT)
    if not is_first:
        relay.feed(event(chunk("a")))
    with pytest.raises(UpstreamFault) as broken:
        relay.feed(event(text))
    assert broken.value.finish in {Finish.UPSTREAM_BROKEN, Finish.UPSTREAM_ERROR}
    assert not any(word in broken.value.message for word in ("sk-proj-AbCdEf1234567890AbCdEf", "10.0.0.1"))


def test_a_too_long_input_is_told_by_an_error_in_the_stream() -> None:
    with pytest.raises(UpstreamFault) as broken:
        EventRelay(SILENT).feed(event({"error": {"message": "x", "code": "context_length_exceeded"}}))
    assert (broken.value.status, broken.value.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize("usage", [{}, {"usage": None}], ids=["no usage", "null usage"])
@pytest.mark.parametrize("text", ["a", "word " * 40, "你好"])
def test_output_is_estimated_as_it_goes_by(text: str, usage: Any) -> None:
    relay = EventRelay(SILENT)
    relay.feed(event(chunk(text, **usage)))
    assert 1 <= relay.metadata.output_estimate <= len(text) * 2 + 1
    assert relay.metadata.usage is None


def test_reasoning_refusals_and_tool_arguments_count_as_output() -> None:
    for delta in (
        {"reasoning_content": "x" * 400},
        {"refusal": "x" * 400},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "x" * 400}}]},
    ):
        relay = EventRelay(SILENT)
        relay.feed(event(chunk(choices=[{"index": 0, "delta": delta}])))
        assert relay.metadata.output_estimate >= 100


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2), st.sampled_from(["", "x", "stop"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(["index", "delta", "message", "text", "tool_calls", "function", "usage", "finish_reason"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
KEYS = ("id", "model", "choices", "usage", "service_tier", "error", "object")
LIES = st.fixed_dictionaries({}, optional={**dict.fromkeys(KEYS, JSON), "choices": st.lists(JSON, max_size=2)})


@given(st.lists(LIES, min_size=1, max_size=3))
def test_an_upstream_that_lies_about_its_types_causes_no_internal_error(chunks: list[dict[str, Any]]) -> None:
    relay = EventRelay(SILENT)
    try:
        for value in chunks:
            for line in relay.feed(event(value)).split(b"\n\n"):
                assert line == b"" or orjson.loads(line.removeprefix(b"data: ")) is not None
        relay.finish()
    except UpstreamFault:
        pass


@pytest.mark.parametrize("tool_calls", [7, True, "x", {"function": 1}, [None], [{"function": 7}]])
def test_tool_calls_of_a_wrong_type_cause_no_internal_error(tool_calls: Any) -> None:
    choice = {"index": 0, "delta": {"tool_calls": tool_calls}}
    assert EventRelay(SILENT).feed(event(chunk(choices=[choice])))
    relay_whole_body(chat(), orjson.dumps({"choices": [{"message": {"tool_calls": tool_calls}}]}), "choices")


# Whole answers


def test_a_whole_answer_passes_with_the_public_name_and_every_other_byte() -> None:
    body, metadata = relay_whole_body(chat(), WHOLE_ANSWER, "choices")
    assert body == WHOLE_ANSWER.replace(b"private", b"public")
    assert (metadata.upstream_id, metadata.model, metadata.raw_usage) == (
        "chatcmpl-1",
        "private",
        USAGE,
    )


def test_a_whole_answer_that_has_the_public_name_is_the_upstreams_own_bytes() -> None:
    same = WHOLE_ANSWER.replace(b"private", b"public")
    assert relay_whole_body(chat(), same, "choices")[0] is same


@pytest.mark.parametrize("model", [None, "", 7, [], "absent"])
def test_a_whole_answer_without_a_model_gets_the_public_name(model: Any) -> None:
    answer = {"id": "1", "choices": [], **({} if model == "absent" else {"model": model})}
    body, _ = relay_whole_body(chat(), orjson.dumps(answer), "choices")
    assert orjson.loads(body) == {**answer, "model": "public"}


UNUSABLE = {
    "HTML": b"<html>",
    "half a JSON": WHOLE_ANSWER[:-5],
    "nothing": b"",
    "an array": b"[]",
    "no choices": b'{"id":"1"}',
    "choices that are no list": b'{"choices":{}}',
    "an error": b'{"error":{"message":"sk-proj-AbCdEf1234567890AbCdEf"}}',
    "an error beside choices": b'{"choices":[],"error":"sk-proj-AbCdEf1234567890AbCdEf"}',
}


@pytest.mark.parametrize("body", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_whole_answer_that_is_unusable_is_refused_without_its_secrets(body: bytes) -> None:
    with pytest.raises(UpstreamFault) as refused:
        relay_whole_body(chat(), body, "choices")
    assert (refused.value.status, refused.value.finish) == (502, Finish.UPSTREAM_ERROR)
    assert "sk-proj-AbCdEf1234567890AbCdEf" not in refused.value.message


def test_a_null_error_is_no_error() -> None:
    relay_whole_body(chat(), b'{"choices":[],"error":null}', "choices")


def test_output_without_usage_is_estimated_over_all_choices() -> None:
    choices = [{"message": {"content": "x" * 400}}, {"text": "x" * 400}, 7]
    _, metadata = relay_whole_body(chat(), orjson.dumps({"choices": choices}), "choices")
    assert 200 <= metadata.output_estimate <= 210
    embedding = decode({"model": "public", "input": "x"}, "embedding")
    assert relay_whole_body(embedding, b'{"data":[{"text":"x"}]}', "data")[1].output_estimate == 0


@pytest.mark.parametrize("depth", [500, 900, 1000])
def test_an_answer_nested_as_deep_as_can_be_read_causes_no_internal_error(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    body = '{"model":"private","x":{"model":"private"},"choices":[],"deep":%s}' % nested  # noqa: UP031
    try:
        passed, _ = relay_whole_body(chat(), body.encode(), "choices")
    except UpstreamFault:
        return
    assert b'"model":"public"' in passed


# Usage: the client sees the counts that are billed

OTHER_COUNTS: dict[str, dict[str, Any]] = {
    "reasoning beside the output": json.loads((FIXTURES / "usage" / "xai.json").read_text())["usage"],
    "reasoning that only the total holds": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 99},
    "more cached than there is": {
        "prompt_tokens": 10,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 15},
    },
    "a total only": {"total_tokens": 5},
    "nonsense in a detail": {
        "prompt_tokens": 10,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": -3},
    },
}


@pytest.mark.parametrize("usage", OTHER_COUNTS.values(), ids=OTHER_COUNTS.keys())
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_the_client_and_the_row_show_the_same_counts(usage: dict[str, Any], stream: bool) -> None:
    if stream:
        out, relay = relayed(ASKS, [event(chunk("a")), event(chunk(finish="stop", usage=usage)), DONE])
        shown, metadata = data_of(out)[-1]["usage"], relay.metadata
    else:
        answer = {"id": "1", "model": "public", "choices": [], "usage": usage}
        body, metadata = relay_whole_body(ASKS, orjson.dumps(answer), "choices")
        shown = orjson.loads(body)["usage"]
    row = metadata.usage
    assert row is not None
    assert metadata.raw_usage == usage
    assert (shown["prompt_tokens"], shown["completion_tokens"]) == (row.total_input, row.total_output)
    assert shown["total_tokens"] == row.total_input + row.total_output
    assert from_openai(shown) == replace(row, is_inconsistent=False)


def test_details_that_the_gateway_does_not_bill_stay_in_completed_usage() -> None:
    usage = OTHER_COUNTS["reasoning beside the output"]
    shown = data(ASKS, event(chunk(finish="stop", usage=usage)), DONE)[-1]["usage"]
    assert shown["prompt_tokens_details"] == usage["prompt_tokens_details"]
    assert shown["completion_tokens_details"] == usage["completion_tokens_details"]
    assert shown["num_sources_used"] == 0
