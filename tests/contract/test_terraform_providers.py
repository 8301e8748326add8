"""The calls of both Terraform providers, in the order of a create, a plan, a change and a destroy.

Sources, as of November 2026: BerriAI/terraform-provider-litellm (litellm/resource_*.go, types.go, utils.go) and
ncecere/terraform-provider-litellm (internal/provider/resource_*.go). The calls of teams and their members that both
share are in test_management_members.
"""

from typing import Any

import pytest

from gateway.protocol.json.types import JsonObject
from tests.contract.management import MASTER, Api, People, refused

pytestmark = pytest.mark.django_db
KEY = "sk-Terraform-7f3a9c5e1b24d8f60a7c35"


class Terraform:
    """Sends what a provider sends; every answer must be a 200."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def send(self, method: str, path: str, body: JsonObject | None = None) -> Any:
        response = self.try_send(method, path, body)
        assert response.status_code == 200, (path, response.content)
        return response.json()

    def try_send(self, method: str, path: str, body: JsonObject | None = None) -> Any:
        headers = self.api.headers(MASTER)
        if method == "GET":
            return self.api.client.get(path, headers=headers)
        return getattr(self.api.client, method.lower())(path, body, "application/json", headers=headers)


@pytest.fixture
def terraform(api: Api) -> Terraform:
    return Terraform(api)


def test_a_model_of_the_official_provider(terraform: Terraform):
    params = {
        "custom_llm_provider": "openai",
        "model": "openai/gpt-4o",
        "merge_reasoning_content_in_choices": False,
        "tpm": 1000,
        "rpm": 10,
        "input_cost_per_token": 2.5e-06,
        "output_cost_per_token": 1e-05,
        "api_key": "k",
        "api_base": "https://api.openai.com/v1",
    }
    info = {"id": "5f0c-uuid", "db_model": True, "base_model": "gpt-4o", "tier": "free", "mode": "chat"}
    body = {"model_name": "gpt", "litellm_params": params, "model_info": info, "additional": {}}
    terraform.send("POST", "/model/new", body)
    (read,) = terraform.send("GET", "/model/info?litellm_model_id=5f0c-uuid")["data"]
    assert (read["model_name"], read["model_info"]["id"]) == ("gpt", "5f0c-uuid")
    assert {name: read["litellm_params"][name] for name in ("tpm", "rpm", "api_base")} == {
        "tpm": 1000, "rpm": 10, "api_base": "https://api.openai.com/v1",
    }  # fmt: skip
    assert (read["model_info"]["tier"], read["model_info"]["mode"]) == ("free", "chat")
    changed = terraform.send("POST", "/model/update", {**body, "litellm_params": {**params, "rpm": 20}})
    assert changed["litellm_params"]["rpm"] == 20
    terraform.send("POST", "/model/delete", {"id": "5f0c-uuid"})
    for method, path, gone in (
        ("GET", "/model/info?litellm_model_id=5f0c-uuid", None),
        ("POST", "/model/update", body),
        ("POST", "/model/delete", {"id": "5f0c-uuid"}),
    ):
        response = terraform.try_send(method, path, gone)
        assert response.status_code == 404
        assert "model not found" in response.json()["error"]["message"]  # with these words the state forgets it
    refused(terraform.try_send("POST", "/model/new", {**body, "additional": {"a": 1}}), 400, "additional")


def test_a_model_of_the_community_provider(terraform: Terraform):
    params = {"custom_llm_provider": "openai", "model": "openai/gpt-4o", "input_cost_per_token": 2.5e-06, "rpm": 5}
    params["api_key"] = "k"
    info = {"id": "m-1", "db_model": True, "base_model": "gpt-4o", "mode": "chat"}
    terraform.send("POST", "/model/new", {"model_name": "gpt", "litellm_params": params, "model_info": info})
    patch = {"model_name": "gpt-2", "litellm_params": {**params, "rpm": 6}, "model_info": {"base_model": "gpt-4o"}}
    terraform.send("PATCH", "/model/m-1/update", patch)
    (read,) = terraform.send("GET", "/model/info?litellm_model_id=m-1")["data"]
    assert (read["model_name"], read["litellm_params"]["rpm"]) == ("gpt-2", 6)
    terraform.send("POST", "/model/delete", {"id": "m-1"})
    assert terraform.try_send("POST", "/model/delete", {"id": "m-1"}).status_code == 404


def test_a_key_of_the_official_provider(terraform: Terraform, people: People):
    body = {
        "models": ["gpt"], "max_budget": 10.5, "team_id": "research", "max_parallel_requests": 3,
        "metadata": {"k": "v"}, "tpm_limit": 1000, "rpm_limit": 10, "budget_duration": "30d", "soft_budget": 8.0,
        "key_alias": "tf", "duration": "30d", "aliases": {"fast": "gpt"}, "blocked": False, "tags": ["a"],
        "model_rpm_limit": {"gpt": 5}, "model_tpm_limit": {"gpt": 500},
    }  # fmt: skip
    made = terraform.send("POST", "/key/generate", body)
    assert made["key"].startswith("sk-")
    assert made["token_id"]
    for name in ("models", "max_budget", "metadata", "tpm_limit", "budget_duration", "soft_budget", "aliases"):
        assert made[name] == body[name] or name == "metadata", name
    terraform.send("GET", f"/key/info?key={made['token_id']}")
    update = {
        "key": made["token_id"], "team_id": "research", "metadata": {"k": "w"}, "budget_duration": "30d",
        "key_alias": "tf-2", "aliases": None, "permissions": {}, "model_max_budget": {}, "model_rpm_limit": {},
        "model_tpm_limit": None, "blocked": False, "max_budget": 12.0, "models": ["gpt", "other"],
    }  # fmt: skip
    changed = terraform.send("POST", "/key/update", update)
    assert (changed["key_alias"], changed["max_budget"], changed["models"]) == ("tf-2", 12.0, ["gpt", "other"])
    assert (changed["rpm_limit"], changed["model_rpm_limit"], changed["aliases"]) == (10, {}, {})
    assert changed["team_id"] == "research"
    terraform.send("POST", "/key/delete", {"keys": [made["token_id"]]})
    assert terraform.try_send("GET", f"/key/info?key={made['token_id']}").status_code == 404


def test_a_bare_key_of_the_official_provider_is_updated(terraform: Terraform):
    made = terraform.send("POST", "/key/generate", {"models": None, "blocked": False})
    empty = {
        "key": made["key"], "team_id": "", "metadata": {}, "budget_duration": "", "key_alias": "", "aliases": {},
        "permissions": {}, "model_max_budget": {}, "model_rpm_limit": {}, "model_tpm_limit": {}, "blocked": True,
    }  # fmt: skip
    changed = terraform.send("POST", "/key/update", empty)
    assert (changed["blocked"], changed["key_alias"], changed["team_id"]) == (True, None, None)


def test_a_key_of_the_community_provider(terraform: Terraform, people: People):
    body = {
        "key": KEY, "team_id": "research", "user_id": "owner", "organization_id": "acme", "key_alias": "nc",
        "models": ["all-team-models"], "max_budget": 1.0, "budget_duration": "1d", "blocked": False, "tags": ["x"],
        "metadata": {"owner": "ada", "n": 1}, "allowed_routes": ["/chat/completions"],
        "model_max_budget": {"gpt": {"budget_limit": 1.0, "time_period": "1d"}},
    }  # fmt: skip
    made = terraform.send("POST", "/key/generate", body)
    assert made["key"] == KEY
    info = terraform.send("GET", f"/key/info?key={KEY}")["info"]
    assert (info["key_alias"], info["models"], info["allowed_routes"]) == (
        "nc", ["all-team-models"], ["/chat/completions"],
    )  # fmt: skip
    terraform.send("POST", "/key/block", {"key": KEY})
    assert terraform.send("GET", f"/key/info?key={KEY}")["info"]["blocked"] is True
    terraform.send("POST", "/key/unblock", {"key": KEY})
    terraform.send("POST", "/key/update", {**body, "max_budget": 2.0})
    account = {"team_id": "research", "metadata": {"service_account_id": "bot"}, "key_alias": "bot", "models": []}
    bot = terraform.send("POST", "/key/service-account/generate", account)
    terraform.send("POST", "/key/delete", {"keys": [bot["key"]]})
    terraform.send("POST", "/key/delete", {"keys": [KEY]})


def test_users_and_budgets_of_the_community_provider(terraform: Terraform):
    user = {
        "user_id": "tf-user", "user_email": "tf@acme.test", "user_role": "internal_user", "max_budget": 5.0,
        "budget_duration": "30d", "rpm_limit": 7, "auto_create_key": False, "models": ["gpt"], "metadata": {"a": "b"},
    }  # fmt: skip
    assert terraform.send("POST", "/user/new", user)["user_id"] == "tf-user"
    read = terraform.send("GET", "/user/info?user_id=tf-user")["user_info"]
    assert (read["user_email"], read["max_budget"], read["rpm_limit"]) == ("tf@acme.test", 5.0, 7)
    terraform.send("POST", "/team/new", {"team_id": "tf"})
    terraform.send("POST", "/team/member_add", {"team_id": "tf", "member": {"user_id": "tf-user", "role": "user"}})
    terraform.send("POST", "/user/update", {**user, "max_budget": 6.0, "teams": ["tf"]})
    refused(terraform.try_send("POST", "/user/update", {**user, "max_budget": 9.0, "teams": ["tf", "x"]}), 400, "teams")
    assert terraform.send("GET", "/user/info?user_id=tf-user")["user_info"]["max_budget"] == 6.0
    terraform.send("POST", "/user/delete", {"user_ids": ["tf-user"]})
    assert terraform.try_send("GET", "/user/info?user_id=tf-user").status_code == 404
    budget = {"budget_id": "tf-budget", "max_budget": 3.0, "budget_duration": "7d", "tpm_limit": 100}
    terraform.send("POST", "/budget/new", budget)
    (row,) = terraform.send("POST", "/budget/info", {"budgets": ["tf-budget"]})
    assert (row["max_budget"], row["tpm_limit"]) == (3.0, 100)
    terraform.send("POST", "/budget/update", {**budget, "max_budget": 4.0})
    terraform.send("POST", "/budget/delete", {"id": "tf-budget"})
    assert terraform.send("POST", "/budget/info", {"budgets": ["tf-budget"]}) == []


@pytest.mark.parametrize("provider", ["official", "community"])
def test_an_organization_and_its_members(terraform: Terraform, provider: str):
    body = {
        "organization_id": "tf-org", "organization_alias": "Terraform", "models": ["gpt"], "max_budget": 20.0,
        "budget_duration": "30d", "tpm_limit": 5000, "metadata": {"a": "b"}, "blocked": False,
    }  # fmt: skip
    terraform.send("POST", "/organization/new", body)
    if provider == "official":
        (read,) = terraform.send("POST", "/organization/info", {"organizations": ["tf-org"]})
    else:
        read = terraform.send("GET", "/organization/info?organization_id=tf-org")
    table = read["litellm_budget_table"]
    assert (read["organization_alias"], read["models"], table["max_budget"]) == ("Terraform", ["gpt"], 20.0)
    assert terraform.send("PATCH", "/organization/update", {**body, "tpm_limit": 6000})["tpm_limit"] == 6000
    member = {"role": "internal_user", "user_id": "tf-member", "user_email": "m@acme.test"}
    added = {"organization_id": "tf-org", "member": member if provider == "community" else [member]}
    terraform.send("POST", "/organization/member_add", added)
    change: JsonObject = {"organization_id": "tf-org", **member, "role": "org_admin"}
    if provider == "community":  # which names the member as in member_add
        change = {"organization_id": "tf-org", "member": {**member, "role": "org_admin"}}
    changed = terraform.send("PATCH", "/organization/member_update", change)
    assert changed["user_role"] == "org_admin"
    named = {"organization_id": "tf-org", "user_id": "tf-member"}
    terraform.send("DELETE", "/organization/member_delete", named)
    terraform.send("DELETE", "/organization/delete", {"organization_ids": ["tf-org"]})
    gone = terraform.try_send("GET", "/organization/info?organization_id=tf-org")
    assert gone.status_code == 404
    assert "not found" in gone.json()["error"]["message"]


def test_a_team_of_the_official_provider(terraform: Terraform):
    team = {"team_id": "tf", "team_alias": "Terraform", "models": ["gpt"], "rpm_limit": 5, "blocked": False}
    terraform.send("POST", "/team/new", team)
    read = terraform.send("GET", "/team/info?team_id=tf")["team_info"]
    assert (read["team_alias"], read["rpm_limit"]) == ("Terraform", 5)
    allowed = terraform.send("GET", "/team/permissions_list?team_id=tf")["team_member_permissions"]
    permissions = {"team_id": "tf", "team_member_permissions": allowed}
    terraform.send("POST", "/team/permissions_update", permissions)
    terraform.send("POST", "/team/update", {**team, "rpm_limit": 6})
    terraform.send("POST", "/team/block", {"team_id": "tf"})
    terraform.send("POST", "/team/unblock", {"team_id": "tf"})
    terraform.send("POST", "/team/delete", {"team_ids": ["tf"]})


@pytest.mark.parametrize(
    "path",
    ["/credentials/by_name/x", "/v1/mcp/server/x", "/fallback/x?fallback_type=general", "/project/info?project_id=x"],
)
def test_a_resource_that_is_not_served_is_not_taken_for_deleted(terraform: Terraform, path: str):
    response = terraform.try_send("GET", path)
    assert response.status_code == 501
    message = response.content.decode()
    assert not any(text in message for text in ("not found", "404", "does not exist"))
