"""The page of names: under which model a name of an invoice, or of an upstream model, is compared."""

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing.models import InvoiceName
from billing.reconciliation.imports import forget_name, name_model
from billing.reconciliation.lines import MAX_NAME
from billing.reconciliation.sources import SOURCES
from gateway.console.set_price import may_set_prices

ROWS = 50  # of a page
MAX_PAGES = 1000


class NameForm(forms.Form):
    provider = forms.ChoiceField(
        label=_("Provider"),
        choices=[(source.name, source.title) for source in SOURCES.values()],
        widget=UnfoldAdminSelectWidget(),
    )
    name = forms.CharField(
        label=_("Name"),
        help_text=_("Exactly as the invoice, or the deployment's upstream model, has it."),
        max_length=MAX_NAME,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    model = forms.CharField(
        label=_("Is compared as"),
        max_length=MAX_NAME,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )


def show_names(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The names; POST adds or changes one, or with `forget` ends one."""
    if request.method == "POST" and not may_set_prices(request):
        raise PermissionDenied
    if request.method == "POST" and "forget" in request.POST:
        return _forget(request)
    form = NameForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        name_model(SOURCES[data["provider"]], name=data["name"], model=data["model"])
        messages.success(request, _("From now on the name is compared as this model, on past days too."))
        return HttpResponseRedirect(reverse("admin:invoice_names"))
    page = _read_page(request.GET.get("page", ""))
    rows = list(InvoiceName.objects.all()[(page - 1) * ROWS : page * ROWS + 1])
    context = {
        **site.each_context(request),
        "title": _("Names in invoices"),
        "form": form,
        "rows": rows[:ROWS],
        "previous_page": f"?page={page - 1}" if page > 1 else "",
        "next_page": f"?page={page + 1}" if rows[ROWS:] and page < MAX_PAGES else "",
        "may_set": may_set_prices(request),
    }
    return TemplateResponse(request, "console/invoice_names.html", context)


def _read_page(text: str) -> int:
    return min(max(int(text), 1), MAX_PAGES) if text.isascii() and text.isdigit() and len(text) < 10 else 1


def _forget(request: HttpRequest) -> HttpResponse:
    text = request.POST["forget"]
    is_id = text.isascii() and text.isdigit() and len(text) < 19
    row = InvoiceName.objects.filter(pk=int(text)).first() if is_id else None
    if row is not None and row.source in SOURCES and forget_name(SOURCES[row.source], row.name):
        messages.success(request, _("The name stands for itself again."))
    else:
        messages.warning(request, _("There is no such name any more."))
    return HttpResponseRedirect(reverse("admin:invoice_names"))
