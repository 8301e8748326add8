"""`manage.py report`: the report of GET /api/reports/spend, of all organizations, as a table, text or file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.models import SpendLog, UsageSeries
from billing.reports.comparison import ComparedReport
from billing.reports.formats import make_report, render_report
from billing.reports.query import DIMENSIONS, FILTERS, FORMATS, MORE_MEASURES, ReportQuery
from billing.reports.render import Measures
from billing.reports.spend import MEASURES, Report
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
        parser.add_argument("--format", default=TABLE, help=f"table, {', '.join(FORMATS)}; table")
        parser.add_argument(
            "--compare", default="", help="previous: with the cost and the requests of the period before"
        )
        parser.add_argument("--measures", default="", help=f"more of them: {', '.join(MORE_MEASURES)}")
        parser.add_argument(
            "--only", action="append", default=[], metavar="DIMENSION=MEMBER", help="the rows of one member alone"
        )
        parser.add_argument("--output", default="", help="the file to write, for every format but table")

    def handle(self, **options: Any) -> None:
        names = ("start_date", "end_date", "group_by", "tz", "compare", "measures")
        fields = {name: options[name] for name in names if options[name]}
        if options["format"] != TABLE:
            fields["format"] = options["format"]
        try:
            fields |= _read_filters(options["only"])
            query = ReportQuery.read(fields)
            with scopes_disabled():  # a user of this shell is the platform admin
                report = make_report(SpendLog.objects.all(), query, series=UsageSeries.objects.all())
                parts = render_report(report, query)
        except BadRequest as error:
            option = "--only" if error.param in FILTERS else f"--{(error.param or '').replace('_', '-')}"
            raise CommandError(f"{option}: {error.message}") from None
        if options["format"] == TABLE:
            self._print_table(report)
            return
        if options["output"]:
            self._write_file(Path(options["output"]), parts)
        elif query.format == "xlsx":
            raise CommandError("--format xlsx is a file: name it by --output")
        else:
            for part in parts:
                self.stdout.write(part.decode(), ending="")

    def _write_file(self, path: Path, parts: Iterable[bytes]) -> None:
        try:
            with path.open("wb") as file:
                file.writelines(parts)
        except OSError as error:
            raise CommandError(f"--output: {error.strerror}") from None

    def _print_table(self, report: Report | ComparedReport) -> None:
        rare = {*MEASURES}.difference(COLUMNS)
        names = [name for name in report.total.render(report.measures) if name not in rare]
        lines = [[*report.group_by, *names]]
        rows: list[tuple[tuple[str, ...], Measures]] = [*report.rows]
        for members, sums in [*rows, (("total",) + ("",) * (len(report.group_by) - 1), report.total)]:
            values = sums.render(report.measures)
            cells = ["-" if values[name] is None else str(values[name]) for name in names]
            lines.append([*(_printable(member) for member in members), *cells])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = len(report.group_by)
        for line in lines:
            cells = [
                cell.ljust(width) if place < texts else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            self.stdout.write("  ".join(cells).rstrip())


def _read_filters(texts: Iterable[str]) -> dict[str, str]:
    """`team=red` → {"team": "red"}. Raises BadRequest."""
    filters: dict[str, str] = {}
    for text in texts:
        name, _, member = text.partition("=")
        if name not in FILTERS or not member or name in filters:
            raise BadRequest(f"must be one of {', '.join(FILTERS)}, each once, with = and a member.", param="only")
        filters[name] = member
    return filters


def _printable(member: str) -> str:
    """Without characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "�" for character in member) or "-"
