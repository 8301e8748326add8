"""The door of the management API: who enters, which bodies are read, and how failures look."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import AsyncRequestFactory, Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.protocol.json.body import parse_exact_object
from tenants.access import digest_of, ensure_master_key, ensure_platform_admin
from tenants.keys import update_key
from tenants.models import MasterKey, Organization, Team, User, VirtualKey
from tenants.rest import authentication
from tenants.rest.key_views import GenerateKey
from tenants.rest.problems import UNAUTHORIZED
from tenants.teams import set_team_blocked
from tests.contract.management import ERROR, MASTER, OWN_KEY, Api, People, key_count, key_row, refused

pytestmark = pytest.mark.django_db

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
    value = parse_exact_object(b'{"a": 0.1, "b": 1, "c": 1e2}')
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


def test_the_key_is_checked_before_the_body(api: Api):
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
        assert api.client.get("/team/list", headers={name: form.format(key)}).status_code == status


def test_the_first_carrier_that_holds_something_decides(api: Api):
    order = ["x-litellm-api-key", "authorization", "api-key", "x-api-key"]
    for position, name in enumerate(order):
        others = dict.fromkeys(order[position + 1 :], "sk-wrong")
        assert api.client.get("/key/list", headers={name: MASTER, **others}).status_code == 200
        wrong = {name: "sk-wrong", **dict.fromkeys(order[position + 1 :], MASTER)}
        assert api.client.get("/key/list", headers=wrong).status_code == 401
    assert api.client.get("/key/list", headers={"x-litellm-api-key": " ", "authorization": MASTER}).status_code == 200


def test_googles_carrier_is_not_read_here(api: Api):
    assert api.client.get("/key/list", headers={"x-goog-api-key": MASTER}).status_code == 401
    headers = {"x-goog-api-key": "sk-wrong", "x-api-key": MASTER}
    assert api.client.get("/key/list", headers=headers).status_code == 200


def test_every_unusable_key_gets_the_same_answer(api: Api, people: People):
    blocked, deleted, expired, inactive = (api.issue()["key"] for _ in range(4))
    api.post("/key/block", {"key": blocked})
    api.post("/key/delete", {"keys": [deleted]})
    with scopes_disabled():
        update_key(key_row(expired), changes={"expires_at": timezone.now() - timedelta(seconds=1)})
        set_team_blocked(Team.objects.get(id="research"), blocked=True)
        Organization.objects.filter(id="umbrella").update(blocked=True)
        gone = User.objects.create(username="gone", organization=key_row(inactive).organization, is_active=False)
        VirtualKey.objects.filter(pk=key_row(inactive).pk).update(user=gone)
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
        inactive,
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
                "message": UNAUTHORIZED,
                "type": "auth_error",
                "param": None,
                "code": "invalid_api_key",
            }
        }
    ]
    assert UNAUTHORIZED.startswith("Authentication Error")
    assert "Incorrect API key provided" in UNAUTHORIZED


@pytest.mark.parametrize("text", ["sk-hostile'; DROP TABLE tenants_virtualkey; --", "sk-%00%' OR '1'='1"])
def test_a_presented_key_reaches_the_database_as_a_digest_only(api: Api, text: str):
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert api.get("/key/list", by=text).status_code == 401
    assert queries.captured_queries
    assert not [query for query in queries.captured_queries if "hostile" in query["sql"] or "OR '1" in query["sql"]]


def test_without_a_master_key_no_caller_is_the_master(api: Api):
    MasterKey.objects.all().delete()
    for text in (MASTER, "", "None", digest_of("")):
        assert api.get("/key/list", by=text).status_code == 401


def test_a_session_opens_nothing_here(api: Api):
    api.client.force_login(ensure_platform_admin())
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
def test_a_key_without_a_user_manages_nothing_not_even_itself(api: Api, people: People, method: str, path: str):
    with scopes_disabled():
        VirtualKey.objects.update(user=None)
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
    status, code = (405, "method_not_allowed") if path.startswith("/team/") else (404, "not_found")  # PATCH /team/{id}
    refused(api.client.generic(method, f"{path}x", headers=api.headers(MASTER)), status, None, code)
    refused(api.client.generic(method, f"{path}x"), 401)


# Failing


def test_a_failure_of_the_gateway_has_the_same_shape_and_is_logged_without_the_query(
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
