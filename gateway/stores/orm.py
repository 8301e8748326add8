"""The ORM beside the event loop: the threads it runs in, and the error of a store whose database is away."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar, TypeVarTuple

from django.db import Error as DatabaseError
from django.db import connection
from django.db.utils import OperationalError

from gateway.state.statement import DatabaseAway
from tenants.database import database_away

THREADS = 4
LIMIT_S = 30.0  # longer than a writer waits for SQLite's lock
BRIEF_LIMIT_S = 5.0

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class OrmThreads:
    """Closes: the owner, with `close()`."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="orm")

    async def run(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        return await self._run(LIMIT_S, partial(function, *arguments))

    async def run_briefly(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """For what a caller, or the health of the process, waits for."""
        return await self._run(BRIEF_LIMIT_S, partial(function, *arguments))

    def close(self) -> None:
        self._executor.shutdown()

    async def _run(self, limit_s: float, function: Callable[[], Result]) -> Result:
        """A database call that hangs keeps its thread; the caller gets OperationalError after `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.get_running_loop().run_in_executor(self._executor, _with_connection, function)
        except TimeoutError:
            raise OperationalError("the database does not answer") from None


@contextmanager
def reporting_outage(action: str) -> Iterator[None]:
    """Raises GatewayFault where the database is away: the gateway cannot do the action."""
    try:
        yield
    except (DatabaseError, DatabaseAway):
        raise database_away(action) from None


def _with_connection(function: Callable[[], Result]) -> Result:
    if connection.connection is not None and not connection.is_usable():
        connection.close()  # a restart of the database cut it
    try:
        return function()
    except DatabaseError:
        connection.close()  # the next one in this thread connects anew
        raise
