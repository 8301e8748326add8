"""A request that has ended is freed at once, however it ended: no cycle of references keeps it for the collector."""

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from gateway.edge.asgi_types import Message
from gateway.edge.consumer import DialectConsumer
from gateway.pipeline.ports import Attempt, Catalog
from gateway.protocol.call import Call
from gateway.protocol.dialect import Dialect
from gateway.protocol.dialects.anthropic.client import DIALECT as MESSAGES
from gateway.protocol.dialects.openai.chat import DIALECT as CHAT
from gateway.protocol.errors import ConnectFault
from gateway.protocol.json.large_body import LARGE_BYTES
from gateway.protocol.provider import UpstreamRequest
from gateway.routing.settings import RoutingSettings
from gateway.stores.catalog import Snapshot
from gateway.upstream.client import UpstreamAnswer
from gateway.upstream.http1 import ConnectionBroken
from tests.fakes.memory import (
    JSON_ANSWER,
    PRINCIPAL,
    WHOLE_ANSWER,
    WHOLE_STREAM,
    MemoryDirectory,
    Script,
    ScriptedResponse,
    play,
    routing,
    services,
    target,
)
from tests.unit.edge.test_consumer import KEY, MemoryRuntime

CALLS = 5
MARK = "cache_control"  # a member of a message's part that no other object has


class ForgetfulLedger:
    async def open(self, attempt: Attempt) -> None: ...

    async def close(self, attempt: Attempt) -> None: ...


@dataclass(slots=True)
class ForgetfulClient:
    """The same answer for each request, none of which is remembered."""

    answer: Script | None
    continuation: Script | None = None
    requests: int = 0

    async def send(self, request: UpstreamRequest, *, connect_timeout_s: float | None = None) -> UpstreamAnswer:
        self.requests += 1
        if self.answer is None:
            raise ConnectFault("refused", is_retryable=True)
        is_second = self.continuation is not None and self.requests % 2 == 0
        answer = self.continuation if is_second and self.continuation is not None else self.answer
        await asyncio.sleep(answer.wait_s)
        return UpstreamAnswer(ScriptedResponse(answer), max_bytes=1024)


@dataclass(slots=True)
class Case:
    answer: Script | None
    is_stream: bool = False
    leaves_at_s: float = 1e6
    fields: dict[str, Any] = field(default_factory=dict)
    continuation: Script | None = None  # the answer of every second request


def failing(status: int) -> Case:
    return Case(Script([b'{"error": {"message": "no"}}'], status=status, headers=JSON_ANSWER))


CASES = {
    "a whole answer": Case(Script([WHOLE_ANSWER], headers=JSON_ANSWER)),
    "a stream": Case(Script(WHOLE_STREAM), is_stream=True),
    "an error of the server": failing(500),
    "too many requests": failing(429),
    "a refusal": failing(400),
    "no connection": Case(None),
    "a cut": Case(Script([WHOLE_ANSWER[:9], ConnectionBroken("cut")], headers=JSON_ANSWER)),
    "garbage": Case(Script([b"<html>"], headers=JSON_ANSWER)),
    "an answer that is too large": Case(Script([b"x" * 2048], headers=JSON_ANSWER)),
    "a stream that is cut": Case(Script([*WHOLE_STREAM[:2], ConnectionBroken("cut")]), is_stream=True),
    "a stream with an event that is not JSON": Case(Script([*WHOLE_STREAM[:2], b'data: {"\n\n']), is_stream=True),
    "a stream that ends within an event": Case(Script([*WHOLE_STREAM[:2], b'data: {"id"']), is_stream=True),
    "a stream with an error": Case(Script([*WHOLE_STREAM[:2], b'data: {"error": {}}\n\n']), is_stream=True),
    "a stream without an end": Case(Script(WHOLE_STREAM[:2]), is_stream=True),
    "a stream of something else": Case(Script([b"x"], headers={"content-type": "text/html"}), is_stream=True),
    "a stream that is continued": Case(Script(WHOLE_STREAM[:1]), is_stream=True, continuation=Script(WHOLE_STREAM[1:])),
    "a stream whose continuation fails": Case(
        Script(WHOLE_STREAM[:1]), is_stream=True, continuation=Script([ConnectionBroken("cut")])
    ),
    "silence": Case(Script([WHOLE_STREAM[0], 1e4]), is_stream=True),
    "no answer": Case(Script([WHOLE_ANSWER], headers=JSON_ANSWER, wait_s=1e4)),
    "a client that leaves": Case(Script([10.0]), leaves_at_s=1.0),
    "a client that leaves a stream": Case(Script([WHOLE_STREAM[0], 10.0]), is_stream=True, leaves_at_s=1.0),
    "an unknown model": Case(None, fields={"model": "absent"}),
    "a wrong parameter": Case(None, fields={"max_tokens": "many"}),
}


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No collector, and a heap that holds what is new alone."""
    gc.disable()
    gc.freeze()
    yield
    gc.unfreeze()
    gc.enable()


async def ask(dialect: Dialect, case: Case, client: ForgetfulClient | None = None) -> None:
    client = client or ForgetfulClient(case.answer, case.continuation)
    changes: dict[str, Any] = {}
    targets = (target(),)
    if case.continuation is not None:
        settings = RoutingSettings(recovering={"public": True})
        changes["routing"] = routing(settings=settings)
        targets = (target(), target("second", flags={"prefill": True}))
    runtime = MemoryRuntime(
        services=services(client, ForgetfulLedger(), **changes),  # type: ignore[arg-type]
        directory=MemoryDirectory({"sk-good": PRINCIPAL}),
        snapshot=Snapshot(Catalog({(None, "public"): targets})),
    )
    body = {
        "model": "public",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "x"}],
        "stream": case.is_stream,
    }
    parts = [orjson.dumps(body | case.fields)]

    async def receive() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        await asyncio.sleep(case.leaves_at_s)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    app = DialectConsumer.as_asgi(runtime=runtime, dialect=dialect)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"authorization", KEY)]}
    await asyncio.create_task(app(scope, receive, send))


@dataclass(slots=True)
class CountingClient(ForgetfulClient):
    """Counts the parsed messages in memory when the request leaves."""

    messages: int = -1

    async def send(self, request: UpstreamRequest, *, connect_timeout_s: float | None = None) -> UpstreamAnswer:
        self.messages = marked()
        return await ForgetfulClient.send(self, request)


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES], ids=["chat", "messages"])
def test_a_large_request_is_not_kept_parsed_while_its_upstream_answers(uncollected: None, dialect: Dialect) -> None:
    client = CountingClient(Script([WHOLE_ANSWER], headers=JSON_ANSWER))
    content = [{"type": "text", "text": "x" * LARGE_BYTES, MARK: [1]}]
    case = Case(None, fields={"messages": [{"role": "user", "content": content, MARK: [1]}]})
    before = marked()
    asyncio.run(ask(dialect, case, client))  # a large body is read in a thread, for which `play` does not wait
    assert client.messages == before


def marked() -> int:
    return sum(type(one) is dict and MARK in one for one in gc.get_objects())


def living() -> int:
    return sum(issubclass(type(one), Call | Attempt) for one in gc.get_objects())


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES], ids=["chat", "messages"])
@pytest.mark.parametrize("name", CASES)
def test_a_request_is_freed_when_it_has_ended(uncollected: None, name: str, dialect: Dialect) -> None:
    async def story() -> None:
        before = living()
        case = CASES[name]
        for _ in range(CALLS):
            client = ForgetfulClient(case.answer, case.continuation)
            await ask(dialect, case, client)
            assert case.continuation is None or client.requests == 2
        await asyncio.sleep(1)
        assert living() == before

    play(story())
