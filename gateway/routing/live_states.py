"""The states of deployments, for pages and the management API: their views ask the breaker of their own process."""

from collections.abc import Mapping

from gateway.routing.breaker import SOUND, Breaker, DeploymentState

NOTHING: Mapping[str, DeploymentState] = {}


class LiveStates:
    """The breaker of this process, from `connect` until `disconnect`; views run in threads beside its event loop."""

    def __init__(self) -> None:
        self._breaker: Breaker | None = None

    def connect(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def disconnect(self) -> None:
        self._breaker = None

    def read(self) -> Mapping[str, DeploymentState]:
        """By the id of the deployment; empty where this process answers no calls."""
        breaker = self._breaker
        return NOTHING if breaker is None else breaker.states()

    def find(self, deployment_id: str) -> DeploymentState:
        breaker = self._breaker
        return SOUND if breaker is None else breaker.state_of(deployment_id)


LIVE_STATES = LiveStates()
