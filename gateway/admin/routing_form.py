"""The form of the routing settings: one field for each setting, and one for each class of error in its policies."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldBooleanWidget

from gateway.admin.routing_fields import (
    LinesField,
    NumberField,
    pick_numbers,
    read_after,
    read_alias,
    read_names,
    read_numbers,
    write_after,
    write_alias,
    write_names,
    write_numbers,
)
from gateway.models import RouterSettings
from gateway.protocol.json.types import Json, JsonObject
from gateway.routing.registry import STRATEGIES
from gateway.routing.setting_list import SETTINGS, Kind
from gateway.stores.router_settings import SettingsInvalid, check_settings
from tenants.admin.console import Context, Fieldsets, NamesField, ServiceForm

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

LABELS: dict[str, "StrOrPromise"] = {
    "routing_strategy": _("Strategy"),
    "model_group_routing_strategy": _("Strategies of model groups"),
    "fallbacks": _("Fallbacks"),
    "default_fallbacks": _("Default fallbacks"),
    "context_window_fallbacks": _("For requests that are too long"),
    "content_policy_fallbacks": _("For refused content"),
    "max_fallbacks": _("Most fallbacks"),
    "num_retries": _("Retries"),
    "model_group_retry_policy": _("Retries of model groups"),
    "cooldown_time": _("Cooldown"),
    "allowed_fails": _("Allowed failures"),
    "disable_cooldowns": _("No cooldowns"),
    "connect_timeout": _("Connect timeout"),
    "timeout": _("Timeout"),
    "stream_timeout": _("First event timeout"),
    "stream_idle_timeout": _("Idle timeout"),
    "max_stream_duration": _("Stream duration"),
    "model_group_timeouts": _("Time limits of model groups"),
    "hedging": _("Hedging"),
    "recover": _("Broken streams"),
    "model_group_alias": _("Aliases"),
    "enable_tag_filtering": _("Filter by tags"),
    "tag_filtering_match_any": _("One tag is enough"),
}
FALLBACK_EXAMPLE = "gpt-4o -> claude-sonnet, gemini-pro"
EXAMPLES = {
    "model_group_routing_strategy": "gpt-4o -> least-busy",
    "model_group_retry_policy": "gpt-4o -> TimeoutErrorRetries = 0, RateLimitErrorRetries = 3",
    "model_group_timeouts": "gpt-4o -> timeout = 60, stream_timeout = 5",
    "hedging": "gpt-4o -> p95",
    "recover": "claude -> continue",
    "model_group_alias": "fast -> gpt-4o-mini\ninternal -> gpt-4o (hidden)",
}
#: Class of error, by LiteLLM's name → its label.
CLASS_LABELS: dict[str, "StrOrPromise"] = {
    "TimeoutError": _("Timeout"),
    "RateLimitError": _("Rate limit"),
    "InternalServerError": _("Server error"),
    "BadGatewayError": _("No connection"),
    "ServiceUnavailableError": _("Overloaded"),
    "AuthenticationError": _("Credential refused"),
    "NotFoundError": _("Unknown model"),
    "BadRequestError": _("Bad request"),
    "ContentPolicyViolationError": _("Content policy"),
}
RETRY_NAMES = [*(f"{name}Retries" for name in CLASS_LABELS), "DefaultRetries"]
FAIL_NAMES = [f"{name}AllowedFails" for name in CLASS_LABELS]
ARGUMENT_NAMES = ["lowest_latency_buffer", "ttl"]
#: Setting of several numbers → (prefix of their fields, their names).
GROUPS = {
    "retry_policy": ("retry_", RETRY_NAMES),
    "allowed_fails_policy": ("fail_", FAIL_NAMES),
    "routing_strategy_args": ("argument_", ARGUMENT_NAMES),
}


def make_field(name: str) -> forms.Field:
    setting = SETTINGS[name]
    shown: dict[str, Any] = {"label": LABELS[name], "help_text": setting.text}
    match setting.kind:
        case Kind.STRATEGY:
            names = sorted({strategy.name for strategy in STRATEGIES.values()})
            choices = [("", _("Default: %s") % setting.default), *((each, each) for each in names)]
            return forms.ChoiceField(choices=choices, required=False, widget=UnfoldAdminSelectWidget(), **shown)
        case Kind.COUNT:
            return NumberField(default=setting.default, **shown)
        case Kind.SECONDS:
            return NumberField(default=setting.default, unit="s", **shown)
        case Kind.FLAG:
            return forms.BooleanField(required=False, widget=UnfoldBooleanWidget(), **shown)
        case Kind.NAMES:
            return NamesField(**shown)
        case Kind.FALLBACKS:
            return LinesField(example=FALLBACK_EXAMPLE, read=read_names, write=write_names, **shown)
        case Kind.STRATEGIES | Kind.GROUP_CHOICES:
            return LinesField(example=EXAMPLES[name], read=str, write=str, **shown)
        case Kind.GROUP_RULES:
            return LinesField(example=EXAMPLES[name], read=read_after, write=write_after, **shown)
        case Kind.ALIASES:
            return LinesField(example=EXAMPLES[name], read=read_alias, write=write_alias, **shown)
    return LinesField(example=EXAMPLES[name], read=read_numbers, write=write_numbers, **shown)


class RoutingForm(ServiceForm):
    class Meta:
        model = RouterSettings
        fields: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        values = self.instance.values
        for name in LABELS:
            is_flag = SETTINGS[name].kind is Kind.FLAG
            self.initial[name] = values.get(name, SETTINGS[name].default if is_flag else None)
        for name, (prefix, members) in GROUPS.items():
            for member in members:
                self.initial[prefix + member] = (values.get(name) or {}).get(member)
        strategy = STRATEGIES.get(values.get("routing_strategy"))
        self.initial["routing_strategy"] = strategy.name if strategy is not None else ""

    def clean(self) -> Context:
        cleaned = super().clean()
        try:
            check_settings(self.settings())
        except SettingsInvalid as error:
            for name, message in error.problems:
                self.add_error(self._field_of(name, message), message[:1].upper() + message[1:])
        return cleaned

    def settings(self) -> JsonObject:
        """The settings in the form; those that are empty are left out."""
        cleaned = self.cleaned_data
        values: JsonObject = {name: cleaned.get(name) for name in LABELS}
        for name, (prefix, members) in GROUPS.items():
            values[name] = pick_numbers(cleaned, prefix, members)
        return {name: value for name, value in values.items() if not _is_empty(name, value)}

    def _field_of(self, name: str, message: str) -> str:
        """The field that shows a problem of a setting."""
        if name not in GROUPS:
            return name
        prefix, members = GROUPS[name]
        named = [prefix + member for member in members if f"'{member}'" in message]
        wrong = [prefix + member for member in members if not _is_count(self.cleaned_data.get(prefix + member))]
        return (named or wrong or [prefix + members[0]])[0]


def _is_empty(name: str, value: Json) -> bool:
    if SETTINGS[name].kind is Kind.FLAG:
        return value is SETTINGS[name].default
    return value is None or value == "" or value in ([], {})


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and 0 <= value <= 10)


FIELDS: dict[str, forms.Field] = {name: make_field(name) for name in LABELS}
for _name, _label in CLASS_LABELS.items():
    FIELDS[f"retry_{_name}Retries"] = NumberField(label=_label)
    FIELDS[f"fail_{_name}AllowedFails"] = NumberField(label=_label)
FIELDS["retry_DefaultRetries"] = NumberField(label=_("Any other"))
FIELDS["argument_lowest_latency_buffer"] = NumberField(
    label=_("Latency buffer"),
    help_text=_("Of latency-based-routing: the share above the best latency that still counts as equal."),
    default=0.1,
)
FIELDS["argument_ttl"] = NumberField(
    label=_("Age of latencies"),
    help_text=_("Of latency-based-routing: an older latency is unknown, and the deployment is asked again."),
    default=3600,
    unit="s",
)
RoutingForm.declared_fields |= FIELDS
RoutingForm.base_fields |= FIELDS


def in_rows(names: list[str]) -> list[tuple[str, ...]]:
    """Three fields a row."""
    return [tuple(names[start : start + 3]) for start in range(0, len(names), 3)]


FIELDSETS: Fieldsets = [
    (
        _("Choice of a deployment"),
        {
            "fields": [
                "routing_strategy",
                ("argument_lowest_latency_buffer", "argument_ttl"),
                "model_group_routing_strategy",
                ("enable_tag_filtering", "tag_filtering_match_any"),
            ]
        },
    ),
    (
        _("Fallbacks"),
        {
            "description": _("One line for each model group. A group that the key may not call is passed over."),
            "fields": [
                "fallbacks",
                "default_fallbacks",
                "context_window_fallbacks",
                "content_policy_fallbacks",
                "max_fallbacks",
            ],
        },
    ),
    (_("Retries"), {"fields": ["num_retries", "model_group_retry_policy"]}),
    (
        _("Retries by the class of the last error"),
        {
            "classes": ["collapse"],
            "description": _("Empty: the number of retries above."),
            "fields": in_rows([f"retry_{name}" for name in RETRY_NAMES]),
        },
    ),
    (_("Cooling down"), {"fields": ["cooldown_time", "allowed_fails", "disable_cooldowns"]}),
    (
        _("Allowed failures by class"),
        {
            "classes": ["collapse"],
            "description": _("Failures within a minute. Empty: the number above."),
            "fields": in_rows([f"fail_{name}" for name in FAIL_NAMES]),
        },
    ),
    (
        _("Time limits"),
        {
            "description": _("Of deployments that have none of their own. Empty: the gateway's setting."),
            "fields": [
                ("connect_timeout", "timeout", "stream_timeout"),
                ("stream_idle_timeout", "max_stream_duration"),
                "model_group_timeouts",
                "hedging",
                "recover",
            ],
        },
    ),
    (_("Names"), {"fields": ["model_group_alias"]}),
]
