"""A background response's stream from its log: what was told, then what is told while it is made, on any replica."""

import asyncio
from collections.abc import Callable

from gateway.pipeline.attempt_timer import COMMENT
from gateway.pipeline.ports import Reply
from gateway.pipeline.responses.runs import Runs
from gateway.protocol.dialects.openai.passthrough import DONE
from gateway.protocol.dialects.responses.client_answer import render_event
from gateway.protocol.dialects.responses.stored import TERMINAL_EVENTS, StoredResponse
from gateway.protocol.dialects.responses.stream import encode_frame

POLL_S = 0.15
LAST = frozenset(TERMINAL_EVENTS.values())


async def follow(
    stored: StoredResponse,
    runs: Runs,
    reply: Reply,
    *,
    after: int = -1,
    include: frozenset[str],
    keepalive_s: float,
    is_draining: Callable[[], bool],
) -> None:
    """Sends, in a stream that has started, the events with a number above `after`, up to the terminal one. A process
    that is told to stop ends it earlier: the client goes on where it was, elsewhere. So does the deletion of the
    response, without an event."""
    loop = asyncio.get_running_loop()
    told_at = loop.time()
    while True:
        found = await runs.told(stored.owner, stored.id, after)
        if found is None:
            await reply.end_stream(DONE)
            return
        status, events = found
        if events:
            after, told_at = events[-1]["sequence_number"], loop.time()
            frames = b"".join([encode_frame(render_event(event, include)) for event in events])
            if events[-1]["type"] in LAST:
                await reply.end_stream(frames + DONE)
                return
            await reply.send_events(frames)
            continue
        if status in TERMINAL_EVENTS:  # whoever asks for what comes after the end
            await reply.end_stream(DONE)
            return
        if is_draining():
            await reply.end_stream(b"")
            return
        if loop.time() - told_at >= keepalive_s:
            told_at = loop.time()
            await reply.send_events(COMMENT)
        await asyncio.sleep(POLL_S)
