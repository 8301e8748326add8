"""Teams: the one way to create, change, block and delete them.

The names of a team obey the same rules as those of a key (KeyInvalid). Limits are fields of `tenants.limits`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from django.db import IntegrityError
from django.db.models import Q, QuerySet
from django_scopes import scope, scopes_disabled

from gateway.protocol.json.types import JsonMapping
from tenants.audit import audited
from tenants.budget_store import lock_budgets
from tenants.ids import new_id
from tenants.invalid import KeyInvalid
from tenants.key_fields import check_cache, read_model_aliases
from tenants.keys import merge_tags, read_metadata, read_models, read_name
from tenants.limits import LIMIT_FIELDS, change_limits, find_template
from tenants.memberships import MemberName, add_members, remove_keys, remove_limits
from tenants.models import Budget, BudgetTemplate, Membership, Organization, Scope, Team, VirtualKey
from tenants.revision import bump_revision, changed_team, changed_template, write_transaction
from tenants.rules import member_scope_id


def create_team(
    *,
    organization: Organization,
    team_id: str | None = None,
    alias: str = "",
    allowed_models: Iterable[str] | None = (),
    metadata: Mapping[str, object] | None = None,
    model_aliases: object = None,
    template_id: str | None = None,
    blocked: bool = False,
    limits: JsonMapping | None = None,
    member_limits: JsonMapping | None = None,
    members: Sequence[MemberName] = (),
) -> Team:
    """Create a team. `team_id` is unique across all organizations; without it, one is generated. Raises KeyInvalid.

    `limits` bind the team as a whole, `member_limits` each member that has none of its own.
    """
    team = Team(
        id=read_name(team_id, "team_id") or new_id(),
        organization=organization,
        alias=read_name(alias, "alias"),
        allowed_models=read_models(allowed_models),
        metadata=check_cache(read_metadata(metadata)),
        model_aliases=read_model_aliases(model_aliases),
        budget_template=find_template(template_id, organization) if template_id else None,
        blocked=blocked,
    )
    try:
        with write_transaction():
            with audited("create", team):
                team.save(force_insert=True)
            if limits:
                change_limits(organization, Scope.TEAM, team.id, limits)
            if member_limits:
                _change_member_limits(team, member_limits)
                team.save(update_fields=["member_template"])
            if members:
                add_members(team, members=members)
            bump_revision(changed_team(team.id))
    except IntegrityError:
        with scopes_disabled():  # ids are unique across all organizations
            if Team.objects.filter(id=team.id).exists():
                raise KeyInvalid("team_id", f"the team {team.id!r} exists already") from None
        raise
    return team


def update_team(team: Team, *, changes: Mapping[str, object]) -> Team:
    """Change the named fields of the team, which stays in its organization; None clears. Raises KeyInvalid.

    Names: alias, allowed_models, metadata, tags, model_aliases, blocked, budget_id, member_limits, and those of
    LIMIT_FIELDS. `metadata` replaces all of the metadata, `tags` only the tags in it.
    """
    with scope(organization=team.organization_id), write_transaction():
        row = Team.objects.select_for_update(of=("self",)).select_related("organization").get(pk=team.pk)
        changed = [changed_team(row.id)]
        for name, value in changes.items():
            match name:
                case "alias":
                    row.alias = read_name(value, name)
                case "allowed_models":
                    row.allowed_models = read_models(value)
                case "metadata":
                    row.metadata = check_cache(read_metadata(value))
                case "model_aliases":
                    row.model_aliases = read_model_aliases(value)
                case "blocked":
                    row.blocked = bool(value)
                case "budget_id":
                    template_id = read_name(value, name)
                    row.budget_template = find_template(template_id, row.organization) if template_id else None
                case "member_limits" if isinstance(value, dict):
                    template = _change_member_limits(row, value)
                    if template is not None:
                        changed.append(changed_template(template.id))
                case "tags":
                    pass  # merged below, because the metadata may change too
                case _ if name not in LIMIT_FIELDS:
                    raise KeyInvalid(name, "cannot be changed")
        if "tags" in changes:
            row.metadata = merge_tags(row.metadata, changes["tags"])
        with audited("update", row):
            row.save()
        change_limits(
            row.organization,
            Scope.TEAM,
            row.id,
            {name: value for name, value in changes.items() if name in LIMIT_FIELDS},
        )
        bump_revision(*changed)
    return row


def set_team_blocked(team: Team, *, blocked: bool) -> Team:
    """Block or unblock the team; a blocked one has all of its keys refused."""
    return update_team(team, changes={"blocked": blocked})


def add_models(team: Team, *, models: object) -> Team:
    """Adds models to those that the team may call, or restricts it to them where it may call all. Raises KeyInvalid."""
    with scope(organization=team.organization_id), write_transaction():
        row = Team.objects.select_for_update().get(pk=team.pk)
        return update_team(row, changes={"allowed_models": [*row.allowed_models, *_read_names(models)]})


def remove_models(team: Team, *, models: object) -> Team:
    """Takes models from those that the team may call. Raises KeyInvalid where none would be left: an empty list allows
    every model."""
    names = _read_names(models)
    with scope(organization=team.organization_id), write_transaction():
        row = Team.objects.select_for_update().get(pk=team.pk)
        left = [name for name in row.allowed_models if name not in names]
        if row.allowed_models and not left:
            raise KeyInvalid("allowed_models", "would be empty, which allows every model; block the team instead")
        return update_team(row, changes={"allowed_models": left})


def delete_teams(teams: QuerySet[Team]) -> None:
    """Delete the teams with their keys, memberships and limits. Spend logs stay."""
    with write_transaction():
        rows = list(teams.values_list("id", "organization_id", "member_template_id"))
        by_organization: dict[str, list[str]] = defaultdict(list)
        for team_id, organization_id, _ in rows:
            by_organization[organization_id].append(team_id)
        for organization_id, ids in by_organization.items():
            with scope(organization=organization_id):
                keys = VirtualKey.objects.filter(team_id__in=ids)
                pairs = Membership.objects.filter(team_id__in=ids).values_list("team_id", "user__username")
                members = [member_scope_id(*pair) for pair in pairs]
                templates = [template for team_id, _, template in rows if template and team_id in ids]
                lock_budgets(
                    Budget.objects.filter(
                        Q(scope=Scope.KEY, scope_id__in=keys.values("id"))
                        | Q(scope=Scope.MEMBER, scope_id__in=members)
                        | Q(scope=Scope.TEAM, scope_id__in=ids)
                        | Q(scope=Scope.TEMPLATE, scope_id__in=templates)
                    )
                )
                remove_keys(list(keys))
                remove_limits(organization_id, Scope.MEMBER, members)
                remove_limits(organization_id, Scope.TEAM, ids)
                remove_limits(organization_id, Scope.TEMPLATE, templates)
                BudgetTemplate.objects.filter(id__in=templates).delete()
                deleted = list(Team.objects.filter(id__in=ids))
                with audited("delete", *deleted):
                    Team.objects.filter(id__in=ids).delete()
        bump_revision(*(changed_team(team_id) for team_id, _, _ in rows))


def _change_member_limits(team: Team, limits: JsonMapping) -> BudgetTemplate | None:
    """Changes the template of the team's members, which is made where a limit needs it. The caller saves the team."""
    template = team.member_template
    if template is None and all(value is None for value in limits.values()):
        return None
    if template is None:
        template = BudgetTemplate.objects.create(organization=team.organization)
        team.member_template = template
    change_limits(team.organization, Scope.TEMPLATE, template.id, limits)
    return template


def _read_names(models: object) -> list[str]:
    names = read_models(models)
    if not names:
        raise KeyInvalid("allowed_models", "must name at least one model")
    return names
