"""CPU time of one call by the library, beside the same call by a bare aiohttp session, and of its import.

`python -m tests.bench.sdk_call [ROUNDS]`; prints JSON. The upstream is a process of its own, which answers at once. In
every round each way makes CALLS calls one after another, in turns that follow each other at once. A figure is of the
process's CPU time in the best round, as that of timeit: whatever else runs on the machine only makes it longer.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp

from gateway import sdk

CALLS = 100
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_800_000_000,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 100}},
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120},
    }
).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
MESSAGES = [{"role": "user", "content": "Tell me a story of a hundred words."}]
#: The peak of memory is the program's own: that of getrusage is inherited from the process that has started it.
IMPORT = """
import json, time
start = time.process_time()
from gateway import sdk
used = time.process_time() - start
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"s": used, "mb": int(peak.split()[1]) / 1024}))
"""


async def serve() -> None:
    """Prints its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(HEAD % len(ANSWER) + ANSWER)

    server = await asyncio.start_server(answer, "127.0.0.1")
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def measure(call: Callable[[], Awaitable[object]]) -> float:
    start = time.process_time()
    for _ in range(CALLS):
        await call()
    return (time.process_time() - start) / CALLS * 1000


async def compare(url: str, rounds: int) -> dict[str, list[float]]:
    """{way: ms of each round}"""
    body = {"model": "m", "messages": MESSAGES}
    headers = {"authorization": "Bearer k"}

    async with aiohttp.ClientSession() as session:

        async def bare() -> object:
            async with session.post(f"{url}/chat/completions", json=body, headers=headers) as answer:
                return await answer.json()

        async def asynchronous() -> object:
            return await sdk.acompletion("openai/m", MESSAGES, api_base=url, api_key="k")

        async def synchronous() -> object:
            return sdk.completion("openai/m", MESSAGES, api_base=url, api_key="k")

        async def response() -> object:
            return await sdk.aresponses("Tell me a story.", "openai/m", api_base=url, api_key="k", store=False)

        ways = {"aiohttp": bare, "acompletion": asynchronous, "completion": synchronous, "aresponses": response}
        for call in ways.values():
            await measure(call)
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways) if number % 2 else reversed(ways):
                found[name].append(await measure(ways[name]))
        return found


def measure_import(rounds: int) -> dict[str, float]:
    command = [sys.executable, "-c", IMPORT]
    runs = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(rounds)]
    return {f"import_{unit}": min(run[unit] for run in runs) for unit in ("s", "mb")}


def main(rounds: int) -> None:
    upstream = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert upstream.stdout is not None
        found = asyncio.run(compare(f"http://127.0.0.1:{int(upstream.stdout.readline())}/v1", rounds))
    finally:
        upstream.kill()
        upstream.wait()
    figures = {f"{name}_ms": min(values) for name, values in found.items()}
    added = {f"{name}_added_ms": min(values) - min(found["aiohttp"]) for name, values in found.items()}
    del added["aiohttp_added_ms"]
    print(json.dumps(figures | added | measure_import(rounds), indent=1))


if __name__ == "__main__":
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
