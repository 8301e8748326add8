"""Tools as Gemini takes them; JSON Schema → the subset of OpenAPI's schema that its older models take.

Source: google-genai 3.3.0, `types.Schema` (a request may hold no other members), and the Gemini API reference,
"Schema" (https://ai.google.dev/api/caching#Schema). What lies outside the subset is expressed by it where that loses
little, and left out otherwise: a schema guides the model, the client still checks the answer.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from gateway.protocol import freeform
from gateway.protocol.errors import BadRequest
from gateway.protocol.items import Tool
from gateway.protocol.json.types import Json, JsonMapping, JsonObject

#: Members that are copied as they are.
COPIED = frozenset(
    {"title", "description", "nullable", "pattern", "example", "default", "minimum", "maximum"}
    | {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "required"}
    | {"propertyOrdering"}
)
FORMATS = frozenset({"date-time", "enum", "int32", "int64", "float", "double"})
TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object"})
MAX_DEPTH = 32
MAX_NODES = 20_000  # references to each other make a small schema grow without end
MAX_REFERENCES = 64  # from one to the next, on the way to a schema
MEMBERS_PER_NODE = 16  # so many members or values count as one nested schema


WIRE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")
MAX_NAME = 128  # source: the description of `types.FunctionDeclaration.name`
MAX_OLD_NAME = 64  # for models that take the subset only


def wire_name(name: str, *, is_subset: bool) -> str:
    """A function's name as the API takes it. A hash at its end distinguishes a shortened name from similar ones."""
    changed = name
    if not WIRE_NAME.fullmatch(name):
        changed = re.sub(r"[^A-Za-z0-9_.:-]", "_", name)
        changed = changed if WIRE_NAME.match(changed) else f"_{changed}"
    limit = MAX_OLD_NAME if is_subset else MAX_NAME
    return changed if len(changed) <= limit else _distinguish(changed, name, limit)


def wire_names(tools: Iterable[Tool], *, is_subset: bool) -> dict[str, str]:
    """{a tool's name: its unique name on the wire}. A tool keeps its name where the API takes it."""
    names = {tool.name: wire_name(tool.name, is_subset=is_subset) for tool in tools}
    used = {name for name, wire in names.items() if name == wire}
    for name, wire in names.items():
        if name != wire and wire in used:
            names[name] = _distinguish(wire, name, MAX_OLD_NAME if is_subset else MAX_NAME)
        used.add(names[name])
    return names


def _distinguish(base: str, name: str, limit: int) -> str:
    mark = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{base[: limit - len(mark) - 1]}_{mark}"


def renamed_tools(tools: Sequence[Tool], *, is_subset: bool) -> dict[str, Tool]:
    """The tools whose name or kind differs on the wire, by their names on the wire."""
    names = wire_names(tools, is_subset=is_subset)
    return {names[tool.name]: tool for tool in tools if tool.kind == "custom" or names[tool.name] != tool.name}


def declaration(tool: Tool, name: str, *, is_subset: bool) -> JsonObject:
    """A functionDeclaration. One without parameters has no schema: the API refuses an empty object."""
    members: JsonObject = {"name": name}
    if tool.description:
        members["description"] = tool.description
    schema = freeform.SCHEMA if tool.kind == "custom" else tool.schema
    if not schema or (schema.get("type", "object") == "object" and not _has_members(schema)):
        return members
    if is_subset:
        members["parameters"] = to_openapi_subset(schema)
    else:
        members["parametersJsonSchema"] = schema
    return members


def _has_members(schema: JsonMapping) -> bool:
    return any(schema.get(name) for name in ("properties", "$ref", "anyOf", "oneOf", "allOf", "patternProperties"))


def to_openapi_subset(schema: JsonMapping) -> JsonObject:
    return _Conversion(schema).convert(schema, (), 0)


class _Conversion:
    """Converts one schema, with the definitions that its references name."""

    __slots__ = ("_definitions", "_nodes_left", "_root")

    def __init__(self, root: JsonMapping) -> None:
        self._root = root
        self._definitions: dict[str, JsonMapping | None] = {}
        self._nodes_left = MAX_NODES

    def convert(self, schema: Json, trail: tuple[str, ...], depth: int) -> JsonObject:
        """The schema in the subset. `trail` holds the references that lead here: a repeated one is a recursion."""
        self._spend()
        if depth > MAX_DEPTH:
            return {"type": "object"}
        if not isinstance(schema, Mapping):  # true stands for anything
            return {"type": "string"}
        schema, trail, is_recursive = self._resolve(schema, trail)
        if is_recursive:
            return _add_notes({"type": "object"}, schema)
        schema = self._merge(schema, trail, depth)
        self._spend((len(schema) + _length(schema.get("enum")) + _length(schema.get("required"))) // MEMBERS_PER_NODE)
        members = {name: schema[name] for name in COPIED if schema.get(name) is not None}
        self._set_type(members, schema)
        _set_limits(members, schema)
        _set_enum(members, schema)
        if schema.get("format") in FORMATS:
            members["format"] = schema["format"]
        self._set_alternatives(members, schema, trail, depth)
        self._set_members(members, schema, trail, depth)
        return _clean(members)

    def _spend(self, nodes: int = 1) -> None:
        self._nodes_left -= nodes
        if self._nodes_left < 0:
            raise BadRequest("A JSON schema is too large once its references are written out.", code="invalid_value")

    def _resolve(self, schema: JsonMapping, trail: tuple[str, ...]) -> tuple[JsonMapping, tuple[str, ...], bool]:
        while isinstance(schema.get("$ref"), str):
            reference: str = schema["$ref"]
            notes = {name: value for name, value in schema.items() if name != "$ref"}
            if reference in trail or len(trail) == MAX_REFERENCES:
                return notes, trail, True
            self._spend()
            trail = (*trail, reference)
            if reference not in self._definitions:
                self._definitions[reference] = self._find_definition(reference)
            definition = self._definitions[reference]
            schema = {**definition, **notes} if definition is not None else {"type": "object", **notes}
        return schema, trail, False

    def _find_definition(self, reference: str) -> JsonMapping | None:
        """The schema that a reference such as `#/$defs/P` points to; None for one outside this schema."""
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

    def _merge(self, schema: JsonMapping, trail: tuple[str, ...], depth: int) -> JsonMapping:
        """The schema with its `allOf` merged into it."""
        parts = schema.get("allOf")
        if not isinstance(parts, list) or depth > MAX_DEPTH:
            return schema
        merged = {name: value for name, value in schema.items() if name != "allOf"}
        properties: JsonObject | None = None  # a copy of our own, as soon as two parts have properties
        required: dict[str, None] | None = None
        for part in parts:
            self._spend()
            if not isinstance(part, Mapping):
                continue
            resolved, inner_trail, is_recursive = self._resolve(part, trail)
            if is_recursive:
                continue
            for name, value in self._merge(resolved, inner_trail, depth + 1).items():
                existing = merged.get(name)
                if name == "properties" and isinstance(existing, Mapping) and isinstance(value, Mapping):
                    if properties is None:
                        merged[name] = properties = dict(existing)
                    for key, item in value.items():
                        properties.setdefault(key, item)
                elif name == "required" and isinstance(existing, list) and isinstance(value, list):
                    required = _names(existing) if required is None else required
                    required |= _names(value)
                elif existing is None:
                    merged[name] = value
        if required is not None:
            merged["required"] = list(required)
        return merged

    def _set_type(self, members: JsonObject, schema: JsonMapping) -> None:
        kind = schema.get("type")
        if isinstance(kind, list):
            names = [_type_name(name) for name in kind]
            if "null" in names:
                members["nullable"] = True
            names = [name for name in names if name in TYPES]
            if len(names) == 1:
                members["type"] = names[0]
            elif names:
                members["anyOf"] = [{"type": name} for name in names]
        elif _type_name(kind) == "null":
            members.update(type="string", nullable=True)
        elif _type_name(kind) in TYPES:
            members["type"] = _type_name(kind)

    def _set_alternatives(self, members: JsonObject, schema: JsonMapping, trail: tuple[str, ...], depth: int) -> None:
        schemas = schema.get("anyOf") or schema.get("oneOf")
        if not isinstance(schemas, list) or schema.get("properties"):
            return  # beside properties, the alternatives only say which of these go together
        own_type = {"type": members["type"]} if "type" in members else {}
        typed = [item if _has_type(item) else {**own_type, **item} for item in schemas if not _is_null(item)]
        if len(typed) < len(schemas):
            members["nullable"] = True
        members.pop("default", None)
        alternatives = [self.convert(item, trail, depth + 1) for item in typed]
        if len(alternatives) == 1:
            only = alternatives[0]
            for name in ("title", "description", "nullable"):  # the outer values win
                if name in members:
                    only[name] = members[name]
            members.update(only)
        elif alternatives:
            # The API refuses a type beside anyOf: each alternative has its own.
            members.pop("type", None)
            members["anyOf"] = alternatives

    def _set_members(self, members: JsonObject, schema: JsonMapping, trail: tuple[str, ...], depth: int) -> None:
        properties = schema.get("properties")
        if isinstance(properties, Mapping) and properties:
            members["properties"] = {
                str(name): self.convert(value, trail, depth + 1) for name, value in properties.items()
            }
            if "anyOf" not in members:
                members.setdefault("type", "object")
        items = schema.get("items")
        if items is None and isinstance(schema.get("prefixItems"), list):
            items = {"anyOf": schema["prefixItems"]}
        if isinstance(items, list):  # a tuple in older drafts
            items = {"anyOf": items}
        if isinstance(items, Mapping):
            members["items"] = self.convert(items, trail, depth + 1)
            if "anyOf" not in members:
                members.setdefault("type", "array")


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


def _has_type(schema: Json) -> bool:
    says = ("type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "properties", "items")
    return not isinstance(schema, Mapping) or any(name in schema for name in says)


def _add_notes(members: JsonObject, schema: JsonMapping) -> JsonObject:
    return members | {name: schema[name] for name in ("title", "description") if isinstance(schema.get(name), str)}


def _set_limits(members: JsonObject, schema: JsonMapping) -> None:
    for name, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        value = schema.get(exclusive)
        if type(value) in {int, float}:  # a boolean in draft 4, where the limit itself stands in `minimum`
            members.setdefault(name, value)


def _set_enum(members: JsonObject, schema: JsonMapping) -> None:
    """Sets an enum, which lists strings only: other values are written as in JSON."""
    values = schema.get("enum")
    if "const" in schema:
        values = [schema["const"]]
    if not isinstance(values, list) or not values:
        return
    if None in values:
        members["nullable"] = True
    texts = [_enum_text(value) for value in values if value is not None]
    if texts:
        members.pop("anyOf", None)
        members.update(type="string", enum=texts)


def _enum_text(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _clean(members: JsonObject) -> JsonObject:
    """The schema without combinations that the API refuses."""
    properties = members.get("properties") or {}
    required = members.pop("required", None)
    names = [name for name in _names(required) if name in properties] if isinstance(required, list) else []
    if names:
        members["required"] = names
    if "anyOf" in members:
        members.pop("default", None)
        return members
    kind = members.setdefault("type", "string")
    if kind == "array":
        members.setdefault("items", {"type": "string"})
    if kind == "object" and not properties:
        members["type"] = kind = "string"  # the API refuses an object without properties
        members.pop("default", None)
    if kind == "string":  # limits of values that became strings
        for name in ("minimum", "maximum", "minProperties", "maxProperties"):
            members.pop(name, None)
        for name in ("default", "example"):
            if not isinstance(members.get(name), str):
                members.pop(name, None)
    return members
