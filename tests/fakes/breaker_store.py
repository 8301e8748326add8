"""A breaker store in memory, for simulations of many replicas on a scripted clock."""

from collections.abc import Callable, Sequence
from uuid import uuid4

from gateway.state.breaker_store import (
    KEPT_S,
    LEASE_S,
    MAX_ENTRIES,
    SLACK_S,
    Accepted,
    Change,
    Ejected,
    Ended,
    Lease,
    LeaseWanted,
    Refused,
    SharedEjection,
    SharedStates,
)


class MemoryBreakerStore:
    """BreakerStore. While `error` is set, it is away."""

    def __init__(self, now: Callable[[], float], *, most: int = MAX_ENTRIES) -> None:
        self._now = now
        self._most = most
        self.error: Exception | None = None
        self.flush()

    def flush(self) -> None:
        self._generation = uuid4().hex
        self._ejections: dict[str, tuple[float, int, str]] = {}  # until, number, class
        self._refused: dict[str, float] = {}
        self._leases: dict[str, tuple[float, str]] = {}  # until, owner

    async def sync(self, owner: str, changes: Sequence[Change]) -> SharedStates:
        if self.error is not None:
            raise self.error
        for change in changes:
            self._make(owner, change)
        now = self._now()
        self._leases = {name: lease for name, lease in self._leases.items() if lease[0] > now}
        self._ejections = {name: one for name, one in self._ejections.items() if one[0] + KEPT_S >= now}
        return SharedStates(
            self._generation,
            {
                name: SharedEjection(reason, number, until_s - now)
                for name, (until_s, number, reason) in self._ejections.items()
            },
            dict(self._refused),
            {name: Lease(holder, until_s - now) for name, (until_s, holder) in self._leases.items()},
        )

    def _make(self, owner: str, change: Change) -> None:
        now = self._now()
        match change:
            case Ejected(name, ejection):
                until_s = self._until_s(name)
                if until_s is None or until_s + SLACK_S < now + ejection.left_s:
                    if self._has_room(self._ejections, name):
                        self._ejections[name] = now + ejection.left_s, ejection.number, ejection.reason
                    self._leases.pop(name, None)
            case Ended(name, left_s):
                until_s = self._until_s(name)
                if until_s is not None and until_s <= now + left_s + SLACK_S:
                    del self._ejections[name]
                    self._leases.pop(name, None)
            case Refused(name, since_s):
                if self._has_room(self._refused, name):
                    self._refused.setdefault(name, since_s)
            case Accepted(name):
                self._refused.pop(name, None)
            case LeaseWanted(name):
                holder = self._leases.get(name)
                if (holder is None or holder[0] <= now or holder[1] == owner) and self._has_room(self._leases, name):
                    self._leases[name] = now + LEASE_S, owner

    def _until_s(self, circuit: str) -> float | None:
        return self._ejections[circuit][0] if circuit in self._ejections else None

    def _has_room(
        self, entries: dict[str, float] | dict[str, tuple[float, str]] | dict[str, tuple[float, int, str]], name: str
    ) -> bool:
        return name in entries or len(self._ejections) + len(self._refused) + len(self._leases) < self._most
