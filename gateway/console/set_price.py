"""The page that sets the price of a model group or of a deployment: its own lines, or the catalogue's of its model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminTextInputWidget, UnfoldBooleanWidget

from billing.admin.price_fields import PRICE_FIELDS, PriceLinesField, make_price_field
from billing.amounts import per_token
from gateway.console.price_cells import PriceText, describe_lines
from gateway.deployments import DeploymentInvalid, find_deployments, set_base_model, set_price
from gateway.models import Deployment
from gateway.stores.deployment_prices import own_prices_of, prices_in_force
from tenants.admin.console import Context, DateTimeLocalField
from tenants.invalid import ArgumentInvalid
from tenants.permissions import Area, Reach
from tenants.session_rights import reach_of_user, readable_rows

SUGGESTED = 200  # model groups, in the list of the form
SHOWN = 20  # deployments of the group
#: The argument of a refusal → the form's field.
FIELD_OF_PARAM = {
    "model": "model",
    "effective_from": "begin",
    **{line: name for name, (line, *_texts) in PRICE_FIELDS.items()},
}


class PriceLinesForm(forms.Form):
    """The fields of the lines of a price."""

    price_input = make_price_field(*PRICE_FIELDS["price_input"][1:])
    price_output = make_price_field(*PRICE_FIELDS["price_output"][1:])
    price_cache_read = make_price_field(*PRICE_FIELDS["price_cache_read"][1:])
    price_cache_write = make_price_field(*PRICE_FIELDS["price_cache_write"][1:])
    lines = PriceLinesField(
        label=_("Further lines"),
        help_text=_("KEY=USD per unit, one a line: by service tier, size of the input, time of day, request, …"),
    )

    amounts = tuple(PRICE_FIELDS)

    def clean(self) -> Context:
        """The fields, and `price_lines` where none of them has an error."""
        cleaned: Context = super().clean() or {}
        if not self.errors:
            cleaned["price_lines"] = self._join_lines(cleaned)
        return cleaned

    def _join_lines(self, cleaned: Mapping[str, object]) -> dict[str, str]:
        """The lines of the fields that have an amount, and the further ones."""
        lines = {
            line: per_token(amount)
            for name, (line, *_texts) in PRICE_FIELDS.items()
            if isinstance(amount := cleaned[name], Decimal)
        }
        further = cleaned["lines"]
        assert isinstance(further, dict)
        if both := sorted(lines.keys() & further.keys()):
            self.add_error("lines", _("%s has a field of its own.") % ", ".join(both))
        return {**lines, **further}


class SetPriceForm(PriceLinesForm):
    model = forms.CharField(
        label=_("Model group, or id of a deployment"),
        max_length=255,
        widget=UnfoldAdminTextInputWidget(attrs={"list": "price-models", "autocomplete": "off"}),
    )
    base_model = forms.CharField(
        label=_("The model that stands behind it"),
        help_text=_("Its name, or provider/name: azure/gpt-4o."),
        required=False,
        max_length=255,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    remove = forms.BooleanField(
        label=_("Remove the deployment's own price"), required=False, widget=UnfoldBooleanWidget()
    )
    begin = DateTimeLocalField(
        label=_("In force from"),
        help_text=_("Empty: at once, in the place of all prices of its own. A later instant may come, or has passed."),
    )

    def clean(self) -> Context:
        cleaned = super().clean()
        if self.errors:
            return cleaned
        price_lines = cleaned["price_lines"]
        if price_lines and (cleaned["base_model"] or cleaned["remove"]):
            raise forms.ValidationError(
                _("Give prices, or name a model of the catalogue: a price of its own would come first.")
            )
        if not price_lines and not cleaned["base_model"] and not cleaned["remove"]:
            raise forms.ValidationError(_("Give a price, or name a model of the catalogue. 0 is free."))
        if cleaned["begin"] and cleaned["base_model"]:
            self.add_error("begin", _("The model that stands behind it has no date: it counts at once."))
        return cleaned


@dataclass(frozen=True, slots=True)
class PricedDeployment:
    """A deployment and what its calls cost now. `price` None: they are unpriced. `later`: when its next own price
    begins."""

    id: str
    name: str
    model_group: str
    price: PriceText | None
    is_own: bool
    later: datetime | None = None


def may_set_prices(request: HttpRequest) -> bool:
    return reach_of_user(request, Area.SETTINGS, write=True) >= Reach.PLATFORM


def show_set_price(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The form for `model` of the address; after a change the page that prices its calls again."""
    proposed = {name: request.GET.get(name, "")[:255] for name in ("model", "base_model")}
    form = SetPriceForm(request.POST or None, initial=proposed)
    if request.method == "POST" and form.is_valid():
        try:
            rows = apply_price(form.cleaned_data)
        except ArgumentInvalid as refusal:
            name = FIELD_OF_PARAM.get(refusal.param)
            form.add_error(name, f"{refusal.message[:1].upper()}{refusal.message[1:]}.")
        else:
            return _answer(request, form.cleaned_data, rows)
    model = str(form["model"].value() or "")
    groups = readable_rows(request, Area.MODELS, Deployment.objects.all()).order_by("model_group")
    context = {
        **site.each_context(request),
        "title": _("Set a price"),
        "form": form,
        "deployments": describe_deployments(_find(model)),
        "groups": groups.values_list("model_group", flat=True).distinct()[:SUGGESTED],
    }
    return TemplateResponse(request, "console/set_price.html", context)


def apply_price(cleaned: Mapping[str, object]) -> list[Deployment]:
    """Raises DeploymentInvalid and PriceInvalid."""
    model, base_model = str(cleaned["model"]), str(cleaned["base_model"])
    lines, begin = cleaned["price_lines"], cleaned["begin"]
    with transaction.atomic():
        rows: list[Deployment] = []
        if isinstance(lines, dict) and (lines or cleaned["remove"]):
            rows = set_price(model, lines, begin if isinstance(begin, datetime) else None)
        if base_model:
            rows = set_base_model(model, base_model)
    return rows


def _answer(request: HttpRequest, cleaned: Mapping[str, object], rows: Sequence[Deployment]) -> HttpResponse:
    """The preview of pricing the calls again that the price concerns; of a later price its versions."""
    model, begin = str(cleaned["model"]), cleaned["begin"]
    if isinstance(begin, datetime) and begin > timezone.now():
        messages.success(request, _("The price is stored. Calls have it from its date on."))
        return HttpResponseRedirect(f"{reverse('admin:price_versions')}?{urlencode({'deployment': rows[0].id})}")
    _tell(request, rows)
    query = {"model": model, "rows": "unpriced"}
    if isinstance(begin, datetime):
        query |= {"rows": "since", "since": timezone.localtime(begin).strftime("%Y-%m-%dT%H:%M")}
    return HttpResponseRedirect(f"{reverse('admin:new_reprice_job')}?{urlencode(query)}")


def _tell(request: HttpRequest, rows: Sequence[Deployment]) -> None:
    """The price that calls have from now on, or a warning where there is none."""
    for one in describe_deployments(rows[:SHOWN]):
        if one.price is None:
            text = _("%(name)s has no price: its calls are unpriced.") % {"name": one.name}
            messages.warning(request, text)
        else:
            messages.success(request, f"{one.name}: {one.price.summary}")


def _find(model: str) -> list[Deployment]:
    try:
        return find_deployments(model)[:SHOWN] if model and "\0" not in model else []
    except DeploymentInvalid:
        return []


def describe_deployments(rows: Sequence[Deployment]) -> list[PricedDeployment]:
    now, prices, own = timezone.now(), prices_in_force(rows), own_prices_of(rows)
    return [
        PricedDeployment(
            row.id,
            f"{row.provider}/{row.upstream_model}",
            row.model_group,
            describe_lines(prices[row.id].lines) if row.id in prices else None,
            bool(own[row.id].find(now).price_id),
            own[row.id].find(now).changes_at,
        )
        for row in rows
    ]
