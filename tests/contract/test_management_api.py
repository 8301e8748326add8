"""The management API as its callers see it: /key/*, /team/*, /spend/logs and `manage.py create_key`.

Three people stand for everyone: the owner of a key, a team-mate, and a stranger of another organization.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import AsyncRequestFactory, Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_scopes import scope, scopes_disabled
from uuid_utils import uuid7

from billing.models import SpendLog
from tenants import authentication
from tenants.access import ensure_master_key, platform_admin
from tenants.api import UNENFORCED, GenerateKey
from tenants.keys import KeyInvalid, digest_of, issue_key, update_key
from tenants.models import MasterKey, Organization, Team, User, VirtualKey
from tenants.revision import current_revision
from tenants.teams import create_team, set_team_blocked

pytestmark = pytest.mark.django_db

MASTER = "sk-master-of-the-contract-suite"
OWN_KEY = "sk-Own-Key-7f3a9c5e1b"
ERROR = {"message", "type", "param", "code"}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class People:
    """Keys of the three, and where they belong."""

    owner: str
    mate: str
    stranger: str
    team: Team
    home: Organization
    abroad: Organization


class Api:
    """The test client with JSON in and out, holding the master key unless told otherwise."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def get(self, path: str, query: Json | None = None, *, by: str | None = MASTER) -> Any:
        return self.client.get(path, query, headers=self.headers(by))

    def post(self, path: str, body: Any = None, *, by: str | None = MASTER) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body)
        return self.client.post(path, raw, content_type="application/json", headers=self.headers(by))

    def issue(self, **fields: Any) -> Json:
        response = self.post("/key/generate", fields)
        assert response.status_code == 200, response.content
        answer: Json = response.json()
        return answer

    def info(self, key: str) -> Json:
        response = self.get("/key/info", {"key": key})
        assert response.status_code == 200, response.content
        info: Json = response.json()["info"]
        return info

    @staticmethod
    def headers(key: str | None) -> dict[str, str]:
        return {} if key is None else {"authorization": f"Bearer {key}"}


@pytest.fixture
def api(client: Client) -> Api:
    ensure_master_key(MASTER, "environment")
    return Api(client)


@pytest.fixture
def people(api: Api) -> People:
    with scopes_disabled():
        home = Organization.objects.create(id="acme", name="Acme")
        abroad = Organization.objects.create(id="umbrella", name="Umbrella")
        team = create_team(organization=home, id="research", alias="Research")
        elsewhere = create_team(organization=abroad, id="raccoon", alias="Raccoon")
        keys = [
            issue_key(
                organization=organization,
                team=place,
                alias=name,
                user=User.objects.create(username=name, organization=organization),
            ).text
            for name, organization, place in (
                ("owner", home, team),
                ("mate", home, team),
                ("stranger", abroad, elsewhere),
            )
        ]
    return People(*keys, team=team, home=home, abroad=abroad)


def refused(response: Any, status: int, param: str | None = None, code: str | None = None) -> Json:
    """The error of a response that has the one error shape."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    error: Json = response.json()["error"]
    assert set(error) == ERROR
    assert error["message"]
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    return error


def key_row(text: str) -> VirtualKey:
    with scopes_disabled():
        row: VirtualKey = VirtualKey.objects.select_related("user", "organization").get(digest=digest_of(text))
    return row


def key_count() -> int:
    with scopes_disabled():
        count: int = VirtualKey.objects.count()
    return count


# Issuing


def test_a_key_is_answered_once_and_in_full(api: Api, people: People):
    asked = {
        "key_alias": "payer",
        "models": ["gpt", "embed"],
        "duration": "30d",
        "metadata": {"purpose": "测试", "ratio": 0.5},
        "team_id": "research",
        "user_id": "someone-new",
        "tags": ["blue"],
        "blocked": False,
    }
    answer = api.issue(**asked)
    text = answer["key"]
    assert text.startswith("sk-")
    assert answer["token"] == answer["token_id"] == digest_of(text)
    assert answer["key_name"] == f"sk-...{text[-4:]}"
    assert answer["metadata"] == {"purpose": "测试", "ratio": 0.5, "tags": ["blue"]}
    assert {name: answer[name] for name in asked if name != "metadata"} == {
        name: value for name, value in asked.items() if name != "metadata"
    }
    assert answer["organization_id"] == "acme"
    assert answer["created_by"] == answer["updated_by"] == "master key"
    expires = datetime.fromisoformat(answer["expires"])
    assert abs(expires - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    assert datetime.fromisoformat(answer["created_at"]).tzinfo is not None
    row = key_row(text)
    assert (row.last4, row.alias, row.team_id) == (text[-4:], "payer", "research")
    shown = [
        api.get("/key/info", {"key": answer["token"]}),
        api.get("/key/list", {"return_full_object": "true"}),
    ]
    for response in (*shown, api.get("/team/info", {"team_id": "research"}), api.get("/team/list")):
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
        "sk-1234567890abcdefghij",
        "sk-xxxxxxxxxxxxxxxxxxxxxxxx",
        "sk-aaaaaaaaaaaaaaaaaaaaaaaa",
        "pk-" + "0123456789abcdef",
        "sk-with spaces 0123456789",
        "sk-钥匙0123456789abcdefgh",
        "sk-0123456789\n0123456789",
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
    taken = api.post("/key/generate", {"key_alias": "stranger", "organization_id": "acme"})
    assert "stranger" in refused(taken, 400, "key_alias")["message"]
    key = api.issue(key_alias="free")["key"]
    refused(api.post("/key/update", {"key": key, "key_alias": "owner"}), 400, "key_alias")
    assert api.info(key)["key_alias"] == "free"


def test_an_unknown_user_is_created_without_a_way_in(api: Api, people: People):
    answer = api.issue(user_id="new-person", organization_id="umbrella")
    assert (answer["user_id"], answer["organization_id"]) == ("new-person", "umbrella")
    user = User.objects.get(username="new-person")
    assert user.organization_id == "umbrella"
    assert (user.is_staff, user.is_superuser, user.has_usable_password()) == (False, False, False)
    again = api.issue(user_id="new-person")
    assert (again["user_id"], again["organization_id"]) == ("new-person", "umbrella")
    assert User.objects.filter(username="new-person").count() == 1


def test_nothing_is_kept_of_a_key_that_could_not_be_issued(api: Api, people: People):
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
def test_a_key_stays_inside_one_organization(api: Api, people: People, fields: Json, param: str):
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


def test_a_key_can_be_born_blocked(api: Api):
    answer = api.issue(blocked=True)
    assert answer["blocked"] is True
    assert api.get("/key/info", by=answer["key"]).status_code == 401


WRONG: list[tuple[str, Json, str]] = [
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
def test_a_wrong_field_is_named(api: Api, path: str, body: Json, param: str):
    error = refused(api.post(path, body), 400, param)
    assert error["type"] == "invalid_request_error"
    assert key_count() == 0


@pytest.mark.parametrize("name", sorted(UNENFORCED))
@pytest.mark.parametrize("path", ["/key/generate", "/key/update", "/team/new"])
def test_a_field_that_would_be_ignored_is_refused(api: Api, path: str, name: str):
    given = {"key": api.issue()["key"]} if path == "/key/update" else {}
    for nothing in (None, "", [], {}, False):
        assert api.post(path, {**given, name: nothing}).status_code == 200, nothing
    for something in (1, 0.5, -1, "x", [1], {"gpt": 1}, True):
        error = refused(api.post(path, {**given, name: something}), 400, name, "unsupported_parameter")
        assert error["type"] == "invalid_request_error"
        assert "does not enforce" in error["message"]


def test_zero_is_a_limit_and_not_the_lack_of_one(api: Api):
    refused(api.post("/key/generate", {"max_budget": 0}), 400, "max_budget", "unsupported_parameter")
    refused(api.post("/key/generate", {"rpm_limit": 0.0}), 400, "rpm_limit", "unsupported_parameter")
    assert api.issue(key_type="default", spend=0)["spend"] == 0


# Reading bodies

BROKEN: dict[str, bytes] = {
    "cut": b'{"key_alias": "x"',
    "trailing comma": b'{"key_alias": "x",}',
    "two values": b"{}{}",
    "list": b"[]",
    "text": b'"sk-"',
    "number": b"3",
    "null": b"null",
    "blank": b"  ",
    "form": b"key_alias=x",
    "NaN": b'{"max_budget": NaN}',
    "Infinity": b'{"max_budget": Infinity}',
    "-Infinity": b'{"metadata": {"a": -Infinity}}',
    "overflow": b'{"metadata": {"a": 1e999}}',
    "absurd exponent": b'{"metadata": {"a": 1e99999999999999999999999}}',
    "5,000 digits": b'{"metadata": {"a": ' + b"9" * 5000 + b"}}",
    "duplicate key": b'{"models": ["a"], "models": []}',
    "duplicate key below": b'{"metadata": {"a": 1, "a": 2}}',
    "duplicate key, escaped": b'{"models": ["a"], "model\\u0073": []}',
    "bad UTF-8": b'{"key_alias": "\xff\xfe"}',
    "UTF-16": '{"key_alias": "x"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "deep objects": b'{"metadata":' + b'{"a":' * 70 + b"1" + b"}" * 71,
    "deep lists": b'{"metadata":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "very deep": b"[" * 200_000,
    "control character": b'{"key_alias": "\x01"}',
    "NUL": b'{"key_alias": "\\u0000"}',
    "NUL in a name": b'{"a\\u0000": 1}',
    "half a surrogate pair": b'{"key_alias": "\\ud800"}',
    "half a surrogate pair in a name": b'{"\\udfff": 1, "\\udfff": 2}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_body_that_is_not_one_plain_object_is_refused(api: Api, name: str):
    response = api.post("/key/generate", BROKEN[name])
    assert response.status_code == 400, response.content
    assert set(response.json()["error"]) == ERROR
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert key_count() == 0


def test_64_levels_are_not_too_deep(api: Api):
    assert api.post("/key/generate", b'{"metadata":' + b'{"a":' * 63 + b"1" + b"}" * 64).status_code in {
        200,
        400,
    }
    assert api.post("/key/generate", b'{"metadata":' + b'{"a":' * 62 + b"1" + b"}" * 63).status_code == 200


def test_fractions_are_read_exactly():
    value = authentication.parse_object(b'{"a": 0.1, "b": 1, "c": 1e2}')
    assert repr(value) == "{'a': Decimal('0.1'), 'b': 1, 'c': Decimal('1E+2')}"


@pytest.mark.parametrize("missing", ["CONTENT_LENGTH", "CONTENT_TYPE"])
def test_a_body_sent_without_its_length_or_type_is_not_taken_for_an_empty_one(api: Api, missing: str):
    request = AsyncRequestFactory().post(
        "/key/generate",
        json.dumps({"models": ["gpt"]}),
        content_type="application/json",
        headers=api.headers(MASTER),
    )
    del request.META[missing]
    response = GenerateKey.as_view()(request)
    assert response.status_code == 200
    assert response.data["models"] == ["gpt"]


def test_the_key_is_judged_before_the_body(api: Api):
    refused(api.post("/key/generate", b"{not json", by="sk-wrong"), 401)


def test_a_body_that_is_too_large_is_refused(api: Api, settings: Any):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    refused(api.post("/key/generate", {"metadata": {"a": "x" * 2000}}), 413, None, "request_too_large")


def test_a_body_of_another_type_is_refused(api: Api):
    response = api.client.post("/key/generate", {"key_alias": "x"}, headers=api.headers(MASTER))
    refused(response, 415, None, "unsupported_media_type")


# Entering

CARRIERS = {
    "bearer": ("authorization", "Bearer {}"),
    "lower-case bearer": ("authorization", "bearer   {}"),
    "bare": ("authorization", "{}"),
    "x-litellm-api-key": ("x-litellm-api-key", "{}"),
    "x-litellm-api-key bearer": ("x-litellm-api-key", "Bearer {}"),
    "api-key": ("api-key", "{}"),
    "x-api-key": ("x-api-key", "{}"),
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_key_is_read_from_every_carrier(api: Api, people: People, carrier: str):
    name, form = CARRIERS[carrier]
    for key, status in ((MASTER, 200), (people.owner, 403), (MASTER[:-1], 401), (f"{MASTER}x", 401)):
        assert api.client.get("/key/list", headers={name: form.format(key)}).status_code == status


def test_the_first_carrier_that_holds_something_decides(api: Api):
    order = ["x-litellm-api-key", "authorization", "api-key", "x-api-key"]
    for position, name in enumerate(order):
        others = dict.fromkeys(order[position + 1 :], "sk-wrong")
        assert api.client.get("/key/list", headers={name: MASTER, **others}).status_code == 200
        wrong = {name: "sk-wrong", **dict.fromkeys(order[position + 1 :], MASTER)}
        assert api.client.get("/key/list", headers=wrong).status_code == 401
    assert api.client.get("/key/list", headers={"x-litellm-api-key": " ", "authorization": MASTER}).status_code == 200


def test_every_key_that_does_not_count_is_answered_alike(api: Api, people: People):
    blocked, deleted, expired = (api.issue()["key"] for _ in range(3))
    api.post("/key/block", {"key": blocked})
    api.post("/key/delete", {"keys": [deleted]})
    with scopes_disabled():
        update_key(key_row(expired), changes={"expires_at": timezone.now() - timedelta(seconds=1)})
        set_team_blocked(Team.objects.get(id="research"), blocked=True)
        Organization.objects.filter(id="umbrella").update(blocked=True)
    presented = [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "sk-",
        MASTER[:-1],
        digest_of(MASTER),
        digest_of(blocked),
        blocked,
        deleted,
        expired,
        people.owner,
        people.stranger,
        "sk-钥匙",
        "sk-\xff\xfe",
        "' OR 1=1 --",
        "sk-%",
        "sk-" + "x" * 8000,
    ]
    bodies = set()
    for text in presented:
        headers = {} if text is None else {"authorization": text}
        response = api.client.get("/key/info", headers=headers)
        assert response.status_code == 401, text
        assert response["WWW-Authenticate"] == "Bearer"
        bodies.add(response.content)
    assert [json.loads(body) for body in bodies] == [
        {
            "error": {
                "message": authentication.UNAUTHORIZED,
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            }
        }
    ]
    assert authentication.UNAUTHORIZED.startswith("Authentication Error")


@pytest.mark.parametrize("text", ["sk-hostile'; DROP TABLE tenants_virtualkey; --", "sk-%00%' OR '1'='1"])
def test_a_presented_key_reaches_the_database_as_a_digest_only(api: Api, text: str):
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert api.get("/key/list", by=text).status_code == 401
    assert queries.captured_queries
    assert not [query for query in queries.captured_queries if "hostile" in query["sql"] or "OR '1" in query["sql"]]


def test_without_a_master_key_nobody_is_the_master(api: Api):
    MasterKey.objects.all().delete()
    for text in (MASTER, "", "None", digest_of("")):
        assert api.get("/key/list", by=text).status_code == 401


def test_a_session_opens_nothing_here(api: Api):
    api.client.force_login(platform_admin())
    assert api.get("/key/list", by=None).status_code == 401
    assert api.post("/key/generate", by=None).status_code == 401


def test_no_csrf_token_is_asked_for():
    ensure_master_key(MASTER, "environment")
    response = Client(enforce_csrf_checks=True).post(
        "/key/generate", "{}", content_type="application/json", headers={"authorization": f"Bearer {MASTER}"}
    )
    assert response.status_code == 200


MANAGEMENT = [
    ("POST", "/key/generate"),
    ("POST", "/key/update"),
    ("POST", "/key/delete"),
    ("POST", "/key/block"),
    ("POST", "/key/unblock"),
    ("GET", "/key/list"),
    ("POST", "/team/new"),
    ("GET", "/team/info"),
    ("GET", "/team/list"),
]
OPEN_TO_KEYS = [("GET", "/key/info"), ("GET", "/spend/logs")]


@pytest.mark.parametrize(("method", "path"), MANAGEMENT)
def test_a_virtual_key_manages_nothing_not_even_itself(api: Api, people: People, method: str, path: str):
    for person in (people.owner, people.mate, people.stranger):
        body = {"key": people.owner, "keys": [people.owner], "team_alias": "taken over", "models": []}
        response = api.post(path, body, by=person) if method == "POST" else api.get(path, by=person)
        error = refused(response, 403, None, "insufficient_permissions")
        assert people.owner not in error["message"]
    assert key_count() == 3
    assert not key_row(people.owner).blocked


@pytest.mark.parametrize(("method", "path"), [*MANAGEMENT, *OPEN_TO_KEYS])
def test_every_route_takes_a_trailing_slash_and_its_own_method_only(api: Api, method: str, path: str):
    for address in (path, f"{path}/"):
        for other in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - {method}:
            response = api.client.generic(other, address, headers=api.headers(MASTER))
            refused(response, 405, None, "method_not_allowed")
            assert method in response["Allow"]
        assert api.client.generic(method, address, headers=api.headers(MASTER)).status_code in {200, 400}
        assert api.client.generic(method, address).status_code == 401
    refused(api.client.generic(method, f"{path}x", headers=api.headers(MASTER)), 404, None, "not_found")
    refused(api.client.generic(method, f"{path}x"), 401)


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
            refused(response, 403, None, "insufficient_permissions")
            assert response.content == absent.content  # whether it exists is not told


def test_the_status_of_a_key_is_told(api: Api):
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
    assert api.get("/key/list", {"team_id": "nobody"}).json() == {
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
        ("/key/list", "sort_by=spend", "sort_by"),
        ("/key/list", "organization=acme", "organization"),
        ("/key/info", "key=sk-a%00b", "key"),
        ("/key/info", "token=x", "token"),
        ("/team/info", "", "team_id"),
        ("/team/info", "team_id=%00", "team_id"),
        ("/team/list", "user_id=x", "user_id"),
        ("/spend/logs", "limit=0", "limit"),
        ("/spend/logs", "limit=10001", "limit"),
        ("/spend/logs", "limit=many", "limit"),
        ("/spend/logs", "start_date=yesterday", "start_date"),
        ("/spend/logs", "end_date=2026-13-45", "end_date"),
        ("/spend/logs", "end_date=2026-1-5", "end_date"),
        ("/spend/logs", "start_date=0001-01-01T00:00:00%2B14:00", "start_date"),
        ("/spend/logs", "start_date=9999-12-31T23:59:59-14:00", "start_date"),
        ("/spend/logs", "summarize=true", "summarize"),
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
    sent = [people.owner, digest_of(people.mate)]
    response = api.post("/key/delete", {"keys": sent})
    assert response.json() == {"deleted_keys": sent}
    assert api.post("/key/delete", {"key_aliases": ["stranger"]}).json() == {"deleted_keys": ["stranger"]}
    assert key_count() == 0
    assert api.get("/key/info", by=people.owner).status_code == 401


def test_keys_are_deleted_all_or_none(api: Api, people: People):
    for body, param in (
        ({"keys": [people.owner, "sk-" + "0" * 40]}, "keys"),
        ({"key_aliases": ["owner", "nobody"]}, "key_aliases"),
    ):
        error = refused(api.post("/key/delete", body), 400, param, "key_not_found")
        assert people.owner not in error["message"]
    assert key_count() == 3
    twice = [people.owner, digest_of(people.owner)]
    assert api.post("/key/delete", {"keys": twice}).json() == {"deleted_keys": twice}


# Teams


def test_teams_are_made_shown_and_listed(api: Api, people: People):
    asked = {
        "team_id": "litellm-team",
        "team_alias": "数据组",
        "models": ["gpt"],
        "metadata": {"cost_center": "7"},
        "organization_id": "umbrella",
    }
    made = api.post("/team/new", asked)
    assert made.status_code == 200
    assert {name: made.json()[name] for name in asked} == asked
    refused(api.post("/team/new", asked), 400, "team_id")
    key = api.issue(team_id="litellm-team")
    assert key["organization_id"] == "umbrella"
    shown = api.get("/team/info", {"team_id": "litellm-team"}).json()
    assert set(shown) == {"team_id", "team_info", "keys", "team_memberships"}
    assert shown["team_info"]["team_alias"] == "数据组"
    assert [row["token"] for row in shown["keys"]] == [key["token"]]
    listed = {row["team_id"]: row for row in api.get("/team/list").json()}
    assert set(listed) == {"research", "raccoon", "litellm-team"}
    assert len(listed["research"]["keys"]) == 2
    abroad = api.get("/team/list", {"organization_id": "acme"}).json()
    assert [row["team_id"] for row in abroad] == ["research"]
    refused(api.get("/team/info", {"team_id": "no-such-team"}), 404, "team_id")


def test_a_team_gets_an_id_and_the_default_organization(api: Api):
    team = api.post("/team/new").json()
    assert UUID(team["team_id"]).version == 7
    assert (team["organization_id"], team["team_alias"], team["models"]) == ("default", None, [])
    assert api.post("/team/new", {"blocked": True}).json()["blocked"] is True


def test_listing_teams_takes_the_same_queries_for_many_keys(api: Api, people: People):
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert api.get("/team/list").status_code == 200
        return len(captured)

    few = queries()
    for number in range(5):
        api.issue(team_id="research", user_id=f"user-{number}")
    assert queries() == few


# Spending


def spend(text: str, people: People, **columns: Any) -> SpendLog:
    """A priced row of the key's, as the pipeline and the pricing task leave it."""
    key = key_row(text)
    now = timezone.now()
    row = {
        "id": UUID(str(uuid7())),
        "request_id": UUID(str(uuid7())),
        "state": "priced",
        "writer_id": "w",
        "organization": key.organization,
        "team_id": key.team_id,
        "user_id": key.alias,
        "key_id": key.id,
        "key_digest": key.digest,
        "key_alias": key.alias,
        "operation": "chat",
        "model_group": "gpt",
        "deployment_id": "d-1",
        "provider": "openai",
        "upstream_model": "gpt-4o",
        "upstream_id": "chatcmpl-1",
        "finish": "complete",
        "status_code": 200,
        "usage_source": "provider",
        "started_at": now,
        "ended_at": now,
        "cost_pusd": 0,
    } | columns
    with scopes_disabled():
        log: SpendLog = SpendLog.objects.create(**row)
    return log


def test_a_row_has_litellms_names_and_the_exact_cost(api: Api, people: People):
    started = datetime(2026, 11, 20, 12, 0, 0, 250_000, tzinfo=UTC)
    row = spend(
        people.owner,
        people,
        started_at=started,
        ended_at=started + timedelta(seconds=1),
        first_token_at=started + timedelta(milliseconds=100),
        end_user="客",
        tags='["blue", "红"]',
        metadata='{"job": "j-9"}',
        usage='{"prompt_tokens": 31, "energy": 3.5}',
        cost_pusd=348_450_000,
        input_tokens=1,
        input_audio_tokens=2,
        cache_read_tokens=4,
        cache_write_5m_tokens=8,
        cache_write_1h_tokens=16,
        output_tokens=32,
        output_audio_tokens=64,
        reasoning_tokens=128,
    )
    [shown] = api.get("/spend/logs").json()
    metadata = shown.pop("metadata")
    assert shown == {
        "request_id": str(row.request_id),
        "call_type": "acompletion",
        "api_key": digest_of(people.owner),
        "spend": 0.00034845,
        "prompt_tokens": 31,
        "completion_tokens": 224,
        "total_tokens": 255,
        "startTime": "2026-11-20T12:00:00.250000Z",
        "endTime": "2026-11-20T12:00:01.250000Z",
        "completionStartTime": "2026-11-20T12:00:00.350000Z",
        "model": "openai/gpt-4o",
        "model_id": "d-1",
        "model_group": "gpt",
        "custom_llm_provider": "openai",
        "user": "owner",
        "team_id": "research",
        "organization_id": "acme",
        "end_user": "客",
        "request_tags": ["blue", "红"],
        "cache_hit": "False",
        "status": "success",
        "cost": "0.000348450000",
        "cost_status": "priced",
        "usage_estimated": False,
        "upstream_id": "chatcmpl-1",
        "attempt": 0,
    }
    assert metadata["job"] == "j-9"
    assert metadata["user_api_key_alias"] == "owner"
    assert metadata["usage_object"] == {"prompt_tokens": 31, "energy": 3.5}


@pytest.mark.parametrize(
    ("cost_pusd", "cost", "number"),
    [
        (None, None, "0.0"),
        (0, "0.000000000000", "0.0"),
        (1, "0.000000000001", "1e-12"),
        (999_999_999_999, "0.999999999999", "0.999999999999"),
        (10**12, "1.000000000000", "1.0"),
        (1_234_567_890_123_456, "1234.567890123456", "1234.567890123456"),
        (2**63 - 1, "9223372.036854775807", "9223372.036854776"),
    ],
)
def test_money_is_shown_exactly(api: Api, people: People, cost_pusd: int | None, cost: str | None, number: str):
    spend(people.owner, people, cost_pusd=cost_pusd, state="priced" if cost_pusd is not None else "metered")
    response = api.get("/spend/logs")
    [row] = response.json()
    assert row["cost"] == cost
    assert f'"spend":{number},' in response.content.decode()


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({}, "success"),
        ({"state": "metered", "cost_pusd": None}, "success"),
        ({"state": "unpriced", "cost_pusd": None}, "success"),
        ({"state": "open", "cost_pusd": None, "status_code": 0, "finish": "", "ended_at": None}, "pending"),
        ({"finish": "client_gone"}, "failure"),
        ({"finish": "upstream_broken"}, "failure"),
        ({"status_code": 502, "finish": "upstream_error", "error_code": "upstream_error"}, "failure"),
        ({"state": "aborted", "status_code": 502, "finish": "upstream_error"}, "failure"),
        (
            {"state": "lost", "status_code": 0, "finish": "gateway_crash", "usage_source": "estimated"},
            "failure",
        ),
    ],
)
def test_the_status_of_a_call_is_told(api: Api, people: People, columns: Json, status: str):
    spend(people.owner, people, **columns)
    [row] = api.get("/spend/logs").json()
    assert row["status"] == status
    assert row["cost_status"] == columns.get("state", "priced")
    assert row["usage_estimated"] is (columns.get("usage_source") == "estimated")
    assert row["endTime"] is None or row["status"] != "pending"
    assert ("error_information" in row["metadata"]) is ("error_code" in columns)


@pytest.mark.parametrize(
    ("operation", "call_type"),
    [
        ("chat", "acompletion"),
        ("completion", "atext_completion"),
        ("embedding", "aembedding"),
        ("new", "new"),
    ],
)
def test_an_operation_has_litellms_name(api: Api, people: People, operation: str, call_type: str):
    spend(people.owner, people, operation=operation)
    assert api.get("/spend/logs").json()[0]["call_type"] == call_type


@pytest.mark.parametrize(
    "text",
    ["{broken", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[" * 3000, '{"a":' * 80 + "1" + "}" * 80],
)
def test_a_usage_that_is_no_good_json_does_not_spoil_the_list(api: Api, people: People, text: str):
    spend(people.owner, people, usage=text, tags=text, metadata=text)
    [row] = api.get("/spend/logs").json()
    assert isinstance(row["metadata"], dict)
    assert isinstance(row["request_tags"], list)


def test_rows_are_found_by_every_filter(api: Api, people: People):
    day = datetime(2026, 3, 1, tzinfo=UTC)
    first = spend(people.owner, people, started_at=day, upstream_id="up-1")
    second = spend(people.owner, people, started_at=day + timedelta(days=1), upstream_id="up-2")
    mate = spend(people.mate, people, started_at=day + timedelta(days=1, hours=23, minutes=59, seconds=59.5))
    stranger = spend(people.stranger, people, started_at=day + timedelta(days=2))

    def found(**query: str) -> list[str]:
        response = api.get("/spend/logs", query)
        assert response.status_code == 200, response.content
        return [row["request_id"] for row in response.json()]

    def ids(*rows: SpendLog) -> list[str]:
        return [str(row.request_id) for row in rows]

    assert found() == ids(stranger, mate, second, first)
    assert found(api_key=people.owner) == found(api_key=digest_of(people.owner)) == ids(second, first)
    assert found(api_key="sk-" + "0" * 40) == found(api_key="nonsense") == []
    assert found(request_id=str(first.request_id)) == found(request_id="up-1") == ids(first)
    assert found(request_id="no-such-request") == []
    assert found(user_id="mate") == ids(mate)
    assert found(team_id="research") == ids(mate, second, first)
    assert found(start_date="2026-03-02") == ids(stranger, mate, second)
    assert found(end_date="2026-03-02") == ids(mate, second, first)
    assert found(start_date="2026-03-02", end_date="2026-03-02") == ids(mate, second)
    assert found(start_date="2026-03-02T12:00:00") == ids(stranger, mate)
    assert found(end_date="2026-03-02T08:00:00+08:00") == ids(second, first)
    assert found(end_date="2026-03-02T00:00:00Z") == ids(second, first)
    assert found(start_date="2026-03-03", end_date="2026-03-02") == []
    assert found(limit="2") == ids(stranger, mate)
    assert found(api_key=people.owner, request_id="up-2", start_date="0001-01-01", end_date="9999-12-31") == ids(second)


def test_the_spend_of_others_is_for_the_master_key(api: Api, people: People):
    row = spend(people.owner, people)
    for text in (people.owner, people.mate, people.stranger):
        assert api.get("/spend/logs", by=text).status_code == 403
    assert [found["request_id"] for found in api.get("/spend/logs").json()] == [str(row.request_id)]


def test_history_outlives_its_key(api: Api, people: People):
    row = spend(people.owner, people)
    api.post("/key/delete", {"keys": [people.owner]})
    assert [found["request_id"] for found in api.get("/spend/logs", {"api_key": people.owner}).json()] == [
        str(row.request_id)
    ]


# Failing


def test_a_failure_of_ours_is_told_in_the_same_shape_and_logged_without_the_query(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for error, status in ((OperationalError("server closed"), 503), (RuntimeError("secret detail"), 500)):

        def fail(*, failure: Exception = error) -> None:
            raise failure

        monkeypatch.setattr(authentication, "master_digest", fail)
        response = api.get("/key/info", {"key": OWN_KEY})
        refused(response, status)
        assert "secret detail" not in response.content.decode()
    assert len(caplog.records) >= 2
    assert OWN_KEY not in repr([vars(record) for record in caplog.records if record.name.startswith("tenants")])


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
    shown = json.loads(printed)
    assert shown["token"] == digest_of(shown["key"])
    assert (shown["key_alias"], shown["models"], shown["team_id"]) == ("cli", ["gpt", "embed"], "research")
    assert (shown["user_id"], shown["organization_id"]) == ("cli-user", "acme")
    info = api.info(shown["key"])
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
