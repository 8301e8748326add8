"""A stream that another upstream goes on with: the client reads its whole text exactly once, wherever it broke."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.answer import StreamRelay, Transcript
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.continuation import (
    MAX_TEXT_CHARS,
    JoinedRelay,
    NotedRelay,
    PlainText,
    Seam,
    continue_call,
    read_stops,
)
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.large_body import LargeBody
from gateway.protocol.provider import Target
from gateway.protocol.usage import NO_USAGE, Usage
from tests.fakes import anthropic
from tests.fakes.memory import DONE, chat, chunk, data_of, event, target

FIRST, SECOND = AttemptContext("first", 1_800_000_000), AttemptContext("second", 1_900_000_000)
COMMENT = b": tollgate continued on second\n\n"
FIRST_USAGE = Usage(input_tokens=11, cache_read_tokens=5, output_tokens=7)
#: Characters of one to four bytes, some that JSON escapes, and white space, at which a prefill is cut.
TEXTS = st.text(st.sampled_from('ab ,"\\\n\t/é\u2028€漢🙂\u00a0'), max_size=12)
CALLS = {
    "chat": chat(stream=True, usage=True),
    "messages": anthropic.messages_call({"stream": True}),
}
TARGETS = {"chat": target(), "messages": anthropic.target()}


def answer(wire: str, pieces: Sequence[str], *, is_escaped: bool = False) -> bytes:
    """The stream of an upstream whose answer has these pieces of text."""
    if wire == "chat":
        usage = {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        chunks = [chunk(choices=[role]), *map(chunk, pieces), chunk(finish="stop"), chunk(choices=[], usage=usage)]
        return b"".join(event(json.dumps(one, ensure_ascii=is_escaped).encode()) for one in chunks) + DONE
    text = [{"type": "text_delta", "text": piece} for piece in pieces]
    stream = anthropic.begin(input_tokens=20, output_tokens=1) + anthropic.event("ping")
    stream += anthropic.block(0, {"type": "text", "text": ""}, *text)
    stream += anthropic.event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4})
    stream += anthropic.event("message_stop")
    return escape(stream) if is_escaped else stream


def escape(stream: bytes) -> bytes:
    """JSON within a stream, each character beyond ASCII as an escape."""
    return "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in stream.decode()).encode()


def relay_of(call: Call, upstream: Target, context: AttemptContext) -> StreamRelay:
    return upstream.provider.relay(call, upstream, context)


def feed(relay: StreamRelay, data: bytes, cuts: Sequence[int] = ()) -> bytes:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return b"".join(relay.feed(data[start:end]) for start, end in pairwise(places))


@dataclass(frozen=True, slots=True)
class Broken:
    """A stream that broke: what the client has of it, and its transcript."""

    call: Call
    sent: bytes
    transcript: Transcript

    def go_on(self, wire: str, stream: bytes, usage: Usage = FIRST_USAGE, cuts: Sequence[int] = ()) -> bytes:
        """All that the client reads where this stream follows."""
        relay = JoinedRelay(relay_of(self.call, TARGETS[wire], SECOND), self.transcript.join(usage), COMMENT)
        return self.sent + feed(relay, stream, cuts) + relay.finish()


def break_off(call: Call, wire: str, stream: bytes, cuts: Sequence[int] = ()) -> Broken | None:
    """None where the stream was whole."""
    make = call.dialect.transcripts(call)
    assert make is not None
    transcript = make()
    relay = NotedRelay(relay_of(call, TARGETS[wire], FIRST), transcript)
    sent = feed(relay, stream, cuts)
    try:
        relay.finish()
    except UpstreamFault:
        return Broken(call, sent, transcript)
    return None


def read_chat(stream: bytes) -> str:
    """The text of a chat's stream, every rule of which it keeps."""
    *chunks, last, done = data_of(stream)
    assert done == "[DONE]"
    assert len({(one["id"], one["created"], one["model"]) for one in (*chunks, last)}) == 1
    assert last["choices"] == []
    assert all(one.get("usage") is None for one in chunks)
    assert last["usage"]["prompt_tokens"] == 20 + 16
    assert last["usage"]["completion_tokens"] == 4 + 7
    assert last["usage"]["total_tokens"] == 24 + 23
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 5
    choices = [choice for one in chunks for choice in one["choices"]]
    assert [choice["delta"].get("role") for choice in choices if "role" in choice["delta"]] == ["assistant"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert choices[-1]["finish_reason"] == "stop"
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def read_messages(stream: bytes) -> str:
    """The text of a stream of Messages, every rule of which it keeps."""
    events = [one for one in data_of(stream) if one["type"] != "ping"]
    start, *inner, delta, stop = events
    assert (start["type"], delta["type"], stop["type"]) == ("message_start", "message_delta", "message_stop")
    assert delta["usage"]["input_tokens"] == 20 + 11
    assert delta["usage"]["cache_read_input_tokens"] == 5
    assert delta["usage"]["output_tokens"] == 4 + 7
    text, open_block, begun = "", None, 0
    for one in inner:
        if one["type"] == "content_block_start":
            assert (open_block, one["index"]) == (None, begun)
            open_block, begun = one["index"], begun + 1
            text += one["content_block"]["text"]
        elif one["type"] == "content_block_delta":
            assert one["index"] == open_block is not None
            text += one["delta"]["text"]
        else:
            assert (one["type"], one["index"]) == ("content_block_stop", open_block)
            open_block = None
    assert open_block is None
    return text


READERS = {"chat": read_chat, "messages": read_messages}


def cut_to_pieces(text: str, sizes: Sequence[int]) -> list[str]:
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [piece for piece in (*pieces, text) if piece]


# Every text, every place


@pytest.mark.parametrize("client", ["chat", "messages"])
@pytest.mark.parametrize("first", ["chat", "messages"])
@pytest.mark.parametrize("second", ["chat", "messages"])
@given(data=st.data())
def test_the_client_reads_the_whole_text_once(client: str, first: str, second: str, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(TEXTS.filter(bool), min_size=1, max_size=5))
    stream = answer(first, pieces, is_escaped=data.draw(st.booleans()))
    cuts = st.lists(st.integers(0, 4000), max_size=4)
    end = data.draw(st.integers(0, len(stream)))
    broken = break_off(CALLS[client], first, stream[:end], data.draw(cuts))
    if broken is None or not broken.sent:
        return  # it was whole; or nothing of it has left, and it can be begun anew
    text = broken.transcript.text
    if text is None:
        return  # its end had come: nothing is missing
    whole = "".join(pieces)
    assert whole.startswith(text)
    rest = whole[len(text.rstrip()) :]  # the prefill that the second upstream gets ends there
    following = answer(second, cut_to_pieces(rest, data.draw(st.lists(st.integers(1, 4), max_size=6))))
    joined = broken.go_on(second, following, cuts=data.draw(cuts))
    assert joined.count(COMMENT) == 1
    assert READERS[client](joined) == whole


@pytest.mark.parametrize("client", ["chat", "messages"])
@pytest.mark.parametrize("wire", ["chat", "messages"])
@pytest.mark.parametrize("is_escaped", [False, True])
def test_no_byte_is_a_bad_place_to_break(client: str, wire: str, is_escaped: bool) -> None:
    pieces = ["Grüße \\", '漢🙂" ', "\n\nend"]
    stream = answer(wire, pieces, is_escaped=is_escaped)
    texts = set()
    for end in range(len(stream)):
        broken = break_off(CALLS[client], wire, stream[:end])
        if broken is None or not broken.sent or (text := broken.transcript.text) is None:
            continue
        texts.add(text)
        following = answer(wire, ["".join(pieces)[len(text.rstrip()) :]])
        assert READERS[client](broken.go_on(wire, following)) == "".join(pieces), end
    assert texts | {""} == {"", pieces[0], pieces[0] + pieces[1], "".join(pieces)}


# What is not continued


CHAT_EXTRAS: dict[str, Any] = {
    "a tool call": {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f"}}]},
    "a function call": {"function_call": {"name": "f", "arguments": ""}},
    "reasoning": {"reasoning_content": "hm"},
    "a refusal": {"refusal": "no"},
    "an annotation": {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]},
    "audio": {"audio": {"id": "a"}},
    "content of parts": {"content": [{"type": "text", "text": "x"}]},
}


@pytest.mark.parametrize("delta", CHAT_EXTRAS.values(), ids=CHAT_EXTRAS.keys())
def test_a_chat_that_holds_more_than_text_is_not_continued(delta: dict[str, Any]) -> None:
    extra = {"index": 0, "delta": delta, "finish_reason": None}
    call = CALLS["chat"]
    broken = break_off(call, "chat", event(chunk("before")) + event(chunk(choices=[extra])) + event(chunk("after")))
    assert broken is not None
    assert broken.transcript.text is None


@pytest.mark.parametrize(
    "last",
    [chunk(finish="stop"), chunk("x", finish="length"), chunk(choices=[{"index": 1, "delta": {"content": "x"}}])],
    ids=["ended", "ended with a text", "a second choice"],
)
def test_a_chat_that_has_ended_or_has_more_choices_is_not_continued(last: dict[str, Any]) -> None:
    transcript = _transcript(CALLS["chat"])
    transcript.note(event(chunk("before")) + event(last))
    assert transcript.text is None


def test_log_probabilities_are_not_continued() -> None:
    transcript = _transcript(CALLS["chat"])
    choice = {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [{"token": "x"}]}}
    transcript.note(event(chunk(choices=[choice])))
    assert transcript.text is None


MESSAGES_EXTRAS = {
    "a tool call": anthropic.event("content_block_start", index=1, content_block={"type": "tool_use", "input": {}}),
    "thinking": anthropic.event("content_block_start", index=1, content_block={"type": "thinking", "thinking": ""}),
    "a citation": anthropic.event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": {}}),
    "the end": anthropic.event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 1}),
    "an unknown event": anthropic.event("content_block_paused", index=0),
    "a block out of order": anthropic.event("content_block_start", index=7, content_block={"type": "text", "text": ""}),
}


@pytest.mark.parametrize("extra", MESSAGES_EXTRAS.values(), ids=MESSAGES_EXTRAS.keys())
def test_a_message_that_holds_more_than_text_is_not_continued(extra: bytes) -> None:
    stream = answer("messages", ["before"])
    begun = stream[: stream.index(b"event: content_block_stop")]
    transcript = _transcript(CALLS["messages"])
    transcript.note(begun)
    assert transcript.text == "before"
    transcript.note(extra)
    assert transcript.text is None


def _transcript(call: Call) -> Transcript:
    make = call.dialect.transcripts(call)
    assert make is not None
    return make()


SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
PREFILLED = [anthropic.USER, {"role": "assistant", "content": "Once"}]
REFUSED_CHATS: list[dict[str, Any]] = [
    {"n": 2},
    {"logprobs": True},
    {"response_format": SCHEMA},
    {"response_format": {"type": "json_object"}},
    {"reasoning_effort": "low"},
    {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    {"tool_choice": "required"},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"modalities": ["text", "audio"]},
    {"messages": PREFILLED},
]
REFUSED_MESSAGES: list[dict[str, Any]] = [
    {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    {"thinking": {"type": "adaptive"}},
    {"tool_choice": {"type": "any"}},
    {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
    {"mcp_servers": [{"type": "url", "url": "https://a.example", "name": "a"}]},
    {"messages": PREFILLED},
]


@pytest.mark.parametrize("fields", REFUSED_CHATS, ids=str)
def test_a_chat_whose_answer_is_no_plain_text_has_no_transcript(fields: dict[str, Any]) -> None:
    call = chat(stream=True, **fields)
    assert call.dialect.transcripts(call) is None


@pytest.mark.parametrize("fields", REFUSED_MESSAGES, ids=str)
def test_a_message_whose_answer_is_no_plain_text_has_no_transcript(fields: dict[str, Any]) -> None:
    call = anthropic.messages_call({"stream": True, **fields})
    assert call.dialect.transcripts(call) is None


@pytest.mark.parametrize(
    "fields",
    [{"n": 1}, {"tool_choice": "auto"}, {"response_format": {"type": "text"}}, {"reasoning_effort": "none"}],
    ids=str,
)
def test_fields_that_ask_for_plain_text_hinder_nothing(fields: dict[str, Any]) -> None:
    call = chat(stream=True, **fields)
    assert call.dialect.transcripts(call) is not None


def test_a_long_text_is_not_kept() -> None:
    text = PlainText()
    text.add("a" * MAX_TEXT_CHARS)
    assert text.read() == "a" * MAX_TEXT_CHARS
    text.add("a")
    assert text.read() is None
    text.add("a")
    assert text.read() is None


@pytest.mark.parametrize(("text", "is_continued"), [("so EN", False), ("so E", False), ("so END", True), ("so", True)])
def test_a_text_that_ends_within_a_stop_sequence_is_not_continued(text: str, is_continued: bool) -> None:
    plain = PlainText(read_stops(["END", "\n\n"]))
    plain.add(text)
    assert (plain.read() is not None) is is_continued


def test_a_text_with_endless_stop_sequences_is_not_continued() -> None:
    plain = PlainText(read_stops(["E" * 100_000]))
    plain.add("so E")
    assert plain.read() is None


def test_stop_sequences_are_read_in_each_form() -> None:
    assert read_stops("END") == ("END",)
    assert read_stops(["a", 7, None]) == ("a",)
    assert read_stops(None) == ()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (chat(stream=True, stop=["END"]), lambda text: event(chunk(text))),
        (
            anthropic.messages_call({"stream": True, "stop_sequences": ["END"]}),
            lambda text: anthropic.event("content_block_start", index=0, content_block={"type": "text", "text": text}),
        ),
    ],
    ids=["chat", "messages"],
)
def test_a_later_attempt_knows_the_stop_sequences_without_the_body(call: Call, text: Callable[[str], bytes]) -> None:
    call = replace(call, body=LargeBody(b"not to be parsed anew", dict(call.body)))
    make = call.dialect.transcripts(call)
    assert make is not None
    call.release_body()
    for words, kept in (("so E", None), ("so", "so")):
        transcript = make()
        transcript.note(text(words))
        assert transcript.text == kept


# The joined stream


@pytest.mark.parametrize("client", ["chat", "messages"])
def test_a_continuation_that_is_empty_ends_the_stream_well(client: str) -> None:
    stream = answer("messages", ["All of it."])
    broken = break_off(CALLS[client], "messages", stream[: stream.index(b"event: content_block_stop")])
    assert broken is not None
    following = anthropic.begin(input_tokens=20, output_tokens=1)
    following += anthropic.event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4})
    following += anthropic.event("message_stop")
    assert READERS[client](broken.go_on("messages", following)) == "All of it."


def test_a_tool_call_may_follow_the_text_of_a_message() -> None:
    stream = answer("messages", ["Let me see."])
    broken = break_off(CALLS["messages"], "messages", stream[: stream.index(b"event: content_block_stop")])
    assert broken is not None
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    following = anthropic.begin() + anthropic.block(0, tool, {"type": "input_json_delta", "partial_json": "{}"})
    events = data_of(broken.go_on("messages", following + anthropic.end("tool_use")))
    places = [(one["type"], one["index"]) for one in events if "index" in one]
    assert places == [
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_tool_call_may_follow_the_text_of_a_chat() -> None:
    broken = break_off(CALLS["chat"], "chat", event(chunk("Let me see.")))
    assert broken is not None
    function = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    called = chunk(choices=[{"index": 0, "delta": {"tool_calls": [function]}, "finish_reason": None}])
    events = data_of(broken.go_on("chat", event(called) + event(chunk(finish="tool_calls")) + DONE))
    assert events[1]["choices"][0]["delta"]["tool_calls"] == [function]


def test_a_text_after_a_block_that_has_ended_is_a_block_of_its_own() -> None:
    stream = answer("messages", ["One. "])
    broken = break_off(CALLS["messages"], "messages", stream[: stream.index(b"event: message_delta")])
    assert broken is not None
    assert broken.transcript.text == "One. "
    assert read_messages(broken.go_on("messages", answer("messages", [" Two."]))) == "One. Two."


def test_usage_that_is_reported_with_each_chunk_is_the_sum_each_time() -> None:
    broken = break_off(CALLS["chat"], "chat", event(chunk("a")))
    assert broken is not None
    used = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
    joined = broken.go_on("chat", event(chunk("b", usage=used)) + event(chunk(finish="stop")) + DONE)
    assert data_of(joined)[1]["usage"]["total_tokens"] == 21 + 23


def test_a_client_that_asks_for_no_usage_gets_none() -> None:
    call = chat(stream=True)
    broken = break_off(call, "chat", event(chunk("a")))
    assert broken is not None
    joined = broken.go_on("chat", answer("chat", ["b"]))
    assert not any(one.get("usage") for one in data_of(joined)[:-1])


def test_details_of_the_second_answers_usage_are_part_of_the_sum() -> None:
    broken = break_off(CALLS["chat"], "chat", event(chunk("a")))
    assert broken is not None
    used = {
        "prompt_tokens": 20,
        "completion_tokens": 4,
        "total_tokens": 24,
        "prompt_tokens_details": {"cached_tokens": 3},
        "queue_time": 0.5,
    }
    joined = broken.go_on("chat", event(chunk(finish="stop")) + event(chunk(choices=[], usage=used)) + DONE)
    usage = data_of(joined)[-2]["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 3 + 5
    assert usage["queue_time"] == 0.5


def test_the_comment_stands_before_the_first_event_that_the_client_gets() -> None:
    broken = break_off(CALLS["chat"], "chat", event(chunk("a")))
    assert broken is not None
    joined = broken.go_on("chat", answer("chat", ["b"]))
    assert joined.startswith(broken.sent + COMMENT + b"data: ")


BLOCK = {"type": "text", "text": ""}
HOSTILE = {
    "a place that is a list": anthropic.event("content_block_start", index=[0], content_block=BLOCK),
    "a place that is none": anthropic.event("content_block_start", content_block=BLOCK),
    "one place twice": anthropic.event("content_block_start", index=0, content_block=BLOCK) * 2,
    "a piece of no block": anthropic.event("content_block_delta", index=3, delta={"type": "text_delta", "text": "x"}),
    "an end of no block": anthropic.event("content_block_stop", index={}),
    "blocks without an end": b"".join(
        anthropic.event("content_block_start", index=index, content_block=BLOCK) for index in range(20_000)
    ),
    "a block that is none": anthropic.event("content_block_start", index=0, content_block=[]),
    "a delta that is none": anthropic.event("content_block_delta", index=0, delta="x"),
    "a message that is none": anthropic.event("message_start", message=[]),
}


@pytest.mark.parametrize("following", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_continuation_that_breaks_the_format_is_a_failure_of_its_upstream(following: bytes) -> None:
    stream = answer("messages", ["before"])
    broken = break_off(CALLS["messages"], "messages", stream[: stream.index(b"event: content_block_stop")])
    assert broken is not None
    with pytest.raises(UpstreamFault):
        broken.go_on("messages", following)


ODD_CHUNKS: list[Any] = [
    {"choices": [7, {"index": 0, "delta": "x"}, {"index": 0, "delta": {"content": ["x"]}}]},
    {"choices": "x", "usage": "y"},
    {"choices": [{"delta": {"role": 7, "content": None}}], "usage": {"prompt_tokens": -1, "prompt_tokens_details": 3}},
]


@pytest.mark.parametrize("odd", ODD_CHUNKS, ids=str)
def test_an_odd_chunk_of_a_chat_breaks_nothing(odd: dict[str, Any]) -> None:
    first = break_off(CALLS["chat"], "chat", event(chunk("a")))
    assert first is not None
    assert first.go_on("chat", event(chunk(**odd)) + event(chunk("b", finish="stop")) + DONE).endswith(DONE)
    transcript = _transcript(CALLS["chat"])
    transcript.note(event(chunk("a")) + event(chunk(**odd)))
    assert transcript.text in {None, "a"}


# The seam


@pytest.mark.parametrize(
    ("text", "following", "joined"),
    [
        ("Hello ", [" world"], "Hello world"),
        ("Hello ", ["world"], "Hello world"),
        ("Hello", [" world"], "Hello world"),
        ("Hello\n\n", ["\n", "\n", "world"], "Hello\n\nworld"),
        ("Hello\n", ["\n\n", "world"], "Hello\n\nworld"),
        ("Hello \n", [" ", "\nworld  ."], "Hello \nworld  ."),
        ("Hello ", ["\nworld"], "Hello \nworld"),
        (" ", ["", " ", "Hello "], " Hello "),
        ("Hello ", [" ", " world"], "Hello  world"),
    ],
)
def test_white_space_at_the_seam_stands_there_once(text: str, following: list[str], joined: str) -> None:
    seam = Seam(text)
    assert text + "".join(seam.cut(piece) for piece in following) == joined


# The call


def test_the_continued_call_ends_with_the_text_without_its_last_white_space() -> None:
    call = chat(stream=True, seed=12345678901234567, temperature=0.1)
    continued = continue_call(call, "Grüße\n\n ", None)
    sent = orjson.loads(continued.raw)
    assert sent["messages"] == [*call.body["messages"], {"role": "assistant", "content": "Grüße"}]
    assert {**sent, "messages": call.body["messages"]} == call.body
    assert continued.body == sent
    assert continued.input_estimate > call.input_estimate


def test_numbers_keep_all_their_digits() -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"x","weight":0.30000000000000004000}],"seed":1}'
    call = replace(chat(), raw=raw, body=orjson.loads(raw))
    large = b"123456789012345678901234567890"
    call = replace(call, raw=raw.replace(b'"seed":1', b'"seed":' + large))
    assert large in continue_call(call, "text", None).raw


@pytest.mark.parametrize("text", ["", " \n"])
def test_without_a_text_the_call_stays_as_it_was(text: str) -> None:
    call = chat(stream=True)
    assert continue_call(call, text, None) is call


def test_the_limit_of_the_output_is_what_is_left() -> None:
    body = orjson.loads(continue_call(chat(stream=True, max_tokens=100), "text", 40).raw)
    assert body["max_tokens"] == 40
    assert orjson.loads(continue_call(chat(stream=True), "text", 40).raw)["max_tokens"] == 40


def test_counts_of_two_usages_add_up() -> None:
    assert NO_USAGE + FIRST_USAGE == FIRST_USAGE
    both = FIRST_USAGE + Usage(1, 2, 3, 4, 5, 6, 7, 8, is_inconsistent=True)
    assert both == Usage(12, 2, 8, 4, 5, 13, 7, 8, is_inconsistent=True)
