"""Single endpoints of LiteLLM: /health, /team/{id}/members/me, /v2/organization/{id}, /model/block."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet
from django.utils import timezone
from django_scopes import scopes_disabled
from pytest_django import Settings
from uuid_utils import uuid7

from billing.models import SpendLog
from gateway.models import Deployment
from gateway.protocol.json.types import JsonObject
from gateway.routing.breaker import Breaker, Ejection
from gateway.routing.error_class import ErrorClass
from gateway.routing.live_states import LIVE_STATES
from tenants.keys import issue_key
from tenants.models import KeyType, Role
from tests.contract.management import MASTER, Api, People, issue_role_key, key_row, refused

pytestmark = pytest.mark.django_db
SECRET = "sk-upstream-2fe81a"


def add_model(api: Api, name: str, **params: Any) -> str:
    body = {"model_name": name, "litellm_params": {"model": "openai/gpt-4o", "api_key": SECRET, **params}}
    model_id: str = api.post("/model/new", body).json()["model_id"]
    return model_id


def add_call(deployment_id: str, *, error: str = "", status: int = 200, ended_at: datetime | None = None) -> None:
    with scopes_disabled():
        SpendLog.objects.create(
            id=UUID(str(uuid7())),
            request_id=UUID(str(uuid7())),
            state="priced",
            writer_id="w",
            organization_id="default",
            operation="chat",
            model_group="m",
            deployment_id=deployment_id,
            provider="openai",
            upstream_model="gpt-4o",
            status_code=status,
            error_code=error,
            error_message=error and f"The upstream said {error}.",
            started_at=timezone.now(),
            ended_at=ended_at or timezone.now(),
        )


def health(api: Api, **query: str) -> JsonObject:
    response = api.get("/health", query)
    assert response.status_code == 200, response.content
    answer: JsonObject = response.json()
    assert answer["healthy_count"] == len(answer["healthy_endpoints"])
    assert answer["unhealthy_count"] == len(answer["unhealthy_endpoints"])
    return answer


def unhealthy(api: Api, **query: str) -> dict[str, str]:
    return {row["model_name"]: row["error_code"] for row in health(api, **query)["unhealthy_endpoints"]}


def test_a_deployment_is_as_healthy_as_its_newest_call(api: Api):
    ids = {name: add_model(api, name) for name in ("unused", "works", "fails", "recovered", "refused", "long-ago")}
    add_call(ids["works"])
    add_call(ids["fails"])
    add_call(ids["fails"], error="upstream_unreachable", status=502)
    add_call(ids["recovered"], error="upstream_unreachable", status=502)
    add_call(ids["recovered"])
    add_call(ids["refused"], error="context_length_exceeded", status=400)
    add_call(ids["long-ago"], error="upstream_error", status=502, ended_at=timezone.now() - timedelta(hours=1))
    assert unhealthy(api) == {"fails": "upstream_unreachable"}
    assert unhealthy(api, model="works") == {}
    (row,) = health(api, model_id=ids["fails"])["unhealthy_endpoints"]
    assert (row["model"], row["model_id"], row["error"]) == (
        "openai/gpt-4o",
        ids["fails"],
        "The upstream said upstream_unreachable.",
    )
    add_call(ids["works"], error="gateway_unavailable", status=503)
    assert unhealthy(api, model="works") == {}


def test_health_shows_no_credential_and_tells_of_one_that_cannot_be_opened(api: Api, settings: Settings):
    add_model(api, "sealed")
    assert SECRET not in repr(health(api))
    assert unhealthy(api) == {}
    settings.TOLLGATE_ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    assert unhealthy(api) == {"sealed": "model_unusable"}


def fail(breaker: Breaker, deployment_id: str, kind: ErrorClass) -> None:
    for _ in range(5):
        breaker.note_failure(deployment_id, kind, [deployment_id, "another"])


@pytest.fixture
def breaker() -> Iterator[Breaker]:
    """That of this process."""
    breaker = Breaker(lambda: 1_800_000_000.0, lambda: 0.5)
    LIVE_STATES.connect(breaker)
    yield breaker
    LIVE_STATES.disconnect()


def test_health_tells_what_the_breaker_knows(api: Api, breaker: Breaker):
    ids = {name: add_model(api, name) for name in ("fine", "out", "tried", "refused")}
    fail(breaker, ids["out"], ErrorClass.SERVER)
    fail(breaker, ids["refused"], ErrorClass.AUTHENTICATION)
    breaker.adopt(ids["tried"], Ejection(ErrorClass.TIMEOUT, 1_799_999_999.0, 3))
    breaker.note_failure(ids["fine"], ErrorClass.OVERLOADED, [])
    add_call(ids["out"])
    many = f"{ids['fine']}\nsome-model"
    breaker.adopt(many, Ejection(ErrorClass.SERVER, 1_800_000_005.0, 1))
    assert unhealthy(api) == {"out": "cooling_down", "tried": "cooling_down", "refused": "upstream_auth_failed"}
    answer = health(api)
    rows = {row["model_name"]: row for row in answer["unhealthy_endpoints"] + answer["healthy_endpoints"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "fine": "in",
        "out": "out",
        "tried": "half_open",
        "refused": "out",
    }
    assert rows["out"]["cooldown"] == {"error_class": "server", "until": "2027-01-15T08:00:05Z", "ejections": 1}
    assert rows["fine"]["models_in_cooldown"] == [{"model": "some-model", **rows["out"]["cooldown"]}]
    assert rows["out"]["error"] == "Out after server errors: it gets no calls for now."
    assert rows["tried"]["error"] == "Out after timeout errors: one call at a time tries it."
    assert rows["refused"]["credentials_refused_since"] == "2027-01-15T08:00:00Z"
    assert rows["fine"]["last_error"] == {"error_class": "overloaded", "at": "2027-01-15T08:00:00Z"}
    assert (rows["fine"]["cooldown"], rows["fine"]["credentials_refused_since"]) == (None, None)
    assert SECRET not in repr(rows)


def test_a_blocked_model_is_neither(api: Api):
    model_id = add_model(api, "resting")
    assert api.post("/model/block", {"model_id": model_id}).json()["model_info"]["blocked"] is True
    assert health(api, model="resting")["healthy_count"] == health(api, model="resting")["unhealthy_count"] == 0
    assert api.post("/model/unblock", {"model_id": model_id}).json()["model_info"]["blocked"] is False
    assert health(api, model="resting")["healthy_count"] == 1
    refused(api.post("/model/block", {"model_id": "none"}), 404, "model_id")
    refused(api.post("/model/block", {}), 400, "model_id")
    with scopes_disabled():
        Deployment.objects.filter(id=model_id).update(source=Deployment.Source.CONFIG)
    refused(api.post("/model/block", {"model_id": model_id}), 400, None, "model_in_config")


def test_health_is_for_the_platforms_roles(api: Api, people: People):
    for key in (people.owner, issue_role_key(people.home, Role.ORGANIZATION_ADMIN)):
        refused(api.get("/health", by=key), 403)


def test_a_member_sees_its_own_membership_only(api: Api, people: People):
    members = [{"user_id": "owner", "role": "user"}, {"user_id": "mate", "role": "admin"}]
    body = {"team_id": "research", "member": members, "max_budget_in_team": 2.5}
    assert api.post("/team/member_add", body).status_code == 200
    row = api.get("/team/research/members/me", by=people.owner).json()
    assert {name: row[name] for name in ("user_id", "team_id", "team_alias", "role", "spend", "total_spend")} == {
        "user_id": "owner",
        "team_id": "research",
        "team_alias": "Research",
        "role": "user",
        "spend": 0.0,
        "total_spend": 0.0,
    }
    assert row["litellm_budget_table"]["max_budget"] == 2.5
    assert api.get("/team/research/members/me/", by=people.mate).json()["role"] == "admin"
    refused(api.get("/team/research/members/me", by=people.stranger), 404, "team_id")
    refused(api.get("/team/raccoon/members/me", by=people.stranger), 404, "team_id")  # no member, although its key is
    refused(api.get("/team/research/members/me"), 400, "user_id")
    refused(api.get("/team/research/members/x"), 404, None, "not_found")


def test_no_team_is_open_to_join(api: Api, people: People):
    assert api.get("/team/available").json() == api.get("/team/available", by=people.owner).json() == []


def test_an_organization_is_patched_by_its_path(api: Api, people: People):
    body = {"max_budget": 5, "models": ["gpt"], "metadata": {"a": 1}}
    row = api.client.patch("/v2/organization/acme", body, "application/json", headers=api.headers(None)).status_code
    assert row == 401
    answer = patch(api, "acme", body).json()
    assert (answer["organization_id"], answer["models"], answer["max_budget"]) == ("acme", ["gpt"], 5.0)
    kept = patch(api, "acme", {"max_budget": None, "models": []}).json()
    assert (kept["models"], kept["max_budget"], kept["metadata"]) == ([], None, {"a": 1})
    refused(patch(api, "acme", {"organization_alias": None}), 400, "organization_alias")
    refused(patch(api, "acme", {"organization_id": "umbrella"}), 400, "organization_id")
    refused(patch(api, "none", {"models": []}), 404, "organization_id")


def patch(api: Api, organization_id: str, body: JsonObject) -> Any:
    return api.client.patch(
        f"/v2/organization/{organization_id}", body, "application/json", headers=api.headers(MASTER)
    )


@pytest.mark.parametrize("spend", [0, 0.0, None])
def test_a_new_key_without_spend_may_say_so(api: Api, spend: float | None):
    assert api.issue(spend=spend)["spend"] == 0.0
    refused(api.post("/key/generate", {"spend": 1.5}), 400, "spend", "unsupported_parameter")
    refused(api.post("/key/generate", {"spend": True}), 400, "spend", "unsupported_parameter")


def test_a_read_only_key_sees_the_audit_log(api: Api, people: People):
    with scopes_disabled():
        issued = issue_key(organization=people.home, user=key_row(people.owner).user)
        type(issued.key).objects.filter(pk=issued.key.pk).update(type=KeyType.READ_ONLY)
    assert api.get("/audit", by=issued.text).status_code == 200


# The deployments of an organization


@pytest.fixture
def own_model(api: Api, people: People) -> str:
    model_id = add_model(api, "own", input_cost_per_token="0.000001", rpm=5)
    with scopes_disabled():
        Deployment.objects.filter(id=model_id).update(organization="acme")
    return model_id


def test_an_admin_tunes_the_deployments_of_its_organization(api: Api, people: People, own_model: str):
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    params = {"rpm": 7, "weight": 3, "timeout": 20, "api_key": "sk-own-upstream-key"}
    body = {"model_info": {"id": own_model}, "litellm_params": params}
    answer = api.post("/model/update", body, by=admin)
    assert answer.status_code == 200, answer.content
    assert (answer.json()["litellm_params"]["rpm"], answer.json()["litellm_params"]["weight"]) == (7, 3)
    assert api.post("/model/block", {"model_id": own_model}, by=admin).json()["model_info"]["blocked"] is True
    with scopes_disabled():
        row = Deployment.objects.get(id=own_model)
    assert (row.organization_id, row.upstream_model, row.enabled) == ("acme", "gpt-4o", False)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"litellm_params": {"model": "openai/gpt-5-pro"}}, "litellm_params.model"),
        ({"litellm_params": {"api_base": "http://127.0.0.1:6379"}}, "litellm_params.api_base"),
        ({"litellm_params": {"input_cost_per_token": 0}}, "litellm_params.input_cost_per_token"),
        ({"litellm_params": {"extra_body": {"model": "gpt-5-pro"}}}, "litellm_params.extra_body"),
        ({"litellm_params": {"extra_headers": {"x-route": "pro"}}}, "litellm_params.extra_headers"),
        ({"model_info": {"output_cost_per_token": 0}}, "model_info.output_cost_per_token"),
        ({"model_name": "allowed-elsewhere"}, "model_name"),
    ],
)
def test_what_decides_on_cost_and_address_stays_the_platforms(
    api: Api, people: People, own_model: str, change: JsonObject, param: str
):
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    body = {**change, "model_info": {**change.get("model_info", {}), "id": own_model}}
    before = api.get("/model/info", {"litellm_model_id": own_model}).content
    refused(api.post("/model/update", body, by=admin), 403, param, "insufficient_permissions")
    assert api.get("/model/info", {"litellm_model_id": own_model}).content == before


def test_shared_and_foreign_deployments_are_out_of_an_admins_reach(api: Api, people: People, own_model: str):
    shared = add_model(api, "shared")
    admin, foreign = (
        issue_role_key(place, Role.ORGANIZATION_ADMIN, name)
        for place, name in ((people.home, "ruler"), (people.abroad, "other-ruler"))
    )
    change = {"litellm_params": {"weight": 9}}
    refused(api.post("/model/update", {**change, "id": shared}, by=admin), 404, "model_info.id")
    refused(api.post("/model/update", {**change, "id": own_model}, by=foreign), 404, "model_info.id")
    refused(api.post("/model/block", {"model_id": shared}, by=admin), 404, "model_id")
    for path, body in (("/model/new", {}), ("/model/delete", {"id": own_model})):
        refused(api.post(path, body, by=admin), 403)
