"""/v1/responses and its stored responses: their contents, the keys that see them, and follow-ups."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway, decimal_cost
from tests.e2e.streams import deltas, get, post, streamed, text_of
from tests.fakes.upstream import FREE_TEXT, Answer, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

MODEL, UPSTREAM = "chat", "up-chat"
COST = Decimal("0.000348450")  # of the fake upstream's usual usage on `priced`
PREFIX = pytest.mark.parametrize("prefix", ["/v1", ""], ids=["v1", "bare"])
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
WEATHER: JsonObject = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CUSTOM: JsonObject = {"type": "custom", "name": "run"}
LOGPROBS = "message.output_text.logprobs"
#: Members of the object that Open Responses wants always there.
MEMBERS = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id"),
    *("instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p"),
    *("temperature", "presence_penalty", "frequency_penalty", "top_logprobs", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key"),
}
#: Sets a response's expiry back. Its text is the program of a second process.
EXPIRE = """
from datetime import timedelta
from django.utils import timezone
from django_scopes import scopes_disabled
from gateway.models import StoredResponse
with scopes_disabled():
    rows = StoredResponse.objects.filter(pk="{id}")
    assert rows.update(expires_at=timezone.now() - timedelta(seconds=1)) == 1
"""
ORGANIZATION = """
from tenants.models import Organization
Organization.objects.get_or_create(id="org-{name}", name="{name}")
"""
#: Makes the response the first of a chain of `length`.
CHAIN = """
from django_scopes import scopes_disabled
from gateway.models import StoredResponse
with scopes_disabled():
    first = StoredResponse.objects.get(pk="{id}")
    names = [field.attname for field in StoredResponse._meta.concrete_fields]
    values = {{name: getattr(first, name) for name in names}}
    ids = [first.pk] + [first.pk[:-12] + f"{{depth:012x}}" for depth in range(2, {length} + 1)]
    rows = [
        StoredResponse(**values | {{"id": own, "parent_id": parent, "depth": depth}})
        for depth, (parent, own) in enumerate(zip(ids, ids[1:]), 2)
    ]
    StoredResponse.objects.bulk_create(rows, batch_size=200)
    print(ids[-2], ids[-1])
"""


def run(gateway: Gateway, program: str, **values: Any) -> str:
    process = gateway.manage("shell", "--no-imports", "-c", program.format(**values))
    assert process.returncode == 0, process.stderr
    return process.stdout


def delete(gateway: Gateway, key: str, path: str) -> Any:
    return gateway.http.delete(path, headers={"authorization": f"Bearer {key}"})


def create(gateway: Gateway, key: str, question: str = "hi", /, **body: Any) -> JsonObject:
    """A response that was completed, or ended as `status` says."""
    status = body.pop("status", "completed")
    answer = post(gateway, key, **{"model": MODEL, "input": question, **body})
    assert answer.status_code == 200, answer.text
    response: JsonObject = answer.json()
    assert response["status"] == status
    return response


def refused(gateway: Gateway, key: str, **body: Any) -> JsonObject:
    """The error of a create that is not allowed."""
    answer = post(gateway, key, **{"model": MODEL, "input": "hi", **body})
    assert answer.status_code == 400, answer.text
    error: JsonObject = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


def upstream_turns(upstream: FakeUpstream, model: str = UPSTREAM) -> list[str]:
    """The upstream's last request, turn by turn."""
    return [f"{turn['role']}: {turn.get('content') or ''}" for turn in upstream.last(model).json["messages"]]


def answer_turn(response: JsonObject) -> str:
    return f"assistant: {text_of(response)}"


def output(call_id: str, text: str = "21 °C") -> JsonObject:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


# The object


@PREFIX
def test_get_answers_the_very_object_that_create_did(gateway: Gateway, key: str, prefix: str) -> None:
    created = post(gateway, key, f"{prefix}/responses", model=MODEL, input="你好", metadata={"näme": "wért"})
    fetched = get(gateway, key, f"{prefix}/responses/{created.json()['id']}")
    assert fetched.content == created.content
    assert set(created.json()) >= MEMBERS
    assert created.headers["content-type"] == fetched.headers["content-type"] == "application/json"
    assert "x-request-id" in fetched.headers


def test_get_answers_the_very_object_of_the_terminal_event(gateway: Gateway, key: str) -> None:
    raw = post(gateway, key, model=MODEL, input="你好", stream=True).content
    *_, last, end = raw.removesuffix(b"\n\n").split(b"\n\n")
    assert end == b"data: [DONE]"
    response_id = json.loads(last.partition(b"data: ")[2])["response"]["id"]
    fetched = get(gateway, key, f"/v1/responses/{response_id}")
    assert b'"response":' + fetched.content in last


def test_the_object_has_the_defaults_of_what_was_not_asked(gateway: Gateway, key: str) -> None:
    response = create(gateway, key)
    assert {name: response[name] for name in ("temperature", "top_p", "truncation", "tool_choice", "tools")} == {
        "temperature": 1,
        "top_p": 1,
        "truncation": "disabled",
        "tool_choice": "auto",
        "tools": [],
    }
    assert response["text"]["format"] == {"type": "text"}
    assert (response["store"], response["background"], response["service_tier"]) == (True, False, "default")
    assert (response["parallel_tool_calls"], response["metadata"], response["error"]) == (True, {}, None)
    assert (type(response["created_at"]), type(response["completed_at"])) == (int, int)
    assert "output_text" not in response
    assert {"cached_tokens", "cache_write_tokens"} <= set(response["usage"]["input_tokens_details"])


def test_the_object_repeats_what_was_asked(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    fields: JsonObject = {
        "instructions": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 99,
        "metadata": {"a": "1", "b": "zwei"},
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "truncation": "auto",
        "safety_identifier": "user-7",
        "prompt_cache_key": "k",
    }
    response = create(gateway, key, tools=[WEATHER], **fields)
    assert {name: response[name] for name in fields} == fields
    assert [(tool["name"], tool["parameters"]) for tool in response["tools"]] == [
        ("get_weather", WEATHER["parameters"])
    ]
    assert {"description", "strict"} <= set(response["tools"][0])
    request = upstream.last(UPSTREAM).json
    assert (request["temperature"], request["top_p"], request["tool_choice"]) == (0.5, 0.9, "none")
    assert {"metadata", "store", "truncation", "previous_response_id", "include", "conversation"}.isdisjoint(request)


def test_ids_are_the_same_everywhere(gateway: Gateway, key: str) -> None:
    events, response = streamed(gateway, key, model=MODEL, input="hi", tools=[WEATHER])
    ids = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
    fetched = get(gateway, key, f"/v1/responses/{response['id']}").json()
    assert ids == [item["id"] for item in response["output"]] == [item["id"] for item in fetched["output"]]
    outputs = [output(item["call_id"]) for item in response["output"]]
    child = create(gateway, key, previous_response_id=response["id"], input=outputs)
    listed = get(gateway, key, f"/v1/responses/{child['id']}/input_items", order="asc").json()["data"]
    again = get(gateway, key, f"/v1/responses/{child['id']}/input_items", order="asc").json()["data"]
    assert [item["id"] for item in listed] == [item["id"] for item in again]
    everything = [*ids, *(item["id"] for item in listed), child["output"][0]["id"], response["id"], child["id"]]
    assert len(set(everything)) == len(everything)
    assert response["id"].startswith("resp_")
    assert max(map(len, everything)) <= 64


@BOTH
def test_metadata_is_kept_and_limited(gateway: Gateway, key: str, stream: bool) -> None:
    full = {f"{number:064}": "ü" * 512 for number in range(16)}
    if stream:
        _, response = streamed(gateway, key, model=MODEL, input="hi", metadata=full)
    else:
        response = create(gateway, key, metadata=full)
    assert response["metadata"] == get(gateway, key, f"/v1/responses/{response['id']}").json()["metadata"] == full
    cases: list[tuple[Any, str]] = [
        ({str(number): "x" for number in range(17)}, "metadata"),
        ({"x" * 65: "x"}, "metadata"),
        ({"x": "x" * 513}, "metadata.x"),
        ({"x": 1}, "metadata.x"),
        ([], "metadata"),
    ]
    for metadata, param in cases:
        assert refused(gateway, key, metadata=metadata, stream=stream)["param"] == param


def test_what_include_gates_is_kept_and_shown_to_who_asks(gateway: Gateway, key: str) -> None:
    response = create(gateway, key, top_logprobs=2)
    path = f"/v1/responses/{response['id']}"

    def scores(response: JsonObject) -> list[Any]:
        value: list[Any] = response["output"][0]["content"][0]["logprobs"]
        return value

    assert scores(response) == scores(get(gateway, key, path).json()) == []
    fetched = get(gateway, key, path, **{"include[]": LOGPROBS}).json()
    assert "".join(score["token"] for score in scores(fetched)) == text_of(response)
    assert get(gateway, key, path, include=LOGPROBS).json() == fetched
    created = create(gateway, key, include=[LOGPROBS])
    assert "".join(score["token"] for score in scores(created)) == text_of(created)
    events, _ = streamed(gateway, key, model=MODEL, input="hi", include=[LOGPROBS])
    assert all(event["logprobs"] for event in events if event["type"] == "response.output_text.delta")
    wrong = get(gateway, key, path, include="everything")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "include")
    assert refused(gateway, key, include=["everything"])["param"] == "include[0]"


# The lists


def test_responses_are_listed_and_filtered(gateway: Gateway, key: str) -> None:
    made_ids = [
        create(gateway, key, str(number), model=("chat", "priced")[number % 2], metadata={"n": str(number % 3)})["id"]
        for number in range(7)
    ]
    failed = streamed(gateway, key, model="fault-cut", input="hi")[1]
    assert failed["status"] == "failed"

    def listed(**query: Any) -> list[str]:
        answer = get(gateway, key, "/v1/responses", **query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        ids = [one["id"] for one in page["data"]]
        assert (page["object"], page["first_id"], page["last_id"]) == (
            "list",
            *((ids[0], ids[-1]) if ids else (None,) * 2),
        )
        return ids

    newest_first = [failed["id"], *reversed(made_ids)]
    assert listed() == newest_first
    assert listed(order="asc") == list(reversed(newest_first))
    assert listed(limit=3) == newest_first[:3]
    assert listed(limit=3, after=newest_first[2]) == newest_first[3:6]
    assert listed(limit=3, order="asc", after=made_ids[2]) == made_ids[3:6]
    assert listed(model="priced") == [one for one in newest_first if one in made_ids[1::2]]
    assert listed(status="failed") == [failed["id"]]
    assert listed(**{"metadata[n]": "1"}) == [made_ids[4], made_ids[1]]
    assert listed(**{"metadata[n]": "1", "model": "priced"}) == [made_ids[1]]
    assert listed(**{"metadata[n]": "9"}) == []
    pages: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = get(gateway, key, "/v1/responses", limit=2, **after).json()
        pages += [one["id"] for one in page["data"]]
        after = {"after": page["last_id"]}
        if not page["has_more"]:
            break
    assert pages == newest_first
    assert get(gateway, key, "/v1/responses", limit=1).json()["data"][0] == failed


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"metadata[a]": "\0"}, "metadata"),
        ({"metadata[\0]": "x"}, "metadata"),
        ({"limit": "x"}, "limit"),
        ({"order": "up"}, "order"),
        ({"status": "sleeping"}, "status"),
        ({"after": "resp_nobody"}, "after"),
        ({"include": "all"}, "include"),
    ],
)
def test_a_list_refuses_what_it_does_not_know(gateway: Gateway, key: str, query: Any, param: str) -> None:
    answer = get(gateway, key, "/v1/responses", **query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_input_items_are_paged_in_both_orders(gateway: Gateway, client: openai.OpenAI, key: str) -> None:
    parent = create(gateway, key, "parent")
    turns: Any = [{"role": "user", "content": str(number)} for number in range(45)]
    child = client.responses.create(model=MODEL, input=turns, previous_response_id=parent["id"])

    def texts(**query: Any) -> list[str]:
        items: Any = client.responses.input_items.list(child.id, **query)
        return [item.content[0].text for item in items]

    numbers = [str(number) for number in range(45)]
    assert texts() == numbers[::-1]  # the newest first, and no history
    assert texts(order="asc") == numbers
    assert texts(order="asc", limit=7) == numbers
    page = get(gateway, key, f"/v1/responses/{child.id}/input_items").json()
    assert (len(page["data"]), page["has_more"], page["object"]) == (20, True, "list")
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
    wrong = get(gateway, key, f"/v1/responses/{child.id}/input_items", after="msg_nobody")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")


# Who sees it


@pytest.fixture
def stranger(gateway: Gateway) -> str:
    """A key of another team in the same organization."""
    team = gateway.admin.post("/team/new", json={"team_alias": "strangers"}).json()["team_id"]
    return gateway.issue_key(team_id=team)


Ask = Callable[[Gateway, str, str], Any]
ACCESSES: dict[str, Ask] = {
    "get": lambda gateway, key, name: get(gateway, key, f"/v1/responses/{name}"),
    "stream": lambda gateway, key, name: get(gateway, key, f"/v1/responses/{name}", stream="true"),
    "delete": lambda gateway, key, name: delete(gateway, key, f"/v1/responses/{name}"),
    "cancel": lambda gateway, key, name: post(gateway, key, f"/v1/responses/{name}/cancel"),
    "input_items": lambda gateway, key, name: get(gateway, key, f"/v1/responses/{name}/input_items"),
    "previous": lambda gateway, key, name: post(gateway, key, model=MODEL, input="hi", previous_response_id=name),
    "streamed previous": lambda gateway, key, name: post(
        gateway, key, model=MODEL, input="hi", previous_response_id=name, stream=True
    ),
}


def test_what_is_not_there_for_you_cannot_be_told_apart(gateway: Gateway, key: str, stranger: str) -> None:
    foreign, deleted, expired = (create(gateway, who)["id"] for who in (stranger, key, key))
    unkept = create(gateway, key, store=False)["id"]
    assert delete(gateway, key, f"/v1/responses/{deleted}").status_code == 200
    run(gateway, EXPIRE, id=expired)
    unknown = "resp_" + "0" * 48
    for name, ask in ACCESSES.items():
        expected = ask(gateway, key, unknown)
        assert expected.status_code == (400 if "previous" in name else 404)
        if "previous" in name:
            error = expected.json()["error"]
            assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
        for hidden in (foreign, deleted, expired, unkept):
            answer = ask(gateway, key, hidden)
            assert answer.status_code == expected.status_code
            assert answer.content.replace(hidden.encode(), unknown.encode()) == expected.content, name
            assert set(answer.headers) == set(expected.headers)
    assert get(gateway, stranger, f"/v1/responses/{foreign}").status_code == 200
    assert get(gateway, key, "/v1/responses").json()["data"] == []


@pytest.mark.parametrize("name", ["x" * 129, "a.b", "a b", "resp_é", "'--"])
def test_an_id_that_cannot_be_one_is_not_found(gateway: Gateway, key: str, name: str) -> None:
    for path in (f"/v1/responses/{name}", f"/v1/responses/{name}/input_items"):
        assert get(gateway, key, path).status_code == 404
    error = refused(gateway, key, previous_response_id=name)
    assert error["code"] == "previous_response_not_found"


def test_a_team_shares_its_responses_and_a_person_her_own(gateway: Gateway) -> None:
    run(gateway, ORGANIZATION, name="elsewhere")
    team = gateway.admin.post("/team/new", json={"team_alias": "one"}).json()["team_id"]
    mate, other_mate = (gateway.issue_key(team_id=team) for _ in range(2))
    hers, also_hers = (gateway.issue_key(user_id=f"ada-{gateway.port}") for _ in range(2))
    his = gateway.issue_key(user_id=f"bob-{gateway.port}")
    alone, alone_too = gateway.issue_key(), gateway.issue_key()
    elsewhere = gateway.issue_key(organization_id="org-elsewhere")
    in_team = gateway.issue_key(team_id=team, user_id=f"ada-{gateway.port}")
    everybody = [mate, other_mate, hers, also_hers, his, alone, alone_too, elsewhere, in_team]
    visible = {mate: {mate, other_mate, in_team}, hers: {hers, also_hers}, alone: {alone}}
    for maker, readers in visible.items():
        response = create(gateway, maker)
        allowed = {key for key in everybody if get(gateway, key, f"/v1/responses/{response['id']}").status_code == 200}
        assert allowed == readers
        for reader in readers:
            assert create(gateway, reader, previous_response_id=response["id"])["status"] == "completed"
            assert response["id"] in {one["id"] for one in get(gateway, reader, "/v1/responses").json()["data"]}


def test_a_deleted_response_is_gone_at_once(gateway: Gateway, client: openai.OpenAI, key: str) -> None:
    response = create(gateway, key)
    gone = delete(gateway, key, f"/v1/responses/{response['id']}")
    assert gone.json() == {"id": response["id"], "object": "response", "deleted": True}
    assert delete(gateway, key, f"/v1/responses/{response['id']}").status_code == 404
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response["id"])
    other = create(gateway, key)
    client.responses.delete(other["id"])
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(other["id"])


def test_only_background_responses_can_be_cancelled(gateway: Gateway, key: str) -> None:
    answer = post(gateway, key, f"/v1/responses/{create(gateway, key)['id']}/cancel")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "", 405),
        ("PATCH", "/resp_1", 405),
        ("DELETE", "", 405),
        ("POST", "/resp_1", 405),
        ("GET", "/resp_1/cancel", 405),
        ("POST", "/resp_1/input_items", 405),
        ("GET", "/resp_1/other", 404),
        ("GET", "/resp_1/input_items/msg_1", 404),
    ],
)
def test_other_methods_and_paths_are_refused(gateway: Gateway, key: str, method: str, path: str, status: int) -> None:
    answer = gateway.http.request(method, f"/v1/responses{path}", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


# What a follow-up builds upon


@BOTH
def test_the_second_request_continues_the_first_and_the_third_knows_nothing(
    gateway: Gateway, key: str, upstream: FakeUpstream, stream: bool
) -> None:
    def ask(text: str, **body: Any) -> JsonObject:
        if stream:
            return streamed(gateway, key, model=MODEL, input=text, **body)[1]
        return create(gateway, key, text, **body)

    first = ask("My name is Ada.")
    second = ask("What is my name?", previous_response_id=first["id"])
    assert upstream_turns(upstream) == ["user: My name is Ada.", answer_turn(first), "user: What is my name?"]
    assert second["previous_response_id"] == first["id"]
    ask("What is my name?")
    assert upstream_turns(upstream) == ["user: What is my name?"]


def test_forks_do_not_see_each_other(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    root = create(gateway, key, "root")
    before = get(gateway, key, f"/v1/responses/{root['id']}").content
    branch = create(gateway, key, "left", previous_response_id=root["id"])
    right = create(gateway, key, "right", previous_response_id=root["id"])
    create(gateway, key, "left again", previous_response_id=branch["id"])
    assert upstream_turns(upstream) == [
        "user: root",
        answer_turn(root),
        "user: left",
        answer_turn(branch),
        "user: left again",
    ]
    create(gateway, key, "right again", previous_response_id=right["id"])
    assert upstream_turns(upstream) == [
        "user: root",
        answer_turn(root),
        "user: right",
        answer_turn(right),
        "user: right again",
    ]
    assert get(gateway, key, f"/v1/responses/{root['id']}").content == before


def test_a_model_may_be_changed_between_turns(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    first = create(gateway, key, "one")
    second = create(gateway, key, "two", model="priced", previous_response_id=first["id"])
    third = create(gateway, key, "three", previous_response_id=second["id"])
    assert upstream_turns(upstream) == [
        "user: one",
        answer_turn(first),
        "user: two",
        answer_turn(second),
        "user: three",
    ]
    assert [one["model"] for one in (first, second, third)] == ["chat", "priced", "chat"]


def test_nothing_but_the_items_is_inherited(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    first = create(
        gateway,
        key,
        instructions="Speak French.",
        tools=[WEATHER],
        tool_choice="none",
        temperature=0.3,
        max_output_tokens=77,
        metadata={"a": "b"},
        text={"verbosity": "low"},
        user="ada",
    )
    second = create(gateway, key, "again", previous_response_id=first["id"])
    request = upstream.last(UPSTREAM).json
    assert upstream_turns(upstream) == ["user: hi", answer_turn(first), "user: again"]
    assert {"tools", "tool_choice", "temperature", "max_tokens", "max_completion_tokens", "user"}.isdisjoint(request)
    assert (second["instructions"], second["tools"], second["metadata"], second["temperature"]) == (None, [], {}, 1)
    third = create(gateway, key, "more", previous_response_id=second["id"], instructions="Speak German.")
    assert upstream_turns(upstream)[0] == "system: Speak German."
    create(gateway, key, "last", previous_response_id=third["id"])
    assert not [turn for turn in upstream_turns(upstream) if turn.startswith("system")]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_incomplete_response_is_continued_with_what_it_said(
    gateway: Gateway, key: str, upstream: FakeUpstream, reason: str
) -> None:
    with upstream.script(UPSTREAM, Answer(text="half of it", finish=reason)):
        cut = create(gateway, key, status="incomplete")
    assert cut["incomplete_details"] == {"reason": {"length": "max_output_tokens"}.get(reason, reason)}
    assert (cut["completed_at"], cut["output"][0]["status"]) == (None, "incomplete")
    create(gateway, key, "go on", previous_response_id=cut["id"])
    assert upstream_turns(upstream) == ["user: hi", "assistant: half of it", "user: go on"]


def test_a_response_that_failed_amid_its_text_is_continued(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    events, failed = streamed(gateway, key, model="fault-cut", input="hi")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert text_of(failed) == deltas(events) != ""
    assert get(gateway, key, f"/v1/responses/{failed['id']}").json() == failed
    create(gateway, key, previous_response_id=failed["id"], input="go on")
    turns = upstream.last(UPSTREAM).json["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert text_of(failed) in str(turns[1]["content"])


def test_what_never_began_is_not_kept(gateway: Gateway, key: str) -> None:
    for model in ("fault-500", "fault-400", "gone"):
        for stream in (False, True):
            answer = post(gateway, key, model=model, input="hi", stream=stream)
            assert answer.status_code >= 400
            assert answer.headers["content-type"] == "application/json"
    refused(gateway, key, temperature=9)
    assert get(gateway, key, "/v1/responses").json()["data"] == []


def test_calls_and_outputs_must_match(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    parent = create(gateway, key, tools=[WEATHER])
    calls = [item["call_id"] for item in parent["output"]]
    error = refused(gateway, key, previous_response_id=parent["id"])
    assert (error["message"], error["param"]) == (f"No tool output found for function call {calls[0]}.", "input")
    count = len(upstream.requests)
    error = refused(gateway, key, previous_response_id=parent["id"], input=[output(calls[0])])
    assert error["message"] == f"No tool output found for function call {calls[1]}."
    outputs = [output(call) for call in calls]
    error = refused(gateway, key, previous_response_id=parent["id"], input=[*outputs, output("call_nobody")])
    assert error["message"] == "No tool call found for function call output with call_id call_nobody."
    error = refused(gateway, key, input=[output("call_nobody")])
    assert (error["message"], error["param"]) == (
        "No tool call found for function call output with call_id call_nobody.",
        "input",
    )
    assert len(upstream.requests) == count  # nothing of it was sent
    create(gateway, key, previous_response_id=parent["id"], input=[*outputs[::-1], {"role": "user", "content": "so?"}])
    turns = upstream.last(UPSTREAM).json["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool", "user"]
    assert [call["id"] for call in turns[1]["tool_calls"]] == [turn["tool_call_id"] for turn in turns[2:4]] == calls


def test_a_custom_call_and_its_output_must_match(gateway: Gateway, key: str) -> None:
    parent = create(gateway, key, tools=[CUSTOM])
    [call] = parent["output"]
    assert (call["type"], call["input"]) == ("custom_tool_call", FREE_TEXT)
    error = refused(gateway, key, previous_response_id=parent["id"])
    assert error["message"] == f"No tool output found for custom tool call {call['call_id']}."
    orphan = {"type": "custom_tool_call_output", "call_id": "call_nobody", "output": "x"}
    assert "call_nobody" in refused(gateway, key, input=[orphan])["message"]


def test_a_chain_with_a_deleted_ancestor_is_broken(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    root = create(gateway, key, "the secret is 42")
    middle = create(gateway, key, "middle", previous_response_id=root["id"])
    leaf = create(gateway, key, "leaf", previous_response_id=middle["id"])
    assert delete(gateway, key, f"/v1/responses/{root['id']}").status_code == 200
    count = len(upstream.requests)
    for broken in (middle, leaf):
        error = refused(gateway, key, previous_response_id=broken["id"])
        assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
        assert broken["id"] in error["message"]
        assert get(gateway, key, f"/v1/responses/{broken['id']}").json() == broken
    assert len(upstream.requests) == count


def test_a_parent_and_a_conversation_exclude_each_other(gateway: Gateway, client: openai.OpenAI, key: str) -> None:
    conversation = client.conversations.create()
    error = refused(gateway, key, previous_response_id=create(gateway, key)["id"], conversation=conversation.id)
    assert error["code"] == "mutually_exclusive_parameters"


def test_a_response_without_store_is_answered_and_not_kept(gateway: Gateway, key: str) -> None:
    parent = create(gateway, key)
    child = create(gateway, key, store=False, previous_response_id=parent["id"])
    assert (child["store"], child["previous_response_id"]) == (False, parent["id"])
    assert get(gateway, key, f"/v1/responses/{child['id']}").status_code == 404
    error = refused(gateway, key, previous_response_id=child["id"])
    assert error["code"] == "previous_response_not_found"
    _, response = streamed(gateway, key, model=MODEL, input="hi", store=False)
    assert get(gateway, key, f"/v1/responses/{response['id']}").status_code == 404


def test_an_answer_is_taken_back_as_input_as_it_stands(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    """Some clients keep the history themselves: `input += response.output`."""
    first = create(gateway, key, "one", store=False)
    history: list[Any] = [{"role": "user", "content": "one"}, *first["output"], {"role": "user", "content": "two"}]
    called = create(gateway, key, input=history, store=False, tools=[WEATHER])
    assert upstream_turns(upstream) == ["user: one", answer_turn(first), "user: two"]
    history += [*called["output"], *(output(item["call_id"]) for item in called["output"])]
    assert create(gateway, key, input=history, store=False)["status"] == "completed"
    assert [turn["role"] for turn in upstream.last(UPSTREAM).json["messages"]][-3:] == ["assistant", "tool", "tool"]


def test_items_can_be_named_instead_of_sent(gateway: Gateway, key: str, stranger: str, upstream: FakeUpstream) -> None:
    first = create(gateway, key, "one")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    create(gateway, key, input=[reference, {"role": "user", "content": "two"}])
    assert upstream_turns(upstream) == [answer_turn(first), "user: two"]
    errors = []
    for who, name in ((stranger, reference["id"]), (key, "msg_" + "0" * len(reference["id"][4:]))):
        answer = post(gateway, who, model=MODEL, input=[{"type": "item_reference", "id": name}])
        assert answer.status_code in {400, 404}
        errors.append(answer.text.replace(name, "…"))
    assert errors[0] == errors[1]


def test_a_chain_of_a_thousand_is_continued_and_a_longer_one_refused(
    gateway: Gateway, key: str, upstream: FakeUpstream
) -> None:
    first = create(gateway, key, "hi")
    last_but_one, last = run(gateway, CHAIN, id=first["id"], length=1000).split()
    create(gateway, key, "the thousandth", previous_response_id=last_but_one)
    assert len(upstream_turns(upstream)) == 2 * 999 + 1
    count = len(upstream.requests)
    error = refused(gateway, key, previous_response_id=last)
    assert (error["param"], "1000" in error["message"]) == ("previous_response_id", True)
    assert len(upstream.requests) == count


# Affinity


def test_a_follow_up_goes_where_its_parent_was_answered(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    places = set()
    for number in range(60):
        start = f"{key[-8:]} {number}."
        response = create(gateway, key, start, model="weighted")
        for _ in range(3):
            response = create(gateway, key, "go on", model="weighted", previous_response_id=response["id"])
        models = [one.model for one in upstream.requests if start in one.body.decode()]
        assert (len(models), len(set(models))) == (4, 1)
        places.add(models[0])
        if len(places) == 2:
            return
    raise AssertionError(f"all went to {places}")


def test_a_follow_up_goes_elsewhere_when_its_parents_place_fails(
    gateway: Gateway, key: str, upstream: FakeUpstream
) -> None:
    first = create(gateway, key, "start", model="weighted")
    home = max((one for one in upstream.requests if "weighted" in one.model), key=lambda one: one.at).model
    [other] = {"up-weighted-a", "up-weighted-b"} - {home}
    with upstream.script(home, Answer(ending="cut")):
        second = create(gateway, key, "go on", model="weighted", previous_response_id=first["id"])
    assert upstream_turns(upstream, other) == ["user: start", answer_turn(first), "user: go on"]
    create(gateway, key, "and on", model="weighted", previous_response_id=second["id"])
    assert upstream_turns(upstream, other)[-1] == "user: and on"


# What it costs


@BOTH
def test_a_response_is_on_the_books_once(gateway: Gateway, stream: bool) -> None:
    key = gateway.issue_key()
    if stream:
        _, response = streamed(gateway, key, model="priced", input="hi")
    else:
        response = create(gateway, key, model="priced")
    [row] = gateway.wait_priced(api_key=key)
    assert (row["call_type"], row["model_group"], row["status"]) == ("aresponses", "priced", "success")
    used = response["usage"]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (used["input_tokens"], used["output_tokens"])
    assert decimal_cost(row) == COST
