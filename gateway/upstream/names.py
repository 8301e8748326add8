"""NameCache: the addresses of upstreams' names, each resolved once a minute.

A resolver that fails or hangs must not take an upstream away whose addresses are known: while it does, the last ones
are used. Of one name one look-up runs at a time, since it keeps a thread for as long as the resolver likes.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

from gateway.upstream.addresses import EgressDenied, check_resolved

RESOLVED_FOR_S = 60.0
#: The last addresses serve no longer while the resolver is away: others may have them by then.
LAST_FOR_S = 3600.0
#: For a new answer where an older one is known; then the older one serves, and the look-up goes on.
PATIENCE_S = 1.0
MAX_NAMES = 1024
AT_ONCE = 16
#: A look-up that has no turn by then is given up: most of those who asked have left, and it would only hold up others.
TURN_S = 5.0

#: (family, type, protocol, canonical name, address), as getaddrinfo returns it.
AddressInfo = tuple[int, int, int, str, tuple[str, int]]
Resolve = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]
Name = tuple[str, int]


async def resolve(host: str, port: int) -> Sequence[AddressInfo]:
    """Raises socket.gaierror, or EgressDenied for a name with a link-local or metadata address."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in infos:
        check_resolved(host, str(address[0]))
    return [
        (family, kind, protocol, name, (str(address[0]), int(address[1])))
        for family, kind, protocol, name, address in infos
    ]


class NameCache:
    """At most `at_once` look-ups run at a time; the others wait for their turn, at most TURN_S. Closes: the owner, with
    `close()`."""

    def __init__(
        self,
        resolve: Resolve = resolve,
        *,
        resolved_for_s: float = RESOLVED_FOR_S,
        patience_s: float = PATIENCE_S,
        at_once: int = AT_ONCE,
    ) -> None:
        self._resolve = resolve
        self._turns = asyncio.Semaphore(at_once)
        self._resolved_for_s = resolved_for_s
        self._patience_s = patience_s
        self._known: dict[Name, tuple[float, Sequence[AddressInfo]]] = {}
        self._running: dict[Name, tuple[float, asyncio.Task[Sequence[AddressInfo]]]] = {}

    def close(self) -> None:
        for _, task in self._running.values():
            task.cancel()

    async def find(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Raises socket.gaierror or EgressDenied. The caller limits the wait for a name that is not known."""
        name, now = (host, port), asyncio.get_running_loop().time()
        known = self._known.get(name)
        if known is not None and now - known[0] < self._resolved_for_s:
            return known[1]
        if known is not None and now - known[0] >= LAST_FOR_S:
            known = None
        began_s, task = self._running.get(name) or self._begin(name, now)
        if known is None:
            return await asyncio.shield(task)
        await asyncio.wait({task}, timeout=max(began_s + self._patience_s - now, 0))
        if not task.done() or task.cancelled() or _is_passing(task.exception()):
            return known[1]
        return task.result()

    def _begin(self, name: Name, now: float) -> tuple[float, asyncio.Task[Sequence[AddressInfo]]]:
        task = asyncio.create_task(self._look_up(name), name="name look-up")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may have no reader any more
        self._running[name] = entry = now, task
        return entry

    async def _look_up(self, name: Name) -> Sequence[AddressInfo]:
        try:
            await self._wait_for_turn()
            try:
                addresses = await self._resolve(*name)
            finally:
                self._turns.release()
        except (EgressDenied, socket.gaierror) as error:
            if not _is_passing(error):
                self._known.pop(name, None)  # the older addresses are no longer its own
            raise
        finally:
            del self._running[name]
        if self._resolved_for_s:
            if name not in self._known and len(self._known) >= MAX_NAMES:
                self._known.pop(next(iter(self._known)))
            self._known[name] = (asyncio.get_running_loop().time(), addresses)
        return addresses

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, "too many names are being looked up") from None


def _is_passing(error: BaseException | None) -> bool:
    """The resolver is away, and has not said that there is no such name."""
    return isinstance(error, socket.gaierror) and error.errno != socket.EAI_NONAME
