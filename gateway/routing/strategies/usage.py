"""usage-based-routing: the most tokens left of `tpm`, as a share; without one, the fewest used in the last minute.

Source: LiteLLM's usage-based-routing and -v2 (https://docs.litellm.ai/docs/routing). Each process ranks by the tokens
that it has sent; the limits themselves are counted exactly for all processes.
"""

from collections.abc import Sequence

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw
from gateway.routing.view import RoutingView


class Usage:
    name = "usage-based-routing"
    aliases = ("usage-based-routing-v2",)

    def choose(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        used = [_used_share(target, view) for target in targets]
        least = min(used)
        idle = [target for target, share in zip(targets, used, strict=True) if share == least]
        return idle[int(draw() * len(idle))]

    def explain(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        return [
            f"has used {view.used_tokens(target.deployment_id):,} tokens in the last minute"
            + (f", of {target.tpm:,}" if target.tpm else "")
            for target in targets
        ]


#: The limit of a deployment without one.
UNLIMITED_TPM = 10**12


def _used_share(target: Target, view: RoutingView) -> float:
    return view.used_tokens(target.deployment_id) / (target.tpm or UNLIMITED_TPM)


STRATEGY = Usage()
