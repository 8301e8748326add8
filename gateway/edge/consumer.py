"""Station 1, Receive: Channels consumers at the cost of plain ASGI.

Channels' own AsyncHttpConsumer does not read `http.disconnect` while it answers, and joins a body without a limit.
These consumers read the body while counting it, then watch for the client's disconnect beside the pipeline: it
cancels the upstream call.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from channels.consumer import AsyncConsumer
from django.conf import settings

from gateway.edge.problems import INTERNAL, SHUTTING_DOWN, error_body, problem_headers
from gateway.edge.reply import AsgiReply, Send
from gateway.pipeline.answer_headers import header_text
from gateway.pipeline.identify import identify
from gateway.pipeline.ports import ClientStalled, Principal
from gateway.pipeline.run import Inbound, run
from gateway.protocol.dialect import Dialect
from gateway.protocol.errors import Fault, MethodNotAllowed, TooLarge
from gateway.runtime import Runtime, new_id

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]


#: Where the guarded server puts its Connection in the scope.
CONNECTION = "tollgate.connection"


MAX_LENGTH_DIGITS = 15


class ClientGone(Exception):
    """The client disconnected; nobody is left to be answered."""


class GatewayConsumer(AsyncConsumer):
    """Answers one request. Subclasses say how, in `answer`; a Fault that it raises is rendered here."""

    methods: tuple[str, ...] = ("GET", "HEAD")

    def __init__(self, *, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.request_id = new_id()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.reply = AsgiReply(send, self._common_headers())
        try:
            if scope["method"] not in self.methods:
                allowed = ", ".join(self.methods)
                raise MethodNotAllowed(
                    f"{scope['method']} is not allowed here; allowed: {allowed}.",
                    headers=((b"allow", allowed.encode()),),
                )
            await self.answer(receive)
        except ClientGone:
            pass
        except ClientStalled:
            connection: Connection | None = scope.get(CONNECTION)
            if connection is not None:  # any other server closes when this returns without a whole answer
                connection.abort()
        except Fault as fault:
            await self._tell(fault)
        except asyncio.CancelledError:
            await self._tell(SHUTTING_DOWN)
        except Exception:  # the edge is where an unforeseen error becomes an answer
            logger.exception("a request failed", extra={"request_id": self.request_id})
            await self._tell(INTERNAL)

    async def answer(self, receive: Receive) -> None:
        raise NotImplementedError

    async def read_body(self, receive: Receive) -> bytes:
        return await read_body(self.headers, receive, settings.TOLLGATE_MAX_BODY_BYTES)

    async def identify(self) -> Principal:
        return await identify(self.headers, self.runtime.directory, self.runtime.services.now())

    def error_body(self, fault: Fault) -> bytes:
        return error_body(fault)

    def error_event(self, fault: Fault) -> bytes:
        return b"data: " + self.error_body(fault) + b"\n\n"

    async def _tell(self, fault: Fault) -> None:
        if self.reply.is_complete:
            return
        if self.reply.is_started:
            await self.reply.end_stream(self.error_event(fault))
            return
        headers = problem_headers(fault)
        if isinstance(fault, TooLarge):
            headers.append((b"connection", b"close"))  # the rest of the body is not read
        await self.reply.send_body(fault.status, headers, self.error_body(fault))

    def _common_headers(self) -> list[tuple[bytes, bytes]]:
        request_id = self.request_id.encode()
        trace_id = self.headers.get(b"x-litellm-call-id", b"")
        return [
            (b"x-request-id", request_id),
            (b"x-litellm-call-id", header_text(trace_id.decode("latin-1")[:255]) if trace_id else request_id),
        ]


class DialectConsumer(GatewayConsumer):
    """Carries a request through the pipeline, in one dialect."""

    methods = ("POST",)

    def __init__(self, *, runtime: Runtime, dialect: Dialect) -> None:
        super().__init__(runtime=runtime)
        self.dialect = dialect

    def error_body(self, fault: Fault) -> bytes:
        return self.dialect.error_body(fault)

    def error_event(self, fault: Fault) -> bytes:
        return self.dialect.error_event(fault)

    async def answer(self, receive: Receive) -> None:
        principal = await self.identify()  # before the body is read
        body = await self.read_body(receive)
        runtime = self.runtime
        with Presence(self.scope, receive):
            await run(
                Inbound(self.request_id, self.headers, body),
                self.dialect,
                principal,
                runtime.snapshot.catalog,
                runtime.services,
                self.reply,
                runtime.draw,
            )


class Connection(Protocol):
    """What the guarded server puts into the scope under CONNECTION."""

    is_lost: bool
    on_lost: Callable[[], object] | None

    def abort(self) -> None:
        """Closes at once, what is unsent is dropped."""


class Presence:
    """Cancels the request's task when the client leaves, and tells that cancellation apart as ClientGone.

    The guarded server calls at the disconnect; with any other one a task waits for the ASGI message.
    """

    __slots__ = ("_connection", "_receive", "_task", "_watch", "is_gone")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._connection: Connection | None = scope.get(CONNECTION)
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self.is_gone = False

    def __enter__(self) -> "Presence":
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        if self._connection is None:
            self._watch = asyncio.create_task(self._wait())
        elif self._connection.is_lost:
            raise ClientGone
        else:
            self._connection.on_lost = self._leave
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._connection is not None:
            self._connection.on_lost = None
        elif self._watch is not None:
            self._watch.cancel()
        if kind is asyncio.CancelledError and self.is_gone:
            raise ClientGone from None

    def _leave(self) -> None:
        self.is_gone = True
        self._task.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The body, counted while it is read. Raises TooLarge or ClientGone; one that stalls is the server's to end."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and (len(declared) > MAX_LENGTH_DIGITS or int(declared) > limit):
        raise TooLarge(f"The body is larger than {limit} bytes.")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge(f"The body is larger than {limit} bytes.")
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)
