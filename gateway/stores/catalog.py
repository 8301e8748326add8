"""The database side of the data plane's ports: the deployments as a frozen Catalog."""

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from django_scopes import scopes_disabled

from billing.pricing import PriceLines
from gateway.models import Deployment, RouterSettings
from gateway.models.encryption import CredentialUnusable, unseal
from gateway.models.secret_fields import split_secret_texts
from gateway.pipeline.ports import BudgetRule, Catalog
from gateway.protocol.abilities import read_abilities
from gateway.protocol.capabilities import PARAMETERS as FLAG_PARAMETERS
from gateway.protocol.capabilities import Capabilities, apply_flags, default_capabilities
from gateway.protocol.deployment_tags import TAGS, read_tags
from gateway.protocol.provider import BODY_PREFIX, HEADER_PREFIX, Target
from gateway.protocol.secret import Secret
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.protocol.timeouts import NO_TIMEOUTS, Timeouts
from gateway.providers.registry import PROVIDERS
from gateway.routing.read_settings import read_settings
from gateway.routing.settings import DEFAULT_SETTINGS, RoutingSettings
from gateway.stores.deployment_prices import apply_contracts, find_deployment_prices, load_prices, ranking_prices
from tenants.rules import load_deployment_budgets

logger = logging.getLogger(__name__)

NO_FLAGS = Capabilities()
MIN_SECRET_CHARS = 8  # of a text that is taken out of an upstream's text


class DeploymentUnusable(Exception):
    """A row is not a usable deployment; the message says why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The deployments, their prices and budgets at one revision. `targets`: by the id of the deployment, in the order
    of groups."""

    catalog: Catalog = field(default_factory=Catalog)
    prices: Mapping[str, PriceLines] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)
    routing: RoutingSettings = DEFAULT_SETTINGS
    budgets: Mapping[str, tuple[BudgetRule, ...]] = field(default_factory=dict)  # by the id of the deployment
    contracts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # deployment → organization → price
    prices_change_at_s: float = float("inf")  # the instant from which another version of a price is in force


#: The snapshot before a process has read the database for the first time.
NOT_LOADED = Snapshot()


def load_snapshot(before: Snapshot = NOT_LOADED) -> Snapshot:
    """Loads the routing settings and every enabled deployment. What cannot be used is left out and named in the log.
    `before`: the snapshot whose prices calls under way still need."""
    return _load(replace(NOT_LOADED, prices=before.prices), None, load_routing())


def reload_snapshot(snapshot: Snapshot, deployment_ids: Collection[str]) -> Snapshot:
    """The snapshot with these deployments as they are now; the others stay the objects that they are."""
    return _load(snapshot, deployment_ids, snapshot.routing)


def load_routing() -> RoutingSettings:
    """The routing settings as they are now. What cannot be used is left out and named in the log."""
    row = RouterSettings.objects.filter(id=1).first()
    routing, problems = read_settings(row.values if row is not None and isinstance(row.values, dict) else {})
    for name, message in problems:
        logger.error("a routing setting cannot be used", extra={"setting": name, "why": message})
    return routing


def _load(snapshot: Snapshot, deployment_ids: Collection[str] | None, routing: RoutingSettings) -> Snapshot:
    """`deployment_ids` None: all."""
    with scopes_disabled():  # the catalog itself keeps organizations apart
        rows = Deployment.objects.filter(enabled=True)
        deployments = list(rows if deployment_ids is None else rows.filter(id__in=deployment_ids))
    targets = {name: target for name, target in snapshot.targets.items() if name not in (deployment_ids or ())}
    found = find_deployment_prices(deployments)
    for deployment in deployments:
        try:
            price_id = deployment.price_id or found[deployment.id].price_id
            targets[deployment.id] = replace(target_of(deployment), price_id=price_id)
        except (CredentialUnusable, DeploymentUnusable) as error:
            logger.error("a deployment cannot be used", extra={"deployment": deployment.id, "why": str(error)})
    contracts = {name: ids for name, ids in snapshot.contracts.items() if name in targets and name not in found} | {
        name: one.contracts for name, one in found.items() if name in targets and one.contracts
    }
    contract_ids = {price_id for ids in contracts.values() for price_id in ids.values()}
    prices = load_prices(snapshot.prices, {target.price_id for target in targets.values()} | contract_ids)
    for name in targets if deployment_ids is None else targets.keys() & set(deployment_ids):
        targets[name] = replace(targets[name], prices=ranking_prices(prices.get(targets[name].price_id)))
    targets = dict(sorted(targets.items(), key=lambda item: (item[1].model_group, item[1].order, item[0])))
    groups: dict[tuple[str | None, str], list[Target]] = defaultdict(list)
    for target in targets.values():
        groups[(target.organization_id, target.model_group)].append(target)
    catalog = Catalog(
        {name: tuple(group) for name, group in apply_contracts(groups, contracts, prices).items()},
        routing.aliases,
        routing.hidden_aliases,
    )
    changes = [one.changes_at.timestamp() for one in found.values() if one.changes_at is not None]
    known_change = snapshot.prices_change_at_s if deployment_ids is not None else float("inf")
    return Snapshot(
        catalog=catalog,
        prices=prices,
        targets=targets,
        routing=routing,
        budgets=_load_budgets(snapshot, targets, deployment_ids),
        contracts=contracts,
        prices_change_at_s=min([known_change, *changes]),
    )


def _load_budgets(
    snapshot: Snapshot, targets: Mapping[str, Target], deployment_ids: Collection[str] | None
) -> Mapping[str, tuple[BudgetRule, ...]]:
    loaded = targets if deployment_ids is None else targets.keys() & set(deployment_ids)
    kept = {name: rules for name, rules in snapshot.budgets.items() if name in targets and name not in loaded}
    owners = {name: targets[name].organization_id for name in loaded}
    with scopes_disabled():  # a deployment of one organization, or of all
        return kept | load_deployment_budgets(owners, is_all=deployment_ids is None)


def target_of(deployment: Deployment) -> Target:
    """Raises CredentialUnusable or DeploymentUnusable."""
    provider = PROVIDERS.get(deployment.provider)
    if provider is None:
        raise DeploymentUnusable(f"the provider {deployment.provider!r} is unknown")
    credential = unseal(context=deployment.id, sealed=deployment.credential)
    texts = {text for secret in credential.values() for text in split_secret_texts(secret.reveal())}
    parameters = _mapping(deployment.parameters, "parameters")
    extra_headers = _mapping(parameters.pop("extra_headers", {}), "extra_headers")
    headers = {name.lower(): str(value) for name, value in extra_headers.items()}
    for name in [name for name in credential if name.startswith(HEADER_PREFIX)]:
        headers[name.removeprefix(HEADER_PREFIX).lower()] = credential.pop(name).reveal()
    tags = read_tags(parameters.pop(TAGS, None))  # one in extra_body is the upstream's
    parameters.update(_mapping(parameters.pop("extra_body", {}), "extra_body"))
    for name in [name for name in credential if name.startswith(BODY_PREFIX)]:
        parameters[name.removeprefix(BODY_PREFIX)] = json.loads(credential.pop(name).reveal())
    info = _mapping(deployment.model_info, "model_info")
    flags = _mapping(info.get("capabilities") or {}, "capabilities")
    for name in FLAG_PARAMETERS:
        if name in parameters:
            flags[name] = parameters.pop(name) or getattr(NO_FLAGS, name)
    base_model = str(parameters.get("base_model") or deployment.upstream_model)
    capabilities = apply_flags(flags, default_capabilities(base_model))
    if "base_model" not in provider.own_parameters:
        parameters.pop("base_model", None)
    return Target(
        deployment_id=deployment.id,
        model_group=deployment.model_group,
        organization_id=deployment.organization_id,
        provider=provider,
        upstream_model=deployment.upstream_model,
        api_base=deployment.api_base,
        credential=credential,
        parameters=parameters,
        headers=headers,
        other_secrets=frozenset(Secret(text) for text in texts if len(text) >= MIN_SECRET_CHARS),
        weight=deployment.weight,
        order=deployment.order,
        timeouts=_timeouts(deployment),
        price_id=deployment.price_id,
        rpm=deployment.rpm,
        tpm=deployment.tpm,
        max_parallel=deployment.max_parallel,
        max_input_tokens=_count(info.get("max_input_tokens")),
        mode=str(info.get("mode") or ""),
        abilities=read_abilities(info),
        tags=tags,
        created_s=int(deployment.created_at.timestamp()),
        flags=flags,
        capabilities=capabilities,
        fingerprint=_fingerprint(deployment, parameters, headers, capabilities),
    )


def _fingerprint(
    deployment: Deployment, parameters: Mapping[str, Any], headers: Mapping[str, str], capabilities: Capabilities
) -> str:
    """A digest of what an answer depends on: not of the weight, the limits, the price and the credential."""
    upstream = [deployment.provider, deployment.upstream_model, deployment.api_base, str(deployment.model_info)]
    texts = [*upstream, json.dumps(parameters, sort_keys=True), json.dumps(headers, sort_keys=True), str(capabilities)]
    return sha256(json.dumps(texts).encode()).hexdigest()


def _timeouts(deployment: Deployment) -> Timeouts:
    timeouts = Timeouts(*[getattr(deployment, name) for name in TIMEOUTS])
    return NO_TIMEOUTS if timeouts == NO_TIMEOUTS else timeouts  # by which the data path knows it at once


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DeploymentUnusable(f"{name} must be an object")
    return dict(value)
