"""A deployment of an organization brings its own credentials: the gateway's machine has those of the platform."""

from typing import Any

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from gateway.deployments import DeploymentInvalid, save_deployment
from gateway.models import Deployment
from gateway.protocol.json.types import JsonObject
from tenants.models import User
from tests.contract.isolation_world import World
from tests.contract.management import Api, refused
from tests.contract.models import row_of, secrets_of
from tests.contract.own_api import ask, problem, send

pytestmark = pytest.mark.django_db

PAIR = {"aws_access_key_id": "AKIA1", "aws_secret_access_key": "s"}
BEDROCK: JsonObject = {
    "model_group": "claude",
    "provider": "bedrock",
    "upstream_model": "us-east-1/anthropic.claude",
    "organization_id": "acme",
}
AZURE = {"provider": "azure", "upstream_model": "gpt", "api_base": "https://acme.example"}


def saved(credential: dict[str, str], **fields: Any) -> Deployment:
    with scopes_disabled():
        return save_deployment(Deployment(model_group="chat", **{**AZURE, **fields}), credential={**credential})


def test_the_own_api_asks_for_credentials(api: Api, world: World) -> None:
    error = problem(send(api, "POST", "deployments", BEDROCK), 400, "credential")
    assert "does not use the identity of the gateway's machine" in error["detail"]
    problem(send(api, "POST", "deployments", {**BEDROCK, "credential": {"aws_access_key_id": "A"}}), 400, "credential")
    path = f"deployments/{ask(api, 'POST', 'deployments', {**BEDROCK, 'credential': PAIR}, status=201)['id']}"
    problem(send(api, "PATCH", path, {"credential": {}}), 400, "credential")
    for parameters in ({"aws_profile_name": "prod"}, {"extra_body": {"aws_profile_name": "prod"}}):
        problem(send(api, "PATCH", path, {"parameters": parameters}), 400, "aws_profile_name")
    problem(send(api, "PATCH", path, {"parameters": {"aws_web_identity_token": "t"}}), 400, "aws_web_identity_token")
    problem(send(api, "PATCH", path, {"provider": "vertex_ai", "credential": {}}), 400, "credential")
    row = ask(api, "PATCH", path, {"parameters": {"aws_role_name": "arn:aws:iam::1:role/r"}})
    assert row["credential_parts"] == sorted(PAIR)
    ask(api, "POST", "deployments", {**BEDROCK, "organization_id": None}, status=201)  # the platform's own


def test_session_tags_without_effect_are_refused(api: Api, world: World) -> None:
    body: JsonObject = {**BEDROCK, "credential": PAIR, "parameters": {"aws_session_tags": ["team"]}}
    error = problem(send(api, "POST", "deployments", body), 400, "aws_session_tags")
    assert "needs aws_role_name" in error["detail"]
    role = {"aws_session_tags": ["team"], "aws_role_name": "arn:aws:iam::1:role/r"}
    path = f"deployments/{ask(api, 'POST', 'deployments', {**body, 'parameters': role}, status=201)['id']}"
    problem(send(api, "PATCH", path, {"credential": {"api_key": "bedrock"}}), 400, "aws_session_tags")
    with scopes_disabled():
        Deployment.objects.filter(model_group="claude").update(parameters=body["parameters"])
    assert ask(api, "PATCH", path, {"weight": 2})["weight"] == 2  # stored by an earlier version


def test_an_organizations_admin_who_removes_the_key_gets_no_other_identity(api: Api, world: World) -> None:
    row = saved({"api_key": "own"}, organization_id="acme")
    for changes in ({"api_key": ""}, {"api_key": "", "weight": 2}):
        body: JsonObject = {"litellm_params": changes, "model_info": {"id": row.id}}
        refused(api.post("/model/update", body, by=world.keys["org_admin"]), 400, "litellm_params.api_key")
    assert secrets_of(row.id) == {"api_key": "own"}


def test_a_shared_deployment_of_the_machine_is_not_given_away(world: World) -> None:
    row = saved({})
    row.organization_id = "acme"
    with scopes_disabled(), pytest.raises(DeploymentInvalid, match="is needed, or tenant_id") as caught:
        save_deployment(row)
    assert caught.value.param == "api_key"
    with scopes_disabled():
        save_deployment(row, credential={"azure_ad_token": "t"})
    assert row_of(row.id).organization_id == "acme"


def test_one_of_an_earlier_version_is_still_switched_off(world: World) -> None:
    row = saved({})
    with scopes_disabled():
        Deployment.objects.filter(id=row.id).update(organization="acme")
        row = Deployment.objects.get(id=row.id)
        row.enabled = False
        save_deployment(row)
    assert not row_of(row.id).enabled


def test_the_form_names_the_field(client: Client, world: World) -> None:
    client.force_login(User.objects.create_superuser("root-2", password="correct horse battery"))
    form = {"model_group": "chat", **AZURE, "weight": "1", "order": "0", "parameters": "{}", "organization": "acme"}
    answer = client.post("/console/gateway/deployment/add/", form)
    assert answer.status_code == 200
    assert "does not use the identity" in str(answer.context["adminform"].form.errors["api_key"])
    assert client.post("/console/gateway/deployment/add/", {**form, "api_key": "own"}).status_code == 302
