"""Breakers of several processes on one store: simulations on a scripted clock, and what an outage of the store does."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pytest
from redis import RedisError

from gateway.protocol.error_classes import classify
from gateway.protocol.errors import Fault
from gateway.protocol.provider import Target
from gateway.routing import breaker_sharing
from gateway.routing.breaker import HALF_OPEN_S, Breaker, Ejection
from gateway.routing.breaker_sharing import TICK_S, UNKNOWN_S, BreakerSharing
from gateway.routing.error_class import ErrorClass
from gateway.routing.load import DeploymentLoad
from gateway.routing.retry_budget import RetryBudget
from gateway.routing.settings import RoutingSettings
from gateway.routing.walk import Routing, Walk
from gateway.state.breaker_store import MAX_ENTRIES, Change, Ejected, SharedEjection, SharedStates
from tests.fakes.breaker_store import MemoryBreakerStore
from tests.fakes.memory import target

SEEDS = range(20)
GROUP = tuple(target(name) for name in "ab")
NAMES = tuple(one.deployment_id for one in GROUP)


@dataclass
class Cluster:
    """Replicas that exchange each TICK_S, and whose clocks differ by seconds. `failing`: the status of an answer by
    deployment, replica and time; 200 is none."""

    seed: int = 0
    replicas: int = 2
    group: Sequence[Target] = GROUP
    failing: Callable[[str, int, float], int] = lambda name, replica, now: 200
    now: float = 1_000_000.0
    asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.store = MemoryBreakerStore(lambda: self.now)
        self.members = [Replica(self, number) for number in range(self.replicas)]

    async def sync(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            for member in self.members:
                await member.sharing.sync()

    async def wait(self, length_s: float) -> None:
        self.now += length_s
        await self.sync(2)


class Replica:
    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.known: Collection[str] = [one.deployment_id for one in cluster.group]
        skew_s = cluster.random.uniform(-30, 30)
        clock = lambda: cluster.now + skew_s  # noqa: E731
        self.clock = clock
        self.breaker = Breaker(clock, cluster.random.random)
        self.routing = Routing(
            self.breaker,
            DeploymentLoad(clock),
            RetryBudget(clock),
            cluster.random.random,
            RoutingSettings,
        )
        self.sharing = BreakerSharing(
            self.breaker, cluster.store, owner=f"replica-{number}", find_known=lambda: self.known, now=clock
        )
        self.breaker.listen(self.sharing)

    @property
    def out(self) -> set[str]:
        return set(self.breaker.ejections)

    def fail(self, name: str, times: int = 5, kind: ErrorClass = ErrorClass.SERVER) -> None:
        for _ in range(times):
            self.breaker.note_failure(name, kind, NAMES)

    def ask(self) -> Fault | None:
        """One request; the fault that its client gets."""
        walk = Walk(self.routing, self.cluster.group, lambda name: ())
        try:
            step = walk.first()
        except Fault as fault:
            return fault
        while True:
            one = step.target
            self.cluster.asked[one.deployment_id] += 1
            self.routing.begin(one, 10)
            status = self.cluster.failing(one.deployment_id, self.number, self.cluster.now)
            self.routing.load.end(one.deployment_id, 10, 10)
            if status == 200:
                self.routing.end_well(one)
                return None
            fault = classify(status, message="no")
            self.routing.end_badly(one, fault, step.group)
            following = walk.after(fault)
            if following is None:
                return fault
            step = following


async def play(cluster: Cluster, length_s: float, every_s: float) -> list[Fault]:
    """The faults that clients get; each request goes to a replica by a draw."""
    faults = []
    end, next_sync = cluster.now + length_s, cluster.now
    while cluster.now < end:
        if cluster.now >= next_sync:
            await cluster.sync()
            next_sync += TICK_S
        fault = cluster.random.choice(cluster.members).ask()
        if fault is not None:
            faults.append(fault)
        cluster.now += every_s
    return faults


# Ejections


async def test_an_ejection_and_its_end_are_known_to_all_processes() -> None:
    cluster = Cluster(replicas=3)
    first, *others = cluster.members
    first.fail("a")
    await cluster.sync()
    for other in others:
        assert other.out == {"a"}
        left_s = other.breaker.ejections["a"].until_s - other.clock()
        assert left_s == pytest.approx(first.breaker.ejections["a"].until_s - first.clock(), abs=0.001)
    await cluster.wait(7)
    first.breaker.wish_probe("a")
    await cluster.sync()
    first.breaker.begin("a")
    first.breaker.note_success("a")
    await cluster.sync()
    assert [member.out for member in cluster.members] == [set()] * 3


async def test_a_new_process_adopts_what_holds() -> None:
    cluster = Cluster()
    cluster.members[0].fail("a")
    cluster.members[0].fail("b", 1, ErrorClass.AUTHENTICATION)
    await cluster.sync()
    late = Replica(cluster, 9)
    await late.sharing.start()
    assert late.out == {"a"}
    assert set(late.breaker.refused) == {"b"}
    await late.sharing.close()


async def test_replicas_that_take_out_different_ones_of_two_leave_the_group_served() -> None:
    cluster = Cluster()
    one, other = cluster.members
    one.fail("a")
    other.fail("b")
    await cluster.sync(2)
    assert one.out == other.out == {"a", "b"}
    assert [member.ask() for member in cluster.members for _ in range(10)] == [None] * 20
    await cluster.sync(2)
    assert len(one.out) == len(other.out) == 1


async def test_each_ejection_is_longer_whichever_process_makes_it() -> None:
    cluster = Cluster()
    for number in range(1, 5):
        member = cluster.members[number % 2]
        member.breaker.wish_probe("a")
        await cluster.sync()
        member.breaker.begin("a")
        member.fail("a", 5 if number == 1 else 1)
        await cluster.sync(2)
        assert {one.breaker.ejections["a"].number for one in cluster.members} == {number}
        cluster.now += 5 * 2**number


async def test_an_ejection_that_is_long_over_vanishes_everywhere() -> None:
    cluster = Cluster()
    cluster.members[0].fail("a")
    await cluster.sync()
    await cluster.wait(HALF_OPEN_S + 10)
    for member in cluster.members:
        assert member.routing.out() == {}
        assert member.out == set()
    assert not (await cluster.store.sync("any", [])).ejections


# Probes


async def test_one_process_at_a_time_probes() -> None:
    cluster = Cluster(replicas=3)
    cluster.members[0].fail("a")
    await cluster.sync()
    await cluster.wait(7)
    for member in cluster.members:
        assert member.breaker.out_reason("a") != ""
        member.breaker.wish_probe("a")
    await cluster.sync(2)
    may = [member for member in cluster.members if not member.breaker.out_reason("a")]
    assert len(may) == 1
    may[0].breaker.begin("a")
    for _ in range(60):  # the call takes a minute: its process renews the lease
        await cluster.wait(1.0)
        for member in cluster.members:
            member.breaker.wish_probe("a")
        assert all(member.breaker.out_reason("a") for member in cluster.members)
    may[0].breaker.note_success("a")
    await cluster.sync()
    assert [member.out for member in cluster.members] == [set()] * 3


async def test_a_lease_that_is_not_used_passes_on() -> None:
    cluster = Cluster()
    one, other = cluster.members
    one.fail("a")
    await cluster.sync()
    await cluster.wait(7)
    one.breaker.wish_probe("a")
    await cluster.sync()
    assert not one.breaker.out_reason("a")
    other.breaker.wish_probe("a")
    cluster.members = [other]  # the first one was killed
    await cluster.wait(4.0)
    assert other.breaker.out_reason("a")
    await cluster.wait(1.1)
    assert not other.breaker.out_reason("a")


# Whole days


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("status", [503, 429, 401])
async def test_of_a_half_broken_group_no_request_fails_and_the_broken_one_is_hardly_asked(
    seed: int, status: int
) -> None:
    """All replicas together ask it as often as one would."""
    cluster = Cluster(seed, 3, failing=lambda name, replica, now: status if name == "a" else 200)
    assert await play(cluster, 100.0, 0.01) == []
    assert cluster.asked["a"] < 100


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_deployment_that_recovers_is_asked_again_within_its_time(seed: int) -> None:
    start = 1_000_000.0
    cluster = Cluster(seed, 3, failing=lambda name, replica, now: 503 if name == "a" and now < start + 10 else 200)
    assert await play(cluster, 10.0, 0.02) == []
    longest_s = max(one.breaker.ejections["a"].until_s - one.clock() for one in cluster.members)
    assert await play(cluster, longest_s + 10.0, 0.02) == []
    assert all(one.out == set() for one in cluster.members)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_deployment_that_one_replica_cannot_reach_refuses_no_request(seed: int) -> None:
    """Each of the two replicas reaches another one of two deployments."""
    cluster = Cluster(seed, 2, failing=lambda name, replica, now: 503 if name == NAMES[replica] else 200)
    faults = await play(cluster, 60.0, 0.05)
    assert not [fault for fault in faults if fault.code == "all_deployments_in_cooldown"]


# Refused credentials, and changes


async def test_a_refused_credential_is_known_until_any_process_is_admitted() -> None:
    cluster = Cluster()
    one, other = cluster.members
    one.fail("a", 1, ErrorClass.AUTHENTICATION)
    await cluster.sync()
    assert other.breaker.refused == one.breaker.refused
    await cluster.wait(1e6)
    assert set(other.breaker.refused) == {"a"}
    other.breaker.note_success("a")
    await cluster.sync(2)
    assert not one.breaker.refused
    assert not other.breaker.refused


async def test_a_changed_deployment_begins_anew_everywhere() -> None:
    cluster = Cluster()
    one, other = cluster.members
    one.fail("a", 1, ErrorClass.AUTHENTICATION)
    await cluster.sync()
    other.breaker.forget(["a"])
    await cluster.sync(2)
    for member in cluster.members:
        assert member.out == set()
        assert not member.breaker.refused


async def test_entries_of_deleted_deployments_are_dropped() -> None:
    cluster = Cluster()
    one, other = cluster.members
    one.fail("a", 1, ErrorClass.AUTHENTICATION)
    await one.sharing.sync()
    other.known = ["b"]
    await cluster.sync()
    assert not other.breaker.refused
    await cluster.wait(UNKNOWN_S / 2)
    assert (await cluster.store.sync("any", [])).refused, "another process may know a new deployment first"
    one.known, other.known = (), ()
    await cluster.wait(UNKNOWN_S)
    assert (await cluster.store.sync("any", [])).refused, "a process that has not read the database knows none"
    one.known = other.known = ["b"]
    await cluster.sync()
    await cluster.wait(UNKNOWN_S + 1)
    states = await cluster.store.sync("any", [])
    assert not states.refused
    assert not states.ejections


async def test_a_model_of_a_deployment_that_serves_many_is_known_by_its_deployment() -> None:
    cluster = Cluster()
    one, other = cluster.members
    one.breaker.note_failure("a\nmodel", ErrorClass.RATE_LIMIT, ("a\nmodel", "b\nmodel"))
    one.breaker.note_failure("gone\nmodel", ErrorClass.RATE_LIMIT, ("gone\nmodel", "b\nmodel"))
    await cluster.sync()
    assert other.out == {"a\nmodel"}


async def test_an_outage_in_which_callers_name_many_models_does_not_fill_the_memory() -> None:
    cluster = Cluster()
    sharing = cluster.members[0].sharing
    cluster.store.error = RedisError("gone")
    for number in range(3 * MAX_ENTRIES):
        sharing.note_ejection(f"a\n{number}", Ejection(ErrorClass.SERVER, cluster.now, 1))
        sharing.note_ejection(f"a\n{number}", None)
    await cluster.sync()
    assert len(sharing._ejections) == MAX_ENTRIES
    assert len(sharing._until_s) == MAX_ENTRIES


async def test_classes_that_only_another_version_knows_are_skipped() -> None:
    cluster = Cluster()
    await cluster.store.sync("newer", [Ejected("a", SharedEjection("boredom", 1, 10.0))])
    await cluster.sync()
    assert cluster.members[0].out == set()


# Outages


async def test_while_the_store_is_away_each_process_decides_alone(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    one, other = cluster.members
    one.fail("a")
    await cluster.sync()
    cluster.store.error = RedisError("gone\nwith details")
    await cluster.sync(5)
    other.fail("b", 1, ErrorClass.RATE_LIMIT)  # the last one of its group
    await cluster.wait(7)
    for member in cluster.members:
        assert not member.breaker.out_reason("a"), "each may probe"
    one.breaker.begin("a")
    one.breaker.note_success("a")
    other.breaker.begin("a")
    other.fail("a", 1)
    await cluster.sync()
    assert (one.out, other.out) == (set(), {"a"})
    cluster.store.error = None
    await cluster.sync(2)
    assert one.out == other.out
    messages = [r.getMessage() for r in caplog.records if r.name == breaker_sharing.__name__]
    assert messages == [
        "Redis is away: each process decides alone which deployments are out",
        "Redis is away: each process decides alone which deployments are out",
        "Redis is back: all processes know which deployments are out",
        "Redis is back: all processes know which deployments are out",
    ], "once by each of the two"


async def test_a_store_that_has_lost_everything_learns_it_again() -> None:
    cluster = Cluster()
    cluster.members[0].fail("a")
    await cluster.sync()
    cluster.members[1].fail("b", 1, ErrorClass.AUTHENTICATION)  # the last one of its group
    await cluster.sync(2)
    cluster.store.flush()
    await cluster.sync(2)
    states = await cluster.store.sync("any", [])
    assert set(states.ejections) == {"a"}
    assert set(states.refused) == {"b"}
    assert all(set(member.breaker.refused) == {"b"} for member in cluster.members)


class SlowStore(MemoryBreakerStore):
    """Answers when it is let; `reached` tells of a call."""

    def __init__(self) -> None:
        super().__init__(lambda: 1000.0)
        self.gate, self.reached, self.changed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def sync(self, owner: str, changes: Sequence[Change]) -> SharedStates:
        states = await super().sync(owner, changes)
        self.reached.set()
        if changes:
            self.changed.set()
        await self.gate.wait()
        return states


async def test_what_happens_during_an_exchange_is_not_undone_by_its_answer() -> None:
    store = SlowStore()
    breaker = Breaker(lambda: 1000.0, lambda: 0.5)
    sharing = BreakerSharing(breaker, store, owner="one", find_known=lambda: NAMES, now=lambda: 1000.0)
    breaker.listen(sharing)
    store.gate.set()
    await store.sync("two", [Ejected("a", SharedEjection("server", 1, 50.0))])
    await sharing.sync()
    store.gate.clear()
    store.reached.clear()
    exchange = asyncio.create_task(sharing.sync())
    await store.reached.wait()
    breaker.note_success("a")
    store.gate.set()
    await exchange
    assert not breaker.ejections
    await sharing.sync()
    assert not (await store.sync("any", [])).ejections


async def test_a_decision_is_told_without_a_wait_for_the_next_round() -> None:
    store = SlowStore()
    store.gate.set()
    breaker = Breaker(lambda: 1000.0, lambda: 0.5)
    sharing = BreakerSharing(breaker, store, owner="one", find_known=lambda: NAMES, now=lambda: 1000.0)
    await sharing.start()
    for _ in range(5):
        breaker.note_failure("a", ErrorClass.SERVER, NAMES)
    async with asyncio.timeout(10):
        await store.changed.wait()
    assert (await store.sync("any", [])).ejections
    await sharing.close()
