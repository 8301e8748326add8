"""Budget templates: the one way to create, change and delete the limits and budgets that several scopes share."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from django.db import IntegrityError, models
from django.db.models import Count
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.protocol.json.types import JsonMapping
from tenants.audit import audited
from tenants.budget_windows import find_window
from tenants.ids import new_id
from tenants.invalid import KeyInvalid
from tenants.keys import read_name
from tenants.limits import change_limits, check_limits, delete_limits, read_instant
from tenants.models import Budget, BudgetTemplate, EndUser, Membership, Organization, Scope, Team, User, VirtualKey
from tenants.revision import Changed, bump_revision, changed_organization, changed_template, write_transaction

MEMBER_DEFAULTS = "defaults_of_members"
#: The kinds of scopes that take over a template, by their names in answers.
USERS: Final[dict[str, type[models.Model]]] = {
    "keys": VirtualKey,
    "teams": Team,
    "members": Membership,
    MEMBER_DEFAULTS: Team,  # it binds the members that have none of their own
    "users": User,
    "organizations": Organization,
    "end_users": EndUser,
}


OLDEST_RESET = datetime(2020, 1, 1, tzinfo=UTC)


class TemplateInUse(ValueError):
    """The template binds scopes, which would have no limit without it."""

    def __init__(self, used_by: dict[str, int]) -> None:
        self.used_by = used_by
        super().__init__(", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in used_by.items()))


def create_template(
    *,
    organization: Organization,
    template_id: str | None = None,
    limits: JsonMapping,
    is_end_user_default: bool = False,
    created_by: str = "",
) -> BudgetTemplate:
    """Create a template. `template_id` is unique across all organizations; without it, one is generated. `limits` has
    the fields of tenants.limits. Raises KeyInvalid."""
    check_limits(limits)
    template = BudgetTemplate(
        id=read_name(template_id, "budget_id") or new_id(),
        organization=organization,
        created_by=read_name(created_by, "created_by"),
    )
    try:
        with audited("create", template):
            template.save(force_insert=True)
    except IntegrityError:
        raise KeyInvalid("budget_id", f"the budget {template.id!r} exists already") from None
    change_limits(organization, Scope.TEMPLATE, template.id, limits)
    if is_end_user_default:
        _make_default(template)
    bump_revision(*_changes_of(template, is_end_user_default))
    return template


def next_reset(template: BudgetTemplate, duration: str) -> datetime | None:
    """The end of the current window of the template's budget. It is the same for all scopes of its organization."""
    return find_window(duration, ZoneInfo(template.organization.time_zone), timezone.now()).ends_at


def check_reset_at(template: BudgetTemplate, value: object) -> None:
    """Raises KeyInvalid for a `budget_reset_at` that is no end of a window of the template, this one or a past one: the
    calendar says when windows end."""
    if value is None or value == "":
        return
    main = Budget.objects.filter(scope=Scope.TEMPLATE, scope_id=template.id, model="", is_additional=False).first()
    ends_at = next_reset(template, main.duration) if main is not None else None
    if ends_at is None or main is None:
        raise KeyInvalid("budget_reset_at", "needs a budget_duration of the calendar")
    instant = read_instant(value, "budget_reset_at").replace(microsecond=0)
    zone = ZoneInfo(template.organization.time_zone)
    is_end = (
        OLDEST_RESET < instant <= ends_at
        and instant == find_window(main.duration, zone, instant - timedelta(seconds=1)).ends_at
    )
    if not is_end:
        text = ends_at.isoformat()
        raise KeyInvalid("budget_reset_at", f"cannot be set: the calendar resets this budget at {text}; leave it out")


def update_template(
    template: BudgetTemplate, *, limits: JsonMapping, is_end_user_default: bool | None = None
) -> BudgetTemplate:
    """Set the limits that are named; None clears one. Raises KeyInvalid."""
    change_limits(template.organization, Scope.TEMPLATE, template.id, limits)
    was_default = template.is_end_user_default
    if is_end_user_default and not was_default:
        _make_default(template)
    elif is_end_user_default is not None:
        template.is_end_user_default = is_end_user_default
    with audited("update", template):
        template.save(update_fields=["is_end_user_default", "updated_at"])
    bump_revision(*_changes_of(template, was_default or template.is_end_user_default))
    return template


def delete_template(template: BudgetTemplate) -> None:
    """Delete a template that binds no scope. Raises TemplateInUse."""
    with scopes_disabled():  # a platform's template may bind scopes of other organizations
        used_by = count_users([template.id]).get(template.id)
        if used_by:
            raise TemplateInUse(used_by)
    changes = _changes_of(template, template.is_end_user_default)
    with write_transaction():
        delete_limits(template.organization_id, Scope.TEMPLATE, [template.id])
        with audited("delete", template):
            template.delete()
        bump_revision(*changes)


def count_users(template_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """The number of scopes of each kind, within the active one, that use these templates: {id: {kind: number}}."""
    used_by: dict[str, dict[str, int]] = {}
    for kind, model in USERS.items():
        column = "member_template_id" if kind == MEMBER_DEFAULTS else "budget_template_id"
        rows = model._default_manager.filter(**{f"{column}__in": template_ids}).order_by()
        for template_id, count in rows.values_list(column).annotate(count=Count("pk")):
            used_by.setdefault(template_id, {})[kind] = count
    return used_by


def _make_default(template: BudgetTemplate) -> None:
    """Makes it the one template that binds end users without a budget of their own."""
    others = BudgetTemplate.objects.filter(organization=template.organization, is_end_user_default=True)
    others.exclude(pk=template.pk).update(is_end_user_default=False)
    template.is_end_user_default = True
    template.save(update_fields=["is_end_user_default", "updated_at"])


def _changes_of(template: BudgetTemplate, concerns_end_users: bool) -> list[Changed]:
    changes = [changed_template(template.id)]
    return [*changes, changed_organization(template.organization_id)] if concerns_end_users else changes
