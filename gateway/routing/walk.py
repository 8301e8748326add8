"""Walk: one request's way over the deployments, attempt by attempt; and Routing, what all requests of a process share.

After a failure follow, in this order: another deployment of the model group, the groups that stand in for it, and the
same deployment once more. An error of the request itself has only the groups for its class.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gateway.protocol.call import Finish
from gateway.protocol.errors import BadRequest, RateLimited, UpstreamFault
from gateway.protocol.provider import Target
from gateway.routing.breaker import Breaker
from gateway.routing.error_class import ErrorClass, error_class
from gateway.routing.filters import Dropped
from gateway.routing.load import FULL, DeploymentLoad
from gateway.routing.request import PLAIN, RoutingRequest
from gateway.routing.retry_budget import RetryBudget
from gateway.routing.router import make_plan
from gateway.routing.settings import DEFAULT_SETTINGS, RetryPolicy, RoutingSettings
from gateway.routing.strategy import Draw

#: The waits before the same deployment is asked once more: this long, then twice as long, shorter or longer by a fifth.
BACKOFF_S = 0.5
JITTER = 0.2
#: A client is not held for longer: it gets the error, with the wait that the upstream asks for.
LONGEST_WAIT_S = 5.0
#: The errors after which the same deployment may answer. One that was silent is not waited for twice.
PASSING = frozenset({ErrorClass.CONNECT, ErrorClass.RATE_LIMIT, ErrorClass.SERVER, ErrorClass.OVERLOADED})
#: The wait that a client is told where nothing tells a better one.
RETRY_AFTER_S = 5.0

#: The targets that a caller may use of a model group; none where the group is not for this caller.
FindGroup = Callable[[str], Sequence[Target]]


class Routing:
    """The state of routing that all requests of a process share; a RoutingView. `find_settings` returns the current
    settings."""

    def __init__(
        self,
        breaker: Breaker,
        load: DeploymentLoad,
        budget: RetryBudget,
        draw: Draw,
        find_settings: Callable[[], RoutingSettings] = lambda: DEFAULT_SETTINGS,
    ) -> None:
        self.breaker = breaker
        self.load = load
        self.budget = budget
        self.draw = draw
        self._find_settings = find_settings

    @property
    def settings(self) -> RoutingSettings:
        return self._find_settings()

    def forget(self, deployment_ids: Collection[str]) -> None:
        """Deployments that were changed or deleted begin anew."""
        self.breaker.forget(deployment_ids)
        self.load.forget(deployment_ids)

    def out(self) -> Mapping[str, str]:
        full, out = self.load.full(), self.breaker.out()
        return {**full, **out} if full else out

    def last_resort(self, dropped: Sequence[Dropped]) -> Target | None:
        """The deployment of a group that is asked although all are out: another process, or calls that may use other
        deployments of the group, have taken out the rest. None where one of them is healthy, but has no room."""
        waiting = {drop.target.circuit: drop.target for drop in dropped if drop.is_for_now}
        ejections, full = self.breaker.ejections, self.load.full()
        if not waiting.keys() <= ejections.keys():
            return None
        free = [circuit for circuit, target in waiting.items() if target.deployment_id not in full]
        return waiting[min(free, key=lambda circuit: (ejections[circuit].until_s, circuit))] if free else None

    def running(self, deployment_ids: Sequence[str]) -> Sequence[int]:
        return self.load.running(deployment_ids)

    def latencies_s(self, deployment_ids: Sequence[str], *, is_stream: bool) -> Sequence[float | None]:
        return self.load.latencies_s(deployment_ids, is_stream=is_stream, ttl_s=self.settings.latency_ttl_s)

    def used_tokens(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        return self.load.used_tokens(deployment_ids)

    def cached_shares(self, deployment_ids: Sequence[str]) -> Sequence[float]:
        return self.load.cached_shares(deployment_ids)

    def pick(self, targets: Sequence[Target]) -> Target:
        """A deployment for a question that is no call."""
        plan = make_plan(targets, self.draw, settings=self.settings, view=self, most=1)
        return plan.targets[0] if plan.targets else targets[0]

    def begin(self, target: Target, tokens: int) -> None:
        """An attempt begins; `tokens` by its estimate."""
        self.breaker.begin(target.circuit)
        self.load.begin(target.deployment_id, tokens)

    def end_well(self, target: Target, *, began_s: float | None = None) -> None:
        self.breaker.note_success(target.circuit, self.settings.breaker, began_s=began_s)
        self.budget.note_success()

    def end_badly(
        self, target: Target, fault: UpstreamFault, siblings: Sequence[Target], *, began_s: float | None = None
    ) -> None:
        self.breaker.note_failure(
            target.circuit,
            error_class(fault),
            [sibling.circuit for sibling in siblings],
            settings=self.settings.breaker,
            wait_s=fault.retry_after_s,
            began_s=began_s,
        )


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """The wishes of a client for one request. None: the settings decide. `fallbacks` follow every error that has any,
    but one that has fallbacks of its own here."""

    retries: int | None = None
    fallbacks: tuple[str, ...] | None = None
    context_window_fallbacks: tuple[str, ...] | None = None
    content_policy_fallbacks: tuple[str, ...] | None = None
    is_without_fallbacks: bool = False

    def fallbacks_of(self, kind: ErrorClass) -> tuple[str, ...] | None:
        own = {
            ErrorClass.CONTEXT_WINDOW: self.context_window_fallbacks,
            ErrorClass.CONTENT_POLICY: self.content_policy_fallbacks,
        }.get(kind)
        return self.fallbacks if own is None else own


NO_OPTIONS = RouteOptions()


class StepReason(StrEnum):
    """Why an attempt is made where it is made. The spend log keeps these words."""

    FIRST = "first"
    OTHER_DEPLOYMENT = "other_deployment"
    FALLBACK = "fallback"
    HEDGE = "hedge"  # beside an attempt that was silent
    SAME_DEPLOYMENT = "same_deployment"
    WITHOUT_PARAMETER = "without_parameter"  # the same deployment, without what it has refused
    CONTINUATION = "continuation"  # of a stream that broke


@dataclass(frozen=True, slots=True)
class Step:
    """The next attempt. `group`: the targets of its model group; `dropped`: those of them that could not be chosen.
    `needs_new_connection`: none that has served before, because the upstream closed one as the request was sent."""

    target: Target
    group: Sequence[Target]
    reason: StepReason = StepReason.FIRST
    delay_s: float = 0.0
    dropped: Sequence[Dropped] = ()
    needs_new_connection: bool = False


def _accept_all(target: Target) -> bool:
    return True


@dataclass(slots=True)
class Walk:
    """One request. `targets` are those of its model group that the caller may use."""

    routing: Routing
    targets: Sequence[Target]
    find_group: FindGroup
    request: RoutingRequest = PLAIN
    options: RouteOptions = NO_OPTIONS
    retries: int = 0
    _tried: set[str] = field(default_factory=set)
    _groups_tried: list[str] = field(default_factory=list)  # which have nothing left
    _groups_entered: set[str] = field(default_factory=set)
    _group: Sequence[Target] = ()
    _last: Target | None = None
    _hedge: Target | None = None
    _accepts: Callable[[Target], bool] = _accept_all

    def first(self) -> Step:
        """Raises RateLimited where no deployment may be asked now, BadRequest where none can serve the request."""
        self.routing.budget.note_request()
        self._group = self.targets
        target, dropped = self._pick(self.targets)
        if target is None:
            kind = ErrorClass.SERVER if any(drop.is_for_now for drop in dropped) else ErrorClass.CONTEXT_WINDOW
            step = self._fall_back(kind, dropped)
            if step is None:
                raise make_refusal(self.targets, dropped)
            return step
        return Step(target, self._group, dropped=dropped)

    def refusal(self) -> RateLimited | BadRequest:
        """The fault of a request that the limits of all its deployments have refused."""
        return make_refusal(self.targets, [Dropped(target, FULL, is_for_now=True) for target in self.targets])

    def after(self, fault: UpstreamFault, *, is_retryable: bool | None = None) -> Step | None:
        """The attempt that follows a failure; None where the client gets the failure. `is_retryable`: None, as the
        fault says. Each group that the client itself names is tried, however few retries there are."""
        kind = error_class(fault)
        may_retry = self._policy().allows(kind, self.retries)
        if not may_retry and self.options.fallbacks_of(kind) is None:
            return None
        if kind in {ErrorClass.CONTEXT_WINDOW, ErrorClass.CONTENT_POLICY}:
            step = self._fall_back(kind, is_last=not may_retry)  # no upstream has failed: it costs the budget nothing
        elif fault.is_retryable if is_retryable is None else is_retryable:
            step = self._follow(kind, fault) if may_retry else self._fall_back(kind, is_last=True)
            if step is not None and not self._pay(step):
                return None
        else:
            return None
        self.retries += step is not None
        return step

    def continue_stream(self, fault: UpstreamFault, failed: Target, accepts: Callable[[Target], bool]) -> Step | None:
        """The attempt that goes on with a stream that broke at `failed`, at a deployment that `accepts` this, as do
        those in its place: another one of the group, one of the groups that stand in, or the same one unless it was
        silent."""
        kind = error_class(fault)
        if not self._policy().allows(kind, self.retries):
            return None
        self._accepts = accepts
        step = self._pick_next(kind)
        if step is None and kind is not ErrorClass.TIMEOUT and not fault.retry_after_s and self._is_in(failed):
            step = Step(failed, self._group)
        if step is None or not self._pay(step):
            return None
        self.retries += 1
        return replace(step, reason=StepReason.CONTINUATION)

    def _is_in(self, target: Target) -> bool:
        routing = self.routing
        plan = make_plan([target], routing.draw, self.request, settings=routing.settings, view=routing, most=1)
        return bool(plan.targets) and self._accepts(target)

    def _pay(self, step: Step) -> bool:
        is_sound = self.routing.breaker.is_sound(step.target.circuit)
        return self.routing.budget.take(is_sound=is_sound)

    def hedge(self) -> Step | None:
        """The attempt beside one that is silent, at another deployment of its group. It is paid when it is begun."""
        if self.routing.budget.balance < 1 or not self._policy().allows(ErrorClass.TIMEOUT, self.retries):
            return None
        last = self._last
        target, dropped = self._pick(self._group)
        if target is None:
            return None
        self._last = last
        self._tried.discard(target.circuit)  # it is tried when it is paid
        self._hedge = target
        return Step(target, self._group, StepReason.HEDGE, dropped=dropped)

    def pay_for_hedge(self) -> bool:
        """Retries, fallbacks and hedges have one budget, which no soundness of a deployment lets a hedge exceed."""
        if self._hedge is None or not self.routing.budget.take():
            return False
        self._tried.add(self._hedge.circuit)
        self.retries += 1
        return True

    def full(self) -> Step | None:
        """The attempt in place of one that the limits of its deployment have refused: it costs no retry."""
        step = self._pick_next(ErrorClass.RATE_LIMIT)
        if step is None or self._accepts is _accept_all:
            return step
        return replace(step, reason=StepReason.CONTINUATION)

    def _policy(self) -> RetryPolicy:
        if self.options.retries is not None:
            return RetryPolicy(self.options.retries)
        return self.routing.settings.retry_policy_of(self.targets[0].group_names)

    def _follow(self, kind: ErrorClass, fault: UpstreamFault) -> Step | None:
        failed = self._last
        assert failed is not None
        return self._pick_next(kind) or self._once_more(failed, kind, fault)

    def _pick_next(self, kind: ErrorClass) -> Step | None:
        """Another deployment of the group, else one of the groups that stand in."""
        target, dropped = self._pick(self._group)
        if target is None:
            return self._fall_back(kind, dropped)
        return Step(target, self._group, StepReason.OTHER_DEPLOYMENT, dropped=dropped)

    def _pick(self, group: Sequence[Target]) -> tuple[Target | None, Sequence[Dropped]]:
        left = [target for target in group if target.circuit not in self._tried] if self._tried else group
        if self._accepts is not _accept_all:
            left = [target for target in left if self._accepts(target)]
        if not left:
            return None, ()
        routing = self.routing
        plan = make_plan(left, routing.draw, self.request, settings=routing.settings, view=routing, most=1)
        for drop in plan.dropped:
            routing.breaker.wish_probe(drop.target.circuit)
        target = plan.targets[0] if plan.targets else None
        if target is None and len(left) == len(group):
            target = routing.last_resort(plan.dropped)
        if target is not None:
            self._last = target
            self._tried.add(target.circuit)
        return target, plan.dropped

    def _fall_back(self, kind: ErrorClass, passed: Sequence[Dropped] = (), *, is_last: bool = False) -> Step | None:
        """`passed`: those of the group before that could not be chosen. `is_last`: a group that has been tried is not
        tried again."""
        if self.options.is_without_fallbacks:
            return None
        group = self.targets[0].model_group
        named = self.options.fallbacks_of(kind)
        if named is None:
            named = self.routing.settings.fallbacks_of(self.targets[0].group_names, kind)
        for name in named:
            if name == group or name in self._groups_tried or (is_last and name in self._groups_entered):
                continue
            targets = self.find_group(name)
            target, dropped = self._pick(targets)
            if target is not None:
                self._group = targets
                self._groups_entered.add(name)
                return Step(target, targets, StepReason.FALLBACK, dropped=(*passed, *dropped))
            passed = (*passed, *dropped)
            self._groups_tried.append(name)
        return None

    def _once_more(self, target: Target, kind: ErrorClass, fault: UpstreamFault) -> Step | None:
        delay_s = BACKOFF_S * 2**self.retries * (1 + JITTER * (2 * self.routing.draw() - 1))
        delay_s = max(delay_s, fault.retry_after_s or 0)
        is_cut = fault.finish == Finish.UPSTREAM_BROKEN  # the upstream may have worked on it: never twice by the same
        if is_cut or kind not in PASSING or delay_s > LONGEST_WAIT_S:
            return None
        return Step(target, self._group, StepReason.SAME_DEPLOYMENT, delay_s)


def make_refusal(targets: Sequence[Target], dropped: Sequence[Dropped]) -> RateLimited | BadRequest:
    """The fault of a request of which no deployment of its model group may be asked; `dropped` are all of them."""
    model = targets[0].model_group
    if any(drop.is_for_now for drop in dropped):
        wait = b"%d" % RETRY_AFTER_S
        return RateLimited(
            f"No deployments available for selected model, Try again in {RETRY_AFTER_S:.0f} seconds. "
            f"All deployments of '{model}' are cooling down or have reached their limits.",
            code="all_deployments_in_cooldown",
            headers=((b"retry-after", wait),),
        )
    reasons = sorted({drop.reason for drop in dropped})[:3]
    return BadRequest(
        f"No deployment of the model '{model}' can serve this request: each {'; or '.join(reasons)}.", param="model"
    )
