"""Engine: the pipeline composed for one process, with ports in memory. Everything here runs in the background loop."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import orjson
from uuid_utils import uuid7

from billing.estimate import CallEstimator
from gateway.pipeline.deployment_limits import DeploymentLimits
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Catalog, Principal, Reply
from gateway.pipeline.responses.close import TurnClose
from gateway.pipeline.responses.create import answer, interpret, open_turn
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.run import Inbound, run
from gateway.pipeline.services import Services
from gateway.pipeline.whole_reply import WholeReply
from gateway.protocol.dialects.responses.items import render_response
from gateway.protocol.errors import Fault
from gateway.protocol.timeouts import Timeouts
from gateway.routing.breaker import Breaker
from gateway.routing.load import DeploymentLoad
from gateway.routing.retry_budget import RetryBudget
from gateway.routing.settings import RoutingSettings
from gateway.routing.unsupported_parameters import UnsupportedParameters
from gateway.routing.walk import Routing
from gateway.sdk.background_loop import BackgroundLoop
from gateway.sdk.background_runs import BackgroundRuns
from gateway.sdk.deployments import DirectDeployments
from gateway.sdk.details import CallFailed, Details
from gateway.sdk.event_logs import LogReader
from gateway.sdk.ledger import CallLedger
from gateway.sdk.prices import PriceBook
from gateway.sdk.request import Request
from gateway.sdk.sessions import NoConversations, OpenSeal, SessionStore
from gateway.sdk.stream_reply import StreamReply
from gateway.state.memory_rate_limits import MemoryRateLimits
from gateway.state.signatures import SignatureMemory
from gateway.upstream.client import UpstreamClient
from gateway.upstream.media import MediaFetcher
from gateway.upstream.proxy import ProxyRules
from gateway.upstream.tokens import TokenSource

CONNECT_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 32 * 1024 * 1024
TIMEOUTS = Timeouts(timeout_s=600, stream_idle_timeout_s=60, max_stream_duration_s=3600)
#: A program may look at an event for as long as it wants: the reader of a stream is in this process.
READER_S = 30 * 86_400.0
DEFAULT_OUTPUT_TOKENS = 4096
RETENTION_DAYS = 30
#: The caller: the program itself, which may call everything.
PRINCIPAL = Principal(organization_id="default", key_digest="", is_master=True)


class Models(Protocol):
    """The deployments that a call may go to, and the rules of their routing."""

    @property
    def settings(self) -> RoutingSettings: ...

    def find_catalog(self, request: Request, direct: DirectDeployments) -> Catalog:
        """Raises BadRequest."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The services that are open in one event loop."""

    loop: asyncio.AbstractEventLoop
    services: Services
    media: MediaFetcher
    direct: DirectDeployments


class Engine:
    """Opens itself with its first call, in the loop that it runs in, and again after a fork. Closes: the background
    loop, or the owner with `close()`."""

    def __init__(
        self,
        models: Models,
        prices: PriceBook,
        find_store: Callable[[], SessionStore],
        proxies: Callable[[], ProxyRules],
        background: BackgroundLoop,
        runs: BackgroundRuns,
    ) -> None:
        self._models = models
        self._prices = prices
        self._find_store = find_store
        self._proxies = proxies
        self._background = background
        self._parts: _Parts | None = None
        self.runs = runs

    async def whole(self, request: Request) -> tuple[bytes, Details]:
        """(the answer's body, its details). Raises CallFailed."""
        ledger, reply = self._ledger(), WholeReply()
        try:
            await self._perform(request, reply, ledger)
        except Fault as fault:
            raise CallFailed(fault, ledger.attempts) from None
        return reply.body, Details(tuple(ledger.attempts))

    async def stream(self, request: Request) -> "StreamCall":
        """The stream, when its head is there. Raises CallFailed."""
        call = StreamCall(self._ledger())
        await call.begin(self._perform, request)
        return call

    def response_services(self) -> ResponseServices:
        store = self._find_store()
        return ResponseServices(
            responses=store.responses,
            conversations=NO_CONVERSATIONS,
            commit=store.commit,
            seal=_seal,
            retention_days=RETENTION_DAYS,
        )

    def forget(self, deployment_ids: Sequence[str]) -> None:
        """Deployments that are gone."""
        self._prices.forget(deployment_ids)
        if self._parts is not None:
            self._parts.services.routing.forget(deployment_ids)

    async def close(self) -> None:
        parts, self._parts = self._parts, None
        self._background.drop(self.close)
        if parts is not None and parts.loop is asyncio.get_running_loop():
            await parts.services.deployment_limits.close()
            await parts.services.client.close()
            await parts.media.close()

    def _ledger(self) -> CallLedger:
        return CallLedger(self._prices.find, self._find_store().commit)

    async def _perform(self, request: Request, reply: Reply, ledger: CallLedger) -> None:
        """Answers on `reply`, or raises Fault. A stream of responses that has begun ends with its own event."""
        parts = await self._open()
        services = replace(parts.services, ledger=ledger)
        catalog = self._models.find_catalog(request, parts.direct)
        inbound = Inbound(new_id(), {}, request.encode())
        if request.dialect is not None:
            await run(inbound, request.dialect, PRINCIPAL, catalog, services, reply)
        else:
            await self._respond(inbound, catalog, services, reply)

    async def _respond(self, inbound: Inbound, catalog: Catalog, services: Services, reply: Reply) -> None:
        response_services = self.response_services()
        create = await read_sized(len(inbound.body), interpret, inbound)
        turn = await open_turn(create, PRINCIPAL, services, response_services)
        close = TurnClose(turn, services.now, response_services.responses)
        try:
            await answer(turn, close, inbound, PRINCIPAL, catalog, services, reply)
        except Fault as fault:
            if not reply.is_started:
                raise
            await reply.end_stream(close.error_event(fault))

    async def begin(self, request: Request) -> tuple[bytes, LogReader]:
        """Begins a background response. Returns it as it is queued, and the stream of its events. Raises CallFailed."""
        ledger = self._ledger()
        try:
            parts = await self._open()
            services = replace(parts.services, ledger=ledger)
            catalog = self._models.find_catalog(request, parts.direct)
            inbound = Inbound(new_id(), {}, request.encode())
            create = await read_sized(len(inbound.body), interpret, inbound)
            response_services = self.response_services()
            turn = await open_turn(create, PRINCIPAL, services, response_services, is_background=True)
            stored, call_log = self.runs.begin(turn, inbound, PRINCIPAL, catalog, services, response_services, ledger)
        except Fault as fault:
            raise CallFailed(fault, ledger.attempts) from None
        return orjson.dumps(render_response(stored.response, create.include)), call_log.read(include=create.include)

    async def _open(self) -> _Parts:
        loop = asyncio.get_running_loop()
        if self._parts is None or self._parts.loop is not loop:
            self._parts = self._make_parts(loop)
            self._background.on_close(self.close)
            await self._parts.services.deployment_limits.start()
        return self._parts

    def _make_parts(self, loop: asyncio.AbstractEventLoop) -> _Parts:
        media = MediaFetcher()
        routing = Routing(
            Breaker(time.time, random.random),
            DeploymentLoad(time.monotonic),
            RetryBudget(time.monotonic),
            random.random,
            lambda: self._models.settings,
        )
        estimator = CallEstimator(self._prices.find, default_output_tokens=DEFAULT_OUTPUT_TOKENS)
        services = Services(
            ledger=self._ledger(),
            unsupported_parameters=UnsupportedParameters(),
            memory=SignatureMemory(),
            tokens=TokenSource(),
            media=media,
            client=UpstreamClient(
                connect_timeout_s=CONNECT_TIMEOUT_S, max_answer_bytes=MAX_ANSWER_BYTES, proxies=self._proxies()
            ),
            now=time.time,
            new_id=new_id,
            timeouts=TIMEOUTS,
            keepalive_s=READER_S,
            stalled_client_s=READER_S,
            routing=routing,
            deployment_limits=DeploymentLimits(MemoryRateLimits(), new_id=new_id, estimate=estimator.count_tokens),
        )
        return _Parts(loop, services, media, DirectDeployments(self._prices, self.forget))


#: Answers a request on a reply, or raises Fault.
Perform = Callable[[Request, Reply, CallLedger], Awaitable[None]]


class StreamCall:
    """One stream under way."""

    def __init__(self, ledger: CallLedger) -> None:
        self._ledger = ledger
        self._reply = StreamReply()
        self._task: asyncio.Task[None] | None = None
        self._failure: CallFailed | None = None

    @property
    def details(self) -> Details:
        """The attempts that have ended."""
        return Details(tuple(self._ledger.attempts))

    async def begin(self, perform: Perform, request: Request) -> None:
        """Returns when the head is there. Raises CallFailed."""
        self._task = asyncio.create_task(self._run(perform, request))
        try:
            await self._reply.wait_for_head()
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if self._failure is not None and not self._reply.is_started:
            raise self._failure

    async def take(self, received: int) -> tuple[bytes, bool, CallFailed | None]:
        """(whole frames, True if they are the last, the failure that follows them), after `received` batches."""
        frames, is_last = await self._reply.take(received)
        if is_last and self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()
        return frames, is_last, self._failure if is_last else None

    def cancel(self) -> None:
        """Ends the upstream's call."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self, perform: Perform, request: Request) -> None:
        try:
            await perform(request, self._reply, self._ledger)
        except Fault as fault:
            self._failure = CallFailed(fault, self._ledger.attempts)
        finally:
            self._reply.end()


NO_CONVERSATIONS = NoConversations()


@lru_cache(maxsize=1)
def _seal(organization_id: str) -> OpenSeal:
    return OpenSeal()


def new_id() -> str:
    return str(uuid7())
