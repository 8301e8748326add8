"""A response in a conversation: what the model is sent, what is added, and that the hold ends on every path."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from gateway.pipeline.ports import Catalog
from gateway.pipeline.responses.conversations import (
    LEASE_S,
    MAX_ITEMS,
    RENEW_S,
    ConversationLease,
    assign_free_ids,
    conversation_locked,
)
from gateway.pipeline.responses.create import new_id
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.responses.turn import owner_of
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.stored import Item, Owner, StoredResponse
from gateway.protocol.errors import BadRequest, ClientFault, Fault, GatewayFault, NotFound, UpstreamFault
from gateway.state.unit_of_work import UnitOfWork
from tests.fakes.conversations import MemoryConversations, MemoryResponses, PlainSeal
from tests.fakes.memory import (
    FOREVER,
    JSON_ANSWER,
    PRINCIPAL,
    USAGE,
    WHOLE_ANSWER,
    WHOLE_STREAM,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    chunk,
    commit,
    data_of,
    event,
    play,
    services,
    target,
)
from tests.fakes.responses import respond

OWNER = owner_of(PRINCIPAL)
WHERE = (OWNER, "conv_1")
WHOLE = Script([WHOLE_ANSWER], headers=JSON_ANSWER)


def text_message(role: str, text: str, item_id: str = "") -> Item:
    kind = "output_text" if role == "assistant" else "input_text"
    content: list[dict[str, Any]] = [{"type": kind, "text": text}]
    return {"type": "message", "id": item_id or new_id("msg_"), "role": role, "status": "completed", "content": content}


def called(call_id: str) -> Item:
    return {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": "f", "arguments": "{}"}


def answered(call_id: str) -> Item:
    return {"type": "function_call_output", "id": f"fco_{call_id}", "call_id": call_id, "output": "done"}


@dataclass(slots=True)
class World:
    """One gateway, with one conversation; `log` is the order in which everything was written and sent."""

    history: tuple[Item, ...] = ()
    log: list[Any] = field(default_factory=list)
    ledger: MemoryLedger = field(init=False)
    responses: MemoryResponses = field(init=False)
    conversations: MemoryConversations = field(init=False)
    reply: MemoryReply = field(init=False)
    client: ScriptedClient = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self.log)
        self.responses = MemoryResponses(self.log)
        self.conversations = MemoryConversations(self.log, {WHERE: self.history})

    async def ask(self, *answers: Script | BaseException, model: str = "public", **fields: Any) -> Any:
        """The response object, or the last event of the stream."""
        self.client = ScriptedClient(answers, self.log)
        self.reply = MemoryReply(self.log)
        body = {"model": model, "conversation": "conv_1", "input": "hi", **fields}
        await respond(
            Inbound("00000000-0000-7000-8000-000000000000", {}, orjson.dumps(body)),
            PRINCIPAL,
            Catalog({(None, "public"): (target(),)}),
            services(self.client, self.ledger),
            ResponseServices(self.responses, self.conversations, commit, lambda _: PlainSeal(), 30),
            self.reply,
        )
        return data_of(self.reply.body)[-2] if fields.get("stream") else orjson.loads(self.reply.body)

    @property
    def sent(self) -> list[tuple[str, Any]]:
        """(role, content) of each message in the last request to the upstream."""
        body = orjson.loads(self.client.requests[-1].body)
        return [(message["role"], message.get("content")) for message in body["messages"]]

    @property
    def items(self) -> tuple[Item, ...]:
        return self.conversations.items[WHERE]

    @property
    def stored(self) -> StoredResponse:
        [stored] = self.responses.rows.values()
        return stored

    @property
    def steps(self) -> list[Any]:
        return [entry if isinstance(entry, str) else entry[0] for entry in self.log]

    @property
    def is_leased(self) -> bool:
        return bool(self.conversations.holders)


def texts(items: Any) -> list[str]:
    return [part["text"] for item in items for part in item["content"]]


def test_the_conversations_items_come_before_the_input_and_both_are_added_with_the_output() -> None:
    world = World((text_message("user", "one"), text_message("assistant", "two")))
    answer = play(world.ask(WHOLE))
    assert world.sent == [("user", "one"), ("assistant", "two"), ("user", "hi")]
    assert texts(world.items) == ["one", "two", "hi", "Hello"]
    assert world.items[-1]["id"] == answer["output"][0]["id"]
    assert answer["conversation"] == {"id": "conv_1"}
    assert not world.is_leased


def test_what_is_stored_of_the_response_is_its_own_input_alone() -> None:
    world = World((text_message("user", "one"), text_message("assistant", "two")))
    play(world.ask(WHOLE))
    assert texts(world.stored.input) == ["hi"]
    assert (world.stored.conversation_id, world.stored.parent_id) == ("conv_1", "")


@pytest.mark.parametrize("stream", [False, True])
def test_response_and_items_are_queued_before_the_spend_row_and_all_is_safe_before_the_last_byte(stream: bool) -> None:
    world = World()
    play(world.ask(Script(WHOLE_STREAM) if stream else WHOLE, stream=stream))
    at = [world.steps.index(step) for step in ("keep", "append", "close", "end" if stream else "body")]
    assert at == sorted(at)
    assert at[1] == at[0] + 1
    assert not world.is_leased


def test_without_store_the_items_are_added_and_no_response_is_kept() -> None:
    world = World()
    play(world.ask(WHOLE, store=False))
    assert texts(world.items) == ["hi", "Hello"]
    assert world.responses.rows == {}


def test_an_answer_that_was_cut_at_its_limit_is_added() -> None:
    world = World()
    cut = WHOLE_ANSWER.replace(b'"stop"', b'"length"')
    assert play(world.ask(Script([cut], headers=JSON_ANSWER)))["status"] == "incomplete"
    assert texts(world.items) == ["hi", "Hello"]
    assert not world.is_leased


FAULTS: dict[str, tuple[Script | BaseException, dict[str, Any], type[Fault]]] = {
    "the upstream refuses": (Script([b"{}"], status=400, headers=JSON_ANSWER), {}, UpstreamFault),
    "the upstream fails": (Script([b"{}"], status=500, headers=JSON_ANSWER), {}, UpstreamFault),
    "the upstream is not there": (UpstreamFault("gone"), {"stream": True}, UpstreamFault),
    "the stream breaks off": (Script([event(chunk("Hel"))]), {"stream": True}, UpstreamFault),
    "the model is unknown": (WHOLE, {"model": "nobody"}, ClientFault),
    "the model cannot do it": (WHOLE, {"tools": [{"type": "web_search"}]}, BadRequest),
    "a reference means nothing": (WHOLE, {"input": [{"type": "item_reference", "id": "msg_1"}]}, NotFound),
    "a call is unanswered": (WHOLE, {"input": [called("c1"), text_message("user", "on")]}, BadRequest),
}


@pytest.mark.parametrize(("answer", "fields", "kind"), FAULTS.values(), ids=FAULTS.keys())
def test_a_response_that_fails_adds_nothing_and_its_hold_has_ended_when_the_fault_is_told(
    answer: Script | BaseException, fields: dict[str, Any], kind: type[Fault]
) -> None:
    world = World()

    async def story() -> None:
        with pytest.raises(kind):
            await world.ask(answer, **fields)
        assert not world.is_leased
        assert (await world.ask(WHOLE))["status"] == "completed"

    play(story())
    assert texts(world.items) == ["hi", "Hello"]


def test_the_hold_of_a_stream_that_broke_off_ends_with_its_spend_row() -> None:
    world = World()

    async def story() -> None:
        with pytest.raises(UpstreamFault):
            await world.ask(Script([event(chunk("Hel"))]), stream=True)

    play(story())
    assert world.stored.status == "failed"
    at = world.steps.index("keep")
    assert world.steps[at : at + 3] == ["keep", "leave", "close"]
    assert world.items == ()


@pytest.mark.parametrize("pieces", [[FOREVER], [event(chunk("Hel")), FOREVER]], ids=["silent", "begun"])
def test_a_client_that_leaves_adds_nothing_and_leaves_no_hold(pieces: list[Any]) -> None:
    world = World()

    async def story() -> None:
        asking = asyncio.create_task(world.ask(Script(pieces), stream=True))
        await asyncio.sleep(1)
        assert world.is_leased
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not world.is_leased

    play(story())
    assert world.items == ()


def test_a_fault_is_told_as_it_was_where_the_end_of_the_hold_cannot_be_written() -> None:
    world = World()
    world.conversations.leave_fails = GatewayFault("The ledger is closed.")

    async def story() -> None:
        with pytest.raises(UpstreamFault):
            await world.ask(Script([b"{}"], status=500, headers=JSON_ANSWER))

    play(story())


def test_a_hold_is_renewed_within_its_lease_for_as_long_as_the_answer_takes_and_no_longer() -> None:
    assert 2 * RENEW_S < LEASE_S
    world = World()
    slow = [piece for part in WHOLE_STREAM for piece in (RENEW_S, part)]

    async def story() -> None:
        await world.ask(Script(slow), stream=True)
        renewed = world.steps.count("renew")
        assert renewed >= len(WHOLE_STREAM) - 1
        steps = list(world.steps)
        await asyncio.sleep(10 * RENEW_S)
        assert world.steps == steps

    play(story())


def test_while_a_response_is_made_another_is_refused_and_asks_no_upstream() -> None:
    world = World()

    async def story() -> None:
        first = asyncio.create_task(world.ask(Script([5.0, WHOLE_ANSWER], headers=JSON_ANSWER)))
        await asyncio.sleep(1)
        requests = world.client.requests
        with pytest.raises(ClientFault) as refused:
            await respond_again(world)
        assert (refused.value.status, refused.value.code) == (409, "conversation_locked")
        assert len(requests) == 1
        assert world.is_leased, "the other one's lease"
        await first

    play(story())
    assert texts(world.items) == ["hi", "Hello"]


async def respond_again(world: World) -> None:
    other = World(log=world.log)
    other.conversations = world.conversations
    await other.ask(WHOLE)


def test_a_client_may_try_again_after_a_409() -> None:
    assert conversation_locked().headers == ()


@pytest.mark.parametrize("conversation", ["conv_2", "no id/at all", "x" * 200])
def test_an_unknown_conversation_is_404_and_nothing_is_written(conversation: str) -> None:
    world = World()

    async def story() -> None:
        with pytest.raises(NotFound) as refused:
            await world.ask(WHOLE, conversation=conversation)
        assert refused.value.param == "conversation"
        assert str(refused.value) == f"Conversation with id '{conversation[:128]}' not found."

    play(story())
    assert world.log == []


def test_the_conversation_of_another_team_is_not_found() -> None:
    world = World()
    world.conversations.items = {(Owner(OWNER.organization_id, "team:other"), "conv_1"): ()}

    async def story() -> None:
        with pytest.raises(NotFound):
            await world.ask(WHOLE)

    play(story())


def test_half_a_pair_is_left_out_and_the_other_pairs_are_sent() -> None:
    history = (
        text_message("user", "one"),
        called("kept"),
        answered("kept"),
        called("half"),  # its output was deleted
        answered("other"),  # and here its call
        text_message("user", "two"),
    )
    world = World(history)
    play(world.ask(WHOLE))
    sent = orjson.loads(world.client.requests[-1].body)["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "user", "user"]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["kept"]
    assert len(world.items) == len(history) + 2, "what is there stays"


def test_the_calls_of_the_last_turn_wait_for_their_outputs() -> None:
    world = World((text_message("user", "one"), called("open")))

    async def story() -> None:
        with pytest.raises(BadRequest):
            await world.ask(WHOLE)
        await world.ask(WHOLE, input=[answered("open")])

    play(story())
    assert [role for role, _ in world.sent] == ["user", "assistant", "tool"]


def test_an_input_id_that_is_taken_gives_way_to_a_fresh_one_everywhere() -> None:
    world = World((text_message("user", "one", "mine"),))
    play(world.ask(WHOLE, input=[text_message("user", "two", "mine"), text_message("user", "three", "other")]))
    ids = [item["id"] for item in world.items]
    assert len(set(ids)) == len(ids) == 4
    assert (ids[0], ids[2]) == ("mine", "other")
    assert ids[1].startswith("msg_")
    assert [item["id"] for item in world.stored.input] == ids[1:3]


def test_a_reference_keeps_the_id_that_it_means_and_is_no_item_of_its_own() -> None:
    reference = {"type": "item_reference", "id": "mine"}
    assert assign_free_ids([reference], {"mine"}, new_id) == (reference,)

    async def story() -> None:
        conversations = MemoryConversations(items={WHERE: ()})
        lease = ConversationLease(conversations, *WHERE, "resp_1")
        lease.append(UnitOfWork(), [reference, text_message("user", "one")])
        assert texts(conversations.items[WHERE]) == ["one"]

    play(story())


def test_a_conversation_that_is_too_long_is_refused_by_name() -> None:
    world = World((text_message("user", "one"),) * (MAX_ITEMS + 1))

    async def story() -> None:
        with pytest.raises(BadRequest) as refused:
            await world.ask(WHOLE)
        assert (refused.value.code, refused.value.param) == ("conversation_too_long", "conversation")

    play(story())
    assert not world.is_leased


def test_without_a_conversation_nothing_is_entered() -> None:
    world = World()
    answer = play(world.ask(WHOLE, conversation=None))
    assert answer.get("conversation") is None
    assert not {"enter", "append", "leave"} & set(world.steps)
    assert USAGE["total_tokens"] == answer["usage"]["total_tokens"]
