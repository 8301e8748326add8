"""The strict JSON parser of the management API."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import IO, NoReturn

from rest_framework.parsers import BaseParser

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.body import MAX_DEPTH
from gateway.protocol.json.types import Json, JsonObject

#: The longest name of a field that an error repeats.
MAX_ECHO_CHARS = 100


class StrictJSONParser(BaseParser):
    """Reads one JSON object that no two parsers could read differently. Fractions become Decimal, never float."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, object] | None = None,
    ) -> JsonObject:
        return parse_object(stream.read())


def parse_object(raw: bytes) -> JsonObject:
    """The JSON object in `raw`. Raises BadRequest (400) for anything else."""
    try:
        value = json.loads(
            raw.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError:
        raise BadRequest("The body is not valid UTF-8.") from None
    except RecursionError:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error.msg} (character {error.pos}).") from None
    except (ValueError, ArithmeticError):
        raise BadRequest("The body holds a number with too many digits.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    for name, item in value.items():
        _check_text(name, name)
        _check_value(item, name)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise BadRequest(f"The body is not valid JSON: {name} is not a number.")


def _unique(pairs: list[tuple[str, Json]]) -> JsonObject:
    members: JsonObject = {}
    for name, value in pairs:
        if name in members:
            param = name[:MAX_ECHO_CHARS].encode("utf-8", "replace").decode("utf-8")
            raise BadRequest(f"The key {param!r} stands twice in one object.", param=param)
        members[name] = value
    return members


def _check_value(value: object, param: str, depth: int = 2) -> None:
    """`depth` is the level of `value`; the body is level 1."""
    if isinstance(value, str):
        _check_text(value, param)
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", param=param)
        if isinstance(value, dict):
            for key in value:
                _check_text(key, param)
        for item in value.values() if isinstance(value, dict) else value:
            _check_value(item, param, depth + 1)


def _check_text(text: str, param: str) -> None:
    """Refuses text that the databases cannot store."""
    shown = param[:MAX_ECHO_CHARS].encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    if "\0" in text:
        raise BadRequest(f"{shown!r} must not contain a NUL character.", param=shown)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest(f"{shown!r} must not contain half a surrogate pair.", param=shown) from None
