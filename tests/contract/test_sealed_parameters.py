"""Credentials typed into a deployment's parameters are sealed: they stand in no column, page or answer."""

import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django.test import Client
from django_scopes import scopes_disabled

from gateway.deployments import DeploymentInvalid, save_deployment
from gateway.models import Deployment
from gateway.protocol.secret_fields import is_secret_field
from gateway.stores.catalog import target_of
from tenants.models import User
from tests.contract.models import SECRET, Api, refused, row_of, secrets_of, watched

pytestmark = pytest.mark.django_db

PARAMETERS = {
    "aws_region_name": "eu-central-1",
    "aws_access_key_id": "AKIA",
    "aws_secret_access_key": SECRET,
    "temperature": 0.2,
    "max_tokens": 100,
    "prompt_cache_key": "plain",
    "partner": {"access_token": SECRET},
    "extra_headers": {"X-Auth-Token": SECRET, "X-Trace": "on"},
    "extra_body": {"db_password": SECRET, "seed": 1},
}
PLAIN = {
    "aws_region_name": "eu-central-1",
    "temperature": 0.2,
    "max_tokens": 100,
    "prompt_cache_key": "plain",
    "extra_headers": {"X-Trace": "on"},
    "extra_body": {"seed": 1},
}
SEALED = {
    "aws_access_key_id": "AKIA",
    "aws_secret_access_key": SECRET,
    "body:partner": json.dumps({"access_token": SECRET}),
    "body:db_password": json.dumps(SECRET),
    "header:X-Auth-Token": SECRET,
}
FORM = {
    "model_group": "chat",
    "provider": "bedrock",
    "upstream_model": "anthropic.claude-sonnet-4",
    "weight": "1",
    "order": "0",
    "enabled": "on",
}
NEW = "sk-given-again-1"


@pytest.fixture
def api(client: Client) -> Iterator[Api]:
    yield from watched(client)


@pytest.fixture
def console(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


def stored(**fields: Any) -> Deployment:
    values = {"model_group": "chat", "provider": "bedrock", "upstream_model": "anthropic.claude-sonnet-4", **fields}
    with scopes_disabled():
        row: Deployment = Deployment.objects.create(**values)
    return row


@pytest.mark.parametrize(
    "name",
    """api_key my_key access_token X-Token client_secret db_password passwordHash secret credentials private_key
    aws_session_token aws_bearer_token_bedrock signing_key""".split(),  # noqa: SIM905
)
def test_the_name_of_a_credential_is_recognized(name: str) -> None:
    assert is_secret_field(name)


@pytest.mark.parametrize(
    "name",
    """max_tokens max_completion_tokens min_tokens prompt_cache_key eos_token stop_token_ids logprobs top_k tokenizer
    monkey keep_alive max_new_tokens prompt_tokens skip_special_tokens""".split(),  # noqa: SIM905
)
def test_other_names_hold_no_credential(name: str) -> None:
    assert not is_secret_field(name)


@pytest.mark.parametrize(
    ("provider", "name"), [("bedrock", "aws_bearer_token_bedrock"), ("azure_ai", "azure_ad_token")]
)
def test_every_credential_that_a_provider_reads_is_sealed(console: Client, provider: str, name: str) -> None:
    fields = FORM | {
        "provider": provider,
        "api_base": "https://upstream.example",
        "parameters": json.dumps({name: "t-1"}),
    }
    assert console.post("/console/gateway/deployment/add/", fields).status_code == 302
    with scopes_disabled():
        row = Deployment.objects.get()
    assert row.parameters == {}
    assert secrets_of(row.id)[name] == "t-1"


def test_the_console_seals_what_is_typed_into_the_parameters(console: Client) -> None:
    answer = console.post("/console/gateway/deployment/add/", FORM | {"parameters": json.dumps(PARAMETERS)})
    assert answer.status_code == 302
    with scopes_disabled():
        row = Deployment.objects.get()
    assert row.parameters == PLAIN
    assert secrets_of(row.id) == SEALED
    assert SECRET not in console.get(f"/console/gateway/deployment/{row.id}/change/").content.decode()
    target = target_of(row)
    assert target.parameters["partner"] == {"access_token": SECRET}  # still sent, as the deployment says
    assert target.headers["x-auth-token"] == SECRET
    assert not {"aws_secret_access_key", "aws_access_key_id"} & target.parameters.keys()


def test_an_answer_of_the_management_api_masks_them(api: Api) -> None:
    row = stored(parameters=PARAMETERS)
    with scopes_disabled():
        save_deployment(row)
    shown = api.info(row.id)
    assert SECRET not in json.dumps(shown, default=str)
    assert shown["litellm_params"]["partner"] is shown["litellm_params"]["db_password"] is None
    api.update(row.id, litellm_params={**shown["litellm_params"], "temperature": 0.5})
    assert secrets_of(row.id) == SEALED


def test_a_token_that_an_earlier_version_kept_in_clear_is_masked_and_sealed_with_the_next_change(api: Api) -> None:
    row = stored(parameters={"aws_bearer_token_bedrock": "t-12345678"})
    shown = api.info(row.id)
    assert shown["litellm_params"]["aws_bearer_token_bedrock"] is None
    assert "t-12345678" not in json.dumps(shown, default=str)
    api.update(row.id, litellm_params={"weight": 2})
    assert row_of(row.id).parameters == {}
    assert secrets_of(row.id) == {"aws_bearer_token_bedrock": "t-12345678"}


def test_the_migration_seals_what_stands_in_clear() -> None:
    row, plain = stored(parameters=PARAMETERS), stored(parameters={"temperature": 1})
    migration = importlib.import_module("gateway.migrations.0006_seal_parameters")
    for _ in range(2):
        migration.seal_parameters(apps, connection.schema_editor())
    assert row_of(row.id).parameters == PLAIN
    assert secrets_of(row.id) == SEALED
    assert row_of(plain.id).parameters == {"temperature": 1}


@pytest.mark.parametrize("url", ["http://169.254.169.254/v1", "http://metadata.google.internal", "http://2852039166"])
def test_no_write_path_takes_a_metadata_address(console: Client, url: str) -> None:
    row = Deployment(model_group="chat", provider="openai_compatible", upstream_model="m", api_base=url)
    with scopes_disabled(), pytest.raises(DeploymentInvalid, match="metadata"):
        save_deployment(row)
    fields = FORM | {"provider": "openai_compatible", "api_base": url, "parameters": "{}"}
    answer = console.post("/console/gateway/deployment/add/", fields)
    assert "metadata address" in str(answer.context["adminform"].form.errors["api_base"])
    bedrock = FORM | {"parameters": json.dumps({"aws_bedrock_runtime_endpoint": url})}
    assert console.post("/console/gateway/deployment/add/", bedrock).status_code == 200
    with scopes_disabled():
        assert not Deployment.objects.exists()


# Where no seal would hold a credential

WITH_USER = "http://ann:hunter-22@up.test/v1"
BASIC = "Basic YW5uOmh1bnRlci0yMg=="


def test_no_write_path_takes_a_user_in_an_address(console: Client, api: Api) -> None:
    row = Deployment(model_group="chat", provider="openai_compatible", upstream_model="m", api_base=WITH_USER)
    with scopes_disabled(), pytest.raises(DeploymentInvalid, match="user or a password"):
        save_deployment(row)
    fields = FORM | {"provider": "openai_compatible", "api_base": WITH_USER, "parameters": "{}"}
    answer = console.post("/console/gateway/deployment/add/", fields)
    assert "user or a password" in str(answer.context["adminform"].form.errors["api_base"])
    bedrock = FORM | {"parameters": json.dumps({"aws_bedrock_runtime_endpoint": WITH_USER})}
    assert console.post("/console/gateway/deployment/add/", bedrock).status_code == 200
    body = {"model_name": "chat", "litellm_params": {"model": "openai_compatible/m", "api_base": WITH_USER}}
    refused(api.post("/model/new", body), 400, "litellm_params.api_base")
    with scopes_disabled():
        assert not Deployment.objects.exists()


def test_a_user_that_stands_in_an_address_is_not_shown(console: Client, api: Api) -> None:
    row = stored(provider="openai_compatible", api_base=WITH_USER, parameters={"proxy": WITH_USER})
    page = console.get(f"/console/gateway/deployment/{row.id}/change/")
    assert page.context["adminform"].form["api_base"].value() == "http://up.test/v1"
    shown = api.info(row.id)["litellm_params"]
    assert shown["api_base"] == shown["proxy"] == "http://up.test/v1"
    row.enabled = False
    with scopes_disabled():
        save_deployment(row)  # as a bulk action does


def test_the_migration_seals_the_user_of_an_address() -> None:
    row = stored(provider="openai_compatible", api_base=WITH_USER)
    own = stored(provider="openai_compatible", api_base="https://example.test/a@b")
    migration = importlib.import_module("gateway.migrations.0008_seal_address_users")
    for _ in range(2):
        migration.seal_address_users(apps, connection.schema_editor())
    assert row_of(row.id).api_base == "http://up.test/v1"
    assert secrets_of(row.id) == {"header:Authorization": BASIC}
    target = target_of(row_of(row.id))
    assert target.headers["authorization"] == BASIC  # as the client made of the address
    assert {BASIC, "hunter-22"} <= set(target.reveal_secrets())
    assert row_of(own.id).api_base == "https://example.test/a@b"


@pytest.mark.parametrize(
    "info", [{"api_key": SECRET}, {"owner": {"password": SECRET}}, {"tokens": [{"token": SECRET}]}]
)
def test_model_info_takes_no_credential(api: Api, info: dict[str, Any]) -> None:
    body = {"model_name": "chat", "litellm_params": {"model": "ollama/m"}, "model_info": info}
    error = api.post("/model/new", body).json()["error"]
    assert "looks like a credential" in error["message"]
    assert error["param"].startswith("model_info")
    with scopes_disabled(), pytest.raises(DeploymentInvalid, match="looks like a credential"):
        save_deployment(Deployment(model_group="a", provider="ollama", upstream_model="m", model_info=info))
    row = stored(provider="ollama", model_info=info)
    with scopes_disabled():
        save_deployment(row)  # one of an earlier version may be enabled and disabled


def test_what_an_upstream_may_repeat_is_known_whole_and_in_parts() -> None:
    row = stored(parameters=PARAMETERS | {"extra_headers": {"Authorization": f"Bearer {SECRET}", "X-Key": "on"}})
    with scopes_disabled():
        save_deployment(row, credential={"vertex_credentials": json.dumps({"private_key": "one\nsecond-line"})})
    secrets = target_of(row_of(row.id)).reveal_secrets()
    assert {SECRET, f"Bearer {SECRET}", "one\nsecond-line"} <= set(secrets)
    assert "on" not in secrets  # it would be taken out of every text
    assert list(secrets) == sorted(secrets, key=len, reverse=True)


# The fields of the providers


def test_a_new_key_replaces_only_itself(console: Client) -> None:
    row = stored()
    with scopes_disabled():
        save_deployment(row, credential={"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRET})
    path = f"/console/gateway/deployment/{row.id}/change/"
    fields = FORM | {"parameters": "{}"}
    assert console.post(path, fields | {"secret_aws_session_token": NEW}).status_code == 302
    assert console.post(path, fields | {"api_key": NEW}).status_code == 302
    whole = {"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRET, "aws_session_token": NEW, "api_key": NEW}
    assert secrets_of(row.id) == whole
    assert console.post(path, fields).status_code == 302
    assert secrets_of(row.id) == whole
    page = console.get(path).content.decode()
    assert SECRET not in page
    assert NEW not in page
    assert console.post(path, fields | {"clear_api_key": "on"}).status_code == 302
    assert row_of(row.id).credential == ""


def test_the_form_has_the_fields_of_the_provider(console: Client) -> None:
    fields = FORM | {
        "parameters": '{"temperature": 0.2}',
        "own_aws_region_name": "eu-west-1",
        "own_vertex_project": "of another provider",
        "secret_aws_access_key_id": "AKIA",
        "secret_aws_secret_access_key": SECRET,
        "secret_vertex_credentials": "of another provider",
    }
    assert console.post("/console/gateway/deployment/add/", fields).status_code == 302
    with scopes_disabled():
        row = Deployment.objects.get()
    assert row.parameters == {"temperature": 0.2, "aws_region_name": "eu-west-1"}
    assert secrets_of(row.id) == {"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRET}
    form = console.get(f"/console/gateway/deployment/{row.id}/change/").context["adminform"].form
    assert form["own_aws_region_name"].value() == "eu-west-1"
    assert json.loads(form["parameters"].value()) == {"temperature": 0.2}
