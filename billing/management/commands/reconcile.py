"""`manage.py reconcile`: imports invoices of providers, and reports ours against theirs."""

import argparse
import getpass
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_scopes import scopes_disabled

from billing.models import InvoiceImport, InvoiceName, SpendLog, UsageSeries
from billing.reconciliation.imports import forget_name, import_invoice, name_model
from billing.reconciliation.lines import MAX_NAME, InvoiceUnreadable
from billing.reconciliation.ours import SpendRows
from billing.reconciliation.report import FORMATS, Reconciliation, ReconciliationQuery, reconcile, render, render_total
from billing.reconciliation.sources import SOURCES
from gateway.protocol.amounts import usd_text
from gateway.protocol.errors import BadRequest
from tenants.audit import acting_as

TABLE = "table"
SHOWN = 200  # rows that are printed


class Command(BaseCommand):
    help = "Import invoices of providers, and report what they charge beside what the gateway has counted."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, parser_class=argparse.ArgumentParser)
        importing = actions.add_parser("import", help="read a file; its days replace those of earlier imports")
        importing.add_argument("file", type=Path)
        importing.add_argument("--account", default="", help="a name for one of several accounts at the provider")
        report = actions.add_parser("report", help="ours against theirs, by day and model")
        report.add_argument("--start-date", required=True, help="YYYY-MM-DD, UTC")
        report.add_argument("--end-date", required=True, help="YYYY-MM-DD, included")
        report.add_argument("--format", default=TABLE, choices=(TABLE, *FORMATS))
        naming = actions.add_parser("name", help="compare a name of an invoice, or of an upstream model, as a model")
        naming.add_argument("name", help="the exact name")
        naming.add_argument("model", nargs="?", default="", help="the model; without it the name stands for itself")
        actions.add_parser("imports", help="show the imports")
        actions.add_parser("names", help="show the names")
        for action, is_required in ((importing, True), (naming, True), (report, False)):
            action.add_argument(
                "--provider", default="", required=is_required, choices=tuple(SOURCES), help="who has sent the invoice"
            )

    def handle(self, **options: Any) -> None:
        actions = {
            "import": self._import,
            "report": self._report,
            "name": self._name,
            "imports": self._print_imports,
            "names": self._print_names,
        }
        with acting_as(getpass.getuser()):
            actions[options["action"]](options)

    def _import(self, options: dict[str, Any]) -> None:
        path: Path = options["file"]
        source = SOURCES[options["provider"]]
        try:
            with path.open("rb") as file:
                done = import_invoice(
                    file, source, account=options["account"], file_name=path.name, actor=getpass.getuser()
                )
        except OSError as error:
            raise CommandError(f"{path.name}: {error.strerror}") from None
        except InvoiceUnreadable as error:
            raise CommandError(f"{path.name}: {error}") from None
        invoice = done.invoice
        self.stdout.write(
            f"{invoice.lines:,} lines of {source.title}, {invoice.first_day} to {invoice.last_day}, from "
            f"{invoice.records:,} records; {done.replaced:,} lines of earlier imports replaced"
        )

    def _report(self, options: dict[str, Any]) -> None:
        fields = {"start_date": options["start_date"], "end_date": options["end_date"], "provider": options["provider"]}
        if options["format"] != TABLE:
            fields["format"] = options["format"]
        try:
            query = ReconciliationQuery.read({name: text for name, text in fields.items() if text})
            with scopes_disabled():  # a user of this shell is the platform admin
                report = reconcile(SpendRows(SpendLog.objects.all(), UsageSeries.objects.all()), query)
        except BadRequest as error:
            raise CommandError(f"--{(error.param or '').replace('_', '-')}: {error.message}") from None
        if options["format"] == TABLE:
            self._print_table(report)
            return
        for part in render(report, query.format):
            self.stdout.write(part.decode(), ending="")

    def _print_table(self, report: Reconciliation) -> None:
        if not report.rows:
            self.stdout.write("No invoice has these days: import one.")
            return
        for source, row in report.rows[:SHOWN]:
            theirs = "-" if row.pusd is None else usd_text(row.theirs.pusd)
            difference = "-" if row.pusd is None else usd_text(row.pusd)
            causes = ", ".join(f"{cause.value} {usd_text(pusd)}" for cause, pusd in row.causes.items())
            self.stdout.write(
                f"{row.day}  {source}  {_printable(row.model)}  ours {usd_text(row.ours.pusd)}  theirs {theirs}  "
                f"difference {difference}  {causes}".rstrip()
            )
        if len(report.rows) > SHOWN:
            self.stdout.write(f"… and {len(report.rows) - SHOWN:,} more: see --format csv")
        total = render_total(report)
        self.stdout.write(
            f"total: ours {total['our_cost']}  theirs {total['their_cost']}  difference {total['difference']}  "
            f"explained {total['explained_percent']} %"
        )
        for cause, usd in total["causes"].items():
            self.stdout.write(f"  {cause} {usd}")

    def _name(self, options: dict[str, Any]) -> None:
        source, name, model = SOURCES[options["provider"]], options["name"], options["model"]
        if not 0 < len(name) <= MAX_NAME or len(model) > MAX_NAME or "\0" in name + model:
            raise CommandError(f"a name must have 1 to {MAX_NAME} characters")
        if model:
            name_model(source, name=name, model=model)
        elif not forget_name(source, name):
            raise CommandError(f"{name!r} has no other name")

    def _print_imports(self, options: dict[str, Any]) -> None:
        for row in InvoiceImport.objects.all()[:SHOWN]:
            state = "" if row.ended_at else "  interrupted: import it again"
            days = f"{row.first_day} to {row.last_day}"
            self.stdout.write(
                f"{row.id}  {row.source}  {_printable(row.account) or '-'}  {days}  {row.lines:,} lines  "
                f"{_printable(row.file_name)}{state}"
            )

    def _print_names(self, options: dict[str, Any]) -> None:
        for row in InvoiceName.objects.all():
            self.stdout.write(f"{row.source}  {_printable(row.name)} → {_printable(row.model)}")


def _printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)
