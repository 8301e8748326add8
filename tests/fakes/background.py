"""The Runs port in memory: the workers' runs, their events, and their ends."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.pipeline.ports import Principal
from gateway.pipeline.responses.runs import Run
from gateway.protocol.dialects.responses.stored import Owner, StoredResponse
from gateway.protocol.errors import ClientFault, GatewayFault
from gateway.protocol.json.types import JsonObject
from gateway.state.unit_of_work import UnitOfWork
from tests.fakes.memory import PRINCIPAL

OWNER = Owner("home", "team:team")


def stored(response_id: str = "resp_1", status: str = "queued", **changes: Any) -> StoredResponse:
    response: JsonObject = {"id": response_id, "object": "response", "created_at": 1, "status": status, "output": []}
    fields: dict[str, Any] = {
        "id": response_id,
        "owner": OWNER,
        "parent_id": "",
        "conversation_id": "",
        "depth": 1,
        "model_group": "public",
        "deployment_id": "",
        "provider": "",
        "is_background": True,
        "is_streamed": False,
        "created_s": 1.0,
        "completed_s": None,
        "expires_s": 4e9,
        "input": (),
        "response": response,
    }
    return StoredResponse(**(fields | changes))


def run(response_id: str = "resp_1", request: bytes = b"{}", **changes: Any) -> Run:
    return Run(stored(response_id), PRINCIPAL.key_digest, f"request of {response_id}", request, **changes)


@dataclass(slots=True)
class MemoryRuns:
    """Runs of one worker. `log` has the order of the calls, `away` is the error that every call raises; while it
    `is_full`, nothing is appended."""

    queued: list[Run] = field(default_factory=list)
    holding: dict[str, Run] = field(default_factory=dict)
    told_events: dict[str, list[JsonObject]] = field(default_factory=dict)
    batches: list[list[JsonObject]] = field(default_factory=list)
    ended: dict[str, StoredResponse] = field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    renewals: list[tuple[float, frozenset[str]]] = field(default_factory=list)
    claims: list[int] = field(default_factory=list)
    principal: Principal | None = PRINCIPAL
    away: bool = False
    is_full: bool = False
    has_no_place: bool = False
    log: list[Any] = field(default_factory=list)

    @asynccontextmanager
    async def reserve_place(self, organization_id: str, key_digest: str) -> AsyncIterator[None]:
        if self.has_no_place:
            raise ClientFault("full", status=429)
        yield

    def queue(self, unit: UnitOfWork, run: Run, events: Sequence[JsonObject]) -> None:
        self._reach()
        self.queued.append(run)
        self.told_events[run.stored.id] = list(events)

    async def claim(self, limit: int) -> tuple[Run, ...]:
        self._reach()
        self.claims.append(limit)
        claimed, self.queued = self.queued[:limit], self.queued[limit:]
        await asyncio.sleep(0)
        self.holding |= {run.stored.id: run for run in claimed}
        return tuple(claimed)

    async def claimed_ids(self) -> frozenset[str]:
        self._reach()
        return frozenset(self.holding)

    def renew(self, response_ids: Collection[str]) -> None:
        self.renewals.append((asyncio.get_running_loop().time(), frozenset(response_ids)))

    def append(self, stored: StoredResponse, events: Sequence[JsonObject]) -> "asyncio.Future[None]":
        if self.is_full:
            raise GatewayFault("overloaded")
        future = asyncio.get_running_loop().create_future()
        if self.away:
            future.set_exception(GatewayFault("away"))
            return future
        if stored.id in self.holding:
            self.batches.append(list(events))
            self.told_events.setdefault(stored.id, []).extend(events)
        future.set_result(None)
        return future

    def finish(self, unit: UnitOfWork, stored: StoredResponse, events: Sequence[JsonObject]) -> None:
        self.append(stored, events)
        if self.holding.pop(stored.id, None) is not None:
            self.ended[stored.id] = stored
        self.log.append(("finish", stored.status))

    async def fail(self, run: Run, code: str, message: str) -> None:
        self._reach()
        if self.holding.pop(run.stored.id, None) is not None:
            self.failed[run.stored.id] = (code, message)

    async def put_back(self, run: Run) -> bool:
        self._reach()
        run = self.holding.pop(run.stored.id, None)
        if run is not None:
            self.queued.insert(0, run)
        return run is not None

    async def read_log(self, owner: Owner, response_id: str, after: int) -> tuple[str, list[JsonObject]] | None:
        self._reach()
        if owner != OWNER or response_id not in self.told_events:
            return None
        ended = self.ended.get(response_id)
        events = [event for event in self.told_events[response_id] if event["sequence_number"] > after]
        return ended.status if ended is not None else "in_progress", events[:3]

    async def find_principal(self, key_digest: str) -> Principal | None:
        self._reach()
        return self.principal

    def cancel(self, response_id: str) -> None:
        """Another process ends the run."""
        run = self.holding.pop(response_id)
        self.ended[response_id] = replace(run.stored, response={**run.stored.response, "status": "cancelled"})

    def _reach(self) -> None:
        if self.away:
            raise GatewayFault("away")
