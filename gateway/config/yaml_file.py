"""A YAML file with its included files as plain values. Numbers keep their exact text; duplicate keys are refused."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeAlias

import yaml

from gateway.config.report import ConfigInvalid, Findings, Problem, Refused
from gateway.protocol.json.types import Json

MAX_DEPTH = 40
MAX_NODES = 200_000  # aliases of aliases grow exponentially


@dataclass(frozen=True, slots=True)
class Number:
    """A YAML number with its exact text: a float would already have lost a price's digits."""

    text: str
    value: int | Decimal


Value: TypeAlias = "bool | str | Number | Refused | list[Value] | dict[str, Value] | None"


@dataclass(frozen=True, slots=True)
class Section:
    """A top-level value. A list has `value` [] and its items, with their places in one or more files, in `items`."""

    place: str
    value: Value
    items: tuple[tuple[str, Value], ...] = ()


def to_json(value: Value) -> Json:
    """The value with plain numbers; one that was refused is None."""
    if isinstance(value, Number):
        return int(value.value) if value.value == int(value.value) else float(value.value)
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    return None if isinstance(value, Refused) else value


def from_json(value: object) -> Value:
    """Plain values as those of a file, numbers with their text. Raises TypeError for what JSON does not have."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return Number(str(value), value)
    if isinstance(value, float | Decimal):
        return Number(str(value), Decimal(str(value)))
    if isinstance(value, list | tuple):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        return {str(name): from_json(item) for name, item in value.items()}
    raise TypeError(f"{type(value).__name__} is no value of JSON")


class _Loader(yaml.SafeLoader):
    """Only the plain types. Dates stay text, as do octal and base-60 numbers; `1e-7` is a number."""

    yaml_implicit_resolvers = {}


_TAG = "tag:yaml.org,2002:"
_YES, _NO = ("yes", "true", "on"), ("no", "false", "off")
_PATTERNS = {
    "null": r"~|null|Null|NULL|",
    "bool": "|".join(f"{word}|{word.title()}|{word.upper()}" for word in _YES + _NO),
    "int": r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)",
    "float": r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)",
    "merge": r"<<",
}
NUMBER = re.compile(f"{_PATTERNS['int']}|{_PATTERNS['float']}")
for _kind, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), None)


def is_storable(text: str) -> bool:
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


def read_sections(path: Path, resolve: Callable[[Value, str], Value], findings: Findings) -> dict[str, Section]:
    """The top level of the file and of its included files: lists are joined, other values replaced.

    `resolve` returns the value of a file name. Raises ConfigInvalid if the file cannot be read.
    """
    reader = _NodeReader(findings)
    sections = reader.file(path, path.name, "")
    included = sections.pop("include", None)
    if included is None:
        return sections
    if included.value is not None and not isinstance(included.value, list):
        findings.refuse("include", "must be a list of files")
    for place, item in included.items:
        name = resolve(item, place)
        if not isinstance(name, str) or not name:
            if not isinstance(name, Refused):
                findings.refuse(place, "must be the path of a file")
            continue
        try:
            more = reader.file(path.parent / name, name, f"{name}: ")
        except ConfigInvalid as error:
            findings.problems.extend(error.problems)
            continue
        if "include" in more:
            findings.refuse(more.pop("include").place, "a file that is included cannot include others")
        findings.honour(place)
        for key, section in more.items():
            before = sections.get(key)
            if before is not None and isinstance(before.value, list) and isinstance(section.value, list):
                sections[key] = Section(before.place, [], before.items + section.items)
                continue
            if before is not None and before.value is not None:
                findings.ignore(before.place, f"overwritten by {name}, which is included")
            sections[key] = section
    return sections


class _NodeReader:
    """Converts YAML nodes to values. Nodes have the duplicate keys and line numbers that a dict loses."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._nodes = 0

    def file(self, path: Path, name: str, prefix: str) -> dict[str, Section]:
        sections = {}
        for key, value in self._mapping(_compose(path, name), prefix).items():
            place = prefix + key
            if isinstance(value, list):
                items = tuple((f"{place}[{i}]", item) for i, item in enumerate(value))
                sections[key] = Section(place, [], items)
            else:
                sections[key] = Section(place, value)
        return sections

    def _read(self, node: yaml.Node, place: str, depth: int) -> Value:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise _endless(place)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(kind, node.value, place)
        if kind not in {"map", "seq"}:
            return self._refuse_tag(place)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, f"{place}.", depth)
        return [self._read(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, prefix: str, depth: int = 0) -> dict[str, Value]:
        merged: dict[str, Value] = {}
        own: dict[str, Value] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key_place = f"{prefix}(a key on line {line})"
            name = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                self._findings.refuse(key_place, "must be plain text")
            elif key_node.tag == _TAG + "merge":
                for each in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    if not isinstance(each, yaml.MappingNode):
                        self._findings.refuse(f"{prefix}<<", "can merge mappings only")
                        continue
                    if depth > MAX_DEPTH:
                        raise _endless(f"{prefix}<<")
                    merged = self._mapping(each, prefix, depth + 1) | merged
            elif not isinstance(self._text(name, key_place), Refused):
                if name in lines:
                    self._findings.refuse(prefix + name, f"is given twice, on lines {lines[name]} and {line}")
                lines[name] = line
                own[name] = self._read(value_node, prefix + name, depth + 1)
        return merged | own

    def _scalar(self, kind: str, text: str, place: str) -> Value:
        if kind == "str":
            return self._text(text, place)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in _YES + _NO:
            return text.lower() in _YES
        if kind in {"int", "float"}:
            try:
                return Number(text, int(text) if kind == "int" else Decimal(text))
            except (ValueError, InvalidOperation):
                return self._findings.refuse(place, "is not a number that can be read")
        return self._refuse_tag(place)

    def _refuse_tag(self, place: str) -> Refused:
        return self._findings.refuse(place, "has a YAML tag that is not accepted here")

    def _text(self, text: str, place: str) -> str | Refused:
        if is_storable(text):
            return text
        return self._findings.refuse(place, "holds a NUL or half a character, which no database takes")


def _endless(place: str) -> ConfigInvalid:
    short = place if len(place) <= 80 else f"{place[:80]}…"
    return ConfigInvalid(Problem(short, "is nested too deeply, or its aliases never end"))


def _compose(path: Path, name: str) -> yaml.MappingNode:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        node = yaml.compose(text, Loader=_Loader)
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        wrong = f"is not UTF-8 text (byte {error.start})"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        # Quoted text comes from the file and may be part of a password; names of tokens do not.
        problem = re.sub(r"(['\"])(?!<[a-z ]+>').*\1", "…", error.problem or "", flags=re.DOTALL)
        wrong = f"is not valid YAML: {where}: {problem}"
    except yaml.YAMLError:
        wrong = "holds a character that YAML does not allow"
    except RecursionError:
        wrong = "is nested too deeply"
    else:
        if isinstance(node, yaml.MappingNode):
            return node
        wrong = "must be a mapping at its top level, such as `model_list:`"
    raise ConfigInvalid(Problem(name, wrong))
