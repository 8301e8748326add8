"""WebSocket mode of /v1/responses: with the openai SDK's `connect`, and message by message without it."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import openai
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Launch
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.responses_grammar import check
from tests.fakes.upstream import KERNEL_BYTES, Answer, FakeUpstream, flood, problem

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(90),
    # the SDK opens its connections in a way that its library has come to warn of
    pytest.mark.filterwarnings("ignore:connect\\(\\) must be used as a context manager:DeprecationWarning"),
]

MODEL = "priced"
UPSTREAM = f"up-{MODEL}"
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
#: How `serve` is started by the tests that start their own; the same suite runs over another server.
SERVER: tuple[str, ...] = ()


class Socket:
    """A connection, read in JSON."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def say(self, **event: Any) -> None:
        self.connection.send(json.dumps(event))

    def ask(self, text: Any, **fields: Any) -> None:
        self.say(**{"type": "response.create", "model": MODEL, "input": text, **fields})

    def hear(self) -> JsonObject:
        message = self.connection.recv(timeout=20)
        assert isinstance(message, str)
        event: JsonObject = json.loads(message)
        return event

    def fault(self) -> JsonObject:
        """The error that is next."""
        event = self.hear()
        assert event["type"] == "error", event
        assert set(event["error"]) >= {"type", "code", "message", "param"}
        return event

    def events(self) -> list[JsonObject]:
        """All events up to a terminal one or an error."""
        heard = [self.hear()]
        while heard[-1]["type"] not in TERMINAL | {"error"}:
            heard.append(self.hear())
        return heard

    def response(self) -> JsonObject:
        return check(self.events())

    def turn(self, text: Any, **fields: Any) -> JsonObject:
        self.ask(text, **fields)
        return self.response()

    def close_code(self) -> int:
        """The server's close code, after the messages before it."""
        try:
            while True:
                self.connection.recv(timeout=20)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 0  # it broke off


Opener = Callable[..., AbstractContextManager[Socket]]


def opener(gateway: Gateway, key: str) -> Opener:
    @contextmanager
    def opened(*, path: str = "/v1/responses", **options: Any) -> Iterator[Socket]:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = gateway.url.replace("http://", "ws://") + path
        with open_websocket(url, additional_headers=headers, **options) as connection:
            yield Socket(connection)

    return opened


@pytest.fixture
def dial(gateway: Gateway, key: str) -> Opener:
    return opener(gateway, key)


@pytest.fixture
def line(dial: Opener) -> Iterator[Socket]:
    with dial() as opened:
        yield opened


def texts(upstream: FakeUpstream) -> list[str]:
    """The upstream's last request, message by message."""
    return [str(message["content"]) for message in upstream.last(UPSTREAM).json["messages"]]


def code_of(event: JsonObject) -> tuple[int, str | None]:
    return event["status"], event["error"]["code"]


# The SDK


def test_the_sdk_takes_turns_on_one_connection(gateway: Gateway, client: openai.OpenAI, upstream: FakeUpstream) -> None:
    with client.responses.connect() as connection:
        connection.response.create(model=MODEL, input="my name is Ada")
        first = next(event for event in connection if event.type == "response.completed")
        connection.response.create(model=MODEL, input="what is it?", previous_response_id=first.response.id)
        second = next(event for event in connection if event.type == "response.completed")
    assert texts(upstream) == ["my name is Ada", first.response.output_text, "what is it?"]
    assert second.response.previous_response_id == first.response.id
    stored = client.responses.retrieve(second.response.id)
    assert stored.output == second.response.output
    assert stored.usage == second.response.usage


async def test_the_async_sdk_takes_turns_on_one_connection(gateway: Gateway, key: str) -> None:
    async with gateway.async_openai(key) as client, client.responses.connect() as connection:
        await connection.response.create(model=MODEL, input="hello", store=False)
        first = await completed(connection)
        await connection.response.create(model=MODEL, input="again", store=False, previous_response_id=first.id)
        assert (await completed(connection)).previous_response_id == first.id


async def completed(connection: Any) -> Any:
    async for event in connection:
        assert event.type != "error", event
        if event.type == "response.completed":
            return event.response
    raise AssertionError("the connection ended")


def test_the_sdks_error_type_fits(client: openai.OpenAI) -> None:
    with client.responses.connect() as connection:
        connection.response.create(model=MODEL, input="hello", previous_response_id="resp_none")
        event = connection.recv()
        assert event.type == "error"
        assert (event.status, event.error.code) == (400, "previous_response_not_found")  # type: ignore[union-attr]
        connection.response.steer(input="no", previous_response_id="resp_none")
        failed = connection.recv()
        assert failed.type == "response.steer.failed"
        assert failed.error.code == "steering_not_supported"
        assert (failed.steer.input, failed.steer.previous_response_id) == ("no", "resp_none")


# One turn


def test_every_turn_is_metered(line: Socket, gateway: Gateway, key: str) -> None:
    line.turn("one")
    line.turn("two", store=False)
    rows = gateway.wait_priced(2, api_key=key)
    assert all(float(row["cost"]) > 0 for row in rows)


def test_both_paths_take_connections(dial: Opener) -> None:
    with dial(path="/responses") as line:
        assert line.turn("hello")["status"] == "completed"


def test_a_whole_answer_over_http_is_kept_beside_a_connection(line: Socket, client: openai.OpenAI) -> None:
    parent = client.responses.create(model=MODEL, input="over http")
    assert line.turn("over the socket", previous_response_id=parent.id)["previous_response_id"] == parent.id


def test_an_upstream_that_breaks_off_fails_the_response_and_not_the_connection(
    line: Socket, upstream: FakeUpstream
) -> None:
    with upstream.script(UPSTREAM, Answer(stop_after=4, gap_s=0.02, ending="cut")):
        failed = line.turn("hello")
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "server_error"
    assert line.turn("again")["status"] == "completed"


def test_an_upstream_that_refuses_is_an_error_event_and_the_connection_stays(
    line: Socket, upstream: FakeUpstream
) -> None:
    with upstream.script(UPSTREAM, problem(429, "rate_limit_error", "rate_limit_exceeded", retry_after="7")):
        line.ask("hello")
        event = line.fault()
    assert code_of(event) == (429, "rate_limit_exceeded")
    assert event["error"]["headers"] == {"retry-after": "7"}
    assert line.turn("again")["status"] == "completed"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": False}, "stream"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"background": True}, "background"),
        ({"generate": "no"}, "generate"),
        ({"temperature": 9}, "temperature"),
        ({"input": [{"type": "message"}]}, "input[0].role"),
        ({"model": None}, "model"),
    ],
)
def test_what_a_turn_cannot_be_is_refused_by_its_name(line: Socket, fields: JsonObject, param: str) -> None:
    line.ask("hello", **fields)
    event = line.fault()
    assert event["status"] == 400
    assert event["error"]["type"] == "invalid_request_error"
    assert event["error"]["param"] == param


def test_members_that_ask_for_what_is_done_anyway_are_taken(line: Socket) -> None:
    """Clients that share their request with HTTP send `stream: true`."""
    assert line.turn("hello", stream=True, background=False)["status"] == "completed"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("{", None),
        ("[]", None),
        ('{"type":"response.create","type":"x"}', "type"),
        ("{}", "type"),
        ('{"type":"response.cancel"}', "type"),
        (b'{"type":"response.create"}', None),
    ],
)
def test_a_message_that_is_none_is_an_error_and_the_connection_stays(
    line: Socket, message: str | bytes, param: str | None
) -> None:
    line.connection.send(message)
    event = line.fault()
    assert (event["status"], event["error"]["param"]) == (400, param)
    assert line.turn("hello")["status"] == "completed"


def test_a_message_in_fragments_is_one_message(line: Socket) -> None:
    text = json.dumps({"type": "response.create", "model": MODEL, "input": "hello"})
    line.connection.send([text[:20], text[20:40], text[40:]])
    assert line.response()["status"] == "completed"


def test_a_message_that_is_too_large_closes_the_connection(dial: Opener) -> None:
    with dial() as line:
        line.ask("x" * (1024 * 1024 + 1000))
        assert line.close_code() == 1009
    with dial(max_size=None) as line:
        answer = line.turn("x" * (1024 * 1024 - 1000))  # whose events are larger than a message may be
        assert len(answer["output"][0]["content"][0]["text"]) > 1024 * 1024 - 1000


def test_preparing_generates_nothing_and_can_be_continued(
    line: Socket, upstream: FakeUpstream, gateway: Gateway, key: str
) -> None:
    before = len(upstream.of(UPSTREAM))
    prepared = line.turn("remember the tide", generate=False)
    assert (prepared["status"], prepared["output"]) == ("completed", [])
    assert prepared["usage"]["total_tokens"] == 0
    assert len(upstream.of(UPSTREAM)) == before
    line.turn("go", previous_response_id=prepared["id"])
    assert texts(upstream) == ["remember the tide", "go"]
    gateway.wait_priced(1, api_key=key)
    with opener(gateway, key)() as another:  # it was stored
        assert another.turn("on", previous_response_id=prepared["id"])["status"] == "completed"


def test_nothing_yet_can_be_prepared(line: Socket, upstream: FakeUpstream) -> None:
    """Codex opens its connection before the user has typed."""
    prepared = line.turn([], generate=False, tools=[], instructions="Be brief.")
    assert (prepared["status"], prepared["output"]) == ("completed", [])
    line.turn("go", previous_response_id=prepared["id"])
    assert texts(upstream) == ["go"]
    line.ask([])
    assert line.fault()["error"]["param"] == "input"


def test_what_is_prepared_and_not_stored_is_known_to_its_connection_only(line: Socket, dial: Opener) -> None:
    prepared = line.turn("remember the tide", generate=False, store=False)
    assert line.turn("go", previous_response_id=prepared["id"], store=False)["status"] == "completed"
    with dial() as another:
        another.ask("go", previous_response_id=prepared["id"])
        assert code_of(another.fault()) == (400, "previous_response_not_found")


def test_preparing_asks_for_access_as_well(line: Socket) -> None:
    line.ask("hello", generate=False, model="no-such-model")
    assert code_of(line.fault()) == (404, "model_not_found")


# Order


def test_creates_are_answered_one_after_the_other_in_their_order(line: Socket, upstream: FakeUpstream) -> None:
    with upstream.script(UPSTREAM, Answer(gap_s=0.02)):
        for number in range(4):
            line.ask(f"number {number}", metadata={"number": str(number)})
        turns = [line.response() for _ in range(4)]  # each has a legal stream of its own, so none is woven into another
    assert [turn["metadata"]["number"] for turn in turns] == ["0", "1", "2", "3"]


def test_lanes_run_beside_each_other_and_each_in_its_order(line: Socket, upstream: FakeUpstream) -> None:
    with upstream.script(UPSTREAM, Answer(gap_s=0.05, text="w " * 12)):
        for lane in ("left", "right.2"):
            for number in range(2):
                line.ask("hello", stream_id=lane, metadata={"number": str(number)})
        heard: list[JsonObject] = []
        while sum(event["type"] in TERMINAL for event in heard) < 4:
            heard.append(line.hear())
    lanes = [event["stream_id"] for event in heard]
    assert set(lanes) == {"left", "right.2"}
    assert lanes.index("right.2") < next(at for at, event in enumerate(heard) if event["type"] in TERMINAL), (
        "the second lane waited for the first"
    )
    for lane in ("left", "right.2"):
        events = [event for event in heard if event["stream_id"] == lane]
        end = 1 + next(at for at, event in enumerate(events) if event["type"] in TERMINAL)
        assert [check(part)["metadata"]["number"] for part in (events[:end], events[end:])] == ["0", "1"]


def test_errors_name_their_lane(line: Socket) -> None:
    line.ask("hello", stream_id="left", temperature=9)
    event = line.fault()
    assert (event["stream_id"], event["error"]["param"]) == ("left", "temperature")


@pytest.mark.parametrize("lane", ["", "a b", "ü", "x" * 257, 5, {"a": 1}])
def test_a_lane_has_a_simple_name(line: Socket, lane: Any) -> None:
    line.ask("hello", stream_id=lane)
    event = line.fault()
    assert code_of(event) == (400, "invalid_stream_id")
    assert "stream_id" not in event


def test_more_than_eight_lanes_at_a_time_are_refused(line: Socket, upstream: FakeUpstream) -> None:
    with upstream.script(UPSTREAM, Answer(before_s=1)):
        for number in range(9):
            line.ask("hello", stream_id=f"lane-{number}")
        event = line.fault()
        assert code_of(event) == (429, "websocket_stream_limit_reached")
        assert event["stream_id"] == "lane-8"
        events = [event for _ in range(8) for event in line_events_until_terminal(line)]
    assert {event["stream_id"] for event in events} == {f"lane-{number}" for number in range(8)}
    assert line.turn("hello", stream_id="lane-8")["status"] == "completed"


def line_events_until_terminal(line: Socket) -> list[JsonObject]:
    heard = [line.hear()]
    while heard[-1]["type"] not in TERMINAL:
        heard.append(line.hear())
    return heard


def test_more_than_thirty_two_waiting_creates_are_refused(line: Socket, upstream: FakeUpstream) -> None:
    with upstream.script(UPSTREAM, Answer(before_s=1)):
        line.ask("runs")
        for _ in range(32):
            line.ask("waits", generate=False)
        line.ask("too much")
        assert code_of(line.fault()) == (429, "websocket_queue_full")
        assert [line.response()["output"] != [] for _ in range(33)] == [True] + [False] * 32


# What the connection remembers


def test_what_is_not_stored_can_be_continued_on_its_connection_and_nowhere_else(
    line: Socket, dial: Opener, client: openai.OpenAI, upstream: FakeUpstream
) -> None:
    first = line.turn("the word is amber", store=False)
    second = line.turn("say it", store=False, previous_response_id=first["id"])
    answer = first["output"][0]["content"][0]["text"]
    assert texts(upstream) == ["the word is amber", answer, "say it"]
    for response in (first, second):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response["id"])
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model=MODEL, input="say it", previous_response_id=response["id"])
        with dial() as another:
            another.ask("say it", previous_response_id=response["id"])
            assert code_of(another.fault()) == (400, "previous_response_not_found")
    third = line.turn("once more", store=False, previous_response_id=second["id"])
    assert len(texts(upstream)) == 5
    assert third["store"] is False


def test_a_chain_that_is_not_stored_may_be_longer_than_the_memory(line: Socket, upstream: FakeUpstream) -> None:
    """Only the latest responses can be continued, each with its whole chain."""
    turns = [line.turn("turn 0", store=False)]
    for number in range(1, 20):
        turns.append(line.turn(f"turn {number}", store=False, previous_response_id=turns[-1]["id"]))
    assert [text for text in texts(upstream) if text.startswith("turn ")] == [f"turn {number}" for number in range(20)]
    line.ask("fork", store=False, previous_response_id=turns[0]["id"])
    assert code_of(line.fault()) == (400, "previous_response_not_found")


def test_a_stored_response_on_top_of_one_that_is_not(line: Socket, dial: Opener, client: openai.OpenAI) -> None:
    """It is kept for itself; what it builds upon is kept nowhere, so that only its connection can go on from it."""
    first = line.turn("the word is amber", store=False)
    second = line.turn("say it", previous_response_id=first["id"])
    assert client.responses.retrieve(second["id"]).status == "completed"
    assert line.turn("on", previous_response_id=second["id"])["status"] == "completed"
    with dial() as another:
        another.ask("on", previous_response_id=second["id"])
        assert code_of(another.fault()) == (400, "previous_response_not_found")
    client.responses.delete(second["id"])
    line.ask("on", previous_response_id=second["id"])
    assert code_of(line.fault()) == (400, "previous_response_not_found")


def test_a_chain_goes_on_from_what_is_stored_to_what_is_not(line: Socket, upstream: FakeUpstream) -> None:
    first = line.turn("stored")
    second = line.turn("not stored", store=False, previous_response_id=first["id"])
    line.turn("end", store=False, previous_response_id=second["id"])
    assert texts(upstream)[::2] == ["stored", "not stored", "end"]


def test_a_continuation_that_fails_lets_its_parent_go(line: Socket, upstream: FakeUpstream) -> None:
    first = line.turn("hello", store=False)
    with upstream.script(UPSTREAM, problem(400, "invalid_request_error", None)):
        line.ask("on", store=False, previous_response_id=first["id"])
        assert line.fault()["status"] == 400
    line.ask("on", store=False, previous_response_id=first["id"])
    assert code_of(line.fault()) == (400, "previous_response_not_found")


def test_a_fork_that_fails_on_another_lane_leaves_the_parent(line: Socket) -> None:
    first = line.turn("hello", store=False)
    line.ask("on", store=False, previous_response_id=first["id"], stream_id="fork", temperature=9)
    line.fault()
    line.ask("on", store=False, previous_response_id=first["id"], stream_id="fork", model="no-such-model")
    line.fault()
    assert line.turn("on", store=False, previous_response_id=first["id"])["status"] == "completed"


def test_a_stored_parent_outlives_a_continuation_that_fails(line: Socket) -> None:
    first = line.turn("hello")
    line.ask("on", previous_response_id=first["id"], model="no-such-model")
    line.fault()
    assert line.turn("on", previous_response_id=first["id"])["status"] == "completed"


def test_what_is_said_and_not_stored_is_written_nowhere(launch: Launch, config: JsonObject) -> None:
    """Not even by a server that logs all it can."""
    gateway = launch(config, start=False, env={"TOLLGATE_LOG_LEVEL": "DEBUG"}).start(*SERVER)
    with opener(gateway, gateway.issue_key())(path="/v1/responses?key=in-the-address") as line:
        first = line.turn("a word: amber-canary", store=False)
        line.turn("again: amber-canary", store=False, previous_response_id=first["id"], metadata={"a": "amber-canary"})
        line.connection.send("amber-canary")
        line.fault()
    gateway.stop()
    files = [path for path in gateway.home.rglob("*") if path.is_file() and b"amber-canary" in path.read_bytes()]
    assert files == []
    for word in ("amber-canary", "in-the-address"):
        assert word not in gateway.output(), word


# Who may connect, and what they may call


def test_two_connections_of_one_key_know_nothing_of_each_other(dial: Opener, upstream: FakeUpstream) -> None:
    with dial() as first, dial() as right, upstream.script(UPSTREAM, Answer(gap_s=0.02)):
        first.ask("left", metadata={"side": "left"})
        right.ask("right", metadata={"side": "right"})
        assert right.response()["metadata"] == {"side": "right"}
        assert first.response()["metadata"] == {"side": "left"}


def refusal(dial: Opener, **options: Any) -> httpx.Response:
    with pytest.raises(InvalidStatus) as refused, dial(**options):
        pass
    response = refused.value.response
    return httpx.Response(response.status_code, content=bytes(response.body or b""))


def assert_refused(response: httpx.Response, status: int, code: str) -> None:
    """A server that cannot tell more refuses with a bare status of its own."""
    if SERVER:
        assert response.status_code in {400, 403}
    else:
        assert response.status_code == status
        assert response.json()["error"]["code"] == code


@pytest.mark.parametrize("key", ["", "sk-0000000000000000000000000000000000000000"])
def test_without_a_valid_key_there_is_no_connection(gateway: Gateway, key: str) -> None:
    assert_refused(refusal(opener(gateway, key)), 401, "invalid_api_key")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_site_gets_no_connection(dial: Opener, origin: str) -> None:
    assert_refused(refusal(dial, origin=origin), 403, "origin_not_allowed")


def test_a_page_of_the_gateway_itself_gets_one(gateway: Gateway, dial: Opener) -> None:
    with dial(origin=gateway.url) as line:
        assert line.turn("hello")["status"] == "completed"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/responses/resp_1", "/console/", "/nowhere"])
def test_no_other_path_takes_connections(dial: Opener, path: str) -> None:
    assert_refused(refusal(dial, path=path), 404, "not_found")


def test_access_to_models_is_asked_for_each_turn(gateway: Gateway) -> None:
    with opener(gateway, gateway.issue_key(models=[MODEL]))() as line:
        line.ask("hello", model="chat")
        assert code_of(line.fault()) == (403, "model_not_found")
        assert line.turn("hello")["status"] == "completed"


def test_a_key_that_is_revoked_ends_with_the_next_turn(gateway: Gateway) -> None:
    key = gateway.issue_key()
    with opener(gateway, key)() as line:
        line.turn("hello")
        assert gateway.admin.post("/key/delete", json={"keys": [key]}).status_code == 200

        def is_refused() -> bool:
            line.ask("again", generate=False)
            return line.events()[-1]["type"] == "error"

        eventually(is_refused, within_s=10, what="the revocation is known")
        assert line.close_code() == 1008


def test_the_owners_response_is_nobody_elses_parent(line: Socket, gateway: Gateway) -> None:
    team = gateway.admin.post("/team/new", json={"team_alias": "strangers"}).json()["team_id"]
    parent = line.turn("hello")
    with opener(gateway, gateway.issue_key(team_id=team))() as stranger:
        stranger.ask("on", previous_response_id=parent["id"])
        assert code_of(stranger.fault()) == (400, "previous_response_not_found")


# Comings and goings


def test_a_client_that_leaves_lets_the_upstream_go(
    dial: Opener, upstream: FakeUpstream, gateway: Gateway, key: str
) -> None:
    with upstream.script(UPSTREAM, Answer(gap_s=0.1, text="w " * 100)):
        with dial() as line:
            line.ask("hello")
            while line.hear()["type"] != "response.output_text.delta":
                pass
            recorded = upstream.last(UPSTREAM)
        eventually(lambda: recorded.disconnected, within_s=5, what="the upstream call is cancelled")
    [row] = gateway.wait_priced(api_key=key)
    assert row["usage_estimated"] is True


def test_a_slow_reader_pauses_the_upstream(gateway: Gateway, dial: Opener, upstream: FakeUpstream) -> None:
    web = psutil.Process(gateway.pid)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    narrow.connect(("127.0.0.1", gateway.port))
    with upstream.script("up-chat", flood), dial(sock=narrow, max_queue=1) as line:
        memory = web.memory_info().rss
        line.ask("hello", model="chat")
        line.hear()
        recorded = upstream.last("up-chat")
        counts: list[int] = []

        def stands_still() -> bool:
            counts.append(recorded.sent_bytes)
            return len(counts) > 40 and counts[-1] == counts[-30]  # about a second

        eventually(stands_still, within_s=20, what="the upstream is paused")
        paused_at = recorded.sent_bytes
        assert paused_at < KERNEL_BYTES
        assert web.memory_info().rss - memory < 32 * 1024 * 1024
        for _ in range(200_000):
            if recorded.sent_bytes > paused_at:
                break
            line.hear()
        assert recorded.sent_bytes > paused_at, "the upstream goes on when the reader does"
        line.connection.close_timeout = 1


def test_sigterm_lets_the_running_turn_finish_and_then_closes(
    launch: Launch, config: JsonObject, upstream: FakeUpstream
) -> None:
    gateway = launch(config, start=False).start(*SERVER)
    dial = opener(gateway, gateway.issue_key())
    with upstream.script(UPSTREAM, Answer(gap_s=0.1, text="w " * 20)), dial() as busy, dial() as idle:
        idle.turn("hello", model="chat")
        busy.ask("hello")
        busy.ask("dropped")
        while busy.hear()["type"] != "response.output_text.delta":
            pass
        psutil.Process(gateway.pid).send_signal(signal.SIGTERM)
        assert idle.close_code() == 1012
        rest = line_events_until_terminal(busy)
        assert rest[-1]["response"]["status"] == "completed"
        assert busy.close_code() == 1012
    eventually(lambda: not gateway.processes(), within_s=20, what="the gateway has ended")
