"""sticky: the calls of one session go to one deployment, whose prompt cache knows it.

Rendezvous hashing, weighted: the deployment with the highest -weight / ln(h), where h is a hash of session and
deployment in (0, 1). Where one is lost its sessions alone move. Source: Thaler and Ravishankar, "Using name-based
mappings to increase hit rates" (1998), https://datatracker.ietf.org/doc/html/draft-ietf-bess-weighted-hrw. A call
without a session is drawn by weight.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw
from gateway.routing.view import RoutingView

HASH_BYTES = 7  # 56 bits: a float holds 53 of them
TOP = float(1 << (8 * HASH_BYTES))


class Sticky:
    name = "sticky"
    aliases = ("session-affinity",)

    def choose(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        session = (request.session or str(draw())).encode()
        key = blake2b(session, digest_size=16).digest()
        return max(targets, key=lambda target: _score(target, key))

    def explain(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        """The highest score of the session wins."""
        if not request.session:
            return ["is drawn by weight, as the call names no session"] * len(targets)
        key = blake2b(request.session.encode(), digest_size=16).digest()
        return [f"has the score {_score(target, key):.3g} for this session" for target in targets]


def _score(target: Target, key: bytes) -> float:
    digest = blake2b(target.deployment_id.encode(), digest_size=HASH_BYTES, key=key).digest()
    point = (int.from_bytes(digest) + 0.5) / TOP
    return -target.weight / math.log(point)


STRATEGY = Sticky()
