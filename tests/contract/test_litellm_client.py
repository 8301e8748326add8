"""The management API as LiteLLM's clients and Terraform's provider use it: their requests, and what they read."""

from typing import Any

import pytest
from django.test import Client

from gateway.version import VERSION
from tests.contract.management import MASTER, Api, People, refused

pytestmark = pytest.mark.django_db

UNSERVED = [
    ("post", "/team/update"), ("post", "/team/delete"), ("post", "/user/new"), ("post", "/user/delete"),
    ("get", "/user/info"), ("post", "/key/sk-x/regenerate"), ("post", "/key/bulk_update"), ("get", "/v2/team/list"),
    ("get", "/v2/key/info"), ("delete", "/organization/delete"), ("delete", "/credentials/x"), ("get", "/credentials"),
    ("get", "/spend/logs/v2"), ("post", "/budget/delete"), ("get", "/global/spend/report"), ("post", "/model/block"),
    ("get", "/health"), ("get", "/model_group/info"), ("post", "/tag/delete"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), UNSERVED)
def test_an_unserved_endpoint_is_not_taken_for_a_deleted_object(api: Api, method: str, path: str):
    for text in (path, f"{path}/"):
        answer = api.client.generic(method.upper(), text, b"{}", "application/json", headers=api.headers(MASTER))
        assert VERSION in refused(answer, 501, None, "not_implemented")["message"]
    refused(getattr(api.client, method)(path), 401, None, "invalid_api_key")


@pytest.mark.parametrize("path", ["/nothing", "/nothing/at/all", "/userx"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_answers_json(path: str, method: str):
    refused(Client(enforce_csrf_checks=True).generic(method, path), 404, None, "not_found")


def test_the_console_keeps_its_redirect(api: Api):
    assert api.client.get("/console")["Location"].endswith("/console/")


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
    refused(api.get("/key/list", {"include_team_keys": "true"}), 400, "include_team_keys")
    refused(api.get("/key/list", {"sort_by": "spend"}), 400, "sort_by")
    refused(api.get("/key/list", {"sort_order": "up"}), 400, "sort_order")
    refused(api.get("/spend/logs", {"summarize": "true"}), 400, "summarize")


def test_a_model_is_named_by_its_id_or_by_that_of_its_info(api: Api):
    params = {"model": "openai/gpt-4o", "api_key": "k"}
    made = api.post("/model/new", {"model_name": "a", "litellm_params": params}).json()["model_id"]
    assert api.post("/model/update", {"id": made, "model_name": "b"}).json()["model_name"] == "b"
    both = {"id": made, "model_info": {"id": made}, "model_name": "c"}
    assert api.post("/model/update", both).json()["model_name"] == "c"
    refused(api.post("/model/update", {"id": made, "model_info": {"id": "other"}}), 400, "id")
