"""/model/* as its callers see it: LiteLLM's requests, their answers, and the secrets that no answer shows."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from billing.models import Price
from gateway import api as endpoints
from gateway.deployments import save_deployment
from gateway.edge.asgi_types import App
from gateway.edge.data_plane import HttpRouter
from gateway.edge.endpoint import Endpoint
from gateway.models import Deployment
from gateway.pipeline.observer import NO_OBSERVER
from gateway.protocol.json.types import JsonObject
from gateway.protocol.registry import scan
from gateway.stores.catalog import load_snapshot
from tenants.revision import current_revision
from tests.conftest import Person
from tests.contract.models import LOCAL, OPENAI, SECRET, Api, answer_of, lines_of, refused, row_of, secrets_of, watched

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(client: Client) -> Iterator[Api]:
    yield from watched(client)


# New


def test_a_new_model_is_served_and_its_credential_is_never_shown(api: Api) -> None:
    before = current_revision()
    answer = api.new(OPENAI)
    assert answer["model_name"] == "chat"
    assert answer["litellm_params"]["model"] == "openai/gpt-4o"
    assert answer["litellm_params"]["api_key"] is None
    assert answer["model_info"]["id"] == answer["model_id"]
    assert answer["model_info"]["db_model"] is True
    assert secrets_of(answer["model_id"]) == {"api_key": SECRET}
    assert SECRET not in row_of(answer["model_id"]).credential
    assert current_revision() > before
    targets = [target for group in load_snapshot().catalog.groups.values() for target in group]
    assert [target.deployment_id for target in targets] == [answer["model_id"]]


def test_a_chosen_id_is_stored_and_unique(api: Api) -> None:
    assert api.new(LOCAL, id="7c3e")["model_id"] == "7c3e"
    body = {"model_name": "other", "litellm_params": LOCAL, "model_info": {"id": "7c3e"}}
    refused(api.post("/model/new", body), 400, "model_info.id", "model_exists")
    assert row_of("7c3e").model_group == "chat"


def test_two_equal_models_have_different_ids(api: Api) -> None:
    assert api.new(LOCAL)["model_id"] != api.new(LOCAL)["model_id"]


@pytest.mark.parametrize("where", ["litellm_params", "model_info"])
def test_prices_are_stored_exactly_as_written(api: Api, where: str) -> None:
    costs = '"input_cost_per_token": 6e-07, "output_cost_per_token": 0.00000240000000000000000001'
    parts = {"litellm_params": json.dumps(LOCAL)[1:-1], "model_info": '"mode": "chat"'}
    parts[where] += f", {costs}"
    body = ", ".join(f'"{name}": {{{part}}}' for name, part in parts.items())
    raw = f'{{"model_name": "m", {body}}}'
    answer = answer_of(api.post("/model/new", raw))
    assert lines_of(answer["model_id"]) == {"input": "0.0000006", "output": "0.00000240000000000000000001"}
    raw = api.get("/model/info", {"litellm_model_id": answer["model_id"]}).content.decode()
    assert '"input_cost_per_token":0.0000006,' in raw
    assert '"output_cost_per_token":0.00000240000000000000000001,' in raw
    assert api.info(answer["model_id"])["model_info"]["mode"] == "chat"


def test_a_model_without_a_price_shows_none(api: Api) -> None:
    info = api.new(LOCAL)["model_info"]
    assert (info["input_cost_per_token"], info["output_cost_per_token"]) == (None, None)


def test_a_providers_own_parameters_and_secrets_are_read_as_by_the_loader(api: Api) -> None:
    cloud = {
        "model": "bedrock/anthropic.claude-sonnet-4",
        "aws_region_name": "eu-central-1",
        "aws_access_key_id": SECRET,
        "aws_secret_access_key": SECRET,
    }
    answer = api.new(cloud)
    assert secrets_of(answer["model_id"]) == {"aws_access_key_id": SECRET, "aws_secret_access_key": SECRET}
    assert answer["litellm_params"]["aws_region_name"] == "eu-central-1"
    assert answer["litellm_params"]["aws_secret_access_key"] is None

    ollama = api.new(
        {"model": "ollama/qwen3", "api_base": "http://o.example:11434", "num_ctx": 8192, "keep_alive": "5m"}
    )
    assert row_of(ollama["model_id"]).parameters == {"num_ctx": 8192, "keep_alive": "5m"}

    parsed = api.new({**LOCAL, "tool_call_parser": "qwen25"})
    assert parsed["litellm_params"]["tool_call_parser"] == "qwen25"


def test_a_secret_header_is_sealed_and_a_plain_one_returned(api: Api) -> None:
    answer = api.new({**LOCAL, "extra_headers": {"X-Auth-Token": SECRET, "X-Zone": "b"}})
    assert answer["litellm_params"]["extra_headers"] == {"X-Auth-Token": None, "X-Zone": "b"}
    assert secrets_of(answer["model_id"]) == {"header:X-Auth-Token": SECRET}


def test_capabilities_are_stored_and_returned(api: Api) -> None:
    answer = api.new(LOCAL, capabilities={"vision": False})
    assert answer["model_info"]["capabilities"]["vision"] is False
    assert answer["model_info"]["capabilities"]["structured"] == "native"


def test_the_answer_names_fields_without_effect(api: Api) -> None:
    answer = api.new({**LOCAL, "max_retries": 3, "tags": [], "max_budget": None})
    assert list(answer["ignored"]) == ["litellm_params.max_retries"]


def test_a_blocked_model_is_stored_and_not_served(api: Api) -> None:
    answer = api.new(LOCAL, blocked=True)
    assert answer["model_info"]["blocked"] is True
    assert not load_snapshot().catalog.groups
    assert api.update(answer["model_id"], info={"blocked": False})["model_info"]["blocked"] is False
    assert load_snapshot().catalog.groups


def test_a_pattern_is_stored_changed_and_serves_the_names_that_fit(api: Api) -> None:
    answer = api.new({**LOCAL, "model": "xinference/*"}, name="local/*")
    (bound,) = load_snapshot().catalog.find("any", "local/qwen3")
    assert (bound.deployment_id, bound.upstream_model, bound.price_id) == (answer["model_id"], "qwen3", "")
    refused(
        api.post("/model/update", {"model_name": "plain", "model_info": {"id": answer["model_id"]}}),
        400,
        "litellm_params.model",
    )
    api.update(
        answer["model_id"], model_name="*", litellm_params={"model": "xinference/q", "input_cost_per_token": 1e-6}
    )
    (bound,) = load_snapshot().catalog.find("any", "whatever")
    assert bound.upstream_model == "q"
    assert bound.price_id


def of(params: Any, info: Any = None) -> JsonObject:
    return {"model_name": "m", "litellm_params": params, "model_info": info}


WRONG: list[tuple[JsonObject, str]] = [
    ({}, "model_name"),
    ({"model_name": "m"}, "litellm_params.model"),
    (of("x"), "litellm_params"),
    (of(LOCAL, []), "model_info"),
    ({**of(LOCAL), "extra": 1}, "extra"),
    ({"model_name": "m/**", "litellm_params": LOCAL}, "model_name"),
    (of({"model": "ollama/*"}), "litellm_params.model"),
    (of({"model": "no-provider/x"}), "litellm_params.model"),
    (of({"model": "azure/q", "api_key": "k"}), "litellm_params.api_base"),
    (of({**LOCAL, "api_base": "ftp://x"}), "litellm_params.api_base"),
    (of({"model": "openai/gpt-4o"}), "litellm_params.api_key"),
    (of({**LOCAL, "input_cost_per_token": 2}), "litellm_params.input_cost_per_token"),
    (of({**LOCAL, "weight": -1}), "litellm_params.weight"),
    (of({**LOCAL, "extra_body": {"api_key": SECRET}}), "litellm_params.extra_body.api_key"),
    (of({**LOCAL, "max_budget": -5}), "litellm_params.max_budget"),
    (of(LOCAL, {"team_id": "t"}), "model_info.team_id"),
    (of(LOCAL, {"blocked": "no"}), "model_info.blocked"),
    (of(LOCAL, {"capabilities": 1}), "model_info.capabilities"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[f"{i}-{param}" for i, (_, param) in enumerate(WRONG)])
def test_an_invalid_model_is_refused_with_the_name_of_its_field(api: Api, body: JsonObject, param: str) -> None:
    refused(api.post("/model/new", body), 400, param)
    with scopes_disabled():
        assert not Deployment.objects.exists()


def test_a_caller_cannot_read_the_environment_of_the_server(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for key in ("os.environ/OPENAI_API_KEY", "os.environ/NOT_THERE"):
        body = {"model_name": "m", "litellm_params": {**OPENAI, "api_key": key}}
        error = refused(api.post("/model/new", body), 400, "litellm_params.api_key")
        assert "config.yaml" in error["message"]
    body = {"model_name": "m", "litellm_params": {"model": "openai/gpt-4o"}}
    error = refused(api.post("/model/new", body), 400, "litellm_params.api_key")
    assert "environment" not in error["message"]


# Update


def test_an_update_changes_only_the_fields_of_the_body(api: Api) -> None:
    params = {**OPENAI, "temperature": 0.5, "timeout": 30, "input_cost_per_token": "0.0000006", "rpm": 5}
    model_id = api.new({**params, "extra_headers": {"X-Auth": SECRET}}, mode="chat")["model_id"]
    answer = api.update(model_id, litellm_params={"stream_timeout": 9, "output_cost_per_token": "0.000002", "top_p": 1})
    params = answer["litellm_params"]
    assert (params["temperature"], params["top_p"], params["rpm"]) == (0.5, 1, 5)
    assert (params["timeout"], params["stream_timeout"]) == (30, 9)
    assert answer["model_name"] == "chat"
    assert answer["model_info"]["mode"] == "chat"
    assert lines_of(model_id) == {"input": "0.0000006", "output": "0.000002"}
    assert secrets_of(model_id) == {"api_key": SECRET, "header:X-Auth": SECRET}


def test_an_answer_sent_back_changes_nothing(api: Api) -> None:
    costs = {"input_cost_per_token": "0.00000060000000000000000001", "output_cost_per_token": 6e-7}
    params = {**OPENAI, **costs, "organization": "org-1", "extra_headers": {"X-Key": SECRET}}
    model_id = api.new(params, mode="chat", max_tokens=4096)["model_id"]
    before = row_of(model_id)
    model = api.info(model_id)
    answer_of(api.post("/model/update", model))
    after = row_of(model_id)
    for column in ("credential", "price_id", "parameters", "model_info", "api_base", "upstream_model", "enabled"):
        assert getattr(after, column) == getattr(before, column), column
    model["litellm_params"]["extra_headers"]["X-Zone"] = "b"
    assert answer_of(api.post("/model/update", model))["litellm_params"]["extra_headers"]["X-Zone"] == "b"
    assert secrets_of(model_id) == {"api_key": SECRET, "header:X-Key": SECRET}


def test_a_new_price_has_also_the_lines_that_are_as_the_catalogues(api: Api) -> None:
    lines = {"input": "0.000001", "output": "0.000002"}
    Price.objects.create(origin="book", provider="openai", model="gpt-new", deployment_id="", lines=lines)
    model_id = api.new({**OPENAI, "model": "openai/gpt-new"})["model_id"]
    info = api.info(model_id)["model_info"]
    assert info["output_cost_per_token"] == 2e-6
    api.update(model_id, info=info)
    assert row_of(model_id).price_id == "", "the catalogue's price is not made the deployment's own"
    api.update(model_id, info={**info, "input_cost_per_token": 3e-6})
    assert lines_of(model_id) == {"input": "0.000003", "output": "0.000002"}


def test_null_keeps_a_field_and_the_empty_text_clears_it(api: Api) -> None:
    model_id = api.new({**LOCAL, "api_key": SECRET, "timeout": 30, "input_cost_per_token": 0})["model_id"]
    api.update(model_id, litellm_params={"api_key": None, "timeout": None, "input_cost_per_token": None})
    assert (secrets_of(model_id), row_of(model_id).timeout_s) == ({"api_key": SECRET}, 30)
    api.update(model_id, litellm_params={"api_key": "", "timeout": "", "input_cost_per_token": ""})
    row = row_of(model_id)
    assert (row.credential, row.timeout_s, row.price_id) == ("", None, "")


def test_another_upstream_model_keeps_provider_and_credential(api: Api) -> None:
    model_id = api.new({**LOCAL, "api_key": SECRET})["model_id"]
    answer = api.update(model_id, model_name="fast", litellm_params={"model": "qwen3"})
    assert (answer["model_name"], answer["litellm_params"]["model"]) == ("fast", "xinference/qwen3")
    assert answer["litellm_params"]["api_base"] == LOCAL["api_base"]
    assert secrets_of(model_id) == {"api_key": SECRET}


def test_another_provider_is_not_sent_the_old_ones_credential(api: Api) -> None:
    azure = {"model": "azure/gpt", "api_base": "https://a.example", "api_key": SECRET, "api_version": "2024-10-21"}
    model_id = api.new(azure)["model_id"]
    body = {"litellm_params": {"model": "openai/gpt-4o"}, "model_info": {"id": model_id}}
    refused(api.post("/model/update", body), 400, "litellm_params.api_key")
    answer = api.update(model_id, litellm_params={"model": "openai/gpt-4o", "api_key": "sk-of-the-new-one"})
    assert secrets_of(model_id) == {"api_key": "sk-of-the-new-one"}
    assert "api_version" not in answer["litellm_params"]
    assert answer["litellm_params"]["api_base"] != azure["api_base"]


def test_a_refused_update_changes_nothing(api: Api) -> None:
    model_id = api.new(LOCAL)["model_id"]
    body = {"model_name": "x", "litellm_params": {"api_base": "nowhere"}, "model_info": {"id": model_id}}
    refused(api.post("/model/update", body), 400, "litellm_params.api_base")
    assert row_of(model_id).model_group == "chat"
    refused(api.post("/model/update", {"model_name": "x"}), 400, "model_info.id")
    refused(api.post("/model/update", {"model_info": {"id": "unknown"}}), 404, "model_info.id")


# Patch


def test_a_patch_is_an_update_of_the_model_in_the_path(api: Api) -> None:
    model_id = api.new({**OPENAI, "temperature": 0.5}, id="team/gpt 4")["model_id"]
    answer = answer_of(api.patch("team/gpt%204", {"litellm_params": {"top_p": 1}, "blocked": True}))
    assert answer["model_id"] == model_id
    assert (answer["litellm_params"]["temperature"], answer["litellm_params"]["top_p"]) == (0.5, 1)
    assert answer["model_info"]["blocked"] is True
    assert secrets_of(model_id) == {"api_key": SECRET}
    answer = answer_of(api.patch("team/gpt%204", {"model_info": {"id": model_id, "blocked": False}}))
    assert answer["model_name"] == "chat"
    assert row_of(model_id).enabled is True


def test_null_in_a_patch_removes_a_price_and_nothing_else(api: Api) -> None:
    costs = {"input_cost_per_token": 0.5, "output_cost_per_token": 0.25}
    model_id = api.new({**OPENAI, **costs, "timeout": 30})["model_id"]
    answer_of(api.patch(model_id, {"litellm_params": {"input_cost_per_token": None, "timeout": None}}))
    assert lines_of(model_id) == {"output": "0.25"}
    assert row_of(model_id).timeout_s == 30


def test_an_invalid_patch_is_refused(api: Api) -> None:
    model_id = api.new(LOCAL)["model_id"]
    refused(api.patch("unknown", {"model_name": "x"}), 404, "model_id")
    refused(api.patch(model_id, {"model_info": {"id": "other"}}), 400, "model_info.id")
    refused(api.patch(model_id, {"blocked": "no"}), 400, "blocked")
    refused(api.patch(model_id, {"litellm_params": {"model": 5}}), 400, "litellm_params.model")
    refused(api.patch(model_id, {"litellm_params": {"extra_headers": "x"}}), 400, "litellm_params.extra_headers")
    refused(api.patch(model_id, {"litellm_params": {"api_base": "nowhere"}}), 400, "litellm_params.api_base")
    refused(api.post(f"/model/{model_id}/update", {"model_name": "x"}), 405, None)
    assert row_of(model_id).model_group == "chat"


# Delete, list, who


def test_a_deleted_model_is_gone(api: Api) -> None:
    model_id = api.new(LOCAL)["model_id"]
    answer = answer_of(api.post("/model/delete", {"id": model_id}))
    assert answer == {"message": f"Model: {model_id} deleted successfully"}
    refused(api.post("/model/delete", {"id": model_id}), 404, "id")
    refused(api.get("/model/info", {"litellm_model_id": model_id}), 404, "litellm_model_id")
    refused(api.post("/model/delete", {}), 400, "id")
    assert not load_snapshot().catalog.groups


def test_models_of_config_yaml_are_listed_and_not_edited(api: Api) -> None:
    with scopes_disabled():
        row = Deployment(
            id="config-1",
            model_group="chat",
            provider="xinference",
            upstream_model="qwen",
            api_base=LOCAL["api_base"],
            source=Deployment.Source.CONFIG,
        )
        save_deployment(row, credential={"api_key": SECRET}, price_lines={"input": "0.000001"})
    model = api.info("config-1")
    assert model["model_info"]["db_model"] is False
    assert model["model_info"]["input_cost_per_token"] == 1e-6
    for path, body in (("/model/update", {"model_info": {"id": "config-1"}}), ("/model/delete", {"id": "config-1"})):
        error = refused(api.post(path, body), 400, None, "model_in_config")
        assert error["message"] == "Can't edit model. Model in config."
    assert row_of("config-1").model_group == "chat"


def test_secrets_that_the_console_stored_in_a_row_are_not_shown(api: Api) -> None:
    with scopes_disabled():
        row = Deployment.objects.create(
            model_group="chat",
            provider="xinference",
            upstream_model="qwen",
            api_base=f"http://user:{SECRET}@qwen.example/v1",  # by a version that took it
            parameters={"extra_headers": {"Authorization": SECRET}, "extra_body": {"api_key": SECRET, "n": 1}},
        )
        save_deployment(row)
    params = api.info(row.id)["litellm_params"]
    assert params["api_base"] == "http://qwen.example/v1"
    assert params["extra_body"] == {"n": 1}
    assert params["api_key"] is None


def test_a_credential_that_no_key_opens_does_not_hide_the_models(api: Api) -> None:
    model_id = api.new(OPENAI)["model_id"]
    with scopes_disabled():
        Deployment.objects.filter(id=model_id).update(credential="gone")
    assert api.info(model_id)["model_name"] == "chat"
    api.update(model_id, litellm_params={"api_key": SECRET})
    assert secrets_of(model_id) == {"api_key": SECRET}


@pytest.mark.parametrize("path", ["/model/info", "/v1/model/info", "/v2/model/info", "/model/info/"])
def test_every_path_of_info_lists_the_same_models(api: Api, path: str) -> None:
    ids = {api.new(LOCAL)["model_id"], api.new(OPENAI, name="gpt")["model_id"]}
    assert {model["model_info"]["id"] for model in answer_of(api.get(path))["data"]} == ids
    refused(api.get(path, {"healthy": "1"}), 400, "healthy")


def test_version_2_of_info_comes_in_pages(api: Api) -> None:
    ids = [api.new(LOCAL, name=name, id=f"id-{name}")["model_id"] for name in ("b", "a", "c")]
    first = answer_of(api.get("/v2/model/info", {"size": "2"}))
    second = answer_of(api.get("/v2/model/info", {"size": "2", "page": "2"}))
    assert [[model["model_name"] for model in page["data"]] for page in (first, second)] == [["a", "b"], ["c"]]
    counts = {"total_count": len(ids), "total_pages": 2, "size": 2}
    assert {name: first[name] for name in (*counts, "current_page")} == {**counts, "current_page": 1}
    assert second["current_page"] == 2
    assert answer_of(api.get("/v2/model/info", {"page": "9"}))["data"] == []
    assert answer_of(api.get("/v2/model/info"))["size"] == 50


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"search": "CLAUDE"}, ["claude-haiku", "claude-opus"]),
        ({"search": "opus"}, ["claude-opus"]),
        ({"search": "%"}, []),
        ({"modelId": "2"}, ["claude-opus"]),
        ({"modelId": "unknown"}, []),
        ({"modelId": "2", "search": "gpt"}, []),
        ({"model": "gpt"}, ["gpt"]),
        ({"model": "gp"}, []),
        ({"sortBy": "model_name", "sortOrder": "desc"}, ["gpt", "claude-opus", "claude-haiku"]),
        ({"sortBy": "created_at"}, ["gpt", "claude-opus", "claude-haiku"]),
    ],
)
def test_version_2_of_info_is_searched_and_sorted(api: Api, query: JsonObject, names: list[str]) -> None:
    for number, name in enumerate(("gpt", "claude-opus", "claude-haiku"), 1):
        api.new(LOCAL, name=name, id=str(number))
    page = answer_of(api.get("/v2/model/info", query))
    assert [model["model_name"] for model in page["data"]] == names
    assert page["total_count"] == len(names)
    assert page["total_pages"] == (1 if names else 0)


@pytest.mark.parametrize(
    "query", [{"page": "0"}, {"size": "x"}, {"size": "1001"}, {"sortBy": "cost"}, {"sortOrder": "up"}]
)
def test_a_wrong_page_is_refused_by_name(api: Api, query: JsonObject) -> None:
    refused(api.get("/v2/model/info", query), 400, next(iter(query)))


def test_numbers_beyond_64_bits_are_shown_as_they_are(api: Api) -> None:
    with scopes_disabled():
        row = Deployment(model_group="m", provider="xinference", upstream_model="q", parameters={"seed": 2**70})
        save_deployment(row)
    assert api.info(row.id)["litellm_params"]["seed"] == 2**70


def test_a_virtual_key_manages_no_models(api: Api, owner: Person, team_mate: Person, stranger: Person) -> None:
    model_id = api.new(LOCAL)["model_id"]
    for person in (owner, team_mate, stranger):
        for path in ("/model/new", "/model/update", "/model/delete"):
            refused(api.post(path, {"id": model_id}, by=person.text), 403, None, "insufficient_permissions")
        for path in ("/v2/model/info", "/model/upstream"):
            refused(api.get(path, by=person.text), 403, None, "insufficient_permissions")
        for path in ("/model/info", "/v1/model/info"):  # its own models, without their addresses
            assert [row["litellm_params"] for row in answer_of(api.get(path, by=person.text))["data"]] == [
                {"model": LOCAL["model"]}
            ]
    refused(api.get("/model/info", by="sk-unknown"), 401, None, "invalid_api_key")
    refused(api.get("/model/other"), 404, None)


async def test_the_front_leaves_v1_model_info_to_django_and_nothing_else_below_v1() -> None:
    reached: list[str] = []

    async def django(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    def app_of(endpoint: Endpoint) -> App:
        app: App = endpoint.consumer.as_asgi(runtime=runtime, **endpoint.options)  # none of them gets further
        return app

    runtime = SimpleNamespace(services=SimpleNamespace(observer=NO_OBSERVER))
    messages: list[Any] = []
    front = HttpRouter(scan(endpoints, "ENDPOINT"), django, app_of)
    for path in ("/v1/model/info", "/v1/model/info/", "/model/info", "/v2/model/info"):
        await front({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    assert reached == ["/v1/model/info", "/v1/model/info/", "/model/info", "/v2/model/info"]
    await front({"type": "http", "method": "GET", "path": "/v1/model/infos", "headers": []}, receive, send)
    assert len(reached) == 4
    assert [message["status"] for message in messages if message["type"] == "http.response.start"] == [404]
