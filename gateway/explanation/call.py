"""The forecast of a call: the model, the limits and the budgets that apply to it, how full each of them is, and
which would refuse it. Nothing is reserved and no upstream is asked."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeVar, TypeVarTuple

import orjson
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.estimate import CallEstimate, CallEstimator
from gateway.explanation.route import FALLBACK_KINDS, Route
from gateway.explanation.walls import explain_budgets, explain_limits
from gateway.models import Deployment
from gateway.pipeline.admit import admit, name_group
from gateway.pipeline.interpret import NO_HINTS
from gateway.pipeline.ports import Principal, Rules
from gateway.protocol.amounts import PUSD, usd_text
from gateway.protocol.call import Call
from gateway.protocol.dialect import Dialect
from gateway.protocol.dialects.anthropic.client import DIALECT as MESSAGES
from gateway.protocol.dialects.openai.chat import DIALECT as CHAT
from gateway.protocol.dialects.openai.completions import DIALECT as COMPLETIONS
from gateway.protocol.dialects.openai.embeddings import DIALECT as EMBEDDINGS
from gateway.protocol.errors import BadRequest, Fault, Forbidden
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.output_limit import lower_output
from gateway.protocol.provider import Target
from gateway.protocol.routing_options import FALLBACK_FIELDS, find_fallbacks
from gateway.routing.model_patterns import WILDCARD, Pattern
from gateway.stores.catalog import NOT_LOADED, Snapshot, load_routing, reload_snapshot
from tenants.directory import load_principal
from tenants.models import VirtualKey
from tenants.scope_rules import ScopeRulesDirectory

ENDPOINTS: Mapping[str, Dialect] = {
    "chat/completions": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
    "messages": MESSAGES,
}

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


@dataclass(frozen=True, slots=True)
class Objection:
    """One reason for which the call would be refused."""

    by: str
    status: int
    code: str
    message: str

    @classmethod
    def of(cls, by: str, fault: Fault) -> "Objection":
        return cls(by, fault.status, fault.code or fault.type, fault.message)

    def render(self) -> JsonObject:
        return {"by": self.by, "status": self.status, "code": self.code, "message": self.message}


def explain(key: VirtualKey, dialect: Dialect, sample: JsonMapping, *, has_figures: bool) -> JsonObject:
    """Raises ClientFault for a sample that is no request of the dialect. `has_figures`: the reader may see what the
    calls of all organizations cause at a deployment."""
    try:
        raw = orjson.dumps(sample, default=float)
    except orjson.JSONEncodeError:  # half of a character, or a number of more than 64 bits
        raise BadRequest("'request' holds what no JSON text holds.", param="request") from None
    call = dialect.decode(raw, NO_HINTS)
    principal = load_principal(key.digest)
    if principal is None:
        objection = Objection("key", 401, "invalid_api_key", _why_refused(key))
        return {"would_be_admitted": False, "refused_by": [objection.render()]}
    objections: list[Objection] = []
    if principal.expires_at_s is not None and principal.expires_at_s <= timezone.now().timestamp():
        objections.append(Objection("key", 401, "invalid_api_key", "The key has expired."))
    snapshot = _load_groups(principal, call)
    targets = snapshot.catalog.find(principal.organization_id, principal.resolve_model(call.model))
    able: tuple[Target, ...] = ()
    try:
        able = admit(call, principal, snapshot.catalog)
    except Fault as fault:
        objections.append(Objection.of("model", fault))
        if isinstance(fault, Forbidden) and not has_figures:
            targets = ()  # a key learns nothing of a model that it may not call
    principal = name_group(call, principal, snapshot.catalog)
    try:
        rules = _rules_of(principal, call)
    except Fault as fault:
        rules = Rules()
        objections.append(Objection.of("end user", fault))
    estimator = CallEstimator(snapshot.prices.get, default_output_tokens=settings.TOLLGATE_DEFAULT_OUTPUT_TOKENS)
    estimate = estimator(call, able[0]) if able else CallEstimate(call.input_estimate, 0, None)
    budgets = explain_budgets(rules, estimate)
    lowered = _find_lowered_limit(estimator, call, able, budgets)
    if lowered is not None:
        estimate = estimator(lower_output(call, lowered), able[0])
        budgets = explain_budgets(rules, estimate)
    limits = explain_limits(rules, estimate)
    objections += [_object("rate limit", row) for row in limits if row["would_refuse"]]
    objections += [_object("budget", row) for row in budgets if row["would_refuse"]]
    if (
        able
        and estimate.cost_pusd is None
        and principal.refuses_unpriced
        and any(rule.is_hard for rule in rules.budgets)
    ):
        objections.append(Objection("budget", 403, "model_unpriced", "The model has no price, under a hard budget."))
    route = Route(call, principal, snapshot, targets, able, estimator, has_figures=has_figures).explain()
    if route.refusal is not None:
        objections.append(Objection.of("routing", route.refusal))
    return {
        "would_be_admitted": not objections,
        "refused_by": [objection.render() for objection in objections],
        "model": {"requested": call.model, "resolved": principal.resolve_model(call.model)},
        "deployments": route.deployments,
        "routing": route.routing,
        "estimate": {
            "input_tokens": estimate.input_tokens,
            "output_tokens": estimate.output_tokens,
            "max_tokens_lowered": lowered,
            "cost": usd_text(estimate.cost_pusd) if estimate.cost_pusd is not None else None,
        },
        "rate_limits": limits,
        "budgets": budgets,
    }


def _load_groups(principal: Principal, call: Call) -> Snapshot:
    """The deployments of the call's model group and of those that stand in for it: a credential that the call cannot
    reach is not decrypted."""
    routing = load_routing()
    asked = principal.resolve_model(call.model)
    group = routing.aliases.get(asked, asked)
    with scopes_disabled():  # the organization's deployments, and the platform's
        rows = Deployment.objects.filter(Q(organization_id=principal.organization_id) | Q(organization_id=None))
        patterns = _find_patterns(rows, {asked, group})
        fallbacks = [
            name
            for groups in ((asked,), (group,), *patterns)
            for kind in FALLBACK_KINDS.values()
            for name in routing.fallbacks_of(groups, kind)
        ]
        for value in (call.body[field] for field in FALLBACK_FIELDS if call.body.get(field) is not None):
            fallbacks += map(principal.resolve_model, find_fallbacks(value, (call.model, group)))
        names = {asked, group, *fallbacks, *(routing.aliases.get(name, name) for name in fallbacks)}
        names |= {pattern for _, pattern in _find_patterns(rows, names)}
        serving = set(rows.filter(model_group__in=names).values_list("id", flat=True))
        return reload_snapshot(replace(NOT_LOADED, routing=routing), serving)


def _find_patterns(rows: QuerySet[Deployment], names: Collection[str]) -> list[tuple[str, str]]:
    """(name, pattern that fits it)"""
    texts = rows.filter(model_group__contains=WILDCARD).values_list("model_group", flat=True).order_by().distinct()
    patterns = [Pattern.read(text) for text in texts]
    return [(name, pattern.text) for name in names for pattern in patterns if pattern.match(name) is not None]


def _find_lowered_limit(
    estimator: CallEstimator, call: Call, targets: Sequence[Target], budgets: Sequence[JsonObject]
) -> int | None:
    """The output limit that the budgets still pay, where one would refuse the whole call and limits are lowered."""
    left = [int(Decimal(row["left"]) * PUSD) for row in budgets if row["would_refuse"]]
    if not settings.TOLLGATE_LOWER_MAX_TOKENS or not left or not targets:
        return None
    return estimator.find_output_limit(call, targets[0], min(left))


def _why_refused(key: VirtualKey) -> str:
    """The reason for which a key that exists may not call."""
    for blocked, name in (
        (key.blocked, "key"),
        (key.team is not None and key.team.blocked, "team"),
        (key.organization.blocked, "organization"),
        (key.user is not None and not key.user.is_active, "user"),
    ):
        if blocked:
            return f"The {name} is blocked."
    return "The key may not call."


def _rules_of(principal: Principal, call: Call) -> Rules:
    """The rules of the key's scopes, and of those that the call names. Raises Forbidden for a blocked end user."""
    rules = principal.rules
    if call.end_user or call.tags:
        rules += async_to_sync(ScopeRulesDirectory(in_thread=_in_thread).find)(principal, call)
    return rules.for_model(principal.resolve_model(call.model))


async def _in_thread(function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    return await sync_to_async(function)(*arguments)


def _object(by: str, row: JsonObject) -> Objection:
    period = row.get("duration") or row.get("period") or "for all time"
    what = f"{row['scope']}, {row['dimension']}, {period}" if "dimension" in row else f"{row['scope']}, {period}"
    code = "rate_limit_exceeded" if by == "rate limit" else "insufficient_quota"
    left = row["remaining"] if "remaining" in row else row["left"]
    return Objection(f"{by} ({what})", 429, code, f"The call does not fit: {left} of {row['limit']} is left.")
