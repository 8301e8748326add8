"""Several waits at once, at most so many of them; the first that fails ends all."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


async def gather_limited(
    do: Callable[[Argument], Awaitable[Result]], arguments: Sequence[Argument], *, at_once: int
) -> list[Result]:
    """The results in the arguments' order. Raises what failed first, by order where several failed in the same moment;
    whatever else had begun is cancelled and has ended by then."""
    results: dict[int, Result] = {}
    left = iter(enumerate(arguments))
    worked_on: list[int] = [0] * min(at_once, len(arguments))

    async def work(worker: int) -> None:
        for number, argument in left:
            worked_on[worker] = number
            results[number] = await do(argument)

    tasks = [asyncio.create_task(work(worker)) for worker in range(len(worked_on))]
    try:
        if tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for _, task in sorted(zip(worked_on, tasks, strict=True), key=lambda pair: pair[0]):
                if task in done:
                    task.result()  # raises what it failed with
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[number] for number in range(len(arguments))]
