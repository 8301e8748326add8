"""The scanner finds the end of a JSON value, in any pieces, where a JSON parser finds it."""

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
def test_a_value_ends_where_a_json_parser_ends_it(value: object, is_ascii: bool, behind: str, size: int) -> None:
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


def test_the_scanner_stops_at_a_character_outside_json() -> None:
    scanner = ValueScanner()
    text = '{"<": <1}'
    assert scanner.feed(text, 0, len(text)) == text.rindex("<")
    assert scanner.feed(text, text.rindex("<") + 1, len(text)) == len(text)
    assert scanner.is_done


@given(JSON, st.sampled_from(["", " ", "\n", "{", "}"]))
def test_text_after_an_object_makes_it_none(value: object, behind: str) -> None:
    text = json.dumps(value) + behind
    assert is_object(text) is (isinstance(value, dict) and behind not in {"{", "}"})


def test_an_object_reports_name_and_arguments_as_they_arrive() -> None:
    text = '{"name": "run", "arguments": {"a": 1}, "id": "x"}'
    call = CallObject()
    pos = call.feed(text, 0, len(text))
    assert (call.status, call.name, text[pos:][:4]) == (Status.STREAM, "run", '{"a"')
    pos = call.feed(text, pos + len('{"a": 1}'), len(text))
    assert (call.status, pos) == (Status.COMPLETE, len(text))


def test_an_object_breaks_at_the_first_character_outside_a_call() -> None:
    for text in ('{"name": "run" "x"', '{"name" "run"', '{"name": }', "{x", '{"name": "run", ]', '{"a": <'):
        call = CallObject()
        assert call.feed(text, 0, len(text)) < len(text)
        assert call.status is Status.BROKEN
