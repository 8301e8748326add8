"""The filters of the console's spend log. They only show and hold a value: billing.log_search finds the rows."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.contrib.admin.options import IncorrectLookupParameters
from django.db import models
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import DropdownFilter, TextFilter

from billing.log_search import FAILURE, REQUESTS, SUCCESS, WITHOUT_PRICE
from billing.models import SpendLog, UsageHour
from tenants.admin.console import ConsoleAdmin
from tenants.models import Organization, Team, VirtualKey
from tenants.permissions import Area, Reach
from tenants.session_rights import AnyRow, reach_of_user, readable_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

#: What the rows of a report may be without.
WITHOUT = frozenset(
    {
        "team_id",
        "user_id",
        "key_id",
        "end_user",
        "tag",
        "application",
        "model_group",
        "deployment_id",
        "provider",
        "upstream_model",
        "operation",
    }
)
#: Names that links of earlier versions have.
FORMER_NAMES = {"state__exact": "state", "organization__id__exact": "organization_id"}


class SpanFilter(DropdownFilter):
    """Filters by the time since the row was written."""

    title = _("time")
    parameter_name = "when"
    spans = {
        "1h": (_("Last hour"), timedelta(hours=1)),
        "24h": (_("Last 24 hours"), timedelta(days=1)),
        "7d": (_("Last 7 days"), timedelta(days=7)),
        "30d": (_("Last 30 days"), timedelta(days=30)),
    }

    def lookups(self, request: HttpRequest, model_admin: ConsoleAdmin) -> list[tuple[str, object]]:
        return [(value, title) for value, (title, _span) in self.spans.items()]

    def start(self) -> datetime | None:
        """The earliest instant to show; None without a filter."""
        value = self.value()
        return timezone.now() - self.spans[value][1] if value in self.spans else None


class RecentValuesFilter(DropdownFilter):
    """Offers the values in the hourly sums of the last 30 days."""

    column = ""

    def lookups(self, request: HttpRequest, model_admin: ConsoleAdmin) -> list[tuple[str, str]]:
        recent = UsageHour.objects.filter(hour__gte=timezone.now() - timedelta(days=30))
        rows = readable_rows(request, Area.SPEND, recent)
        values = set(rows.order_by().values_list(self.column, flat=True).distinct()[:200])
        values |= {request.GET[self.column]} if request.GET.get(self.column) else set()
        return [(value, value) for value in sorted(values)] or [("-", _("none yet"))]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[SpendLog]) -> models.QuerySet[SpendLog]:
        return queryset.filter(**{self.column: self.value()}) if self.value() else queryset


class ModelGroupFilter(RecentValuesFilter):
    title = _("model group")
    column = parameter_name = "model_group"


class ProviderFilter(RecentValuesFilter):
    title = _("provider")
    column = parameter_name = "provider"


class StateFilter(DropdownFilter):
    title = _("price state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: ConsoleAdmin) -> list[tuple[str, "StrOrPromise"]]:
        return list(SpendLog.State.choices)


class StatusFilter(DropdownFilter):
    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: ConsoleAdmin) -> list[tuple[str, "StrOrPromise"]]:
        return [(SUCCESS, _("success")), (FAILURE, _("failure"))]


class SourceFilter(DropdownFilter):
    title = _("source")
    parameter_name = "source"

    def lookups(self, request: HttpRequest, model_admin: ConsoleAdmin) -> list[tuple[str, "StrOrPromise"]]:
        return [("probe", _("probe"))]


class OrganizationFilter(DropdownFilter):
    """For who reads more than one organization; to others it would name the rest."""

    title = _("organization")
    parameter_name = "organization_id"

    def has_output(self) -> bool:
        return bool(self.lookup_choices)

    def lookups(self, request: HttpRequest, model_admin: ConsoleAdmin) -> list[tuple[str, str]]:
        if reach_of_user(request, Area.ORGANIZATIONS) < Reach.PLATFORM:
            return []
        rows = readable_rows(request, Area.ORGANIZATIONS, Organization.objects.order_by("name"))
        return [(row.pk, row.name) for row in rows[:500]]


def find_ids(request: HttpRequest, area: Area, rows: models.Manager[AnyRow], text: str) -> list[str]:
    """The ids of rows that the user may read, by their id or alias; the text itself where there are none."""
    found = readable_rows(request, area, rows.filter(Q(pk=text) | Q(alias=text)))
    return list(found.values_list("pk", flat=True)[:10]) or [text]


class KeyFilter(TextFilter):
    """By the id of a key or by its alias; never by its text, which would stand in the address."""

    title = _("key (id or alias)")
    parameter_name = "key_id"

    def values(self, request: HttpRequest) -> list[str]:
        return find_ids(request, Area.KEYS, VirtualKey.objects, str(self.value()))


class TeamFilter(TextFilter):
    title = _("team (id or name)")
    parameter_name = "team_id"

    def values(self, request: HttpRequest) -> list[str]:
        return find_ids(request, Area.TEAMS, Team.objects, str(self.value()))


class UserFilter(TextFilter):
    title = _("user")
    parameter_name = "user_id"


class EndUserFilter(TextFilter):
    title = _("end user")
    parameter_name = "end_user"


class TagFilter(TextFilter):
    title = _("tag")
    parameter_name = "tag"


class ApplicationFilter(TextFilter):
    title = _("application")
    parameter_name = "application"


class ErrorFilter(TextFilter):
    title = _("error code")
    parameter_name = "error_code"


class DeploymentFilter(TextFilter):
    title = _("deployment id")
    parameter_name = "deployment_id"


class LinkFilter(TextFilter):
    """A filter that links set. Without a value it is not offered: each field makes every list larger."""

    def has_output(self) -> bool:
        return bool(self.value())


class UpstreamModelFilter(LinkFilter):
    title = _("upstream model")
    parameter_name = "upstream_model"


class OperationFilter(LinkFilter):
    title = _("operation")
    parameter_name = "operation"


class WithoutFilter(LinkFilter):
    """Rows whose columns of these names are empty: what a report lists as "none"."""

    title = _("without")
    parameter_name = "without"

    def names(self) -> list[str]:
        """Raises IncorrectLookupParameters."""
        names = [name for name in str(self.value() or "").split(",") if name]
        if wrong := sorted(set(names) - WITHOUT):
            raise IncorrectLookupParameters(f"no column can be without {', '.join(wrong)[:60]}")
        return names


class CountedFilter(LinkFilter):
    title = _("counted in reports")
    parameter_name = "counted"

    def counted(self) -> str:
        """Raises IncorrectLookupParameters."""
        value = str(self.value() or "")
        if value not in ("", REQUESTS, WITHOUT_PRICE):
            raise IncorrectLookupParameters(f"'counted' must be {REQUESTS} or {WITHOUT_PRICE}")
        return value


class FromFilter(TextFilter):
    title = _("from (day or instant, UTC)")
    parameter_name = "from"


class BeforeFilter(TextFilter):
    title = _("before (day or instant, UTC)")
    parameter_name = "before"


FILTERS = (
    SpanFilter,
    StatusFilter,
    StateFilter,
    KeyFilter,
    TeamFilter,
    UserFilter,
    EndUserFilter,
    TagFilter,
    ApplicationFilter,
    ErrorFilter,
    ModelGroupFilter,
    DeploymentFilter,
    ProviderFilter,
    UpstreamModelFilter,
    OperationFilter,
    WithoutFilter,
    CountedFilter,
    SourceFilter,
    OrganizationFilter,
    FromFilter,
    BeforeFilter,
)
