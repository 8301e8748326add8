"""When virtual keys were used last: noted in memory, written by each process at most once a minute.

The instant is that of the write, so it is up to a minute late. A process that is killed loses the last minute.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from django.db import Error as DatabaseError
from django.utils import timezone
from django_scopes import scopes_disabled

from tenants.models import VirtualKey

WRITE_EVERY_S = 60.0
#: Rows of one statement: SQLite updates them in few milliseconds, and calls are written in between.
MAX_ROWS = 500

InThread = Callable[[Callable[[Sequence[str]], None], Sequence[str]], Awaitable[None]]


class KeyUse:
    def __init__(self, in_thread: InThread, *, write_every_s: float = WRITE_EVERY_S) -> None:
        self._in_thread = in_thread
        self._write_every_s = write_every_s
        self._ids: set[str] = set()
        self._writing: asyncio.Task[None] | None = None

    def note(self, key_id: str) -> None:
        """A call with this key has begun; the master key has no id."""
        if key_id:
            self._ids.add(key_id)

    async def start(self) -> None:
        self._writing = asyncio.create_task(self._write_regularly(), name="key use")

    async def close(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writing
        await self.write()

    async def write(self) -> None:
        """Writes the keys that were used since the last write. Those that the database does not take are written the
        next time."""
        ids, self._ids = self._ids, set()
        used = sorted(ids)
        for first in range(0, len(used), MAX_ROWS):
            part = used[first : first + MAX_ROWS]
            try:
                await self._in_thread(write_used, part)
            except DatabaseError:
                self._ids.update(part)

    async def _write_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._write_every_s)
            await self.write()


def write_used(key_ids: Sequence[str]) -> None:
    """One statement. A key that was used is not changed: no process forgets it, and `updated_at` stays."""
    with scopes_disabled():  # a process answers calls of all organizations
        VirtualKey.objects.filter(pk__in=key_ids).update(last_used_at=timezone.now())
