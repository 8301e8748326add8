"""`manage.py verify_ledger`: proves that rows, hourly sums, budgets and spend in all agree to the last picodollar."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.verification import count_rows, verify_ledger
from gateway.protocol.amounts import usd_text

SHOWN = 100  # disagreements that are printed


class Command(BaseCommand):
    help = "Prove that spend rows, hourly sums, budgets and spend in all agree; exit 1 where any of them does not."

    def handle(self, **options: Any) -> None:
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
