"""The addresses of stores: `sqlite:///sessions.db`, `postgresql://user:password@host/database`."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from gateway.sdk.background_loop import BackgroundLoop
from gateway.sdk.database_store import Database, DatabaseStore
from gateway.sdk.sqlite_database import SQLiteDatabase

FORMS = (
    "A store is sqlite:///sessions.db, sqlite:////absolute/path.db, postgresql://user:password@host/database, or None "
    "for memory."
)


def open_store(url: str, background: BackgroundLoop) -> DatabaseStore:
    """Raises ValueError for an address that is none of these; it tells no part of it."""
    if not isinstance(url, str):
        raise TypeError(FORMS)
    scheme = url.partition(":")[0]
    if scheme in {"postgresql", "postgres"} and url.startswith(f"{scheme}://"):
        return DatabaseStore(_postgres(url), background)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(FORMS) from None
    if parts.scheme != "sqlite" or parts.netloc or not parts.path.removeprefix("/"):
        raise ValueError(FORMS)
    return DatabaseStore(SQLiteDatabase(Path(unquote(parts.path.removeprefix("/")))), background)


def _postgres(url: str) -> Database:
    from gateway.sdk.postgres_database import PostgresDatabase  # noqa: PLC0415 - psycopg, which others do not need

    return PostgresDatabase(url)
