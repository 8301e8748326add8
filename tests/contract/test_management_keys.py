"""/key/* and `manage.py create_key` as their callers see them.

Three people stand for everyone: the owner of a key, a team-mate, and a stranger of another organization.
"""

import json
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_scopes import scope, scopes_disabled

from gateway.protocol.json.types import JsonObject
from tenants.access import digest_of
from tenants.invalid import KeyInvalid
from tenants.keys import issue_key, update_key
from tenants.models import User, VirtualKey
from tenants.rest.teams import MEMBER_LISTS, TEAM_FIELDS
from tenants.rest.unenforced_fields import UNENFORCED
from tenants.revision import current_revision
from tests.contract.management import MASTER, OWN_KEY, Api, People, key_count, key_row, refused

pytestmark = pytest.mark.django_db

# Issuing


def test_a_new_key_is_returned_once_and_in_full(api: Api, people: People):
    fields = {
        "key_alias": "payer",
        "models": ["gpt", "embed"],
        "duration": "30d",
        "metadata": {"purpose": "测试", "ratio": 0.5},
        "team_id": "research",
        "user_id": "someone-new",
        "tags": ["blue"],
        "blocked": False,
    }
    answer = api.issue(**fields)
    text = answer["key"]
    assert text.startswith("sk-")
    assert answer["token"] == answer["token_id"] == digest_of(text)
    assert answer["key_name"] == f"sk-...{text[-4:]}"
    assert answer["metadata"] == {"purpose": "测试", "ratio": 0.5, "tags": ["blue"]}
    assert {name: answer[name] for name in fields if name != "metadata"} == {
        name: value for name, value in fields.items() if name != "metadata"
    }
    assert answer["organization_id"] == "acme"
    assert answer["created_by"] == answer["updated_by"] == "master key"
    expires = datetime.fromisoformat(answer["expires"])
    assert abs(expires - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    assert datetime.fromisoformat(answer["created_at"]).tzinfo is not None
    row = key_row(text)
    assert (row.last4, row.alias, row.team_id) == (text[-4:], "payer", "research")
    responses = [
        api.get("/key/info", {"key": answer["token"]}),
        api.get("/key/list", {"return_full_object": "true"}),
    ]
    for response in (*responses, api.get("/team/info", {"team_id": "research"}), api.get("/team/list")):
        assert response.status_code == 200
        assert text not in response.content.decode()


def test_an_empty_body_issues_a_key_of_the_default_organization(api: Api):
    answers = [
        api.post("/key/generate"),
        api.post("/key/generate", b""),
        api.client.generic("POST", "/key/generate", headers=api.headers(MASTER)),  # as `curl -X POST`
        api.client.post(
            "/key/generate", "", content_type="application/x-www-form-urlencoded", headers=api.headers(MASTER)
        ),
    ]
    keys = [response.json() for response in answers]
    assert len({key["key"] for key in keys}) == 4
    for key in keys:
        assert (key["models"], key["expires"], key["team_id"], key["user_id"]) == ([], None, None, None)
        assert (key["organization_id"], key["key_alias"], key["metadata"]) == ("default", None, {})


def test_the_text_of_a_key_is_nowhere_in_the_database(api: Api):
    text = api.issue(key_alias="hidden", metadata={"a": 1})["key"]
    with scopes_disabled():
        row = VirtualKey.objects.filter(alias="hidden").values().get()
    assert text not in repr(row)
    assert text[:-4] not in repr(row)


def test_an_answer_is_never_cached(api: Api):
    assert api.post("/key/generate")["Cache-Control"] == "no-store"


def test_every_write_moves_the_revision(api: Api):
    revisions = [current_revision()]
    key = api.issue(key_alias="moving")["key"]
    for path, body in (
        ("/key/update", {"key": key, "models": ["gpt"]}),
        ("/key/block", {"key": key}),
        ("/key/unblock", {"key": key}),
        ("/key/delete", {"keys": [key]}),
        ("/team/new", {"team_alias": "x"}),
    ):
        revisions.append(current_revision())
        assert api.post(path, body).status_code == 200
    revisions.append(current_revision())
    assert revisions == sorted(set(revisions))


def test_a_key_may_be_given_its_own_text(api: Api):
    answer = api.issue(key=OWN_KEY)
    assert (answer["key"], answer["token"]) == (OWN_KEY, digest_of(OWN_KEY))
    assert api.get("/key/info", by=OWN_KEY).status_code == 200
    again = refused(api.post("/key/generate", {"key": OWN_KEY}), 400, "key")
    assert OWN_KEY not in again["message"]
    assert key_count() == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk-short",
        "sk-1234",
        "sk-1234567890abcdefghijklmnopqrstuvwxyz",
        "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "sk-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "pk-" + "0123456789abcdef" * 3,
        "sk-" + "0123456789abcdefghijklmnopqr",
        "sk-with spaces 0123456789abcdefghijkl",
        "sk-钥匙0123456789abcdefghijklmnopqrstuv",
        "sk-0123456789\n0123456789abcdefghijk",
        "sk-" + "a1b2c3d4" * 40,
        5,
        ["sk-0123456789abcdefgh"],
        True,
        MASTER,
    ],
)
def test_a_weak_or_wrong_text_is_refused_and_not_repeated(api: Api, text: Any):
    error = refused(api.post("/key/generate", {"key": text}), 400, "key")
    if isinstance(text, str) and len(text) > 4:
        assert text not in error["message"]
    assert key_count() == 0


def test_an_alias_is_unique_over_all_organizations(api: Api, people: People):
    response = api.post("/key/generate", {"key_alias": "stranger", "organization_id": "acme"})
    assert "stranger" in refused(response, 400, "key_alias")["message"]
    key = api.issue(key_alias="free")["key"]
    refused(api.post("/key/update", {"key": key, "key_alias": "owner"}), 400, "key_alias")
    assert api.info(key)["key_alias"] == "free"


def test_an_unknown_user_is_created_without_a_password(api: Api, people: People):
    answer = api.issue(user_id="new-person", organization_id="umbrella")
    assert (answer["user_id"], answer["organization_id"]) == ("new-person", "umbrella")
    user = User.objects.get(username="new-person")
    assert user.organization_id == "umbrella"
    assert (user.is_staff, user.is_superuser, user.has_usable_password()) == (False, False, False)
    again = api.issue(user_id="new-person")
    assert (again["user_id"], again["organization_id"]) == ("new-person", "umbrella")
    assert User.objects.filter(username="new-person").count() == 1


def test_nothing_is_stored_of_a_key_that_could_not_be_issued(api: Api, people: People):
    refused(api.post("/key/generate", {"user_id": "ghost", "key_alias": "owner"}), 400, "key_alias")
    assert not User.objects.filter(username="ghost").exists()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"organization_id": "nowhere"}, "organization_id"),
        ({"team_id": "no-such-team"}, "team_id"),
        ({"team_id": "research", "organization_id": "umbrella"}, "organization_id"),
        ({"team_id": "raccoon", "user_id": "owner"}, "user_id"),
        ({"organization_id": "umbrella", "user_id": "owner"}, "user_id"),
    ],
)
def test_a_key_stays_inside_one_organization(api: Api, people: People, fields: JsonObject, param: str):
    refused(api.post("/key/generate", fields), 400, param)
    assert key_count() == 3


def test_a_key_belongs_to_the_organization_of_its_team_or_user(api: Api, people: People):
    assert api.issue(team_id="raccoon")["organization_id"] == "umbrella"
    assert api.issue(user_id="stranger")["organization_id"] == "umbrella"
    assert api.issue(user_id="owner", organization_id="acme")["organization_id"] == "acme"


def test_the_service_refuses_a_team_of_another_organization(people: People):
    with scopes_disabled(), pytest.raises(KeyInvalid) as refusal:
        issue_key(organization=people.abroad, team=people.team)
    assert refusal.value.param == "team"


def test_a_key_can_be_issued_blocked(api: Api):
    answer = api.issue(blocked=True)
    assert answer["blocked"] is True
    assert api.get("/key/info", by=answer["key"]).status_code == 401


WRONG: list[tuple[str, JsonObject, str]] = [
    ("/key/generate", {"models": "gpt"}, "models"),
    ("/key/generate", {"models": [5]}, "models"),
    ("/key/generate", {"models": {"gpt": 1}}, "models"),
    ("/key/generate", {"models": ""}, "models"),
    ("/key/generate", {"models": {}}, "models"),
    ("/key/generate", {"models": 0}, "models"),
    ("/key/generate", {"models": False}, "models"),
    ("/key/generate", {"metadata": ""}, "metadata"),
    ("/key/generate", {"metadata": False}, "metadata"),
    ("/key/generate", {"duration": 0}, "duration"),
    ("/key/generate", {"key_alias": False}, "key_alias"),
    ("/key/generate", {"metadata": []}, "metadata"),
    ("/key/generate", {"metadata": "x"}, "metadata"),
    ("/key/generate", {"metadata": [], "tags": ["a"]}, "metadata"),
    ("/key/generate", {"tags": "blue"}, "tags"),
    ("/key/generate", {"tags": [1]}, "tags"),
    ("/key/generate", {"duration": "soon"}, "duration"),
    ("/key/generate", {"duration": "-5d"}, "duration"),
    ("/key/generate", {"duration": 30}, "duration"),
    ("/key/generate", {"duration": "999999999w"}, "duration"),
    ("/key/generate", {"key_alias": 5}, "key_alias"),
    ("/key/generate", {"key_alias": "x" * 300}, "key_alias"),
    ("/key/generate", {"key_alias": "a\0b"}, "key_alias"),
    ("/key/generate", {"metadata": {"a": "\0"}}, "metadata"),
    ("/key/generate", {"metadata": {"\0": 1}}, "metadata"),
    ("/key/generate", {"metadata": {"a": "\ud800"}}, "metadata"),
    ("/key/generate", {"team_id": []}, "team_id"),
    ("/key/generate", {"team_id": "x" * 300}, "team_id"),
    ("/key/generate", {"user_id": 5}, "user_id"),
    ("/key/generate", {"user_id": " "}, "user_id"),
    ("/key/generate", {"user_id": "x" * 256}, "user_id"),
    ("/key/generate", {"organization_id": {}}, "organization_id"),
    ("/key/generate", {"blocked": "yes"}, "blocked"),
    ("/key/generate", {"blocked": 1}, "blocked"),
    ("/key/generate", {"no_such_field": 1}, "no_such_field"),
    ("/key/generate", {"organization": "default"}, "organization"),
    ("/key/generate", {"digest": "0" * 64}, "digest"),
    ("/key/generate", {"created_by": "someone else"}, "created_by"),
    ("/key/update", {}, "key"),
    ("/key/update", {"key": 5}, "key"),
    ("/key/update", {"key": "not-a-key"}, "key"),
    ("/key/block", {}, "key"),
    ("/key/block", {"key": "not-a-key"}, "key"),
    ("/key/block", {"key": []}, "key"),
    ("/key/block", {"key": "sk-x", "models": []}, "models"),
    ("/key/delete", {}, "keys"),
    ("/key/delete", {"keys": []}, "keys"),
    ("/key/delete", {"keys": "sk-x"}, "keys"),
    ("/key/delete", {"keys": [5]}, "keys"),
    ("/key/delete", {"keys": [""]}, "keys"),
    ("/key/delete", {"keys": ["sk-x"], "key_aliases": ["x"]}, "keys"),
    ("/key/delete", {"key_aliases": [None]}, "key_aliases"),
    ("/team/new", {"models": 5}, "models"),
    ("/team/new", {"team_id": 5}, "team_id"),
    ("/team/new", {"team_id": "x" * 300}, "team_id"),
    ("/team/new", {"team_alias": ["x"]}, "team_alias"),
    ("/team/new", {"metadata": 5}, "metadata"),
    ("/team/new", {"organization_id": "nowhere"}, "organization_id"),
    ("/team/new", {"key_alias": "x"}, "key_alias"),
]


@pytest.mark.parametrize(("path", "body", "param"), WRONG)
def test_a_wrong_field_is_named(api: Api, path: str, body: JsonObject, param: str):
    error = refused(api.post(path, body), 400, param)
    assert error["type"] == "invalid_request_error"
    assert key_count() == 0


#: What each route takes although another one does not.
TAKEN: Mapping[str, Collection[str]] = {
    "/key/generate": ("router_settings",),
    "/key/update": ("router_settings", "spend"),
    "/team/new": (*TEAM_FIELDS, *MEMBER_LISTS),
}
IGNORED = [(path, name) for path, taken in TAKEN.items() for name in sorted(UNENFORCED.difference(taken))]


@pytest.mark.parametrize(("path", "name"), IGNORED)
def test_a_field_that_would_be_ignored_is_refused(api: Api, path: str, name: str):
    target = {"key": api.issue()["key"]} if path == "/key/update" else {}
    for nothing in (None, "", [], {}, False):
        assert api.post(path, {**target, name: nothing}).status_code == 200, nothing
    for something in (1, 0.5, -1, "x", [1], {"gpt": 1}, True):
        error = refused(api.post(path, {**target, name: something}), 400, name, "unsupported_parameter")
        assert error["type"] == "invalid_request_error"
        assert "does not enforce" in error["message"]


def test_zero_is_a_limit(api: Api):
    key = api.issue(max_budget=0, rpm_limit=0.0)
    assert (key["max_budget"], key["rpm_limit"]) == (0, 0)
    assert api.issue(key_type="default", spend=0)["spend"] == 0


# Looking


def test_a_key_is_found_by_its_text_and_by_its_digest(api: Api, people: People):
    for name in (people.owner, digest_of(people.owner)):
        answer = api.get("/key/info", {"key": name}).json()
        assert answer["key"] == digest_of(people.owner)  # the text is shown when it is issued, and never again
        info = answer["info"]
        assert (info["key_alias"], info["team_id"], info["organization_id"]) == ("owner", "research", "acme")
        assert (info["user_id"], info["status"], info["models"]) == ("owner", "active", [])
        assert "token" not in info
        assert "key" not in info
    refused(api.get("/key/info", {"key": "sk-" + "0" * 40}), 404, "key", "not_found")
    refused(api.get("/key/info", {"key": "0" * 64}), 404, "key", "not_found")
    refused(api.get("/key/info", {"key": "neither"}), 400, "key")
    refused(api.get("/key/info"), 400, "key")


def test_a_virtual_key_may_ask_about_itself_only(api: Api, people: People):
    for query in ({}, {"key": people.owner}, {"key": digest_of(people.owner)}):
        answer = api.get("/key/info", query, by=people.owner)
        assert answer.status_code == 200
        assert answer.json()["info"]["key_alias"] == "owner"
    absent = api.get("/key/info", {"key": "sk-" + "0" * 40}, by=people.owner)
    for other in (people.mate, people.stranger):
        for name in (other, digest_of(other)):
            response = api.get("/key/info", {"key": name}, by=people.owner)
            refused(response, 404, "key", "not_found")
            assert response.content == absent.content  # whether it exists is not told


def test_the_status_of_a_key_is_reported(api: Api):
    key = api.issue(duration="1h")["key"]
    assert api.info(key)["status"] == "active"
    with scopes_disabled():
        update_key(key_row(key), changes={"expires_at": timezone.now() - timedelta(hours=1)})
    assert api.info(key)["status"] == "expired"
    api.post("/key/block", {"key": key})
    assert api.info(key)["status"] == "revoked"


def test_keys_are_listed_in_pages_newest_first(api: Api):
    issued = [api.issue()["token"] for _ in range(5)]
    pages = [api.get("/key/list", {"page": page, "size": 2}).json() for page in (1, 2, 3, 4)]
    assert [(p["total_count"], p["current_page"], p["total_pages"]) for p in pages] == [
        (5, 1, 3),
        (5, 2, 3),
        (5, 3, 3),
        (5, 4, 3),
    ]
    assert [key for page in pages for key in page["keys"]] == issued[::-1]
    assert api.get("/key/list", {"team_id": "unknown"}).json() == {
        "keys": [],
        "total_count": 0,
        "current_page": 1,
        "total_pages": 0,
    }


def test_keys_are_filtered(api: Api, people: People):
    def aliases(**query: str) -> list[str]:
        rows = api.get("/key/list", {**query, "return_full_object": "true"}).json()["keys"]
        return sorted(row["key_alias"] for row in rows)

    assert aliases() == ["mate", "owner", "stranger"]
    assert aliases(team_id="research") == ["mate", "owner"]
    assert aliases(organization_id="umbrella") == ["stranger"]
    assert aliases(user_id="mate") == aliases(key_alias="mate") == ["mate"]
    assert aliases(key_hash=digest_of(people.owner)) == ["owner"]
    assert aliases(user_id="mate", organization_id="umbrella") == []
    [row] = api.get("/key/list", {"key_alias": "mate", "return_full_object": "1"}).json()["keys"]
    assert row["token"] == digest_of(people.mate)


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/key/list", "page=0", "page"),
        ("/key/list", "page=-1", "page"),
        ("/key/list", "page=1.5", "page"),
        ("/key/list", "page=x", "page"),
        ("/key/list", "page=99999999999999999999", "page"),
        ("/key/list", "size=101", "size"),
        ("/key/list", "size=0", "size"),
        ("/key/list", "size=%D9%A3", "size"),
        ("/key/list", "return_full_object=maybe", "return_full_object"),
        ("/key/list", "team_id=a&team_id=b", "team_id"),
        ("/key/list", "key_alias=a%00b", "key_alias"),
        ("/key/list", "sort_by=digest", "sort_by"),
        ("/key/list", "organization=acme", "organization"),
        ("/key/info", "key=sk-a%00b", "key"),
        ("/key/info", "token=x", "token"),
        ("/team/info", "", "team_id"),
        ("/team/info", "team_id=%00", "team_id"),
        ("/team/list", "user=x", "user"),
        ("/spend/logs", "limit=0", "limit"),
        ("/spend/logs", "limit=10001", "limit"),
        ("/spend/logs", "limit=many", "limit"),
        ("/spend/logs", "start_date=yesterday", "start_date"),
        ("/spend/logs", "end_date=2026-13-45", "end_date"),
        ("/spend/logs", "end_date=2026-1-5", "end_date"),
        ("/spend/logs", "start_date=0001-01-01T00:00:00%2B14:00", "start_date"),
        ("/spend/logs", "start_date=9999-12-31T23:59:59-14:00", "start_date"),
        ("/spend/logs", "summarize=maybe", "summarize"),
        ("/spend/logs", "request_id=%00", "request_id"),
    ],
)
def test_a_wrong_query_parameter_is_named(api: Api, path: str, query: str, param: str):
    error = refused(api.client.get(f"{path}?{query}", headers=api.headers(MASTER)), 400, param)
    assert error["type"] == "invalid_request_error"


# Changing


def test_an_update_changes_only_the_fields_sent(api: Api, people: People):
    key = api.issue(
        key_alias="kept",
        models=["gpt"],
        metadata={"a": 1},
        duration="1d",
        team_id="research",
        user_id="owner",
    )["key"]
    before = api.info(key)
    answer = api.post("/key/update", {"key": key, "models": ["embed"]})
    assert answer.status_code == 200
    assert answer.json()["key"] == key
    assert answer.json()["models"] == ["embed"]
    after = api.info(key)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"models", "updated_at"}


def test_null_clears(api: Api, people: People):
    key = api.issue(
        key_alias="full",
        models=["gpt"],
        metadata={"a": 1},
        duration="1d",
        team_id="research",
        user_id="owner",
        tags=["x"],
    )["key"]
    cleared = {
        "key_alias": None,
        "models": None,
        "metadata": None,
        "duration": None,
        "team_id": None,
        "user_id": None,
        "tags": None,
        "blocked": None,
    }
    assert api.post("/key/update", {"key": digest_of(key), **cleared}).status_code == 200
    info = api.info(key)
    assert (info["key_alias"], info["models"], info["metadata"], info["expires"]) == (None, [], {}, None)
    assert (info["team_id"], info["user_id"], info["tags"], info["blocked"]) == (None, None, [], False)
    assert info["organization_id"] == "acme"


def test_tags_alone_keep_the_rest_of_the_metadata(api: Api):
    key = api.issue(metadata={"a": 1}, tags=["x"])["key"]
    api.post("/key/update", {"key": key, "tags": ["y"]})
    assert api.info(key)["metadata"] == {"a": 1, "tags": ["y"]}
    api.post("/key/update", {"key": key, "metadata": {"b": 2}, "tags": ["z"]})
    assert api.info(key)["metadata"] == {"b": 2, "tags": ["z"]}
    api.post("/key/update", {"key": key, "metadata": {"c": 3}})
    assert api.info(key)["metadata"] == {"c": 3}


def test_a_key_is_also_named_by_its_alias(api: Api):
    key = api.issue(key_alias="by-name")["key"]
    answer = api.post("/key/update", {"key_alias": "by-name", "models": ["gpt"]}).json()
    assert (answer["key"], answer["key_alias"], answer["models"]) == (digest_of(key), "by-name", ["gpt"])
    assert api.post("/key/update", {"key": key, "key_alias": "renamed"}).json()["key_alias"] == "renamed"
    refused(api.post("/key/update", {"key_alias": "by-name", "models": []}), 404, "key_alias")


def test_a_key_does_not_leave_its_organization(api: Api, people: People):
    for fields, param in (
        ({"organization_id": "umbrella"}, "organization_id"),
        ({"team_id": "raccoon"}, "team_id"),
        ({"user_id": "stranger"}, "user_id"),
        ({"team_id": "no-such-team"}, "team_id"),
    ):
        refused(api.post("/key/update", {"key": people.owner, **fields}), 400, param)
    row = key_row(people.owner)
    assert (row.organization_id, row.team_id, row.user and row.user.username) == ("acme", "research", "owner")
    assert api.post("/key/update", {"key": people.owner, "organization_id": "acme"}).status_code == 200


def test_an_update_that_fails_changes_nothing(api: Api, people: People):
    before = api.info(people.owner)
    refused(api.post("/key/update", {"key": people.owner, "user_id": "ghost", "models": "gpt"}), 400, "models")
    assert api.info(people.owner) == before
    assert not User.objects.filter(username="ghost").exists()


def test_nothing_else_of_a_key_can_be_changed(people: People):
    with scopes_disabled():
        key = key_row(people.owner)
        for name in ("digest", "id", "organization", "organization_id", "last4", "created_by", "no_such"):
            with pytest.raises(KeyInvalid):
                update_key(key, changes={name: "x"})


def test_a_service_does_not_widen_the_scope_of_its_caller(people: People):
    key = key_row(people.owner)
    with scope(organization=people.abroad), pytest.raises(VirtualKey.DoesNotExist):
        VirtualKey.objects.get(pk=key.pk)


def test_a_key_is_blocked_and_unblocked_by_text_or_digest(api: Api, people: People):
    for name in (people.owner, digest_of(people.owner)):
        blocked = api.post("/key/block", {"key": name})
        assert blocked.status_code == 200
        assert blocked.json()["blocked"] is True
        assert blocked.json()["token"] == digest_of(people.owner)
        assert api.get("/key/info", by=people.owner).status_code == 401
        assert api.get("/key/info", by=people.mate).status_code == 200
        assert api.post("/key/unblock", {"key": name}).json()["blocked"] is False
        assert api.get("/key/info", by=people.owner).status_code == 200
    unknown = refused(api.post("/key/block", {"key": "sk-" + "0" * 40}), 404, "key")
    assert unknown["message"] == "Key not found."


def test_keys_are_deleted_by_text_digest_or_alias(api: Api, people: People):
    keys = [people.owner, digest_of(people.mate)]
    response = api.post("/key/delete", {"keys": keys})
    assert response.json() == {"deleted_keys": keys}
    assert api.post("/key/delete", {"key_aliases": ["stranger"]}).json() == {"deleted_keys": ["stranger"]}
    assert key_count() == 0
    assert api.get("/key/info", by=people.owner).status_code == 401


def test_keys_are_deleted_all_or_none(api: Api, people: People):
    for body, param in (
        ({"keys": [people.owner, "sk-" + "0" * 40]}, "keys"),
        ({"key_aliases": ["owner", "unknown"]}, "key_aliases"),
    ):
        error = refused(api.post("/key/delete", body), 400, param, "key_not_found")
        assert people.owner not in error["message"]
    assert key_count() == 3
    twice = [people.owner, digest_of(people.owner)]
    assert api.post("/key/delete", {"keys": twice}).json() == {"deleted_keys": twice}


# The command line


def create_key(*arguments: str) -> str:
    out = StringIO()
    call_command("create_key", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_line_issues_a_key_and_prints_it_once(api: Api, people: People):
    text = create_key().strip()
    assert (text.startswith("sk-"), len(text.split())) == (True, 1)
    assert api.get("/key/info", by=text).status_code == 200
    printed = create_key(
        "--alias",
        "cli",
        "--models",
        "gpt, embed,",
        "--team",
        "research",
        "--user",
        "cli-user",
        "--duration",
        "30d",
        "--json",
    )
    created = json.loads(printed)
    assert created["token"] == digest_of(created["key"])
    assert (created["key_alias"], created["models"], created["team_id"]) == ("cli", ["gpt", "embed"], "research")
    assert (created["user_id"], created["organization_id"]) == ("cli-user", "acme")
    info = api.info(created["key"])
    assert (info["created_by"], info["status"]) == ("create_key", "active")
    assert create_key("--organization", "umbrella")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("--team", "no-such-team"), "--team"),
        (("--organization", "nowhere"), "--organization"),
        (("--alias", "owner"), "--alias"),
        (("--duration", "soon"), "--duration"),
        (("--models", "x" * 300), "--models"),
        (("--user", "owner", "--organization", "umbrella"), "--user"),
    ],
)
def test_the_command_line_names_a_wrong_option(people: People, arguments: tuple[str, ...], option: str):
    with pytest.raises(CommandError, match=option):
        create_key(*arguments)
    assert key_count() == 3
