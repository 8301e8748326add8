"""DeploymentLoad: what this process knows of its deployments' calls: running, latency, tokens, prompt cache."""

import math
from collections import deque
from collections.abc import Callable, Collection
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
    minute: int = 0
    tokens: int = 0  # of this minute
    tokens_before: int = 0  # of the one before
    reserved: int = 0  # by running calls


class DeploymentLoad:
    """`now`: seconds, of a clock that only goes forward."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._loads: dict[str, _Load] = {}
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
        self._turn(load)
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

    def running(self, deployment_id: str) -> int:
        load = self._loads.get(deployment_id)
        return load.running if load is not None else 0

    def latency_s(self, deployment_id: str, *, is_stream: bool, ttl_s: float = math.inf) -> float | None:
        """The mean, unless its last sample is older than `ttl_s`."""
        load = self._loads.get(deployment_id)
        if load is None:
            return None
        latency = load.first_token if is_stream else load.whole_answer
        return latency.mean if latency.at_s and self._now() - latency.at_s <= ttl_s else None

    def used_tokens(self, deployment_id: str) -> int:
        """The tokens of the last 60 seconds: those of this minute, and of the one before by the part that still
        counts. An estimate that ranks; limits are counted exactly elsewhere."""
        load = self._loads.get(deployment_id)
        if load is None:
            return 0
        self._turn(load)
        share = 1 - (self._now() % MINUTE_S) / MINUTE_S
        return load.tokens + round(share * load.tokens_before) + load.reserved

    def full(self) -> dict[str, str]:
        """{deployment whose limits admit no call now: why}"""
        if self._full:
            now = self._now()
            self._full = {name: until_s for name, until_s in self._full.items() if now < until_s}
        return dict.fromkeys(self._full, FULL)

    def cached_share(self, deployment_id: str) -> float:
        load = self._loads.get(deployment_id)
        return load.cached.mean if load is not None else 0.0

    def _turn(self, load: _Load) -> None:
        minute = int(self._now() // MINUTE_S)
        if minute != load.minute:
            load.tokens_before = load.tokens if minute == load.minute + 1 else 0
            load.minute, load.tokens = minute, 0
