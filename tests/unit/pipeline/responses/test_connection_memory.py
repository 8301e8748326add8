"""ConnectionMemory: whole chains of responses that are stored nowhere, bounded, each for its owner alone."""

from gateway.pipeline.responses.connection_memory import ConnectionMemory, TurnResponses
from gateway.protocol.dialects.responses.stored import Chain, Owner, StoredResponse
from gateway.state.unit_of_work import UnitOfWork
from tests.fakes.memory import play
from tests.fakes.responses import MemoryResponses

HOME, STRANGER = Owner("home", "team:one"), Owner("home", "team:two")


def response(
    response_id: str, parent_id: str = "", *, store: bool = False, status: str = "completed", size: int = 0
) -> StoredResponse:
    return StoredResponse(
        id=response_id,
        owner=HOME,
        parent_id=parent_id,
        conversation_id="",
        depth=1,
        model_group="public",
        deployment_id="first",
        provider="",
        is_background=False,
        is_streamed=True,
        created_s=1.0,
        completed_s=2.0,
        expires_s=3.0,
        input=({"type": "message", "id": f"msg_{response_id}", "content": "x" * size},),
        response={"id": response_id, "status": status, "store": store, "output": []},
    )


def ids(chain: Chain | None) -> list[str]:
    return [item["id"].removeprefix("msg_") for item in chain.items] if chain else []


async def take(memory: ConnectionMemory, stored: StoredResponse, lane: str = "") -> TurnResponses:
    """One turn as `respond` takes it: the parent is looked up, then the response is made."""
    turn = memory.turn(lane)
    if stored.parent_id:
        await turn.chain(HOME, stored.parent_id)
    turn.remember(stored)
    if stored.response["store"]:
        turn.add(UnitOfWork(), stored)
    return turn


async def chain_of(memory: ConnectionMemory, response_id: str, owner: Owner = HOME) -> list[str]:
    return ids(await memory.turn().chain(owner, response_id))


def test_a_chain_of_what_is_stored_nowhere_is_whole() -> None:
    async def story() -> None:
        store = MemoryResponses()
        memory = ConnectionMemory(store)
        await take(memory, response("a"))
        await take(memory, response("b", "a"))
        assert await chain_of(memory, "b") == ["a", "b"]
        assert store.lookups == []

    play(story())


def test_nobody_else_finds_it() -> None:
    async def story() -> None:
        memory = ConnectionMemory(MemoryResponses())
        await take(memory, response("a"))
        assert await chain_of(memory, "a", STRANGER) == []
        assert await memory.turn().find(STRANGER, "a") is None
        assert await chain_of(ConnectionMemory(MemoryResponses()), "a") == []

    play(story())


def test_what_is_stored_is_left_to_the_store() -> None:
    """So that one which is deleted there is gone here."""

    async def story() -> None:
        store = MemoryResponses()
        memory = ConnectionMemory(store)
        await take(memory, response("a", store=True))
        await take(memory, response("b", "a", store=True))
        assert memory.size_bytes == 0
        assert await chain_of(memory, "b") == ["a", "b"]
        await store.delete(HOME, "a")
        assert await chain_of(memory, "b") == []

    play(story())


def test_a_chain_crosses_from_the_store_into_memory_and_on() -> None:
    async def story() -> None:
        store = MemoryResponses()
        memory = ConnectionMemory(store)
        for stored in (
            response("a", store=True),
            response("b", "a", store=True),
            response("c", "b"),
            response("d", "c", store=True),
            response("e", "d"),
        ):
            await take(memory, stored)
        assert await chain_of(memory, "e") == ["a", "b", "c", "d", "e"]
        assert ids(await store.chain(HOME, "d")) == []  # elsewhere it cannot be continued
        await store.delete(HOME, "d")
        assert await chain_of(memory, "e") == []
        assert await chain_of(memory, "c") == ["a", "b", "c"]
        await store.delete(HOME, "a")
        assert await chain_of(memory, "c") == []

    play(story())


def test_only_the_latest_can_be_continued_each_with_its_whole_chain() -> None:
    async def story() -> None:
        memory = ConnectionMemory(MemoryResponses(), max_responses=2)
        await take(memory, response("a"))
        for stored, parent in (("b", "a"), ("c", "b"), ("d", "c")):
            await take(memory, response(stored, parent))
        assert await chain_of(memory, "d") == ["a", "b", "c", "d"]
        assert await chain_of(memory, "c") == ["a", "b", "c"]
        assert await chain_of(memory, "b") == []

    play(story())


def test_a_parent_that_is_forgotten_while_its_child_is_made_is_still_its_parent() -> None:
    async def story() -> None:
        memory = ConnectionMemory(MemoryResponses(), max_responses=1)
        await take(memory, response("a"))
        slow = memory.turn("slow")
        await slow.chain(HOME, "a")
        await take(memory, response("x"))
        slow.remember(response("b", "a"))
        assert await chain_of(memory, "b") == ["a", "b"]

    play(story())


def test_the_size_is_bounded_and_what_is_shared_counts_once() -> None:
    async def story() -> None:
        memory = ConnectionMemory(MemoryResponses(), max_bytes=2500)
        await take(memory, response("a", size=1000))
        await take(memory, response("b", "a", size=500))
        await take(memory, response("c", "a", size=500))  # a, b and c are less than 2,500 bytes together
        assert await chain_of(memory, "b") == ["a", "b"]
        await take(memory, response("d", size=1500))
        assert await chain_of(memory, "d") == ["d"]
        assert await chain_of(memory, "c") == []
        assert memory.size_bytes <= 2500
        await take(memory, response("e", size=3000))
        assert await chain_of(memory, "e") == []
        assert memory.size_bytes == 0

    play(story())


def test_a_turn_that_fails_forgets_its_parent_on_its_own_lane_only() -> None:
    async def story() -> None:
        memory = ConnectionMemory(MemoryResponses())
        await take(memory, response("a"), lane="left")
        for lane, left in (("right", ["a"]), ("left", [])):
            turn = memory.turn(lane)
            await turn.chain(HOME, "a")
            turn.fail()
            assert await chain_of(memory, "a") == left, lane

    play(story())


def test_a_response_that_cannot_be_continued_is_not_remembered() -> None:
    async def story() -> None:
        memory = ConnectionMemory(MemoryResponses())
        for status in ("failed", "cancelled"):
            await take(memory, response(status, status=status))
            assert await chain_of(memory, status) == []
        await take(memory, response("cut", status="incomplete"))
        assert await chain_of(memory, "cut") == ["cut"]

    play(story())


def test_an_item_of_it_can_be_referred_to() -> None:
    async def story() -> None:
        memory = ConnectionMemory(MemoryResponses())
        await take(memory, response("a"))
        response_row = await memory.turn().find(HOME, "a")
        assert response_row is not None
        assert response_row.id == "a"

    play(story())
