"""A gateway on PostgreSQL with row-level security, whose role the policies bind."""

import re
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT
from tests.e2e.gateway import Gateway, eventually
from tests.fakes.services import Postgres
from tests.fakes.upstream import FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    return postgres.fresh_walled_database()


@pytest.fixture(scope="module")
def walled(
    database: str, config: JsonObject, upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    env = {**ENVIRONMENT, "DATABASE_URL": database, "TOLLGATE_ROW_SECURITY": "1"}
    gateway = Gateway(tmp_path_factory.mktemp("walled"), config=config, env=env)
    try:
        yield gateway.start()
        gateway.stop()
    finally:
        gateway.close()


def test_calls_are_answered_stored_and_priced(walled: Gateway) -> None:
    key = walled.issue_key()
    client = walled.openai(key)
    answer = client.chat.completions.create(model="priced", messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content
    first = client.responses.create(model="priced", input="Remember this")
    second = client.responses.create(model="priced", input="Go on", previous_response_id=first.id)
    assert client.responses.retrieve(second.id).output_text == second.output_text
    stored = client.responses.input_items.list(second.id).data
    assert stored
    background = client.responses.create(model="priced", input="Later", background=True)
    eventually(
        lambda: client.responses.retrieve(background.id).status == "completed", within_s=20, what="the worker answers"
    )
    rows = walled.wait_priced(4, api_key=key)
    assert {row["cost_status"] for row in rows} == {"priced"}
    assert walled.http.get("/v1/key", headers={"authorization": f"Bearer {key}"}).json()["spend"] > 0


def test_an_organization_sees_its_own_rows_only(walled: Gateway) -> None:
    keys = {}
    for name in ("north", "south"):
        walled.admin.post("/organization/new", json={"organization_id": name, "organization_alias": name})
        user = {"user_id": f"{name}-admin", "user_role": "org_admin", "organization_id": name, "auto_create_key": False}
        created = walled.admin.post("/user/new", json=user)
        assert created.status_code == 200, created.text
        keys[name] = walled.issue_key(user_id=f"{name}-admin", organization_id=name, key_type="management")
    for name, other in (("north", "south"), ("south", "north")):
        headers = {"authorization": f"Bearer {keys[name]}"}
        listed = walled.http.get("/key/list", params={"return_full_object": "true"}, headers=headers)
        assert listed.status_code == 200, listed.text
        assert f"{name}-admin" in listed.text
        assert f"{other}-admin" not in listed.text
        refused = walled.http.post(
            "/key/generate", json={"user_id": f"{other}-admin", "organization_id": other}, headers=headers
        )
        assert refused.status_code in {400, 403, 404}, refused.text


def test_the_console_lists_the_keys(walled: Gateway) -> None:
    [link] = re.findall(r"/console/login/link/\S+/", walled.manage("login_link").stdout)
    walled.issue_key(key_alias="seen-in-the-console")
    with httpx.Client(base_url=walled.url, timeout=30, follow_redirects=True) as browser:
        page = browser.get(link)
        [token] = set(re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text))
        page = browser.post(link, data={"csrfmiddlewaretoken": token}, headers={"origin": walled.url})
        assert page.status_code == 200
        listed = browser.get("/console/tenants/virtualkey/")
        assert "seen-in-the-console" in listed.text
        for path in (
            "/console/",
            "/console/tenants/team/",
            "/console/billing/spendlog/",
            "/console/tenants/auditentry/",
        ):
            assert browser.get(path).status_code == 200, path


def test_commands_reach_all_organizations(walled: Gateway) -> None:
    assert re.match(r"[1-9]\d* entries, none changed", walled.manage("verify_audit").stdout)
    status = re.match(r"on (\d+) of (\d+) tables", walled.manage("row_security", "status").stdout)
    assert status is not None
    assert status[1] == status[2]
    checked = walled.manage("check", "--deploy")
    assert "tollgate.W001" not in checked.stdout + checked.stderr


def test_a_connection_without_a_scope_sees_nothing(walled: Gateway, database: str) -> None:
    walled.issue_key()
    with psycopg.connect(database) as connection:
        for table in ("tenants_virtualkey", "billing_spendlog", "gateway_deployment"):
            assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)


def test_a_role_that_passes_the_policies_is_named(walled: Gateway, postgres: Postgres) -> None:
    checked = walled.manage("check", "--deploy", DATABASE_URL=postgres.fresh_database())
    assert "superuser" in checked.stdout + checked.stderr
