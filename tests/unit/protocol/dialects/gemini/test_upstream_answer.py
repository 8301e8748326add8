"""Answers of Gemini, whole and streamed."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic import client as anthropic_client
from gateway.protocol.dialects.gemini import upstream_answer as gemini_answer
from gateway.protocol.dialects.openai import completions as openai_completions
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import Finished, ReasoningDelta, TextDelta, ToolArgumentsDelta, ToolCallStarted
from gateway.protocol.usage import Usage
from gateway.providers.gemini import PROVIDER
from tests.fakes.gemini import (
    HI,
    MOMENT,
    WEATHER,
    accumulated,
    candidate,
    chat,
    decoded,
    encode,
    frames,
    relayed,
    target,
    types,
)

# Answers


CALL: dict[str, Any] = {
    "functionCall": {"name": "weather", "args": {"city": "Zürich", "n": [1, {"x": None}]}},
    "thoughtSignature": "c2ln",
}


def test_a_call_before_the_finish_reason_counts() -> None:
    events = decoded(frames({"candidates": [candidate(CALL)]}, {"candidates": [{"finishReason": "STOP"}]}))
    started = next(event for event in events if isinstance(event, ToolCallStarted))
    assert (started.name, started.signature, started.index) == ("weather", "c2ln", 0)
    assert started.id.startswith("call_")
    arguments = "".join(event.text for event in events if isinstance(event, ToolArgumentsDelta))
    assert json.loads(arguments) == CALL["functionCall"]["args"]
    assert events[-1] == Finished("tool_calls")


def test_arguments_that_are_nested_too_deeply_are_malformed() -> None:
    args = '{"a":' + "[" * 500 + "]" * 500 + "}"
    part = '{"functionCall":{"name":"f","args":' + args + "}}"
    with pytest.raises(UpstreamFault) as caught:
        decoded(b'data: {"candidates":[{"content":{"parts":[' + part.encode() + b"]}}]}\n\n")
    assert caught.value.code == "upstream_malformed_tool_call"


def test_a_call_after_the_finish_reason_counts() -> None:
    events = decoded(
        frames({"candidates": [candidate({"text": "a"}, finish="STOP")]}, {"candidates": [candidate(CALL)]})
    )
    assert events[-1] == Finished("tool_calls")


def test_the_signature_reaches_the_client_in_googles_own_field() -> None:
    chunks, _ = relayed([frames({"candidates": [candidate(CALL, finish="STOP")]})])
    call = accumulated(chunks)["choices"][0]["message"]["tool_calls"][0]
    assert call["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert (
        encode(chat([*HI, {"role": "assistant", "tool_calls": [call]}]))["contents"][1]["parts"][0]["thoughtSignature"]
        == "c2ln"
    )


def test_parallel_calls_have_their_own_numbers_and_ids() -> None:
    same = {"functionCall": {"name": "f", "id": "one"}}
    events = decoded(frames({"candidates": [candidate(same, same, finish="STOP")]}))
    started = [event for event in events if isinstance(event, ToolCallStarted)]
    assert [event.index for event in started] == [0, 1]
    assert started[0].id == "one" != started[1].id
    assert [event.text for event in events if isinstance(event, ToolArgumentsDelta)] == ["{}", "{}"]


def test_a_deployment_may_keep_the_first_call_only() -> None:
    body = json.dumps({"candidates": [candidate(CALL, CALL, finish="STOP")]}).encode()
    call = chat(tools=[WEATHER], parallel_tool_calls=False)
    answer = json.loads(PROVIDER.relay_body(call, target(force_single_tool=True), MOMENT, body, {})[0])
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 1
    answer = json.loads(PROVIDER.relay_body(call, target(), MOMENT, body, {})[0])
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 2


def test_custom_and_renamed_tools_regain_name_and_kind() -> None:
    tools = [{"type": "custom", "custom": {"name": "shell"}}, {"type": "function", "function": {"name": "7days"}}]
    call = chat(tools=tools)
    declared = encode(call)["tools"][0]["functionDeclarations"]
    assert [item["name"] for item in declared] == ["shell", "_7days"]
    parts = [{"functionCall": {"name": "shell", "args": {"input": "ls"}}}, {"functionCall": {"name": "_7days"}}]
    body = json.dumps({"candidates": [candidate(*parts, finish="STOP")]}).encode()
    calls = json.loads(PROVIDER.relay_body(call, target(), MOMENT, body, {})[0])["choices"][0]["message"]["tool_calls"]
    assert calls[0]["custom"] == {"name": "shell", "input": "ls"}
    assert calls[1]["function"] == {"name": "7days", "arguments": "{}"}


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter"),
        ("MODEL_ARMOR", "content_filter"), ("ESCALATION", "content_filter"), ("OTHER", "stop"), ("NO_IMAGE", "stop"),
        ("SOMETHING_NEW", "stop"), ("FINISH_REASON_UNSPECIFIED", "stop"),
    ],
)  # fmt: skip
def test_finish_reasons(finish: str, reason: str) -> None:
    assert decoded(frames({"candidates": [candidate({"text": "a"}, finish=finish)]}))[-1] == Finished(reason)


def test_every_finish_reason_of_google_maps_to_openais() -> None:
    for finish in types.FinishReason:
        body = frames({"candidates": [candidate(finish=finish.value)]})
        if finish.value in gemini_answer.MALFORMED:
            with pytest.raises(UpstreamFault) as caught:
                decoded(body)
            assert (caught.value.status, caught.value.code) == (502, "upstream_malformed_tool_call")
        else:
            last = decoded(body)[-1]
            assert isinstance(last, Finished)
            assert last.reason in {"stop", "length", "content_filter"}


def test_a_malformed_whole_answer_is_a_fault() -> None:
    body = json.dumps({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}).encode()
    with pytest.raises(UpstreamFault) as caught:
        PROVIDER.relay_body(chat(), target(), MOMENT, body, {})
    assert caught.value.code == "upstream_malformed_tool_call"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        frames({"candidates": [candidate({"text": "a"})]}),
        frames({"candidates": [candidate({"text": "a"}, finish="STOP"), candidate({"text": "b"}, index=1)]}),
        frames({"candidates": [candidate({"text": "a"})]}) + b'data: {"candidates": [{"fin',
        frames({"usageMetadata": {"promptTokenCount": 1}}),
        frames("x")[:0] + b": comment\n\n",
    ],
)
def test_a_cut_stream_is_not_finished(body: bytes) -> None:
    with pytest.raises(UpstreamFault) as caught:
        decoded(body)
    assert caught.value.code == "upstream_incomplete_stream"


def test_the_last_blank_line_may_be_missing() -> None:
    assert decoded(frames({"candidates": [candidate(finish="STOP")]}).rstrip())[-1] == Finished("stop")


@pytest.mark.parametrize("chunk", [[], "x", 1, None])
def test_an_event_other_than_an_object_is_a_fault(chunk: Any) -> None:
    with pytest.raises(UpstreamFault):
        decoded(frames(chunk))


def test_an_error_within_the_stream_has_its_class() -> None:
    with pytest.raises(UpstreamFault) as caught:
        decoded(frames({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}))
    assert (caught.value.status, caught.value.code) == (503, "overloaded")


def test_a_blocked_prompt_ends_a_stream_too() -> None:
    assert decoded(frames({"promptFeedback": {"blockReason": "SAFETY"}}))[-1] == Finished("content_filter")


def test_code_and_media_become_text() -> None:
    parts = [
        {"executableCode": {"language": "PYTHON", "code": "print(1)"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
        {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AAAA"}},
    ]
    text = "".join(
        event.text
        for event in decoded(frames({"candidates": [candidate(*parts, finish="STOP")]}))
        if isinstance(event, TextDelta)
    )
    assert text == "\n```python\nprint(1)\n```\n\n```\n1\n```\n[audio](data:audio/L16;rate=24000;base64,AAAA)"


DRAWN = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_images_reach_the_client_in_openrouters_shape() -> None:
    chunk = {"candidates": [candidate({"text": "Here"}, DRAWN, finish="STOP")]}
    answer = json.loads(PROVIDER.relay_body(chat(), target(), MOMENT, json.dumps(chunk).encode(), {})[0])
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Here", "images": [IMAGE]}
    chunks, is_done = relayed([frames(chunk)])
    deltas = [choice["delta"] for one in chunks for choice in one["choices"]]
    assert [delta["images"] for delta in deltas if "images" in delta] == [[{**IMAGE, "index": 0}]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Here"
    assert is_done


def test_images_are_links_in_dialects_without_images() -> None:
    body = json.dumps({"candidates": [candidate({"text": "Here"}, DRAWN, finish="STOP")]}).encode()
    text = "Here![image](data:image/png;base64,AAAA)"
    prompt = {"model": "alias-1", "prompt": "Draw"}
    completion = openai_completions.DIALECT.decode(json.dumps(prompt).encode(), Hints())
    answer = json.loads(PROVIDER.relay_body(completion, target(), MOMENT, body, {})[0])
    assert answer["choices"][0]["text"] == text
    client_call = {"model": "alias-1", "max_tokens": 5, "messages": HI}
    message = anthropic_client.DIALECT.decode(json.dumps(client_call).encode(), Hints())
    answer = json.loads(PROVIDER.relay_body(message, target(), MOMENT, body, {})[0])
    assert answer["content"] == [{"type": "text", "text": text}]


# Log probabilities


def logprobs_result(*tokens: str) -> dict[str, Any]:
    likely = [{"token": "?", "tokenId": 9, "logProbability": -3}]
    return {
        "logProbabilitySum": -1.0,
        "chosenCandidates": [{"token": token, "tokenId": 1, "logProbability": -0.5} for token in tokens],
        "topCandidates": [{"candidates": likely} for _ in tokens],
    }


def score(token: str) -> dict[str, Any]:
    likely = {"token": "?", "logprob": -3, "bytes": [63]}
    return {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": [likely]}


def test_log_probabilities_have_openais_shape() -> None:
    first = candidate({"text": "a"}, {"text": "é"}) | {"logprobsResult": logprobs_result("a", "é")}
    last = candidate(finish="STOP") | {"logprobsResult": logprobs_result("\n")}
    bodies = [{"candidates": [first]}, {"candidates": [last]}]
    chunks, _ = relayed([frames(*bodies)])
    result = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if "logprobs" in choice]
    assert result == [
        {"content": [score("a"), score("é")], "refusal": None},
        {"content": [score("\n")], "refusal": None},
    ]
    answer = PROVIDER.relay_body(chat(logprobs=True), target(), MOMENT, json.dumps(bodies).encode(), {})[0]
    assert json.loads(answer)["choices"][0]["logprobs"]["content"] == [score("a"), score("é"), score("\n")]


@pytest.mark.parametrize(
    ("result", "scores"),
    [
        (None, []),
        ([], []),
        ({}, []),
        ({"chosenCandidates": [None, {}]}, [{"token": "", "logprob": 0.0, "bytes": [], "top_logprobs": []}]),
        (
            {"chosenCandidates": [{"token": "a", "logProbability": "x"}], "topCandidates": [{"candidates": [1]}]},
            [{"token": "a", "logprob": 0.0, "bytes": [97], "top_logprobs": []}],
        ),
        (
            {"chosenCandidates": [{"token": "a", "logProbability": -1}], "topCandidates": ["x"]},
            [{"token": "a", "logprob": -1, "bytes": [97], "top_logprobs": []}],
        ),
    ],
)
def test_malformed_log_probabilities_are_ignored(result: Any, scores: Any) -> None:
    assert list(gemini_answer.read_logprobs(result)) == scores
    events = decoded(frames({"candidates": [candidate({"text": "a"}, finish="STOP") | {"logprobsResult": result}]}))
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["a"]


def test_an_array_of_fragments_is_read_as_one_answer() -> None:
    body = json.dumps(
        [{"candidates": [candidate({"text": "a"})]}, {"candidates": [candidate({"text": "b"}, finish="STOP")]}]
    )
    assert [
        event.text for event in gemini_answer.decode_body(body.encode(), MOMENT) if isinstance(event, TextDelta)
    ] == [
        "a",
        "b",
    ]


PARTS = st.one_of(
    st.builds(lambda text: {"text": text}, st.text(max_size=8)),
    st.builds(lambda text: {"text": text, "thought": True}, st.text(max_size=8)),
    st.builds(
        lambda args: {"functionCall": {"name": "f", "args": args}},
        st.dictionaries(
            st.text(max_size=4),
            st.recursive(
                st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=5)),
                lambda inner: st.lists(inner, max_size=2),
                max_leaves=4,
            ),
            max_size=3,
        ),
    ),
)


@given(st.lists(st.lists(PARTS, max_size=3), min_size=1, max_size=4), st.data())
def test_streamed_equals_whole_in_any_chunking(turns: list[list[Any]], data: st.DataObject) -> None:
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "thoughtsTokenCount": 2}
    chunks: list[Any] = [{"candidates": [candidate(*parts)]} for parts in turns]
    chunks.append({"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage})
    body = frames(*chunks)
    cut = data.draw(st.integers(0, len(body)))
    streamed, is_done = relayed([body[:cut], body[cut:]])
    assert is_done
    whole = {
        "candidates": [candidate(*[part for parts in turns for part in parts], finish="STOP")],
        "usageMetadata": usage,
    }
    answer = json.loads(PROVIDER.relay_body(chat(), target(), MOMENT, json.dumps(whole).encode(), {})[0])
    client_answer = accumulated(streamed)
    assert client_answer["usage"] == answer["usage"]
    one, other = client_answer["choices"][0], answer["choices"][0]
    assert one["finish_reason"] == other["finish_reason"]
    for name in ("content", "reasoning_content"):
        assert (one["message"].get(name) or "") == (other["message"].get(name) or "")
    assert one["message"].get("tool_calls") == other["message"].get("tool_calls")


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["candidates", "content", "parts", "text", "thought", "functionCall", "name", "args", "finishReason",
                 "index", "usageMetadata", "promptTokenCount", "promptTokensDetails", "promptFeedback", "blockReason",
                 "inlineData", "error", "details", "status", "retryDelay"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)  # fmt: skip


@given(JUNK)
def test_junk_is_an_answer_or_a_fault(junk: Any) -> None:
    with suppress(UpstreamFault):
        decoded(frames(junk))
    with suppress(UpstreamFault):
        gemini_answer.decode_body(json.dumps(junk).encode(), MOMENT)
    assert isinstance(gemini_answer.read_failure(400, {}, json.dumps(junk).encode()), UpstreamFault)


def test_thoughts_become_reasoning() -> None:
    events = decoded(frames({"candidates": [candidate({"text": "hm", "thought": True}, {"text": "a"}, finish="STOP")]}))
    assert [type(event) for event in events[1:3]] == [ReasoningDelta, TextDelta]


# Usage


def test_usage_is_disjoint() -> None:
    raw = {
        "promptTokenCount": 100,
        "toolUsePromptTokenCount": 10,
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 5,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 70}, {"modality": "AUDIO", "tokenCount": 30}],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 10}],
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 8}],
    }
    usage = gemini_answer.read_usage(raw)
    assert usage == Usage(
        input_tokens=50, input_audio_tokens=20, cache_read_tokens=40, output_tokens=12, output_audio_tokens=8,
        reasoning_tokens=5,
    )  # fmt: skip
    assert (usage.total_input, usage.total_output) == (110, 25)


def test_nonsense_counts_are_marked() -> None:
    assert gemini_answer.read_usage({"promptTokenCount": -1}).is_inconsistent
    assert gemini_answer.read_usage({"promptTokenCount": 1, "cachedContentTokenCount": 5}).is_inconsistent
