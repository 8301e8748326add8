"""The limits and budgets of a scope: the one way to read, change and show them, under LiteLLM's field names.

`max_budget`, `soft_budget` and `budget_duration` are the main budget, `budget_limits` further windows beside it,
`model_max_budget` budgets of single models; `rpm_limit`, `tpm_limit`, `tpd_limit`, `max_parallel_requests`,
`model_rpm_limit`, `model_tpm_limit` are rate limits; `temp_budget_increase` and `temp_budget_expiry` raise the main
budget for a time; `budget_id` names a template that fills in what the scope has no value for.

Amounts are USD at this edge, as numbers or decimal text, and picodollars in the database.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Greatest
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django_scopes import scopes_disabled

from gateway.protocol.amounts import PUSD, usd_text
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from tenants.audit import Entry, record
from tenants.budget_fields import read_budget_duration, read_usd
from tenants.budget_store import delete_budgets, delete_spenders
from tenants.budget_usage import Spender, SpenderUsage, read_usages
from tenants.budget_windows import find_window
from tenants.invalid import KeyInvalid
from tenants.models import (
    DEFAULT_ORGANIZATION,
    Budget,
    BudgetTemplate,
    BudgetWindow,
    Organization,
    RateLimit,
    Scope,
    SpendTotal,
)
from tenants.revision import write_transaction
from tenants.rules import spender_id

Dimension: TypeAlias = RateLimit.Dimension
Period: TypeAlias = RateLimit.Period

#: The columns that name a scope, as arguments of a query.
Where: TypeAlias = Mapping[str, Any]

#: Field → the rate limit that it sets.
RATE_FIELDS: Mapping[str, tuple[Dimension, Period]] = {
    "rpm_limit": (Dimension.REQUESTS, Period.MINUTE),
    "tpm_limit": (Dimension.TOKENS, Period.MINUTE),
    "itpm_limit": (Dimension.INPUT_TOKENS, Period.MINUTE),
    "otpm_limit": (Dimension.OUTPUT_TOKENS, Period.MINUTE),
    "rpd_limit": (Dimension.REQUESTS, Period.DAY),
    "tpd_limit": (Dimension.TOKENS, Period.DAY),
    "max_parallel_requests": (Dimension.PARALLEL, Period.MINUTE),
}
#: Field of {model: value} → the rate limit of each model.
MODEL_RATE_FIELDS: Mapping[str, tuple[Dimension, Period]] = {
    "model_rpm_limit": (Dimension.REQUESTS, Period.MINUTE),
    "model_tpm_limit": (Dimension.TOKENS, Period.MINUTE),
    "model_itpm_limit": (Dimension.INPUT_TOKENS, Period.MINUTE),
    "model_otpm_limit": (Dimension.OUTPUT_TOKENS, Period.MINUTE),
}
BUDGET_FIELDS = frozenset(
    {
        "max_budget",
        "soft_budget",
        "budget_duration",
        "budget_limits",
        "model_max_budget",
        "temp_budget_increase",
        "temp_budget_expiry",
    }
)
LIMIT_FIELDS = BUDGET_FIELDS | RATE_FIELDS.keys() | MODEL_RATE_FIELDS.keys()
MAX_RATE = 10**15
MAX_MODELS = 1000
MAX_WINDOWS = 10


def check_limits(body: JsonMapping) -> None:
    """Raises KeyInvalid for a value that no scope can have."""
    for name, value in body.items():
        if name in LIMIT_FIELDS:
            _read_field(name, value)
    if (body.get("temp_budget_increase") is None) != (body.get("temp_budget_expiry") is None):
        raise KeyInvalid("temp_budget_increase", "needs temp_budget_expiry, and the other way round")


def change_limits(organization: Organization, scope: Scope, scope_id: str, body: JsonMapping) -> None:
    """Sets the fields of LIMIT_FIELDS that the body has; None and the empty value clear. Ignores other fields.

    Within the transaction of the caller, which bumps the revision. Raises KeyInvalid.
    """
    check_limits(body)
    where = {"organization": organization, "scope": scope, "scope_id": scope_id}
    if not LIMIT_FIELDS & body.keys():
        return
    with write_transaction():
        before = render_limits(organization, scope, scope_id)
        for name, (dimension, period) in RATE_FIELDS.items():
            if name in body:
                _replace_rates(where, dimension, period, {"": body[name]})
        for name, (dimension, period) in MODEL_RATE_FIELDS.items():
            if name in body:
                _replace_rates(where, dimension, period, body[name] or {}, of_models=True)
        if BUDGET_FIELDS & body.keys():
            _change_budgets(where, body)
        _audit(organization, scope, scope_id, before)


def _audit(organization: Organization, scope: Scope, scope_id: str, before: JsonObject) -> None:
    """Records the limits that changed."""
    after = render_limits(organization, scope, scope_id)
    changed = [name for name in after if after[name] != before[name]]
    if changed:
        old, new = ({name: str(fields[name]) for name in changed} for fields in (before, after))
        record(Entry("limits", scope.value, scope_id, organization.id, old, new))


def copy_limits(organization: Organization, source: tuple[Scope, str], target: tuple[Scope, str]) -> None:
    """Gives a scope the limits and budgets of another one; what the other has spent is not copied."""
    change_limits(organization, *target, render_limits(organization, *source))


def delete_limits(organization_id: str, scope: Scope, scope_ids: Collection[str]) -> None:
    """Deletes the limits, budgets and windows of scopes that are being deleted."""
    where = {"organization_id": organization_id, "scope": scope, "scope_id__in": scope_ids}
    spenders = [spender_id(organization_id, scope, scope_id) for scope_id in scope_ids]
    RateLimit.objects.filter(**where).delete()
    delete_spenders(Budget.objects.filter(**where), scope, spenders)
    SpendTotal.objects.filter(**where).delete()


def render_limits(organization: Organization, scope: Scope, scope_id: str) -> JsonObject:
    """Every field of LIMIT_FIELDS as it was set; None, [] and {} where nothing is set."""
    where = {"organization": organization, "scope": scope, "scope_id": scope_id}
    return render_rows(RateLimit.objects.filter(**where), Budget.objects.filter(**where))


def render_scopes(
    scope: Scope, scopes: Collection[tuple[str, str]], *, amount: Callable[[int | None], Json] | None = None
) -> dict[tuple[str, str], JsonObject]:
    """The fields of many scopes of one kind, with two queries: {(organization id, scope id): fields}. The caller may
    see them; a template may be another organization's than the active scope's."""
    where: Where = {
        "scope": scope,
        "organization_id__in": {organization_id for organization_id, _ in scopes},
        "scope_id__in": {scope_id for _, scope_id in scopes},
    }
    limits: dict[tuple[str, str], list[RateLimit]] = defaultdict(list)
    budgets: dict[tuple[str, str], list[Budget]] = defaultdict(list)
    with scopes_disabled():
        for limit in RateLimit.objects.filter(**where):
            limits[limit.organization_id, limit.scope_id].append(limit)
        for budget in Budget.objects.filter(**where):
            budgets[budget.organization_id, budget.scope_id].append(budget)
    return {name: render_rows(limits[name], budgets[name], amount=amount) for name in scopes}


def render_rows(
    limits: Iterable[RateLimit], budgets: Iterable[Budget], *, amount: Callable[[int | None], Json] | None = None
) -> JsonObject:
    """The fields of rows that were read already, all of one scope. `amount` shows picodollars, else `usd` does."""
    show = amount or usd
    limits, budgets = list(limits), list(budgets)
    values = {(row.dimension, row.period, row.model): row.value for row in limits}
    fields: JsonObject = {name: values.get((*rate, "")) for name, rate in RATE_FIELDS.items()}
    for name, rate in MODEL_RATE_FIELDS.items():
        fields[name] = {row.model: row.value for row in limits if row.model and (row.dimension, row.period) == rate}
    main = next((row for row in budgets if not row.model and not row.is_additional), None)
    fields["max_budget"] = show(main.limit_pusd) if main else None
    fields["soft_budget"] = show(main.soft_limit_pusd) if main else None
    fields["budget_duration"] = (main.duration or None) if main else None
    fields["budget_limits"] = [
        {"budget_duration": row.duration or None, "max_budget": show(row.limit_pusd)}
        for row in budgets
        if row.is_additional
    ]
    fields["model_max_budget"] = {
        row.model: {"budget_limit": show(row.limit_pusd), "time_period": row.duration or None}
        for row in budgets
        if row.model
    }
    is_raised = main is not None and main.increase_ends_at is not None
    fields["temp_budget_increase"] = show(main.increase_pusd) if main and is_raised else None
    fields["temp_budget_expiry"] = main.increase_ends_at.isoformat() if main and main.increase_ends_at else None
    return fields


def read_spend(organization: Organization, scope: Scope, scope_id: str, template_id: str | None = None) -> JsonObject:
    """The spend of one scope as LiteLLM's answers show it; see `read_spends`."""
    return read_spends(organization, scope, {scope_id: template_id})[scope_id]


def read_spends(organization: Organization, scope: Scope, templates: Mapping[str, str | None]) -> dict[str, JsonObject]:
    """The spend of scopes by their ids, with three queries for all of them. Takes {scope id: the id of its template}.

    Shape of each, with amounts in USD: `spend` (of the current window of the main budget; without a duration, of all
    time), `total_spend` (of all time), `held` (reserved by running calls in the main budget), `budget_reset_at` (the
    end of the main budget's window in ISO 8601, or None), and `budgets`: {`model`, `budget_duration`, `max_budget`,
    `soft_budget`, `spend`, `held`, `remaining`, `budget_reset_at`} of every budget that applies, the main one first.
    Its `max_budget` includes a temporary increase. All that processes lease counts as held.

    The caller is within the scope of the organization, or of none.
    """
    usages = read_usages(
        [Spender(organization, scope, scope_id, template_id) for scope_id, template_id in templates.items()]
    )
    return {scope_id: render_spend(usage) for scope_id, usage in zip(templates, usages, strict=True)}


def render_spend(usage: SpenderUsage) -> JsonObject:
    """The spending of one scope, as `read_spends` returns it."""
    main = usage.main
    return {
        "spend": usd(usage.spend_pusd),
        "total_spend": usd(usage.total_pusd),
        "held": usd(main.state.leased_pusd if main is not None else 0),
        "budget_reset_at": _instant_text(main.state.ends_at) if main is not None else None,
        "budgets": [
            {
                "model": entry.budget.model or None,
                "budget_duration": entry.budget.duration or None,
                "max_budget": usd(entry.state.limit_pusd),
                "soft_budget": usd(entry.budget.soft_limit_pusd),
                "spend": usd(max(0, entry.state.spent_pusd)),
                "held": usd(entry.state.leased_pusd),
                "remaining": usd(max(0, room) if (room := entry.state.room_pusd) is not None else None),
                "budget_reset_at": _instant_text(entry.state.ends_at),
            }
            for entry in usage.budgets
        ],
    }


def _instant_text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant is not None else None


def reset_spend(organization: Organization, scope: Scope, scope_id: str, pusd: int) -> None:
    """Makes the spend of the scope count as this amount, at most what it is, in the current windows of its budgets and
    of its template's, and in its total. The rows of the spend log and the sums in reports stay. Audited."""
    now, zone = timezone.now(), ZoneInfo(organization.time_zone)
    with write_transaction():
        windows = BudgetWindow.objects.select_for_update(of=("self",)).select_related("budget").order_by("id")
        current = windows.filter(scope=scope, scope_id=spender_id(organization.id, scope, scope_id))
        for window in current.filter(Q(ends_at=None) | Q(ends_at__gt=now)):
            if window.starts_at == find_window(window.budget.duration, zone, now).starts_at:
                window.credit_pusd = max(window.credit_pusd, window.settled_pusd - pusd)
                window.save(update_fields=["credit_pusd"])
        totals = SpendTotal.objects.filter(organization=organization, scope=scope, scope_id=scope_id)
        totals.update(credit_pusd=Greatest(F("credit_pusd"), F("pusd") - pusd))
        record(Entry("reset_spend", scope.value, scope_id, organization.id, None, {"spend": str(usd(pusd))}))


def find_template(template_id: str, organization: Organization) -> BudgetTemplate:
    """A template of the organization, or one of the default organization, which all may use. Raises KeyInvalid."""
    with scopes_disabled():  # the caller's scope has no template of the default organization
        template = BudgetTemplate.objects.filter(
            id=template_id, organization_id__in={organization.id, DEFAULT_ORGANIZATION}
        ).first()
    if template is None:
        raise KeyInvalid("budget_id", f"the budget {template_id!r} does not exist")
    return template


def usd(pusd: int | None) -> float | None:
    """A number for LiteLLM's clients, whose budgets are floats."""
    return None if pusd is None else float(Decimal(pusd) / PUSD)


def usd_or_none(pusd: int | None) -> str | None:
    """Exact decimal text."""
    return None if pusd is None else usd_text(pusd)


def _read_field(name: str, value: Json) -> None:
    if value is None:
        return
    if name in RATE_FIELDS:
        _read_rate(value, name)
    elif name in MODEL_RATE_FIELDS:
        for model, rate in _read_object(value, name).items():
            _check_model(model, name)
            _read_rate(rate, name)
    elif name == "budget_duration":
        read_budget_duration(value)
    elif name == "model_max_budget":
        for model, entry in _read_object(value, name).items():
            _check_model(model, name)
            _read_model_budget(entry)
    elif name == "budget_limits":
        _read_windows(value)
    elif name == "temp_budget_expiry":
        read_instant(value, name)
    else:
        read_usd(value, name)


def _read_rate(value: Json, param: str) -> int:
    if isinstance(value, Decimal | float) and value == int(value):
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_RATE:
        raise KeyInvalid(param, "must be a whole number that is not negative; null is no limit")
    return value


def _read_object(value: Json, param: str) -> JsonMapping:
    if not isinstance(value, dict) or len(value) > MAX_MODELS:
        raise KeyInvalid(param, f"must be an object of at most {MAX_MODELS} models")
    return value


def _check_model(model: str, param: str) -> None:
    if not 0 < len(model) <= 255 or "\0" in model:
        raise KeyInvalid(param, "names a model that cannot be")


def _read_model_budget(entry: Json) -> tuple[int, str]:
    """Picodollars and duration of one model: a number, or an object with LiteLLM's names for both."""
    param = "model_max_budget"
    if not isinstance(entry, dict):
        return read_usd(entry, param), ""
    unknown = entry.keys() - {"budget_limit", "max_budget", "time_period", "budget_duration"}
    if unknown:
        raise KeyInvalid(param, f"does not know {min(unknown)[:100]!r}")
    amount = entry.get("budget_limit", entry.get("max_budget"))
    return read_usd(amount, param), read_budget_duration(entry.get("time_period", entry.get("budget_duration")), param)


def _read_windows(value: Json) -> list[tuple[int, str]]:
    """Picodollars and duration of each further window."""
    param = "budget_limits"
    if not isinstance(value, list) or len(value) > MAX_WINDOWS:
        raise KeyInvalid(param, f"must be a list of at most {MAX_WINDOWS} windows")
    windows: list[tuple[int, str]] = []
    for entry in value:
        if not isinstance(entry, dict) or entry.keys() - {"budget_duration", "max_budget", "reset_at"}:
            raise KeyInvalid(param, "must hold objects of budget_duration and max_budget")
        windows.append(
            (read_usd(entry.get("max_budget"), param), read_budget_duration(entry.get("budget_duration"), param))
        )
    if len({duration for _, duration in windows}) < len(windows):
        raise KeyInvalid(param, "must not name a duration twice")
    return windows


def read_instant(value: Json, param: str) -> datetime:
    """Raises KeyInvalid. An instant without an offset is in UTC."""
    try:
        instant = parse_datetime(value) if isinstance(value, str) else None
    except ValueError:
        instant = None
    if instant is None:
        raise KeyInvalid(param, "must be an instant in ISO 8601")
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)


def _replace_rates(
    where: Where, dimension: Dimension, period: Period, values: JsonMapping, *, of_models: bool = False
) -> None:
    rows = RateLimit.objects.filter(**where, dimension=dimension, period=period)
    rows = rows.exclude(model="") if of_models else rows.filter(model="")
    wanted = {model: value for model, value in values.items() if value is not None}
    rows.exclude(model__in=wanted).delete()
    for model, value in wanted.items():
        RateLimit.objects.update_or_create(
            **where, dimension=dimension, period=period, model=model, defaults={"value": _read_rate(value, "")}
        )


def _change_budgets(where: Where, body: JsonMapping) -> None:
    """Deletes at the end, all at once: a call leases of all these budgets at once too (see `lock_budgets`)."""
    budgets = Budget.objects.filter(**where)
    list(budgets.select_for_update().order_by("id").values_list("id", flat=True))
    dropped: list[str] = []
    if BUDGET_FIELDS & body.keys() - {"budget_limits", "model_max_budget"}:
        dropped += _change_main(where, body)
    if "budget_limits" in body:
        rows = budgets.filter(model="", is_additional=True)
        wanted = {("", d): pusd for pusd, d in _read_windows(body["budget_limits"] or [])}
        dropped += _replace_budgets(where, rows, wanted, True)
    if "model_max_budget" in body:
        entries = {model: _read_model_budget(entry) for model, entry in (body["model_max_budget"] or {}).items()}
        rows = budgets.filter(is_additional=False).exclude(model="")
        dropped += _replace_budgets(where, rows, {(model, d): pusd for model, (pusd, d) in entries.items()}, False)
    if dropped:
        delete_budgets(budgets.filter(pk__in=dropped))


def _change_main(where: Where, body: JsonMapping) -> list[str]:
    """The main budget keeps its id, and so its windows, whatever changes of it. Returns its id where it is over."""
    main = Budget.objects.filter(**where, model="", is_additional=False).first()
    budget = main or Budget(**where)
    for name, column in (("max_budget", "limit_pusd"), ("soft_budget", "soft_limit_pusd")):
        if name in body:
            setattr(budget, column, None if body[name] is None else read_usd(body[name], name))
    if "budget_duration" in body:
        budget.duration = read_budget_duration(body["budget_duration"])
    if "temp_budget_increase" in body:
        increase = body["temp_budget_increase"]
        budget.increase_pusd = 0 if increase is None else read_usd(increase, "temp_budget_increase")
        budget.increase_ends_at = (
            None if increase is None else read_instant(body["temp_budget_expiry"], "temp_budget_expiry")
        )
    if budget.limit_pusd is None and budget.soft_limit_pusd is None and not budget.duration:
        return [main.pk] if main is not None else []
    budget.save()
    return []


def _replace_budgets(
    where: Where,
    rows: models.QuerySet[Budget],
    wanted: Mapping[tuple[str, str], int],
    is_additional: bool,
) -> list[str]:
    """Returns the ids of the rows that are no longer wanted."""
    dropped = [row.pk for row in rows if (row.model, row.duration) not in wanted]
    for (model, duration), pusd in wanted.items():
        Budget.objects.update_or_create(
            **where, model=model, duration=duration, is_additional=is_additional, defaults={"limit_pusd": pusd}
        )
    return dropped
