"""Endpoint, which each module of gateway.api exports as ENDPOINT."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.edge.asgi_types import App
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.websocket.consumer import SocketConsumer
from gateway.runtime import Drain


@dataclass(slots=True)
class StartState:
    """A process that has no runtime, yet or any more; `reason` says for what its start waits."""

    drain: Drain
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str
    paths: tuple[str, ...]
    consumer: type[GatewayConsumer]
    options: Mapping[str, object] = field(default_factory=dict)  # further arguments of the consumer
    prefix: bool = False  # the endpoint answers every path below its paths too
    socket: type[SocketConsumer] | None = None  # answers WebSockets on the same paths
    #: Makes the app that answers while there is no runtime; without it the answer is 503.
    without_runtime: Callable[[StartState], App] | None = None
