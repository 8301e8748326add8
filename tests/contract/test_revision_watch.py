"""The poll: what one replica writes, another one knows at its next look; a deployment is loaded alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.db import OperationalError
from django_scopes import scopes_disabled

from gateway.deployments import delete_deployment, save_deployment
from gateway.models import Deployment
from gateway.protocol.provider import Target
from gateway.stores import revision_watch
from gateway.stores.orm import OrmThreads
from gateway.stores.revision_watch import RevisionWatch
from tenants.directory import KeyDirectory
from tenants.keys import delete_keys, issue_key
from tenants.models import DEFAULT_ORGANIZATION, Organization
from tenants.revision import Changed, bump_revision, changed_organization
from tests.contract.replica import in_thread, reader

pytestmark = pytest.mark.django_db(transaction=True)


class Process:
    def __init__(
        self, watch: RevisionWatch, directory: KeyDirectory, changes: list[Changed], loaded: list[set[str]]
    ) -> None:
        self.watch = watch
        self.directory = directory
        self.changes = changes
        self.loaded = loaded  # the deployments of each snapshot

    async def look(self) -> None:
        await self.watch._look()

    def group(self, name: str) -> list[str]:
        return [target.deployment_id for target in self.watch.snapshot.catalog.find("o", name)]

    def targets(self) -> dict[str, Target]:
        targets = [target for group in self.watch.snapshot.catalog.groups.values() for target in group]
        assert {target.deployment_id: target for target in targets} == self.watch.snapshot.targets
        return dict(self.watch.snapshot.targets)


class Threads(OrmThreads):
    """Counts, or fails like a database that is away."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.fails = False

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.loads += 1
        if self.fails:
            raise OperationalError("away")
        return await in_thread(function, *arguments)


@asynccontextmanager
async def process(threads: Threads) -> AsyncIterator[Process]:
    database = reader()
    changes: list[Changed] = []

    def note(more: Collection[Changed]) -> None:
        changes.extend(more)

    directory = KeyDirectory(in_thread=in_thread, outage_grace_s=300)
    loaded: list[set[str]] = []
    on_load = lambda snapshot: loaded.append(set(snapshot.targets))  # noqa: E731
    watch = RevisionWatch(threads, database, directory, note, on_load=on_load)
    await watch._look()
    changes.clear()
    try:
        yield Process(watch, directory, changes, loaded)
    finally:
        await database.close()


def tell(story: Callable[[Process, Threads], Awaitable[None]]) -> None:
    async def whole() -> None:
        threads = Threads()
        async with process(threads) as one:
            await story(one, threads)
        threads.close()

    asyncio.run(whole())


def deploy(group: str, **fields: Any) -> Deployment:
    with scopes_disabled():
        return save_deployment(
            Deployment(
                model_group=group,
                provider="openai_compatible",
                upstream_model="up",
                api_base="http://up.test/v1",
                **fields,
            ),
            price_lines={"input": "0.1"},
        )


async def write(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    def run() -> Any:
        with scopes_disabled():
            return function(*arguments, **named)

    return await in_thread(run)


def test_a_deployment_is_loaded_alone_and_the_others_stay_the_same_objects() -> None:
    first, second, third = deploy("a", order=2), deploy("a", order=1), deploy("b")

    async def story(process: Process, threads: Threads) -> None:
        before = process.targets()
        prices = process.watch.snapshot.prices
        assert process.group("a") == [
            second.id,
            first.id,
        ]
        first.order = 0
        await write(save_deployment, first, price_lines={"input": "0.2"})
        fourth = await write(deploy, "b")
        await write(delete_deployment, await write(deploy, "c"))
        await process.look()
        after = process.targets()
        assert process.group("a") == [
            first.id,
            second.id,
        ]
        assert after.keys() == {first.id, second.id, third.id, fourth.id}
        assert after[second.id] is before[second.id]
        assert after[third.id] is before[third.id]
        assert process.watch.snapshot.prices[second.price_id] is prices[second.price_id]
        former = before[first.id].price_id  # of calls that are under way
        assert {former, *(target.price_id for target in after.values())} == process.watch.snapshot.prices.keys()
        third.enabled = False
        await write(save_deployment, third)
        await process.look()
        assert process.group("b") == [fourth.id]
        await write(delete_deployment, fourth)
        await process.look()
        assert process.group("b") == []

    tell(story)


def test_what_remembers_deployments_hears_of_those_that_are_left_however_they_went() -> None:
    """A process that is far behind reads no names of deployments that were deleted."""
    kept, deleted = deploy("a"), deploy("b")

    async def story(process: Process, threads: Threads) -> None:
        assert process.loaded == [{kept.id, deleted.id}]
        assert set(process.watch.deployment_ids()) == {kept.id, deleted.id}
        await write(delete_deployment, deleted)
        await write(bump_revision)
        await process.look()
        assert process.loaded[1:] == [{kept.id}]
        assert process.watch.describe_deployment(kept.id) == {
            "deployment": kept.id,
            "model_group": "a",
            "provider": "openai_compatible",
            "upstream_model": "up",
        }
        assert process.watch.describe_deployment("b") == {"deployment": "b"}

    tell(story)


def test_a_change_of_a_key_loads_no_deployment() -> None:
    deploy("a")

    async def story(process: Process, threads: Threads) -> None:
        before, threads.loads = process.watch.snapshot, 0
        await write(lambda: issue_key(organization=Organization.objects.get(id=DEFAULT_ORGANIZATION)))
        await process.look()
        await process.look()
        assert len(process.changes) == 1
        assert process.watch.snapshot is before
        assert threads.loads == 0
        await write(bump_revision)
        await process.look()
        assert threads.loads == 1
        assert process.targets() == before.targets

    tell(story)


def test_keys_are_forgotten_at_once_and_deployments_loaded_later_where_they_cannot_be_loaded() -> None:
    async def story(process: Process, threads: Threads) -> None:
        issued = await write(lambda: issue_key(organization=Organization.objects.get(id=DEFAULT_ORGANIZATION)))
        assert await process.directory.find(issued.text) is not None
        deployment = await write(deploy, "a")
        await write(delete_keys, [issued.key])
        threads.fails = True
        await process.look()
        assert not process.watch.is_database_up
        assert await process.directory.find(issued.text) is None
        assert not process.targets()
        threads.fails = False
        await process.look()
        assert process.watch.is_database_up
        assert process.targets().keys() == {deployment.id}

    tell(story)


def test_a_key_of_one_replica_works_on_another_and_ends_there_within_a_second() -> None:
    text = "sk-tried-before-it-was-issued-7Qz"

    async def until(directory: KeyDirectory, *, is_usable: bool) -> float:
        began = asyncio.get_running_loop().time()
        while (await directory.find(text) is not None) is not is_usable:  # noqa: ASYNC110 - the poll changes it
            await asyncio.sleep(0.005)
        return asyncio.get_running_loop().time() - began

    async def story(process: Process, threads: Threads) -> None:
        await process.watch.start()
        for _ in range(3):
            assert await process.directory.find(text) is None
            organization = await write(Organization.objects.get, id=DEFAULT_ORGANIZATION)
            issued = await write(issue_key, organization=organization, text=text)
            assert await until(process.directory, is_usable=True) < 1
            await write(delete_keys, [issued.key])
            assert await until(process.directory, is_usable=False) < 1
        await process.watch.stop()

    assert revision_watch.POLL_S <= 0.5
    tell(story)


def test_the_budgets_of_deployments_follow_the_time_zone_of_their_organization() -> None:
    budgeted = deploy("a")
    plain = deploy("b")
    with scopes_disabled():
        save_deployment(budgeted, budget={"max_budget": "1", "budget_duration": "1d"})

    def move() -> None:
        Organization.objects.filter(id=DEFAULT_ORGANIZATION).update(time_zone="Asia/Tokyo")
        bump_revision(changed_organization(DEFAULT_ORGANIZATION))

    async def story(process: Process, threads: Threads) -> None:
        before = process.targets()
        assert [rule.time_zone for rule in process.watch.snapshot.budgets[budgeted.id]] == ["UTC"]
        await write(move)
        await process.look()
        assert [rule.time_zone for rule in process.watch.snapshot.budgets[budgeted.id]] == ["Asia/Tokyo"]
        assert process.targets()[plain.id] is before[plain.id]

    tell(story)
