"""The screen of all budgets: what each scope may spend, has spent and has left in the current window."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter, RelatedDropdownFilter
from unfold.decorators import display
from unfold.views import ChangeList

from tenants.admin.console import Context, ReadOnlyAdmin, clipped_text, muted_text, timestamp, two_lines
from tenants.admin.limits import BudgetBar, make_bar, render_amount, render_spent
from tenants.budget_usage import Spender, read_windows
from tenants.budget_windows import find_window
from tenants.models import Budget, BudgetWindow, Organization, Scope, Team, User, VirtualKey
from tenants.permissions import Area


class ListedBudget(Protocol):
    """A budget with the attributes that the list adds to it. `owner_link` is a name and the address of its page."""

    organization: Organization
    model: str
    bar: BudgetBar
    owner_link: tuple[str, str]

    def get_scope_display(self) -> str: ...


def find_current_windows() -> models.QuerySet[BudgetWindow]:
    """The current windows of all budgets that belong to their spender, which those of templates do not."""
    own = Budget.objects.exclude(scope=Scope.TEMPLATE).order_by()
    now, current = timezone.now(), Q(pk__in=())
    for duration, zone in own.values_list("duration", "organization__time_zone").distinct():
        current |= Q(
            budget__duration=duration,
            budget__organization__time_zone=zone,
            starts_at=find_window(duration, ZoneInfo(zone), now).starts_at,
        )
    return BudgetWindow.objects.filter(current).exclude(budget__scope=Scope.TEMPLATE)


class UsedFilter(DropdownFilter):
    """Filters by the part of the budget that is used or held."""

    title = _("used")
    parameter_name = "used"

    def lookups(self, request: HttpRequest, model_admin: "BudgetAdmin") -> list[tuple[str, object]]:
        return [("80", _("Over 80 %")), ("100", _("Used up"))]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Budget]) -> models.QuerySet[Budget]:
        if self.value() not in ("80", "100"):
            return queryset
        raised = models.Case(
            models.When(budget__increase_ends_at__gt=timezone.now(), then=F("budget__increase_pusd")), default=0
        )
        whole = Coalesce(F("budget__limit_pusd") + raised, F("budget__soft_limit_pusd"))
        spare = F("whole") / 5 if self.value() == "80" else models.Value(0)  # a fifth is what 80 % leave
        full = (
            find_current_windows()
            .annotate(whole=whole, spent=F("settled_pusd") - F("credit_pusd"))
            .filter(spent__gte=F("whole") - spare - F("leased_pusd"))
        )
        return queryset.filter(Q(pk__in=full.values("budget")) | Q(limit_pusd=0))


class BudgetChangeList(ChangeList):
    """Reads the windows and the owners of the page's budgets with a query for each kind."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows = self.result_list
        spenders = [Spender(row.organization, Scope(row.scope), row.scope_id) for row in rows]
        links = _find_owners(rows)
        for row, usage in zip(rows, read_windows(list(zip(rows, spenders, strict=True))), strict=True):
            row.bar = make_bar(usage)
            row.owner_link = links.get((row.scope, row.scope_id), (row.scope_id, ""))


def _find_owners(rows: Sequence[Budget]) -> Mapping[tuple[str, str], tuple[str, str]]:
    """(scope, scope id) → (name, address of its page)."""
    ids: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        ids[row.scope].add(row.scope_id)
    own = [row.organization for row in rows if row.scope == Scope.ORGANIZATION]
    links = {(str(Scope.ORGANIZATION), row.pk): (str(row), _page(row)) for row in own}
    for key in VirtualKey.objects.filter(pk__in=ids[Scope.KEY]):
        links[Scope.KEY, key.pk] = key.alias or key.masked_text, _page(key)
    for user in User.objects.filter(username__in=ids[Scope.USER]):
        links[Scope.USER, user.username] = user.username, _page(user)
    members = {scope_id: scope_id.partition(":") for scope_id in ids[Scope.MEMBER]}
    teams = Team.objects.in_bulk(ids[Scope.TEAM] | {team_id for team_id, _colon, _user in members.values()})
    for team in teams.values():
        links[Scope.TEAM, team.pk] = str(team), _page(team)
    for scope_id, (team_id, _colon, user_id) in members.items():
        if team_id in teams:
            links[Scope.MEMBER, scope_id] = f"{user_id} · {teams[team_id]}", _page(teams[team_id])
    for scope_id in ids[Scope.DEPLOYMENT]:
        links[Scope.DEPLOYMENT, scope_id] = scope_id, reverse("admin:gateway_deployment_change", args=[scope_id])
    return links


def _page(row: models.Model) -> str:
    return reverse(f"admin:tenants_{row._meta.model_name}_change", args=[row.pk])


@admin.register(Budget)
class BudgetAdmin(ReadOnlyAdmin):
    list_display = ["owner", "span", "spent", "left", "resets", "organization_display"]
    list_display_links = None
    list_select_related = ["organization"]
    list_filter = [UsedFilter, ("scope", ChoicesDropdownFilter), ("organization", RelatedDropdownFilter)]
    search_fields = ["scope_id"]
    search_help_text = _("Search by id of the key, team, user, end user or tag")
    #: As the unique index has them.
    ordering = ["organization_id", "scope", "scope_id", "model", "duration", "is_additional"]
    actions = None
    show_full_result_count = True
    area = Area.BUDGETS

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Budget]:
        rows: models.QuerySet[Budget] = super().get_queryset(request)
        return rows.exclude(scope=Scope.TEMPLATE).exclude(limit_pusd=None, soft_limit_pusd=None)

    def get_changelist(self, request: HttpRequest, **kwargs: object) -> type[ChangeList]:
        return BudgetChangeList

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Context | None = None
    ) -> HttpResponse:
        """A budget is changed on the page of its owner."""
        row = self.get_object(request, unquote(object_id))
        page = _find_owners([row]).get((row.scope, row.scope_id), ("", ""))[1] if row is not None else ""
        return HttpResponseRedirect(page or reverse("admin:tenants_budget_changelist"))

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    @display(description=_("owner"))
    def owner(self, row: ListedBudget) -> SafeString:
        name, page = row.owner_link
        text = clipped_text(name)
        link = format_html('<a class="tg-strong" href="{}">{}</a>', page, text) if page else text
        return two_lines(link, row.get_scope_display())

    @display(description=_("budget"))
    def span(self, row: ListedBudget) -> SafeString:
        return two_lines(row.bar.span, row.model or _("all models"))

    @display(description=_("spent / budget"))
    def spent(self, row: ListedBudget) -> SafeString:
        return render_spent(row.bar)

    @display(description=_("left"))
    def left(self, row: ListedBudget) -> SafeString:
        if row.bar.left is None:
            return muted_text(_("soft"))
        if not row.bar.held_pusd:
            return row.bar.left
        return two_lines(row.bar.left, format_html("{} {}", render_amount(row.bar.held_pusd), _("held")))

    @display(description=_("starts anew"))
    def resets(self, row: ListedBudget) -> SafeString | str:
        return timestamp(row.bar.ends_at) if row.bar.ends_at else muted_text(_("never"))

    @display(description=_("organization"), ordering="organization__name")
    def organization_display(self, row: ListedBudget) -> SafeString:
        return clipped_text(row.organization)
