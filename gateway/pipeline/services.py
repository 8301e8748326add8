"""Services: what an exchange works with beside its request; and the ports that it alone uses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.pipeline.deployment_limits import DeploymentBudgets, DeploymentLimits, NoDeploymentBudgets
from gateway.pipeline.observer import NO_OBSERVER, Observer
from gateway.pipeline.ports import Admission, Ledger, Unlimited
from gateway.pipeline.response_cache import NO_RESPONSE_CACHE, ResponseCache
from gateway.protocol.attempt_context import Fetched
from gateway.protocol.provider import Target
from gateway.protocol.reasoning_replay import Memory
from gateway.protocol.timeouts import Timeouts
from gateway.routing.unsupported_parameters import UnsupportedParameters
from gateway.routing.walk import Routing
from gateway.upstream.client import UpstreamClient

UNLIMITED = Unlimited()
NO_DEPLOYMENT_BUDGETS = NoDeploymentBudgets()


class Clock(Protocol):
    def __call__(self) -> float: ...


class Tokens(Protocol):
    async def get(self, kind: str, target: Target, tags: tuple[tuple[str, str], ...] = ()) -> str:
        """A token of this kind; of a role of AWS, with these session tags."""


class Media(Protocol):
    async def fetch(self, urls: Sequence[str]) -> Mapping[str, Fetched]: ...


@dataclass(frozen=True, slots=True)
class Services:
    """The services of an exchange; built once in runtime.py."""

    ledger: Ledger
    unsupported_parameters: UnsupportedParameters
    memory: Memory
    tokens: Tokens
    media: Media
    client: UpstreamClient
    now: Clock  # seconds since the epoch
    new_id: Callable[[], str]
    timeouts: Timeouts  # of deployments that have none of their own
    keepalive_s: float
    stalled_client_s: float
    routing: Routing
    deployment_limits: DeploymentLimits
    deployment_budgets: DeploymentBudgets = NO_DEPLOYMENT_BUDGETS
    admission: Admission = UNLIMITED
    cache: ResponseCache = NO_RESPONSE_CACHE
    observer: Observer = NO_OBSERVER
    tells_stream_cost: bool = False  # to clients that do not say whether they want it
