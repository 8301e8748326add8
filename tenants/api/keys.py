"""/api/keys: virtual keys. The text of a key is in the answer that issues or rotates it, and nowhere else."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.json.types import JsonObject
from tenants.api.fields import Body, Choice, Flag, Limits, Object, Spend, Text, Whole, tags_of, texts
from tenants.api.resource import Filter, Operation, Resource
from tenants.api.spending import render_spenders
from tenants.budget_usage import Spender
from tenants.grants import check_key
from tenants.invalid import KeyInvalid
from tenants.keys import delete_keys, find_or_create_user, rotate_key, set_key_blocked
from tenants.limits import find_template
from tenants.models import KeyType, Organization, Scope, Team, VirtualKey
from tenants.permissions import Area, Caller, Reach
from tenants.rest.authentication import caller_of
from tenants.rest.fields import render_instant
from tenants.rest.key_writes import create_key, write_key

COLUMNS = (
    "alias",
    "allowed_models",
    "allowed_routes",
    "allowed_networks",
    "expires_at",
    "metadata",
    "model_aliases",
    "rotation_interval",
    "tags",
    "timeouts",
    "type",
)
DAY_S = 86_400


class KeyChange(Body):
    alias = Text(required=False, allow_null=True)
    team_id = Text(required=False, allow_null=True)
    user_id = Text(required=False, allow_null=True, help_text="A user that is unknown is created.")
    type = Choice(KeyType.choices, required=False)
    allowed_models = texts(required=False, help_text="Model groups; empty: all that its team may call.")
    allowed_routes = texts(required=False, help_text="Paths and LiteLLM's groups of routes; empty: as the type says.")
    allowed_networks = texts(required=False, help_text="Addresses and CIDR ranges; empty: all.")
    model_aliases = Object(required=False, help_text="Name that clients ask for → model group.")
    timeouts = Object(
        required=False,
        help_text="Seconds by the name of a time limit: timeout, stream_timeout, connect_timeout, stream_idle_timeout, "
        "max_stream_duration. They only shorten.",
    )
    tags = texts(required=False, help_text="A part of the metadata.")
    metadata = Object(required=False)
    budget_template_id = Text(required=False, allow_null=True)
    rotation_interval = Text(required=False, allow_null=True, help_text="30d, 1mo, …")
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    blocked = Flag(required=False)
    limits = Limits(required=False)


class NewKey(KeyChange):
    organization_id = Text(required=False, allow_null=True, help_text="Else that of the team or user, or the caller's.")
    is_service_account = Flag(required=False, help_text="A key of a team, which belongs to no person.")
    text = Text(required=False, allow_null=True, help_text="An own text: sk- and at least 32 characters in all.")


class Rotation(Body):
    text = Text(required=False, allow_null=True)
    grace_s = Whole(
        required=False, max_value=366 * DAY_S, help_text="Seconds for which the former text works too; 0: not at all."
    )


class Key(KeyChange):
    id = serializers.CharField()
    organization_id = serializers.CharField()
    masked_text = serializers.CharField(help_text="The last four characters.")
    digest = serializers.CharField(help_text="SHA-256 of the text; LiteLLM's `token`.")
    is_service_account = serializers.BooleanField()
    rotates_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    spend = Spend()


class IssuedKey(Key):
    text = serializers.CharField(help_text="Shown once.")


class Keys(Resource[VirtualKey]):
    area = Area.KEYS
    least_reach = Reach.OWN
    noun = "key"
    id_name = "key_id"
    operations = {
        "list_rows": Operation("List keys", answer=Key),
        "create": Operation("Issue a key", 201, IssuedKey, NewKey),
        "show": Operation("Show a key", answer=Key),
        "update": Operation("Change a key", answer=Key, body=KeyChange),
        "delete_one": Operation("Delete a key", 204),
        "rotate": Operation("Give a key a new text", answer=IssuedKey, body=Rotation),
        "block": Operation("Block a key", answer=Key),
        "unblock": Operation("Unblock a key", answer=Key, least_reach=Reach.TEAMS),
    }
    filters = {
        "organization_id": Filter("organization_id"),
        "team_id": Filter("team_id"),
        "user_id": Filter("user__username"),
        "alias": Filter("alias"),
        "digest": Filter("digest"),
        "type": Filter("type", choices=KeyType.values),
        "budget_template_id": Filter("budget_template_id"),
        "is_service_account": Filter("is_service_account", schema_type=bool),
        "blocked": Filter("blocked", schema_type=bool),
    }

    def queryset(self) -> QuerySet[VirtualKey]:
        return VirtualKey.objects.select_related("organization", "user")

    def render(self, rows: Sequence[VirtualKey]) -> list[JsonObject]:
        spenders = [Spender(row.organization, Scope.KEY, row.id, row.budget_template_id) for row in rows]
        return [render_key(row) | more for row, more in zip(rows, render_spenders(spenders), strict=True)]

    def create(self, request: Request, **names: str) -> Response:
        body = {name: value for name, value in self.read().items() if value is not None}
        if body.get("is_service_account") and ("user_id" in body or "team_id" not in body):
            raise KeyInvalid("is_service_account", "needs a team and has no user")
        with transaction.atomic():
            issued = create_key(
                caller_of(request),
                organization_id=body.get("organization_id"),
                team_id=body.get("team_id") or None,
                user_id=body.get("user_id") or None,
                read_fields=lambda organization: read_changes(body, organization),
                text=body.get("text"),
                is_service_account=body.get("is_service_account", False),
                is_blocked=body.get("blocked", False),
                limits=body.get("limits", {}),
            )
        return self.answer_issued(issued.key, issued.text)

    def change(self, caller: Caller, row: VirtualKey, body: dict[str, Any]) -> VirtualKey:
        def read() -> dict[str, object]:
            changes = read_changes(body, row.organization)
            if "blocked" in body:
                changes["blocked"] = body["blocked"]
            if "team_id" in body:
                changes["team"] = find_team(body["team_id"])
            if "user_id" in body:
                name = body["user_id"]
                changes["user"] = find_or_create_user(organization=row.organization, user_id=name) if name else None
            return changes

        return write_key(
            caller,
            row,
            team_id=body.get("team_id") or None,
            user_id=body.get("user_id") or None,
            read_changes=read,
            limits=body.get("limits", {}),
        )

    def delete_row(self, caller: Caller, row: VirtualKey) -> None:
        delete_keys([row])

    def rotate(self, request: Request, **names: str) -> Response:
        body = self.read()
        grace_s = body.get("grace_s") or 0
        with transaction.atomic():
            key = self.find()
            check_key(caller_of(request), key)
            issued = rotate_key(key, text=body.get("text"), grace=timedelta(seconds=grace_s) if grace_s else None)
        return self.answer_issued(issued.key, issued.text)

    def block(self, request: Request, **names: str) -> Response:
        return self.set_blocked(True)

    def unblock(self, request: Request, **names: str) -> Response:
        return self.set_blocked(False)

    def set_blocked(self, blocked: bool) -> Response:
        self.refuse_body()
        with transaction.atomic():
            return self.answer(set_key_blocked(self.find(), blocked=blocked))

    def answer_issued(self, key: VirtualKey, text: str) -> Response:
        return Response(self.render([key])[0] | {"text": text}, status=self.operation.status)


def read_changes(body: dict[str, Any], organization: Organization) -> dict[str, object]:
    """The fields of a body under the names of `update_key`, without the team, the user and the block."""
    changes: dict[str, object] = {name: body[name] for name in COLUMNS if name in body}
    if "budget_template_id" in body:
        name = body["budget_template_id"]
        changes["budget_template"] = find_template(name, organization) if name else None
    return changes


def find_team(team_id: str | None) -> Team | None:
    if not team_id:
        return None
    team: Team | None = Team.objects.filter(id=team_id).first()
    if team is None:
        raise KeyInvalid("team", f"the team {team_id!r} does not exist")
    return team


def render_key(key: VirtualKey) -> JsonObject:
    return {
        "id": key.id,
        "organization_id": key.organization_id,
        "team_id": key.team_id,
        "user_id": key.user.username if key.user else None,
        "alias": key.alias or None,
        "masked_text": key.masked_text,
        "digest": key.digest,
        "type": key.type,
        "is_service_account": key.is_service_account,
        "allowed_models": key.allowed_models,
        "allowed_routes": key.allowed_routes,
        "allowed_networks": key.allowed_networks,
        "model_aliases": key.model_aliases,
        "timeouts": key.timeouts,
        "tags": tags_of(key.metadata),
        "metadata": key.metadata,
        "budget_template_id": key.budget_template_id,
        "blocked": key.blocked,
        "rotation_interval": key.rotation_interval or None,
        "rotates_at": render_instant(key.rotates_at),
        "expires_at": render_instant(key.expires_at),
        "last_used_at": render_instant(key.last_used_at),
        "created_by": key.created_by,
        "created_at": render_instant(key.created_at),
        "updated_at": render_instant(key.updated_at),
    }
