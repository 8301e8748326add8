"""The form fields of the parameters and credentials that only some providers read, by each provider's contract."""

from django import forms
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from gateway.protocol.json.types import Json, JsonMapping
from gateway.protocol.provider import Provider
from gateway.providers.registry import PROVIDERS

PARAMETER_PREFIX, SECRET_PREFIX = "own_", "secret_"
WHOLE_NUMBERS = frozenset({"num_ctx", "keep_alive"})
CAPITALS = {"aws": "AWS", "api": "API", "ad": "AD", "ai": "AI", "id": "ID", "uris": "URIs"}
MARK = {"data-provider-field": "", "autocomplete": "off", "spellcheck": "false"}


def make_provider_fields() -> dict[str, forms.Field]:
    """A field for each name that at least one provider reads. The page shows those of the chosen provider."""
    parameters = {name for provider in PROVIDERS.values() for name in provider.own_parameters}
    secrets = {name for provider in PROVIDERS.values() for name in provider.own_secrets}
    fields: dict[str, forms.Field] = {
        PARAMETER_PREFIX + name: forms.CharField(
            label=label_of(name), required=False, max_length=1024, widget=UnfoldAdminTextInputWidget(attrs=MARK)
        )
        for name in sorted(parameters)
    }
    for name in sorted(secrets):
        fields[SECRET_PREFIX + name] = forms.CharField(
            label=label_of(name),
            help_text=_("Stored encrypted and never shown again. Leave empty to keep it."),
            required=False,
            max_length=16384,
            widget=UnfoldAdminPasswordWidget(attrs={**MARK, "autocomplete": "new-password"}),
        )
    return fields


def field_names(provider: Provider) -> list[str]:
    names = [PARAMETER_PREFIX + name for name in sorted(provider.own_parameters)]
    return names + [SECRET_PREFIX + name for name in sorted(provider.own_secrets)]


def label_of(name: str) -> str:
    words = [CAPITALS.get(word, word) for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def render_value(value: Json) -> str:
    """The value as a person types it: a list of names with commas between."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def read_value(name: str, text: str, stored: JsonMapping) -> Json:
    """The stored value where its text is unchanged, so that it keeps its type."""
    if name in stored and render_value(stored[name]) == text:
        return stored[name]
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if name in WHOLE_NUMBERS and text.lstrip("-").isdecimal():
        return int(text)
    return text
