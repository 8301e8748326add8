"""The database side of the data plane's ports: the deployments as a frozen Catalog."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from django_scopes import scopes_disabled

from billing.prices import Found
from billing.pricing import PriceLines
from billing.ranking import ranking_prices
from gateway.models import Deployment, RouterSettings
from gateway.models.encryption import CredentialUnusable, unseal
from gateway.pipeline.ports import BudgetRule, Catalog
from gateway.protocol.provider import Target
from gateway.routing.deployment_target import DeploymentUnusable, make_target
from gateway.routing.read_settings import read_settings
from gateway.routing.settings import DEFAULT_SETTINGS, RoutingSettings
from gateway.stores.deployment_prices import (
    DeploymentPrices,
    apply_contracts,
    find_deployment_prices,
    load_prices,
    make_table,
    price_ids_of,
    table_of,
)
from tenants.rules import load_deployment_budgets

logger = logging.getLogger(__name__)


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
    loaded = find_deployment_prices(deployments)
    found = loaded.found
    for deployment in deployments:
        try:
            targets[deployment.id] = replace(target_of(deployment), price_id=found[deployment.id].price_id)
        except (CredentialUnusable, DeploymentUnusable) as error:
            logger.error("a deployment cannot be used", extra={"deployment": deployment.id, "why": str(error)})
    contracts = {name: ids for name, ids in snapshot.contracts.items() if name in targets and name not in found} | {
        name: one.contracts for name, one in found.items() if name in targets and one.contracts
    }
    contract_ids = {price_id for ids in contracts.values() for price_id in ids.values()}
    model_ids = {price_id for table in _model_tables(targets, loaded) for price_id in price_ids_of(table)}
    prices = load_prices(snapshot.prices, {target.price_id for target in targets.values()} | contract_ids | model_ids)
    tables = {id(table): make_table(table, prices) for table in loaded.models.values()}
    for name in targets if deployment_ids is None else targets.keys() & set(deployment_ids):
        table = tables[id(loaded.models[name])] if name in loaded.models else None
        ranks = ranking_prices(prices.get(targets[name].price_id))
        targets[name] = replace(targets[name], prices=ranks, model_prices=table)
    targets = dict(sorted(targets.items(), key=lambda item: (item[1].model_group, item[1].order, item[0])))
    groups: dict[tuple[str | None, str], list[Target]] = defaultdict(list)
    for target in targets.values():
        groups[(target.organization_id, target.model_group)].append(target)
    catalog = Catalog(
        {name: tuple(group) for name, group in apply_contracts(groups, contracts, prices).items()},
        routing.aliases,
        routing.hidden_aliases,
    )
    changes = [instant.timestamp() for instant in loaded.changes()]
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


def _model_tables(targets: Mapping[str, Target], loaded: DeploymentPrices) -> Iterator[Mapping[str, Found]]:
    """The tables of the deployments that were loaded, and of those that stay; each once."""
    kept = (table.found for target in targets.values() if (table := table_of(target)) is not None)
    yield from {id(table): table for table in (*loaded.models.values(), *kept)}.values()


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
    return make_target(
        deployment,
        unseal(context=deployment.id, sealed=deployment.credential),
        organization_id=deployment.organization_id,
        price_id=deployment.price_id,
        created_s=int(deployment.created_at.timestamp()),
    )
