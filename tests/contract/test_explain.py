"""POST /api/explain and manage.py explain say what would become of a request, and change nothing."""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django_scopes import scopes_disabled

from gateway.deployments import save_deployment
from gateway.models import Deployment
from gateway.protocol.json.types import JsonObject
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
