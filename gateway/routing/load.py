"""DeploymentLoad: what this process knows of its deployments' calls: running, latency, tokens, prompt cache."""

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from gateway.routing.settings import Hedging

#: A latency counts half as much after this time, and half as much as the one after it.
HALF_LIFE_S = 60.0
ALPHA = 0.3
LONGEST_TTL_S = 1e9  # a latency that is not known is older
MINUTE_S = 60
#: A percentile is that of the last latencies, if there are enough of them.
MOST_SAMPLES = 128
LEAST_SAMPLES = 20
SAMPLES_FOR_S = 300.0
#: A deployment whose limits refused a call is not asked for room again before this time, if they tell none.
FULL_S = 1.0
FULL = "has reached its limits"
SPENT = "has a budget into which the call does not fit"


@dataclass(slots=True)
class _Decayed:
    """A mean of samples in which older ones count less."""

    mean: float = 0.0
    at_s: float = -math.inf  # of the last sample

    def add(self, sample: float, now: float) -> None:
        weight = 1 - (1 - ALPHA) * math.exp2(-(now - self.at_s) / HALF_LIFE_S)  # 1 for the first
        self.mean += weight * (sample - self.mean)
        self.at_s = now


@dataclass(slots=True)
class _Load:
    running: int = 0
    first_token: _Decayed = field(default_factory=_Decayed)
    whole_answer: _Decayed = field(default_factory=_Decayed)
    cached: _Decayed = field(default_factory=_Decayed)
    first_tokens: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    whole_answers: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    tokens: int = 0  # of this minute, and reserved by running calls
    tokens_before: int = 0  # of the minute before
    reserved: int = 0


class _Loads(dict[str, _Load]):
    """By the deployment."""

    def __missing__(self, deployment_id: str) -> _Load:
        return _NO_LOAD


class DeploymentLoad:
    """`now`: seconds, of a clock that only goes forward."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._loads = _Loads()
        self._minute = 0
        self._full: dict[str, float] = {}  # until when

    def begin(self, deployment_id: str, tokens: int) -> None:
        load = self._loads.get(deployment_id)
        if load is None:
            load = self._loads[deployment_id] = _Load()
        load.running += 1
        load.reserved += tokens
        load.tokens += tokens

    def end(self, deployment_id: str, reserved: int, used: int) -> None:
        """`reserved` as it was at the beginning; `used`: tokens by the answer's usage."""
        load = self._loads.get(deployment_id)
        if load is None:  # it was forgotten while the call ran
            return
        self._turn(self._now())  # first: what is reserved is that of the running calls, this one among them
        load.running = max(load.running - 1, 0)
        reserved = min(reserved, load.reserved)
        load.reserved -= reserved
        load.tokens += used - reserved

    def note_latency(self, deployment_id: str, seconds: float, *, is_stream: bool) -> None:
        load = self._loads.get(deployment_id)
        if load is not None:
            (load.first_token if is_stream else load.whole_answer).add(seconds, self._now())

    def note_sample(self, deployment_id: str, seconds: float, *, is_stream: bool) -> None:
        """A latency for the percentiles that hedging needs; only groups with hedging keep them."""
        load = self._loads.get(deployment_id)
        if load is not None:
            (load.first_tokens if is_stream else load.whole_answers).append((self._now(), seconds))

    def hedge_after_s(self, deployment_id: str, rule: Hedging, *, is_stream: bool) -> float | None:
        """None where too few latencies are known."""
        if rule.after_s is not None:
            return rule.after_s
        load = self._loads.get(deployment_id)
        if load is None:
            return None
        since_s = self._now() - SAMPLES_FOR_S
        samples = load.first_tokens if is_stream else load.whole_answers
        fresh = sorted(seconds for at_s, seconds in samples if at_s >= since_s)
        return fresh[math.ceil(len(fresh) * rule.percentile / 100) - 1] if len(fresh) >= LEAST_SAMPLES else None

    def note_cached(self, deployment_id: str, cached: int, total: int) -> None:
        load = self._loads.get(deployment_id)
        if load is not None and total > 0:
            load.cached.add(cached / total, self._now())

    def note_full(self, deployment_id: str, wait_s: float | None) -> None:
        """Its limits have refused a call, and admit the next one after `wait_s`."""
        self._full[deployment_id] = self._now() + (FULL_S if wait_s is None else wait_s)

    def forget(self, deployment_ids: Collection[str]) -> None:
        for deployment_id in deployment_ids:
            self._loads.pop(deployment_id, None)
            self._full.pop(deployment_id, None)

    def running(self, deployment_ids: Sequence[str]) -> Sequence[int]:
        return [load.running for load in map(self._loads.__getitem__, deployment_ids)]

    def latencies_s(
        self, deployment_ids: Sequence[str], *, is_stream: bool, ttl_s: float = math.inf
    ) -> Sequence[float | None]:
        """The means, but of those whose last sample is older than `ttl_s`."""
        loads, since_s = map(self._loads.__getitem__, deployment_ids), self._now() - min(ttl_s, LONGEST_TTL_S)
        if is_stream:
            return [mean.mean if (mean := load.first_token).at_s >= since_s else None for load in loads]
        return [mean.mean if (mean := load.whole_answer).at_s >= since_s else None for load in loads]

    def used_tokens(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        """The tokens of the last 60 seconds: those of this minute, and of the one before by the part that still
        counts. An estimate that ranks; limits are counted exactly elsewhere."""
        now = self._now()
        self._turn(now)
        loads, share = map(self._loads.__getitem__, deployment_ids), 1 - (now % MINUTE_S) / MINUTE_S
        return [load.tokens + share * load.tokens_before for load in loads]

    def cached_shares(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        return [load.cached.mean for load in map(self._loads.__getitem__, deployment_ids)]

    def full(self) -> dict[str, str]:
        """{deployment whose limits admit no call now: why}"""
        if self._full:
            now = self._now()
            self._full = {name: until_s for name, until_s in self._full.items() if now < until_s}
        return dict.fromkeys(self._full, FULL)

    def _turn(self, now: float) -> None:
        minute = int(now // MINUTE_S)
        if minute == self._minute:
            return
        for load in self._loads.values():
            load.tokens_before = load.tokens - load.reserved if minute == self._minute + 1 else 0
            load.tokens = load.reserved
        self._minute = minute


#: That of a deployment without calls; it is never changed.
_NO_LOAD = _Load()
