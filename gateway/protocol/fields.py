"""Checks of request fields: a table of {field: check}. A check returns the problem, or None.

A check refuses only what every upstream refuses; ranges that differ between upstreams are left to them.
An explicit null counts as an absent optional field.
"""

from collections.abc import Callable, Mapping

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import Json, JsonMapping

Check = Callable[[Json], str | None]


def check_fields(body: JsonMapping, checks: Mapping[str, Check], required: tuple[str, ...]) -> None:
    """Raises BadRequest naming the first field that is missing or wrong."""
    for name in required:
        if body.get(name) is None:
            raise BadRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    for name, value in body.items():  # in the client's order, so that the error is the same each time
        check = checks.get(name)
        problem = check(value) if check is not None and value is not None else None
        if problem:
            raise BadRequest(f"Invalid value for '{name}': {problem}.", param=name, code="invalid_value")


def text(value: Json) -> str | None:
    if type(value) is not str:
        return "it must be a string"
    return "it must not hold a NUL character" if "\0" in value else None


def nonempty_text(value: Json) -> str | None:
    return text(value) or (None if value.strip() else "it must not be empty")


def boolean(value: Json) -> str | None:
    return None if type(value) is bool else "it must be true or false"


def mapping(value: Json) -> str | None:
    return None if type(value) is dict else "it must be an object"


def integer(minimum: int, maximum: int = 2**53) -> Check:
    def check(value: Json) -> str | None:
        if type(value) is not int:
            return "it must be an integer"
        return None if minimum <= value <= maximum else f"it must be between {minimum} and {maximum}"

    return check


def number(minimum: float, maximum: float) -> Check:
    def check(value: Json) -> str | None:
        if type(value) is not int and type(value) is not float:
            return "it must be a number"
        return None if minimum <= value <= maximum else f"it must be between {minimum:g} and {maximum:g}"

    return check


def list_of(kind: Check, *, minimum: int = 0) -> Check:
    def check(value: Json) -> str | None:
        if type(value) is not list:
            return "it must be an array"
        if len(value) < minimum:
            return "it must not be empty"
        for index, item in enumerate(value):
            problem = kind(item)
            if problem:
                return f"element {index}: {problem}"
        return None

    return check


def one_of(*kinds: Check, says: str) -> Check:
    def check(value: Json) -> str | None:
        return None if any(kind(value) is None for kind in kinds) else says

    return check
