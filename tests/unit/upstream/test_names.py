"""U2: a resolver that fails, hangs or is slow takes away no upstream whose addresses are known."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from gateway.upstream.addresses import EgressDenied
from gateway.upstream.names import LAST_FOR_S, PATIENCE_S, RESOLVED_FOR_S, TURN_S, AddressInfo, NameCache
from gateway.upstream.pool import ConnectionPool, NotConnected
from tests.fakes.memory import FOREVER, play


def addresses(text: str) -> Sequence[AddressInfo]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 443))]


class Resolver:
    """The acts of a resolver in turn: an address, an error to raise, or the seconds that pass before the next act."""

    def __init__(self, *acts: str | float | Exception) -> None:
        self.acts = list(acts)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[AddressInfo]:
        self.asked.append(host)
        while True:
            act = self.acts.pop(0)
            if isinstance(act, Exception):
                raise act
            if isinstance(act, str):
                return addresses(act)
            await asyncio.sleep(act)


FAILED = socket.gaierror(socket.EAI_AGAIN, "try again")


def test_u02_a_name_is_resolved_once_a_minute() -> None:
    resolver = Resolver("192.0.2.1", "192.0.2.2")

    async def story() -> None:
        names = NameCache(resolver)
        for _ in range(3):
            assert await names.find("up.test", 443) == addresses("192.0.2.1")
        await asyncio.sleep(RESOLVED_FOR_S)
        assert await names.find("up.test", 443) == addresses("192.0.2.2")

    play(story())
    assert len(resolver.asked) == 2


@pytest.mark.parametrize(("act", "wait_s"), [(FAILED, 0), (FOREVER, PATIENCE_S)], ids=["fails", "hangs"])
def test_u02_the_last_addresses_serve_while_the_resolver_is_away(act: float | Exception, wait_s: float) -> None:
    async def story() -> None:
        names = NameCache(Resolver("192.0.2.1", act, FAILED))
        await names.find("up.test", 443)
        await asyncio.sleep(RESOLVED_FOR_S)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert await names.find("up.test", 443) == addresses("192.0.2.1")
        assert loop.time() - began_s == pytest.approx(wait_s)
        began_s = loop.time()
        assert await names.find("up.test", 443) == addresses("192.0.2.1")
        assert loop.time() == began_s, "one request waits for a resolver that hangs, and no other"
        names.close()

    play(story())


def test_u02_a_slow_answer_is_used_once_it_is_there() -> None:
    async def story() -> None:
        names = NameCache(Resolver("192.0.2.1", 3.0, "192.0.2.2"))
        await names.find("up.test", 443)
        await asyncio.sleep(RESOLVED_FOR_S)
        assert await names.find("up.test", 443) == addresses("192.0.2.1")
        await asyncio.sleep(3)
        assert await names.find("up.test", 443) == addresses("192.0.2.2")

    play(story())


def test_u02_many_requests_share_one_look_up_and_its_failure() -> None:
    resolver = Resolver(2.0, FAILED)

    async def story() -> None:
        names = NameCache(resolver)
        results = await asyncio.gather(*[names.find("up.test", 443) for _ in range(50)], return_exceptions=True)
        assert all(isinstance(result, socket.gaierror) for result in results)

    play(story())
    assert resolver.asked == ["up.test"]


def test_u02_a_request_that_gives_up_leaves_the_look_up_to_the_others() -> None:
    async def story() -> None:
        names = NameCache(Resolver(4.0, "192.0.2.1"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(names.find("up.test", 443), 1)
        assert await asyncio.wait_for(names.find("up.test", 443), 4) == addresses("192.0.2.1")

    play(story())


def test_u02_no_more_look_ups_run_at_once_than_may() -> None:
    resolver = Resolver(*[FOREVER] * 3)

    async def story() -> None:
        names = NameCache(resolver, at_once=3)
        waiting = [asyncio.create_task(names.find(f"slow{number}.test", 443)) for number in range(9)]
        await asyncio.sleep(1)
        assert len(resolver.asked) == 3
        names.close()
        await asyncio.wait(waiting)

    play(story())


def test_u02_look_ups_that_wait_for_slow_ones_are_given_up_and_leave_their_turn() -> None:
    resolver = Resolver(TURN_S + 3.0, FAILED, "192.0.2.1")

    async def story() -> None:
        names = NameCache(resolver, at_once=1)
        slow = asyncio.create_task(names.find("slow.test", 443))
        waiting = [asyncio.create_task(names.find(f"later{number}.test", 443)) for number in range(1000)]
        await asyncio.sleep(TURN_S + 1.0)
        assert all(isinstance(one.exception(), socket.gaierror) for one in waiting)
        with pytest.raises(socket.gaierror):
            await slow
        assert await names.find("up.test", 443) == addresses("192.0.2.1")

    play(story())
    assert resolver.asked == ["slow.test", "up.test"]


def test_u02_a_name_that_leads_to_a_denied_address_by_now_has_no_older_ones() -> None:
    async def story() -> None:
        names = NameCache(Resolver("192.0.2.1", EgressDenied("a metadata address"), FAILED))
        await names.find("up.test", 443)
        await asyncio.sleep(RESOLVED_FOR_S)
        with pytest.raises(EgressDenied):
            await names.find("up.test", 443)
        with pytest.raises(socket.gaierror):
            await names.find("up.test", 443)

    play(story())


def test_u02_a_name_that_is_deleted_has_no_older_addresses() -> None:
    async def story() -> None:
        names = NameCache(Resolver("192.0.2.1", socket.gaierror(socket.EAI_NONAME, "unknown"), FAILED))
        await names.find("up.test", 443)
        await asyncio.sleep(RESOLVED_FOR_S)
        for _ in range(2):
            with pytest.raises(socket.gaierror):
                await names.find("up.test", 443)

    play(story())


def test_u02_the_last_addresses_serve_for_an_hour() -> None:
    async def story() -> None:
        names = NameCache(Resolver("192.0.2.1", FAILED, FAILED))
        await names.find("up.test", 443)
        await asyncio.sleep(LAST_FOR_S - 1)
        assert await names.find("up.test", 443) == addresses("192.0.2.1")
        await asyncio.sleep(1)
        with pytest.raises(socket.gaierror):
            await names.find("up.test", 443)

    play(story())


def test_u02_the_connect_budget_holds_for_a_name_that_was_never_resolved() -> None:
    async def story() -> float:
        pool = ConnectionPool(connect_timeout_s=5, names=NameCache(Resolver(FOREVER)))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        with pytest.raises(NotConnected):
            await pool.request("POST", "http://up.test/v1", {}, b"")
        took_s = loop.time() - began_s
        await pool.close()
        return took_s

    assert play(story()) == pytest.approx(5)
