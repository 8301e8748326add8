"""The calls of LiteLLM's Python client, for an interpreter with `litellm[proxy]`: `litellm_client.py URL MASTER_KEY`.

An exception ends it with a traceback; the test beside it shows that.
"""

import sys
import time

from litellm.proxy.client import Client  # type: ignore[import-not-found]
from litellm.proxy.client.exceptions import NotFoundError, UnauthorizedError  # type: ignore[import-not-found]
from litellm.proxy.client.health import HealthManagementClient  # type: ignore[import-not-found]
from litellm.proxy.client.users import UsersManagementClient  # type: ignore[import-not-found]

URL, MASTER = sys.argv[1:3]
CLIENT, USERS = Client(URL, MASTER), UsersManagementClient(URL, MASTER)


def wait_until_listed(name: str) -> None:
    """A new model is served by every process within a second."""
    end = time.monotonic() + 20
    while name not in {row["id"] for row in CLIENT.models.list()}:
        assert time.monotonic() < end, f"{name} is not listed"
        time.sleep(0.1)


def use_models() -> None:
    CLIENT.models.new("m1", {"model": "openai/gpt-4o", "api_key": "k"}, {"id": "m1-id", "mode": "chat"})
    assert CLIENT.models.get(model_id="m1-id")["model_name"] == "m1"
    assert CLIENT.models.get(model_name="m1")["model_info"]["id"] == "m1-id"
    CLIENT.models.update("m1-id", {"model": "openai/gpt-4o-mini"}, {"mode": "chat"})
    wait_until_listed("m1")
    assert "m1" in {row["model_group"] for row in CLIENT.model_groups.info()}
    CLIENT.models.delete("m1-id")
    try:
        CLIENT.models.delete("m1-id")
    except NotFoundError:
        return
    raise AssertionError("a model that is gone was deleted")


def use_users() -> str:
    made = USERS.create_user({"user_email": "a@b.test", "user_role": "internal_user", "max_budget": 5.0})
    user_id: str = made["user_id"]
    assert user_id in {row["user_id"] for row in USERS.list_users()}
    assert USERS.get_user(user_id)["user_info"]["user_email"] == "a@b.test"
    assert USERS.get_user_v2(user_id)["user_id"] == user_id
    own = UsersManagementClient(URL, made["key"])
    assert own.get_user()["user_id"] == own.get_user_v2()["user_id"] == user_id
    return user_id


def use_keys(user_id: str) -> None:
    made = CLIENT.keys.generate(
        models=["m2"],
        aliases={"x": "m2"},
        spend=0.0,
        duration="1h",
        key_alias="ci",
        user_id=user_id,
        config={},
    )
    listed = CLIENT.keys.list(page=1, size=10, user_id=user_id, return_full_object=True, include_team_keys=True)
    assert "ci" in {row["key_alias"] for row in listed["keys"]}
    assert CLIENT.keys.info(made["key"])["info"]["aliases"] == {"x": "m2"}
    team = CLIENT.http.request("POST", "/team/new", json={"team_alias": "t1"})
    assert CLIENT.keys.update(made["key"], key_alias="ci-2", spend=0, duration="2h", aliases={})["aliases"] == {}
    assert CLIENT.keys.update(made["key"], team_id=team["team_id"])["team_id"] == team["team_id"]
    assert "t1" in {row["team_alias"] for row in CLIENT.teams.list()}
    assert CLIENT.teams.list_v2(sort_by="team_alias", sort_order="desc")["total"] >= 1
    assert CLIENT.teams.get_available() == []
    assert CLIENT.keys.delete(key_aliases=["ci-2"]) == {"deleted_keys": ["ci-2"]}
    USERS.delete_user([user_id])


def be_refused() -> None:
    try:
        Client(URL, "sk-wrong").keys.list()
    except UnauthorizedError:
        return
    raise AssertionError("a wrong key was let in")


assert HealthManagementClient(URL, MASTER).get_server_version().startswith("tollgate-")
assert CLIENT.http.request("GET", "/health")["unhealthy_count"] == 0
use_models()
use_keys(use_users())
answer = CLIENT.chat.completions("tollgate-echo", [{"role": "user", "content": "hello"}])
assert answer["choices"][0]["message"]["content"], answer
be_refused()
print("done")
