"""BreakerSharing: keeps the breaker of this process and those of the others in step, through a store that they share.

A task exchanges changes for states twice a second, and at once where this process has something to tell. No call waits
for it. While the store is away each process decides alone.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator

from gateway.protocol.provider import split_circuit
from gateway.routing.breaker import Breaker, Ejection
from gateway.routing.error_class import ErrorClass
from gateway.state.breaker_store import (
    MAX_ENTRIES,
    Accepted,
    BreakerStore,
    Change,
    Ejected,
    Ended,
    LeaseWanted,
    Refused,
    SharedEjection,
    SharedStates,
)
from gateway.state.shared_rate_limits import OUTAGES

logger = logging.getLogger(__name__)

TICK_S = 0.5
PAUSE_S = 0.05  # between two exchanges
#: A process competes for so long for the lease of a probe after a call that would be the probe.
WISH_S = 30.0
#: An entry of a deployment that this process has not known for so long is of one that was deleted.
UNKNOWN_S = 60.0


class BreakerSharing:
    """A BreakerListener. `owner` names this process. `find_known` returns the ids of the deployments, none before they
    are loaded. `now`: the clock of the breaker. Closes: the owner, with `close()`."""

    def __init__(
        self,
        breaker: Breaker,
        store: BreakerStore,
        *,
        owner: str,
        find_known: Callable[[], Collection[str]],
        now: Callable[[], float],
    ) -> None:
        self._breaker = breaker
        self._store = store
        self._owner = owner
        self._find_known = find_known
        self._now = now
        self._ejections: dict[str, Ejection | None] = {}  # by the circuit; not told yet
        self._refusals: dict[str, float | None] = {}  # by the deployment
        self._until_s: dict[str, float] = {}  # the ends of the ejections that this process has known
        self._seen = SharedStates("")
        self._leased_s: dict[str, float] = {}  # {circuit: until when any process may probe it}
        self._wishes: dict[str, float] = {}
        self._unknown: dict[str, float] = {}  # since when
        self._is_away = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when this process has adopted what holds, or the store has not answered."""
        self._breaker.listen(self)
        await self.sync()
        self._task = asyncio.create_task(self._run(), name="sharing of breakers")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def note_ejection(self, circuit: str, ejection: Ejection | None) -> None:
        self._ejections[circuit] = ejection
        if ejection is not None:
            self._until_s[circuit] = ejection.until_s
        self._wake.set()

    def note_refusal(self, deployment_id: str, since_s: float | None) -> None:
        self._refusals[deployment_id] = since_s
        self._wake.set()

    def note_wish(self, circuit: str) -> None:
        now = self._now()
        self._wishes[circuit] = now
        if self._leased_s.get(circuit, 0.0) <= now:
            self._wake.set()

    async def sync(self) -> None:
        """One exchange."""
        ejections, refusals, began_s = self._ejections, self._refusals, self._now()
        self._ejections, self._refusals = {}, {}
        changes = [*self._ejection_changes(ejections), *_refusal_changes(refusals), *self._lease_changes()]
        try:
            states = await self._store.sync(self._owner, changes)
        except OUTAGES as error:
            self._ejections = dict([*(ejections | self._ejections).items()][-MAX_ENTRIES:])
            self._refusals = refusals | self._refusals
            self._forget_ends()
            self._note_outage(error)
            return
        if self._is_away:
            self._is_away = False
            logger.warning("Redis is back: all processes know which deployments are out")
        if states.generation != self._seen.generation:
            self._seen = SharedStates(states.generation)  # nothing that is missing has been taken away
            self._tell_everything(states)
        self._adopt(states, began_s)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            self._wake.clear()
            await self.sync()
            await asyncio.sleep(PAUSE_S)

    def _ejection_changes(self, ejections: dict[str, Ejection | None]) -> Iterator[Change]:
        now = self._now()
        for circuit, ejection in ejections.items():
            if ejection is None:
                yield Ended(circuit, self._until_s.get(circuit, now) - now)
            else:
                left_s = ejection.until_s - now
                yield Ejected(circuit, SharedEjection(ejection.error_class, ejection.number, left_s))

    def _lease_changes(self) -> Iterator[Change]:
        """The leases of the probes that run here, and of those that calls would like to be."""
        now = self._now()
        self._wishes = {name: at_s for name, at_s in self._wishes.items() if now - at_s < WISH_S}
        for circuit, ejection in self._breaker.ejections.items():
            if ejection.until_s > now:
                continue
            is_free = self._leased_s.get(circuit, 0.0) <= now
            if self._breaker.is_probed(circuit) or (is_free and circuit in self._wishes):
                yield LeaseWanted(circuit)

    def _tell_everything(self, states: SharedStates) -> None:
        """The store is new, or has lost what it held: what this process knows beyond it is told again."""
        breaker = self._breaker
        ejections: dict[str, Ejection | None] = {**breaker.ejections}
        refusals: dict[str, float | None] = {**breaker.refused}
        self._ejections = {n: one for n, one in ejections.items() if n not in states.ejections} | self._ejections
        self._refusals = {n: at_s for n, at_s in refusals.items() if n not in states.refused} | self._refusals
        if self._ejections or self._refusals:
            self._wake.set()

    def _adopt(self, states: SharedStates, began_s: float) -> None:
        """Takes over the shared states. A change made here during the exchange stays: the next one tells it."""
        breaker, now, known = self._breaker, self._now(), self._find_known()
        for circuit, shared in states.ejections.items():
            if split_circuit(circuit)[0] in known and circuit not in self._ejections and shared.reason in _CLASSES:
                ejection = Ejection(_CLASSES[shared.reason], now + shared.left_s, shared.number)
                breaker.adopt(circuit, ejection)
                self._until_s[circuit] = ejection.until_s
        for circuit in self._seen.ejections.keys() - states.ejections.keys() - self._ejections.keys():
            breaker.adopt(circuit, None)
        for deployment_id, since_s in states.refused.items():
            if deployment_id in known and deployment_id not in self._refusals:
                breaker.adopt_refusal(deployment_id, since_s)
        for deployment_id in self._seen.refused.keys() - states.refused.keys() - self._refusals.keys():
            breaker.adopt_refusal(deployment_id, None)
        # a lease counts from the beginning of the exchange: it ends here before it ends for the others
        self._leased_s = {name: began_s + lease.left_s for name, lease in states.leases.items()}
        own = [name for name, lease in states.leases.items() if lease.owner == self._owner]
        breaker.lease_probes({name: self._leased_s[name] for name in own})
        self._seen = states
        self._forget_ends()
        self._drop_unknown(states, known)

    def _forget_ends(self) -> None:
        """Keeps those of ejections that hold, or are still to be told."""
        current = self._breaker.ejections.keys() | self._ejections.keys()
        self._until_s = {name: until_s for name, until_s in self._until_s.items() if name in current}

    def _drop_unknown(self, states: SharedStates, known: Collection[str]) -> None:
        now = self._now()
        unknown = {name for name in (*states.ejections, *states.refused) if split_circuit(name)[0] not in known}
        self._unknown = {name: self._unknown.get(name, now) for name in unknown} if known else {}
        for name in [name for name, since_s in self._unknown.items() if now - since_s > UNKNOWN_S]:
            self._ejections[name] = self._refusals[name] = None
            if name in states.ejections:
                self._until_s[name] = now + states.ejections[name].left_s

    def _note_outage(self, error: Exception) -> None:
        self._breaker.lease_probes(None)
        if not self._is_away:
            self._is_away = True
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            logger.error("Redis is away: each process decides alone which deployments are out", extra={"why": why})


_CLASSES = {str(kind): kind for kind in ErrorClass}


def _refusal_changes(refusals: dict[str, float | None]) -> Iterator[Change]:
    for deployment_id, since_s in refusals.items():
        yield Accepted(deployment_id) if since_s is None else Refused(deployment_id, since_s)
