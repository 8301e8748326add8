"""Two branches may each add a migration with the next number: the graph has one end in every application."""

from django.db.migrations.loader import MigrationLoader


def test_the_migrations_of_an_application_form_one_line() -> None:
    assert MigrationLoader(None).detect_conflicts() == {}
