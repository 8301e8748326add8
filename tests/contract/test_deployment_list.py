"""The console's list of deployments: the price of each, its own or the catalogue's, read for the whole page at once."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from billing.models import Price
from gateway.deployments import save_deployment
from gateway.models import Deployment
from tenants.models import User

pytestmark = pytest.mark.django_db

PAGE = "/console/gateway/deployment/"


def deploy(upstream_model: str, price_lines: dict[str, object] | None = None) -> None:
    row = Deployment(model_group="m", provider="openai", upstream_model=upstream_model)
    with scopes_disabled():
        save_deployment(row, credential={"api_key": "sk-upstream-secret"}, price_lines=price_lines)


def read(client: Client) -> tuple[dict[str, dict[str, str] | None], int]:
    """{upstream model: the lines of its price}, and the number of queries."""
    with CaptureQueriesContext(connection) as captured:
        response = client.get(PAGE)
    assert response.status_code == 200
    return {row.upstream_model: row.price_lines for row in response.context["cl"].result_list}, len(captured)


def test_the_prices_of_a_page_are_read_at_once(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    lines = {"input": "0.000001", "output": "0.000002"}
    Price.objects.create(origin="book", provider="openai", model="gpt-new", deployment_id="", lines=lines)
    deploy("gpt-new")
    deploy("unheard-of")
    deploy("own", {"input": "0.5"})
    read(client)
    prices, few = read(client)
    assert prices == {"gpt-new": lines, "unheard-of": {}, "own": {"input": "0.5"}}
    for _ in range(20):
        deploy("gpt-new")
    assert read(client)[1] == few
