"""The fields of virtual keys that restrict or rewrite calls, read from requests and for the data path."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal

from gateway.pipeline.allowed_routes import GROUP_OF_TYPE, RouteList, compile_routes, is_route
from gateway.pipeline.client_address import Network, parse_network
from gateway.protocol.cache_control import NO_CONTROL, CacheControl, read_cache_control
from gateway.protocol.errors import BadRequest
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.protocol.timeouts import NO_TIMEOUTS, Timeouts
from gateway.routing.read_settings import SettingInvalid, read_timeouts
from tenants.durations import read_duration
from tenants.invalid import KeyInvalid
from tenants.models import KeyType, VirtualKey

CACHE = "cache"  # the member of the metadata, as in LiteLLM
MAX_ENTRIES = 1000
MAX_TEXT_CHARS = 255
MAX_INTERVAL_CHARS = 20  # the width of the column


def read_type(value: object) -> KeyType:
    if value is None or value == "":
        return KeyType.DEFAULT
    if value not in KeyType.values:
        raise KeyInvalid("type", f"must be one of {', '.join(KeyType.values)}")
    return KeyType(str(value))


def read_routes(value: object) -> list[str]:
    routes = _read_texts(value, "allowed_routes")
    for route in routes:
        if not is_route(route):
            raise KeyInvalid(
                "allowed_routes", "must hold paths like /v1/chat/completions or /v1/*, or groups like llm_api_routes"
            )
    return routes


def read_networks(value: object) -> list[str]:
    networks = _read_texts(value, "allowed_networks")
    try:
        return [str(parse_network(text)) for text in networks]
    except ValueError:
        raise KeyInvalid("allowed_networks", "must hold addresses or CIDR ranges like 10.0.0.0/8") from None


def read_model_aliases(value: object, param: str = "model_aliases") -> dict[str, str]:
    """{name that clients ask for: model group that they get}. An alias leads to a model group, never to another alias.

    Raises KeyInvalid.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_ENTRIES:
        raise KeyInvalid(param, f"must be an object of at most {MAX_ENTRIES} aliases")
    aliases: dict[str, str] = {}
    for alias, group in value.items():
        if not _is_name(alias) or not _is_name(group):
            raise KeyInvalid(param, "must hold an alias and a model group each, as texts that are not empty")
        aliases[alias.strip()] = group.strip()
    return aliases


def check_cache(metadata: dict[str, object]) -> dict[str, object]:
    """The metadata. Raises KeyInvalid where its `cache` is no control of the response cache."""
    try:
        read_cache_control(metadata.get(CACHE))
    except BadRequest as fault:
        problem = fault.message.partition(": ")[2].rstrip(".")
        raise KeyInvalid("metadata", f"holds a value for '{fault.param}' that cannot be used: {problem}") from None
    return metadata


def cache_control_of(*holders: Mapping[str, object]) -> CacheControl:
    """The control in the metadata of a team and its key, the key's last. One that cannot be read, which an import may
    have left, is none."""
    control = NO_CONTROL
    for metadata in holders:
        if metadata.get(CACHE) is not None:
            with suppress(BadRequest):
                control = control.narrowed_by(read_cache_control(metadata[CACHE]))
    return control


def read_key_timeouts(value: object, param: str = "timeouts") -> dict[str, float]:
    """{name of a time limit: seconds}, as gateway/protocol/timeouts.py names them. Raises KeyInvalid."""
    if isinstance(value, Mapping):
        value = {name: float(limit) if isinstance(limit, Decimal) else limit for name, limit in value.items()}
    try:
        timeouts = read_timeouts(value or {})
    except SettingInvalid as error:
        raise KeyInvalid(param, str(error)) from None
    limits = {name.removesuffix("_s"): getattr(timeouts, name) for name in TIMEOUTS}
    return {name: limit for name, limit in limits.items() if limit is not None}


def timeouts_of(key: VirtualKey) -> Timeouts:
    return Timeouts(**{f"{name}_s": limit for name, limit in key.timeouts.items()}) if key.timeouts else NO_TIMEOUTS


def read_rotation_interval(value: object) -> str:
    """The interval as it was written; empty for a key that need not be rotated. Raises KeyInvalid."""
    if value is None or value == "":
        return ""
    read_duration(value, "rotation_interval")
    text = str(value).strip()
    if len(text) > MAX_INTERVAL_CHARS:
        raise KeyInvalid("rotation_interval", f"must not be longer than {MAX_INTERVAL_CHARS} characters")
    return text


def allowed_routes_of(key: VirtualKey) -> tuple[RouteList, ...]:
    """The lists of routes that narrow a key: its own and its type's."""
    group = GROUP_OF_TYPE.get(key.type)
    return tuple(compile_routes(entries) for entries in (key.allowed_routes, [group] if group else []) if entries)


def allowed_networks_of(key: VirtualKey) -> tuple[Network, ...]:
    return tuple(parse_network(text) for text in key.allowed_networks)


def _read_texts(value: object, param: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise KeyInvalid(param, "must be a list of texts")
    texts = list(value)
    if len(texts) > MAX_ENTRIES or not all(_is_name(text) for text in texts):
        raise KeyInvalid(param, f"must be a list of at most {MAX_ENTRIES} texts that are not empty")
    return list(dict.fromkeys(text.strip() for text in texts))


def _is_name(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text.strip()) <= MAX_TEXT_CHARS and text.strip().isprintable()
