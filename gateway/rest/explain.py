"""POST /api/explain: what would become of a request: which model, deployments, limits and budgets apply to it, how full
each of them is, and which would refuse it. Nothing is reserved and no upstream is asked.

Shape of the body: {"key": text or digest, "endpoint": one of ENDPOINTS, "request": the body of the call}.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar, TypeVarTuple

import orjson
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from django_scopes import scopes_disabled
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.estimate import CallEstimate, CallEstimator
from gateway.models import Deployment
from gateway.pipeline.admit import admit
from gateway.pipeline.interpret import NO_HINTS
from gateway.pipeline.ports import Principal, Rules
from gateway.protocol.amounts import PUSD, usd_text
from gateway.protocol.call import Call
from gateway.protocol.dialect import Dialect
from gateway.protocol.dialects.anthropic.client import DIALECT as MESSAGES
from gateway.protocol.dialects.openai.chat import DIALECT as CHAT
from gateway.protocol.dialects.openai.completions import DIALECT as COMPLETIONS
from gateway.protocol.dialects.openai.embeddings import DIALECT as EMBEDDINGS
from gateway.protocol.errors import BadRequest, Fault, NotFound
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.output_limit import lower_output
from gateway.protocol.provider import Target
from gateway.stores.catalog import NOT_LOADED, Snapshot, reload_snapshot
from tenants.api.fields import Body, Choice, Object, Text
from tenants.api.resource import ApiView, Operation
from tenants.budget_usage import Spender, read_windows
from tenants.directory import load_principal
from tenants.live_limits import render_usage
from tenants.models import Budget, Organization, Scope, VirtualKey
from tenants.permissions import Area
from tenants.rate_limiter import amount_of
from tenants.rest.authentication import IsKnown
from tenants.rest.fields import read_body, read_text
from tenants.rest.keys import require_key
from tenants.rules import scope_id_of
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


class ExplainBody(Body):
    key = Text(help_text="The text or the digest of the key.")
    endpoint = Choice(sorted(ENDPOINTS), required=False)
    request = Object(help_text="The body of the call.")


class Explanation(serializers.Serializer[Any]):
    would_be_admitted = serializers.BooleanField()
    refused_by = serializers.ListField(child=Object())
    model = Object(required=False)
    deployments = serializers.ListField(child=Object(), required=False)
    estimate = Object(required=False)
    rate_limits = serializers.ListField(child=Object(), required=False)
    budgets = serializers.ListField(child=Object(), required=False)


class Explain(ApiView):
    """The caller has to see the key; every virtual key sees itself."""

    area = Area.KEYS
    permission_classes = [IsKnown]
    is_read = True
    noun = "request"
    operations = {
        "explain": Operation("Say what would become of a request", answer=Explanation, body=ExplainBody),
    }

    def explain(self, request: Request) -> Response:
        body = read_body(request, known={"key", "endpoint", "request"})
        key = require_key(read_text(body, "key"))
        if not self.rows(VirtualKey.objects.filter(pk=key.pk)).exists():
            raise NotFound("Key not found.", param="key")
        endpoint = read_text(body, "endpoint") or "chat/completions"
        dialect = ENDPOINTS.get(endpoint)
        if dialect is None:
            raise BadRequest(f"'endpoint' must be one of {', '.join(ENDPOINTS)}.", param="endpoint")
        sample = body.get("request")
        if not isinstance(sample, dict):
            raise BadRequest("'request' must be the body of a call.", param="request")
        return Response(explain(key, dialect, sample))


def explain(key: VirtualKey, dialect: Dialect, sample: JsonMapping) -> JsonObject:
    """Raises ClientFault for a sample that is no request of the dialect."""
    call = dialect.decode(orjson.dumps(sample, default=float), NO_HINTS)
    principal = load_principal(key.digest)
    if principal is None:
        objection = Objection("key", 401, "invalid_api_key", _why_refused(key))
        return {"would_be_admitted": False, "refused_by": [objection.render()]}
    objections: list[Objection] = []
    if principal.expires_at_s is not None and principal.expires_at_s <= timezone.now().timestamp():
        objections.append(Objection("key", 401, "invalid_api_key", "The key has expired."))
    snapshot = _load_group(principal, call)
    try:
        able = admit(call, principal, snapshot.catalog)
    except Fault as fault:
        able = ()
        objections.append(Objection.of("model", fault))
    try:
        rules = _rules_of(principal, call)
    except Fault as fault:
        rules = Rules()
        objections.append(Objection.of("end user", fault))
    estimator = CallEstimator(snapshot.prices.get, default_output_tokens=settings.TOLLGATE_DEFAULT_OUTPUT_TOKENS)
    estimate = estimator(call, able[0]) if able else CallEstimate(call.input_estimate, 0, None)
    budgets = _explain_budgets(rules, estimate)
    lowered = _find_lowered_limit(estimator, call, able, budgets)
    if lowered is not None:
        estimate = estimator(lower_output(call, lowered), able[0])
        budgets = _explain_budgets(rules, estimate)
    limits = _explain_limits(rules, estimate)
    objections += [_object("rate limit", row) for row in limits if row["would_refuse"]]
    objections += [_object("budget", row) for row in budgets if row["would_refuse"]]
    if (
        able
        and estimate.cost_pusd is None
        and principal.refuses_unpriced
        and any(rule.is_hard for rule in rules.budgets)
    ):
        objections.append(Objection("budget", 403, "model_unpriced", "The model has no price, under a hard budget."))
    return {
        "would_be_admitted": not objections,
        "refused_by": [objection.render() for objection in objections],
        "model": {"requested": call.model, "resolved": principal.resolve_model(call.model)},
        "deployments": _explain_targets(principal, call, snapshot, able),
        "estimate": {
            "input_tokens": estimate.input_tokens,
            "output_tokens": estimate.output_tokens,
            "max_tokens_lowered": lowered,
            "cost": usd_text(estimate.cost_pusd) if estimate.cost_pusd is not None else None,
        },
        "rate_limits": limits,
        "budgets": budgets,
    }


def _load_group(principal: Principal, call: Call) -> Snapshot:
    """The deployments of the call's model group alone: a credential that the call cannot reach is not decrypted."""
    with scopes_disabled():  # the organization's deployments, and the platform's
        rows = Deployment.objects.filter(
            Q(organization_id=principal.organization_id) | Q(organization_id=None),
            model_group=principal.resolve_model(call.model),
        )
        return reload_snapshot(NOT_LOADED, set(rows.values_list("id", flat=True)))


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


def _explain_limits(rules: Rules, estimate: CallEstimate) -> list[JsonObject]:
    """Each rate limit, how full it is, and what the call would take of it."""
    rows: list[JsonObject] = []
    for rule, row in zip(rules.limits, render_usage(rules.limits), strict=True):
        requested = amount_of(rule, estimate)
        would_refuse = not rule.is_shadow and (row["used"] or 0) + requested > rule.limit
        rows.append({**row, "requested": requested, "would_refuse": would_refuse})
    return rows


def _explain_budgets(rules: Rules, estimate: CallEstimate) -> list[JsonObject]:
    """Each budget's current window, and whether the call would fit. All that processes lease counts as held."""
    with scopes_disabled():  # a template may be the platform's; the rules are the principal's
        stored = Budget.objects.in_bulk([rule.budget_id for rule in rules.budgets])
        organizations = Organization.objects.in_bulk({rule.organization_id for rule in rules.budgets})
    present = [rule for rule in rules.budgets if rule.budget_id in stored]
    pairs = [
        (
            stored[rule.budget_id],
            Spender(
                organizations[rule.organization_id],
                Scope(rule.scope),
                scope_id_of(rule.organization_id, rule.scope, rule.scope_id),
            ),
        )
        for rule in present
    ]
    rows: list[JsonObject] = []
    for rule, usage in zip(present, read_windows(pairs), strict=True):
        state, room = usage.state, usage.state.room_pusd
        rows.append(
            {
                "scope": rule.owner,
                "model": rule.model or None,
                "duration": rule.duration or None,
                "limit": usd_text(state.limit_pusd) if state.limit_pusd is not None else None,
                "spent": usd_text(state.spent_pusd),
                "held": usd_text(state.leased_pusd),
                "left": usd_text(room) if room is not None else None,
                "reset_at": state.ends_at.isoformat() if state.ends_at is not None else None,
                "would_refuse": room is not None and bool(estimate.cost_pusd) and room < (estimate.cost_pusd or 0),
            }
        )
    return rows


def _explain_targets(principal: Principal, call: Call, snapshot: Snapshot, able: Sequence[Target]) -> list[JsonObject]:
    """The deployments of the model group in the order of routing, each with the reason where it is left out."""
    targets = snapshot.catalog.find(principal.organization_id, principal.resolve_model(call.model))
    return [
        {
            "id": target.deployment_id,
            "provider": target.provider.name,
            "order": target.order,
            "weight": target.weight,
            "is_candidate": target in able,
            "reason": "" if target in able else f"does not serve {call.operation.value} requests, or not to this key",
        }
        for target in sorted(targets, key=lambda target: (target.order, -target.weight))
    ]


def _object(by: str, row: JsonObject) -> Objection:
    period = row.get("duration") or row.get("period") or "for all time"
    what = f"{row['scope']}, {row['dimension']}, {period}" if "dimension" in row else f"{row['scope']}, {period}"
    code = "rate_limit_exceeded" if by == "rate limit" else "insufficient_quota"
    left = row["remaining"] if "remaining" in row else row["left"]
    return Objection(f"{by} ({what})", 429, code, f"The call does not fit: {left} of {row['limit']} is left.")
