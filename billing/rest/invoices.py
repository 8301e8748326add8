"""/api/invoice-imports, /api/invoice-names and /api/reports/reconciliation: for the platform's roles alone."""

import io
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.http import HttpResponse, HttpResponseBase
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import InvoiceImport, InvoiceName, SpendLog, UsageSeries
from billing.reconciliation.comparison import Cause
from billing.reconciliation.imports import delete_invoice, forget_name, import_invoice, name_model
from billing.reconciliation.lines import TOKENS, InvoiceUnreadable
from billing.reconciliation.ours import SpendRows
from billing.reconciliation.report import (
    FORMATS,
    PARAMETERS,
    Reconciliation,
    ReconciliationQuery,
    reconcile,
    render,
)
from billing.reconciliation.sources import SOURCES
from billing.reports.guard import guard_report
from billing.reports.render import CSV_TYPE, JSON_TYPE
from billing.rest.reports import FormatOfQuery, StreamedText, spool
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Choice, Text
from tenants.api.resource import ApiView, Filter, Operation, Resource
from tenants.permissions import Area, Caller, Reach
from tenants.rest.authentication import caller_of
from tenants.rest.client_departure import departure_of
from tenants.rest.fields import read_query, render_instant

SOURCE_NAMES = tuple(SOURCES)
MAX_CONTENT = 1024 * 1024  # characters; no larger body arrives


class NewInvoiceImport(Body):
    provider = Choice(choices=SOURCE_NAMES)
    content = Text(
        allow_blank=False, max_length=MAX_CONTENT, write_only=True, help_text="The text of the file: CSV or JSON."
    )
    account = Text(required=False, help_text="A name for one of several accounts at the provider.")
    file_name = Text(required=False)


class InvoiceImportRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    provider = serializers.ChoiceField(choices=SOURCE_NAMES)
    account = serializers.CharField()
    file_name = serializers.CharField()
    sha256 = serializers.CharField()
    first_day = serializers.DateField()
    last_day = serializers.DateField()
    records = serializers.IntegerField(help_text="Of the file.")
    lines = serializers.IntegerField(help_text="Sums by day, SKU and kind of token.")
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True, help_text="null: it was interrupted. Import the file again.")


class NewInvoiceName(Body):
    provider = Choice(choices=SOURCE_NAMES)
    name = Text(allow_blank=False, help_text="The exact name in an invoice, or of an upstream model.")
    model = Text(allow_blank=False, help_text="The name under which it is compared.")


class InvoiceNameRow(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    provider = serializers.ChoiceField(choices=SOURCE_NAMES)
    name = serializers.CharField()
    model = serializers.CharField()


class InvoiceImports(Resource[InvoiceImport]):
    area = Area.SETTINGS
    least_reach = Reach.PLATFORM
    noun = "invoice import"
    id_name = "invoice_import_id"
    operations = {
        "list_rows": Operation("List the imports of invoices", answer=InvoiceImportRow),
        "create": Operation("Import an invoice", 201, InvoiceImportRow, NewInvoiceImport),
        "show": Operation("Show an import of an invoice", answer=InvoiceImportRow),
        "delete_one": Operation("Take back an import of an invoice", 204),
    }
    filters = {"provider": Filter("source", choices=SOURCE_NAMES), "account": Filter("account")}

    def queryset(self) -> QuerySet[InvoiceImport]:
        return InvoiceImport.objects.all()

    def is_repeatable(self, request: Request) -> bool:
        """The same file is imported once, however often it comes."""
        return self.action == "create"

    def create(self, request: Request, **names: str) -> Response:
        body = self.read()
        try:
            done = import_invoice(
                io.BytesIO(body["content"].encode()),
                SOURCES[body["provider"]],
                account=body.get("account", ""),
                file_name=body.get("file_name", ""),
                actor=caller_of(request).name,
            )
        except InvoiceUnreadable as error:
            raise BadRequest(f"The invoice cannot be read: {error}.", param="content") from None
        return self.answer(done.invoice)

    def delete_row(self, caller: Caller, row: InvoiceImport) -> None:
        delete_invoice(row)

    def render(self, rows: Sequence[InvoiceImport]) -> list[JsonObject]:
        return [
            {
                "id": row.id,
                "provider": row.source,
                "account": row.account,
                "file_name": row.file_name,
                "sha256": row.sha256,
                "first_day": row.first_day.isoformat(),
                "last_day": row.last_day.isoformat(),
                "records": row.records,
                "lines": row.lines,
                "created_by": row.actor,
                "created_at": render_instant(row.created_at),
                "ended_at": render_instant(row.ended_at),
            }
            for row in rows
        ]


class InvoiceNames(Resource[InvoiceName]):
    area = Area.SETTINGS
    least_reach = Reach.PLATFORM
    noun = "invoice name"
    id_name = "invoice_name_id"
    operations = {
        "list_rows": Operation("List the names that are compared as other models", answer=InvoiceNameRow),
        "create": Operation("Compare a name as a model", 201, InvoiceNameRow, NewInvoiceName),
        "show": Operation("Show a name that is compared as another model", answer=InvoiceNameRow),
        "delete_one": Operation("Compare a name as itself again", 204),
    }
    filters = {"provider": Filter("source", choices=SOURCE_NAMES)}

    def queryset(self) -> QuerySet[InvoiceName]:
        return InvoiceName.objects.all()

    def make(self, caller: Caller, body: dict[str, Any]) -> InvoiceName:
        return name_model(SOURCES[body["provider"]], name=body["name"], model=body["model"])

    def delete_row(self, caller: Caller, row: InvoiceName) -> None:
        forget_name(SOURCES[row.source], row.name)

    def render(self, rows: Sequence[InvoiceName]) -> list[JsonObject]:
        return [{"id": row.id, "provider": row.source, "name": row.name, "model": row.model} for row in rows]


# The report


def _amount(**options: Any) -> serializers.CharField:
    return serializers.CharField(help_text="USD, exact, with twelve decimals.", **options)


_CAUSES = [cause.value for cause in Cause]
TOKEN_COUNTS: type[serializers.Serializer[Any]] = type(
    "ReconciledTokens", (serializers.Serializer,), {kind.value: serializers.IntegerField() for kind in TOKENS}
)


class ReconciliationRow(serializers.Serializer[Any]):
    day = serializers.DateField(help_text="UTC.")
    provider = serializers.ChoiceField(choices=SOURCE_NAMES)
    model = serializers.CharField()
    our_cost = _amount()
    their_cost = _amount(allow_null=True)
    difference = serializers.CharField(allow_null=True, help_text="Theirs less ours; the sum of the causes.")
    difference_percent = serializers.CharField(allow_null=True, help_text="Of theirs.")
    our_tokens = TOKEN_COUNTS()
    their_tokens = TOKEN_COUNTS()
    our_rates = serializers.DictField(
        child=serializers.CharField(), help_text="USD per million tokens, of the first rows whose price differs."
    )
    their_rates = serializers.DictField(child=serializers.CharField(), help_text="USD per million tokens.")
    causes = serializers.DictField(child=serializers.CharField(), help_text=f"Of {', '.join(_CAUSES)}: USD.")
    cause_tokens = serializers.DictField(child=serializers.IntegerField())


class ReconciliationTotal(serializers.Serializer[Any]):
    our_cost = _amount()
    their_cost = _amount()
    difference = _amount()
    difference_percent = serializers.CharField(allow_null=True)
    causes = serializers.DictField(child=serializers.CharField())
    explained_percent = serializers.CharField(help_text="Of all differences, whatever their sign.")
    days = serializers.DictField(
        child=serializers.ListField(child=serializers.DateField()),
        help_text="The days that each provider's imports have.",
    )


class ReconciliationAnswer(serializers.Serializer[Any]):
    rows = ReconciliationRow(many=True)
    total = ReconciliationTotal(help_text="Of the rows with an amount on both sides.")


class ReconciliationReport(ApiView):
    area = Area.SETTINGS
    least_reach = Reach.PLATFORM
    noun = "reconciliation"
    wire_names: ClassVar[Mapping[str, str]] = {}
    content_negotiation_class = FormatOfQuery
    operations = {"report": Operation("Report invoices beside the gateway's own sums", answer=ReconciliationAnswer)}
    filters = {
        "start_date": Filter("", "The first day, UTC.", schema_type=date, is_required=True),
        "end_date": Filter("", "The last day, UTC.", schema_type=date, is_required=True),
        "provider": Filter("", "All providers without it.", choices=SOURCE_NAMES),
        "format": Filter("", "json without it.", choices=FORMATS),
    }

    def report(self, request: Request) -> HttpResponseBase:
        query = ReconciliationQuery.read(read_query(request, known=PARAMETERS))
        with guard_report(caller_of(request).organization_id, departure_of(request)):
            spend = SpendRows(self.rows(SpendLog.objects.all()), self.rows(UsageSeries.objects.all()))
            return send_reconciliation(reconcile(spend, query), query)


def send_reconciliation(report: Reconciliation, query: ReconciliationQuery) -> HttpResponseBase:
    """The report in the format of its query; a file streams once it is whole."""
    parts = render(report, query.format)
    if query.format == "json":
        return HttpResponse(b"".join(parts), content_type=JSON_TYPE)
    name = f"reconciliation-{query.period.start}-{query.period.end}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamedText(spool(parts), content_type=CSV_TYPE, headers=headers)
