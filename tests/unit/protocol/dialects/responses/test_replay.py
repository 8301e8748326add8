"""A stored response → the events of its stream."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.dialects.responses.client_answer import render_event
from gateway.protocol.dialects.responses.items import INCLUDABLE, render_response
from gateway.protocol.dialects.responses.replay import replay_events
from gateway.protocol.dialects.responses.stream import encode_frame
from gateway.protocol.events import AnnotationAdded, Event, Finished, ReasoningDelta, TextDelta
from gateway.protocol.json.types import JsonObject
from tests.fakes.responses_cases import (
    NOW,
    SCORE,
    URL_CITATION,
    USAGE,
    accumulated,
    answers,
    assert_official,
    head,
    kinds,
    stream,
)
from tests.fakes.responses_grammar import check

ENDED = {"status": "completed", "completed_at": 2, "error": None, "incomplete_details": None}
NO_TOKENS = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
NO_USAGE = NO_TOKENS | {
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


def stored(*items: JsonObject, **members: Any) -> JsonObject:
    return head() | ENDED | {"output": list(items), "usage": NO_USAGE} | members


def item_kinds(*items: JsonObject) -> list[str]:
    """The kinds of the events between the first two and the terminal one."""
    events = replay_events(stored(*items), INCLUDABLE)
    check(events)
    assert_official(events)
    return kinds(events)[2:-1]


def merged(events: list[JsonObject]) -> list[JsonObject]:
    """The events, each text in one delta, numbered anew."""
    merged_events: list[JsonObject] = []
    for numbered in events:
        event = {name: value for name, value in numbered.items() if name not in {"sequence_number", "logprobs"}}
        if merged_events and "delta" in event and merged_events[-1] | {"delta": ""} == event | {"delta": ""}:
            merged_events[-1] = event | {"delta": merged_events[-1]["delta"] + event["delta"]}
        else:
            merged_events.append(event)
    return merged_events


@given(
    answers(),
    st.sampled_from(["complete", "fail", "cancel"]),
    st.sampled_from([frozenset(), INCLUDABLE]),
    st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_a_replay_has_the_events_of_the_stream(
    events: list[Event], end: str, include: frozenset[str], reasoning_as_summary: bool
) -> None:
    response_stream = stream(is_sealed=True, reasoning_as_summary=reasoning_as_summary)
    streamed = response_stream.feed(events)
    if end == "complete":
        streamed += response_stream.complete(int(NOW))
    else:
        streamed += response_stream.fail("server_error", "It broke.") if end == "fail" else response_stream.cancel()
    replayed = replay_events(json.loads(json.dumps(response_stream.response)), include)
    assert check(replayed) == render_response(response_stream.response, include)
    places = [event["output_index"] for event in streamed if "output_index" in event]
    has_annotations = any(isinstance(event, AnnotationAdded) for event in events)
    if places == sorted(places) and not has_annotations:  # else the order within is another, and as legal
        assert merged(replayed) == merged([render_event(event, include) for event in streamed])


def test_a_background_response_was_queued() -> None:
    response_stream = stream(background=True)
    streamed = (
        response_stream.open(is_queued=True)
        + response_stream.feed([TextDelta("Hi"), Finished("stop")])
        + response_stream.complete(1)
    )
    assert replay_events(response_stream.response) == streamed


def test_the_official_client_reads_a_replay() -> None:
    response_stream = stream(is_sealed=True)
    response_stream.feed(
        [ReasoningDelta("hm"), TextDelta("Hi"), AnnotationAdded(URL_CITATION), Finished("stop"), USAGE]
    )
    response_stream.complete(1)
    events = replay_events(response_stream.response, INCLUDABLE)
    assert_official(events)
    assert accumulated(b"".join(map(encode_frame, events))).output_text == "Hi"


def test_members_that_are_not_included_are_in_no_event() -> None:
    response_stream = stream(is_sealed=True)
    response_stream.feed([ReasoningDelta("hm", signature="s"), TextDelta("Hi", logprobs=(SCORE,)), Finished("stop")])
    response_stream.complete(1)
    excluded = json.dumps(replay_events(response_stream.response))
    assert '"encrypted_content"' not in excluded
    assert '"logprob"' not in excluded
    included = replay_events(response_stream.response, INCLUDABLE)
    assert [event["logprobs"] for event in included if event["type"] == "response.output_text.delta"] == [[SCORE]]
    assert check(included)["output"][0]["encrypted_content"].startswith("sealed")


@pytest.mark.parametrize(
    ("status", "terminal", "members"),
    [
        ("failed", "failed", {"error": {"code": "server_error", "message": "x"}, "usage": None}),
        ("cancelled", "incomplete", {"usage": None}),
        ("incomplete", "incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}),
    ],
)
def test_every_way_to_end_has_its_terminal_event(status: str, terminal: str, members: JsonObject) -> None:
    events = replay_events(stored(status=status, completed_at=None, **members))
    assert check(events)["status"] == status
    assert kinds(events) == ["created", "in_progress", terminal]
    assert events[0]["response"]["error"] is None


# Items of upstreams of the same wire


def test_a_summary_of_reasoning_comes_in_parts() -> None:
    summary = [{"type": "summary_text", "text": text} for text in ("one", "two")]
    item = {"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": "opaque"}
    part_kinds = ["part.added", "text.delta", "text.done", "part.done"] * 2
    assert item_kinds(item) == [
        "output_item.added",
        *[f"reasoning_summary_{name}" for name in part_kinds],
        "output_item.done",
    ]


def test_members_that_are_not_known_are_kept() -> None:
    part = {"type": "output_text", "text": "Hi", "annotations": [], "new": 1}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "phase": "final_answer"}
    events = replay_events(stored(item | {"content": [part]}))
    assert check(events)["output"] == [item | {"content": [part]}]
    assert events[2]["item"] == item | {"status": "in_progress", "content": []}


@pytest.mark.parametrize(
    ("item", "part_kinds"),
    [
        (
            {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
            ["web_search_call.in_progress", "web_search_call.searching", "web_search_call.completed"],
        ),
        (
            {"type": "web_search_call", "status": "failed", "action": {"type": "search", "query": "q"}},
            ["web_search_call.in_progress", "web_search_call.searching"],
        ),
        (
            {"type": "file_search_call", "status": "completed", "queries": ["q"], "results": None},
            ["file_search_call.in_progress", "file_search_call.searching", "file_search_call.completed"],
        ),
        (
            {"type": "image_generation_call", "status": "completed", "result": "aGk="},
            [f"image_generation_call.{phase}" for phase in ("in_progress", "generating", "completed")],
        ),
        (
            {
                "type": "code_interpreter_call",
                "status": "completed",
                "code": "1+1",
                "container_id": "c",
                "outputs": None,
            },
            [
                "code_interpreter_call.in_progress",
                "code_interpreter_call_code.delta",
                "code_interpreter_call_code.done",
                "code_interpreter_call.interpreting",
                "code_interpreter_call.completed",
            ],
        ),
        (
            {"type": "mcp_call", "arguments": "{}", "name": "n", "server_label": "s", "output": "o", "error": None},
            ["mcp_call.in_progress", "mcp_call_arguments.delta", "mcp_call_arguments.done", "mcp_call.completed"],
        ),
        (
            {"type": "mcp_list_tools", "server_label": "s", "tools": [], "error": "It is away."},
            ["mcp_list_tools.in_progress", "mcp_list_tools.failed"],
        ),
        ({"type": "compaction", "encrypted_content": "opaque"}, []),
    ],
)
def test_items_of_every_kind_have_their_events(item: JsonObject, part_kinds: list[str]) -> None:
    assert item_kinds({"id": "x_1"} | item) == ["output_item.added", *part_kinds, "output_item.done"]


def test_an_unknown_item_begins_and_ends() -> None:
    item = {"id": "x_1", "type": "new_thing", "status": "completed", "value": 1}
    events = replay_events(stored(item))
    assert check(events)["output"] == [item]
    assert kinds(events)[2:4] == ["output_item.added", "output_item.done"]
