"""The check of a gateway's ledger after its tests, in this process: a command would start one for each."""

from collections.abc import Mapping
from typing import Any

import dj_database_url
from django.conf import settings
from django.db import OperationalError, connection, connections
from django.test import override_settings
from pytest_django import DjangoDbBlocker

from billing.models import SpendLog
from billing.verification import verify_ledger
from tests.contract.conftest import point_default_to
from tests.e2e.gateway import Gateway


def find_disagreements(gateway: Gateway, blocker: DjangoDbBlocker) -> list[str]:
    """Verifies the ledger of a gateway that has ended, and returns each disagreement as text. Returns none where the
    gateway never made its database, or the test has ended it."""
    database = _database_of(gateway)
    if database is None:
        return []
    before = connections.settings["default"]
    with blocker.unblock(), override_settings(TOLLGATE_ROW_SECURITY=False):
        point_default_to(database)
        try:
            if SpendLog._meta.db_table not in connection.introspection.table_names():
                return []
            return [str(disagreement) for disagreement in verify_ledger()]
        except OperationalError:
            if database["ENGINE"].endswith("sqlite3"):
                raise
            return []
        finally:
            point_default_to(before)


def _database_of(gateway: Gateway) -> Mapping[str, Any] | None:
    if gateway.env.get("TOLLGATE_ROW_SECURITY"):
        return None  # its role sees no row without a scope
    if url := gateway.env.get("DATABASE_URL"):
        database = dict(dj_database_url.parse(url))
        database["OPTIONS"] = settings.POSTGRESQL | database.get("OPTIONS", {})
    elif (file := gateway.home / "db.sqlite3").is_file():
        database = settings.SQLITE | {"NAME": file}
    else:
        return None
    return connections.configure_settings({"default": database})["default"]
