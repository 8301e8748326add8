"""JSON Schema → what Converse's structured output demands.

Source: https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html.
"""

from gateway.protocol.json.types import Json

#: Members of a schema that map names to schemas.
MAPS = frozenset({"properties", "$defs", "definitions", "patternProperties"})
#: Members of a schema that hold values, not schemas.
LITERALS = frozenset({"enum", "const", "default", "examples", "required"})


def close_objects(schema: Json, *, is_map: bool = False) -> Json:
    """The schema with `additionalProperties: false` in every object. `is_map`: `schema` maps names to schemas."""
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    members = {
        name: value if name in LITERALS and not is_map else close_objects(value, is_map=name in MAPS and not is_map)
        for name, value in schema.items()
    }
    kind = members.get("type")
    is_object = not is_map and (
        "properties" in members or kind == "object" or (type(kind) is list and "object" in kind)
    )
    return members | ({"additionalProperties": False} if is_object else {})
