"""Screens of the end users: the customers that clients name in their requests."""

from django import forms
from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display

from tenants.admin.console import (
    BlockableAdmin,
    Context,
    Fieldsets,
    NamesField,
    clipped_text,
    code,
    make_block_action,
    two_lines,
)
from tenants.admin.limits import LimitsAdmin, LimitsForm
from tenants.budget_usage import Spender
from tenants.end_users import create_end_user, delete_end_users, set_end_users_blocked, update_end_user
from tenants.models import BudgetTemplate, EndUser, Scope
from tenants.permissions import Area


class EndUserForm(LimitsForm):
    checked_by_service = frozenset({"external_id"})
    allowed_models = NamesField(
        label=_("Models"),
        help_text=_("Model groups that calls for this end user may use, one per line. Leave empty for all."),
    )

    class Meta:
        model = EndUser
        fields = ["external_id", "alias", "allowed_models", "blocked"]
        labels = {"external_id": _("End user id")}
        help_texts = {"external_id": _("As requests name the end user, in “user” or “safety_identifier”.")}


class ListedEndUser(EndUser):
    """The attribute that the list's query adds: the template of end users without a budget of their own."""

    default_template_id: str | None

    class Meta:
        abstract = True


@admin.register(EndUser)
class EndUserAdmin(BlockableAdmin[EndUser], LimitsAdmin):
    form = EndUserForm
    area = Area.END_USERS
    list_display = ["title", "organization_display", "spent", "status", "created"]
    list_select_related = ["organization"]
    list_filter = ["blocked", ("organization", RelatedDropdownFilter)]
    search_fields = ["external_id", "alias"]
    search_help_text = _("Search by id or alias")
    block = make_block_action(_("Block the selected end users"), blocked=True)
    unblock = make_block_action(_("Unblock the selected end users"), blocked=False)
    refusal_fields = {**LimitsAdmin.refusal_fields, "user_id": "external_id"}

    class Media:
        js = [forms.Script("console/suggestions.js", type="module")]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[EndUser]:
        default = BudgetTemplate.objects.filter(organization=models.OuterRef("organization"), is_end_user_default=True)
        rows: models.QuerySet[EndUser] = super().get_queryset(request)
        return rows.annotate(default_template_id=models.Subquery(default.values("pk")[:1]))

    def get_fieldsets(self, request: HttpRequest, obj: EndUser | None = None) -> Fieldsets:
        fields = ["alias", "allowed_models", "blocked"]
        if obj is None:
            return [(None, {"fields": ["external_id", "organization", *fields]}), *self.limit_fieldsets(request, obj)]
        return [
            (None, {"fields": fields}),
            *self.limit_fieldsets(request, obj),
            (None, {"fields": ["external_id_display", "organization", "created_at_display"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: EndUser | None = None) -> list[str]:
        return ["external_id_display", "organization", "created_at_display"] if obj else []

    def get_changeform_initial_data(self, request: HttpRequest) -> Context:
        return {"organization": self.initial_organization(request), **super().get_changeform_initial_data(request)}

    def find_spender(self, row: ListedEndUser) -> Spender:
        template_id = row.budget_template_id or row.default_template_id
        return Spender(row.organization, Scope.END_USER, row.external_id, template_id)

    @display(description=_("end user"), ordering="external_id")
    def title(self, end_user: EndUser) -> SafeString:
        name = code(end_user.external_id)
        return two_lines(clipped_text(end_user.alias), name) if end_user.alias else name

    @display(description=_("end user id"))
    def external_id_display(self, end_user: EndUser) -> SafeString:
        return code(end_user.external_id)

    @display(description=_("organization"), ordering="organization__name")
    def organization_display(self, end_user: EndUser) -> SafeString:
        return clipped_text(end_user.organization)

    def save_model(self, request: HttpRequest, obj: EndUser, form: EndUserForm, change: bool) -> None:
        changes: dict[str, object] = {
            "alias": obj.alias,
            "allowed_models": obj.allowed_models,
            "blocked": obj.blocked,
        }
        if "budget_template" in form.changed_data:
            changes["budget_id"] = obj.budget_template_id
        limits = form.limit_changes()
        if change:
            update_end_user(obj, changes=changes, limits=limits)
            return
        row = create_end_user(organization=obj.organization, name=obj.external_id, changes=changes, limits=limits)
        obj.pk = row.pk

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[EndUser]) -> None:
        delete_end_users(list(queryset))

    def set_blocked(self, rows: models.QuerySet[EndUser], *, blocked: bool) -> None:
        set_end_users_blocked(list(rows), blocked=blocked)
