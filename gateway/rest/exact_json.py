"""JSON whose numbers are exactly what is stored: a Decimal is written with its own digits, never by way of a float."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson
from rest_framework.renderers import BaseRenderer


def dumps(value: Any) -> bytes:
    return orjson.dumps(_exact(value))


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _exact(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    if isinstance(value, Decimal):
        return orjson.Fragment(f"{value:f}")
    if type(value) is int and not -(2**63) <= value < 2**64:  # orjson writes 64 bits
        return orjson.Fragment(str(value))
    return value


class ExactJSONRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None
    render_style = "binary"

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        return b"" if data is None else dumps(data)
