"""A stored credential stays with its address: who may change an address learns no credential by it.

The rule is the service's; the management API and the console's form tell its refusal.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from gateway.config import read_config
from gateway.config.load import load_config
from gateway.deployments import DeploymentInvalid, save_deployment
from gateway.models import Deployment
from gateway.protocol.json.types import JsonObject
from tenants.models import User
from tests.contract.models import LOCAL, SECRET, Api, refused, row_of, secrets_of, watched

pytestmark = pytest.mark.django_db

ELSEWHERE = "http://evil.example:9997/v1"
NEW = "sk-given-again-1"
AWS = {
    "model": "bedrock/anthropic.claude-sonnet-4",
    "aws_region_name": "eu-central-1",
    "aws_access_key_id": "AKIA-of-the-test",
    "aws_secret_access_key": SECRET,
}


@pytest.fixture
def api(client: Client) -> Iterator[Api]:
    yield from watched(client)


def stored(**fields: Any) -> Deployment:
    values = {"provider": "xinference", "upstream_model": "qwen", "api_base": LOCAL["api_base"], **fields}
    with scopes_disabled():
        row = Deployment(model_group="chat", **values)
        return save_deployment(row, credential={"api_key": SECRET, "header:X-Auth": SECRET})


# The service


@pytest.mark.parametrize(
    "change",
    [
        {"api_base": ELSEWHERE},
        {"api_base": "http://qwen.example:9998/v1"},
        {"api_base": "https://qwen.example:9997/v1"},
        {"api_base": ""},
        {"provider": "openai_compatible"},
        {"parameters": {"aws_bedrock_runtime_endpoint": ELSEWHERE}},
        {"parameters": {"aws_region_name": "evil.example/"}},
        {"parameters": {"extra_body": {"aws_bedrock_runtime_endpoint": ELSEWHERE}}},
    ],
    ids=str,
)
@pytest.mark.parametrize("credential", [None, {"api_key": None}, {"api_key": NEW, "header:X-Auth": None}], ids=str)
def test_the_service_sends_no_stored_credential_elsewhere(change: JsonObject, credential: Any) -> None:
    row = stored()
    for name, value in change.items():
        setattr(row, name, value)
    with scopes_disabled(), pytest.raises(DeploymentInvalid) as refusal:
        save_deployment(row, credential=credential)
    assert refusal.value.param == "api_key"
    assert (row_of(row.id).provider, row_of(row.id).api_base) == ("xinference", LOCAL["api_base"])
    with scopes_disabled():
        save_deployment(row, credential={"api_key": NEW})
    assert secrets_of(row.id) == {"api_key": NEW}


def test_a_credential_that_is_removed_goes_nowhere() -> None:
    row = stored()
    row.api_base = ELSEWHERE
    with scopes_disabled():
        save_deployment(row, credential={})
    assert (row_of(row.id).credential, row_of(row.id).api_base) == ("", ELSEWHERE)


def test_named_parts_of_a_credential_stay_and_the_rest_is_replaced() -> None:
    row = stored()
    with scopes_disabled():
        save_deployment(row, credential={"api_key": NEW, "header:X-Auth": None})
        assert secrets_of(row.id) == {"api_key": NEW, "header:X-Auth": SECRET}
        before = row.credential
        save_deployment(row, credential={"api_key": NEW, "header:X-Auth": SECRET})
    assert row_of(row.id).credential == before  # nothing has changed, so nothing is sealed anew


def test_a_stale_row_does_not_bring_an_old_credential_back() -> None:
    """Two forms were opened; one stored a new key, the other stores a weight."""
    stale = stored()
    with scopes_disabled():
        save_deployment(Deployment.objects.get(id=stale.id), credential={"api_key": NEW})
        stale.weight = 2
        save_deployment(stale)
    assert secrets_of(stale.id) == {"api_key": NEW}


def test_a_stale_row_does_not_take_a_new_credential_back_to_an_old_address() -> None:
    stale = stored()
    with scopes_disabled():
        moved = Deployment.objects.get(id=stale.id)
        moved.api_base = "http://new.example/v1"
        save_deployment(moved, credential={"api_key": NEW})
        with pytest.raises(DeploymentInvalid):
            save_deployment(stale)


def test_a_file_that_moves_a_deployment_replaces_its_credential(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for address in ("http://a.example/v1", "http://b.example/v1"):
        params = f"{{model: hosted_vllm/m, api_base: '{address}', api_key: {SECRET}}}"
        path.write_text(f"model_list: [{{model_name: m, litellm_params: {params}, model_info: {{id: one}}}}]")
        load_config(read_config(path, {}))
        assert row_of("one").api_base == address
        assert secrets_of("one") == {"api_key": SECRET}


# The management API


def refused_update(api: Api, model_id: str, params: JsonObject) -> None:
    before = row_of(model_id)
    error = refused(
        api.post("/model/update", {"litellm_params": params, "model_info": {"id": model_id}}),
        400,
        "litellm_params.api_key",
    )
    assert "give it again" in error["message"]
    refused(api.patch(model_id, {"litellm_params": params}), 400, "litellm_params.api_key")
    after = row_of(model_id)
    for column in ("provider", "api_base", "credential", "parameters"):
        assert getattr(after, column) == getattr(before, column), column


def test_another_address_asks_for_the_key_again(api: Api) -> None:
    model_id = api.new({**LOCAL, "api_key": SECRET})["model_id"]
    refused_update(api, model_id, {"api_base": ELSEWHERE})
    refused_update(api, model_id, {"base_url": ELSEWHERE})
    api.update(model_id, litellm_params={"api_base": LOCAL["api_base"], "weight": 2})
    assert secrets_of(model_id) == {"api_key": SECRET}
    api.update(model_id, litellm_params={"api_base": ELSEWHERE, "api_key": NEW})
    assert secrets_of(model_id) == {"api_key": NEW}
    api.update(model_id, litellm_params={"api_base": LOCAL["api_base"], "api_key": ""})
    assert row_of(model_id).credential == ""


def test_a_new_key_does_not_send_a_stored_header_elsewhere(api: Api) -> None:
    model_id = api.new({**LOCAL, "api_key": SECRET, "extra_headers": {"X-Auth": SECRET}})["model_id"]
    refused_update(api, model_id, {"api_base": ELSEWHERE, "api_key": NEW})
    refused_update(api, model_id, {"api_base": ELSEWHERE, "api_key": NEW, "extra_headers": {"X-Auth": None}})
    api.update(model_id, litellm_params={"api_base": ELSEWHERE, "api_key": NEW, "extra_headers": {"X-Auth": NEW}})
    assert secrets_of(model_id) == {"api_key": NEW, "header:X-Auth": NEW}


def test_another_endpoint_or_region_of_a_cloud_asks_for_its_keys_again(api: Api) -> None:
    model_id = api.new(AWS)["model_id"]
    refused_update(api, model_id, {"aws_bedrock_runtime_endpoint": "https://evil.example"})
    refused_update(api, model_id, {"aws_region_name": "us-east-1"})
    refused_update(api, model_id, {"aws_region_name": "us-east-1", "aws_access_key_id": NEW})
    again = {"aws_access_key_id": NEW, "aws_secret_access_key": NEW}
    api.update(model_id, litellm_params={"aws_region_name": "us-east-1", **again})
    assert secrets_of(model_id) == again


def test_another_provider_at_the_same_address_asks_for_the_key_again(api: Api) -> None:
    model_id = api.new({**LOCAL, "api_key": SECRET})["model_id"]
    refused_update(api, model_id, {"model": "openai_compatible/qwen", "api_base": LOCAL["api_base"]})
    api.update(model_id, litellm_params={"model": "sglang/qwen", "api_base": ELSEWHERE, "api_key": NEW})
    assert secrets_of(model_id) == {"api_key": NEW}


def test_a_credential_that_cannot_be_opened_here_is_not_sent_elsewhere_either(api: Api) -> None:
    model_id = api.new({**LOCAL, "api_key": SECRET})["model_id"]
    with scopes_disabled():
        Deployment.objects.filter(id=model_id).update(credential="sealed-by-another-installation")
    refused_update(api, model_id, {"api_base": ELSEWHERE})
    api.update(model_id, litellm_params={"weight": 2})
    assert row_of(model_id).credential == "sealed-by-another-installation"
    api.update(model_id, litellm_params={"api_key": ""})
    assert row_of(model_id).credential == ""


# The console


@pytest.fixture
def console(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


def submit(console: Client, row: Deployment, **fields: str) -> Any:
    form = {
        "model_group": row.model_group,
        "provider": row.provider,
        "upstream_model": row.upstream_model,
        "api_base": row.api_base,
        "weight": "1",
        "order": "0",
        "parameters": "{}",
        "enabled": "on",
    }
    return console.post(f"/console/gateway/deployment/{row.pk}/change/", form | fields)


@pytest.mark.parametrize(
    "change",
    [
        {"api_base": ELSEWHERE},
        {"provider": "openai_compatible"},
        {"parameters": '{"aws_bedrock_runtime_endpoint": "http://evil.example"}'},
    ],
    ids=str,
)
def test_the_form_asks_for_the_key_again(console: Client, change: JsonObject) -> None:
    row = stored()
    answer = submit(console, row, **change)
    assert answer.status_code == 200
    assert "give it again" in str(answer.context["adminform"].form.errors["api_key"])
    assert SECRET not in answer.content.decode()
    assert row_of(row.id).api_base == LOCAL["api_base"]
    assert submit(console, row, **change, api_key=NEW).status_code == 302
    assert secrets_of(row.id) == {"api_key": NEW}


def test_the_form_keeps_the_key_if_the_address_stays(console: Client) -> None:
    row = stored()
    assert submit(console, row, upstream_model="qwen3").status_code == 302
    assert secrets_of(row.id)["api_key"] == SECRET
    assert submit(console, row, api_base=ELSEWHERE, clear_api_key="on").status_code == 302
    assert row_of(row.id).credential == ""
