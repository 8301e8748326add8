"""The strict JSON parser of the management API."""

from collections.abc import Mapping
from typing import IO

from rest_framework.parsers import BaseParser

from gateway.protocol.json.body import parse_exact_object
from gateway.protocol.json.types import JsonObject

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
        return parse_exact_object(stream.read())
