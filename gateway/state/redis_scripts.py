"""Scripts on Redis, over one connection: while one round trip is under way, further calls gather for the next."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

MOST_CALLS = 256  # of one round trip
#: A round trip that takes longer fails. It is waited for in parts, so that an event loop that stands still for a moment
#: does not look like a Redis that does.
TIMEOUT_S = 1.0
PARTS = 4


class Script:
    """A script by its source; Redis knows it by the digest."""

    def __init__(self, client: Redis, source: str) -> None:
        self.source = source
        self.digest = client.register_script(source).sha


class _Call(NamedTuple):
    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | int | bytes]
    result: "asyncio.Future[Any]"


class ScriptRunner:
    """Runs scripts in the order of their calls. Closes: the owner, with `close()`."""

    def __init__(self, client: Redis, *, timeout_s: float = TIMEOUT_S) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._waiting: list[_Call] = []
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Any:
        """The script's reply. Raises RedisError, OSError or TimeoutError. A call whose caller is cancelled may run."""
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(script, keys, arguments, result))
        if self._task is None:
            self._task = asyncio.create_task(self._send_waiting(), name="scripts on Redis")
        return await result

    async def _send_waiting(self) -> None:
        calls: list[_Call] = []
        try:
            while self._waiting:
                calls, self._waiting = self._waiting[:MOST_CALLS], self._waiting[MOST_CALLS:]
                replies = await self._within_timeout(calls)
                for call, reply in zip(calls, replies, strict=True):
                    if call.result.done():  # its caller was cancelled
                        continue
                    if isinstance(reply, BaseException):
                        call.result.set_exception(reply)
                    else:
                        call.result.set_result(reply)
        finally:
            self._task = None
            for call in (*calls, *self._waiting):
                call.result.cancel()  # the owner has closed

    async def _within_timeout(self, calls: Sequence[_Call]) -> list[Any]:
        """The reply or the error of each call."""
        trip = asyncio.create_task(self._send(calls), name="round trip to Redis")
        try:
            for _ in range(PARTS):
                await asyncio.wait({trip}, timeout=self._timeout_s / PARTS)
                if trip.done():
                    error = trip.exception()
                    return trip.result() if error is None else [error] * len(calls)
        finally:
            if not trip.done():
                trip.cancel()
                await asyncio.gather(trip, return_exceptions=True)
        return [TimeoutError(f"no answer within {self._timeout_s} s")] * len(calls)

    async def _send(self, calls: Sequence[_Call]) -> list[Any]:
        replies = await self._execute(calls)
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # the first call, or Redis has lost its scripts
            for source in {calls[place].script.source for place in unknown}:
                await self._client.script_load(source)
            again = await self._execute([calls[place] for place in unknown])
            for place, reply in zip(unknown, again, strict=True):
                replies[place] = reply
        return replies

    async def _execute(self, calls: Sequence[_Call]) -> list[Any]:
        if len(calls) == 1:
            script, keys, arguments, _ = calls[0]
            try:
                return [await self._client.evalsha(script.digest, len(keys), *keys, *arguments)]
            except NoScriptError as error:
                return [error]
        async with self._client.pipeline(transaction=False) as pipeline:
            for script, keys, arguments, _ in calls:
                pipeline.evalsha(script.digest, len(keys), *keys, *arguments)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies
