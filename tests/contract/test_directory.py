"""The directory over the real tables: who a key belongs to, how soon a revocation acts, and what an outage does."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import InterfaceError, OperationalError
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.pipeline.ports import Principal
from gateway.protocol.errors import GatewayFault
from tenants.access import digest_of, ensure_master_key
from tenants.directory import KeyDirectory, load_principal
from tenants.keys import delete_keys, issue_key, set_key_blocked, update_key
from tenants.models import DEFAULT_ORGANIZATION, User
from tenants.revision import bump_revision, current_revision
from tenants.teams import set_team_blocked
from tests.conftest import Person

pytestmark = pytest.mark.django_db
GRACE_S = 300.0


class Lookups:
    """The directory's thread: it counts, waits for the test, or fails like a database that is away."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.fails: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(self, function: Callable[[str], Principal | None], digest: str) -> Principal | None:
        self.digests.append(digest)
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return await sync_to_async(function)(digest)


Story = Callable[[KeyDirectory, Lookups], Awaitable[Any]]


def tell(story: Story, *, grace_s: float = GRACE_S) -> Any:
    """Runs `story` with a directory that has just seen the database."""

    async def run() -> Any:
        lookups = Lookups()
        directory = KeyDirectory(in_thread=lookups, outage_grace_s=grace_s)
        await refresh(directory)
        return await story(directory, lookups)

    return async_to_sync(run)()


async def refresh(directory: KeyDirectory) -> None:
    """One look of the poll, which looks twice a second."""
    directory.confirm(await sync_to_async(current_revision)())


async def change(function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    def within() -> None:
        with scopes_disabled():
            function(*arguments, **named)

    await sync_to_async(within)()


def find(text: str) -> Principal | None:
    principal: Principal | None = tell(lambda directory, _: directory.find(text))
    return principal


# Who


def test_each_key_is_its_holders_only(owner: Person, team_mate: Person, stranger: Person) -> None:
    for person in (owner, team_mate, stranger):
        principal = find(person.text)
        assert principal is not None
        assert (principal.organization_id, principal.key_id) == (person.organization.id, person.key.id)
        assert principal.team_id == (person.team.id if person.team is not None else "")
        assert principal.user_id == person.user.username
        assert principal.key_digest == digest_of(person.text)
        assert not principal.is_master


@pytest.mark.parametrize("text", ["", "sk-unknown", "x" * 1000, "sk-\xff\xfe", "Bearer x"])
def test_an_unknown_key_has_no_holder(text: str, owner: Person) -> None:
    assert find(text) is None


def test_a_digest_or_a_part_of_a_key_is_no_key(owner: Person) -> None:
    for text in (owner.key.digest, owner.text[:-1], f"{owner.text} ", owner.text.upper(), owner.key.id):
        assert find(text) is None


def test_the_master_key_is_the_master() -> None:
    ensure_master_key("sk-master-of-this-test-0123456789", "environment")
    principal = find("sk-master-of-this-test-0123456789")
    assert principal is not None
    assert (principal.is_master, principal.organization_id) == (True, DEFAULT_ORGANIZATION)


def test_models_and_expiry_are_those_of_key_and_team(owner: Person) -> None:
    until = datetime(2030, 1, 1, tzinfo=UTC)
    update_key(owner.key, changes={"allowed_models": ["a", "b"], "expires_at": until})
    assert owner.team is not None
    owner.team.allowed_models = ["b", "c"]
    owner.team.save()
    principal = find(owner.text)
    assert principal is not None
    assert set(principal.allowed_models) == {frozenset({"a", "b"}), frozenset({"b", "c"})}
    assert principal.expires_at_s == until.timestamp()


def test_an_expired_key_has_its_expiry(stranger: Person) -> None:
    """The directory keeps it in memory; Identify compares the clock at each call."""
    past = timezone.now() - timedelta(seconds=1)
    with scopes_disabled():
        text = issue_key(organization=stranger.organization, expires_at=past).text
    principal = find(text)
    assert principal is not None
    assert principal.expires_at_s is not None
    assert principal.expires_at_s < timezone.now().timestamp()


# From memory


def test_a_key_is_looked_up_once_a_revision(owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        for text in (owner.text, "sk-unknown"):
            lookups.digests.clear()
            for _ in range(3):
                await directory.find(text)
            assert len(lookups.digests) == 1
            await refresh(directory)
            await directory.find(text)
            assert len(lookups.digests) == 1
        await change(bump_revision)
        await refresh(directory)
        for _ in range(2):
            assert await directory.find(owner.text) is not None
        assert len(lookups.digests) == 2

    tell(story)


def test_many_callers_with_one_key_cause_one_look_up(owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        lookups.gate = asyncio.Event()
        crowd = [asyncio.create_task(directory.find(owner.text)) for _ in range(50)]
        await asyncio.sleep(0)
        crowd[0].cancel()  # the first, who began the look-up, leaves
        crowd[7].cancel()
        await asyncio.sleep(0)
        lookups.gate.set()
        outcomes = await asyncio.gather(*crowd, return_exceptions=True)
        assert sum(isinstance(one, Principal) for one in outcomes) == 48
        assert len(lookups.digests) == 1

    tell(story)


def test_a_look_up_without_waiting_callers_still_fills_the_cache(owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        lookups.gate = asyncio.Event()
        lone = asyncio.create_task(directory.find(owner.text))
        await asyncio.sleep(0)
        lone.cancel()
        await asyncio.sleep(0)
        lookups.gate.set()
        assert await directory.find(owner.text) is not None
        assert len(lookups.digests) == 1

    tell(story)


def test_a_key_issued_after_it_was_tried_works_at_the_next_poll(stranger: Person) -> None:
    text = "sk-tried-before-it-was-issued-7Qz"

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        assert await directory.find(text) is None
        await change(issue_key, organization=stranger.organization, text=text)
        await refresh(directory)
        assert await directory.find(text) is not None

    tell(story)


# Revocation


def block_organization(person: Person) -> None:
    person.organization.blocked = True
    person.organization.save()
    bump_revision()


def deactivate(person: Person) -> None:
    User.objects.filter(pk=person.user.pk).update(is_active=False)
    bump_revision()


REVOCATIONS: dict[str, Callable[[Person], object]] = {
    "the key is blocked": lambda person: set_key_blocked(person.key, blocked=True),
    "the key is deleted": lambda person: delete_keys([person.key]),
    "the team is blocked": lambda person: set_team_blocked(person.key.team, blocked=True),
    "the organization is blocked": block_organization,
    "the user is deactivated": deactivate,
}


@pytest.mark.parametrize("revoke", REVOCATIONS.values(), ids=REVOCATIONS.keys())
def test_a_revoked_key_is_refused_from_the_next_poll_on(revoke: Callable[[Person], object], owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        assert await directory.find(owner.text) is not None
        await change(revoke, owner)
        await refresh(directory)
        assert await directory.find(owner.text) is None
        assert await directory.find(owner.text) is None

    tell(story)


def test_blocking_the_owner_leaves_team_mate_and_stranger_alone(
    owner: Person, team_mate: Person, stranger: Person
) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> list[bool]:
        await change(set_key_blocked, owner.key, blocked=True)
        await refresh(directory)
        return [await directory.find(person.text) is not None for person in (owner, team_mate, stranger)]

    assert tell(story) == [False, True, True]


def test_blocking_the_team_refuses_owner_and_team_mate_but_not_the_stranger(
    owner: Person, team_mate: Person, stranger: Person
) -> None:
    assert owner.team is not None
    with scopes_disabled():
        set_team_blocked(owner.team, blocked=True)
    assert [find(person.text) is not None for person in (owner, team_mate, stranger)] == [False, False, True]


def test_an_unblocked_key_works_again(owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        for blocked in (True, False):
            await change(set_key_blocked, owner.key, blocked=blocked)
            await refresh(directory)
            assert (await directory.find(owner.text) is None) is blocked

    tell(story)


def test_a_look_up_that_began_before_the_revocation_is_not_cached(owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        lookups.gate = asyncio.Event()
        early = asyncio.create_task(directory.find(owner.text))
        await asyncio.sleep(0)
        await change(set_key_blocked, owner.key, blocked=True)
        await refresh(directory)
        lookups.gate.set()
        await early
        assert await directory.find(owner.text) is None

    tell(story)


# An outage

AWAY = [OperationalError("away"), InterfaceError("closed")]


@pytest.mark.parametrize("error", AWAY, ids=["operational", "interface"])
def test_in_an_outage_known_keys_work_on_and_unknown_ones_get_a_503(error: Exception, owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        principal = await directory.find(owner.text)
        lookups.fails = error
        assert await directory.find(owner.text) is principal
        with pytest.raises(GatewayFault) as refused:
            await directory.find("sk-unknown")
        assert (refused.value.status, refused.value.headers) == (503, ((b"retry-after", b"2"),))
        lookups.fails = None
        assert await directory.find("sk-unknown") is None

    tell(story)


def test_a_key_known_from_an_older_revision_works_on_for_the_grace_only(owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        principal = await directory.find(owner.text)
        await change(bump_revision)
        await refresh(directory)
        lookups.fails = AWAY[0]
        assert await directory.find(owner.text) is principal
        directory._confirmed_at -= GRACE_S + 1  # so much time without a sign of the database
        with pytest.raises(GatewayFault):
            await directory.find(owner.text)

    tell(story)


def test_a_cached_key_is_refused_long_after_the_last_answer_of_the_database(owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        await directory.find(owner.text)
        directory._confirmed_at -= GRACE_S + 60
        with pytest.raises(GatewayFault):
            await directory.find(owner.text)
        await refresh(directory)
        assert await directory.find(owner.text) is not None

    tell(story)


def test_without_grace_an_outage_is_a_503_for_each_look_up(owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        await directory.find(owner.text)
        await change(bump_revision)
        await refresh(directory)
        lookups.fails = AWAY[0]
        with pytest.raises(GatewayFault):
            await directory.find(owner.text)

    tell(story, grace_s=0)


def test_an_outage_is_never_cached_as_an_unknown_key(owner: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        lookups.fails = AWAY[0]
        with pytest.raises(GatewayFault):
            await directory.find(owner.text)
        lookups.fails = None
        assert await directory.find(owner.text) is not None

    tell(story)


def test_the_cache_of_unknown_keys_is_bounded_and_does_not_evict_known_ones(
    owner: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.directory.MAX_UNKNOWN", 3)

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        await directory.find(owner.text)
        for number in range(10):
            await directory.find(f"sk-unknown-{number}")
        assert len(directory._unknown) == 3
        lookups.digests.clear()
        await directory.find(owner.text)
        assert lookups.digests == []

    tell(story)


def test_a_principal_is_read_with_few_queries(owner: Person, django_assert_max_num_queries: Any) -> None:
    with django_assert_max_num_queries(2):
        load_principal(owner.key.digest)
