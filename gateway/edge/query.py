"""Query parameters of the data plane's lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs

from gateway.protocol.dialects.responses.items import INCLUDABLE
from gateway.protocol.errors import BadRequest

MAX_LIMIT = 100
DEFAULT_LIMIT = 20
Member = TypeVar("Member", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class Query:
    values: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, scope: Mapping[str, Any]) -> "Query":
        try:
            text = scope.get("query_string", b"").decode("utf-8")
            return cls(parse_qs(text, keep_blank_values=True, max_num_fields=100, errors="strict"))
        except ValueError:
            raise BadRequest("The query string cannot be read.") from None

    def text(self, name: str) -> str:
        """The last value; empty where there is none."""
        value = self.values.get(name, ("",))[-1]
        if "\0" in value:
            raise BadRequest(f"Invalid value for '{name}'.", param=name, code="invalid_value")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Of `name`, `name[]` and `name[0]`, as clients spell a list."""
        return tuple(
            value for key, values in self.values.items() if key.partition("[")[0] == name for value in values if value
        )

    def members(self, name: str) -> dict[str, str]:
        """Of `name[key]=value`."""
        head = f"{name}["
        found = {
            key[len(head) : -1]: values[-1]
            for key, values in self.values.items()
            if key.startswith(head) and key.endswith("]") and len(key) > len(head) + 1
        }
        if any("\0" in text for member in found.items() for text in member):
            raise BadRequest(f"Invalid value for '{name}'.", param=name, code="invalid_value")
        return found

    def integer(self, name: str, default: int | None, minimum: int, maximum: int) -> int | None:
        text = self.text(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 18 or not minimum <= int(text) <= maximum:
            raise BadRequest(
                f"Invalid value for '{name}': it must be an integer between {minimum} and {maximum}.",
                param=name,
                code="invalid_value",
            )
        return int(text)

    def flag(self, name: str) -> bool:
        text = self.text(name).lower()
        if text not in {"", "true", "false", "1", "0"}:
            raise BadRequest(f"Invalid value for '{name}': it must be true or false.", param=name, code="invalid_value")
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
            raise BadRequest("Invalid value for 'order': it must be asc or desc.", param="order", code="invalid_value")
        return order == "desc"


def page_of(data: Sequence[Member], query: Query) -> tuple[list[Member], bool]:
    """(one page of objects with ids, which stand in ascending order; whether more follow). Raises BadRequest."""
    ordered = list(reversed(data)) if query.is_descending else list(data)
    after = query.text("after")
    if after:
        at = next((index for index, one in enumerate(ordered) if one["id"] == after), None)
        if at is None:
            raise BadRequest(f"Item with id '{after[:128]}' not found.", param="after", code="invalid_value")
        ordered = ordered[at + 1 :]
    return ordered[: query.limit], len(ordered) > query.limit


def list_object(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
