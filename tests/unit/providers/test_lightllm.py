"""LightLLM's streamed completions, whose usage some builds tell behind [DONE]."""

import json
from typing import Any

import pytest

from gateway.protocol.answer import StreamRelay
from gateway.protocol.errors import UpstreamFault
from gateway.providers import lightllm
from tests.fakes.memory import decode, target
from tests.fakes.provider_cases import MOMENT

DONE = b"data: [DONE]\n\n"


def event(*choices: Any, **more: Any) -> bytes:
    return (
        b"data: " + json.dumps({"id": "cmpl-7", "model": "qwen", "choices": list(choices), **more}).encode() + b"\n\n"
    )


def text(written: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "text": written, "finish_reason": finish}


ANSWER = event(text("two ")) + event(text("and two", "stop"))
USAGE = event(usage={"prompt_tokens": 50, "completion_tokens": 13, "total_tokens": 63})


def relay(**asked: Any) -> StreamRelay:
    call = decode({"model": "m", "prompt": "2 + 2 =", "stream": True, **asked}, "completion")
    return lightllm.PROVIDER.relay(call, target(provider=lightllm.PROVIDER, upstream_model="qwen"), MOMENT)


@pytest.mark.parametrize("sent", [ANSWER + DONE + USAGE, ANSWER + USAGE + DONE], ids=["behind", "before"])
def test_the_usage_counts_wherever_it_stands_and_however_the_stream_is_cut(sent: bytes) -> None:
    whole = relay()
    expected = whole.feed(sent) + whole.finish()
    assert expected.endswith(DONE)
    assert expected.count(DONE) == 1
    for cut in range(len(sent)):
        reader = relay()
        assert reader.feed(sent[:cut]) + reader.feed(sent[cut:]) + reader.finish() == expected
        assert reader.metadata.usage is not None
        assert (reader.metadata.usage.total_input, reader.metadata.usage.total_output) == (50, 13)


def test_a_stream_is_done_when_nothing_more_can_come() -> None:
    reader = relay()
    reader.feed(ANSWER + DONE)
    assert not reader.is_done
    reader.feed(USAGE)
    assert reader.is_done


def test_usage_that_was_asked_for_reaches_the_client_before_the_end() -> None:
    reader = relay(stream_options={"include_usage": True})
    relayed = reader.feed(ANSWER + DONE + USAGE) + reader.finish()
    assert relayed.index(b'"completion_tokens"') < relayed.index(DONE)


def test_nothing_but_usage_is_taken_from_behind_the_end() -> None:
    reader = relay()
    relayed = reader.feed(ANSWER + DONE + event(text("LATE")) + b"data: {broken\n\n") + reader.finish()
    assert b"LATE" not in relayed
    assert relayed.endswith(DONE)
    assert reader.metadata.usage is None


def test_a_stream_that_breaks_off_before_its_end_is_a_fault() -> None:
    reader = relay()
    reader.feed(event(text("two ")))
    with pytest.raises(UpstreamFault):
        reader.finish()
