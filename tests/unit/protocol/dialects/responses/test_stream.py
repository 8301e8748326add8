"""The state machine of responses: the order of its events, and the object that they add up to."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.protocol.dialects.responses.stream import ResponseStream, encode_frame, flatten_annotation, usage_object
from gateway.protocol.events import (
    AnnotationAdded,
    Event,
    Finished,
    ImageMade,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.usage import Usage
from tests.fakes.responses_cases import (
    NOW,
    SCORE,
    URL_CITATION,
    USAGE,
    Ids,
    OpenSeal,
    accumulated,
    answers,
    assert_official,
    head,
    kinds,
    render,
    stream,
)
from tests.fakes.responses_grammar import check, read_frames

STOP = Finished("stop")
TEXT = ["content_part.added", "output_text.delta", "output_text.done", "content_part.done"]


def item_of(events: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    item: dict[str, Any] = check(events)["output"][index]
    return item


def statuses(response: dict[str, Any]) -> list[str]:
    return [item["status"] for item in response["output"]]


# Text


def test_a_text_follows_the_order_of_the_grammar() -> None:
    events = render(Started("up", "m"), TextDelta("Hel"), TextDelta("lo"), STOP, USAGE)
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert item_of(events) == {
        "id": "msg_1",
        "type": "message",
        "status": "completed",
        "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "Hello"}],
        "role": "assistant",
    }
    assert events[4] == {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "Hel",
        "logprobs": [],
    }


def test_items_are_done_as_soon_as_the_answer_is_finished() -> None:
    """Clients act on a call when its item is done, before the response ends."""
    response_stream = stream()
    assert kinds(response_stream.feed([TextDelta("Hi"), STOP]))[-1] == "output_item.done"
    assert kinds(response_stream.feed([USAGE])) == []
    assert kinds(response_stream.complete(1)) == ["completed"]


def test_deltas_of_nothing_are_dropped() -> None:
    events = render(TextDelta(""), TextDelta("a"), TextDelta(""), RefusalDelta(""), ReasoningDelta(), STOP)
    assert kinds(events).count("output_text.delta") == 1
    assert len(check(events)["output"]) == 1


@pytest.mark.parametrize("events", [[STOP], [TextDelta(""), STOP], [Started("up", "m"), USAGE, STOP]])
def test_an_answer_of_nothing_has_one_empty_message(events: list[Event]) -> None:
    streamed = render(*events)
    assert [part["text"] for part in item_of(streamed)["content"]] == [""]
    assert "response.output_text.delta" not in {event["type"] for event in streamed}


def test_reasoning_alone_is_followed_by_an_empty_message_unless_it_was_cut() -> None:
    whole_output = check(render(ReasoningDelta("hm"), STOP))["output"]
    assert [item["type"] for item in whole_output] == ["reasoning", "message"]
    cut_response = check(render(ReasoningDelta("hm"), Finished("length")))
    assert [(item["type"], item["status"]) for item in cut_response["output"]] == [("reasoning", "incomplete")]


def test_a_refusal_is_a_part_of_the_message() -> None:
    events = render(TextDelta("So: "), RefusalDelta("I can"), RefusalDelta("not"), TextDelta("."), STOP)
    content = item_of(events)["content"]
    assert [part["type"] for part in content] == ["output_text", "refusal", "output_text"]
    assert content[1] == {"type": "refusal", "refusal": "I cannot"}
    assert check(events)["status"] == "completed"


def test_other_choices_are_dropped() -> None:
    events = render(TextDelta("b", choice=1), TextDelta("a"), ToolCallStarted(0, "x", "t", choice=1), STOP)
    assert [item["type"] for item in check(events)["output"]] == ["message"]
    assert item_of(events)["content"][0]["text"] == "a"


def test_another_choice_ending_does_not_end_the_response() -> None:
    events = render(TextDelta("a"), Finished("length", choice=1), TextDelta("b"), STOP)
    assert item_of(events)["content"][0]["text"] == "ab"
    assert check(events)["status"] == "completed"


# Log probabilities and annotations


def test_log_probabilities_stand_in_deltas_and_in_the_part() -> None:
    events = render(TextDelta("Hi", logprobs=(SCORE,)), TextDelta("!"), STOP)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [event["logprobs"] for event in deltas] == [[SCORE], []]
    assert item_of(events)["content"][0]["logprobs"] == [SCORE]


def test_log_probabilities_without_text_go_with_the_next_delta_or_the_part() -> None:
    events = render(TextDelta("", logprobs=(SCORE,)), TextDelta("Hi"), TextDelta("", logprobs=(SCORE,)), STOP)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [(event["delta"], event["logprobs"]) for event in deltas] == [("Hi", [SCORE])]
    assert item_of(events)["content"][0]["logprobs"] == [SCORE, SCORE]


@pytest.mark.parametrize(
    "annotation",
    [
        URL_CITATION,
        {"type": "url_citation", "url_citation": {k: v for k, v in URL_CITATION.items() if k != "type"}},
        {"url_citation": {k: v for k, v in URL_CITATION.items() if k != "type"}},
    ],
)
def test_annotations_are_flat(annotation: dict[str, Any]) -> None:
    events = render(TextDelta("Hi"), AnnotationAdded(annotation), AnnotationAdded(annotation), STOP)
    added = [event for event in events if event["type"].endswith("annotation.added")]
    assert [(event["annotation_index"], event["annotation"]) for event in added] == [
        (0, URL_CITATION),
        (1, URL_CITATION),
    ]
    assert item_of(events)["content"][0]["annotations"] == [URL_CITATION, URL_CITATION]
    assert_official(events)


def test_a_citation_always_has_all_its_members() -> None:
    assert flatten_annotation({"type": "url_citation", "url_citation": {"url": "u", "title": None}}) == {
        "type": "url_citation",
        "url": "u",
        "title": "",
        "start_index": 0,
        "end_index": 0,
    }
    other = {"type": "file_path", "file_id": "f", "index": 1}
    assert flatten_annotation(other) == other


def test_places_of_citations_count_from_their_own_part() -> None:
    place = {"url": "u", "title": "t", "start_index": 5, "end_index": 7}
    annotation = AnnotationAdded({"type": "url_citation", "url_citation": place})
    call: list[Event] = [ToolCallStarted(0, "c", "t"), ToolArgumentsDelta(0, "{}")]
    events = render(TextDelta("Four"), *call, TextDelta("more"), annotation, STOP)
    (cited,) = item_of(events, 2)["content"][0]["annotations"]
    assert (cited["start_index"], cited["end_index"]) == (1, 3)


def test_an_annotation_that_comes_first_waits_for_its_text() -> None:
    events = render(AnnotationAdded(URL_CITATION), ReasoningDelta("hm"), TextDelta("Hi"), STOP)
    assert item_of(events, 1)["content"][0]["annotations"] == [URL_CITATION]


# Calls


def test_a_call_is_an_item_whose_ids_are_fixed_at_its_beginning() -> None:
    call: list[Event] = [ToolCallStarted(0, "call_a", "f"), ToolArgumentsDelta(0, '{"a"'), ToolArgumentsDelta(0, ":1}")]
    events = render(*call, Finished("tool_calls"))
    assert kinds(events)[2:-1] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    done_item = {"id": "fc_1", "type": "function_call", "status": "completed"}
    done_item |= {"arguments": '{"a":1}', "call_id": "call_a", "name": "f"}
    assert item_of(events) == done_item
    assert events[2]["item"] == done_item | {"status": "in_progress", "arguments": ""}


def test_a_call_without_an_id_gets_one() -> None:
    events = render(ToolCallStarted(0, "", "f"), ToolArgumentsDelta(0, "{}"), STOP)
    assert item_of(events)["call_id"] == events[2]["item"]["call_id"] == "call_1"


@pytest.mark.parametrize(("piece", "deltas"), [("", ["{}"]), (" ", [" ", "{}"])])
def test_a_call_without_arguments_has_an_empty_object(piece: str, deltas: list[str]) -> None:
    events = render(ToolCallStarted(0, "c", "f"), ToolArgumentsDelta(0, piece), Finished("tool_calls"))
    assert json.loads(item_of(events)["arguments"]) == {}
    assert [event["delta"] for event in events if "delta" in event] == deltas


def test_a_custom_call_tells_its_input_as_text() -> None:
    call: list[Event] = [
        ToolCallStarted(0, "c", "sh", kind="custom"),
        ToolArgumentsDelta(0, "ls "),
        ToolArgumentsDelta(0, "-l"),
    ]
    events = render(*call, Finished("tool_calls"))
    assert kinds(events)[3:6] == ["custom_tool_call_input.delta"] * 2 + ["custom_tool_call_input.done"]
    done_item = {"id": "ctc_1", "type": "custom_tool_call", "status": "completed"}
    assert item_of(events) == done_item | {"input": "ls -l", "call_id": "c", "name": "sh"}


def test_a_custom_call_without_input_has_none() -> None:
    assert item_of(render(ToolCallStarted(0, "c", "sh", kind="custom"), STOP))["input"] == ""


def test_a_whole_call_ends_before_the_next_begins() -> None:
    calls: list[Event] = [ToolCallStarted(0, "a", "f"), ToolArgumentsDelta(0, '{"a":1}')]
    calls += [ToolCallStarted(1, "b", "f"), ToolArgumentsDelta(1, '{"b":1}')]
    places = [event["output_index"] for event in render(*calls, Finished("tool_calls")) if "output_index" in event]
    assert places == sorted(places)


def test_interleaved_calls_stay_apart() -> None:
    started_item: list[Event] = [
        ToolCallStarted(0, "a", "f"),
        ToolCallStarted(1, "b", "f"),
        ToolCallStarted(2, "c", "f"),
    ]
    pieces: list[Event] = [ToolArgumentsDelta(n, text) for text in ('{"x"', ":1", "}") for n in (0, 1)]
    events = render(*started_item, *pieces, Finished("tool_calls"))
    assert [item["arguments"] for item in check(events)["output"]] == ['{"x":1}', '{"x":1}', "{}"]
    assert kinds(events)[2:5] == ["output_item.added"] * 3


def test_arguments_after_a_whole_call_are_dropped() -> None:
    """Its item has ended, and blanks are all that can rightly follow."""
    calls: list[Event] = [ToolCallStarted(0, "a", "f"), ToolArgumentsDelta(0, "{}"), ToolCallStarted(1, "b", "f")]
    events = render(*calls, ToolArgumentsDelta(0, "\n"), Finished("tool_calls"))
    assert item_of(events)["arguments"] == "{}"


def test_text_after_a_call_opens_a_new_message() -> None:
    call: list[Event] = [ToolCallStarted(0, "c", "f"), ToolArgumentsDelta(0, "{}")]
    output = check(render(TextDelta("a"), *call, TextDelta("b"), TextDelta("c"), STOP))["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "message"]
    assert [output[0]["content"][0]["text"], output[2]["content"][0]["text"]] == ["a", "bc"]


def test_a_call_that_was_cut_is_incomplete_and_gets_no_arguments() -> None:
    cut_response = check(render(TextDelta("a"), ToolCallStarted(0, "c", "f"), Finished("length")))
    assert statuses(cut_response) == ["completed", "incomplete"]
    assert cut_response["output"][1]["arguments"] == ""


def test_only_the_last_of_calls_that_were_cut_in_turns_is_incomplete() -> None:
    calls: list[Event] = [ToolCallStarted(0, "a", "f"), ToolCallStarted(1, "b", "f")]
    calls += [ToolArgumentsDelta(0, '{"x'), ToolArgumentsDelta(1, '{"x')]
    assert statuses(check(render(*calls, Finished("length")))) == ["completed", "incomplete"]


def test_a_signature_of_a_call_is_kept_with_its_origin_and_never_shown() -> None:
    response_stream = stream()
    events = response_stream.feed([ToolCallStarted(0, "c", "f", signature="sig"), ToolArgumentsDelta(0, "{}"), STOP])
    events += response_stream.complete(1)
    assert "sig" not in json.dumps(events)
    assert response_stream.response["output"][0]["tollgate"] == {"origin": "here", "signature": "sig"}


def test_arguments_of_a_call_that_never_began_are_dropped() -> None:
    assert kinds(render(ToolArgumentsDelta(3, "{}"), TextDelta("a"), STOP)).count("output_item.added") == 1


def test_a_call_id_that_was_used_before_is_replaced() -> None:
    """Some servers repeat their call ids in each answer."""
    starts = [ToolCallStarted(index, call_id, "f") for index, call_id in enumerate(["call_0", "call_a", "call_a", ""])]
    output = check(render(*starts, Finished("tool_calls"), used_call_ids={"call_0", "call_1"}))["output"]
    assert [item["call_id"] for item in output] == ["call_2", "call_a", "call_3", "call_4"]


def test_arguments_find_their_call_after_its_id_is_replaced() -> None:
    events = [
        ToolCallStarted(0, "call_0", "f"),
        ToolCallStarted(1, "call_0", "f"),
        ToolArgumentsDelta(1, '{"b":1}'),
        ToolArgumentsDelta(0, '{"a":1}'),
    ]
    output = check(render(*events, Finished("tool_calls"), used_call_ids=["call_0"]))["output"]
    assert [(item["call_id"], item["arguments"]) for item in output] == [("call_1", '{"a":1}'), ("call_2", '{"b":1}')]


@pytest.mark.parametrize("kind", ["function", "custom"])
def test_a_tool_of_a_namespace_has_its_name_there(kind: str) -> None:
    events = render(
        ToolCallStarted(0, "call_a", "crm__find", kind), ToolArgumentsDelta(0, "{}"), Finished("tool_calls")
    )
    assert_official(events)
    started_item = next(event["item"] for event in events if event["type"] == "response.output_item.added")
    for item in (started_item, item_of(events)):
        assert (item["call_id"], item["name"], item["namespace"]) == ("call_a", "find", "crm")
    assert "namespace" not in item_of(render(ToolCallStarted(0, "call_a", "find"), Finished("tool_calls")))


# Reasoning


def test_reasoning_is_an_item_before_the_message() -> None:
    events = render(ReasoningDelta("Let me "), ReasoningDelta("see"), TextDelta("Hi"), STOP)
    assert kinds(events)[2:9] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    content = [{"type": "reasoning_text", "text": "Let me see"}]
    assert item_of(events) == {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [],
        "content": content,
        "status": "completed",
    }


def test_a_signature_ends_the_reasoning_and_is_sealed_with_its_origin() -> None:
    events = render(
        ReasoningDelta("a"),
        ReasoningDelta(signature="s1"),
        ReasoningDelta("b"),
        ReasoningDelta("c", signature="s2"),
        TextDelta("Hi"),
        STOP,
        is_sealed=True,
    )
    output = check(events)["output"]
    assert [item["type"] for item in output] == ["reasoning", "reasoning", "message"]
    opened = [OpenSeal().open(item["encrypted_content"]) for item in output[:2]]
    assert opened == [
        {"origin": "here", "text": "a", "signature": "s1", "redacted": ""},
        {"origin": "here", "text": "bc", "signature": "s2", "redacted": ""},
    ]


def test_redacted_reasoning_is_an_item_without_content() -> None:
    events = render(ReasoningDelta("a"), ReasoningDelta(redacted="r"), TextDelta("Hi"), STOP, is_sealed=True)
    item = item_of(events, 1)
    assert item["content"] == []
    assert OpenSeal().open(item["encrypted_content"]) == {
        "origin": "here",
        "text": "",
        "signature": "",
        "redacted": "r",
    }


def test_a_signature_alone_is_an_item_without_content() -> None:
    item = item_of(render(ReasoningDelta(signature="s"), TextDelta("Hi"), STOP, is_sealed=True))
    assert (item["type"], item["content"]) == ("reasoning", [])


def test_reasoning_without_a_signature_keeps_its_origin() -> None:
    """Some servers want their own reasoning back as plain text, and no other server's."""
    item = item_of(render(ReasoningDelta("a"), TextDelta("Hi"), STOP, is_sealed=True))
    opened = OpenSeal().open(item["encrypted_content"])
    assert opened == {"origin": "here", "text": "a", "signature": "", "redacted": ""}


def test_reasoning_is_a_summary_where_the_client_wants_one() -> None:
    reasoning = [ReasoningDelta("Let me "), ReasoningDelta("see")]
    events = render(*reasoning, TextDelta("Hi"), STOP, is_sealed=True, reasoning_as_summary=True)
    assert kinds(events)[2:9] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    assert events[4] == {
        "type": "response.reasoning_summary_text.delta",
        "sequence_number": 4,
        "item_id": "rs_1",
        "output_index": 0,
        "summary_index": 0,
        "delta": "Let me ",
    }
    item = item_of(events)
    assert item.pop("encrypted_content") == item_of(render(*reasoning, STOP, is_sealed=True))["encrypted_content"]
    assert item == {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Let me see"}],
        "status": "completed",
    }


def test_each_block_of_reasoning_has_a_summary_of_its_own() -> None:
    blocks = [ReasoningDelta("a", signature="s"), ReasoningDelta("b", signature="t"), ReasoningDelta(redacted="r")]
    output = check(render(*blocks, TextDelta("Hi"), STOP, is_sealed=True, reasoning_as_summary=True))["output"]
    assert [[part["text"] for part in item["summary"]] for item in output[:3]] == [["a"], ["b"], []]
    opened = [OpenSeal().open(item["encrypted_content"]) or {} for item in output[:3]]
    assert [
        (response_stream["text"], response_stream["signature"], response_stream["redacted"])
        for response_stream in opened
    ] == [
        ("a", "s", ""),
        ("b", "t", ""),
        ("", "", "r"),
    ]


def test_a_summary_counts_in_the_estimate_as_reasoning_does() -> None:
    long = ReasoningDelta("word " * 100)
    plain, summarized = (
        check(render(long, STOP, reasoning_as_summary=as_summary))["usage"] for as_summary in (False, True)
    )
    assert plain == summarized
    assert plain["output_tokens"] >= 100


def test_reasoning_that_was_cut_is_not_sealed() -> None:
    assert "encrypted_content" not in item_of(render(ReasoningDelta("a"), Finished("length"), is_sealed=True))


def test_without_a_seal_no_signature_is_kept() -> None:
    assert "encrypted_content" not in item_of(render(ReasoningDelta("a", signature="s"), STOP))


# Images


def test_an_image_is_an_item_of_its_own() -> None:
    events = render(TextDelta("a"), ImageMade("data:image/png;base64,aGk="), TextDelta("b"), STOP)
    output = check(events)["output"]
    assert [item["type"] for item in output] == ["message", "image_generation_call", "message"]
    done_item = {"id": "ig_1", "type": "image_generation_call", "status": "completed"}
    assert output[1] == done_item | {"result": "aGk=", "output_format": "png"}
    assert_official(events)


def test_an_image_at_a_url_becomes_text() -> None:
    content = item_of(render(TextDelta("a "), ImageMade("https://a.test/a.png"), STOP))["content"]
    assert [part["text"] for part in content] == ["a ![image](https://a.test/a.png)"]


# The response


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call", "who knows"])
def test_a_finished_answer_is_completed(reason: str) -> None:
    response = check(render(TextDelta("Hi"), Finished(reason)))
    assert (response["status"], response["completed_at"]) == ("completed", 1_700_000_007)


@pytest.mark.parametrize(("reason", "detail"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_a_cut_answer_is_incomplete_and_so_is_its_last_item(reason: str, detail: str) -> None:
    events = render(ReasoningDelta("hm"), TextDelta("Hi"), Finished(reason))
    response = check(events)
    assert events[-1]["type"] == "response.incomplete"
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": detail})
    assert statuses(response) == ["completed", "incomplete"]
    assert response["completed_at"] is None
    assert response["usage"] is not None


@pytest.mark.parametrize("events", [[], [Finished("who knows")], [Started("up", "m"), USAGE]])
def test_an_answer_of_which_nothing_is_known_has_failed(events: list[Event]) -> None:
    response = check(render(*events))
    assert response["error"] == {"code": "server_error", "message": "The upstream's answer was empty."}
    assert response["output"] == []


def test_an_answer_that_does_not_say_why_it_ended_is_completed() -> None:
    assert check(render(TextDelta("Hi")))["status"] == "completed"


def test_a_failure_keeps_the_output_and_names_its_cause() -> None:
    response_stream = stream()
    events = response_stream.feed([ReasoningDelta("hm"), TextDelta("Hi"), USAGE]) + response_stream.fail(
        "server_error", "It broke."
    )
    response = check(events)
    assert response["error"] == {"code": "server_error", "message": "It broke."}
    assert statuses(response) == ["completed", "incomplete"]
    assert response["usage"] == usage_object(USAGE.usage)


def test_a_failure_before_anything_is_a_legal_stream() -> None:
    assert kinds(stream().fail("server_error", "It broke.")) == ["created", "in_progress", "failed"]


def test_a_cancelled_response_ends_incomplete_with_its_own_status() -> None:
    response_stream = stream()
    events = (
        response_stream.feed([ToolCallStarted(0, "c", "f"), ToolArgumentsDelta(0, '{"a')]) + response_stream.cancel()
    )
    response = check(events)
    assert events[-1]["type"] == "response.incomplete"
    assert (response["status"], response["usage"], response["completed_at"]) == ("cancelled", None, None)
    assert statuses(response) == ["incomplete"]


def test_nothing_follows_the_end() -> None:
    for end in ("complete", "fail", "cancel"):
        response_stream = stream()
        response_stream.feed([TextDelta("Hi"), STOP])
        response_stream.fail(
            "server_error", "x"
        ) if end == "fail" else response_stream.cancel() if end == "cancel" else response_stream.complete(1)
        before = response_stream.response
        later = [
            response_stream.feed([TextDelta("more")]),
            response_stream.complete(2),
            response_stream.fail("server_error", "y"),
            response_stream.cancel(),
        ]
        assert [*later, response_stream.open()] == [[]] * 5
        assert response_stream.response == before


def test_usage_is_the_last_reported_one_in_the_apis_shape() -> None:
    early = UsageReported(Usage(input_tokens=1, output_tokens=1), {})
    response = check(render(TextDelta("Hi"), early, STOP, USAGE, UsageReported(Usage(), {})))
    assert response["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 3},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 6},
        "total_tokens": 21,
    }


def test_usage_that_was_not_reported_is_estimated() -> None:
    response_stream = ResponseStream(head(), Ids(), input_estimate=7)
    call: list[Event] = [ToolCallStarted(0, "c", "four"), ToolArgumentsDelta(0, '{"a": 1}')]
    response_stream.feed([ReasoningDelta("1234"), TextDelta("1234567"), RefusalDelta("8"), *call, STOP])
    response_stream.complete(1)
    assert (response_stream.response["usage"]["input_tokens"], response_stream.response["usage"]["output_tokens"]) == (
        7,
        6,
    )


def test_a_queued_response_says_so_first() -> None:
    response_stream = stream(background=True)
    assert response_stream.response["status"] == "in_progress"
    events = response_stream.open(is_queued=True)
    assert kinds(events) == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in events] == ["queued", "queued", "in_progress"]
    assert response_stream.is_open
    assert response_stream.open(is_queued=True) == []
    events += response_stream.feed([TextDelta("Hi"), STOP]) + response_stream.complete(1)
    assert check(events)["status"] == "completed"
    assert response_stream.is_ended


def test_the_object_has_the_same_members_in_the_same_order_at_all_times() -> None:
    response_stream = stream()
    responses = [response_stream.response]
    events = response_stream.feed([TextDelta("Hi"), STOP]) + response_stream.complete(1)
    responses += [event["response"] for event in events if "response" in event] + [response_stream.response]
    assert len({tuple(response) for response in responses}) == 1
    assert list(responses[0])[:4] == ["id", "object", "created_at", "status"]
    assert set(responses[0]) == set(head()) | {
        "status",
        "completed_at",
        "error",
        "incomplete_details",
        "output",
        "usage",
    }


def test_places_that_the_head_gives_are_kept() -> None:
    members = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "?",
        "usage": 1,
        "tools": [],
    }
    response = ResponseStream(members, Ids()).response
    assert list(response)[-4:] == ["model", "usage", "tools", "output"]
    assert (response["status"], response["usage"]) == ("in_progress", None)


def test_the_object_can_be_seen_while_it_grows() -> None:
    response_stream = stream()
    response_stream.feed([ReasoningDelta("hm"), TextDelta("Hel")])
    half = response_stream.response
    response_stream.feed([TextDelta("lo")])
    assert [half["output"][1]["content"][0]["text"], half["output"][1]["status"]] == ["Hel", "in_progress"]
    assert response_stream.response["output"][1]["content"][0]["text"] == "Hello"


def test_the_first_events_are_not_changed_by_later_ones() -> None:
    response_stream = stream()
    events = response_stream.feed([TextDelta("Hi")])
    before = json.dumps(events)
    response_stream.feed([AnnotationAdded(URL_CITATION), TextDelta("!"), STOP])
    response_stream.complete(1)
    assert json.dumps(events) == before


def test_a_frame_is_one_event_with_its_name() -> None:
    event = {"type": "response.output_text.delta", "sequence_number": 4, "delta": "a\nb"}
    assert encode_frame(event) == (
        b"event: response.output_text.delta\n"
        b'data: {"type":"response.output_text.delta","sequence_number":4,"delta":"a\\nb"}\n\n'
    )


# Any answer


@given(answers(), st.sampled_from(["complete", "fail", "cancel"]), st.booleans())
@settings(deadline=None, max_examples=300)
def test_any_answer_keeps_the_grammar(events: list[Event], end: str, reasoning_as_summary: bool) -> None:
    response_stream = stream(is_sealed=True, reasoning_as_summary=reasoning_as_summary, used_call_ids={"call_1x"})
    streamed = response_stream.feed(events)
    if end == "complete":
        streamed += response_stream.complete(1)
    else:
        streamed += response_stream.fail("server_error", "It broke.") if end == "fail" else response_stream.cancel()
    final_response = check(json.loads(json.dumps(streamed)))
    output = [{k: v for k, v in item.items() if k != "tollgate"} for item in response_stream.response["output"]]
    assert response_stream.response | {"output": output} == final_response
    call_ids = [item["call_id"] for item in output if "call_id" in item]
    assert len({*call_ids, "call_1x"}) == len(call_ids) + 1
    thoughts = [item for item in output if item["type"] == "reasoning"]
    assert not any(item.get("content") if reasoning_as_summary else item["summary"] for item in thoughts)


@given(answers(), st.data())
@settings(deadline=None, max_examples=100)
def test_the_events_do_not_depend_on_how_they_are_fed(events: list[Event], data: st.DataObject) -> None:
    cut_response = data.draw(st.integers(0, len(events)))
    response_stream = stream(is_sealed=True)
    at_once = render(*events, is_sealed=True)
    assert (
        response_stream.feed(events[:cut_response])
        + response_stream.feed(events[cut_response:])
        + response_stream.complete(int(NOW))
        == at_once
    )


@given(answers(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_the_official_client_reads_any_answer(events: list[Event], reasoning_as_summary: bool) -> None:
    streamed = render(*events, is_sealed=True, reasoning_as_summary=reasoning_as_summary)
    assert_official(streamed)
    raw = b"".join(map(encode_frame, streamed)) + b"data: [DONE]\n\n"
    assert read_frames(raw) == streamed
    final = accumulated(raw)
    if streamed[-1]["type"] == "response.completed":
        output = streamed[-1]["response"]["output"]
        assert [item.id for item in final.output] == [item["id"] for item in output]
        summaries = [[part["text"] for part in item.get("summary", ())] for item in output]
        assert [[part.text for part in getattr(item, "summary", ())] for item in final.output] == summaries
        assert [getattr(item, "namespace", None) for item in final.output] == [
            response_stream.get("namespace") for response_stream in output
        ]
