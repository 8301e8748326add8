"""POST /model/test where no call is made: what it refuses, and what it leaves behind."""

from collections.abc import Iterator

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from billing.models import Price, SpendLog
from gateway.deployments import save_deployment
from gateway.models import Deployment
from gateway.pipeline.probe import ProbeOrder, Prober, ProbeResult
from gateway.protocol.json.types import JsonObject
from tenants.models import Organization, Role
from tests.contract.management import issue_role_key
from tests.contract.models import LOCAL, OPENAI, SECRET, Api, answer_of, refused, row_of, watched

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(client: Client) -> Iterator[Api]:
    yield from watched(client)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model_id"),
        ({"model_id": 5}, "model_id"),
        ({"model_id": "x", "litellm_params": LOCAL}, "model_id"),
        ({"model": "x"}, "model"),
        ({"litellm_params": "text"}, "litellm_params"),
        ({"litellm_params": {}}, "litellm_params.model"),
        ({"litellm_params": {**LOCAL, "api_base": "http://169.254.169.254/v1"}}, "litellm_params.api_base"),
        ({"litellm_params": {**LOCAL, "api_base": "http://user:secret@host.example/v1"}}, "litellm_params.api_base"),
        ({"litellm_params": {**LOCAL, "input_cost_per_token": "2"}}, "litellm_params.input_cost_per_token"),
        ({"litellm_params": LOCAL, "mode": "image_generation"}, "mode"),
        ({"litellm_params": LOCAL, "model_info": {"mode": "rerank"}}, "mode"),
        ({"litellm_params": LOCAL, "prompt": 5}, "prompt"),
        ({"litellm_params": LOCAL, "prompt": "x" * 2001}, "prompt"),
        ({"litellm_params": LOCAL, "prompt": " "}, "prompt"),
    ],
    ids=str,
)
def test_what_cannot_be_tested_is_refused_by_its_name(api: Api, body: JsonObject, param: str) -> None:
    refused(api.post("/model/test", body), 400, param)


def test_a_model_that_is_not_there_is_not_found(api: Api) -> None:
    refused(api.post("/model/test", {"model_id": "absent"}), 404, "model_id")


def test_a_process_that_answers_no_calls_says_so_and_leaves_nothing(api: Api) -> None:
    response = api.post("/model/test", {"litellm_params": OPENAI})
    refused(response, 503, None, "gateway_unavailable")
    assert response["retry-after"] == "1"
    with scopes_disabled():
        assert not Deployment.objects.exists()
        assert not SpendLog.objects.exists()


def test_a_credential_that_cannot_be_opened_is_named(api: Api) -> None:
    row = row_of(api.new(OPENAI)["model_id"])
    with scopes_disabled():
        Deployment.objects.filter(id=row.id).update(credential="nonsense")
    error = refused(api.post("/model/test", {"model_id": row.id}), 400, "model_id", "model_unusable")
    assert SECRET not in error["message"]


def test_a_test_is_made_anew_each_time(api: Api) -> None:
    headers = {"authorization": f"Bearer {api_key()}", "idempotency-key": "once"}
    response = api.client.post("/model/test", "{}", content_type="application/json", headers=headers)
    refused(response, 400, "idempotency-key")


def api_key() -> str:
    home = Organization.objects.create(id="home", name="Home")
    return issue_role_key(home, Role.ORGANIZATION_ADMIN)


def test_an_admin_of_an_organization_tests_its_saved_models_alone(api: Api) -> None:
    key = api_key()
    with scopes_disabled():
        own = save_deployment(own_row(organization_id="home"), credential={})
        shared = save_deployment(own_row(organization_id=None), credential={})
    refused(api.post("/model/test", {"model_id": own.id}, by=key), 503, None, "gateway_unavailable")
    refused(api.post("/model/test", {"model_id": shared.id}, by=key), 404, "model_id")
    refused(
        api.post("/model/test", {"litellm_params": LOCAL}, by=key), 403, "litellm_params", "insufficient_permissions"
    )


def own_row(organization_id: str | None) -> Deployment:
    return Deployment(
        organization_id=organization_id,
        model_group="m",
        provider="xinference",
        upstream_model="qwen",
        api_base="http://qwen.example:9997/v1",
    )


def test_a_test_has_the_price_that_a_call_has(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[ProbeOrder] = []

    def call(prober: Prober, order: ProbeOrder) -> ProbeResult:
        orders.append(order)
        return ProbeResult("request", order.mode, 0.1, (), "OK")

    monkeypatch.setattr(Prober, "call", call)
    lines = {"input": "0.000001", "output": "0.000002"}
    public, contract = (
        Price.objects.create(provider="openai", model="gpt-new", deployment_id="", lines=lines, **fields)
        for fields in ({"origin": "book"}, {"origin": "contract", "organization_id": "home"})
    )
    params = {"model": "openai/gpt-new", "api_key": SECRET}
    shared = api.new(params)["model_id"]
    home = Organization.objects.create(id="home", name="Home")
    with scopes_disabled():
        own = save_deployment(
            Deployment(organization=home, model_group="m", provider="openai", upstream_model="gpt-new"),
            credential={"api_key": SECRET},
        )
    priced = {**params, "input_cost_per_token": "0.000003"}
    other = {"litellm_params": {**params, "model": "openai/gpt-old"}}
    for body in (
        {"model_id": shared},
        {"model_id": own.id},
        {"litellm_params": params},
        {"litellm_params": priced},
        other,
        {**other, "model_info": {"health_check_model": "gpt-new"}},
    ):
        answer_of(api.post("/model/test", body))
    given = Price.objects.get(lines={"input": "0.000003"})
    assert [order.target.price_id for order in orders] == [
        *(public.id, contract.id, public.id, given.id, "", public.id)
    ]


@pytest.mark.django_db(transaction=True)
def test_a_question_to_an_upstream_needs_no_transaction(api: Api) -> None:
    model_id = api.new(LOCAL)["model_id"]
    refused(api.post("/model/test", {"model_id": model_id, "mode": "telepathy"}), 400, "mode")
    refused(api.get("/model/upstream", {"model_id": model_id}), 502, None)
