"""Finds what there is to alert of: budgets from their windows, spend from the hourly sums, prices from the rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import F, Min, Q
from django_scopes import scopes_disabled

from billing.alerts.record import NewAlert
from billing.counted_rows import join_halves, sum_halves
from billing.models import AlertKind, SpendLog, UsageHour
from billing.repricing import WITHOUT_COST
from billing.row_ids import first_id
from gateway.protocol.amounts import PUSD, usd_text
from gateway.protocol.json.types import JsonObject
from tenants.budget_store import read_state
from tenants.models import BudgetWindow, Organization
from tenants.rolling_spend import count_current, length_of

#: Per cent of a hard limit.
THRESHOLDS = (50, 80, 95, 100)
#: A forecast is made once this share of a window, and this share of its limit, have passed.
FORECAST_SHARE = 0.1
CHUNK = 500
#: An hour is a spike at this many times the mean of the hours of the week before, and at least at this amount.
SPIKE_FACTOR = 4
SPIKE_LEAST_PUSD = 1 * PUSD
SPIKE_WEEK = timedelta(days=7)
SPIKE_LEAST_HOURS = 24
MAX_UNPRICED = 50
#: The code of a call whose upstream refused the gateway's credential.
REFUSED = "upstream_auth_failed"
REFUSED_SINCE = timedelta(minutes=10)
MAX_REFUSED = 50
#: Pricing takes seconds; a row that waits so long shows that no worker runs, or that it cannot keep up.
LAG = timedelta(minutes=10)


def find_budget_alerts(now: datetime) -> Iterator[NewAlert]:
    """The highest threshold that a window has passed is sent, the others are noted."""
    with scopes_disabled():  # the worker looks at the budgets of all organizations
        open_windows = BudgetWindow.objects.filter(Q(ends_at__gt=now) | Q(ends_at=None), starts_at__lte=now)
        spent = F("settled_pusd") - F("credit_pusd")
        worth = open_windows.annotate(spent=spent).filter(
            Q(spent__gte=F("budget__limit_pusd") / 10) | Q(spent__gte=F("budget__soft_limit_pusd")), spent__gt=0
        )
        chunk: list[BudgetWindow] = []
        for window in worth.select_related("budget").order_by("pk").iterator(chunk_size=CHUNK):
            chunk.append(window)
            if len(chunk) == CHUNK:
                yield from _alerts_of(chunk, now)
                chunk.clear()
        yield from _alerts_of(chunk, now)


def _alerts_of(windows: list[BudgetWindow], now: datetime) -> Iterator[NewAlert]:
    count_current(windows, now)
    for window in windows:
        yield from _threshold_alerts(window, now)
        yield from _forecast_alerts(window, now)


def _threshold_alerts(window: BudgetWindow, now: datetime) -> Iterator[NewAlert]:
    state, budget = read_state(window), window.budget
    limit = state.limit_pusd or 0
    passed = [each for each in THRESHOLDS if limit and state.spent_pusd * 100 >= limit * each]
    for each in passed:
        yield _budget_alert(
            window, AlertKind.BUDGET, str(each), f"has reached {each} % of its limit", now, is_quiet=each < passed[-1]
        )
    if budget.soft_limit_pusd is not None and state.spent_pusd >= budget.soft_limit_pusd:
        yield _budget_alert(window, AlertKind.BUDGET, "soft", "has reached its soft limit", now)


def _forecast_alerts(window: BudgetWindow, now: datetime) -> Iterator[NewAlert]:
    """Linear: what was spent so far, by the share of the window that has passed."""
    state = read_state(window)
    if window.ends_at is None or not state.limit_pusd or state.spent_pusd >= state.limit_pusd:
        return
    share = (now - window.starts_at) / (window.ends_at - window.starts_at)
    if share < FORECAST_SHARE or state.spent_pusd < FORECAST_SHARE * state.limit_pusd:
        return
    forecast = round(state.spent_pusd / share)
    if forecast > state.limit_pusd:
        text = f"will pass its limit before {window.ends_at:%Y-%m-%d %H:%M} UTC at this pace"
        more: JsonObject = {"forecast_usd": usd_text(forecast)}
        yield _budget_alert(window, AlertKind.FORECAST, "forecast", text, now, more=more)


def _budget_alert(
    window: BudgetWindow,
    kind: AlertKind,
    mark: str,
    text: str,
    now: datetime,
    *,
    is_quiet: bool = False,
    more: JsonObject | None = None,
) -> NewAlert:
    """A rolling window is one row for ever: it alerts once a day."""
    state, budget = read_state(window), window.budget
    day = f":{now:%Y-%m-%d}" if length_of(window) is not None else ""
    owner = f"{window.scope.replace('_', ' ')} {window.scope_id}"
    limit = state.limit_pusd if mark != "soft" else budget.soft_limit_pusd
    return NewAlert(
        kind,
        f"budget:{window.id}:{mark}:{limit}{day}",
        f"The budget of {owner} {text}",
        budget.organization_id,
        {
            "scope": window.scope,
            "scope_id": window.scope_id,
            "model": budget.model,
            "duration": budget.duration,
            "limit_usd": usd_text(limit or 0),
            "spent_usd": usd_text(state.spent_pusd),
            "window_ends_at": window.ends_at.isoformat() if window.ends_at is not None else None,
            **(more or {}),
        },
        is_quiet=is_quiet,
    )


@dataclass(frozen=True, slots=True)
class _Usual:
    """The hours of a week before the last whole hour."""

    pusd: int
    hours: int

    def is_exceeded(self, pusd: int) -> bool:
        mean = self.pusd / max(self.hours, 1)
        return self.hours >= SPIKE_LEAST_HOURS and pusd >= max(SPIKE_FACTOR * mean, SPIKE_LEAST_PUSD)


def find_spikes(now: datetime) -> Iterator[NewAlert]:
    """Organizations whose last whole hour cost far more than their hours of the week before, those without calls
    included."""
    hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    with scopes_disabled():  # the worker looks at the spend of all organizations
        rows = UsageHour.objects.order_by()
        cost = sum_halves(F("cost_pusd"))
        last = {
            row["organization_id"]: join_halves(row)
            for row in rows.filter(hour=hour).values("organization_id").annotate(**cost)
        }
        loud = {organization: pusd for organization, pusd in last.items() if pusd >= SPIKE_LEAST_PUSD}
        present = Organization.objects.filter(pk__in=list(loud)).values_list("pk", flat=True)
        for organization_id in present:  # sums outlive their organization
            pusd = loud[organization_id]
            before = rows.filter(organization_id=organization_id, hour__gte=hour - SPIKE_WEEK, hour__lt=hour)
            sums = before.aggregate(**cost, first=Min("hour"))
            hours = (hour - sums["first"]) // timedelta(hours=1) if sums["first"] is not None else 0
            usual = _Usual(join_halves(sums), hours)
            if usual.is_exceeded(pusd):
                yield NewAlert(
                    AlertKind.SPIKE,
                    f"spike:{organization_id}:{hour:%Y-%m-%dT%H}",
                    f"The spend of {hour:%Y-%m-%d %H}:00 UTC is far above the usual",
                    organization_id,
                    {
                        "organization_id": organization_id,
                        "spent_usd": usd_text(pusd),
                        "usual_usd": usd_text(usual.pusd // hours),
                        "hour": hour.isoformat(),
                    },
                )


def find_unpriced_alerts(now: datetime) -> Iterator[NewAlert]:
    """Once a day for each deployment, whatever names its callers chose."""
    since = now - timedelta(days=1)
    with scopes_disabled():  # prices are the platform's
        rows = (
            SpendLog.objects.filter(WITHOUT_COST, id__gte=first_id(since))
            .order_by()
            .values("deployment_id")
            .annotate(group=Min("model_group"), kind=Min("provider"), model=Min("upstream_model"))[:MAX_UNPRICED]
        )
        for row in rows:
            yield NewAlert(
                AlertKind.UNPRICED,
                f"unpriced:{row['deployment_id']}:{now:%Y-%m-%d}",
                f"Calls of the model {row['group'][:200]} have no price",
                None,
                {
                    "model_group": row["group"],
                    "provider": row["kind"],
                    "upstream_model": row["model"],
                    "deployment_id": row["deployment_id"],
                },
            )


def find_refused_credentials(now: datetime) -> Iterator[NewAlert]:
    """Once a day for each deployment."""
    with scopes_disabled():  # a deployment may be shared by all organizations
        rows = (
            SpendLog.objects.filter(id__gte=first_id(now - REFUSED_SINCE), error_code=REFUSED)
            .order_by()
            .values("deployment_id", "model_group", "provider")
            .distinct()[:MAX_REFUSED]
        )
        for row in rows:
            yield NewAlert(
                AlertKind.CREDENTIAL,
                f"credential:{row['deployment_id']}:{now:%Y-%m-%d}",
                f"The upstream of a deployment of {row['model_group'][:200]} refuses its credential",
                None,
                dict(row),
            )


def find_pricing_lag(now: datetime) -> Iterator[NewAlert]:
    """Once an hour while it lasts."""
    with scopes_disabled():  # pricing spans all organizations
        oldest = SpendLog.objects.filter(state=SpendLog.State.METERED).order_by("id").values_list("ended_at").first()
    if oldest is not None and oldest[0] is not None and now - oldest[0] > LAG:
        minutes = (now - oldest[0]) // timedelta(minutes=1)
        yield NewAlert(
            AlertKind.PRICING_LAG,
            f"pricing_lag:{now:%Y-%m-%dT%H}",
            f"Calls have waited {minutes} minutes for their cost",
            None,
            {"oldest_at": oldest[0].isoformat(), "minutes": minutes},
        )
