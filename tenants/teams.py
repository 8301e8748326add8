"""Teams: the one way to create, change, block and delete them.

A team obeys the same rules of names as a key (KeyInvalid).
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
    id: str | None = None,  # noqa: A002 - the column's name
    alias: str = "",
    allowed_models: Iterable[str] | None = (),
    metadata: Mapping[str, object] | None = None,
) -> Team:
    """`id` is one of the caller's own choice, unique over all organizations. Raises KeyInvalid."""
    team = Team(
        id=read_name(id, "id") or new_id(),
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
        with scopes_disabled():  # ids are unique over all organizations
            if Team.objects.filter(id=team.id).exists():
                raise KeyInvalid("id", f"the team {team.id!r} exists already") from None
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
    """A team stays in its organization. Raises KeyInvalid."""
    team.alias, team.blocked = read_name(alias, "alias"), blocked
    team.allowed_models, team.metadata = read_models(allowed_models), read_metadata(metadata)
    with transaction.atomic():
        team.save()
        bump_revision()
    return team


def set_team_blocked(team: Team, *, blocked: bool) -> Team:
    """Blocking a team refuses all of its keys."""
    with transaction.atomic():
        team.blocked = blocked
        team.save(update_fields=["blocked", "updated_at"])
        bump_revision()
    return team


def delete_teams(teams: QuerySet[Team]) -> None:
    """Their keys go too; spend logs stay, which hold ids and names by value."""
    with transaction.atomic():
        teams.delete()
        bump_revision()
