"""The pipeline's ports in memory, an upstream that answers by script, and a loop whose time passes only in waiting."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, TypeVar

import orjson

from gateway.pipeline.deployment_limits import DeploymentLimits
from gateway.pipeline.exchange import exchange
from gateway.pipeline.ports import Attempt, Headers, Principal, Reply
from gateway.pipeline.services import Services
from gateway.pipeline.time_limits import ClientTime
from gateway.pipeline.visit import BoundCall
from gateway.protocol.call import Call
from gateway.protocol.dialect import Dialect, Hints
from gateway.protocol.dialects.openai import chat as openai_chat
from gateway.protocol.dialects.openai import completions as openai_completions
from gateway.protocol.dialects.openai import embeddings as openai_embeddings
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.protocol.secret import Secret
from gateway.protocol.sse import event_data
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.protocol.timeouts import Timeouts
from gateway.providers.registry import PROVIDERS
from gateway.routing.breaker import Breaker
from gateway.routing.load import DeploymentLoad
from gateway.routing.retry_budget import RetryBudget
from gateway.routing.settings import RetryPolicy, RoutingSettings
from gateway.routing.unsupported_parameters import UnsupportedParameters
from gateway.routing.walk import RouteOptions, Routing, Walk
from gateway.state.memory_rate_limits import MemoryRateLimits
from gateway.state.signatures import SignatureMemory
from gateway.state.statement import Statement
from gateway.state.unit_of_work import UnitOfWork
from gateway.upstream.client import UpstreamAnswer
from gateway.upstream.http1 import ConnectionBroken

Result = TypeVar("Result")

CREDENTIAL = "fake-upstream-credential"
EVENT_STREAM = {"content-type": "text/event-stream"}
JSON_ANSWER = {"content-type": "application/json"}
FOREVER = 1e9
EPOCH = 1_800_000_000.0


# Time


class _Waiting(selectors.SelectSelector):
    """Instead of sleeping, moves the loop's clock on."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("everybody waits for something that will never happen")
        self.loop.passed_s += max(timeout, 0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop without a second of waiting: when all tasks wait, it is at once as late as the next timer."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        waiting = _Waiting()
        waiting.loop = self
        super().__init__(waiting)
        self.tasks: list[asyncio.Task[Any]] = []

    def create_task(self, coro: Any, **options: Any) -> Any:
        task = super().create_task(coro, **options)
        self.tasks.append(task)
        return task

    def time(self) -> float:
        return self.passed_s


def play(story: Coroutine[Any, Any, Result]) -> Result:
    """Runs `story` in virtual time."""
    loop = VirtualLoop()
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(story)
    finally:
        for task in loop.tasks:  # one that failed unseen would be logged at some later garbage collection
            if task.done() and not task.cancelled():
                task.exception()


def now() -> float:
    """The wall clock that goes with virtual time."""
    return EPOCH + asyncio.get_running_loop().time()


# Calls, principals and targets

DIALECTS: Mapping[str, Dialect] = {
    "chat": openai_chat.DIALECT,
    "completion": openai_completions.DIALECT,
    "embedding": openai_embeddings.DIALECT,
}
PRINCIPAL = Principal(organization_id="home", key_digest="d" * 64, key_id="key-1", key_alias="laptop", team_id="team")


def chat(*, stream: bool = False, usage: bool = False, **fields: Any) -> Call:
    """A chat call for the model `public`."""
    body: dict[str, Any] = {"model": "public", "messages": [{"role": "user", "content": "say hello"}]}
    if stream:
        body["stream"] = True
    if usage:
        body["stream_options"] = {"include_usage": True}
    return decode(body | fields)


def decode(body: Mapping[str, Any] | bytes, kind: str = "chat", hints: Hints | None = None) -> Call:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return DIALECTS[kind].decode(raw, hints or Hints())


def target(deployment_id: str = "first", **changes: Any) -> Target:
    fields: dict[str, Any] = {
        "deployment_id": deployment_id,
        "model_group": "public",
        "organization_id": None,
        "provider": PROVIDERS["openai_compatible"],
        "upstream_model": "private",
        "api_base": f"http://{deployment_id}.test/v1",
        "credential": {"api_key": Secret(CREDENTIAL)},
    }
    return Target(**(fields | changes))


def bind(call: Call) -> Callable[[Target], BoundCall]:
    """The call is the same for every target."""
    return lambda _: BoundCall(call)


# The ports


@dataclass(slots=True)
class MemoryLedger:
    """Ledger. `log` is shared with the other fakes and has the order of calls; `takes_s` is the time of a row."""

    log: list[Any] = field(default_factory=list)
    takes_s: float = 0.0
    open_fails: BaseException | None = None
    close_fails: BaseException | None = None
    opened: list[Attempt] = field(default_factory=list)
    closed: list[Attempt] = field(default_factory=list)
    recorded: list[Attempt] = field(default_factory=list)

    async def open(self, attempt: Attempt) -> None:
        if self.open_fails is not None:
            raise self.open_fails
        self.opened.append(replace(attempt))  # as with the ledger: queued at once, safe a while later
        await asyncio.sleep(self.takes_s)
        self.log.append(("open", attempt.target.deployment_id))

    async def record(self, attempt: Attempt) -> None:
        if self.close_fails is not None:
            raise self.close_fails
        attempt.cost_pusd = 0
        self.recorded.append(replace(attempt))
        await asyncio.sleep(self.takes_s)
        self.log.append(("record", attempt.target.deployment_id))

    async def close(self, attempt: Attempt) -> None:
        unit = UnitOfWork()
        for step in attempt.steps:
            step(attempt, unit)
        if self.close_fails is not None:
            raise self.close_fails
        self.closed.append(replace(attempt))
        await asyncio.sleep(self.takes_s)
        self.log.append(("close", attempt.target.deployment_id))
        await commit(unit)


async def commit(unit: UnitOfWork) -> None:
    """GroupCommit.commit over a database that takes everything at once."""
    unit.done = asyncio.get_running_loop().create_future()
    unit.done.set_result(None)
    for follow_up in unit.follow_ups:
        await follow_up()


@dataclass(slots=True)
class MemoryReply:
    """Reply. `reads_s` is how long the client takes for each send; FOREVER is a client that has stopped reading."""

    log: list[Any] = field(default_factory=list)
    reads_s: float = 0.0
    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    is_started: bool = False
    is_complete: bool = False

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None:
        assert not self.is_started
        self.is_started = self.is_complete = True
        self.status, self.headers = status, headers
        await self._send("body", body)

    async def start_stream(self, headers: Headers) -> None:
        if self.is_started:
            return
        self.is_started, self.status, self.headers = True, 200, headers
        await self._send("start", b"")

    async def send_events(self, events: bytes) -> None:
        assert self.is_started
        assert not self.is_complete, "an event after the last one"
        await self._send("events", events)

    async def end_stream(self, events: bytes) -> None:
        assert not self.is_complete
        self.is_complete = True
        await self._send("end", events)

    async def _send(self, kind: str, data: bytes) -> None:
        self.log.append((kind, data))
        if self.reads_s:
            await asyncio.sleep(self.reads_s)
        self.body += data


@dataclass(slots=True)
class MemoryKeyUse:
    """The ids of the keys that were used, in this order."""

    key_ids: list[str] = field(default_factory=list)

    def note(self, key_id: str) -> None:
        self.key_ids.append(key_id)


@dataclass(slots=True)
class MemoryKeySpend:
    """{key id: picodollars}"""

    spent: dict[str, int] = field(default_factory=dict)

    def find(self, key_id: str) -> int | None:
        return self.spent.get(key_id)


@dataclass(slots=True)
class MemoryDirectory:
    """Directory: {key: principal}, and the keys that were looked up."""

    principals: Mapping[str, Principal] = field(default_factory=dict)
    fails: Exception | None = None
    lookups: list[str] = field(default_factory=list)

    async def find(self, key: str) -> Principal | None:
        self.lookups.append(key)
        if self.fails is not None:
            raise self.fails
        return self.principals.get(key)


# The upstream


@dataclass(slots=True)
class Script:
    """The acts of an upstream: it sends bytes, waits for numbers of seconds, and an error breaks the connection.

    `wait_s` passes before the status is sent.
    """

    pieces: Sequence[bytes | float | BaseException] = field(default=(), repr=False)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: EVENT_STREAM)
    wait_s: float = 0.0


class ScriptedResponse:
    """The answer of a connection, as http1.Http1Response gives it."""

    def __init__(self, script: Script) -> None:
        self.status = script.status
        self.headers = dict(script.headers)
        self.is_read = False
        self.ended_by = ""
        self._left = list(reversed(script.pieces))

    async def read_available(self) -> bytes:
        while self._left:
            if self.ended_by == "close":
                raise ConnectionBroken("closed")
            piece = self._left.pop()
            if isinstance(piece, bytes):
                return piece
            if isinstance(piece, BaseException):
                raise piece
            await asyncio.sleep(piece)
        self.is_read = True
        return b""

    def release(self) -> None:
        self.ended_by = "release"

    def close(self) -> None:
        self.ended_by = "close"


@dataclass(slots=True)
class ScriptedClient:
    """The upstream client without a network: each call takes the next of `answers`, a Script or the fault to raise."""

    answers: Sequence[Script | BaseException]
    log: list[Any] = field(default_factory=list)
    max_bytes: int = 1024 * 1024
    requests: list[UpstreamRequest] = field(default_factory=list)
    responses: list[ScriptedResponse] = field(default_factory=list)

    def with_limit(self, max_answer_bytes: int) -> "ScriptedClient":
        self.max_bytes = min(self.max_bytes, max_answer_bytes)
        return self

    async def send(self, request: UpstreamRequest, *, connect_timeout_s: float | None = None) -> UpstreamAnswer:
        self.log.append(("dial", request.url))
        self.requests.append(request)
        if request.local is not None:
            return UpstreamAnswer(None, max_bytes=self.max_bytes, local=request.local)
        answer = self.answers[len(self.requests) - 1]
        if isinstance(answer, BaseException):
            raise answer
        await asyncio.sleep(answer.wait_s)
        response = ScriptedResponse(answer)
        self.responses.append(response)
        return UpstreamAnswer(response, max_bytes=self.max_bytes)


ONE_ATTEMPT = RoutingSettings(retry_policy=RetryPolicy(0))


def routing(
    draw: float = 0.0,
    clock: Callable[[], float] = now,
    settings: RoutingSettings = ONE_ATTEMPT,
) -> Routing:
    """Draws the first of the deployments that are left."""
    breaker = Breaker(clock, lambda: draw)
    return Routing(breaker, DeploymentLoad(clock), RetryBudget(clock), lambda: draw, lambda: settings)


def walk(targets: Sequence[Target], own_routing: Routing | None = None, **changes: Any) -> Walk:
    """One way over the targets in their order, each once."""
    options = RouteOptions(retries=len(targets) - 1)
    return Walk(own_routing or routing(), targets, lambda group: (), **({"options": options} | changes))


async def exchange_plan(
    bind: Callable[[Target], BoundCall],
    plan: Sequence[Target],
    principal: Principal,
    used: Services,
    reply: Reply,
    *,
    request_id: str,
    timeout_s: float | None,
    deadline_s: float | None = None,
) -> None:
    """An exchange with these targets, in their order."""
    way = walk(plan, used.routing)
    client_time = ClientTime(*[inf if limit_s is None else now() + limit_s for limit_s in (timeout_s, deadline_s)])
    await exchange(bind, way, principal, used, reply, request_id=request_id, time=client_time)


DEFAULT_TIMEOUTS = Timeouts(timeout_s=600.0, stream_idle_timeout_s=60.0, max_stream_duration_s=3600.0)


def services(client: ScriptedClient, ledger: MemoryLedger, **changes: Any) -> Services:
    """`changes` are fields of Services, or of its timeouts."""
    timeouts = {name: changes.pop(name) for name in TIMEOUTS if name in changes}
    numbers = iter(range(1, 10_000))
    fields: dict[str, Any] = {
        "unsupported_parameters": UnsupportedParameters(),
        "memory": SignatureMemory(),
        "tokens": None,  # no provider here asks for either
        "media": None,
        "ledger": ledger,
        "client": client,
        "now": now,
        "new_id": lambda: f"00000000-0000-7000-8000-{next(numbers):012d}",
        "timeouts": replace(DEFAULT_TIMEOUTS, **timeouts),
        "keepalive_s": 15.0,
        "stalled_client_s": 120.0,
        "routing": routing(),
        "deployment_limits": DeploymentLimits(
            MemoryRateLimits(), new_id=lambda: "grant", estimate=lambda call, target: call.input_estimate
        ),
    }
    return Services(**(fields | changes))


# Group commit

#: What `insert` writes to; the same in both databases.
WRITTEN = "CREATE TABLE written (name text PRIMARY KEY, number bigint NOT NULL CHECK (number >= 0))"


def insert(
    name: str = "insert",
    *,
    is_durable: bool = True,
    is_spooled: bool = True,
    types: tuple[str, ...] = ("text", "bigint"),
) -> Statement:
    """A statement that adds a row (name, number), harmless when it runs twice; `types` are others where no
    database is used."""
    return Statement(
        name=name,
        types=types,
        sqlite="INSERT INTO written (name, number) VALUES (?, ?) ON CONFLICT DO NOTHING",
        postgres="INSERT INTO written (name, number) SELECT * FROM unnest(%b::text[], %b::bigint[]) "
        "ON CONFLICT DO NOTHING",
        is_durable=is_durable,
        is_spooled=is_spooled,
    )


# Answers in OpenAI's dialect


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else orjson.dumps(value)) + b"\n\n"


DONE = event(b"[DONE]")


def chunk(text: str | None = None, *, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """A chat.completion.chunk of the upstream."""
    choice = {"index": index, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "private"}
    return {**head, "choices": [choice], **fields}


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
USAGE_CHUNK = chunk(choices=[], usage=USAGE)
WHOLE_STREAM = (event(chunk("Hel")), event(chunk("lo")), event(chunk(finish="stop")), event(USAGE_CHUNK), DONE)
WHOLE_ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "private",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)


def data_of(stream: bytes) -> list[Any]:
    """The parsed data of each event of a stream that was relayed."""
    events = [event_data(text) for text in stream.split(b"\n\n")]
    return [data.decode() if data == b"[DONE]" else orjson.loads(data) for data in events if data is not None]
