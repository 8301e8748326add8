"""ProbeFeed: tells this process's breaker the probes that any process has made. Works with and without Redis."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime

from django.db import Error as DatabaseError

from gateway.routing.error_class import ErrorClass
from gateway.routing.probe_notes import note_probe
from gateway.routing.walk import Routing
from gateway.stores.catalog import Snapshot
from gateway.stores.deployment_health import OK, UNKNOWN, Kind, Probed, read_probed
from gateway.stores.orm import OrmThreads

logger = logging.getLogger(__name__)

POLL_S = 2.0


class ProbeFeed:
    """From `start` on. Closes: the owner, with `stop()`."""

    def __init__(self, threads: OrmThreads, routing: Routing, find_snapshot: Callable[[], Snapshot]) -> None:
        self._threads = threads
        self._routing = routing
        self._find_snapshot = find_snapshot
        self._since: datetime | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._poll(), name="probe feed")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(DatabaseError):  # what was probed meanwhile is read when it is back
                await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        now, probes = await self._threads.run_briefly(read_probed, self._since)
        self._since = max((probe.probed_at for probe in probes), default=self._since or now)
        for probe in probes:
            self._note(probe)

    def _note(self, probe: Probed) -> None:
        snapshot = self._find_snapshot()
        target = snapshot.targets.get(probe.deployment_id)
        if target is None or probe.result == UNKNOWN:
            return
        error = None if probe.result == OK else next((kind for kind in ErrorClass if kind == probe.result), None)
        if error is None and probe.result != OK:
            return  # of a later version
        siblings = snapshot.catalog.groups[target.organization_id, target.model_group]
        began_s = probe.probed_at.timestamp() - probe.latency_s
        is_call = probe.kind != Kind.MODELS
        note_probe(self._routing, target, siblings, error, is_call=is_call, began_s=began_s)
