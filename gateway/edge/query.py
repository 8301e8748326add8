"""Query parameters of the data plane's lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import parse_qs

from gateway.edge.asgi_types import Scope
from gateway.protocol.dialects.responses.items import INCLUDABLE, invalid_value
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonMapping, JsonObject

MAX_LIMIT = 100
DEFAULT_LIMIT = 20
Entry = TypeVar("Entry", bound=JsonMapping)


@dataclass(frozen=True, slots=True)
class Query:
    """The parameters of one request; every method raises BadRequest for a wrong value."""

    values: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, scope: Scope) -> "Query":
        try:
            text = scope.get("query_string", b"").decode("utf-8")
            return cls(parse_qs(text, keep_blank_values=True, max_num_fields=100, errors="strict"))
        except ValueError:
            raise BadRequest("The query string cannot be read.") from None

    def text(self, name: str) -> str:
        """The last value of the parameter; empty where the query has none."""
        value = self.values.get(name, ("",))[-1]
        if "\0" in value:
            raise BadRequest(f"Invalid value for '{name}'.", param=name, code="invalid_value")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """The values of a list, which clients spell `name`, `name[]` or `name[0]`."""
        return tuple(
            value for key, values in self.values.items() if key.partition("[")[0] == name for value in values if value
        )

    def members(self, name: str) -> dict[str, str]:
        """{key: value} of the parameters `name[key]=value`."""
        prefix = f"{name}["
        members = {
            key[len(prefix) : -1]: values[-1]
            for key, values in self.values.items()
            if key.startswith(prefix) and key.endswith("]") and len(key) > len(prefix) + 1
        }
        if any("\0" in text for member in members.items() for text in member):
            raise BadRequest(f"Invalid value for '{name}'.", param=name, code="invalid_value")
        return members

    def integer(self, name: str, default: int | None, minimum: int, maximum: int) -> int | None:
        text = self.text(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 18 or not minimum <= int(text) <= maximum:
            raise invalid_value(name, f"it must be an integer between {minimum} and {maximum}")
        return int(text)

    def flag(self, name: str) -> bool:
        text = self.text(name).lower()
        if text not in {"", "true", "false", "1", "0"}:
            raise invalid_value(name, "it must be true or false")
        return text in {"true", "1"}

    @property
    def limit(self) -> int:
        return self.integer("limit", DEFAULT_LIMIT, 1, MAX_LIMIT) or DEFAULT_LIMIT

    @property
    def include(self) -> frozenset[str]:
        include = frozenset(self.texts("include"))
        if not include <= INCLUDABLE:
            raise BadRequest("Invalid value for 'include'.", param="include", code="invalid_value")
        return include

    @property
    def is_descending(self) -> bool:
        order = self.text("order") or "desc"
        if order not in {"asc", "desc"}:
            raise invalid_value("order", "it must be asc or desc")
        return order == "desc"


def select_page(entries: Sequence[Entry], query: Query) -> tuple[list[Entry], bool]:
    """(one page of `entries`, True if more follow). `entries` are in ascending order. Raises BadRequest."""
    ordered = list(reversed(entries)) if query.is_descending else list(entries)
    after = query.text("after")
    if after:
        index = next((index for index, entry in enumerate(ordered) if entry["id"] == after), None)
        if index is None:
            raise BadRequest(f"Item with id '{after[:128]}' not found.", param="after", code="invalid_value")
        ordered = ordered[index + 1 :]
    return ordered[: query.limit], len(ordered) > query.limit


def list_object(data: Sequence[JsonMapping], *, has_more: bool) -> JsonObject:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
