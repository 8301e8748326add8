"""`manage.py verify_ledger`: proves that rows, hourly sums, rollups, budgets and spend in all agree to the last
picodollar; with `--repair` it builds rollups that are missing or differ."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.verification import count_rows, repair_rollups, verify_ledger
from gateway.protocol.amounts import usd_text

SHOWN = 100  # disagreements that are printed


class Command(BaseCommand):
    help = "Prove that spend rows, hourly sums, budgets and spend in all agree; exit 1 where any of them does not."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--repair",
            action="store_true",
            help="first build the rollups of reports: those of rows that are older than they, and of days that differ",
        )

    def handle(self, **options: Any) -> None:
        if options["repair"]:
            self._repair()
        count = 0
        for disagreement in verify_ledger():
            count += 1
            if count <= SHOWN:
                self.stdout.write(str(disagreement))
        if count > SHOWN:
            self.stdout.write(f"… and {count - SHOWN:,} more")
        if count:
            raise CommandError(f"The ledger disagrees in {count:,} places.")
        rows, pusd = count_rows()
        self.stdout.write(f"{rows:,} rows, {usd_text(pusd)} USD: rows, hourly sums, budgets and spend in all agree")

    def _repair(self) -> None:
        for day, rows in repair_rollups():
            self.stdout.write(f"{day}: rollups built from {rows:,} rows")
