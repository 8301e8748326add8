"""WebSocket mode of /v1/responses: a Channels consumer that takes turns, each through the same stations as a request.

Who is calling, and what they may call, is asked anew for each turn. An error in a turn leaves the connection open.
Source: https://platform.openai.com/docs/guides/websocket-mode and the types of the `openai` package 3.51.0
(responses_client_event, responses_server_event).
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
from channels.consumer import AsyncConsumer
from django.conf import settings

from gateway.edge.consumer import CONNECTION, Connection, Receive, Scope
from gateway.edge.problems import INTERNAL, SHUTTING_DOWN, problem_headers
from gateway.edge.reply import Send
from gateway.edge.websocket.handshake import refuse
from gateway.edge.websocket.reply import SocketReply
from gateway.edge.websocket.turn_queue import TurnQueue
from gateway.pipeline.identify import identify
from gateway.pipeline.ports import ClientStalled, Principal
from gateway.pipeline.responses.connection_memory import ConnectionMemory, TurnResponses
from gateway.pipeline.responses.create import answer, interpret, open_session
from gateway.pipeline.responses.store_input import prepare
from gateway.pipeline.responses.turn import Session
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.stream import encode_frame
from gateway.protocol.errors import BadRequest, ClientFault, Fault, TooLarge, Unauthorized
from gateway.protocol.json.body import parse_object
from gateway.runtime import Runtime, new_id

logger = logging.getLogger(__name__)

LIMIT_S = 3600.0
#: Close codes of RFC 6455 and its registry.
GOING_AWAY, POLICY, SERVICE_RESTART = 1001, 1008, 1012

CREATE, STEER = "response.create", "response.steer"
LANE = re.compile(r"[A-Za-z0-9_.-]{1,256}")
#: Members of a create that are no part of the request.
ENVELOPE = frozenset({"type", "stream_id", "generate", "stream", "background"})
#: Members that have no meaning here, and the one value that asks for just what is done anyway: some clients send it.
REDUNDANT: Mapping[str, Any] = {"stream": True, "background": False, "stream_options": None}


class OpenSockets:
    """All open connections of this process, so that its server can end them in order."""

    def __init__(self) -> None:
        self.is_draining = False
        self._open: set[SocketConsumer] = set()

    def add(self, socket: "SocketConsumer") -> None:
        self._open.add(socket)

    def remove(self, socket: "SocketConsumer") -> None:
        self._open.discard(socket)

    def drain(self) -> None:
        """Each finishes what runs on it and closes; new ones are refused."""
        self.is_draining = True
        for socket in self._open:
            socket.end(SERVICE_RESTART)


class SocketConsumer(AsyncConsumer):
    """One connection. It is always being read, so that a client that leaves is noticed at once."""

    def __init__(self, *, runtime: Runtime, sockets: OpenSockets, limit_s: float = LIMIT_S) -> None:
        super().__init__()
        self.runtime = runtime
        self._sockets = sockets
        self._limit_s = limit_s
        self._is_gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._connection: Connection | None = scope.get(CONNECTION)
        common = [(b"x-request-id", new_id().encode())]
        if (await receive())["type"] != "websocket.connect":
            return
        try:
            if self._sockets.is_draining:
                raise SHUTTING_DOWN
            await self._identify()
        except Fault as fault:
            await refuse(scope, receive, send, fault, common)
            return
        await send({"type": "websocket.accept", "headers": common})
        await self._serve(receive)

    def end(self, code: int) -> None:
        """No further turn begins; the connection closes when those that run have ended."""
        if not self._ended.done():
            self._ended.set_result(code)

    async def _serve(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        self._memory = ConnectionMemory(self.runtime.sessions.responses)
        self._lanes = TurnQueue(self._turn, max_waiting_bytes=settings.TOLLGATE_MAX_BODY_BYTES)
        timer = loop.call_later(self._limit_s, self.end, GOING_AWAY)
        reading = asyncio.create_task(self._read(receive), name="socket reader")
        self._sockets.add(self)
        try:
            events: list[asyncio.Future[Any]] = [reading, self._ended]
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                finishing = asyncio.create_task(self._finish(self._ended.result()), name="socket end")
                await asyncio.wait({reading, finishing}, return_when=asyncio.FIRST_COMPLETED)
                if finishing.done():
                    finishing.result()
                finishing.cancel()
            if reading.done():
                self._is_gone = True
                reading.result()
        except asyncio.CancelledError:  # the server waits no longer for what runs
            await self._lanes.cancel()
            await self._close(SERVICE_RESTART)
        finally:
            timer.cancel()
            self._sockets.remove(self)
            reading.cancel()
            await self._lanes.cancel()

    async def _finish(self, code: int) -> None:
        await self._lanes.finish()
        if code == GOING_AWAY:
            await self._tell(_limit_reached(self._limit_s))
        await self._close(code)

    # What the client says

    async def _read(self, receive: Receive) -> None:
        """Until the client has left."""
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._take(message.get("text"))
            except Fault as fault:
                await self._tell(fault)

    async def _take(self, text: str | None) -> None:
        if self._ended.done():
            return
        if text is None:
            raise BadRequest("Messages must be text, a JSON object each.")
        raw = text.encode()
        if len(raw) > settings.TOLLGATE_MAX_BODY_BYTES:
            raise TooLarge(f"The message is larger than {settings.TOLLGATE_MAX_BODY_BYTES} bytes.")
        event = parse_object(raw)
        match event.get("type"):
            case "response.create":
                lane = _lane(event)
                try:
                    self._lanes.add(lane, event, len(raw))
                except Fault as fault:
                    await self._tell(fault, lane)
            case "response.steer":
                await self._say(orjson.dumps(_not_steered(event)))
            case None:
                raise BadRequest("Missing required parameter: 'type'.", param="type", code="missing_required_parameter")
            case _:
                raise BadRequest(
                    f"Invalid value for 'type': it must be one of {CREATE}, {STEER}.",
                    param="type",
                    code="invalid_value",
                )

    # Turns

    async def _turn(self, lane: str, event: dict[str, Any]) -> None:
        reply = SocketReply(self._say, lane)
        responses = self._memory.turn(lane)
        session: Session | None = None
        request_id = new_id()
        try:
            principal = await self._identify()
            is_generated = event.get("generate") is not False
            request = interpret(Inbound(request_id, self.headers, _body(event)), needs_input=is_generated)
            sessions = replace(self.runtime.sessions, responses=responses)
            session = await open_session(
                request, principal, self.runtime.services, sessions, on_made=responses.remember
            )
            if is_generated:
                await self._answer(session, principal, responses, reply, request_id)
            else:
                await self._prepare(session, principal, responses, reply)
        except ClientStalled:
            self._abort()
        except Fault as fault:
            responses.fail()
            await self._tell_turn(fault, reply, session)
            if isinstance(fault, Unauthorized):
                self.end(POLICY)
        except asyncio.CancelledError:
            if not self._is_gone:
                await self._tell_turn(SHUTTING_DOWN, reply, session)
            raise
        except Exception:  # the edge is where an unforeseen error becomes an answer
            logger.exception("a turn failed", extra={"request_id": request_id})
            responses.fail()
            await self._tell_turn(INTERNAL, reply, session)

    async def _answer(
        self, session: Session, principal: Principal, responses: TurnResponses, reply: SocketReply, request_id: str
    ) -> None:
        runtime = self.runtime
        await answer(
            session,
            Inbound(request_id, self.headers, session.request.raw),
            principal,
            runtime.snapshot.catalog,
            runtime.services,
            responses.keep,
            reply,
            runtime.draw,
        )

    async def _prepare(
        self, session: Session, principal: Principal, responses: TurnResponses, reply: SocketReply
    ) -> None:
        runtime = self.runtime
        events = await prepare(session, principal, runtime.snapshot.catalog, responses.keep)
        await reply.send_events(b"".join(map(encode_frame, events)))

    async def _identify(self) -> Principal:
        return await identify(self.headers, self.runtime.directory, self.runtime.services.now())

    # What the client is told

    async def _tell_turn(self, fault: Fault, reply: SocketReply, session: Session | None) -> None:
        """The terminal event of a response that has begun; an error where none has."""
        ending = session.error_event(fault) if session is not None and reply.is_started else b""
        if ending:
            await reply.end_stream(ending)
        else:
            await reply.send(orjson.dumps(_error_event(fault)))

    async def _tell(self, fault: Fault, lane: str = "") -> None:
        await SocketReply(self._say, lane).send(orjson.dumps(_error_event(fault)))

    async def _say(self, text: bytes) -> None:
        await self._pass({"type": "websocket.send", "text": text.decode()})

    async def _close(self, code: int) -> None:
        await self._pass({"type": "websocket.close", "code": code})

    async def _pass(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the client has left; the reader ends what runs
            await self._send(message)

    def _abort(self) -> None:
        """There is no way to tell the client anything."""
        if self._connection is not None:
            self._connection.abort()
        self.end(POLICY)


def _lane(event: Mapping[str, Any]) -> str:
    """Empty for the lane without a name. Raises BadRequest, which no lane is named for."""
    given = event.get("stream_id")
    if given is None:
        return ""
    if type(given) is not str or not LANE.fullmatch(given):
        raise BadRequest(
            "Invalid value for 'stream_id': it must have 1 to 256 letters, digits, and the signs _ - . only.",
            param="stream_id",
            code="invalid_stream_id",
        )
    return given


def _body(event: Mapping[str, Any]) -> bytes:
    """The create as the request that it stands for. Raises BadRequest for what has no meaning here."""
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


def _error_event(fault: Fault) -> dict[str, Any]:
    error: dict[str, Any] = {
        "type": fault.type,
        "code": fault.code,
        "message": fault.message,
        "param": fault.param,
    }
    headers = problem_headers(fault)
    if headers:
        error["headers"] = {name.decode(): value.decode("latin-1") for name, value in headers}
    return {"type": "error", "status": fault.status, "error": error}


def _limit_reached(limit_s: float) -> ClientFault:
    return BadRequest(
        f"The connection has been open for {limit_s / 60:g} minutes, which is the most: open a new one.",
        code="websocket_connection_limit_reached",
    )


def _not_steered(event: Mapping[str, Any]) -> dict[str, Any]:
    parent_id, given = event.get("previous_response_id"), event.get("input")
    is_valid = type(parent_id) is str and bool(parent_id) and type(given) in {str, list} and bool(given)
    if is_valid:
        code, message = "steering_not_supported", "Responses cannot be steered here: send the input in a new create."
    else:
        code, message = "invalid_input", "'previous_response_id' and 'input' are both required."
    return {
        "type": "response.steer.failed",
        "sequence_number": 0,
        "steer": {"input": given, "previous_response_id": parent_id},
        "error": {"type": "invalid_request_error", "code": code, "message": message},
    }
