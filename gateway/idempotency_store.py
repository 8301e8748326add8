"""Claims of Idempotency-Keys in the database, with the ORM: only requests that bring the header come here.

Neither a key nor a body is kept, only their digests.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from django.db import Error as DatabaseError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django_scopes import scope, scopes_disabled

from billing.models import Writer
from gateway.models import IdempotencyKey, StoredResponse
from gateway.pipeline.once import Claim
from gateway.protocol.errors import GatewayFault
from gateway.protocol.stored import Owner
from gateway.response_store import away

VALID = timedelta(hours=24)
#: A writer beats every two seconds.
SILENT = timedelta(seconds=12)
PURGED_AT_ONCE = 1000

Result = TypeVar("Result")
InThread = Callable[[Callable[[None], Any], None], Awaitable[Any]]


class IdempotencyStore:
    """The pipeline's Claims port, for the process of this writer id."""

    def __init__(self, in_thread: InThread, writer_id: str) -> None:
        self._in_thread = in_thread
        self._writer_id = writer_id

    async def claim(self, owner: Owner, key: str, body: str, response_id: str) -> Claim:
        return await self._with_orm(owner, lambda: self._claim(owner, key, body, response_id))

    async def take_over(self, claim: Claim, response_id: str) -> bool:
        def take() -> bool:
            rows = _rows(claim.owner, claim.key).filter(response_id=claim.response_id, writer_id=claim.writer_id)
            return bool(
                rows.update(
                    response_id=response_id,
                    writer_id=self._writer_id,
                    is_answered=False,
                    created_at=timezone.now(),
                )
            )

        return await self._with_orm(claim.owner, take)

    async def settle(self, claim: Claim) -> None:
        def end() -> None:
            rows = _rows(claim.owner, claim.key).filter(response_id=claim.response_id)
            if StoredResponse.objects.filter(pk=claim.response_id).exists():
                rows.update(is_answered=True)
            else:
                rows.delete()

        try:
            await self._with_orm(claim.owner, end)
        except GatewayFault:
            return  # the database is away: what is stored is found all the same, anything else ends with this process

    def _claim(self, owner: Owner, key: str, body: str, response_id: str) -> Claim:
        now = timezone.now()
        rows = _rows(owner, key)
        row = rows.first()
        if row is not None and row.created_at <= now - VALID:
            rows.filter(created_at=row.created_at).delete()
            row = None
        if row is None:
            try:
                with transaction.atomic():
                    IdempotencyKey.objects.create(
                        organization_id=owner.organization_id,
                        owner=owner.scope,
                        digest=key,
                        body_digest=body,
                        response_id=response_id,
                        writer_id=self._writer_id,
                        created_at=now,
                    )
            except IntegrityError:
                return self._claim(owner, key, body, response_id)  # somebody was quicker
            return Claim(owner, key, body, response_id, self._writer_id, is_own=True)
        return Claim(
            owner,
            key,
            row.body_digest,
            row.response_id,
            row.writer_id,
            is_answered=row.is_answered,
            is_alive=row.writer_id == self._writer_id
            or Writer.objects.filter(pk=row.writer_id, seen_at__gte=now - SILENT).exists(),
        )

    async def _with_orm(self, owner: Owner, function: Callable[[], Result]) -> Result:
        def scoped(_: None) -> Result:
            with scope(organization=owner.organization_id):
                return function()

        try:
            result: Result = await self._in_thread(scoped, None)
        except DatabaseError:
            raise away() from None
        return result


def _rows(owner: Owner, key: str) -> "QuerySet[IdempotencyKey]":
    return IdempotencyKey.objects.filter(owner=owner.scope, digest=key)


def purge_claims(limit: int = PURGED_AT_ONCE) -> int:
    """Erases claims that are void; how many."""
    with scopes_disabled():
        old = IdempotencyKey.objects.filter(created_at__lt=timezone.now() - VALID).order_by("created_at")
        keys = list(old.values_list("pk", flat=True)[:limit])
        return IdempotencyKey.objects.filter(pk__in=keys).delete()[0] if keys else 0
