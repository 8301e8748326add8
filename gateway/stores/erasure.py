"""The end of an erasure: SQLite's write-ahead log still has the deleted rows until it is emptied."""

import time
from collections.abc import Callable

from django.db import connection

#: Before each further try. The caller blocks for as long, in one of a few threads.
PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2)


def empty_log(pause: Callable[[float], None] = time.sleep) -> None:
    """Empties SQLite's write-ahead log, unless a connection reads from it. Waits for such a reader between tries only,
    because a try holds the write lock, and not for long: the hourly purge tries again. Does nothing within a
    transaction, whose changes are not in the log yet. Blocks, so no event loop may call it.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return
    with connection.cursor() as cursor:
        busy_ms = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
        cursor.execute("PRAGMA busy_timeout = 0")
        try:
            for pause_s in (*PAUSES_S, None):
                is_busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not is_busy or pause_s is None:
                    return
                pause(pause_s)
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {int(busy_ms)}")
