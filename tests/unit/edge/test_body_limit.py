"""BodyLimit: Django gets a whole body of bounded size, or is not called at all."""

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from gateway.edge import body_limit
from gateway.edge.asgi_types import Message, Receive, Scope, Send
from gateway.edge.body_limit import MAX_BYTES, BodyLimit
from tenants.rest.client_departure import SCOPE_KEY
from tests.fakes.memory import play

LENGTH = b"content-length"


class Django:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.departures: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        departure = scope[SCOPE_KEY]
        for _ in range(2):
            self.messages.append(await receive())
            self.departures.append(departure.has_left)
        await send({"type": "http.response.start", "status": 204, "headers": []})


def ask(parts: Iterable[bytes], *headers: tuple[bytes, bytes], pause_s: float = 0) -> tuple[Django, list[Any], int]:
    """The messages that Django and the client receive, and the number of parts that were read."""
    django, sent, read = Django(), [], 0
    left = iter(parts)

    async def receive() -> Message:
        nonlocal read
        await asyncio.sleep(pause_s)
        part = next(left, None)
        if part is None:
            return {"type": "http.disconnect"}
        read += 1
        return {"type": "http.request", "body": part, "more_body": part != b""}

    async def send(message: Message) -> None:
        sent.append(message)

    play(BodyLimit(django)({"type": "http", "headers": list(headers)}, receive, send))
    return django, sent, read


def test_a_body_reaches_django_in_one_piece() -> None:
    django, sent, _ = ask([b"a" * 500, b"b" * 500, b""])
    assert django.messages[0] == {"type": "http.request", "body": b"a" * 500 + b"b" * 500, "more_body": False}
    assert django.messages[1] == {"type": "http.disconnect"}
    assert sent[0]["status"] == 204


def test_what_django_runs_in_a_thread_learns_that_the_client_has_left() -> None:
    django, _, _ = ask([b"a", b""])
    assert [message["type"] for message in django.messages] == ["http.request", "http.disconnect"]
    assert django.departures == [False, True]


@pytest.mark.parametrize(
    ("headers", "most_read"),
    [([(LENGTH, str(MAX_BYTES + 1).encode())], 0), ([(LENGTH, b"9" * 5000)], 0), ([], 17)],
    ids=["declared", "absurd", "chunked"],
)
def test_a_larger_body_is_refused_while_it_comes(headers: list[tuple[bytes, bytes]], most_read: int) -> None:
    django, sent, read = ask([b"x" * 64 * 1024] * 1000, *headers)
    assert django.messages == []
    assert read <= most_read
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert "larger" in orjson.loads(sent[1]["body"])["error"]["message"]


def test_a_body_that_drips_in_is_refused_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "DEADLINE_S", 0.05)
    django, sent, _ = ask([b"x"] * 100_000, pause_s=0.001)
    assert django.messages == []
    assert sent[0]["status"] == 408


def test_a_client_that_leaves_within_its_body_reaches_nothing() -> None:
    django, sent, _ = ask([b"x"])
    assert django.messages == []
    assert sent == []
