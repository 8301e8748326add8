"""Flags of a deployment that are parameters too: one value for every way in, and none that means nothing."""

from collections.abc import Iterator

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from gateway.deployments import DeploymentInvalid, save_deployment
from gateway.models import Deployment
from gateway.protocol.abilities import ALL_ABILITIES
from gateway.protocol.json.types import JsonObject
from gateway.stores.catalog import target_of
from tenants.access import digest_of
from tenants.directory import load_principal
from tenants.models import User
from tests.contract.models import LOCAL, Api, answer_of, refused, row_of, watched

pytestmark = pytest.mark.django_db

FORM = {
    "model_group": "chat",
    "provider": "hosted_vllm",
    "upstream_model": "qwen",
    "api_base": "http://qwen.example:9997/v1",
    "weight": "1",
    "order": "0",
    "enabled": "on",
    "parameters": '{"seed": 1}',
}
ADD = "/console/gateway/deployment/add/"


@pytest.fixture
def api(client: Client) -> Iterator[Api]:
    yield from watched(client)


@pytest.fixture
def console(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


def stored() -> Deployment:
    with scopes_disabled():
        row: Deployment = Deployment.objects.get()
        return row


def test_the_api_stores_and_changes_the_policy(api: Api) -> None:
    model_id = str(api.new({**LOCAL, "hosted_tools": "drop"})["model_id"])
    target = target_of(row_of(model_id))
    assert target.capabilities.hosted_tools == "drop"
    assert "hosted_tools" not in target.parameters  # never sent
    assert api.info(model_id)["litellm_params"]["hosted_tools"] == "drop"
    api.update(model_id, litellm_params={"hosted_tools": "refuse"})
    assert target_of(row_of(model_id)).capabilities.hosted_tools == "refuse"


def test_model_info_may_say_it_too(api: Api) -> None:
    model_id = str(api.new(LOCAL, capabilities={"hosted_tools": "drop"})["model_id"])
    assert target_of(row_of(model_id)).capabilities.hosted_tools == "drop"


def test_the_api_stores_and_changes_what_is_cached(api: Api) -> None:
    model_id = str(api.new({**LOCAL, "cache_breakpoints": True})["model_id"])
    target = target_of(row_of(model_id))
    assert target.capabilities.cache_breakpoints is True
    assert "cache_breakpoints" not in target.parameters
    api.update(model_id, litellm_params={"cache_breakpoints": False})
    assert target_of(row_of(model_id)).capabilities.cache_breakpoints is False
    body = {"model_name": "chat", "litellm_params": {**LOCAL, "cache_breakpoints": 4}}
    refused(api.post("/model/new", body), 400, "litellm_params.cache_breakpoints")


def test_no_way_in_stores_a_wrong_value(api: Api) -> None:
    body = {"model_name": "chat", "litellm_params": {**LOCAL, "hosted_tools": "ignore"}}
    refused(api.post("/model/new", body), 400, "litellm_params.hosted_tools")
    body = {"model_name": "chat", "litellm_params": LOCAL, "model_info": {"capabilities": {"hosted_tools": 1}}}
    refused(api.post("/model/new", body), 400, "model_info.capabilities.hosted_tools")
    for fields in ({"parameters": {"hosted_tools": 1}}, {"model_info": {"capabilities": {"hosted_tools": "x"}}}):
        row = Deployment(model_group="chat", provider="hosted_vllm", upstream_model="m", **fields)
        with scopes_disabled(), pytest.raises(DeploymentInvalid, match="refuse, drop"):
            save_deployment(row)


def test_the_console_has_a_field_for_it(console: Client) -> None:
    assert console.post(ADD, FORM | {"hosted_tools": "drop", "cache_breakpoints": "on"}).status_code == 302
    row = stored()
    assert row.parameters == {"seed": 1, "hosted_tools": "drop", "cache_breakpoints": True}
    form = console.get(f"/console/gateway/deployment/{row.id}/change/").context["adminform"].form
    assert (form.initial["hosted_tools"], form.initial["cache_breakpoints"]) == ("drop", True)
    assert form.initial["parameters"] == {"seed": 1}
    assert console.post(f"/console/gateway/deployment/{row.id}/change/", FORM | {"hosted_tools": ""}).status_code == 302
    assert stored().parameters == {"seed": 1}


def test_the_console_has_fields_for_abilities_and_tags(console: Client) -> None:
    choices = {"mode": "chat", "lacking": ["supports_vision", "supports_tool_choice"], "tags": "free\neu, free"}
    assert console.post(ADD, FORM | choices).status_code == 302
    row = stored()
    lacking = {"supports_vision": False, "supports_tool_choice": False}
    assert (row.parameters, row.model_info) == ({"seed": 1, "tags": ["free", "eu"]}, {**lacking, "mode": "chat"})
    row.model_info |= {"supports_response_schema": True, "note": "x", "mode": "completion"}
    save_deployment(row)
    change = f"/console/gateway/deployment/{row.id}/change/"
    form = console.get(change).context["adminform"].form
    assert form.initial["lacking"] == ["supports_vision", "supports_tool_choice"]
    assert form.initial["tags"] == ["free", "eu"]
    assert console.post(change, FORM | {"mode": "completion", "lacking": ["supports_vision"]}).status_code == 302
    kept = {"supports_vision": False, "supports_response_schema": True, "note": "x", "mode": "completion"}
    assert (stored().parameters, stored().model_info) == ({"seed": 1}, kept)
    answer = console.post(change, FORM | {"mode": "made-up", "lacking": ["supports_flight"]})
    assert {"mode", "lacking"} <= set(answer.context["adminform"].form.errors)


def test_the_console_refuses_a_wildcard_that_nothing_fills(console: Client) -> None:
    answer = console.post(ADD, FORM | {"upstream_model": "*"})
    assert "upstream_model" in answer.context["adminform"].form.errors
    assert console.post(ADD, FORM | {"model_group": "far/*", "upstream_model": "*"}).status_code == 302


def test_the_console_refuses_a_wrong_value(console: Client) -> None:
    answer = console.post(ADD, FORM | {"hosted_tools": "ignore"})
    assert "hosted_tools" in answer.context["adminform"].form.errors
    answer = console.post(ADD, FORM | {"parameters": '{"hosted_tools": "ignore"}'})
    assert answer.status_code == 200
    assert "Must be one of refuse, drop" in str(answer.context["adminform"].form.errors)


def test_tags_and_abilities_are_the_deployments_and_not_the_upstreams(api: Api) -> None:
    answer = api.new(
        {**LOCAL, "tags": ["free"], "extra_body": {"tags": ["theirs"]}}, supports_vision=False, mode="chat"
    )
    model_id = str(answer["model_id"])
    assert answer["litellm_params"]["tags"] == ["free"]
    assert answer["model_info"]["supports_vision"] is False
    target = target_of(row_of(model_id))
    assert (target.tags, target.parameters) == (frozenset({"free"}), {"tags": ["theirs"]})
    assert ALL_ABILITIES - target.abilities == {"vision", "embeddings"}
    api.update(model_id, litellm_params={"tags": []}, info={"supports_vision": True})
    target = target_of(row_of(model_id))
    assert target.tags == frozenset()
    assert "vision" in target.abilities


@pytest.mark.parametrize(
    ("params", "info", "param"),
    [
        ({"tags": "free"}, {}, "litellm_params.tags"),
        ({"tags": [1]}, {}, "litellm_params.tags"),
        ({}, {"supports_vision": "false"}, "model_info.supports_vision"),
        ({}, {"supports_tool_choice": 0}, "model_info.supports_tool_choice"),
    ],
)
def test_a_tag_or_an_ability_that_is_none_is_refused(
    api: Api, params: JsonObject, info: JsonObject, param: str
) -> None:
    body = {"model_name": "chat", "litellm_params": {**LOCAL, **params}, "model_info": info}
    refused(api.post("/model/new", body), 400, param)
    own = {"model_group": "m", "provider": "xinference", "upstream_model": "q", "api_base": LOCAL["api_base"]}
    answer = api.post("/api/deployments", {**own, "parameters": params, "model_info": info})
    assert answer.status_code == 400
    assert answer.json()["param"] == ("parameters" if params else "model_info")


def test_the_tags_of_a_key_and_its_team_come_with_it(api: Api) -> None:
    team = answer_of(api.post("/team/new", {"metadata": {"tags": ["team"]}}))["team_id"]
    key = answer_of(api.post("/key/generate", {"team_id": team, "tags": ["own"]}))["key"]
    principal = load_principal(digest_of(key))
    assert principal is not None
    assert principal.tags == {"team", "own"}


def test_litellms_name_for_a_prefill_is_the_capability(api: Api) -> None:
    def of(info: JsonObject) -> tuple[bool, object]:
        model_id = str(api.new(LOCAL, **info)["model_id"])
        return target_of(row_of(model_id)).capabilities.prefill, api.info(model_id)["model_info"]["capabilities"]

    for info, takes in (
        ({"supports_assistant_prefill": True}, True),
        ({"supports_assistant_prefill": None}, False),
        ({"supports_assistant_prefill": True, "capabilities": {"prefill": False}}, False),
    ):
        found, shown = of(info)
        assert found is takes
        assert isinstance(shown, dict)
        assert shown["prefill"] is takes
    for info in ({"supports_assistant_prefill": "yes"}, {"capabilities": {"prefill": "yes"}}):
        body = {"model_name": "chat", "litellm_params": LOCAL, "model_info": info}
        name = "capabilities.prefill" if "capabilities" in info else "supports_assistant_prefill"
        refused(api.post("/model/new", body), 400, f"model_info.{name}")
