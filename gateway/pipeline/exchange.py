"""Stations 6 to 8 for one plan: Exchange with the upstream, Relay to the client, Close the spend row.

Another deployment is tried only while nothing has reached the client. The life of each attempt is attempt.py.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from gateway.pipeline.attempt import make_attempt, open_row
from gateway.pipeline.deployment_limits import DeploymentFull
from gateway.pipeline.frame_release import FRAME_RELEASE
from gateway.pipeline.hedge import Lane, Race
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Attempt, Principal, Reply, Reservation
from gateway.pipeline.recovery import Continuation, WrapRelay, find_transcripts, note_in, pass_relay
from gateway.pipeline.services import Services
from gateway.pipeline.time_limits import UNHURRIED, AttemptLimits, ClientTime, limit_attempt
from gateway.pipeline.visit import BoundCall, Place, Visit
from gateway.protocol.answer import Transcript
from gateway.protocol.call import Operation
from gateway.protocol.errors import DeadlineExceeded, Fault, UpstreamFault
from gateway.protocol.output_limit import lower_output
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.protocol.timeouts import NO_TIMEOUTS
from gateway.routing.filters import Dropped
from gateway.routing.load import FULL, SPENT
from gateway.routing.unsupported_parameters import MAX_LESSONS
from gateway.routing.walk import Step, StepReason, Walk
from gateway.upstream.client import IDLE_CLOSED

#: Faults that may not happen a second time: one more try in all, at another deployment if there is one.
ONCE_MORE = frozenset({"upstream_malformed_tool_call", "upstream_incomplete_stream", IDLE_CLOSED})


@dataclass(slots=True)
class _Made:
    """An attempt that runs, or has run."""

    attempt: Attempt
    place: Place
    sent: list[UpstreamRequest] = field(default_factory=list)
    transcript: Transcript | None = None  # of a stream that may be continued


@dataclass(slots=True)
class _Request:
    """A request on its way over the deployments. `number`: of its next attempt; `last`: the attempt that ended last,
    or that won."""

    bind: Callable[[Target], BoundCall]
    walk: Walk
    principal: Principal
    services: Services
    reply: Reply
    request_id: str
    time: ClientTime
    number: int
    reservation: Reservation | None = None
    tried: list[str] = field(default_factory=list)  # circuits, in this order
    refusals: dict[str, Fault] = field(default_factory=dict)  # of budgets, by the circuit
    lessons: int = 0
    is_once_more: bool = False
    is_hedged: bool = False
    last: _Made | None = None
    new_transcript: Callable[[], Transcript] | None = None
    continuation: Continuation | None = None

    async def find_place(self, step: Step | None) -> Place | None:
        """The place of the next attempt, at the first deployment whose own limits and budgets admit it; None where
        there is none."""
        full: list[Dropped] = []
        while step is not None:
            if step.delay_s:
                await asyncio.sleep(step.delay_s)
            if full:
                step = replace(step, dropped=(*full, *step.dropped))
            place = await self.take_place(step)
            if isinstance(place, Place):
                return place
            full.append(place)
            step = self.walk.full()
        return None

    async def take_place(self, step: Step) -> Place | Dropped:
        """Takes of the budgets and the limits of the deployment; these may refuse."""
        services = self.services
        target = services.unsupported_parameters.apply(step.target)
        bound = self.bind(target)
        if self.continuation is not None:
            bound = await self.continuation.bind(bound)
        try:
            hold = await services.deployment_budgets.hold(self.principal, bound.call, target)
            with contextlib.ExitStack() as undo:
                if hold is not None:
                    undo.callback(hold.settle, 0)
                grant = await services.deployment_limits.take(target, bound.call)
                undo.pop_all()
        except DeploymentFull as full:
            if full.fault is not None:  # another call may cost less
                self.refusals[target.circuit] = full.fault
            else:
                services.routing.load.note_full(target.deployment_id, full.wait_s)
            return Dropped(target, FULL if full.fault is None else SPENT, is_for_now=True)
        return Place(target, bound, step, grant, hold)

    async def give_back(self, place: Place) -> None:
        """Returns what an attempt that was not begun has taken of limits and budgets. Does nothing where one was."""
        if place.hold is not None:
            place.hold.settle(0)
        if place.grant is not None:
            await asyncio.shield(self.services.deployment_limits.give_back(place.grant))

    async def prepare(self, place: Place, *, is_hedge: bool = False) -> _Made:
        target, bound = place.target, await _lower(place.bound, self.reservation)
        attempt = Attempt(
            id=self.services.new_id(),
            request_id=self.request_id,
            number=self.number,
            principal=self.principal,
            call=bound.call,
            target=target,
            started_at=self.services.now(),
            fallbacks=len({*self.tried} - {target.circuit}),
            retries=self.tried.count(target.circuit),
            is_hedge=is_hedge,
            steps=bound.steps,
            reservation=self.reservation,
            deployment_hold=place.hold,
            step=place.step,
            continues=self.continuation.broken if self.continuation is not None else None,
        )
        self.number += 1
        self.tried.append(target.circuit)
        transcript = None
        if self.new_transcript is not None and self.continuation is None:  # a stream goes on once
            transcript = self.new_transcript()
        return _Made(attempt, place, transcript=transcript)

    async def make(self, made: _Made, lane: Lane | None = None) -> None:
        attempt, services = made.attempt, self.services
        limits = _limit_attempt(attempt, services, self.time)
        async with Visit(attempt, made.place, services.routing, services.deployment_limits):
            await open_row(attempt, services)
            with FRAME_RELEASE:
                await make_attempt(attempt, services, self.reply, limits, made.sent, lane, self._wrap_of(made))

    def _wrap_of(self, made: _Made) -> WrapRelay:
        if self.continuation is not None:
            return partial(self.continuation.wrap, target=made.attempt.target)
        return note_in(made.transcript) if made.transcript is not None else pass_relay

    async def answer(self, made: _Made) -> None:
        """Makes the attempt, and another one beside it where it is silent for too long. Raises the fault of `last`."""
        self.last = made
        after_s = self._hedge_after_s(made)
        if after_s is None:
            await self.make(made)
            return
        race, lanes = Race(), {}

        async def first(lane: Lane) -> None:
            lane.attempt = made.attempt
            lanes[lane] = made
            await self.make(made, lane)

        async def second(lane: Lane) -> None:
            step = self.walk.hedge()
            place = await self.take_place(step) if step is not None else None
            if not isinstance(place, Place):
                return
            try:
                if await self._may_hedge(place, made):
                    hedge = lanes[lane] = await self.prepare(place, is_hedge=True)
                    lane.attempt = hedge.attempt
                    await self.make(hedge, lane)
            finally:
                await self.give_back(place)

        try:
            await race.run(first, second, after_s=after_s)
        finally:
            if (last := race.take_last()) is not None:
                self.last = lanes.get(last, made)

    def _hedge_after_s(self, made: _Made) -> float | None:
        """Seconds from now; None where no second attempt is made beside this one. What stores its answer is made once,
        and what a nearly spent budget has shortened is not paid twice."""
        attempt, routing = made.attempt, self.services.routing
        call = attempt.call
        rule = routing.settings.hedging_of(attempt.target.group_names)
        is_shortened = self.reservation is not None and self.reservation.output_limit is not None
        if rule is None or self.is_hedged or attempt.steps or is_shortened or call.operation is Operation.EMBEDDING:
            return None
        if self.continuation is not None:
            return None
        after_s = routing.load.hedge_after_s(attempt.target.deployment_id, rule, is_stream=call.stream)
        return after_s if after_s is not None and after_s < self.time.left_s(attempt.started_at) else None

    async def _may_hedge(self, place: Place, made: _Made) -> bool:
        """Pays for a second attempt: the budgets for its cost, the retry budget for its number."""
        reservation = self.reservation
        if reservation is not None and not await reservation.extend(place.bound.call, place.target, [made.attempt]):
            return False
        if made.attempt.ended_at is None:  # else what follows depends on how it has ended
            self.is_hedged = self.walk.pay_for_hedge()
        return self.is_hedged

    def next_step(self, made: _Made, fault: UpstreamFault) -> Step | None:
        """The step that follows a failure; None where the client gets it."""
        attempt, place = made.attempt, made.place
        body = made.sent[-1].body if made.sent else b""
        narrowed = self.services.unsupported_parameters.note(place.target, attempt.call, fault, body)
        is_partly_paid = attempt.call.operation is Operation.EMBEDDING and attempt.usage.total_input > 0
        if attempt.first_token_at is not None:
            return self.continue_stream(made, fault)
        if is_partly_paid:
            return None  # what the client has paid for is not made again
        once_more = Step(place.target, place.step.group, StepReason.SAME_DEPLOYMENT)
        step: Step | None
        if narrowed is not None and self.lessons < MAX_LESSONS:
            self.lessons += 1
            # the same deployment once more, without what it refused
            step = Step(narrowed, place.step.group, StepReason.WITHOUT_PARAMETER)
        elif fault.code == IDLE_CLOSED and not self.is_once_more:
            step = replace(once_more, needs_new_connection=True)  # the request was not worked on
        elif fault.code in ONCE_MORE:
            step = None
            if not self.is_once_more:
                step = self.walk.after(fault, is_retryable=True) or once_more
        else:
            step = self.walk.after(fault)
        self.is_once_more = self.is_once_more or fault.code in ONCE_MORE
        if step is not None and self.time.left_s(self.services.now()) <= step.delay_s:
            return None
        return step

    def continue_stream(self, made: _Made, fault: UpstreamFault) -> Step | None:
        """The step that goes on with what the client has; None where the client gets the failure."""
        rest = ClientTime(end_by=self.time.end_by)  # the first event came in time
        if made.transcript is None or rest.left_s(self.services.now()) <= 0:
            return None
        continuation = Continuation.of(made.transcript, made.attempt, fault)
        if continuation is None:
            return None
        step = self.walk.continue_stream(fault, made.place.step.target, continuation.may_go_on_at)
        if step is not None:
            self.continuation, self.time = continuation, rest
        return step

    async def go_on(self, place: Place, broken: UpstreamFault) -> None:
        """Raises `broken` where the continuation fails: its stream has no other end."""
        made = await self.prepare(place)
        try:
            await self.answer(made)
        except Fault:
            raise broken from None

    async def may_pay(self, made: _Made, place: Place) -> bool:
        """The budgets pay for the attempt that follows `made`."""
        call = made.attempt.call if self.continuation is None else place.bound.call
        return self.reservation is None or await self.reservation.extend(call, place.target)

    def may_recover(self) -> bool:
        return self.services.routing.settings.recovers(self.walk.targets[0].group_names)


async def exchange(
    bind: Callable[[Target], BoundCall],
    walk: Walk,
    principal: Principal,
    services: Services,
    reply: Reply,
    *,
    request_id: str,
    time: ClientTime = UNHURRIED,
    first_number: int = 0,
) -> None:
    """Answers on `reply`; no attempt is begun when the client's `time` is over. `first_number` numbers the first
    attempt of a request that is exchanged again. Raises the Fault of the last attempt where no deployment answers, or
    that of a limit or budget that refuses the request."""
    services.observer.note_group(request_id, walk.targets[0])
    if time.left_s(services.now()) <= 0:
        raise DeadlineExceeded
    request = _Request(bind, walk, principal, services, reply, request_id, time, first_number)
    place = await request.find_place(walk.first())
    if place is None:
        raise _refusal(walk, request.refusals)
    try:
        if request.may_recover():  # before the body is released
            request.new_transcript = find_transcripts(place.bound.call)
        request.reservation = await services.admission.reserve(
            principal, place.bound.call, place.target, is_repeat=first_number > 0
        )
        while True:
            made = await request.prepare(place)
            try:
                await request.answer(made)
                return
            except UpstreamFault as fault:
                made = request.last or made
                following = await request.find_place(request.next_step(made, fault))
                if following is None:
                    raise
                place = following
                if not await request.may_pay(made, place):
                    raise  # the client gets the upstream's error
                broken = fault.with_traceback(None) if request.continuation is not None else None
            if broken is not None:
                await request.go_on(place, broken)
                return
    except Fault as fault:
        if request.reservation is not None:
            fault.headers += tuple(request.reservation.headers)
        raise
    finally:
        try:
            await request.give_back(place)
        finally:  # also where the client leaves meanwhile
            if request.reservation is not None:
                await asyncio.shield(request.reservation.settle())


async def _lower(bound: BoundCall, reservation: Reservation | None) -> BoundCall:
    """The call with the output limit that was reserved for it."""
    if reservation is None or reservation.output_limit is None:
        return bound
    size = len(bound.call.raw)
    return replace(bound, call=await read_sized(size, lower_output, bound.call, reservation.output_limit))


def _refusal(walk: Walk, refusals: Mapping[str, Fault]) -> Fault:
    """The budget's refusal where budgets have refused at every deployment of the group, else that of the limits."""
    faults = [refusals.get(target.circuit) for target in walk.targets]
    return next((fault for fault in faults if fault is not None and None not in faults), walk.refusal())


def _limit_attempt(attempt: Attempt, services: Services, time: ClientTime) -> AttemptLimits:
    target, routing = attempt.target, services.routing.settings
    layers = (target.timeouts, routing.timeouts_of(target.group_names), attempt.principal.timeouts)
    defaults = routing.timeouts.or_else(services.timeouts)
    return limit_attempt(
        [own for own in layers if own is not NO_TIMEOUTS],
        defaults,
        time,
        attempt.started_at,
        is_stream=attempt.call.stream,
    )
