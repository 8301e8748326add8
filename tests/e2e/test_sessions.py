"""A conversation never gets lost: between replicas, over restarts and crashes. What was not to be stored is nowhere."""

import asyncio
import itertools
import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import httpx
import openai
import psycopg
import pytest
import redis

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT, Backend, Launch
from tests.e2e.gateway import Gateway, eventually, write_config
from tests.e2e.streams import get, post, streamed, text_of
from tests.e2e.test_crash import SHARED_KEY
from tests.fakes.upstream import Answer, Exchange, FakeUpstream
from tests.fakes.wire_server import FakeWires
from tests.fakes.wires import SIGNATURE, THOUGHT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

THINKER = "claude-sonnet-4-5~thinks"
ECHO = "tollgate-echo"  # answers in the gateway's own process, and counts a word as a token
WEATHER: JsonObject = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
ROUNDS = 500  # of two follow-ups each
AT_ONCE = 8
STREAMS = 100


def create(gateway: Gateway, key: str, **body: Any) -> JsonObject:
    answer = post(gateway, key, **{"model": "chat", "input": "hi", **body})
    assert answer.status_code == 200, answer.text
    response: JsonObject = answer.json()
    return response


def turns(upstream: FakeUpstream, model: str = "up-chat") -> list[str]:
    return [str(turn["content"]) for turn in upstream.last(model).json["messages"]]


def delete(gateway: Gateway, key: str, path: str) -> Any:
    return gateway.http.delete(path, headers={"authorization": f"Bearer {key}"})


# Two replicas


@pytest.fixture(scope="module")
def wires() -> Iterator[FakeWires]:
    with FakeWires() as running:
        yield running


@pytest.fixture(scope="module")
def replicas(
    wires: FakeWires, production: Backend, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Gateway]]:
    """Two gateways on one PostgreSQL and one Redis, each with a home of its own."""
    key = "sk-of-the-upstream"
    served = {
        "chat": {"model": "openai/up-chat", "api_base": wires.url, "api_key": key},
        "claude": {"model": f"anthropic/{THINKER}", "api_base": wires.root, "api_key": key},
        ECHO: {"model": f"mock/{ECHO}"},
    }
    config = {"model_list": [{"model_name": name, "litellm_params": params} for name, params in served.items()]}
    env = {**ENVIRONMENT, **SHARED_KEY, **production.environment()}
    with ExitStack() as stack:
        pair = [
            stack.enter_context(closing(Gateway(tmp_path_factory.mktemp("replica"), config=config, env=env)))
            for _ in range(2)
        ]
        yield pair[0].start(), pair[1].start()


@pytest.fixture
def shared(replicas: tuple[Gateway, Gateway]) -> str:
    """A key that works on both."""
    first, second = replicas
    key = first.issue_key()
    eventually(lambda: second.call(key).status_code == 200, within_s=2, what="the key works on both")
    return key


class Conversation:
    """Asks the replicas in turns, each the moment the other one has told its terminal event."""

    def __init__(self, http: list[httpx.AsyncClient], *, stream: bool) -> None:
        self._http = itertools.cycle(http)
        self._other = itertools.cycle(http[::-1])
        self._stream = stream
        self._parent: str | None = None

    async def ask(self, text: str) -> JsonObject:
        body = {"model": ECHO, "input": text, "stream": self._stream, "previous_response_id": self._parent}
        http, other = next(self._http), next(self._other)
        if self._stream:
            async with http.stream("POST", "/v1/responses", json=body) as answer:
                response = await self._terminal(answer)
        else:
            answer = await http.post("/v1/responses", json=body)
            assert answer.status_code == 200, answer.text
            response = answer.json()
        self._parent = response["id"]
        answer = await other.get(f"/v1/responses/{self._parent}")
        assert answer.json() == response
        return response

    @staticmethod
    async def _terminal(answer: httpx.Response) -> JsonObject:
        """The response of the terminal event, at once: the rest of the stream is not read."""
        raw = b""
        async for piece in answer.aiter_bytes():
            raw += piece
            at = raw.find(b"event: response.completed")
            if at >= 0 and b"\n\n" in raw[at:]:
                response: JsonObject = json.loads(raw[at:].split(b"\n\n")[0].partition(b"data: ")[2])["response"]
                return response
        raise AssertionError(f"no terminal event: {raw!r}")


async def test_a_thousand_follow_ups_on_the_other_replica_all_see_the_history(
    replicas: tuple[Gateway, Gateway], shared: str
) -> None:
    """Whole and streamed; each answer can be read on the other replica as soon as it was told."""
    headers = {"authorization": f"Bearer {shared}"}
    used: list[list[int]] = []

    async def work(numbers: Iterator[int], http: list[httpx.AsyncClient]) -> None:
        for number in numbers:
            conversation = Conversation(http[:: 1 if number % 4 < 2 else -1], stream=bool(number % 2))
            answers = [await conversation.ask(text) for text in ("one", "two", "three")]
            used.append([answer["usage"]["input_tokens"] for answer in answers])

    numbers = iter(range(ROUNDS))
    async with (
        httpx.AsyncClient(base_url=replicas[0].url, headers=headers, timeout=30) as one,
        httpx.AsyncClient(base_url=replicas[1].url, headers=headers, timeout=30) as other,
    ):
        await asyncio.gather(*(work(numbers, [one, other]) for _ in range(AT_ONCE)))
    assert used == [[1, 1 + 2 + 1, 1 + 2 + 1 + 2 + 1]] * ROUNDS  # the echo has one word more than what it repeats


def test_what_one_replica_makes_the_other_shows_lists_and_deletes(
    replicas: tuple[Gateway, Gateway], shared: str
) -> None:
    first, second = replicas
    response = create(first, shared, metadata={"a": "b"})
    path = f"/v1/responses/{response['id']}"
    assert get(second, shared, path).json() == response
    assert get(second, shared, path).content == get(first, shared, path).content
    assert get(second, shared, f"{path}/input_items").content == get(first, shared, f"{path}/input_items").content
    assert [one["id"] for one in get(second, shared, "/v1/responses").json()["data"]] == [response["id"]]
    assert delete(second, shared, path).status_code == 200
    assert get(first, shared, path).status_code == 404
    refused = post(first, shared, model="chat", input="hi", previous_response_id=response["id"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "previous_response_not_found")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_reasoning_made_through_one_replica_goes_back_through_the_other(
    replicas: tuple[Gateway, Gateway], wires: FakeWires, shared: str, stream: bool
) -> None:
    first, second = replicas
    fields: JsonObject = {
        "model": "claude",
        "reasoning": {"effort": "low"},
        "max_output_tokens": 4096,
        "tools": [WEATHER],
    }
    if stream:
        _, response = streamed(first, shared, input="hi", **fields)
    else:
        response = create(first, shared, **fields)
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "21 °C"}
        for item in response["output"]
        if item["type"] == "function_call"
    ]
    create(second, shared, **fields | {"input": outputs, "previous_response_id": response["id"]})
    text = json.dumps(wires.last_request(THINKER).json, ensure_ascii=False)
    assert (text.count(SIGNATURE), text.count(THOUGHT)) == (1, 1)


# Restarts


def test_a_session_goes_on_after_a_restart(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    gateway = launch(config, env=backend.environment())
    key = gateway.issue_key()
    _, first = streamed(gateway, key, model="chat", input="My name is Ada.")
    gateway.restart()
    second = create(gateway, key, input="What is my name?", previous_response_id=first["id"])
    assert turns(upstream) == ["My name is Ada.", text_of(first), "What is my name?"]
    gateway.kill(whole=True)
    gateway.start()
    create(gateway, key, input="And yours?", previous_response_id=second["id"])
    assert turns(upstream)[-2:] == [text_of(second), "And yours?"]
    assert get(gateway, key, f"/v1/responses/{first['id']}").json() == first


def test_a_session_goes_on_elsewhere_when_its_deployment_is_gone(launch: Launch, upstream: FakeUpstream) -> None:
    def served(*names: str) -> JsonObject:
        params = [{"model": f"openai/up-{name}", "api_base": upstream.url, "api_key": "sk-x"} for name in names]
        return {"model_list": [{"model_name": "moving", "litellm_params": one} for one in params]}

    gateway = launch(served("moving-a"))
    key = gateway.issue_key()
    first = create(gateway, key, model="moving", input="start")
    gateway.stop()
    write_config(gateway.home.parent / "config.yaml", served("moving-b"))
    gateway.start()
    create(gateway, key, model="moving", input="go on", previous_response_id=first["id"])
    assert turns(upstream, "up-moving-b") == ["start", text_of(first), "go on"]


# Crashes


class Readers:
    """Streams read in a thread of their own. `ended` has the responses of the terminal events that arrived."""

    def __init__(self, gateway: Gateway, key: str, count: int) -> None:
        self.ended: dict[str, JsonObject] = {}
        self.begun: set[str] = set()
        self._gateway, self._key, self._count = gateway, key, count
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read_all()), daemon=True)

    def start(self) -> "Readers":
        self._thread.start()
        return self

    def join(self, within_s: float = 30) -> None:
        self._thread.join(within_s)
        assert not self._thread.is_alive(), "streams are still open"

    async def _read_all(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._gateway.url, timeout=60, limits=limits) as http:
            await asyncio.gather(*(self._read(http, number) for number in range(self._count)))

    async def _read(self, http: httpx.AsyncClient, number: int) -> None:
        body = {"model": "priced", "input": f"stream {number}", "stream": True}
        rest = b""
        try:
            async with http.stream(
                "POST", "/v1/responses", json=body, headers={"authorization": f"Bearer {self._key}"}
            ) as answer:
                async for piece in answer.aiter_bytes():
                    *whole, rest = (rest + piece).split(b"\n\n")
                    for frame in whole:
                        self._note(frame)
        except httpx.HTTPError:
            return

    def _note(self, frame: bytes) -> None:
        kind, _, data = frame.partition(b"\ndata: ")
        if kind == b"event: response.created":
            self.begun.add(json.loads(data)["response"]["id"])
        elif kind == b"event: response.completed":
            response = json.loads(data)["response"]
            self.ended[response["id"]] = response


def all_of(gateway: Gateway, key: str) -> list[JsonObject]:
    """All responses of the key, page by page."""
    items: list[JsonObject] = []
    query: JsonObject = {"limit": 100}
    while True:
        page = get(gateway, key, "/v1/responses", **query).json()
        items += page["data"]
        if not page["has_more"]:
            return items
        query["after"] = page["last_id"]


async def longer_and_longer(exchange: Exchange) -> None:
    """Each stream takes longer than the one before it, so that at any moment some have ended and some have not."""
    number = int(exchange.json["messages"][-1]["content"].split()[-1])
    await Answer(gap_s=0.05, text="w " * (20 + 4 * number))(exchange)


@pytest.mark.parametrize("whole", [True, False], ids=["everything", "main process"])
def test_a_kill_amid_streams_loses_no_response_that_was_told(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream, whole: bool
) -> None:
    gateway = launch(config, env=backend.environment())
    key = gateway.issue_key()
    before = [create(gateway, key, input=f"before {number}") for number in range(5)]
    with upstream.script("up-priced", longer_and_longer):
        readers = Readers(gateway, key, STREAMS).start()
        eventually(
            lambda: len(readers.ended) >= 10 and len(readers.begun) == STREAMS,
            within_s=40,
            what=f"10 of {STREAMS} have ended",
        )
        gateway.kill(whole=whole)
        readers.join()
    assert 10 <= len(readers.ended) < STREAMS
    gateway.start()
    for response in [*before, *readers.ended.values()]:
        assert get(gateway, key, f"/v1/responses/{response['id']}").json() == response
    listed = all_of(gateway, key)
    assert {one["id"] for one in listed} <= {one["id"] for one in before} | readers.begun
    assert {one["id"] for one in listed} >= set(readers.ended)
    for one in listed:  # the others ended with the process, and are kept as that, or not at all
        assert one["status"] in {"completed", "failed", "cancelled", "incomplete"}
        if one["status"] == "completed":
            assert text_of(one).strip()
            assert one["usage"] is not None
    some = next(iter(readers.ended.values()))
    create(gateway, key, model="priced", input="go on", previous_response_id=some["id"])
    assert turns(upstream, "up-priced")[-2:] == [text_of(some), "go on"]


def test_what_a_client_that_left_had_seen_is_kept_as_cancelled(
    gateway: Gateway, client: openai.OpenAI, key: str, upstream: FakeUpstream
) -> None:
    with upstream.script("up-chat", Answer(gap_s=0.05, text="w " * 200)):
        stream = client.responses.create(model="chat", input="hi", stream=True)
        event = next(event for event in stream if event.type == "response.created")
        next(event for event in stream if event.type == "response.output_text.delta")
        stream.close()
        stored = eventually(
            lambda: (
                (response := get(gateway, key, f"/v1/responses/{event.response.id}")).status_code == 200
                and response.json()
            ),
            within_s=5,
            what="the response is kept",
        )
    assert (stored["status"], stored["completed_at"]) == ("cancelled", None)
    assert text_of(stored).startswith("w ")
    refused = post(gateway, key, model="chat", input="on", previous_response_id=stored["id"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "previous_response_id")


# What is not stored


class Places:
    """Everywhere that a gateway writes: its databases, its files, its output, its Redis."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def holding(self, *marks: str) -> list[str]:
        """The places where one of these texts is found."""
        return [name for name, data in self._all() if any(mark.encode() in data for mark in marks)]

    def _all(self) -> Iterator[tuple[str, bytes]]:
        yield "output", self._gateway.log.read_bytes()
        for path in sorted(self._gateway.home.rglob("*")):
            if path.is_file():
                yield str(path.relative_to(self._gateway.home)), path.read_bytes()
                if path.suffix == ".sqlite3" or path.read_bytes()[:6] == b"SQLite":
                    yield from self._sqlite(str(path))
        if url := self._gateway.env.get("DATABASE_URL"):
            yield from self._postgres(url)
        if url := self._gateway.env.get("REDIS_URL"):
            yield from self._redis(url)

    def _sqlite(self, path: str) -> Iterator[tuple[str, bytes]]:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    yield from flat(table, row)

    @staticmethod
    def _postgres(url: str) -> Iterator[tuple[str, bytes]]:
        with psycopg.connect(url) as database:
            cursor = database.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
            for (table,) in cursor.fetchall():
                for row in database.execute(f'SELECT * FROM "{table}"'.encode()):
                    yield from flat(table, row)

    @staticmethod
    def _redis(url: str) -> Iterator[tuple[str, bytes]]:
        with redis.Redis.from_url(url) as server:
            keys: Any = list(server.scan_iter())
            for key in keys:
                yield f"redis {key!r}", key + (server.dump(key) or b"")


def flat(table: str, row: Iterable[Any]) -> Iterator[tuple[str, bytes]]:
    """A row's values as text, what was deflated as it was before."""
    for value in row:
        if isinstance(value, bytes | memoryview):
            data = bytes(value)
            with suppress(zlib.error):  # it was not deflated
                data = zlib.decompressobj().decompress(data)
            yield table, data
        elif value is not None:
            yield table, (json.dumps(value, ensure_ascii=False, default=str)).encode()


def marked(mark: str) -> JsonObject:
    return {
        "input": [{"role": "user", "content": f"{mark} " * 400}],  # long enough to be deflated
        "instructions": f"{mark} instructions",
        "metadata": {"mark": mark},
        "tools": [{**WEATHER, "description": mark}],
        "safety_identifier": "user-1",
    }


def test_what_is_not_to_be_stored_is_nowhere(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    gateway = launch(config, env=backend.environment())
    key = gateway.issue_key()
    places = Places(gateway)
    stored_mark, unstored_mark = "MARK-kept-4f1d", "MARK-unkept-77ab"
    create(gateway, key, **marked(stored_mark))
    for model in ("chat", "priced"):
        create(gateway, key, model=model, store=False, **marked(unstored_mark))
        streamed(gateway, key, model=model, store=False, **marked(unstored_mark))
        streamed(gateway, key, model=model, store=False, input=f"{unstored_mark} again")
    parent = create(gateway, key, input="hi")
    create(gateway, key, store=False, input=f"{unstored_mark} child", previous_response_id=parent["id"])
    with upstream.script("up-chat", Answer(text=f"{unstored_mark} answer")):
        create(gateway, key, store=False)
        streamed(gateway, key, model="chat", input="hi", store=False)
    for model in ("fault-cut", "fault-400", "fault-500", "fault-bad-chunk", "gone", "no-such-model"):
        for stream in (False, True):
            post(gateway, key, model=model, store=False, stream=stream, **marked(unstored_mark))
    post(gateway, key, store=False, model="chat", **marked(unstored_mark) | {"temperature": unstored_mark})
    post(gateway, key, store=False, model="chat", **marked(unstored_mark) | {"previous_response_id": unstored_mark})
    with upstream.script("up-chat", Answer(gap_s=0.05, text="w " * 200)):
        stream = gateway.openai(key).responses.create(model="chat", input=unstored_mark, store=False, stream=True)
        next(event for event in stream if event.type == "response.output_text.delta")
        stream.close()
    after = gateway.issue_key()
    gateway.call(after, model="priced")
    gateway.wait_priced(1, api_key=after)  # and so is what came before it
    assert places.holding(stored_mark)
    assert places.holding(unstored_mark) == []
    gateway.stop()
    assert places.holding(stored_mark)
    assert places.holding(unstored_mark) == []


def test_what_is_deleted_is_nowhere(launch: Launch, backend: Backend, config: JsonObject) -> None:
    gateway = launch(config, env=backend.environment())
    key = gateway.issue_key()
    places, mark = Places(gateway), "MARK-deleted-91c2"
    response = create(gateway, key, **marked(mark))
    assert places.holding(mark)
    assert delete(gateway, key, f"/v1/responses/{response['id']}").status_code == 200
    assert places.holding(mark) == []
    gateway.stop()
    assert places.holding(mark) == []
