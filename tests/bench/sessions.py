"""The cost of stored sessions: the same call through chat, as a response that is not stored, and as a stored one; new
and as the twentieth turn; and whether memory grows with the number of stored streams."""

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from load import MODEL, PATH, Load, Tools
from machine import BenchError, cpu_between, cpu_us, rss_mb
from targets import Target

CONNECTIONS = 50
TURNS = 20
STORED_LIMIT = 0.20  # of the CPU of the same call through chat
PASSES = 5  # in each round; in each pass every kind has its turn, in every other one in the opposite order
STREAMS = 10_000
FIRST_STREAMS = 1_000  # after which memory is looked at for the first time
RESPONSES = "/v1/responses"
PROMPT = "Summarise this in three sentences and keep the names. " + "The harbour was quiet along the quay. " * 20
SYSTEM = "You are a helpful assistant."
CHAT, UNSTORED, STORED = "chat", "response, not stored", "response, stored"
KINDS = (CHAT, UNSTORED, STORED)
LENGTHS = (1, TURNS)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of the web process in microseconds per request, by pass."""

    kind: str
    turns: int
    passes_us: list[float]
    rps: float
    errors: int

    @property
    def us(self) -> float:
        return median(self.passes_us)


@dataclass(frozen=True, slots=True)
class Sessions:
    costs: list[Cost]
    rss_first_mb: float
    rss_last_mb: float
    streams: int

    def of(self, kind: str, turns: int) -> Cost:
        return next(cost for cost in self.costs if (cost.kind, cost.turns) == (kind, turns))

    def added(self, turns: int) -> tuple[float, list[float]]:
        """By storing: µs, and the share of chat in each pass. Within a pass, because a machine that is slower for some
        seconds would otherwise be taken for the cost of what it did then."""
        kinds = (self.of(kind, turns).passes_us for kind in KINDS)
        passes = [(stored - unstored, chat) for chat, unstored, stored in zip(*kinds, strict=True)]
        return median(added for added, _ in passes), [added / chat for added, chat in passes]

    def text(self) -> str:
        lines = [
            f"[stored sessions, {CONNECTIONS} connections] web CPU µs per request; ratios to chat of the same turn"
        ]
        lines.append(f"{'':24s}{'turn 1':>9s}{'ratio':>8s}{f'turn {TURNS}':>9s}{'ratio':>8s}")
        for kind in KINDS:
            cells = ""
            for turns in LENGTHS:
                cost = self.of(kind, turns)
                cells += f"{cost.us:9.0f}{cost.us / self.of(CHAT, turns).us:8.2f}"
            lines.append(f"{kind:24s}{cells}")
        for turns in LENGTHS:
            added, shares = self.added(turns)
            share = median(shares)
            low, _, high = quantiles(shares, n=4)
            verdict = "ok" if share <= STORED_LIMIT else "MISSED"
            lines.append(
                f"storing adds at turn {turns:2d}: {added:4.0f} µs, {share:.0%} of chat (half of {len(shares)} passes "
                f"from {low:.0%} to {high:.0%}; allowed {STORED_LIMIT:.0%})  {verdict}"
            )
        errors = sum(cost.errors for cost in self.costs)
        lines.append(f"errors: {errors}")
        lines.append(
            f"RSS after {FIRST_STREAMS} stored streams {self.rss_first_mb:.0f} MB, "
            f"after {self.streams} {self.rss_last_mb:.0f} MB"
        )
        return "\n".join(lines)


def measure_sessions(
    target: Target, *, tools: Tools, work: Path, rounds: int, seconds: float, say: Callable[[str], None]
) -> Sessions:
    """`target` is a Tollgate. Interleaved: each pass drives every kind once."""
    bodies = _bodies(target, work)
    samples: dict[tuple[str, int], list[tuple[float, Load]]] = {}
    for number in range(1, rounds + 1):
        for number_of_pass in range(PASSES):
            kinds = list(bodies.items())
            if (number * PASSES + number_of_pass) % 2:
                kinds.reverse()
            for (kind, turns), (path, body) in kinds:
                before = cpu_us(target.web())
                load = _drive(target, tools, path, body, seconds / PASSES)
                used = cpu_between(before, cpu_us(target.web()))
                samples.setdefault((kind, turns), []).append((used / max(1, load.issued), load))
            target.settle()
        say(f"sessions, round {number}/{rounds}")
    costs = [
        Cost(
            kind,
            turns,
            [us for us, _ in measured],
            median(load.rps for _, load in measured),
            sum(load.errors + load.non200 for _, load in measured),
        )
        for (kind, turns), measured in samples.items()
    ]
    streamed = _write(work, "streamed-response", {"model": MODEL, "input": PROMPT, "stream": True})
    first = last = 0.0
    streams = 0
    while streams < STREAMS:
        streams += _drive(target, tools, RESPONSES, streamed, 1.0).issued
        last = rss_mb(target.web()) or 0.0
        if streams >= FIRST_STREAMS and not first:
            first = last
    target.settle()
    return Sessions(costs, first, last, streams)


def _drive(target: Target, tools: Tools, path: str, body: Path, seconds: float) -> Load:
    return tools.drive(port=target.port, path=path, body=body, connections=CONNECTIONS, seconds=seconds, key=target.key)


def _bodies(target: Target, work: Path) -> dict[tuple[str, int], tuple[str, Path]]:
    """{(kind, turns): (path, body)}: turn 20 comes with nineteen turns before it, in the body or in the store."""
    parent, history = "", []
    for turn in range(TURNS - 1):
        question = f"Turn {turn}: {PROMPT}"
        body: dict[str, Any] = {"model": MODEL, "input": question} | (
            {"previous_response_id": parent} if parent else {}
        )
        answer = _post(target, RESPONSES, body)
        parent = answer["id"]
        text = answer["output"][0]["content"][0]["text"]
        history += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
    bodies = {}
    for turns in LENGTHS:
        messages = [*(history if turns > 1 else []), {"role": "user", "content": PROMPT}]
        chat = {"model": MODEL, "messages": [{"role": "system", "content": SYSTEM}, *messages]}
        body = {"model": MODEL, "instructions": SYSTEM}
        stored = {"input": PROMPT, "previous_response_id": parent} if turns > 1 else {"input": PROMPT}
        bodies[CHAT, turns] = (PATH, _write(work, f"chat-{turns}", chat))
        bodies[UNSTORED, turns] = (
            RESPONSES,
            _write(work, f"unstored-{turns}", body | {"input": messages, "store": False}),
        )
        bodies[STORED, turns] = (RESPONSES, _write(work, f"stored-{turns}", body | stored))
    return bodies


def _write(work: Path, name: str, body: dict[str, Any]) -> Path:
    path = work / f"{name}.json"
    path.write_text(json.dumps(body))
    return path


def _post(target: Target, path: str, body: dict[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {target.key}"}
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    if response.status != 200:
        raise BenchError(f"POST {path} answered {response.status}: {text[:300]!r}")
    answer: dict[str, Any] = json.loads(text)
    return answer
