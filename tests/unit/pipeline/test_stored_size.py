"""How large a request may be that is stored: refused before an upstream is asked, and only where something is kept."""

from typing import Any

import orjson
import pytest

from gateway.pipeline.ports import Catalog
from gateway.pipeline.respond import Sessions
from gateway.pipeline.run import Inbound
from gateway.protocol.errors import BadRequest
from tests.fakes.conversations import MemoryConversations, MemoryResponses, PlainSeal
from tests.fakes.memory import (
    JSON_ANSWER,
    PRINCIPAL,
    WHOLE_ANSWER,
    MemoryBooks,
    MemoryReply,
    Script,
    ScriptedClient,
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
            services(self.client, MemoryBooks([])),
            Sessions(self.responses, MemoryConversations(), lambda _: PlainSeal(), 30, max_stored_bytes=MOST),
            reply,
            lambda: 0.5,
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
    assert not world.responses.kept
    assert (await world.ask(input="x" * (MOST - 600)))["status"] == "completed"


async def test_only_what_is_kept_counts() -> None:
    world = World()
    assert (await world.ask(input="x" * MOST, store=False))["status"] == "completed"
    # What is not an item is not stored as one
    assert (await world.ask(input="hi", instructions="x" * MOST))["status"] == "completed"


async def test_references_bring_no_more_than_a_request_may_have() -> None:
    world = World()
    first = await world.ask(input="x" * (MOST // 2), metadata={})
    [stored] = world.responses.kept.values()
    world.client.requests.clear()
    reference = {"type": "item_reference", "id": stored.input[0]["id"]}
    fault = await world.refused(input=[reference, {"role": "user", "content": "z" * (MOST // 2)}])
    assert (fault.param, fault.code) == ("input", "input_too_large")
    assert first["id"] == stored.id
