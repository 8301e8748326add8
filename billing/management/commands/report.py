"""`manage.py report`: the report of GET /api/reports/spend, of all organizations, as a table or CSV."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.models import SpendLog
from billing.reports.query import DIMENSIONS, ReportQuery
from billing.reports.render import render_csv, render_json
from billing.reports.spend import Report, report_spend
from gateway.protocol.errors import BadRequest

TABLE = "table"
COLUMNS = ("cost", "requests", "failures", "unpriced", "input_tokens", "cache_read_tokens", "output_tokens")


class Command(BaseCommand):
    help = "Report spend by one or two dimensions."

    def add_arguments(self, parser: CommandParser) -> None:
        today = timezone.now().date()
        parser.add_argument(
            "--start-date", default=str(today.replace(day=1)), help="YYYY-MM-DD; the first of the month"
        )
        parser.add_argument("--end-date", default=str(today), help="YYYY-MM-DD, included; today")
        parser.add_argument("--group-by", default="day", help=f"one or two of {', '.join(DIMENSIONS)}; day")
        parser.add_argument("--tz", default="UTC", help="the time zone of the days; UTC")
        parser.add_argument("--format", default=TABLE, help="table, csv or json; table")

    def handle(self, **options: Any) -> None:
        names = ("start_date", "end_date", "group_by", "tz")
        fields = {name: options[name] for name in names}
        if options["format"] != TABLE:
            fields["format"] = options["format"]
        try:
            query = ReportQuery.read(fields)
            with scopes_disabled():  # a user of this shell is the platform admin
                report = report_spend(SpendLog.objects.all(), query)
        except BadRequest as error:
            option = f"--{(error.param or '').replace('_', '-')}"
            raise CommandError(f"{option}: {error.message}") from None
        if options["format"] == TABLE:
            self._print_table(report)
            return
        for part in render_csv(report) if query.format == "csv" else render_json(report):
            self.stdout.write(part.decode(), ending="")

    def _print_table(self, report: Report) -> None:
        lines = [[*report.group_by, *COLUMNS]]
        for members, sums in [*report.rows, (("total",) + ("",) * (len(report.group_by) - 1), report.total)]:
            values = sums.render()
            lines.append([*(_printable(member) for member in members), *(str(values[name]) for name in COLUMNS)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = len(report.group_by)
        for line in lines:
            cells = [
                cell.ljust(width) if place < texts else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            self.stdout.write("  ".join(cells).rstrip())


def _printable(member: str) -> str:
    """Without characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "�" for character in member) or "-"
