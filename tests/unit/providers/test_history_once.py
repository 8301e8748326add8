"""A long history is read once and encoded once for an attempt, also where the answer is a translated stream."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import pytest

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.dialects.anthropic import upstream_request
from gateway.protocol.dialects.openai import client_request
from gateway.protocol.reasoning_replay import with_replay
from gateway.providers.registry import PROVIDERS
from gateway.state.signatures import SignatureMemory
from tests.fakes.memory import chat, target

TURNS = 19
HISTORY = [{"role": role, "content": f"turn {number}"} for number in range(TURNS) for role in ("user", "assistant")]
CONTEXT = AttemptContext("attempt-1", 1_800_000_000.0)
CLAUDE_ANSWER = orjson.dumps(
    {"id": "m", "type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
)
#: {the work: the function that does it for one message}
MESSAGE_STEPS = {
    "read": (Path(client_request.__file__), "_message"),
    "encoded": (Path(upstream_request.__file__), "add"),
}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_call_translated_to_claude_reads_and_encodes_its_history_once(stream: bool) -> None:
    provider = PROVIDERS["anthropic"]
    upstream = target(provider=provider)
    messages = [*HISTORY, {"role": "user", "content": "and now?"}]
    call = with_replay(chat(stream=stream, messages=messages), upstream, SignatureMemory(), "tenant")
    steps = Counter[str]()

    def count(frame: FrameType, kind: str, argument: Any) -> None:
        place = (Path(frame.f_code.co_filename), frame.f_code.co_name)
        if kind == "call":
            steps.update(name for name, step in MESSAGE_STEPS.items() if step == place)

    sys.setprofile(count)
    try:
        provider.media(call, upstream)
        provider.request(call, upstream, CONTEXT)
        if stream:
            provider.relay(call, upstream, CONTEXT)
        else:
            provider.relay_body(call, upstream, CONTEXT, CLAUDE_ANSWER, {})
    finally:
        sys.setprofile(None)
    assert steps == {"read": len(messages), "encoded": len(messages)}
