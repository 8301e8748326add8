"""The end of a client's connection: half closed, gone, or at the drain of the gateway. And the end of a process."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections import Counter

import psutil
import pytest

from tests.e2e.conftest import Launch
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.upstream import Answer, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MODEL = "tollgate-echo"
CLIENTS = 24


def request_of(gateway: Gateway, key: str, model: str, *, stream: bool = False) -> bytes:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{gateway.port}\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def send_half_closed(gateway: Gateway, *requests: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(b"".join(requests))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before_s", [0, 1.2])
def test_a_client_that_half_closes_gets_its_answer(
    gateway: Gateway, key: str, upstream: FakeUpstream, stream: bool, before_s: float
) -> None:
    with upstream.script("up-chat", Answer(before_s=before_s, gap_s=0.3 if stream else 0, text="one two")):
        answer = send_half_closed(gateway, request_of(gateway, key, "chat", stream=stream))
    assert b"HTTP/1.1 200 OK" in answer
    assert b"two" in answer
    assert b"[DONE]" in answer or not stream
    assert b"connection: close" in answer


def test_requests_in_one_piece_before_the_half_close_are_all_answered(gateway: Gateway, key: str) -> None:
    answer = send_half_closed(gateway, *[request_of(gateway, key, "chat")] * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_is_gone_lets_its_upstream_go(
    gateway: Gateway, key: str, upstream: FakeUpstream, stream: bool
) -> None:
    count = len(upstream.of("up-chat"))
    with upstream.script("up-chat", Answer(before_s=60)):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
            connection.sendall(request_of(gateway, key, "chat", stream=stream))
            eventually(lambda: len(upstream.of("up-chat")) > count, within_s=5, what="the upstream is called")
            recorded = upstream.last("up-chat")
        eventually(lambda: recorded.disconnected, within_s=3, what="the upstream is let go")


class Client(threading.Thread):
    """Calls over one connection until the port is closed, and connects anew where an answer announces the end."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        super().__init__(daemon=True)
        self._gateway, self._key = gateway, key
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._gateway.port, timeout=30)
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})
        while True:
            is_reused = connection.sock is not None
            try:
                if not is_reused:
                    connection.connect()
            except OSError:
                return
            try:
                connection.request(
                    "POST",
                    "/v1/chat/completions",
                    body,
                    {"authorization": f"Bearer {self._key}", "content-type": "application/json"},
                )
                answer = connection.getresponse()
                answer.read()
                self.outcomes[str(answer.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[f"lost, reused: {type(error).__name__}" if is_reused else "refused"] += 1
                return
            time.sleep(0.02)


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_the_drain_loses_no_request_on_a_connection_that_is_reused(launch: Launch, server: str) -> None:
    gateway = launch(start=False)
    gateway.start("--server", server)
    key = gateway.issue_key()
    clients = [Client(gateway, key) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    eventually(lambda: all(client.outcomes["200"] > 2 for client in clients), within_s=20, what="all clients call")
    gateway.stop()
    for client in clients:
        client.join(30)
    outcomes = sum((client.outcomes for client in clients), Counter[str]())
    assert [outcome for outcome in outcomes if "reused" in outcome] == [], outcomes


def pids(gateway: Gateway, word: str) -> set[int]:
    ids = set()
    for process in gateway.processes():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if word in process.cmdline():
                ids.add(process.pid)
    return ids


@pytest.mark.parametrize(("word", "web_processes"), [("worker", 1), ("--listener", 2)])
def test_a_process_that_was_killed_is_back(launch: Launch, word: str, web_processes: int) -> None:
    gateway = launch(env={"WEB_CONCURRENCY": str(web_processes)})
    key = gateway.issue_key()
    before = eventually(lambda: pids(gateway, word), within_s=10, what="it runs")
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: pids(gateway, word) - before, within_s=5, what="another one runs")
    assert gateway.call(key, model=MODEL).status_code == 200
    assert gateway.wait_priced(1, within_s=5, api_key=key)
    assert not psutil.pid_exists(victim) or psutil.Process(victim).status() == psutil.STATUS_ZOMBIE
