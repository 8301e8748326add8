"""JSON Schema → the subset that Claude's structured output takes.

Source: https://platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations".
"""

import json
from collections.abc import Mapping

from gateway.protocol.json.types import Json, JsonObject

SUPPORTED = frozenset({"type", "enum", "const", "title", "description", "default", "required", "$ref"})

DROPPED = frozenset({"$schema", "$id", "$comment", "additionalProperties"})

SUPPORTED_VALUES = frozenset(
    {"minItems: 0", "minItems: 1", "format: date-time", "format: time", "format: date", "format: duration"}
    | {"format: email", "format: hostname", "format: uri", "format: ipv4", "format: ipv6", "format: uuid"}
)


def strict_schema(schema: Json) -> Json:
    """The schema as structured output takes it: objects are closed, and the description names what is not supported."""
    if not isinstance(schema, Mapping):
        return schema
    members: JsonObject = {}
    notes: list[str] = []
    for name, value in schema.items():
        if name in {"properties", "$defs", "definitions"} and isinstance(value, Mapping):
            members[name] = {key: strict_schema(inner) for key, inner in value.items()}
        elif name in {"anyOf", "oneOf", "allOf"} and isinstance(value, list):
            members["anyOf" if name == "oneOf" else name] = [strict_schema(inner) for inner in value]
        elif name == "items":
            members[name] = strict_schema(value)
        elif name in SUPPORTED or f"{name}: {value}" in SUPPORTED_VALUES:
            members[name] = value
        elif name not in DROPPED:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            notes.append(f"{name}: {text}")
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema:
        members["additionalProperties"] = False
    if notes:
        before = f"{members['description']}\n\n" if members.get("description") else ""
        members["description"] = before + "{" + ", ".join(notes) + "}"
    return members
