"""Background responses: each is made in a task of the process, and stored when it has ended.

They end with the process. Until a response has ended this process alone knows it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.pipeline.ports import Catalog, Principal
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.responses.runs import Run, check_upstreams, make_run, perform
from gateway.pipeline.responses.turn import ResponseTurn
from gateway.pipeline.run import Inbound
from gateway.pipeline.services import Services
from gateway.protocol.context_overflow import openai_text
from gateway.protocol.dialects.responses.dialect import failure_code
from gateway.protocol.dialects.responses.event_log import EventLog as StreamState
from gateway.protocol.dialects.responses.stored import StoredResponse
from gateway.protocol.errors import ClientFault, Fault, GatewayFault
from gateway.protocol.json.types import JsonObject
from gateway.sdk.details import Details
from gateway.sdk.event_logs import CallLog, EventLog, KeptLogs
from gateway.sdk.ledger import CallLedger
from gateway.state.unit_of_work import UnitOfWork

logger = logging.getLogger(__name__)

MAX_RUNNING = 1000
MAX_RUNNING_BYTES = 256 * 1024 * 1024  # of the logs of those that are being made
UNFORESEEN: JsonObject = {"code": "server_error", "message": "The SDK failed on this response."}
FINISH_LIMIT_S = 10.0  # for the last write of a response, while it is cancelled
EXIT: JsonObject = {"code": "server_error", "message": "The process ended before the response was complete."}


class BackgroundRun:
    """One response that is being made, and the RunLogs of it. Readers get its last events when it is stored."""

    def __init__(
        self,
        run: Run,
        events: Sequence[JsonObject],
        principal: Principal,
        response_services: ResponseServices,
        ledger: CallLedger,
    ) -> None:
        self._run = run
        self._principal = principal
        self._response_services = response_services
        self._ledger = ledger
        self._is_cancelled = False
        self._is_finishing = False
        self._answer: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None  # that ends the response when the answer has ended
        self.stored = replace(run.stored, response=events[-1]["response"])  # as it is now
        self.log = EventLog()
        self.log.add(events)

    @property
    def call_log(self) -> CallLog:
        attempts = self._ledger.attempts  # and nothing else: the log is kept when the request is gone
        return CallLog(self.log, lambda: Details(tuple(attempts)))

    def start(self, catalog: Catalog, services: Services, on_end: Callable[[], None]) -> None:
        answer = perform(self._run, self, catalog, services, self._response_services)
        self._answer = asyncio.create_task(answer)
        self._task = asyncio.create_task(self._bring_to_end(self._answer))
        self._task.add_done_callback(lambda _: on_end())

    async def cancel(self) -> None:
        """Returns when the response has ended. It ends though its caller does not wait for that."""
        if self._answer is not None and self._task is not None:
            if not self._is_cancelled:  # a second one would interrupt the close of the attempt
                self._is_cancelled = True
                self._answer.cancel()
            await asyncio.wait([self._task])

    async def find_principal(self, key_digest: str) -> Principal:
        return self._principal

    def append(self, stored: StoredResponse, events: Sequence[JsonObject]) -> "asyncio.Future[None]":
        self.log.add(events)
        written = asyncio.get_running_loop().create_future()
        written.set_result(None)
        return written

    def finish(self, unit: UnitOfWork, stored: StoredResponse, events: Sequence[JsonObject]) -> None:
        async def end() -> None:
            if not self.log.is_ended:
                self.stored = stored
                self.log.add(events)
                self.log.end()

        self._is_finishing = True
        self._response_services.responses.add(unit, stored)
        unit.follow_up(end)

    async def _bring_to_end(self, answer: "asyncio.Task[None]") -> None:
        """Only the end of the process cancels it: so a response ends once, and whole."""
        error = UNFORESEEN
        try:
            await answer
        except Fault as fault:
            error = {"code": failure_code(fault.status), "message": openai_text(fault)}
        except asyncio.CancelledError:
            error = EXIT
            if not self._is_cancelled:
                raise
            if self._is_finishing:  # the last write is shielded from the cancellation, and goes on
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FINISH_LIMIT_S):
                        await self.log.wait_for_end()
        finally:
            if self._is_cancelled:
                await self._end("cancelled", None)
            else:
                await self._end("failed", error)

    async def _end(self, status: str, error: JsonObject | None) -> None:
        """Ends the response where it has not ended, with what its events have so far."""
        if self.log.is_ended:
            return
        events, response = self._make_end(status, error)
        unit = UnitOfWork()
        self.finish(unit, replace(self.stored, response=response), events)
        try:
            await self._response_services.commit(unit)
        except (GatewayFault, ClientFault) as fault:
            logger.error("a background response could not be stored", extra={"why": fault.message})
            events, _ = self._make_end("failed", {"code": "server_error", "message": fault.message})
            if not self.log.is_ended:
                self.log.add(events)
        finally:
            self.log.end()

    def _make_end(self, status: str, error: JsonObject | None) -> tuple[list[JsonObject], JsonObject]:
        state = StreamState()
        state.feed(self.log.read(0))
        return state.end(self.stored.response, status=status, error=error)


class BackgroundRuns:
    """The background responses of the process, and the logs of those that have ended."""

    def __init__(self) -> None:
        self._running: dict[str, BackgroundRun] = {}
        self._kept = KeptLogs()

    def begin(
        self,
        turn: ResponseTurn,
        inbound: Inbound,
        principal: Principal,
        catalog: Catalog,
        services: Services,
        response_services: ResponseServices,
        ledger: CallLedger,
    ) -> tuple[StoredResponse, CallLog]:
        """The response as it is queued, and its events. Raises ClientFault where no upstream takes it, or too many are
        being made."""
        running = self._running.values()
        if len(running) >= MAX_RUNNING or sum(run.log.size_bytes for run in running) >= MAX_RUNNING_BYTES:
            raise ClientFault(
                f"{len(running)} background responses are being made; wait for some of them.",
                status=429,
                code="rate_limit_exceeded",
            )
        check_upstreams(turn, principal, catalog, services.now)
        made, events = make_run(turn, inbound, principal, services.now)
        response_id = made.stored.id
        run = self._running[response_id] = BackgroundRun(made, events, principal, response_services, ledger)
        run.start(catalog, services, lambda: self._keep(response_id))
        return made.stored, run.call_log

    def find(self, response_id: str) -> StoredResponse | None:
        """The response, while it is being made."""
        run = self._running.get(response_id)
        return run.stored if run is not None else None

    def find_log(self, response_id: str) -> CallLog | None:
        """None where this process has not made the response, or has dropped the log."""
        run = self._running.get(response_id)
        return run.call_log if run is not None else self._kept.find(response_id)

    def forget(self) -> None:
        """Another process makes them."""
        self._running.clear()
        self._kept.clear()

    async def cancel(self, response_id: str) -> None:
        """Returns when the response has ended. Does nothing where it is not being made."""
        run = self._running.get(response_id)
        if run is not None:
            await run.cancel()

    async def erase(self, response_id: str) -> None:
        """Ends the response where it is being made, and drops its log."""
        await self.cancel(response_id)
        self._kept.drop(response_id)

    def _keep(self, response_id: str) -> None:
        run = self._running.pop(response_id, None)
        if run is not None:
            self._kept.add(response_id, run.call_log)
