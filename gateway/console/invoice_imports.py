"""The page of imported invoices: those that there are, a form for another one, and the end of one."""

import io
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing.models import InvoiceImport
from billing.reconciliation.imports import Imported, delete_invoice, import_invoice
from billing.reconciliation.lines import MAX_NAME, InvoiceUnreadable
from billing.reconciliation.sources import SOURCES
from billing.reports.query import MAX_DAYS
from gateway.console.set_price import may_set_prices
from tenants.admin.console import badge, timestamp, two_lines

ROWS = 50  # of a page
MAX_ID = 36
#: Of a file. The body, with the form's other fields, has at most 1 MiB: see gateway/edge/body_limit.py.
MAX_FILE_BYTES = 1_000_000
SHOWN_NAME = 60  # characters of an account or a file in the list


class InvoiceForm(forms.Form):
    provider = forms.ChoiceField(
        label=_("Provider"),
        choices=[(source.name, source.title) for source in SOURCES.values()],
        widget=UnfoldAdminSelectWidget(),
    )
    account = forms.CharField(
        label=_("Account"),
        help_text=_("A name for one of several accounts at the provider. Files of other accounts stay beside it."),
        required=False,
        max_length=MAX_NAME,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
    file = forms.FileField(
        label=_("File"),
        help_text=_("CSV or JSON, at most 1 MB; manage.py reconcile import takes larger ones."),
        widget=forms.FileInput(
            attrs={
                "class": "tg-input",
                "accept": ".csv,.json,.jsonl,text/csv,application/json",
                "data-max-bytes": MAX_FILE_BYTES,
                "data-too-large": _("The file is larger than 1 MB. Import it with manage.py reconcile import."),
            }
        ),
    )

    def clean_file(self) -> "UploadedFile[bytes]":
        file: UploadedFile[bytes] = self.cleaned_data["file"]
        if (file.size or 0) > MAX_FILE_BYTES:
            raise forms.ValidationError(_("The file is larger than 1 MB. Import it with manage.py reconcile import."))
        return file


@dataclass(frozen=True, slots=True)
class ImportText:
    """`comparison`: the address of the page that compares its days. `delete`: of the question whether to delete it."""

    created: SafeString
    provider: str
    account: str
    file_name: str
    days: str
    records: str
    lines: str
    state: SafeString
    comparison: str
    delete: str


def show_imports(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The newest imports, or with `before` those older than one; POST adds a file, or with `delete` takes one back."""
    if request.method == "POST" and not may_set_prices(request):
        raise PermissionDenied
    if request.method == "POST" and "delete" in request.POST:
        return _delete(request)
    form = InvoiceForm(request.POST, request.FILES) if request.method == "POST" else InvoiceForm()
    if request.method == "POST" and form.is_valid():
        try:
            done = _import(request, form)
        except InvoiceUnreadable as error:
            form.add_error("file", _("The invoice cannot be read: %s.") % error)
        else:
            _tell(request, done)
            return HttpResponseRedirect(_link_comparison(done.invoice))
    rows = InvoiceImport.objects.order_by("-id")
    if before := request.GET.get("before", "").replace("\0", "")[:MAX_ID]:
        rows = rows.filter(id__lt=before)
    found = list(rows[: ROWS + 1])
    deleting = _find(request.GET.get("delete", ""))
    context = {
        **site.each_context(request),
        "title": _("Invoices"),
        "form": form,
        "rows": [_describe(row) for row in found[:ROWS]],
        "older": f"?{urlencode({'before': found[ROWS - 1].id})}" if len(found) > ROWS else "",
        "deleting": deleting,
        "deleting_days": _name_days(deleting) if deleting is not None else "",
        "may_set": may_set_prices(request),
    }
    return TemplateResponse(request, "console/invoices.html", context)


def _import(request: HttpRequest, form: InvoiceForm) -> Imported:
    """Raises InvoiceUnreadable."""
    data = form.cleaned_data
    return import_invoice(
        io.BytesIO(data["file"].read()),
        SOURCES[data["provider"]],
        account=data["account"],
        file_name=data["file"].name,
        actor=request.user.get_username(),
    )


def _tell(request: HttpRequest, done: Imported) -> None:
    values = {
        "lines": f"{done.invoice.lines:,}",
        "records": f"{done.invoice.records:,}",
        "days": _name_days(done.invoice),
    }
    messages.success(request, _("Imported %(days)s: %(lines)s sums of %(records)s records.") % values)
    if done.replaced:
        messages.info(request, _("They replace %s sums of earlier imports of these days.") % f"{done.replaced:,}")


def _delete(request: HttpRequest) -> HttpResponse:
    row = _find(request.POST["delete"])
    if row is None:
        messages.warning(request, _("There is no such import any more."))
    else:
        delete_invoice(row)
        messages.success(request, _("The import is taken back, with its sums."))
    return HttpResponseRedirect(reverse("admin:invoices"))


def _find(import_id: str) -> InvoiceImport | None:
    is_id = 0 < len(import_id) <= MAX_ID and "\0" not in import_id
    return InvoiceImport.objects.filter(id=import_id).first() if is_id else None


def _describe(row: InvoiceImport) -> ImportText:
    is_whole = row.ended_at is not None
    return ImportText(
        two_lines(timestamp(row.created_at), _shorten(row.actor)),
        SOURCES[row.source].title if row.source in SOURCES else row.source,
        _shorten(row.account),
        _shorten(row.file_name),
        _name_days(row),
        f"{row.records:,}",
        f"{row.lines:,}",
        badge("success", _("complete"))
        if is_whole
        else badge("warning", _("interrupted"), _("Import the file again.")),
        _link_comparison(row),
        f"?{urlencode({'delete': row.id})}",
    )


def _name_days(row: InvoiceImport) -> str:
    return str(row.first_day) if row.first_day == row.last_day else f"{row.first_day} – {row.last_day}"


def _link_comparison(row: InvoiceImport) -> str:
    """The days of the import; the last ones where it has more than a report may span."""
    start = max(row.first_day, row.last_day - timedelta(days=MAX_DAYS - 1))
    days = {"start_date": start.isoformat(), "end_date": row.last_day.isoformat(), "provider": row.source}
    return f"{reverse('admin:reconciliation')}?{urlencode(days)}"


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN_NAME else f"{text[: SHOWN_NAME - 1]}…"
