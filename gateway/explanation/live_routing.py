"""The state of routing of this process, for views: they run in threads beside the event loop that changes it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.protocol.provider import Target, split_circuit
from gateway.routing.filters import Dropped
from gateway.routing.view import RoutingView
from gateway.routing.walk import Routing

PATIENCE_S = 2.0
#: Deployments that are read in one go, so that the event loop is held for less than a millisecond.
CHUNK = 200


@dataclass(frozen=True, slots=True)
class Figures:
    running: int
    first_token_s: float | None
    whole_answer_s: float | None
    used_tokens: float
    cached_share: float


NO_FIGURES = Figures(0, None, None, 0, 0.0)


@dataclass(frozen=True, slots=True)
class FrozenView:
    """A RoutingView of one instant."""

    reasons: Mapping[str, str]
    figures: Mapping[str, Figures]

    def out(self) -> Mapping[str, str]:
        return self.reasons

    def running(self, deployment_ids: Sequence[str]) -> Sequence[int]:
        return [figures.running for figures in self._of(deployment_ids)]

    def latencies_s(self, deployment_ids: Sequence[str], *, is_stream: bool) -> Sequence[float | None]:
        found = self._of(deployment_ids)
        return [figures.first_token_s if is_stream else figures.whole_answer_s for figures in found]

    def used_tokens(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        return [figures.used_tokens for figures in self._of(deployment_ids)]

    def cached_shares(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        return [figures.cached_share for figures in self._of(deployment_ids)]

    def _of(self, deployment_ids: Sequence[str]) -> Sequence[Figures]:
        return [self.figures.get(name, NO_FIGURES) for name in deployment_ids]


class LiveRouting:
    """The state from `connect` until `disconnect`."""

    def __init__(self) -> None:
        self._state: tuple[Routing, asyncio.AbstractEventLoop] | None = None

    def connect(self, routing: Routing) -> None:
        self._state = routing, asyncio.get_running_loop()

    def disconnect(self) -> None:
        self._state = None

    def find_last_resort(self, dropped: Sequence[Dropped]) -> Target | None:
        """The deployment of a group that is asked although all are out; see Routing. It blocks the thread."""
        if self._state is None:
            return None
        routing, loop = self._state
        future = asyncio.run_coroutine_threadsafe(_find_last_resort(routing, dropped), loop)
        try:
            return future.result(PATIENCE_S)
        except TimeoutError:
            future.cancel()
            return None

    def read(self, deployment_ids: Sequence[str]) -> FrozenView | None:
        """The state of these deployments; None where this process answers no calls. It blocks the thread."""
        if self._state is None:
            return None
        view, loop = self._state
        future = asyncio.run_coroutine_threadsafe(_freeze(view, deployment_ids), loop)
        try:
            return future.result(PATIENCE_S)
        except TimeoutError:
            future.cancel()
            return None


async def _find_last_resort(routing: Routing, dropped: Sequence[Dropped]) -> Target | None:
    return routing.last_resort(dropped)


async def _freeze(view: RoutingView, deployment_ids: Sequence[str]) -> FrozenView:
    figures: dict[str, Figures] = {}
    for start in range(0, len(deployment_ids), CHUNK):
        part = deployment_ids[start : start + CHUNK]
        columns = (
            view.running(part),
            view.latencies_s(part, is_stream=True),
            view.latencies_s(part, is_stream=False),
            view.used_tokens(part),
            view.cached_shares(part),
        )
        for deployment_id, *row in zip(part, *columns, strict=True):
            figures[deployment_id] = Figures(*row)
        await asyncio.sleep(0)
    return FrozenView(
        {name: reason for name, reason in view.out().items() if split_circuit(name)[0] in figures}, figures
    )


LIVE_ROUTING = LiveRouting()
