"""Breaker: takes deployments that fail out of their group for a while, and lets one call at a time try them again.

Source of the rules: Envoy's outlier detection (consecutive failures, share of failures, ejections that grow), with the
numbers of docs/routing.md. Failures are counted by class of error and by circuit (Target.circuit): a deployment, or one
model of a deployment that serves many. What the request itself causes is no failure.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from gateway.protocol.provider import split_circuit
from gateway.routing.error_class import OF_THE_REQUEST, ErrorClass

BUCKETS = 6
#: A probe whose end is never told is over after this time.
PROBE_S = 120.0
#: One failure is enough: the next call would end the same way.
AT_ONCE = frozenset({ErrorClass.RATE_LIMIT, ErrorClass.QUOTA, ErrorClass.AUTHENTICATION})
#: Ejections are longer or shorter by this share, so that replicas do not probe together.
JITTER = 0.2
#: A deployment that no call has tried for so long after its ejection is in again.
HALF_OPEN_S = 300.0
#: Circuits that are known at once. Callers may name any model that a wildcard fits.
MAX_RECORDS = 10_000
#: Models of deployments that serve many that are out at once: each request looks at all that are out.
MAX_MODELS_OUT = 200
#: A list of what is out is at most so old.
OUT_S = 0.25
#: Two instants of one ejection, read by two clocks, differ by less.
CLOCK_S = 1.0


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Times are seconds. `allowed_fails`: failures of a class within a minute after which the deployment is out, in
    place of the two other rules."""

    consecutive: int = 5
    failure_share: float = 0.5
    least_calls: int = 20
    window_s: float = 30.0
    ejection_s: float = 5.0
    longest_ejection_s: float = 300.0
    allowed_fails: Mapping[ErrorClass, int] = field(default_factory=dict)
    is_disabled: bool = False


DEFAULT_SETTINGS = BreakerSettings()


@dataclass(frozen=True, slots=True)
class Ejection:
    """A deployment is out until `until_s`, then half open until a call has succeeded. Instants are seconds since the
    epoch, so that processes can share them."""

    error_class: ErrorClass
    until_s: float
    number: int  # in a row; each is twice as long as the one before


class State(StrEnum):
    IN = "in"
    OUT = "out"
    HALF_OPEN = "half_open"  # one call at a time tries it


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """A deployment as its breaker sees it. `last_error`: the class of the newest failure that this process has seen,
    and when. `refused_since_s`: since then the upstream refuses the credential. `models`: the ejections of its models,
    where it serves many; the deployment itself is then in."""

    state: State = State.IN
    ejection: Ejection | None = None
    refused_since_s: float | None = None
    last_error: tuple[ErrorClass, float] | None = None
    models: Mapping[str, Ejection] = field(default_factory=dict)


SOUND = DeploymentState()


class BreakerListener(Protocol):
    """Hears what the breaker of this process decides, and nothing of what it adopts. It returns at once."""

    def note_ejection(self, circuit: str, ejection: Ejection | None) -> None:
        """None: the ejection has ended."""

    def note_refusal(self, deployment_id: str, since_s: float | None) -> None:
        """The upstream refuses the credential; None: no longer, or the deployment was changed."""

    def note_wish(self, circuit: str) -> None:
        """A call would try a deployment that is half open, and this process may not."""


@dataclass(slots=True)
class _Record:
    """The calls of one circuit. `buckets`: (start, calls, failures by class)."""

    in_a_row: dict[ErrorClass, int] = field(default_factory=dict)
    buckets: deque[tuple[float, list[int], dict[ErrorClass, int]]] = field(
        default_factory=lambda: deque(maxlen=2 * BUCKETS)
    )
    last_ejection: Ejection | None = None
    last_error: tuple[ErrorClass, float] | None = None
    ejected_at_s: float = 0.0
    probed_until_s: float = 0.0


class Breaker:
    """`now`: seconds since the epoch. `draw` returns [0, 1)."""

    def __init__(self, now: Callable[[], float], draw: Callable[[], float]) -> None:
        self._now = now
        self._draw = draw
        self._listeners: tuple[BreakerListener, ...] = ()
        self._records: dict[str, _Record] = {}
        self._ejections: dict[str, Ejection] = {}
        self._refused: dict[str, float] = {}  # by the deployment
        self._models_out = 0
        self._leases: Mapping[str, float] | None = None
        self._out: Mapping[str, str] = {}
        self._out_until_s = 0.0

    def listen(self, listener: BreakerListener) -> None:
        self._listeners += (listener,)

    @property
    def ejections(self) -> Mapping[str, Ejection]:
        """Those that are out or half open, by the circuit."""
        return self._ejections

    @property
    def refused(self) -> Mapping[str, float]:
        """{deployment whose credential its upstream refuses: since when}"""
        return self._refused

    def states(self) -> dict[str, DeploymentState]:
        """{deployment of which anything is known: its state}. Another thread may call this, and `state_of`."""
        circuits = dict(self._records) | dict(self._ejections) | dict(self._refused)
        names = {split_circuit(circuit)[0] for circuit in circuits}
        models = self._models()
        return {deployment_id: self._state(deployment_id, models.get(deployment_id, {})) for deployment_id in names}

    def state_of(self, deployment_id: str) -> DeploymentState:
        return self._state(deployment_id, self._models().get(deployment_id, {}))

    def _state(self, deployment_id: str, models: Mapping[str, Ejection]) -> DeploymentState:
        ejection, record = self._ejections.get(deployment_id), self._records.get(deployment_id)
        state = State.IN
        if ejection is not None:
            state = State.OUT if self._is_out(ejection) else State.HALF_OPEN
        last_error = record.last_error if record is not None else None
        return DeploymentState(state, ejection, self._refused.get(deployment_id), last_error, models)

    def _models(self) -> dict[str, dict[str, Ejection]]:
        """{deployment: {model: its ejection}}"""
        found: dict[str, dict[str, Ejection]] = {}
        for circuit, ejection in dict(self._ejections).items():
            deployment_id, model = split_circuit(circuit)
            if model:
                found.setdefault(deployment_id, {})[model] = ejection
        return found

    def out(self) -> Mapping[str, str]:
        """{circuit that no call may go to now: why, to continue the sentence "The deployment …"}. Each request reads
        it, so it is made anew only where something has changed, and once in OUT_S while anything is out."""
        now = self._now()
        if self._out_until_s <= now:
            self._refresh(now)
        return self._out

    def _refresh(self, now: float) -> None:
        for circuit in [name for name, ejection in self._ejections.items() if ejection.until_s < now - HALF_OPEN_S]:
            self._drop(circuit)
        reasons = {circuit: self.out_reason(circuit) for circuit in self._ejections}
        self._out = {circuit: f"is {reason}" for circuit, reason in reasons.items() if reason}
        ends = [ejection.until_s for ejection in self._ejections.values()] + [*(self._leases or {}).values()]
        self._out_until_s = min([now + OUT_S, *(end for end in ends if end > now)]) if self._ejections else math.inf

    def out_reason(self, circuit: str) -> str:
        """Why no call may go there now; empty where one may, be it as the probe of one that is half open."""
        ejection = self._ejections.get(circuit)
        if ejection is None:
            return ""
        now = self._now()
        if now < ejection.until_s:
            return f"cooling down after {ejection.error_class} errors, {ejection.until_s - now:.0f} s left"
        if self.is_probed(circuit):
            return "being probed"
        if self._leases is not None and self._leases.get(circuit, 0.0) <= now:
            return "to be probed by one process at a time"
        return ""

    def is_probed(self, circuit: str) -> bool:
        """A call of this process tries it."""
        record = self._records.get(circuit)
        return record is not None and self._now() < record.probed_until_s

    def lease_probes(self, leases: Mapping[str, float] | None) -> None:
        """{deployment that this process may probe: until when}; None: it may probe all that are half open."""
        self._leases = leases
        self._out_until_s = 0.0

    def wish_probe(self, circuit: str) -> None:
        """A call that may use this deployment has met it out or half open."""
        ejection = self._ejections.get(circuit)
        if self._leases is not None and ejection is not None and not self._is_out(ejection):
            for listener in self._listeners:
                listener.note_wish(circuit)

    def is_sound(self, circuit: str) -> bool:
        """Its last call has not failed: it answered, or was never asked."""
        record = self._records.get(circuit)
        return (record is None or not record.in_a_row) and circuit not in self._ejections

    def begin(self, circuit: str) -> None:
        """A call goes there. The first to a deployment that is half open is its probe."""
        if circuit in self._ejections and not self.out_reason(circuit):
            self._record(circuit).probed_until_s = self._now() + PROBE_S
            self._out_until_s = 0.0

    def note_success(
        self, circuit: str, settings: BreakerSettings = DEFAULT_SETTINGS, *, began_s: float | None = None
    ) -> None:
        """`began_s`: when the call began, None for now. A call that is older than an ejection does not end it."""
        record = self._record(circuit)
        if record.in_a_row:
            record.in_a_row.clear()
        self._bucket(record, settings)[1][0] += 1
        if self._refused:
            deployment_id, _ = split_circuit(circuit)
            refused_since_s = self._refused.get(deployment_id)
            if refused_since_s is not None and (began_s is None or began_s >= refused_since_s):
                self._set_refused(deployment_id, None)
        if circuit in self._ejections and (began_s is None or began_s >= record.ejected_at_s):
            self._end(circuit)

    def note_other_end(self, circuit: str) -> None:
        """A call ended without telling anything of the deployment: its probe is free for another one."""
        if circuit in self._ejections:
            self._record(circuit).probed_until_s = 0.0
            self._out_until_s = 0.0

    def note_failure(
        self,
        circuit: str,
        kind: ErrorClass,
        siblings: Collection[str] = (),
        *,
        settings: BreakerSettings = DEFAULT_SETTINGS,
        wait_s: float | None = None,
        began_s: float | None = None,
    ) -> None:
        """`siblings`: the circuits of the group, which never loses its last one. `wait_s`: as the upstream asks.
        `began_s`: when the call began, None for now. While a deployment is out, the failures of calls that began
        before make its ejection no longer, unless the upstream asks for it."""
        if kind in OF_THE_REQUEST:
            self.note_other_end(circuit)
            return
        record = self._record(circuit)
        record.last_error = kind, self._now()
        deployment_id, model = split_circuit(circuit)
        if kind is ErrorClass.AUTHENTICATION and deployment_id not in self._refused:
            self._set_refused(deployment_id, self._now())
        ejection = self._ejections.get(circuit)
        if ejection is not None and (self._is_out(ejection) or (began_s or self._now()) < record.ejected_at_s):
            self._lengthen(circuit, record, ejection, wait_s)
            return
        record.in_a_row[kind] = record.in_a_row.get(kind, 0) + 1
        _, calls, failures = self._bucket(record, settings)
        calls[0] += 1
        failures[kind] = failures.get(kind, 0) + 1
        if settings.is_disabled or all(other == circuit or other in self._ejections for other in siblings):
            self.note_other_end(circuit)
        elif ejection is None and model and self._models_out >= MAX_MODELS_OUT:
            return
        elif ejection is not None or self._is_outlier(record, kind, settings):
            self._eject(circuit, record, kind, settings, wait_s)

    def adopt(self, circuit: str, ejection: Ejection | None) -> None:
        """Takes over what another process has decided."""
        if ejection is None:
            self._drop(circuit)
            return
        known = self._ejections.get(circuit)
        if known is not None and known.number == ejection.number and ejection.until_s <= known.until_s + CLOCK_S:
            return
        if known is None or known.until_s < ejection.until_s:
            self._take_out(circuit, self._record(circuit), ejection)

    def adopt_refusal(self, deployment_id: str, since_s: float | None) -> None:
        if since_s is None:
            self._refused.pop(deployment_id, None)
        else:
            self._refused[deployment_id] = since_s

    def forget(self, deployment_ids: Collection[str]) -> None:
        """Deployments that were changed or deleted begin anew."""
        if not deployment_ids:
            return
        for circuit in [name for name in self._records if split_circuit(name)[0] in deployment_ids]:
            del self._records[circuit]
        for circuit in [name for name in self._ejections if split_circuit(name)[0] in deployment_ids]:
            self._drop(circuit)
            self._tell_ejection(circuit, None)
        for deployment_id in deployment_ids:
            if deployment_id in self._refused:
                self._set_refused(deployment_id, None)

    def retain(self, deployment_ids: Container[str]) -> None:
        """Forgets all other deployments, and tells the listeners nothing: there is nothing left to decide about."""
        for circuit in [name for name in self._ejections if split_circuit(name)[0] not in deployment_ids]:
            self._drop(circuit)
        for circuit in [name for name in self._records if split_circuit(name)[0] not in deployment_ids]:
            del self._records[circuit]
        for deployment_id in [name for name in self._refused if name not in deployment_ids]:
            del self._refused[deployment_id]

    def _set_refused(self, deployment_id: str, since_s: float | None) -> None:
        self.adopt_refusal(deployment_id, since_s)
        for listener in self._listeners:
            listener.note_refusal(deployment_id, since_s)

    def _tell_ejection(self, circuit: str, ejection: Ejection | None) -> None:
        for listener in self._listeners:
            listener.note_ejection(circuit, ejection)

    def _is_out(self, ejection: Ejection) -> bool:
        return self._now() < ejection.until_s

    def _record(self, circuit: str) -> _Record:
        record = self._records.get(circuit)
        if record is None:
            if len(self._records) >= MAX_RECORDS:
                self._drop_records()
            record = self._records[circuit] = _Record()
        return record

    def _drop_records(self) -> None:
        """The older half of those that are in."""
        for circuit in [name for name in self._records if name not in self._ejections][: MAX_RECORDS // 2]:
            del self._records[circuit]

    def _bucket(self, record: _Record, settings: BreakerSettings) -> tuple[float, list[int], dict[ErrorClass, int]]:
        now, width_s = self._now(), settings.window_s / BUCKETS
        if not record.buckets or now - record.buckets[-1][0] >= width_s:
            record.buckets.append((now, [0], {}))
        return record.buckets[-1]

    def _is_outlier(self, record: _Record, kind: ErrorClass, settings: BreakerSettings) -> bool:
        now = self._now()
        allowed = settings.allowed_fails.get(kind)
        if allowed is not None:
            return sum(failures.get(kind, 0) for start, _, failures in record.buckets if now - start <= 60) > allowed
        if kind in AT_ONCE or record.in_a_row[kind] >= settings.consecutive:
            return True
        recent = [bucket for bucket in record.buckets if now - bucket[0] <= settings.window_s]
        calls = sum(bucket[1][0] for bucket in recent)
        failed = sum(bucket[2].get(kind, 0) for bucket in recent)
        return calls >= settings.least_calls and failed >= settings.failure_share * calls

    def _eject(
        self, circuit: str, record: _Record, kind: ErrorClass, settings: BreakerSettings, wait_s: float | None
    ) -> None:
        now, last = self._now(), record.last_ejection
        # a deployment that stayed healthy for as long as it may be out begins with the shortest ejection again
        longest_s = max(settings.longest_ejection_s, settings.ejection_s)
        number = last.number + 1 if last is not None and now - last.until_s < longest_s else 1
        length_s = min(settings.ejection_s * 2 ** min(number - 1, 16), longest_s)
        length_s *= 1 + JITTER * (2 * self._draw() - 1)
        ejection = Ejection(kind, now + max(length_s, wait_s or 0), number)
        self._take_out(circuit, record, ejection)
        self._tell_ejection(circuit, ejection)

    def _lengthen(self, circuit: str, record: _Record, ejection: Ejection, wait_s: float | None) -> None:
        if wait_s is not None and self._now() + wait_s > ejection.until_s + CLOCK_S:
            ejection = replace(ejection, until_s=self._now() + wait_s)
            self._take_out(circuit, record, ejection)
            self._tell_ejection(circuit, ejection)

    def _take_out(self, circuit: str, record: _Record, ejection: Ejection) -> None:
        record.last_ejection, record.ejected_at_s, record.probed_until_s = ejection, self._now(), 0.0
        record.in_a_row.clear()
        if circuit not in self._ejections and split_circuit(circuit)[1]:
            self._models_out += 1
        self._ejections[circuit] = ejection
        self._out_until_s = 0.0

    def _drop(self, circuit: str) -> None:
        self._out_until_s = 0.0
        if self._ejections.pop(circuit, None) is not None and split_circuit(circuit)[1]:
            self._models_out -= 1

    def _end(self, circuit: str) -> None:
        self._record(circuit).probed_until_s = 0.0
        self._drop(circuit)
        self._tell_ejection(circuit, None)
