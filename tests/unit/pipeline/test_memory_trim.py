"""Free memory goes back to the system."""

import asyncio

import pytest

from gateway.pipeline.memory_trim import MemoryTrim, find_trim, resident_bytes

MB = 1024 * 1024

pytestmark = pytest.mark.skipif(find_trim() is None, reason="the C library cannot be asked to trim its heap")


def free_below_a_used_piece() -> bytes:
    """Frees 64 MB of heap, the end of which stays in use."""
    pieces = [bytes(60_000) for _ in range(64 * MB // 60_000)]
    return pieces[-1]


async def test_free_memory_below_used_memory_is_given_back() -> None:
    trim_heap = find_trim()
    assert trim_heap is not None
    trim_heap(0)  # else the pieces may fit into what earlier tests have freed
    trim = MemoryTrim(every_s=0.01, growth_bytes=8 * MB)
    before = resident_bytes()
    trim.start()
    await asyncio.sleep(0)  # it notes the size
    used = free_below_a_used_piece()
    assert resident_bytes() > before + 32 * MB
    for _ in range(1000):
        if resident_bytes() <= before + 16 * MB:
            break
        await asyncio.sleep(0.01)
    assert resident_bytes() <= before + 16 * MB
    assert used
    await trim.stop()


async def test_a_process_that_has_not_grown_is_left_alone() -> None:
    trim = MemoryTrim(every_s=0.01, growth_bytes=1024 * MB)
    trim.start()
    used = free_below_a_used_piece()
    size = resident_bytes()
    await asyncio.sleep(0.1)
    assert resident_bytes() > size - 16 * MB
    assert used
    await trim.stop()
