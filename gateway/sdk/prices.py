"""The prices of the SDK's deployments: each one's own, or the one that the gateway's price data has for its model."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

from billing.catalogue.names import PricedModel, find_names
from billing.catalogue.seed import BookPrice, read_seed
from billing.pricing import PriceLines
from billing.ranking import ranking_prices
from gateway.config.model_list import DeploymentEntry
from gateway.protocol.provider import ModelPrice
from gateway.providers.registry import PREFIXES
from gateway.routing.model_patterns import is_pattern

#: {prefix of a model's name: name of the provider}
PREFIX_NAMES = {prefix: provider.name for prefix, provider in PREFIXES.items()}


@cache
def _versions() -> Mapping[tuple[str, str], list[BookPrice]]:
    """(provider, or empty for any; model) → the versions of its price"""
    versions: dict[tuple[str, str], list[BookPrice]] = defaultdict(list)
    for version in read_seed().prices:
        versions[version.provider, version.model].append(version)
        versions["", version.model].append(version)
    return versions


class PriceBook:
    """Prices by the ids that targets have. `now`: seconds since the epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._own: dict[str, PriceLines] = {}
        self._read: dict[int, PriceLines] = {}  # by the identity of a version of the seed, which lives as long

    def add(self, entry: DeploymentEntry) -> str:
        """The id of the deployment's price; empty where none is known. Raises ValueError for lines that are none."""
        if entry.price_lines:
            self._own[entry.id] = PriceLines.read(entry.price_lines)
            return f"own {entry.id}"
        base_model = next(iter(_base_models(entry)), "")
        for model in find_names(entry.provider, entry.upstream_model, base_model, PREFIX_NAMES):
            if self._find_version(model) is not None:
                return f"{model.provider}/{model.model}"
        return ""

    def models_of(self, entry: DeploymentEntry) -> "ModelBook | None":
        """The prices of the models of a deployment that is a pattern; None where one price is for all."""
        is_one = bool(entry.price_lines) or any(_base_models(entry))
        return ModelBook(self, entry) if is_pattern(entry.upstream_model) and not is_one else None

    def forget(self, deployment_ids: Iterable[str]) -> None:
        for deployment_id in deployment_ids:
            self._own.pop(deployment_id, None)

    def find(self, price_id: str) -> PriceLines | None:
        """The price with this id, as it is in force now."""
        if price_id.startswith("own "):
            return self._own.get(price_id.removeprefix("own "))
        provider, slash, model = price_id.partition("/")
        version = self._find_version(PricedModel(provider, model)) if slash else None
        if version is None:
            return None
        lines = self._read.get(id(version))
        if lines is None:
            lines = self._read[id(version)] = PriceLines.read(version.lines)
        return lines

    def _find_version(self, model: PricedModel) -> BookPrice | None:
        """The latest version that is in force. A name alone has one where a single provider has the name."""
        versions = _versions().get((model.provider, model.model), [])
        if len({version.provider for version in versions}) > 1:
            return None
        now = datetime.fromtimestamp(self._now(), UTC)
        begun = [version for version in versions if version.effective_from is None or version.effective_from <= now]
        return max(begun, key=_begin, default=None)


class ModelBook:
    """The ModelPrices of a target that is a pattern."""

    def __init__(self, prices: PriceBook, entry: DeploymentEntry) -> None:
        self._prices = prices
        self._entry = entry

    def find(self, upstream_model: str) -> ModelPrice:
        price_id = self._prices.add(replace(self._entry, upstream_model=upstream_model))
        return ModelPrice(price_id, ranking_prices(self._prices.find(price_id)))


def _begin(version: BookPrice) -> float:
    return 0.0 if version.effective_from is None else version.effective_from.timestamp()


def _base_models(entry: DeploymentEntry) -> Iterable[str]:
    for holder in (entry.model_info, entry.parameters):
        value = holder.get("base_model")
        if isinstance(value, str) and value:
            yield value
