"""/team/* as its callers see it."""

from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.contract.management import Api, People, refused

pytestmark = pytest.mark.django_db

# Teams


def test_teams_are_created_read_and_listed(api: Api, people: People):
    fields = {
        "team_id": "litellm-team",
        "team_alias": "数据组",
        "models": ["gpt"],
        "metadata": {"cost_center": "7"},
        "organization_id": "umbrella",
    }
    response = api.post("/team/new", fields)
    assert response.status_code == 200
    assert {name: response.json()[name] for name in fields} == fields
    refused(api.post("/team/new", fields), 400, "team_id")
    key = api.issue(team_id="litellm-team")
    assert key["organization_id"] == "umbrella"
    team = api.get("/team/info", {"team_id": "litellm-team"}).json()
    assert set(team) == {"team_id", "team_info", "keys", "team_memberships"}
    assert team["team_info"]["team_alias"] == "数据组"
    assert [row["token"] for row in team["keys"]] == [key["token"]]
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
