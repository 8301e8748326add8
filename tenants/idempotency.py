"""Idempotency-Key on management writes: a write that is sent twice takes place once.

The answer is stored in the write's own transaction: a process that is killed leaves both or neither. A repeatable write
has transactions of its own, or none, before: one that is killed or meets another of its key may take place again. The
data path has its own claims (`gateway.stores.idempotency`), because its answers are streams.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from gateway.protocol.errors import ClientFault
from gateway.protocol.json.types import JsonObject
from tenants.database import try_lock_transaction
from tenants.encryption import decrypt, encrypt
from tenants.models import IdempotentWrite

VALID = timedelta(hours=24)
MAX_PER_CALLER = 1000  # the oldest goes first
PURGED_AT_ONCE = 1000
PARAM = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` as it was sent. `is_replayed`: it is an earlier write's."""

    status: int
    headers: dict[str, str]
    body: str
    is_replayed: bool = False


def write_once(
    *, caller: str, key: str, request: bytes, write: Callable[[], Answer], is_repeatable: bool = False
) -> Answer:
    """The answer of `write`, or of the same request of this caller before. `request` has all by which two requests
    differ. A write that fails, or whose answer is an error, leaves the key free. A repeatable one takes place between
    two transactions.

    Raises ClientFault: 422 where the key was used for another request, 409 while another write uses it.
    """
    place = _Place(caller, hashlib.sha256(key.encode()).hexdigest(), hashlib.sha256(request).hexdigest())
    if not is_repeatable:
        with transaction.atomic():
            return _find(place, key) or _store(place, write())
    with transaction.atomic():
        earlier = _find(place, key)
    if earlier is not None:
        return earlier
    answer = write()
    with transaction.atomic():
        return _find(place, key) or _store(place, answer)


@dataclass(frozen=True, slots=True)
class _Place:
    caller: str
    key_digest: str
    request_digest: str


def _find(place: _Place, key: str) -> Answer | None:
    """The answer of an earlier write; None while the key is free, which it is until the transaction ends."""
    if not try_lock_transaction(_lock_number(place.caller, key)):
        raise _in_use()
    rows = IdempotentWrite.objects.filter(caller=place.caller, key_digest=place.key_digest)
    row = rows.first()
    if row is not None and row.created_at > timezone.now() - VALID:
        return _replay(row, place.request_digest)
    rows.delete()
    return None


def _store(place: _Place, answer: Answer) -> Answer:
    if answer.status < 400:
        row = IdempotentWrite(
            caller=place.caller,
            key_digest=place.key_digest,
            request_digest=place.request_digest,
            created_at=timezone.now(),
        )
        row.answer = encrypt(_render(row, answer))
        row.save(force_insert=True)
        _forget_oldest(place.caller)
    return answer


def purge_writes(limit: int = PURGED_AT_ONCE) -> int:
    """Erases expired answers; returns how many."""
    old = IdempotentWrite.objects.filter(created_at__lt=timezone.now() - VALID).order_by("created_at")
    keys = list(old.values_list("pk", flat=True)[:limit])
    return IdempotentWrite.objects.filter(pk__in=keys).delete()[0] if keys else 0


def _replay(row: IdempotentWrite, request_digest: str) -> Answer:
    if row.request_digest != request_digest:
        raise ClientFault(
            "This Idempotency-Key was used with another request.",
            status=422,
            param=PARAM,
            code="idempotency_key_mismatch",
        )
    plain = decrypt(row.answer)
    if plain is None or plain["for"] != _identity(row):
        raise ClientFault(
            "The write with this Idempotency-Key took place, but no configured encryption key opens its answer.",
            status=409,
            param=PARAM,
            code="idempotency_answer_lost",
        )
    return Answer(plain["status"], plain["headers"], plain["body"], is_replayed=True)


def _render(row: IdempotentWrite, answer: Answer) -> JsonObject:
    return {"for": _identity(row), "status": answer.status, "headers": answer.headers, "body": answer.body}


def _identity(row: IdempotentWrite) -> str:
    """The row's identity is encrypted with the answer: the text of another row is refused."""
    return f"{row.caller} {row.key_digest}"


def _forget_oldest(caller: str) -> None:
    rows = IdempotentWrite.objects.filter(caller=caller)
    surplus = rows.order_by("-id").values_list("id", flat=True)[MAX_PER_CALLER : MAX_PER_CALLER + 1].first()
    if surplus is not None:
        rows.filter(id__lte=surplus).delete()


def _lock_number(caller: str, key: str) -> int:
    digest = hashlib.sha256(f"idempotency\0{caller}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _in_use() -> ClientFault:
    return ClientFault(
        "A request with this Idempotency-Key is being answered.",
        status=409,
        param=PARAM,
        code="idempotency_conflict",
        headers=((b"x-should-retry", b"true"),),
    )
