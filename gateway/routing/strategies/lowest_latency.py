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
from gateway.routing.strategy import Draw
from gateway.routing.view import RoutingView


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

    def choose(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        scores = [_score(target, request, view) for target in targets]
        bound = min(scores) * (1 + self.buffer)
        near = [target for target, score in zip(targets, scores, strict=True) if score <= bound]
        return near[int(draw() * len(near))]

    def explain(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        return [_explain(target, request, view) for target in targets]


def _explain(target: Target, request: RoutingRequest, view: RoutingView) -> str:
    running = view.running(target.deployment_id)
    latency_s = view.latency_s(target.deployment_id, is_stream=request.is_stream)
    if latency_s is None:
        return f"has no latency yet, and {running} running calls"
    return f"answers in {latency_s:.3g} s, with {running} running calls"


def _score(target: Target, request: RoutingRequest, view: RoutingView) -> float:
    running = view.running(target.deployment_id)
    latency_s = view.latency_s(target.deployment_id, is_stream=request.is_stream)
    if latency_s is None:  # asked once; until it has answered, as if it were slow
        return running * 1e6
    return latency_s * (running + 1)


STRATEGY = LowestLatency()
