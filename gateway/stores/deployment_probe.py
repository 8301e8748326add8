"""Probes of deployments as they are stored: their target, the owner of their spend row, and their cost."""

from copy import copy
from dataclasses import dataclass, replace

from billing.ledger import attempt_cost
from billing.models import Price
from billing.pricing import PriceLines
from gateway.models import Deployment
from gateway.models.encryption import CredentialUnusable
from gateway.pipeline.probe import MAX_PROMPT_CHARS, PROBER, PROMPT, ProbeOrder, ProbeResult, find_mode, probe_principal
from gateway.protocol.errors import BadRequest
from gateway.protocol.provider import Target
from gateway.providers.registry import PREFIXES
from gateway.routing.deployment_target import DeploymentUnusable
from gateway.routing.model_patterns import is_pattern
from gateway.stores.catalog import target_of
from gateway.stores.deployment_health import Kind, outcome_of, record_outcome
from gateway.stores.deployment_prices import find_deployment_prices
from tenants.models import DEFAULT_ORGANIZATION
from tenants.permissions import Caller


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """`cost_pusd`: None where the deployment has no price for what was used."""

    result: ProbeResult
    cost_pusd: int | None


def usable_target(deployment: Deployment) -> Target:
    """The deployment, enabled or not, for an admin's question to its upstream. Raises BadRequest."""
    try:
        return target_of(deployment)
    except CredentialUnusable:
        message = "The stored credential cannot be opened here; give it again."
        raise BadRequest(message, code="model_unusable", param="model_id") from None
    except DeploymentUnusable as error:
        raise BadRequest(f"The model cannot be used: {error}.", code="model_unusable", param="model_id") from None


def probe_deployment(
    deployment: Deployment, caller: Caller, *, mode: str = "", prompt: str = "", kind: str = Kind.TEST
) -> ProbeReport:
    """Makes one real call to the deployment, waits for its end and records it. The spend row belongs to the
    deployment's organization, or to the default one. Raises Fault where no call can be made."""
    target = probe_target(deployment)
    if len(prompt) > MAX_PROMPT_CHARS:
        raise BadRequest(f"'prompt' must not be longer than {MAX_PROMPT_CHARS} characters.", param="prompt")
    organization_id = deployment.organization_id or DEFAULT_ORGANIZATION
    target = replace(target, price_id=_find_price(deployment, target.upstream_model, organization_id))
    key = caller.key if caller.key is not None and caller.key.organization_id == organization_id else None
    principal = probe_principal(
        organization_id,
        user_id=caller.username,
        key_id=key.id if key is not None else "",
        key_digest=key.digest if key is not None else "",
    )
    order = ProbeOrder(target, principal, find_mode(target, mode), prompt or PROMPT)
    result = PROBER.call(order)
    record_outcome(deployment.id, outcome_of(kind, result.latency_s, result.fault))
    return ProbeReport(result, _cost_of(result, target.price_id))


def probe_target(deployment: Deployment) -> Target:
    """The target of a probe: the upstream model is `model_info.health_check_model` where that is set. Raises BadRequest
    where neither names one model."""
    target = usable_target(deployment)
    named = deployment.model_info.get("health_check_model")
    if isinstance(named, str) and named:
        prefix, _, rest = named.partition("/")
        target = replace(target, upstream_model=rest if rest and PREFIXES.get(prefix) is target.provider else named)
    if is_pattern(target.upstream_model):
        raise BadRequest(
            "The model is a pattern: name one model in 'model_info.health_check_model'.",
            code="model_unusable",
            param="model_info.health_check_model",
        )
    return target


def _find_price(deployment: Deployment, upstream_model: str, organization_id: str) -> str:
    """The version of the price that a call of the organization to this upstream model has; empty for none."""
    asked = copy(deployment)
    asked.upstream_model = upstream_model
    found = find_deployment_prices([asked]).found[asked.id]
    return found.contracts.get(organization_id, found.price_id)


def _cost_of(result: ProbeResult, price_id: str) -> int | None:
    costs = [attempt.cost_pusd for attempt in result.attempts]
    if None in costs and price_id:  # the data path knows the prices of the models that it serves alone
        price = Price.objects.filter(id=price_id).first()
        lines = PriceLines.read(price.lines) if price is not None else None
        costs = [attempt_cost(attempt, lines) for attempt in result.attempts]
    return None if None in costs else sum(amount or 0 for amount in costs)
