"""The routing options of a body: their forms, and the fallbacks that they name."""

from typing import Any

import pytest

from gateway.protocol.errors import BadRequest
from gateway.protocol.fields import check_fields
from gateway.protocol.routing_options import CHECKS, FALLBACK_FIELDS, MAX_FALLBACKS, MAX_ROWS, OPTIONS, find_fallbacks

NAMED: list[tuple[Any, tuple[str, ...]]] = [
    (["b", "c", "b"], ("b", "c")),
    ([{"model": "b"}, "c"], ("b", "c")),
    ([{"a": ["b", "c"]}, {"x": ["y"]}], ("b", "c")),
    ([{"nickname": "b"}], ("b",)),
    ({"a": "b", "x": "y"}, ("b",)),
    ([{"*": ["z"]}, {"a": ["b"]}], ("b",)),
    ([{"*": ["z"]}, {"x": ["y"]}], ("z",)),
    ([{"x": ["y"]}], ()),
    ([{"model": ["b"]}], ()),  # the fallbacks of a group of this name
    ([], ()),
]


@pytest.mark.parametrize(("value", "models"), NAMED)
def test_fallbacks_are_named_as_clients_of_litellm_do(value: Any, models: tuple[str, ...]) -> None:
    check_fields({"fallbacks": value}, CHECKS, ())
    assert find_fallbacks(value, ("nickname", "a")) == models


WRONG: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in sorted(FALLBACK_FIELDS)
        for value in ("b", 7, True, [7], [[]], [{"a": [7]}], [{"a": 7}])
    ),
    *(("fallbacks", value) for value in ([""], [" "], ["b\0"], ["b" * 256], [{"model": "b", "messages": []}])),
    *(("fallbacks", value) for value in (["b", {"a": ["c"]}], [{"a": ["c"]}, {"model": "b"}])),
    ("fallbacks", [f"b{number}" for number in range(MAX_FALLBACKS + 1)]),
    ("fallbacks", [{"a": [f"b{number}" for number in range(MAX_FALLBACKS + 1)]}]),
    ("fallbacks", [{f"a{number}": ["b"]} for number in range(MAX_ROWS + 1)]),
    ("context_window_fallback_dict", ["b"]),
    *(("num_retries", value) for value in (-1, 11, 1.5, True, "1")),
    *(("timeout", value) for value in (0, -1, 1e6, 1e400, True, "1", [1])),
    ("disable_fallbacks", "true"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_that_cannot_be_honoured_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        check_fields({name: value}, CHECKS, ())
    assert (refused.value.param, refused.value.code) == (name, "invalid_value")


def test_an_own_request_of_a_fallback_is_refused_by_the_name_of_its_member() -> None:
    with pytest.raises(BadRequest, match="element 1: 'messages' is not supported"):
        check_fields({"fallbacks": ["b", {"model": "c", "messages": []}]}, CHECKS, ())


def test_null_is_as_if_it_were_not_sent() -> None:
    check_fields(dict.fromkeys(OPTIONS), CHECKS, ())
