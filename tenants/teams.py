"""Teams: the one way to create, change, block and delete them.

The names of a team obey the same rules as those of a key (KeyInvalid).
"""

from collections.abc import Iterable, Mapping

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django_scopes import scopes_disabled

from tenants.ids import new_id
from tenants.keys import KeyInvalid, read_metadata, read_models, read_name
from tenants.models import Organization, Team
from tenants.revision import bump_revision


def create_team(
    *,
    organization: Organization,
    team_id: str | None = None,
    alias: str = "",
    allowed_models: Iterable[str] | None = (),
    metadata: Mapping[str, object] | None = None,
) -> Team:
    """Create a team. `team_id` is unique across all organizations; without it, one is generated. Raises KeyInvalid."""
    team = Team(
        id=read_name(team_id, "team_id") or new_id(),
        organization=organization,
        alias=read_name(alias, "alias"),
        allowed_models=read_models(allowed_models),
        metadata=read_metadata(metadata),
    )
    try:
        with transaction.atomic():
            team.save(force_insert=True)
            bump_revision()
    except IntegrityError:
        with scopes_disabled():  # ids are unique across all organizations
            if Team.objects.filter(id=team.id).exists():
                raise KeyInvalid("team_id", f"the team {team.id!r} exists already") from None
        raise
    return team


def update_team(
    team: Team,
    *,
    alias: str,
    allowed_models: Iterable[str] | None,
    metadata: Mapping[str, object] | None,
    blocked: bool,
) -> Team:
    """Change the team, which stays in its organization. Raises KeyInvalid."""
    team.alias, team.blocked = read_name(alias, "alias"), blocked
    team.allowed_models, team.metadata = read_models(allowed_models), read_metadata(metadata)
    with transaction.atomic():
        team.save()
        bump_revision()
    return team


def set_team_blocked(team: Team, *, blocked: bool) -> Team:
    """Block or unblock the team; a blocked one has all of its keys refused."""
    with transaction.atomic():
        team.blocked = blocked
        team.save(update_fields=["blocked", "updated_at"])
        bump_revision()
    return team


def delete_teams(teams: QuerySet[Team]) -> None:
    """Delete the teams and their keys. Spend logs stay."""
    with transaction.atomic():
        teams.delete()
        bump_revision()
