"""/api/reports/spend: what the calls of a period cost, by one or two dimensions, as JSON or a file."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import date
from tempfile import SpooledTemporaryFile
from typing import Any, ClassVar

from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from rest_framework import serializers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from billing.models import SpendLog, UsageSeries
from billing.reports.comparison import COMPARED
from billing.reports.formats import FILES, make_report, render_report
from billing.reports.guard import guard_report
from billing.reports.query import (
    COMPARISONS,
    DIMENSIONS,
    FILTERS,
    FORMATS,
    MARGIN,
    MORE_MEASURES,
    PARAMETERS,
    STATUSES,
    ReportQuery,
)
from billing.reports.render import JSON_TYPE
from billing.reports.spend import MEASURES, NOTHING
from gateway.protocol.errors import Forbidden
from tenants.api.resource import ApiView, Filter, Operation
from tenants.permissions import Area, Reach, reach_of
from tenants.rest.authentication import caller_of
from tenants.rest.client_departure import departure_of
from tenants.rest.fields import read_query

#: A file up to this size stays in memory.
SPOOLED_BYTES = 1024 * 1024
PART_BYTES = 64 * 1024


AMOUNT_TEXTS: Mapping[str, str] = {
    "cost": "USD, exact, with twelve decimals.",
    "cache_savings": "USD, exact: input at its full price less what cached reads and writes of it cost.",
}
MARGIN_TEXTS: Mapping[str, str] = {
    "provider_cost": "With `measures=margin`: USD, exact; what providers are paid.",
    "margin": "With `measures=margin`: USD, exact; `cost` less `provider_cost`.",
}


def declare_sums(name: str, **more: serializers.Field[Any, Any, Any, Any]) -> type[serializers.Serializer[Any]]:
    numbers = {measure: serializers.IntegerField() for measure in MEASURES if measure not in AMOUNT_TEXTS}
    amounts = {name: serializers.CharField(help_text=text) for name, text in AMOUNT_TEXTS.items()}
    previous = {f"previous_{measure}": declare_previous(measure) for measure in COMPARED}
    return type(name, (serializers.Serializer,), {**more, **amounts, **numbers, **declare_more(), **previous})


def declare_more() -> Mapping[str, serializers.Field[Any, Any, Any, Any]]:
    """The measures that `measures` adds."""
    times = [name for name in NOTHING.render(MORE_MEASURES) if name.endswith("_ms")]
    text = "With `measures=latency`: of successful attempts; null where none was timed."
    return {
        **{name: serializers.IntegerField(required=False, allow_null=True, help_text=text) for name in times},
        **{name: serializers.CharField(required=False, help_text=text) for name, text in MARGIN_TEXTS.items()},
    }


def declare_previous(measure: str) -> serializers.Field[Any, Any, Any, Any]:
    text = "With `compare`; null where the period before has no such hour or day."
    kind = serializers.CharField if measure == "cost" else serializers.IntegerField
    return kind(required=False, allow_null=True, help_text=text)


SUMS = declare_sums("SpendSums")
ROW = declare_sums(
    "SpendReportRow",
    **{name: serializers.CharField(required=False, help_text="Where it is in `group_by`.") for name in DIMENSIONS},
)


class PreviousDays(serializers.Serializer[Any]):
    start_date = serializers.DateField()
    end_date = serializers.DateField()


class SpendReportAnswer(serializers.Serializer[Any]):
    rows = ROW(many=True)
    total = SUMS(help_text="Each row of the spend log once.")
    previous = PreviousDays(required=False, help_text="With `compare`: the days that `previous_…` is of.")


class StreamedText(StreamingHttpResponse):
    """Parts that are read while they are sent. Each is small, so the event loop of a server reads them itself."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


def spool(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes from a temporary file: a client that reads slowly holds neither a report nor its slot."""
    spooled = _spool(parts)
    next(spooled)
    return spooled


def _spool(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The first step writes all of it."""
    with SpooledTemporaryFile(max_size=SPOOLED_BYTES, dir=str(settings.TOLLGATE_HOME)) as file:
        file.writelines(parts)
        file.seek(0)
        yield b""
        while part := file.read(PART_BYTES):
            yield part


class FormatOfQuery(BaseContentNegotiation):
    """`format` chooses, whatever the header `Accept` says."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, first.media_type


class SpendReport(ApiView):
    area = Area.SPEND
    least_reach = Reach.OWN
    noun = "spend report"
    wire_names: ClassVar[Mapping[str, str]] = {}  # `organization` is no field here
    content_negotiation_class = FormatOfQuery
    operations = {"report": Operation("Report spend by one or two dimensions", answer=SpendReportAnswer)}
    filters = {
        **{
            name: Filter("", f"The rows of this {name.replace('_', ' ')} alone.")
            for name in FILTERS
            if name != "status"
        },
        "status": Filter("", "The attempts of this status alone.", choices=STATUSES),
        "start_date": Filter("started_at", "The first day, in `tz`.", schema_type=date, is_required=True),
        "end_date": Filter("started_at", "The last day, in `tz`.", schema_type=date, is_required=True),
        "group_by": Filter("", f"One or two of {', '.join(DIMENSIONS)}, with a comma between.", is_required=True),
        "tz": Filter("", "The name of a time zone of the IANA database; UTC without it."),
        "format": Filter("", "json without it.", choices=FORMATS),
        "compare": Filter("", "Adds the cost and the requests of the period before.", choices=COMPARISONS),
        "measures": Filter("", "More measures: latency, margin (for the platform's roles), with a comma between."),
    }

    def report(self, request: Request) -> HttpResponseBase:
        query = ReportQuery.read(read_query(request, known=PARAMETERS))
        check_measures(query, reach_of(caller_of(request), Area.SPEND))
        with guard_report(caller_of(request).organization_id, departure_of(request)):
            return send_report(self.rows(SpendLog.objects.all()), query, series=self.rows(UsageSeries.objects.all()))


def check_measures(query: ReportQuery, reach: Reach) -> None:
    """The margin is for the platform's roles alone. Raises Forbidden."""
    if MARGIN in query.measures and reach < Reach.PLATFORM:
        raise Forbidden("'measures' may have 'margin' for admins and viewers of the platform alone.", param="measures")


def send_report(rows: QuerySet[SpendLog], query: ReportQuery, *, series: QuerySet[UsageSeries]) -> HttpResponseBase:
    """The report of `rows` and `series` in the format of its query; a file streams once it is whole. Raises
    BadRequest."""
    parts = render_report(make_report(rows, query, series=series), query)
    if query.format == "json":
        return HttpResponse(b"".join(parts), content_type=JSON_TYPE)
    file = FILES[query.format]
    name = f"spend-{query.period.start}-{query.period.end}{file.suffix}"
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamedText(spool(parts), content_type=file.media_type, headers=disposition)
