"""When keys were used last: written in few statements, without a trace elsewhere."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_scopes import scopes_disabled

from tenants.key_use import MAX_ROWS, KeyUse, write_used
from tenants.models import Organization, VirtualKey
from tenants.revision import current_revision
from tests.conftest import Person
from tests.contract.management import Api

pytestmark = pytest.mark.django_db


class Writes:
    def __init__(self) -> None:
        self.parts: list[Sequence[str]] = []
        self.fails = False

    async def __call__(self, function: object, key_ids: Sequence[str]) -> None:
        if self.fails:
            raise OperationalError
        self.parts.append(key_ids)


def test_many_calls_of_a_key_are_one_write_and_the_master_key_is_none() -> None:
    async def story() -> None:
        writes = Writes()
        use = KeyUse(writes)
        for number in range(2 * MAX_ROWS + 1):
            for _ in range(3):
                use.note(f"key-{number:05}")
        use.note("")
        await use.write()
        assert [len(part) for part in writes.parts] == [MAX_ROWS, MAX_ROWS, 1]
        await use.write()
        assert len(writes.parts) == 3

    asyncio.run(story())


def test_what_an_outage_refuses_is_written_later_and_at_the_end() -> None:
    async def story() -> None:
        writes = Writes()
        use = KeyUse(writes, write_every_s=0.01)
        await use.start()
        writes.fails = True
        use.note("key-1")
        await asyncio.sleep(0.05)
        assert writes.parts == []
        writes.fails = False
        await use.close()
        assert writes.parts == [["key-1"]]

    asyncio.run(story())


def test_a_write_is_one_statement_that_changes_nothing_else(owner: Person, team_mate: Person) -> None:
    revision, before = current_revision(), owner.key.updated_at
    with CaptureQueriesContext(connection) as queries:
        write_used([owner.key.id, team_mate.key.id])
    assert len(queries) == 1
    with scopes_disabled():
        row = VirtualKey.objects.get(pk=owner.key.pk)
    assert row.last_used_at is not None
    assert timezone.now() - row.last_used_at < timedelta(seconds=5)
    assert (row.updated_at, current_revision()) == (before, revision)


def test_the_use_of_a_key_is_shown_under_both_names(api: Api, owner: Person) -> None:
    assert api.info(owner.text)["last_active"] is None
    write_used([owner.key.id])
    info = api.info(owner.text)
    assert info["last_active"] == info["last_used_at"] is not None


@pytest.mark.only_on("sqlite")
def test_a_write_holds_sqlite_for_few_milliseconds() -> None:
    """The median of ten writes of MAX_ROWS keys each; a loaded machine gets four times the bound."""
    with scopes_disabled():
        organization = Organization.objects.create(name="many")
        rows = [VirtualKey(organization=organization, digest=f"{number:064x}", last4="0000") for number in range(5_000)]
        VirtualKey.objects.bulk_create(rows)
    times: list[float] = []
    for part in range(10):
        ids = [row.pk for row in rows[part * MAX_ROWS : (part + 1) * MAX_ROWS]]
        began = timezone.now()
        write_used(ids)
        times.append((timezone.now() - began).total_seconds())
    assert sorted(times)[5] < 0.02
    print(f"median {sorted(times)[5] * 1000:.1f} ms")
