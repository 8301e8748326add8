"""The schema of /api/ is whole, and no request that it describes makes the gateway fail."""

import json
import re
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from django.db import transaction
from django.test import Client
from django_scopes import scopes_disabled
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.validation import validate_schema
from hypothesis import HealthCheck, Phase, given, settings

from gateway.rest.api_docs import describe_api
from tenants.access import ensure_master_key
from tenants.models import User
from tests.contract.isolation_world import build_world
from tests.contract.management import MASTER, Api
from tests.contract.own_api import PROBLEM, ask, problem, send

pytestmark = [pytest.mark.django_db, pytest.mark.only_on("sqlite", "postgres")]
METHODS = ("get", "post", "put", "patch", "delete")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "management-api.md"


def describe() -> dict[str, Any]:
    """The schema as a client reads it."""
    described: dict[str, Any] = json.loads(json.dumps(describe_api(), default=str))
    return described


SCHEMA = describe()
OPERATIONS = [
    f"{method.upper()} {path}" for path, item in SCHEMA["paths"].items() for method in METHODS if method in item
]
#: Parameter of a path → the kind of objects of the isolation matrix.
KINDS = {
    "alert_channel_id": "alert_channel",
    "alert_delivery_id": "alert_delivery",
    "alert_id": "alert",
    "audit_entry_id": "audit",
    "budget_template_id": "budget",
    "deployment_id": "model",
    "end_user_id": "end_user",
    "key_id": "key_id",
    "organization_id": "organization",
    "report_schedule_id": "report_schedule",
    "spend_log_id": "spend_log",
    "team_id": "team",
    "user_id": "user",
}


def test_the_schema_is_valid_without_warnings_and_every_operation_says_what_it_does() -> None:
    GENERATOR_STATS.reset()
    describe_api.cache_clear()
    with GENERATOR_STATS.silence():
        validate_schema(describe_api())
    assert not GENERATOR_STATS
    operations = [item[method] for item in SCHEMA["paths"].values() for method in METHODS if method in item]
    assert len(operations) == len(OPERATIONS) > 40
    assert all(operation["summary"] for operation in operations)
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_that_the_schema_describes_makes_the_gateway_fail(client: Client, name: str) -> None:
    method, path = name.split(" ")
    ensure_master_key(MASTER, "environment")
    with scopes_disabled():
        world = build_world()
    real_path = re.sub(
        r"\{(\w+)\}", lambda match: world.objects[KINDS[match[1]]]["own"] if match[1] in KINDS else "absent", path
    )
    paths = cycle([real_path, None])  # every other request names what exists
    operation = schemathesis.openapi.from_dict(SCHEMA)[path][method]

    @given(case=operation.as_strategy())
    @settings(
        max_examples=8,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send_cases(case: Any) -> None:
        with transaction.atomic():
            response = send_case(client, case, next(paths))
            transaction.set_rollback(True)
        assert response.status_code < 500, (case.path_parameters, case.query, case.body, response.content)
        if response.status_code >= 400:
            assert set(response.json()) == PROBLEM

    send_cases()


def send_case(client: Client, case: Any, path: str | None) -> Any:
    headers = {name: value for name, value in (case.headers or {}).items() if value.isascii()}
    headers["authorization"] = f"Bearer {MASTER}"
    body = b""
    if isinstance(case.body, dict | list | str | int | float | bool | None):
        body = json.dumps(case.body).encode()
    query = {name: value for name, value in (case.query or {}).items() if value is not None}
    path = path or case.formatted_path
    return client.generic(case.method, path, body, content_type="application/json", headers=headers, query_params=query)


def test_the_examples_of_the_docs_work(api: Api) -> None:
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    calls = re.findall(r'^curl -s (-X \w+ )?"\$TOLLGATE/api/(\S+?)"(.*?)$', text, re.MULTILINE)
    assert len(calls) == 5
    for option, path, rest in calls:
        body = re.search(r"-d '(.*?)'", rest)
        method = option.removeprefix("-X ").strip() or ("POST" if body else "GET")
        answer = ask(api, method, path, json.loads(body[1]) if body else None, status=201 if method == "POST" else 200)
        if path == "routing-settings":
            assert answer["routing_strategy"] == "least-busy"
        else:
            assert answer["data"][0]["alias"] == "search-prod" if method == "GET" else answer["alias"]


def test_the_page_is_for_users_of_the_console_and_loads_nothing_from_elsewhere(api: Api) -> None:
    entered = api.client.get("/api/docs")
    assert (entered.status_code, entered["Location"]) == (302, "/console/login/?next=/api/docs")
    problem_body = send(api, "GET", "schema", by=None)
    assert problem_body.status_code == 401
    api.client.force_login(User.objects.create(username="root", is_superuser=True, is_staff=True))
    page = api.client.get("/api/docs")
    text = page.content.decode()
    sources = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(sources) == 4
    for source in sources:
        assert source.startswith("/static/")
        assert api.client.get(source).status_code == 200, source
    assert "<script>" not in text
    assert "'unsafe-inline'" not in page["Content-Security-Policy"].partition("script-src")[2].partition(";")[0]
    assert send(api, "GET", "schema", by=None).json()["openapi"].startswith("3.")


def test_an_unknown_path_is_a_problem(api: Api) -> None:
    problem(send(api, "GET", "nothing"), 404, code="not_found")
