"""Keys that a caller creates and changes within its rights, for both faces of the management API."""

from collections.abc import Callable, Mapping

from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from tenants.budget_fields import read_usd
from tenants.grants import check_key, check_key_limits, check_owner, complete_owner
from tenants.keys import IssuedKey, issue_key, resolve_key_owner, set_key_blocked, update_key
from tenants.limits import LIMIT_FIELDS, change_limits, reset_spend
from tenants.models import Organization, Scope, VirtualKey
from tenants.permissions import Area, Caller, Reach, reach_of, refuse
from tenants.rest.keys import render_whole_key
from tenants.revision import bump_revision, changed_key


def create_key(
    caller: Caller,
    *,
    organization_id: str | None,
    team_id: str | None,
    user_id: str | None,
    read_fields: Callable[[Organization], Mapping[str, object]],
    text: str | None,
    is_service_account: bool,
    is_blocked: bool,
    limits: JsonMapping,
) -> IssuedKey:
    """Issues a key, within the transaction of the caller. `read_fields` returns fields of `update_key` for the
    organization that the key gets. Raises KeyInvalid, NotFound and Forbidden."""
    if not is_service_account:
        team_id, user_id = complete_owner(caller, team_id=team_id, user_id=user_id)
    check_owner(caller, team_id=team_id, user_id=user_id)
    owner = resolve_key_owner(organization_id=organization_id, team_id=team_id, user_id=user_id)
    issued = issue_key(
        organization=owner.organization,
        team=owner.team,
        user=owner.user,
        created_by=caller.name,
        text=text,
        is_service_account=is_service_account,
        fields=read_fields(owner.organization),
    )
    key = set_key_blocked(issued.key, blocked=True) if is_blocked else issued.key
    change_limits(key.organization, Scope.KEY, key.id, limits)
    check_key(caller, key, is_new=True)
    return IssuedKey(issued.text, key)


def write_key(
    caller: Caller,
    key: VirtualKey,
    *,
    team_id: str | None,
    user_id: str | None,
    read_changes: Callable[[], Mapping[str, object]],
    limits: JsonMapping,
    spend: Json = None,
) -> VirtualKey:
    """Changes a key, within the transaction of the caller. `team_id` and `user_id` are those that it is to have, or
    None; `read_changes` returns fields of `update_key`, the new team and user among them. Raises KeyInvalid, NotFound
    and Forbidden."""
    check_key(caller, key)
    check_owner(caller, team_id=None if team_id == key.team_id else team_id, user_id=user_id)
    is_own = reach_of(caller, Area.KEYS, write=True) == Reach.OWN
    before = _read_bounds(key) if is_own else {}
    key = update_key(key, changes=read_changes())
    fields = {name: value for name, value in limits.items() if name in LIMIT_FIELDS}
    if fields:
        change_limits(key.organization, Scope.KEY, key.id, fields)
        bump_revision(changed_key(key.digest))
    if spend is not None:
        if is_own:
            raise refuse("The spend of your own key is not yours to reset.", param="spend")
        reset_spend(key.organization, Scope.KEY, key.id, read_usd(spend, "spend"))
    if is_own:
        check_key_limits(caller, before, _read_bounds(key))
    check_key(caller, key, is_new=True)
    return key


def _read_bounds(key: VirtualKey) -> JsonObject:
    """The fields that restrict a key."""
    names = {
        "models",
        "key_type",
        "allowed_routes",
        "allowed_ips",
        "blocked",
        "expires",
        "budget_id",
        "router_settings",
        *LIMIT_FIELDS,
    }
    return {name: value for name, value in render_whole_key(key).items() if name in names}
