"""The values of `os.environ/NAME` in a config.yaml."""

from collections.abc import Mapping

from gateway.config.report import Findings, Refused
from gateway.config.yaml_file import Number, Section, Value, is_storable

PREFIX = "os.environ/"


class FromEnvironment(str):
    """The text of an environment variable, which is probably a secret."""

    __slots__ = ()


class Environment:
    """The file's environment_variables over the process environment.

    `environ` is None for the body of a request: no variable is read, and no message asks for one.
    """

    def __init__(self, environ: Mapping[str, str] | None, findings: Findings, block: Section | None = None) -> None:
        self.is_available = environ is not None
        self._values = dict(environ or {})
        self._findings = findings
        self._places: dict[str, str] = {}  # of environment_variables
        self._used: set[str] = set()
        if block is None or block.value is None:
            return
        if not isinstance(block.value, dict):
            findings.refuse(block.place, "must be a mapping of names to values")
            return
        own: dict[str, str] = {}
        for name, raw in block.value.items():
            place = f"{block.place}.{name}"
            value = self.resolve(raw, place)
            if isinstance(value, bool):
                value = str(value).lower()
            if isinstance(value, Number):
                value = value.text
            if isinstance(value, str):
                own[name] = value
                self._places[name] = place
            elif value is None:
                findings.ignore(place, "is empty")
            elif not isinstance(value, Refused):
                findings.refuse(place, "must be a text or a number")
        self._values |= own
        self._used.clear()

    def get(self, name: str) -> str | None:
        self._used.add(name)
        return self._values.get(name)

    def resolve(self, value: Value, place: str) -> Value:
        if isinstance(value, dict):
            return {key: self.resolve(item, f"{place}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, f"{place}[{i}]") for i, item in enumerate(value)]
        if not isinstance(value, str) or not value.startswith(PREFIX):
            return value
        name = value.removeprefix(PREFIX).strip()
        text = self.get(name)
        if text is None:
            return self._findings.refuse(place, f"the environment variable {name or '(no name)'} is not set")
        if not text.strip():
            return self._findings.refuse(place, f"the environment variable {name} is empty")
        if not is_storable(text):
            return self._findings.refuse(place, f"the environment variable {name} is not UTF-8 text")
        return FromEnvironment(text)

    def resolve_section(self, section: Section) -> Section:
        items = tuple((place, self.resolve(item, place)) for place, item in section.items)
        return Section(section.place, self.resolve(section.value, section.place), items)

    def report_unused(self) -> None:
        for name, place in self._places.items():
            if name in self._used:
                self._findings.honour(place)
            else:
                self._findings.ignore(place, "this file does not refer to it, and the server does not read it")
