"""The management API of keys: /key/*, with the names of LiteLLM's routes and fields."""

from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, Forbidden, NotFound
from gateway.protocol.json.types import JsonMapping
from tenants.keys import (
    DIGEST,
    KeyInvalid,
    delete_keys,
    digest_of_reference,
    find_key,
    find_or_create_user,
    issue_key,
    merge_tags,
    read_duration,
    resolve_key_owner,
    set_key_blocked,
    update_key,
)
from tenants.models import Team, VirtualKey
from tenants.rest.authentication import IsKnown, caller_of
from tenants.rest.fields import (
    read_body,
    read_count,
    read_flag,
    read_query,
    read_query_flag,
    read_text,
    render_instant,
)
from tenants.rest.unenforced_fields import read_fields, unenforced_in
from tenants.rest.views import ManagementView

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
#: The names of arguments of `tenants.keys` → the names of fields.
KEY_NAMES = {
    "alias": "key_alias",
    "allowed_models": "models",
    "expires_at": "duration",
    "organization": "organization_id",
    "team": "team_id",
    "text": "key",
    "user": "user_id",
}
MAX_KEYS_PER_DELETE = 1000
SORTED_BY = {"created_at": "created_at", "updated_at": "updated_at", "key_alias": "alias"}
#: Parameters that LiteLLM's client always sends; true would add keys.
UNUSED_FLAGS = ("include_team_keys", "include_created_by_keys")


class KeyView(ManagementView):
    wire_names = KEY_NAMES


class GenerateKey(KeyView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=KEY_FIELDS | {"key"})
        expires_at = _read_expiry(body.get("duration"))
        metadata = body.get("metadata")
        with transaction.atomic():
            owner = resolve_key_owner(
                organization_id=read_text(body, "organization_id"),
                team_id=read_text(body, "team_id"),
                user_id=read_text(body, "user_id"),
            )
            issued = issue_key(
                organization=owner.organization,
                team=owner.team,
                user=owner.user,
                alias=read_text(body, "key_alias") or "",
                allowed_models=body.get("models"),
                metadata=merge_tags(metadata, body["tags"]) if body.get("tags") is not None else metadata,
                expires_at=expires_at,
                created_by=caller_of(request).name,
                text=body.get("key"),
            )
            key = set_key_blocked(issued.key, blocked=True) if read_flag(body, "blocked") else issued.key
        answer = {
            **unenforced_in(body),
            **render_key(key),
            "updated_by": key.created_by,
            "key": issued.text,
            "token_id": key.digest,
            "duration": body.get("duration"),
            "litellm_budget_table": None,
            "project_id": None,
        }
        return Response(answer)


class KeyInfo(KeyView):
    permission_classes = [IsKnown]

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"key"})
        caller, reference = caller_of(request), query.get("key")
        if caller.key is None and reference is None:
            raise BadRequest("The master key has no row; name a key with ?key=.", param="key")
        if caller.key is not None:
            # No other key is looked up, so an existing one and an unknown one get the same answer.
            if reference is not None and digest_of_reference(reference) != caller.key.digest:
                raise Forbidden("A virtual key may ask about itself only.", code="insufficient_permissions")
            reference = reference or caller.key.digest
        key = _find_key(reference)
        return Response({"key": key.digest, "info": _render_info(key)})


class ListKeys(KeyView):
    def get(self, request: Request) -> Response:
        filters = {
            "user_id": "user__username",
            "team_id": "team_id",
            "organization_id": "organization_id",
            "key_hash": "digest",
            "key_alias": "alias",
        }
        known = {"page", "size", "return_full_object", "sort_by", "sort_order", *UNUSED_FLAGS, *filters}
        query = read_query(request, known=known)
        for name in UNUSED_FLAGS:
            if read_query_flag(query, name):
                raise BadRequest(f"This version does not know {name!r}; leave it out.", param=name)
        column, order = SORTED_BY.get(query.get("sort_by", "created_at")), query.get("sort_order", "desc")
        if column is None:
            raise BadRequest(f"'sort_by' must be one of {', '.join(SORTED_BY)}.", param="sort_by")
        if order not in {"asc", "desc"}:
            raise BadRequest("'sort_order' must be asc or desc.", param="sort_order")
        sign = "-" if order == "desc" else ""
        page = read_count(query, "page", default=1, maximum=10**9 - 1)
        size = read_count(query, "size", default=10, maximum=100)
        full = read_query_flag(query, "return_full_object")
        conditions = {lookup: query[name] for name, lookup in filters.items() if name in query}
        rows: QuerySet[VirtualKey] = VirtualKey.objects.filter(**conditions).order_by(f"{sign}{column}", f"{sign}id")
        total = rows.count()
        keys = rows.select_related("user")[(page - 1) * size : page * size]
        return Response(
            {
                "keys": [render_key(key) if full else key.digest for key in keys],
                "total_count": total,
                "current_page": page,
                "total_pages": -(-total // size),
            }
        )


class UpdateKey(KeyView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=KEY_FIELDS | {"key"})
        reference = read_text(body, "key")
        with transaction.atomic():
            if reference is not None:
                key = _find_key(reference)
            else:
                key = _find_key_by_alias(read_text(body, "key_alias"))
                del body["key_alias"]  # it names the key and is no new alias
            key = update_key(key, changes=_read_changes(body, key))
        return Response({**render_key(key), "key": reference or key.digest})


class DeleteKeys(KeyView):
    def post(self, request: Request) -> Response:
        fields = read_body(request, known={"keys", "key_aliases"})
        body = {name: value for name, value in fields.items() if value is not None and value != []}
        if len(body) != 1:
            raise BadRequest("Give either 'keys' or 'key_aliases'.", param="keys")
        param, values = next(iter(body.items()))
        if (
            not isinstance(values, list)
            or not 1 <= len(values) <= MAX_KEYS_PER_DELETE
            or not all(isinstance(item, str) and item for item in values)
        ):
            raise BadRequest(f"{param!r} must be a list of 1 to {MAX_KEYS_PER_DELETE} texts.", param=param)
        column = "digest" if param == "keys" else "alias"
        references = {digest_of_reference(item) if param == "keys" else item for item in values}
        with transaction.atomic():
            keys = list(VirtualKey.objects.select_for_update().filter(**{f"{column}__in": references}))
            if len(keys) != len(references):
                raise BadRequest(
                    f"{len(references) - len(keys)} of {len(references)} keys do not exist; none was deleted.",
                    code="key_not_found",
                    param=param,
                )
            delete_keys(keys)
        return Response({"deleted_keys": values})


class BlockKey(KeyView):
    blocked = True

    def post(self, request: Request) -> Response:
        body = read_body(request, known={"key"})
        with transaction.atomic():
            key = set_key_blocked(_find_key(read_text(body, "key")), blocked=self.blocked)
        return Response(render_key(key))


class UnblockKey(BlockKey):
    blocked = False


def render_key(key: VirtualKey) -> dict[str, object]:
    """A key in LiteLLM's shape, without its text. `updated_by` is not recorded."""
    return {
        "token": key.digest,
        "key_name": key.masked_text,
        "key_alias": key.alias or None,
        "models": key.allowed_models,
        "metadata": key.metadata,
        "tags": key.metadata.get("tags", []),
        "team_id": key.team_id,
        "user_id": key.user.username if key.user else None,
        "organization_id": key.organization_id,
        "blocked": key.blocked,
        "expires": render_instant(key.expires_at),
        "created_at": render_instant(key.created_at),
        "created_by": key.created_by,
        "updated_at": render_instant(key.updated_at),
        "updated_by": None,
    }


def _render_info(key: VirtualKey) -> dict[str, object]:
    """The key in the shape of /key/info, where the digest stands beside it."""
    is_expired = key.expires_at is not None and key.expires_at <= timezone.now()
    row = render_key(key)
    del row["token"]
    return {**row, "status": "revoked" if key.blocked else "expired" if is_expired else "active"}


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


def _read_changes(body: JsonMapping, key: VirtualKey) -> dict[str, object]:
    """The fields of the body under the names of `update_key`. A key stays in its organization."""
    if read_text(body, "organization_id") not in {None, key.organization_id}:
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
        changes["team"] = _find_team(read_text(body, "team_id"))
    if "user_id" in body:
        user_id = read_text(body, "user_id")
        changes["user"] = find_or_create_user(organization=key.organization, user_id=user_id) if user_id else None
    return changes


def _find_team(team_id: str | None) -> Team | None:
    if team_id is None:
        return None
    team: Team | None = Team.objects.filter(id=team_id).first()
    if team is None:
        raise KeyInvalid("team", f"the team {team_id!r} does not exist")
    return team
