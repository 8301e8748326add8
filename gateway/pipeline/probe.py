"""Probe: one real call of a few tokens to one deployment, whatever its state.

It passes the stations of every call from Exchange on: it has a spend row, whose source says `probe`, and takes of the
deployment's own limits and budgets. It never goes to another deployment, and no breaker counts it as a call.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from enum import StrEnum

import orjson

from gateway.pipeline.exchange import exchange
from gateway.pipeline.interpret import NO_HINTS
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Attempt, Principal
from gateway.pipeline.responses.create import interpret, open_turn
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.run import Inbound
from gateway.pipeline.services import Services
from gateway.pipeline.visit import BoundCall
from gateway.pipeline.whole_reply import WholeReply
from gateway.protocol.call import Operation
from gateway.protocol.dialect import Dialect
from gateway.protocol.dialects.openai.chat import DIALECT as CHAT
from gateway.protocol.dialects.openai.completions import DIALECT as COMPLETION
from gateway.protocol.dialects.openai.embeddings import DIALECT as EMBEDDING
from gateway.protocol.errors import BadRequest, GatewayFault, RateLimited, UpstreamFault
from gateway.protocol.json.types import Json, JsonObject
from gateway.protocol.provider import Target
from gateway.protocol.timeouts import Timeouts
from gateway.routing.direct_walk import direct_walk, isolated_routing
from gateway.state.unit_of_work import UnitOfWork

SOURCE = "probe"
PROMPT = "Reply with the word OK."
MAX_PROMPT_CHARS = 2000
#: A model that thinks first needs some. Several refuse a limit below 16.
MAX_OUTPUT_TOKENS = 64
MAX_ANSWER_BYTES = 1024 * 1024
MAX_TEXT_CHARS = 2000
TIMEOUT_S = 30.0
#: For what surrounds the call: its rows, and the event loop's other work.
MARGIN_S = 10.0
#: The calls at once of a process, so that they keep few threads.
CONCURRENT = 4


class ProbeMode(StrEnum):
    """The kinds of calls that a probe can make; `model_info.mode` of a deployment has these names."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RESPONSES = "responses"


_DIALECTS: dict[ProbeMode, Dialect] = {
    ProbeMode.CHAT: CHAT,
    ProbeMode.COMPLETION: COMPLETION,
    ProbeMode.EMBEDDING: EMBEDDING,
}
_OPERATIONS = {ProbeMode.COMPLETION: Operation.COMPLETION, ProbeMode.EMBEDDING: Operation.EMBEDDING}


@dataclass(frozen=True, slots=True)
class ProbeOrder:
    """The call to make. The spend row belongs to the principal; see `probe_principal`."""

    target: Target
    principal: Principal
    mode: ProbeMode
    prompt: str = PROMPT


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`text`: of the answer, bounded. `attempts`: those that have rows; a second one follows where an idle connection
    was closed. `fault`: None where the upstream has answered."""

    request_id: str
    mode: ProbeMode
    latency_s: float
    attempts: tuple[Attempt, ...]
    text: str = ""
    served_model: str = ""
    fault: UpstreamFault | None = None


def find_mode(target: Target, wanted: str = "") -> ProbeMode:
    """The mode that is wanted, or that of the deployment. Raises BadRequest where no probe can be made of it."""
    name = wanted or target.mode or ProbeMode.CHAT
    mode = next((mode for mode in ProbeMode if mode == name), None)
    if mode is None or _OPERATIONS.get(mode, Operation.CHAT) not in target.provider.operations:
        known = ", ".join(ProbeMode)
        raise BadRequest(
            f"A model of the mode '{name[:64]}' cannot be tested at {target.provider.title}; modes: {known}.",
            param="mode",
            code="not_offered",
        )
    return mode


async def probe(order: ProbeOrder, services: Services, response_services: ResponseServices) -> ProbeResult:
    """Raises the Fault of a refusal by the gateway: the deployment's limits or budgets, or no room for the row."""
    request_id = services.new_id()
    target = replace(order.target, timeouts=order.target.timeouts.shortest(Timeouts(timeout_s=TIMEOUT_S)))
    routing = isolated_routing(services.routing, services.now())
    services = replace(services, client=services.client.with_limit(MAX_ANSWER_BYTES), routing=routing)
    attempts: list[Attempt] = []

    def note(attempt: Attempt, unit: UnitOfWork) -> None:
        attempts.append(attempt)

    call_for = await _read_call(order, services, response_services, request_id)
    reply = WholeReply()
    text, fault = "", None
    try:
        await exchange(
            lambda bound_target: replace(call_for(bound_target), steps=(note,)),
            direct_walk(target, routing),
            order.principal,
            services,
            reply,
            request_id=request_id,
        )
        text = await read_sized(len(reply.body), read_text, order.mode, reply.body)
    except UpstreamFault as error:
        fault = error
    last = attempts[-1] if attempts else None
    return ProbeResult(
        request_id=request_id,
        mode=order.mode,
        latency_s=(last.ended_at or last.started_at) - last.started_at if last is not None else 0.0,
        attempts=tuple(attempts),
        text=text,
        served_model=last.served_model if last is not None else "",
        fault=fault,
    )


async def _read_call(
    order: ProbeOrder, services: Services, response_services: ResponseServices, request_id: str
) -> Callable[[Target], BoundCall]:
    raw = orjson.dumps(_body(order))
    if order.mode is not ProbeMode.RESPONSES:
        call = _DIALECTS[order.mode].decode(raw, NO_HINTS)
        return lambda target: BoundCall(call)
    request = interpret(Inbound(request_id, {}, raw))
    turn = await open_turn(request, order.principal, services, response_services)
    dialect = turn.dialect(services.now)
    return lambda target: BoundCall(dialect.for_target(target).call())


def _body(order: ProbeOrder) -> JsonObject:
    model, prompt = order.target.model_group, order.prompt
    match order.mode:
        case ProbeMode.CHAT:
            messages = [{"role": "user", "content": prompt}]
            return {"model": model, "messages": messages, "max_tokens": MAX_OUTPUT_TOKENS}
        case ProbeMode.COMPLETION:
            return {"model": model, "prompt": prompt, "max_tokens": MAX_OUTPUT_TOKENS}
        case ProbeMode.EMBEDDING:
            return {"model": model, "input": prompt}
        case ProbeMode.RESPONSES:
            return {"model": model, "input": prompt, "max_output_tokens": MAX_OUTPUT_TOKENS, "store": False}


def read_text(mode: ProbeMode, body: bytes) -> str:
    """The text of an answer; of an embedding its size; empty for one without text. An answer is JSON: its provider has
    read it."""
    answer = orjson.loads(body)
    match mode:
        case ProbeMode.CHAT:
            message = _member(_first(_member(answer, "choices")), "message")
            text = _member(message, "content") or _member(message, "refusal")
        case ProbeMode.COMPLETION:
            text = _member(_first(_member(answer, "choices")), "text")
        case ProbeMode.EMBEDDING:
            vector = _member(_first(_member(answer, "data")), "embedding")
            text = f"a vector of {len(vector)} numbers" if isinstance(vector, list) else ""
        case ProbeMode.RESPONSES:
            items = _member(answer, "output")
            parts = [part for item in _list(items) for part in _list(_member(item, "content"))]
            text = "".join(str(_member(part, "text") or "") for part in parts)
    return text[:MAX_TEXT_CHARS] if isinstance(text, str) else ""


def _member(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _first(value: Json) -> Json:
    return next(iter(_list(value)), None)


@dataclass(slots=True)
class Prober:
    """The probes of this process, from `connect` until `disconnect`. Threads ask it, beside the event loop of the
    calls."""

    _parts: tuple[Services, ResponseServices, asyncio.AbstractEventLoop] | None = None
    _free: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(CONCURRENT))
    _is_connected: threading.Event = field(default_factory=threading.Event)

    def connect(self, services: Services, response_services: ResponseServices) -> None:
        self._parts = services, response_services, asyncio.get_running_loop()
        self._is_connected.set()

    def disconnect(self) -> None:
        self._is_connected.clear()
        self._parts = None

    def wait_connected(self, limit_s: float) -> bool:
        """Blocks the thread. False where this process answers no calls within this time."""
        return self._is_connected.wait(limit_s)

    def call(self, order: ProbeOrder) -> ProbeResult:
        """Blocks the thread. Raises like `probe`; GatewayFault where this process answers no calls, or ends."""
        parts = self._parts  # the event loop may take them away at any time
        if parts is None:
            raise _not_running()
        if not self._free.acquire(blocking=False):
            raise RateLimited("Too many models are being tested now; try again.", headers=((b"retry-after", b"5"),))
        try:
            services, response_services, loop = parts
            future = asyncio.run_coroutine_threadsafe(probe(order, services, response_services), loop)
            try:
                return future.result(TIMEOUT_S + MARGIN_S)
            except CancelledError:
                raise _not_running() from None
            except TimeoutError:
                future.cancel()
                raise GatewayFault("The gateway could not end the test in time; try again.", status=504) from None
        finally:
            self._free.release()


def _not_running() -> GatewayFault:
    message = "This process answers no calls now; try again shortly."
    return GatewayFault(message, headers=((b"retry-after", b"1"),))


PROBER = Prober()


def probe_principal(organization_id: str, *, user_id: str = "", key_id: str = "", key_digest: str = "") -> Principal:
    """The caller of a probe. It has no limits and budgets: who may test is decided before."""
    return Principal(
        organization_id=organization_id,
        key_digest=key_digest,
        key_id=key_id,
        user_id=user_id,
        is_master=True,
        source=SOURCE,
    )
