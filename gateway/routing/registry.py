"""The routing strategies by their names. A new strategy is one file in strategies/, which nothing else names."""

from gateway.protocol.registry import scan
from gateway.routing import strategies
from gateway.routing.strategy import Strategy

_BY_NAME: dict[str, Strategy] = scan(strategies, "STRATEGY")
STRATEGIES: dict[str, Strategy] = _BY_NAME | {
    alias: strategy for strategy in _BY_NAME.values() for alias in strategy.aliases
}
DEFAULT_STRATEGY = STRATEGIES["simple-shuffle"]
