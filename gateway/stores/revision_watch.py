"""The poll that keeps a process in step with the database: deployments, keys, rules, and its health."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from typing import TypeAlias

from django.db import Error as DatabaseError

from billing.pricing import PriceLines
from gateway.state.reader import Reader
from gateway.state.statement import DatabaseAway
from gateway.stores.catalog import NOT_LOADED, Snapshot, load_snapshot, reload_snapshot
from gateway.stores.orm import OrmThreads
from tenants.directory import KeyDirectory
from tenants.revision import DEPLOYMENT, EVERYTHING, ORGANIZATION, Changed, ChangeFeed, changed_deployment

Changes: TypeAlias = Collection[Changed]

logger = logging.getLogger(__name__)

POLL_S = 0.5
VALID_S = 5.0  # for so long one answer of the database says that it is up


class RevisionWatch:
    """Polls the log of changes, tells it to what this process has in memory, and loads the deployments that changed;
    `on_load` gets each new snapshot. Closes: the owner, with `stop()`."""

    def __init__(
        self,
        threads: OrmThreads,
        reader: Reader,
        directory: KeyDirectory,
        *others: Callable[[Changes], None],
        on_load: Callable[[Snapshot], None] = lambda snapshot: None,
    ) -> None:
        self._threads = threads
        self._feed = ChangeFeed(reader)
        self._directory = directory
        self._forgetful = (directory.forget, *others)
        self._on_load = on_load
        self._unloaded: set[Changed] = set()  # deployments that changed since they were loaded
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

    def deployment_ids(self) -> Collection[str]:
        return self.snapshot.targets.keys()

    def describe_deployment(self, deployment_id: str) -> dict[str, str]:
        """The fields of the log that name a deployment."""
        target = self.snapshot.targets.get(deployment_id)
        if target is None:
            return {"deployment": deployment_id}
        return {
            "deployment": deployment_id,
            "model_group": target.model_group,
            "provider": target.provider.name,
            "upstream_model": target.upstream_model,
        }

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
            changes = await self._feed.read()  # an outage keeps no thread
            if changes:
                for forget in self._forgetful:
                    forget(changes)
                self._unloaded.update(change for change in changes if change.kind in {DEPLOYMENT, EVERYTHING.kind})
                organizations = {change.ref for change in changes if change.kind == ORGANIZATION}
                self._unloaded.update(_budgeted_in(self.snapshot, organizations))
            if time.time() >= self.snapshot.prices_change_at_s:
                self._unloaded.add(EVERYTHING)
            if self._unloaded:
                self.snapshot = await self._threads.run(_load, self.snapshot, frozenset(self._unloaded))
                self._unloaded.clear()
                self._on_load(self.snapshot)
            self._directory.confirm()
            self._up_until = time.monotonic() + VALID_S
        except (DatabaseError, DatabaseAway) as error:
            if self._up_until:
                logger.error("the database is away", extra={"why": type(error).__name__})
            self._up_until = 0.0


def _budgeted_in(snapshot: Snapshot, organization_ids: Collection[str]) -> set[Changed]:
    """The deployments whose budgets have windows in the time zone of these organizations."""
    return {
        changed_deployment(name)
        for name, rules in (snapshot.budgets.items() if organization_ids else ())
        if any(rule.organization_id in organization_ids for rule in rules)
    }


def _load(snapshot: Snapshot, changes: Changes) -> Snapshot:
    if EVERYTHING in changes:
        return load_snapshot(snapshot)
    return reload_snapshot(snapshot, {change.ref for change in changes})
