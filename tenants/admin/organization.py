"""Screens of the organizations."""

from typing import Protocol

from django import forms
from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from tenants.admin.console import BlockableAdmin, Fieldsets, NamesField, clipped_text, make_block_action
from tenants.admin.limits import LimitsAdmin, LimitsForm
from tenants.budget_usage import Spender
from tenants.models import Organization, Scope, Team, UnpricedPolicy, VirtualKey
from tenants.organizations import (
    create_organization,
    set_organizations_blocked,
    update_organization,
)
from tenants.permissions import Area

FIELDS = ["name", "blocked", "allowed_models", "time_zone", "unpriced_policy", "retention_days"]


class OrganizationForm(LimitsForm):
    checked_by_service = frozenset({"name"})
    allowed_models = NamesField(
        label=_("Models"),
        help_text=_("Model groups that anything in this organization may call, one per line. Leave empty for all."),
    )
    time_zone = forms.CharField(
        label=_("Time zone"),
        required=False,
        help_text=_("Where the days and months of its budgets begin, such as Europe/Vienna. Leave empty for UTC."),
        widget=UnfoldAdminTextInputWidget(attrs={"class": "tg-short", "placeholder": "UTC"}),
    )
    unpriced_policy = forms.ChoiceField(
        label=_("Models without a price"),
        choices=[
            (UnpricedPolicy.BLOCK, _("Refused where a budget binds the call")),
            (UnpricedPolicy.ALLOW, _("Allowed, and not counted against budgets")),
        ],
        required=False,
        widget=UnfoldAdminSelectWidget(),
    )

    class Meta:
        model = Organization
        fields = FIELDS
        labels = {"retention_days": _("Retention")}
        help_texts = {
            "retention_days": _(
                "Days that new responses are stored. Leave empty to use the gateway's setting. "
                "Responses that are stored already keep their date."
            )
        }


class CountedOrganization(Protocol):
    """An organization with the numbers of its keys and teams, which the list's query adds."""

    keys: int | None
    team_rows: int | None


@admin.register(Organization)
class OrganizationAdmin(BlockableAdmin[Organization], LimitsAdmin):
    form = OrganizationForm
    area = Area.ORGANIZATIONS
    list_display = ["title", "id_display", "key_count", "team_count", "spent", "status", "created"]
    search_fields = ["name", "id"]
    search_help_text = _("Search by name or id")
    list_filter = ["blocked"]
    block = make_block_action(_("Block the selected organizations"), blocked=True)
    unblock = make_block_action(_("Unblock the selected organizations"), blocked=False)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Organization]:
        def count_rows(model: type[models.Model]) -> models.Subquery:
            rows = model._default_manager.filter(organization=models.OuterRef("pk")).order_by()
            counts = rows.values("organization").annotate(rows=models.Count("pk")).values("rows")
            return models.Subquery(counts, output_field=models.IntegerField())

        rows: models.QuerySet[Organization] = super().get_queryset(request)
        return rows.annotate(keys=count_rows(VirtualKey), team_rows=count_rows(Team))

    def get_fieldsets(self, request: HttpRequest, obj: Organization | None = None) -> Fieldsets:
        editable: Fieldsets = [(None, {"fields": FIELDS}), *self.limit_fieldsets(request, obj)]
        read_only: Fieldsets = [(None, {"fields": ["id_display", "created_at_display"]})]
        return editable + read_only if obj else editable

    def get_readonly_fields(self, request: HttpRequest, obj: Organization | None = None) -> list[str]:
        return ["id_display", "created_at_display"]

    def formfield_for_dbfield(
        self, db_field: "models.Field[object, object]", request: HttpRequest, **kwargs: object
    ) -> forms.Field | None:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and db_field.name == "retention_days":
            field.widget.attrs["class"] += " tg-short"
        return field

    class Media:
        js = [forms.Script("console/suggestions.js", type="module")]

    @display(description=_("name"), ordering="name")
    def title(self, organization: Organization) -> SafeString:
        return clipped_text(organization.name)

    @display(description=_("virtual keys"))
    def key_count(self, organization: CountedOrganization) -> int:
        return organization.keys or 0

    @display(description=_("teams"))
    def team_count(self, organization: CountedOrganization) -> int:
        return organization.team_rows or 0

    def find_spender(self, organization: Organization) -> Spender:
        return Spender(organization, Scope.ORGANIZATION, organization.pk, organization.budget_template_id)

    def save_model(self, request: HttpRequest, obj: Organization, form: OrganizationForm, change: bool) -> None:
        limits = form.limit_changes()
        if change:
            changes = {name: getattr(obj, name) for name in FIELDS}
            update_organization(obj, changes=changes | limits | {"budget_id": obj.budget_template_id})
            return
        obj.pk = create_organization(
            name=obj.name,
            blocked=obj.blocked,
            retention_days=obj.retention_days,
            allowed_models=obj.allowed_models,
            time_zone=obj.time_zone,
            unpriced_policy=obj.unpriced_policy,
            template_id=obj.budget_template_id,
            limits=limits,
        ).pk

    def has_delete_permission(self, request: HttpRequest, obj: Organization | None = None) -> bool:
        """An organization is blocked, never deleted: its spend logs belong to it."""
        return False

    def set_blocked(self, rows: models.QuerySet[Organization], *, blocked: bool) -> None:
        set_organizations_blocked(rows, blocked=blocked)
