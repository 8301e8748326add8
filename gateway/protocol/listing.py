"""Lists of an upstream's models: the optional part of a provider's contract. A provider does no I/O itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import orjson

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.types import Json
from gateway.protocol.provider import Target


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A GET."""

    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ModelPage:
    names: tuple[str, ...]
    next_page: str = ""  # the argument for the next page; empty after the last one


@runtime_checkable
class ModelLister(Protocol):
    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        """None where the upstream of this deployment lists nothing. `page` is a ModelPage's `next_page`."""

    def models(self, body: bytes) -> ModelPage:
        """Raises UpstreamFault for an answer that holds no list of models."""


def read_answer(body: bytes) -> Json:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise UpstreamFault("The upstream's answer is not JSON.") from None


def read_names(items: object, key: str) -> tuple[str, ...]:
    """The texts that stand under `key` in the objects of a list."""
    if not isinstance(items, list):
        raise UpstreamFault("The upstream's answer holds no list of models.")
    values = (item.get(key) for item in items if isinstance(item, dict))
    return tuple(name for name in values if isinstance(name, str) and name and name.isprintable())


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""
