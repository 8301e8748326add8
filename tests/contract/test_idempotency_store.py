"""Claims of Idempotency-Keys in either database: of requests that come at once, one is to answer.

Every promise is about what other processes see, so nothing here runs inside a test's transaction.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models.functions import Now
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.ledger import HEARTBEAT
from billing.models import Writer
from gateway.models import IdempotencyKey
from gateway.protocol.dialects.responses.stored import Owner
from gateway.protocol.errors import GatewayFault
from gateway.stores.idempotency import MAX_LOOKS, SILENT, VALID, IdempotencyStore, purge_claims
from tenants.models import DEFAULT_ORGANIZATION
from tests.contract.replica import Arguments, Replica, Result, in_thread
from tests.fakes.background import stored

HOME = Owner(DEFAULT_ORGANIZATION, "team:home")
PATIENCE_S = 30
KEY, BODY = "k" * 64, "b" * 64

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["gateway", "billing"])


@pytest.fixture(autouse=True)
def home() -> Iterator[None]:
    with scopes_disabled():
        yield


async def orm(function: Callable[[], Any]) -> Any:
    def scoped() -> Any:
        with scopes_disabled():
            return function()

    return await in_thread(scoped)


async def age(by: timedelta) -> None:
    await orm(lambda: IdempotencyKey.objects.update(created_at=timezone.now() - by))


def test_of_many_who_ask_at_once_one_is_to_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one, Replica(tmp_path, "two") as two:
            claims = await asyncio.gather(
                *(
                    replica.claims.claim(HOME, KEY, BODY, f"resp_{replica.name}_{number}")
                    for number in range(8)
                    for replica in (one, two)
                )
            )
            [own] = [claim for claim in claims if claim.is_own]
            assert {claim.response_id for claim in claims} == {own.response_id}

    asyncio.run(story())


def test_a_key_is_its_owners_and_its_bodys(tmp_path: Path) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one:
            assert (await one.claims.claim(HOME, KEY, BODY, "resp_1")).is_own
            for owner in (Owner(DEFAULT_ORGANIZATION, "team:other"),):
                assert (await one.claims.claim(owner, KEY, BODY, "resp_2")).is_own
            again = await one.claims.claim(HOME, KEY, "c" * 64, "resp_3")
            assert (again.is_own, again.body, again.response_id) == (False, BODY, "resp_1")

    asyncio.run(story())


def test_a_process_is_alive_while_its_heart_beats(tmp_path: Path) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one, Replica(tmp_path, "two") as two:
            await one.claims.claim(HOME, KEY, BODY, "resp_1")
            assert not (await two.claims.claim(HOME, KEY, BODY, "resp_2")).is_alive
            await orm(lambda: Writer.objects.create(id="one", seen_at=timezone.now()))
            assert (await two.claims.claim(HOME, KEY, BODY, "resp_2")).is_alive
            await orm(lambda: Writer.objects.update(seen_at=timezone.now() - SILENT - timedelta(seconds=1)))
            assert not (await two.claims.claim(HOME, KEY, BODY, "resp_2")).is_alive
            assert (await one.claims.claim(HOME, KEY, BODY, "resp_2")).is_alive  # it knows about itself

    asyncio.run(story())


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), timedelta(minutes=-5)])
def test_whether_a_process_is_alive_is_told_by_the_databases_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    """Heartbeats are written by it; this process's own clock is wrong here."""
    django_now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: django_now() + ahead)

    async def story() -> None:
        async with Replica(tmp_path, "one") as one, Replica(tmp_path, "two") as two:
            await one.claims.claim(HOME, KEY, BODY, "resp_1")
            await orm(lambda: Writer.objects.create(id="one", seen_at=Now()))
            assert (await two.claims.claim(HOME, KEY, BODY, "resp_2")).is_alive
            await orm(lambda: Writer.objects.update(seen_at=Now() - SILENT - timedelta(seconds=1)))
            assert not (await two.claims.claim(HOME, KEY, BODY, "resp_2")).is_alive

    asyncio.run(story())


def test_a_heartbeat_is_read_as_it_is_written(tmp_path: Path) -> None:
    """On SQLite both are texts."""

    async def story() -> None:
        async with Replica(tmp_path, "one") as one, Replica(tmp_path, "two") as two:
            await one.claims.claim(HOME, KEY, BODY, "resp_1")
            await one.commits.submit(HEARTBEAT, ("one",))
            assert (await two.claims.claim(HOME, KEY, BODY, "resp_2")).is_alive

    asyncio.run(story())


def test_one_of_many_takes_a_claim_over(tmp_path: Path) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one, Replica(tmp_path, "two") as two:
            await one.claims.claim(HOME, KEY, BODY, "resp_1")
            claim = await two.claims.claim(HOME, KEY, BODY, "resp_2")
            outcomes = await asyncio.gather(*(two.claims.take_over(claim, f"resp_{number}") for number in range(5)))
            assert sum(outcomes) == 1
            # "one" was taken for dead: what it settles changes nothing any more
            await one.claims.settle(claim, is_kept=False)
            now = await two.claims.claim(HOME, KEY, BODY, "resp_9")
            assert now.writer_id == "two"
            assert now.response_id != "resp_1"

    asyncio.run(story())


def test_a_settled_claim_stands_for_what_is_stored_and_goes_where_nothing_is(tmp_path: Path) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one:
            claim = await one.claims.claim(HOME, KEY, BODY, "resp_1")
            await one.claims.settle(claim, is_kept=False)
            assert await orm(IdempotencyKey.objects.count) == 0
            claim = await one.claims.claim(HOME, KEY, BODY, "resp_2")
            await one.keep(stored("resp_2", "completed", owner=HOME))
            await one.claims.settle(claim, is_kept=True)
            assert (await one.claims.claim(HOME, KEY, BODY, "resp_3")).is_answered

    asyncio.run(story())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await orm(condition):  # noqa: ASYNC110 - written by another thread
            await asyncio.sleep(0.01)


def test_a_claim_whose_response_stands_in_a_spool_still_is_its_own(tmp_path: Path) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one, Replica(tmp_path, "two") as two:
            await orm(lambda: Writer.objects.create(id="one", seen_at=Now()))
            claim = await one.claims.claim(HOME, KEY, BODY, "resp_1")
            await one.claims.settle(claim, is_kept=True)
            for replica in (one, two):
                other = await replica.claims.claim(HOME, KEY, BODY, "resp_2")
                assert (other.is_own, other.is_answered, other.is_alive, other.response_id) == (
                    False,
                    False,
                    True,
                    "resp_1",
                )
            await one.keep(stored("resp_1", "completed", owner=HOME))
            await until(IdempotencyKey.objects.filter(is_answered=True, response_id="resp_1").exists)

    asyncio.run(story())


def test_a_response_that_was_kept_and_deleted_at_once_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    async def story() -> None:
        claims = IdempotencyStore(in_thread, "one", retry_s=0.001)
        await claims.settle(await claims.claim(HOME, KEY, BODY, "resp_1"), is_kept=True)
        await until(IdempotencyKey.objects.filter(is_answered=True).exists)

    assert MAX_LOOKS > 1
    asyncio.run(story())


class Flaky:
    """`in_thread` of a process that the database is away for, at times; `after` it has done what it was asked."""

    def __init__(self) -> None:
        self.is_away = False
        self.is_cut_after = False
        self.count = 0

    async def __call__(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        if self.is_away:
            raise OperationalError
        result = await in_thread(function, *arguments)
        self.count += 1
        if self.is_cut_after:
            raise OperationalError
        return result


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_claim_that_was_settled_in_an_outage_is_settled_when_it_is_over(tmp_path: Path, is_kept: bool) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one:
            flaky = Flaky()
            claims = IdempotencyStore(flaky, "flaky", retry_s=0.01)
            claim = await claims.claim(HOME, KEY, BODY, "resp_1")
            await one.keep(stored("resp_1" if is_kept else "resp_of_others", "completed", owner=HOME))
            flaky.is_away = True
            await claims.settle(claim, is_kept=is_kept)
            assert await orm(IdempotencyKey.objects.filter(is_answered=False).count) == 1
            flaky.is_away = False
            if is_kept:
                await until(IdempotencyKey.objects.filter(is_answered=True).exists)
            else:
                await until(lambda: not IdempotencyKey.objects.exists())

    asyncio.run(story())


def test_what_a_process_answers_no_more_it_takes_for_dead_though_it_lives_itself() -> None:
    async def story() -> None:
        flaky = Flaky()
        claims = IdempotencyStore(flaky, "flaky", retry_s=1000)
        claim = await claims.claim(HOME, KEY, BODY, "resp_1")
        assert (await claims.claim(HOME, KEY, BODY, "resp_2")).is_alive
        flaky.is_away = True
        await claims.settle(claim, is_kept=False)
        flaky.is_away = False
        claim = await claims.claim(HOME, KEY, BODY, "resp_3")
        assert not claim.is_alive
        assert await claims.take_over(claim, "resp_3")
        assert (await claims.claim(HOME, KEY, BODY, "resp_4")).is_alive

    asyncio.run(story())


def test_the_claims_that_are_left_to_be_settled_are_bounded() -> None:
    async def story() -> None:
        flaky = Flaky()
        claims = IdempotencyStore(flaky, "flaky", retry_s=0.01, max_left=2)
        batch = [await claims.claim(HOME, f"{number}" * 64, BODY, f"resp_{number}") for number in range(3)]
        flaky.is_away = True
        for claim in batch:
            await claims.settle(claim, is_kept=False)
        flaky.is_away = False
        await until(lambda: set(IdempotencyKey.objects.values_list("response_id", flat=True)) == {"resp_2"})
        assert not (await claims.claim(HOME, "2" * 64, BODY, "resp_9")).is_alive

    asyncio.run(story())


def test_a_claim_that_nobody_heard_of_is_let_go_of() -> None:
    """Its client left while it was made, or the connection to the database broke when it was."""

    async def story() -> None:
        flaky = Flaky()
        claims = IdempotencyStore(flaky, "flaky", retry_s=0.01)
        claiming = asyncio.create_task(claims.claim(HOME, KEY, BODY, "resp_1"))
        await asyncio.sleep(0)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        await until(lambda: flaky.count >= 2 and not IdempotencyKey.objects.exists())
        flaky.is_cut_after = True
        with pytest.raises(GatewayFault):
            await claims.claim(HOME, KEY, BODY, "resp_2")
        flaky.is_cut_after, flaky.is_away = False, True
        assert await orm(IdempotencyKey.objects.filter(response_id="resp_2").exists)
        flaky.is_away = False
        await until(lambda: not IdempotencyKey.objects.exists())

    asyncio.run(story())


def test_after_a_day_a_claim_is_void_and_erased(tmp_path: Path) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one:
            await one.claims.claim(HOME, KEY, BODY, "resp_1")
            await age(VALID - timedelta(minutes=1))
            assert not (await one.claims.claim(HOME, KEY, BODY, "resp_2")).is_own
            assert await orm(purge_claims) == 0
            await age(VALID + timedelta(minutes=1))
            assert (await one.claims.claim(HOME, KEY, "c" * 64, "resp_3")).is_own
            await age(VALID + timedelta(minutes=1))
            assert await orm(purge_claims) == 1
            assert await orm(IdempotencyKey.objects.count) == 0

    asyncio.run(story())
