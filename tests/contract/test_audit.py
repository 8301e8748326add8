"""The audit log: every entry is chained to the one before it, and none holds a secret."""

from threading import Thread
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django_scopes import scopes_disabled

from gateway.protocol.json.types import JsonObject
from tenants.audit import Entry, acting_as, audited, find_broken_entry, record
from tenants.keys import issue_key
from tenants.models import DEFAULT_ORGANIZATION, AuditEntry, Organization, Team, User
from tests.contract.management import Api

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def unscoped() -> Any:
    with scopes_disabled():
        yield


def organization() -> Organization:
    return Organization.objects.get(id=DEFAULT_ORGANIZATION)


def rename(team: Team, alias: str) -> None:
    team.alias = alias
    with audited("update", team):
        team.save()


def test_a_change_has_its_actor_and_both_states() -> None:
    team = Team(organization=organization(), id="t", alias="before")
    with acting_as("ada", changed_by="bob"), audited("create", team):
        team.save(force_insert=True)
    with acting_as("ada"):
        rename(team, "after")
    with audited("delete", team):
        team.delete()
    created, updated, deleted = AuditEntry.objects.order_by("id")
    assert (created.actor, created.changed_by, created.before) == ("ada", "bob", None)
    assert (updated.before["alias"], updated.after["alias"]) == ("before", "after")
    assert (deleted.actor, deleted.object_id, deleted.after) == ("system", "t", None)
    assert {entry.organization_id for entry in (created, updated, deleted)} == {DEFAULT_ORGANIZATION}
    call_command("verify_audit")


def test_what_did_not_change_has_no_entry() -> None:
    team = Team.objects.create(organization=organization(), id="t", alias="same")
    rename(team, "same")
    assert not AuditEntry.objects.exists()


def test_a_change_that_is_rolled_back_leaves_no_entry() -> None:
    team = Team.objects.create(organization=organization(), id="t")

    def fail() -> None:
        with audited("update", team):
            team.alias = "x"
            team.save()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not AuditEntry.objects.exists()


def test_no_entry_holds_a_secret() -> None:
    issued = issue_key(organization=organization(), alias="k")
    user = User(username="u", organization=organization(), password="pbkdf2$secret")
    with audited("create", user, issued.key):
        user.save()
    text = str([(entry.before, entry.after) for entry in AuditEntry.objects.all()])
    for secret in (issued.text, issued.key.digest, "pbkdf2$secret"):
        assert secret not in text


@pytest.mark.parametrize("tamper", ["change", "remove", "insert"])
def test_tampering_shows(tamper: str) -> None:
    with transaction.atomic():
        for number in range(5):
            record(Entry("update", "team", str(number), None, {"rate": "0.1"}, {"models": ["a", {"n": 1}]}))
    assert find_broken_entry() is None
    third = AuditEntry.objects.order_by("id")[2]
    if tamper == "change":
        AuditEntry.objects.filter(id=third.id).update(actor="user:mallory")
    elif tamper == "remove":
        third.delete()
    else:
        third.id = None
        third.save(force_insert=True)
    assert find_broken_entry() is not None
    with pytest.raises(CommandError, match="broken at entry"):
        call_command("verify_audit")


def test_entries_of_many_writers_form_one_chain() -> None:
    def write(number: int) -> None:
        with scopes_disabled():
            for _ in range(5):
                with transaction.atomic():
                    record(Entry("update", "team", str(number), None, None, {"n": number}))
        connection.close()

    threads = [Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AuditEntry.objects.count() == 40
    assert find_broken_entry() is None


def test_every_change_over_the_api_has_an_entry(api: Api) -> None:
    headers = {"litellm-changed-by": "ada@example.org"}

    def post(path: str, body: JsonObject) -> JsonObject:
        response = api.post(path, body, headers=headers)
        assert response.status_code == 200, response.content
        answer: JsonObject = response.json()
        return answer

    team = post("/team/new", {"team_id": "audited"})["team_id"]
    key = post("/key/generate", {"team_id": team, "rpm_limit": 7})["key"]
    post("/key/update", {"key": key, "rpm_limit": None, "models": ["gpt"]})
    post("/key/block", {"key": key})
    post("/key/delete", {"keys": [key]})
    post("/budget/new", {"budget_id": "plan", "max_budget": 1})
    entries = [(entry.action, entry.object_type) for entry in AuditEntry.objects.order_by("id")]
    for change in (
        ("create", "team"),
        ("create", "virtualkey"),
        ("limits", "key"),
        ("update", "virtualkey"),
        ("delete", "virtualkey"),
        ("create", "budgettemplate"),
        ("limits", "template"),
    ):
        assert change in entries
    assert set(AuditEntry.objects.values_list("actor", "changed_by")) == {("master key", "ada@example.org")}
    assert key not in str(list(AuditEntry.objects.values_list("before", "after")))
    assert find_broken_entry() is None
