"""The log of changes: a process learns of every change that was committed, and of no other."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway import tasks
from gateway.state.reader import Found, Query
from tenants import revision as log
from tenants.audit import find_broken_entry
from tenants.keys import issue_key, set_key_blocked
from tenants.models import DEFAULT_ORGANIZATION, Change, Organization, Revision, Scope
from tenants.organizations import set_organizations_blocked
from tenants.revision import (
    EVERYTHING,
    Changed,
    ChangeFeed,
    bump_revision,
    changed_end_user,
    changed_key,
    changed_organization,
    changed_scope,
    changed_tag,
    changed_team,
    changed_user,
    current_revision,
    organization_of,
    prune_changes,
)
from tenants.teams import create_team, update_team
from tests.contract.replica import reader

pytestmark = pytest.mark.django_db(transaction=True)

WRITERS = 20
CHANGES = 25  # of each


def watch(story: Callable[[ChangeFeed], Awaitable[None]]) -> None:
    """Runs the story of a process that has just read the revision."""

    async def whole() -> None:
        database = reader()
        await database.open()
        try:
            feed = ChangeFeed(database)
            assert set(await feed.read()) == {EVERYTHING}
            await story(feed)
        finally:
            await database.close()

    asyncio.run(whole())


def learn(*writes: Callable[[], object]) -> set[Changed]:
    """The changes that a process learns of these writes."""
    changes: set[Changed] = set()

    async def story(feed: ChangeFeed) -> None:
        for write in writes:
            await in_thread(write)
        changes.update(await feed.read())
        assert not await feed.read()

    watch(story)
    return changes


async def in_thread(function: Callable[[], object]) -> None:
    def run() -> None:
        try:
            with scopes_disabled():
                function()
        finally:
            connection.close()

    await asyncio.to_thread(run)


def test_a_process_learns_what_changed_and_learns_it_once() -> None:
    assert learn(
        lambda: bump_revision(changed_key("a"), changed_team("b")), lambda: bump_revision(changed_user("c"))
    ) == {changed_key("a"), changed_team("b"), changed_user("c")}


def test_a_write_that_names_nothing_changes_everything() -> None:
    assert EVERYTHING in learn(lambda: bump_revision(changed_key("a")), bump_revision)


def test_a_write_of_too_many_changes_changes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_CHANGES", 3)
    keys = [changed_key(str(number)) for number in range(4)]
    assert learn(lambda: bump_revision(*keys)) == {EVERYTHING}
    assert learn(lambda: bump_revision(*keys[:3])) == set(keys[:3])


def test_a_process_that_is_too_far_behind_forgets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_CHANGES", 3)
    writes = [lambda number=number: bump_revision(changed_key(str(number))) for number in range(4)]
    assert learn(*writes) == {EVERYTHING}


def test_a_revision_of_an_earlier_version_of_the_gateway_changes_everything() -> None:
    assert learn(
        lambda: bump_revision(changed_key("a")),
        lambda: Revision.objects.update(value=current_revision() + 1),
        lambda: bump_revision(changed_key("b")),
    ) == {EVERYTHING}


def test_a_kind_of_a_later_version_changes_everything() -> None:
    assert learn(lambda: bump_revision(Changed("guardrail", "a"))) == {EVERYTHING}


def test_a_database_that_was_restored_from_a_copy_changes_everything() -> None:
    bump_revision(changed_key("a"))
    assert learn(lambda: Revision.objects.update(value=current_revision() - 1)) == {EVERYTHING}


def test_without_a_row_the_first_change_is_the_first_revision() -> None:
    Revision.objects.all().delete()
    assert learn(lambda: bump_revision(changed_key("a"))) == {changed_key("a")}
    assert current_revision() == 1


def test_a_write_that_is_rolled_back_leaves_nothing() -> None:
    before = current_revision()

    def fail() -> None:
        with transaction.atomic():
            bump_revision(changed_key("a"))
            transaction.set_rollback(True)

    assert learn(fail) == set()
    assert (current_revision(), Change.objects.filter(revision__gt=before).count()) == (before, 0)


def test_old_changes_are_pruned_and_a_process_that_missed_them_forgets_everything() -> None:
    async def story(feed: ChangeFeed) -> None:
        await in_thread(lambda: bump_revision(changed_key("a"), changed_key("b")))
        past = timezone.now() - log.KEPT_FOR - timedelta(seconds=1)
        await in_thread(lambda: Change.objects.filter(ref="a").update(at=past))
        await in_thread(lambda: bump_revision(changed_key("c")))
        await in_thread(tasks.prune_changes)
        assert [change.ref for change in await asyncio.to_thread(rows)] == ["c"]
        assert set(await feed.read()) == {EVERYTHING}
        await in_thread(lambda: bump_revision(changed_key("d")))
        assert set(await feed.read()) == {changed_key("d")}

    Change.objects.all().delete()
    watch(story)


def rows() -> Sequence[Change]:
    try:
        return list(Change.objects.order_by("id"))
    finally:
        connection.close()


def test_the_log_is_bounded_and_no_revision_is_pruned_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_ROWS", 5)
    Change.objects.all().delete()
    for number in range(4):
        bump_revision(changed_key(f"{number}-a"), changed_key(f"{number}-b"))
    prune_changes()
    assert [change.ref for change in rows()] == ["2-a", "2-b", "3-a", "3-b"]
    prune_changes()
    assert len(rows()) == 4


def test_the_ids_of_organizations_and_end_users_are_told_apart() -> None:
    assert changed_end_user("a:b", "c") != changed_end_user("a", "b:c")
    assert organization_of(changed_end_user("a:b", "c:d")) == "a:b"
    assert organization_of(changed_tag("", "7:x")) == ""


def test_a_name_that_does_not_fit_changes_its_organization() -> None:
    long = changed_end_user("o" * 255, "u" * 600)
    assert learn(lambda: bump_revision(long)) == {changed_organization("o" * 255)}
    assert long != changed_end_user("o" * 255, "v" * 600)


def test_limits_of_a_scope_change_the_thing_that_has_them() -> None:
    with scopes_disabled():
        key = issue_key(organization=Organization.objects.get(id=DEFAULT_ORGANIZATION)).key
    assert changed_scope("o", Scope.KEY, key.id) == changed_key(key.digest)
    assert changed_scope("o", Scope.MEMBER, "team:ann") == changed_user("ann")
    assert changed_scope("o", Scope.MEMBER, "a:team:ann") == changed_organization("o")
    assert changed_scope("o", Scope.END_USER, "ann") == changed_end_user("o", "ann")
    assert changed_scope("o", Scope.ORGANIZATION, "o") == changed_organization("o")
    for scope in Scope:
        assert changed_scope("o", scope, "x:y").kind in log.KINDS


class Halting:
    """A reader between whose two reads other processes write."""

    def __init__(self) -> None:
        self._reader = reader()

    async def fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
        result = await self._reader.fetch(query, parameters)
        await asyncio.sleep(random.random() / 200)
        return result

    async def open(self) -> None:
        await self._reader.open()

    async def close(self) -> None:
        await self._reader.close()


def write(name: int, committed: set[Changed], seed: int) -> None:
    """Each transaction waits a little before and after it has taken its revision; some are rolled back."""
    chance = random.Random(seed)
    mine: set[Changed] = set()
    try:
        for number in range(CHANGES):
            changes = [changed_key(f"{name}-{number}-{part}") for part in range(chance.randint(1, 3))]
            fails = chance.random() < 0.2
            pause = threading.Event()
            with transaction.atomic():
                pause.wait(chance.random() / 500)
                bump_revision(*changes)
                pause.wait(chance.random() / 500)
                transaction.set_rollback(fails)
            if not fails:
                mine.update(changes)
    finally:
        connection.close()
    committed.update(mine)  # one step: the interpreter's lock


def test_of_twenty_writers_at_once_a_process_misses_no_change_and_learns_no_other() -> None:
    committed: set[Changed] = set()
    learned: list[Changed] = []

    async def collect(feed: ChangeFeed) -> int:
        changes: Collection[Changed] = await feed.read()
        learned.extend(changes)
        return len(changes)

    async def whole() -> None:
        database = Halting()
        feed = ChangeFeed(database)
        await feed.read()
        writers = [asyncio.create_task(asyncio.to_thread(write, name, committed, name)) for name in range(WRITERS)]
        while not all(writer.done() for writer in writers):
            await collect(feed)
            await asyncio.sleep(0.001)
        await asyncio.gather(*writers)
        while await collect(feed):
            pass
        await database.close()

    async def with_room() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WRITERS))
        await whole()

    asyncio.run(with_room())
    assert len(committed) > WRITERS * CHANGES
    assert EVERYTHING not in learned
    assert (set(learned), len(learned)) == (committed, len(committed))


def test_writes_that_lock_the_same_rows_in_other_orders_take_turns() -> None:
    """Each locked its first row, recorded that, and waited for the other's row while the other waited to record."""
    with scopes_disabled():
        home = Organization.objects.get(id=DEFAULT_ORGANIZATION)
        keys = [issue_key(organization=home, alias=f"key {number}").key for number in range(3)]
        team = create_team(organization=home)
    before = current_revision()

    def write(seed: int) -> None:
        rng = random.Random(seed)
        try:
            with scopes_disabled():
                for turn in range(15):
                    acts: list[Callable[[], object]] = [
                        *(partial(set_key_blocked, key, blocked=bool(turn % 2)) for key in keys),
                        partial(update_team, team, changes={"alias": f"{seed} {turn}"}),
                        partial(set_organizations_blocked, [home], blocked=False),
                    ]
                    rng.shuffle(acts)
                    with transaction.atomic():
                        for act in acts:
                            act()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(write, seed) for seed in range(4)]:
            future.result(timeout=120)
    assert current_revision() >= before + 4 * 15
    assert find_broken_entry() is None
