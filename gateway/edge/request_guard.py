"""The HTTP hygiene that stands in front of every server and every handler: requests that two parsers could read in
two ways are refused, sizes are bounded, and no page of another site opens a WebSocket."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.edge.problems import error_body
from gateway.edge.reply import AsgiReply, Send
from gateway.edge.websocket.handshake import cross_site, refuse
from gateway.protocol.errors import ClientFault, Fault

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
MAX_HEADERS_BYTES = 64 * 1024
MAX_TARGET_BYTES = 16 * 1024
ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-type"})

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
App = Callable[[Any, Any, Any], Awaitable[None]]  # servers, Channels and Django each type ASGI in their own way


class RequestGuard:
    def __init__(self, app: App, trusted_origins: Sequence[str] = ()) -> None:
        self._app = app
        self._trusted_origins = trusted_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            fault = find_fault(scope)
            if fault is not None:
                await AsgiReply(send, []).send_body(fault.status, [(b"connection", b"close")], error_body(fault))
                return
        elif scope["type"] == "websocket":
            fault = find_fault(scope) or cross_site(scope, self._trusted_origins)
            if fault is not None:
                await receive()  # websocket.connect
                await refuse(scope, receive, send, fault, [])
                return
        await self._app(scope, receive, send)


def find_fault(scope: Scope) -> Fault | None:
    """What makes this request ambiguous or oversized, if anything."""
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        return _refuse("There are too many headers.", 431)
    names = dict(headers)
    if len(names) != len(headers):
        counts = Counter(name for name, _ in headers)
        twice = next((name for name in ONCE if counts[name] > 1), None)
        if twice is not None:
            return _refuse(f"The header {twice.decode()} stands twice.")
    sizes = [len(value) for _, value in headers]
    if sum(sizes) + sum(map(len, names)) > MAX_HEADERS_BYTES or max(sizes, default=0) > MAX_HEADER_BYTES:
        return _refuse("The headers are too large.", 431)
    if b"host" not in names and scope.get("http_version") != "1.0":
        return _refuse("The Host header is missing.")
    if b"content-length" in names and b"transfer-encoding" in names:
        return _refuse("Content-Length and Transfer-Encoding exclude each other.")
    path = scope["path"]
    raw_path = scope.get("raw_path") or b""
    if len(raw_path) + len(scope.get("query_string", b"")) > MAX_TARGET_BYTES:
        return _refuse("The request target is too long.", 414)
    if not path.startswith("/") or "//" in path or "\\" in path or "\0" in path or "/.." in path:
        return _refuse("The path is malformed.")
    # A model's name may hold a slash; nowhere else may an encoded one hide a path segment.
    if b"%2f" in raw_path.lower() and "/models/" not in path:
        return _refuse("The path is malformed.")
    return None


def _refuse(message: str, status: int = 400) -> ClientFault:
    return ClientFault(message, status=status, code="malformed_request")
