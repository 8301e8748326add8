"""Conversations in either database: who holds one, what is in it and in which order.

Every promise is about what other processes see, so nothing here runs inside a test's transaction.
"""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from django.db import transaction
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.models import BackgroundRun, Conversation, ConversationItem, StoredResponse
from gateway.pipeline.responses.conversations import MAX_ITEMS, ConversationContents
from gateway.pipeline.responses.create import new_id
from gateway.pipeline.responses.limits import MAX_HISTORY_BYTES
from gateway.protocol.dialects.responses.stored import Item, Owner, StoredConversation
from gateway.protocol.errors import BadRequest, ClientFault, GatewayFault, NotFound
from gateway.state.group_commit import GroupCommit
from gateway.state.packing import DEFLATED_FROM_BYTES, pack, pack_response
from gateway.state.spool import Spool
from gateway.state.sqlite_reader import YIELD_BYTES
from gateway.state.statement import DatabaseAway, Operation
from gateway.stores.conversations import ENTERED, ERASED_AT_ONCE, ITEMS, RENEW, STATEMENTS, ConversationStore
from gateway.stores.responses import erase
from gateway.stores.run_events import LOST, end_run
from gateway.stores.runs import WORKER_GONE
from tenants.models import DEFAULT_ORGANIZATION
from tests.contract.replica import backend, commit, in_thread, reader

PATIENCE_S = 30
HOME = Owner(DEFAULT_ORGANIZATION, "team:home")
OTHER_TEAM = Owner(DEFAULT_ORGANIZATION, "team:other")
ABROAD = Owner("abroad", "team:home")
STRANGERS = (OTHER_TEAM, ABROAD)

# Only the gateway's tables are emptied after a test: the default organization stays.
pytestmark = pytest.mark.django_db(transaction=True, available_apps=["gateway"])
Result = TypeVar("Result")


@pytest.fixture(autouse=True)
def home() -> Iterator[None]:
    with scopes_disabled():
        yield


class Batches:
    """A backend that records which statements were written together. While it `is_cut` the outcome of a write is
    unknown."""

    def __init__(self) -> None:
        self._inner = backend()
        self.names: list[list[str]] = []
        self.has_written = asyncio.Event()
        self.renewed = asyncio.Event()
        self.is_cut = False

    def write_now(self, operation: Operation) -> bool:
        return not self.is_cut and self._inner.write_now(operation)

    async def write(self, operations: Any) -> None:
        if self.is_cut:
            raise DatabaseAway("cut")
        await self._inner.write(operations)
        if operations:  # not a look whether the database is back
            self.names.append([statement.name for statement, _ in operations])
            self.has_written.set()
            if any(statement is RENEW for statement, _ in operations):
                self.renewed.set()

    async def close(self) -> None:
        await self._inner.close()


class Process:
    """The stores of one replica. `late_s`: how far its clock is behind."""

    def __init__(self, folder: Path, name: str, late_s: float = 0) -> None:
        self.batches = Batches()
        self.commits = GroupCommit(self.batches, Spool(folder / name, name, STATEMENTS), retry_s=0.05)
        self._reader = reader()
        self._now = lambda: time.time() - late_s
        self.store = self.limited(MAX_HISTORY_BYTES)

    def limited(self, most: int) -> ConversationStore:
        """A store that reads no more than so many bytes of items at once."""
        return ConversationStore(
            self.commits, self._reader, in_thread, new_id, now=self._now, max_history_bytes=most, renew_s=0.05
        )

    async def append(self, *values: Any) -> None:
        await commit(self.commits, self.store.append, *values)

    async def take_turn(self, conversation_id: str, response_id: str, items: list[Item]) -> None:
        """Enters the conversation as soon as it is free, and adds the items."""
        while True:
            try:
                await self.store.enter(HOME, conversation_id, response_id)
                break
            except ClientFault:
                await asyncio.sleep(0.01)
        await self.append(HOME, conversation_id, response_id, items)

    async def __aenter__(self) -> "Process":
        await self.commits.open()
        await self._reader.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.commits.close()
        await self._reader.close()


Story = Callable[[Process, Process], Awaitable[Result]]


@pytest.fixture
def tell(tmp_path: Path) -> Callable[[Story[Any]], Any]:
    """Runs a story of two replicas; the clock of the second is a minute late."""

    def run(story: Story[Any]) -> Any:
        async def whole() -> Any:
            async with Process(tmp_path, "one") as one, Process(tmp_path, "two", late_s=60) as two:
                return await asyncio.wait_for(story(one, two), PATIENCE_S)

        return asyncio.run(whole())

    return run


def message(text: str, item_id: str = "") -> Item:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "id": item_id or new_id("msg_"), "role": "user", "content": content}


def texts(items: Any) -> list[str]:
    return [item["content"][0]["text"] for item in items]


async def opened(process: Process, *items: str, metadata: dict[str, str] | None = None) -> str:
    conversation = StoredConversation(new_id("conv_"), HOME, time.time(), metadata or {})
    await process.store.create(conversation, [message(text) for text in items])
    return conversation.id


async def read_texts(process: Process, conversation_id: str) -> list[str]:
    page = await process.store.page(HOME, conversation_id, limit=100, is_descending=False, after="")
    assert page is not None
    return texts(page.data)


async def is_free(process: Process, conversation_id: str) -> bool:
    """The items as a response reads them, which leaves the conversation again."""
    probe = new_id("resp_")
    try:
        await process.store.enter(HOME, conversation_id, probe)
    except ClientFault as fault:
        return (fault.status, fault.code) != (409, "conversation_locked")
    await process.store.leave(HOME, conversation_id, probe)
    return True


def change(conversation_id: str, **columns: Any) -> Callable[[], Any]:
    def write() -> None:
        with scopes_disabled():
            assert Conversation.objects.filter(pk=conversation_id).update(**columns)

    return write


Tell = Callable[[Story[Any]], Any]


def test_a_conversation_is_there_for_its_owner_at_once_on_the_other_replica(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one, "first", "second", metadata={"topic": "demo"})
        conversation = await two.store.find(HOME, conversation_id)
        assert conversation is not None
        assert (conversation.id, conversation.owner, conversation.metadata) == (
            conversation_id,
            HOME,
            {"topic": "demo"},
        )
        assert texts((await two.store.enter(HOME, conversation_id, "resp_1")).items) == ["first", "second"]
        changed = await two.store.update(HOME, conversation_id, {"topic": "other"})
        assert changed is not None
        assert changed.metadata == {"topic": "other"}

    tell(story)


def test_a_stranger_finds_changes_and_holds_nothing(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        item = message("first")
        conversation = StoredConversation(new_id("conv_"), HOME, time.time(), {})
        await one.store.create(conversation, [item])
        for stranger in STRANGERS:
            where = stranger, conversation.id
            assert await two.store.find(*where) is None
            assert await two.store.update(*where, {"a": "b"}) is None
            assert await two.store.page(*where, limit=9, is_descending=True, after="") is None
            assert await two.store.item(*where, item["id"]) is None
            assert await two.store.add(*where, [message("mine")]) is None
            assert await two.store.remove(*where, item["id"]) is None
            assert await two.store.delete(*where) is False
            with pytest.raises(NotFound) as foreign:
                await two.store.enter(*where, "resp_stranger")
            with pytest.raises(NotFound) as unknown:
                await two.store.enter(stranger, "conv_unknown", "resp_stranger")
            assert str(foreign.value).replace(conversation.id, "conv_unknown") == str(unknown.value)
            await two.append(*where, "resp_stranger", [message("mine")])
        assert await is_free(one, conversation.id)
        assert await read_texts(one, conversation.id) == ["first"]

    tell(story)


def test_one_response_holds_a_conversation_until_it_adds_its_items(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one, "first")
        await one.store.enter(HOME, conversation_id, "resp_1")
        assert not await is_free(two, conversation_id)
        assert not await is_free(one, conversation_id)
        await one.append(HOME, conversation_id, "resp_1", [message("question"), message("answer")])
        assert texts((await two.store.enter(HOME, conversation_id, "resp_2")).items) == ["first", "question", "answer"]

    tell(story)


def cancelled(response_id: str) -> None:
    assert end_run(HOME.organization_id, response_id, status="cancelled")


def failed(response_id: str) -> None:
    assert end_run(HOME.organization_id, response_id, status="failed", error=WORKER_GONE)


def deleted(response_id: str) -> None:
    assert erase([response_id]) == 1


@pytest.mark.parametrize(
    ("end", "expected"), [(None, ["made"]), (cancelled, []), (failed, []), (deleted, [])],
    ids=["alive", "cancelled", "failed", "deleted"],
)  # fmt: skip
def test_what_was_cancelled_or_deleted_meanwhile_adds_nothing(
    tell: Tell, end: Callable[[str], None] | None, expected: list[str]
) -> None:
    def end_elsewhere(conversation_id: str) -> None:
        at = timezone.now() - 2 * LOST
        body, head = pack_response([], {"id": "resp_1", "status": "queued", "output": []})
        with scopes_disabled():
            StoredResponse.objects.create(
                id="resp_1", organization_id=HOME.organization_id, owner=HOME.scope, status="in_progress",
                conversation_id=conversation_id, created_at=at, expires_at=at, body=body, head=head,
            )  # fmt: skip
            if end is not None:
                with transaction.atomic():
                    end("resp_1")

    async def story(one: Process, two: Process) -> list[str]:
        conversation_id = await opened(one)
        await one.store.enter(HOME, conversation_id, "resp_1")
        await in_thread(end_elsewhere, conversation_id)
        await one.append(HOME, conversation_id, "resp_1", [message("made")])
        contents = await two.store.enter(HOME, conversation_id, "resp_2")
        assert texts(await two.store.read(HOME, conversation_id)) == texts(contents.items)
        return texts(await two.store.read(HOME, conversation_id))

    assert tell(story) == expected


@pytest.mark.parametrize("is_ended", [True, False], ids=["the other has ended", "the other is being made"])
def test_a_late_close_adds_nothing_to_a_conversation_that_another_has_entered(tell: Tell, is_ended: bool) -> None:
    async def story(one: Process, two: Process) -> list[str]:
        conversation_id = await opened(one)
        await one.store.enter(HOME, conversation_id, "resp_late")
        await in_thread(change(conversation_id, locked_until=timezone.now() - timedelta(seconds=1)))
        await two.store.enter(HOME, conversation_id, "resp_2")
        if is_ended:
            await two.append(HOME, conversation_id, "resp_2", [message("second")])
        one.store.keep(HOME, conversation_id, "resp_late")
        await one.batches.renewed.wait()  # which must not bring the conversation back
        await one.append(HOME, conversation_id, "resp_late", [message("late")])
        assert await is_free(one, conversation_id) is is_ended
        if not is_ended:
            await two.append(HOME, conversation_id, "resp_2", [message("second")])
        return await read_texts(two, conversation_id)

    assert tell(story) == ["second"]


def test_a_late_close_adds_its_items_where_no_other_has_entered(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> list[str]:
        conversation_id = await opened(one)
        await one.store.enter(HOME, conversation_id, "resp_late")
        await in_thread(change(conversation_id, locked_until=timezone.now() - timedelta(hours=1)))
        await one.append(HOME, conversation_id, "resp_late", [message("late")])
        return await read_texts(two, conversation_id)

    assert tell(story) == ["late"]


def test_the_leases_of_a_process_are_renewed_together(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversations = [await opened(one) for _ in range(20)]
        for conversation_id in conversations:
            await one.store.enter(HOME, conversation_id, "resp_1")
            await in_thread(change(conversation_id, locked_until=timezone.now() - timedelta(seconds=1)))
        one.batches.names.clear()
        for conversation_id in conversations:
            one.store.keep(HOME, conversation_id, "resp_1")
        await one.batches.renewed.wait()
        assert one.batches.names[:1] == [["renew conversation"] * len(conversations)]
        for conversation_id in conversations:
            assert not await is_free(two, conversation_id)
            await one.store.leave(HOME, conversation_id, "resp_1")

    tell(story)


def test_the_deployment_that_answered_last_is_told(tell: Tell) -> None:
    async def story(one: Process, _: Process) -> list[str]:
        conversation_id = await opened(one, "first")
        deployments = [(await one.store.enter(HOME, conversation_id, "resp_1")).deployment_id]
        for minute, deployment_id in enumerate(["early", "late", ""]):
            await in_thread(answered(conversation_id, deployment_id, minute))
            await in_thread(answered("conv_other", f"other {deployment_id}", 10 + minute))
        return [*deployments, (await one.store.enter(HOME, conversation_id, "resp_1")).deployment_id]

    assert tell(story) == ["", "late"]


def answered(conversation_id: str, deployment_id: str, minute: int) -> Callable[[], Any]:
    """`deployment_id` is empty for one that is being made."""
    at = timezone.now() + timedelta(minutes=minute)

    def write() -> None:
        with scopes_disabled():
            StoredResponse.objects.create(
                id=new_id("resp_"), organization_id=HOME.organization_id, owner=HOME.scope, status="completed",
                created_at=at, expires_at=at, body=b"{}", conversation_id=conversation_id, deployment_id=deployment_id,
            )  # fmt: skip

    return write


def test_a_look_holds_nothing_and_waits_for_nobody(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one, "first")
        await one.store.enter(HOME, conversation_id, "resp_1")
        assert texts(await two.store.read(HOME, conversation_id)) == ["first"]
        for stranger in STRANGERS:
            with pytest.raises(NotFound):
                await two.store.read(stranger, conversation_id)

    tell(story)


def test_the_items_and_the_end_of_the_hold_are_one_transaction(tell: Tell) -> None:
    async def story(one: Process, _: Process) -> list[list[str]]:
        conversation_id = await opened(one)
        await one.store.enter(HOME, conversation_id, "resp_1")
        one.batches.names.clear()
        await one.append(HOME, conversation_id, "resp_1", [message("question"), message("answer")])
        return one.batches.names

    added = "append to conversation"
    assert tell(story) == [["release conversation", added, added]]


def test_a_hold_that_was_given_up_is_free_and_nobody_gives_up_that_of_another(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one)
        await one.store.enter(HOME, conversation_id, "resp_1")
        await two.store.leave(HOME, conversation_id, "resp_2")
        assert not await is_free(two, conversation_id)
        # Both in one batch: that of another must not hide the one that counts
        await asyncio.gather(
            one.store.leave(HOME, conversation_id, "resp_2"),
            one.store.leave(HOME, conversation_id, "resp_1"),
            one.store.leave(HOME, conversation_id, "resp_3"),
        )
        assert await is_free(two, conversation_id)

    tell(story)


def test_of_many_that_enter_at_once_on_two_replicas_one_gets_in(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        for _ in range(10):
            conversation_id = await opened(one)
            outcomes = await asyncio.gather(
                *(
                    process.store.enter(HOME, conversation_id, new_id("resp_"))
                    for process in (one, two, one, two, one, two)
                ),
                return_exceptions=True,
            )
            refused = [outcome for outcome in outcomes if isinstance(outcome, ClientFault)]
            assert [fault.code for fault in refused] == ["conversation_locked"] * 5
            assert outcomes.count(ConversationContents(())) == 1

    tell(story)


def test_a_hold_without_a_sign_of_life_ends_with_its_lease(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one)
        await one.store.enter(HOME, conversation_id, "resp_dead")
        await in_thread(change(conversation_id, locked_until=timezone.now() + timedelta(seconds=20)))
        assert not await is_free(two, conversation_id)
        await in_thread(change(conversation_id, locked_until=timezone.now() - timedelta(seconds=1)))
        assert await is_free(two, conversation_id)

    tell(story)


def test_a_sign_of_life_renews_a_hold_and_takes_none_from_another(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one)
        await one.store.enter(HOME, conversation_id, "resp_1")
        await in_thread(change(conversation_id, locked_until=timezone.now() - timedelta(seconds=1)))
        one.store.keep(HOME, conversation_id, "resp_1")
        await one.batches.renewed.wait()
        assert not await is_free(two, conversation_id)
        await two.store.leave(HOME, conversation_id, "resp_1")
        await two.store.enter(HOME, conversation_id, "resp_2")
        one.batches.renewed.clear()
        await one.batches.renewed.wait()
        await one.store.leave(HOME, conversation_id, "resp_1")
        assert not await is_free(one, conversation_id)

    tell(story)


def test_a_background_response_holds_its_conversation_while_its_run_waits_or_is_renewed(tell: Tell) -> None:
    def queue() -> None:
        with scopes_disabled():
            BackgroundRun.objects.create(
                response_id="resp_background",
                organization_id=DEFAULT_ORGANIZATION,
                key_digest="d",
                request_id="r",
                request=b"{}",
                queued_at=timezone.now(),
            )

    def claim(lease_s: float) -> Callable[[], None]:
        def write() -> None:
            with scopes_disabled():
                until = timezone.now() + timedelta(seconds=lease_s)
                BackgroundRun.objects.update(worker_id="worker", lease_until=until)

        return write

    def end() -> None:
        with scopes_disabled():
            BackgroundRun.objects.all().delete()

    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one, "first")
        await one.store.enter(HOME, conversation_id, "resp_background")
        await in_thread(queue)
        await in_thread(change(conversation_id, locked_until=timezone.now() - timedelta(hours=1)))
        assert not await is_free(two, conversation_id)
        assert texts((await two.store.enter(HOME, conversation_id, "resp_background")).items) == ["first"]  # its worker
        await in_thread(change(conversation_id, locked_until=timezone.now() - timedelta(hours=1)))
        await in_thread(claim(20))
        assert not await is_free(two, conversation_id)
        await in_thread(claim(-1))  # its worker was killed; the sweeper comes later
        assert await is_free(two, conversation_id)
        await one.store.enter(HOME, conversation_id, "resp_background")
        await in_thread(change(conversation_id, locked_until=timezone.now() - timedelta(hours=1)))
        await in_thread(end)
        assert await is_free(two, conversation_id)

    tell(story)


def test_a_client_that_leaves_while_its_response_enters_leaves_no_hold(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one)
        for turns in range(6):
            entering = asyncio.create_task(one.store.enter(HOME, conversation_id, f"resp_{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not entering.cancel():  # it had entered: the test releases it
                await one.store.leave(HOME, conversation_id, f"resp_{turns}")
            await asyncio.gather(entering, return_exceptions=True)
            await one.store.leave(HOME, conversation_id, "resp_nobody")  # behind it in the queue
            assert await is_free(two, conversation_id)

    tell(story)


def test_a_hold_that_is_written_after_its_response_was_refused_ends(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one)
        one.batches.is_cut = True
        with pytest.raises(GatewayFault):
            await one.store.enter(HOME, conversation_id, "resp_1")
        await two.store.enter(HOME, conversation_id, "resp_1")  # as the database does it late
        assert not await is_free(two, conversation_id)
        one.batches.is_cut = False
        await one.batches.has_written.wait()
        assert await is_free(two, conversation_id)

    tell(story)


def test_a_response_enters_while_a_long_conversation_is_read(tell: Tell) -> None:
    def make_long(conversation_id: str) -> Callable[[], Any]:
        body = b'"' + b"x" * YIELD_BYTES + b'"'
        return lambda: ConversationItem.objects.bulk_create(
            ConversationItem(
                conversation_id=conversation_id,
                organization_id=DEFAULT_ORGANIZATION,
                item_id=f"item_{number}",
                position=number,
                body=zlib.compress(body, 0),
            )
            for number in range(8)
        )

    async def story(one: Process, two: Process) -> None:
        long_id, short_id = await opened(one), await opened(one, "hi")
        await in_thread(make_long(long_id))
        reading = asyncio.create_task(one.store.read(HOME, long_id))
        await asyncio.sleep(0)
        assert texts((await one.store.enter(HOME, short_id, "resp_1")).items) == ["hi"]
        assert len(await reading) == 8
        assert not await is_free(two, short_id)

    tell(story)


@pytest.mark.parametrize("text", ["x", "x" * 2 * DEFLATED_FROM_BYTES], ids=["plain", "deflated"])
def test_a_conversation_that_is_too_large_is_refused_by_its_name_and_is_not_held(tell: Tell, text: str) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one, *[text] * 3)
        items = await one.store.read(HOME, conversation_id)
        whole = sum(len(orjson.dumps(item)) for item in items)
        assert await one.limited(whole).read(HOME, conversation_id) == items
        assert (await one.limited(whole).enter(HOME, conversation_id, "resp_1")).items == items
        await one.store.leave(HOME, conversation_id, "resp_1")
        for most in (whole - 1, 1):
            small = one.limited(most)
            for reading in (small.enter(HOME, conversation_id, "resp_2"), small.read(HOME, conversation_id)):
                with pytest.raises(BadRequest) as refused:
                    await reading
                assert (refused.value.code, refused.value.param) == ("history_too_large", "conversation")
            await one.store.leave(HOME, conversation_id, "resp_nobody")  # behind it in the queue
            assert await is_free(two, conversation_id)

    tell(story)


def test_of_a_conversation_that_is_too_large_no_item_is_read(tell: Tell) -> None:
    async def story(one: Process, _: Process) -> None:
        conversation_id = await opened(one, "first", "second")
        await one.store.enter(HOME, conversation_id, "resp_1")
        where = (conversation_id, HOME.organization_id, HOME.scope)
        under_test = reader()
        await under_test.open()
        for query, parameters in ((ENTERED, (*where, "resp_1", 10)), (ITEMS, (*where, 10))):
            [row] = await under_test.fetch(query, parameters)
            assert row[-1] is None
        await under_test.close()

    tell(story)


def test_items_stand_in_the_order_in_which_they_were_added_whatever_the_clocks_say(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> list[str]:
        conversation_id = await opened(one, "a", "b")
        for round_ in range(3):
            await two.store.add(HOME, conversation_id, [message(f"two {round_}"), message(f"and {round_}")])
            await two.take_turn(conversation_id, "resp", [message(f"late {round_}"), message(f"end {round_}")])
            await one.take_turn(conversation_id, "resp", [message(f"one {round_}")])
        items = texts((await one.store.enter(HOME, conversation_id, "resp")).items)
        assert items == await read_texts(two, conversation_id)
        return items

    rounds = [[f"two {n}", f"and {n}", f"late {n}", f"end {n}", f"one {n}"] for n in range(3)]
    assert tell(story) == ["a", "b", *rounds[0], *rounds[1], *rounds[2]]


def test_writers_that_add_at_once_lose_nothing_and_keep_each_write_together(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> list[str]:
        conversation_id = await opened(one)
        await asyncio.gather(
            *(
                process.store.add(HOME, conversation_id, [message(f"add {n} {part}") for part in range(3)])
                for n, process in enumerate((one, two, one, two))
            ),
            *(
                process.take_turn(conversation_id, f"resp_{n}", [message(f"append {n} {part}") for part in range(3)])
                for n, process in enumerate((one, two, one, two))
            ),
        )
        return await read_texts(one, conversation_id)

    history = tell(story)
    assert len(set(history)) == len(history) == 24
    for kind in ("add", "append"):
        for n in range(4):
            mine = [text for text in history if text.startswith(f"{kind} {n} ")]
            assert mine == [f"{kind} {n} {part}" for part in range(3)]


def test_a_write_that_is_replayed_adds_nothing_twice(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> list[str]:
        conversation_id = await opened(one)
        items = [message("question"), message("answer")]
        await one.take_turn(conversation_id, "resp_1", items)
        await two.store.enter(HOME, conversation_id, "resp_2")
        await one.append(HOME, conversation_id, "resp_1", items)
        assert not await is_free(one, conversation_id)
        return await read_texts(two, conversation_id)

    assert tell(story) == ["question", "answer"]


def test_an_id_that_is_taken_gives_way_to_a_fresh_one(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one)
        first = await one.store.add(HOME, conversation_id, [message("a", "mine"), message("b", "yours")])
        assert first is not None
        assert [item["id"] for item in first] == ["mine", "yours"]
        second = await two.store.add(HOME, conversation_id, [message("c", "mine"), message("d", "new")])
        assert second is not None
        assert second[0]["id"].startswith("msg_")
        assert second[1]["id"] == "new"
        assert await one.store.item(HOME, conversation_id, second[0]["id"]) == second[0]
        assert await read_texts(one, conversation_id) == ["a", "b", "c", "d"]
        # In another conversation nothing is taken
        other_id = await opened(one)
        other = await one.store.add(HOME, other_id, [message("a", "mine")])
        assert other is not None
        assert other[0]["id"] == "mine"

    tell(story)


def test_what_is_added_beside_a_running_response_cannot_take_the_ids_that_it_will_bring(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> list[str]:
        conversation_id = await opened(one)
        await one.store.enter(HOME, conversation_id, "resp_1")
        await two.store.add(HOME, conversation_id, [message("beside", "mine")])
        await one.append(HOME, conversation_id, "resp_1", [message("question", "mine")])
        return await read_texts(two, conversation_id)

    assert tell(story) == ["beside", "question"]


def test_a_removed_item_is_gone_and_the_others_stay(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id = await opened(one, "keep")
        added = await one.store.add(HOME, conversation_id, [message("drop", "gone"), message("keep too")])
        assert added is not None
        conversation = await two.store.remove(HOME, conversation_id, "gone")
        assert conversation is not None
        assert conversation.id == conversation_id
        assert await one.store.item(HOME, conversation_id, "gone") is None
        assert await one.store.remove(HOME, conversation_id, "gone") is None
        assert texts((await one.store.enter(HOME, conversation_id, "resp_1")).items) == ["keep", "keep too"]

    tell(story)


def test_deleting_a_conversation_erases_all_its_items_and_no_others(tell: Tell) -> None:
    def fill(conversation_id: str) -> Callable[[], None]:
        def write() -> None:
            ConversationItem.objects.bulk_create(
                ConversationItem(
                    conversation_id=conversation_id,
                    organization_id=DEFAULT_ORGANIZATION,
                    item_id=f"item_{n}",
                    position=n,
                    body=pack(message("x")),
                )
                for n in range(2 * ERASED_AT_ONCE + 1)
            )

        return write

    async def story(one: Process, two: Process) -> None:
        conversation_id, other_id = await opened(one, "gone"), await opened(one, "stays")
        with scopes_disabled():
            await in_thread(fill(conversation_id))
        assert await two.store.delete(HOME, conversation_id)
        assert not await two.store.delete(HOME, conversation_id)
        assert await one.store.find(HOME, conversation_id) is None
        assert await read_texts(one, other_id) == ["stays"]

    tell(story)
    assert ConversationItem.objects.count() == 1


def test_a_response_that_ends_after_its_conversation_was_deleted_adds_nothing_and_fails_nobody(tell: Tell) -> None:
    async def story(one: Process, two: Process) -> None:
        conversation_id, other_id = await opened(one, "gone"), await opened(one)
        await one.store.enter(HOME, conversation_id, "resp_1")
        await two.store.delete(HOME, conversation_id)
        await asyncio.gather(
            one.append(HOME, conversation_id, "resp_1", [message("late")]),
            one.take_turn(other_id, "resp_2", [message("other")]),
        )
        assert await read_texts(two, other_id) == ["other"]

    tell(story)
    assert ConversationItem.objects.count() == 1


def test_pages_go_on_after_an_item_in_both_directions(tell: Tell) -> None:
    async def story(one: Process, _: Process) -> None:
        conversation_id = await opened(one, *"abcde")
        for is_descending, expected in ((False, ["ab", "cd", "e"]), (True, ["ed", "cb", "a"])):
            after, pages, more = "", [], True
            while more:
                page = await one.store.page(HOME, conversation_id, limit=2, is_descending=is_descending, after=after)
                assert page is not None
                pages.append("".join(texts(page.data)))
                after, more = page.data[-1]["id"], page.has_more
            assert pages == expected
        with pytest.raises(BadRequest) as refused:
            await one.store.page(HOME, conversation_id, limit=2, is_descending=True, after="unknown")
        assert refused.value.param == "after"

    tell(story)


def test_one_item_more_than_can_be_sent_is_read_so_that_it_is_noticed(tell: Tell) -> None:
    def fill() -> None:
        body = pack(message("x"))
        ConversationItem.objects.bulk_create(
            (
                ConversationItem(
                    conversation_id=ids[0],
                    organization_id=DEFAULT_ORGANIZATION,
                    item_id=f"item_{n}",
                    position=n,
                    body=body,
                )
                for n in range(MAX_ITEMS + 5)
            ),
            batch_size=1000,
        )

    ids: list[str] = []

    async def story(one: Process, _: Process) -> int:
        ids.append(await opened(one))
        with scopes_disabled():
            await in_thread(fill)
        return len((await one.store.enter(HOME, ids[0], "resp_1")).items)

    assert tell(story) == MAX_ITEMS + 1
