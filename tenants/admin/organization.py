"""Screens of the organizations."""

from typing import Any

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from tenants.admin.console import BlockableAdmin, ServiceForm, clipped_text, make_block_action
from tenants.models import Organization, Team, VirtualKey
from tenants.organizations import (
    OrganizationInvalid,
    create_organization,
    set_organizations_blocked,
    update_organization,
)


class OrganizationForm(ServiceForm):
    class Meta:
        model = Organization
        fields = ["name", "retention_days", "blocked"]
        labels = {"retention_days": _("Retention")}
        help_texts = {
            "retention_days": _(
                "Days that stored responses are kept, counted from when they were made; empty: the gateway's setting. "
                "What is stored already keeps its date."
            )
        }


@admin.register(Organization)
class OrganizationAdmin(BlockableAdmin):
    form = OrganizationForm
    refusals = (OrganizationInvalid,)
    list_display = ["title", "shown_id", "key_count", "team_count", "status", "created"]
    search_fields = ["name", "id"]
    search_help_text = _("Search by name or id")
    list_filter = ["blocked"]
    block = make_block_action(_("Block the selected organizations"), blocked=True)
    unblock = make_block_action(_("Unblock the selected organizations"), blocked=False)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Organization]:
        def counted(model: type[models.Model]) -> models.Subquery:
            rows = model._default_manager.filter(organization=models.OuterRef("pk")).order_by()
            counts = rows.values("organization").annotate(rows=models.Count("pk")).values("rows")
            return models.Subquery(counts, output_field=models.IntegerField())

        rows: models.QuerySet[Organization] = super().get_queryset(request)
        return rows.annotate(keys=counted(VirtualKey), teams_=counted(Team))

    def get_fieldsets(self, request: HttpRequest, obj: Organization | None = None) -> Any:
        known = (None, {"fields": ["shown_id", "created_on"]})
        own = (None, {"fields": ["name", "retention_days", "blocked"]})
        return [own, known] if obj else [own]

    def get_readonly_fields(self, request: HttpRequest, obj: Organization | None = None) -> Any:
        return ["shown_id", "created_on"]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "retention_days":
            field.widget.attrs["class"] += " tg-short"
        return field

    @display(description=_("name"), ordering="name")
    def title(self, organization: Organization) -> SafeString:
        return clipped_text(organization.name)

    @display(description=_("virtual keys"))
    def key_count(self, organization: Organization) -> int:
        return organization.keys or 0  # type: ignore[attr-defined]  # annotated

    @display(description=_("teams"))
    def team_count(self, organization: Organization) -> int:
        return organization.teams_ or 0  # type: ignore[attr-defined]  # annotated

    def save_model(self, request: HttpRequest, obj: Organization, form: Any, change: bool) -> None:
        if change:
            update_organization(obj, name=obj.name, blocked=obj.blocked, retention_days=obj.retention_days)
        else:
            obj.pk = create_organization(name=obj.name, blocked=obj.blocked, retention_days=obj.retention_days).pk

    def has_delete_permission(self, request: HttpRequest, obj: Organization | None = None) -> bool:
        """An organization's spend is history that outlives it only by its id: block it instead."""
        return False

    def set_blocked(self, rows: models.QuerySet[Organization], *, blocked: bool) -> int:
        return set_organizations_blocked(rows, blocked=blocked)
