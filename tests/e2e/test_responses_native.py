"""/v1/responses passed to an upstream that speaks it: the upstream's request, the client's answer, and follow-ups."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel, ValidationError

from gateway.protocol.ids import response_of
from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT, PRICES, Backend
from tests.e2e.gateway import Gateway, decimal_cost, eventually
from tests.e2e.streams import deltas, get, post, streamed, text_of
from tests.e2e.test_responses_socket import opener
from tests.fakes import native
from tests.fakes.native import ARGUMENTS, ENCRYPTED, FREE_TEXT, RESPONSE_ID, SUMMARY, TEXT, WORDS, FakeNative
from tests.fakes.responses_grammar import check, read_frames
from tests.fakes.upstream import CREDENTIAL, LEAKS, Recorded
from tests.fakes.wires import echo_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

ENCRYPTED_CONTENT = "reasoning.encrypted_content"
COST = (1207 - 256) * Decimal(PRICES["input_cost_per_token"])
COST += 256 * Decimal(PRICES["cache_read_input_token_cost"]) + 311 * Decimal(PRICES["output_cost_per_token"])
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[Any] = [
    {"type": "function", "name": name, "parameters": PARAMETERS, "strict": False} for name in ("weather", "time")
]
SAID = ("text", "thinks", "plain", "search", "hosted", "refuses")
RIGHT = ("bytewise", "crlf", "spaced", "unnamed", "unnumbered", "reused", "queued", "masked")
WRONG = ("fails", "limited", "errs", "cut", "ends", "error", "running", "400", "429", "500")
NAMES = [
    "native",
    *(f"native~{one}" for one in (*SAID, *RIGHT, *WRONG, "short", "unpaid", "slow", "calls")),
    "native~thinks~text",
    "native~plain~text",
    "native~thinks~calls",
    "native~search~slow",
]
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeNative]:
    with FakeNative() as running:
        yield running


def served(upstream: FakeNative) -> list[JsonObject]:
    rows: list[JsonObject] = []

    def row(name: str, model: str, base: str, info: JsonObject | None = None, **params: Any) -> None:
        params = {"model": model, "api_base": base, "api_key": CREDENTIAL, **PRICES, **params}
        rows.append({"model_name": name, "litellm_params": params, "model_info": {"capabilities": info or {}}})

    passed: JsonObject = {"responses": True}
    thinks: JsonObject = {**passed, "reasoning_model": True}
    for name in NAMES:
        row(name, f"openai/{name}", upstream.url, thinks if "thinks" in name else passed)
    row("other", "openai/other~thinks~text", upstream.url, thinks)
    row("chat-only", "openai/chat-up", upstream.url)
    row("claude", "anthropic/claude-sonnet-4-5", upstream.root)
    row("tuned", "openai/tuned-up", upstream.url, passed, max_tokens=50, temperature=0.25)
    row("taught", "openai/taught", upstream.url, passed)
    row("azure-v1", "azure/eu-v1", upstream.root, passed, api_version="v1")
    row("azure-dated", "azure/eu-dated", upstream.root, passed, api_version="2025-04-01-preview")
    for way in ("error", "fails", "500", "429"):
        for form in ("whole", "stream"):  # apart, because one 429 takes a deployment out of its group
            row(f"spare-{way}-{form}", f"openai/spare~{way}", upstream.url, passed, order=1)
            row(f"spare-{way}-{form}", "openai/spare-second", upstream.url, passed, order=2)
    return rows


@pytest.fixture(scope="module")
def gateway(upstream: FakeNative, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {"model_list": served(upstream)}
    env = {**ENVIRONMENT, **backend.environment()}
    running = Gateway(tmp_path_factory.mktemp(f"native-{backend.name}"), config=config, env=env)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


@pytest.fixture
def stranger(gateway: Gateway) -> str:
    """A key of another team."""
    team = gateway.admin.post("/team/new", json={"team_alias": "strangers"}).json()["team_id"]
    return gateway.issue_key(team_id=team)


def ask(gateway: Gateway, key: str, *, stream: bool = False, **body: Any) -> JsonObject:
    body = {"input": "Hi", **body}
    if stream:
        return streamed(gateway, key, **body)[1]
    answer = post(gateway, key, **body)
    assert answer.status_code == 200, answer.text
    response: JsonObject = answer.json()
    return response


def fetch_stored(gateway: Gateway, key: str, response_id: str, **query: Any) -> JsonObject:
    answer = get(gateway, key, f"/v1/responses/{response_id}", **query)
    assert answer.status_code == 200, answer.text
    response: JsonObject = answer.json()
    return response


def last_request(upstream: FakeNative, model: str) -> Recorded:
    return upstream.last(model)


def types(items: list[JsonObject]) -> list[str]:
    return [item.get("role") or item["type"] for item in items]


# What the client sees


@BOTH
@pytest.mark.parametrize("name", ["native", "native~thinks~text", *(f"native~{one}" for one in (*SAID, *RIGHT))])
def test_whatever_it_says_is_told_under_our_names_and_found_again(
    gateway: Gateway, key: str, name: str, stream: bool
) -> None:
    fields = {"metadata": {"topic": "demo"}, "user": "u", "include": [ENCRYPTED_CONTENT]}
    response = ask(gateway, key, model=name, stream=stream, **fields)
    assert response["id"].startswith("resp_")
    assert (response["model"], response["status"], response["store"]) == (name, "completed", True)
    assert (response["metadata"], response["user"]) == ({"topic": "demo"}, "u")
    assert response["service_tier"] == "flex"
    assert {response_of(item["id"]) for item in response["output"]} == {response["id"]}
    assert fetch_stored(gateway, key, response["id"], include=ENCRYPTED_CONTENT) == response
    text = json.dumps(response)
    assert RESPONSE_ID not in text
    assert ENCRYPTED not in text


@pytest.mark.parametrize("name", ["native~thinks~calls", "native~search~slow", "native~hosted"])
def test_a_replayed_stream_has_the_ids_of_the_first(gateway: Gateway, key: str, name: str) -> None:
    events, response = streamed(gateway, key, model=name, input="Hi", tools=TOOLS)
    again = get(gateway, key, f"/v1/responses/{response['id']}", stream="true")
    assert check(read_frames(again.content)) == response

    def ids(events: list[JsonObject]) -> set[str]:
        return {event["item_id"] for event in events if "item_id" in event}

    assert ids(events) == ids(read_frames(again.content))
    assert events[-1]["response"] == response


def test_the_official_client_streams_parses_and_reads_it_back(client: openai.OpenAI) -> None:
    with client.responses.stream(model="native~thinks~text", input="Hi") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert deltas == WORDS
    assert final.output_text == TEXT
    assert final.output[0].type == "reasoning"
    assert final.output[0].summary[0].text == SUMMARY
    assert client.responses.retrieve(final.id).output_text == TEXT
    assert client.responses.input_items.list(final.id).data[0].type == "message"
    client.responses.delete(final.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(final.id)


class Weather(BaseModel):
    city: str


def test_a_schema_goes_as_it_is(client: openai.OpenAI, upstream: FakeNative) -> None:
    with pytest.raises(ValidationError):  # the fake says no JSON: what matters is what it was asked
        client.responses.parse(model="native", input="Hi", text_format=Weather)
    form = last_request(upstream, "native").json["text"]["format"]
    assert (form["type"], form["name"], form["strict"]) == ("json_schema", "Weather", True)


# What the upstream sees


@BOTH
def test_the_upstream_is_told_no_state_and_all_else(
    gateway: Gateway, key: str, upstream: FakeNative, stream: bool
) -> None:
    passed: JsonObject = {
        "instructions": "Be brief.",
        "tools": [{"type": "web_search", "user_location": {"type": "approximate", "city": "北京"}}],
        "tool_choice": "auto",
        "prompt_cache_key": "k",
        "unheard_of": {"x": [1]},
    }
    kept_here: JsonObject = {"metadata": {"a": "b"}, "tags": ["t"], "litellm_metadata": {"x": "y"}, "store": True}
    kept_here["cache"] = {"ttl": 5}
    answer = post(gateway, key, model="native", input="Hi", stream=stream, **passed, **kept_here)
    assert answer.status_code == 200
    assert "x-tollgate-dropped-params" not in answer.headers
    request = last_request(upstream, "native")
    assert request.path == "/v1/responses"
    assert request.headers["authorization"] == f"Bearer {CREDENTIAL}"
    message = {"type": "message", "role": "user", "status": "completed"}
    assert request.json == {
        "model": "native",
        "input": [{**message, "content": [{"type": "input_text", "text": "Hi"}]}],
        "store": False,
        **({"stream": True} if stream else {}),
        **passed,
    }


@pytest.mark.parametrize(
    ("name", "path", "query"),
    [
        ("azure-v1", "/openai/v1/responses", ""),
        ("azure-dated", "/openai/responses", "api-version=2025-04-01-preview"),
    ],
)
def test_azure_is_asked_at_its_own_address(
    gateway: Gateway, key: str, upstream: FakeNative, name: str, path: str, query: str
) -> None:
    response = ask(gateway, key, model=name, stream=True)
    assert (text_of(response), response["model"]) == (TEXT, name)
    request = last_request(upstream, name.replace("azure", "eu"))
    assert (request.path, request.query, request.headers["api-key"]) == (path, query, CREDENTIAL)


def test_the_deployments_own_parameters_are_sent(gateway: Gateway, key: str, upstream: FakeNative) -> None:
    ask(gateway, key, model="tuned", temperature=1)
    body = last_request(upstream, "tuned-up").json
    assert (body["max_output_tokens"], body["temperature"]) == (50, 1)
    assert "max_tokens" not in body


def test_a_parameter_that_is_refused_is_left_out_from_then_on(gateway: Gateway, key: str, upstream: FakeNative) -> None:
    upstream.refuses["taught"] = "temperature"
    before = len(upstream.of("taught"))
    answer = post(gateway, key, model="taught", input="Hi", temperature=0.5)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-tollgate-dropped-params"] == "temperature"
    assert len(upstream.of("taught")) == before + 2
    ask(gateway, key, model="taught", temperature=0.5)
    assert len(upstream.of("taught")) == before + 3
    assert "temperature" not in last_request(upstream, "taught").json


# What comes after


@BOTH
def test_a_follow_up_brings_the_whole_history_without_ids(
    gateway: Gateway, key: str, upstream: FakeNative, stream: bool
) -> None:
    first = ask(gateway, key, model="native", input="one", instructions="Only now.", stream=stream)
    second = ask(gateway, key, model="native", input="two", previous_response_id=first["id"], stream=stream)
    assert second["previous_response_id"] == first["id"]
    body = last_request(upstream, "native").json
    assert "instructions" not in body
    assert types(body["input"]) == ["user", "assistant", "user"]
    assert [part["text"] for item in body["input"] for part in item["content"]] == ["one", TEXT, "two"]
    assert not [item for item in body["input"] if "id" in item]


@BOTH
def test_tools_are_called_and_answered(gateway: Gateway, key: str, upstream: FakeNative, stream: bool) -> None:
    first = ask(gateway, key, model="native~thinks~calls", tools=TOOLS, stream=stream)
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    assert [call["arguments"] for call in calls] == list(ARGUMENTS)
    results = [{"type": "function_call_output", "call_id": call["call_id"], "output": "7"} for call in calls]
    second = ask(
        gateway, key, model="native~thinks~calls", tools=TOOLS, input=results, previous_response_id=first["id"]
    )
    assert text_of(second) == TEXT
    items = last_request(upstream, "native~thinks~calls").json["input"]
    assert types(items) == ["user", "reasoning", *["function_call"] * 2, *["function_call_output"] * 2]


def test_custom_tools_are_called(gateway: Gateway, key: str) -> None:
    events, response = streamed(
        gateway, key, model="native~calls", input="Hi", tools=[{"type": "custom", "name": "run"}]
    )
    assert response["output"][0]["input"] == FREE_TEXT == deltas(events, "response.custom_tool_call_input.delta")


def test_reasoning_goes_back_to_its_deployment_only(gateway: Gateway, key: str, upstream: FakeNative) -> None:
    first = ask(gateway, key, model="native~thinks~text", stream=True)
    assert last_request(upstream, "native~thinks~text").json["include"] == [ENCRYPTED_CONTENT]
    assert "encrypted_content" not in json.dumps(first)

    def follow(model: str) -> JsonObject:
        return ask(gateway, key, model=model, input="more", previous_response_id=first["id"])

    follow("native~thinks~text")
    [thought] = [
        item for item in last_request(upstream, "native~thinks~text").json["input"] if item["type"] == "reasoning"
    ]
    assert (thought["encrypted_content"], thought["summary"][0]["text"]) == (ENCRYPTED, SUMMARY)
    assert "id" not in thought
    follow("other")
    assert types(last_request(upstream, "other~thinks~text").json["input"]) == ["user", "assistant", "user"]
    for model, name in (("chat-only", "chat-up"), ("claude", "claude-sonnet-4-5")):
        follow(model)
        assert ENCRYPTED not in last_request(upstream, name).body.decode()
        assert SUMMARY not in last_request(upstream, name).body.decode()


def test_reasoning_without_encryption_goes_back_in_words(gateway: Gateway, key: str, upstream: FakeNative) -> None:
    first = ask(gateway, key, model="native~plain~text", stream=True)
    ask(gateway, key, model="native~plain~text", previous_response_id=first["id"])
    items = last_request(upstream, "native~plain~text").json["input"]
    content = [{"type": "reasoning_text", "text": native.THOUGHT}]
    assert items[1] == {"type": "reasoning", "summary": [], "content": content}


def test_a_client_that_keeps_its_own_history_brings_reasoning_back(client: openai.OpenAI, upstream: FakeNative) -> None:
    first = client.responses.create(
        model="native~thinks~text", input="one", store=False, include=["reasoning.encrypted_content"]
    )
    history: list[Any] = [{"role": "user", "content": "one"}, *first.output, {"role": "user", "content": "two"}]
    client.responses.create(model="native~thinks~text", input=history, store=False)
    items = last_request(upstream, "native~thinks~text").json["input"]
    assert types(items) == ["user", "reasoning", "assistant", "user"]
    assert items[1]["encrypted_content"] == ENCRYPTED


def test_a_conversation_wanders_between_upstreams_of_every_kind(
    gateway: Gateway, key: str, upstream: FakeNative
) -> None:
    way = ["native~thinks~text", "chat-only", "claude", "native~search", "chat-only", "native"]
    before = ""
    for number, model in enumerate(way):
        link = {"previous_response_id": before} if before else {}
        response = ask(gateway, key, model=model, input=f"turn {number}", stream=number % 2 == 0, **link)
        assert (response["status"], response["model"]) == ("completed", model)
        before = response["id"]
    items = last_request(upstream, "native").json["input"]
    texts = [part["text"] for item in items if item["type"] == "message" for part in item["content"]]
    assert texts[::2] == [f"turn {number}" for number in range(6)]
    assert texts[1::2] == [TEXT, echo_of("turn 1"), echo_of("turn 2"), TEXT, echo_of("turn 4")]
    assert types(items).count("reasoning") == 0
    assert [item["type"] for item in items if "web" in item["type"]] == ["web_search_call"]


def test_a_response_that_was_too_short_is_continued_without_what_was_cut(
    gateway: Gateway, key: str, upstream: FakeNative
) -> None:
    first = ask(gateway, key, model="native~short", stream=True)
    assert (first["status"], first["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert fetch_stored(gateway, key, first["id"]) == first
    ask(gateway, key, model="native", previous_response_id=first["id"])
    assert types(last_request(upstream, "native").json["input"]) == ["user", "assistant", "user"]


# In the background, over a WebSocket, in a conversation


def ended(client: openai.OpenAI, response_id: str) -> Any:
    def look() -> Any:
        response = client.responses.retrieve(response_id)
        return False if response.status in {"queued", "in_progress"} else response

    return eventually(look, within_s=20, what=f"{response_id} has ended")


def test_in_the_background_it_is_made_and_billed_once(gateway: Gateway, upstream: FakeNative) -> None:
    key = gateway.issue_key()
    client = gateway.openai(key)
    before = len(upstream.of("native~thinks~text"))
    created = client.responses.create(model="native~thinks~text", input="Hi", background=True, metadata={"job": "1"})
    assert (created.status, created.output, created.background) == ("queued", [], True)
    final = ended(client, created.id)
    assert (final.id, final.status, final.output_text, final.metadata) == (created.id, "completed", TEXT, {"job": "1"})
    assert {response_of(item.id) for item in final.output} == {created.id}
    replayed = check(read_frames(get(gateway, key, f"/v1/responses/{created.id}", stream="true").content))
    assert replayed == fetch_stored(gateway, key, created.id)
    [row] = gateway.wait_priced(api_key=key)
    assert decimal_cost(row) == COST
    assert len(upstream.of("native~thinks~text")) == before + 1
    request = last_request(upstream, "native~thinks~text").json
    assert (request["store"], "background" in request, "metadata" in request) == (False, False, False)


def test_a_background_stream_that_was_left_is_taken_up_where_it_was(gateway: Gateway, key: str) -> None:
    body = {"model": "native~search~slow", "input": "Hi", "background": True, "stream": True}
    raw = b""
    with gateway.http.stream("POST", "/v1/responses", json=body, headers={"authorization": f"Bearer {key}"}) as answer:
        for piece in answer.iter_raw():
            raw += piece
            if b"output_text.delta" in raw:
                break
    first = read_frames(raw[: raw.rindex(b"\n\n") + 2], done=False)
    response_id = first[0]["response"]["id"]
    path, after = f"/v1/responses/{response_id}", first[-1]["sequence_number"]
    rest = read_frames(get(gateway, key, path, stream="true", starting_after=after).content)
    response = check([*first, *rest])
    assert (response["status"], text_of(response)) == ("completed", TEXT)
    assert fetch_stored(gateway, key, response_id) == response


def test_a_background_response_that_is_cancelled_lets_its_upstream_go(
    client: openai.OpenAI, upstream: FakeNative
) -> None:
    before = len(upstream.of("native~slow"))
    created = client.responses.create(model="native~slow", input="Hi", background=True)
    recorded = eventually(
        lambda: next((one for one in upstream.of("native~slow")[before:] if one.sent_bytes), False),
        within_s=20,
        what="the upstream talks",
    )
    cancelled = client.responses.cancel(created.id)
    assert cancelled.status == "cancelled"
    assert eventually(lambda: recorded.disconnected, within_s=4, what="the upstream call ends")
    assert client.responses.retrieve(created.id) == cancelled


@pytest.mark.parametrize(("way", "code"), [("fails", "server_error"), ("429", "rate_limit_exceeded")])
def test_a_background_response_that_fails_says_why(client: openai.OpenAI, way: str, code: str) -> None:
    final = ended(client, client.responses.create(model=f"native~{way}", input="Hi", background=True).id)
    assert final.status == "failed"
    assert final.error is not None
    assert final.error.code == code
    assert not [leak for leak in LEAKS if leak in final.to_json()]


@pytest.mark.parametrize("store", [True, False], ids=["stored", "not stored"])
def test_over_a_websocket_turns_follow_each_other(
    gateway: Gateway, key: str, upstream: FakeNative, store: bool
) -> None:
    with opener(gateway, key)() as line:
        first = line.turn("one", model="native~thinks~calls", tools=TOOLS, store=store)
        calls = [item["call_id"] for item in first["output"] if item["type"] == "function_call"]
        results = [{"type": "function_call_output", "call_id": call, "output": "7"} for call in calls]
        link = {"previous_response_id": first["id"], "tools": TOOLS}
        second = line.turn(results, model="native~thinks~calls", store=store, **link)
    assert text_of(second) == TEXT
    request = last_request(upstream, "native~thinks~calls").json
    assert types(request["input"]) == ["user", "reasoning", *["function_call"] * 2, *["function_call_output"] * 2]
    assert request["store"] is False
    answer = get(gateway, key, f"/v1/responses/{second['id']}")
    assert (answer.json() == second) if store else (answer.status_code == 404)


def test_a_conversation_holds_what_was_said_by_every_way(client: openai.OpenAI, upstream: FakeNative) -> None:
    conversation = client.conversations.create(items=[{"role": "user", "content": "zero"}])
    client.responses.create(model="native", input="one", conversation=conversation.id)
    with client.responses.stream(model="native~search", input="two", conversation=conversation.id) as stream:
        stream.until_done()
    created = client.responses.create(model="native", input="three", conversation=conversation.id, background=True)
    assert ended(client, created.id).status == "completed"
    client.responses.create(model="native", input="four", conversation=conversation.id)
    history = types(last_request(upstream, "native").json["input"])
    assert history == ["user", "user", "assistant", "user", "web_search_call", "assistant", "user", "assistant", "user"]
    listed = [item.to_dict() for item in client.conversations.items.list(conversation.id, order="asc", limit=100)]
    assert types(listed) == [*history, "assistant"]


# Money


@BOTH
def test_usage_and_cost_are_exact(gateway: Gateway, stream: bool) -> None:
    key = gateway.issue_key()
    response = ask(gateway, key, model="native~thinks~text", stream=stream)
    assert response["usage"] == native.USAGE
    [row] = gateway.wait_priced(api_key=key)
    assert decimal_cost(row) == COST
    assert (row["prompt_tokens"], row["completion_tokens"], row["model"]) == (1207, 311, "openai/native~thinks~text")
    assert row["usage_estimated"] is False


def test_usage_that_is_not_told_is_estimated(gateway: Gateway) -> None:
    key = gateway.issue_key()
    response = ask(gateway, key, model="native~unpaid", stream=True)
    [row] = gateway.wait_priced(api_key=key)
    assert row["usage_estimated"] is True
    assert response["usage"]["input_tokens"] == row["prompt_tokens"] > 0
    assert response["usage"]["output_tokens"] == row["completion_tokens"] > 0


# What goes wrong


@pytest.mark.parametrize(
    ("name", "stream", "status", "code"),
    [
        ("fails", False, 502, "upstream_error"),
        ("limited", False, 429, "rate_limit_exceeded"),
        ("running", False, 502, "upstream_error"),
        ("error", True, 502, "upstream_error"),
        *(
            (name, stream, status, code)
            for stream in (False, True)
            for name, status, code in (
                ("400", 400, "invalid_value"),
                ("429", 429, "rate_limit_exceeded"),
                ("500", 502, "upstream_error"),
            )
        ),
    ],
)
def test_a_failure_before_anything_was_said_is_told_by_the_status(
    gateway: Gateway, key: str, name: str, stream: bool, status: int, code: str
) -> None:
    answer = post(gateway, key, model=f"native~{name}", input="Hi", stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["param"] == ("input[0].content" if name == "400" else None)
    assert not [leak for leak in LEAKS if leak in answer.text]
    assert get(gateway, key, "/v1/responses").json()["data"] == []


@pytest.mark.parametrize("name", ["errs", "cut", "ends", "fails", "limited"])
def test_a_stream_that_breaks_is_ended_by_the_grammar_and_kept_as_it_was(gateway: Gateway, key: str, name: str) -> None:
    answer = post(gateway, key, model=f"native~{name}", input="Hi", stream=True)
    assert answer.status_code == 200
    events = read_frames(answer.content)
    response = check(events)
    assert response["status"] == "failed"
    assert response["error"]["code"] == ("rate_limit_exceeded" if name == "limited" else "server_error")
    assert text_of(response) == deltas(events) != ""
    assert not [leak for leak in LEAKS if leak in answer.text]
    assert fetch_stored(gateway, key, response["id"]) == response
    follow = post(gateway, key, model="native", input="Hi", previous_response_id=response["id"])
    assert (follow.status_code, follow.json()["status"]) == (200, "completed")


@pytest.mark.parametrize(
    ("way", "stream"),
    [("error", True), ("fails", False), *((way, stream) for way in ("500", "429") for stream in (False, True))],
)
def test_another_deployment_answers_where_one_fails_at_once(
    gateway: Gateway, key: str, upstream: FakeNative, way: str, stream: bool
) -> None:
    before = len(upstream.of(f"spare~{way}"))
    response = ask(gateway, key, model=f"spare-{way}-{'stream' if stream else 'whole'}", stream=stream)
    assert text_of(response) == TEXT
    assert len(upstream.of(f"spare~{way}")) == before + 1


def test_a_client_that_leaves_has_its_response_kept_as_cancelled(
    gateway: Gateway, key: str, upstream: FakeNative
) -> None:
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "native~slow", "input": "Hi", "stream": True}
    received = b""
    with httpx.stream("POST", f"{gateway.url}/v1/responses", json=body, headers=headers, timeout=30) as answer:
        for piece in answer.iter_raw():
            received += piece
            if b"output_text.delta" in received:
                break
    response_id = json.loads(received.split(b"data: ")[1].split(b"\n")[0])["response"]["id"]

    def stored() -> JsonObject | None:
        answer = get(gateway, key, f"/v1/responses/{response_id}")
        return answer.json() if answer.status_code == 200 else None

    response = eventually(lambda: stored() or False, within_s=5, what="the response is kept")
    assert response["status"] == "cancelled"
    assert TEXT.startswith(text_of(response))
    assert text_of(response)
    assert eventually(
        lambda: last_request(upstream, "native~slow").disconnected, within_s=5, what="the upstream is left"
    )


# References to items


def reference(item_id: str) -> JsonObject:
    return {"type": "item_reference", "id": item_id}


def test_an_item_of_an_earlier_response_is_named_by_its_id(gateway: Gateway, key: str, upstream: FakeNative) -> None:
    first = ask(gateway, key, model="native", input="question")
    question = get(gateway, key, f"/v1/responses/{first['id']}/input_items").json()["data"][0]["id"]
    for model, name in (("native", "native"), ("chat-only", "chat-up")):
        items = [reference(question), reference(first["output"][0]["id"]), {"role": "user", "content": "two"}]
        second = ask(gateway, key, model=model, input=items)
        body = last_request(upstream, name).body.decode()
        assert [body.count(text) for text in ("question", json.dumps(TEXT, ensure_ascii=False)[1:-1], "two")] == [
            1,
            1,
            1,
        ]
        listed = get(gateway, key, f"/v1/responses/{second['id']}/input_items", order="asc").json()["data"]
        assert types(listed) == ["user", "assistant", "user"]


def test_what_the_history_holds_is_not_said_twice(gateway: Gateway, key: str, upstream: FakeNative) -> None:
    first = ask(gateway, key, model="native", input="one")
    answer = first["output"][0]["id"]
    items = [reference(answer), reference(answer), {"role": "user", "content": "two"}]
    ask(gateway, key, model="native", input=items, previous_response_id=first["id"])
    assert types(last_request(upstream, "native").json["input"]) == ["user", "assistant", "user"]
    ask(gateway, key, model="native", input=items)
    assert types(last_request(upstream, "native").json["input"]) == ["assistant", "user"]


def test_calls_are_named_by_reference_with_their_outputs(gateway: Gateway, key: str, upstream: FakeNative) -> None:
    first = ask(gateway, key, model="native~calls", tools=TOOLS)
    call = first["output"][0]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "7"}
    alone = post(gateway, key, model="native", input=[reference(call["id"])])
    assert (alone.status_code, alone.json()["error"]["param"]) == (400, "input")
    ask(gateway, key, model="native", input=[reference(call["id"]), output])
    assert types(last_request(upstream, "native").json["input"]) == ["function_call", "function_call_output"]


def test_an_item_that_is_not_the_callers_is_not_there(gateway: Gateway, key: str, stranger: str) -> None:
    first = ask(gateway, key, model="native")
    mine = first["output"][0]["id"]
    unkept = ask(gateway, key, model="native", store=False)["output"][0]["id"]
    unknown = f"msg_{'0' * 48}0001"

    def refused(who: str, item_id: str) -> str:
        answer = post(gateway, who, model="native", input=[reference(item_id)])
        assert answer.status_code == 404
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("input[0].id", "item_not_found")
        text: str = answer.text.replace(item_id, "ID")
        return text

    errors = {refused(stranger, mine), refused(key, unknown), refused(key, unkept), refused(key, "msg_of_nobody")}
    errors.add(refused(key, f"{mine[:-4]}ffff"))
    assert get(gateway, key, f"/v1/responses/{first['id']}").status_code == 200
    gateway.http.delete(f"/v1/responses/{first['id']}", headers={"authorization": f"Bearer {key}"})
    errors.add(refused(key, mine))
    assert len(errors) == 1
