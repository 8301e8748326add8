"""Conversations, with the openai SDK: their items, the keys that see them, and one response at a time."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.upstream import Answer, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

MODEL = "chat"
UPSTREAM = f"up-{MODEL}"


@pytest.fixture
def other(gateway: Gateway) -> openai.OpenAI:
    """A key of another team in the same organization."""
    team = gateway.admin.post("/team/new", json={"team_alias": "others"}).json()["team_id"]
    return gateway.openai(gateway.issue_key(team_id=team))


def text_of(item: Any) -> str:
    return "".join(part.text for part in item.content)


def user(text: str, **fields: Any) -> Any:
    return {"role": "user", "content": text, **fields}


def listed(client: openai.OpenAI, conversation_id: str) -> list[Any]:
    return list(client.conversations.items.list(conversation_id, order="asc", limit=100))


def upstream_texts(upstream: FakeUpstream) -> list[str]:
    return [str(message["content"]) for message in upstream.last(UPSTREAM).json["messages"]]


def call(gateway: Gateway, key: str, method: str, path: str, body: JsonObject | None = None) -> httpx.Response:
    return gateway.http.request(method, path, json=body, headers={"authorization": f"Bearer {key}"})


# Conversations


def test_a_conversation_is_created_read_changed_and_deleted(client: openai.OpenAI) -> None:
    created = client.conversations.create(metadata={"topic": "demo"}, items=[user("hello")])
    assert created.id.startswith("conv_")
    assert (created.object, created.metadata) == ("conversation", {"topic": "demo"})
    assert isinstance(created.created_at, int)
    assert client.conversations.retrieve(created.id) == created
    changed = client.conversations.update(created.id, metadata={"topic": "other"})
    assert (changed.id, changed.metadata, changed.created_at) == (created.id, {"topic": "other"}, created.created_at)
    assert client.conversations.update(created.id, metadata=None).metadata == {}
    gone = client.conversations.delete(created.id)
    assert (gone.id, gone.object, gone.deleted) == (created.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(created.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.delete(created.id)


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_both_prefixes_serve_conversations_and_an_empty_body_makes_one(gateway: Gateway, key: str, prefix: str) -> None:
    created = gateway.http.post(f"{prefix}/conversations", headers={"authorization": f"Bearer {key}"})
    assert created.status_code == 200
    assert created.json()["metadata"] == {}
    path = f"{prefix}/conversations/{created.json()['id']}"
    assert call(gateway, key, "GET", path).json() == created.json()
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert call(gateway, key, "GET", f"{path}/items").json() == empty


def test_items_are_added_listed_read_and_removed(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(items=[user("one")])
    added = client.conversations.items.create(conversation.id, items=[user("two", type="message"), user("three")])
    assert [text_of(item) for item in added.data] == ["two", "three"]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[1].id, False)
    newest_first = client.conversations.items.list(conversation.id)
    assert [text_of(item) for item in newest_first.data] == ["three", "two", "one"]
    item_id = added.first_id
    assert client.conversations.items.retrieve(item_id, conversation_id=conversation.id) == added.data[0]
    assert client.conversations.items.delete(item_id, conversation_id=conversation.id) == conversation
    assert [text_of(item) for item in listed(client, conversation.id)] == ["one", "three"]
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(item_id, conversation_id=conversation.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.delete(item_id, conversation_id=conversation.id)


def test_an_id_of_the_clients_own_is_kept_while_it_is_free(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(items=[user("one", id="msg_mine")])
    added = client.conversations.items.create(conversation.id, items=[user("two", id="msg_mine")])
    assert added.first_id != "msg_mine"
    assert [item.id for item in listed(client, conversation.id)] == ["msg_mine", added.first_id]


def test_a_thousand_items_are_paged_in_both_directions(client: openai.OpenAI) -> None:
    conversation = client.conversations.create()
    for start in range(0, 1000, 20):
        client.conversations.items.create(conversation.id, items=[user(str(n)) for n in range(start, start + 20)])
    assert [text_of(item) for item in listed(client, conversation.id)] == [str(n) for n in range(1000)]
    backwards = client.conversations.items.list(conversation.id, limit=99)
    assert [text_of(item) for item in backwards] == [str(n) for n in reversed(range(1000))]


BAD: dict[str, tuple[str, str, JsonObject, str | None]] = {
    "21 items at once": ("POST", "", {"items": [user("x")] * 21}, "items"),
    "items that are text": ("POST", "", {"items": "x"}, "items"),
    "an item without a type": ("POST", "", {"items": [{}]}, "items[0].type"),
    "a reference": ("POST", "", {"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].type"),
    "metadata that is a list": ("POST", "", {"metadata": []}, "metadata"),
    "a value that is no text": ("POST", "", {"metadata": {"a": 1}}, "metadata.a"),
    "17 pairs": ("POST", "", {"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
    "no metadata to set": ("POST", "/{id}", {}, "metadata"),
    "no items to add": ("POST", "/{id}/items", {}, "items"),
    "21 items to add": ("POST", "/{id}/items", {"items": [user("x")] * 21}, "items"),
    "a limit of 0": ("GET", "/{id}/items?limit=0", {}, "limit"),
    "a limit of 101": ("GET", "/{id}/items?limit=101", {}, "limit"),
    "another order": ("GET", "/{id}/items?order=up", {}, "order"),
    "after an unknown item": ("GET", "/{id}/items?after=msg_unknown", {}, "after"),
    "an unknown include": ("GET", "/{id}/items?include[]=all", {}, "include"),
}


@pytest.mark.parametrize(("method", "path", "body", "param"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_refused_by_name(
    gateway: Gateway, key: str, method: str, path: str, body: JsonObject, param: str | None
) -> None:
    created = call(gateway, key, "POST", "/v1/conversations", {}).json()
    payload = body if method == "POST" else None
    refused = call(gateway, key, method, "/v1/conversations" + path.format(id=created["id"]), payload)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"] == param
    assert refused.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/conv_1/items/msg_1"), ("DELETE", "/conv_1/items")]
)
def test_other_methods_are_refused(gateway: Gateway, key: str, method: str, path: str) -> None:
    assert call(gateway, key, method, f"/v1/conversations{path}", {}).status_code == 405


def test_an_image_comes_back_as_it_was_added(client: openai.OpenAI) -> None:
    """A session of the Agents SDK reads the items, asks for nothing more, and sends them as input."""
    url = "data:image/png;base64," + base64.b64encode(b"picture").decode()
    item: Any = {"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "auto"}]}
    conversation = client.conversations.create(items=[item])
    [listed_one] = client.conversations.items.list(conversation.id).data
    read = client.conversations.items.retrieve(listed_one.id or "", conversation_id=conversation.id)
    for item in (listed_one, read):
        assert item.content[0].image_url == url  # type: ignore[union-attr]
    again: Any = [listed_one.to_dict(), user("what is it?")]
    assert client.responses.create(model=MODEL, input=again, store=False).status == "completed"


# Responses in them


@pytest.mark.parametrize("stream", [False, True])
def test_each_response_knows_all_that_was_said_before_it(
    client: openai.OpenAI, upstream: FakeUpstream, stream: bool
) -> None:
    conversation = client.conversations.create(items=[user("zero")])

    def ask(text: str) -> Any:
        if not stream:
            return client.responses.create(model=MODEL, input=text, conversation=conversation.id)
        events = list(client.responses.create(model=MODEL, input=text, conversation=conversation.id, stream=True))
        assert events[-1].type == "response.completed"
        return events[-1].response

    first = ask("one")
    second = ask("two")
    texts = [text_of(item) for item in listed(client, conversation.id)]
    assert texts == ["zero", "one", first.output_text, "two", second.output_text]
    assert upstream_texts(upstream) == texts[:-1]
    assert second.conversation.id == conversation.id
    assert client.responses.retrieve(second.id) == second
    assert [text_of(item) for item in client.responses.input_items.list(second.id)] == ["two"]
    assert [item.id for item in listed(client, conversation.id)][-1] == second.output[0].id


def test_a_conversation_may_be_given_as_an_object(client: openai.OpenAI) -> None:
    conversation = client.conversations.create()
    response = client.responses.create(model=MODEL, input="hi", conversation={"id": conversation.id})
    assert response.conversation is not None
    assert response.conversation.id == conversation.id
    assert len(listed(client, conversation.id)) == 2


def test_without_store_the_items_are_added_and_no_response_is_kept(client: openai.OpenAI) -> None:
    conversation = client.conversations.create()
    response = client.responses.create(model=MODEL, input="hi", conversation=conversation.id, store=False)
    assert [item.id for item in listed(client, conversation.id)][1] == response.output[0].id
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_response_without_store_is_kept_nowhere(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=MODEL, input="again", previous_response_id=response.id)


def test_a_removed_item_is_not_said_again(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    conversation = client.conversations.create(items=[user("secret", id="msg_secret"), user("stays")])
    client.conversations.items.delete("msg_secret", conversation_id=conversation.id)
    client.responses.create(model=MODEL, input="hi", conversation=conversation.id)
    assert upstream_texts(upstream) == ["stays", "hi"]


@pytest.mark.parametrize("half", ["fc_1", "fco_1"])
def test_removing_half_of_a_call_leaves_the_other_half_unsaid(
    client: openai.OpenAI, upstream: FakeUpstream, half: str
) -> None:
    items: Any = [
        user("what is it?"),
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "a cat"},
        user("thanks"),
    ]
    conversation = client.conversations.create(items=items)
    client.responses.create(model=MODEL, input="whole", conversation=conversation.id)
    assert [message["role"] for message in upstream.last(UPSTREAM).json["messages"]][:3] == [
        "user",
        "assistant",
        "tool",
    ]
    client.conversations.items.delete(half, conversation_id=conversation.id)
    client.responses.create(model=MODEL, input="half", conversation=conversation.id)
    assert "tool" not in [message["role"] for message in upstream.last(UPSTREAM).json["messages"]]
    assert "call_1" not in upstream.last(UPSTREAM).body.decode()


def test_responses_keep_their_own_items_when_the_conversation_is_deleted(client: openai.OpenAI) -> None:
    conversation = client.conversations.create()
    response = client.responses.create(model=MODEL, input="hi", conversation=conversation.id)
    client.conversations.delete(conversation.id)
    assert client.responses.retrieve(response.id).output == response.output
    assert [text_of(item) for item in client.responses.input_items.list(response.id)] == ["hi"]
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input="hi", conversation=conversation.id)


# One at a time


@pytest.fixture
def slow(upstream: FakeUpstream) -> Iterator[None]:
    with upstream.script(UPSTREAM, Answer(before_s=1.5)):
        yield


@pytest.mark.usefixtures("slow")
async def test_of_responses_that_are_made_at_once_one_is_answered_and_the_others_may_try_again(
    gateway: Gateway, key: str, client: openai.OpenAI
) -> None:
    conversation = client.conversations.create()
    async with gateway.async_openai(key) as parallel:
        outcomes = await asyncio.gather(
            *(parallel.responses.create(model=MODEL, input=str(n), conversation=conversation.id) for n in range(4)),
            return_exceptions=True,
        )
    refused = [outcome for outcome in outcomes if isinstance(outcome, openai.ConflictError)]
    assert len(refused) == 3
    for error in refused:
        assert error.code == "conversation_locked"
        assert "x-should-retry" not in error.response.headers
    assert len(listed(client, conversation.id)) == 2
    again = client.responses.create(model=MODEL, input="again", conversation=conversation.id)
    assert again.status == "completed"


@pytest.mark.usefixtures("slow")
async def test_a_client_that_tries_again_by_itself_is_answered_in_the_end(
    gateway: Gateway, key: str, client: openai.OpenAI
) -> None:
    conversation = client.conversations.create()
    async with gateway.async_openai(key) as parallel:
        patient = parallel.with_options(max_retries=9)
        await asyncio.gather(
            *(patient.responses.create(model=MODEL, input=str(n), conversation=conversation.id) for n in range(2))
        )
    assert len(listed(client, conversation.id)) == 4


def test_a_failure_adds_nothing_and_the_next_response_is_made_at_once(client: openai.OpenAI) -> None:
    conversation = client.conversations.create()
    for model in ("fault-500", "gone", "no-such-model"):
        with pytest.raises(openai.APIStatusError):
            client.responses.create(model=model, input="hi", conversation=conversation.id)
    assert listed(client, conversation.id) == []
    assert client.responses.create(model=MODEL, input="hi", conversation=conversation.id).status == "completed"


def test_a_client_that_leaves_a_stream_leaves_the_conversation_free_and_unchanged(
    client: openai.OpenAI, upstream: FakeUpstream
) -> None:
    conversation = client.conversations.create()
    with (
        upstream.script(UPSTREAM, Answer(stop_after=2, ending="stall")),
        client.responses.create(model=MODEL, input="hi", conversation=conversation.id, stream=True) as events,
    ):
        assert any(event.type == "response.output_text.delta" for event in events)

    def is_answered() -> bool:
        try:
            return client.responses.create(model=MODEL, input="on", conversation=conversation.id).status == "completed"
        except openai.ConflictError:
            return False

    eventually(is_answered, within_s=5, what="the conversation is free")
    assert len(listed(client, conversation.id)) == 2


@pytest.mark.parametrize("is_conversation", [True, False], ids=["conversation", "chain"])
def test_whoever_answered_last_answers_again(gateway: Gateway, key: str, is_conversation: bool) -> None:
    """`weighted` draws one of two deployments, one turn in four the lighter one."""
    conversation = call(gateway, key, "POST", "/v1/conversations", {}).json()["id"]
    link: JsonObject = {"conversation": conversation} if is_conversation else {}
    models: list[str] = []
    for turn in range(25):
        answer = call(gateway, key, "POST", "/v1/responses", {"model": "weighted", "input": str(turn), **link})
        assert answer.status_code == 200, answer.text
        models.append(answer.headers["x-litellm-model-id"])
        link = link if is_conversation else {"previous_response_id": answer.json()["id"]}
    assert len(set(models)) == 1


# Who sees them


def test_a_stranger_gets_the_very_bytes_that_an_unknown_id_gets(
    gateway: Gateway, client: openai.OpenAI, other: openai.OpenAI
) -> None:
    conversation = client.conversations.create(items=[user("mine", id="msg_mine")])
    unknown = "conv_" + "0" * (len(conversation.id) - 5)
    tries: list[tuple[str, str, JsonObject | None]] = [
        ("GET", "/v1/conversations/{id}", None),
        ("POST", "/v1/conversations/{id}", {"metadata": {}}),
        ("DELETE", "/v1/conversations/{id}", None),
        ("GET", "/v1/conversations/{id}/items", None),
        ("POST", "/v1/conversations/{id}/items", {"items": [user("x")]}),
        ("GET", "/v1/conversations/{id}/items/msg_mine", None),
        ("DELETE", "/v1/conversations/{id}/items/msg_mine", None),
        ("POST", "/v1/responses", {"model": MODEL, "input": "hi", "conversation": "{id}"}),
    ]

    def attempt(conversation_id: str, method: str, path: str, body: JsonObject | None) -> tuple[int, bytes]:
        if body is not None and "conversation" in body:
            body = body | {"conversation": conversation_id}
        answer = call(gateway, other.api_key, method, path.format(id=conversation_id), body)
        return answer.status_code, answer.content.replace(conversation_id.encode(), b"ID")

    for one in tries:
        status, foreign = attempt(conversation.id, *one)
        assert status == 404, one
        assert (status, foreign) == attempt(unknown, *one)
        assert (status, foreign) == attempt("no-such", *one)
    assert [text_of(item) for item in listed(client, conversation.id)] == ["mine"]


def test_team_mates_share_a_conversation(gateway: Gateway) -> None:
    team = gateway.admin.post("/team/new", json={"team_alias": "sharing"}).json()["team_id"]
    one, two = (gateway.openai(gateway.issue_key(team_id=team)) for _ in range(2))
    conversation = one.conversations.create(items=[user("shared")])
    two.responses.create(model=MODEL, input="hi", conversation=conversation.id)
    assert len(listed(one, conversation.id)) == 3


# Replicas and restarts


def test_a_conversation_outlives_a_restart(launch: Launch, config: JsonObject) -> None:
    gateway = launch(config)
    client = gateway.openai(gateway.issue_key())
    conversation = client.conversations.create(items=[user("before")])
    client.responses.create(model=MODEL, input="hi", conversation=conversation.id)
    gateway.restart()
    client.responses.create(model=MODEL, input="after", conversation=conversation.id)
    texts = [text_of(item) for item in listed(client, conversation.id)]
    assert (texts[:2], texts[3], len(texts)) == (["before", "hi"], "after", 5)


async def test_two_replicas_make_one_response_at_a_time_and_see_each_others_items_at_once(
    launch: Launch, config: JsonObject, production: Backend, upstream: FakeUpstream
) -> None:
    env = production.environment()
    one = launch(config, env=env)
    two = launch(config, env=env)
    key = one.issue_key()
    here, there = one.openai(key), two.openai(key)
    conversation = here.conversations.create()
    for n in range(20):
        (here, there)[n % 2].responses.create(model=MODEL, input=str(n), conversation=conversation.id)
        assert len(upstream_texts(upstream)) == 2 * n + 1
    with upstream.script(UPSTREAM, Answer(before_s=1)):
        async with one.async_openai(key) as first_client, two.async_openai(key) as second_client:
            outcomes = await asyncio.gather(
                *(
                    replica.responses.create(model=MODEL, input="both", conversation=conversation.id)
                    for replica in (first_client, second_client)
                ),
                return_exceptions=True,
            )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConflictError", "Response"]
    assert len(listed(there, conversation.id)) == 42
