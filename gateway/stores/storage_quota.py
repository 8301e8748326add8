"""The bytes that an organization stores: counted by the worker, checked before a create that is to be stored.

The worker reads the lengths of all bodies, not the bodies. A web process reads the last count and adds what it has
stored since; other processes' additions are seen with the next count.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from django.db import connection
from django_scopes import scopes_disabled

from gateway.protocol.errors import ClientFault
from gateway.state import sql
from gateway.state.reader import Reader
from gateway.state.statement import DatabaseAway
from tenants.models import Organization

READ_EVERY_S = 30.0
COUNT = sql.query("SELECT stored_bytes FROM tenants_organization WHERE id = {mark}")
_SUM = "SELECT organization_id, sum({size}) FROM {table} GROUP BY organization_id"
SUMS = (
    sql.fill(_SUM, table="gateway_storedresponse", size="length(body) + length(head)"),
    sql.fill(_SUM, table="gateway_conversationitem", size="length(body)"),
    sql.fill(_SUM, table="gateway_eventbatch", size="length(body)"),
)


def count_stored() -> None:
    """Writes each organization's bytes into its row."""
    totals: Counter[str] = Counter()
    with scopes_disabled():
        with connection.cursor() as cursor:
            for text in SUMS:
                cursor.execute(text)
                totals.update({organization_id: int(size) for organization_id, size in cursor.fetchall()})
        for organization_id, before in Organization.objects.values_list("pk", "stored_bytes"):
            if totals[organization_id] != before:
                Organization.objects.filter(pk=organization_id).update(stored_bytes=totals[organization_id])


@dataclass(slots=True)
class _Count:
    read_again_at: float = float("-inf")
    counted: int = 0
    added: int = 0  # by this process since the count changed


class StorageQuota:
    """Limits the bytes that each organization stores. A create that began below the limit may end above it."""

    def __init__(self, reader: Reader, max_bytes: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        self._now = now
        self._counts: dict[str, _Count] = {}

    def note(self, organization_id: str, size: int) -> None:
        """Bytes of this process that the count does not hold yet."""
        self._count(organization_id).added += size

    async def check(self, organization_id: str) -> None:
        """Raises ClientFault when the organization's quota is used up."""
        count = self._count(organization_id)
        if count.read_again_at <= self._now():
            count.read_again_at = self._now() + READ_EVERY_S  # other calls do not wait for this read
            await self._read(organization_id, count)
        if count.counted + count.added >= self._max_bytes:
            raise ClientFault(
                f"The organization's quota of {self._max_bytes:,} stored bytes is used up; "
                "delete responses or conversations, or send 'store': false.",
                status=403,
                code="storage_quota_exceeded",
                param="store",
            )

    async def _read(self, organization_id: str, count: _Count) -> None:
        try:
            rows = await self._reader.fetch(COUNT, (organization_id,))
        except DatabaseAway:
            return  # the last count stays
        counted = rows[0][0] if rows else 0
        if counted != count.counted:
            count.counted, count.added = counted, 0

    def _count(self, organization_id: str) -> _Count:
        return self._counts.setdefault(organization_id, _Count())
