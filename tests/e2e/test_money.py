"""Every call has exactly one spend row, within two seconds of its end, with the exact cost."""

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import PRICES
from tests.e2e.gateway import MASTER_KEY, Gateway, decimal_cost, events, eventually
from tests.fakes.upstream import EMBEDDING_USAGE, USAGE, Answer, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

INPUT, OUTPUT, CACHED = (Decimal(PRICES[name]) for name in PRICES)
ASK: list[Any] = [{"role": "user", "content": "What does this cost?"}]
COLUMNS = {
    "request_id", "call_type", "api_key", "spend", "prompt_tokens", "completion_tokens", "total_tokens",
    "startTime", "endTime", "model", "model_group", "user", "team_id", "end_user", "request_tags", "metadata",
    "status", "cost", "cost_status", "usage_estimated",
}  # fmt: skip


def price(prompt: int, completion: int, cached: int = 0) -> Decimal:
    return (prompt - cached) * INPUT + cached * CACHED + completion * OUTPUT


def usage(prompt: int, completion: int, cached: int = 0, reasoning: int = 0) -> JsonObject:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


CALLS: dict[str, tuple[str, str, JsonObject]] = {
    "chat": ("/v1/chat/completions", "acompletion", {"model": "priced", "messages": ASK}),
    "streamed chat": (
        "/v1/chat/completions",
        "acompletion",
        {"model": "priced", "messages": ASK, "stream": True},
    ),
    "completion": ("/v1/completions", "atext_completion", {"model": "priced", "prompt": "x"}),
    "streamed completion": (
        "/v1/completions",
        "atext_completion",
        {"model": "priced", "prompt": "x", "stream": True},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_costs_exactly_what_its_usage_says(gateway: Gateway, key: str, name: str) -> None:
    path, call_type, body = CALLS[name]
    before = datetime.now(UTC)
    response = gateway.call(key, path, **body)
    assert response.status_code == 200, response.text
    [row] = gateway.wait_priced(api_key=key)
    assert set(row) >= COLUMNS
    assert row["cost_status"] == "priced"
    assert decimal_cost(row) == price(1207, 311, cached=256) == Decimal("0.000348450")
    assert row["spend"] == pytest.approx(0.00034845)
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (1207, 311, 1518)
    assert (row["model_group"], row["call_type"], row["status"]) == ("priced", call_type, "success")
    assert row["api_key"] == sha256(key)
    assert row["request_id"] == response.headers["x-request-id"]
    assert row["usage_estimated"] is False
    started, ended = (datetime.fromisoformat(row[column]) for column in ("startTime", "endTime"))
    started, ended = (at if at.tzinfo else at.replace(tzinfo=UTC) for at in (started, ended))
    assert before - timedelta(seconds=1) <= started <= ended <= datetime.now(UTC) + timedelta(seconds=1)


def test_an_embedding_costs_its_input(gateway: Gateway, key: str, client: openai.OpenAI) -> None:
    client.embeddings.create(model="embed", input=["a", "b"])
    [row] = gateway.wait_priced(api_key=key)
    assert decimal_cost(row) == EMBEDDING_USAGE["prompt_tokens"] * Decimal("2e-8") == Decimal("0.00000842")
    assert (row["prompt_tokens"], row["completion_tokens"], row["call_type"]) == (421, 0, "aembedding")


@pytest.mark.parametrize(
    "counts",
    [
        usage(1, 0),
        usage(0, 1),
        usage(1, 1, cached=1),
        usage(999_999, 65_536, cached=123_457, reasoning=60_001),
        usage(7, 3, reasoning=3),
        {"prompt_tokens": 13, "completion_tokens": 17, "total_tokens": 30},
        {**usage(13, 17), "prompt_tokens_details": None, "completion_tokens_details": None},
        {**usage(20, 5), "vendor_detail": {"energy_joules": 3.5}},
    ],
    ids=[
        "one in",
        "one out",
        "all cached",
        "large",
        "all reasoning",
        "plain",
        "null details",
        "unknown details",
    ],
)
def test_the_cost_is_exact_and_the_same_streamed_or_not(
    gateway: Gateway, key: str, upstream: FakeUpstream, counts: JsonObject
) -> None:
    with upstream.script("up-priced", Answer(usage=counts)):
        for stream in (False, True):
            assert gateway.call(key, model="priced", stream=stream).status_code == 200
    whole, streamed = gateway.wait_priced(2, api_key=key)
    cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    expected = price(counts["prompt_tokens"], counts["completion_tokens"], cached)
    assert decimal_cost(whole) == decimal_cost(streamed) == expected
    for column in (
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "usage_estimated",
        "cost",
        "cost_status",
    ):
        assert whole[column] == streamed[column], column


def test_unpriced_is_a_state_and_free_is_a_price(gateway: Gateway, key: str) -> None:
    for model in ("unpriced", "free"):
        assert gateway.call(key, model=model).status_code == 200
    unpriced, free = gateway.wait_priced(2, api_key=key)
    assert (unpriced["cost_status"], unpriced["cost"], unpriced["total_tokens"]) == ("unpriced", None, 1518)
    assert (free["cost_status"], decimal_cost(free)) == ("priced", 0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", ["usage-none", "usage-null", "usage-negative", "usage-huge", "usage-text"])
def test_unusable_usage_is_estimated_and_marked(gateway: Gateway, key: str, name: str, stream: bool) -> None:
    response = gateway.call(key, model=name, stream=stream, messages=[{"role": "user", "content": "word " * 100}])
    assert response.status_code == 200, response.text
    [row] = gateway.wait_priced(api_key=key)
    assert row["usage_estimated"] is True
    assert row["cost_status"] == "priced"
    assert 0 < decimal_cost(row) < 1
    assert 30 <= row["prompt_tokens"] <= 1000  # the prompt is 100 words
    assert 30 <= row["completion_tokens"] <= 1000  # and the answer repeats it


def test_a_usage_of_zero_costs_nothing(gateway: Gateway, key: str) -> None:
    assert gateway.call(key, model="usage-zero").status_code == 200
    [row] = gateway.wait_priced(api_key=key)
    assert row["cost_status"] == "priced"
    if not row["usage_estimated"]:
        assert decimal_cost(row) == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_stream_usage_is_shown_only_to_a_client_that_asked(
    gateway: Gateway, key: str, upstream: FakeUpstream, path: str
) -> None:
    body: JsonObject = {"model": "priced", "stream": True} | ({} if "chat" in path else {"prompt": "x"})
    for options in ({}, {"stream_options": {"include_usage": False}}, {"stream_options": None}):
        response = gateway.call(key, path, **body, **options)
        assert response.status_code == 200, (options, response.text)
        frames = events(response.content)
        assert upstream.last("up-priced").json["stream_options"]["include_usage"] is True
        assert frames[-1] == "[DONE]"
        assert all(json.loads(frame)["choices"] for frame in frames[:-1])
        assert not any(json.loads(frame).get("usage") for frame in frames[:-1])
    response = gateway.call(key, path, **body, stream_options={"include_usage": True})
    *content, last, done = events(response.content)
    assert done == "[DONE]"
    assert (json.loads(last)["choices"], json.loads(last)["usage"]) == ([], USAGE)
    assert not any(json.loads(frame).get("usage") for frame in content)


LEAVING: dict[str, tuple[Answer, int]] = {
    "before the first byte": (Answer(before_s=20), 0),
    "after the first event": (Answer(gap_s=0.3, text="w " * 100), 1),
    "in the middle": (Answer(gap_s=0.02, text="w " * 200), 40),
    "while it is silent": (Answer(stop_after=3, ending="stall"), 3),
}


@pytest.mark.parametrize("point", LEAVING)
def test_a_client_that_leaves_is_charged_once_and_the_upstream_hears_of_it(
    gateway: Gateway, key: str, upstream: FakeUpstream, point: str
) -> None:
    behaviour, frames = LEAVING[point]
    body = {"model": "priced", "messages": ASK, "stream": True}
    with upstream.script("up-priced", behaviour), httpx.Client(base_url=gateway.url) as http:
        before = len(upstream.of("up-priced"))
        request = http.build_request(
            "POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
        )
        request.extensions["timeout"] = {
            "connect": 5,
            "read": 10 if frames else 0.7,
            "write": 5,
            "pool": 5,
        }
        try:
            response = http.send(request, stream=True)
            lines = (line for line in response.iter_lines() if line.startswith("data: "))
            for _ in range(frames or 1000):
                next(lines)
            response.close()
        except httpx.ReadTimeout:
            assert not frames
        eventually(lambda: len(upstream.of("up-priced")) > before, within_s=2, what="the upstream was asked")
        recorded = upstream.last("up-priced")
    eventually(lambda: recorded.disconnected, within_s=3, what="the upstream call is cancelled")
    [row] = gateway.wait_priced(api_key=key)
    assert row["cost_status"] == "priced"
    assert row["usage_estimated"] is True
    assert row["prompt_tokens"] > 0
    assert decimal_cost(row) > 0
    gateway.call(key)
    gateway.wait_priced(2, api_key=key)  # the row of the later call is there, and no second row of the first


def test_a_client_that_leaves_a_whole_answer_is_charged_once(
    gateway: Gateway, key: str, upstream: FakeUpstream
) -> None:
    with (
        upstream.script("up-priced", Answer(before_s=20)),
        httpx.Client(base_url=gateway.url, timeout=1) as http,
    ):
        with pytest.raises(httpx.ReadTimeout):
            http.post(
                "/v1/chat/completions",
                json={"model": "priced", "messages": ASK},
                headers={"authorization": f"Bearer {key}"},
            )
        recorded = upstream.last("up-priced")
    eventually(lambda: recorded.disconnected, within_s=3, what="the upstream call is cancelled")
    [row] = gateway.wait_priced(api_key=key)
    assert row["usage_estimated"] is True


def test_a_broken_stream_is_charged_for_what_came(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    with upstream.script("up-priced", Answer(text="word " * 60, stop_after=50, ending="cut")):
        gateway.call(key, model="priced", stream=True)
    [row] = gateway.wait_priced(api_key=key)
    assert (row["cost_status"], row["usage_estimated"]) == ("priced", True)
    assert 20 <= row["completion_tokens"] <= 200
    assert row["status"] == "failure"


@pytest.mark.parametrize(("model", "states"), [("gone", {"aborted"}), ("fault-500", {"priced", "unpriced", "aborted"})])
def test_a_failed_call_has_a_row_that_costs_nothing(gateway: Gateway, key: str, model: str, states: set[str]) -> None:
    headers = {"authorization": f"Bearer {key}", "x-litellm-num-retries": "0"}
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    assert gateway.http.post("/v1/chat/completions", json=body, headers=headers).status_code >= 500
    [row] = gateway.wait_priced(api_key=key)
    assert row["cost_status"] in states
    assert row["status"] == "failure"
    assert Decimal(row["cost"] or 0) == 0


def test_a_refused_call_has_no_row(gateway: Gateway) -> None:
    key = gateway.issue_key(models=["chat"])
    assert gateway.call(key, model="priced").status_code == 403
    assert gateway.call(key, model="no-such-model").status_code == 403
    assert gateway.call(key, messages=5).status_code == 400
    request_id = gateway.call(key).headers["x-request-id"]
    [row] = gateway.wait_priced(api_key=key)  # the row of the later call is there, and none of those before
    assert row["request_id"] == request_id


def test_who_and_what_for_is_kept_with_the_row(gateway: Gateway) -> None:
    team = gateway.admin.post("/team/new", json={"team_alias": "payers"}).json()["team_id"]
    key = gateway.issue_key(team_id=team, user_id="user-7", key_alias=f"payer-{gateway.port}")
    gateway.call(key, user="end-user-客", metadata={"tags": ["blue", "红"], "spend_logs_metadata": {"job": "j-9"}})
    headers = {
        "authorization": f"Bearer {key}",
        "x-litellm-tags": "one, two",
        "x-litellm-end-user-id": "from-header",
        "x-litellm-spend-logs-metadata": '{"job": "j-10"}',
    }
    gateway.http.post("/v1/chat/completions", json={"model": "chat", "messages": ASK}, headers=headers)
    gateway.wait_priced(2, api_key=key)
    assert gateway.admin.post("/key/delete", json={"keys": [key]}).status_code == 200
    by_body, by_header = gateway.wait_priced(2, api_key=key)  # history outlives the key
    assert (by_body["team_id"], by_body["user"], by_body["end_user"]) == (team, "user-7", "end-user-客")
    assert set(by_body["request_tags"]) >= {"blue", "红"}
    assert "j-9" in json.dumps(by_body["metadata"])
    assert by_header["end_user"] == "from-header"
    assert set(by_header["request_tags"]) >= {"one", "two"}
    assert "j-10" in json.dumps(by_header["metadata"])


def test_the_answer_names_the_row_and_the_row_is_found_by_every_filter(gateway: Gateway, key: str) -> None:
    first, second = (gateway.call(key, model="priced").headers["x-request-id"] for _ in range(2))
    gateway.wait_priced(2, api_key=key)
    today = datetime.now(UTC).date()
    yesterday, tomorrow = (str(today + timedelta(days=days)) for days in (-1, 1))
    later = str(today + timedelta(days=2))

    def ids(**filters: str) -> list[str]:
        return sorted(row["request_id"] for row in gateway.spend_rows(**filters))

    both = sorted([first, second])
    assert ids(request_id=first) == [first]
    assert ids(api_key=key) == ids(api_key=sha256(key)) == both
    assert ids(api_key=key, start_date=yesterday, end_date=tomorrow) == both
    assert ids(api_key=key, start_date=str(today), end_date=str(today)) == both  # the last day is included
    assert ids(api_key=key, start_date=tomorrow, end_date=later) == []
    assert ids(api_key=key, request_id=second) == [second]
    assert ids(request_id="no-such-request") == []
    assert ids(api_key="sk-" + "0" * 40) == []
    assert set(both) <= set(ids())


@pytest.mark.parametrize("filters", [{"start_date": "yesterday"}, {"end_date": "2026-13-45"}])
def test_a_filter_that_cannot_be_read_is_named(gateway: Gateway, filters: dict[str, str]) -> None:
    response = gateway.admin.get("/spend/logs", params=filters)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] in filters


def test_the_master_keys_calls_are_on_the_books_too(gateway: Gateway) -> None:
    request_id = gateway.call(MASTER_KEY, model="priced").headers["x-request-id"]
    [row] = gateway.wait_priced(request_id=request_id)
    assert row["cost_status"] == "priced"
    assert MASTER_KEY not in json.dumps(row)


def test_parallel_calls_add_up_exactly(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    async def call(sdk: openai.AsyncOpenAI, stream: bool) -> None:
        answer: Any = await sdk.chat.completions.create(model="priced", messages=ASK, stream=stream)
        if stream:
            async for _ in answer:
                pass

    async def call_all() -> None:
        async with gateway.async_openai(key) as sdk:
            await asyncio.gather(*(call(sdk, bool(number % 2)) for number in range(60)))

    with upstream.script("up-priced", Answer(before_s=0.1)):
        asyncio.run(call_all())
    rows = gateway.wait_priced(60, api_key=key)
    assert sum((decimal_cost(row) for row in rows), Decimal(0)) == 60 * price(1207, 311, cached=256)
    assert len({row["request_id"] for row in rows}) == 60  # though the upstream gave every answer the same id


def test_no_row_shows_a_key(gateway: Gateway, key: str) -> None:
    gateway.call(key)
    gateway.wait_priced(api_key=key)
    text = json.dumps(gateway.spend_rows())
    assert not [issued for issued in (*gateway.issued, MASTER_KEY) if issued in text]
