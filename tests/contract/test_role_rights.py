"""A caller of the management API gives away a part of the rights that it has."""

import random
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.protocol.json.types import JsonObject
from tenants.access import digest_of
from tenants.grants import read_key_rights
from tenants.models import KeyType, Organization, User, VirtualKey
from tests.contract.isolation_world import World, build_world
from tests.contract.management import Api, key_row
from tests.unit.tenants.test_grants import PATTERNS, ROUTE_PATTERNS, abilities

pytestmark = pytest.mark.django_db
DEFINITIONS = 200


@pytest.fixture
def world(api: Api) -> World:
    with scopes_disabled():
        return build_world()


def change(text: str, **columns: Any) -> None:
    with scopes_disabled():
        VirtualKey.objects.filter(digest=digest_of(text)).update(**columns)


def status(api: Api, path: str, body: JsonObject, by: str) -> int:
    return int(api.post(path, body, by=by).status_code)


def test_random_keys_over_the_api_have_a_part_of_their_makers_rights(api: Api, world: World):
    source = random.Random(7)
    issued = 0
    for number in range(DEFINITIONS):
        maker = world.keys[source.choice(["member", "team_admin", "org_admin"])]
        change(
            maker,
            allowed_models=source.sample(PATTERNS, source.randint(0, 3)),
            allowed_routes=[*source.sample([path for path in ROUTE_PATTERNS if path != "*"], 1), "/key/*"]
            if source.random() < 0.3
            else [],
            expires_at=timezone.now() + timedelta(days=7) if source.random() < 0.3 else None,
        )
        body: JsonObject = {
            "models": source.sample(PATTERNS, source.randint(0, 3)),
            "key_type": source.choice([KeyType.DEFAULT, KeyType.LLM_API, KeyType.MANAGEMENT, KeyType.READ_ONLY]),
            "team_id": source.choice([None, "research", "sales", "raccoon"]),
            "user_id": source.choice([None, None, "owner", "mate", "root", "stranger"]),
            "organization_id": source.choice([None, None, "acme", "umbrella"]),
            "duration": source.choice([None, "1d", "30d"]),
            "allowed_routes": source.choice([None, None, ["/v1/chat/completions"], ["/key/*"], ["management_routes"]]),
            "key_alias": f"key-{number}",
        }
        response = api.post("/key/generate", body, by=maker)
        assert response.status_code in {200, 400, 403, 404}, response.content
        if response.status_code == 200:
            issued += 1
            with scopes_disabled():
                made, giver = key_row(response.json()["key"]), key_row(maker)
                assert abilities(read_key_rights(made)) <= abilities(read_key_rights(giver)), body
            assert made.organization_id == giver.organization_id
            assert made.user is None or made.user.organization_id == giver.organization_id
            assert giver.type == KeyType.MANAGEMENT or made.type in {KeyType.DEFAULT, KeyType.LLM_API}
    assert issued > 15, "the test would prove nothing"


def test_a_key_of_type_default_gives_and_takes_over_no_key_with_all_rights(api: Api, world: World):
    admin = key_row(world.keys["org_admin"])
    with scopes_disabled():
        change(world.keys["member"], user=admin.user)
    member = world.keys["member"]
    for kind in (KeyType.MANAGEMENT, KeyType.READ_ONLY):
        assert status(api, "/key/generate", {"key_type": kind}, member) == 403
    change(world.keys["org_admin"], team="research")
    for path in ("/key/update", "/key/regenerate"):
        assert status(api, path, {"key": admin.digest, "key_alias": "mine"}, member) == 403
    assert key_row(world.keys["org_admin"]).alias == ""


def test_a_key_with_limits_of_its_own_makes_no_keys_and_frees_itself_of_nothing(api: Api, world: World):
    member = world.keys["member"]
    assert api.post("/key/update", {"key": member, "max_budget": 5}).status_code == 200
    assert status(api, "/key/generate", {}, member) == 403
    for body in ({"max_budget": None}, {"max_budget": 50}, {"models": []}, {"duration": "60d"}):
        assert status(api, "/key/update", {"key": member, **body}, member) == 403
    assert api.info(member)["max_budget"] == 5


def test_ones_own_limits_are_only_lowered(api: Api, world: World):
    own, member = world.objects["key"]["own"], world.keys["member"]
    assert api.post("/key/update", {"key": own, "max_budget": 5, "models": ["gpt*"]}).status_code == 200
    for body in (
        {"max_budget": None},
        {"max_budget": 6},
        {"spend": 0},
        {"models": []},
        {"models": ["claude"]},
        {"team_id": ""},
    ):
        assert status(api, "/key/update", {"key": own, **body}, member) == 403, body
    assert status(api, "/key/update", {"key": own, "max_budget": 4, "models": ["gpt-4o"]}, member) == 200
    assert api.post("/key/block", {"key": own}, by=member).status_code == 200
    assert status(api, "/key/update", {"key": own, "blocked": False}, member) == 403
    assert status(api, "/key/unblock", {"key": own}, member) == 403


def test_an_organizations_admin_makes_no_one_larger_than_itself(api: Api, world: World):
    admin = world.keys["org_admin"]
    for role in ("proxy_admin", "proxy_admin_viewer", "platform_admin", "platform_viewer"):
        assert status(api, "/user/new", {"user_id": f"new-{role}", "user_role": role}, admin) in {400, 403}, role
        assert status(api, "/user/update", {"user_id": "owner", "user_role": role}, admin) in {400, 403}, role
    assert not User.objects.filter(username__startswith="new-").exists()
    assert status(api, "/user/update", {"user_id": "owner", "user_role": "org_admin"}, admin) == 200
    # The platform's viewer is a user of the organization; its rights are not the admin's to take over.
    assert status(api, "/user/update", {"user_id": "auditor", "user_alias": "mine"}, admin) == 403
    assert status(api, "/key/generate", {"user_id": "auditor", "key_type": "read_only"}, admin) == 403
    for body in ({"max_budget": 10}, {"models": []}):
        answer = api.client.patch(
            "/organization/update",
            {"organization_id": "acme", **body},
            content_type="application/json",
            headers=api.headers(admin),
        )
        assert answer.status_code == 403
    with scopes_disabled():
        Organization.objects.filter(id="acme").update(budget_template="budget-own")
    assert status(api, "/budget/update", {"budget_id": "budget-own", "max_budget": 10**6}, admin) == 403


def test_a_teams_admin_widens_nothing_that_the_organization_gave(api: Api, world: World):
    leader = world.keys["team_admin"]
    given = {"team_id": "research", "max_budget": 10, "rpm_limit": 5, "models": ["gpt*", "claude"]}
    assert api.post("/team/update", given).status_code == 200
    for body in ({"max_budget": 11}, {"max_budget": None}, {"rpm_limit": 6}, {"models": []}, {"models": ["o1"]}):
        assert status(api, "/team/update", {"team_id": "research", **body}, leader) == 403, body
    narrower = {"team_id": "research", "max_budget": 9, "models": ["gpt-4o"], "tpm_limit": 100}
    assert status(api, "/team/update", narrower, leader) == 200
    assert api.post("/team/block", {"team_id": "research"}).status_code == 200
    assert status(api, "/team/update", {"team_id": "research", "blocked": False}, leader) == 403
    assert status(api, "/team/update", {"team_id": "sales", "team_alias": "mine"}, leader) == 404


def test_a_read_only_key_reads_as_its_user_and_writes_nothing(api: Api, world: World):
    key = world.keys["org_admin"]
    change(key, type=KeyType.READ_ONLY)
    assert api.get("/team/list", by=key).status_code == 200
    for path, body in (
        ("/team/new", {}),
        ("/key/generate", {}),
        ("/user/update", {"user_id": "owner"}),
        ("/budget/new", {"max_budget": 1}),
    ):
        assert status(api, path, body, key) == 403, path


@pytest.mark.parametrize("kind", [KeyType.LLM_API, KeyType.DEFAULT])
def test_a_key_of_models_reads_no_further_than_a_member(api: Api, world: World, kind: str):
    """The platform admin's own key for calls is no platform admin."""
    key = world.keys["platform_admin"]
    change(key, type=kind)
    for path in ("/team/list", "/organization/list", "/budget/list", "/customer/list"):
        assert api.get(path, by=key).status_code == 403, path
    assert status(api, "/team/new", {}, key) == 403
