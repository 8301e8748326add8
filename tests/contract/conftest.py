"""The management API and the people who call it."""

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from tenants.access import ensure_master_key
from tenants.keys import issue_key
from tenants.models import Organization, User
from tenants.teams import create_team
from tests.contract.management import MASTER, Api, People


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
