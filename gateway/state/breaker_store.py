"""The port by which the breakers of all processes share what they know of deployments.

Times are lengths from the instant of the exchange, by the clock of the store: the clocks of processes may differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

#: A process that holds the lease of a probe renews it while the probe runs; an unused one is free for the others.
LEASE_S = 5.0
#: An ejection that is over for so long is dropped.
KEPT_S = 300.0
#: Two ejections whose ends differ by less are one, read at two instants.
SLACK_S = 1.0
#: Ejections, refusals and leases beyond this number are not shared.
MAX_ENTRIES = 2_000


@dataclass(frozen=True, slots=True)
class SharedEjection:
    """`left_s`: until the deployment is half open; negative, since it is."""

    reason: str  # the class of error
    number: int
    left_s: float


@dataclass(frozen=True, slots=True)
class Lease:
    owner: str
    left_s: float


@dataclass(frozen=True, slots=True)
class SharedStates:
    """`ejections` and `leases` by the circuit: a deployment, or one model of one that serves many. `refused` by the
    deployment: seconds since the epoch. `generation` is another one after the store has lost what it held."""

    generation: str
    ejections: Mapping[str, SharedEjection] = field(default_factory=dict)
    refused: Mapping[str, float] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ejected:
    """The longer one of two ejections of a deployment counts."""

    circuit: str
    ejection: SharedEjection


@dataclass(frozen=True, slots=True)
class Ended:
    """The ejection that had so long left has ended; one that another process has made since stays."""

    circuit: str
    left_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The earlier one of two counts."""

    deployment_id: str
    since_s: float


@dataclass(frozen=True, slots=True)
class Accepted:
    deployment_id: str


@dataclass(frozen=True, slots=True)
class LeaseWanted:
    """The lease of a probe, for this process alone. The states tell who has it."""

    circuit: str


Change: TypeAlias = Ejected | Ended | Refused | Accepted | LeaseWanted


class BreakerStore(Protocol):
    async def sync(self, owner: str, changes: Sequence[Change]) -> SharedStates:
        """Makes the changes of the process `owner` in one step and returns what holds after it."""
