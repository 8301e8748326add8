"""Background responses: each is made in a task of the process, and stored when it has ended.

They end with the process. Until a response has ended this process alone knows it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from gateway.pipeline.ports import Headers
from gateway.pipeline.responses.close import TurnClose, stored_response
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.responses.turn import ResponseTurn
from gateway.pipeline.services import Clock
from gateway.protocol.context_overflow import openai_text
from gateway.protocol.dialects.responses.dialect import failure_code
from gateway.protocol.dialects.responses.stored import StoredResponse
from gateway.protocol.errors import ClientFault, Fault
from gateway.protocol.json.types import Json
from gateway.state.unit_of_work import UnitOfWork

MAX_RUNNING = 1000


class _NoReader:
    """The Reply of a response that is read when it has ended. See gateway.pipeline.ports.Reply."""

    is_started = False

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start_stream(self, headers: Headers) -> None: ...

    async def send_events(self, events: bytes) -> None: ...

    async def end_stream(self, events: bytes) -> None: ...


#: Answers a turn on a reply. Raises Fault.
Perform = Callable[[ResponseTurn, TurnClose, _NoReader], Awaitable[None]]


@dataclass(slots=True)
class _Run:
    stored: StoredResponse
    task: asyncio.Task[None]


class BackgroundRuns:
    """The responses that are being made."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def begin(
        self, turn: ResponseTurn, perform: Perform, response_services: ResponseServices, now: Clock
    ) -> StoredResponse:
        """The response as it is now: in progress. Raises ClientFault where too many are being made."""
        if len(self._runs) >= MAX_RUNNING:
            raise ClientFault(
                f"{MAX_RUNNING} background responses are being made; wait for some of them.",
                status=429,
                code="rate_limit_exceeded",
            )
        blank = turn.dialect(now).translated_answer.response
        stored = stored_response(turn, {**blank, "status": "in_progress"})
        close = TurnClose(turn, now, response_services.responses)
        task = asyncio.create_task(self._make(turn, close, stored, perform, response_services))
        self._runs[stored.id] = _Run(stored, task)
        return stored

    def find(self, response_id: str) -> StoredResponse | None:
        run = self._runs.get(response_id)
        return run.stored if run is not None else None

    def forget(self) -> None:
        """Another process makes them."""
        self._runs.clear()

    async def cancel(self, response_id: str) -> None:
        """Returns when the response has ended. Does nothing where it is not being made."""
        run = self._runs.get(response_id)
        if run is not None:
            run.task.cancel()
            await asyncio.wait([run.task])

    async def _make(
        self,
        turn: ResponseTurn,
        close: TurnClose,
        stored: StoredResponse,
        perform: Perform,
        response_services: ResponseServices,
    ) -> None:
        end: dict[str, Json] | None = None
        try:
            await perform(turn, close, _NoReader())
        except Fault as fault:
            error = {"code": failure_code(fault.status), "message": openai_text(fault)}
            end = {"status": "failed", "error": error}
        except asyncio.CancelledError:
            end = {"status": "cancelled"}
        finally:
            try:
                if end is not None and close.response is None:
                    unit = UnitOfWork()
                    close.add(replace(stored, response={**stored.response, **end}), unit)
                    await response_services.commit(unit)
            finally:
                del self._runs[stored.id]
