"""`manage.py row_security`: puts the policies of row-level security on or takes them off, or says how they stand."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.db import connection

from tenants.row_security.checks import exempt_role_warning
from tenants.row_security.policies import put_on, read_status, table_policies, take_off


class Command(BaseCommand):
    help = "Put PostgreSQL's row-level security on the tables of tenants (on), take it off (off), or show its state."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=("on", "off", "status"))

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor != "postgresql":
            raise CommandError("Row-level security needs PostgreSQL.")
        action = options["action"]
        if action == "on" and not settings.TOLLGATE_ROW_SECURITY:
            raise CommandError("Set TOLLGATE_ROW_SECURITY=1 for every process first: without it they see no rows.")
        try:
            if action == "on":
                self.stdout.write(f"put on {len(put_on())} tables, {len(table_policies())} have it")
            elif action == "off":
                self.stdout.write(f"taken off {len(take_off())} tables")
        except DatabaseError as error:
            reason = str(error).partition("\n")[0]
            raise CommandError(f"{reason}. Tables that were done stay so: run it again.") from error
        status = read_status()
        if action == "status":
            self.stdout.write(f"on {len(table_policies()) - len(status.missing)} of {len(table_policies())} tables")
        if status.is_role_exempt and action != "off":
            self.stderr.write(exempt_role_warning(status.role))
