"""The management API of keys: /key/* but for the lists and the rotation, with the names of LiteLLM's routes."""

from collections.abc import Collection

from django.db import transaction
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, Fault, NotFound
from gateway.protocol.json.types import JsonMapping, JsonObject
from tenants.directory import find_rules
from tenants.invalid import KeyInvalid
from tenants.keys import (
    delete_keys,
    digest_of_reference,
    find_keys,
    merge_tags,
    set_key_blocked,
)
from tenants.limits import LIMIT_FIELDS, check_limits
from tenants.live_limits import render_usage
from tenants.models import VirtualKey
from tenants.permissions import Area, Caller, Reach
from tenants.rest.authentication import IsKnown, caller_of
from tenants.rest.fields import read_body, read_flag, read_query, read_text
from tenants.rest.key_writes import create_key, write_key
from tenants.rest.keys import (
    KEY_FIELDS,
    KEY_NAMES,
    read_changes,
    read_expiry,
    read_settings,
    render_info,
    render_key,
    render_keys,
    render_whole_key,
    require_key,
)
from tenants.rest.unenforced_fields import check_fields, read_fields, unenforced_in
from tenants.rest.views import ManagementView

MAX_KEYS_PER_DELETE = 1000
MAX_KEYS_PER_REQUEST = 100
UPDATE_FIELDS = KEY_FIELDS | LIMIT_FIELDS | {"key", "spend"}


class KeyView(ManagementView):
    wire_names = KEY_NAMES
    area = Area.KEYS
    least_reach = Reach.OWN

    def find(self, reference: str | None) -> VirtualKey:
        """The key that a body or a path names, if the caller reaches it here. Raises BadRequest and NotFound."""
        return self.check_reach(require_key(reference), "key")

    def check_reach(self, key: VirtualKey, param: str) -> VirtualKey:
        if not self.rows(VirtualKey.objects.filter(pk=key.pk)).exists():
            raise NotFound("Key not found.", param=param)
        return key


class GenerateKey(KeyView):
    is_service_account = False

    def post(self, request: Request) -> Response:
        body = read_fields(request, known=KEY_FIELDS | LIMIT_FIELDS | {"key"})
        check_limits(body)
        team_id, user_id = read_text(body, "team_id"), read_text(body, "user_id")
        if self.is_service_account and team_id is None:
            raise BadRequest("A key of a service account needs 'team_id'.", param="team_id")
        if self.is_service_account and user_id is not None:
            raise BadRequest("A key of a service account has no user.", param="user_id")
        metadata, caller = body.get("metadata"), caller_of(request)
        with transaction.atomic():
            issued = create_key(
                caller,
                organization_id=read_text(body, "organization_id"),
                team_id=team_id,
                user_id=user_id,
                read_fields=lambda organization: {
                    "alias": read_text(body, "key_alias"),
                    "allowed_models": body.get("models"),
                    "metadata": merge_tags(metadata, body["tags"]) if body.get("tags") is not None else metadata,
                    "expires_at": read_expiry(body.get("duration")),
                    **read_settings(body, organization),
                },
                text=body.get("key"),
                is_service_account=self.is_service_account,
                is_blocked=read_flag(body, "blocked"),
                limits=body,
            )
        return Response({**unenforced_in(body), **render_issued(issued.key, issued.text, body)})


class GenerateServiceAccountKey(GenerateKey):
    """A key of a team that belongs to no person, and outlives all of them."""

    is_service_account = True


class KeyInfo(KeyView):
    permission_classes = [IsKnown]

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"key"})
        caller, reference = caller_of(request), query.get("key")
        if caller.key is None and reference is None:
            raise BadRequest("The master key has no row; name a key with ?key=.", param="key")
        key = self.find(reference or (caller.key.digest if caller.key is not None else None))
        limits = render_usage(find_rules(key).limits)
        return Response({"key": key.digest, "info": {**render_info(render_whole_key(key)), "rate_limits": limits}})


class KeyInfoList(KeyView):
    """/v2/key/info: several keys at once. Keys that do not exist are left out."""

    is_read = True

    def post(self, request: Request) -> Response:
        body = read_body(request, known={"keys", "key_aliases"})
        texts = _read_texts(body, "keys", most=MAX_KEYS_PER_REQUEST)
        aliases = _read_texts(body, "key_aliases", most=MAX_KEYS_PER_REQUEST)
        if not texts and not aliases:
            raise BadRequest("Give 'keys' or 'key_aliases'.", param="keys")
        named = find_keys(texts)
        found = {key.pk: key for text in texts if (key := named.get(digest_of_reference(text))) is not None}
        if aliases:
            found |= {
                key.pk: key
                for key in VirtualKey.objects.filter(alias__in=aliases).select_related(
                    "user", "organization", "budget_template"
                )
            }
        reached = set(self.rows(VirtualKey.objects.filter(pk__in=found)).values_list("pk", flat=True))
        keys = [key for key in found.values() if key.pk in reached]
        return Response({"key": texts or aliases, "info": [render_info(row) for row in render_keys(keys)]})


class UpdateKey(KeyView):
    def post(self, request: Request) -> Response:
        body = read_fields(request, known=UPDATE_FIELDS)
        reference = read_text(body, "key")
        with transaction.atomic():
            if reference is not None:
                key = self.find(reference)
            else:
                key = self.check_reach(_find_key_by_alias(read_text(body, "key_alias")), "key_alias")
                del body["key_alias"]  # it names the key and is no new alias
            key = change_key(caller_of(request), key, body)
        return Response({**render_whole_key(key), "key": reference or key.digest})


class UpdateKeys(KeyView):
    """/key/bulk_update. Each key is changed by itself: a refusal of one leaves the others changed."""

    def post(self, request: Request) -> Response:
        items = read_body(request, known={"keys"}).get("keys")
        if not isinstance(items, list) or not 1 <= len(items) <= MAX_KEYS_PER_REQUEST:
            raise BadRequest(f"'keys' must be a list of 1 to {MAX_KEYS_PER_REQUEST} objects.", param="keys")
        if not all(isinstance(item, dict) and isinstance(item.get("key"), str) for item in items):
            raise BadRequest("Each of 'keys' must be an object with the 'key' that it changes.", param="keys")
        changed: list[JsonObject] = []
        failed: list[JsonObject] = []
        for item in items:
            try:
                check_fields(item, known=UPDATE_FIELDS)
                with transaction.atomic():
                    key = change_key(caller_of(request), self.find(read_text(item, "key")), item)
                changed.append({"key": item["key"], "key_info": render_whole_key(key)})
            except KeyInvalid as error:
                param = KEY_NAMES.get(error.param, error.param)
                reason = f"Invalid {param}: {error.message}."
                failed.append({"key": item["key"], "key_info": None, "failed_reason": reason})
            except Fault as fault:
                failed.append({"key": item["key"], "key_info": None, "failed_reason": fault.message})
        return Response({"total_requested": len(items), "successful_updates": changed, "failed_updates": failed})


class DeleteKeys(KeyView):
    def post(self, request: Request) -> Response:
        fields = read_body(request, known={"keys", "key_aliases"})
        body = {name: value for name, value in fields.items() if value is not None and value != []}
        if len(body) != 1:
            raise BadRequest("Give either 'keys' or 'key_aliases'.", param="keys")
        param = next(iter(body))
        values = _read_texts(body, param, most=MAX_KEYS_PER_DELETE)
        with transaction.atomic():
            if param == "keys":
                named = find_keys(values)
                references = {digest_of_reference(item) for item in values}
            else:
                named = {key.alias: key for key in VirtualKey.objects.filter(alias__in=values)}
                references = set(values)
            keys = self.rows(VirtualKey.objects.filter(pk__in={key.pk for key in named.values()})).in_bulk()
            missing = len(references) - sum(key.pk in keys for key in named.values())
            if missing:
                raise BadRequest(
                    f"{missing} of {len(references)} keys do not exist; none was deleted.",
                    code="key_not_found",
                    param=param,
                )
            delete_keys(keys.values())
        return Response({"deleted_keys": values})


class BlockKey(KeyView):
    blocked = True

    def post(self, request: Request) -> Response:
        body = read_body(request, known={"key"})
        with transaction.atomic():
            key = set_key_blocked(self.find(read_text(body, "key")), blocked=self.blocked)
        return Response(render_key(key))


class UnblockKey(BlockKey):
    least_reach = Reach.TEAMS  # an admin may have blocked it
    blocked = False


class KeyHealth(KeyView):
    """A key that gets this answer is healthy; no key has callbacks of its own."""

    permission_classes = [IsKnown]
    is_read = True

    def post(self, request: Request) -> Response:
        read_body(request, known=set())
        return Response({"key": "healthy", "logging_callbacks": None})


def change_key(caller: Caller, key: VirtualKey, body: JsonMapping) -> VirtualKey:
    """Applies the fields of a body to the key, within the transaction of the caller."""
    return write_key(
        caller,
        key,
        team_id=read_text(body, "team_id"),
        user_id=read_text(body, "user_id"),
        read_changes=lambda: read_changes(body, key),
        limits=body,
        spend=body.get("spend"),
    )


def render_issued(key: VirtualKey, text: str, body: JsonMapping) -> JsonObject:
    """The answer that holds the text of a key, in the shape of LiteLLM's GenerateKeyResponse."""
    return {
        **render_whole_key(key),
        "updated_by": key.created_by,
        "key": text,
        "token_id": key.digest,
        "duration": body.get("duration"),
        "project_id": None,
    }


def _read_texts(body: JsonMapping, param: str, *, most: int) -> list[str]:
    """The texts of a field that may be absent, null or empty."""
    values = body.get(param)
    if values is None or values == []:
        return []
    if not isinstance(values, Collection) or isinstance(values, str | dict) or not 1 <= len(values) <= most:
        raise BadRequest(f"{param!r} must be a list of 1 to {most} texts.", param=param)
    if not all(isinstance(item, str) and item for item in values):
        raise BadRequest(f"{param!r} must be a list of 1 to {most} texts.", param=param)
    return list(values)


def _find_key_by_alias(alias: str | None) -> VirtualKey:
    if alias is None:
        raise BadRequest("Name the key with 'key' or 'key_alias'.", param="key")
    key: VirtualKey | None = VirtualKey.objects.filter(alias=alias).first()
    if key is None:
        raise NotFound("Key not found.", param="key_alias")
    return key
