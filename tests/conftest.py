"""The ground of every test: a home of its own, a database file of its own, three people, and a real PostgreSQL."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.models.signals import post_migrate
from django_scopes import scopes_disabled

from tenants.ids import new_id
from tenants.keys import issue_key
from tenants.models import DEFAULT_ORGANIZATION, Organization, Revision, Team, User, VirtualKey
from tenants.teams import create_team
from tests.environment import HOME
from tests.fakes.services import Postgres, running_postgres

# No example is timed, and each run tries the same ones, so that a failure is the change's; `HYPOTHESIS_PROFILE=explore`
# looks for new ones.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure() -> None:
    # pytest-django reads the settings before it reads this file: without `-p tests.environment` they name ./var
    settings.TOLLGATE_HOME = Path(HOME).resolve()


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    """A file rather than shared memory: group commit and the threads of a test open connections of their own."""
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = str(settings.TOLLGATE_HOME / f"test-{os.getpid()}.sqlite3")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> None:
    """A transactional test ends with empty tables; this puts back the rows that the migrations had put into them.

    With `available_apps` Django empties the tables of those alone, and sends no signal: "tenants" is never among them.
    """

    def restore(**_: Any) -> None:
        with scopes_disabled():
            Organization.objects.get_or_create(id=DEFAULT_ORGANIZATION, defaults={"name": "Default"})
            Revision.objects.get_or_create(id=1)

    post_migrate.connect(restore, sender=apps.get_app_config("tenants"), weak=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@dataclass(frozen=True, slots=True)
class Person:
    """A user with a virtual key; `text` is the key that a client presents."""

    user: User
    organization: Organization
    team: Team | None
    key: VirtualKey
    text: str


def _person(name: str, organization: Organization, team: Team | None) -> Person:
    user = User.objects.create(username=f"{name}-{new_id()}", organization=organization)
    issued = issue_key(organization=organization, team=team, user=user, alias=f"{name}-{new_id()}")
    return Person(user, organization, team, issued.key, issued.text)


@pytest.fixture
def home_team(db: None) -> Team:
    """The team of the owner and the team-mate, in the default organization."""
    return create_team(organization=Organization.objects.get(id=DEFAULT_ORGANIZATION), alias="home")


@pytest.fixture
def owner(home_team: Team) -> Person:
    with scopes_disabled():
        return _person("owner", home_team.organization, home_team)


@pytest.fixture
def team_mate(home_team: Team) -> Person:
    with scopes_disabled():
        return _person("mate", home_team.organization, home_team)


@pytest.fixture
def stranger(db: None) -> Person:
    with scopes_disabled():
        abroad = Organization.objects.create(name=f"Abroad {new_id()}")
        return _person("stranger", abroad, None)
