"""RetryBudget: the bound on attempts beyond the first of each request; retries, fallbacks and hedges share it.

All attempts together are at most 1.1 times the requests, and 3 more, where requests come every 0.3 s or faster.
Sources:
Envoy's retry budget (20 % of active requests, at least 3), gRPC A6 (a token bucket that failures empty).
"""

from collections.abc import Callable

SHARE = 0.1
RESERVE = 3.0
#: A request that comes so long after the one before it adds a whole attempt: few requests make no storm.
SPARSE_S = 3.0
#: So long after the last failure the reserve is whole again.
CALM_S = 10.0


class RetryBudget:
    """A balance of attempts. It starts with the reserve, and each request adds its share; more is never saved.

    An attempt at a deployment whose last call has not failed is never refused, since a breaker bounds how many there
    are. It is paid for all the same, so that after many of them the balance is below zero, and others wait longer."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._balance = RESERVE
        self._asked_at = self._failed_at = float("-inf")
        self.refusals = 0  # since the start of the process

    @property
    def balance(self) -> float:
        return self._balance

    def note_request(self) -> None:
        if self._balance < RESERVE:
            now = self._now()
            share = min(max(SHARE, (now - self._asked_at) / SPARSE_S), 1.0)
            self._balance = min(self._balance + share, RESERVE)
            self._asked_at = now

    def note_success(self) -> None:
        if self._balance < RESERVE and self._now() - self._failed_at >= CALM_S:
            self._balance = RESERVE

    def take(self, *, is_sound: bool = False) -> bool:
        """Pays for one more attempt after a failure. False: the client gets the failure instead."""
        self._failed_at = self._asked_at = self._now()
        if self._balance < 1 and not is_sound:
            self.refusals += 1
            return False
        self._balance -= 1
        return True
