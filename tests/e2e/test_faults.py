"""For each fault of an upstream the client gets an OpenAI error and learns nothing of the inside."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import psutil
import pytest

from gateway.protocol.sse import MAX_EVENT_BYTES
from tests.e2e.gateway import Gateway, events, eventually
from tests.fakes.raw import RAW_FAULTS, RAW_STREAM_FAULTS, RawUpstreams
from tests.fakes.upstream import KERNEL_BYTES, LEAKS, Answer, FakeUpstream, Reply, flood

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

ASK: list[Any] = [{"role": "user", "content": "hi"}]
ERROR = {"message", "type", "param", "code"}
POST = "POST /v1/chat/completions HTTP/1.1\r\n"
# fault -> what the client is told, streaming or not: nothing had been sent to it yet
BEFORE_THE_FIRST_BYTE: dict[str, tuple[int, str]] = {
    "fault-400": (400, "invalid_request_error"),
    "fault-401": (502, "api_error"),  # the caller's key is fine
    "fault-403": (502, "api_error"),
    "fault-404": (404, "invalid_request_error"),
    "fault-422": (400, "invalid_request_error"),
    "fault-429": (429, "rate_limit_error"),
    "fault-500": (502, "api_error"),
    "fault-503": (503, "api_error"),
    "fault-trace": (502, "api_error"),
    "fault-html": (502, "api_error"),
    "fault-half-json": (502, "api_error"),
    "fault-scalar": (502, "api_error"),
    "fault-empty": (502, "api_error"),
    "fault-error-200": (502, "api_error"),
    "fault-silent": (504, "api_error"),
    "gone": (502, "api_error"),
    "nohost": (502, "api_error"),
    "tls": (502, "api_error"),
    **{f"fault-{name}": (502, "api_error") for name in RAW_FAULTS},
    "fault-never-answer": (504, "api_error"),
}
IN_THE_MIDDLE = ["stall", "cut", "unfinished", "bad-chunk", "error-frame", *RAW_STREAM_FAULTS]


Leaks = Callable[[httpx.Response], list[str]]


@pytest.fixture
def leaks(upstream: FakeUpstream, raw: RawUpstreams) -> Leaks:
    """The details of the inside that an answer shows."""
    addresses = [upstream.url, raw.refused_url, *map(raw.url, (*RAW_FAULTS, *RAW_STREAM_FAULTS, "trap"))]
    ports = [address.removeprefix("http://127.0.0.1").removesuffix("/v1") for address in addresses]
    needles = [*LEAKS, *ports, "no-such-host", "aiohttp", "site-packages", "Errno", 'File "']

    def find_leaks(response: httpx.Response) -> list[str]:
        text = response.text + "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        return [needle for needle in needles if needle in text]

    return find_leaks


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("model", BEFORE_THE_FIRST_BYTE)
def test_a_failure_is_told_in_the_openai_shape(
    gateway: Gateway, key: str, leaks: Leaks, model: str, stream: bool
) -> None:
    status, kind = BEFORE_THE_FIRST_BYTE[model]
    response = gateway.call(key, model=model, stream=stream)
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    error = response.json()["error"]
    assert set(error) == ERROR
    assert error["type"] == kind
    assert isinstance(error["message"], str)
    assert error["message"]
    assert response.headers["x-request-id"]
    assert not leaks(response)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("model", ["fault-401", "fault-429", "fault-half-json", "fault-silent", "gone"])
def test_other_endpoints_tell_failures_alike(gateway: Gateway, key: str, leaks: Leaks, path: str, model: str) -> None:
    response = gateway.call(key, path, model=model, prompt="x", input="x")
    assert response.status_code == BEFORE_THE_FIRST_BYTE[model][0], response.text
    assert set(response.json()["error"]) == ERROR
    assert not leaks(response)


@pytest.mark.parametrize("case", [("cut", 502), ("stall", 504), ("flood", 502), ("bomb", 502)], ids=str)
def test_a_whole_answer_that_breaks_is_a_failure(
    gateway: Gateway, key: str, upstream: FakeUpstream, leaks: Leaks, case: tuple[str, int]
) -> None:
    fault, status = case
    web = psutil.Process(gateway.pid)
    memory = web.memory_info().rss
    response = gateway.call(key, model=f"fault-{fault}")
    assert response.status_code == status, response.text[:500]
    assert web.memory_info().rss - memory < 64 * 1024 * 1024
    assert set(response.json()["error"]) == ERROR
    assert not leaks(response)
    recorded = upstream.last(f"up-{fault}")
    eventually(lambda: recorded.disconnected or fault in {"cut", "bomb"}, within_s=2, what="the upstream is let go")
    assert recorded.sent_bytes < 64 * 1024 * 1024


@pytest.mark.parametrize("fault", IN_THE_MIDDLE)
def test_a_stream_that_breaks_ends_with_an_error_and_no_done(
    gateway: Gateway, key: str, leaks: Leaks, fault: str
) -> None:
    response = gateway.call(key, model=f"fault-{fault}", stream=True)
    assert response.status_code == 200
    *before, last = events(response.content)
    assert set(json.loads(last)["error"]) == ERROR, last
    assert "[DONE]" not in response.text
    words = [choice["delta"].get("content") for frame in before for choice in json.loads(frame)["choices"]]
    assert len(before) == 4, "what had come before is not held back"
    assert words[0] == ""
    assert all(words[1:])
    assert not leaks(response)
    with pytest.raises(openai.APIError):
        list(gateway.openai(key).chat.completions.create(model=f"fault-{fault}", messages=ASK, stream=True))


def test_an_event_without_an_end_is_a_failure(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    response = gateway.call(key, model="fault-endless-line", stream=True)
    assert response.status_code == 502, response.text[:500]
    recorded = upstream.last("up-endless-line")
    eventually(lambda: recorded.disconnected, within_s=2, what="the upstream is let go")
    assert recorded.sent_bytes < KERNEL_BYTES + MAX_EVENT_BYTES


@pytest.mark.timeout(15)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_error_that_never_ends_is_cut_short(gateway: Gateway, key: str, leaks: Leaks, stream: bool) -> None:
    response = gateway.call(key, model="fault-500-stalled", stream=stream)
    assert response.status_code in {502, 504}
    assert set(response.json()["error"]) == ERROR
    assert not leaks(response)


def test_a_request_that_reached_the_upstream_is_not_sent_twice(gateway: Gateway, key: str, raw: RawUpstreams) -> None:
    before = raw.hits["close-after-request"]
    assert gateway.call(key, model="fault-close-after-request").status_code == 502
    assert raw.hits["close-after-request"] == before + 1


def test_a_connection_that_the_upstream_had_closed_costs_no_call(gateway: Gateway, key: str) -> None:
    for pause_s in (0, 0.001, 0.003, 0.01, 0.05) * 6:
        response = gateway.call(key, model="hangs-up")
        assert response.status_code == 200, response.text
        time.sleep(pause_s)


def test_what_the_upstream_asked_to_wait_is_passed_on(gateway: Gateway, key: str) -> None:
    for stream in (False, True):
        assert gateway.call(key, model="fault-429", stream=stream).headers["retry-after"] == "7"


@pytest.mark.parametrize("wait", ["-1", "1e9", "soon", "99999999"])
def test_a_senseless_wait_is_not_passed_on(gateway: Gateway, key: str, upstream: FakeUpstream, wait: str) -> None:
    body = b'{"error":{"message":"slow down","type":"rate_limit_error","param":null,"code":null}}'
    with upstream.script("up-chat", Reply(429, body, headers={"retry-after": wait})):
        response = gateway.call(key)
    assert response.status_code == 429
    assert 0 <= float(response.headers.get("retry-after", "0")) <= 60


def test_a_benign_refusal_is_passed_on(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    body = {
        "error": {
            "message": "temperature must be at most 2",
            "type": "x",
            "param": "temperature",
            "code": None,
        }
    }
    with upstream.script("up-chat", Reply(400, json.dumps(body).encode())):
        error = gateway.call(key).json()["error"]
    assert "temperature must be at most 2" in error["message"]
    assert error["param"] == "temperature"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(
    gateway: Gateway, key: str, upstream: FakeUpstream, raw: RawUpstreams, status: int
) -> None:
    target = {"location": f"{raw.trap_url}/chat/completions"}
    for stream in (False, True):
        with upstream.script("up-redirected", Reply(status, b"", headers=target)):
            response = gateway.call(key, model="redirected", stream=stream)
        assert response.status_code == 502, response.text
        assert str(raw.trap_url) not in response.text + str(response.headers)
    assert raw.contacts == []


def test_a_deployments_time_limit_holds_for_slow_answers(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    for stream in (False, True):
        with upstream.script("up-timeouted", Answer(before_s=30)):
            assert gateway.call(key, model="timeouted", stream=stream).status_code == 504
            recorded = upstream.last("up-timeouted")
        eventually(lambda r=recorded: r.disconnected, within_s=2, what="the upstream is let go")
    with upstream.script("up-timeouted", Answer(gap_s=0.3, text="w " * 6)):  # 2.7 s in all, never 1 s of silence
        text = gateway.call(key, model="timeouted", stream=True).text
    assert text.rstrip().endswith("data: [DONE]")


def test_silent_streams_are_kept_alive_with_comments(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    with upstream.script("up-chat", Answer(gap_s=2, text="one two")):
        response = gateway.call(key, stream=True)
    comments = [line for line in response.text.splitlines() if line.startswith(":")]
    assert len(comments) >= 2
    words = [json.loads(frame)["choices"][0]["delta"].get("content", "") for frame in events(response.content)[:-1]]
    assert "".join(words) == "one two"


def test_a_slow_reader_pauses_the_upstream(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    body = json.dumps({"model": "chat", "messages": ASK, "stream": True}).encode()
    head = f"{POST}host: 127.0.0.1:{gateway.port}\r\nauthorization: Bearer {key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    web = psutil.Process(gateway.pid)
    memory = web.memory_info().rss
    with upstream.script("up-chat", flood), socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        reader.settimeout(10)
        reader.connect(("127.0.0.1", gateway.port))
        reader.sendall(head.encode() + body)
        assert b"200" in reader.recv(4096)
        recorded = upstream.last("up-chat")
        counts: list[int] = []

        def stands_still() -> bool:
            counts.append(recorded.sent_bytes)
            return len(counts) > 40 and counts[-1] == counts[-30]  # about a second

        eventually(stands_still, within_s=15, what="the upstream is paused")
        paused_at = recorded.sent_bytes
        assert paused_at < KERNEL_BYTES
        assert web.memory_info().rss - memory < 32 * 1024 * 1024
        for _ in range(100_000):
            if recorded.sent_bytes > paused_at or not reader.recv(65536):
                break
        assert recorded.sent_bytes > paused_at, "the upstream goes on when the reader does"
    eventually(lambda: recorded.disconnected, within_s=3, what="the upstream is let go")


# Bodies beyond the limit, which the tests set to 1 MiB


def test_a_large_body_is_refused_and_a_fitting_one_is_not(gateway: Gateway, key: str) -> None:
    fits = gateway.call(key, messages=[{"role": "user", "content": "x" * (1024 * 1024 - 2000)}])
    assert fits.status_code == 200, fits.text[:300]
    response = gateway.call(key, messages=[{"role": "user", "content": "x" * (1024 * 1024 + 2000)}])
    assert response.status_code == 413
    assert set(response.json()["error"]) == ERROR
    assert response.json()["error"]["type"] == "invalid_request_error"


def send_raw(gateway: Gateway, *parts: bytes) -> bytes:
    """Sends until an answer comes, and returns its first bytes."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        while b"}" not in answer and (piece := connection.recv(65536)):
            answer += piece
        return answer


def test_a_body_is_refused_by_its_declared_size_before_it_is_sent(gateway: Gateway, key: str) -> None:
    head = f"{POST}host: 127.0.0.1:{gateway.port}\r\ncontent-length: 999999999\r\n"
    for credential, status in ((key, b"413"), ("sk-wrong-" + "0" * 40, b"401")):
        answer = send_raw(gateway, f"{head}authorization: Bearer {credential}\r\n\r\n".encode())
        assert answer.split()[1] == status, answer
        assert b'"error"' in answer


def test_a_body_of_undeclared_size_is_refused_at_the_limit(gateway: Gateway, key: str) -> None:
    head = f"{POST}host: 127.0.0.1:{gateway.port}\r\nauthorization: Bearer {key}\r\n"
    block = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = send_raw(gateway, f"{head}transfer-encoding: chunked\r\n\r\n".encode(), *[block] * 17)  # and no end
    assert answer.split()[1] == b"413", answer


def test_the_gateway_is_well_after_all_that(gateway: Gateway, client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="chat", messages=ASK).choices[0].finish_reason == "stop"
    assert gateway.http.get("/health/readiness").status_code == 200
    assert "Traceback" not in gateway.output()
