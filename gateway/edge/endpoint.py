"""Endpoint, which each module of gateway.api exports as ENDPOINT."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.edge.consumer import GatewayConsumer
from gateway.edge.websocket.consumer import SocketConsumer


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str
    paths: tuple[str, ...]
    consumer: type[GatewayConsumer]
    options: Mapping[str, object] = field(default_factory=dict)  # further arguments of the consumer
    prefix: bool = False  # the endpoint answers every path below its paths too
    socket: type[SocketConsumer] | None = None  # answers WebSockets on the same paths
