"""gather_limited: asyncio.gather with a limit of calls at once, in which the first failure ends all calls."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


async def gather_limited(
    call: Callable[[Argument], Awaitable[Result]], arguments: Sequence[Argument], *, limit: int
) -> list[Result]:
    """The results in the arguments' order, with at most `limit` calls at once. Raises the exception of the first call
    that fails, by order where several fail at once; by then the other calls are cancelled and have ended."""
    results: dict[int, Result] = {}
    queue = iter(enumerate(arguments))
    current: list[int] = [0] * min(limit, len(arguments))

    async def work(worker: int) -> None:
        for number, argument in queue:
            current[worker] = number
            results[number] = await call(argument)

    tasks = [asyncio.create_task(work(worker)) for worker in range(len(current))]
    try:
        if tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for _, task in sorted(zip(current, tasks, strict=True), key=lambda pair: pair[0]):
                if task in done:
                    task.result()  # raises its exception
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[number] for number in range(len(arguments))]
