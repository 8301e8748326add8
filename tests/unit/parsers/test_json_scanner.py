"""The scanner finds where a JSON value ends, in any pieces, as a real JSON parser would."""

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.parsers.scanner import CallObject, Status, ValueScanner, is_object

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=12,
)


@given(
    value=st.text() | st.lists(JSON) | st.dictionaries(st.text(), JSON),
    is_ascii=st.booleans(),
    behind=st.text(),
    size=st.integers(1, 9),
)
def test_a_value_ends_where_a_parser_says_it_does(value: object, is_ascii: bool, behind: str, size: int) -> None:
    written = json.dumps(value, ensure_ascii=is_ascii)
    text = written + behind
    scanner = ValueScanner()
    pos = 0
    while not scanner.is_done:
        assert pos < len(text)
        end = min(len(text), pos + size)
        stop = scanner.feed(text, pos, end)
        assert stop == end or scanner.is_done
        pos = stop
    assert pos == len(written)


def test_a_sign_that_no_json_has_is_left_to_the_caller() -> None:
    scanner = ValueScanner()
    text = '{"<": <1}'
    assert scanner.feed(text, 0, len(text)) == text.rindex("<")
    assert scanner.feed(text, text.rindex("<") + 1, len(text)) == len(text)
    assert scanner.is_done


@given(JSON, st.sampled_from(["", " ", "\n", "{", "}"]))
def test_an_object_is_one_and_nothing_behind_it(value: object, behind: str) -> None:
    text = json.dumps(value) + behind
    assert is_object(text) is (isinstance(value, dict) and behind not in {"{", "}"})


def test_an_object_says_what_it_knows_as_soon_as_it_knows_it() -> None:
    text = '{"name": "run", "arguments": {"a": 1}, "id": "x"}'
    call = CallObject()
    pos = call.feed(text, 0, len(text))
    assert (call.status, call.name, text[pos:][:4]) == (Status.STREAM, "run", '{"a"')
    pos = call.feed(text, pos + len('{"a": 1}'), len(text))
    assert (call.status, pos) == (Status.COMPLETE, len(text))


def test_an_object_stops_at_what_belongs_to_no_call() -> None:
    for text in ('{"name": "run" "x"', '{"name" "run"', '{"name": }', "{x", '{"name": "run", ]', '{"a": <'):
        call = CallObject()
        assert call.feed(text, 0, len(text)) < len(text)
        assert call.status is Status.BROKEN
