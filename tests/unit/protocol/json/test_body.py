"""Strict JSON: what is refused, and edits of the bytes that change nothing else."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.body import (
    MAX_DEPTH,
    MAX_VALUES,
    SLICE_BYTES,
    add_members,
    parse_exact_object,
    parse_object,
    replace_member,
)


def nested(depth: int, opening: str = '{"a":', closing: str = "}") -> bytes:
    return (opening * (depth - 1) + "{}" + closing * (depth - 1)).encode()


REFUSED = {
    "nothing": b"",
    "white space": b" \n",
    "an array": b"[]",
    "a number": b"1",
    "null": b"null",
    "a string": b'"text"',
    "half an object": b'{"a": 1',
    "something after the object": b"{} {}",
    "a trailing comma": b'{"a": 1,}',
    "a comment": b'{"a": 1 /* one */}',
    "single quotes": b"{'a': 1}",
    "a bare key": b"{a: 1}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "bytes that are not UTF-8": b'{"a": "\xff"}',
    "an overlong encoding": b'{"a": "\xc0\xaf"}',
    "an encoded surrogate": b'{"a": "\xed\xa0\x80"}',
    "a lone surrogate": rb'{"a": "\ud800"}',
    "a lone surrogate as a key": rb'{"\udfff": 1}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": -Infinity}',
    "a number that overflows": b'{"a": 1e999}',
    "an integer of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "a leading zero": b'{"a": 01}',
    "a raw control character": b'{"a": "\x01"}',
    "a raw NUL": b'{"a": "\x00"}',
    "65 levels": nested(MAX_DEPTH + 1),
    "65 levels of arrays": b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    "900 levels": nested(900),
    "5,000 levels": nested(5000),
    "100,000 levels": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 levels without an end": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_anything_but_one_strict_object_is_a_400(raw: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_object(raw)
    assert (refused.value.status, refused.value.type) == (400, "invalid_request_error")


ACCEPTED = {
    "an empty object": (b"{}", {}),
    "white space all around": (b' \r\n\t{ "a" : [ 1 , 2 ] }\n', {"a": [1, 2]}),
    "an escaped NUL": (rb'{"a": "\u0000"}', {"a": "\0"}),
    "a surrogate pair": (rb'{"a": "\ud83d\ude00"}', {"a": "\N{GRINNING FACE}"}),
    "one name in two objects": (b'{"a": {"x": 1}, "b": {"x": 2}}', {"a": {"x": 1}, "b": {"x": 2}}),
    "colons and quotes in strings": (rb'{"a": "\":\":", "b:": ":"}', {"a": '":":', "b:": ":"}),
    "a key that ends in a backslash": (rb'{"a\\": 1, "b\\" : 2}', {"a\\": 1, "b\\": 2}),
    "names that differ in case": (b'{"a": 1, "A": 2}', {"a": 1, "A": 2}),
    "names that differ in their composition": (rb'{"\u00e9": 1, "e\u0301": 2}', {"\u00e9": 1, "e\u0301": 2}),
}


@pytest.mark.parametrize(("raw", "value"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_strict_object_is_read(raw: bytes, value: Any) -> None:
    assert parse_object(raw) == value


def test_64_levels_are_read() -> None:
    parse_object(nested(MAX_DEPTH))


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'{"a":1,"a":2}', "a"),
        (b'{"a":1, "b":2, "a" : 1}', "a"),
        (rb'{"model":"x","\u006dodel":"y"}', "model"),
        (rb'{"a\\":1,"a\\":2}', "a\\"),
        (b'{"x":{"y":[{"z":0},{"z":1,"z":2}]}}', "z"),
        (rb'{"a":1,"a":2,"b":"\":"}', "a"),
        (b'{"a"\n:1,"a"\t:2}', "a"),
        ('{"é":1,"\\u00e9":2}'.encode(), "é"),
        (b'{"":1,"":2}', ""),
    ],
)
def test_a_key_that_stands_twice_in_one_object_is_refused_by_name(raw: bytes, name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_object(raw)
    assert refused.value.param == name


@pytest.mark.timeout(20)  # hangs for minutes where the search is quadratic
def test_a_duplicate_among_many_keys_is_found_without_freezing_the_gateway() -> None:
    raw = ("{" + ",".join(f'"k{number}":1' for number in range(200_000)) + ',"z":1,"z":2}').encode()
    with pytest.raises(BadRequest):
        parse_object(raw)


# Properties. A document is written from pairs, so that it can hold duplicates, odd spaces and needless escapes.

TEXTS = st.sampled_from(["a", "b", "model", 'a"', "a\\", ":", '":', '\\":', "é", "", '"model":"x"', "模型", "\0"])
SPACES = st.sampled_from(["", "", "", " ", "\n", "\t \r"])


@st.composite
def strings(draw: st.DrawFn) -> str:
    text = draw(TEXTS)
    escaped = json.dumps(text, ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()) and text and text[0] not in '"\\\0' and ord(text[0]) < 0x10000:
        escaped = f'"\\u{ord(text[0]):04x}' + json.dumps(text[1:])[1:]
    return escaped


@st.composite
def documents(draw: st.DrawFn, depth: int = 3) -> str:
    def spaced(text: str) -> str:
        return draw(SPACES) + text + draw(SPACES)

    kinds = ["string", "number"] + (["object", "array"] if depth else [])
    kind = "object" if depth == 3 else draw(st.sampled_from(kinds))
    if kind == "string":
        return spaced(draw(strings()))
    if kind == "number":
        return spaced(draw(st.sampled_from(["0", "-1", "1.5", "true", "null", "12345678901234567"])))
    if kind == "array":
        return spaced("[" + ",".join(draw(st.lists(documents(depth=depth - 1), max_size=3))) + draw(SPACES) + "]")
    pairs = draw(st.lists(st.tuples(strings(), documents(depth=depth - 1)), max_size=4))
    return spaced("{" + ",".join(f"{spaced(key)}:{value}" for key, value in pairs) + draw(SPACES) + "}")


class Duplicate(Exception):
    pass


def slow_reference(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise Duplicate
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


@given(documents())
def test_duplicates_are_refused_exactly_where_a_slow_reading_finds_them(text: str) -> None:
    try:
        expected = slow_reference(text)
    except Duplicate:
        with pytest.raises(BadRequest):
            parse_object(text.encode())
    else:
        assert parse_object(text.encode()) == expected


@given(documents(), st.sampled_from(["up", "", "模型", 'quo"te', "back\\slash", "\0"]))
def test_replacing_a_member_changes_the_meaning_of_that_member_only(text: str, name: str) -> None:
    inner = text.strip()[1:]
    text = '{"model" : "old"' + ("}" if inner.strip() == "}" else f",{inner}")
    try:
        body = slow_reference(text)
    except Duplicate:
        return
    assert json.loads(replace_member(text.encode(), "model", name, body)) == {**body, "model": name}


@given(documents())
def test_adding_members_keeps_every_byte_before_them(text: str) -> None:
    try:
        body = slow_reference(text)
    except Duplicate:
        return
    extra = {"new\N{SNOWMAN}": {"x": [1, None]}, "second": "s"}
    raw = text.encode()
    grown = add_members(raw, extra)
    assert json.loads(grown) == body | extra
    assert grown.startswith(raw.rstrip()[:-1].rstrip())
    assert add_members(raw, {}) is raw


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"model":"old","n":1}', b'{"model":"new","n":1}'),
        (b'{ "n" : 1.50 , "model" : "old" }\n', b'{ "n" : 1.50 , "model":"new" }\n'),
        (rb'{"model":"o\"ld\\","x":"\"model\":\"old\""}', rb'{"model":"new","x":"\"model\":\"old\""}'),
        (b'{"model":null,"a":["model",":"]}', b'{"model":"new","a":["model",":"]}'),
    ],
)
def test_replacing_a_member_in_its_place_keeps_every_other_byte(raw: bytes, expected: bytes) -> None:
    assert replace_member(raw, "model", "new", json.loads(raw)) == expected


BIG = 123456789012345678901234567890
HELD_BY = {
    "a plain body": '{"model":"old","big":%d}',
    "a body with a nested model": '{"model":"old","x":{"model":"old"},"big":%d}',
    "a body with an escape": '{"model":"old","x":"\\u0061","big":%d}',
    "a body whose key is escaped": '{"\\u006dodel":"old","big":%d}',
}


@pytest.mark.parametrize("text", HELD_BY.values(), ids=HELD_BY.keys())
def test_a_number_beyond_64_bits_survives_the_edit(text: str) -> None:
    raw = (text % BIG).encode()
    assert json.loads(replace_member(raw, "model", "new", parse_object(raw)))["big"] == BIG
    assert json.loads(add_members(raw, {"more": 1}))["big"] == BIG


def test_fractions_are_read_exactly_for_the_database() -> None:
    value = parse_exact_object(b'{"a": 0.1, "b": 1, "c": {"d": 1e2}}')
    assert repr(value) == "{'a': Decimal('0.1'), 'b': 1, 'c': {'d': Decimal('1E+2')}}"


@pytest.mark.parametrize(
    ("raw", "param"),
    [(rb'{"a": "\u0000"}', "a"), (rb'{"a\u0000": 1}', "a"), (rb'{"x": 1, "a": [{"b\u0000": 1}]}', "a")],
)
def test_a_nul_is_refused_by_its_field_for_the_database(raw: bytes, param: str) -> None:
    with pytest.raises(BadRequest, match="NUL") as refused:
        parse_exact_object(raw)
    assert refused.value.param == param


def test_the_field_that_is_nested_too_deeply_is_named() -> None:
    with pytest.raises(BadRequest, match="64 levels") as refused:
        parse_object(b'{"a": 1, "b": ' + nested(MAX_DEPTH) + b"}")
    assert refused.value.param == "b"


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_anything_but_one_strict_object_is_refused_for_the_database(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_exact_object(raw)


def test_half_a_surrogate_pair_is_refused_by_its_field_for_the_database() -> None:
    with pytest.raises(BadRequest, match="surrogate") as refused:
        parse_exact_object(rb'{"x": 1, "a": [{"b": "\ud800"}]}')
    assert refused.value.param == "a"


def test_an_exponent_beyond_every_decimal_is_refused() -> None:
    with pytest.raises(BadRequest, match="too many digits"):
        parse_exact_object(b'{"a": 1e-99999999999999999999}')


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":[' + b"[]," * 1_000_000 + b"0]}",
        b'{"a":[' + b'"",' * 1_000_000 + b"0]}",
        b'{"a":[' + b"1," * 1_000_000 + b"0]}",
        b'{"a":[' + b"{}," * 1_000_000 + b'"' + b"," * 100 + b'"]}',
        b'{"a":"\\\\",' + b'"b":[' + b"1," * 1_000_000 + b"0]}",
    ],
    ids=["lists", "strings", "numbers", "objects", "a string that ends in a backslash"],
)
def test_a_body_of_too_many_values_is_refused_before_they_are_built(raw: bytes) -> None:
    for read in (parse_object, parse_exact_object):
        with pytest.raises(BadRequest) as refused:
            read(raw)
        assert refused.value.code == "body_too_complex"


@pytest.mark.parametrize("text", [", [ {" * 300_000, ', "quoted", \\' * 100_000], ids=["separators", "quotes"])
def test_separators_in_a_text_are_no_values(text: str) -> None:
    assert parse_object(orjson.dumps({"messages": [{"content": text}]})) == {"messages": [{"content": text}]}


@pytest.mark.parametrize("shift", range(-8, 9))
def test_a_search_in_slices_misses_nothing_at_their_ends(shift: int) -> None:
    def padded(part: str) -> str:
        """`part` in a body, across the end of a slice."""
        return '{"pad": "' + "x" * (SLICE_BYTES - 16 + shift) + '", ' + part

    for key in ('"a":', '"a" \n :', r'"a\\":'):
        with pytest.raises(BadRequest) as refused:
            parse_object((padded(key) + '1, "c": {}, ' + key + "2}").encode())
        assert refused.value.param == orjson.loads(key.rstrip(": \n"))
    with pytest.raises(BadRequest) as refused:
        parse_object((padded('"a" ') + " " * SLICE_BYTES * 2 + ': 1, "a": 2}').encode())
    assert refused.value.param == "a"
    for text in ('"', '\\"', "\\", '\\\\"', '","'):
        filled = orjson.dumps(text)[1:-1].decode() + ", [" * 300_000
        parse_object((padded(f'"a": "{filled}"') + "}").encode())
        with pytest.raises(BadRequest) as refused:
            parse_object((padded(f'"a": "{filled}", "b": [') + "1," * MAX_VALUES + "1]}").encode())
        assert refused.value.code == "body_too_complex"
