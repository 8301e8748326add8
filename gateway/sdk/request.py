"""Request: the arguments of one call, split into OpenAI's request and what describes the deployment."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

import orjson

from gateway.protocol.dialect import Dialect
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject
from gateway.providers.registry import PROVIDERS
from gateway.sdk.options import DEPLOYMENT, check_names, own_options

#: Every provider's own parameters are arguments too.
OWN_OPTIONS = frozenset().union(*(own_options(provider) for provider in PROVIDERS.values()))
DIRECT = DEPLOYMENT | OWN_OPTIONS
#: Options that may be lists of models.
LISTS = frozenset({"fallbacks", "context_window_fallbacks", "content_policy_fallbacks"})


@dataclass(frozen=True, slots=True)
class Request:
    """`body`: OpenAI's request, the model included. `dialect`: None for /v1/responses."""

    dialect: Dialect | None
    body: Mapping[str, object] = field(repr=False)
    deployment: Mapping[str, object] = field(repr=False)  # credentials among them
    #: {name in the body: (model, its parameters)} of fallbacks with an address or a credential of their own
    fallbacks: Mapping[str, tuple[str, Mapping[str, object]]] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def background(self) -> bool:
        return self.dialect is None and self.body.get("background") is True

    def encode(self) -> bytes:
        """Raises BadRequest for a value that JSON does not have."""
        try:
            return orjson.dumps(self.body, default=_dump_model, option=orjson.OPT_SERIALIZE_NUMPY)
        except orjson.JSONEncodeError as error:
            raise BadRequest(f"An argument is no value of JSON: {error}.") from None


def make_request(
    function: str,
    dialect: Dialect | None,
    fields: Mapping[str, object],
    options: Mapping[str, object],
    known: Collection[str],
    deployment: Collection[str] = DIRECT,
) -> Request:
    """`known`: the names of the options; `deployment`: those that describe the deployment. None counts as not given.
    Raises TypeError for an unknown argument, BadRequest naming one that cannot be honoured."""
    check_names(function, options, (set(known) - DIRECT) | set(deployment))
    body: JsonObject = {**fields}
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise BadRequest("'model' must be a name such as provider/model.", param="model", code="invalid_value")
    described: dict[str, object] = {}
    fallbacks: dict[str, tuple[str, Mapping[str, object]]] = {}
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):  # JSON would make null of it
            raise BadRequest(f"'{name}' must be a finite number.", param=name, code="invalid_value")
        if name in deployment:
            described[name] = value
        elif name == "max_retries":
            body.setdefault("num_retries", value)
        elif name == "drop_params":
            if value is not True:
                raise BadRequest(
                    "'drop_params' can only be true: what a provider does not know is left out, see "
                    "sdk.details(result).dropped_params.",
                    param="drop_params",
                    code="unsupported_parameter",
                )
        elif name in LISTS and isinstance(value, Sequence) and not isinstance(value, str) and deployment is DIRECT:
            body[name] = [_name_fallback(row, fallbacks) for row in value]
        else:
            body[name] = value
    return Request(dialect, body, described, fallbacks)


def _name_fallback(row: object, fallbacks: dict[str, tuple[str, Mapping[str, object]]]) -> object:
    """The row of a fallback: where it has parameters of its own, a name of its own that stands for them."""
    if not isinstance(row, Mapping) or not isinstance(row.get("model"), str) or not row.keys() <= DIRECT | {"model"}:
        return row
    model = row["model"]
    params = {name: value for name, value in row.items() if name != "model" and value is not None}
    if not params:
        return model
    name = f"{model}#{len(fallbacks) + 1}"
    fallbacks[name] = model, params
    return name


class _Model(Protocol):
    """An object of the openai package, such as a message of an earlier answer."""

    def model_dump(self, *, mode: str, exclude_unset: bool) -> JsonObject: ...


def _is_model(value: object) -> TypeGuard[_Model]:
    return callable(getattr(value, "model_dump", None))


def _dump_model(value: object) -> object:
    """Raises TypeError, as orjson expects."""
    if _is_model(value):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Collection) and not isinstance(value, bytes | bytearray | str):
        return list(value)
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")
