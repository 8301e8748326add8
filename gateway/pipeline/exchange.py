"""Stations 6 to 8 for one plan: Exchange with the upstream, Relay to the client, Close the spend row.

Another deployment is tried only while nothing has reached the client. The life of each attempt is attempt.py.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from gateway.pipeline.attempt import make_attempt, open_row
from gateway.pipeline.deployment_limits import DeploymentFull
from gateway.pipeline.frame_release import FRAME_RELEASE
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Attempt, Principal, Reply, Reservation
from gateway.pipeline.services import Services
from gateway.pipeline.time_limits import UNHURRIED, AttemptLimits, ClientTime, limit_attempt
from gateway.pipeline.visit import BoundCall, Place, Visit
from gateway.protocol.call import Operation
from gateway.protocol.errors import DeadlineExceeded, Fault, UpstreamFault
from gateway.protocol.output_limit import lower_output
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.routing.filters import Dropped
from gateway.routing.load import FULL, SPENT
from gateway.routing.unsupported_parameters import MAX_LESSONS
from gateway.routing.walk import Step, StepReason, Walk
from gateway.upstream.client import IDLE_CLOSED

#: Faults that may not happen a second time: one more try in all, at another deployment if there is one.
ONCE_MORE = frozenset({"upstream_malformed_tool_call", "upstream_incomplete_stream", IDLE_CLOSED})


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
    if time.left_s(services.now()) <= 0:
        raise DeadlineExceeded
    tried: list[str] = []  # circuits, in this order
    number = first_number
    lessons = 0
    is_once_more = False
    reservation: Reservation | None = None
    refusals: dict[str, Fault] = {}
    place = await _find_place(walk.first(), walk, bind, principal, services, refusals)
    if place is None:
        raise _refusal(walk, refusals)
    try:
        reservation = await services.admission.reserve(
            principal, place.bound.call, place.target, is_repeat=first_number > 0
        )
        while True:
            target, bound = place.target, await _lower(place.bound, reservation)
            call = bound.call
            attempt = Attempt(
                id=services.new_id(),
                request_id=request_id,
                number=number,
                principal=principal,
                call=call,
                target=target,
                started_at=services.now(),
                fallbacks=len({*tried} - {target.circuit}),
                retries=tried.count(target.circuit),
                steps=bound.steps,
                reservation=reservation,
                deployment_hold=place.hold,
                step=place.step,
            )
            limits = _limit_attempt(attempt, services, time)
            tried.append(target.circuit)
            sent: list[UpstreamRequest] = []
            try:
                async with Visit(attempt, place, services.routing, services.deployment_limits):
                    await open_row(attempt, services)
                    with FRAME_RELEASE:
                        await make_attempt(attempt, services, reply, limits, sent)
                return
            except UpstreamFault as fault:
                number += 1
                narrowed = services.unsupported_parameters.note(target, call, fault, sent[-1].body if sent else b"")
                is_partly_paid = call.operation is Operation.EMBEDDING and attempt.usage.total_input > 0
                if attempt.first_token_at is not None or is_partly_paid:
                    raise  # what the client has, or has paid for, is not made again
                step: Step | None
                if narrowed is not None and lessons < MAX_LESSONS:
                    lessons += 1
                    # the same deployment once more, without what it refused
                    step = Step(narrowed, place.step.group, StepReason.WITHOUT_PARAMETER)
                elif fault.code == IDLE_CLOSED and not is_once_more:
                    step = Step(target, place.step.group, StepReason.SAME_DEPLOYMENT)  # the request was not worked on
                elif fault.code in ONCE_MORE:
                    step = None
                    if not is_once_more:
                        once_more = Step(target, place.step.group, StepReason.SAME_DEPLOYMENT)
                        step = walk.after(fault, is_retryable=True) or once_more
                else:
                    step = walk.after(fault)
                is_once_more = is_once_more or fault.code in ONCE_MORE
                if step is not None and time.left_s(services.now()) <= step.delay_s:
                    raise
                following = await _find_place(step, walk, bind, principal, services, refusals)
                if following is None:
                    raise
                place = following
                if reservation is not None and not await reservation.extend(call, place.target):
                    raise  # the client gets the upstream's error
    except Fault as fault:
        if reservation is not None:
            fault.headers += tuple(reservation.headers)
        raise
    finally:
        if place.hold is not None:
            place.hold.settle(0)  # of an attempt that was not begun
        if place.grant is not None:
            await asyncio.shield(services.deployment_limits.give_back(place.grant))
        if reservation is not None:
            await asyncio.shield(reservation.settle())


async def _lower(bound: BoundCall, reservation: Reservation | None) -> BoundCall:
    """The call with the output limit that was reserved for it."""
    if reservation is None or reservation.output_limit is None:
        return bound
    size = len(bound.call.raw)
    return replace(bound, call=await read_sized(size, lower_output, bound.call, reservation.output_limit))


async def _find_place(
    step: Step | None,
    walk: Walk,
    bind: Callable[[Target], BoundCall],
    principal: Principal,
    services: Services,
    refusals: dict[str, Fault],
) -> Place | None:
    """The place of the next attempt, at the first deployment whose own limits and budgets admit it; None where there is
    none. The refusals of budgets are added to `refusals`, by the circuit."""
    full_ones: list[Dropped] = []
    while step is not None:
        if step.delay_s:
            await asyncio.sleep(step.delay_s)
        target = services.unsupported_parameters.apply(step.target)
        bound = bind(target)
        try:
            if full_ones:
                step = replace(step, dropped=(*full_ones, *step.dropped))
            return await _take_place(target, bound, step, principal, services)
        except DeploymentFull as full:
            if full.fault is not None:  # another call may cost less
                refusals[target.circuit] = full.fault
            else:
                services.routing.load.note_full(target.deployment_id, full.wait_s)
            full_ones.append(Dropped(target, FULL if full.fault is None else SPENT, is_for_now=True))
        step = walk.full()
    return None


async def _take_place(target: Target, bound: BoundCall, step: Step, principal: Principal, services: Services) -> Place:
    """Takes of the budgets and the limits of the deployment, or of none. Raises DeploymentFull."""
    hold = await services.deployment_budgets.hold(principal, bound.call, target)
    with contextlib.ExitStack() as undo:
        if hold is not None:
            undo.callback(hold.settle, 0)
        grant = await services.deployment_limits.take(target, bound.call)
        undo.pop_all()
    return Place(target, bound, step, grant, hold)


def _refusal(walk: Walk, refusals: Mapping[str, Fault]) -> Fault:
    """The budget's refusal where budgets have refused at every deployment of the group, else that of the limits."""
    faults = [refusals.get(target.circuit) for target in walk.targets]
    return next((fault for fault in faults if fault is not None and None not in faults), walk.refusal())


def _limit_attempt(attempt: Attempt, services: Services, time: ClientTime) -> AttemptLimits:
    target, routing = attempt.target, services.routing.settings
    own = target.timeouts.shortest(routing.timeouts_of(target.group_names))
    defaults = routing.timeouts.or_else(services.timeouts)
    return limit_attempt(own, defaults, time, attempt.started_at, is_stream=attempt.call.stream)
