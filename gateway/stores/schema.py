"""The state of the database that a process needs before it may serve: reachable, and with every migration."""

import logging
import pkgutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from tenants.row_security.policies import read_status

logger = logging.getLogger(__name__)

RETRY_S = 1.0
UNREACHABLE = "The database cannot be used."


class DatabaseNotReady(Exception):
    """The database cannot be used yet. The text says why and is fit for clients; the cause is for the log."""


class SchemaBehind(DatabaseNotReady):
    """The database lacks migrations of this version."""

    def __init__(self, missing: list[str]) -> None:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        super().__init__(f"The database lacks the migration {missing[0]}{more}: run manage.py migrate.")


def check_schema() -> None:
    """Raises DatabaseNotReady while the database does not answer, or lacks a migration of this version."""
    with reporting_not_ready():
        try:
            missing = missing_migrations()
            if not missing:
                check_row_security()
        finally:
            connection.close()
    if missing:
        raise SchemaBehind(missing)


def check_row_security() -> None:
    """Raises DatabaseNotReady where the policies would hide every row of a tenant from this process."""
    if connection.vendor == "postgresql" and not settings.TOLLGATE_ROW_SECURITY and read_status().present:
        raise DatabaseNotReady(
            "The database has row-level security: set TOLLGATE_ROW_SECURITY=1, or run manage.py row_security off."
        )


def missing_migrations() -> list[str]:
    """`app.name` of each migration of this version that the database lacks. Migrations of a later version do not
    matter: they work under the code before them."""
    applied = MigrationRecorder(connection).applied_migrations()
    return [
        f"{config.label}.{name}"
        for config in apps.get_app_configs()
        for name in _migration_names(Path(config.path) / "migrations")
        if (config.label, name) not in applied
    ]


@contextmanager
def reporting_not_ready() -> Iterator[None]:
    """Raises DatabaseNotReady in place of the error of a database that cannot be used."""
    try:
        yield
    except DatabaseError as error:
        connection.close()
        raise DatabaseNotReady(UNREACHABLE) from error


def wait_for_schema() -> None:
    """Returns once the database can be used; logs one line a reason."""
    log = StartLog()
    while True:
        try:
            check_schema()
        except DatabaseNotReady as error:
            log.note(error)
            time.sleep(RETRY_S)
        else:
            log.note_end()
            return


class StartLog:
    """The log of a start that waits: one line for each kind of reason in turn, and one at its end."""

    def __init__(self) -> None:
        self._kind: type[DatabaseNotReady] | None = None

    def note(self, error: DatabaseNotReady) -> None:
        if type(error) is not self._kind:  # while another process migrates, the migration that is missing changes
            cause = str(error.__cause__ or "").strip()
            logger.error("the start waits", extra={"why": str(error), **({"cause": cause} if cause else {})})
        self._kind = type(error)

    def note_end(self) -> None:
        if self._kind is not None:
            logger.warning("the start goes on: the database can be used")
        self._kind = None


def _migration_names(folder: Path) -> list[str]:
    return [module.name for module in pkgutil.iter_modules([str(folder)]) if module.name[0] not in "_~"]
