"""Keys as the management API reads and shows them, with the names of LiteLLM's fields."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from django.utils import timezone

from gateway.pipeline.allowed_routes import GROUP_OF_TYPE
from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.json.types import JsonMapping, JsonObject
from tenants.budget_usage import Spender, SpenderUsage, read_usages
from tenants.durations import read_duration
from tenants.invalid import KeyInvalid
from tenants.keys import DIGEST, find_key, find_or_create_user
from tenants.limits import find_template, render_scopes, render_spend, usd
from tenants.models import BudgetTemplate, Organization, Scope, Team, VirtualKey
from tenants.rest.fields import read_flag, read_text, render_instant

KEY_FIELDS = frozenset(
    {
        "aliases",
        "allowed_ips",
        "allowed_routes",
        "auto_rotate",
        "blocked",
        "budget_id",
        "duration",
        "key_alias",
        "key_type",
        "metadata",
        "models",
        "organization_id",
        "rotation_interval",
        "router_settings",
        "tags",
        "team_id",
        "user_id",
    }
)
#: The names of arguments of `tenants.keys` → the names of fields.
KEY_NAMES = {
    "alias": "key_alias",
    "allowed_models": "models",
    "allowed_networks": "allowed_ips",
    "budget_template": "budget_id",
    "expires_at": "duration",
    "model_aliases": "aliases",
    "organization": "organization_id",
    "team": "team_id",
    "text": "key",
    "timeouts": "router_settings",
    "type": "key_type",
    "user": "user_id",
}


def read_changes(body: JsonMapping, key: VirtualKey) -> dict[str, object]:
    """The fields of the body under the names of `update_key`. A key stays in its organization."""
    if read_text(body, "organization_id") not in {None, key.organization_id}:
        raise BadRequest("A key cannot change its organization; issue a new one.", param="organization_id")
    changes = read_settings(body, key.organization, key)
    for name in ("alias", "allowed_models", "metadata", "tags", "blocked"):
        field = KEY_NAMES.get(name, name)
        if field in body:
            changes[name] = body[field]
    if "duration" in body:
        changes["expires_at"] = read_expiry(body["duration"])
    if "team_id" in body:
        changes["team"] = _find_team(read_text(body, "team_id"))
    if "user_id" in body:
        user_id = read_text(body, "user_id")
        changes["user"] = find_or_create_user(organization=key.organization, user_id=user_id) if user_id else None
    return changes


def read_settings(body: JsonMapping, organization: Organization, key: VirtualKey | None = None) -> dict[str, object]:
    """The fields that restrict and rewrite calls, the template and the rotation, under the names of `update_key`."""
    settings: dict[str, object] = {}
    for name in ("type", "allowed_routes", "allowed_networks", "model_aliases", "timeouts"):
        field = KEY_NAMES.get(name, name)
        if field in body:
            settings[name] = body[field]
    if "budget_id" in body:
        template_id = read_text(body, "budget_id")
        settings["budget_template"] = find_template(template_id, organization) if template_id else None
    if body.get("auto_rotate") is False:
        settings["rotation_interval"] = None
    elif "rotation_interval" in body:
        settings["rotation_interval"] = body["rotation_interval"]
    if read_flag(body, "auto_rotate") and not settings.get("rotation_interval", key and key.rotation_interval):
        raise KeyInvalid("rotation_interval", "must say how often the key is rotated: 30d, 90d, …")
    return settings


def read_expiry(duration: object) -> datetime | None:
    return None if duration is None or duration == "" else timezone.now() + read_duration(duration)


def require_key(reference: str | None) -> VirtualKey:
    """The key that a body or a path names. Raises BadRequest and NotFound."""
    if reference is None:
        raise BadRequest("Name the key by its text or digest.", param="key")
    if not reference.startswith("sk-") and not DIGEST.fullmatch(reference):
        raise BadRequest("A key is named by its text, which starts with 'sk-', or by its digest.", param="key")
    key = find_key(reference)
    if key is None:
        raise NotFound("Key not found.", param="key")
    return key


def render_key(key: VirtualKey) -> dict[str, object]:
    """A key in LiteLLM's shape, without its text, its limits and its spend. `updated_by` is not recorded."""
    group = GROUP_OF_TYPE.get(key.type)
    return {
        "token": key.digest,
        "key_id": key.id,
        "key_name": key.masked_text,
        "key_alias": key.alias or None,
        "key_type": key.type,
        "models": key.allowed_models,
        "aliases": key.model_aliases,
        "router_settings": key.timeouts or None,
        "allowed_routes": key.allowed_routes or ([group] if group else []),
        "allowed_ips": key.allowed_networks,
        "metadata": key.metadata,
        "tags": key.metadata.get("tags", []),
        "team_id": key.team_id,
        "user_id": key.user.username if key.user else None,
        "organization_id": key.organization_id,
        "is_service_account": key.is_service_account,
        "blocked": key.blocked,
        "budget_id": key.budget_template_id,
        "expires": render_instant(key.expires_at),
        "auto_rotate": bool(key.rotation_interval),
        "rotation_interval": key.rotation_interval or None,
        "key_rotation_at": render_instant(key.rotates_at),
        "last_active": render_instant(key.last_used_at),
        "last_used_at": render_instant(key.last_used_at),
        "created_at": render_instant(key.created_at),
        "created_by": key.created_by,
        "updated_at": render_instant(key.updated_at),
        "updated_by": None,
    }


def render_keys(keys: Sequence[VirtualKey]) -> list[JsonObject]:
    """The keys with their limits, their budget template and their spend; a fixed number of queries for all of them.

    `organization`, `user` and `budget_template` of each were read with it.
    """
    limits = render_scopes(Scope.KEY, [(key.organization_id, key.id) for key in keys])
    templates = {row.id: row for key in keys if (row := key.budget_template) is not None}
    template_limits = render_scopes(Scope.TEMPLATE, [(row.organization_id, row.id) for row in templates.values()])
    usages = read_usages([Spender(key.organization, Scope.KEY, key.id, key.budget_template_id) for key in keys])
    return [
        {
            **render_key(key),
            **limits[key.organization_id, key.id],
            **_render_usage(usage),
            "litellm_budget_table": _render_template(key.budget_template, template_limits),
        }
        for key, usage in zip(keys, usages, strict=True)
    ]


def render_whole_key(key: VirtualKey) -> JsonObject:
    return render_keys([key])[0]


def render_info(row: JsonMapping) -> JsonObject:
    """A row of `render_keys` in the shape of /key/info, where the digest stands beside it."""
    expires = row["expires"]
    is_expired = expires is not None and datetime.fromisoformat(expires) <= timezone.now()
    info = {name: value for name, value in row.items() if name != "token"}
    return {**info, "status": "revoked" if row["blocked"] else "expired" if is_expired else "active"}


def _render_usage(usage: SpenderUsage) -> JsonObject:
    spend = render_spend(usage)
    fields: JsonObject = {name: spend[name] for name in ("spend", "total_spend", "budget_reset_at")}
    models: JsonObject = {}
    windows: JsonObject = {}
    for entry in usage.budgets:
        current_spend = usd(max(0, entry.state.spent_pusd))
        duration = entry.budget.duration or None
        if entry.budget.model:
            limit = usd(entry.state.limit_pusd)
            models[entry.budget.model] = {
                "current_spend": current_spend,
                "budget_limit": limit,
                "time_period": duration,
            }
        elif not entry.is_main and duration is not None:
            windows[duration] = {"current_spend": current_spend}
    if models:
        fields["model_max_budget_usage"] = models
    if windows:
        fields["budget_limits_usage"] = windows
    return fields


def _render_template(
    template: BudgetTemplate | None, limits: Mapping[tuple[str, str], JsonObject]
) -> JsonObject | None:
    if template is None:
        return None
    return {"budget_id": template.id, **limits[template.organization_id, template.id]}


def _find_team(team_id: str | None) -> Team | None:
    if team_id is None:
        return None
    team: Team | None = Team.objects.filter(id=team_id).first()
    if team is None:
        raise KeyInvalid("team", f"the team {team_id!r} does not exist")
    return team
