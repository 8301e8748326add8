"""Station 1, Receive: Channels consumers at the cost of plain ASGI.

Channels' own AsyncHttpConsumer does not read `http.disconnect` while it answers, and joins a body without a limit.
These consumers read the body while counting it, then watch for the client's disconnect beside the pipeline: it
cancels the upstream call.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from channels.consumer import AsyncConsumer
from django.conf import settings

from gateway.edge.problems import INTERNAL, SHUTTING_DOWN, error_body, problem_headers
from gateway.edge.reply import AsgiReply, Send
from gateway.pipeline.answer_headers import header_text
from gateway.pipeline.identify import identify
from gateway.pipeline.ports import Principal
from gateway.pipeline.run import Inbound, run
from gateway.protocol.dialect import Dialect
from gateway.protocol.errors import Fault, MethodNotAllowed, TooLarge
from gateway.runtime import Runtime, new_id

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]


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
        except Fault as fault:
            await self._tell(fault)
        except asyncio.CancelledError:
            await self._tell(SHUTTING_DOWN)
        except Exception:  # the edge is where an unforeseen error becomes an answer
            logger.exception("a request failed", extra={"request_id": self.request_id})
            await self._tell(INTERNAL)

    async def answer(self, receive: Receive) -> None:
        raise NotImplementedError

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
        body = await read_body(self.headers, receive, settings.TOLLGATE_MAX_BODY_BYTES)
        runtime = self.runtime
        task = asyncio.current_task()
        assert task is not None
        watch = asyncio.create_task(_disconnect(receive))
        watch.add_done_callback(_Canceller(task))
        try:
            await run(
                Inbound(self.request_id, self.headers, body),
                self.dialect,
                principal,
                runtime.snapshot.catalog,
                runtime.services,
                self.reply,
                runtime.draw,
            )
        except asyncio.CancelledError:
            if watch.done() and not watch.cancelled():
                raise ClientGone from None
            raise
        finally:
            watch.cancel()


class _Canceller:
    """Cancels the request's task when the client has gone, not when the watch itself was cancelled."""

    __slots__ = ("_task",)

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self._task = task

    def __call__(self, watch: "asyncio.Task[None]") -> None:
        if not watch.cancelled():
            self._task.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The body, counted while it is read. Raises TooLarge or ClientGone; one that stalls is the server's to end."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
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
