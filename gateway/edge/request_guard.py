"""RequestGuard, in front of every endpoint and of Django: it refuses requests that two parsers could read in two ways,
requests that are too large, and WebSockets that a page of another site opens."""

from collections import Counter
from collections.abc import Sequence

from gateway.edge.asgi_types import App, Receive, Scope, Send
from gateway.edge.path_aliases import MODEL_PREFIXES
from gateway.edge.problems import error_body
from gateway.edge.reply import AsgiReply
from gateway.edge.websocket.handshake import find_origin_fault, refuse
from gateway.protocol.errors import ClientFault, Fault

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
MAX_HEADERS_BYTES = 64 * 1024
MAX_TARGET_BYTES = 16 * 1024
SINGLE_HEADERS = frozenset({b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-type"})


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
            fault = find_fault(scope) or find_origin_fault(scope, self._trusted_origins)
            if fault is not None:
                await receive()  # websocket.connect
                await refuse(scope, receive, send, fault, [])
                return
        await self._app(scope, receive, send)


def find_fault(scope: Scope) -> Fault | None:
    """The fault of a request that is ambiguous or too large; None for any other."""
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        return _malformed("There are too many headers.", 431)
    names = dict(headers)
    if len(names) != len(headers):
        counts = Counter(name for name, _ in headers)
        repeated = next((name for name in SINGLE_HEADERS if counts[name] > 1), None)
        if repeated is not None:
            return _malformed(f"The header {repeated.decode()} stands twice.")
    sizes = [len(value) for _, value in headers]
    if sum(sizes) + sum(map(len, names)) > MAX_HEADERS_BYTES or max(sizes, default=0) > MAX_HEADER_BYTES:
        return _malformed("The headers are too large.", 431)
    if b"host" not in names and scope.get("http_version") != "1.0":
        return _malformed("The Host header is missing.")
    if b"content-length" in names and b"transfer-encoding" in names:
        return _malformed("Content-Length and Transfer-Encoding exclude each other.")
    path = scope["path"]
    raw_path = scope.get("raw_path") or b""
    if len(raw_path) + len(scope.get("query_string", b"")) > MAX_TARGET_BYTES:
        return _malformed("The request target is too long.", 414)
    if not path.startswith("/") or "//" in path or "\\" in path or "\0" in path or "/.." in path:
        return _malformed("The path is malformed.")
    # A model's name may contain a slash. In any other path an encoded slash could hide a segment.
    if b"%2f" in raw_path.lower() and "/models/" not in path and not path.startswith(MODEL_PREFIXES):
        return _malformed("The path is malformed.")
    return None


def _malformed(message: str, status: int = 400) -> ClientFault:
    return ClientFault(message, status=status, code="malformed_request")
