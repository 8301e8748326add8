"""The console's pages of the catalogue: what is in force, every version, and no other organization's contract."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing.models import Price, PriceBook
from tenants.models import Role, User
from tests.contract.management import People

pytestmark = pytest.mark.django_db

LIST, VERSIONS = "/console/prices/", "/console/prices/versions/"
NAMES = {"provider": "openai", "model": "gpt-a", "region": ""}


def add(usd: str, **fields: Any) -> Price:
    return Price.objects.create(**{**NAMES, "deployment_id": "", "lines": {"input": usd}, **fields})


def enter(client: Client, role: Role | None, people: People) -> Client:
    user = (
        User.objects.create_superuser("root", password="correct horse battery")
        if role is None
        else User.objects.create(username=role.value, role=role, organization=people.home)
    )
    client.force_login(user)
    return client


def shown(client: Client, path: str = LIST, **query: str) -> list[tuple[str, str]]:
    """(model, price) of each row."""
    answer = client.get(path, query)
    assert answer.status_code == 200
    return [(row.model, row.price.summary) for row in answer.context["rows"]]


def test_prices_in_force_are_searched_and_paged(client: Client, people: People) -> None:
    for number in range(60):
        add("0.000001", model=f"gpt-{number:02}")
    add("0.000003", model="claude-x", provider="anthropic")
    enter(client, None, people)
    first = client.get(LIST)
    assert (len(first.context["rows"]), first.context["previous_page"]) == (50, "")
    assert len(first.content) < 150_000
    second = client.get(f"{LIST}{first.context['next_page']}").context
    assert (len(second["rows"]), second["next_page"]) == (11, "")
    assert shown(client, q="CLAUDE") == [("claude-x", "$3.00 input")]
    assert shown(client, provider="anthropic") == [("claude-x", "$3.00 input")]
    assert shown(client, q="claude", provider="openai") == []
    for odd in ({"page": "-1"}, {"page": "²"}, {"page": "9" * 400}, {"q": "\0"}, {"q": "%"}, {"provider": "'"}):
        assert client.get(LIST, odd).status_code == 200, odd


def test_versions_tell_their_state_and_source(client: Client, people: People) -> None:
    now = timezone.now()
    book = PriceBook.objects.create(source="seed", title="the book", licence="MIT", sha256="1")
    add("0.000001", origin="book", book=book)
    add("0.000002", origin="book", book=book, effective_from=now - timedelta(days=1))
    add("0.000003", origin="book", book=book, effective_from=now + timedelta(days=1))
    add("0.000009", status="draft")
    add("0.000008", region="eu")
    rows = enter(client, None, people).get(VERSIONS, NAMES).context["rows"]
    states = ["draft", "later", "in force", "former"]
    assert [row.price.summary for row in rows] == ["$9.00 input", "$3.00 input", "$2.00 input", "$1.00 input"]
    assert all(f">{state}</span>" in row.state for row, state in zip(rows, states, strict=True))
    assert rows[2].source == "the book"
    assert client.get(VERSIONS, {**NAMES, "model": "absent"}).status_code == 404
    assert client.get(VERSIONS, {**NAMES, "model": "\0"}).status_code == 404
    assert client.get(VERSIONS).status_code == 404


@pytest.mark.parametrize("role", [Role.ORGANIZATION_ADMIN, Role.BILLING_VIEWER])
def test_a_tenant_sees_the_catalogue_and_its_own_contracts(client: Client, people: People, role: Role) -> None:
    add("0.000009")
    add("0.000005", organization_id=people.home.pk, origin="contract")
    add("0.000004", organization_id=people.abroad.pk, origin="contract", model="theirs-alone")
    add("0.000003", organization_id=people.abroad.pk, origin="contract")
    add("0.000002", status="draft")
    enter(client, role, people)
    assert shown(client) == [("gpt-a", "$5.00 input"), ("gpt-a", "$9.00 input")]
    assert sorted(text for _model, text in shown(client, VERSIONS, **NAMES)) == ["$5.00 input", "$9.00 input"]
    assert client.get(VERSIONS, {**NAMES, "model": "theirs-alone"}).status_code == 404
    assert "Set a price" not in client.get(LIST).content.decode()


def test_a_platform_viewer_sees_all_contracts(client: Client, people: People) -> None:
    add("0.000009")
    add("0.000003", organization_id=people.abroad.pk, origin="contract")
    enter(client, Role.PLATFORM_VIEWER, people)
    assert sorted(text for _model, text in shown(client)) == ["$3.00 input", "$9.00 input"]
    assert not client.get(LIST).context["may_set"]
