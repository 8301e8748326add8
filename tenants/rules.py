"""The limits and budgets of scopes, read from the database in the form that the data path applies."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from sys import intern

from django.db.models import Q

from gateway.pipeline.ports import BudgetRule, Dimension, LimitRule, Rules
from gateway.state.rate_limits import DAY_S, MINUTE_S, SLOT_S
from tenants.models import DEFAULT_ORGANIZATION, Budget, Organization, RateLimit, Scope

SPANS = {RateLimit.Period.MINUTE: MINUTE_S, RateLimit.Period.DAY: DAY_S}
#: Scopes by the words of refusals.
OWNERS = {
    Scope.ORGANIZATION: "organization",
    Scope.TEAM: "team",
    Scope.MEMBER: "team member",
    Scope.USER: "user",
    Scope.KEY: "key",
    Scope.END_USER: "end user",
    Scope.TAG: "tag",
    Scope.DEPLOYMENT: "deployment",
}
#: Scopes whose ids are any text that a request holds.
NAMED_BY_REQUESTS = frozenset({Scope.END_USER, Scope.TAG})


@dataclass(frozen=True, slots=True)
class Holder:
    """A scope that a call belongs to, and the template that fills in what it has no rule for."""

    scope: Scope
    scope_id: str
    template_id: str | None = None


def member_scope_id(team_id: str, user_id: str) -> str:
    return f"{team_id}:{user_id}"


def spender_id(organization_id: str, scope: Scope, scope_id: str) -> str:
    """The `scope_id` of a scope's budget windows. A platform's template serves several organizations, and each may name
    its end users and tags like another one; all other ids are unique."""
    return f"{organization_id}:{scope_id}" if scope in NAMED_BY_REQUESTS else scope_id


def scope_id_of(organization_id: str, scope: str, spender: str) -> str:
    """The id of the scope that a spender is."""
    return spender.removeprefix(f"{organization_id}:") if scope in NAMED_BY_REQUESTS else spender


def load_rules(organization: Organization, holders: Sequence[Holder]) -> Rules:
    """The rules of all holders. A holder's own rule comes before its template's. The caller is within the scope of the
    organization, or of none."""
    scopes = [(organization.id, holder.scope, holder.scope_id) for holder in holders]
    for template_id in {holder.template_id for holder in holders if holder.template_id}:
        scopes += [(owner, Scope.TEMPLATE, template_id) for owner in {organization.id, DEFAULT_ORGANIZATION}]
    if not scopes:
        return Rules()
    mine = Q()
    for owner, scope, scope_id in scopes:  # each names the columns that the index begins with
        mine |= Q(organization=owner, scope=scope, scope_id=scope_id)
    limits = list(RateLimit.objects.filter(mine))
    budgets = list(Budget.objects.filter(mine).exclude(limit_pusd=None, soft_limit_pusd=None))
    return Rules(
        tuple(rule for holder in holders for rule in _limits_of(organization, holder, limits)),
        tuple(rule for holder in holders for rule in _budgets_of(organization, holder, budgets)),
    )


def load_deployment_budgets(owners: Mapping[str, str | None], *, is_all: bool) -> dict[str, tuple[BudgetRule, ...]]:
    """The budgets of these deployments: {id: rules}, without those that have none. `owners`: the organization of each,
    None for one that all share; only its owner's budgets bind it. `is_all`: no other deployment has budgets. The caller
    is within no scope."""
    rows = Budget.objects.filter(scope=Scope.DEPLOYMENT, model="").exclude(limit_pusd=None, soft_limit_pusd=None)
    if not is_all:
        rows = rows.filter(scope_id__in=owners.keys())
    rules: dict[str, tuple[BudgetRule, ...]] = {}
    for row in rows.select_related("organization"):
        if row.scope_id in owners and row.organization_id == (owners[row.scope_id] or DEFAULT_ORGANIZATION):
            holder = Holder(Scope.DEPLOYMENT, row.scope_id)
            rules[row.scope_id] = (*rules.get(row.scope_id, ()), *_budgets_of(row.organization, holder, [row]))
    return rules


def _limits_of(organization: Organization, holder: Holder, rows: Collection[RateLimit]) -> Iterable[LimitRule]:
    own = [row for row in rows if (row.scope, row.scope_id) == (holder.scope, holder.scope_id)]
    present = {(row.model, row.dimension, row.period) for row in own}
    template = [row for row in rows if row.scope == Scope.TEMPLATE and row.scope_id == holder.template_id]
    for row in own + [row for row in template if (row.model, row.dimension, row.period) not in present]:
        dimension = Dimension(row.dimension)
        yield LimitRule(
            counter=f"{{{organization.id}}}:{holder.scope}:{holder.scope_id}:{dimension}:{row.period}:{row.model}",
            owner=OWNERS[holder.scope],
            dimension=dimension,
            limit=row.value,
            span_s=SLOT_S if dimension is Dimension.PARALLEL else SPANS[RateLimit.Period(row.period)],
            model=row.model,
            is_shadow=row.is_shadow,
        )


def _budgets_of(organization: Organization, holder: Holder, rows: Collection[Budget]) -> Iterable[BudgetRule]:
    own = [row for row in rows if (row.scope, row.scope_id) == (holder.scope, holder.scope_id)]
    present = {row.model for row in own}
    template = [row for row in rows if row.scope == Scope.TEMPLATE and row.scope_id == holder.template_id]
    for row in own + [row for row in template if row.model not in present]:
        yield BudgetRule(
            budget_id=row.id,
            organization_id=organization.id,
            owner=OWNERS[holder.scope],
            scope=holder.scope,
            scope_id=spender_id(organization.id, holder.scope, holder.scope_id),
            duration=intern(row.duration),
            time_zone=intern(organization.time_zone),
            is_hard=row.limit_pusd is not None,
            model=row.model,
        )
