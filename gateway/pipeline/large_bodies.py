"""Large bodies are read beside the event loop: a step of the loop stays below 5 ms."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

LARGE_BYTES = 256 * 1024

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def read_sized(
    size: int, read: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Calls `read`, in a thread where the body has more than LARGE_BYTES. `read` must be pure."""
    if size < LARGE_BYTES:
        return read(*args, **kwargs)
    return await asyncio.to_thread(read, *args, **kwargs)
