"""Claims of Idempotency-Keys in the database that the suite runs on: of those who ask at once, one is to answer.

Every promise is about what other processes see, so nothing here runs inside a test's transaction.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.models import Writer
from gateway.idempotency_store import SILENT, VALID, purge_claims
from gateway.models import IdempotencyKey
from gateway.protocol.stored import Owner
from tenants.models import DEFAULT_ORGANIZATION
from tests.contract.replica import Replica, in_thread
from tests.fakes.background import stored

HOME = Owner(DEFAULT_ORGANIZATION, "team:home")
KEY, BODY = "k" * 64, "b" * 64

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["gateway", "billing"])


@pytest.fixture(autouse=True)
def home() -> Iterator[None]:
    with scopes_disabled():
        yield


async def orm(function: Callable[[], Any]) -> Any:
    def scoped(_: None) -> Any:
        with scopes_disabled():
            return function()

    return await in_thread(scoped, None)


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


def test_one_of_many_takes_a_claim_over(tmp_path: Path) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one, Replica(tmp_path, "two") as two:
            await one.claims.claim(HOME, KEY, BODY, "resp_1")
            seen = await two.claims.claim(HOME, KEY, BODY, "resp_2")
            taken = await asyncio.gather(*(two.claims.take_over(seen, f"resp_{number}") for number in range(5)))
            assert sum(taken) == 1
            await one.claims.settle(seen)  # of the one that was taken for dead: it has nothing to say any more
            now = await two.claims.claim(HOME, KEY, BODY, "resp_9")
            assert now.writer_id == "two"
            assert now.response_id != "resp_1"

    asyncio.run(story())


def test_a_settled_claim_stands_for_what_is_stored_and_goes_where_nothing_is(tmp_path: Path) -> None:
    async def story() -> None:
        async with Replica(tmp_path, "one") as one:
            claim = await one.claims.claim(HOME, KEY, BODY, "resp_1")
            await one.claims.settle(claim)
            assert await orm(IdempotencyKey.objects.count) == 0
            claim = await one.claims.claim(HOME, KEY, BODY, "resp_2")
            await one.responses.keep(stored("resp_2", "completed", owner=HOME))
            await one.claims.settle(claim)
            assert (await one.claims.claim(HOME, KEY, BODY, "resp_3")).is_answered

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
