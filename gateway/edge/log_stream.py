"""The stream of a background response, from its log: the events so far, then the new ones. Works on any replica."""

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
LAST_EVENTS = frozenset(TERMINAL_EVENTS.values())


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
    """Sends the events with a number above `after`, up to the terminal one. The stream has already started.

    It ends earlier, without a terminal event, when the process drains (the client continues at another replica) or
    when the response is deleted.
    """
    loop = asyncio.get_running_loop()
    sent_at = loop.time()
    while True:
        log = await runs.read_log(stored.owner, stored.id, after)
        if log is None:
            await reply.end_stream(DONE)
            return
        status, events = log
        if events:
            after, sent_at = events[-1]["sequence_number"], loop.time()
            frames = b"".join([encode_frame(render_event(event, include)) for event in events])
            if events[-1]["type"] in LAST_EVENTS:
                await reply.end_stream(frames + DONE)
                return
            await reply.send_events(frames)
            continue
        if status in TERMINAL_EVENTS:  # `after` is the last event
            await reply.end_stream(DONE)
            return
        if is_draining():
            await reply.end_stream(b"")
            return
        if loop.time() - sent_at >= keepalive_s:
            sent_at = loop.time()
            await reply.send_events(COMMENT)
        await asyncio.sleep(POLL_S)
