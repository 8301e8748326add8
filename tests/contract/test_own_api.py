"""Our own management API under /api/: pages, filters, problem details and the keys and teams themselves."""

from typing import Any

import pytest
from django_scopes import scopes_disabled

from tenants.api.fields import Limits
from tenants.api.paging import MAX_SIZE
from tenants.keys import issue_key
from tenants.limits import LIMIT_FIELDS
from tenants.models import AuditEntry, KeyType, Role, VirtualKey
from tests.contract.management import OWN_KEY, Api, People, issue_role_key, key_row
from tests.contract.own_api import ask, problem, send

pytestmark = pytest.mark.django_db(transaction=True)


def test_every_limit_of_the_services_is_a_field() -> None:
    assert set(Limits().fields) == LIMIT_FIELDS


def test_the_text_of_a_key_is_shown_once(api: Api) -> None:
    issued = ask(api, "POST", "keys", {"alias": "ci", "limits": {"max_budget": "1.000000000001"}}, status=201)
    assert key_row(issued["text"]).id == issued["id"]
    shown = ask(api, "GET", f"keys/{issued['id']}")
    assert "text" not in shown
    assert issued["text"] not in str(ask(api, "GET", "keys"))
    assert shown["limits"]["max_budget"] == "1.000000000001"
    assert shown["spend"]["budgets"][0]["left_usd"] == "1.000000000001"


def test_amounts_are_exact_in_both_directions(api: Api) -> None:
    key = ask(api, "POST", "keys", {}, status=201)
    for amount in ("8999999.123456789012", "0.000000000001", "0.000000000000"):
        limits = {"max_budget": amount, "model_max_budget": {"m": {"budget_limit": amount}}}
        limits["budget_limits"] = [{"budget_duration": "1d", "max_budget": amount}]
        shown = ask(api, "PATCH", f"keys/{key['id']}", {"limits": limits})["limits"]
        assert {name: shown[name] for name in ("max_budget", "budget_limits")} == {
            "max_budget": amount,
            "budget_limits": limits["budget_limits"],
        }
        assert shown["model_max_budget"]["m"]["budget_limit"] == amount


def test_a_change_sets_what_the_body_has_and_null_clears(api: Api, people: People) -> None:
    body = {
        "alias": "x",
        "team_id": "research",
        "user_id": "owner",
        "allowed_models": ["gpt-*"],
        "metadata": {"a": 1.5, "tags": ["old"]},
        "limits": {"rpm_limit": 5, "tpm_limit": 7},
        "expires_at": "2099-01-02T03:04:05Z",
    }
    key = ask(api, "POST", "keys", body, status=201)
    assert {name: key[name] for name in ("alias", "team_id", "user_id", "expires_at")} == {
        "alias": "x",
        "team_id": "research",
        "user_id": "owner",
        "expires_at": "2099-01-02T03:04:05Z",
    }
    changes = {"alias": None, "expires_at": None, "tags": ["new"], "limits": {"rpm_limit": None}}
    changed = ask(api, "PATCH", f"keys/{key['id']}", changes)
    assert (changed["alias"], changed["expires_at"], changed["limits"]["rpm_limit"]) == (None, None, None)
    assert (changed["limits"]["tpm_limit"], changed["allowed_models"]) == (7, ["gpt-*"])
    assert changed["metadata"] == {"a": 1.5, "tags": ["new"]}


def test_rotation_keeps_the_key_and_the_grace_is_in_seconds(api: Api, people: People) -> None:
    row = key_row(people.owner)
    rotated = ask(api, "POST", f"keys/{row.id}/rotate", {"text": OWN_KEY, "grace_s": 3600})
    assert (rotated["id"], rotated["text"]) == (row.id, OWN_KEY)
    assert key_row(OWN_KEY).id == row.id
    assert ask(api, "GET", "keys", by=people.owner)["data"][0]["id"] == row.id
    ask(api, "POST", f"keys/{row.id}/rotate", {})
    problem(send(api, "GET", "keys", by=OWN_KEY), 401, code="invalid_api_key")


def test_a_blocked_key_is_refused_and_let_in_again(api: Api, people: People) -> None:
    row = key_row(people.owner)
    assert ask(api, "POST", f"keys/{row.id}/block")["blocked"] is True
    problem(send(api, "GET", "keys", by=people.owner), 401)
    assert ask(api, "POST", f"keys/{row.id}/unblock")["blocked"] is False
    ask(api, "GET", "keys", by=people.owner)
    ask(api, "DELETE", f"keys/{row.id}", status=204)
    problem(send(api, "GET", f"keys/{row.id}"), 404, "key_id", "not_found")


def test_a_member_neither_raises_its_limit_nor_unblocks_its_key(api: Api, people: People) -> None:
    row = key_row(people.owner)
    ask(api, "PATCH", f"keys/{row.id}", {"limits": {"rpm_limit": 5}})
    other = ask(api, "POST", "keys", {"user_id": "mate", "team_id": "research", "limits": {"rpm_limit": 5}}, status=201)
    place = f"keys/{other['id']}"
    lowered = send(api, "PATCH", place, {"limits": {"rpm_limit": 4}}, by=people.mate)
    assert lowered.json()["limits"]["rpm_limit"] == 4
    for limit in (6, None):
        raised = send(api, "PATCH", place, {"limits": {"rpm_limit": limit}}, by=people.mate)
        problem(raised, 403, "limits.rpm_limit", "insufficient_permissions")
    problem(send(api, "PATCH", place, {"user_id": "owner"}, by=people.mate), 400, "user_id")
    problem(send(api, "PATCH", place, {"team_id": "raccoon"}, by=people.mate), 400, "team_id")
    ask(api, "POST", f"{place}/block", by=people.mate)
    problem(send(api, "PATCH", place, {"blocked": False}, by=people.mate), 403, "blocked")


def test_a_refusal_names_every_field_that_is_wrong(api: Api) -> None:
    body = {
        "alias": 5,
        "blocked": "yes",
        "allowed_models": ["", 7],
        "limits": {"rpm_limit": -1, "max_budget": "lots", "spend": 0},
        "is_superuser": True,
        "type": "root",
    }
    details = problem(send(api, "POST", "keys", body), 400, "is_superuser", "invalid_fields")
    assert {each["param"] for each in details["errors"]} == {
        "alias",
        "blocked",
        "allowed_models.0",
        "allowed_models.1",
        "limits.rpm_limit",
        "limits.max_budget",
        "limits.spend",
        "is_superuser",
        "type",
    }
    with scopes_disabled():
        assert not VirtualKey.objects.exists()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "keys", {"organization_id": "nowhere"}, 400, "organization_id"),
        ("POST", "keys", {"budget_template_id": "nothing"}, 400, "budget_template_id"),
        ("POST", "keys", {"text": "sk-short"}, 400, "text"),
        ("POST", "keys", {"limits": {"temp_budget_increase": 1}}, 400, "limits.temp_budget_increase"),
        ("POST", "keys", {"is_service_account": True}, 400, "is_service_account"),
        ("GET", "keys?page_size=501", None, 400, "page_size"),
        ("GET", "keys?page_size=0", None, 400, "page_size"),
        ("GET", "keys?cursor=%21", None, 400, "cursor"),
        ("GET", "keys?cursor=gA", None, 400, "cursor"),
        ("GET", "keys?blocked=maybe", None, 400, "blocked"),
        ("GET", "keys?type=root", None, 400, "type"),
        ("GET", "keys?colour=red", None, 400, "colour"),
        ("GET", "keys/x?colour=red", None, 400, "colour"),
        ("DELETE", "keys/x", {"force": True}, 400, "force"),
        ("POST", "keys/x/rotate", {"grace_s": -1}, 400, "grace_s"),
        ("PUT", "keys/x", {}, 405, None),
        ("GET", "nothing", None, 404, None),
        ("PATCH", "teams/absent", {}, 404, "team_id"),
        ("GET", "teams/absent/members", None, 404, "team_id"),
        ("POST", "teams", {"id": "t", "metadata": []}, 400, "metadata"),
    ],
)
def test_bad_requests_are_problem_details(
    api: Api, method: str, path: str, body: Any, status: int, param: str | None
) -> None:
    problem(send(api, method, path, body), status, param)


def test_pages_hold_every_row_once_and_each_costs_the_same(api: Api, people: People, engine: str) -> None:
    with scopes_disabled():
        for number in range(5):
            issue_key(organization=people.home, alias=f"more-{number}")
        expected = set(VirtualKey.objects.values_list("id", flat=True))
    seen: list[str] = []
    cursor = ""
    while True:
        page = ask(api, "GET", f"keys?page_size=3{cursor}")
        assert len(page["data"]) <= 3
        seen += [row["id"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(expected)
    assert set(seen) == expected
    assert seen == sorted(seen, reverse=True)
    assert len(ask(api, "GET", f"keys?page_size={MAX_SIZE}")["data"]) == len(expected)


def test_the_queries_of_a_page_do_not_grow_with_its_rows(
    api: Api, people: People, django_assert_max_num_queries: Any
) -> None:
    with scopes_disabled():
        for number in range(20):
            issue_key(organization=people.home, alias=f"more-{number}")
    for path in ("keys", "teams", "teams/research/members"):
        with django_assert_max_num_queries(14):
            ask(api, "GET", path)


def test_filters_narrow_a_list(api: Api, people: People) -> None:
    row = key_row(people.owner)
    ask(api, "POST", f"keys/{row.id}/block")
    for query in ("blocked=true", "user_id=owner", "alias=owner", f"digest={row.digest}"):
        assert [each["id"] for each in ask(api, "GET", f"keys?{query}")["data"]] == [row.id], query
    assert {each["user_id"] for each in ask(api, "GET", "keys?organization_id=acme")["data"]} == {"owner", "mate"}
    assert ask(api, "GET", "keys?type=management")["data"] == []


def test_teams_and_members_live_and_die(api: Api, people: People) -> None:
    body = {
        "id": "new team",
        "organization_id": "acme",
        "alias": "New",
        "limits": {"max_budget": 3},
        "member_limits": {"rpm_limit": 9},
        "tags": ["a"],
    }
    team = ask(api, "POST", "teams", body, status=201)
    assert (team["id"], team["tags"], team["member_limits"]["rpm_limit"]) == ("new team", ["a"], 9)
    assert team["limits"]["max_budget"] == "3.000000000000"
    problem(send(api, "POST", "teams", body), 400, "id")
    member = ask(api, "POST", "teams/new%20team/members", {"user_id": "owner", "limits": {"rpm_limit": 2}}, status=201)
    assert (member["role"], member["limits"]["rpm_limit"]) == ("user", 2)
    problem(send(api, "POST", "teams/new%20team/members", {"user_id": "owner"}), 400, "user_id")
    problem(send(api, "POST", "teams/new%20team/members", {"user_id": "stranger"}), 400, "user_id")
    problem(send(api, "POST", "teams/new%20team/members", {}), 400, "user_id")
    changes = {"role": "admin", "limits": {"rpm_limit": None}, "allowed_models": ["m"]}
    changed = ask(api, "PATCH", "teams/new%20team/members/owner", changes)
    assert (changed["role"], changed["limits"]["rpm_limit"], changed["allowed_models"]) == ("admin", None, ["m"])
    assert [row["user_id"] for row in ask(api, "GET", "teams/new%20team/members?role=admin")["data"]] == ["owner"]
    ask(api, "DELETE", "teams/new%20team/members/owner", status=204)
    problem(send(api, "GET", "teams/new%20team/members/owner"), 404, "user_id")
    assert ask(api, "PATCH", "teams/new%20team", {"alias": None, "blocked": True})["blocked"] is True
    ask(api, "DELETE", "teams/new%20team", status=204)
    problem(send(api, "GET", "teams/new%20team"), 404, "team_id")


def test_writes_are_audited_and_take_place_once_for_each_idempotency_key(api: Api, people: People) -> None:
    headers = {"idempotency-key": "one"}
    first, second = (send(api, "POST", "keys", {"alias": "once"}, **headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert AuditEntry.objects.filter(action="create", object_id=first.json()["id"], actor="master key").count() == 1


def test_an_admin_of_an_organization_sees_no_other(api: Api, people: People) -> None:
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    with scopes_disabled():
        VirtualKey.objects.filter(digest=key_row(people.stranger).digest).update(type=KeyType.DEFAULT)
    foreign = key_row(people.stranger)
    absent = problem(send(api, "GET", "keys/absent", by=admin), 404, "key_id")
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/block")):
        response = send(api, method, f"keys/{foreign.id}{path}", None if method == "GET" else {}, by=admin)
        assert problem(response, 404, "key_id") == absent
    assert foreign.id not in str(ask(api, "GET", "keys", by=admin))
    assert ask(api, "GET", "keys?organization_id=umbrella", by=admin)["data"] == []
