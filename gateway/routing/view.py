"""RoutingView: the state of deployments at one instant, as the router and its strategies read it."""

from collections.abc import Mapping
from typing import Protocol


class RoutingView(Protocol):
    """Reads only, and each in constant time."""

    def out(self) -> Mapping[str, str]:
        """{deployment or circuit that no call may go to now: why, to continue the sentence "The deployment …"}"""

    def running(self, deployment_id: str) -> int:
        """The calls that wait for an answer."""

    def latency_s(self, deployment_id: str, *, is_stream: bool) -> float | None:
        """The decayed mean time to the first token of a stream, or to a whole answer; None where none is known."""

    def used_tokens(self, deployment_id: str) -> int:
        """The tokens of the last minute, running calls by their estimate."""

    def cached_share(self, deployment_id: str) -> float:
        """The share of input that its upstream has read from its prompt cache, 0 to 1."""


class NoState:
    """A RoutingView in which nothing has happened yet."""

    def out(self) -> Mapping[str, str]:
        return {}

    def running(self, deployment_id: str) -> int:
        return 0

    def latency_s(self, deployment_id: str, *, is_stream: bool) -> float | None:
        return None

    def used_tokens(self, deployment_id: str) -> int:
        return 0

    def cached_share(self, deployment_id: str) -> float:
        return 0.0
