"""The stores of another process, on the database of the contract case."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from django.conf import settings
from django.db import connection
from psycopg.conninfo import make_conninfo

from gateway.pipeline.responses.runs import Run
from gateway.protocol.dialects.responses.stored import StoredResponse
from gateway.protocol.json.types import JsonObject
from gateway.state.group_commit import Backend, GroupCommit
from gateway.state.postgres import PostgresBackend
from gateway.state.postgres_reader import PostgresReader
from gateway.state.reader import Reader
from gateway.state.spool import Spool
from gateway.state.sqlite import SQLiteBackend
from gateway.state.sqlite_reader import SQLiteReader
from gateway.state.unit_of_work import UnitOfWork
from gateway.stores import responses as response_store
from gateway.stores import run_events as event_store
from gateway.stores import runs as background_store
from gateway.stores.idempotency import IdempotencyStore
from gateway.stores.responses import ResponseStore
from gateway.stores.run_slots import RunLimits
from gateway.stores.runs import DEFAULT_LIMITS, BackgroundStore
from tenants.row_security.settings import ALL_ORGANIZATIONS_OPTION

STATEMENTS = (*response_store.STATEMENTS, *event_store.STATEMENTS, *background_store.STATEMENTS)

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


def conninfo() -> str:
    database = connection.settings_dict
    names = {"dbname": database["NAME"], "user": database["USER"], "password": database["PASSWORD"]}
    where = {"host": database["HOST"], "port": database["PORT"]} | dict(database["OPTIONS"])
    options = {"options": ALL_ORGANIZATIONS_OPTION if settings.TOLLGATE_ROW_SECURITY else ""}
    return make_conninfo("", **{key: value for key, value in (names | where | options).items() if value})


def backend() -> Backend:
    is_file = connection.vendor == "sqlite"
    return SQLiteBackend(Path(connection.settings_dict["NAME"])) if is_file else PostgresBackend(conninfo())


def reader() -> Reader:
    is_file = connection.vendor == "sqlite"
    return SQLiteReader(Path(connection.settings_dict["NAME"])) if is_file else PostgresReader(conninfo())


async def in_thread(function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    def run() -> Result:
        try:
            return function(*arguments)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


async def commit(commits: GroupCommit, add: Callable[..., None], *values: object, **options: object) -> None:
    """Commits what `add` puts into a unit of work."""
    unit = UnitOfWork()
    add(unit, *values, **options)
    await commits.commit(unit)


class Replica:
    """The stores of one process. Closes: as a context manager."""

    def __init__(self, folder: Path, name: str, limits: RunLimits = DEFAULT_LIMITS) -> None:
        self.name = name
        self.commits = GroupCommit(backend(), Spool(folder / name, name, STATEMENTS), retry_s=0.05)
        self._reader = reader()
        self.responses = ResponseStore(self.commits, self._reader, in_thread)
        self.runs = BackgroundStore(self.commits, self._reader, in_thread, name, limits)
        self.claims = IdempotencyStore(in_thread, name, retry_s=0.05)

    async def __aenter__(self) -> "Replica":
        await self.commits.open()
        await self._reader.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.commits.close()
        await self._reader.close()

    async def keep(self, stored: StoredResponse) -> None:
        await commit(self.commits, self.responses.add, stored)

    async def queue(self, run: Run, events: Sequence[JsonObject]) -> None:
        await commit(self.commits, self.runs.queue, run, events)

    async def finish(self, stored: StoredResponse, events: Sequence[JsonObject]) -> None:
        await commit(self.commits, self.runs.finish, stored, events)
