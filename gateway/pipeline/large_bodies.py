"""Large bodies are read and written beside the event loop: a step of the loop stays below 5 ms."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

#: A body of one JSON document.
LARGE_BYTES = 256 * 1024
#: A part of a stream: it may hold an event every few bytes, each of which is read and written by itself.
LARGE_PART_BYTES = 32 * 1024

#: Few threads: each one that has work takes its turn with the event loop.
THREADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="large-body")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def read_sized(
    size: int, read: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Calls `read`, in a thread where the body has more than LARGE_BYTES."""
    if size < LARGE_BYTES:
        return read(*args, **kwargs)
    return await read_aside(read, *args, **kwargs)


async def read_aside(read: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    """Calls `read` in a thread. A caller that is cancelled meanwhile goes on once `read` has ended, or has been taken
    out of the queue: nothing works on for a caller that has gone, and no two threads use one object."""
    job = THREADS.submit(read, *args, **kwargs)
    future = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        job.cancel()
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                continue  # the first cancellation is raised below
        raise
    finally:
        del job, future  # an error's traceback refers to this frame: the cycle would keep the body in memory
