"""The prices of deployments: each one's own, or the one that the catalogue has for its model.

A deployment whose upstream model is a pattern has a table of prices instead, made when the deployments are loaded: of
all models of its provider that the catalogue has. The names that callers choose are looked up in it and never kept.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from django.db.models import Q
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.catalogue.names import find_names
from billing.models import Price
from billing.own_prices import NO_PRICES, OwnPrices, find_dated, find_own_prices
from billing.prices import (
    NO_SCHEDULE,
    Found,
    PriceTable,
    Schedule,
    Wanted,
    find_prices,
    find_schedules,
    find_tables,
)
from billing.pricing import PriceLines
from billing.ranking import ranking_prices
from gateway.models import Deployment
from gateway.protocol.provider import ModelPrice, RankingPrices, Target
from gateway.providers.registry import PREFIXES
from gateway.routing.model_patterns import is_pattern

logger = logging.getLogger(__name__)

#: Prices that no deployment has any more, and that calls under way are still to be charged by.
MAX_FORMER = 5000  # more than the catalogue that comes with the gateway has
#: The parameters that name the region of an upstream.
REGIONS = ("aws_region_name", "vertex_location", "vertex_ai_location")


def wanted_price(deployment: Deployment) -> Wanted:
    """The models that a deployment without a price of its own may have the price of."""
    prefixes = {prefix: provider.name for prefix, provider in PREFIXES.items()}
    base_model = _base_model(deployment)
    return Wanted(find_names(deployment.provider, deployment.upstream_model, base_model, prefixes), _region(deployment))


def has_model_prices(deployment: Deployment) -> bool:
    """Each model that it serves has its own price, while it has none for all: it is a pattern without a
    `base_model`."""
    return is_pattern(deployment.upstream_model) and not _base_model(deployment)


def own_prices_of(deployments: Collection[Deployment]) -> dict[str, OwnPrices]:
    """The prices that each deployment has of its own, by its id."""
    return find_own_prices({row.id: row.price_id for row in deployments})


def own_prices_in_force(deployments: Collection[Deployment]) -> dict[str, Price]:
    """The price that each deployment has of its own now, by its id; none of those that have the catalogue's."""
    now = timezone.now()
    return _read_prices({name: own.find(now).price_id for name, own in own_prices_of(deployments).items()})


def _read_prices(ids: Mapping[str, str]) -> dict[str, Price]:
    """Deployment → price, from the ids of both."""
    prices = Price.objects.in_bulk({price_id for price_id in ids.values() if price_id})
    return {name: prices[price_id] for name, price_id in ids.items() if price_id in prices}


def _base_model(deployment: Deployment) -> str:
    texts = [
        value
        for holder in (deployment.model_info, deployment.parameters)
        if isinstance(holder, dict) and isinstance(value := holder.get("base_model"), str)
    ]
    return next((text for text in texts if text), "")


def _region(deployment: Deployment) -> str:
    parameters = deployment.parameters if isinstance(deployment.parameters, dict) else {}
    return next((value for name in REGIONS if isinstance(value := parameters.get(name), str)), "")


@dataclass(frozen=True, slots=True)
class ModelTable:
    """The ModelPrices of a target: the prices in force of all models of its provider, by their names. `ranks`: price →
    how its deployments compare. `organization_id`: the caller whose contracts count; empty for none."""

    found: Mapping[str, Found]
    ranks: Mapping[str, RankingPrices | None]
    organization_id: str = ""

    def find(self, upstream_model: str) -> ModelPrice:
        names = [one.model for one in find_names("", upstream_model, "", {})]
        rows = [row for name in names if (row := self.found.get(name)) is not None]
        contracts = (row.contracts.get(self.organization_id, "") for row in rows)
        price_id = next(filter(None, contracts), "") or next(filter(None, (row.price_id for row in rows)), "")
        return ModelPrice(price_id, self.ranks.get(price_id))

    @property
    def organizations(self) -> set[str]:
        return {name for row in self.found.values() for name in row.contracts}


@dataclass(frozen=True, slots=True)
class DeploymentPrices:
    """The prices of deployments, by their ids. `models`: of those that are patterns, model → its price."""

    found: Mapping[str, Found]
    models: Mapping[str, Mapping[str, Found]]

    def changes(self) -> Iterator[datetime]:
        """The instants at which later versions begin."""
        for table in (self.found, *self.models.values()):
            yield from (one.changes_at for one in table.values() if one.changes_at is not None)


def price_ids_of(found: Mapping[str, Found]) -> set[str]:
    return {name for one in found.values() for name in (one.price_id, *one.contracts.values()) if name}


def make_table(found: Mapping[str, Found], prices: Mapping[str, PriceLines]) -> ModelTable:
    return ModelTable(found, {name: ranking_prices(prices.get(name)) for name in price_ids_of(found)})


def prices_in_force(deployments: Collection[Deployment]) -> dict[str, Price]:
    """The price that calls of each deployment have now, apart from contracts, by the deployment's id. A pattern whose
    models have their own has none."""
    found = find_deployment_prices(deployments).found
    return _read_prices({row.id: found[row.id].price_id for row in deployments})


class RowPrices:
    """Which price a call has now that started at an instant: the FindPrice of a repricing. It reads each deployment
    once. A call of a deployment that is gone has none."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[OwnPrices, Schedule | PriceTable]] = {}

    def __call__(self, deployment_id: str, organization_id: str, started_at: datetime, upstream_model: str) -> str:
        known = self._known.get(deployment_id)
        if known is None:
            known = self._known[deployment_id] = _find_schedules(deployment_id)
        own, others = known
        price_id = own.find(started_at).price_id
        if price_id:
            return price_id
        if isinstance(others, PriceTable):
            others = others.choose(find_names("", upstream_model, "", {}))
        found = others.find(started_at)
        return found.contracts.get(organization_id, found.price_id)


def find_upstream_models(deployment_ids: Collection[str]) -> dict[str, str]:
    """Id → upstream model, which may be a pattern, of deployments that the caller has found."""
    with scopes_disabled():
        rows = Deployment.objects.filter(id__in=deployment_ids).order_by("id")
        return dict(rows.values_list("id", "upstream_model"))


def find_deployments_of(provider: str, model: str) -> list[Deployment]:
    """The deployments that have no price of their own, now or at a later time, and may have the catalogue's price of a
    model, by their ids. `model` empty: of any model of the provider."""
    now = timezone.now()
    with scopes_disabled():  # the platform's prices span all organizations
        rows = list(Deployment.objects.filter(Q(price_id="") | Q(id__in=find_dated())).order_by("id"))
    own = own_prices_of(rows)
    return [row for row in rows if own[row.id].has_gap(now) and _may_have(row, provider, model)]


def _may_have(row: Deployment, provider: str, model: str) -> bool:
    if has_model_prices(row):
        return row.provider == provider
    return any(
        model in ("", one.model) if one.provider == provider else not one.provider and one.model == model
        for one in wanted_price(row).models
    )


def find_deployment_ids(model: str) -> list[str]:
    """The ids of the deployments of a model group, or that of the one with this id."""
    with scopes_disabled():  # the platform's prices span all organizations
        return list(Deployment.objects.filter(Q(model_group=model) | Q(id=model)).values_list("id", flat=True))


def _find_schedules(deployment_id: str) -> tuple[OwnPrices, Schedule | PriceTable]:
    """The deployment's own prices, and for the time without them the versions of its model's, or of all models that it
    may serve."""
    with scopes_disabled():  # a row names its deployment, whosever it is
        row = Deployment.objects.filter(id=deployment_id).first()
    if row is None:
        return NO_PRICES, NO_SCHEDULE
    own = own_prices_of([row])[row.id]
    if own.base_id and not own.versions:
        return own, NO_SCHEDULE
    if has_model_prices(row):
        place = row.provider, _region(row)
        return own, find_tables([place])[place]
    return own, find_schedules({"": wanted_price(row)})[""]


def find_deployment_prices(deployments: Collection[Deployment]) -> DeploymentPrices:
    """Every deployment's price: its own, or the catalogue's."""
    now = timezone.now()
    own = {name: prices.find(now) for name, prices in own_prices_of(deployments).items()}
    others = [row for row in deployments if not own[row.id].price_id]
    places = {row.id: (row.provider, _region(row)) for row in others if has_model_prices(row)}
    tables = {place: table.find_all(now) for place, table in find_tables(set(places.values())).items()}
    wanted = {row.id: wanted_price(row) for row in others if row.id not in places}
    shared = {name: _end_at(found, own[name].changes_at) for name, found in find_prices(wanted, now).items()}
    return DeploymentPrices(own | shared, {name: tables[place] for name, place in places.items()})


def _end_at(found: Found, end: datetime | None) -> Found:
    changes = [at for at in (found.changes_at, end) if at is not None]
    return replace(found, changes_at=min(changes, default=None))


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
        tables = {id(table): table for target in targets if (table := table_of(target)) is not None}
        organizations.update(*(table.organizations for table in tables.values()))
        for organization in organizations if owner is None else organizations & {owner}:
            if owner is None and (organization, group) in groups:
                continue
            result[organization, group] = [
                _with_contract(target, organization, contracts.get(target.deployment_id, {}), prices)
                for target in targets
            ]
    return result


def _with_contract(
    target: Target, organization: str, contracts: Mapping[str, str], prices: Mapping[str, PriceLines]
) -> Target:
    table = table_of(target)
    if table is not None:
        return replace(target, model_prices=replace(table, organization_id=organization))
    if organization not in contracts:
        return target
    price_id = contracts[organization]
    return replace(target, price_id=price_id, prices=ranking_prices(prices.get(price_id)))


def table_of(target: Target) -> ModelTable | None:
    return target.model_prices if isinstance(target.model_prices, ModelTable) else None


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
