"""The spend of virtual keys as answers tell it (`x-litellm-key-spend`): read for the keys in use, and kept in memory.

The data path asks no database: an answer has the spend that the last read found, which priced calls make and other
processes too. The first answers of a key have none.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from django.db import Error as DatabaseError
from django_scopes import scopes_disabled

from tenants.budget_usage import Spender, read_usages
from tenants.models import Scope, VirtualKey

READ_EVERY_S = 5.0
#: Keys of one read: each of its few statements takes milliseconds.
MAX_ROWS = 200
MAX_KEYS = 10_000  # about 150 bytes each

InThread = Callable[[Callable[[Sequence[str]], Mapping[str, int]], Sequence[str]], Awaitable[Mapping[str, int]]]


class KeySpend:
    def __init__(self, in_thread: InThread, *, read_every_s: float = READ_EVERY_S) -> None:
        self._in_thread = in_thread
        self._read_every_s = read_every_s
        self._used: set[str] = set()
        self._known: OrderedDict[str, int] = OrderedDict()
        self._reading: asyncio.Task[None] | None = None

    def find(self, key_id: str) -> int | None:
        """The picodollars that the key has spent, by the last read; None where none has read them. The key is read
        again soon. The master key has no id and no spend."""
        if not key_id:
            return None
        if len(self._used) < MAX_KEYS:
            self._used.add(key_id)
        return self._known.get(key_id)

    async def start(self) -> None:
        self._reading = asyncio.create_task(self._read_regularly(), name="key spend")

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading

    async def read(self) -> None:
        """Reads the keys that were used since the last time. An outage leaves what is known."""
        used, self._used = sorted(self._used), set()
        for first in range(0, len(used), MAX_ROWS):
            part = used[first : first + MAX_ROWS]
            with contextlib.suppress(DatabaseError):
                spends = await self._in_thread(read_spent, part)
                for key_id in part:  # the directory's own strings: those just read would pin the pages of the read
                    if key_id in spends:
                        self._known[key_id] = spends[key_id]
                        self._known.move_to_end(key_id)
        while len(self._known) > MAX_KEYS:
            self._known.popitem(last=False)

    async def _read_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._read_every_s)
            if self._used:
                await self.read()


def read_spent(key_ids: Sequence[str]) -> Mapping[str, int]:
    """{key id: picodollars}: the `spend` of /key/info, of the main budget's window or of all time."""
    with scopes_disabled():  # a process answers calls of all organizations
        keys = list(VirtualKey.objects.filter(pk__in=key_ids).select_related("organization"))
        usages = read_usages([Spender(key.organization, Scope.KEY, key.id, key.budget_template_id) for key in keys])
    return {key.id: usage.spend_pusd for key, usage in zip(keys, usages, strict=True)}
