"""The handshake of a WebSocket: the check of its origin, and its refusal."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway.edge.asgi_types import Message, Receive, Scope, Send
from gateway.edge.problems import error_body
from gateway.edge.reply import AsgiReply
from gateway.pipeline.ports import Headers
from gateway.protocol.errors import Fault, Forbidden

DEFAULT_PORTS = {"http": 80, "https": 443}


async def refuse(scope: Scope, receive: Receive, send: Send, fault: Fault, common: Headers) -> None:
    """Sends an HTTP answer in place of the upgrade; a bare close where the server cannot send one."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return

    async def send_http(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    headers = [*fault.headers, (b"connection", b"close")]
    await AsgiReply(send_http, common).send_body(fault.status, headers, error_body(fault))


def find_origin_fault(scope: Scope, trusted_origins: Sequence[str]) -> Fault | None:
    """The fault of a WebSocket that a page of another site opens. A browser lets any page open a WebSocket to any host,
    and names the page's site in `Origin`; other clients send no `Origin`."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is None:
        return None
    text = origin.decode("latin-1").strip().lower()
    if _is_trusted(text, trusted_origins) or _is_same_host(text, headers.get(b"host", b"").decode("latin-1").lower()):
        return None
    return Forbidden(
        "WebSockets are not open to pages of this origin; TOLLGATE_TRUSTED_ORIGINS names those that may.",
        code="origin_not_allowed",
    )


def _is_same_host(origin: str, host: str) -> bool:
    """The schemes are not compared: behind a proxy that terminates TLS, the gateway does not see the client's."""
    try:
        page = urlsplit(origin)
        default = DEFAULT_PORTS.get(page.scheme)
        if default is None or not page.hostname:
            return False
        target = urlsplit(f"//{host}")
        return page.hostname == target.hostname and (page.port or default) == (target.port or default)
    except ValueError:
        return False


def _is_trusted(origin: str, trusted_origins: Sequence[str]) -> bool:
    """Reads the setting as Django does: `https://*.example.org` stands for all subdomains."""
    for trusted in trusted_origins:
        scheme, _, host = trusted.lower().partition("://*.")
        if origin == trusted.lower() or (host and origin.startswith(f"{scheme}://") and origin.endswith(f".{host}")):
            return True
    return False
