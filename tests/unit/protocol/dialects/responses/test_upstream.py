"""Answers of an upstream that speaks the Responses API: the changes the gateway makes, and the end of a broken one.
The requests: test_upstream_request.py."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import orjson
import pytest
from openai.types.responses import Response

from gateway.protocol.dialects.responses.items import ENCRYPTED_REASONING, LOGPROBS, render_response
from gateway.protocol.dialects.responses.replay import replay_events
from gateway.protocol.dialects.responses.upstream import NativeAnswer, NativeRelay, relay_whole
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.types import JsonObject
from gateway.protocol.usage import Usage
from tests.fakes import native
from tests.fakes.native import KINDS, RESPONSE_ID, TEXT, UNKNOWN, USAGE, Native, events_of, response_of, twisted
from tests.fakes.responses_cases import Ids, OpenSeal, assert_official, head
from tests.fakes.responses_grammar import check, read_frames

GATEWAY_MEMBERS = (
    "id",
    "object",
    "created_at",
    "model",
    "previous_response_id",
    "store",
    "background",
    "metadata",
    "tools",
)
TOOLS = [{"type": "function", "name": name, "parameters": {}} for name in ("weather", "time")]
CUSTOM = [{"type": "custom", "name": "run"}]
#: {kind of an answer: its request}
REQUESTS: dict[str, JsonObject] = {
    "text": {},
    "scored": {"top_logprobs": 2},
    "calls": {"tools": TOOLS},
    "custom": {"tools": CUSTOM},
    "thinks": {"include": [ENCRYPTED_REASONING]},
    "plain": {},
    "search": {},
    "hosted": {},
    "refuses": {},
}
SAME = {"scored": "text", "custom": "calls"}
HARMLESS_TWISTS = [
    "bytewise",
    "crlf",
    "spaced",
    "unnamed",
    "unnumbered",
    "reused",
    "queued",
    "masked",
    "short",
    "unpaid",
]


def exchange_of(kind: str) -> tuple[JsonObject, list[JsonObject]]:
    """(request, output)"""
    request = {"model": "up", **REQUESTS[kind]}
    output = KINDS[SAME.get(kind, kind)](request)
    return request, output + native.text(request) if kind in {"thinks", "plain"} else output


def answer(*include: str, **echo: Any) -> NativeAnswer:
    members = head(model="alias", metadata={"k": "v"}, previous_response_id="resp_0", **echo)
    gateway_members = {name: members[name] for name in GATEWAY_MEMBERS}
    return NativeAnswer(
        members,
        gateway_members,
        Ids(),
        origin="deployment-1",
        seal=OpenSeal(),
        now=lambda: 1_700_000_009.9,
        include=frozenset(include),
        input_estimate=40,
    )


def wire(upstream: Native, kind: str = "text") -> bytes:
    request, output = exchange_of(kind)
    return b"".join(upstream.frame(event) for event in upstream.events(request, output))


def relay_events(
    raw: bytes, native_answer: NativeAnswer | None = None, *, piece: int = 0
) -> tuple[list[JsonObject], NativeRelay]:
    relay = NativeRelay(native_answer or answer())
    step = piece or max(len(raw), 1)
    out = b"".join(relay.feed(raw[start : start + step]) for start in range(0, len(raw), step))
    return read_frames(out + relay.finish()), relay


def relay_broken(raw: bytes, native_answer: NativeAnswer) -> tuple[bytes, UpstreamFault]:
    """(the bytes that left before the fault, the fault)"""
    relay = NativeRelay(native_answer)
    out = b""
    try:
        out += relay.feed(raw)
        out += relay.finish()
    except UpstreamFault as fault:
        return out, fault
    raise AssertionError(f"no fault, but {out!r}")


# The fake itself


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    "upstream", [Native(), twisted(["short"]), twisted(["queued"])], ids=["plain", "short", "queued"]
)
def test_the_fake_keeps_the_grammar_and_the_types_of_the_official_client(kind: str, upstream: Native) -> None:
    request, output = exchange_of(kind)
    events = upstream.events(request, output)
    assert_official(events)
    assert check(events)["output"] == upstream.whole(request, output)["output"]


# The client's view


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("twist", ["", *HARMLESS_TWISTS])
def test_every_stream_follows_the_grammar(kind: str, twist: str) -> None:
    upstream = twisted([twist] if twist else [])
    native_answer = answer(ENCRYPTED_REASONING)
    events, _ = relay_events(wire(upstream, kind), native_answer, piece=upstream.piece_bytes)
    last = check(events)
    assert_official(events)
    assert last == render_response(native_answer.response, frozenset({ENCRYPTED_REASONING}))
    assert last["status"] == ("incomplete" if twist == "short" else "completed")
    assert RESPONSE_ID not in str(events)
    assert "_up" not in "".join(item["id"] for item in last["output"])
    Response.model_validate(last)


@pytest.mark.parametrize("kind", REQUESTS)
def test_the_stream_and_the_whole_answer_are_the_same_response(kind: str) -> None:
    request, output = exchange_of(kind)
    events, relay = relay_events(wire(Native(), kind))
    body, metadata = relay_whole(answer(), orjson.dumps(response_of(request, output)))
    assert events[-1]["response"] == orjson.loads(body)
    assert (
        metadata.usage,
        metadata.raw_usage,
        metadata.model,
        metadata.service_tier,
        metadata.upstream_id,
    ) == (
        relay.metadata.usage,
        relay.metadata.raw_usage,
        relay.metadata.model,
        relay.metadata.service_tier,
        relay.metadata.upstream_id,
    )
    assert metadata.usage == Usage(input_tokens=951, cache_read_tokens=256, output_tokens=247, reasoning_tokens=64)


def test_events_but_for_the_ids_are_the_upstreams_bytes() -> None:
    request, output = exchange_of("text")
    frames = [Native().frame(event) for event in Native(obfuscation="x").events(request, output)]
    relay = NativeRelay(answer())
    for raw in frames:
        out = relay.feed(raw)
        if b'"item_id"' in raw:
            assert out.endswith(raw.replace(b'"item_id":"msg_up"', b'"item_id":"msg_1"'))


def test_unknown_events_are_relayed_as_they_are() -> None:
    events = list(events_of(response_of(*exchange_of("text"))))
    events.insert(3, UNKNOWN)
    events.insert(3, {"type": "response.new", "response": {"id": RESPONSE_ID}})  # could name what is ours to name
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    events, _ = relay_events(b"".join(map(Native().frame, numbered)))
    assert events[3] == {**UNKNOWN, "item_id": "msg_1", "sequence_number": 3}
    assert "response.new" not in {event["type"] for event in events}
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize("twist", ["", "reused"])
def test_an_item_has_one_id_in_all_its_events_and_no_other_item_has_it(twist: str) -> None:
    events, _ = relay_events(wire(twisted([twist] if twist else []), "hosted"))
    for index, item in enumerate(events[-1]["response"]["output"]):
        item_ids = {event["item_id"] for event in events if event.get("output_index") == index and "item_id" in event}
        assert item_ids <= {item["id"]}
        assert [event["item"]["id"] for event in events if "item" in event and event["output_index"] == index] == [
            item["id"],
            item["id"],
        ]
    ids = [item["id"] for item in events[-1]["response"]["output"]]
    assert len(ids) == len(set(ids))


def test_the_gateway_sets_its_own_members_and_the_upstream_the_rest() -> None:
    events, _ = relay_events(wire(Native()))
    for event in events:
        if "response" not in event:
            continue
        response = event["response"]
        assert (response["id"], response["model"], response["created_at"]) == ("resp_1", "alias", 1_700_000_000)
        assert (response["previous_response_id"], response["store"], response["metadata"]) == (
            "resp_0",
            True,
            {"k": "v"},
        )
        assert (response["service_tier"], response["top_p"]) == ("flex", 0.9)
        assert response["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
        assert response["billing"] == {"payer": "developer"}
    assert events[-1]["response"]["completed_at"] == 1_700_000_009


def test_missing_members_are_filled_in() -> None:
    bare = {
        "id": "x",
        "object": "response",
        "status": "completed",
        "output": exchange_of("text")[1],
        "temperature": None,
    }
    body, _ = relay_whole(answer(), orjson.dumps(bare))
    response = orjson.loads(body)
    assert response["temperature"] == 1
    assert response["usage"] == {
        "input_tokens": 40,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": response["usage"]["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 40 + response["usage"]["output_tokens"],
    }
    assert response["usage"]["output_tokens"] > 0
    assert replay_events(response)[-1]["response"] == response


def test_usage_gets_the_members_that_clients_require() -> None:
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12, "output_tokens_details": {"tools": 1}, "own": 2}
    body, metadata = relay_whole(answer(), orjson.dumps(response_of(*exchange_of("text"), usage=usage)))
    assert orjson.loads(body)["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"tools": 1, "reasoning_tokens": 0},
        "total_tokens": 12,
        "own": 2,
    }
    assert metadata.raw_usage == usage
    exact, _ = relay_whole(answer(), orjson.dumps(response_of(*exchange_of("text"))))
    assert orjson.loads(exact)["usage"] == USAGE


def test_a_private_member_of_the_upstream_is_dropped() -> None:
    request, output = exchange_of("text")
    output[0]["tollgate"] = {"origin": "x", "signature": "y"}
    native_answer = answer()
    relay_whole(native_answer, orjson.dumps(response_of(request, output, tollgate=1)))
    assert "tollgate" not in str(native_answer.response)


# Reasoning


def test_encrypted_reasoning_is_sealed_and_rendered_only_where_included() -> None:
    raw = wire(Native(), "thinks")
    included, plain = answer(ENCRYPTED_REASONING), answer()
    events, _ = relay_events(raw, included)
    hidden, _ = relay_events(raw, plain)
    assert native.ENCRYPTED not in str(hidden)
    assert "encrypted_content" not in str(hidden)
    encrypted = next(event["item"] for event in events if event["type"].endswith("item.done"))["encrypted_content"]
    assert encrypted == events[-1]["response"]["output"][0]["encrypted_content"]
    assert OpenSeal().open(encrypted) == {"origin": "deployment-1", "signature": native.ENCRYPTED}
    started_item = next(event["item"] for event in events if event["type"].endswith("item.added"))
    assert "encrypted_content" not in started_item
    assert plain.response["output"][0]["encrypted_content"] == encrypted  # kept all the same


def test_unencrypted_reasoning_is_sealed_with_its_origin() -> None:
    native_answer = answer()
    relay_events(wire(Native(), "plain"), native_answer)
    sealed = OpenSeal().open(native_answer.response["output"][0]["encrypted_content"])
    assert sealed == {"origin": "deployment-1", "signature": ""}


def test_log_probabilities_are_rendered_only_where_included() -> None:
    raw = wire(Native(), "scored")
    hidden, _ = relay_events(raw)
    assert '"logprob"' not in orjson.dumps(hidden).decode()
    full, _ = relay_events(raw, answer(LOGPROBS))
    assert [event["logprobs"][0]["token"] for event in full if event["type"].endswith("text.delta")] == native.WORDS


# Failures


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_a_stream_that_breaks_off_anywhere_is_ended_by_the_grammar(kind: str, ending: str) -> None:
    request, output = exchange_of(kind)
    events = Native().events(request, output)
    for count in range(len(events)):
        native_answer = answer(ENCRYPTED_REASONING, LOGPROBS)
        out, fault = relay_broken(b"".join(map(Native().frame, events[:count])), native_answer)
        assert fault.code == "upstream_incomplete_stream"
        assert native_answer.is_open == (count > 2)
        assert out == b"" or count > 2
        last = (
            native_answer.failure("server_error", "It broke.") if ending == "failed" else native_answer.cancellation()
        )
        closed = read_frames(out + last)
        response = check(closed)
        assert_official(closed)
        assert response["status"] == ending == native_answer.response["status"]
        assert (
            response["output"]
            == render_response(native_answer.response, frozenset({ENCRYPTED_REASONING, LOGPROBS}))["output"]
        )
        assert text_in(response) == text_in_deltas(closed)
        assert native_answer.failure("server_error", "Again.") == native_answer.cancellation() == b""


def text_in(response: JsonObject) -> str:
    parts = [part for item in response["output"] for part in (*item.get("summary", ()), *(item.get("content") or ()))]
    texts = [part.get("text") or part.get("refusal") or "" for part in parts]
    items = [item for item in response["output"] if item["type"] != "mcp_approval_request"]  # which has no deltas
    texts += [item.get("arguments") or item.get("input") or item.get("code") or "" for item in items]
    return "".join(sorted("".join(texts)))


def text_in_deltas(events: Iterable[JsonObject]) -> str:
    return "".join(sorted("".join(event["delta"] for event in events if "delta" in event)))


def test_an_upstream_that_ends_without_ending_its_items_has_them_ended() -> None:
    events = Native().events(*exchange_of("text"))
    short = [event for event in events if not event["type"].endswith((".done",))]
    relayed, _ = relay_events(b"".join(map(Native().frame, short)))
    assert check(relayed)["output"][0]["content"][0]["text"] == TEXT


@pytest.mark.parametrize("at", [2, 6])
@pytest.mark.parametrize(
    ("end", "status", "code", "is_retryable"),
    [
        (native.FLAT_ERROR, 502, "upstream_error", True),
        ({"type": "error", "error": {"code": "rate_limit_exceeded", "message": "m"}}, 429, "rate_limit_exceeded", True),
        ({"type": "error", "code": "context_length_exceeded", "message": ""}, 400, "context_length_exceeded", False),
        ({"type": "error", "code": "invalid_image", "message": "m"}, 400, "invalid_image", False),
        (
            {"type": "response.failed", "response": response_of({"model": "m"}, [], **native.FAILED)},
            502,
            "upstream_error",
            True,
        ),
    ],
    ids=["flat", "nested", "too long", "refused", "failed"],
)
def test_an_error_in_the_stream_is_a_fault_whose_text_stays_here(
    at: int, end: JsonObject, status: int, code: str, is_retryable: bool
) -> None:
    native_answer = answer()
    events = [*Native().events(*exchange_of("text"))[:at], end]
    out, fault = relay_broken(b"".join(map(Native().frame, events)), native_answer)
    assert (fault.status, fault.code, fault.is_retryable) == (status, code, is_retryable)
    assert "Traceback" not in fault.message
    assert bool(out) is (at > 2)  # nothing has left, so that another deployment may answer
    response = check(read_frames(out + native_answer.failure("server_error", "It failed.")))
    assert response["error"] == {"code": "server_error", "message": "It failed."}
    if end["type"] == "response.failed":
        assert response["usage"] == USAGE


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        (native.FAILED, 502, "upstream_error"),
        ({**native.FAILED, "error": native.RATE_LIMIT}, 429, "rate_limit_exceeded"),
        ({**native.FAILED, "error": None}, 502, "upstream_error"),
        ({"status": "in_progress"}, 502, "upstream_error"),
        ({"status": "cancelled"}, 502, "upstream_error"),
        ({"status": ["completed"]}, 502, "upstream_error"),
    ],
)
def test_a_whole_response_that_did_not_end_well_is_a_fault(members: JsonObject, status: int, code: str) -> None:
    with pytest.raises(UpstreamFault) as caught:
        relay_whole(answer(), orjson.dumps(response_of(*exchange_of("text"), **members)))
    assert (caught.value.status, caught.value.code) == (status, code)


def item(**members: Any) -> JsonObject:
    return {"type": "response.output_item.added", "output_index": 0, "item": members}


BAD_ITEMS: list[Any] = [
    None,
    "x",
    {},
    {"type": 1},
    {"type": "message", "role": "assistant", "content": "text"},
    {"type": "message", "role": "assistant", "content": ["text"]},
    {"type": "message", "content": []},
    {"type": "function_call", "name": "f", "arguments": "{}"},
    {"type": "reasoning", "summary": [{}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text"}]},
    {"type": "compaction", "encrypted_content": None},
    {"type": "function_call_output", "call_id": "call_1", "output": [5]},
]


@pytest.mark.parametrize("bad", BAD_ITEMS, ids=str)
def test_items_that_could_not_be_stored_are_the_upstreams_fault(bad: Any) -> None:
    with pytest.raises(UpstreamFault):
        relay_whole(answer(), orjson.dumps(response_of({"model": "m"}, [bad])))
    for kind in ("added", "done"):
        event = {"type": f"response.output_item.{kind}", "output_index": 0, "item": bad}
        relay_broken(Native().frame(event), answer())
    relay_broken(
        Native().frame({"type": "response.completed", "response": response_of({"model": "m"}, [bad])}), answer()
    )


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.completed"},
        {"type": "response.completed", "response": []},
        {"type": "response.created", "response": "x"},
        {"type": "response.failed", "response": None},
        {"type": "response.content_part.added", "output_index": 0, "part": None},
        {"type": "response.content_part.done", "output_index": 0, "part": {"text": ""}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "x", "logprobs": 5},
        {"type": "response.output_item.added"},
        {"type": 5},
        {"error": {"message": "m"}},
        {"error": "m"},
        [],
        "x",
    ],
    ids=str,
)
def test_events_that_are_none_are_the_upstreams_fault(event: Any) -> None:
    relay_broken(b"data: " + orjson.dumps(event) + b"\n\n", answer())


@pytest.mark.parametrize(
    "event",
    [
        {"output_index": [1], "item_id": {}},
        {"output_index": 0, "item_id": 5},
        {"output_index": -1, "delta": {"a": 1}},
        {"output_index": 0, "delta": None, "content_index": "x"},
        {"output_index": 0, "annotation": None},
        {"output_index": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["output_text.delta", "output_text.annotation.added", "refusal.done", "unheard.of"])
def test_odd_members_do_no_harm(event: JsonObject, kind: str) -> None:
    events = Native().events(*exchange_of("text"))
    events.insert(5, {"type": f"response.{kind}", **event})
    relayed, _ = relay_events(b"".join(map(Native().frame, events)))
    assert [event["sequence_number"] for event in relayed] == list(range(len(relayed)))
    assert relayed[-1]["response"]["output"][0]["content"][0]["text"] == TEXT


@pytest.mark.parametrize("body", [b"", b"5", b'"x"', b"{}", b"[]", b'{"error":{"message":"m"}}', b'{"output":5}'])
def test_a_whole_answer_that_is_none_is_the_upstreams_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        relay_whole(answer(), body)


@pytest.mark.parametrize("twist", ["bytewise", "crlf", "spaced"])
def test_any_chunking_gives_the_same_bytes(twist: str) -> None:
    raw = wire(twisted([twist]), "calls")
    results = {str(relay_events(raw, piece=size)[0]) for size in (1, 7, 100, len(raw))}
    assert len(results) == 1


def test_nothing_follows_the_end() -> None:
    late = Native().frame(UNKNOWN) + b"data: [DONE]\n\n"
    events, _ = relay_events(wire(Native()) + late)
    assert events[-1]["type"] == "response.completed"


@pytest.mark.parametrize("make", [lambda raw: raw, lambda raw: raw + b"data: [DONE]\n\n"], ids=["bare", "done"])
def test_the_terminal_event_leaves_at_the_end_only(make: Callable[[bytes], bytes]) -> None:
    relay = NativeRelay(answer())
    fed = relay.feed(make(wire(Native())))
    assert b"response.completed" not in fed
    assert relay.is_done
    assert relay.finish().startswith(b"event: response.completed\n")


def test_numbers_count_on_without_a_gap() -> None:
    for twist in HARMLESS_TWISTS:
        events, _ = relay_events(wire(twisted([twist]), "search"))
        assert all(after["sequence_number"] == before["sequence_number"] + 1 for before, after in pairwise(events))
