"""JSON Schema → the subset that Claude's structured output takes.

Source: https://platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations".
"""

import json
from collections.abc import Mapping

from gateway.protocol.json.types import Json, JsonObject

#: https://platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations"
SCHEMA_KEPT = frozenset({"type", "enum", "const", "title", "description", "default", "required", "$ref"})

SCHEMA_DROPPED = frozenset({"$schema", "$id", "$comment", "additionalProperties"})

SCHEMA_VALUES = frozenset(
    {"minItems: 0", "minItems: 1", "format: date-time", "format: time", "format: date", "format: duration"}
    | {"format: email", "format: hostname", "format: uri", "format: ipv4", "format: ipv6", "format: uuid"}
)


def strict_schema(schema: Json) -> Json:
    """A schema that structured output takes: closed objects, and what it does not know told in the description."""
    if not isinstance(schema, Mapping):
        return schema
    made: JsonObject = {}
    told: list[str] = []
    for name, value in schema.items():
        if name in {"properties", "$defs", "definitions"} and isinstance(value, Mapping):
            made[name] = {key: strict_schema(inner) for key, inner in value.items()}
        elif name in {"anyOf", "oneOf", "allOf"} and isinstance(value, list):
            made["anyOf" if name == "oneOf" else name] = [strict_schema(inner) for inner in value]
        elif name == "items":
            made[name] = strict_schema(value)
        elif name in SCHEMA_KEPT or f"{name}: {value}" in SCHEMA_VALUES:
            made[name] = value
        elif name not in SCHEMA_DROPPED:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            told.append(f"{name}: {shown}")
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema:
        made["additionalProperties"] = False
    if told:
        before = f"{made['description']}\n\n" if made.get("description") else ""
        made["description"] = before + "{" + ", ".join(told) + "}"
    return made
