"""Making a report, and its text in each format."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from django.db.models import QuerySet

from billing.models import SpendLog, UsageSeries
from billing.reports.comparison import ComparedReport, compare, find_previous
from billing.reports.focus import Charges, expand_dimensions, render_focus
from billing.reports.kept import has_sums
from billing.reports.query import ReportQuery
from billing.reports.render import CSV_TYPE, JSON_TYPE, render_csv, render_json
from billing.reports.spend import Report, report_spend
from billing.reports.workbook import XLSX_TYPE, render_workbook
from gateway.protocol.errors import BadRequest
from tenants.models import Organization


@dataclass(frozen=True, slots=True)
class FileKind:
    media_type: str
    suffix: str  # of the file's name


#: Format → the kind of file that it is.
FILES: Mapping[str, FileKind] = {
    "json": FileKind(JSON_TYPE, ".json"),
    "csv": FileKind(CSV_TYPE, ".csv"),
    "xlsx": FileKind(XLSX_TYPE, ".xlsx"),
    "focus": FileKind(CSV_TYPE, "-focus.csv"),
}


def make_report(
    rows: QuerySet[SpendLog], query: ReportQuery, *, series: QuerySet[UsageSeries] | None = None
) -> Report | ComparedReport:
    """`rows` and `series`: see `report_spend`. Raises BadRequest where the answer would have too many rows, or sums
    of the days have been deleted."""
    if query.format == "focus":
        query = replace(query, group_by=expand_dimensions(query.group_by))
    if not query.compare:
        return report_spend(rows, query, series=series)
    query_before = replace(query, period=find_previous(query.period))
    report = report_spend(rows, query, series=series)
    if not has_sums(query_before):
        raise BadRequest("Sums of the period before have been deleted. Leave 'compare' out.", param="compare")
    before = report_spend(rows, query_before, series=series)
    return compare(report, before, query.period)


def render_report(report: Report | ComparedReport, query: ReportQuery) -> Iterator[bytes]:
    """The text in the format of the query, in parts. The parts ask the database nothing."""
    if query.format == "focus" and isinstance(report, Report):
        return render_focus(Charges(report, query.period, _find_names(report)))
    if query.format == "xlsx":
        return render_workbook(report, query.period)
    return render_csv(report) if query.format == "csv" else render_json(report)


def _find_names(report: Report) -> Mapping[str, str]:
    """Organization → its name, of those that are in the report."""
    place = report.group_by.index("organization")
    ids = {members[place] for members, _ in report.rows}
    return dict(Organization.objects.filter(id__in=ids).values_list("id", "name")) if ids else {}
