"""The directory: a presented key → Principal, cached in memory.

The directory reads a digest from the database once per revision (see revision.py), then answers from memory. It sees a
change of a key, team or organization within the half second of the poll. While the database cannot be reached, known
keys work for a limited time; an unknown key gets a 503, not a 401.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from django.db import Error as DatabaseError
from django_scopes import scopes_disabled

from gateway.pipeline.ports import Principal
from tenants.access import digest_of, master_digest
from tenants.database import database_away
from tenants.models import DEFAULT_ORGANIZATION, VirtualKey

MAX_USABLE = 100_000
MAX_UNKNOWN = 10_000
MASTER_ALIAS = "master key"

InThread = Callable[[Callable[[str], Principal | None], str], Awaitable[Principal | None]]


@dataclass(frozen=True, slots=True)
class Entry:
    principal: Principal | None
    revision: int


class KeyDirectory:
    """Answers from two bounded caches: the keys that may call, and the digests that may not."""

    def __init__(self, *, in_thread: InThread, outage_grace_s: float) -> None:
        self._in_thread = in_thread
        self._outage_grace_s = outage_grace_s
        self._usable: OrderedDict[str, Entry] = OrderedDict()
        self._unknown: OrderedDict[str, Entry] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Principal | None]] = {}
        self._revision = -1
        self._confirmed_at = 0.0  # when the revision was last read from the database (monotonic)

    def confirm(self, revision: int) -> None:
        """Records that the database answers, and its revision."""
        self._revision = revision
        self._confirmed_at = time.monotonic()

    async def find(self, key: str) -> Principal | None:
        digest = digest_of(key)
        entry = self._usable.get(digest) or self._unknown.get(digest)
        if entry is not None and entry.revision == self._revision:
            if time.monotonic() - self._confirmed_at > self._outage_grace_s + 5:
                raise database_away("check keys")
            return entry.principal
        loading = self._loading.get(digest)
        if loading is None:
            loading = asyncio.create_task(self._load(digest))
            self._loading[digest] = loading
            loading.add_done_callback(lambda _: self._loading.pop(digest, None))
        return await asyncio.shield(loading)  # a client that leaves must not cancel it for the others

    async def _load(self, digest: str) -> Principal | None:
        revision = self._revision
        try:
            principal = await self._in_thread(load_principal, digest)
        except DatabaseError:
            stale = self._usable.get(digest)
            if stale is not None and time.monotonic() - self._confirmed_at <= self._outage_grace_s:
                return stale.principal
            raise database_away("check keys") from None
        self._usable.pop(digest, None)
        self._unknown.pop(digest, None)
        cache, size = (self._unknown, MAX_UNKNOWN) if principal is None else (self._usable, MAX_USABLE)
        cache[digest] = Entry(principal, revision)
        if len(cache) > size:
            cache.popitem(last=False)
        return principal


def load_principal(digest: str) -> Principal | None:
    """The holder of the key with this digest, read from the database; None for a key that may not call."""
    if digest == master_digest():
        return Principal(
            organization_id=DEFAULT_ORGANIZATION, key_digest=digest, key_alias=MASTER_ALIAS, is_master=True
        )
    with scopes_disabled():  # the organization is not known yet
        key = VirtualKey.objects.select_related("team", "organization", "user").filter(digest=digest).first()
    if key is None or key.blocked or key.organization.blocked:
        return None
    if (key.team is not None and key.team.blocked) or (key.user is not None and not key.user.is_active):
        return None
    lists = [key.allowed_models, key.team.allowed_models if key.team is not None else []]
    return Principal(
        organization_id=key.organization_id,
        key_digest=digest,
        key_id=key.id,
        key_alias=key.alias,
        team_id=key.team_id or "",
        user_id=key.user.username if key.user is not None else "",
        allowed_models=tuple(frozenset(models) for models in lists if models),
        expires_at_s=key.expires_at.timestamp() if key.expires_at is not None else None,
        retention_days=key.organization.retention_days,
    )
