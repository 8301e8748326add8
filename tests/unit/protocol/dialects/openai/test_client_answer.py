"""OpenAI's chat answers as OpenAI's own client reads them, whole and streamed."""

import json
from collections.abc import Sequence

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage

from gateway.protocol.dialects.openai.client_answer import ChatAnswer
from gateway.protocol.events import Event, Finished, RefusalDelta, TextDelta, ToolCallStarted
from tests.fakes.memory import decode

REFUSAL: list[Event] = [RefusalDelta("I must "), RefusalDelta("not."), Finished("stop")]


def answer() -> ChatAnswer:
    call = decode({"model": "m", "messages": [{"role": "user", "content": "hi"}]}, "chat")
    return ChatAnswer(call, answer_id="chatcmpl-1", created_s=1)


def read_whole(events: Sequence[Event]) -> ChatCompletionMessage:
    return ChatCompletion.model_validate_json(answer().body(events), strict=True).choices[0].message


def read_stream(events: Sequence[Event]) -> ChatCompletionMessage:
    state = ChatCompletionStreamState[None]()
    for frame in answer().chunks(events).decode().split("\n\n")[:-1]:
        state.handle_chunk(ChatCompletionChunk.model_validate(json.loads(frame.removeprefix("data: ")), strict=True))
    return state.get_final_completion().choices[0].message


@pytest.mark.parametrize("read", [read_whole, read_stream])
def test_a_refusal_has_no_content(read: type) -> None:
    message = read(REFUSAL)
    assert (message.content, message.refusal) == (None, "I must not.")


@pytest.mark.parametrize("read", [read_whole, read_stream])
def test_a_refusal_keeps_the_text_before_it(read: type) -> None:
    message = read([TextDelta("Well: "), *REFUSAL])
    assert (message.content, message.refusal) == ("Well: ", "I must not.")


@pytest.mark.parametrize("read", [read_whole, read_stream])
@pytest.mark.parametrize(
    ("event", "content"), [(TextDelta("hi"), "hi"), (ToolCallStarted(index=0, id="call_1", name="f"), None)]
)
def test_content_is_null_beside_a_call_only(read: type, event: Event, content: str | None) -> None:
    message = read([event, Finished("stop")])
    assert (message.content, message.refusal) == (content, None)
