"""What an erasure owes beside the deletion of rows."""

import time
from collections.abc import Callable

from django.db import connection

#: Before each further try. Whoever deletes waits for as long, in one of few threads.
PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2)


def empty_log(pause: Callable[[float], None] = time.sleep) -> None:
    """On SQLite what was there before stands in the write-ahead log until it is emptied, which cannot be while somebody
    reads what is in it. Such a reader is waited for between tries only, because a try has the write lock, and not for
    long: the hourly purge empties it again. Within a transaction there is nothing to empty yet.

    Blocks: never called in an event loop.
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
