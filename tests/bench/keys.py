"""Many keys: memory with 100,000 of them known, and what it costs the others when keys are made while they are used."""

import hashlib
import http.client
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from load import PATH
from machine import BenchError, cpu_between, cpu_us, rss_mb
from targets import Target, Tollgate

KNOWN = 100_000
IN_USE = 1_000
MANY_IN_USE = 12_000
MADE_PER_S = 3
CONNECTIONS = 8
TURNS = 6  # of each kind, by turns
RSS_LIMIT_MB = 120.0
RATIO_LIMIT = 1.3


@dataclass(frozen=True, slots=True)
class Keys:
    """CPU of the web process in microseconds per request, by turn; resident memory in MB."""

    quiet_us: list[float]
    busy_us: list[float]
    rss_started_mb: float
    rss_in_use_mb: float
    rss_turned_mb: float
    rss_many_mb: float

    def text(self) -> str:
        ratio = median(busy / quiet for quiet, busy in zip(self.quiet_us, self.busy_us, strict=True))
        rows = (
            (f"CPU per request with {IN_USE} keys in use, µs", None, median(self.quiet_us)),
            (f"the same while {MADE_PER_S} keys a second are made, µs", None, median(self.busy_us)),
            ("ratio of the two", RATIO_LIMIT, ratio),
            (f"RSS of the web process with {KNOWN} keys known, after the start, MB", RSS_LIMIT_MB, self.rss_started_mb),
            (f"after {IN_USE} of them were used, MB", RSS_LIMIT_MB, self.rss_in_use_mb),
            ("after the turns, which make the first keys, MB", RSS_LIMIT_MB, self.rss_turned_mb),
            (f"after {MANY_IN_USE} of them were used, MB", RSS_LIMIT_MB, self.rss_many_mb),
        )
        return "\n".join(
            f"{name:72s}{'' if limit is None else f'{limit:.1f}':>8s}{value:10.2f}"
            + ("" if limit is None else "  ok" if value <= limit else "  MISSED")
            for name, limit, value in rows
        )


def add_keys(home: Path) -> list[str]:
    """Copies of the bench's key in the embedded database of a gateway that does not run; their texts."""
    texts = [f"sk-bench-{number:032d}" for number in range(KNOWN)]
    with closing(sqlite3.connect(home / "db.sqlite3")) as connection, connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM tenants_virtualkey WHERE alias = 'bench'").fetchone())
        places = ", ".join(f":{name}" for name in row)
        copies = (row | _own_values(text) for text in texts)
        connection.executemany(f"INSERT INTO tenants_virtualkey ({', '.join(row)}) VALUES ({places})", copies)
    return texts


def _own_values(text: str) -> dict[str, str]:
    return {
        "id": f"key_{text[-32:]}",
        "alias": text.removeprefix("sk-"),
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "last4": text[-4:],
    }


def measure_keys(
    tollgate: Tollgate, target: Target, body: bytes, texts: Sequence[str], *, seconds: float, say: Callable[[str], None]
) -> Keys:
    started_mb = rss_mb(target.web())
    in_use = texts[:IN_USE]
    _call_once(target, body, in_use)  # each is known by heart before anything is measured
    in_use_mb = rss_mb(target.web())
    quiet, busy = [], []
    for turn in range(TURNS):
        for is_busy in (False, True) if turn % 2 else (True, False):
            (busy if is_busy else quiet).append(_turn(tollgate, target, body, in_use, seconds, is_busy=is_busy))
            target.settle()
        say(f"keys, turn {turn + 1}/{TURNS}: {quiet[-1]:.0f} µs, {busy[-1]:.0f} µs while keys are made")
    turned_mb = rss_mb(target.web())
    _call_once(target, body, texts[IN_USE:MANY_IN_USE])
    return Keys(quiet, busy, started_mb, in_use_mb, turned_mb, rss_mb(target.web()))


def _turn(
    tollgate: Tollgate, target: Target, body: bytes, keys: Sequence[str], seconds: float, *, is_busy: bool
) -> float:
    """Microseconds of the web process per request. What making the keys costs by itself is in it."""
    before = cpu_us(target.web())
    until = time.monotonic() + seconds
    queue = itertools.cycle(keys)
    with _makes_keys(tollgate, is_active=is_busy):
        sent = _drive(target, body, lambda: next(queue) if time.monotonic() < until else None)
    return cpu_between(before, cpu_us(target.web())) / max(1, sent)


def _call_once(target: Target, body: bytes, keys: Sequence[str]) -> None:
    left = iter(keys)
    if _drive(target, body, lambda: next(left, None)) != len(keys):
        raise BenchError("not every key was served")


def _drive(target: Target, body: bytes, next_key: Callable[[], str | None]) -> int:
    """Calls over a few kept connections until `next_key` has none; how many were answered with 200."""
    lock, answered = threading.Lock(), [0] * CONNECTIONS

    def client(number: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)) as connection:
            while True:
                with lock:
                    key = next_key()
                if key is None:
                    return
                headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
                connection.request("POST", PATH, body, headers)
                response = connection.getresponse()
                response.read()
                answered[number] += response.status == 200

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered)


@contextmanager
def _makes_keys(tollgate: Tollgate, *, is_active: bool) -> Iterator[None]:
    ended = threading.Event()

    def make() -> None:
        while not ended.wait(1 / MADE_PER_S):
            tollgate.make_key()

    thread = threading.Thread(target=make)
    if is_active:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if is_active:
            thread.join()
