"""The size of a stored request: a larger one is refused before an upstream is asked, unless nothing is stored."""

import weakref
from typing import Any

import orjson
import pytest

from gateway.pipeline.ports import Catalog
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.stored import Owner, StoredResponse
from gateway.protocol.errors import BadRequest, NotFound
from tests.fakes.background import stored as a_stored
from tests.fakes.conversations import MemoryConversations, MemoryResponses, PlainSeal
from tests.fakes.memory import (
    JSON_ANSWER,
    PRINCIPAL,
    WHOLE_ANSWER,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    commit,
    services,
    target,
)
from tests.fakes.responses import respond

MOST = 4096


class World:
    def __init__(self) -> None:
        self.responses = MemoryResponses()
        self.client = ScriptedClient([Script([WHOLE_ANSWER], headers=JSON_ANSWER)] * 2, [])

    async def ask(self, **body: Any) -> Any:
        reply = MemoryReply([])
        await respond(
            Inbound("00000000-0000-7000-8000-000000000000", {}, orjson.dumps({"model": "public", **body})),
            PRINCIPAL,
            Catalog({(None, "public"): (target(),)}),
            services(self.client, MemoryLedger([])),
            ResponseServices(
                self.responses, MemoryConversations(), commit, lambda _: PlainSeal(), 30, max_stored_bytes=MOST
            ),
            reply,
        )
        return orjson.loads(reply.body)

    async def refused(self, **body: Any) -> BadRequest:
        with pytest.raises(BadRequest) as fault:
            await self.ask(**body)
        assert not self.client.requests
        return fault.value


async def test_an_input_that_is_too_large_to_store_is_refused_and_no_upstream_is_asked() -> None:
    world = World()
    fault = await world.refused(input="x" * (MOST + 1))
    assert (fault.param, fault.code, fault.status) == ("input", "input_too_large", 400)
    assert not world.responses.rows
    assert (await world.ask(input="x" * (MOST - 600)))["status"] == "completed"


async def test_only_what_is_kept_counts() -> None:
    world = World()
    assert (await world.ask(input="x" * MOST, store=False))["status"] == "completed"
    # What is not an item is not stored as one
    assert (await world.ask(input="hi", instructions="x" * MOST))["status"] == "completed"


async def test_references_bring_no_more_than_a_request_may_have() -> None:
    world = World()
    first = await world.ask(input="x" * (MOST // 2), metadata={})
    [stored] = world.responses.rows.values()
    world.client.requests.clear()
    reference = {"type": "item_reference", "id": stored.input[0]["id"]}
    fault = await world.refused(input=[reference, {"role": "user", "content": "z" * (MOST // 2)}])
    assert (fault.param, fault.code) == ("input", "input_too_large")
    assert first["id"] == stored.id


TOKENS = tuple(f"{number:048x}" for number in range(3))


class Tracked(dict[str, Any]):
    """An item whose end can be seen."""

    __slots__ = ("__weakref__",)


class LongResponses(MemoryResponses):
    """Responses of ten items, which are read anew each time, as out of a database. `alive`: at each reading, how many
    items of the earlier ones are there still."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.items: list[weakref.ref[Tracked]] = []
        self.alive: list[int] = []

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        self.alive.append(sum(item() is not None for item in self.items))
        ids = [item_id(response_id.removeprefix("resp_"), place) for place in range(10)]
        content = [{"type": "input_text", "text": "x" * self.size}]
        items = [Tracked(type="message", id=one, role="user", content=content) for one in ids]
        self.items += map(weakref.ref, items)
        return a_stored(response_id, owner=owner, input=tuple(items))


def item_id(token: str, place: int) -> str:
    return f"msg_{token}{place:04x}"


def references(*ids: str) -> list[dict[str, str]]:
    return [{"type": "item_reference", "id": one} for one in ids]


async def test_of_a_response_nothing_is_kept_in_memory_but_what_the_request_refers_to() -> None:
    world = World()
    world.responses = responses = LongResponses(size=10)
    references_input = references(*(item_id(token, place) for place in (3, 7) for token in TOKENS))
    assert (await world.ask(input=references_input))["status"] == "completed"
    assert responses.alive == [0, 2, 4]  # each was read once
    [stored] = responses.rows.values()
    assert [item["id"] for item in stored.input] == [one["id"] for one in references_input]


async def test_what_a_request_refers_to_counts_before_the_next_response_is_read() -> None:
    world = World()
    world.responses = responses = LongResponses(size=MOST // 4)
    references_input = references(*(item_id(token, place) for place in (0, 1, 2, 3, 4) for token in TOKENS))
    fault = await world.refused(input=references_input)
    assert (fault.param, fault.code) == ("input", "input_too_large")
    assert len(responses.alive) == 1


async def test_an_item_that_a_response_does_not_have_is_named_by_its_place() -> None:
    world = World()
    world.responses = LongResponses(size=10)
    with pytest.raises(NotFound) as fault:
        await world.ask(input=references(item_id(TOKENS[0], 1), item_id(TOKENS[0], 10)))
    assert (fault.value.param, fault.value.code) == ("input[1].id", "item_not_found")
