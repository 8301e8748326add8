"""`manage.py migrate`, whose migrations read and write the rows of all organizations."""

from typing import Any

from django.core.management.commands import migrate
from django_scopes import scopes_disabled


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        with scopes_disabled():  # with row-level security a migration would otherwise find no row of a tenant
            super().handle(*args, **options)
