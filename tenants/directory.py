"""The directory: a presented key → Principal, cached in memory.

The directory reads a key from the database once, and again when the key or one of its holders changes (see
revision.py): the poll tells it within half a second. While the database cannot be reached, known keys work for a
limited time; an unknown key gets a 503, not a 401. A call waits for a database that does not answer once: until the
database answers again, calls are answered from memory, or refused at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NoReturn, TypeVar, cast

from django.db import Error as DatabaseError
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.pipeline.ports import Principal, Rules
from gateway.protocol.deployment_tags import NO_TAGS, read_tags
from gateway.protocol.json.types import JsonMapping
from tenants.access import digest_of, master_digest
from tenants.change_cache import ChangeCache, Entry, RunningLoads
from tenants.database import database_away
from tenants.key_fields import allowed_networks_of, allowed_routes_of, cache_control_of, timeouts_of
from tenants.keys import allowed_names
from tenants.models import DEFAULT_ORGANIZATION, FormerKey, Membership, Scope, UnpricedPolicy, VirtualKey
from tenants.revision import (
    Changed,
    changed_key,
    changed_organization,
    changed_team,
    changed_template,
    changed_user,
)
from tenants.rules import OWNERS, Holder, load_rules, member_scope_id

MAX_USABLE = 2_500  # some 2 to 3 KB each: with more the process is larger than 120 MB
MAX_UNKNOWN = 10_000
MAX_LOOKUPS = 200  # of digests that are not in memory: a flood of guesses must not delay a known key's look-up
MAX_READS = 3  # of a key that changes while it is read
MAX_SHARED = 4_000
PATIENCE_S = 1.0  # for the look-up of a key that is known from before its last change
MASTER_ALIAS = "master key"
MAX_COST_CENTER_CHARS = 255
HOLDERS = ("team", "organization", "user")
COMMON_OWNERS = frozenset({OWNERS[Scope.ORGANIZATION], OWNERS[Scope.TEAM]})  # of rules that many keys have

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The database's answer for a digest: its holder, None where it may not call, and what this depends on besides
    the digest itself."""

    principal: Principal | None = None
    depends_on: tuple[Changed, ...] = ()


InThread = Callable[[Callable[[str], KeyRecord], str], Awaitable[KeyRecord]]


class KeyDirectory:
    """Answers from two bounded caches: the keys that may call, and the digests that may not."""

    def __init__(self, *, in_thread: InThread, outage_grace_s: float) -> None:
        self._in_thread = in_thread
        self._outage_grace_s = outage_grace_s
        self._usable: ChangeCache[Principal] = ChangeCache(MAX_USABLE)
        self._unknown: ChangeCache[None] = ChangeCache(MAX_UNKNOWN)
        self._loading: dict[Changed, asyncio.Task[Principal | None]] = {}
        self._loads = RunningLoads()
        self._confirmed_at = 0.0  # when the revision was last read from the database (monotonic)
        self._is_silent = False  # the database let a look-up wait, and has not answered since

    def forget(self, changes: Collection[Changed]) -> None:
        """The next call of each key that these changes concern reads it again."""
        self._usable.forget(changes)
        self._unknown.forget(changes)
        self._loads.note(changes)

    def confirm(self) -> None:
        """Records that the database answers, and that it had no changes but those told to `forget`."""
        self._confirmed_at = time.monotonic()
        self._is_silent = False

    async def find(self, text: str) -> Principal | None:
        key = changed_key(digest_of(text))
        entry: Entry[Principal] | Entry[None] | None = self._usable.get(key) or self._unknown.get(key)
        if entry is not None and entry.is_fresh:
            if time.monotonic() - self._confirmed_at > self._outage_grace_s + 5:
                _refuse()
            return entry.value
        loading = self._start_lookup(key, is_known=entry is not None)
        stale = self._find_stale(key)
        if self._is_silent or loading is None:
            return stale or _refuse()
        # shielded: a client that leaves must not cancel it for the others
        if stale is None:
            return await asyncio.shield(loading)
        done, _ = await asyncio.wait([loading], timeout=PATIENCE_S)
        if done:
            return loading.result()
        self._is_silent = True
        return self._find_stale(key) or _refuse()

    def _start_lookup(self, key: Changed, *, is_known: bool) -> asyncio.Task[Principal | None] | None:
        """The look-up of this key; None where it has to wait for others. While the database is silent one look-up at a
        time tries it."""
        loading = self._loading.get(key)
        if loading is not None:
            return loading
        if (self._is_silent and self._loading) or (len(self._loading) >= MAX_LOOKUPS and not is_known):
            return None
        loading = self._loading[key] = asyncio.create_task(self._load(key))
        loading.add_done_callback(lambda task: self._end_lookup(key, task))
        return loading

    def _end_lookup(self, key: Changed, task: asyncio.Task[Principal | None]) -> None:
        self._loading.pop(key, None)
        if not task.cancelled():
            task.exception()  # its callers may have gone

    def _find_stale(self, key: Changed) -> Principal | None:
        """The holder as it was before its last change, as long as an outage allows."""
        stale = self._usable.get(key)
        if stale is None or time.monotonic() - self._confirmed_at > self._outage_grace_s:
            return None
        return stale.value

    async def _load(self, key: Changed) -> Principal | None:
        """Reads the key, and again where it changed meanwhile: callers wait who came after the change."""
        for _ in range(MAX_READS):
            began_at = time.monotonic()
            try:
                with self._loads.begin() as changes:
                    record = await self._in_thread(load_key, key.ref)
            except DatabaseError:
                self._is_silent = time.monotonic() - began_at > PATIENCE_S
                return self._find_stale(key) or _refuse()
            self._is_silent = False
            if self._store(key, record, changes):
                break
        return record.principal

    def _store(self, key: Changed, record: KeyRecord, changes: Collection[Changed]) -> bool:
        """Returns False where one of the changes concerns the key."""
        self._usable.pop(key)
        self._unknown.pop(key)
        if record.principal is None:
            return self._unknown.put(key, None, record.depends_on, changes)
        return self._usable.put(key, record.principal, record.depends_on, changes)


def _refuse() -> NoReturn:
    raise database_away("check keys") from None


def load_principal(digest: str) -> Principal | None:
    """The holder of the key with this digest, read from the database; None for a key that may not call."""
    return load_key(digest).principal


def load_key(digest: str) -> KeyRecord:
    if digest == master_digest():
        return KeyRecord(
            Principal(organization_id=DEFAULT_ORGANIZATION, key_digest=digest, key_alias=MASTER_ALIAS, is_master=True)
        )
    with scopes_disabled():  # the organization is not known yet
        key = VirtualKey.objects.select_related(*HOLDERS).filter(digest=digest).first()
        former = None if key is not None else _find_former(digest)
        key = former.key if former is not None else key
        if key is None:
            return KeyRecord()
        if not _may_call(key):
            return KeyRecord(depends_on=_things_of(key, digest, ()))
        member = _find_member(key)
        holders = list(_holders(key, member))
        principal = _principal(key, holders, member)
    if former is not None:
        ends = (principal.expires_at_s, former.expires_at.timestamp())
        principal = replace(principal, expires_at_s=min(end for end in ends if end is not None))
    return KeyRecord(_share_parts(principal, digest), _things_of(key, digest, holders))


def _find_former(digest: str) -> FormerKey | None:
    """The key that had this digest until its rotation, while that text still works."""
    keys = FormerKey.objects.select_related("key", *(f"key__{name}" for name in HOLDERS))
    return keys.filter(digest=digest, expires_at__gt=timezone.now()).first()


def _may_call(key: VirtualKey) -> bool:
    if key.blocked or key.organization.blocked or (key.team is not None and key.team.blocked):
        return False
    return key.user is None or key.user.is_active


def find_rules(key: VirtualKey) -> Rules:
    """The limits and budgets of all scopes that every call of the key belongs to."""
    return load_rules(key.organization, list(_holders(key, _find_member(key))))


def _find_member(key: VirtualKey) -> Membership | None:
    """The membership of the key's user in the key's team."""
    if key.team is None or key.user is None:
        return None
    return Membership.objects.filter(team=key.team, user=key.user).first()


def _principal(key: VirtualKey, scopes: Sequence[Holder], member: Membership | None) -> Principal:
    organization, team, user = key.organization, key.team, key.user
    holders = [holder for holder in (key, organization, team, user, member) if holder is not None]
    lists = [allowed_names(holder.allowed_models) for holder in holders]
    return Principal(
        organization_id=key.organization_id,
        key_digest=key.digest,
        key_id=key.id,
        key_alias=key.alias,
        team_id=key.team_id or "",
        user_id=user.username if user is not None else "",
        allowed_models=tuple(frozenset(models) for models in lists if models),
        model_aliases=tuple(({**(team.model_aliases if team is not None else {}), **key.model_aliases}).items()),
        allowed_routes=allowed_routes_of(key),
        allowed_networks=allowed_networks_of(key),
        expires_at_s=key.expires_at.timestamp() if key.expires_at is not None else None,
        retention_days=organization.retention_days,
        tags=read_tags(key.metadata.get("tags"))
        | (read_tags(team.metadata.get("tags")) if team is not None else NO_TAGS),
        rules=load_rules(organization, scopes),
        timeouts=timeouts_of(key),
        refuses_unpriced=organization.unpriced_policy == UnpricedPolicy.BLOCK,
        cache=cache_control_of(team.metadata if team is not None else {}, key.metadata),
        cost_center=_cost_center_of(key.metadata) or _cost_center_of(team.metadata if team is not None else {}),
    )


def _cost_center_of(metadata: JsonMapping) -> str:
    """`cost_center` of the metadata, as text."""
    value = metadata.get("cost_center")
    return str(value)[:MAX_COST_CENTER_CHARS] if isinstance(value, str | int) and not isinstance(value, bool) else ""


def read_holders(key: VirtualKey) -> list[Holder]:
    """The scopes of a key that was read with its organization, team and user."""
    return list(_holders(key, _find_member(key)))


def _holders(key: VirtualKey, member: Membership | None) -> Iterator[Holder]:
    """The scopes that every call of the key belongs to. The most restrictive of their rules wins."""
    yield Holder(Scope.KEY, key.id, key.budget_template_id)
    if key.user is not None:
        if key.team is not None:
            template_id = (member and member.budget_template_id) or key.team.member_template_id
            yield Holder(Scope.MEMBER, member_scope_id(key.team.id, key.user.username), template_id)
        yield Holder(Scope.USER, key.user.username, key.user.budget_template_id)
    if key.team is not None:
        yield Holder(Scope.TEAM, key.team.id, key.team.budget_template_id)
    yield Holder(Scope.ORGANIZATION, key.organization_id, key.organization.budget_template_id)


def _things_of(key: VirtualKey, digest: str, scopes: Sequence[Holder]) -> tuple[Changed, ...]:
    """The things whose change changes what a digest may do, besides the digest itself."""
    things = [changed_organization(key.organization_id)]
    if digest != key.digest:
        things.append(changed_key(key.digest))
    if key.team is not None:
        things.append(changed_team(key.team.id))
    if key.user is not None:
        things.append(changed_user(key.user.username))
    things += (changed_template(scope.template_id) for scope in scopes if scope.template_id)
    return tuple(_share(thing) for thing in dict.fromkeys(things))


def _share_parts(principal: Principal, digest: str) -> Principal:
    """An equal principal whose parts are those of other principals where these have the same."""
    rules = Rules(
        tuple(_share(rule) if rule.owner in COMMON_OWNERS else rule for rule in principal.rules.limits),
        tuple(_share(rule) if rule.owner in COMMON_OWNERS else rule for rule in principal.rules.budgets),
    )
    owners = {rule.owner for rule in rules.limits} | {rule.owner for rule in rules.budgets}
    return replace(
        principal,
        key_digest=digest if digest == principal.key_digest else principal.key_digest,
        organization_id=_share(principal.organization_id),
        team_id=_share(principal.team_id),
        tags=_share(principal.tags),
        allowed_models=_share(tuple(_share(models) for models in principal.allowed_models)),
        rules=_share(rules) if owners <= COMMON_OWNERS else rules,
    )


def _share(value: Value) -> Value:
    """The first value that was equal to this one: memory holds it once."""
    return cast("Value", _find_equal(cast("Hashable", value)))


@lru_cache(maxsize=MAX_SHARED)
def _find_equal(value: Hashable) -> Hashable:
    return value
