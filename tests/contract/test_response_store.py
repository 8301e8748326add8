"""Stored responses in either database: how much of a history is read, and what a list finds."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.models import Conversation
from gateway.protocol.dialects.responses.stored import Item, Listing, Owner, StoredResponse
from gateway.protocol.errors import BadRequest
from gateway.state.group_commit import GroupCommit
from gateway.state.packing import DEFLATED_FROM_BYTES, pack, unpack
from gateway.state.reader import Found, Query, Reader
from gateway.state.spool import Spool
from gateway.stores.responses import STATEMENTS, ResponseStore
from tenants.models import DEFAULT_ORGANIZATION
from tests.contract.replica import backend, commit, in_thread, reader
from tests.fakes.background import stored as stored_response

PATIENCE_S = 30
HOME = Owner(DEFAULT_ORGANIZATION, "team:home")

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["gateway"])


@pytest.fixture(autouse=True)
def home() -> Iterator[None]:
    with scopes_disabled():
        yield


class CountingReader:
    """A reader that counts the bytes that the database handed out."""

    def __init__(self, inner: Reader) -> None:
        self._inner = inner
        self.handed_bytes = 0

    async def open(self) -> None:
        await self._inner.open()

    async def fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
        rows = await self._inner.fetch(query, parameters)
        self.handed_bytes += sum(len(value) for row in rows for value in row if isinstance(value, bytes))
        return rows

    async def close(self) -> None:
        await self._inner.close()


class World:
    def __init__(self, folder: Path) -> None:
        self.commits = GroupCommit(backend(), Spool(folder / "spool", "one", STATEMENTS), retry_s=0.05)
        self.reader = CountingReader(reader())

    def store(self, **limits: int) -> ResponseStore:
        return ResponseStore(self.commits, self.reader, in_thread, **limits)

    async def keep_chain(self, *texts: str) -> list[str]:
        """Their ids, the oldest first."""
        ids: list[str] = []
        for text in texts:
            await self.keep(response(f"resp_{len(ids)}", text, parent_id=ids[-1] if ids else ""))
            ids.append(f"resp_{len(ids)}")
        return ids

    async def keep(self, stored: StoredResponse) -> None:
        await commit(self.commits, self.store().add, stored)


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    def run(story: Callable[[World], Awaitable[None]]) -> None:
        async def whole() -> None:
            world = World(tmp_path)
            await world.commits.open()
            await world.reader.open()
            try:
                await asyncio.wait_for(story(world), PATIENCE_S)
            finally:
                await world.commits.close()
                await world.reader.close()

        asyncio.run(whole())

    return run


Play = Callable[[Callable[[World], Awaitable[None]]], None]


def response(
    response_id: str, text: str = "hi", *, parent_id: str = "", metadata: dict[str, str] | None = None
) -> StoredResponse:
    item: Item = {"type": "message", "id": f"msg_{response_id}", "role": "user", "content": text}
    body = {"id": response_id, "status": "completed", "output": [], "metadata": metadata or {}, "usage": None}
    now_s = timezone.now().timestamp()
    return replace(
        stored_response(response_id, owner=HOME, response=body, input=(item,), created_s=now_s),
        parent_id=parent_id,
        expires_s=now_s + 3600,
    )


def size(stored: StoredResponse) -> int:
    """The inflated bytes of its items."""
    return len(pack({"input": stored.input, "output": stored.response["output"]}))


def texts_of(chain: Any) -> list[str]:
    return [item["content"] for item in chain.items]


# Histories


def test_a_chain_is_told_the_oldest_first(play: Play) -> None:
    async def story(world: World) -> None:
        texts = [f"turn {number}" for number in range(30)]
        ids = await world.keep_chain(*texts)
        assert texts_of(await world.store().chain(HOME, ids[-1])) == texts
        assert texts_of(await world.store().chain(HOME, ids[4])) == texts[:5]
        assert await world.store().chain(Owner(DEFAULT_ORGANIZATION, "team:other"), ids[4]) is None

    play(story)


def test_a_chain_may_have_as_many_bytes_as_was_said_and_not_one_more(play: Play) -> None:
    async def story(world: World) -> None:
        texts = ["first", "second and longer", "third"]
        ids = await world.keep_chain(*texts)
        whole = sum([size(await read_stored(world, one)) for one in ids])
        assert texts_of(await world.store(max_history_bytes=whole).chain(HOME, ids[-1])) == texts
        for most in (whole - 1, 1):
            world.reader.handed_bytes = 0
            with pytest.raises(BadRequest) as refused:
                await world.store(max_history_bytes=most).chain(HOME, ids[-1])
            assert (refused.value.code, refused.value.param) == ("history_too_large", "previous_response_id")
            assert world.reader.handed_bytes == 0  # what is refused is not read
        assert texts_of(await world.store(max_history_bytes=whole - 1).chain(HOME, ids[1])) == texts[:2]

    play(story)


def test_a_chain_is_bounded_by_what_it_inflates_to(play: Play) -> None:
    async def story(world: World) -> None:
        texts = ["x" * 4 * DEFLATED_FROM_BYTES] * 3
        ids = await world.keep_chain(*texts)
        most = 3 * 4 * DEFLATED_FROM_BYTES  # without what is around the texts
        world.reader.handed_bytes = 0
        with pytest.raises(BadRequest) as refused:
            await world.store(max_history_bytes=most).chain(HOME, ids[-1])
        assert refused.value.code == "history_too_large"
        assert world.reader.handed_bytes < most / 20  # stored it is small
        assert texts_of(await world.store(max_history_bytes=most + 3000).chain(HOME, ids[-1])) == texts

    play(story)


def test_a_chain_whose_ancestor_is_missing_is_not_there(play: Play) -> None:
    async def story(world: World) -> None:
        await world.keep(response("resp_child", parent_id="resp_gone"))
        assert await world.store().chain(HOME, "resp_child") is None
        assert await world.store().chain(HOME, "resp_gone") is None

    play(story)


async def read_stored(world: World, response_id: str) -> StoredResponse:
    stored = await world.store().find(HOME, response_id)
    assert stored is not None
    return stored


# Lists

KEYS = (
    *("2024", "0", "-1", "plain", "a.b", "a b", "ключ", "日本", "", "$", "[0]", "$.a", "#", "%s", "%", "?", "{x}"),
    *('a"b', '"', "a'b", "back\\slash", "\\", '\\"', "tab\tkey", "line\nkey", "\x7f", "a/b", "\u2028", "😀"),
)


@pytest.mark.parametrize("key", KEYS)
def test_a_list_finds_what_has_a_metadata_key_whatever_the_key_looks_like(play: Play, key: str) -> None:
    async def story(world: World) -> None:
        others: dict[str, str] = {f"other {number}": "yes" for number in range(3)}
        await world.keep(response("resp_yes", metadata={**others, key: "yes"}))
        await world.keep(response("resp_no", metadata={**others, key: "no"}))
        await world.keep(response("resp_other", metadata=others))
        await world.keep(response("resp_nothing"))

        async def listed(**metadata: str) -> list[str]:
            page = await world.store().page(HOME, Listing(10, metadata=metadata))
            return [stored.id for stored in page.data]

        assert await listed(**{key: "yes"}) == ["resp_yes"]
        assert await listed(**{key: "no", "other 1": "yes"}) == ["resp_no"]
        assert await listed(**{key: "no", "other 1": "no"}) == []
        assert await listed(**{key: ""}) == []

    play(story)


def test_what_is_listed_is_what_was_kept(play: Play) -> None:
    async def story(world: World) -> None:
        stored = response("resp_1", metadata={"2024": 'a "value" \\ of ключ'})
        await world.keep(stored)
        [listed] = (await world.store().page(HOME, Listing(10, metadata={"2024": 'a "value" \\ of ключ'}))).data
        assert listed.response == unpack(pack(stored.response))
        assert listed.input == ()  # a list does not show it

    play(story)


@pytest.mark.parametrize("is_descending", [True, False])
def test_a_page_of_large_ones_is_shorter_and_no_one_is_left_out(play: Play, is_descending: bool) -> None:
    async def story(world: World) -> None:
        ids = [f"resp_{number}" for number in range(9)]
        for number, response_id in enumerate(ids):
            await world.keep(response(response_id, secrets.token_hex(9_000 if number == 4 else 1_500)))
        store = world.store(max_page_bytes=8_000)
        ids_listed: list[str] = []
        pages = []
        while True:
            page = await store.page(
                HOME, Listing(5, after=ids_listed[-1] if ids_listed else "", is_descending=is_descending)
            )
            ids_listed += [stored.id for stored in page.data]
            pages.append(len(page.data))
            if not page.has_more:
                break
        assert ids_listed == (ids[::-1] if is_descending else ids)
        assert pages == [2, 2, 1, 2, 2]

    play(story)


def test_a_deleted_response_leaves_the_conversation_that_it_was_to_be_made_in(play: Play) -> None:
    async def story(world: World) -> None:
        def parents() -> list[str]:
            with scopes_disabled():
                return list(Conversation.objects.order_by("pk").values_list("locked_by", flat=True))

        def hold() -> None:
            with scopes_disabled():
                for name, holder in (("conv_1", "resp_1"), ("conv_2", "resp_2")):
                    Conversation.objects.create(
                        id=name, organization_id=HOME.organization_id, owner=HOME.scope, created_at=timezone.now(),
                        locked_by=holder, locked_until=timezone.now(),
                    )  # fmt: skip

        await in_thread(hold)
        for number in (1, 2):
            queued = response(f"resp_{number}")
            queued.response["status"] = "queued"
            await world.keep(replace(queued, conversation_id=f"conv_{number}"))
        assert await world.store().delete(HOME, "resp_1")
        assert await in_thread(parents) == ["", "resp_2"]

    play(story)
