"""Station 1, Receive: Channels consumers at the cost of plain ASGI.

Channels' own AsyncHttpConsumer does not read `http.disconnect` while it answers, and joins a body without a limit.
These consumers count the body while they read it. Then they watch for the client's disconnect beside the pipeline;
a disconnect cancels the upstream call.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from channels.consumer import AsyncConsumer
from django.conf import settings

from gateway.edge.asgi_types import Receive, Scope, Send
from gateway.edge.path_aliases import MODEL, set_model
from gateway.edge.problems import INTERNAL, SHUTTING_DOWN, error_body
from gateway.edge.reply import AsgiReply
from gateway.pipeline.answer_headers import header_text
from gateway.pipeline.frame_release import FRAME_RELEASE
from gateway.pipeline.identify import Origin, identify
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import ClientStalled, Principal
from gateway.pipeline.run import Inbound, run
from gateway.protocol.amounts import usd_text
from gateway.protocol.dialect import Dialect
from gateway.protocol.errors import Fault, MethodNotAllowed, TooLarge
from gateway.protocol.unserved_paths import refuse_unserved
from gateway.runtime import Runtime, new_id

logger = logging.getLogger(__name__)

#: The member of the scope in which the guarded server puts its Connection.
CONNECTION = "tollgate.connection"
#: The member of the scope that names the endpoint.
ENDPOINT = "tollgate.endpoint"
MAX_LENGTH_DIGITS = 15
CLIENT_LEFT = 499


class ClientDisconnected(Exception):
    """The client disconnected; there is no one to answer."""


class GatewayConsumer(AsyncConsumer):
    """Answers one request. A subclass implements `answer`; this class renders the Fault that it raises."""

    methods: tuple[str, ...] = ("GET", "HEAD")
    reply_type = AsgiReply

    def __init__(self, *, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.request_id = new_id()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.reply = self.reply_type(send, self._common_headers())
        observer = self.runtime.services.observer
        observer.begin(self.request_id, scope.get(ENDPOINT, ""))
        try:
            if scope["method"] not in self.methods:
                refuse_unserved(scope["path"])
                allowed = ", ".join(self.methods)
                raise MethodNotAllowed(
                    f"{scope['method']} is not allowed here; allowed: {allowed}.",
                    headers=((b"allow", allowed.encode()),),
                )
            with FRAME_RELEASE:
                await self.answer(receive)
        except ClientDisconnected:
            observer.end(self.request_id, CLIENT_LEFT)
        except ClientStalled:
            observer.end(self.request_id, CLIENT_LEFT)
            connection: Connection | None = scope.get(CONNECTION)
            if connection is not None:  # any other server closes the connection when an answer is not whole
                connection.abort()
        except Fault as fault:
            await self._send_fault(fault)
        except asyncio.CancelledError:
            await self._send_fault(SHUTTING_DOWN)
        except Exception:  # the edge is where an unforeseen error becomes an answer
            logger.exception("a request failed", extra={"request_id": self.request_id})
            await self._send_fault(INTERNAL)
        finally:
            observer.end(self.request_id, self.reply.status or CLIENT_LEFT)

    async def answer(self, receive: Receive) -> None:
        raise NotImplementedError

    async def read_body(self, receive: Receive) -> bytes:
        """The body, with the model of the address if that names one."""
        body = await read_body(self.headers, receive, settings.TOLLGATE_MAX_BODY_BYTES)
        model: str = self.scope.get(MODEL, "")
        # The body is read twice in one step of the loop: here, and where it is interpreted
        return await read_sized(2 * len(body), set_model, body, model) if model else body

    async def identify(self) -> Principal:
        now = self.runtime.services.now()
        principal = await identify(self.headers, self.runtime.directory, now, origin_of(self.scope))
        self.runtime.key_use.note(principal.key_id)
        spent_pusd = self.runtime.key_spend.find(principal.key_id)
        if spent_pusd is not None:
            self.reply.add_header(b"x-litellm-key-spend", usd_text(spent_pusd).encode())
        return principal

    def error_body(self, fault: Fault) -> bytes:
        return error_body(fault)

    def error_event(self, fault: Fault) -> bytes:
        return b"data: " + self.error_body(fault) + b"\n\n"

    async def _send_fault(self, fault: Fault) -> None:
        self.runtime.services.observer.note_fault(self.request_id, fault)
        if self.reply.is_complete:
            return
        if self.reply.is_started:
            await self.reply.end_stream(self.error_event(fault))
            return
        headers = list(fault.headers)
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


def origin_of(scope: Scope) -> Origin:
    client = scope.get("client")
    return Origin(scope["path"], str(client[0]) if client else "", settings.TOLLGATE_TLS)


class DialectConsumer(GatewayConsumer):
    """Carries a request of one dialect through the pipeline."""

    methods: tuple[str, ...] = ("POST",)

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
        with CancelOnDisconnect(self.scope, receive):
            await run(
                Inbound(self.request_id, self.headers, body),
                self.dialect,
                principal,
                runtime.snapshot.catalog,
                runtime.services,
                self.reply,
            )


class Connection(Protocol):
    """The client's connection, which the guarded server puts into the scope."""

    is_lost: bool
    on_lost: Callable[[], object] | None

    def abort(self) -> None:
        """Closes the connection at once and drops the bytes that are not sent."""


class CancelOnDisconnect:
    """Cancels the request's task when the client disconnects. Raises ClientDisconnected in place of that cancellation.

    The guarded server calls back at the disconnect; with any other server a task waits for the ASGI message.
    """

    __slots__ = ("_connection", "_is_disconnected", "_receive", "_task", "_watch")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._connection: Connection | None = scope.get(CONNECTION)
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._is_disconnected = False

    def __enter__(self) -> "CancelOnDisconnect":
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        if self._connection is None:
            self._watch = asyncio.create_task(self._wait())
        elif self._connection.is_lost:
            raise ClientDisconnected
        else:
            self._connection.on_lost = self._cancel
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._connection is not None:
            self._connection.on_lost = None
        elif self._watch is not None:
            self._watch.cancel()
        if kind is asyncio.CancelledError and self._is_disconnected:
            raise ClientDisconnected from None

    def _cancel(self) -> None:
        self._is_disconnected = True
        self._task.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cancel()


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """Reads and counts the body. Raises TooLarge or ClientDisconnected; the server ends a body that stalls."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and (len(declared) > MAX_LENGTH_DIGITS or int(declared) > limit):
        raise TooLarge(f"The body is larger than {limit} bytes.")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge(f"The body is larger than {limit} bytes.")
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)
