"""Station 2, Identify: the presented key → Principal."""

from gateway.pipeline.ports import Directory, Principal
from gateway.protocol.errors import Unauthorized

#: Where a key may stand, in the order in which they are looked at (the order of LiteLLM).
CARRIERS = (b"x-litellm-api-key", b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key")
MAX_KEY_BYTES = 1024


def presented_key(headers: dict[bytes, bytes]) -> str:
    """The key as the client sent it, with or without `Bearer `; empty where there is none."""
    for carrier in CARRIERS:
        value = headers.get(carrier)
        if value:
            if value[:7].lower() == b"bearer ":
                value = value[7:]
            return value.strip().decode("latin-1") if len(value) <= MAX_KEY_BYTES else ""
    return ""


def refusal() -> Unauthorized:
    """One answer for a missing, unknown, blocked or expired key: it tells nothing about which keys exist."""
    return Unauthorized(
        "Authentication Error: no valid virtual key was presented. Send one as 'Authorization: Bearer sk-...'."
    )


async def identify(headers: dict[bytes, bytes], directory: Directory, now: float) -> Principal:
    """Raises Unauthorized, or GatewayFault while a key cannot be looked up."""
    key = presented_key(headers)
    principal = await directory.find(key) if key else None
    if principal is None or (principal.expires_at_s is not None and principal.expires_at_s <= now):
        raise refusal()
    return principal
