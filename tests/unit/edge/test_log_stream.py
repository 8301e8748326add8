"""Following a background response: everything once and in order, from anywhere in it, to its end."""

import asyncio
from typing import Any

import orjson

from gateway.edge.log_stream import follow
from gateway.pipeline.attempt_timer import COMMENT
from gateway.protocol.dialects.responses.event_log import number_events
from gateway.protocol.dialects.responses.items import ENCRYPTED_REASONING
from gateway.protocol.json.types import JsonObject
from tests.fakes.background import MemoryRuns, stored
from tests.fakes.memory import MemoryReply, data_of, play

REASONING: JsonObject = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "opaque"}


def events_of(count: int, first: int = 0) -> list[JsonObject]:
    return number_events(
        [("response.output_text.delta", {"delta": f"w{first + number}"}) for number in range(count)], first
    )


def last(number: int, status: str = "completed") -> list[JsonObject]:
    return number_events([(f"response.{status}", {"response": {"status": status, "output": []}})], number)


async def following(runs: MemoryRuns, **changes: Any) -> MemoryReply:
    reply = MemoryReply()
    await reply.start_stream([])
    given: dict[str, Any] = {
        "include": frozenset(),
        "keepalive_s": 15.0,
        "is_draining": lambda: False,
    }
    await follow(stored(), runs, reply, **(given | changes))
    assert reply.is_complete
    return reply


def numbers(reply: MemoryReply) -> list[int]:
    return [event["sequence_number"] for event in data_of(reply.body) if event != "[DONE]"]


def test_what_is_there_is_told_and_then_what_comes() -> None:
    async def story() -> None:
        runs = MemoryRuns(told_events={"resp_1": events_of(10)})
        telling = asyncio.create_task(following(runs))
        for first in (10, 12, 14):
            await asyncio.sleep(1)
            runs.told_events["resp_1"] += events_of(2, first)
        await asyncio.sleep(1)
        runs.told_events["resp_1"] += last(16)
        reply = await telling
        assert numbers(reply) == list(range(17))
        assert data_of(reply.body)[-1] == "[DONE]"

    play(story())


def test_it_goes_on_behind_the_event_that_was_seen_last() -> None:
    runs = MemoryRuns(told_events={"resp_1": [*events_of(10), *last(10)]})
    assert numbers(play(following(runs, after=6))) == [7, 8, 9, 10]


def test_who_has_seen_the_end_is_told_nothing_more() -> None:
    runs = MemoryRuns(told_events={"resp_1": [*events_of(2), *last(2)]}, ended={"resp_1": stored(status="completed")})
    for after in (2, 3, 99):
        assert data_of(play(following(runs, after=after)).body) == ["[DONE]"]


def test_silence_is_filled_with_comments() -> None:
    async def story() -> None:
        runs = MemoryRuns(told_events={"resp_1": events_of(1)})
        telling = asyncio.create_task(following(runs, keepalive_s=5.0))
        await asyncio.sleep(16)
        runs.told_events["resp_1"] += last(1)
        assert (await telling).body.count(COMMENT) == 3

    play(story())


def test_a_response_that_is_deleted_has_no_more_to_tell() -> None:
    async def story() -> None:
        runs = MemoryRuns(told_events={"resp_1": events_of(1)})
        telling = asyncio.create_task(following(runs))
        await asyncio.sleep(1)
        del runs.told_events["resp_1"]
        assert data_of((await telling).body)[1:] == ["[DONE]"]

    play(story())


def test_a_process_that_is_told_to_stop_lets_its_followers_go_on_elsewhere() -> None:
    runs = MemoryRuns(told_events={"resp_1": events_of(4)})
    reply = play(following(runs, is_draining=lambda: True))
    assert numbers(reply) == [0, 1, 2, 3]
    assert b"[DONE]" not in reply.body


def test_what_was_not_asked_for_is_not_shown() -> None:
    item = number_events([("response.output_item.done", {"output_index": 0, "item": REASONING})], 0)
    runs = MemoryRuns(told_events={"resp_1": [*item, *last(1)]})
    hidden = play(following(runs)).body
    shown = play(following(runs, include=frozenset({ENCRYPTED_REASONING}))).body
    assert b"opaque" not in hidden
    assert orjson.loads(shown.split(b"data: ")[1].split(b"\n")[0])["item"] == REASONING
