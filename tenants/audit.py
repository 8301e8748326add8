"""The audit log: who changed what of the platform's configuration, from what to what.

A service changes its rows within `audited`, in one transaction with the entry. Each entry holds the digest of the entry
before it, so that a changed, removed or inserted entry shows (`verify_audit`); that the newest ones were cut off shows
only against a digest that was noted elsewhere. No entry holds a secret: a credential is `***` and eight
digits of its digest.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import orjson
from django.db.models import Model
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.protocol.json.types import Json, JsonObject
from tenants.models import AuditEntry
from tenants.revision import lock_revision, write_transaction

HIDDEN = "***"
#: Fields whose values are secrets or digests of secrets. A sealed credential differs after each sealing, so the service
#: that seals it records its change.
SECRET_FIELDS = frozenset({"password", "digest"})
SEALED_FIELDS = frozenset({"credential"})
#: Fields that change without a person's doing.
SKIPPED_FIELDS = frozenset({"last_used_at", "last_login", "updated_at", "stored_bytes"})
MAX_ID_CHARS = 600  # the width of the column
MAX_TEXT_CHARS = 4_000  # of one value
MAX_NUMBER = 2**53  # larger ones are text, which every JSON reader keeps
VERIFY_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Actor:
    """`changed_by` is whom the caller says to act for (LiteLLM's header litellm-changed-by)."""

    name: str
    changed_by: str = ""


SYSTEM = Actor("system")
_ACTOR: ContextVar[Actor] = ContextVar("audit_actor", default=SYSTEM)


@contextmanager
def acting_as(name: str, changed_by: str = "") -> Iterator[None]:
    """Names the actor of the changes in the block; outside of any block it is the system."""
    token = _ACTOR.set(Actor(name[:255] or SYSTEM.name, changed_by.replace("\0", "")[:255]))
    try:
        yield
    finally:
        _ACTOR.reset(token)


@contextmanager
def audited(action: str, *rows: Model) -> Iterator[None]:
    """Records what the block does to the rows, which are saved or deleted in it. A row that the block has left as it
    was gets no entry. The block and its entries are one transaction."""
    keys = [row.pk for row in rows]
    with write_transaction():
        stored = _read_stored(rows)
        yield
        changes = [
            Entry(
                action,
                row._meta.model_name or "",
                str(key or row.pk),
                organization_of(row),
                stored.get((type(row), key)),
                None if action == "delete" else snapshot(row),
            )
            for row, key in zip(rows, keys, strict=True)
        ]
        record(*(change for change in changes if change.before != change.after))


@dataclass(frozen=True, slots=True)
class Entry:
    """One change: the states before and after it, None for a thing that was made or deleted."""

    action: str
    object_type: str
    object_id: str
    organization_id: str | None
    before: JsonObject | None
    after: JsonObject | None


def record(*changes: Entry) -> None:
    """Adds entries, within the transaction of the changes. Entries are written one after the other: the row of the
    revision is locked until that transaction ends."""
    if not changes:
        return
    lock_revision()
    with scopes_disabled():  # one chain of all organizations
        previous = AuditEntry.objects.order_by("-id").values_list("digest", flat=True).first() or ""
    actor, now = _ACTOR.get(), timezone.now()
    entries: list[AuditEntry] = []
    for change in changes:
        entry = AuditEntry(
            at=now,
            organization_id=change.organization_id,
            actor=actor.name,
            changed_by=actor.changed_by,
            action=change.action,
            object_type=change.object_type,
            object_id=change.object_id[:MAX_ID_CHARS],
            before=change.before,
            after=change.after,
            previous_digest=previous,
        )
        entry.digest = previous = digest_of_entry(entry)
        entries.append(entry)
    with scopes_disabled():  # an entry may belong to another organization than the scope's, or to none
        AuditEntry.objects.bulk_create(entries, batch_size=500)


def snapshot(row: Model) -> JsonObject:
    """The row's columns as JSON, without secrets."""
    columns: JsonObject = {}
    for field in row._meta.concrete_fields:
        value = field.value_from_object(row)
        if field.name in SECRET_FIELDS:
            columns[field.attname] = _hide(value)
        elif field.name not in SKIPPED_FIELDS | SEALED_FIELDS:
            columns[field.attname] = _render(value)
    return columns


def organization_of(row: Model) -> str | None:
    """The organization that an entry belongs to; an organization's own entries are its own."""
    if row._meta.model_name == "organization":
        return str(row.pk)
    organization_id: str | None = getattr(row, "organization_id", None)  # several models have none
    return organization_id


def digest_of_entry(entry: AuditEntry) -> str:
    """SHA-256 over the entry's content and the digest before it."""
    content = [
        entry.previous_digest,
        entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        entry.organization_id,
        entry.actor,
        entry.changed_by,
        entry.action,
        entry.object_type,
        entry.object_id,
        entry.before,
        entry.after,
    ]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def find_broken_entry() -> AuditEntry | None:
    """The first entry that was changed, or whose predecessor is missing; None where the chain is whole."""
    previous, last_id = "", 0
    while True:
        with scopes_disabled():
            entries = list(AuditEntry.objects.filter(id__gt=last_id).order_by("id")[:VERIFY_ROWS])
        for entry in entries:
            if entry.previous_digest != previous or entry.digest != digest_of_entry(entry):
                return entry
            previous, last_id = entry.digest, entry.id
        if len(entries) < VERIFY_ROWS:
            return None


def _read_stored(rows: Sequence[Model]) -> dict[tuple[type[Model], object], JsonObject]:
    """The rows as the database has them, without those that are new."""
    keys: dict[type[Model], list[object]] = defaultdict(list)
    for row in rows:
        if row.pk is not None:
            keys[type(row)].append(row.pk)
    with scopes_disabled():
        return {
            (model, stored.pk): snapshot(stored)
            for model, names in keys.items()
            for stored in model._base_manager.filter(pk__in=names)
        }


def _hide(value: object) -> str:
    """Shows that a secret changed, and nothing of it."""
    return f"{HIDDEN} {hashlib.sha256(str(value).encode()).hexdigest()[:8]}" if value else ""


def _render(value: object) -> Json:
    match value:
        case int() if abs(value) >= MAX_NUMBER:
            return str(value)
        case None | bool() | int():
            return value
        case str():
            return value if len(value) <= MAX_TEXT_CHARS else f"{value[:MAX_TEXT_CHARS]}…"
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds")
        case date() | Decimal() | float():
            return str(value)
        case Mapping() | list() | tuple():
            return _render_json(value)
        case _:
            return HIDDEN


def _render_json(value: object) -> Json:
    """JSON as both databases give it back: numbers that are not whole as text, texts bounded."""
    match value:
        case Mapping():
            return {str(key): _render_json(item) for key, item in value.items()}
        case list() | tuple():
            return [_render_json(item) for item in value]
        case float() | Decimal():
            return str(value)
        case str():
            return value if len(value) <= MAX_TEXT_CHARS else f"{value[:MAX_TEXT_CHARS]}…"
        case int() if abs(value) >= MAX_NUMBER:
            return str(value)
        case None | bool() | int():
            return value
        case _:
            return HIDDEN
