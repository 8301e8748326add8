"""Visit: what an attempt tells of its deployment: to the breaker, to the load, and to the deployment's own limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from gateway.pipeline.deployment_limits import DeploymentLimits
from gateway.pipeline.ports import Attempt, BudgetHold, CloseStep
from gateway.protocol.call import Call
from gateway.protocol.errors import DeadlineExceeded, UpstreamFault
from gateway.protocol.provider import Target
from gateway.routing.walk import Routing, Step
from gateway.state.rate_limits import Grant


@dataclass(frozen=True, slots=True)
class BoundCall:
    """A call as one target gets it, and the steps at the close of its attempt."""

    call: Call
    steps: Sequence[CloseStep] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """A deployment whose limits and budgets have admitted an attempt. `step` chose it, without `target`'s changes."""

    target: Target
    bound: BoundCall
    step: Step
    grant: Grant | None
    hold: BudgetHold | None = None


class Visit:
    """The block in which an attempt runs. However it ends, what it took of the deployment is given back."""

    __slots__ = ("_attempt", "_limits", "_place", "_reserved", "_routing")

    def __init__(self, attempt: Attempt, place: Place, routing: Routing, limits: DeploymentLimits) -> None:
        self._attempt = attempt
        self._place = place
        self._routing = routing
        self._limits = limits
        self._reserved = attempt.call.input_estimate

    async def __aenter__(self) -> None:
        self._routing.begin(self._attempt.target, self._reserved)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        attempt, routing, usage = self._attempt, self._routing, self._attempt.usage
        if self._place.hold is not None:  # settled already where its row was closed
            self._place.hold.settle(attempt.cost_pusd or 0)
        target = attempt.target
        routing.load.end(target.deployment_id, self._reserved, usage.total_input + usage.total_output)
        if error is None:
            routing.end_well(target, began_s=attempt.started_at)
            self._note_speed()
        elif isinstance(error, UpstreamFault) and not isinstance(error, DeadlineExceeded):
            routing.end_badly(target, error, self._place.step.group, began_s=attempt.started_at)
        else:  # the client has gone, or had no time: this tells nothing of the deployment
            routing.breaker.note_other_end(target.circuit)
            if attempt.has_lost and not attempt.is_hedge and attempt.ended_at is not None:
                # it would have taken longer: without it the slow ones were missing among the latencies
                self._note_latency(attempt.ended_at - attempt.started_at, is_stream=attempt.call.stream)
        if self._place.grant is not None:
            await self._limits.settle(self._place.grant, usage)

    def _note_speed(self) -> None:
        attempt, usage = self._attempt, self._attempt.usage
        if attempt.first_token_at is not None:
            self._note_latency(attempt.first_token_at - attempt.started_at, is_stream=True)
        elif attempt.upstream_s:
            self._note_latency(attempt.upstream_s, is_stream=False)
        self._routing.load.note_cached(attempt.target.deployment_id, usage.cache_read_tokens, usage.total_input)

    def _note_latency(self, seconds: float, *, is_stream: bool) -> None:
        target, routing = self._attempt.target, self._routing
        routing.load.note_latency(target.deployment_id, seconds, is_stream=is_stream)
        if routing.settings.hedging_of(target.group_names) is not None:
            routing.load.note_sample(target.deployment_id, seconds, is_stream=is_stream)
