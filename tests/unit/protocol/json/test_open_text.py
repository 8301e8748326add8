"""The progress of a JSON text is the same however the text is cut, and each character is read once."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.json.open_text import JsonProgress
from gateway.protocol.json.types import Json

FRAGMENTS = ['"', "\\", '\\"', "{", "}", "[", "]", ":", ",", " ", "a", "1", "你", "\\u00e9"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def read(pieces: list[str]) -> JsonProgress:
    progress = JsonProgress()
    for piece in pieces:
        progress.feed(piece)
    return progress


def walk(text: str) -> tuple[bool, bool]:
    """(open, ended), read character by character."""
    depth, in_string, is_escaped, has_ended = 0, False, False, False
    for character in text:
        if is_escaped:
            is_escaped = False
        elif in_string:
            is_escaped = character == "\\"
            in_string = character != '"'
            has_ended = has_ended or not (in_string or depth)
        elif character == '"':
            in_string = True
        elif character in "{}[]":
            depth += 1 if character in "{[" else -1
            has_ended = has_ended or depth == 0
    return in_string or depth > 0, has_ended


@given(pieces=st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join), max_size=12))
def test_any_text_in_any_pieces_is_read_as_one_character_after_another(pieces: list[str]) -> None:
    text = "".join(pieces)
    progress = read(pieces)
    assert (progress.is_open, progress.has_ended) == walk(text)
    assert progress.size == len(text)
    assert progress.is_blank == (not text.strip())
    characters = read(list(text))
    assert (characters.is_open, characters.has_ended) == walk(text)


@given(value=st.lists(JSON) | st.dictionaries(st.text(), JSON), data=st.data())
def test_a_value_is_open_until_its_last_character(value: Json, data: st.DataObject) -> None:
    text = orjson.dumps(value).decode()
    end = data.draw(st.integers(1, len(text) - 1))
    assert read([text[:end]]).is_open
    assert not read([text[:end]]).has_ended
    assert not read([text[:end], text[end:]]).is_open
    assert read([text[:end], text[end:]]).has_ended
