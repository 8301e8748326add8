"""The restrictions and aliases of a key, its lists, its rotation and its spend, as callers of /key/* see them."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.protocol.timeouts import Timeouts
from tenants.access import digest_of
from tenants.directory import load_principal
from tenants.key_rotation import report_due_keys
from tenants.models import (
    AuditEntry,
    Budget,
    BudgetTemplate,
    FormerKey,
    Membership,
    RateLimit,
    SpendTotal,
    Team,
    User,
    VirtualKey,
)
from tests.contract.management import OWN_KEY, Api, People, key_row, refused

pytestmark = pytest.mark.django_db


def usd_spent(key: VirtualKey, usd: float) -> None:
    with scopes_disabled():
        SpendTotal.objects.update_or_create(
            organization=key.organization, scope="key", scope_id=key.id, defaults={"pusd": int(usd * 10**12)}
        )


# Fields


def test_what_restricts_a_key_reads_back_and_reaches_the_data_path(api: Api, people: People):
    fields: dict[str, Any] = {
        "aliases": {"gpt": "openai/gpt-5", "fast": "mini"},
        "allowed_routes": ["/v1/chat/completions", "info_routes"],
        "allowed_ips": ["10.0.0.0/8", "192.0.2.7"],
        "key_type": "llm_api",
        "auto_rotate": True,
        "rotation_interval": "30d",
        "router_settings": {"timeout": 30, "stream_timeout": 2.5},
    }
    issued = api.issue(team_id="research", **fields)
    shown = [issued, api.info(issued["key"])]
    for row in shown:
        assert {name: row[name] for name in fields} == {**fields, "allowed_ips": ["10.0.0.0/8", "192.0.2.7/32"]}
        assert row["key_rotation_at"] > timezone.now().isoformat()
    principal = load_principal(issued["token"])
    assert principal is not None
    assert principal.resolve_model("fast") == "mini"
    assert principal.timeouts == Timeouts(timeout_s=30.0, stream_timeout_s=2.5)
    assert len(principal.allowed_routes) == 2  # the list and the type
    assert [str(network) for network in principal.allowed_networks] == ["10.0.0.0/8", "192.0.2.7/32"]
    cleared = dict.fromkeys(
        ("aliases", "allowed_routes", "allowed_ips", "key_type", "rotation_interval", "router_settings")
    )
    row = api.post("/key/update", {"key": issued["key"], **cleared}).json()
    assert (row["aliases"], row["allowed_routes"], row["allowed_ips"], row["key_type"]) == ({}, [], [], "default")
    assert (row["auto_rotate"], row["rotation_interval"], row["key_rotation_at"]) == (False, None, None)
    assert row["router_settings"] is None
    for nothing in ("", [], {}, False):
        assert api.post("/key/update", {"key": issued["key"], "router_settings": nothing}).status_code == 200


def test_the_alias_of_a_key_comes_before_that_of_its_team(api: Api, people: People):
    Team._base_manager.filter(id="research").update(model_aliases={"gpt": "teams", "claude": "teams"})
    issued = api.issue(team_id="research", aliases={"gpt": "keys"})
    principal = load_principal(issued["token"])
    assert principal is not None
    assert (principal.resolve_model("gpt"), principal.resolve_model("claude")) == ("keys", "teams")


@pytest.mark.parametrize("kind", ["llm_api", "management", "read_only"])
def test_a_type_is_shown_as_litellms_group_of_routes(api: Api, kind: str):
    group = {"llm_api": "llm_api_routes", "management": "management_routes", "read_only": "info_routes"}[kind]
    assert api.issue(key_type=kind)["allowed_routes"] == [group]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"router_settings": {"timeout": 0}}, "router_settings"),
        ({"router_settings": {"timeout": "5"}}, "router_settings"),
        ({"router_settings": {"num_retries": 5}}, "router_settings"),
        ({"router_settings": [5]}, "router_settings"),
        ({"aliases": ["gpt"]}, "aliases"),
        ({"aliases": {"gpt": ""}}, "aliases"),
        ({"aliases": {"": "gpt"}}, "aliases"),
        ({"aliases": {"gpt": 5}}, "aliases"),
        ({"allowed_routes": "llm_api_routes"}, "allowed_routes"),
        ({"allowed_routes": ["chat"]}, "allowed_routes"),
        ({"allowed_routes": ["/a*/b"]}, "allowed_routes"),
        ({"allowed_ips": ["10.0.0.0/33"]}, "allowed_ips"),
        ({"allowed_ips": ["localhost"]}, "allowed_ips"),
        ({"allowed_ips": "10.0.0.1"}, "allowed_ips"),
        ({"key_type": "admin"}, "key_type"),
        ({"key_type": 5}, "key_type"),
        ({"budget_id": "absent"}, "budget_id"),
        ({"auto_rotate": True}, "rotation_interval"),
        ({"auto_rotate": "yes", "rotation_interval": "30d"}, "auto_rotate"),
        ({"rotation_interval": "soon"}, "rotation_interval"),
        ({"rotation_interval": 30}, "rotation_interval"),
        ({"max_budget": -1}, "max_budget"),
    ],
)
def test_a_wrong_restriction_is_named_and_changes_nothing(api: Api, fields: dict[str, Any], param: str):
    refused(api.post("/key/generate", fields), 400, param)
    issued = api.issue()
    refused(api.post("/key/update", {"key": issued["key"], **fields}), 400, param)
    assert api.info(issued["key"])["updated_at"] == issued["updated_at"]


def test_a_key_takes_over_a_budget_by_its_id(api: Api, people: People):
    with scopes_disabled():
        for name, organization in (("ours", people.home), ("theirs", people.abroad)):
            BudgetTemplate.objects.create(id=name, organization=organization)
        RateLimit.objects.create(
            organization=people.home, scope="template", scope_id="ours", dimension="requests", value=7
        )
    issued = api.issue(team_id="research", budget_id="ours")
    assert issued["budget_id"] == "ours"
    assert issued["litellm_budget_table"]["rpm_limit"] == 7
    principal = load_principal(issued["token"])
    assert principal is not None
    assert [rule.limit for rule in principal.rules.limits] == [7]
    refused(api.post("/key/update", {"key": issued["key"], "budget_id": "theirs"}), 400, "budget_id")


def test_a_service_account_has_a_team_and_no_user(api: Api, people: People):
    path = "/key/service-account/generate"
    refused(api.post(path, {}), 400, "team_id")
    refused(api.post(path, {"team_id": "research", "user_id": "owner"}), 400, "user_id")
    answer = api.post(path, {"team_id": "research", "key_alias": "nightly"}).json()
    assert (answer["team_id"], answer["user_id"], answer["is_service_account"]) == ("research", None, True)
    assert key_row(answer["key"]).is_service_account


# The management plane keeps to them too


def test_a_route_outside_the_list_is_refused_in_the_management_api(api: Api):
    narrow = api.issue(allowed_routes=["/v1/chat/completions"])["key"]
    error = refused(api.get("/key/info", by=narrow), 403, None, "route_not_allowed")
    assert (error["message"], error["type"]) == ("Virtual key is not allowed to call this route.", "auth_error")
    assert api.get("/key/info", by=api.issue(key_type="llm_api")["key"]).status_code == 200
    refused(api.get("/key/list", by=api.issue(key_type="llm_api")["key"]), 403, None, "route_not_allowed")


def test_an_address_outside_the_networks_is_refused_in_the_management_api(api: Api):
    narrow = api.issue(allowed_ips=["192.0.2.0/24"])["key"]
    refused(api.get("/key/info", by=narrow), 403, None, "address_not_allowed")
    headers = {"authorization": f"Bearer {narrow}", "x-forwarded-for": "192.0.2.1"}
    assert api.client.get("/key/info", headers=headers).status_code == 403
    answer = api.client.get("/key/info", headers={"authorization": f"Bearer {narrow}"}, REMOTE_ADDR="192.0.2.1")
    assert answer.status_code == 200


# Rotation


def test_a_rotated_key_keeps_all_but_its_text(api: Api, people: People):
    issued = api.issue(team_id="research", key_alias="payer", max_budget=5, budget_duration="1d", rpm_limit=9)
    before = key_row(issued["key"])
    usd_spent(before, 1.5)
    answer = api.post(f"/key/{issued['key']}/regenerate", {"grace_period": "24h"}).json()
    assert answer["key"] != issued["key"]
    assert answer["token"] == answer["token_id"] == digest_of(answer["key"])
    changed = {"key", "token", "token_id", "key_name", "updated_at", "spend", "total_spend"}
    same = set(issued) - changed
    assert {name: answer[name] for name in same} == {name: issued[name] for name in same}
    assert answer["total_spend"] == 1.5
    assert key_row(answer["key"]).pk == before.pk
    # Both texts are one key, everywhere
    assert api.info(issued["key"]) == api.info(answer["key"]) == api.info(issued["token"])
    for text in (issued["key"], answer["key"]):
        assert api.get("/key/info", by=text).json()["key"] == answer["token"]
        assert api.get("/key/info", {"key": text}, by=issued["key"]).status_code == 200
    old, new = load_principal(issued["token"]), load_principal(answer["token"])
    assert old is not None
    assert new is not None
    assert (old.key_id, old.key_digest, old.rules) == (new.key_id, new.key_digest, new.rules)
    assert old.expires_at_s is not None
    assert new.expires_at_s is None
    api.post("/key/block", {"key": issued["key"]})
    assert load_principal(issued["token"]) is load_principal(answer["token"]) is None


def test_without_a_grace_the_former_text_stops_at_once(api: Api):
    for grace in ({}, {"grace_period": None}, {"grace_period": "0s"}):
        issued = api.issue()
        answer = api.post("/key/regenerate", {"key": issued["key"], **grace}).json()
        assert load_principal(issued["token"]) is None
        assert load_principal(answer["token"]) is not None
        refused(api.get("/key/info", by=issued["key"]), 401, None, "invalid_api_key")
        refused(api.get("/key/info", {"key": issued["key"]}), 404, "key")


def test_the_grace_ends(api: Api):
    issued = api.issue()
    api.post(f"/key/{issued['token']}/regenerate", {"grace_period": "1h"})
    FormerKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert load_principal(issued["token"]) is None
    refused(api.get("/key/info", by=issued["key"]), 401, None, "invalid_api_key")
    refused(api.get("/key/info", {"key": issued["key"]}), 404, "key")


def test_a_rotation_takes_fields_and_an_own_text_and_can_be_repeated(api: Api):
    issued = api.issue(key_alias="own")
    body = {"new_key": OWN_KEY, "grace_period": "2d", "max_budget": 3, "models": ["gpt"], "duration": "30d"}
    first = api.post(f"/key/{issued['key']}/regenerate", body).json()
    again = api.post(f"/key/{issued['key']}/regenerate", body).json()
    assert first["key"] == again["key"] == OWN_KEY
    assert (first["max_budget"], first["models"], first["token"]) == (3, ["gpt"], digest_of(OWN_KEY))
    assert FormerKey.objects.count() == 1
    assert api.get("/key/info", by=issued["key"]).status_code == 200
    refused(api.post(f"/key/{OWN_KEY}/regenerate", {"new_key": issued["key"]}), 400, "new_key")
    refused(api.post("/key/generate", {"key": issued["key"]}), 400, "key")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"new_key": "sk-short"}, "new_key"),
        ({"grace_period": "soon"}, "grace_period"),
        ({"grace_period": 24}, "grace_period"),
        ({"new_master_key": "sk-x"}, "new_master_key"),
        ({"key": "sk-another"}, "key"),
        ({"max_budget": "much"}, "max_budget"),
        ({"organization_id": "umbrella"}, "organization_id"),
        ({"digest": "0" * 64}, "digest"),
    ],
)
def test_a_refused_rotation_changes_nothing(api: Api, body: dict[str, Any], param: str):
    issued = api.issue()
    refused(api.post(f"/key/{issued['key']}/regenerate", body), 400, param)
    assert load_principal(issued["token"]) is not None
    refused(api.post(f"/key/sk-{'0' * 40}/regenerate", {}), 404, "key", "not_found")


def test_a_rotation_moves_the_next_one(api: Api):
    issued = api.issue(auto_rotate=True, rotation_interval="30d")
    VirtualKey._base_manager.update(rotates_at=timezone.now() - timedelta(minutes=1))
    due = api.get("/key/list", {"status": "rotation_due"}).json()
    assert due["keys"] == [issued["token"]]
    answer = api.post(f"/key/{issued['key']}/regenerate", {}).json()
    assert answer["key_rotation_at"] > (timezone.now() + timedelta(days=29)).isoformat()
    assert api.get("/key/list", {"status": "rotation_due"}).json()["keys"] == []


# Spend


def test_the_spend_of_a_key_is_shown_and_reset(api: Api):
    issued = api.issue(
        max_budget=10,
        budget_duration="1d",
        budget_limits=[{"budget_duration": "1h", "max_budget": 1}],
        model_max_budget={"gpt": {"budget_limit": 2, "time_period": "1d"}},
    )
    info = api.info(issued["key"])
    assert (info["spend"], info["max_budget"]) == (0, 10)
    assert info["budget_reset_at"] > timezone.now().isoformat()
    assert info["budget_limits_usage"] == {"1h": {"current_spend": 0}}
    assert info["model_max_budget_usage"] == {"gpt": {"current_spend": 0, "budget_limit": 2, "time_period": "1d"}}
    plain = api.issue()
    usd_spent(key_row(plain["key"]), 2.5)
    path = f"/key/{plain['key']}/reset_spend"
    assert api.info(plain["key"])["spend"] == 2.5
    refused(api.post(path, {"reset_to": 3}), 400, "reset_to")
    refused(api.post(path, {"reset_to": -1}), 400, "reset_to")
    refused(api.post(path, {"reset_to": True}), 400, "reset_to")
    refused(api.post(path, {}), 400, "reset_to")
    assert api.post(path, {"reset_to": 1}).json() == {
        "key_hash": plain["token"],
        "spend": 1,
        "previous_spend": 2.5,
        "max_budget": None,
        "budget_reset_at": None,
    }
    assert api.post("/key/update", {"key": plain["key"], "spend": 0}).json()["spend"] == 0


def test_a_deleted_key_leaves_no_limits_behind(api: Api):
    issued = api.issue(max_budget=1, rpm_limit=5)
    usd_spent(key_row(issued["key"]), 1)
    former = api.post(f"/key/{issued['key']}/regenerate", {"grace_period": "1h"}).json()
    assert api.post("/key/delete", {"keys": [issued["key"]]}).json() == {"deleted_keys": [issued["key"]]}
    assert load_principal(former["token"]) is load_principal(issued["token"]) is None
    for model in (Budget, RateLimit, SpendTotal):
        assert not model._base_manager.exists()


# Lists


def aliases_of(api: Api, **query: str) -> list[str]:
    answer = api.get("/key/list", {"return_full_object": "true", "sort_by": "key_alias", "sort_order": "asc", **query})
    assert answer.status_code == 200, answer.content
    return [key["key_alias"] for key in answer.json()["keys"]]


def test_a_list_is_searched_filtered_and_sorted(api: Api, people: People):
    blocked = api.issue(key_alias="blocked-one", team_id="research")
    api.post("/key/block", {"key": blocked["key"]})
    expired = api.issue(key_alias="expired-one", duration="1s")
    VirtualKey._base_manager.filter(alias="expired-one").update(expires_at=timezone.now() - timedelta(days=1))
    assert aliases_of(api, search="ONE") == ["blocked-one", "expired-one"]
    assert aliases_of(api, search=expired["token"]) == ["expired-one"]
    assert aliases_of(api, key_alias="one") == []
    assert aliases_of(api, key_alias="One", substring_matching="true") == ["blocked-one", "expired-one"]
    assert aliases_of(api, status="revoked") == ["blocked-one"]
    assert aliases_of(api, status="expired") == aliases_of(api, expires="expired") == ["expired-one"]
    assert aliases_of(api, status="active") == ["mate", "owner", "stranger"]
    assert aliases_of(api, expires="active") == ["blocked-one", "mate", "owner", "stranger"]
    assert aliases_of(api, status="deleted") == []
    usd_spent(key_row(people.mate), 3)
    usd_spent(key_row(people.owner), 1)
    assert aliases_of(api, sort_by="spend", sort_order="desc", size="2") == ["mate", "owner"]
    for column in ("created_at", "expires", "key_alias", "spend", "last_active", "user_id", "team_id"):
        assert len(aliases_of(api, sort_by=column)) == 5
    assert api.get("/key/aliases", {"search": "ONE", "size": 1}).json() == {
        "aliases": ["blocked-one"],
        "total_count": 2,
        "current_page": 1,
        "total_pages": 2,
        "size": 1,
    }
    assert api.get("/key/aliases", {"team_id": "raccoon"}).json()["aliases"] == ["stranger"]
    for query, param in (({"status": "lost"}, "status"), ({"expires": "soon"}, "expires"), ({"size": 101}, "size")):
        refused(api.get("/key/list", query), 400, param)


def test_the_keys_of_a_user_with_those_of_its_teams_and_its_own_making(api: Api, people: People):
    user = User.objects.get(username="owner")
    with scopes_disabled():
        Membership.objects.create(organization=people.home, team=people.team, user=user)
        VirtualKey.objects.filter(alias="stranger").update(created_by="owner")
    assert aliases_of(api, user_id="owner") == ["owner"]
    assert aliases_of(api, user_id="owner", include_team_keys="true") == ["mate", "owner"]
    assert aliases_of(api, user_id="owner", include_created_by_keys="true") == ["owner", "stranger"]
    row = api.get("/key/list", {"expand": "user", "user_id": "owner"}).json()["keys"][0]
    assert row["user"] == {"user_id": "owner", "user_email": None, "user_alias": None}


def test_a_page_of_keys_takes_as_many_queries_as_one_key(api: Api, people: People):
    def count(size: int) -> int:
        query = {"return_full_object": "true", "size": size, "sort_by": "key_alias", "sort_order": "asc"}
        with CaptureQueriesContext(connection) as queries:
            answer = api.get("/key/list", query)
        assert len(answer.json()["keys"]) == size
        return len(queries)

    with scopes_disabled():
        BudgetTemplate.objects.create(id="shared", organization=people.home)
    for number in range(6):
        organization = ("acme", "umbrella")[number % 2]
        api.issue(key_alias=f"k{number}", organization_id=organization, max_budget=1, rpm_limit=3, budget_duration="1d")
        with scopes_disabled():
            VirtualKey.objects.filter(alias="k0").update(budget_template="shared")
    assert count(9) == count(2) <= 11


def test_several_keys_are_read_and_changed_at_once(api: Api, people: People):
    digest = digest_of(people.owner)
    answer = api.post("/v2/key/info", {"keys": [people.owner, "0" * 64], "key_aliases": None}).json()
    assert answer["key"] == [people.owner, "0" * 64]
    assert [info["key_alias"] for info in answer["info"]] == ["owner"]
    assert "token" not in answer["info"][0]
    by_alias = api.post("/v2/key/info", {"key_aliases": ["mate"]}).json()
    assert [info["key_alias"] for info in by_alias["info"]] == ["mate"]
    refused(api.post("/v2/key/info", {}), 400, "keys")
    items = [
        {"key": people.owner, "max_budget": 5, "tags": ["a"]},
        {"key": people.mate, "max_budget": "much"},
        {"key": people.stranger, "guardrails": ["x"]},
        {"key": "0" * 64, "max_budget": 5},
    ]
    result = api.post("/key/bulk_update", {"keys": items}).json()
    assert (result["total_requested"], len(result["successful_updates"]), len(result["failed_updates"])) == (4, 1, 3)
    assert result["successful_updates"][0]["key"] == people.owner
    assert result["successful_updates"][0]["key_info"]["token"] == digest
    assert [row["failed_reason"] for row in result["failed_updates"]] == [
        "Invalid max_budget: must be an amount in USD.",
        "This version does not enforce 'guardrails'; leave it out.",
        "Key not found.",
    ]
    refused(api.post("/key/bulk_update", {"keys": []}), 400, "keys")
    refused(api.post("/key/bulk_update", {"keys": [{"max_budget": 5}]}), 400, "keys")


def test_the_health_of_a_key_is_its_own(api: Api, people: People):
    assert api.post("/key/health", by=people.owner).json() == {"key": "healthy", "logging_callbacks": None}
    refused(api.post("/key/health", by="sk-unknown"), 401, None, "invalid_api_key")


def test_a_due_key_is_reported_once_and_without_its_text(api: Api, caplog: pytest.LogCaptureFixture):
    issued = api.issue(key_alias="quarterly", auto_rotate=True, rotation_interval="90d")
    assert report_due_keys() == 0
    VirtualKey._base_manager.update(rotates_at=timezone.now() - timedelta(minutes=5))
    assert report_due_keys() == 1
    (record,) = (entry for entry in caplog.records if entry.name == "tenants.key_rotation")
    assert record.__dict__["key_alias"] == "quarterly"
    assert issued["key"] not in repr(vars(record))
    VirtualKey._base_manager.update(rotates_at=timezone.now() - timedelta(hours=2))
    assert report_due_keys() == 0


def test_a_rotation_is_in_the_audit_log_without_the_texts(api: Api):
    issued = api.issue()
    answer = api.post(f"/key/{issued['key']}/regenerate", {"grace_period": "1h"}).json()
    entry = AuditEntry.objects.filter(action="rotate").get()
    assert entry.object_id == answer["key_id"]
    for text in (issued["key"], answer["key"], issued["token"], answer["token"]):
        assert text not in repr((entry.before, entry.after))
