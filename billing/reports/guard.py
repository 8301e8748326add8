"""The wall around reports: how many a process makes at once, and how long one may take.

A report may read every row of a year. Without a wall a few callers take all connections of the database, and on SQLite
all of its time. On PostgreSQL the server ends a statement that takes too long, on SQLite the connection itself; so ends
the report of a client that has left, too.
"""

import math
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from django.conf import settings
from django.db import OperationalError, connection, transaction
from psycopg.errors import QueryCanceled

from gateway.protocol.errors import ClientFault, GatewayFault, RateLimited
from tenants.rest.client_departure import ClientDeparture

RETRY_AFTER = ((b"retry-after", b"5"),)
#: Instructions of SQLite's machine between two looks at the clock: some milliseconds.
SQLITE_STEPS = 100_000
CANCEL_TIMEOUT_S = 5.0
CLIENT_CLOSED = 499  # no client reads it


class ReportSlots:
    """One organization has at most half of the slots, so that it never keeps the others waiting."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._running: Counter[str | None] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, organization_id: str | None) -> Iterator[None]:
        """`organization_id`: None for the platform. Raises RateLimited."""
        self._take(organization_id)
        try:
            yield
        finally:
            with self._lock:
                self._running[organization_id] -= 1

    def _take(self, organization_id: str | None) -> None:
        with self._lock:
            if organization_id is not None and self._running[organization_id] >= max(1, self._count // 2):
                raise RateLimited(
                    "Your organization makes as many reports at once as it may. Try again when one has ended.",
                    code="too_many_reports",
                    headers=RETRY_AFTER,
                )
            if self._running.total() >= self._count:
                raise RateLimited(
                    "The gateway makes as many reports at once as it may. Try again.",
                    code="too_many_reports",
                    headers=RETRY_AFTER,
                )
            self._running[organization_id] += 1
            self._running += Counter()  # without the organizations that have none


SLOTS = ReportSlots(settings.TOLLGATE_REPORTS_AT_ONCE)


@contextmanager
def guard_report(
    organization_id: str | None, departure: ClientDeparture | None = None, *, most_s: float = math.inf
) -> Iterator[None]:
    """A block that makes one report. Raises RateLimited without a free slot, GatewayFault where the database takes too
    long, and ClientFault where the client has left. `most_s` may only shorten the time of the setting."""
    limit_s = min(settings.TOLLGATE_REPORT_TIMEOUT_S, most_s)
    with SLOTS.hold(organization_id), limit_time(limit_s, departure):
        yield


@contextmanager
def limit_time(limit_s: float, departure: ClientDeparture | None = None) -> Iterator[None]:
    """Ends the statements of the block that take longer, or whose client leaves. Raises GatewayFault then."""
    departure = departure or ClientDeparture()
    if departure.has_left:
        raise _left()
    bound = _limit_postgresql if connection.vendor == "postgresql" else _limit_sqlite
    try:
        with bound(limit_s, departure):
            yield
    except OperationalError as error:
        if not _is_interruption(error):
            raise
        if departure.has_left:
            raise _left() from error
        raise GatewayFault(
            f"The report takes longer than {limit_s:g} seconds. Ask for fewer days.", code="report_timeout"
        ) from error


def _left() -> ClientFault:
    return ClientFault("The client has left.", status=CLIENT_CLOSED, code="client_closed_request")


@contextmanager
def _limit_postgresql(limit_s: float, departure: ClientDeparture) -> Iterator[None]:
    """Each statement has the whole time; a report has one or two."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('statement_timeout')")
        [before] = cursor.fetchone()
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(max(1, int(limit_s * 1000)))])
        with departure.stopping(partial(connection.connection.cancel_safe, timeout=CANCEL_TIMEOUT_S)):
            yield
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [before])


@contextmanager
def _limit_sqlite(limit_s: float, departure: ClientDeparture) -> Iterator[None]:
    connection.ensure_connection()
    raw, ends_at = connection.connection, time.monotonic() + limit_s
    _watch(raw, lambda: departure.has_left or time.monotonic() > ends_at)
    try:
        yield
    finally:
        if connection.connection is raw:  # a closed one takes no handler
            _watch(raw, None)


def _watch(raw: sqlite3.Connection, is_over: Callable[[], bool] | None) -> None:
    raw.set_progress_handler(is_over, SQLITE_STEPS if is_over is not None else 0)


def _is_interruption(error: OperationalError) -> bool:
    cause = error.__cause__
    return isinstance(cause, QueryCanceled) or (
        isinstance(cause, sqlite3.OperationalError) and cause.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT
    )
