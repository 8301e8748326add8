"""The management API as LiteLLM's clients and Terraform's provider use it: their requests, and what they read."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import resolve

from gateway import api as api_package
from gateway.edge.asgi_types import App, Receive, Scope, Send
from gateway.edge.data_plane import HttpRouter
from gateway.protocol.registry import scan
from gateway.protocol.unserved_paths import is_unserved
from gateway.version import VERSION
from tenants.rest.views import UnknownRoute
from tests.contract.management import MASTER, Api, People, refused

pytestmark = pytest.mark.django_db

LITELLM_PATHS = Path(__file__).parents[1] / "fixtures" / "litellm_paths.txt"
UNSERVED = [
    ("post", "/team/x/callback"), ("post", "/user/password/change"),
    ("get", "/user/daily/activity/aggregated"), ("get", "/spend/logs/ui"), ("get", "/global/spend/keys"),
    ("delete", "/credentials/x"), ("get", "/credentials"),
    ("get", "/health/services"), ("post", "/tag/delete"),
    ("get", "/team/metadata_schema"), ("delete", "/project/x"), ("put", "/fallback"),
    ("options", "/v1beta/agents"), ("post", "/openai/x"),
]  # fmt: skip


#: One family a line.
SERVED = """
    /audit /audit/x
    /budget/delete /budget/info /budget/list /budget/new /budget/settings /budget/update
    /chat/completions
    /completions
    /customer/block /customer/daily/activity /customer/delete /customer/info /customer/list /customer/new
    /customer/unblock /customer/update
    /embeddings
    /end_user/block /end_user/daily/activity /end_user/delete /end_user/info /end_user/list /end_user/new
    /end_user/unblock /end_user/update
    /global/activity /global/activity/model /global/spend/report
    /health /health/liveliness /health/liveness /health/readiness
    /key/aliases /key/block /key/bulk_update /key/delete /key/generate /key/health /key/info /key/list /key/regenerate
    /key/service-account/generate /key/unblock /key/update /key/x/regenerate /key/x/reset_spend
    /messages /messages/count_tokens
    /metrics
    /model/block /model/delete /model/info /model/new /model/unblock /model/update /model/x/update
    /model_group/info
    /models /models/x /models/x:countTokens /models/x:generateContent /models/x:streamGenerateContent
    /organization/daily/activity
    /organization/delete /organization/info /organization/list /organization/member_add /organization/member_delete
    /organization/member_update /organization/new /organization/update
    /responses /responses/compact /responses/input_tokens /responses/x /responses/x/cancel /responses/x/input_items
    /spend/calculate /spend/keys /spend/logs /spend/logs/v2 /spend/tags /spend/users
    /tag/daily/activity
    /team/available /team/block /team/bulk_member_add /team/daily/activity
    /team/delete /team/info /team/list /team/member_add
    /team/member_delete /team/member_update
    /team/model/add /team/model/delete /team/new /team/permissions_list /team/permissions_update
    /team/unblock /team/update /team/x /team/x/members/me
    /user/bulk_update /user/daily/activity /user/delete /user/info /user/list /user/new /user/update
    /utils/token_counter
    /v2/key/info /v2/model/info /v2/organization/x /v2/team/list /v2/user/info
"""


@pytest.mark.parametrize(("method", "path"), UNSERVED)
def test_an_unserved_endpoint_is_not_taken_for_a_deleted_object(api: Api, method: str, path: str):
    for text in (path, f"{path}/"):
        answer = api.client.generic(method.upper(), text, b"{}", "application/json", headers=api.headers(MASTER))
        assert VERSION in refused(answer, 501, None, "not_implemented")["message"]
        assert answer["X-Should-Retry"] == "false"  # OpenAI's client would send it thrice
    refused(getattr(api.client, method)(path), 401, None, "invalid_api_key")


def test_every_path_of_litellm_is_served_or_said_to_be_not():
    """`served` is what an endpoint or a view of our own answers, so that no path of LiteLLM's takes its place."""
    served: list[str] = []

    def app_of(name: str) -> App:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            view = getattr(resolve(scope["path"]).func, "cls", UnknownRoute)
            if name == "unknown" or (name == "django" and issubclass(view, UnknownRoute)):
                assert is_unserved(scope["path"]), scope["path"]
            else:
                served.append(scope["path"])

        return answer

    router = HttpRouter(scan(api_package, "ENDPOINT"), app_of("django"), lambda endpoint: app_of(endpoint.name))
    for path in LITELLM_PATHS.read_text(encoding="ascii").split():
        asyncio.run(router({"path": path}, None, None))  # type: ignore[arg-type]
    assert sorted({path.removeprefix("/v1") for path in served}) == sorted(SERVED.split())


@pytest.mark.parametrize("path", ["/nothing", "/nothing/at/all", "/userx"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_answers_json(path: str, method: str):
    refused(Client(enforce_csrf_checks=True).generic(method, path), 404, None, "not_found")


def test_the_console_keeps_its_redirect(api: Api):
    assert api.client.get("/console")["Location"].endswith("/console/")


@pytest.mark.parametrize("models", [["all-team-models"], ["all-proxy-models", "gpt"], ["gpt"], []])
def test_models_read_back_as_written(api: Api, people: People, models: list[str]):
    team = api.post("/team/new", {"models": models, "organization_id": "acme"}).json()
    assert api.get("/team/info", {"team_id": team["team_id"]}).json()["team_info"]["models"] == models
    issued = api.issue(models=models, team_id=team["team_id"])
    assert issued["models"] == api.info(issued["key"])["models"] == models
    listed = api.get("/key/list", {"team_id": team["team_id"], "return_full_object": "true"}).json()["keys"]
    assert [key["models"] for key in listed] == [models]
    updated = api.post("/key/update", {"key": people.owner, "models": models}).json()
    assert updated["models"] == api.info(people.owner)["models"] == models


@pytest.mark.parametrize("absent", [None, []])
def test_an_absent_member_does_not_keep_a_key_alive(api: Api, people: People, absent: Any):
    answer = api.post("/key/delete", {"keys": [people.owner], "key_aliases": absent})
    assert answer.json() == {"deleted_keys": [people.owner]}
    assert api.get("/key/info", by=people.owner).status_code == 401


def test_parameters_that_change_nothing_are_accepted(api: Api, people: People):
    query = {"include_team_keys": "false", "include_created_by_keys": "false", "sort_by": "key_alias"}
    answer = api.get("/key/list", {**query, "sort_order": "asc", "return_full_object": "true"})
    aliases = [key["key_alias"] for key in answer.json()["keys"]]
    assert aliases == sorted(aliases)
    assert len(aliases) == 3
    assert api.get("/spend/logs", {"summarize": "false"}).json() == []


def test_parameters_that_would_change_something_are_refused(api: Api, people: People):
    refused(api.get("/key/list", {"sort_by": "digest"}), 400, "sort_by")
    refused(api.get("/key/list", {"sort_order": "up"}), 400, "sort_order")


def test_a_model_is_named_by_its_id_or_by_that_of_its_info(api: Api):
    params = {"model": "openai/gpt-4o", "api_key": "k"}
    made = api.post("/model/new", {"model_name": "a", "litellm_params": params}).json()["model_id"]
    assert api.post("/model/update", {"id": made, "model_name": "b"}).json()["model_name"] == "b"
    both = {"id": made, "model_info": {"id": made}, "model_name": "c"}
    assert api.post("/model/update", both).json()["model_name"] == "c"
    refused(api.post("/model/update", {"id": made, "model_info": {"id": "other"}}), 400, "id")
