"""U17 and U19: streams of every provider that go on behind their end, or hold what is not known yet."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.protocol.provider import Target
from gateway.protocol.sse import EventSplitter
from gateway.providers.registry import PREFIXES
from tests.fakes.provider_cases import MOMENT, Case, call_of, cases, streamed
from tests.unit.providers import test_anthropic, test_ollama
from tests.unit.providers.test_wire_cases import of, target_of

FindTarget = Callable[[Case], Target]
UNKNOWN = (
    b'event: from_the_future\ndata: {"type": "from_the_future", "object": "x", "choices": [], "new": [1]}\n\n',
    b": a comment\n\n",
    b"retry: 10\nid: 7\n\n",
)


def with_targets(find_target: FindTarget, found: list[Any]) -> list[Any]:
    return [pytest.param(one.values[0], find_target, id=one.id) for one in found]


OPENAI = with_targets(target_of, of("stream"))
ANTHROPIC = with_targets(test_anthropic.where, cases("anthropic_stream_text", kind="stream"))
OLLAMA = with_targets(test_ollama.target_of, cases("ollama_", kind="stream"))
ENDING = [one for one in OPENAI if "[DONE]" in one.values[0]["provider_wire"]["body_text"]]


def body_of(case: Case) -> bytes:
    body: bytes = case["provider_wire"]["body_text"].encode()
    return body


def whole(case: Case, target: Target, *pieces: bytes) -> Any:
    return streamed(target.provider, target, call_of(case), pieces).whole()


@pytest.mark.parametrize(("case", "find_target"), [*ENDING, *ANTHROPIC, *OLLAMA])
def test_u17_what_comes_behind_the_end_is_dropped(case: Case, find_target: FindTarget) -> None:
    body, target = body_of(case), replace(find_target(case), provider=PREFIXES[case["provider"]])
    expected = whole(case, target, body)
    assert whole(case, target, body + body) == expected, "in one piece"
    assert whole(case, target, body + b"data: [DONE]\n\n") == expected
    relay = target.provider.relay(call_of(case), target, MOMENT)
    relay.feed(body)
    assert relay.is_done, "nothing more is read: the connection is closed and not used again"


@pytest.mark.parametrize(("case", "find_target"), [*OPENAI, *ANTHROPIC])
def test_u19_unknown_events_change_nothing_wherever_they_stand(case: Case, find_target: FindTarget) -> None:
    body, target = body_of(case), replace(find_target(case), provider=PREFIXES[case["provider"]])
    expected = whole(case, target, body)
    splitter = EventSplitter()
    events = [part + b"\n\n" for part in splitter.feed(body) + splitter.finish()]
    for unknown in UNKNOWN:
        for place in range(1, len(events)):
            result = whole(case, target, *events[:place], unknown, *events[place:])
            assert result["choices"] == expected["choices"], f"{unknown!r} before event {place}"
            assert result["usage"] == expected["usage"]
