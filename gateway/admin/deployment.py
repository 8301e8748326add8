"""Screens of the deployments. No screen shows a credential."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldBooleanWidget,
)

from billing.admin.price_fields import PRICE_FIELDS, make_price_field
from billing.amounts import per_million, per_token, price_label
from gateway.admin.ability_fields import LackingField, ModeField, change_abilities, lacking_of
from gateway.admin.deployment_test_page import show_test
from gateway.admin.provider_fields import (
    PARAMETER_PREFIX,
    SECRET_PREFIX,
    field_names,
    make_provider_fields,
    read_value,
    render_value,
)
from gateway.deployments import delete_deployment, keep_other_parts, save_deployment, sealed_names
from gateway.models import Deployment
from gateway.protocol.deployment_tags import TAGS
from gateway.protocol.errors import Fault
from gateway.protocol.json.types import JsonObject
from gateway.protocol.secret_fields import strip_user
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.providers.registry import PROVIDERS
from gateway.rest.upstream_models import list_upstream_models
from gateway.routing.breaker import DeploymentState, State
from gateway.routing.live_states import LIVE_STATES
from gateway.stores.deployment_health import read_health
from gateway.stores.deployment_prices import own_prices_in_force, prices_in_force
from tenants.admin.console import (
    ConsoleAdmin,
    Context,
    Fieldsets,
    JSONObjectField,
    ServiceForm,
    TextListField,
    badge,
    clipped_text,
    muted_text,
    number,
    two_lines,
)
from tenants.permissions import Area, Reach
from tenants.session_rights import caller_of, reach_of_user

#: The parameters that the form shows in fields of their own, as LiteLLM's file names them.
FLAG_FIELDS = frozenset({"hosted_tools", "cache_breakpoints", TAGS})
MASKED = "••••"
MAX_LISTINGS = 5
MAX_COOLING_MODELS = 10
MAX_MODEL_NAMES = 200


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
        label=_("Remove the stored credential"), required=False, widget=UnfoldBooleanWidget()
    )
    price_input = make_price_field(*PRICE_FIELDS["price_input"][1:])
    price_output = make_price_field(*PRICE_FIELDS["price_output"][1:])
    price_cache_read = make_price_field(*PRICE_FIELDS["price_cache_read"][1:])
    price_cache_write = make_price_field(*PRICE_FIELDS["price_cache_write"][1:])
    hosted_tools = forms.ChoiceField(
        label=_("Hosted tools"),
        help_text=_("Web search and other tools of the Responses API, where the upstream does not have them."),
        required=False,
        choices=[("", _("Refuse the request")), ("drop", _("Leave them out, and tell the client"))],
        widget=UnfoldAdminSelectWidget(),
    )
    mode = ModeField()
    lacking = LackingField()
    tags = TextListField(
        label=_("Tags"),
        help_text=_(
            "With tag filtering, the calls that come here. One per line; “default” is for calls without a tag."
        ),
    )
    cache_breakpoints = forms.BooleanField(
        label=_("Cache prompts"),
        help_text=_("Mark what Anthropic or Bedrock should cache, for clients that mark nothing themselves."),
        required=False,
        widget=UnfoldBooleanWidget(),
    )
    parameters = JSONObjectField(
        label=_("Parameters"),
        help_text=_('Fields to add to the body of each upstream request, such as {"temperature": 0.2}.'),
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
            *TIMEOUTS,
            "parameters",
            "enabled",
        ]
        labels = {
            "timeout_s": _("Timeout"),
            "stream_timeout_s": _("First event timeout"),
            "connect_timeout_s": _("Connect timeout"),
            "stream_idle_timeout_s": _("Idle timeout"),
            "max_stream_duration_s": _("Stream duration"),
        }
        help_texts = {
            "model_group": _("The public name, which clients send as their model. With a * it serves all that fit."),
            "upstream_model": _(
                "The name of the model at the upstream. A * is what that of the public name stands for."
            ),
            "api_base": _("The address of the upstream, with its version. Leave empty for the provider's usual one."),
            "enabled": _("Clear this to send no calls here."),
            "timeout_s": _("Seconds until the whole answer. Leave empty to use the gateway's setting."),
            "stream_timeout_s": _("Seconds until the first event of a stream. Leave empty to use the timeout above."),
            "connect_timeout_s": _(
                "Seconds until the upstream is connected. Leave empty to use the gateway's setting."
            ),
            "stream_idle_timeout_s": _("Seconds of silence within a stream. Leave empty to use the gateway's setting."),
            "max_stream_duration_s": _("Seconds until the end of a stream. Leave empty to use the gateway's setting."),
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
            has_credential = bool(self.instance.credential)
            key = self.fields["api_key"]
            key.widget.attrs["placeholder"] = f"{MASKED} {_('set')}" if has_credential else ""
            key.help_text = (
                _("Stored encrypted and never shown again. Leave empty to keep it.")
                if has_credential
                else _("Stored encrypted and never shown again.")
            )
        self.initial["api_base"] = strip_user(self.initial.get("api_base") or "")
        self._fill_provider_fields()
        self._fill_abilities()
        self._fill_prices()

    def _offer_providers(self, field: forms.Field) -> None:
        assert isinstance(field, forms.ChoiceField)
        providers = sorted(PROVIDERS.values(), key=lambda provider: provider.title.lower())
        field.choices = [
            ("", _("Select a provider")),
            *((provider.name, f"{provider.title} ({provider.name})") for provider in providers),
        ]
        field.widget = UnfoldAdminSelectWidget(
            attrs={
                "data-providers": json.dumps(
                    {
                        provider.name: {
                            "base": provider.default_api_base,
                            "needsBase": provider.needs_api_base,
                            "needsKey": provider.needs_api_key,
                            "fields": field_names(provider),
                        }
                        for provider in providers
                    }
                )
            },
            choices=field.choices,
        )

    def _fill_provider_fields(self) -> None:
        provider, parameters = PROVIDERS.get(self.instance.provider), self.instance.parameters
        if provider is None or not isinstance(parameters, dict):
            return
        for name in provider.own_parameters & parameters.keys():
            self.initial[PARAMETER_PREFIX + name] = render_value(parameters[name])
        for name in FLAG_FIELDS & parameters.keys():
            self.initial[name] = parameters[name]
        shown_apart = provider.own_parameters | FLAG_FIELDS
        self.initial["parameters"] = {k: v for k, v in parameters.items() if k not in shown_apart}
        for name in provider.own_secrets.intersection(sealed_names(self.instance)):
            if SECRET_PREFIX + name in self.fields:
                self.fields[SECRET_PREFIX + name].widget.attrs["placeholder"] = f"{MASKED} {_('set')}"

    def _fill_abilities(self) -> None:
        info, mode = self.instance.model_info, self.fields.get("mode")
        if isinstance(info, dict):
            self.initial["mode"] = info.get("mode")
            self.initial["lacking"] = lacking_of(info)
            if isinstance(mode, ModeField):
                mode.offer(info.get("mode"))

    def _fill_prices(self) -> None:
        """A field is changed where it differs from what the page has shown, which it sends along: meanwhile another
        version may have begun, and the page of before must not end it."""
        stored_lines = self._price_lines()
        for name, (line, _label, _help) in PRICE_FIELDS.items():
            if line in stored_lines:
                self.initial[name] = per_million(stored_lines[line])
            if name in self.fields:
                has_shown = self.add_initial_prefix(name) in self.data
                self.fields[name].show_hidden_initial = has_shown or not self.is_bound

    def model_info(self) -> JsonObject:
        info = self.instance.model_info if isinstance(self.instance.model_info, dict) else {}
        return change_abilities(info, self.cleaned_data["mode"], self.cleaned_data["lacking"])

    def _price_lines(self) -> dict[str, str]:
        price = own_prices_in_force([self.instance]).get(self.instance.id)
        return dict(price.lines) if price else {}

    def clean(self) -> Context:
        super().clean()
        cleaned = self.cleaned_data
        if cleaned.get("api_key") and cleaned.get("clear_api_key"):
            self.add_error("clear_api_key", _("Enter a new key or remove the stored one, not both."))
        provider = PROVIDERS.get(cleaned.get("provider", ""))
        if provider is not None and "parameters" in cleaned:
            stored = self.instance.parameters if isinstance(self.instance.parameters, dict) else {}
            texts = {name: cleaned.get(PARAMETER_PREFIX + name) for name in provider.own_parameters}
            own = {name: read_value(name, text, stored) for name, text in texts.items() if text}
            own |= {name: cleaned[name] for name in sorted(FLAG_FIELDS) if cleaned.get(name)}
            cleaned["parameters"] = cleaned["parameters"] | own
        keeps_key = bool(self.instance.credential) and not cleaned.get("clear_api_key")
        if provider is not None and provider.needs_api_key and not cleaned.get("api_key") and not keeps_key:
            self.add_error("api_key", _("%s needs an API key.") % provider.title)
        return cleaned

    def credential(self) -> dict[str, str | None] | dict[str, str] | None:
        """The credential for `save_deployment`: None keeps the stored one, {} removes it."""
        provider = PROVIDERS[self.cleaned_data["provider"]]
        texts = {name: self.cleaned_data.get(SECRET_PREFIX + name) for name in provider.own_secrets}
        texts["api_key"] = self.cleaned_data.get("api_key")
        entered = {name: text for name, text in texts.items() if text}
        if self.cleaned_data.get("clear_api_key"):
            return entered
        return keep_other_parts(self.instance, entered) if entered else None

    def price_lines(self) -> dict[str, object] | None:
        """None if no price changed; else the whole price, with the lines that were not changed in this form."""
        changed = [name for name in PRICE_FIELDS if name in self.changed_data]
        if not changed:
            return None
        lines: dict[str, object] = dict(self._price_lines())
        for name in changed:
            line, amount = PRICE_FIELDS[name][0], self.cleaned_data[name]
            lines.pop(line, None)
            if amount is not None:
                lines[line] = per_token(amount)
        return lines


PROVIDER_FIELDS = make_provider_fields()
DeploymentForm.declared_fields |= PROVIDER_FIELDS
DeploymentForm.base_fields |= PROVIDER_FIELDS


def describe_state(state: DeploymentState) -> list[tuple[str, object, object]]:
    """(kind of badge, words, what they mean here) of all that keeps calls from a deployment."""
    described: list[tuple[str, object, object]] = []
    if state.refused_since_s is not None:
        since = {"since": _moment(state.refused_since_s)}
        described.append(("danger", _("credential refused"), _("The upstream has refused it since %(since)s.") % since))
    ejection = state.ejection
    if ejection is not None:
        facts = {"class": ejection.error_class.replace("_", " "), "until": _moment(ejection.until_s)}
        if state.state is State.OUT:
            text = _("It gets no calls until %(until)s, after errors of the class “%(class)s”.") % facts
            described.append(("warning", _("cooling down"), text))
        else:
            text = _("One call at a time tries it, after errors of the class “%(class)s”.") % facts
            described.append(("info", _("being tried"), text))
    if state.models:
        names = ", ".join(sorted(state.models)[:MAX_COOLING_MODELS])
        text = _("Some of its models get no calls, or one at a time: %(names)s.") % {"names": names}
        described.append(("warning", _("%d cooling down") % len(state.models), text))
    return described


def _moment(seconds: float) -> str:
    local = timezone.localtime(datetime.fromtimestamp(seconds, UTC))
    return f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"


@admin.register(Deployment)
class DeploymentAdmin(ConsoleAdmin):
    form = DeploymentForm
    refusal_fields = {
        "model": "upstream_model",
        **{line: name for name, (line, _l, _h) in PRICE_FIELDS.items()},
    }
    area = Area.SETTINGS
    list_display = ["group", "upstream", "shared_with", "weight_display", "price", "origin", "state"]
    list_select_related = ["organization"]
    list_filter = ["enabled", ("source", ChoicesDropdownFilter)]
    search_fields = ["model_group", "upstream_model", "provider", "api_base"]
    search_help_text = _("Search by model group, model or provider")
    actions = ["enable", "disable", "list_models"]
    actions_detail = ["test"]
    change_form_outer_before_template = "console/deployment_note.html"

    class Media:
        js = [forms.Script("console/deployment.js", type="module")]

    # List

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """With the prices of all deployments of the page, which are read at once."""
        changelist: ChangeList = super().get_changelist_instance(request)
        prices = prices_in_force(changelist.result_list)
        for row in changelist.result_list:
            row.price_lines = prices[row.id].lines if row.id in prices else {}
        return changelist

    @display(description=_("model group"), ordering="model_group")
    def group(self, deployment: Deployment) -> SafeString:
        return clipped_text(deployment.model_group)

    @display(description=_("provider → upstream model"), ordering="provider")
    def upstream(self, deployment: Deployment) -> SafeString:
        provider = PROVIDERS.get(deployment.provider)
        return two_lines(provider.title if provider else deployment.provider, f"→ {deployment.upstream_model}")

    @display(description=_("organization"), ordering="organization__name")
    def shared_with(self, deployment: Deployment) -> SafeString:
        return clipped_text(deployment.organization, default=_("shared"))

    @display(description=_("weight"), ordering="weight")
    def weight_display(self, deployment: Deployment) -> SafeString:
        order = muted_text(f" · {_('order')} {deployment.order}") if deployment.order else ""
        return format_html("{}{}", number(f"{deployment.weight:g}"), order)

    @display(description=_("price per 1M tokens"))
    def price(self, deployment: Deployment) -> SafeString:
        lines = vars(deployment).get("price_lines")  # the list adds them
        if lines is None and (price := prices_in_force([deployment]).get(deployment.id)) is not None:
            lines = price.lines
        if not lines:
            return badge("warning", _("unpriced"), _("Calls work, but their cost is unknown."))
        if not any(Decimal(unit) for unit in lines.values()):
            return badge("neutral", _("free"))
        columns = [(lines.get("input"), _("in")), (lines.get("output"), _("out"))]
        return number(" · ".join(f"{price_label(unit) if unit is not None else '?'} {word}" for unit, word in columns))

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
        if not deployment.enabled:
            return badge("neutral", _("disabled"))
        badges = [badge(*described) for described in describe_state(LIVE_STATES.find(deployment.pk))]
        badges = badges or [badge("success", _("enabled"))]
        return format_html('<span class="tg-badges">{}</span>', format_html_join("", "{}", ((one,) for one in badges)))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Context | None = None
    ) -> HttpResponse:
        described = describe_state(LIVE_STATES.find(unquote(object_id)))
        notes = [(kind, f"{text}. {more}") for kind, text, more in described]
        context = {
            "routing_notes": notes,
            "may_test": self.has_test_permission(request),
            "health": read_health([unquote(object_id)]).get(unquote(object_id)),
        }
        response: HttpResponse = super().change_view(request, object_id, form_url, context | (extra_context or {}))
        return response

    # Form

    def get_fieldsets(self, request: HttpRequest, obj: Deployment | None = None) -> Fieldsets:
        key = ["api_key", *PROVIDER_FIELDS, *(["clear_api_key"] if obj is not None and obj.credential else [])]
        organization, price = "organization", list(PRICE_FIELDS)
        flags, tags = sorted(FLAG_FIELDS - {TAGS}), [TAGS]
        abilities: Fieldsets = [(_("Abilities"), {"fields": ["mode", "lacking"]})]
        description: object = _("USD per million tokens. 0 is free. Leave a price empty if it is unknown.")
        if obj is not None and not self.has_change_permission(request, obj):
            key, organization, price, description = ["api_key_display"], "shared_with", ["price"], ""
            flags, tags, abilities = [], [], []
        return [
            (_("Model"), {"fields": ["model_group", organization, "enabled"]}),
            (_("Upstream"), {"fields": ["provider", "upstream_model", "api_base", *key]}),
            (_("Price"), {"fields": price, "description": description}),
            *abilities,
            (_("Routing"), {"fields": ["weight", "order", *tags]}),
            (_("Time limits"), {"fields": list(TIMEOUTS)}),
            (_("More"), {"fields": [*flags, "parameters"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Deployment | None = None) -> list[str]:
        return ["api_key_display", "price", "shared_with"]

    @display(description=_("API key"))
    def api_key_display(self, deployment: Deployment) -> object:
        return f"{MASKED} {_('set')}" if deployment.credential else _("none")

    def formfield_for_dbfield(
        self, db_field: "models.Field[object, object]", request: HttpRequest, **kwargs: object
    ) -> forms.Field | None:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and db_field.name in ("weight", "order", *TIMEOUTS):
            field.widget.attrs["class"] += " tg-short"
            field.widget.attrs["step"] = "1" if db_field.name == "order" else "any"
        return field

    def has_change_permission(self, request: HttpRequest, obj: Deployment | None = None) -> bool:
        is_editable = obj is None or obj.source == Deployment.Source.CONSOLE
        return is_editable and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Deployment | None = None) -> bool:
        is_editable = obj is None or obj.source == Deployment.Source.CONSOLE
        return is_editable and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Deployment, form: DeploymentForm, change: bool) -> None:
        obj.model_info = form.model_info()
        save_deployment(obj, credential=form.credential(), price_lines=form.price_lines())

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Deployment]) -> None:
        for deployment in queryset:
            delete_deployment(deployment)

    def has_test_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Also those of config.yaml, which no screen changes."""
        return reach_of_user(request, self.area, write=True) >= Reach.PLATFORM

    @action(description=_("Test"), url_path="test", permissions=["test"])
    def test(self, request: HttpRequest, object_id: str) -> HttpResponse:
        deployment, caller = self.get_object(request, unquote(object_id)), caller_of(request)
        if deployment is None or caller is None or not self.has_test_permission(request):
            redirect: HttpResponse = self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
            return redirect
        return show_test(self.admin_site, self.opts, request, deployment, caller)

    @action(description=_("Enable the selected deployments"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: models.QuerySet[Deployment]) -> None:
        self._switch(request, queryset, enabled=True)

    @action(description=_("Disable the selected deployments"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: models.QuerySet[Deployment]) -> None:
        self._switch(request, queryset, enabled=False)

    @action(description=_("List the upstream's models"), permissions=["change"])
    def list_models(self, request: HttpRequest, queryset: models.QuerySet[Deployment]) -> None:
        """One message per deployment. The upstreams are called in turn, so only a few deployments are allowed."""
        if len(queryset) > MAX_LISTINGS:
            self.message_user(request, _("Select at most %d deployments.") % MAX_LISTINGS, messages.WARNING)
            return
        for deployment in queryset:
            try:
                names = list_upstream_models(deployment)
            except Fault as fault:
                self.message_user(request, f"{deployment}: {fault.message}", messages.ERROR)
                continue
            rest = len(names) - MAX_MODEL_NAMES
            text = ", ".join(names[:MAX_MODEL_NAMES]) + (f" … (+{rest})" if rest > 0 else "")
            self.message_user(request, f"{deployment}: {text or _('no models')}", messages.INFO)

    def _switch(self, request: HttpRequest, queryset: models.QuerySet[Deployment], *, enabled: bool) -> None:
        editable = [row for row in queryset if row.source != Deployment.Source.CONFIG]
        for deployment in editable:
            deployment.enabled = enabled
            save_deployment(deployment)
        self.log_bulk_change(request, editable, _("Enabled.") if enabled else _("Disabled."))
        unchanged = len(queryset) - len(editable)
        if editable:
            text = _("%d enabled.") if enabled else _("%d disabled.")
            self.message_user(request, text % len(editable), messages.SUCCESS)
        if unchanged:
            text = _("%d not changed: managed by config.yaml.")
            self.message_user(request, text % unchanged, messages.WARNING)
