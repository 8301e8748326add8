"""Recorder: counts what happens in this process. It is the pipeline's Observer and a listener of the breaker.

It runs on the event loop alone, takes no lock and does no I/O: a request costs it some microseconds.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from gateway.metrics.definitions import (
    ATTEMPTS,
    BY_NAME,
    CACHE_HITS,
    COST,
    EJECTIONS,
    EXTRA_ATTEMPTS,
    FIRST_TOKEN,
    REFUSALS,
    REQUEST_DURATION,
    REQUESTS,
    TOKENS,
    UPSTREAM_DURATION,
)
from gateway.metrics.numbers import MAX_SERIES, OTHER, Numbers, Series
from gateway.pipeline.ports import Attempt
from gateway.protocol.amounts import PUSD
from gateway.protocol.call import Finish
from gateway.protocol.errors import BudgetExceeded, DeadlineExceeded, Fault, RateLimited
from gateway.protocol.provider import Target, split_circuit
from gateway.protocol.usage import Usage
from gateway.routing.breaker import Ejection
from gateway.routing.walk import StepReason

#: The statuses that the gateway answers with; any other one of an upstream counts as its class.
STATUSES = {
    status: str(status)
    for status in (200, 400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 499, 500, 501, 502, 503, 504)
}
#: An ejection that ended so long ago is not made longer any more.
OVER_S = 60.0
MAX_EJECTIONS = 10_000
#: {field of Usage: kind of token}
TOKEN_KINDS = {
    "input_tokens": "input",
    "input_audio_tokens": "input_audio",
    "cache_read_tokens": "cache_read",
    "cache_write_5m_tokens": "cache_write_5m",
    "cache_write_1h_tokens": "cache_write_1h",
    "output_tokens": "output",
    "output_audio_tokens": "output_audio",
    "reasoning_tokens": "reasoning",
}
INPUT_KINDS = tuple(kind for kind in TOKEN_KINDS.values() if not kind.startswith(("output", "reasoning")))
OUTPUT_KINDS = tuple(kind for kind in TOKEN_KINDS.values() if kind not in INPUT_KINDS)
DEPLOYMENT_LABEL, GROUP_LABEL = "deployment", "model_group"


@dataclass(slots=True)
class _OpenRequest:
    endpoint: str
    began_s: float
    group: str = ""
    status: int = 0  # of its error; 0 without one
    refusal: str = ""


@dataclass(slots=True)
class Recorder:
    """`now`: seconds since the epoch, the clock of the attempts."""

    now: Callable[[], float]
    numbers: Numbers = field(default_factory=Numbers)
    _open: dict[str, _OpenRequest] = field(default_factory=dict)
    _ejections: dict[str, Ejection] = field(default_factory=dict)  # the newest one of each circuit

    @property
    def open_requests(self) -> int:
        return len(self._open)

    # Observer

    def begin(self, request_id: str, endpoint: str) -> None:
        self._open[request_id] = _OpenRequest(endpoint, self.now())

    def note_group(self, request_id: str, target: Target) -> None:
        request = self._open.get(request_id)
        if request is not None:
            request.group = group_of(target)

    def note_fault(self, request_id: str, fault: Fault) -> None:
        request = self._open.get(request_id)
        if request is not None:
            request.status = fault.status
            request.refusal = refusal_reason(fault)

    def end(self, request_id: str, status: int) -> None:
        request = self._open.pop(request_id, None)
        if request is None:
            return
        group = request.group or OTHER
        status = request.status or status
        label = STATUSES.get(status) or f"{status // 100 if 100 <= status < 600 else 5}xx"
        self.numbers.add((REQUESTS.name, request.endpoint, group, label))
        if request.group:
            self.numbers.observe(REQUEST_DURATION, group, max(self.now() - request.began_s, 0.0))
        if request.refusal:
            self.numbers.add((REFUSALS.name, group, request.refusal))

    def note_attempt(self, attempt: Attempt) -> None:
        target, numbers = attempt.target, self.numbers
        group = group_of(target)
        if attempt.is_cached:
            self.note_group(attempt.request_id, target)
            numbers.add((CACHE_HITS.name, group))
            return
        deployment = target.deployment_id
        outcome = outcome_of(attempt)
        numbers.add((ATTEMPTS.name, deployment, group, outcome))
        if attempt.step is not None and attempt.step.reason is not StepReason.FIRST:
            numbers.add((EXTRA_ATTEMPTS.name, group, attempt.step.reason.value))
        self._add_usage(deployment, group, attempt.usage)
        if attempt.cost_pusd:
            numbers.add((COST.name, deployment, group), attempt.cost_pusd / PUSD)
        if attempt.principal.source:  # a probe is no client: its times are not theirs
            return
        if attempt.first_token_at is not None and attempt.continues is None:
            request = self._open.get(attempt.request_id)
            began_s = attempt.started_at if request is None else request.began_s
            numbers.observe(FIRST_TOKEN, group, max(attempt.first_token_at - began_s, 0.0))
        if outcome == "ok" and attempt.ended_at is not None:
            numbers.observe(UPSTREAM_DURATION, group, max(attempt.ended_at - attempt.started_at, 0.0))

    def _add_usage(self, deployment: str, group: str, usage: Usage) -> None:
        for name, kind in TOKEN_KINDS.items():
            count = getattr(usage, name)
            if count:
                self.numbers.add((TOKENS.name, deployment, group, kind), count)

    # BreakerListener

    def note_ejection(self, circuit: str, ejection: Ejection | None) -> None:
        """An ejection that is only made longer is told again, with its number. The end of one is not told where another
        process has ended it."""
        if ejection is None:
            self._ejections.pop(circuit, None)
            return
        known = self._ejections.pop(circuit, None)
        self._ejections[circuit] = ejection
        if len(self._ejections) > MAX_EJECTIONS:  # their ends were not told
            del self._ejections[next(iter(self._ejections))]
        if known is None or known.number != ejection.number or self.now() > known.until_s + OVER_S:
            self.numbers.add((EJECTIONS.name, split_circuit(circuit)[0], str(ejection.error_class)))

    def note_refusal(self, deployment_id: str, since_s: float | None) -> None:
        """The state is read where it is shown."""

    def note_wish(self, circuit: str) -> None:
        """No decision."""

    # Bounds

    def retain(self, is_served: Callable[[Series], bool]) -> None:
        """Forgets deployments and model groups that are gone, once there are many series: each of them is counted
        anew if it comes back."""
        if len(self.numbers) > MAX_SERIES // 2:
            self.numbers.retain(is_served)


def group_of(target: Target) -> str:
    """The model group, or the pattern that serves many names: clients choose those."""
    return target.pattern or target.model_group


def is_known(series: Series, deployment_ids: Container[str], groups: Container[str]) -> bool:
    labels = dict(zip(BY_NAME[series[0]].labels, series[1:], strict=True))
    deployment, group = labels.get(DEPLOYMENT_LABEL, OTHER), labels.get(GROUP_LABEL, OTHER)
    return (deployment == OTHER or deployment in deployment_ids) and (group == OTHER or group in groups)


def outcome_of(attempt: Attempt) -> str:
    """`ok`, the class of an upstream's failure, or why the attempt ended without telling of its deployment."""
    if attempt.finish is Finish.CLIENT_GONE:
        return "hedge_lost" if attempt.has_lost else "client_left"
    if attempt.error_code == DeadlineExceeded.code:
        return "client_deadline"
    if attempt.error_class:
        return attempt.error_class
    return "ok" if attempt.finish is Finish.COMPLETE else "gateway_error"


def refusal_reason(fault: Fault) -> str:
    """The dimension of the limit, `budget`, `budget_held` or `no_deployment`; empty for any other fault."""
    if isinstance(fault, RateLimited):
        return fault.dimension or ("no_deployment" if fault.code == "all_deployments_in_cooldown" else "")
    if isinstance(fault, BudgetExceeded):
        return "budget_held" if fault.code == "budget_held" else "budget"
    return ""
