"""The console's page "Simulate": explain's answer for the keys that the user sees, and no other."""

from typing import Any

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from gateway.deployments import save_deployment
from gateway.models import Deployment, RouterSettings
from gateway.stores.router_settings import save_router_settings
from tenants.models import BudgetLease, BudgetWindow, Organization, Role, User
from tests.contract.management import Api, People

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/console/simulate/"
FORM = {"model": "m", "endpoint": "chat/completions", "input_tokens": "10", "max_tokens": "100", "body": ""}


def add(group: str, **fields: Any) -> Deployment:
    row = Deployment(model_group=group, provider="openai", upstream_model="up", api_base="http://up.example", **fields)
    with scopes_disabled():
        return save_deployment(
            row,
            credential={"api_key": "sk-upstream-secret"},
            price_lines={"input": "0.000001", "output": "0.00001"},
        )


@pytest.fixture(autouse=True)
def model() -> None:
    add("m")


def enter(client: Client, role: Role | None, organization: Organization | None = None) -> Client:
    user = (
        User.objects.create_superuser("root", password="correct horse battery")
        if role is None
        else User.objects.create(username=role.value, role=role, organization=organization)
    )
    client.force_login(user)
    return client


def simulate(client: Client, key: str, **fields: str) -> Any:
    answer = client.post(PAGE, {**FORM, "key": key, **fields})
    assert answer.status_code == 200
    return answer


def test_the_page_shows_deployments_fallbacks_limits_and_budgets(client: Client, api: Api) -> None:
    add("m", order=1, model_info={"max_input_tokens": 5})
    add("spare")
    save_router_settings({"fallbacks": [{"m": ["spare"]}]}, RouterSettings.Source.CONFIG)
    issued = api.issue(key_alias="mine", rpm_limit=7, max_budget=3)
    enter(client, None)
    for reference in ("mine", issued["token"], issued["key"]):
        answer = simulate(client, reference)
        assert answer.context["answer"]["would_be_admitted"] is True
        own, spare = answer.context["groups"]
        assert [(row["place"], row["name"]) for row in own["deployments"]] == [(1, "openai/up"), (None, "openai/up")]
        assert own["deployments"][1]["text"].startswith("Takes 5 input tokens")
        assert (spare["model"], [row["place"] for row in spare["deployments"]]) == ("spare", [1])
        page = answer.content.decode()
        for text in ("requests / minute", "3.000000000000", "left out", "Stands in"):
            assert text in page
        assert "sk-upstream-secret" not in page
        assert "up.example" not in page
        assert "no-store" in answer["Cache-Control"]
    assert not BudgetWindow.objects.exists()
    assert not BudgetLease.objects.exists()


@pytest.mark.parametrize("endpoint", ["chat/completions", "completions", "embeddings", "messages"])
def test_the_sample_of_every_endpoint_is_a_request_of_it(client: Client, api: Api, endpoint: str) -> None:
    api.issue(key_alias="mine")
    flags = {"stream": "on", "tools": "on", "image": "on"}
    answer = simulate(enter(client, None), "mine", endpoint=endpoint, input_tokens="5000", **flags)
    assert answer.context["form"].errors == {}
    assert 4000 <= answer.context["answer"]["estimate"]["input_tokens"] <= 20_000


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"body": "{"}, "body"),
        ({"body": "[1]"}, "body"),
        ({"body": '{"messages": 5}'}, "body"),
        ({"body": '{"temperature": 1e999}'}, "body"),
        ({"body": '{"user": "\\ud800"}'}, "body"),
        ({"body": '{"seed": 100000000000000000000000000000000}'}, "body"),
        ({"body": '{"a": ' + "[" * 50_000}, "body"),
        ({"body": '{"user": "' + "x" * 100_001 + '"}'}, "body"),
        ({"input_tokens": "1000000000"}, "input_tokens"),
        ({"input_tokens": "-1"}, "input_tokens"),
        ({"max_tokens": "x"}, "max_tokens"),
        ({"endpoint": "images"}, "endpoint"),
        ({"key": "sk-" + "0" * 40}, "key"),
        ({"key": "x" * 5000}, "key"),
        ({"model": "m" * 5000}, "model"),
    ],
)
def test_what_is_no_sample_is_an_error_of_its_field(
    client: Client, api: Api, fields: dict[str, str], name: str
) -> None:
    api.issue(key_alias="mine")
    answer = simulate(enter(client, None), **{"key": "mine", **fields})
    assert set(answer.context["form"].errors) == {name}
    assert answer.context["answer"] is None


def test_the_admin_of_an_organization_simulates_its_keys_alone(client: Client, api: Api, people: People) -> None:
    add("m")
    enter(client, Role.ORGANIZATION_ADMIN, people.home)
    own = simulate(client, people.owner)
    assert own.context["answer"]["would_be_admitted"] is True
    assert {row["figure"] for row in own.context["answer"]["deployments"]} == {""}
    foreign, absent = simulate(client, people.stranger), simulate(client, "sk-" + "0" * 40)
    assert foreign.context["form"].errors == absent.context["form"].errors == {"key": ["There is no such key."]}


@pytest.mark.parametrize(("role", "status"), [(Role.BILLING_VIEWER, 403), (Role.PLATFORM_VIEWER, 200)])
def test_who_sees_no_keys_has_no_page_and_no_link_to_it(
    client: Client, people: People, role: Role, status: int
) -> None:
    enter(client, role, people.home)
    assert client.get(PAGE).status_code == status
    assert client.post(PAGE, {**FORM, "key": people.owner}).status_code == status
    assert (PAGE in client.get("/console/").content.decode()) is (status == 200)


def test_strangers_are_sent_to_sign_in(client: Client) -> None:
    assert client.get(PAGE)["Location"].startswith("/console/login/")
