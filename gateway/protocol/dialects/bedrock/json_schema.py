"""JSON Schema → what Converse's structured output demands.

Source: https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html.
"""

from gateway.protocol.json.types import Json

MAPS = frozenset({"properties", "$defs", "definitions", "patternProperties"})

LITERALS = frozenset({"enum", "const", "default", "examples", "required"})


def close_objects(schema: Json, *, is_map: bool = False) -> Json:
    """A schema whose every object refuses further properties, which structured output demands
    (https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html). `is_map`: of names to schemas."""
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        name: value if name in LITERALS and not is_map else close_objects(value, is_map=name in MAPS and not is_map)
        for name, value in schema.items()
    }
    kind = made.get("type")
    is_object = not is_map and ("properties" in made or kind == "object" or (type(kind) is list and "object" in kind))
    return made | ({"additionalProperties": False} if is_object else {})
