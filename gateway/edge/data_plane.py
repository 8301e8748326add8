"""The data plane: each request to its endpoint while the runtime is there, or to Django; 503 before and after."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from gateway.edge.asgi_types import App, Receive, Scope, Send
from gateway.edge.endpoint import Endpoint
from gateway.edge.problems import error_body, problem_headers
from gateway.edge.reply import AsgiReply
from gateway.edge.websocket.consumer import OpenSockets
from gateway.edge.websocket.handshake import refuse
from gateway.protocol.errors import GatewayFault, NotFound
from gateway.runtime import Drain, Runtime, start_runtime

#: Paths of Django below a prefix of the data plane.
DJANGO_PATHS = ("/v1/model/info",)
NOT_RUNNING = GatewayFault("The gateway is starting or stopping; try again shortly.", headers=((b"retry-after", b"1"),))


class HttpRouter:
    """Dispatches by exact path, then by the longest prefix, then to the fallback."""

    def __init__(self, endpoints: Mapping[str, Endpoint], fallback: App, app_of: Callable[[Endpoint], App]) -> None:
        self._exact: dict[str, App] = {}
        self._prefixes: list[tuple[str, App]] = []
        self._fallback = fallback
        for endpoint in endpoints.values():
            app = app_of(endpoint)
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
    """Dispatches WebSockets by exact path."""

    def __init__(self, endpoints: Mapping[str, Endpoint], runtime: Runtime, sockets: OpenSockets) -> None:
        self._exact: dict[str, App] = {}
        for endpoint in endpoints.values():
            if endpoint.socket is not None:
                app = endpoint.socket.as_asgi(runtime=runtime, sockets=sockets)
                for path in endpoint.paths:
                    self._exact[path] = self._exact[f"{path}/"] = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._exact.get(scope["path"])
        if app is not None:
            await app(scope, receive, send)
            return
        await receive()  # websocket.connect
        await refuse(scope, receive, send, NotFound("There is no WebSocket at this path."), [])


class DataPlane:
    """The application of one process. Servers that speak `lifespan` start and stop it through that, the others call
    `start` and `stop`."""

    def __init__(self, endpoints: Mapping[str, Endpoint], django: App) -> None:
        self._endpoints = endpoints
        self._django = django
        self._parts = AsyncExitStack()
        self._http: App = HttpRouter(endpoints, django, _not_running)
        self._websocket: App = _refuse_not_running
        self.drain = Drain()
        self.sockets = OpenSockets()

    async def start(self) -> None:
        runtime = await self._parts.enter_async_context(start_runtime(self.drain))

        def app_of(endpoint: Endpoint) -> App:
            app: App = endpoint.consumer.as_asgi(runtime=runtime, **endpoint.options)
            return app

        self._http = HttpRouter(self._endpoints, self._django, app_of)
        self._websocket = WebSocketRouter(self._endpoints, runtime, self.sockets)

    async def stop(self) -> None:
        self._http = HttpRouter(self._endpoints, self._django, _not_running)
        self._websocket = _refuse_not_running
        await self._parts.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _not_running(_: Endpoint) -> App:
    return _answer_not_running


async def _answer_not_running(scope: Scope, receive: Receive, send: Send) -> None:
    await AsgiReply(send, []).send_body(NOT_RUNNING.status, problem_headers(NOT_RUNNING), error_body(NOT_RUNNING))


async def _refuse_not_running(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    await refuse(scope, receive, send, NOT_RUNNING, [])
