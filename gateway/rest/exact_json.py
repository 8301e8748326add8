"""A JSON renderer that writes a Decimal with its exact digits, never through a float."""

from collections.abc import Mapping
from decimal import Decimal

import orjson
from rest_framework.renderers import BaseRenderer

from gateway.protocol.json.types import Json


def dumps(value: Json) -> bytes:
    return orjson.dumps(_keep_digits(value))


def _keep_digits(value: Json) -> Json:
    if isinstance(value, dict):
        return {name: _keep_digits(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_keep_digits(item) for item in value]
    if isinstance(value, Decimal):
        return orjson.Fragment(f"{value:f}")
    if type(value) is int and not -(2**63) <= value < 2**64:  # orjson writes 64 bits at most
        return orjson.Fragment(str(value))
    return value


class ExactJSONRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None
    render_style = "binary"

    def render(
        self,
        data: Json,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, object] | None = None,
    ) -> bytes:
        return b"" if data is None else dumps(data)
