"""The page that sets a price with a date: the catalogue's of a model, or an organization's contract."""

from datetime import datetime
from decimal import Decimal
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing.admin.price_fields import PRICE_FIELDS
from billing.contracts import MAX_PERCENT, MIN_PERCENT, PERCENT_DECIMALS, set_lines, set_percent
from billing.price_terms import PriceInvalid
from billing.prices import set_catalogue_price
from gateway.console.set_price import PriceLinesForm
from gateway.providers.registry import PROVIDERS
from tenants.admin.console import Context, DateTimeLocalField
from tenants.models import Organization

SUGGESTED = 200  # organizations, in the list of the form
#: The argument of a refusal → the form's field.
FIELD_OF_PARAM = {
    "organization_id": "organization",
    "provider": "provider",
    "model": "model",
    "percent": "percent",
    "lines": "lines",
    "effective_from": "begin",
    **{line: name for name, (line, *_texts) in PRICE_FIELDS.items()},
}


class DatedPriceForm(PriceLinesForm):
    organization = forms.CharField(
        label=_("Organization"),
        help_text=_("Its id: the price is its contract. Empty: the price of the catalogue, for all."),
        required=False,
        max_length=255,
        widget=UnfoldAdminTextInputWidget(attrs={"list": "price-organizations", "autocomplete": "off"}),
    )
    provider = forms.ChoiceField(
        label=_("Provider"), choices=[(name, name) for name in sorted(PROVIDERS)], widget=UnfoldAdminSelectWidget()
    )
    model = forms.CharField(
        label=_("Model"),
        help_text=_("The exact name of the catalogue. Empty: a percentage of all models of the provider."),
        required=False,
        max_length=255,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    begin = DateTimeLocalField(label=_("In force from"))
    percent = forms.DecimalField(
        label=_("Percent"),
        help_text=_("More than the catalogue's price; a discount is negative."),
        required=False,
        min_value=Decimal(MIN_PERCENT),
        max_value=Decimal(MAX_PERCENT),
        max_digits=12,
        decimal_places=PERCENT_DECIMALS,
        widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal", "autocomplete": "off", "class": "tg-short"}),
    )

    def clean(self) -> Context:
        cleaned = super().clean()
        if self.errors:
            return cleaned
        if bool(cleaned["price_lines"]) == (cleaned["percent"] is not None):
            raise forms.ValidationError(_("Give prices, or a percentage. 0 is free."))
        if cleaned["percent"] is not None and not cleaned["organization"]:
            self.add_error("organization", _("A percentage is an organization's: name it."))
        return cleaned


def show_new_price(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The form; after a change the versions of the price, with the calls that it would change."""
    proposed = {name: request.GET.get(name, "")[:255] for name in ("organization", "provider", "model")}
    form = DatedPriceForm(request.POST or None, initial=proposed)
    if request.method == "POST" and form.is_valid():
        try:
            _apply(form.cleaned_data)
        except PriceInvalid as refusal:
            name = FIELD_OF_PARAM.get(refusal.param)
            form.add_error(name, f"{refusal.message[:1].upper()}{refusal.message[1:]}.")
        else:
            return _answer(request, form.cleaned_data)
    organizations = Organization.objects.order_by("id")
    context = {
        **site.each_context(request),
        "title": _("A price with a date"),
        "form": form,
        "zone": timezone.get_current_timezone_name(),
        "organizations": organizations.values_list("id", "name")[:SUGGESTED],
    }
    return TemplateResponse(request, "console/dated_price.html", context)


def _apply(cleaned: Context) -> None:
    """Raises PriceInvalid."""
    place = str(cleaned["provider"]), str(cleaned["model"])
    organization_id, percent, lines = str(cleaned["organization"]), cleaned["percent"], cleaned["price_lines"]
    begin = cleaned["begin"] if isinstance(cleaned["begin"], datetime) else None
    if isinstance(percent, Decimal):
        set_percent(organization_id, *place, percent, begin)
    elif isinstance(lines, dict) and organization_id:
        set_lines(organization_id, *place, lines, begin)
    elif isinstance(lines, dict):
        set_catalogue_price(*place, lines, begin)


def _answer(request: HttpRequest, cleaned: Context) -> HttpResponse:
    begin = cleaned["begin"]
    is_past = isinstance(begin, datetime) and begin <= timezone.now()
    text = _("The price is stored. Calls that have a cost keep it, unless you price them again.")
    messages.success(request, text)
    query = {"provider": str(cleaned["provider"]), "model": str(cleaned["model"])}
    if is_past and isinstance(begin, datetime):
        query["since"] = timezone.localtime(begin).strftime("%Y-%m-%dT%H:%M")
    page = "price_versions" if query["model"] else "contracts"
    return HttpResponseRedirect(f"{reverse(f'admin:{page}')}?{urlencode(query)}")
