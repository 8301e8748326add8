"""WebSocket mode of /v1/responses: a Channels consumer that takes turns, each through the same stations as a request.

Each turn identifies the caller anew, and what the caller may call. An error in a turn leaves the connection open.
Source: https://platform.openai.com/docs/guides/websocket-mode and the types of the `openai` package 3.51.0
(responses_client_event, responses_server_event).
"""

import asyncio
import contextlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import orjson
from channels.consumer import AsyncConsumer
from django.conf import settings

from gateway.edge.asgi_types import Message, Receive, Scope, Send
from gateway.edge.consumer import CLIENT_LEFT, CONNECTION, Connection, origin_of
from gateway.edge.problems import INTERNAL, SHUTTING_DOWN
from gateway.edge.websocket.handshake import refuse
from gateway.edge.websocket.reply import SocketReply
from gateway.edge.websocket.turn_queue import TurnQueue
from gateway.pipeline.frame_release import FRAME_RELEASE
from gateway.pipeline.identify import identify
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import ClientStalled, Principal
from gateway.pipeline.responses.close import TurnClose
from gateway.pipeline.responses.connection_memory import ConnectionMemory
from gateway.pipeline.responses.create import answer, interpret, open_turn
from gateway.pipeline.responses.store_input import store_input
from gateway.pipeline.responses.turn import ResponseTurn
from gateway.pipeline.run import Inbound
from gateway.protocol.context_overflow import openai_text
from gateway.protocol.dialects.responses.client_request import ResponsesRequest
from gateway.protocol.dialects.responses.stream import encode_frame
from gateway.protocol.errors import BadRequest, ClientFault, Fault, TooLarge, Unauthorized
from gateway.protocol.json.body import parse_object
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.runtime import Runtime, new_id

logger = logging.getLogger(__name__)

ENDPOINT = "responses_websocket"
LIMIT_S = 3600.0
MAX_PER_KEY = 100  # connections, in one process
#: Close codes of RFC 6455 and its registry.
GOING_AWAY, POLICY, SERVICE_RESTART = 1001, 1008, 1012

CREATE, STEER = "response.create", "response.steer"
STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
#: The members of a create that are no part of the request.
ENVELOPE = frozenset({"type", "stream_id", "generate", "stream", "background"})
#: Members that have no meaning here, and the value of each that asks for what happens anyway: some clients send it.
REDUNDANT: JsonMapping = {"stream": True, "background": False, "stream_options": None}


class OpenSockets:
    """The open connections of this process. Its server ends them through `drain`."""

    def __init__(self) -> None:
        self.is_draining = False
        self._open: set[SocketConsumer] = set()
        self._by_key: Counter[str] = Counter()

    @contextlib.contextmanager
    def counted(self, key_digest: str) -> Iterator[None]:
        """Counts a connection of a key. Raises ClientFault (429) where the key has too many."""
        if self._by_key[key_digest] >= MAX_PER_KEY:
            raise ClientFault(
                f"The key has {MAX_PER_KEY} open WebSockets, which is the most: close one to open another.",
                status=429,
                kind="rate_limit_error",
                code="too_many_connections",
                headers=((b"retry-after", b"10"),),
            )
        self._by_key[key_digest] += 1
        try:
            yield
        finally:
            self._by_key[key_digest] -= 1
            if not self._by_key[key_digest]:
                del self._by_key[key_digest]

    def add(self, socket: "SocketConsumer") -> None:
        self._open.add(socket)

    def remove(self, socket: "SocketConsumer") -> None:
        self._open.discard(socket)

    def drain(self) -> None:
        """Each connection finishes its turns and closes; the process refuses new ones."""
        self.is_draining = True
        for socket in self._open:
            socket.end(SERVICE_RESTART)


class SocketConsumer(AsyncConsumer):
    """One connection. It is read all the time, so that a disconnect is noticed at once."""

    def __init__(self, *, runtime: Runtime, sockets: OpenSockets, limit_s: float = LIMIT_S) -> None:
        super().__init__()
        self.runtime = runtime
        self._sockets = sockets
        self._limit_s = limit_s
        self._is_disconnected = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._origin = origin_of(scope)
        self._connection: Connection | None = scope.get(CONNECTION)
        common = [(b"x-request-id", new_id().encode())]
        if (await receive())["type"] != "websocket.connect":
            return
        with contextlib.ExitStack() as stack:
            try:
                if self._sockets.is_draining:
                    raise SHUTTING_DOWN
                principal = await self._identify()
                stack.enter_context(self._sockets.counted(principal.key_digest))
            except Fault as fault:
                await refuse(scope, receive, send, fault, common)
                return
            await send({"type": "websocket.accept", "headers": common})
            await self._serve(receive)

    def end(self, code: int) -> None:
        """Begins no further turn, and closes the connection when the turns that run have ended."""
        if not self._close_code.done():
            self._close_code.set_result(code)

    async def _serve(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self._close_code: asyncio.Future[int] = loop.create_future()
        self._memory = ConnectionMemory(self.runtime.response_services.responses)
        self._turns = TurnQueue(self._run_turn, max_waiting_bytes=settings.TOLLGATE_MAX_BODY_BYTES)
        timer = loop.call_later(self._limit_s, self.end, GOING_AWAY)
        reading = asyncio.create_task(self._read(receive), name="socket reader")
        self._sockets.add(self)
        try:
            events: list[asyncio.Future[None] | asyncio.Future[int]] = [reading, self._close_code]
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                finishing = asyncio.create_task(self._finish(self._close_code.result()), name="socket end")
                await asyncio.wait({reading, finishing}, return_when=asyncio.FIRST_COMPLETED)
                if finishing.done():
                    finishing.result()
                finishing.cancel()
            if reading.done():
                self._is_disconnected = True
                reading.result()
        except asyncio.CancelledError:  # the server waits no longer for the turns that run
            await self._turns.cancel()
            await self._close(SERVICE_RESTART)
        finally:
            timer.cancel()
            self._sockets.remove(self)
            reading.cancel()
            await self._turns.cancel()

    async def _finish(self, code: int) -> None:
        await self._turns.finish()
        if code == GOING_AWAY:
            await self._send_fault(_limit_reached(self._limit_s))
        await self._close(code)

    # Events from the client

    async def _read(self, receive: Receive) -> None:
        """Returns when the client disconnects."""
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._receive_event(message.get("text"))
            except Fault as fault:
                await self._send_fault(fault)

    async def _receive_event(self, text: str | None) -> None:
        if self._close_code.done():
            return
        if text is None:
            raise BadRequest("Messages must be text, a JSON object each.")
        raw = text.encode()
        if len(raw) > settings.TOLLGATE_MAX_BODY_BYTES:
            raise TooLarge(f"The message is larger than {settings.TOLLGATE_MAX_BODY_BYTES} bytes.")
        event = await read_sized(len(raw), parse_object, raw)
        match event.get("type"):
            case "response.create":
                stream_id = _read_stream_id(event)
                try:
                    self._turns.add(stream_id, raw)
                except Fault as fault:
                    await self._send_fault(fault, stream_id)
            case "response.steer":
                await self._send_text(orjson.dumps(_not_steered(event)))
            case None:
                raise BadRequest("Missing required parameter: 'type'.", param="type", code="missing_required_parameter")
            case _:
                raise BadRequest(
                    f"Invalid value for 'type': it must be one of {CREATE}, {STEER}.",
                    param="type",
                    code="invalid_value",
                )

    # Turns

    async def _run_turn(self, stream_id: str, message: bytes) -> None:
        reply = SocketReply(self._send_text, stream_id)
        responses = self._memory.turn(stream_id)
        close: TurnClose | None = None
        request_id = new_id()
        observer = self.runtime.services.observer
        observer.begin(request_id, ENDPOINT)
        try:
            with FRAME_RELEASE:
                principal = await self._identify()
                request, is_generating = await read_sized(len(message), self._interpret, message, request_id)
                services = self.runtime.services
                response_services = replace(self.runtime.response_services, responses=responses)
                turn = await open_turn(request, principal, services, response_services)
                close = TurnClose(turn, services.now, responses, responses.remember)
                if is_generating:
                    await self._answer(turn, close, principal, reply, request_id)
                else:
                    catalog = self.runtime.snapshot.catalog
                    events = await store_input(turn, close, principal, catalog, services, response_services)
                    await reply.send_events(b"".join(map(encode_frame, events)))
        except ClientStalled:
            observer.end(request_id, CLIENT_LEFT)
            self._abort()
        except Fault as fault:
            observer.note_fault(request_id, fault)
            responses.fail()
            await self._end_turn(fault, reply, close)
            if isinstance(fault, Unauthorized):
                self.end(POLICY)
        except asyncio.CancelledError:
            observer.end(request_id, CLIENT_LEFT if self._is_disconnected else SHUTTING_DOWN.status)
            if not self._is_disconnected:
                await self._end_turn(SHUTTING_DOWN, reply, close)
            raise
        except Exception:  # the edge is where an unforeseen error becomes an answer
            logger.exception("a turn failed", extra={"request_id": request_id})
            observer.note_fault(request_id, INTERNAL)
            responses.fail()
            await self._end_turn(INTERNAL, reply, close)
        finally:
            observer.end(request_id, 200)

    def _interpret(self, message: bytes, request_id: str) -> tuple[ResponsesRequest, bool]:
        """(the request of a create, whether it asks for an answer). Raises BadRequest."""
        event = parse_object(message)
        is_generating = event.get("generate") is not False
        inbound = Inbound(request_id, self.headers, _body(event))
        return interpret(inbound, needs_input=is_generating), is_generating

    async def _answer(
        self, turn: ResponseTurn, close: TurnClose, principal: Principal, reply: SocketReply, request_id: str
    ) -> None:
        runtime = self.runtime
        await answer(
            turn,
            close,
            Inbound(request_id, self.headers, turn.request.raw),
            principal,
            runtime.snapshot.catalog,
            runtime.services,
            reply,
        )

    async def _identify(self) -> Principal:
        now = self.runtime.services.now()
        principal = await identify(self.headers, self.runtime.directory, now, self._origin)
        self.runtime.key_use.note(principal.key_id)
        return principal

    # Events to the client

    async def _end_turn(self, fault: Fault, reply: SocketReply, close: TurnClose | None) -> None:
        """Sends the terminal event of a response that has begun, or an error where none has."""
        ending = close.error_event(fault) if close is not None and reply.is_started else b""
        if ending:
            await reply.end_stream(ending)
        else:
            await reply.send(orjson.dumps(_error_event(fault)))

    async def _send_fault(self, fault: Fault, stream_id: str = "") -> None:
        await SocketReply(self._send_text, stream_id).send(orjson.dumps(_error_event(fault)))

    async def _send_text(self, text: bytes) -> None:
        await self._send_message({"type": "websocket.send", "text": text.decode()})

    async def _close(self, code: int) -> None:
        await self._send_message({"type": "websocket.close", "code": code})

    async def _send_message(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # the client has left; the reader ends the turns
            await self._send(message)

    def _abort(self) -> None:
        """Drops a client that reads nothing, and with it all that is not sent."""
        if self._connection is not None:
            self._connection.abort()
        self.end(POLICY)


def _read_stream_id(event: JsonMapping) -> str:
    """The stream of a create; empty for the one without a name. Raises BadRequest."""
    stream_id = event.get("stream_id")
    if stream_id is None:
        return ""
    if type(stream_id) is not str or not STREAM_ID.fullmatch(stream_id):
        raise BadRequest(
            "Invalid value for 'stream_id': it must have 1 to 256 letters, digits, and the signs _ - . only.",
            param="stream_id",
            code="invalid_stream_id",
        )
    return stream_id


def _body(event: JsonMapping) -> bytes:
    """The body of the request that a create stands for. Raises BadRequest for a member that has no meaning here."""
    for name, redundant in REDUNDANT.items():
        value = event.get(name)
        if value is not None and value is not redundant:
            raise BadRequest(
                f"'{name}' is not supported over a WebSocket: leave it out.", param=name, code="unsupported_parameter"
            )
    if type(event.get("generate")) not in {bool, type(None)}:
        raise BadRequest(
            "Invalid value for 'generate': it must be true or false.", param="generate", code="invalid_value"
        )
    return orjson.dumps({name: value for name, value in event.items() if name not in ENVELOPE} | {"stream": True})


def _error_event(fault: Fault) -> JsonObject:
    error: JsonObject = {
        "type": fault.type,
        "code": fault.code,
        "message": openai_text(fault),
        "param": fault.param,
    }
    if fault.headers:
        error["headers"] = {name.decode(): value.decode("latin-1") for name, value in fault.headers}
    return {"type": "error", "status": fault.status, "error": error}


def _limit_reached(limit_s: float) -> ClientFault:
    return BadRequest(
        f"The connection has been open for {limit_s / 60:g} minutes, which is the most: open a new one.",
        code="websocket_connection_limit_reached",
    )


def _not_steered(event: JsonMapping) -> JsonObject:
    parent_id, content = event.get("previous_response_id"), event.get("input")
    is_valid = type(parent_id) is str and bool(parent_id) and type(content) in {str, list} and bool(content)
    if is_valid:
        code, message = "steering_not_supported", "Responses cannot be steered here: send the input in a new create."
    else:
        code, message = "invalid_input", "'previous_response_id' and 'input' are both required."
    return {
        "type": "response.steer.failed",
        "sequence_number": 0,
        "steer": {"input": content, "previous_response_id": parent_id},
        "error": {"type": "invalid_request_error", "code": code, "message": message},
    }
