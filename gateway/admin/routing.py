"""The page of the routing settings: a form for who may change them, a list of what counts for everyone else."""

import json
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from gateway.admin.routing_form import FIELDSETS, LABELS, RoutingForm
from gateway.models import RouterSettings
from gateway.routing.setting_list import SETTINGS
from gateway.stores.router_settings import (
    change_router_settings,
    find_unknown_groups,
    is_managed,
    load_router_settings,
)
from tenants.admin.console import ConsoleAdmin, Context, Fieldsets, code, muted_text
from tenants.permissions import Area, Reach


@admin.register(RouterSettings)
class RoutingAdmin(ConsoleAdmin):
    form = RoutingForm
    area = Area.SETTINGS
    least_reach = Reach.PLATFORM

    def changelist_view(self, request: HttpRequest, extra_context: Context | None = None) -> HttpResponse:
        """There is one set of settings: its page."""
        return HttpResponseRedirect(reverse("admin:gateway_routersettings_change", args=[1]))

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Context | None = None,
    ) -> HttpResponse:
        return super().changeform_view(request, object_id, form_url, {"title": _("Routing"), **(extra_context or {})})

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> RouterSettings | None:
        """The settings, also where none are stored yet."""
        return load_router_settings() if object_id == "1" else None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RouterSettings | None = None) -> bool:
        return (obj is None or not is_managed(obj)) and super().has_change_permission(request, obj)

    def get_fieldsets(self, request: HttpRequest, obj: RouterSettings | None = None) -> Fieldsets:
        if self.has_change_permission(request, obj):
            return FIELDSETS
        is_file = obj is not None and is_managed(obj)
        description = _("These settings are managed by config.yaml: change its router_settings.") if is_file else ""
        return [(None, {"description": description, "fields": ["summary"]})]

    def get_readonly_fields(self, request: HttpRequest, obj: RouterSettings | None = None) -> list[str]:
        return ["summary"]

    def get_fields(self, request: HttpRequest, obj: RouterSettings | None = None) -> list[str]:
        return []

    @display(description=_("settings"))
    def summary(self, row: RouterSettings) -> SafeString:
        """Each setting, with its default where it is not set."""
        rows = [(name, _render(row.values.get(name), setting.default)) for name, setting in SETTINGS.items()]
        lines = format_html_join("", "<div><dt><code>{}</code></dt><dd>{}</dd></div>", rows)
        return format_html('<dl class="tg-facts tg-settings">{}</dl>', lines)

    def save_model(self, request: HttpRequest, obj: RouterSettings, form: RoutingForm, change: bool) -> None:
        stored = change_router_settings(form.settings(), is_whole=True)
        for warning in find_unknown_groups(stored.values):
            label = LABELS.get(warning.param, warning.param)
            self.message_user(request, f"{label}: {warning.detail}.", messages.WARNING)


def _render(value: object, default: object) -> SafeString:
    if value is not None:
        return code(_text(value))
    return muted_text(_("not set") if default is None else _("%s, the default") % _text(default))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
