"""Screens of the audit log: read-only, newest first."""

import json
from dataclasses import dataclass

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import DropdownFilter, RelatedDropdownFilter
from unfold.decorators import display

from gateway.protocol.json.types import Json
from tenants.admin.console import (
    ConsoleAdmin,
    Context,
    InfinitePaginator,
    ReadOnlyAdmin,
    badge,
    clipped_text,
    code,
    timestamp,
    two_lines,
)
from tenants.models import AuditEntry, Organization
from tenants.permissions import Area

ACTIONS = ["create", "update", "limits", "delete", "block", "unblock", "rotate", "credential", "read"]
OBJECT_TYPES = [
    "virtualkey",
    "key",
    "team",
    "member",
    "membership",
    "user",
    "enduser",
    "end_user",
    "budgettemplate",
    "template",
    "organization",
    "deployment",
    "masterkey",
    "storedresponse",
    "conversation",
]
KINDS = {"create": "success", "delete": "danger", "block": "danger", "unblock": "success", "rotate": "info"}


class ValueFilter(DropdownFilter):
    """Filters by the exact value of a column; offers its usual values."""

    values: list[str] = []

    def lookups(self, request: HttpRequest, model_admin: ConsoleAdmin) -> list[tuple[str, str]]:
        chosen = request.GET.get(self.parameter_name or "")
        return [(value, value) for value in dict.fromkeys([*self.values, *([chosen] if chosen else [])])]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[AuditEntry]) -> models.QuerySet[AuditEntry]:
        return queryset.filter(**{f"{self.parameter_name}": self.value()}) if self.value() else queryset


class ActionFilter(ValueFilter):
    title, parameter_name, values = _("action"), "action", ACTIONS


class ObjectFilter(ValueFilter):
    title, parameter_name, values = _("object"), "object_type", OBJECT_TYPES


@dataclass(frozen=True, slots=True)
class Change:
    """A field of the object before and after. Empty text: the object had no such field."""

    name: str
    before: str
    after: str
    is_changed: bool


def list_changes(entry: AuditEntry) -> list[Change]:
    """The changed fields first, then the others."""
    before, after = entry.before or {}, entry.after or {}
    names = sorted(before.keys() | after.keys(), key=lambda name: (before.get(name) == after.get(name), name))
    return [
        Change(name, _render(before, name), _render(after, name), before.get(name) != after.get(name)) for name in names
    ]


def _render(fields: dict[str, Json], name: str) -> str:
    if name not in fields:
        return ""
    value = fields[name]
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    detail_template = "console/audit_entry.html"
    area = Area.AUDIT
    list_display = ["time", "actor_display", "action_display", "object_display", "organization_display"]
    list_display_links = ["time"]
    list_filter = [ActionFilter, ObjectFilter, ("organization", RelatedDropdownFilter)]
    list_select_related = ["organization"]
    search_fields = ["actor__istartswith", "object_id__exact"]
    search_help_text = _("Search by actor or by the object's id")
    ordering = ["-id"]
    actions = None
    paginator = InfinitePaginator

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[AuditEntry]:
        rows: models.QuerySet[AuditEntry] = super().get_queryset(request)
        return rows.defer("before", "after")

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    @display(description=_("time"))
    def time(self, entry: AuditEntry) -> SafeString | str:
        return timestamp(entry.at)

    @display(description=_("actor"))
    def actor_display(self, entry: AuditEntry) -> SafeString:
        actor = clipped_text(entry.actor)
        return two_lines(actor, _("for %s") % entry.changed_by) if entry.changed_by else actor

    @display(description=_("action"))
    def action_display(self, entry: AuditEntry) -> SafeString:
        return render_action(entry)

    @display(description=_("object"))
    def object_display(self, entry: AuditEntry) -> SafeString:
        return two_lines(entry.object_type, code(entry.object_id))

    @display(description=_("organization"))
    def organization_display(self, entry: AuditEntry) -> SafeString:
        return clipped_text(find_organization(entry))

    def describe(self, entry: AuditEntry, request: HttpRequest) -> Context:
        return {
            "title": _("Audit entry"),
            "entry": entry,
            "action": render_action(entry),
            "at": timestamp(entry.at, is_complete=True),
            "organization": find_organization(entry),
            "changes": list_changes(entry),
        }


def render_action(entry: AuditEntry) -> SafeString:
    return badge(KINDS.get(entry.action, "neutral"), entry.action)


def find_organization(entry: AuditEntry) -> Organization | str | None:
    """The organization, or its id where it was deleted."""
    try:
        return entry.organization
    except Organization.DoesNotExist:
        return entry.organization_id
