"""ConverseStream: frames in any chunking, damaged frames, and botocore's reading of the same bytes."""

import base64
import struct
from zlib import crc32

import orjson
import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.parsers import EventStreamJSONParser
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.dialects.bedrock import upstream_answer as bedrock_answer
from gateway.protocol.dialects.bedrock.aws_event_stream import MAX_FRAME_BYTES, FrameSplitter
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.usage import Usage
from gateway.providers.bedrock import PROVIDER
from tests.fakes.bedrock import (
    CALLED,
    END,
    HI,
    RESULT,
    SERVICE,
    START,
    WEATHER,
    block_stop,
    chat,
    delta,
    frame,
    header,
    raw_frame,
    read,
    split_all,
    stop,
    stream,
    target,
    text_of,
    tool_start,
    whole,
)
from tests.fakes.provider_cases import MOMENT, Streamed, check_invariants, cuttings, like

# Streams


TOOLS_STREAM = stream(
    START,
    delta(reasoningContent={"text": "Hm"}),
    delta(reasoningContent={"signature": "si"}),
    delta(reasoningContent={"signature": "g"}),
    block_stop(),
    delta(1, text="Grüß"),
    block_stop(1),
    tool_start(2, "a", "weather"),
    delta(2, toolUse={"input": ""}),
    delta(2, toolUse={"input": '{"city":'}),
    delta(2, toolUse={"input": '"Köln"}'}),
    block_stop(2),
    tool_start(3, "b", "clock"),
    block_stop(3),
    ("somethingNew", {"x": 1}),
    stop("tool_use"),
    END,
)
TOOLS_EVENTS = [
    Started("", ""),
    ReasoningDelta("Hm"),
    ReasoningDelta(signature="sig"),
    TextDelta("Grüß"),
    ToolCallStarted(0, "a", "weather"),
    ToolArgumentsDelta(0, '{"city":'),
    ToolArgumentsDelta(0, '"Köln"}'),
    ToolCallStarted(1, "b", "clock"),
    ToolArgumentsDelta(1, "{}"),
    Finished("tool_calls"),
    UsageReported(Usage(input_tokens=3, output_tokens=2), END[1]["usage"]),
]


def test_a_stream_with_calls_is_the_same_however_it_is_cut() -> None:
    for pieces in cuttings(TOOLS_STREAM):
        decoder = bedrock_answer.StreamDecoder()
        events = [event for piece in pieces for event in decoder.feed(piece)]
        assert events == TOOLS_EVENTS
        assert decoder.is_done
        assert decoder.finish() == []


def test_a_stream_equals_its_whole_answer() -> None:
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "sig"}}},
        {"text": "Grüß"},
        {"toolUse": {"toolUseId": "a", "name": "weather", "input": {"city": "Köln"}}},
        {"toolUse": {"toolUseId": "b", "name": "clock", "input": {}}},
    ]
    expected = orjson.loads(PROVIDER.relay_body(chat(), target(), MOMENT, whole(content, "tool_use"), {})[0])
    relay = PROVIDER.relay(chat(stream=True, stream_options={"include_usage": True}), target(), MOMENT)
    answer = Streamed(relay.feed(TOOLS_STREAM) + relay.finish(), relay.metadata)
    check_invariants(answer.chunks, has_usage=True)
    like(answer.whole()["choices"], expected["choices"])
    assert answer.usage == expected["usage"]


def test_a_cut_stream_has_no_end() -> None:
    ends = TOOLS_STREAM.index(b"messageStop")
    for cut in range(len(TOOLS_STREAM)):
        decoder = bedrock_answer.StreamDecoder()
        events = decoder.feed(TOOLS_STREAM[:cut])
        assert events == TOOLS_EVENTS[: len(events)]
        if Finished("tool_calls") in events:
            decoder.finish()  # the answer is complete, only its usage is not known
            continue
        assert cut < len(TOOLS_STREAM) - 1
        with pytest.raises(UpstreamFault) as fault:
            decoder.finish()
        assert fault.value.code == "upstream_incomplete_stream"
    assert ends


def test_interleaved_blocks_keep_their_numbers() -> None:
    events = [
        tool_start(5, "a", "x"),
        tool_start(2, "b", "y"),
        delta(2, toolUse={"input": '{"b":1}'}),
        delta(5, toolUse={"input": '{"a":1}'}),
        delta(9, text="t"),
    ]
    decoded = read(stream(START, *events, stop("max_tokens"), END))
    assert decoded[3:6] == [ToolArgumentsDelta(1, '{"b":1}'), ToolArgumentsDelta(0, '{"a":1}'), TextDelta("t")]
    assert Finished("length") in decoded


def test_nothing_follows_the_end_but_usage() -> None:
    late = [
        delta(text="late"),
        tool_start(4, "z", "z"),
        delta(4, toolUse={"input": "x"}),
        block_stop(4),
        stop("max_tokens"),
    ]
    events = read(stream(START, delta(text="x"), stop(), *late, END, delta(text="later")))
    assert text_of(events) == "x"
    assert [event for event in events if isinstance(event, Finished)] == [Finished("stop")]
    assert isinstance(events[-1], UsageReported)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["[REDACTED]"], ""),
        (["[RED", "ACTED]"], ""),
        (["[RED", " alert"], "[RED alert"),
        (["[REDACTED] no"], "[REDACTED] no"),
        (["[R"], "[R"),
    ],
)
def test_the_placeholder_of_hidden_reasoning_is_removed(pieces: list[str], expected: str) -> None:
    thoughts = [delta(reasoningContent={"text": piece}) for piece in pieces]
    events = read(stream(START, *thoughts, block_stop(), delta(1, text="x"), stop(), END))
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == expected
    whole_events = bedrock_answer.decode_body(
        whole([{"reasoningContent": {"reasoningText": {"text": "".join(pieces)}}}])
    )
    assert "".join(event.text for event in whole_events if isinstance(event, ReasoningDelta)) == expected


def test_hidden_reasoning_in_pieces_is_joined() -> None:
    pieces = [delta(reasoningContent={"redactedContent": base64.b64encode(part).decode()}) for part in (b"a", b"bc")]
    assert ReasoningDelta(redacted=base64.b64encode(b"abc").decode()) in read(stream(START, *pieces, stop(), END))


@pytest.mark.parametrize(
    "body",
    [
        frame("contentBlockDelta", [1]),
        raw_frame(header(":message-type", "event") + header(":event-type", "messageStop"), b"{"),
        stream(delta(text=5)),
        stream(("contentBlockDelta", {"contentBlockIndex": 0, "delta": "x"})),
        stream(("contentBlockDelta", {"contentBlockIndex": "0", "delta": {"toolUse": {"input": "x"}}})),
        stream(delta(toolUse={"input": "x"})),
        stream(tool_start(0, "a", "x"), delta(toolUse={"input": {"a": 1}})),
        stream(tool_start(0, "", "x")),
        stream(("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": []}})),
    ],
)
def test_an_unusable_event_is_a_fault_after_all_text_before_it(body: bytes) -> None:
    with pytest.raises(UpstreamFault) as fault:
        read(stream(START) + body)
    assert fault.value.status == 502
    decoder = bedrock_answer.StreamDecoder()
    assert text_of(decoder.feed(stream(START, delta(text="kept")) + body)) == "kept"
    for attempt in (lambda: decoder.feed(b""), decoder.finish):
        with pytest.raises(UpstreamFault):
            attempt()


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("throttlingException", 429, "rate_limit_exceeded"),
        ("validationException", 400, None),
        ("internalServerException", 502, "upstream_error"),
        ("modelStreamErrorException", 502, "upstream_error"),
        ("serviceUnavailableException", 503, "overloaded"),
        ("somethingNewException", 502, "upstream_error"),
    ],
)
def test_exceptions_within_a_stream(name: str, status: int, code: str | None) -> None:
    with pytest.raises(UpstreamFault) as fault:
        read(
            stream(START) + frame(name, {"message": "Too many tokens for AKIDEXAMPLE"}, message="exception"),
            secrets=["AKIDEXAMPLE"],
        )
    assert fault.value.status == status or (
        name == "validationException" and fault.value.code == "context_length_exceeded"
    )
    assert fault.value.code == code or name == "validationException"
    assert "AKIDEXAMPLE" not in fault.value.message


def test_an_error_frame_without_a_body() -> None:
    headers = header(":message-type", "error") + header(":error-code", "ThrottlingException")
    with pytest.raises(UpstreamFault) as fault:
        read(raw_frame(headers + header(":error-message", "Too fast"), b""))
    assert (fault.value.status, fault.value.message) == (429, "Too fast")


def test_models_that_do_not_stream_calls_answer_whole() -> None:
    """The same model streams without tools."""
    deployment = target("us.meta.llama4-scout-17b-instruct-v1:0")
    call = chat(stream=True, tools=[WEATHER], stream_options={"include_usage": True})
    request = PROVIDER.request(call, deployment, MOMENT)
    assert request.url.endswith("/converse")
    assert request.headers["accept"] == "application/json"
    use = {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Oslo"}}}
    body = whole([{"text": "See"}, use], "tool_use", usage={"inputTokens": 3, "outputTokens": 2, "totalTokens": 5})
    for pieces in cuttings(body):
        relay = PROVIDER.relay(call, deployment, MOMENT)
        assert relay.takes_json
        answer = Streamed(b"".join([relay.feed(piece) for piece in pieces]) + relay.finish(), relay.metadata)
        check_invariants(answer.chunks, has_usage=True)
        message = answer.whole()["choices"][0]["message"]
        assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
        assert relay.metadata.usage == Usage(input_tokens=3, output_tokens=2)
    for streamed in (chat(stream=True), chat(stream=True, tools=[WEATHER], tool_choice="none")):
        assert PROVIDER.request(streamed, deployment, MOMENT).url.endswith("/converse-stream")
        assert not PROVIDER.relay(streamed, deployment, MOMENT).takes_json
    assert PROVIDER.request(call, target(), MOMENT).url.endswith("/converse-stream")


def test_a_cut_whole_answer_is_a_fault() -> None:
    relay = PROVIDER.relay(
        chat([*HI, CALLED, RESULT], stream=True), target("us.meta.llama3-1-8b-instruct-v1:0"), MOMENT
    )
    assert relay.feed(whole([{"text": "See"}])[:-5]) == b""
    with pytest.raises(UpstreamFault):
        relay.finish()


# Damaged frames


def test_a_flipped_byte_is_detected_anywhere() -> None:
    body = stream(START, delta(text="Grüß"))
    for at in range(len(body)):
        damaged = bytes([*body[:at], body[at] ^ 0x10, *body[at + 1 :]])
        with pytest.raises(UpstreamFault) as fault:
            split_all(damaged)
        assert (fault.value.status, fault.value.code, fault.value.finish) == (502, "upstream_error", "upstream_broken")


def prelude(total: int, headers: int) -> bytes:
    lengths = struct.pack(">II", total, headers)
    return lengths + struct.pack(">I", crc32(lengths))


@pytest.mark.parametrize(
    "body",
    [
        prelude(MAX_FRAME_BYTES + 1, 0),
        prelude(2**32 - 1, 0),
        prelude(0, 0),
        prelude(12, 0),
        prelude(15, 0),
        prelude(100, 85),
        prelude(100, 2**32 - 1),
    ],
)
def test_impossible_lengths_are_detected_before_the_frame_is_read(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        split_all(body)


@pytest.mark.parametrize(
    "headers",
    [
        b"\x05ab",
        b"\x02ab",
        b"\x02ab\x07\x00",
        b"\x02ab\x07\x00\x09x",
        b"\x02ab\x0a",
        b"\x02ab\x05\x00",
        header("a", b"\xff\xfe"),
        b"\x02\xff\xfe\x00",
        header("a", "x") * 2,
    ],
)
def test_unreadable_headers_are_a_fault(headers: bytes) -> None:
    with pytest.raises(UpstreamFault):
        split_all(raw_frame(headers, b"{}"))


def test_the_largest_frame_is_accepted() -> None:
    payload = b"x" * (MAX_FRAME_BYTES - 16)
    whole_frame = raw_frame(b"", payload)
    splitter = FrameSplitter()
    pieces = [whole_frame[at : at + 65536] for at in range(0, len(whole_frame), 65536)]
    frames = [decoded for piece in pieces for decoded in splitter.feed(piece)]
    assert [len(decoded.payload) for decoded in frames] == [len(payload)]
    assert not splitter.is_inside_frame


HEADERS = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: len(name.encode()) < 256),
    st.one_of(
        st.text(max_size=50).map(lambda text: (7, text.encode())),
        st.binary(max_size=50).map(lambda value: (6, value)),
        st.sampled_from(
            [(0, b""), (1, b""), (2, b"x"), (3, b"xx"), (4, b"x" * 4), (5, b"x" * 8), (8, b"x" * 8), (9, b"x" * 16)]
        ),
    ),
    max_size=5,
)


@given(frames=st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=5), size=st.integers(1, 64))
def test_frames_equal_those_of_botocore(frames: list[tuple[dict[str, tuple[int, bytes]], bytes]], size: int) -> None:
    body = b"".join(
        raw_frame(
            b"".join(bytes([len(n.encode())]) + n.encode() + header("", v, k)[1:] for n, (k, v) in headers.items()),
            payload,
        )
        for headers, payload in frames
    )
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    theirs = [({n: v for n, v in m.headers.items() if isinstance(v, str)}, m.payload) for m in buffer]
    splitter = FrameSplitter()
    ours = [split for at in range(0, len(body), size) for split in splitter.feed(body[at : at + size])]
    assert [(dict(split.headers), split.payload) for split in ours] == theirs
    assert len(ours) == len(frames)
    assert not splitter.is_inside_frame


def test_botocore_reads_the_streams_of_these_tests() -> None:
    shape = SERVICE.operation_model("ConverseStream").get_event_stream_output()
    buffer = EventStreamBuffer()
    buffer.add_data(TOOLS_STREAM)
    parsed = [EventStreamJSONParser().parse(message.to_response_dict(), shape) for message in buffer]
    known_events = [event for event in parsed if "SDK_UNKNOWN_MEMBER" not in event and event]
    text = "".join(
        event["contentBlockDelta"]["delta"].get("text", "") for event in known_events if "contentBlockDelta" in event
    )
    assert text == "Grüß"
    assert known_events[-1]["metadata"]["usage"]["totalTokens"] == 5


@given(cut=st.integers(0, len(TOOLS_STREAM)), junk=st.binary(max_size=40))
def test_junk_in_a_stream_never_forges_an_end(cut: int, junk: bytes) -> None:
    decoder = bedrock_answer.StreamDecoder()
    events: list[Event] = []
    try:
        events += decoder.feed(TOOLS_STREAM[:cut] + junk)
        events += decoder.finish()
    except UpstreamFault:
        assert events == TOOLS_EVENTS[: len(events)]
    else:
        assert Finished("tool_calls") in events
