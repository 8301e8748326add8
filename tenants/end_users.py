"""End users (LiteLLM's customers): the one way to create, change, block and delete them, and their rows on first sight.

A client names an end user in its requests. Pricing creates the rows of names that it sees first; limits, budgets and
models bind a name whether it has a row or not.
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from django.db import IntegrityError
from django_scopes import scopes_disabled

from gateway.protocol.json.types import JsonMapping
from tenants.audit import audited
from tenants.invalid import KeyInvalid
from tenants.keys import read_models, read_name
from tenants.limits import LIMIT_FIELDS, change_limits, check_limits, delete_limits, find_template
from tenants.models import EndUser, Organization, Scope
from tenants.revision import bump_revision, changed_end_user, write_transaction

MAX_NAME_CHARS = 255
#: Of names that requests invent, so many get rows: of one organization, an hour, in each process that prices.
MAX_NEW_AN_HOUR = 10_000
OWN_BUDGET = ("max_budget", "soft_budget", "budget_duration", "budget_limits")


class FirstSights:
    """Creates the rows of end users that requests name for the first time. A flood of names is bounded."""

    def __init__(self, max_new: int = MAX_NEW_AN_HOUR) -> None:
        self._max_new = max_new
        self._hour = -1
        self._new: defaultdict[str, int] = defaultdict(int)

    def create_rows(self, names: Collection[tuple[str, str]]) -> None:
        """Takes (organization id, end user) of calls; names without an end user are ignored."""
        wanted = {(organization_id, name) for organization_id, name in names if name}
        if not wanted:
            return
        hour = int(time.time()) // 3600
        if hour != self._hour:
            self._hour = hour
            self._new.clear()
        organizations = {organization_id for organization_id, _ in wanted}
        with scopes_disabled():
            existing = EndUser.objects.filter(
                organization_id__in=organizations, external_id__in={name for _, name in wanted}
            )
            new = sorted(wanted.difference(existing.order_by().values_list("organization_id", "external_id")))
            if not new:
                return
            living = set(Organization.objects.filter(id__in=organizations).values_list("id", flat=True))
            rows: list[EndUser] = []
            for organization_id, name in new:
                if organization_id in living and self._new[organization_id] < self._max_new:
                    self._new[organization_id] += 1
                    rows.append(EndUser(organization_id=organization_id, external_id=name))
            EndUser.objects.bulk_create(rows, ignore_conflicts=True)


def create_end_user(
    *, organization: Organization, name: str, changes: Mapping[str, object], limits: JsonMapping
) -> EndUser:
    """Create an end user, whom requests call `name`. For `changes` and `limits` see `update_end_user`. Raises
    KeyInvalid."""
    end_user = EndUser(organization=organization, external_id=_read_external_id(name))
    limits = _apply(end_user, changes, limits)
    try:
        with audited("create", end_user):
            end_user.save(force_insert=True)
    except IntegrityError:
        raise KeyInvalid("user_id", f"the customer {name!r} exists already") from None
    change_limits(organization, Scope.END_USER, end_user.external_id, limits)
    bump_revision(changed_end_user(end_user.organization_id, end_user.external_id))
    return end_user


def update_end_user(end_user: EndUser, *, changes: Mapping[str, object], limits: JsonMapping) -> EndUser:
    """Change the named fields; None clears. Raises KeyInvalid.

    Names: alias, blocked, allowed_models, budget_id. `limits` has the fields of tenants.limits. A new `budget_id` takes
    the place of the budget that the end user had of its own.
    """
    limits = _apply(end_user, changes, limits)
    with audited("update", end_user):
        end_user.save()
        if LIMIT_FIELDS & limits.keys():
            change_limits(end_user.organization, Scope.END_USER, end_user.external_id, limits)
        bump_revision(changed_end_user(end_user.organization_id, end_user.external_id))
    return end_user


def block_end_users(organization: Organization, names: Iterable[str]) -> list[EndUser]:
    """Block the end users with these names; a name that no request has used yet gets a row."""
    names = [_read_external_id(name) for name in dict.fromkeys(names)]
    with write_transaction():
        EndUser.objects.bulk_create(
            [EndUser(organization=organization, external_id=name) for name in names], ignore_conflicts=True
        )
        return set_end_users_blocked(list(_select(organization, names)), blocked=True)


def set_end_users_blocked(end_users: Collection[EndUser], *, blocked: bool) -> list[EndUser]:
    with audited("block" if blocked else "unblock", *end_users):
        for end_user in end_users:
            end_user.blocked = blocked
            end_user.save(update_fields=["blocked", "updated_at"])
        bump_revision(*(changed_end_user(row.organization_id, row.external_id) for row in end_users))
    return list(end_users)


def delete_end_users(end_users: Collection[EndUser]) -> None:
    """Delete the end users with their limits, budgets and windows. Spend logs stay, and a request that names one again
    makes a new row."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for end_user in end_users:
        names[end_user.organization_id].append(end_user.external_id)
    with audited("delete", *end_users):
        for organization_id, external_ids in names.items():
            EndUser.objects.filter(organization_id=organization_id, external_id__in=external_ids).delete()
            delete_limits(organization_id, Scope.END_USER, external_ids)
        bump_revision(*(changed_end_user(row.organization_id, row.external_id) for row in end_users))


def _apply(end_user: EndUser, changes: Mapping[str, object], limits: JsonMapping) -> JsonMapping:
    """Sets the columns. Returns the limits that are to change."""
    check_limits(limits)
    if changes.get("budget_id") is not None and limits.get("max_budget") is not None:
        raise KeyInvalid("budget_id", "give either max_budget or budget_id")
    for name, value in changes.items():
        match name:
            case "alias":
                end_user.alias = read_name(value, name)
            case "blocked":
                end_user.blocked = bool(value)
            case "allowed_models":
                end_user.allowed_models = read_models(value)
            case "budget_id":
                template_id = read_name(value, name)
                template = find_template(template_id, end_user.organization) if template_id else None
                end_user.budget_template = template
                if template is not None:
                    limits = {**dict.fromkeys(OWN_BUDGET), **limits}
            case _:
                raise KeyInvalid(name, "cannot be changed")
    return limits


def _select(organization: Organization, names: Collection[str]) -> Iterable[EndUser]:
    rows = EndUser.objects.filter(organization=organization, external_id__in=names)
    return rows.select_related("organization").order_by("id")


def _read_external_id(name: str) -> str:
    """The name as requests have it: blanks around it belong to it."""
    if not name or len(name) > MAX_NAME_CHARS:
        raise KeyInvalid("user_id", f"must have 1 to {MAX_NAME_CHARS} characters")
    read_name(name, "user_id")
    return name
