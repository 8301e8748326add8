"""RoutingView: the state of deployments at one instant, as the router and its strategies read it."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class RoutingView(Protocol):
    """Reads only. The figures of several deployments are read at once, in their order, because each call compares all
    of its group."""

    def out(self) -> Mapping[str, str]:
        """{deployment or circuit that no call may go to now: why, to continue the sentence "The deployment …"}"""

    def running(self, deployment_ids: Sequence[str]) -> Sequence[int]:
        """The calls that wait for an answer."""

    def latencies_s(self, deployment_ids: Sequence[str], *, is_stream: bool) -> Sequence[float | None]:
        """The decayed mean times to the first token of a stream, or to a whole answer; None where none is known."""

    def used_tokens(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        """The tokens of the last minute, running calls by their estimate."""

    def cached_shares(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        """The shares of input that their upstreams have read from their prompt caches, 0 to 1."""


class NoState:
    """A RoutingView in which nothing has happened yet."""

    def out(self) -> Mapping[str, str]:
        return {}

    def running(self, deployment_ids: Sequence[str]) -> Sequence[int]:
        return [0] * len(deployment_ids)

    def latencies_s(self, deployment_ids: Sequence[str], *, is_stream: bool) -> Sequence[float | None]:
        return [None] * len(deployment_ids)

    def used_tokens(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        return [0.0] * len(deployment_ids)

    def cached_shares(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        return [0.0] * len(deployment_ids)
