"""The management API of keys and teams: /key/* and /team/*, with the names of LiteLLM's routes and fields.

Views read the fields, call the services of tenants.keys and tenants.teams, and show the rows. A field that
this version does not enforce is accepted only while it asks for nothing: an ignored limit costs money.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import Any, ClassVar

from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gateway.protocol.errors import BadRequest, Forbidden, NotFound
from tenants.keys import (
    DIGEST,
    KeyInvalid,
    delete_keys,
    digest_of_reference,
    find_key,
    find_or_create_user,
    find_organization,
    issue_key,
    merge_tags,
    place_key,
    read_duration,
    set_key_blocked,
    update_key,
)
from tenants.models import Team, VirtualKey
from tenants.rest.authentication import (
    IsKnown,
    caller_of,
    declare_body,
    instant,
    read_body,
    read_count,
    read_query,
    scope_of,
)
from tenants.teams import create_team, set_team_blocked

#: Fields of LiteLLM that limit, rewrite or grant something this version cannot do yet.
UNENFORCED = frozenset(
    {
        "access_group_ids",
        "admins",
        "agent_id",
        "aliases",
        "allowed_cache_controls",
        "allowed_passthrough_routes",
        "allowed_routes",
        "allowed_vector_store_indexes",
        "auto_rotate",
        "budget_duration",
        "budget_fallbacks",
        "budget_id",
        "budget_limits",
        "budget_reset_at",
        "config",
        "default_team_member_models",
        "disable_global_guardrails",
        "enable_prompt_caching",
        "end_user_budget_id",
        "enforced_params",
        "guardrails",
        "key_type",
        "logging",
        "max_budget",
        "max_parallel_requests",
        "mcp_rpm_limit",
        "members",
        "members_with_roles",
        "model_aliases",
        "model_itpm_limit",
        "model_max_budget",
        "model_otpm_limit",
        "model_rpm_limit",
        "model_tpm_limit",
        "object_permission",
        "permissions",
        "policies",
        "project_id",
        "prompts",
        "rotation_interval",
        "router_settings",
        "rpm_limit",
        "rpm_limit_type",
        "send_invite_email",
        "soft_budget",
        "spend",
        "tag_rpm_limit",
        "tag_tpm_limit",
        "team_member_budget",
        "team_member_key_duration",
        "team_member_permissions",
        "team_member_rpm_limit",
        "team_member_tpm_limit",
        "temp_budget_expiry",
        "temp_budget_increase",
        "throttle_on_budget_exceeded",
        "tpd_limit",
        "tpm_limit",
        "tpm_limit_type",
    }
)
#: The values of these that change nothing, beside null and the empty ones.
NEUTRAL: Mapping[str, object] = {"key_type": "default", "spend": 0}

KEY_FIELDS = frozenset(
    {
        "key_alias",
        "models",
        "duration",
        "metadata",
        "team_id",
        "user_id",
        "organization_id",
        "tags",
        "blocked",
    }
)
TEAM_FIELDS = frozenset({"team_id", "team_alias", "models", "metadata", "organization_id", "tags", "blocked"})
#: What the services call otherwise.
KEY_NAMES = {
    "alias": "key_alias",
    "allowed_models": "models",
    "expires_at": "duration",
    "organization": "organization_id",
    "team": "team_id",
    "text": "key",
    "user": "user_id",
}
TEAM_NAMES = {
    "alias": "team_alias",
    "allowed_models": "models",
    "id": "team_id",
    "organization": "organization_id",
}
MOST_KEYS_AT_ONCE = 1000


class ManagementView(APIView):
    """One route of the management API. `wire_names` tells how a service's argument is called in requests."""

    wire_names: ClassVar[Mapping[str, str]] = {}
    metadata_class = None  # OPTIONS would describe the view; here it is a wrong method like any other

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        with ExitStack() as self.active_scope:
            return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.active_scope.enter_context(scope_of(caller_of(request)))
        declare_body(request)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        response["Cache-Control"] = "no-store"  # an issued key is shown here, once
        return super().finalize_response(request, response, *args, **kwargs)


class UnknownRoute(ManagementView):
    """What lies under a known prefix and is no route: 404 in the error shape, for whoever holds a key."""

    permission_classes = [IsKnown]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound("Unknown path.")  # not repeated: clients of LiteLLM put keys into paths


class KeyView(ManagementView):
    wire_names = KEY_NAMES


class GenerateKey(KeyView):
    def post(self, request: Request) -> Response:
        body = _read_fields(request, KEY_FIELDS | {"key"})
        expires_at = _read_expiry(body.get("duration"))
        metadata = body.get("metadata")
        with transaction.atomic():
            place = place_key(
                organization_id=_text(body, "organization_id"),
                team_id=_text(body, "team_id"),
                user_id=_text(body, "user_id"),
            )
            issued = issue_key(
                organization=place.organization,
                team=place.team,
                user=place.user,
                alias=_text(body, "key_alias") or "",
                allowed_models=body.get("models"),
                metadata=merge_tags(metadata, body["tags"]) if body.get("tags") is not None else metadata,
                expires_at=expires_at,
                created_by=caller_of(request).name,
                text=body.get("key"),
            )
            key = set_key_blocked(issued.key, blocked=True) if _flag(body, "blocked") else issued.key
        shown = {
            **{name: body[name] for name in body if name in UNENFORCED},
            **key_row(key),
            "updated_by": key.created_by,
            "key": issued.text,
            "token_id": key.digest,
            "duration": body.get("duration"),
            "litellm_budget_table": None,
            "project_id": None,
        }
        return Response(shown)


class KeyInfo(KeyView):
    permission_classes = [IsKnown]

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"key"})
        caller, reference = caller_of(request), query.get("key")
        if caller.key is None and reference is None:
            raise BadRequest("The master key has no row; name a key with ?key=.", param="key")
        if caller.key is not None:
            # Without a look at other keys: theirs and unknown ones are answered alike.
            if reference is not None and digest_of_reference(reference) != caller.key.digest:
                raise Forbidden("A virtual key may ask about itself only.", code="insufficient_permissions")
            reference = reference or caller.key.digest
        key = _find_key(reference)
        return Response({"key": key.digest, "info": _info(key)})


class ListKeys(KeyView):
    def get(self, request: Request) -> Response:
        filters = {
            "user_id": "user__username",
            "team_id": "team_id",
            "organization_id": "organization_id",
            "key_hash": "digest",
            "key_alias": "alias",
        }
        query = read_query(request, known={"page", "size", "return_full_object", *filters})
        page = read_count(query, "page", default=1, maximum=10**9 - 1)
        size = read_count(query, "size", default=10, maximum=100)
        full = _query_flag(query, "return_full_object")
        wanted = {column: query[name] for name, column in filters.items() if name in query}
        rows: QuerySet[VirtualKey] = VirtualKey.objects.filter(**wanted).order_by("-created_at", "-id")
        total = rows.count()
        shown = rows.select_related("user")[(page - 1) * size : page * size]
        return Response(
            {
                "keys": [key_row(key) if full else key.digest for key in shown],
                "total_count": total,
                "current_page": page,
                "total_pages": -(-total // size),
            }
        )


class UpdateKey(KeyView):
    def post(self, request: Request) -> Response:
        body = _read_fields(request, KEY_FIELDS | {"key"})
        reference = _text(body, "key")
        with transaction.atomic():
            if reference is not None:
                key = _find_key(reference)
            else:
                key = _find_key_by_alias(_text(body, "key_alias"))
                del body["key_alias"]  # it says which key, not its new name
            key = update_key(key, changes=_changes(body, key))
        return Response({**key_row(key), "key": reference or key.digest})


class DeleteKeys(KeyView):
    def post(self, request: Request) -> Response:
        body = _read_fields(request, {"keys", "key_aliases"}, unenforced=False)
        if len(body) != 1:
            raise BadRequest("Give either 'keys' or 'key_aliases'.", param="keys")
        param, given = next(iter(body.items()))
        if (
            not isinstance(given, list)
            or not 1 <= len(given) <= MOST_KEYS_AT_ONCE
            or not all(isinstance(item, str) and item for item in given)
        ):
            raise BadRequest(f"{param!r} must be a list of 1 to {MOST_KEYS_AT_ONCE} texts.", param=param)
        column = "digest" if param == "keys" else "alias"
        wanted = {digest_of_reference(item) if param == "keys" else item for item in given}
        with transaction.atomic():
            found = list(VirtualKey.objects.select_for_update().filter(**{f"{column}__in": wanted}))
            if len(found) != len(wanted):
                raise BadRequest(
                    f"{len(wanted) - len(found)} of {len(wanted)} keys do not exist; none was deleted.",
                    code="key_not_found",
                    param=param,
                )
            delete_keys(found)
        return Response({"deleted_keys": given})


class BlockKey(KeyView):
    blocked = True

    def post(self, request: Request) -> Response:
        body = _read_fields(request, {"key"}, unenforced=False)
        with transaction.atomic():
            key = set_key_blocked(_find_key(_text(body, "key")), blocked=self.blocked)
        return Response(key_row(key))


class UnblockKey(BlockKey):
    blocked = False


class TeamView(ManagementView):
    wire_names = TEAM_NAMES


class NewTeam(TeamView):
    def post(self, request: Request) -> Response:
        body = _read_fields(request, TEAM_FIELDS)
        metadata = body.get("metadata")
        with transaction.atomic():
            team = create_team(
                organization=find_organization(_text(body, "organization_id")),
                id=_text(body, "team_id"),
                alias=_text(body, "team_alias") or "",
                allowed_models=body.get("models"),
                metadata=merge_tags(metadata, body["tags"]) if body.get("tags") is not None else metadata,
            )
            if _flag(body, "blocked"):
                team = set_team_blocked(team, blocked=True)
        return Response({**{name: body[name] for name in body if name in UNENFORCED}, **team_row(team)})


class TeamInfo(TeamView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"team_id"})
        if "team_id" not in query:
            raise BadRequest("Name the team with ?team_id=.", param="team_id")
        team: Team | None = Team.objects.filter(id=query["team_id"]).first()
        if team is None:
            raise NotFound("Team not found.", param="team_id")
        keys = VirtualKey.objects.filter(team=team).select_related("user")
        return Response(
            {
                "team_id": team.id,
                "team_info": team_row(team),
                "keys": [key_row(key) for key in keys],
                "team_memberships": [],
            }
        )


class ListTeams(TeamView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"organization_id"})
        teams = Team.objects.filter(**query).prefetch_related("virtual_keys__user")
        return Response(
            [
                {
                    **team_row(team),
                    "keys": [key_row(key) for key in team.virtual_keys.all()],
                    "team_memberships": [],
                }
                for team in teams
            ]
        )


def key_row(key: VirtualKey) -> dict[str, object]:
    """A key as it is shown: everything but its text. Who changed it last is not recorded."""
    return {
        "token": key.digest,
        "key_name": key.shown,
        "key_alias": key.alias or None,
        "models": key.allowed_models,
        "metadata": key.metadata,
        "tags": key.metadata.get("tags", []),
        "team_id": key.team_id,
        "user_id": key.user.username if key.user else None,
        "organization_id": key.organization_id,
        "blocked": key.blocked,
        "expires": instant(key.expires_at),
        "created_at": instant(key.created_at),
        "created_by": key.created_by,
        "updated_at": instant(key.updated_at),
        "updated_by": None,
    }


def team_row(team: Team) -> dict[str, object]:
    return {
        "team_id": team.id,
        "team_alias": team.alias or None,
        "organization_id": team.organization_id,
        "models": team.allowed_models,
        "metadata": team.metadata,
        "tags": team.metadata.get("tags", []),
        "blocked": team.blocked,
        "members_with_roles": [],
        "created_at": instant(team.created_at),
        "updated_at": instant(team.updated_at),
    }


def _info(key: VirtualKey) -> dict[str, object]:
    """The row as /key/info shows it, without the digest, which stands beside it."""
    is_expired = key.expires_at is not None and key.expires_at <= timezone.now()
    row = key_row(key)
    del row["token"]
    return {**row, "status": "revoked" if key.blocked else "expired" if is_expired else "active"}


def _read_fields(request: Request, known: frozenset[str] | set[str], *, unenforced: bool = True) -> dict[str, Any]:
    body = read_body(request, known=known | UNENFORCED if unenforced else known)
    for name, value in body.items():
        if name in UNENFORCED and not _asks_for_nothing(name, value):
            raise BadRequest(
                f"This version does not enforce {name!r}; leave it out, so that nobody relies on it.",
                code="unsupported_parameter",
                param=name,
            )
    return body


def _asks_for_nothing(name: str, value: object) -> bool:
    if value is None or value is False or (isinstance(value, str | list | dict) and not value):
        return True
    return name in NEUTRAL and type(value) is type(NEUTRAL[name]) and value == NEUTRAL[name]


def _text(body: Mapping[str, Any], name: str) -> str | None:
    """The field's text; null and the empty text are the field left out."""
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"{name!r} must be text.", param=name)
    if not value.strip():
        raise BadRequest(f"{name!r} must not be blank.", param=name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name!r} must be true or false.", param=name)
    return bool(value)


def _query_flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        raise BadRequest(f"{name!r} must be true or false.", param=name)
    return text in {"true", "1"}


def _read_expiry(duration: object) -> datetime | None:
    return None if duration is None or duration == "" else timezone.now() + read_duration(duration)


def _find_key(reference: str | None) -> VirtualKey:
    if reference is None:
        raise BadRequest("Name the key by its text or digest.", param="key")
    if not reference.startswith("sk-") and not DIGEST.fullmatch(reference):
        raise BadRequest("A key is named by its text, which starts with 'sk-', or by its digest.", param="key")
    key = find_key(reference)
    if key is None:
        raise NotFound("Key not found.", param="key")
    return key


def _find_key_by_alias(alias: str | None) -> VirtualKey:
    if alias is None:
        raise BadRequest("Name the key with 'key' or 'key_alias'.", param="key")
    key: VirtualKey | None = VirtualKey.objects.filter(alias=alias).first()
    if key is None:
        raise NotFound("Key not found.", param="key_alias")
    return key


def _changes(body: Mapping[str, Any], key: VirtualKey) -> dict[str, object]:
    """The fields that were sent, in the service's words. A key stays in its organization."""
    if _text(body, "organization_id") not in {None, key.organization_id}:
        raise BadRequest("A key cannot change its organization; issue a new one.", param="organization_id")
    changes: dict[str, object] = {}
    for name in ("alias", "allowed_models"):
        if KEY_NAMES[name] in body:
            changes[name] = body[KEY_NAMES[name]]
    for name in ("metadata", "tags", "blocked"):
        if name in body:
            changes[name] = body[name]
    if "duration" in body:
        changes["expires_at"] = _read_expiry(body["duration"])
    if "team_id" in body:
        changes["team"] = _find_team(_text(body, "team_id"))
    if "user_id" in body:
        user_id = _text(body, "user_id")
        changes["user"] = find_or_create_user(organization=key.organization, user_id=user_id) if user_id else None
    return changes


def _find_team(team_id: str | None) -> Team | None:
    if team_id is None:
        return None
    team: Team | None = Team.objects.filter(id=team_id).first()
    if team is None:
        raise KeyInvalid("team", f"the team {team_id!r} does not exist")
    return team
