"""Virtual keys: the one way to issue, change, rotate, block and delete them, and the rules that their fields obey.

Every write bumps the revision in its own transaction, so that all processes see it within a second.
Only the answer that issues a key holds its text; the database stores its digest and its last four characters.
"""

import hashlib
import math
import re
import secrets
import string
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import IntegrityError
from django.db.models import Q
from django.utils import timezone
from django_scopes import get_scope, scope, scopes_disabled

from tenants.access import digest_of, is_master
from tenants.audit import audited
from tenants.durations import read_duration
from tenants.invalid import KeyInvalid
from tenants.key_fields import (
    check_cache,
    read_key_timeouts,
    read_model_aliases,
    read_networks,
    read_rotation_interval,
    read_routes,
    read_type,
)
from tenants.limits import delete_limits
from tenants.models import DEFAULT_ORGANIZATION, BudgetTemplate, FormerKey, Organization, Scope, Team, User, VirtualKey
from tenants.revision import bump_revision, changed_key, write_transaction

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
KEY_BYTES = 32
KEY_DIGITS = 43  # 62 ** 43 > 2 ** 256
CHECKSUM_DIGITS = 4
MIN_OWN_KEY_CHARS = 32
MAX_TEXT_CHARS = 255  # the width of the columns
MAX_MODELS = 1000
MAX_FORMER = 100  # digests of a key that no longer work
MAX_METADATA_DEPTH = 64
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
OWN_KEY = re.compile(r"sk-[!-~]+")  # printable ASCII, no space
SAMPLE_KEY = re.compile(r"sk-(?:1234|abcd|xxx|your|example|placeholder|change)", re.IGNORECASE)
MIN_DISTINCT_CHARS = 5

#: LiteLLM's names for "all models that the team may call". A list keeps them as written; `allowed_names` reads them.
EVERY_MODEL = frozenset({"all-team-models", "all-proxy-models"})


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key; the only object that holds its text."""

    text: str = field(repr=False)
    key: VirtualKey


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """The organization of a new key, and its team and user if it has them."""

    organization: Organization
    team: Team | None
    user: User | None


def compute_checksum(body: str) -> str:
    """Four base62 digits that a scanner of leaked secrets can verify offline."""
    return _base62(int.from_bytes(hashlib.sha256(body.encode("ascii")).digest()), CHECKSUM_DIGITS)


def digest_of_reference(reference: str) -> str:
    """The digest of a key that a caller names by its digest or by its text."""
    return reference.lower() if DIGEST.fullmatch(reference) else digest_of(reference)


def find_key(reference: str) -> VirtualKey | None:
    """The key with this text or digest, or with this former text while that works, within the active scope."""
    return find_keys([reference]).get(digest_of_reference(reference))


def find_keys(references: Iterable[str]) -> dict[str, VirtualKey]:
    """The keys that `find_key` finds for each of these texts and digests, by the digest of the reference."""
    digests = {digest_of_reference(reference) for reference in references}
    rows = VirtualKey.objects.select_related("user", "organization", "budget_template")
    keys = {key.digest: key for key in rows.filter(digest__in=digests)}
    missing = digests - keys.keys()
    if missing:
        former = FormerKey.objects.filter(digest__in=missing, expires_at__gt=timezone.now())
        ids = dict(former.values_list("digest", "key_id"))
        found = rows.in_bulk(set(ids.values())) if ids else {}
        keys |= {digest: found[key_id] for digest, key_id in ids.items() if key_id in found}
    return keys


def find_digests(reference: str) -> set[str]:
    """The digests under which the key with this present or former text has been used, or the one digest of a text that
    no key in the active scope has had."""
    digest = digest_of_reference(reference)
    key = VirtualKey.objects.filter(Q(digest=digest) | Q(former_keys__digest=digest)).first()
    if key is None:
        return {digest}
    return {key.digest, *FormerKey.objects.filter(key=key).values_list("digest", flat=True)}


def find_organization(organization_id: str | None) -> Organization:
    """The organization with this id; without an id, the one of the active scope, else the default one.

    Within a scope no other organization exists. Raises KeyInvalid.
    """
    bound = get_scope().get("organization")
    own = bound.pk if isinstance(bound, Organization) else bound
    name = read_name(organization_id, "organization") or own or DEFAULT_ORGANIZATION
    organization = Organization.objects.filter(id=name).first() if own in {None, name} else None
    if organization is None:
        raise KeyInvalid("organization", f"the organization {name!r} does not exist")
    return organization


def resolve_key_owner(
    *, organization_id: str | None = None, team_id: str | None = None, user_id: str | None = None
) -> KeyOwner:
    """The owner of a new key. Its organization is the team's, else the named one, else the user's, else the default.

    An unknown user is created (see `find_or_create_user`), so the caller opens a transaction. Raises KeyInvalid.
    """
    organization_id = read_name(organization_id, "organization")
    team_id, user_id = read_name(team_id, "team"), read_name(user_id, "user")
    team: Team | None = None
    if team_id:
        team = Team.objects.filter(id=team_id).select_related("organization").first()
        if team is None:
            raise KeyInvalid("team", f"the team {team_id!r} does not exist")
        if organization_id and organization_id != team.organization_id:
            raise KeyInvalid("organization", f"the team {team_id!r} belongs to another organization")
        organization = team.organization
    elif user_id and not organization_id:
        with scopes_disabled():  # ids of users are unique across all organizations
            existing = User.objects.filter(username=user_id).select_related("organization").first()
        organization = (existing.organization if existing else None) or find_organization(None)
    else:
        organization = find_organization(organization_id)
    user = find_or_create_user(organization=organization, user_id=user_id) if user_id else None
    return KeyOwner(organization, team, user)


def find_or_create_user(*, organization: Organization, user_id: str) -> User:
    """The user with this id. An unknown user is created in the organization, without a password."""
    name = read_name(user_id, "user")
    if not name:
        raise KeyInvalid("user", "must not be blank")
    draft = User(username=name)
    draft.set_unusable_password()
    with scopes_disabled():  # ids of users are unique across all organizations
        user, _ = User.objects.get_or_create(
            username=name,
            defaults={"organization": organization, "password": draft.password, "is_staff": False},
        )
    return user


def issue_key(
    *,
    organization: Organization,
    alias: str = "",
    allowed_models: Iterable[str] | None = (),
    team: Team | None = None,
    user: User | None = None,
    metadata: Mapping[str, object] | None = None,
    expires_at: datetime | None = None,
    created_by: str = "",
    text: str | None = None,
    is_service_account: bool = False,
    fields: Mapping[str, object] | None = None,
) -> IssuedKey:
    """Store a new key. `text` is the key that the caller chose; without it, one is generated. `fields` are further ones
    under the names of `update_key`. Raises KeyInvalid."""
    text = _generate_text() if text is None else _read_text(text)
    key = VirtualKey(
        organization=organization,
        team=_read_team(team, organization),
        user=_read_user(user, organization),
        alias=read_name(alias, "alias"),
        digest=digest_of(text),
        last4=text[-4:],
        allowed_models=read_models(allowed_models),
        metadata=check_cache(read_metadata(metadata)),
        expires_at=_read_instant(expires_at),
        created_by=read_name(created_by, "created_by"),
        is_service_account=is_service_account,
    )
    _apply(key, fields or {})
    with write_transaction():
        _save(key)
        bump_revision(changed_key(key.digest))
    return IssuedKey(text, key)


def update_key(key: VirtualKey, *, changes: Mapping[str, object]) -> VirtualKey:
    """Change the named fields; None clears. Raises KeyInvalid.

    Names: alias, allowed_models, metadata, tags, team, user, expires_at, blocked, type, allowed_routes,
    allowed_networks, model_aliases, timeouts, budget_template, rotation_interval. `metadata` replaces all of the
    metadata, `tags` only the tags in it.
    """
    with scope(organization=key.organization_id), write_transaction():
        row = VirtualKey.objects.select_for_update().get(pk=key.pk)
        columns = _apply(row, changes)
        if columns:
            _save(row, update_fields=[*columns, "updated_at"])
            bump_revision(changed_key(row.digest))
    return row


def _apply(row: VirtualKey, changes: Mapping[str, object]) -> list[str]:
    """Sets the named fields of the row. Returns the columns that it set."""
    columns: set[str] = set()
    for name, value in changes.items():
        column = name
        match name:
            case "alias":
                row.alias = read_name(value, name)
            case "allowed_models":
                row.allowed_models = read_models(value)
            case "metadata":
                row.metadata = check_cache(read_metadata(value))
            case "tags":
                continue  # merged below, because the metadata may change too
            case "team":
                row.team = _read_team(value, row.organization)
            case "user":
                row.user = _read_user(value, row.organization)
            case "expires_at":
                row.expires_at = _read_instant(value)
            case "blocked":
                row.blocked = _read_flag(value, name)
            case "type":
                row.type = read_type(value)
            case "allowed_routes":
                row.allowed_routes = read_routes(value)
            case "allowed_networks":
                row.allowed_networks = read_networks(value)
            case "model_aliases":
                row.model_aliases = read_model_aliases(value)
            case "timeouts":
                row.timeouts = read_key_timeouts(value)
            case "budget_template":
                row.budget_template = _read_template(value)
            case "rotation_interval":
                row.rotation_interval = read_rotation_interval(value)
                _schedule_rotation(row)
                columns.add("rotates_at")
            case _:
                raise KeyInvalid(name, "cannot be changed")
        columns.add(column)
    if "tags" in changes:
        row.metadata = merge_tags(row.metadata, changes["tags"])
        columns.add("metadata")
    return sorted(columns)


def rotate_key(key: VirtualKey, *, text: str | None = None, grace: timedelta | None = None) -> IssuedKey:
    """Give the key a new text; `text` is one that the caller chose. The former text works for `grace` more, or stops at
    once. The key's id, limits, spend and history stay. A key that has this text already is left alone. Raises
    KeyInvalid."""
    now = timezone.now()
    text = _generate_text() if text is None else _read_text(text)
    digest = digest_of(text)
    with scope(organization=key.organization_id), write_transaction():
        row = VirtualKey.objects.select_for_update().get(pk=key.pk)
        former = row.digest
        if digest == former:
            return IssuedKey(text, row)
        FormerKey.objects.create(digest=former, key=row, expires_at=now + (grace or timedelta()))
        _forget_former(row, now)
        row.digest, row.last4 = digest, text[-4:]
        _schedule_rotation(row)
        _save(row, update_fields=["digest", "last4", "rotates_at", "updated_at"], action="rotate")
        bump_revision(changed_key(former), changed_key(digest))
    return IssuedKey(text, row)


def _forget_former(key: VirtualKey, now: datetime) -> None:
    """The digests of former texts that no longer work stay, because the spend log names the key by them; the newest."""
    expired = FormerKey.objects.filter(key=key, expires_at__lte=now).order_by("-expires_at", "digest")
    surplus = list(expired.values_list("digest", flat=True)[MAX_FORMER:])
    FormerKey.objects.filter(digest__in=surplus).delete()


def _schedule_rotation(row: VirtualKey) -> None:
    interval = row.rotation_interval
    row.rotates_at = timezone.now() + read_duration(interval, "rotation_interval") if interval else None


def set_key_blocked(key: VirtualKey, *, blocked: bool) -> VirtualKey:
    return update_key(key, changes={"blocked": blocked})


def delete_keys(keys: Iterable[VirtualKey]) -> None:
    """Delete the keys with their limits and budgets. Their spend logs stay."""
    ids: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        ids[key.organization_id].append(key.pk)
    # The caller read these rows within its scope, so deleting them by id needs none.
    with scopes_disabled(), write_transaction():
        rows = VirtualKey.objects.filter(pk__in=[pk for pks in ids.values() for pk in pks])
        locked = list(rows.select_for_update())
        if locked:
            with audited("delete", *locked):
                rows.delete()
            for organization_id, pks in ids.items():
                delete_limits(organization_id, Scope.KEY, pks)
            bump_revision(*(changed_key(key.digest) for key in locked))


def read_name(value: object, param: str) -> str:
    """A name or id without blanks around it; empty for None. Raises KeyInvalid if it does not fit its column."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise KeyInvalid(param, "must be text")
    value = value.strip()
    if len(value) > MAX_TEXT_CHARS:
        raise KeyInvalid(param, f"must not be longer than {MAX_TEXT_CHARS} characters")
    return _check_storable(value, param)


def read_models(value: object, param: str = "allowed_models") -> list[str]:
    """A list of model names without repetitions, as a key or team stores it. Raises KeyInvalid."""
    if value is None:
        return []
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise KeyInvalid(param, "must be a list of model names")
    models = list(value)
    if len(models) > MAX_MODELS:
        raise KeyInvalid(param, f"must not hold more than {MAX_MODELS} names")
    if not all(isinstance(name, str) and name.strip() for name in models):
        raise KeyInvalid(param, "must be a list of model names, each a text that is not empty")
    return list(dict.fromkeys(read_name(name, param) for name in models))


def allowed_names(models: Collection[str]) -> frozenset[str]:
    """The names to which a stored list restricts calls; none where it allows every model."""
    return frozenset(models if EVERY_MODEL.isdisjoint(models) else ())


def read_metadata(value: object, param: str = "metadata") -> dict[str, object]:
    """A JSON object that both databases can store. Raises KeyInvalid."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise KeyInvalid(param, "must be a JSON object")
    return {_read_json_key(key, param): _read_json_value(item, param, 1) for key, item in value.items()}


def merge_tags(metadata: Mapping[str, object] | None, tags: object) -> dict[str, object]:
    """The metadata with these tags; None removes its tags. Raises KeyInvalid."""
    merged = read_metadata(metadata)
    if tags is None:
        merged.pop("tags", None)
        return merged
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise KeyInvalid("tags", "must be a list of texts")
    return {**merged, "tags": [read_name(tag, "tags") for tag in tags]}


def _generate_text() -> str:
    body = _base62(int.from_bytes(secrets.token_bytes(KEY_BYTES)), KEY_DIGITS)
    return f"sk-{body}{compute_checksum(body)}"


def _base62(number: int, digits: int) -> str:
    """The last `digits` digits of the number in base 62."""
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, len(ALPHABET))
        text = ALPHABET[digit] + text
    return text


def _read_text(text: object) -> str:
    """The text of a key that the caller chose."""
    if not isinstance(text, str):
        raise KeyInvalid("text", "a key is text")
    if not text.startswith("sk-"):
        raise KeyInvalid("text", "a key must start with 'sk-'")
    if not MIN_OWN_KEY_CHARS <= len(text) <= MAX_TEXT_CHARS:
        raise KeyInvalid("text", f"a key must have {MIN_OWN_KEY_CHARS} to {MAX_TEXT_CHARS} characters")
    if not OWN_KEY.fullmatch(text):
        raise KeyInvalid("text", "a key must consist of printable ASCII characters without spaces")
    if SAMPLE_KEY.match(text) or len(set(text[3:])) < MIN_DISTINCT_CHARS:
        raise KeyInvalid("text", "this key is a well-known sample; leave the field out to have one generated")
    if is_master(text):
        raise KeyInvalid("text", "the master key cannot be a virtual key")
    if FormerKey.objects.filter(digest=digest_of(text)).exists():
        raise KeyInvalid("text", "this key was rotated; choose another one")
    return text


def _read_team(team: object, organization: Organization) -> Team | None:
    if team is None:
        return None
    if not isinstance(team, Team):
        raise KeyInvalid("team", "must be a team")
    if team.organization_id != organization.pk:
        raise KeyInvalid("team", "the team belongs to another organization")
    return team


def _read_user(user: object, organization: Organization) -> User | None:
    """A user of the organization, or a platform admin, who may hold keys in every organization."""
    if user is None:
        return None
    if not isinstance(user, User):
        raise KeyInvalid("user", "must be a user")
    if user.organization_id not in {None, organization.pk}:
        raise KeyInvalid("user", "the user belongs to another organization")
    return user


def _read_template(template: object) -> BudgetTemplate | None:
    """A template that `limits.find_template` found for the organization of the key."""
    if template is not None and not isinstance(template, BudgetTemplate):
        raise KeyInvalid("budget_template", "must be a budget")
    return template


def _read_instant(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or timezone.is_naive(value):
        raise KeyInvalid("expires_at", "must be an instant with its time zone")
    return value


def _read_flag(value: object, param: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise KeyInvalid(param, "must be true or false")
    return bool(value)


def _check_storable(text: str, param: str) -> str:
    """The text. Raises KeyInvalid for a NUL, which PostgreSQL cannot store, and for half a surrogate pair."""
    if "\0" in text:
        raise KeyInvalid(param, "must not contain a NUL character")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise KeyInvalid(param, "must not contain half a surrogate pair")
    return text


def _read_json_key(key: object, param: str) -> str:
    if not isinstance(key, str):
        raise KeyInvalid(param, "must be a JSON object")
    return _check_storable(key, param)


def _read_json_value(value: object, param: str, depth: int) -> object:
    if depth > MAX_METADATA_DEPTH:
        raise KeyInvalid(param, f"must not be nested deeper than {MAX_METADATA_DEPTH} levels")
    match value:
        case None | bool() | int():
            return value
        case str():
            return _check_storable(value, param)
        case Decimal() | float():
            number = float(value)  # metadata is never money, and JSON columns store floats only
            if not math.isfinite(number):
                raise KeyInvalid(param, "holds a number that is too large or not a number")
            return number
        case Mapping():
            return {_read_json_key(key, param): _read_json_value(item, param, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_read_json_value(item, param, depth + 1) for item in value]
        case _:
            raise KeyInvalid(param, "must hold only what JSON can express")


def _save(key: VirtualKey, *, update_fields: list[str] | None = None, action: str = "update") -> None:
    """Save the key. Two writers may choose one alias at once, so the constraint decides and not a query before it."""
    try:
        with audited("create" if update_fields is None else action, key):
            key.save(force_insert=update_fields is None, update_fields=update_fields)
    except IntegrityError:
        with scopes_disabled():  # the constraints hold across all organizations
            others = VirtualKey.objects.exclude(pk=key.pk)
            if others.filter(digest=key.digest).exists():
                raise KeyInvalid("text", "this key exists already") from None
            if key.alias and others.filter(alias=key.alias).exists():
                raise KeyInvalid("alias", f"the alias {key.alias!r} is taken by another key") from None
        raise
