"""The fields of request bodies and queries of the management API."""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, time

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from rest_framework.request import Request

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonMapping, JsonObject
from tenants.rest.json_body import MAX_ECHO_CHARS, StrictJSONParser


def declare_body(request: Request) -> None:
    """Sets the length and the type of the body.

    DRF takes a body without Content-Length (chunked) or Content-Type for an absent one, and /key/generate would then
    issue an unrestricted key.
    """
    body = request.body
    if len(body) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        raise RequestDataTooBig
    request.META["CONTENT_LENGTH"] = str(len(body))
    request.META["CONTENT_TYPE"] = request.META.get("CONTENT_TYPE") or StrictJSONParser.media_type


def read_body(request: Request, *, known: Collection[str]) -> JsonObject:
    """The fields of the body; an empty body has none. Raises BadRequest for an unknown field."""
    body = dict(request.data)
    for name in body:
        if name not in known:
            raise BadRequest(f"Unknown field: {name[:MAX_ECHO_CHARS]!r}.", param=name[:MAX_ECHO_CHARS])
    return body


def read_query(request: Request, *, known: Collection[str]) -> dict[str, str]:
    """The query parameters that are not empty. Raises BadRequest for an unknown or repeated one."""
    fields: dict[str, str] = {}
    for name, values in request.query_params.lists():
        param = name[:MAX_ECHO_CHARS]
        if name not in known:
            raise BadRequest(f"Unknown query parameter: {param!r}.", param=param)
        if len(values) > 1:
            raise BadRequest(f"The query parameter {param!r} is given more than once.", param=param)
        text = str(values[0])
        if "\0" in text:
            raise BadRequest(f"The query parameter {param!r} must not contain a NUL character.", param=param)
        if text:
            fields[name] = text
    return fields


def read_count(query: Mapping[str, str], name: str, *, default: int, maximum: int) -> int:
    """A query parameter that is a whole number from 1 to `maximum`."""
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= maximum:
        raise BadRequest(f"{name!r} must be a whole number from 1 to {maximum}.", param=name)
    return int(text)


def render_instant(value: datetime | None) -> str | None:
    """ISO 8601 in UTC."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def read_instant(query: Mapping[str, str], name: str, edge: time) -> datetime:
    """An instant; a day becomes its start or end (`edge`). Without a zone it is UTC."""
    text = query[name]
    try:
        if len(text) == len("YYYY-MM-DD"):
            return datetime.combine(date.fromisoformat(text), edge, tzinfo=UTC)
        instant = datetime.fromisoformat(text)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(f"{name!r} must be YYYY-MM-DD or an ISO 8601 instant.", param=name) from None


def read_text(body: JsonMapping, name: str) -> str | None:
    """The text of the field; None if it is absent, null or empty. Raises BadRequest for a blank text."""
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"{name!r} must be text.", param=name)
    if not value.strip():
        raise BadRequest(f"{name!r} must not be blank.", param=name)
    return value


def read_flag(body: JsonMapping, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name!r} must be true or false.", param=name)
    return bool(value)


def read_query_flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        raise BadRequest(f"{name!r} must be true or false.", param=name)
    return text in {"true", "1"}
