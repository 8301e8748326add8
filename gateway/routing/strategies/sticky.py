"""sticky: the calls of one session go to one deployment, whose prompt cache knows it.

Rendezvous hashing, weighted: the deployment with the highest -weight / ln(h), where h is a hash of session and
deployment in (0, 1). Where one is lost its sessions alone move. Source: Thaler and Ravishankar, "Using name-based
mappings to increase hit rates" (1998), https://datatracker.ietf.org/doc/html/draft-ietf-bess-weighted-hrw. A call
without a session is drawn by weight.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b
from itertools import repeat

from gateway.protocol.provider import Target
from gateway.routing.request import RoutingRequest
from gateway.routing.strategy import Draw
from gateway.routing.target_group import TargetGroup
from gateway.routing.view import RoutingView

HASH_BYTES = 7  # a number of 56 bits is its own hash
MASK = (1 << 52) - 1  # a float holds them, and the half that keeps them above zero
TOP = float(1 << 52)


class Sticky:
    name = "sticky"
    aliases = ("session-affinity",)

    def choose(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView, draw: Draw) -> Target:
        number = _number(request.session or str(draw()))
        best, best_score = targets[0], -math.inf
        for weight, group, numbers in targets.derive(_by_weight):
            points = [hash(pair) & MASK for pair in zip(repeat(number), numbers)]
            highest = max(points)
            score = _score(highest, weight)
            if score > best_score:
                best, best_score = group[points.index(highest)], score
        return best

    def explain(self, targets: TargetGroup, request: RoutingRequest, view: RoutingView) -> Sequence[str]:
        """The highest score of the session wins."""
        if not request.session:
            return ["is drawn by weight, as the call names no session"] * len(targets)
        return [f"has the score {score:.3g} for this session" for score in _scores(targets, request.session)]


def _scores(targets: TargetGroup, session: str) -> Sequence[float]:
    number = _number(session)
    points = [hash((number, _number(target.deployment_id))) & MASK for target in targets]
    return [_score(point, target.weight) for target, point in zip(targets, points, strict=True)]


def _score(point: int, weight: float) -> float:
    return -weight / math.log((point + 0.5) / TOP)


def _by_weight(targets: TargetGroup) -> Sequence[tuple[float, Sequence[Target], Sequence[int]]]:
    """(weight, its targets, their numbers): among targets of one weight the highest point has the highest score."""
    found: dict[float, list[Target]] = {}
    for target in targets:
        found.setdefault(target.weight, []).append(target)
    return [(weight, group, [_number(target.deployment_id) for target in group]) for weight, group in found.items()]


def _number(text: str) -> int:
    """Python hashes a tuple of such numbers alike in all processes, and in a tenth of the time of a digest."""
    return int.from_bytes(blake2b(text.encode(), digest_size=HASH_BYTES).digest())


STRATEGY = Sticky()
