"""Station 2, Identify: the presented key → Principal."""

from collections.abc import Mapping
from enum import Enum

from gateway.pipeline.ports import Directory, Principal
from gateway.protocol.errors import Unauthorized


class Plane(Enum):
    """The two APIs that a key opens: calls of models, and the management of keys, teams and deployments."""

    DATA = "data"
    MANAGEMENT = "management"


_BOTH = frozenset(Plane)
#: The headers that carry a key, in LiteLLM's order, and the planes that read each of them.
CARRIERS: tuple[tuple[bytes, frozenset[Plane]], ...] = (
    (b"x-litellm-api-key", _BOTH),
    (b"authorization", _BOTH),
    (b"api-key", _BOTH),
    (b"x-api-key", _BOTH),
    (b"x-goog-api-key", frozenset({Plane.DATA})),
)
_NAMES = {plane: tuple(name for name, planes in CARRIERS if plane in planes) for plane in Plane}
MAX_KEY_BYTES = 1024


def presented_key(headers: Mapping[bytes, bytes], plane: Plane) -> str:
    """The key of the first carrier that is not blank, without `Bearer`; empty without a carrier or if it is too long.

    `headers` has lower-case names.
    """
    for name in _NAMES[plane]:
        value = headers.get(name, b"").strip()
        if value:
            scheme, *rest = value.split(maxsplit=1)
            key = b"".join(rest) if scheme.lower() == b"bearer" else value
            return key.decode("latin-1") if len(key) <= MAX_KEY_BYTES else ""
    return ""


def refusal() -> Unauthorized:
    """The same answer for a missing, unknown, blocked or expired key, so that it does not reveal which keys exist."""
    return Unauthorized(
        "Authentication Error: Incorrect API key provided, or none. Send one as 'Authorization: Bearer sk-...'."
    )


async def identify(headers: Mapping[bytes, bytes], directory: Directory, now: float) -> Principal:
    """Raises Unauthorized, or GatewayFault while a key cannot be looked up."""
    key = presented_key(headers, Plane.DATA)
    principal = await directory.find(key) if key else None
    if principal is None or (principal.expires_at_s is not None and principal.expires_at_s <= now):
        raise refusal()
    return principal
