"""The prices of deployments: each one's own, or the one that the catalogue has for its model."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime

from django.db.models import Q
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.catalogue.names import find_names
from billing.models import Price
from billing.prices import Found, Schedule, Wanted, find_prices, find_schedules
from billing.pricing import PriceLines
from billing.ranking import ranking_prices
from gateway.models import Deployment
from gateway.protocol.provider import Target
from gateway.providers.registry import PREFIXES

logger = logging.getLogger(__name__)

#: Prices that no deployment has any more, and that calls under way are still to be charged by.
MAX_FORMER = 1000
#: The parameters that name the region of an upstream.
REGIONS = ("aws_region_name", "vertex_location", "vertex_ai_location")


def wanted_price(deployment: Deployment) -> Wanted:
    """The models that a deployment without a price of its own may have the price of."""
    texts = [
        value
        for holder in (deployment.model_info, deployment.parameters)
        if isinstance(holder, dict) and isinstance(value := holder.get("base_model"), str)
    ]
    base_model = next((text for text in texts if text), "")
    parameters = deployment.parameters if isinstance(deployment.parameters, dict) else {}
    regions = [value for name in REGIONS if isinstance(value := parameters.get(name), str)]
    prefixes = {prefix: provider.name for prefix, provider in PREFIXES.items()}
    models = find_names(deployment.provider, deployment.upstream_model, base_model, prefixes)
    return Wanted(models, next(iter(regions), ""))


def prices_in_force(deployments: Collection[Deployment]) -> dict[str, Price]:
    """The price that calls of each deployment have now, apart from contracts, by the deployment's id."""
    found = find_deployment_prices(deployments)
    ids = {row.id: row.price_id or found[row.id].price_id for row in deployments}
    prices = Price.objects.in_bulk({price_id for price_id in ids.values() if price_id})
    return {name: prices[price_id] for name, price_id in ids.items() if price_id in prices}


class RowPrices:
    """Which price a call has now that started at an instant: the FindPrice of a repricing. It reads each deployment
    once. A call of a deployment that is gone has none."""

    def __init__(self) -> None:
        self._known: dict[str, str | Schedule] = {}

    def __call__(self, deployment_id: str, organization_id: str, started_at: datetime) -> str:
        known = self._known.get(deployment_id)
        if known is None:
            known = self._known[deployment_id] = _find_schedule(deployment_id)
        if isinstance(known, str):
            return known
        found = known.find(started_at)
        return found.contracts.get(organization_id, found.price_id)


def find_deployment_ids(model: str) -> list[str]:
    """The ids of the deployments of a model group, or that of the one with this id."""
    with scopes_disabled():  # the platform's prices span all organizations
        return list(Deployment.objects.filter(Q(model_group=model) | Q(id=model)).values_list("id", flat=True))


def _find_schedule(deployment_id: str) -> str | Schedule:
    """The deployment's own price, or the versions of its model's."""
    with scopes_disabled():  # a row names its deployment, whosever it is
        row = Deployment.objects.filter(id=deployment_id).first()
    if row is None:
        return ""
    return row.price_id or find_schedules({"": wanted_price(row)})[""]


def find_deployment_prices(deployments: Collection[Deployment]) -> Mapping[str, Found]:
    """Every deployment's price of the catalogue; none of one that has a price of its own."""
    own = {row.id: Found() for row in deployments if row.price_id}
    wanted = {row.id: wanted_price(row) for row in deployments if not row.price_id}
    return own | find_prices(wanted, timezone.now())


def apply_contracts(
    groups: Mapping[tuple[str | None, str], list[Target]],
    contracts: Mapping[str, Mapping[str, str]],
    prices: Mapping[str, PriceLines],
) -> Mapping[tuple[str | None, str], list[Target]]:
    """The groups, and one more for each organization that has contracts for deployments of a group: it hides the shared
    one of the same name, so that calls need no look-up."""
    result = dict(groups)
    for (owner, group), targets in groups.items():
        organizations = {name for target in targets for name in contracts.get(target.deployment_id, ())}
        for organization in organizations if owner is None else organizations & {owner}:
            if owner is None and (organization, group) in groups:
                continue
            result[organization, group] = [
                target
                if (price_id := contracts.get(target.deployment_id, {}).get(organization)) is None
                else replace(target, price_id=price_id, prices=ranking_prices(prices.get(price_id)))
                for target in targets
            ]
    return result


def load_prices(known: Mapping[str, PriceLines], price_ids: Collection[str]) -> Mapping[str, PriceLines]:
    """A price never changes; a change of a deployment's price is another one. The former ones stay known for the calls
    that began with them: one whose price is unknown at its end would be charged nothing of its budgets."""
    former = [name for name in known if name not in price_ids][-MAX_FORMER:]
    prices = {name: known[name] for name in former} | {name: known[name] for name in known if name in price_ids}
    for price in Price.objects.filter(id__in={name for name in price_ids if name and name not in prices}):
        try:
            prices[price.id] = PriceLines.read(price.lines)
        except ValueError as error:
            logger.error("a price cannot be read", extra={"price": price.id, "why": str(error)})
    return prices
