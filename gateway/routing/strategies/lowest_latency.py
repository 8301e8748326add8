"""latency-based-routing: the lowest decayed mean latency, times (running + 1): the time to the first token for a
stream, to the whole answer else.

Sources: LiteLLM's strategy of the same name, with its `lowest_latency_buffer` (https://docs.litellm.ai/docs/routing);
the product with the running calls is Finagle's peak EWMA (https://twitter.github.io/finagle/guide/Clients.html). Among
all within a buffer of the best a draw decides, so that the fastest is not flooded. A deployment without a latency is
asked first: there is no other way to learn it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw, draw_least
from gateway.routing.target_group import TargetGroup, deployment_ids
from gateway.routing.view import RoutingView

#: A deployment without a latency is asked once; until it has answered it counts as so slow.
UNKNOWN_S = 1e6


@dataclass(frozen=True, slots=True)
class LowestLatency:
    """`buffer`: the share above the best latency that still counts as equal."""

    buffer: float = 0.1
    name: ClassVar[str] = "latency-based-routing"
    aliases: ClassVar[tuple[str, ...]] = ("lowest-latency",)
    #: `ttl`, seconds, is the view's: it tells no older latency.
    arguments: ClassVar[Mapping[str, float]] = {"lowest_latency_buffer": 10.0, "ttl": 86_400.0}

    def with_arguments(self, arguments: Mapping[str, float]) -> "LowestLatency":
        return replace(self, buffer=arguments.get("lowest_latency_buffer", self.buffer))

    def choose(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        ids = targets.derive(deployment_ids)
        latencies = view.latencies_s(ids, is_stream=request.is_stream)
        scores = [
            UNKNOWN_S * calls if latency_s is None else latency_s * (calls + 1)
            for calls, latency_s in zip(view.running(ids), latencies, strict=True)
        ]
        return draw_least(targets, scores, draw, buffer=self.buffer)

    def explain(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        ids = targets.derive(deployment_ids)
        latencies = view.latencies_s(ids, is_stream=request.is_stream)
        return [
            f"has no latency yet, and {calls} running calls"
            if latency_s is None
            else f"answers in {latency_s:.3g} s, with {calls} running calls"
            for calls, latency_s in zip(view.running(ids), latencies, strict=True)
        ]


STRATEGY = LowestLatency()
