"""/model/info and /model_group/info with a virtual key: its own models, without addresses and credentials."""

import pytest
from django_scopes import scopes_disabled

from gateway.models import Deployment
from gateway.protocol.json.types import JsonObject
from gateway.stores.catalog import load_snapshot
from tests.contract.management import Api, People, refused
from tests.contract.own_api import ask, problem, send

pytestmark = pytest.mark.django_db

SECRET, ADDRESS = "sk-upstream-secret-0123456789", "http://upstream.internal:8000/v1"


@pytest.fixture
def models(api: Api, people: People) -> dict[str, str]:
    """{name: id} of deployments: shared ones, one of each organization, one that is off."""
    ids: dict[str, str] = {}
    for name, changes in (
        ("shared", {}),
        ("ours", {"organization_id": "acme"}),
        ("theirs", {"organization_id": "umbrella"}),
        ("off", {"enabled": False}),
    ):
        params = {"model": f"openai/{name}-1", "api_key": SECRET, "api_base": ADDRESS, "rpm": 60}
        info: JsonObject = {"max_input_tokens": 8_000, "supports_vision": True, "mode": "chat"}
        costs = {"input_cost_per_token": 0.000002, "output_cost_per_token": 0.000004}
        answer = api.post("/model/new", {"model_name": name, "litellm_params": params | costs, "model_info": info})
        assert answer.status_code == 200, answer.content
        ids[name] = answer.json()["model_id"]
        with scopes_disabled():
            Deployment.objects.filter(id=ids[name]).update(**changes)
    return ids


def names_of(api: Api, key: str, path: str = "/v1/model/info") -> list[str]:
    answer = api.get(path, by=key)
    assert answer.status_code == 200, answer.content
    assert SECRET not in answer.content.decode()
    assert "upstream.internal" not in answer.content.decode()
    member = "model_group" if "group" in path else "model_name"
    return sorted(row[member] for row in answer.json()["data"])


@pytest.mark.parametrize("path", ["/model/info", "/v1/model/info", "/model_group/info"])
def test_a_key_sees_the_models_that_it_may_call(api: Api, people: People, models: dict[str, str], path: str):
    assert names_of(api, people.owner, path) == ["ours", "shared"]
    assert names_of(api, people.stranger, path) == ["shared", "theirs"]
    narrow = api.issue(team_id="research", models=["ours"], aliases={"gpt": "ours", "lost": "theirs"})["key"]
    assert names_of(api, narrow, path) == ["gpt", "ours"]
    assert names_of(api, api.issue(key_type="llm_api")["key"], path) == ["shared"]


def test_one_model_is_read_by_its_id_and_anothers_is_absent(api: Api, people: People, models: dict[str, str]):
    (row,) = api.get("/model/info", {"litellm_model_id": models["ours"]}, by=people.owner).json()["data"]
    assert row["litellm_params"] == {"model": "openai/ours-1", "rpm": 60}
    assert row["model_info"]["max_input_tokens"] == 8_000
    assert row["model_info"]["input_cost_per_token"] == 0.000002
    for name in (models["theirs"], models["off"], "absent"):
        refused(api.get("/model/info", {"litellm_model_id": name}, by=people.owner), 404, "litellm_model_id")


def test_a_group_tells_what_its_deployments_can_do(api: Api, people: People, models: dict[str, str]):
    with scopes_disabled():
        Deployment.objects.filter(id=models["ours"]).update(model_group="shared", organization=None, rpm=40)
    (group,) = api.get("/model_group/info", {"model_group": "shared"}, by=people.owner).json()["data"]
    assert group == {
        "model_group": "shared",
        "providers": ["openai"],
        "mode": "chat",
        "max_tokens": None,
        "max_input_tokens": 8_000,
        "max_output_tokens": None,
        "input_cost_per_token": 0.000002,
        "output_cost_per_token": 0.000004,
        "tpm": None,
        "rpm": 100,
        "supports_vision": True,
    }
    assert len(api.get("/model/info").json()["data"]) == 4  # the master key sees them all
    assert api.get("/model_group/info", {"model_group": "absent"}, by=people.owner).json() == {"data": []}
    refused(api.get("/model_group/info", by=None), 401, None, "invalid_api_key")


def test_a_pattern_of_the_own_api_serves_names_and_is_checked_when_it_is_written(api: Api) -> None:
    body = {"model_group": "far/*", "provider": "ollama", "upstream_model": "*", "api_base": "http://o.example"}
    ask(api, "POST", "deployments", body, status=201)
    (bound,) = load_snapshot().catalog.find("acme", "far/qwen")
    assert bound.upstream_model == "qwen"
    for changes, param in (({"model_group": "plain"}, "upstream_model"), ({"model_group": "a**"}, "model_group")):
        problem(send(api, "PATCH", f"deployments/{bound.deployment_id}", changes), 400, param)
