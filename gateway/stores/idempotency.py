"""Claims of Idempotency-Keys in the database, through the ORM: only requests with the header use them.

A row has the digests of the key and of the body, never the texts.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django_scopes import scope, scopes_disabled

from billing.models import Writer
from gateway.models import IdempotencyKey, StoredResponse
from gateway.pipeline.responses.idempotency import Claim
from gateway.protocol.dialects.responses.stored import Owner
from gateway.protocol.errors import GatewayFault
from gateway.stores.orm import reporting_outage
from tenants.database import InThread

VALID = timedelta(hours=24)
#: A writer sends a heartbeat every second.
SILENT = timedelta(seconds=12)
PURGED_AT_ONCE = 1000
SETTLED_AT_ONCE = 100
#: The last bytes of an answer wait so long for its claim to be settled; after that they leave before it is.
PROMPT_S = 2.0
#: A stored response may still be in the spool. One that so many looks, a second apart, do not find in a database that
#: answers was deleted.
MAX_LOOKS = 60

Result = TypeVar("Result")


@dataclass(slots=True)
class Ending:
    """A claim whose request is answered and that is not settled yet."""

    claim: Claim
    is_kept: bool
    looks: int = 0  # for the stored response


class IdempotencyStore:
    """The pipeline's Claims port, for the process of this writer id.

    It knows the claims that this process answers. A row with this writer's id and an unknown response is abandoned.
    """

    def __init__(self, in_thread: InThread, writer_id: str, *, retry_s: float = 1.0, max_left: int = 10_000) -> None:
        self._in_thread = in_thread
        self._writer_id = writer_id
        self._retry_s = retry_s
        self._max_left = max_left
        self._open: set[str] = set()  # the responses of its claims
        self._left: dict[str, Ending] = {}  # claims that could not be settled at once, by response
        self._settling: asyncio.Task[None] | None = None
        self._attempts: set[asyncio.Task[bool]] = set()

    async def claim(self, owner: Owner, key: str, body: str, response_id: str) -> Claim:
        own = Claim(owner, key, body, response_id, self._writer_id, is_own=True)
        work = self._with_orm(lambda: self._claim(own), owner)
        return await self._owned(own, work, lambda claim: claim.is_own)

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

        own = Claim(claim.owner, claim.key, claim.body, response_id, self._writer_id, is_own=True)
        return await self._owned(own, self._with_orm(take, claim.owner), bool)

    async def settle(self, claim: Claim, *, is_kept: bool) -> None:
        if not is_kept:
            self._open.discard(claim.response_id)
        attempt = self._settle_in_time(Ending(claim, is_kept))
        await asyncio.wait([attempt], timeout=PROMPT_S)

    async def _owned(self, own: Claim, work: Coroutine[Any, Any, Result], is_own: Callable[[Result], bool]) -> Result:
        """The result of the work. Releases the claim if the caller is cancelled or the outcome is unknown."""
        self._open.add(own.response_id)
        pending = asyncio.ensure_future(work)
        is_mine = False
        try:
            result = await asyncio.shield(pending)
            is_mine = is_own(result)
        except asyncio.CancelledError:
            pending.add_done_callback(lambda done: self._release(own, done))
            raise
        except GatewayFault:  # the connection may have broken after the commit
            self._release(own, pending)
            raise
        finally:
            if not is_mine:
                self._open.discard(own.response_id)
        return result

    def _release(self, own: Claim, done: "asyncio.Future[Any]") -> None:
        if not done.cancelled():
            done.exception()  # taken, so that asyncio does not log it
        self._settle_in_time(Ending(own, is_kept=False))

    # Settling: now, or as soon as it can be

    def _settle_in_time(self, ending: Ending) -> "asyncio.Task[bool]":
        attempt = asyncio.create_task(self._settle([ending]), name="idempotency settle")
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        return attempt

    async def _settle(self, endings: Sequence[Ending]) -> bool:
        """Returns False while the database is away."""
        is_reached = False
        settled: set[str] = set()

        def end() -> None:
            settled.update(ending.claim.response_id for ending in endings if _is_settled(ending))

        with contextlib.suppress(GatewayFault):
            await self._with_orm(end)
            is_reached = True
        for ending in endings:
            response_id = ending.claim.response_id
            if response_id in settled:
                self._left.pop(response_id, None)
                self._open.discard(response_id)
            elif response_id in self._left or len(self._left) < self._max_left:
                self._left[response_id] = ending
            else:  # abandoned: another process takes the claim over when it is asked for
                self._open.discard(response_id)
        if self._left and (self._settling is None or self._settling.done()):
            self._settling = asyncio.create_task(self._settle_left(), name="idempotency settle later")
        return is_reached

    async def _settle_left(self) -> None:
        while self._left:
            await asyncio.sleep(self._retry_s)
            endings = list(self._left.values())
            for first in range(0, len(endings), SETTLED_AT_ONCE):
                if not await self._settle(endings[first : first + SETTLED_AT_ONCE]):
                    break

    # In a thread, with the ORM

    def _claim(self, own: Claim) -> Claim:
        now = timezone.now()
        rows = _rows(own.owner, own.key)
        row = rows.first()
        if row is not None and row.created_at <= now - VALID:
            rows.filter(created_at=row.created_at).delete()
            row = None
        if row is None:
            try:
                with transaction.atomic():
                    IdempotencyKey.objects.create(
                        organization_id=own.owner.organization_id,
                        owner=own.owner.scope,
                        digest=own.key,
                        body_digest=own.body,
                        response_id=own.response_id,
                        writer_id=own.writer_id,
                        created_at=now,
                    )
            except IntegrityError:
                return self._claim(own)  # another request was quicker
            return own
        return replace(
            own,
            body=row.body_digest,
            response_id=row.response_id,
            writer_id=row.writer_id,
            is_own=False,
            is_answered=row.is_answered,
            is_alive=row.response_id in self._open
            if row.writer_id == self._writer_id
            # by the clock that heartbeats are written by
            else Writer.objects.filter(pk=row.writer_id, seen_at__gte=Now() - SILENT).exists(),
        )

    async def _with_orm(self, function: Callable[[], Result], owner: Owner | None = None) -> Result:
        def run_scoped() -> Result:
            with scope(organization=owner.organization_id) if owner is not None else scopes_disabled():
                return function()

        with reporting_outage("read stored responses"):
            return await self._in_thread(run_scoped)


def _is_settled(ending: Ending) -> bool:
    claim = ending.claim
    rows = _rows(claim.owner, claim.key).filter(
        organization_id=claim.owner.organization_id, response_id=claim.response_id
    )
    if not ending.is_kept:
        rows.delete()
        return True
    ending.looks += 1
    is_there = StoredResponse.objects.filter(pk=claim.response_id).exists()
    if not is_there and ending.looks < MAX_LOOKS:
        return not rows.exists()  # without a row another request has taken the claim over
    rows.update(is_answered=True)
    return True


def _rows(owner: Owner, key: str) -> "QuerySet[IdempotencyKey]":
    return IdempotencyKey.objects.filter(owner=owner.scope, digest=key)


def purge_claims(limit: int = PURGED_AT_ONCE) -> int:
    """Erases expired claims; returns how many."""
    with scopes_disabled():
        old = IdempotencyKey.objects.filter(created_at__lt=timezone.now() - VALID).order_by("created_at")
        keys = list(old.values_list("pk", flat=True)[:limit])
        return IdempotencyKey.objects.filter(pk__in=keys).delete()[0] if keys else 0
