"""Screens of the teams."""

from collections.abc import Sequence

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from tenants.admin.console import (
    BlockableAdmin,
    Context,
    Fieldsets,
    JSONObjectField,
    NamesField,
    OwnerAdmin,
    clipped_text,
    code,
    make_block_action,
    name_list,
    two_lines,
)
from tenants.admin.limits import LimitsAdmin, LimitsForm
from tenants.budget_usage import Spender
from tenants.models import Scope, Team, VirtualKey
from tenants.permissions import Area
from tenants.teams import create_team, delete_teams, set_team_blocked, update_team


class TeamForm(LimitsForm):
    team_id = forms.CharField(
        label=_("Team id"),
        max_length=255,
        required=False,
        help_text=_("The id in requests and reports. Leave empty to generate one."),
        widget=UnfoldAdminTextInputWidget(attrs={"class": "tg-mono"}),
    )
    allowed_models = NamesField(
        label=_("Models"),
        help_text=_("Model groups that keys of this team may call, one per line. Leave empty for all."),
    )
    metadata = JSONObjectField(label=_("Metadata"))

    class Meta:
        model = Team
        fields = ["organization", "alias", "allowed_models", "metadata", "blocked"]


@admin.register(Team)
class TeamAdmin(BlockableAdmin[Team], OwnerAdmin, LimitsAdmin):
    form = TeamForm
    area = Area.TEAMS
    list_display = ["title", "organization_display", "callable_models", "spent", "status", "created"]
    list_select_related = ["organization"]
    search_fields = ["alias", "id"]
    search_help_text = _("Search by alias or id")
    list_filter = ["blocked"]
    block = make_block_action(_("Block the selected teams"), blocked=True)
    unblock = make_block_action(_("Unblock the selected teams"), blocked=False)

    class Media:
        js = [forms.Script("console/suggestions.js", type="module")]

    def get_fieldsets(self, request: HttpRequest, obj: Team | None = None) -> Fieldsets:
        if obj is None:
            return [
                (None, {"fields": ["alias", "organization", "team_id", "allowed_models", "metadata"]}),
                *self.limit_fieldsets(request, obj),
            ]
        return [
            (None, {"fields": ["alias", "blocked", "allowed_models", "metadata"]}),
            *self.limit_fieldsets(request, obj),
            (None, {"fields": ["id_display", "organization", "created_at_display"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Team | None = None) -> list[str]:
        return ["id_display", "created_at_display", "organization"] if obj else []

    def get_changeform_initial_data(self, request: HttpRequest) -> Context:
        return {"organization": self.initial_organization(request), **super().get_changeform_initial_data(request)}

    @display(description=_("alias"), ordering="alias")
    def title(self, team: Team) -> SafeString:
        return two_lines(clipped_text(team.alias, default=_("no alias")), code(team.pk))

    @display(description=_("organization"), ordering="organization__name")
    def organization_display(self, team: Team) -> SafeString:
        return clipped_text(team.organization)

    @display(description=_("models"))
    def callable_models(self, team: Team) -> SafeString:
        return name_list(team.allowed_models, default=_("all"))

    def find_spender(self, team: Team) -> Spender:
        return Spender(team.organization, Scope.TEAM, team.pk, team.budget_template_id)

    def save_model(self, request: HttpRequest, obj: Team, form: TeamForm, change: bool) -> None:
        if change:
            changes = {
                "alias": obj.alias,
                "allowed_models": obj.allowed_models,
                "metadata": obj.metadata,
                "blocked": obj.blocked,
                "budget_id": obj.budget_template_id,
            }
            update_team(obj, changes=changes | form.limit_changes())
            return
        data = form.cleaned_data
        obj.pk = create_team(
            organization=data["organization"],
            team_id=data["team_id"] or None,
            alias=data["alias"],
            allowed_models=data["allowed_models"],
            metadata=data["metadata"],
            template_id=obj.budget_template_id,
            limits=form.limit_changes(),
        ).pk

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Context | None = None) -> HttpResponse:
        """Django's view, which asks for the team's name if keys will be deleted with the team."""
        team = self.get_object(request, unquote(object_id))
        has_keys = team is not None and VirtualKey.objects.filter(team=team).exists()
        if has_keys and request.method == "POST" and request.POST.get("name", "").strip() != str(team).strip():
            self.message_user(request, _("Enter the name of the team to delete it and its keys."), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        context = {**(extra_context or {}), "has_keys": has_keys}
        response: HttpResponse = super().delete_view(request, object_id, context)
        return response

    def get_deleted_objects(
        self, objs: "models.QuerySet[Team] | Sequence[Team]", request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Lists the objects that a deletion removes too. The action on several teams refuses teams with keys."""
        rows, counts, permissions, protected = super().get_deleted_objects(objs, request)
        if isinstance(objs, models.QuerySet):
            text = _("%s has keys: delete it on its own page.")
            keys = VirtualKey.objects.filter(team=models.OuterRef("pk"))
            protected += [text % team for team in objs.filter(models.Exists(keys))]
        return rows, counts, permissions, protected

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Team]) -> None:
        delete_teams(queryset)

    def set_blocked(self, rows: models.QuerySet[Team], *, blocked: bool) -> None:
        for team in rows:
            set_team_blocked(team, blocked=blocked)
