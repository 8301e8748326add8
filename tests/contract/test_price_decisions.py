"""The console's pages of prices with a date, of contracts and of drafts: each to its end, and by the right roles."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.contracts import set_lines
from billing.models import Price, PriceAdjustment
from gateway.deployments import save_deployment, set_price
from gateway.models import Deployment
from gateway.stores.catalog import load_snapshot
from gateway.tasks import continue_repricing
from tenants.models import AuditEntry, Organization, Role, User
from tests.contract.management import People
from tests.contract.test_prices import version
from tests.contract.test_prices_api import call, draft

pytestmark = pytest.mark.django_db

NEW, CONTRACTS, DRAFTS, VERSIONS = (
    "/console/prices/new/",
    "/console/prices/contracts/",
    "/console/prices/drafts/",
    "/console/prices/versions/",
)
OPENAI = {"provider": "openai", "model": "new"}


@pytest.fixture(autouse=True)
def deployment() -> Deployment:
    with scopes_disabled():
        Organization.objects.get_or_create(id="home", defaults={"name": "Home"})
        return save_deployment(Deployment(id="mine", model_group="group", provider="openai", upstream_model="new"))


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


def lines_of(organization: str = "home") -> dict[str, str] | None:
    with scopes_disabled():
        [target] = load_snapshot().catalog.find(organization, "group")
    return dict(Price.objects.get(id=target.price_id).lines) if target.price_id else None


def price_id() -> str:
    with scopes_disabled():
        [target] = load_snapshot().catalog.find("other", "group")
    return target.price_id


def post(client: Client, page: str, **fields: Any) -> Any:
    answer = client.post(page, fields)
    assert answer.status_code == 302, answer.context and answer.context["form"].errors
    return answer


def test_a_price_of_the_past_leads_to_the_calls_that_it_changes(admin: Client) -> None:
    version("0.000001", model="new")
    call(2, price_id=price_id())
    answer = post(admin, NEW, **OPENAI, begin="2026-01-01T00:00", price_input="3", lines="request=0.5")
    assert answer["Location"] == f"{VERSIONS}?provider=openai&model=new&since=2026-01-01T00%3A00"
    assert lines_of() == {"input": "0.000003", "request": "0.5"}
    [(group, link)] = admin.get(answer["Location"]).context["repricing"]
    assert group == "group"
    preview = admin.get(link).context
    assert (preview["count"], preview["changed"], preview["change"]) == ("2", "2", "+$5.00")
    assert not PriceAdjustment.objects.exists()
    admin.post(link.partition("?")[0], {"model": "group", "rows": "since", "since": "2026-01-01T00:00"})
    continue_repricing()
    with scopes_disabled():
        assert set(PriceAdjustment.objects.values_list("delta_pusd", flat=True)) == {2_500_000_000_000}
    assert AuditEntry.objects.filter(actor="root", object_type="price", object_id="openai/new").exists()


def test_a_price_of_the_future_waits_and_the_history_tells_all(admin: Client) -> None:
    version("0.000001", model="new")
    later = timezone.localtime() + timedelta(days=3)
    post(admin, NEW, **OPENAI, price_input="2")
    post(admin, NEW, **OPENAI, price_input="1")
    answer = post(admin, NEW, **OPENAI, begin=later.strftime("%Y-%m-%dT%H:%M"), price_input="9")
    assert "since" not in answer["Location"]
    assert lines_of() == {"input": "0.000001"}
    rows = admin.get(answer["Location"]).context["rows"]
    assert ["later" in row.state for row in rows] == [True, False, False, False]
    assert ["in force" in row.state for row in rows] == [False, True, False, False]
    assert [row.price.lines[0].amount for row in rows] == ["$9.00", "$1.00", "$2.00", "$1.00"]


def test_the_history_of_a_deployments_own_price(admin: Client, people: People) -> None:
    with scopes_disabled():
        for usd in ("0.000001", "0.000002", "0.000001"):
            set_price("mine", {"input": usd})
    rows = admin.get(VERSIONS, {"deployment": "mine"}).context["rows"]
    assert [row.price.lines[0].amount for row in rows] == ["$1.00", "$2.00", "$1.00"]
    assert ["in force" in row.state for row in rows] == [True, False, False]
    assert all("<time" in str(row.begins) for row in rows), "each since it was set"
    assert admin.get(VERSIONS, {"deployment": "absent\0"}).status_code == 404
    with scopes_disabled():
        Deployment.objects.filter(id="mine").update(organization=people.abroad)
    client = Client()
    client.force_login(User.objects.create(username="u", role=Role.ORGANIZATION_ADMIN, organization=people.home))
    assert client.get(VERSIONS, {"deployment": "mine"}).status_code == 404


def test_a_contract_is_made_listed_and_ended(admin: Client) -> None:
    version("0.000002", model="new")
    version("0.000004", model="another")
    post(admin, NEW, organization="home", provider="openai", model="", percent="-50")
    assert lines_of() == {"input": "0.000001", "output": "0.000001"}
    assert lines_of("other") == {"input": "0.000002", "output": "0.000002"}
    later = (timezone.localtime() + timedelta(days=3)).strftime("%Y-%m-%dT%H:%M")
    post(admin, NEW, organization="home", **OPENAI, begin=later, price_input="7")
    rows = admin.get(CONTRACTS).context["rows"]
    assert [(row.model, str(row.terms), "in force" in row.state) for row in rows] == [
        ("", "the catalogue's price − 50 %", True),
        ("new", "the catalogue's price − 50 %", True),
        ("new", "$7.00 input", False),
    ]
    answer = admin.get(f"{CONTRACTS}{rows[0].end}")
    assert answer.context["ending"].model == ""
    text = answer.content.decode()
    assert "End this contract?" in text
    post(admin, CONTRACTS, price=answer.context["ending"].id)
    assert lines_of() == {"input": "0.000002", "output": "0.000002"}
    assert admin.get(CONTRACTS).context["rows"] == []
    post(admin, CONTRACTS, price=answer.context["ending"].id)
    assert AuditEntry.objects.filter(actor="root", object_type="contract", action="end").count() == 1


def test_a_contract_of_the_past_for_all_models_leads_to_the_calls_that_it_changes(admin: Client) -> None:
    version("0.000002", model="new")
    past = {"organization": "home", "provider": "openai", "percent": "-50", "begin": "2026-01-01T00:00"}
    answer = post(admin, NEW, model="", **past)
    [(group, link)] = admin.get(answer["Location"]).context["repricing"]
    assert group == "group"
    assert admin.get(link).status_code == 200
    assert admin.get(CONTRACTS).context["repricing"] == []
    for odd in ({"since": "\0"}, {"since": "soon", "provider": "\0"}):
        assert admin.get(CONTRACTS, odd).context["repricing"] == []


def test_a_contract_with_many_versions_hides_no_other(admin: Client) -> None:
    begin = timezone.now() - timedelta(days=700)
    common = {"origin": "contract", "organization_id": "home", "provider": "openai", "deployment_id": ""}
    Price.objects.create(**common, model="quiet", lines={"input": "0.000001"})
    Price.objects.bulk_create(
        Price(**common, model="busy", lines={"input": "0.000001"}, effective_from=begin + timedelta(days=number))
        for number in range(600)
    )
    assert [row.model for row in admin.get(CONTRACTS).context["rows"]] == ["busy", "quiet"]


def test_drafts_are_shown_beside_the_price_and_decided_on(admin: Client) -> None:
    Price.objects.create(
        origin="book", deployment_id="", provider="openai", model="new", lines={"input": "0.000001", "request": "1"}
    )
    first, second = draft("new", "0.000002"), draft("other", "0.000003")
    draft("third", "0.000004")
    rows = {row.id: row for row in admin.get(DRAFTS).context["rows"]}
    assert [
        (one.key, one.before and one.before.amount, one.after and one.after.amount) for one in rows[first.id].changes
    ] == [
        ("input", "$1.00", "$2.00"),
        ("request", "$1", None),
    ]
    assert (rows[first.id].is_new, rows[second.id].is_new) == (False, True)
    post(admin, DRAFTS, accept=first.id)
    assert lines_of() == {"input": "0.000002"}
    post(admin, DRAFTS, reject="all", q="oth", newest=second.id, count="1")
    assert Price.objects.get(id=second.id).status == "retired"
    assert [row.model for row in admin.get(DRAFTS).context["rows"]] == ["third"]
    post(admin, DRAFTS, accept="all", **seen_by(admin))
    assert Price.objects.filter(status="draft").count() == 0
    post(admin, DRAFTS, accept="absent")
    post(admin, DRAFTS)
    assert admin.get(DRAFTS, {"q": "a\0b", "page": "9" * 30}).status_code == 200


def seen_by(client: Client, **query: str) -> dict[str, str]:
    """The fields by which the form of the page tells the drafts that it shows."""
    page = client.get(DRAFTS, query).content.decode()
    return {name: re.findall(rf'name="{name}" value="([^"]*)"', page)[0] for name in ("newest", "count")}


@pytest.mark.parametrize(("decision", "status"), [("accept", "active"), ("reject", "retired")])
def test_drafts_that_came_after_the_page_was_shown_are_not_decided_on(
    admin: Client, decision: str, status: str
) -> None:
    shown = [draft("one", "0.000001"), draft("two", "0.000002")]
    seen = seen_by(admin)
    late = draft("one", "0.000009")
    answer = admin.post(DRAFTS, {decision: "all", **seen}, follow=True)
    assert {row.id: row.status for row in Price.objects.filter(deployment_id="")} == {
        **{row.id: status for row in shown},
        late.id: "draft",
    }
    assert b"have come since the page was shown" in answer.content
    assert [row.id for row in answer.context["rows"]] == [late.id]


@pytest.mark.parametrize("fields", [{}, {"count": "0"}, {"count": "x"}, {"newest": ""}, {"count": "9" * 30}])
def test_all_drafts_need_the_page_that_showed_them(admin: Client, fields: dict[str, str]) -> None:
    one = draft("one", "0.000001")
    seen = {**seen_by(admin), **fields} if fields else {}
    admin.post(DRAFTS, {"accept": "all", **seen})
    assert Price.objects.get(id=one.id).status == "draft"


def test_a_draft_of_a_clock_that_is_behind_is_not_accepted_unseen(admin: Client) -> None:
    shown = draft("one", "0.000001")
    seen = seen_by(admin)
    Price.objects.create(
        id="0" * 36, origin="book", status="draft", deployment_id="", provider="openai", model="z", lines={"input": "1"}
    )
    answer = admin.post(DRAFTS, {"accept": "all", **seen}, follow=True)
    assert b"Other drafts have come since the page was shown" in answer.content
    assert Price.objects.get(id=shown.id).status == "draft"
    admin.post(DRAFTS, {"accept": "all", **seen_by(admin)})
    assert not Price.objects.filter(status="draft").exists()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, None),
        ({"price_input": "1", "percent": "5", "organization": "home"}, None),
        ({"percent": "5"}, "organization"),
        ({"price_input": "1", "organization": "absent"}, "organization"),
        ({"price_input": "1", "model": ""}, "model"),
        ({"price_input": "-1"}, "price_input"),
        ({"price_input": "1", "provider": "absent"}, "provider"),
        ({"price_input": "1", "begin": "0001-01-01T00:00"}, "begin"),
        ({"price_input": "1", "begin": "soon"}, "begin"),
        ({"percent": "-101", "organization": "home"}, "percent"),
        ({"percent": "5", "organization": "home", "model": "absent"}, "model"),
        ({"lines": "input@=1"}, "lines"),
    ],
)
def test_what_no_dated_price_can_be_is_refused_at_its_field(
    admin: Client, fields: dict[str, str], field: str | None
) -> None:
    answer = admin.post(NEW, {**OPENAI, **fields})
    assert answer.status_code == 200
    errors = answer.context["form"].errors
    assert set(errors) == {field or "__all__"}
    assert not Price.objects.filter(status="active").exclude(model="").exists()


def test_a_viewer_sees_contracts_and_drafts_and_changes_none(people: People) -> None:
    version("0.000002", model="new")
    one = draft("new", "0.000003")
    viewer = Client()
    viewer.force_login(User.objects.create(username="viewer", role=Role.PLATFORM_VIEWER, organization=people.home))
    assert viewer.get(CONTRACTS).status_code == viewer.get(DRAFTS).status_code == 200
    assert b"Accept" not in viewer.get(DRAFTS).content
    assert viewer.get(NEW).status_code == 403
    for page, fields in ((DRAFTS, {"accept": one.id}), (CONTRACTS, {"price": one.id}), (NEW, {"price_input": "1"})):
        assert viewer.post(page, fields).status_code == 403
    assert Price.objects.get(id=one.id).status == "draft"
    for role in (Role.ORGANIZATION_ADMIN, Role.BILLING_VIEWER):
        client = Client()
        client.force_login(User.objects.create(username=role.value, role=role, organization=people.home))
        assert {client.get(page).status_code for page in (NEW, CONTRACTS, DRAFTS)} == {403}
        assert "Drafts" not in client.get("/console/prices/").content.decode()


def test_a_page_makes_as_many_queries_for_many_rows_as_for_one(admin: Client) -> None:
    def count(page: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert admin.get(page).status_code == 200
        return len(queries)

    def fill(first: int, end: int) -> None:
        for number in range(first, end):
            version("0.000002", model=f"m{number}")
            draft(f"m{number}", "0.000003")
            set_lines("home", "openai", f"m{number}", {"input": "0.000001"})

    fill(0, 1)
    few = {page: count(page) for page in (CONTRACTS, DRAFTS, "/console/prices/")}
    fill(1, 20)
    assert {page: count(page) for page in few} == few
