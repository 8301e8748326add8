"""Routing as clients see it: a broken deployment, a group that stands in, an alias, and limits of deployments."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from gateway.protocol.amounts import PUSD
from tests.e2e.conftest import ENVIRONMENT, PRICES
from tests.e2e.gateway import MASTER_KEY, Gateway, decimal_cost
from tests.fakes.upstream import CREDENTIAL, FAULTS, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ASK: list[Any] = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, backend: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    def at(name: str, model: str, **params: Any) -> dict[str, Any]:
        given = {"model": f"openai/{model}", "api_base": upstream.url, "api_key": CREDENTIAL, **PRICES, **params}
        info = given.pop("model_info", {})
        return {"model_name": name, "litellm_params": given, "model_info": info}

    config = {
        "model_list": [
            at("pair", "routed-500"),
            at("pair", "routed-good"),
            at("alone", "routed-503"),
            at("spare", "routed-spare"),
            at("small", "routed-small"),
            at("overflow", "up-overflow"),
            at("limited", "routed-limited-a", rpm=1, order=1),
            at("limited", "routed-limited-b", rpm=1, order=2),
            at("once", "routed-500"),
            at("budgeted", "routed-small-budget", order=1, max_budget="0.000001", budget_duration="1d"),
            at("budgeted", "routed-no-budget", order=2),
            at("spent", "routed-spent", max_budget="0.000001"),
            at("paid", "routed-paid", max_budget="1", budget_duration="1mo", model_info={"id": "paid"}),
        ],
        "router_settings": {
            "routing_strategy": "least-busy",
            "fallbacks": [{"alone": ["secret", "spare"]}],
            "context_window_fallbacks": [{"overflow": ["spare"]}],
            "model_group_alias": {"nickname": "spare", "unlisted": {"model": "spare", "hidden": True}},
            "retry_policy": {"InternalServerErrorRetries": 1},
        },
    }
    home = tmp_path_factory.mktemp(f"routing-{backend.name}")
    running = Gateway(home, config=config, env={**ENVIRONMENT, **backend.environment()})
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


@pytest.fixture(autouse=True)
def broken(upstream: FakeUpstream) -> Iterator[None]:
    with upstream.script("routed-500", FAULTS["500"]), upstream.script("routed-503", FAULTS["503"]):
        yield


@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_deployment_of_two_is_left_alone(gateway: Gateway, upstream: FakeUpstream, stream: bool) -> None:
    key = gateway.issue_key()
    before = len(upstream.of("routed-500"))
    answers = [gateway.call(key, model="pair", messages=ASK, stream=stream).status_code for _ in range(60)]
    assert answers == [200] * 60
    assert len(upstream.of("routed-500")) - before < 10


def test_a_group_that_stands_in_answers_under_the_name_that_was_asked_for(gateway: Gateway) -> None:
    key = gateway.issue_key(models=["alone", "spare"])
    answer = gateway.call(key, model="alone", messages=ASK)
    assert (answer.status_code, answer.json()["model"]) == (200, "alone")
    rows = gateway.wait_priced(2, api_key=key)
    assert {row["status"] for row in rows} == {"failure", "success"}


def test_a_group_that_the_key_may_not_call_does_not_stand_in(gateway: Gateway) -> None:
    answer = gateway.call(gateway.issue_key(models=["alone"]), model="alone", messages=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")


def test_what_is_too_long_goes_to_a_larger_group(gateway: Gateway) -> None:
    assert gateway.call(gateway.issue_key(), model="overflow", messages=ASK).status_code == 200


def test_an_alias_is_another_name_of_its_group(gateway: Gateway) -> None:
    key = gateway.issue_key(models=["nickname", "unlisted"])
    listed = {model.id for model in gateway.openai(key).models.list()}
    assert listed == {"nickname"}
    for name in ("nickname", "unlisted"):
        answer = gateway.call(key, model=name, messages=ASK)
        assert (answer.status_code, answer.json()["model"]) == (200, name)
    assert gateway.call(key, model="spare", messages=ASK).status_code == 403


def test_the_limits_of_deployments_send_a_call_elsewhere_and_hold_no_client(gateway: Gateway) -> None:
    key = gateway.issue_key()
    answers = [gateway.call(key, model="limited", messages=ASK) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error"]["code"] == "all_deployments_in_cooldown"
    assert int(answers[2].headers["retry-after"]) >= 1
    assert len(gateway.wait_priced(2, api_key=key)) == 2


@pytest.mark.parametrize(("headers", "attempts"), [({}, 2), ({"x-litellm-num-retries": "0"}, 1)])
def test_a_client_says_how_often_it_is_tried(
    gateway: Gateway, upstream: FakeUpstream, headers: dict[str, str], attempts: int
) -> None:
    for _ in range(40):  # each adds a tenth of a retry to the budget that the tests before have used up
        gateway.call(MASTER_KEY, model="spare", messages=ASK)
    key = gateway.issue_key()
    before = len(upstream.of("routed-500"))
    body = {"model": "once", "messages": ASK}
    answer = gateway.http.post("/v1/chat/completions", json=body, headers=headers | {"authorization": f"Bearer {key}"})
    assert answer.status_code == 502
    assert len(upstream.of("routed-500")) - before == attempts
    assert len(gateway.wait_rows(attempts, api_key=key)) == attempts


def test_a_deployment_with_too_small_a_budget_leaves_its_calls_to_another(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    key = gateway.issue_key()
    before = len(upstream.of("routed-no-budget"))
    answers = [gateway.call(key, model="budgeted", messages=ASK).status_code for _ in range(3)]
    assert answers == [200] * 3
    assert upstream.of("routed-small-budget") == []
    assert len(upstream.of("routed-no-budget")) - before == 3


def test_alone_it_refuses_without_amounts(gateway: Gateway, upstream: FakeUpstream) -> None:
    answer = gateway.call(gateway.issue_key(), model="spent", messages=ASK)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (429, "budget_exceeded", "insufficient_quota")
    assert error["message"] == "Budget has been exceeded! The deployment has no budget left for this request."
    assert answer.headers["x-should-retry"] == "false"
    assert upstream.of("routed-spent") == []


SETTLED = """
from django_scopes import scopes_disabled
from tenants.models import BudgetWindow
with scopes_disabled():
    print(*BudgetWindow.objects.filter(scope="deployment", scope_id="paid").values_list("settled_pusd", flat=True))
"""


def test_calls_of_all_keys_settle_in_the_window_of_the_deployment(gateway: Gateway) -> None:
    keys = [gateway.issue_key(max_budget=1), gateway.issue_key()]
    for stream in (False, True):
        for key in keys:
            assert gateway.call(key, model="paid", messages=ASK, stream=stream).status_code == 200
    rows = [row for key in keys for row in gateway.wait_priced(2, api_key=key)]
    process = gateway.manage("shell", "--no-imports", "-c", SETTLED)
    assert process.returncode == 0, process.stderr
    (settled,) = process.stdout.split()  # one window
    assert Decimal(settled) / PUSD == sum(decimal_cost(row) for row in rows) > 0


def test_explain_tells_the_state_of_the_process_that_answers(gateway: Gateway) -> None:
    key = gateway.issue_key(models=["pair", "alone", "limited"])
    for model in ("pair", "limited"):
        for _ in range(40):
            gateway.call(key, model=model, messages=ASK)

    def explain(model: str) -> Any:
        body = {"key": key, "request": {"model": model, "messages": ASK}}
        answer = gateway.http.post("/api/explain", json=body, headers={"authorization": f"Bearer {MASTER_KEY}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    pair, limited = explain("pair"), explain("limited")
    assert (pair["routing"]["state"], pair["routing"]["strategy"]) == ("process", "least-busy")
    good, bad = pair["deployments"]
    assert (good["place"], good["is_candidate"], bad["is_candidate"], bad["is_for_now"]) == (1, True, False, True)
    assert bad["reason"].startswith("is cooling down after server errors")
    assert {row["reason"] for row in limited["deployments"]} == {"has reached its limits"}
    assert [row["code"] for row in limited["refused_by"]] == ["all_deployments_in_cooldown"]
    assert [row["deployments"] for row in explain("alone")["routing"]["fallbacks"]] == [[], []]


OPTIONS: dict[str, Any] = {"fallbacks": ["spare"], "num_retries": 0, "timeout": 30, "disable_fallbacks": False}


def test_a_client_names_its_fallbacks_in_the_body(gateway: Gateway, upstream: FakeUpstream) -> None:
    """On each endpoint, with the official SDK. The upstream gets none of it."""
    key = gateway.issue_key(models=["once", "spare"])
    before = len(upstream.of("routed-spare"))
    client = gateway.openai(key)
    chat = client.chat.completions.create(model="once", messages=ASK, extra_body=OPTIONS)
    whole = client.completions.create(model="once", prompt="x", extra_body=OPTIONS)
    response = client.responses.create(model="once", input="x", extra_body=OPTIONS)
    chunks = list(client.chat.completions.create(model="once", messages=ASK, stream=True, extra_body=OPTIONS))
    assert (chat.model, whole.model, response.model, chunks[0].model) == ("once",) * 4
    message = gateway.call(key, "/v1/messages", model="once", messages=ASK, max_tokens=9, **OPTIONS)
    assert message.status_code == 200, message.text
    received = upstream.of("routed-spare")[before:]
    assert len(received) == 5
    for request in received:
        assert OPTIONS.keys().isdisjoint(request.json)
    assert len(gateway.wait_rows(10, api_key=key)) == 10


def test_a_fallback_that_the_key_may_not_call_is_refused_and_no_upstream_asked(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    key = gateway.issue_key(models=["pair"])
    before = len(upstream.requests)
    for path, body in (
        ("/v1/chat/completions", {"messages": ASK}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/responses", {"input": "x", "background": True}),
        ("/v1/messages", {"messages": ASK, "max_tokens": 9}),
    ):
        answer = gateway.call(key, path, model="pair", fallbacks=["pair", "spare"], **body)
        assert answer.status_code == 403, answer.text
        assert "'spare'" in answer.json()["error"]["message"]
        wrong = gateway.call(key, path, model="pair", num_retries=11, **body)
        assert (wrong.status_code, "'num_retries'" in wrong.text) == (400, True), wrong.text
    assert len(upstream.requests) == before
    assert gateway.spend_rows(api_key=key) == []


def test_a_time_in_the_body_ends_a_call(gateway: Gateway, upstream: FakeUpstream) -> None:
    with upstream.script("routed-spare", FAULTS["silent"]):
        answer = gateway.call(gateway.issue_key(), model="spare", messages=ASK, timeout=0.5, num_retries=0)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


KEPT = """
import json
from django_scopes import scopes_disabled
from billing.models import SpendLog
from tenants.access import digest_of
with scopes_disabled():
    for row in SpendLog.objects.filter(key_digest=digest_of("%s")).order_by("id"):
        print(json.dumps({"attempt": row.attempt, **json.loads(row.routing or "{}")}))
"""


def test_the_rows_keep_why_each_attempt_was_made_and_how_it_failed(gateway: Gateway) -> None:
    key = gateway.issue_key()
    for model in ("alone", "budgeted", "spare"):
        assert gateway.call(key, model=model, messages=ASK).status_code == 200
    gateway.wait_priced(4, api_key=key)
    process = gateway.manage("shell", "--no-imports", "-c", KEPT % key)
    assert process.returncode == 0, process.stderr
    failed, stand_in, budgeted, plain = [json.loads(line) for line in process.stdout.splitlines()]
    assert failed == {"attempt": 0, "reason": "first", "class": "overloaded", "upstream_status": 503}
    assert stand_in == {"attempt": 1, "reason": "fallback"}
    (left_out,) = budgeted.pop("dropped")
    assert left_out.pop("id")
    assert left_out == {
        "name": "openai/routed-small-budget",
        "reason": "has a budget into which the call does not fit",
    }
    assert budgeted == {"attempt": 0, "reason": "other_deployment"}
    assert plain == {"attempt": 0}
