"""Checks of request fields."""

from typing import Any

import pytest

from gateway.protocol import fields
from gateway.protocol.errors import BadRequest
from gateway.protocol.fields import Check, check_fields

GOOD: list[tuple[Check, list[Any]]] = [
    (fields.text, ["", "x", "你好"]),
    (fields.nonempty_text, ["x", " x "]),
    (fields.boolean, [True, False]),
    (fields.mapping, [{}, {"a": 1}]),
    (fields.integer(0), [0, 1, 2**53]),
    (fields.integer(1, 3), [1, 3]),
    (fields.number(-2, 2), [-2, 2, 0, 1.5]),
    (fields.list_of(fields.text), [[], ["a", ""]]),
    (fields.list_of(fields.text, minimum=1), [["a"]]),
    (fields.one_of(fields.text, fields.boolean, says="no"), ["x", True]),
]
BAD: list[tuple[Check, list[Any]]] = [
    (fields.text, [1, True, [], {}, "a\0b"]),
    (fields.nonempty_text, ["", " \n", 1, "\0"]),
    (fields.boolean, [0, 1, "true", []]),
    (fields.mapping, [[], "x", 1]),
    (fields.integer(0), [-1, 1.0, True, "1", 2**53 + 1, []]),
    (fields.integer(1, 3), [0, 4]),
    (fields.number(-2, 2), [-2.1, 3, "1", True, []]),
    (fields.list_of(fields.text), ["a", {}, [1], ["a", None]]),
    (fields.list_of(fields.text, minimum=1), [[]]),
    (fields.one_of(fields.text, fields.boolean, says="no"), [1, []]),
]


@pytest.mark.parametrize(("check", "values"), GOOD)
def test_a_right_value_passes(check: Check, values: list[Any]) -> None:
    assert [check(value) for value in values] == [None] * len(values)


@pytest.mark.parametrize(("check", "values"), BAD)
def test_a_wrong_value_is_told_what_is_wrong(check: Check, values: list[Any]) -> None:
    assert all(check(value) for value in values)


def test_the_place_of_a_wrong_element_is_told() -> None:
    assert fields.list_of(fields.text)(["a", "b", 3]) == "element 2: it must be a string"


def test_null_stands_for_an_absent_optional_field() -> None:
    check_fields({"user": None}, {"user": fields.text}, ())
    with pytest.raises(BadRequest) as refused:
        check_fields({"user": None}, {"user": fields.text}, ("user",))
    assert (refused.value.param, refused.value.code) == ("user", "missing_required_parameter")


def test_an_unknown_field_is_none_of_our_business() -> None:
    check_fields({"guided_json": object()}, {"user": fields.text}, ())


def test_the_first_wrong_field_is_named_in_every_process() -> None:
    """Sets of strings have another order in each process: a client would be told now this, now that."""
    names = [f"field_{number}" for number in range(30)]
    with pytest.raises(BadRequest) as refused:
        check_fields(dict.fromkeys(names, 1), dict.fromkeys(names, fields.text), ())
    assert refused.value.param == "field_0"
