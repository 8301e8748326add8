"""GET /audit: the audit log by LiteLLM's routes, paged, filtered and limited to what the caller may see."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.protocol.json.types import JsonObject
from tenants.access import digest_of
from tenants.audit import Entry, acting_as, record
from tenants.models import AuditEntry, Role
from tests.contract.management import MASTER, Api, People, issue_role_key, key_row, refused

pytestmark = pytest.mark.django_db


def act(actor: str, action: str, object_type: str, object_id: str, *, on: str | None = "acme", at: str = "") -> None:
    with acting_as(actor):
        record(Entry(action, object_type, object_id, on, {"n": 1}, {"n": 2}))
    if at:
        entry = AuditEntry.objects.latest("id")
        AuditEntry.objects.filter(id=entry.id).update(at=datetime.fromisoformat(at).replace(tzinfo=UTC))


def logs(api: Api, by: str = MASTER, **query: Any) -> list[JsonObject]:
    response = api.get("/audit", {"page_size": 100, **query}, by=by)
    assert response.status_code == 200, response.content
    rows: list[JsonObject] = response.json()["audit_logs"]
    return rows


def test_a_change_is_shown_in_litellms_shape(api: Api, people: People):
    headers = {"litellm-changed-by": "ada@example.org"}
    api.post("/team/update", {"team_id": "research", "team_alias": "Lab"}, headers=headers)
    (row,) = logs(api, object_id="research", action="updated")
    assert row["changed_by"] == "ada@example.org"
    assert (row["action"], row["table_name"], row["object_id"]) == ("updated", "LiteLLM_TeamTable", "research")
    assert (row["before_value"]["alias"], row["updated_values"]["alias"]) == ("Research", "Lab")
    assert row["actor"] == "master key"
    assert row["updated_at"].endswith("Z")
    assert api.get(f"/audit/{row['id']}").json() == row


def test_a_key_acts_for_its_user(api: Api, people: People):
    api.post("/key/update", {"key": people.owner, "metadata": {"a": 1}}, by=people.owner)
    (row,) = logs(api, changed_by="owner", action="updated")
    assert (row["changed_by"], row["changed_by_api_key"]) == ("owner", digest_of(people.owner))
    assert row["actor"] == key_row(people.owner).id
    assert logs(api, changed_by_api_key=digest_of(people.owner)) == [row]
    assert logs(api, changed_by_api_key=people.owner) == [row]
    assert row in logs(api, object_id=people.owner)
    assert row in logs(api, object_id=digest_of(people.owner), table_name="LiteLLM_VerificationToken")


def test_entries_come_in_pages_the_newest_first(api: Api):
    for number in range(7):
        act("ada", "create", "team", f"t{number}", on=None)
    first = api.get("/audit", {"changed_by": "ada", "page_size": 3}).json()
    assert [row["object_id"] for row in first["audit_logs"]] == ["t6", "t5", "t4"]
    assert (first["total"], first["page"], first["page_size"], first["total_pages"]) == (7, 1, 3, 3)
    last = api.get("/audit", {"changed_by": "ada", "page_size": 3, "page": 3}).json()
    assert [row["object_id"] for row in last["audit_logs"]] == ["t0"]
    assert api.get("/audit", {"changed_by": "ada", "page": 9}).json()["audit_logs"] == []
    ascending = logs(api, changed_by="ada", sort_by="updated_at", sort_order="asc")
    assert [row["object_id"] for row in ascending] == [f"t{number}" for number in range(7)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"action": "created"}, {"team-a"}),
        ({"action": "limits"}, {"key-b"}),
        ({"action": "updated"}, {"key-b", "member-c"}),
        ({"table_name": "LiteLLM_TeamMembership"}, {"member-c"}),
        ({"table_name": "team"}, {"team-a"}),
        ({"object_type": "key"}, {"key-b"}),
        ({"organization_id": "umbrella"}, {"member-c"}),
        ({"changed_by": "bob"}, {"key-b", "member-c"}),
        ({"start_date": "2026-03-02", "end_date": "2026-03-02"}, {"key-b"}),
        ({"start_date": "2026-03-02T12:00:01Z"}, {"member-c"}),
        ({"end_date": "2026-03-01"}, {"team-a"}),
        ({"changed_by": "bob", "action": "created"}, set()),
        ({"object_id": "team-a", "table_name": "LiteLLM_UserTable"}, set()),
        ({"object_id": "nothing"}, set()),
        ({"object_key_hash": "key-b"}, set()),
        ({"search": "key-b"}, {"key-b"}),
        ({"search": "bob"}, {"key-b", "member-c"}),
        ({"search": "9" * 5000}, set()),
    ],
)
def test_every_filter_narrows_the_list(api: Api, people: People, query: JsonObject, expected: set[str]):
    AuditEntry.objects.all().delete()
    act("ada", "create", "team", "team-a", at="2026-03-01T12:00:00")
    act("bob", "limits", "key", "key-b", at="2026-03-02T12:00:00")
    act("bob", "update", "member", "member-c", on="umbrella", at="2026-03-03T12:00:00")
    assert {row["object_id"] for row in logs(api, **query)} == expected


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"action": "made"}, "action"),
        ({"table_name": "passwords"}, "table_name"),
        ({"start_date": "yesterday"}, "start_date"),
        ({"page": "0"}, "page"),
        ({"page_size": "101"}, "page_size"),
        ({"sort_by": "digest"}, "sort_by"),
        ({"sort_order": "up"}, "sort_order"),
        ({"who": "me"}, "who"),
        ({"object_id": "a\0b"}, "object_id"),
    ],
)
def test_a_bad_parameter_is_named(api: Api, query: JsonObject, param: str):
    refused(api.get("/audit", query), 400, param)


@pytest.mark.parametrize("name", ["x", "-1", "1e3", "9" * 5000, "²"])
def test_an_unknown_entry_is_404(api: Api, name: str):
    refused(api.get(f"/audit/{name}"), 404, "id")


def test_each_sees_the_entries_of_its_reach_only(api: Api, people: People):
    AuditEntry.objects.all().delete()
    act("owner", "update", "team", "by-owner")
    act(key_row(people.owner).id, "update", "team", "by-owners-key")
    act("mate", "update", "team", "by-mate")
    act("stranger", "update", "team", "by-stranger", on="umbrella")
    act("owner", "update", "team", "by-owner-abroad", on="umbrella")
    act("system", "update", "team", "of-the-platform", on=None)

    def seen(by: str) -> set[str]:
        return {row["object_id"] for row in logs(api, by, object_type="team")}

    assert seen(people.owner) == {"by-owner", "by-owners-key"}
    assert seen(people.mate) == {"by-mate"}
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    assert seen(admin) == {"by-owner", "by-owners-key", "by-mate"}
    assert len(seen(MASTER)) == 6
    refused(api.get("/audit", by=issue_role_key(people.home, Role.BILLING_VIEWER, "accountant")), 403)
    foreign = AuditEntry.objects.get(object_id="by-stranger")
    refused(api.get(f"/audit/{foreign.id}", by=admin), 404, "id")
    assert logs(api, admin, organization_id="umbrella") == []


def test_the_keys_of_another_organization_name_no_user(api: Api, people: People):
    act(key_row(people.stranger).id, "update", "team", "research")
    row = logs(api, issue_role_key(people.home, Role.ORGANIZATION_ADMIN), object_id="research", action="update")[0]
    assert (row["changed_by"], row["changed_by_api_key"]) == (key_row(people.stranger).id, "")
