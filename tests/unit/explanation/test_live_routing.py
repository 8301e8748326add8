"""The state of routing, as a view sees that of its process."""

import asyncio

from gateway.explanation.live_routing import LiveRouting
from gateway.protocol.errors import UpstreamFault
from gateway.routing.breaker import Ejection
from gateway.routing.error_class import ErrorClass
from gateway.routing.filters import Dropped
from tests.fakes import memory


def test_a_process_that_answers_no_calls_has_no_state() -> None:
    assert LiveRouting().read(["up"]) is None


async def test_a_view_gets_what_the_router_reads_and_only_of_its_deployments() -> None:
    routing = memory.routing(clock=lambda: 1000.0)
    up, down, other = memory.target("up"), memory.target("down"), memory.target("other")
    refused = UpstreamFault("no", status=401, code="upstream_auth_failed")
    for failing in (down, other):
        routing.end_badly(failing, refused, [up, failing])
    routing.begin(up, 70)
    routing.load.note_latency("up", 0.5, is_stream=True)
    routing.load.note_latency("up", 2.0, is_stream=False)
    routing.load.note_cached("up", 30, 100)
    live = LiveRouting()
    live.connect(routing)
    view = await asyncio.to_thread(live.read, ["up", "down", "unknown"])
    assert view is not None
    assert set(view.out()) == {"down"}
    assert view.out()["down"].startswith("is cooling down after authentication errors")
    ids = ["up", "unknown"]
    assert (view.running(ids), view.used_tokens(ids), view.cached_shares(ids)) == ([1, 0], [70, 0], [0.3, 0])
    assert view.latencies_s(ids, is_stream=True) == [0.5, None]
    assert view.latencies_s(ids, is_stream=False) == [2.0, None]
    live.disconnect()
    assert live.read(["up"]) is None


async def test_the_last_resort_is_that_of_the_walk() -> None:
    routing = memory.routing(clock=lambda: 1000.0)
    one, two = memory.target("one"), memory.target("two")
    live = LiveRouting()
    dropped = [Dropped(one, "is out", is_for_now=True), Dropped(two, "is out", is_for_now=True)]
    assert live.find_last_resort(dropped) is None
    live.connect(routing)
    assert await asyncio.to_thread(live.find_last_resort, dropped) is None, "they are healthy"
    for deployment in ("one", "two"):
        routing.breaker.adopt(deployment, Ejection(ErrorClass.SERVER, 1005.0, 1))
    assert await asyncio.to_thread(live.find_last_resort, dropped) is one


async def test_a_state_of_many_deployments_leaves_the_event_loop_to_others() -> None:
    live = LiveRouting()
    live.connect(memory.routing(clock=lambda: 1000.0))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    view = await asyncio.to_thread(live.read, [f"up{number}" for number in range(2000)])
    counting.cancel()
    assert view is not None
    assert len(view.figures) == 2000
    assert turns >= 10
