"""What an erasure owes beside the deletion of rows."""

from django.db import connection


def empty_log() -> None:
    """On SQLite what was there before stands in the write-ahead log until it is emptied; within a transaction there is
    nothing to empty yet."""
    if connection.vendor == "sqlite" and not connection.in_atomic_block:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
