"""The data plane: each request to its endpoint or to Django while the runtime is there; 503 before and after."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from gateway.edge.asgi_types import App, Receive, Scope, Send
from gateway.edge.consumer import ENDPOINT
from gateway.edge.endpoint import Endpoint, StartState
from gateway.edge.path_aliases import MODEL, resolve_scope
from gateway.edge.problems import error_body
from gateway.edge.reply import AsgiReply
from gateway.edge.websocket.consumer import OpenSockets
from gateway.edge.websocket.handshake import refuse
from gateway.protocol.errors import Fault, GatewayFault, NotFound
from gateway.protocol.unserved_paths import refuse_unserved
from gateway.runtime import Drain, Runtime, start_runtime
from gateway.stores.schema import RETRY_S, DatabaseNotReady, StartLog, check_schema

logger = logging.getLogger(__name__)

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

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path = scope["path"]
        app = self._exact.get(path)
        if app is None:
            resolved = resolve_scope(scope)
            if resolved is not None:
                return self(resolved, receive, send)
            app = next((app for prefix, app in self._prefixes if path.startswith(prefix)), self._fallback)
        return app(scope, receive, send)


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
        resolved = resolve_scope(scope)
        if resolved is not None and not resolved[MODEL]:  # each turn names its model itself
            scope = resolved
        app = self._exact.get(scope["path"])
        if app is not None:
            await app(scope, receive, send)
            return
        await receive()  # websocket.connect
        try:
            refuse_unserved(scope["path"])
            raise NotFound("There is no WebSocket at this path.")
        except Fault as fault:
            await refuse(scope, receive, send, fault, [])


class DataPlane:
    """The application of one process. Servers that speak `lifespan` start and stop it through that, the others call
    `start` and `stop`. The runtime starts when `before_start`, which runs in a thread, no longer raises
    DatabaseNotReady."""

    def __init__(self, endpoints: Mapping[str, Endpoint], django: App) -> None:
        self._endpoints = endpoints
        self._django = django
        self._parts = AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None
        self._log = StartLog()
        self.before_start: Callable[[], None] = check_schema
        self.drain = Drain()
        self.sockets = OpenSockets()
        self._state = StartState(self.drain)
        self._close_routes()

    async def start(self) -> None:
        """Returns when the runtime is there, or when the first try shows that its start has to wait."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="start")
        if await self._is_started(thread):
            thread.shutdown()
        else:
            self._starting = asyncio.create_task(self._retry(thread), name="start")

    async def stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._starting
        self._close_routes()
        await self._parts.aclose()

    def _close_routes(self) -> None:
        self._http = HttpRouter(self._endpoints, _answer_not_running, self._app_without_runtime)
        self._websocket: App = _refuse_not_running

    def _app_without_runtime(self, endpoint: Endpoint) -> App:
        return _answer_not_running if endpoint.without_runtime is None else endpoint.without_runtime(self._state)

    async def _retry(self, thread: ThreadPoolExecutor) -> None:
        try:
            while True:
                await asyncio.sleep(RETRY_S)
                try:
                    if await self._is_started(thread):
                        return
                except Exception:  # without this task the process would wait for ever
                    logger.exception("the start met an unforeseen error")
        finally:
            thread.shutdown(wait=False)  # a database that does not answer may hold it

    async def _is_started(self, thread: ThreadPoolExecutor) -> bool:
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self.before_start)
        except DatabaseNotReady as error:
            self._state.reason = str(error)
            self._log.note(error)
            return False
        self._log.note_end()
        self._state.reason = ""
        runtime = await self._parts.enter_async_context(start_runtime(self.drain))

        def app_of(endpoint: Endpoint) -> App:
            def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
                scope[ENDPOINT] = endpoint.name
                return endpoint.consumer(runtime=runtime, **endpoint.options)(scope, receive, send)

            return app

        self._http = HttpRouter(self._endpoints, self._django, app_of)
        self._websocket = WebSocketRouter(self._endpoints, runtime, self.sockets)
        return True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Not a coroutine itself: every coroutine around an endpoint costs the call time at each of its waits."""
        if scope["type"] == "http":
            return self._http(scope, receive, send)
        if scope["type"] == "websocket":
            return self._websocket(scope, receive, send)
        return self._live(receive, send)

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


async def _answer_not_running(scope: Scope, receive: Receive, send: Send) -> None:
    await AsgiReply(send, []).send_body(NOT_RUNNING.status, list(NOT_RUNNING.headers), error_body(NOT_RUNNING))


async def _refuse_not_running(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    await refuse(scope, receive, send, NOT_RUNNING, [])
