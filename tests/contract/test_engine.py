"""A contract case runs on the database that stands in its name, in all its threads."""

import threading

import pytest
from django.db import connection

from tenants.models import DEFAULT_ORGANIZATION, Organization

pytestmark = pytest.mark.django_db(transaction=True)
VENDORS = {"sqlite": "sqlite", "postgres": "postgresql"}


def test_every_thread_of_a_case_finds_the_database_in_its_name(engine: str) -> None:
    databases: list[tuple[str, str]] = []

    def note() -> None:
        Organization.objects.get(id=DEFAULT_ORGANIZATION)
        databases.append((connection.vendor, str(connection.settings_dict["NAME"])))
        connection.close()

    threads = [threading.Thread(target=note) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    note()
    assert set(databases) == {(VENDORS[engine], str(connection.settings_dict["NAME"]))}
    assert len(databases) == 3
