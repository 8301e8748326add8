"""The ASGI application: the data plane's endpoints by exact path, Django for everything else.

A server that speaks `lifespan` starts and stops the runtime through it; daphne_server.py does so for Daphne.
"""

from channels.routing import ProtocolTypeRouter
from django.conf import settings

from gateway.edge.django_setup import django_application

# isort: split
from gateway import api
from gateway.edge.asgi_types import App, Receive, Scope, Send
from gateway.edge.endpoint import Endpoint
from gateway.edge.request_guard import RequestGuard
from gateway.edge.websocket.consumer import OpenSockets
from gateway.edge.websocket.handshake import refuse
from gateway.protocol.errors import NotFound
from gateway.protocol.registry import scan
from gateway.runtime import Runtime

runtime = Runtime()
open_sockets = OpenSockets()
#: The paths below a prefix of the data plane that Django serves.
DJANGO_PATHS = ("/v1/model/info",)


class HttpRouter:
    """Dispatches a request by its exact path, then by the longest prefix, then to Django."""

    def __init__(self, endpoints: dict[str, Endpoint], fallback: App) -> None:
        self._exact: dict[str, App] = {}
        self._prefixes: list[tuple[str, App]] = []
        self._fallback = fallback
        for endpoint in endpoints.values():
            app = endpoint.consumer.as_asgi(runtime=runtime, **endpoint.options)
            for path in endpoint.paths:
                self._exact[path] = self._exact[f"{path}/"] = app
                if endpoint.prefix:
                    self._prefixes.append((f"{path}/", app))
        for path in DJANGO_PATHS:
            self._exact[path] = self._exact[f"{path}/"] = fallback
        self._prefixes.sort(key=lambda entry: -len(entry[0]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        app = self._exact.get(path)
        if app is None:
            app = next((app for prefix, app in self._prefixes if path.startswith(prefix)), self._fallback)
        await app(scope, receive, send)


class WebSocketRouter:
    """Dispatches a WebSocket by its exact path."""

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self._exact: dict[str, App] = {}
        for endpoint in endpoints.values():
            if endpoint.socket is not None:
                app = endpoint.socket.as_asgi(runtime=runtime, sockets=open_sockets)
                for path in endpoint.paths:
                    self._exact[path] = self._exact[f"{path}/"] = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._exact.get(scope["path"])
        if app is not None:
            await app(scope, receive, send)
            return
        await receive()  # websocket.connect
        await refuse(scope, receive, send, NotFound("There is no WebSocket at this path."), [])


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await runtime.start()
            await send({"type": "lifespan.startup.complete"})
        else:
            await runtime.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


endpoints: dict[str, Endpoint] = scan(api, "ENDPOINT")
application: App = RequestGuard(
    ProtocolTypeRouter(
        {
            "http": HttpRouter(endpoints, django_application),
            "websocket": WebSocketRouter(endpoints),
            "lifespan": lifespan,
        }
    ),
    trusted_origins=settings.CSRF_TRUSTED_ORIGINS,
)
