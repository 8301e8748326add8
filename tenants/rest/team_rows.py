"""Teams and their members in LiteLLM's shape. A page of teams takes the same number of queries as one team."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from django.db.models import Count, F, Model, QuerySet, Window
from django.db.models.functions import RowNumber

from gateway.protocol.json.types import JsonObject
from tenants.budget_usage import Spender, read_usages
from tenants.limits import render_scopes, render_spend
from tenants.models import BudgetTemplate, Membership, Scope, Team, User, VirtualKey
from tenants.permissions import litellm_role
from tenants.rest.fields import render_instant
from tenants.rest.keys import render_key
from tenants.rules import member_scope_id

Row = TypeVar("Row", bound=Model)

MAX_NESTED = 100  # keys and members of each team in a list; its counts are exact

#: The fields of LiteLLM's budget rows.
BUDGET_FIELDS = (
    "max_budget",
    "soft_budget",
    "budget_duration",
    "max_parallel_requests",
    "rpm_limit",
    "tpm_limit",
    "tpd_limit",
    "model_max_budget",
    "temp_budget_increase",
    "temp_budget_expiry",
)


@dataclass(frozen=True, slots=True)
class Span:
    """The part of each team's keys and members that an answer shows."""

    start: int = 0
    size: int = MAX_NESTED


def render_team(team: Team) -> JsonObject:
    return render_teams([team])[0]


def read_parts(rows: QuerySet[Row], column: str, order: Sequence[str], span: Span) -> dict[str, list[Row]]:
    """The same part of the rows of each owner, with one query: {value of the column: rows}."""
    place = Window(RowNumber(), partition_by=F(column), order_by=order)
    ranked = rows.annotate(place=place).filter(place__gt=span.start, place__lte=span.start + span.size)
    parts: dict[str, list[Row]] = defaultdict(list)
    for row in ranked.order_by("place"):
        parts[row.serializable_value(column)].append(row)
    return parts


def load_members(teams: Sequence[Team], *, span: Span | None = None) -> dict[str, list[Membership]]:
    """A part of each team's members, the oldest first: {team id: members}."""
    rows = Membership.objects.filter(team__in=teams).select_related("user")
    members = read_parts(rows, "team_id", ["created_at", "pk"], span or Span())
    for team in teams:
        for member in members[team.id]:
            member.team = team
    return members


def render_teams(
    teams: Sequence[Team], *, members: Mapping[str, Sequence[Membership]] | None = None
) -> list[JsonObject]:
    """Teams with their limits, spend and members, without their keys. Their organizations are read already."""
    if members is None:
        members = load_members(teams)
    limits = render_scopes(Scope.TEAM, [(team.organization_id, team.id) for team in teams])
    spenders = [Spender(team.organization, Scope.TEAM, team.id, team.budget_template_id) for team in teams]
    spends = [render_spend(usage) for usage in read_usages(spenders)]
    templates = render_templates({team.member_template_id for team in teams})
    member_counts = _count_by_team(Membership.objects.filter(team__in=teams))
    key_counts = _count_by_team(VirtualKey.objects.filter(team__in=teams))
    return [
        {
            "team_id": team.id,
            "team_alias": team.alias or None,
            "organization_id": team.organization_id,
            "models": team.allowed_models,
            "metadata": team.metadata,
            "tags": team.metadata.get("tags", []),
            "blocked": team.blocked,
            "model_aliases": team.model_aliases,
            "litellm_model_table": {"model_aliases": team.model_aliases} if team.model_aliases else None,
            "members_with_roles": [_render_role(member) for member in members[team.id]],
            "admins": [],
            "members": [],
            "members_count": member_counts.get(team.id, 0),
            "keys_count": key_counts.get(team.id, 0),
            "team_member_permissions": [],
            "default_team_member_models": [],
            **limits[team.organization_id, team.id],
            **spend,
            "model_spend": {},
            "budget_id": team.budget_template_id,
            "team_member_budget_table": templates.get(team.member_template_id or ""),
            "created_at": render_instant(team.created_at),
            "updated_at": render_instant(team.updated_at),
        }
        for team, spend in zip(teams, spends, strict=True)
    ]


def render_keys(teams: Sequence[Team], *, span: Span | None = None) -> dict[str, list[JsonObject]]:
    """A part of each team's keys, the newest first: {team id: keys}."""
    rows = VirtualKey.objects.filter(team__in=teams).select_related("user")
    parts = read_parts(rows, "team_id", ["-created_at", "-pk"], span or Span())
    return {team.id: [render_key(key) for key in parts[team.id]] for team in teams}


def render_memberships(members: Sequence[Membership]) -> list[JsonObject]:
    """Memberships with the limits that bind them and what they have spent. Their teams are read already, with their
    organizations, and their users.

    `litellm_budget_table` has the member's own values, and where it has none those of its template or of its team's.
    """
    scopes = [member_scope_id(member.team_id, member.user.username) for member in members]
    limits = render_scopes(
        Scope.MEMBER, [(member.team.organization_id, scope) for member, scope in zip(members, scopes, strict=True)]
    )
    inherited = [member.budget_template_id or member.team.member_template_id for member in members]
    templates = render_templates(set(inherited))
    usages = read_usages(
        [
            Spender(member.team.organization, Scope.MEMBER, scope, template)
            for member, scope, template in zip(members, scopes, inherited, strict=True)
        ]
    )
    rows: list[JsonObject] = []
    for member, scope, template, usage in zip(members, scopes, inherited, usages, strict=True):
        spend = render_spend(usage)
        own = limits[member.team.organization_id, scope]
        base = templates.get(template or "", {})
        table = {name: own[name] if own[name] not in (None, {}) else base.get(name) for name in BUDGET_FIELDS}
        is_custom = any(own[name] not in (None, {}) for name in BUDGET_FIELDS) or member.budget_template_id is not None
        rows.append(
            {
                "user_id": member.user.username,
                "user_email": member.user.email or None,
                "team_id": member.team_id,
                "role": member.role,
                "budget_id": template,
                "spend": spend["spend"],
                "total_spend": spend["total_spend"],
                "held": spend["held"],
                "budget_reset_at": spend["budget_reset_at"],
                "budget_source": "custom" if is_custom else "team_default" if template else "none",
                "allowed_models": member.allowed_models,
                "litellm_budget_table": {
                    "budget_id": template,
                    **table,
                    "budget_reset_at": spend["budget_reset_at"],
                    "allowed_models": member.allowed_models,
                }
                if is_custom or template
                else None,
                "created_at": render_instant(member.created_at),
            }
        )
    return rows


def render_user(user: User) -> JsonObject:
    return {
        "user_id": user.username,
        "user_email": user.email or None,
        "user_alias": user.alias or None,
        "user_role": litellm_role(user),
        "organization_id": user.organization_id,
        "models": user.allowed_models,
        "metadata": user.metadata,
        "created_at": render_instant(user.date_joined),
    }


def _render_role(member: Membership) -> JsonObject:
    return {
        "user_id": member.user.username,
        "user_email": member.user.email or None,
        "user_alias": member.user.alias or None,
        "role": member.role,
    }


def render_templates(ids: Collection[str | None]) -> dict[str, JsonObject]:
    rows = BudgetTemplate.objects.filter(id__in=[each for each in ids if each]).values_list("organization_id", "id")
    limits = render_scopes(Scope.TEMPLATE, list(rows))
    return {
        template_id: {"budget_id": template_id, **{name: fields[name] for name in BUDGET_FIELDS}}
        for (_, template_id), fields in limits.items()
    }


def _count_by_team(rows: QuerySet[Row]) -> dict[str, int]:
    return dict(rows.order_by().values_list("team_id").annotate(rows=Count("pk")))
