"""Station 2, Identify: the presented key → Principal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from gateway.pipeline.allowed_routes import RouteList, is_route_allowed
from gateway.pipeline.client_address import Network, client_address, is_within
from gateway.pipeline.ports import Directory, Principal
from gateway.protocol.errors import Forbidden, Unauthorized


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


@dataclass(frozen=True, slots=True)
class Origin:
    """The path that a request asks for, and where it comes from."""

    path: str
    peer: str  # the address of the connection; empty for a Unix socket
    is_behind_proxy: bool  # a proxy that ends TLS is the peer, and names the client


def check_origin(
    path: str, address: str, *, allowed_routes: Sequence[RouteList], allowed_networks: Sequence[Network]
) -> None:
    """Raises Forbidden for a route or an address that the key may not be used at."""
    if allowed_routes and not is_route_allowed(path, allowed_routes):
        raise Forbidden(
            "Virtual key is not allowed to call this route.", kind=Unauthorized.type, code="route_not_allowed"
        )
    if allowed_networks and not is_within(address, allowed_networks):
        raise Forbidden(
            "Virtual key is not allowed to be used from this address.",
            kind=Unauthorized.type,
            code="address_not_allowed",
        )


async def identify(
    headers: Mapping[bytes, bytes], directory: Directory, now: float, origin: Origin | None = None
) -> Principal:
    """Raises Unauthorized, Forbidden, or GatewayFault while a key cannot be looked up."""
    key = presented_key(headers, Plane.DATA)
    principal = await directory.find(key) if key else None
    if principal is None or (principal.expires_at_s is not None and principal.expires_at_s <= now):
        raise refusal()
    if origin is not None and (principal.allowed_routes or principal.allowed_networks):
        forwarded = headers.get(b"x-forwarded-for", b"").decode("latin-1")
        check_origin(
            origin.path,
            client_address(forwarded, origin.peer, is_behind_proxy=origin.is_behind_proxy),
            allowed_routes=principal.allowed_routes,
            allowed_networks=principal.allowed_networks,
        )
    return principal
