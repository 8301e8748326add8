"""The database of a contract case, the client of the management API, and the three people who call it.

Every contract test runs as a case `[sqlite]` and a case `[postgres]`; `@pytest.mark.only_on("postgres")` names the one
database of a test that makes sense on that one alone.

The code under test knows the database as Django's `default`, so two aliases would not do. A worker of the run makes
both databases once, each when its first case needs it, and `engine` points `default` to one of them: the settings, from
which threads open their connections, and the connection of the thread that runs the tests. The fixture has the scope
of a module: the worker switches at most a few times a file, whichever worker has got the file, and what runs after the
contract tests finds the database that pytest-django has made.
"""

import os
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import dj_database_url
import pytest
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connections, transaction
from django.test import Client, override_settings
from django.test.client import ClientHandler
from django_scopes import scopes_disabled
from django_scopes.state import state
from pytest_django import DjangoDbBlocker

from billing.models import Price
from billing.verification import verify_ledger
from tenants.access import ensure_master_key
from tenants.keys import issue_key
from tenants.models import Organization, SpendTotal, User
from tenants.teams import create_team
from tests.contract.bookkeeping import LINES
from tests.contract.isolation_world import World, build_world
from tests.contract.management import MASTER, Api, People
from tests.fakes.services import Postgres

ENGINES = ("sqlite", "postgres")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    database = metafunc.definition.get_closest_marker("django_db")
    if database and "tenants" in (database.kwargs.get("available_apps") or ()):
        pytest.fail("available_apps with tenants leaves the tests after it without the default organization")
    marker = metafunc.definition.get_closest_marker("only_on")
    engines = marker.args if marker else ENGINES
    if os.environ.get("TOLLGATE_TESTS_ROW_SECURITY") == "1":  # whatever runs on PostgreSQL runs with the wall
        engines = ("walled",) if {"postgres", "walled"} & set(engines) else ()
    metafunc.parametrize("engine", engines, indirect=True, scope="module")


def point_default_to(database: dict[str, Any]) -> None:
    """Make `default` the database of these settings. It closes the connection of this thread to the one before."""
    connections.close_all()
    connections.settings["default"] = database
    connections["default"] = connections.create_connection("default")
    ContentType.objects.clear_cache()  # the ids differ


@pytest.fixture(scope="session")
def postgres_settings(postgres: Postgres) -> dict[str, Any]:
    """Django's settings of a new PostgreSQL database with all migrations."""
    return _configure(dj_database_url.parse(postgres.migrated_database()))


@pytest.fixture(scope="session")
def walled_settings(postgres: Postgres, django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> dict[str, Any]:
    """The same with row-level security, and a role that it binds."""
    database = dj_database_url.parse(postgres.fresh_walled_database()) | {"ENGINE": "tenants.row_security"}
    configured = _configure(database)
    before = connections.settings["default"]
    with override_settings(TOLLGATE_ROW_SECURITY=True), django_db_blocker.unblock():
        point_default_to(configured)
        try:
            call_command("migrate", verbosity=0)
        finally:
            point_default_to(before)
    return configured


def _configure(database: dict[str, Any]) -> dict[str, Any]:
    database["OPTIONS"] = settings.POSTGRESQL | database.get("OPTIONS", {})
    configured: dict[str, Any] = connections.configure_settings({"default": database})["default"]
    return configured


@pytest.fixture(scope="module", autouse=True)
def engine(request: pytest.FixtureRequest, django_db_setup: None) -> Iterator[str]:
    """The kind of database that `default` is: sqlite, postgres, or walled (postgres with row-level security)."""
    if request.param == "sqlite":
        yield request.param
        return
    is_walled = request.param == "walled"
    before = connections.settings["default"]
    point_default_to(request.getfixturevalue("walled_settings" if is_walled else "postgres_settings"))
    with override_settings(TOLLGATE_ROW_SECURITY=is_walled):
        yield request.param
    point_default_to(before)


@pytest.fixture(autouse=True)
def test_scope(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With row-level security a test itself looks at all rows, and each request begins without a scope, as a server's
    does."""
    if engine != "walled":
        yield
        return
    send = Client.request

    def send_without_scope(client: Client, **request: Any) -> Any:
        def begin() -> Any:
            state.set({})
            return send(client, **request)

        return copy_context().run(begin)

    monkeypatch.setattr(Client, "request", send_without_scope)
    with scopes_disabled():
        yield


@pytest.fixture(scope="session")
def handler() -> ClientHandler:
    """Django and its middleware, which looks for all static files when it is loaded: once for all tests."""
    handler = ClientHandler(enforce_csrf_checks=False)
    handler.load_middleware()
    return handler


@pytest.fixture
def client(handler: ClientHandler) -> Client:
    client = Client()
    client.handler = handler
    return client


@pytest.fixture(scope="module")
def world(engine: str, django_db_blocker: DjangoDbBlocker) -> Iterator[World]:
    """The world of the isolation matrix, once for all tests of a file on one database. It stands in a transaction in
    which each test has its own; what that writes is taken back at its end."""
    with django_db_blocker.unblock(), transaction.atomic():
        ensure_master_key(MASTER, "environment")
        with scopes_disabled():
            world = build_world()
        yield world
        transaction.set_rollback(True)


@pytest.fixture
def above_organizations() -> Iterator[None]:
    """Stands above the organizations, as Celery's worker does."""
    with scopes_disabled():
        yield
        SpendTotal.objects.all().delete()  # not among the ledger's tables


@pytest.fixture
def sound_ledger(request: pytest.FixtureRequest) -> Iterator[None]:
    """Verifies the ledger after the test, as `manage.py verify_ledger` does."""
    yield
    if request.node.get_closest_marker("rows_by_hand") is None:
        assert [str(disagreement) for disagreement in verify_ledger()] == []


@pytest.fixture
def price() -> str:
    return Price.objects.create(deployment_id="first", lines=LINES).id


@pytest.fixture
def api(client: Client) -> Api:
    ensure_master_key(MASTER, "environment")
    return Api(client)


@pytest.fixture
def people(api: Api) -> People:
    with scopes_disabled():
        home = Organization.objects.create(id="acme", name="Acme")
        abroad = Organization.objects.create(id="umbrella", name="Umbrella")
        team = create_team(organization=home, team_id="research", alias="Research")
        elsewhere = create_team(organization=abroad, team_id="raccoon", alias="Raccoon")
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
