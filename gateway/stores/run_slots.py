"""The slots of background runs: how many of a key and of an organization run at once, and whose run is next."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from heapq import heapify, heappop, heappush


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The limits of all workers together."""

    running_per_key: int = 10
    running_per_organization: int = 20
    queued_per_key: int = 1_000
    queued_per_organization: int = 5_000


@dataclass(frozen=True, slots=True)
class KeyRuns:
    """The runs of one key."""

    running: int
    waiting: int
    oldest_at: datetime  # of those that wait


KeyName = tuple[str, str]  # organization, digest of the key


def share_slots(keys: Mapping[KeyName, KeyRuns], free: int, limits: RunLimits) -> dict[KeyName, int]:
    """{key: how many of its waiting runs begin}, `free` at most. Each slot goes to the organization with the fewest
    running runs, in it to the key with the fewest, and among equals to the run that waits longest."""
    running = Counter[str]()
    waiting: dict[str, list[tuple[int, datetime, str]]] = {}
    for (organization_id, digest), runs in keys.items():
        running[organization_id] += runs.running
        if runs.waiting:
            waiting.setdefault(organization_id, []).append((runs.running, runs.oldest_at, digest))
    organizations = [(running[name], min(at for _, at, _ in heap), name) for name, heap in waiting.items()]
    for heap in (organizations, *waiting.values()):
        heapify(heap)
    shares = Counter[KeyName]()
    while organizations and free:
        count, oldest_at, name = heappop(organizations)
        if count >= limits.running_per_organization:
            continue
        heap = waiting[name]
        of_key, at, digest = heappop(heap)
        if of_key < limits.running_per_key:
            shares[name, digest] += 1
            free -= 1
            count += 1
            if shares[name, digest] < keys[name, digest].waiting:
                heappush(heap, (of_key + 1, at, digest))
        if heap:
            heappush(organizations, (count, oldest_at, name))
    return dict(shares)
