"""sticky: the calls of one session go to one deployment, whose prompt cache knows it.

Rendezvous hashing, weighted: the deployment with the highest -weight / ln(h), where h is a hash of session and
deployment in (0, 1). Where one is lost its sessions alone move. Source: Thaler and Ravishankar, "Using name-based
mappings to increase hit rates" (1998), https://datatracker.ietf.org/doc/html/draft-ietf-bess-weighted-hrw. A call
without a session is drawn by weight.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw
from gateway.routing.view import RoutingView

HASH_BYTES = 7  # a number of 56 bits is its own hash
MASK = (1 << 52) - 1  # a float holds them, and the half that keeps them above zero
TOP = float(1 << 52)


class Sticky:
    name = "sticky"
    aliases = ("session-affinity",)

    def choose(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        scores = _scores(targets, request.session or str(draw()))
        return targets[scores.index(max(scores))]

    def explain(self, targets: Sequence[Target], request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        """The highest score of the session wins."""
        if not request.session:
            return ["is drawn by weight, as the call names no session"] * len(targets)
        return [f"has the score {score:.3g} for this session" for score in _scores(targets, request.session)]


def _scores(targets: Sequence[Target], session: str) -> Sequence[float]:
    """Python hashes a tuple of numbers alike in all processes, and in a tenth of the time of a digest."""
    number = _number(session)
    points = [(hash((number, _known_number(target.deployment_id))) & MASK) + 0.5 for target in targets]
    return [-target.weight / math.log(point / TOP) for target, point in zip(targets, points, strict=True)]


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=HASH_BYTES).digest())


_known_number = lru_cache(maxsize=4096)(_number)  # of deployments

STRATEGY = Sticky()
