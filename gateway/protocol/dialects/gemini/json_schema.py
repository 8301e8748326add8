"""Tools and their schemas as Gemini takes them; JSON Schema → the subset of OpenAPI's schema of its older models.

Source: google-genai 3.3.0, `types.Schema` (its members are all that may be sent), and the Gemini API reference,
"Schema" (https://ai.google.dev/api/caching#Schema). Everything outside the subset is expressed by it where that loses
little, and left out where not: a schema guides the model, the caller still checks what comes back.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from gateway.protocol.errors import BadRequest
from gateway.protocol.items import Tool
from gateway.protocol.json.types import Json, JsonMapping, JsonObject

#: Copied as they are. `title` and `default` mean nothing to the model, but `types.Schema` has them.
COPIED = frozenset(
    """
    title description nullable pattern example default minimum maximum minItems maxItems minLength maxLength
    minProperties maxProperties required propertyOrdering
    """.split()  # noqa: SIM905 - fifteen names read better without their quotes
)
FORMATS = frozenset({"date-time", "enum", "int32", "int64", "float", "double"})
TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object"})
MAX_DEPTH = 32
MAX_NODES = 20_000  # references that name each other grow a small schema without end
MAX_REFERENCES = 64  # one to the next, on the way to a schema
A_NODE = 16  # members or values that cost as much as a schema within a schema


WIRE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")
MAX_NAME = 128  # the description of `types.FunctionDeclaration.name`
MAX_OLD_NAME = 64  # of the models that take the subset only
#: A custom tool takes any text: here the one member of its arguments.
FREEFORM = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def wire_name(name: str, *, is_subset: bool) -> str:
    """A function's name as the API takes it. One that is too long ends in what tells it from others that begin the
    same."""
    made = name
    if not WIRE_NAME.fullmatch(name):
        made = re.sub(r"[^A-Za-z0-9_.:-]", "_", name)
        made = made if WIRE_NAME.match(made) else f"_{made}"
    limit = MAX_OLD_NAME if is_subset else MAX_NAME
    return made if len(made) <= limit else _told_apart(made, name, limit)


def wire_names(tools: Iterable[Tool], *, is_subset: bool) -> dict[str, str]:
    """{a tool's name: the one it has on the wire}, no two of which are the same. A tool that can keep its name does."""
    made = {tool.name: wire_name(tool.name, is_subset=is_subset) for tool in tools}
    taken = {name for name, wire in made.items() if name == wire}
    for name, wire in made.items():
        if name != wire and wire in taken:
            made[name] = _told_apart(wire, name, MAX_OLD_NAME if is_subset else MAX_NAME)
        taken.add(made[name])
    return made


def _told_apart(made: str, name: str, limit: int) -> str:
    mark = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{made[: limit - len(mark) - 1]}_{mark}"


def renamed_tools(tools: Sequence[Tool], *, is_subset: bool) -> dict[str, Tool]:
    """The tools that are not on the wire what they are for the client, by their names there."""
    names = wire_names(tools, is_subset=is_subset)
    return {names[tool.name]: tool for tool in tools if tool.kind == "custom" or names[tool.name] != tool.name}


def declaration(tool: Tool, name: str, *, is_subset: bool) -> JsonObject:
    """A functionDeclaration under its name on the wire. One without parameters says nothing of them: an empty object
    is refused."""
    made: JsonObject = {"name": name}
    if tool.description:
        made["description"] = tool.description
    schema = FREEFORM if tool.kind == "custom" else tool.schema
    if not schema or (schema.get("type", "object") == "object" and not _has_members(schema)):
        return made
    if is_subset:
        made["parameters"] = to_openapi_subset(schema)
    else:
        made["parametersJsonSchema"] = schema
    return made


def _has_members(schema: JsonMapping) -> bool:
    return any(schema.get(name) for name in ("properties", "$ref", "anyOf", "oneOf", "allOf", "patternProperties"))


def to_openapi_subset(schema: JsonMapping) -> JsonObject:
    return _Conversion(schema).converted(schema, (), 0)


class _Conversion:
    """One schema with the definitions that its references name."""

    __slots__ = ("_found", "_left", "_root")

    def __init__(self, root: JsonMapping) -> None:
        self._root = root
        self._found: dict[str, JsonMapping | None] = {}
        self._left = MAX_NODES

    def converted(self, schema: Json, trail: tuple[str, ...], depth: int) -> JsonObject:
        """`trail` holds the references that lead here: one that stands in it already is a recursion."""
        self._spend()
        if depth > MAX_DEPTH:
            return {"type": "object"}
        if not isinstance(schema, Mapping):  # true stands for anything
            return {"type": "string"}
        schema, trail, is_recursive = self._resolved(schema, trail)
        if is_recursive:
            return _with_notes({"type": "object"}, schema)
        schema = self._merged(schema, trail, depth)
        self._spend((len(schema) + _length(schema.get("enum")) + _length(schema.get("required"))) // A_NODE)
        made = {name: schema[name] for name in COPIED if schema.get(name) is not None}
        self._set_type(made, schema)
        _set_limits(made, schema)
        _set_enum(made, schema)
        if schema.get("format") in FORMATS:
            made["format"] = schema["format"]
        self._set_alternatives(made, schema, trail, depth)
        self._set_members(made, schema, trail, depth)
        return _tidied(made)

    def _spend(self, nodes: int = 1) -> None:
        self._left -= nodes
        if self._left < 0:
            raise BadRequest("A JSON schema is too large once its references are written out.", code="invalid_value")

    def _resolved(self, schema: JsonMapping, trail: tuple[str, ...]) -> tuple[JsonMapping, tuple[str, ...], bool]:
        while isinstance(schema.get("$ref"), str):
            reference: str = schema["$ref"]
            notes = {name: value for name, value in schema.items() if name != "$ref"}
            if reference in trail or len(trail) == MAX_REFERENCES:
                return notes, trail, True
            self._spend()
            trail = (*trail, reference)
            if reference not in self._found:
                self._found[reference] = self._definition(reference)
            found = self._found[reference]
            schema = {**found, **notes} if found is not None else {"type": "object", **notes}
        return schema, trail, False

    def _definition(self, reference: str) -> JsonMapping | None:
        """What `#/$defs/P` points to; None for anything that is not in this schema."""
        if not reference.startswith("#"):
            return None
        node: Json = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, Mapping) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            else:
                return None
        return node if isinstance(node, Mapping) else None

    def _merged(self, schema: JsonMapping, trail: tuple[str, ...], depth: int) -> JsonMapping:
        """`allOf` folded into the schema that holds it."""
        parts = schema.get("allOf")
        if not isinstance(parts, list) or depth > MAX_DEPTH:
            return schema
        merged = {name: value for name, value in schema.items() if name != "allOf"}
        properties: JsonObject | None = None  # both of here once there is more than one part's
        required: dict[str, None] | None = None
        for part in parts:
            self._spend()
            if not isinstance(part, Mapping):
                continue
            resolved, inner_trail, is_recursive = self._resolved(part, trail)
            if is_recursive:
                continue
            for name, value in self._merged(resolved, inner_trail, depth + 1).items():
                held = merged.get(name)
                if name == "properties" and isinstance(held, Mapping) and isinstance(value, Mapping):
                    if properties is None:
                        merged[name] = properties = dict(held)
                    for key, item in value.items():
                        properties.setdefault(key, item)
                elif name == "required" and isinstance(held, list) and isinstance(value, list):
                    required = _names(held) if required is None else required
                    required |= _names(value)
                elif held is None:
                    merged[name] = value
        if required is not None:
            merged["required"] = list(required)
        return merged

    def _set_type(self, made: JsonObject, schema: JsonMapping) -> None:
        given = schema.get("type")
        if isinstance(given, list):
            names = [_type_name(name) for name in given]
            if "null" in names:
                made["nullable"] = True
            names = [name for name in names if name in TYPES]
            if len(names) == 1:
                made["type"] = names[0]
            elif names:
                made["anyOf"] = [{"type": name} for name in names]
        elif _type_name(given) == "null":
            made.update(type="string", nullable=True)
        elif _type_name(given) in TYPES:
            made["type"] = _type_name(given)

    def _set_alternatives(self, made: JsonObject, schema: JsonMapping, trail: tuple[str, ...], depth: int) -> None:
        given = schema.get("anyOf") or schema.get("oneOf")
        if not isinstance(given, list) or schema.get("properties"):
            return  # beside properties they only say which of these go together
        own_type = {"type": made["type"]} if "type" in made else {}
        kept = [item if _says_type(item) else {**own_type, **item} for item in given if not _is_null(item)]
        if len(kept) < len(given):
            made["nullable"] = True
        made.pop("default", None)
        alternatives = [self.converted(item, trail, depth + 1) for item in kept]
        if len(alternatives) == 1:
            only = alternatives[0]
            for name in ("title", "description", "nullable"):  # the outer ones tell more
                if name in made:
                    only[name] = made[name]
            made.update(only)
        elif alternatives:
            # A type beside anyOf is refused: each alternative has its own.
            made.pop("type", None)
            made["anyOf"] = alternatives

    def _set_members(self, made: JsonObject, schema: JsonMapping, trail: tuple[str, ...], depth: int) -> None:
        properties = schema.get("properties")
        if isinstance(properties, Mapping) and properties:
            made["properties"] = {
                str(name): self.converted(value, trail, depth + 1) for name, value in properties.items()
            }
            if "anyOf" not in made:
                made.setdefault("type", "object")
        items = schema.get("items")
        if items is None and isinstance(schema.get("prefixItems"), list):
            items = {"anyOf": schema["prefixItems"]}
        if isinstance(items, list):  # a tuple in older drafts
            items = {"anyOf": items}
        if isinstance(items, Mapping):
            made["items"] = self.converted(items, trail, depth + 1)
            if "anyOf" not in made:
                made.setdefault("type", "array")


def _names(values: Iterable[Json]) -> dict[str, None]:
    return dict.fromkeys(value for value in values if isinstance(value, str))


def _length(value: Json) -> int:
    return len(value) if isinstance(value, list) else 0


def _type_name(value: Json) -> str:
    return value.lower() if isinstance(value, str) else ""


def _is_null(schema: Json) -> bool:
    return isinstance(schema, Mapping) and (
        _type_name(schema.get("type")) == "null" or ("const" in schema and schema["const"] is None)
    )


def _says_type(schema: Json) -> bool:
    says = ("type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "properties", "items")
    return not isinstance(schema, Mapping) or any(name in schema for name in says)


def _with_notes(made: JsonObject, schema: JsonMapping) -> JsonObject:
    return made | {name: schema[name] for name in ("title", "description") if isinstance(schema.get(name), str)}


def _set_limits(made: JsonObject, schema: JsonMapping) -> None:
    for name, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        value = schema.get(exclusive)
        if type(value) in {int, float}:  # a boolean in draft 4, where the limit itself stands in `minimum`
            made.setdefault(name, value)


def _set_enum(made: JsonObject, schema: JsonMapping) -> None:
    """An enum lists strings only; other values are written as they stand in JSON."""
    values = schema.get("enum")
    if "const" in schema:
        values = [schema["const"]]
    if not isinstance(values, list) or not values:
        return
    if None in values:
        made["nullable"] = True
    texts = [_enum_text(value) for value in values if value is not None]
    if texts:
        made.pop("anyOf", None)
        made.update(type="string", enum=texts)


def _enum_text(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _tidied(made: JsonObject) -> JsonObject:
    """Without what is refused in combination."""
    properties = made.get("properties") or {}
    required = made.pop("required", None)
    names = [name for name in _names(required) if name in properties] if isinstance(required, list) else []
    if names:
        made["required"] = names
    if "anyOf" in made:
        made.pop("default", None)
        return made
    kind = made.setdefault("type", "string")
    if kind == "array":
        made.setdefault("items", {"type": "string"})
    if kind == "object" and not properties:
        made["type"] = kind = "string"  # an object without properties is refused
        made.pop("default", None)
    if kind == "string":  # what limited the values before they became texts
        for name in ("minimum", "maximum", "minProperties", "maxProperties"):
            made.pop(name, None)
        for name in ("default", "example"):
            if not isinstance(made.get(name), str):
                made.pop(name, None)
    return made
