"""POST /api/explain and manage.py explain say what would become of a request, and change nothing."""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django_scopes import scopes_disabled

from gateway.deployments import save_deployment
from gateway.models import Deployment, RouterSettings
from gateway.protocol.json.types import JsonObject
from gateway.stores.router_settings import save_router_settings
from tenants.models import BudgetLease, BudgetWindow
from tests.contract.management import Api, People
from tests.contract.own_api import problem

pytestmark = pytest.mark.django_db(transaction=True)

ASK: JsonObject = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1000}


@pytest.fixture(autouse=True)
def model() -> None:
    with scopes_disabled():
        save_deployment(
            Deployment(model_group="m", provider="openai", upstream_model="up", api_base="http://up.example"),
            credential={"api_key": "sk-upstream-secret"},
            price_lines={"input": "0.000001", "output": "0.00001"},
        )


def explain(api: Api, key: str, **sample: Any) -> JsonObject:
    response = api.post("/api/explain", {"key": key, "request": {**ASK, **sample}})
    assert response.status_code == 200, response.content
    answer: JsonObject = response.json()
    return answer


def test_a_call_that_fits_is_admitted_and_shows_what_applies(api: Api) -> None:
    key = api.issue(rpm_limit=10, max_budget=1)["key"]
    answer = explain(api, key)
    assert answer["would_be_admitted"] is True
    assert answer["refused_by"] == []
    assert answer["model"] == {"requested": "m", "resolved": "m"}
    assert [row["is_candidate"] for row in answer["deployments"]] == [True]
    assert answer["estimate"]["output_tokens"] == 1000
    assert answer["estimate"]["cost"].startswith("0.0100")
    [limit], [budget] = answer["rate_limits"], answer["budgets"]
    assert (limit["scope"], limit["limit"], limit["requested"], limit["would_refuse"]) == ("key", 10, 1, False)
    assert (budget["scope"], budget["limit"], budget["left"]) == ("key", "1.000000000000", "1.000000000000")
    assert not BudgetWindow.objects.exists()
    assert not BudgetLease.objects.exists()
    assert "sk-upstream-secret" not in json.dumps(answer)
    assert "up.example" not in json.dumps(answer)


def test_a_model_that_a_pattern_serves_is_explained_by_its_deployment(api: Api) -> None:
    with scopes_disabled():
        for group in ("far/*", "farther/*"):
            row = Deployment(
                id=group, model_group=group, provider="ollama", upstream_model="*", api_base="http://o.example"
            )
            save_deployment(row)
    answer = explain(api, api.issue(models=["far/*"])["key"], model="far/qwen")
    assert answer["would_be_admitted"] is True
    assert [row["id"] for row in answer["deployments"]] == ["far/*"]


@pytest.mark.parametrize(
    ("fields", "sample", "by", "code"),
    [
        ({"models": ["other"]}, {}, "model", "model_not_found"),
        ({}, {"model": "absent"}, "model", "model_not_found"),
        ({"max_budget": 0.001}, {}, "budget (key, for all time)", "insufficient_quota"),
        ({"tpm_limit": 50}, {}, "rate limit (key, tokens, minute)", "rate_limit_exceeded"),
        ({"rpm_limit": 0}, {}, "rate limit (key, requests, minute)", "rate_limit_exceeded"),
        ({"blocked": True}, {}, "key", "invalid_api_key"),
    ],
)
def test_a_call_that_does_not_fit_names_what_refuses_it(
    api: Api, fields: JsonObject, sample: JsonObject, by: str, code: str
) -> None:
    answer = explain(api, api.issue(**fields)["key"], **sample)
    assert answer["would_be_admitted"] is False
    assert [(row["by"], row["code"]) for row in answer["refused_by"]] == [(by, code)]


def test_a_sample_that_is_no_request_is_refused_with_its_param(api: Api) -> None:
    key = api.issue()["key"]
    problem(api.post("/api/explain", {"key": key, "request": {"model": "m"}}), 400, "messages")
    problem(api.post("/api/explain", {"key": key, "request": [1]}), 400, "request")
    problem(api.post("/api/explain", {"key": key, "endpoint": "images", "request": ASK}), 400, "endpoint")
    problem(api.post("/api/explain", {"request": ASK}), 400, "key")
    problem(api.post("/api/explain", {"key": key, "request": {**ASK, "user": "\ud800"}}), 400, "request")


def test_a_number_of_the_sample_stays_a_number(api: Api) -> None:
    key = api.issue()["key"]
    assert explain(api, key, temperature=0.5)["would_be_admitted"] is True
    problem(api.post("/api/explain", {"key": key, "request": {**ASK, "temperature": 2.5}}), 400, "temperature")


def test_only_the_deployments_of_the_model_are_loaded(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with scopes_disabled():
        broken = Deployment(model_group="broken", provider="openai", upstream_model="up", api_base="http://up.example")
        save_deployment(broken, credential={"api_key": "sk-upstream-secret"})
        Deployment.objects.filter(id=broken.id).update(credential="unreadable")
    key = api.issue()["key"]
    assert explain(api, key)["would_be_admitted"] is True
    assert "a deployment cannot be used" not in caplog.messages
    assert explain(api, key, model="broken")["would_be_admitted"] is False
    assert "a deployment cannot be used" in caplog.messages


def test_a_key_explains_itself_and_no_other(api: Api, people: People) -> None:
    own = api.post("/api/explain", {"key": people.owner, "request": ASK}, by=people.owner)
    foreign = api.post("/api/explain", {"key": api.issue()["key"], "request": ASK}, by=people.owner)
    absent = api.post("/api/explain", {"key": "sk-" + "0" * 40, "request": ASK}, by=people.owner)
    assert own.status_code == 200
    assert foreign.status_code == absent.status_code == 404
    assert foreign.content == absent.content


def test_the_command_says_the_same(api: Api) -> None:
    digest = api.issue(max_budget=0.001)["token"]
    out = StringIO()
    call_command("explain", key=digest, model="m", stdout=out)
    answer = json.loads(out.getvalue())
    assert [row["code"] for row in answer["refused_by"]] == ["insufficient_quota"]
    with pytest.raises(CommandError, match="--key"):
        call_command("explain", key="0" * 64, model="m", stdout=out)


def test_an_output_that_would_be_lowered_is_no_refusal(api: Api, settings: Any) -> None:
    key = api.issue(max_budget=0.005)["key"]
    assert explain(api, key)["would_be_admitted"] is False
    settings.TOLLGATE_LOWER_MAX_TOKENS = True
    answer = explain(api, key)
    assert answer["would_be_admitted"] is True
    lowered = answer["estimate"]["max_tokens_lowered"]
    assert 16 <= lowered < 500
    assert answer["estimate"]["output_tokens"] == lowered
    assert float(answer["estimate"]["cost"]) <= 0.005
    assert explain(api, key, max_tokens=10)["estimate"]["max_tokens_lowered"] is None


# Routing


def add(group: str, **fields: Any) -> Deployment:
    row = Deployment(model_group=group, provider="openai", upstream_model="up", api_base="http://up.example", **fields)
    with scopes_disabled():
        return save_deployment(row, credential={"api_key": "sk-upstream-secret"})


def route(**settings: Any) -> None:
    save_router_settings(settings, RouterSettings.Source.CONFIG)


def rows(answer: JsonObject) -> list[tuple[str, int | None, str]]:
    return [(row["id"], row["place"], row["reason"]) for row in answer["deployments"]]


def test_the_deployments_stand_in_the_order_in_which_they_are_tried(api: Api) -> None:
    small = add("g", order=1, model_info={"max_input_tokens": 5})
    second, first = add("g", order=3), add("g", order=2)
    route(routing_strategy="least-busy", num_retries=4)
    answer = explain(api, api.issue()["key"], model="g", messages=[{"role": "user", "content": "long " * 50}])
    (dropped,) = [row for row in answer["deployments"] if not row["is_candidate"]]
    assert rows(answer)[:2] == [(first.id, 1, ""), (second.id, 2, "has order 3, after those of order 2")]
    assert (dropped["id"], dropped["place"], dropped["is_for_now"]) == (small.id, None, False)
    assert dropped["reason"].startswith("takes 5 input tokens, and the call has about ")
    assert answer["routing"] == {"strategy": "least-busy", "retries": 4, "state": "none", "fallbacks": []}


def test_the_groups_that_stand_in_are_told_with_what_they_depend_on(api: Api) -> None:
    spare = add("spare")
    add("secret")
    route(
        fallbacks=[{"m": ["secret", "nickname"]}],
        context_window_fallbacks=[{"m": ["absent"]}],
        model_group_alias={"nickname": "spare", "front": "m"},
    )
    key = api.issue(models=["front", "m", "spare"])["key"]
    answer = explain(api, key, model="front")
    assert answer["model"] == {"requested": "front", "resolved": "m"}
    assert answer["would_be_admitted"] is True
    closed = "The key may not call this model, or it does not serve chat requests."
    told = [
        (row["after"], row["model"], row["reason"], [one["id"] for one in row["deployments"]])
        for row in answer["routing"]["fallbacks"]
    ]
    assert told == [
        ("fallbacks", "secret", closed, []),
        ("fallbacks", "nickname", "", [spare.id]),  # another name of a group that the key may call
        ("context_window_fallbacks", "absent", closed, []),
    ]
    own = api.post("/api/explain", {"key": key, "request": {**ASK, "model": "front"}}, by=key).json()
    assert [row["model"] for row in own["routing"]["fallbacks"]] == ["nickname"], "a key learns of no other model"
    wide = explain(api, api.issue()["key"])["routing"]["fallbacks"]
    assert [one["id"] for one in wide[1]["deployments"]] == [spare.id]


def test_the_fallbacks_that_a_call_names_take_the_place_of_those_of_the_settings(api: Api) -> None:
    spare, other = add("spare"), add("other")
    route(fallbacks=[{"m": ["spare"]}], model_group_alias={"nickname": "other"})
    key = api.issue(models=["m", "spare", "nickname"])["key"]

    def told(**body: Any) -> Any:
        answer = explain(api, key, **body)
        found = [(row["after"], [one["id"] for one in row["deployments"]]) for row in answer["routing"]["fallbacks"]]
        return found, answer["routing"]["retries"]

    assert told() == ([("fallbacks", [spare.id])], 2)
    assert told(fallbacks=["nickname"], num_retries=0) == (
        [(kind, [other.id]) for kind in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")],
        0,
    )
    assert told(fallbacks=["nickname"], disable_fallbacks=True) == ([], 2)
    for name in ("other", "absent"):
        assert [row["status"] for row in explain(api, key, fallbacks=[name])["refused_by"]] == [403]
    assert explain(api, api.issue()["key"], fallbacks=["other"])["would_be_admitted"] is True


def test_a_call_that_no_deployment_can_serve_is_refused_by_routing(api: Api) -> None:
    add("tiny", model_info={"max_input_tokens": 1})
    key = api.issue()["key"]
    answer = explain(api, key, model="tiny")
    assert [(row["by"], row["status"]) for row in answer["refused_by"]] == [("routing", 400)]
    route(context_window_fallbacks=[{"tiny": ["m"]}])
    assert explain(api, key, model="tiny")["would_be_admitted"] is True


def test_a_deployment_whose_budget_is_too_small_is_dropped(api: Api) -> None:
    params = {"model": "openai/up", "api_base": "http://up.example", "api_key": "sk-u", "output_cost_per_token": "1e-5"}
    body = {"model_name": "b", "litellm_params": {**params, "input_cost_per_token": "1e-6", "max_budget": "0.001"}}
    response = api.post("/model/new", body)
    assert response.status_code == 200, response.content
    key = api.issue()["key"]
    answer = explain(api, key, model="b")
    assert rows(answer) == [(response.json()["model_id"], None, "has a budget into which the call does not fit")]
    assert [(row["by"], row["code"]) for row in answer["refused_by"]] == [("routing", "all_deployments_in_cooldown")]
    assert explain(api, key, model="b", max_tokens=5)["would_be_admitted"] is True


def test_a_key_learns_nothing_of_a_model_that_it_may_not_call(api: Api) -> None:
    issued = api.issue(models=["other"])["key"]
    own = api.post("/api/explain", {"key": issued, "request": ASK}, by=issued).json()
    assert own["deployments"] == []
    assert len(explain(api, issued)["deployments"]) == 1


def test_what_other_callers_cause_is_shown_to_the_platform_alone(api: Api) -> None:
    add("m")
    issued = api.issue()["key"]
    own = api.post("/api/explain", {"key": issued, "request": ASK}, by=issued).json()
    assert {row["figure"] for row in own["deployments"]} == {""}
    assert {row["figure"] for row in explain(api, issued)["deployments"]} == {"is drawn for 50.0% of the calls"}
