"""Screens of the deployments. Credentials go in and never come out."""

import json
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import models
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from billing.amounts import per_million, per_token, price_label
from billing.models import Price
from gateway.deployments import DeploymentInvalid, delete_deployment, save_deployment
from gateway.models import Deployment
from gateway.protocol.errors import Fault
from gateway.providers.registry import PROVIDERS
from gateway.rest.upstream_models import list_upstream_models
from tenants.admin.console import (
    ConsoleAdmin,
    JSONObjectField,
    ServiceForm,
    badge,
    clipped_text,
    muted_text,
    number,
    two_lines,
)

#: The form's price fields → (line of the price, label, help).
PRICE_FIELDS = {
    "price_input": ("input", _("Input"), ""),
    "price_output": ("output", _("Output"), ""),
    "price_cache_read": (
        "cache_read",
        _("Cache read"),
        _("Input tokens that the upstream served from its cache."),
    ),
    "price_cache_write": (
        "cache_write_5m",
        _("Cache write"),
        _("Input tokens written to a cache for 5 minutes."),
    ),
}
MASKED = "••••"
MOST_ASKED = 5
MOST_NAMED = 200


def price_field(label: Any, help_text: Any) -> forms.DecimalField:
    return forms.DecimalField(
        label=label,
        help_text=help_text,
        required=False,
        min_value=Decimal(0),
        max_value=Decimal(1_000_000),
        max_digits=19,
        decimal_places=12,
        widget=UnfoldAdminTextInputWidget(
            attrs={
                "class": "tg-price",
                "inputmode": "decimal",
                "autocomplete": "off",
                "placeholder": _("unknown"),
                "prefix": "$",
                "suffix": _("per 1M tokens"),
            }
        ),
    )


class DeploymentForm(ServiceForm):
    provider = forms.ChoiceField(label=_("Provider"))
    api_key = forms.CharField(
        label=_("API key"),
        required=False,
        strip=True,
        max_length=8192,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password", "spellcheck": "false"}),
    )
    clear_api_key = forms.BooleanField(
        label=_("Remove the stored API key"), required=False, widget=UnfoldBooleanWidget()
    )
    price_input = price_field(*PRICE_FIELDS["price_input"][1:])
    price_output = price_field(*PRICE_FIELDS["price_output"][1:])
    price_cache_read = price_field(*PRICE_FIELDS["price_cache_read"][1:])
    price_cache_write = price_field(*PRICE_FIELDS["price_cache_write"][1:])
    parameters = JSONObjectField(
        label=_("Parameters"),
        help_text=_('Fields put into each upstream request body, such as {"temperature": 0.2}.'),
    )

    class Meta:
        model = Deployment
        fields = [
            "model_group",
            "provider",
            "upstream_model",
            "api_base",
            "organization",
            "weight",
            "order",
            "timeout_s",
            "stream_timeout_s",
            "parameters",
            "enabled",
        ]
        labels = {"timeout_s": _("Timeout"), "stream_timeout_s": _("Stream timeout")}
        help_texts = {
            "model_group": _("The public name: what clients ask for as their model."),
            "upstream_model": _("The model's name at the upstream."),
            "api_base": _("The upstream's address, version included. Empty: the provider's usual one."),
            "enabled": _("Takes calls."),
            "timeout_s": _("Seconds to the whole answer; empty: the gateway's setting."),
            "stream_timeout_s": _("Seconds to the first byte of a stream; empty: as the time-out above."),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "provider" in self.fields:
            self._offer_providers(self.fields["provider"])
        if "organization" in self.fields:
            organization = self.fields["organization"]
            assert isinstance(organization, forms.ModelChoiceField)
            organization.empty_label = _("Shared by all organizations")
        if "api_key" in self.fields:
            stored = bool(self.instance.credential)
            key = self.fields["api_key"]
            key.widget.attrs["placeholder"] = f"{MASKED} {_('set')}" if stored else ""
            key.help_text = (
                _("Stored encrypted and never shown again. Leave empty to keep it.")
                if stored
                else _("Stored encrypted and never shown again.")
            )
        for name, (line, _label, _help) in PRICE_FIELDS.items():
            stored_price = self._price_lines().get(line)
            if stored_price is not None:
                self.initial[name] = per_million(stored_price)

    def _offer_providers(self, field: forms.Field) -> None:
        assert isinstance(field, forms.ChoiceField)
        known = sorted(PROVIDERS.values(), key=lambda provider: provider.title.lower())
        field.choices = [
            ("", _("Select a provider")),
            *((one.name, f"{one.title} ({one.name})") for one in known),
        ]
        field.widget = UnfoldAdminSelectWidget(
            attrs={
                "data-providers": json.dumps(
                    {
                        one.name: {
                            "base": one.default_api_base,
                            "needsBase": one.needs_api_base,
                            "needsKey": one.needs_api_key,
                        }
                        for one in known
                    }
                )
            },
            choices=field.choices,
        )

    def _price_lines(self) -> dict[str, str]:
        if not self.instance.price_id:
            return {}
        price = Price.objects.filter(id=self.instance.price_id).first()
        return dict(price.lines) if price else {}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if cleaned.get("api_key") and cleaned.get("clear_api_key"):
            self.add_error("clear_api_key", _("Either give a new key or remove the stored one."))
        provider = PROVIDERS.get(cleaned.get("provider", ""))
        keeps_one = bool(self.instance.credential) and not cleaned.get("clear_api_key")
        if provider is not None and provider.needs_api_key and not cleaned.get("api_key") and not keeps_one:
            self.add_error("api_key", _("%s needs an API key.") % provider.title)
        return cleaned

    def credential(self) -> dict[str, str] | None:
        """As `save_deployment` takes it: None keeps the stored one, {} removes it."""
        if self.cleaned_data.get("api_key"):
            return {"api_key": self.cleaned_data["api_key"]}
        return {} if self.cleaned_data.get("clear_api_key") else None

    def price_lines(self) -> dict[str, object] | None:
        """None where no price was touched; else the whole price, lines that have no field here included."""
        if not set(PRICE_FIELDS) & set(self.changed_data):
            return None
        mine = {line for line, _label, _help in PRICE_FIELDS.values()}
        lines: dict[str, object] = {k: v for k, v in self._price_lines().items() if k not in mine}
        for name, (line, _label, _help) in PRICE_FIELDS.items():
            amount = self.cleaned_data[name]
            if amount is not None:
                lines[line] = per_token(amount)
        return lines


@admin.register(Deployment)
class DeploymentAdmin(ConsoleAdmin):
    form = DeploymentForm
    refusals = (DeploymentInvalid,)
    refusal_fields = {
        "model": "upstream_model",
        **{line: name for name, (line, _l, _h) in PRICE_FIELDS.items()},
    }
    list_display = ["group", "upstream", "shared_with", "weight_shown", "price", "origin", "state"]
    list_select_related = ["organization"]
    list_filter = ["enabled", ("source", ChoicesDropdownFilter)]
    search_fields = ["model_group", "upstream_model", "provider", "api_base"]
    search_help_text = _("Search by model group, model or provider")
    actions = ["enable", "disable", "list_models"]
    change_form_outer_before_template = "console/deployment_note.html"

    class Media:
        js = [forms.Script("console/deployment.js", type="module")]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Deployment]:
        lines = Price.objects.filter(id=models.OuterRef("price_id")).values("lines")[:1]
        rows: models.QuerySet[Deployment] = super().get_queryset(request)
        return rows.annotate(price_lines=models.Subquery(lines))

    # List

    @display(description=_("model group"), ordering="model_group")
    def group(self, deployment: Deployment) -> SafeString:
        return clipped_text(deployment.model_group)

    @display(description=_("provider → upstream model"), ordering="provider")
    def upstream(self, deployment: Deployment) -> SafeString:
        provider = PROVIDERS.get(deployment.provider)
        return two_lines(provider.title if provider else deployment.provider, f"→ {deployment.upstream_model}")

    @display(description=_("organization"), ordering="organization__name")
    def shared_with(self, deployment: Deployment) -> SafeString:
        return clipped_text(deployment.organization, none=_("shared"))

    @display(description=_("weight"), ordering="weight")
    def weight_shown(self, deployment: Deployment) -> SafeString:
        order = muted_text(f" · {_('order')} {deployment.order}") if deployment.order else ""
        return format_html("{}{}", number(f"{deployment.weight:g}"), order)

    @display(description=_("price per 1M tokens"))
    def price(self, deployment: Deployment) -> SafeString:
        """Free and unpriced are different things."""
        lines = deployment.price_lines  # type: ignore[attr-defined]  # annotated
        if not lines:
            return badge("warning", _("unpriced"), _("Calls are answered, but their cost stays unknown."))
        if not any(Decimal(unit) for unit in lines.values()):
            return badge("neutral", _("free"))
        shown = [(lines.get("input"), _("in")), (lines.get("output"), _("out"))]
        return number(" · ".join(f"{price_label(unit) if unit is not None else '?'} {word}" for unit, word in shown))

    @display(description=_("source"), ordering="source")
    def origin(self, deployment: Deployment) -> SafeString:
        match deployment.source:
            case Deployment.Source.CONFIG:
                return badge("info", "config.yaml", deployment.get_source_display())
            case Deployment.Source.BUILTIN:
                return badge("neutral", _("built in"))
        return badge("neutral", _("console"))

    @display(description=_("state"), ordering="enabled")
    def state(self, deployment: Deployment) -> SafeString:
        return badge("success", _("enabled")) if deployment.enabled else badge("neutral", _("disabled"))

    # Form

    def get_fieldsets(self, request: HttpRequest, obj: Deployment | None = None) -> Any:
        key = ["api_key", "clear_api_key"] if obj is not None and obj.credential else ["api_key"]
        to, price = "organization", list(PRICE_FIELDS)
        about: object = _("USD per million tokens. 0 is free; an empty price is unknown, and its calls stay unpriced.")
        if obj is not None and not self.has_change_permission(request, obj):
            key, to, price, about = ["api_key_shown"], "shared_with", ["price"], ""
        return [
            (_("What is offered"), {"fields": ["model_group", to, "enabled"]}),
            (_("Where it comes from"), {"fields": ["provider", "upstream_model", "api_base", *key]}),
            (_("Price"), {"fields": price, "description": about}),
            (_("Routing"), {"fields": ["weight", "order", "timeout_s", "stream_timeout_s"]}),
            (_("More"), {"fields": ["parameters"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Deployment | None = None) -> Any:
        return ["api_key_shown", "price", "shared_with"]

    @display(description=_("API key"))
    def api_key_shown(self, deployment: Deployment) -> object:
        return f"{MASKED} {_('set')}" if deployment.credential else _("none")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name in ("weight", "order", "timeout_s", "stream_timeout_s"):
            field.widget.attrs["class"] += " tg-short"
            field.widget.attrs["step"] = "1" if db_field.name == "order" else "any"
        return field

    def has_change_permission(self, request: HttpRequest, obj: Deployment | None = None) -> bool:
        own = obj is None or obj.source == Deployment.Source.CONSOLE
        return own and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Deployment | None = None) -> bool:
        own = obj is None or obj.source == Deployment.Source.CONSOLE
        return own and super().has_delete_permission(request, obj)

    def read_refusal(self, refusal: Any) -> tuple[str, str]:
        return refusal.field, refusal.message

    def save_model(self, request: HttpRequest, obj: Deployment, form: Any, change: bool) -> None:
        save_deployment(obj, credential=form.credential(), price_lines=form.price_lines())

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Deployment]) -> None:
        for deployment in queryset:
            delete_deployment(deployment)

    @action(description=_("Enable the selected deployments"))
    def enable(self, request: HttpRequest, queryset: models.QuerySet[Deployment]) -> None:
        self._switch(request, queryset, enabled=True)

    @action(description=_("Disable the selected deployments"))
    def disable(self, request: HttpRequest, queryset: models.QuerySet[Deployment]) -> None:
        self._switch(request, queryset, enabled=False)

    @action(description=_("List the upstream's models"))
    def list_models(self, request: HttpRequest, queryset: models.QuerySet[Deployment]) -> None:
        """One message for each deployment. Asked one after the other, so of a few only."""
        if len(queryset) > MOST_ASKED:
            self.message_user(request, _("Select at most %d deployments.") % MOST_ASKED, messages.WARNING)
            return
        for deployment in queryset:
            try:
                found = list_upstream_models(deployment)
            except Fault as fault:
                self.message_user(request, f"{deployment}: {fault.message}", messages.ERROR)
                continue
            rest = len(found) - MOST_NAMED
            shown = ", ".join(found[:MOST_NAMED]) + (f" … (+{rest})" if rest > 0 else "")
            self.message_user(request, f"{deployment}: {shown or _('no models')}", messages.INFO)

    def _switch(self, request: HttpRequest, queryset: models.QuerySet[Deployment], *, enabled: bool) -> None:
        mine = [row for row in queryset if row.source != Deployment.Source.CONFIG]
        for deployment in mine:
            deployment.enabled = enabled
            save_deployment(deployment)
        left = len(queryset) - len(mine)
        if mine:
            text = _("%d enabled.") if enabled else _("%d disabled.")
            self.message_user(request, text % len(mine), messages.SUCCESS)
        if left:
            text = _("%d left as they are: managed by config.yaml.")
            self.message_user(request, text % left, messages.WARNING)
