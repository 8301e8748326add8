"""The poll that keeps a process in step with the database: the deployments, the revision of the keys, the health."""

import asyncio
import contextlib
import logging
import time

from django.db import Error as DatabaseError

from billing.pricing import PriceLines
from gateway.state import sql
from gateway.state.reader import Reader
from gateway.state.statement import DatabaseAway
from gateway.stores.catalog import NOT_LOADED, Snapshot, load_snapshot
from gateway.stores.orm import OrmThreads
from tenants.directory import KeyDirectory
from tenants.revision import current_revision

logger = logging.getLogger(__name__)

POLL_S = 0.5
VALID_S = 5.0  # for so long one answer of the database says that it is up
REVISION = sql.query("SELECT value FROM tenants_revision WHERE id = 1")


class RevisionWatch:
    """Polls the revision, and loads the deployments anew when it changes. Closes: the owner, with `stop()`."""

    def __init__(self, threads: OrmThreads, reader: Reader, directory: KeyDirectory) -> None:
        self._threads = threads
        self._reader = reader
        self._directory = directory
        self._revision = -1
        self._up_until = 0.0  # monotonic; 0 while the database is away
        self._task: asyncio.Task[None] | None = None
        self.snapshot: Snapshot = NOT_LOADED

    async def start(self) -> None:
        """Returns after the first look, whether or not the database answers it."""
        await self._look()
        self._task = asyncio.create_task(self._poll(), name="revision poll")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def find_price(self, price_id: str) -> PriceLines | None:
        return self.snapshot.prices.get(price_id)

    @property
    def is_database_up(self) -> bool:
        """The database answered the last reads, half a second ago or a little more."""
        return time.monotonic() < self._up_until

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._look()
            except Exception:  # without this poll a revoked key would work for ever
                logger.exception("the poll met an unforeseen error")

    async def _look(self) -> None:
        try:
            revision = await self._threads.run_briefly(current_revision)
            if revision != self._revision:
                self.snapshot = await self._threads.run(load_snapshot)
                self._revision = revision
            self._directory.confirm(revision)
            await self._reader.fetch(REVISION, ())
            self._up_until = time.monotonic() + VALID_S
        except (DatabaseError, DatabaseAway) as error:
            if self._up_until:
                logger.error("the database is away", extra={"why": type(error).__name__})
            self._up_until = 0.0
