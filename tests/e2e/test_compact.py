"""Compaction and the count of input tokens, with the openai SDK."""

from typing import Any

import openai
import pytest

from tests.e2e.gateway import Gateway
from tests.fakes.upstream import Answer, FakeUpstream

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(60),
    # the SDK has no type of its own for the user messages that a compacted window holds
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
]

MODEL, OTHER = "priced", "chat"
SUMMARY = "Ada wants tide tables for Brest; the port id is 117."
TALK: list[Any] = [
    {"role": "user", "content": "I am Ada, tides for Brest please"},
    {"type": "function_call", "call_id": "call_1", "name": "find_port", "arguments": '{"name":"Brest"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "port 117"},
    {"role": "assistant", "content": "It is port 117."},
    {"role": "user", "content": "and now the times"},
]


def messages_of(upstream: FakeUpstream, model: str = MODEL) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = upstream.last(f"up-{model}").json["messages"]
    return messages


def compacted(client: openai.OpenAI, upstream: FakeUpstream, **fields: Any) -> Any:
    with upstream.script(f"up-{MODEL}", Answer(text=SUMMARY)):
        return client.responses.compact(**{"model": MODEL, "input": TALK, **fields})


# Compaction


def test_a_conversation_is_written_down_and_goes_on_with_another_model(
    client: openai.OpenAI, upstream: FakeUpstream
) -> None:
    window = compacted(client, upstream)
    assert (window.object, type(window.created_at)) == ("response.compaction", int)
    assert [item.type for item in window.output] == ["message", "message", "compaction"]
    assert [item.content[0].text for item in window.output[:2]] == [TALK[0]["content"], TALK[4]["content"]]
    assert window.usage.total_tokens > 0
    assert SUMMARY not in window.output[-1].encrypted_content
    client.responses.create(model=OTHER, input=[*window.output, {"role": "user", "content": "go on"}])  # type: ignore[list-item]
    texts = [str(message["content"]) for message in messages_of(upstream, OTHER)]
    assert len(texts) == 4
    assert SUMMARY in texts[2]
    assert texts[3] == "go on"


def test_the_model_is_told_all_in_words_and_what_to_do(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    compacted(client, upstream, instructions="Speak like a sailor.")
    messages = messages_of(upstream)
    roles = [message["role"] for message in messages]
    assert roles[0] == "system"
    assert set(roles) == {"system", "user", "assistant"}  # no call that another provider would need the tools for
    assert "tools" not in upstream.last(f"up-{MODEL}").json
    text = "\n".join(str(message["content"]) for message in messages)
    for part in ("Speak like a sailor.", "find_port", '{"name":"Brest"}', "port 117", "and now the times"):
        assert part in text, part


def test_it_is_billed_as_a_call_and_kept_nowhere(
    client: openai.OpenAI, upstream: FakeUpstream, gateway: Gateway, key: str
) -> None:
    window = compacted(client, upstream)
    [row] = gateway.wait_priced(1, api_key=key)
    assert float(row["cost"]) > 0
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(window.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="on", previous_response_id=window.id)
    assert refused.value.code == "previous_response_not_found"
    listed = gateway.http.get("/v1/responses", headers={"authorization": f"Bearer {key}"}).json()
    assert listed["data"] == []


def test_a_stored_conversation_can_be_compacted(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    parent = client.responses.create(model=MODEL, input="remember amber")
    window = compacted(client, upstream, input=None, previous_response_id=parent.id)
    assert [item.type for item in window.output] == ["message", "compaction"]
    text = "\n".join(str(message["content"]) for message in messages_of(upstream))
    assert "remember amber" in text
    assert parent.output_text in text


def test_a_summary_is_part_of_the_next_one(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    window = compacted(client, upstream)
    again = compacted(client, upstream, input=[*window.output, {"role": "user", "content": "and then?"}])
    assert [item.type for item in again.output] == ["message", "message", "message", "compaction"]
    assert SUMMARY in "\n".join(str(message["content"]) for message in messages_of(upstream))


def test_an_altered_compaction_is_refused_by_its_place(
    client: openai.OpenAI, upstream: FakeUpstream, gateway: Gateway, key: str
) -> None:
    window = compacted(client, upstream)
    sealed = window.output[-1].encrypted_content
    for text in (sealed[:-6] + "AAAA==", "gAAAAAB-of-another-key", ""):
        item = {"type": "compaction", "encrypted_content": text}
        body = {"model": MODEL, "input": [{"role": "user", "content": "hi"}, item]}
        for path in ("/v1/responses", "/v1/responses/compact"):
            answer = gateway.http.post(path, json=body, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 400, (path, text)
            assert answer.json()["error"]["param"] == "input[1].encrypted_content"


@pytest.mark.parametrize("answer", [Answer(text="half of", finish="length"), Answer(text="")])
def test_a_summary_that_is_not_whole_is_no_summary(
    client: openai.OpenAI, upstream: FakeUpstream, answer: Answer
) -> None:
    with upstream.script(f"up-{MODEL}", answer), pytest.raises(openai.InternalServerError) as failed:
        client.responses.compact(model=MODEL, input=TALK)
    assert failed.value.status_code == 502


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": None}, 400, "model"),
        ({"model": "no-such-model"}, 404, "model"),
        ({"input": None}, 400, "input"),
        ({"input": [TALK[1]]}, 400, "input"),
        ({"stream": True}, 400, "stream"),
        ({"background": True}, 400, "background"),
        ({"conversation": "conv_1"}, 400, "conversation"),
        ({"previous_response_id": "resp_none"}, 400, "previous_response_id"),
    ],
)
def test_what_cannot_be_compacted_is_refused_by_its_name(
    gateway: Gateway, key: str, fields: dict[str, Any], status: int, param: str
) -> None:
    body = {"model": MODEL, "input": "hello", **fields}
    answer = gateway.http.post("/responses/compact", json=body, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


# The count


def count(client: openai.OpenAI, **fields: Any) -> int:
    counted = client.responses.input_tokens.count(**{"model": MODEL, "input": "hello", **fields})
    assert counted.object == "response.input_tokens"
    return counted.input_tokens


def test_input_is_counted_with_all_that_goes_with_it(client: openai.OpenAI) -> None:
    bare = count(client)
    assert bare > 0
    tool = {"type": "function", "name": "find_port", "parameters": {"type": "object"}, "strict": False}
    parent = client.responses.create(model=MODEL, input="a long story " * 20)
    form = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    for more in ({"instructions": "Be brief."}, {"tools": [tool]}, {"text": form}, {"previous_response_id": parent.id}):
        assert count(client, **more) > bare, more


def test_counting_asks_no_upstream_and_costs_nothing(
    client: openai.OpenAI, upstream: FakeUpstream, gateway: Gateway, key: str
) -> None:
    before = len(upstream.of(f"up-{MODEL}"))
    count(client)
    count(client, model=openai.omit)
    assert len(upstream.of(f"up-{MODEL}")) == before
    assert gateway.spend_rows(api_key=key) == []


def test_a_count_is_refused_as_its_create_would_be(client: openai.OpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError):
        count(client, model="no-such-model")
    with pytest.raises(openai.BadRequestError) as refused:
        count(client, input=[{"type": "function_call_output", "call_id": "call_9", "output": "x"}])
    assert refused.value.param == "input"
    with pytest.raises(openai.PermissionDeniedError):
        count(gateway.openai(gateway.issue_key(models=[OTHER])))
    with pytest.raises(openai.AuthenticationError):
        count(gateway.openai("sk-none"))
