"""DeploymentLoad: what this process knows of its deployments' calls: running, latency, tokens, prompt cache."""

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from gateway.routing.settings import Hedging

#: A latency counts half as much after this time, and half as much as the one after it.
HALF_LIFE_S = 60.0
ALPHA = 0.3
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
    at_s: float = 0.0

    def add(self, sample: float, now: float) -> None:
        if not self.at_s:
            self.mean = sample
        else:
            weight = 1 - (1 - ALPHA) * math.exp2(-(now - self.at_s) / HALF_LIFE_S)
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
    tokens: int = 0  # of this minute
    tokens_before: int = 0  # of the one before
    reserved: int = 0  # by running calls


class DeploymentLoad:
    """`now`: seconds, of a clock that only goes forward."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._loads: dict[str, _Load] = {}
        self._minute = 0
        self._full: dict[str, float] = {}  # until when

    def begin(self, deployment_id: str, tokens: int) -> None:
        load = self._loads.get(deployment_id)
        if load is None:
            load = self._loads[deployment_id] = _Load()
        load.running += 1
        load.reserved += tokens

    def end(self, deployment_id: str, reserved: int, used: int) -> None:
        """`reserved` as it was at the beginning; `used`: tokens by the answer's usage."""
        load = self._loads.get(deployment_id)
        if load is None:  # it was forgotten while the call ran
            return
        load.running = max(load.running - 1, 0)
        load.reserved = max(load.reserved - reserved, 0)
        self._turn(self._now())
        load.tokens += used

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
        find = self._loads.get
        return [find(name, _NO_LOAD).running for name in deployment_ids]

    def latencies_s(
        self, deployment_ids: Sequence[str], *, is_stream: bool, ttl_s: float = math.inf
    ) -> Sequence[float | None]:
        """The means, but of those whose last sample is older than `ttl_s`."""
        find, since_s = self._loads.get, self._now() - ttl_s
        if is_stream:
            known = [find(name, _NO_LOAD).first_token for name in deployment_ids]
        else:
            known = [find(name, _NO_LOAD).whole_answer for name in deployment_ids]
        return [latency.mean if latency.at_s and latency.at_s >= since_s else None for latency in known]

    def used_tokens(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        """The tokens of the last 60 seconds: those of this minute, and of the one before by the part that still
        counts. An estimate that ranks; limits are counted exactly elsewhere."""
        now = self._now()
        self._turn(now)
        find, share = self._loads.get, 1 - (now % MINUTE_S) / MINUTE_S
        loads = [find(name, _NO_LOAD) for name in deployment_ids]
        return [load.tokens + share * load.tokens_before + load.reserved for load in loads]

    def cached_shares(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        find = self._loads.get
        return [find(name, _NO_LOAD).cached.mean for name in deployment_ids]

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
            load.tokens_before = load.tokens if minute == self._minute + 1 else 0
            load.tokens = 0
        self._minute = minute


#: That of a deployment without calls; it is never changed.
_NO_LOAD = _Load()
