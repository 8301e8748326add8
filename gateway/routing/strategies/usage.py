"""usage-based-routing: the most tokens left of `tpm`, as a share; without one, the fewest used in the last minute.

Source: LiteLLM's usage-based-routing and -v2 (https://docs.litellm.ai/docs/routing). Each process ranks by the tokens
that it has sent; the limits themselves are counted exactly for all processes.
"""

from collections.abc import Sequence

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw, draw_least
from gateway.routing.target_group import TargetGroup, deployment_ids
from gateway.routing.view import RoutingView

#: The limit of a deployment without one.
UNLIMITED_TPM = 10**12


class Usage:
    name = "usage-based-routing"
    aliases = ("usage-based-routing-v2",)

    def choose(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        used = view.used_tokens(targets.derive(deployment_ids))
        shares = [tokens / limit for tokens, limit in zip(used, targets.derive(_limits), strict=True)]
        return draw_least(targets, shares, draw)

    def explain(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        used = view.used_tokens(targets.derive(deployment_ids))
        return [
            f"has used {tokens:,.0f} tokens in the last minute" + (f", of {target.tpm:,}" if target.tpm else "")
            for tokens, target in zip(used, targets, strict=True)
        ]


def _limits(targets: TargetGroup) -> tuple[int, ...]:
    return tuple([target.tpm or UNLIMITED_TPM for target in targets])


STRATEGY = Usage()
