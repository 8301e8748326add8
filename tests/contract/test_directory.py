"""The directory over the real tables: who a key belongs to, how soon a revocation acts, and what an outage does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.pipeline.ports import Principal
from gateway.protocol.cache_control import NO_CONTROL, CacheControl
from gateway.protocol.errors import GatewayFault
from gateway.state.reader import Found, Query
from tenants.access import digest_of, ensure_master_key
from tenants.directory import KeyDirectory, KeyRecord, load_principal
from tenants.invalid import KeyInvalid
from tenants.keys import delete_keys, issue_key, set_key_blocked, update_key
from tenants.limits import change_limits
from tenants.models import DEFAULT_ORGANIZATION, BudgetTemplate, FormerKey, Scope, Team, User, VirtualKey
from tenants.organizations import set_organizations_blocked
from tenants.revision import (
    EVERYTHING,
    ChangeFeed,
    bump_revision,
    changed_deployment,
    changed_end_user,
    changed_template,
    changed_user,
)
from tenants.teams import set_team_blocked, update_team
from tests.conftest import Person

pytestmark = pytest.mark.django_db
GRACE_S = 300.0


class Lookups:
    """The directory's thread: it counts, waits for the test, or fails like a database that is away."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.fails: Exception | None = None
        self.gate: asyncio.Event | None = None  # before it reads
        self.late: asyncio.Event | None = None  # before it returns what it has read
        self.records: list[KeyRecord] = []

    async def __call__(self, function: Callable[[str], KeyRecord], digest: str) -> KeyRecord:
        self.digests.append(digest)
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        record = await sync_to_async(function)(digest)
        self.records.append(record)
        if self.late is not None:
            await self.late.wait()
        return record


Story = Callable[[KeyDirectory, Lookups], Awaitable[Any]]


def tell(story: Story, *, grace_s: float = GRACE_S) -> Any:
    """Runs `story` with a directory that has just seen the database."""

    async def run() -> Any:
        lookups = Lookups()
        directory = KeyDirectory(in_thread=lookups, outage_grace_s=grace_s)
        FEEDS[directory] = ChangeFeed(CaseReader())
        await refresh(directory)
        return await story(directory, lookups)

    return async_to_sync(run)()


class CaseReader:
    """Reads within the transaction of the test."""

    async def fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
        def read() -> list[Found]:
            with connection.cursor() as cursor:
                cursor.execute(query.postgres, parameters)
                return cursor.fetchall()

        return await sync_to_async(read)()

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return


FEEDS: WeakKeyDictionary[KeyDirectory, ChangeFeed] = WeakKeyDictionary()


async def refresh(directory: KeyDirectory) -> None:
    """One look of the poll, which looks twice a second."""
    directory.forget(await FEEDS[directory].read())
    directory.confirm()


async def change(function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    def within() -> None:
        with scopes_disabled():
            function(*arguments, **named)

    await sync_to_async(within)()


async def until_found(directory: KeyDirectory, text: str, holder: Principal | None) -> None:
    while await directory.find(text) is not holder:  # noqa: ASYNC110 - the look-up ends in a thread
        await asyncio.sleep(0.01)


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


def test_a_key_for_all_models_of_its_team_has_the_teams(owner: Person) -> None:
    update_key(owner.key, changes={"allowed_models": ["all-team-models"]})
    assert owner.team is not None
    owner.team.allowed_models = ["b", "c"]
    owner.team.save()
    principal = find(owner.text)
    assert principal is not None
    assert principal.allowed_models == (frozenset({"b", "c"}),)
    owner.team.allowed_models = ["b", "all-proxy-models"]
    owner.team.save()
    principal = find(owner.text)
    assert principal is not None
    assert principal.allowed_models == ()


def test_cache_controls_are_those_of_the_key_over_its_teams(owner: Person, stranger: Person) -> None:
    assert owner.team is not None
    update_team(owner.team, changes={"metadata": {"cache": {"use-cache": True, "ttl": 60, "no-store": True}}})
    update_key(owner.key, changes={"metadata": {"cache": {"ttl": 5}}})
    principal, other = find(owner.text), find(stranger.text)
    assert principal is not None
    assert principal.cache == CacheControl(is_wanted=True, ttl_s=5, may_write=False)
    assert other is not None
    assert other.cache is NO_CONTROL


def test_the_cost_center_is_that_of_the_key_else_of_its_team(owner: Person, stranger: Person) -> None:
    assert owner.team is not None
    update_team(owner.team, changes={"metadata": {"cost_center": 4711}})
    principal, other = find(owner.text), find(stranger.text)
    assert principal is not None
    assert other is not None
    assert (principal.cost_center, other.cost_center) == ("4711", "")
    update_key(owner.key, changes={"metadata": {"cost_center": "research " + "x" * 300}})
    principal = find(owner.text)
    assert principal is not None
    assert principal.cost_center == "research " + "x" * 246
    update_key(owner.key, changes={"metadata": {"cost_center": ["a", "list"]}})
    principal = find(owner.text)
    assert principal is not None
    assert principal.cost_center == "4711"


def test_a_cache_control_that_cannot_be_used_is_refused_and_one_that_is_there_already_is_none(owner: Person) -> None:
    wrong = {"cache": {"ttl": "long"}}
    assert owner.team is not None
    with pytest.raises(KeyInvalid, match=r"cache\.ttl"):
        update_key(owner.key, changes={"metadata": wrong})
    with pytest.raises(KeyInvalid, match=r"cache\.ttl"):
        update_team(owner.team, changes={"metadata": wrong})
    with scopes_disabled():
        VirtualKey.objects.filter(pk=owner.key.pk).update(metadata=wrong)
    principal = find(owner.text)
    assert principal is not None
    assert principal.cache is NO_CONTROL


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


# What a change does not concern


async def collect_lookups(directory: KeyDirectory, lookups: Lookups, *people: Person) -> list[str]:
    """The names of those whose keys the directory has to look up."""
    names = []
    for person in people:
        lookups.digests.clear()
        await directory.find(person.text)
        if lookups.digests:
            names.append(person.user.username.partition("-")[0])
    return names


CONCERNED: dict[str, tuple[Callable[[Person], object], list[str]]] = {
    "the key": (lambda person: set_key_blocked(person.key, blocked=True), ["owner"]),
    "the user": (lambda person: bump_revision(changed_user(person.user.username)), ["owner"]),
    "the team": (lambda person: set_team_blocked(person.key.team, blocked=True), ["owner", "mate"]),
    "the organization": (
        lambda person: set_organizations_blocked([person.organization], blocked=True),
        ["owner", "mate"],
    ),
    "another key": (lambda person: issue_key(organization=person.organization, team=person.team), []),
    "a deployment": (lambda person: bump_revision(changed_deployment("d")), []),
    "an end user": (lambda person: bump_revision(changed_end_user(person.organization.id, "ann")), []),
    "everything": (lambda person: bump_revision(EVERYTHING), ["owner", "mate", "stranger"]),
}


@pytest.mark.parametrize(("write", "names"), CONCERNED.values(), ids=CONCERNED.keys())
def test_a_change_is_read_again_by_the_keys_that_it_concerns_and_by_no_other(
    write: Callable[[Person], object], names: list[str], owner: Person, team_mate: Person, stranger: Person
) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        people = (owner, team_mate, stranger)
        assert await collect_lookups(directory, lookups, *people) == ["owner", "mate", "stranger"]
        await change(write, owner)
        await refresh(directory)
        assert await collect_lookups(directory, lookups, *people) == names
        assert await collect_lookups(directory, lookups, *people) == []

    tell(story)


def test_a_budget_template_changes_the_keys_whose_holders_have_it(owner: Person, stranger: Person) -> None:
    assert owner.team is not None
    with scopes_disabled():
        template = BudgetTemplate.objects.create(organization=owner.organization)
        Team.objects.filter(id=owner.team.id).update(budget_template=template)

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        await collect_lookups(directory, lookups, owner, stranger)
        await change(bump_revision, changed_template(template.id))
        await refresh(directory)
        assert await collect_lookups(directory, lookups, owner, stranger) == ["owner"]

    tell(story)


def test_the_keys_of_a_team_that_is_unblocked_work_again(owner: Person, team_mate: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        for blocked in (True, False):
            await change(set_team_blocked, owner.team, blocked=blocked)
            await refresh(directory)
            for person in (owner, team_mate):
                assert (await directory.find(person.text) is None) is blocked

    tell(story)


def test_the_former_text_of_a_rotated_key_ends_with_its_grace_and_with_the_key(owner: Person) -> None:
    ends_at = timezone.now() + timedelta(hours=1)
    FormerKey.objects.create(digest=digest_of("sk-before-the-rotation"), key=owner.key, expires_at=ends_at)

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        former = await directory.find("sk-before-the-rotation")
        assert former is not None
        assert (former.key_id, former.expires_at_s) == (owner.key.id, ends_at.timestamp())
        await change(set_key_blocked, owner.key, blocked=True)
        await refresh(directory)
        assert await directory.find("sk-before-the-rotation") is None

    tell(story)


def test_a_caller_after_the_revocation_never_gets_what_was_read_before_it(owner: Person) -> None:
    """The database answers a look-up slowly that began before the key was blocked."""

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        lookups.late = asyncio.Event()
        early = asyncio.create_task(directory.find(owner.text))
        await until_read(lookups)
        await change(set_key_blocked, owner.key, blocked=True)
        await refresh(directory)
        late = asyncio.create_task(directory.find(owner.text))
        await asyncio.sleep(0)
        lookups.late.set()
        assert await late is None
        assert await early is None
        assert len(lookups.digests) == 2

    tell(story)


def test_an_unrelated_change_does_not_make_a_look_up_begin_anew(owner: Person, stranger: Person) -> None:
    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        lookups.late = asyncio.Event()
        early = asyncio.create_task(directory.find(owner.text))
        await until_read(lookups)
        await change(set_key_blocked, stranger.key, blocked=True)
        await refresh(directory)
        lookups.late.set()
        assert await early is not None
        assert await collect_lookups(directory, lookups, owner) == []

    tell(story)


async def until_read(lookups: Lookups) -> None:
    while not lookups.records:  # noqa: ASYNC110 - it is read in a thread
        await asyncio.sleep(0.01)


def test_the_keys_used_last_stay_in_memory(
    owner: Person, team_mate: Person, stranger: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.directory.MAX_USABLE", 2)

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        await collect_lookups(directory, lookups, owner, team_mate, owner, stranger)
        assert await collect_lookups(directory, lookups, owner, stranger) == []
        assert await collect_lookups(directory, lookups, team_mate) == ["mate"]

    tell(story)


def test_principals_share_what_they_have_in_common(owner: Person, team_mate: Person) -> None:
    assert owner.team is not None
    with scopes_disabled():
        Team.objects.filter(id=owner.team.id).update(allowed_models=["a", "b"])
        change_limits(owner.organization, Scope.TEAM, owner.team.id, {"rpm_limit": 10, "max_budget": 5})
    one, other = find(owner.text), find(team_mate.text)
    assert one is not None
    assert other is not None
    assert one.rules.limits
    assert one.rules.budgets
    assert one.rules is other.rules
    assert one.allowed_models is other.allowed_models


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


def test_a_silent_database_makes_each_known_key_wait_once_and_an_unknown_one_never_again(
    owner: Person, team_mate: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is frozen just after a change of keys; each look-up took five seconds."""
    monkeypatch.setattr("tenants.directory.PATIENCE_S", 0.05)

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        known = [await directory.find(person.text) for person in (owner, team_mate)]
        await change(bump_revision)
        await refresh(directory)
        lookups.gate = asyncio.Event()  # opened at the end only: what waits for it, waits for ever
        lookups.digests.clear()
        crowd = await asyncio.gather(*(directory.find(owner.text) for _ in range(50)))
        assert crowd == [known[0]] * 50
        for _ in range(50):
            assert await directory.find(owner.text) is known[0]
            assert await directory.find(team_mate.text) is known[1]
            with pytest.raises(GatewayFault) as refused:
                await directory.find("sk-unknown")
            assert (refused.value.status, refused.value.headers) == (503, ((b"retry-after", b"2"),))
        assert len(lookups.digests) == 1
        await change(set_key_blocked, owner.key, blocked=True)
        lookups.gate.set()
        await until_found(directory, owner.text, None)
        await refresh(directory)
        assert await directory.find(owner.text) is None
        assert await directory.find("sk-unknown") is None

    tell(story)


def test_a_silent_database_that_answers_again_is_noticed_by_the_poll_too(
    owner: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.directory.PATIENCE_S", 0.05)

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        await directory.find(owner.text)
        await change(set_key_blocked, owner.key, blocked=True)
        await refresh(directory)
        lookups.gate = asyncio.Event()
        assert await directory.find(owner.text) is not None
        lookups.gate.set()
        await refresh(directory)
        assert await directory.find(owner.text) is None

    tell(story)


def test_a_silent_database_lets_nobody_in_behind_the_grace(owner: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenants.directory.PATIENCE_S", 0.05)

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        await directory.find(owner.text)
        await change(bump_revision)
        await refresh(directory)
        lookups.gate = asyncio.Event()
        await directory.find(owner.text)
        directory._confirmed_at -= GRACE_S + 1
        with pytest.raises(GatewayFault):
            await directory.find(owner.text)
        lookups.gate.set()
        await asyncio.sleep(0)

    tell(story)


def test_a_flood_of_guesses_does_not_delay_the_look_up_of_a_known_key(
    owner: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenants.directory.MAX_LOOKUPS", 3)

    async def story(directory: KeyDirectory, lookups: Lookups) -> None:
        await directory.find(owner.text)
        await change(set_key_blocked, owner.key, blocked=True)
        await refresh(directory)
        lookups.gate = asyncio.Event()
        lookups.digests.clear()
        guesses = [asyncio.create_task(directory.find(f"sk-guess-{number}")) for number in range(10)]
        await asyncio.sleep(0)
        revoked = asyncio.create_task(directory.find(owner.text))
        await asyncio.sleep(0.01)
        assert len(lookups.digests) == 4
        lookups.gate.set()
        assert await revoked is None
        outcomes = await asyncio.gather(*guesses, return_exceptions=True)
        assert [getattr(outcome, "status", 401) for outcome in outcomes] == [401] * 3 + [503] * 7

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
    with django_assert_max_num_queries(5):
        load_principal(owner.key.digest)
