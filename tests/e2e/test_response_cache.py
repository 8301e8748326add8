"""A repeated call gets the same answer for nothing: in memory beside SQLite, in Redis beside PostgreSQL."""

import uuid
from typing import Any

import httpx
import pytest
from anthropic import Anthropic

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Launch
from tests.e2e.gateway import Gateway, decimal_cost, eventually
from tests.fakes.services import running_redis
from tests.fakes.upstream import Answer, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CACHE = {"ttl": 300}


def say() -> list[Any]:
    """A message that no other test has sent."""
    return [{"role": "user", "content": f"say {uuid.uuid4()}"}]


def ask(gateway: Gateway, key: str, *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    fields = {"model": "priced", "cache": CACHE, **body}
    answer = gateway.http.post(
        "/v1/chat/completions", json=fields, headers={"authorization": f"Bearer {key}", **(headers or {})}
    )
    assert answer.status_code == 200, answer.text
    return answer


def state(answer: httpx.Response) -> str | None:
    return answer.headers.get("x-tollgate-cache")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_repeated_call_costs_nothing_and_its_row_says_why(
    gateway: Gateway, key: str, upstream: FakeUpstream, stream: bool
) -> None:
    messages = say()
    first, second = (ask(gateway, key, messages=messages, stream=stream) for _ in range(2))
    assert (state(first), state(second)) == ("miss", "hit")
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"]
    assert float(second.headers["x-litellm-response-cost"]) == 0
    asked = [request for request in upstream.of("up-priced") if request.json.get("messages") == messages]
    assert len(asked) == 1
    assert "cache" not in asked[0].json
    made, repeated = gateway.wait_priced(2, api_key=key)
    assert decimal_cost(made) > 0
    assert (repeated["cost_status"], decimal_cost(repeated)) == ("priced", 0)
    assert (made["cache_hit"], repeated["cache_hit"]) == ("False", "True")
    for column in ("prompt_tokens", "completion_tokens", "model_group", "model_id", "call_type", "status"):
        assert made[column] == repeated[column], column
    assert repeated["request_id"] == second.headers["x-request-id"]


def test_the_official_client_reads_a_replayed_stream(gateway: Gateway, key: str) -> None:
    messages = say()

    def read() -> tuple[str, JsonObject]:
        stream = gateway.openai(key).chat.completions.create(
            model="priced",
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"cache": CACHE},
        )
        chunks = list(stream)
        assert chunks[-1].usage is not None
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        return text, chunks[-1].usage.model_dump()

    first, second = read(), read()
    assert first == second
    assert [row["cache_hit"] for row in gateway.wait_priced(2, api_key=key)] == ["False", "True"]


def test_a_messages_stream_is_replayed_to_anthropics_client(gateway: Gateway, key: str) -> None:
    client = Anthropic(base_url=gateway.url, api_key=key, max_retries=0)
    messages = say()
    texts = []
    for _ in range(2):
        with client.messages.stream(
            model="priced", max_tokens=100, messages=messages, extra_body={"cache": CACHE}
        ) as stream:
            texts.append(stream.get_final_text())
    client.close()
    assert texts[0] == texts[1] != ""
    assert [row["cache_hit"] for row in gateway.wait_priced(2, api_key=key)] == ["False", "True"]


def test_embeddings_and_completions_are_cached(gateway: Gateway, key: str) -> None:
    text = str(uuid.uuid4())
    for path, body in (
        ("/v1/embeddings", {"model": "embed", "input": [text, "b"]}),
        ("/v1/completions", {"model": "priced", "prompt": text}),
    ):
        first, second = (gateway.call(key, path, cache=CACHE, **body) for _ in range(2))
        assert (state(first), state(second)) == ("miss", "hit")
        assert first.content == second.content


def test_another_organization_neither_gets_nor_sees_an_answer(
    gateway: Gateway, key: str, upstream: FakeUpstream
) -> None:
    made = gateway.admin.post("/organization/new", json={"organization_alias": f"abroad-{uuid.uuid4()}", "models": []})
    assert made.status_code == 200, made.text
    stranger = gateway.issue_key(organization_id=made.json()["organization_id"])
    messages = say()
    assert state(ask(gateway, key, messages=messages)) == "miss"
    assert state(ask(gateway, stranger, messages=messages)) == "miss"
    assert state(ask(gateway, gateway.issue_key(), messages=messages)) == "hit"  # of the same organization
    assert len([request for request in upstream.of("up-priced") if request.json.get("messages") == messages]) == 2


def test_who_may_not_call_the_model_gets_no_cached_answer(gateway: Gateway, key: str) -> None:
    messages = say()
    ask(gateway, key, messages=messages)
    narrow = gateway.issue_key(models=["chat"])
    refused = gateway.call(narrow, model="priced", messages=messages, cache=CACHE)
    assert refused.status_code == 403
    assert "x-tollgate-cache" not in refused.headers


def test_a_key_asks_by_its_metadata_and_a_request_may_restrict(gateway: Gateway) -> None:
    key = gateway.issue_key(metadata={"cache": {"use-cache": True, "ttl": 300}})
    messages = say()
    assert [state(ask(gateway, key, messages=messages, cache=None)) for _ in range(2)] == ["miss", "hit"]
    fresh = ask(gateway, key, messages=messages, cache=None, headers={"cache-control": "no-cache"})
    assert state(fresh) == "miss"
    assert state(ask(gateway, key, messages=messages, cache={"use-cache": False})) is None
    assert state(ask(gateway, gateway.issue_key(), messages=messages, cache=None)) is None
    refused = gateway.admin.post("/key/generate", json={"metadata": {"cache": {"ttl": "long"}}})
    assert refused.status_code == 400, refused.text
    assert "cache.ttl" in refused.text


def test_a_limit_of_requests_binds_and_a_spent_budget_does_not(gateway: Gateway) -> None:
    messages = say()
    limited = gateway.issue_key(rpm_limit=2)
    assert [state(ask(gateway, limited, messages=messages)) for _ in range(2)] == ["miss", "hit"]
    assert gateway.call(limited, model="priced", messages=messages, cache=CACHE).status_code == 429
    spent = gateway.issue_key(max_budget=1e-9)
    assert gateway.call(spent, model="priced", messages=say(), cache=CACHE).status_code == 429
    assert state(ask(gateway, spent, messages=messages)) == "hit"


@pytest.mark.parametrize("value", [{"ttl": 0}, {"nostore": True}, [], "no-cache"])
def test_a_control_that_cannot_be_read_is_refused_by_its_name(gateway: Gateway, key: str, value: Any) -> None:
    answer = gateway.call(key, model="priced", messages=say(), cache=value)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("cache")


def test_a_stream_that_its_client_leaves_is_not_kept(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    messages = say()
    body = {"model": "priced", "messages": messages, "stream": True, "cache": CACHE}
    with (
        upstream.script("up-priced", Answer(gap_s=0.1)),
        gateway.http.stream(
            "POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
        ) as answer,
    ):
        next(answer.iter_bytes())
    gateway.wait_priced(1, api_key=key)
    assert [state(ask(gateway, key, messages=messages, stream=True)) for _ in range(2)] == ["miss", "hit"]


def test_a_long_answer_is_replayed_whole(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    messages = say()
    with upstream.script("up-priced", Answer(text="a long answer " * 800)):
        first, second = (ask(gateway, key, messages=messages, stream=True) for _ in range(2))
    assert state(second) == "hit"
    assert len(first.content) > 64 * 1024
    assert first.content == second.content


def test_a_new_configuration_of_the_deployment_ends_the_old_answers(gateway: Gateway, key: str) -> None:
    parameters = {"model": "mock/tollgate-echo", "temperature": 1}
    name = f"cached-{uuid.uuid4()}"
    made = gateway.admin.post("/model/new", json={"model_name": name, "litellm_params": parameters})
    assert made.status_code == 200, made.text
    messages = say()
    model_id = made.json()["model_info"]["id"]
    eventually(
        lambda: gateway.call(key, model=name, messages=say()).status_code == 200, within_s=2, what="the model is known"
    )
    assert [state(ask(gateway, key, model=name, messages=messages)) for _ in range(2)] == ["miss", "hit"]
    changed = gateway.admin.post(
        "/model/update", json={"model_info": {"id": model_id}, "litellm_params": {**parameters, "temperature": 0}}
    )
    assert changed.status_code == 200, changed.text
    eventually(
        lambda: state(ask(gateway, key, model=name, messages=messages, cache={"no-store": True, **CACHE})) == "miss",
        within_s=2,
        what="the old answer is not found",
    )


def test_without_room_nothing_is_cached(launch: Launch, config: JsonObject) -> None:
    gateway = launch(config, env={"TOLLGATE_CACHE_BYTES": "0"})
    key = gateway.issue_key()
    messages = say()
    assert [state(ask(gateway, key, messages=messages)) for _ in range(2)] == [None, None]


def test_the_processes_of_one_redis_share_answers(launch: Launch) -> None:
    config = {"model_list": [{"model_name": "echo", "litellm_params": {"model": "mock/tollgate-echo"}}]}
    with running_redis() as redis_url:
        gateway = launch(config, env={"REDIS_URL": redis_url, "WEB_CONCURRENCY": "2"})
        key = gateway.issue_key()
        messages = say()
        ask(gateway, key, model="echo", messages=messages)
        seen = []
        for _ in range(12):
            with httpx.Client(base_url=gateway.url) as fresh:  # a connection of its own: to whichever process
                body = {"model": "echo", "messages": messages, "cache": CACHE}
                answer = fresh.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
                seen.append(state(answer))
        assert seen == ["hit"] * 12
