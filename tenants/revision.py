"""The revision and its log: what every write changed, so that every process forgets this and nothing else.

A write calls `bump_revision(changed_key(digest), …)` in its own transaction. The statement that increments the revision
locks its row until that transaction ends, so revisions become visible in their order and without gaps, and a process
that reads the changes after the revision that it knows misses none. A revision without changes, because the log was
pruned or an earlier version of the gateway wrote it, counts as a change of everything.

A write that locks rows runs in `write_transaction`, which locks this row first.

Which change to name: for a key its digest, after a rotation both digests; for a membership the user; for a budget
template the template, and the organization too where the default of its end users changes; for limits and budgets the
scope, with `changed_scope`.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

from django.db import connection, transaction
from django.db.models import Max
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.state import sql
from gateway.state.reader import Reader
from tenants.models import Change, Revision, Scope, VirtualKey

KEY = Change.Kind.KEY.value
TEAM = Change.Kind.TEAM.value
USER = Change.Kind.USER.value
ORGANIZATION = Change.Kind.ORGANIZATION.value
END_USER = Change.Kind.END_USER.value
TAG = Change.Kind.TAG.value
TEMPLATE = Change.Kind.TEMPLATE.value
DEPLOYMENT = Change.Kind.DEPLOYMENT.value

KINDS = frozenset(Change.Kind.values)  # a later version of the gateway may write more

MAX_CHANGES = 5_000  # of one write, and of one read: beyond it everything counts as changed
KEPT_FOR = timedelta(hours=1)
MAX_ROWS = 100_000
MAX_REF_CHARS = 600  # the width of the column

_BUMP = (
    "INSERT INTO tenants_revision (id, value) VALUES (1, 1) "
    "ON CONFLICT (id) DO UPDATE SET value = tenants_revision.value + 1 RETURNING value"
)
REVISION = sql.query("SELECT value FROM tenants_revision WHERE id = 1")
CHANGES = sql.query(
    "SELECT revision, kind, ref FROM tenants_change WHERE revision > {mark} AND revision <= {mark} LIMIT {limit}",
    limit=MAX_CHANGES + 1,
)


class Changed(NamedTuple):
    """A thing that a write changed. The kind is one of Change.Kind."""

    kind: str
    ref: str


EVERYTHING = Changed(Change.Kind.EVERYTHING.value, "")


def changed_key(digest: str) -> Changed:
    return Changed(KEY, digest)


def changed_team(team_id: str) -> Changed:
    return Changed(TEAM, team_id)


def changed_user(user_id: str) -> Changed:
    return Changed(USER, user_id)


def changed_organization(organization_id: str) -> Changed:
    return Changed(ORGANIZATION, organization_id)


def changed_template(template_id: str) -> Changed:
    return Changed(TEMPLATE, template_id)


def changed_deployment(deployment_id: str) -> Changed:
    return Changed(DEPLOYMENT, deployment_id)


def changed_end_user(organization_id: str, end_user: str) -> Changed:
    """`end_user` is the id as requests name it."""
    return _within(END_USER, organization_id, end_user)


def changed_tag(organization_id: str, tag: str) -> Changed:
    return _within(TAG, organization_id, tag)


def changed_scope(organization_id: str, scope: Scope, scope_id: str) -> Changed:
    """The change that new limits or budgets of a scope are."""
    match scope:
        case Scope.KEY:
            with scopes_disabled():  # the id is unique across all organizations
                digest = VirtualKey.objects.filter(id=scope_id).values_list("digest", flat=True).first()
            return changed_key(digest or "")
        case Scope.TEAM:
            return changed_team(scope_id)
        case Scope.MEMBER if scope_id.count(":") == 1:  # with more, the ids cannot be told apart
            return changed_user(scope_id.partition(":")[2])
        case Scope.USER:
            return changed_user(scope_id)
        case Scope.END_USER:
            return changed_end_user(organization_id, scope_id)
        case Scope.TAG:
            return changed_tag(organization_id, scope_id)
        case Scope.TEMPLATE:
            return changed_template(scope_id)
        case Scope.DEPLOYMENT:
            return changed_deployment(scope_id)
        case _:
            return changed_organization(organization_id)


def deployments_of(changes: Collection[Changed]) -> set[str]:
    """The ids of the changed deployments that are named."""
    return {change.ref for change in changes if change.kind == DEPLOYMENT}


def organization_of(change: Changed) -> str:
    """The organization of a changed end user or tag."""
    length, _, rest = change.ref.partition(":")
    return rest[: int(length)]


def bump_revision(*changes: Changed) -> None:
    """Increment the revision and log what changed; without arguments, everything. Called in the transaction of the
    change, at its end: other writes wait from here on until it is over."""
    rows = {_fit(change) for change in changes}
    if not changes or EVERYTHING in rows or len(rows) > MAX_CHANGES:
        rows = {EVERYTHING}
    with transaction.atomic(savepoint=False):
        with connection.cursor() as cursor:
            cursor.execute(_BUMP)
            (revision,) = cursor.fetchone()
        Change.objects.bulk_create(Change(revision=revision, kind=kind, ref=ref) for kind, ref in sorted(rows))


@contextmanager
def write_transaction() -> Iterator[None]:
    """The transaction of a management write. It locks the row of the revision before any other row: the write's audit
    entries and its revision need that row at the end, and two writes that lock the same rows in different orders would
    wait for each other. Such writes take turns."""
    with transaction.atomic():
        lock_revision()
        yield


def lock_revision() -> None:
    """Locks the row of the revision until the transaction ends."""
    Revision.objects.select_for_update().get_or_create(id=1)


def current_revision() -> int:
    return Revision.objects.values_list("value", flat=True).filter(id=1).first() or 0


def prune_changes() -> None:
    """Deletes changes that are old or too many. A revision goes as a whole: what is left of it would count as all."""
    old = Change.objects.filter(at__lt=timezone.now() - KEPT_FOR).aggregate(last=Max("revision"))["last"]
    surplus = Change.objects.order_by("-id").values_list("revision", flat=True)[MAX_ROWS : MAX_ROWS + 1].first()
    last = max(old or 0, surplus or 0)
    Change.objects.filter(revision__lte=last).delete()


class ChangeFeed:
    """The changes since this process looked last; at the first look, everything."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._revision: int | None = None

    async def read(self) -> Collection[Changed]:
        """Raises DatabaseAway; then the next read has the same changes, and more."""
        rows = await self._reader.fetch(REVISION, ())
        revision: int = rows[0][0] if rows else 0
        known, changes = self._revision, {EVERYTHING}
        if known == revision:
            return ()
        if known is not None and known < revision <= known + MAX_CHANGES:
            log = await self._reader.fetch(CHANGES, (known, revision))
            is_whole = len(log) <= MAX_CHANGES and len({row[0] for row in log}) == revision - known
            if is_whole and KINDS.issuperset(row[1] for row in log):
                changes = {Changed(kind, ref) for _, kind, ref in log}
        self._revision = revision
        return changes


def _within(kind: str, organization_id: str, name: str) -> Changed:
    return Changed(kind, f"{len(organization_id)}:{organization_id}:{name}")


def _fit(change: Changed) -> Changed:
    """The change, or a greater one where it does not fit its column."""
    if len(change.ref) <= MAX_REF_CHARS:
        return change
    return changed_organization(organization_of(change)) if change.kind in {END_USER, TAG} else EVERYTHING
