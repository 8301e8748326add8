"""Server-sent events: the same events however the bytes are cut."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.errors import UpstreamFault
from gateway.protocol.sse import MAX_EVENT_BYTES, EventSplitter, event_data

BOM = b"\xef\xbb\xbf"
STREAMS = {
    "LF": b"data: one\n\ndata: two\n\n",
    "CR LF": b"data: one\r\n\r\ndata: two\r\n\r\n",
    "CR": b"data: one\r\rdata: two\r\r",
    "mixed line ends": b"data: one\r\n\ndata: two\r\r\n\ndata: three\n\r\n",
    "a byte order mark": BOM + b"data: one\n\ndata: two\n\n",
    "many data lines": b"data: one\ndata:two\nevent: x\ndata\ndata: three\n\n",
    "comments": b": hello\n\n: again\ndata: one\n\n:\n\ndata: two\n\n",
    "empty lines": b"\n\n\ndata: one\n\n\n\n\ndata: two\n\n\n",
    "no last empty line": b"data: one\n\ndata: two",
    "a last line end only": b"data: one\r\n\r\ndata: two\r\n",
    "Chinese": "data: 你好\n\ndata: 世界\r\n\r\n".encode(),
    "other fields": b"id: 1\nretry: 10\n\nevent: done\nid: 2\ndata: one\n\n",
    "nothing": b"",
}


def reference(stream: bytes) -> list[bytes]:
    """Whole events by the standard's words, from the whole stream at once."""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(BOM))
    events: list[list[bytes]] = [[]]
    for line in lines:
        if line:
            events[-1].append(line)
        else:
            events.append([])
    return [b"\n".join(event) for event in events if event]


def split(pieces: list[bytes]) -> list[bytes]:
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events + splitter.finish()


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_every_cut_in_two_gives_the_same_events(stream: bytes) -> None:
    expected = reference(stream)
    for at in range(len(stream) + 1):
        assert split([stream[:at], stream[at:]]) == expected, f"cut at {at}"
    assert split([stream[at : at + 1] for at in range(len(stream))]) == expected


LINES = st.sampled_from([b"data: a", b"data:b", b": c", b"event: e", b"data", b"data:  \xe4\xbd\xa0", b"x" * 40])
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r"])


@given(st.booleans(), st.lists(st.tuples(LINES, ENDS), max_size=12), st.data())
def test_any_chunking_of_any_stream_gives_the_same_events(
    has_bom: bool, lines: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    stream = (BOM if has_bom else b"") + b"".join(line + end for line, end in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    assert split([stream[a:b] for a, b in itertools.pairwise(edges)]) == reference(stream)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: one", b"one"),
        (b"data:one", b"one"),
        (b"data:  one ", b" one "),
        (b"data: one\ndata: two", b"one\ntwo"),
        (b": comment\ndata: one", b"one"),
        (b"event: x\ndata: one\nid: 1", b"one"),
        (b"data:", b""),
        (b": comment", None),
        (b"retry: 10", None),
        (b"database: no", None),
    ],
)
def test_data_lines_are_joined_and_the_rest_is_left_out(event: bytes, data: bytes | None) -> None:
    assert event_data(event) == data


@pytest.mark.parametrize("line", [b"x" * 65_536, b"data: " + b"x" * 1000 + b"\n"], ids=["one line", "many lines"])
def test_an_event_past_the_limit_breaks_the_stream_and_is_not_gathered_on(line: bytes) -> None:
    splitter = EventSplitter()
    piece = line * max(1, 65_536 // len(line))
    for _ in range(MAX_EVENT_BYTES // len(piece)):
        splitter.feed(piece)
    with pytest.raises(UpstreamFault) as broken:
        splitter.feed(piece)
    assert broken.value.finish == "upstream_broken"


@pytest.mark.timeout(20)  # hangs for minutes where each piece costs the whole event
def test_a_large_event_in_small_pieces_passes_in_linear_time() -> None:
    splitter = EventSplitter()
    line = b"data: " + b"x" * 4_000_000
    for at in range(0, len(line), 16):
        assert splitter.feed(line[at : at + 16]) == []
    assert splitter.feed(b"\n\n") == [line]


@pytest.mark.timeout(20)
def test_an_event_of_many_small_lines_passes_in_linear_time() -> None:
    splitter = EventSplitter()
    line = b"data: xxxxxxxxxxxxxxxx\n"
    for _ in range(150_000):
        splitter.feed(line)
    assert splitter.feed(b"\n") == [(line * 150_000)[:-1]]
