"""Screens of the budget templates: limits and budgets that several scopes share, each spending its own."""

from collections.abc import Mapping, Sequence

from django import forms
from django.contrib import admin
from django.db import models, transaction
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from tenants.admin.console import Context, Fieldsets, clipped_text, code, muted_text, timestamp, two_lines
from tenants.admin.limits import (
    TEMPLATE_FIELDSETS,
    LimitsAdmin,
    LimitsForm,
    find_shared_templates,
    make_bar,
)
from tenants.budget_templates import count_users, create_template, delete_template, update_template
from tenants.budget_usage import Spender, SpenderUsage
from tenants.grants import check_template
from tenants.models import BudgetTemplate, Scope
from tenants.permissions import Area
from tenants.session_rights import caller_of

USER_NAMES = {
    "keys": _("keys"),
    "teams": _("teams"),
    "members": _("members"),
    "users": _("users"),
    "organizations": _("organizations"),
    "end_users": _("end users"),
}


class BudgetTemplateForm(LimitsForm):
    template_id = forms.CharField(
        label=_("Name"),
        max_length=255,
        required=False,
        help_text=_("The budget_id in requests. Leave empty to generate one."),
        widget=UnfoldAdminTextInputWidget(attrs={"class": "tg-mono"}),
    )

    class Meta:
        model = BudgetTemplate
        fields = ["organization", "is_end_user_default"]
        labels = {"is_end_user_default": _("Default of end users")}
        help_texts = {"is_end_user_default": _("Binds every end user of the organization without a budget of its own.")}


class ListedTemplate(BudgetTemplate):
    """The attributes that the list adds: its budgets, and how many scopes of each kind take it over."""

    usage: SpenderUsage | None
    used_by: dict[str, int]

    class Meta:
        abstract = True


@admin.register(BudgetTemplate)
class BudgetTemplateAdmin(LimitsAdmin):
    form = BudgetTemplateForm
    area = Area.BUDGETS
    list_display = ["title", "organization_display", "amount", "users", "created"]
    list_select_related = ["organization"]
    search_fields = ["id"]
    search_help_text = _("Search by name")
    actions = None
    has_usage = False
    refusal_fields = {"budget_id": "template_id"}

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[BudgetTemplate]:
        rows: models.QuerySet[BudgetTemplate] = super().get_queryset(request)
        return rows.filter(pk__in=find_shared_templates().values("pk"))

    def get_fieldsets(self, request: HttpRequest, obj: BudgetTemplate | None = None) -> Fieldsets:
        if obj is None:
            return [(None, {"fields": ["template_id", "organization", "is_end_user_default"]}), *TEMPLATE_FIELDSETS]
        facts = ["id_display", "organization", "users_display", "created_at_display"]
        return [(None, {"fields": ["is_end_user_default"]}), *TEMPLATE_FIELDSETS, (None, {"fields": facts})]

    def get_readonly_fields(self, request: HttpRequest, obj: BudgetTemplate | None = None) -> list[str]:
        return ["id_display", "organization", "users_display", "created_at_display"] if obj else []

    def get_changeform_initial_data(self, request: HttpRequest) -> Context:
        return {"organization": self.initial_organization(request), **super().get_changeform_initial_data(request)}

    def find_spender(self, template: BudgetTemplate) -> Spender:
        return Spender(template.organization, Scope.TEMPLATE, template.pk)

    def read_usages(self, rows: Sequence[ListedTemplate]) -> None:
        super().read_usages(rows)
        used_by = count_users([row.pk for row in rows])
        for row in rows:
            row.used_by = used_by.get(row.pk, {})

    @display(description=_("name"), ordering="id")
    def title(self, template: BudgetTemplate) -> SafeString:
        return clipped_text(template.pk)

    @display(description=_("id"))
    def id_display(self, template: BudgetTemplate) -> SafeString:
        return code(template.pk)

    @display(description=_("organization"), ordering="organization__name")
    def organization_display(self, template: BudgetTemplate) -> SafeString:
        return clipped_text(template.organization)

    @display(description=_("budget"))
    def amount(self, template: ListedTemplate) -> SafeString | str:
        if template.usage is None or template.usage.main is None:
            return muted_text(_("none"))
        bar = make_bar(template.usage.main)
        return two_lines(bar.whole, bar.span)

    @display(description=_("used by"))
    def users(self, template: ListedTemplate) -> SafeString | str:
        return render_users(template.used_by)

    @display(description=_("used by"))
    def users_display(self, template: BudgetTemplate) -> SafeString | str:
        return render_users(count_users([template.pk]).get(template.pk, {}))

    @display(description=_("created"), ordering="created_at")
    def created(self, template: BudgetTemplate) -> SafeString | str:
        created = timestamp(template.created_at)
        return two_lines(created, _("default of end users")) if template.is_end_user_default else created

    @display(description=_("created"))
    def created_at_display(self, template: BudgetTemplate) -> SafeString | str:
        return timestamp(template.created_at, is_complete=True)

    def save_model(self, request: HttpRequest, obj: BudgetTemplate, form: BudgetTemplateForm, change: bool) -> None:
        limits, is_default = form.limit_changes(), obj.is_end_user_default
        caller = caller_of(request)
        with transaction.atomic():
            if change and caller is not None:
                check_template(caller, obj)
                update_template(self.model.objects.get(pk=obj.pk), limits=limits, is_end_user_default=is_default)
                return
            obj.pk = create_template(
                organization=obj.organization,
                template_id=form.cleaned_data["template_id"],
                limits=limits,
                is_end_user_default=is_default,
                created_by=request.user.get_username(),
            ).pk

    def get_deleted_objects(
        self, objs: "models.QuerySet[BudgetTemplate] | Sequence[BudgetTemplate]", request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """A template that scopes use cannot be deleted: they would have no limit without it."""
        rows, counts, permissions, protected = super().get_deleted_objects(objs, request)
        used_by = count_users([template.pk for template in objs])
        protected += [f"{template_id}: {render_users(users)}" for template_id, users in used_by.items()]
        return rows, counts, permissions, protected

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[BudgetTemplate]) -> None:
        with transaction.atomic():
            for template in queryset:
                delete_template(template)


def render_users(used_by: Mapping[str, int]) -> SafeString | str:
    if not used_by:
        return muted_text(_("nothing yet"))
    return ", ".join(f"{count} {USER_NAMES[kind]}" for kind, count in used_by.items())
