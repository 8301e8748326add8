"""The console's pages of prices: a model without a price, a change of a price and a repricing, each to its end."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from billing.models import Price, PriceAdjustment, RepriceJob, SpendLog
from gateway.deployments import save_deployment
from gateway.models import Deployment
from gateway.tasks import continue_repricing
from tenants.models import AuditEntry, Role, User
from tests.contract.management import People
from tests.contract.test_prices_api import MANY, call

pytestmark = pytest.mark.django_db

SET, UNPRICED, JOBS, NEW = (
    "/console/prices/set/",
    "/console/unpriced/",
    "/console/repricing/",
    "/console/repricing/new/",
)
OWN = {"price_input": "2.50", "price_output": "10"}
SignIn = Callable[[str], Client]


@pytest.fixture(autouse=True)
def deployment() -> Deployment:
    with scopes_disabled():
        return save_deployment(Deployment(id="mine", model_group="group", provider="openai", upstream_model="new"))


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


@pytest.fixture
def viewer(people: People) -> Client:
    client = Client()
    role = Role.PLATFORM_VIEWER
    client.force_login(User.objects.create(username="viewer", role=role, organization=people.home))
    return client


def own_lines() -> dict[str, str] | None:
    """The deployment's own price."""
    with scopes_disabled():
        row = Deployment.objects.get(id="mine")
    price = Price.objects.filter(id=row.price_id).first()
    return dict(price.lines) if price is not None else None


def preview(client: Client, **query: str) -> Any:
    answer = client.get(NEW, {"model": "group", **query})
    assert answer.status_code == 200
    return answer.context


def start(client: Client, **fields: str) -> RepriceJob:
    answer = client.post(NEW, {"model": "group", "rows": "unpriced", **fields})
    assert answer.status_code == 302, answer.context["form"].errors
    [job] = RepriceJob.objects.order_by("-id")[:1]
    assert answer["Location"] == f"{JOBS}{job.id}/"
    return job


def test_a_model_without_a_price_gets_one_and_its_calls_are_priced(admin: Client) -> None:
    call(3)
    [line] = admin.get(UNPRICED).context["lines"]
    assert (line.requests, line.input_tokens, line.model.deployment_id) == ("3", "3,000,000", "mine")
    answer = admin.post(line.set_price, {"model": "mine", **OWN})
    assert answer["Location"] == f"{NEW}?model=mine&rows=unpriced"
    assert own_lines() == {"input": "0.0000025", "output": "0.00001"}
    context = admin.get(answer["Location"]).context
    assert (context["count"], context["changed"], context["change"], context["is_partial"]) == (
        "3",
        "3",
        "+$7.50",
        False,
    )
    with scopes_disabled():
        assert SpendLog.objects.filter(state="unpriced").count() == 3, "a preview changes nothing"
    job = start(admin, model="mine", reason="at last")
    assert (job.actor, job.reason, job.is_unpriced, job.since) == ("root", "at last", True, None)
    page = f"{JOBS}{job.id}/"
    one = admin.get(page).context["one"]
    assert (one.is_running, one.left, one.percent) == (True, "3", 0)
    assert b"hx-trigger" in admin.get(page, {"part": "progress"}).content
    continue_repricing()
    answer = admin.get(page, {"part": "progress"})
    one = answer.context["one"]
    assert (one.is_running, one.rows, one.changed, one.change, one.percent) == (False, "3", "3", "+$7.50", 100)
    assert b"hx-trigger" not in answer.content
    assert admin.get(UNPRICED).context["lines"] == []
    assert [row.job.id for row in admin.get(JOBS).context["jobs"]] == [job.id]
    assert AuditEntry.objects.filter(actor="root", object_type="reprice_job").exists()


def test_a_changed_price_leaves_calls_until_they_are_priced_again(admin: Client) -> None:
    admin.post(SET, {"model": "group", **OWN})
    with scopes_disabled():
        price_id = Deployment.objects.get(id="mine").price_id
    call(2, price_id=price_id)
    admin.post(SET, {"model": "group", "price_input": "3", "lines": "request=0.5"})
    assert own_lines() == {"input": "0.000003", "request": "0.5"}
    with scopes_disabled():
        assert set(SpendLog.objects.values_list("cost_pusd", flat=True)) == {2_500_000_000_000}
    assert preview(admin, rows="unpriced")["count"] == "0"
    told = preview(admin, rows="since", since="2026-01-01T00:00")
    assert (told["count"], told["changed"], told["change"]) == ("2", "2", "+$2.00")
    start(admin, rows="since", since="2026-01-01T00:00")
    continue_repricing()
    with scopes_disabled():
        assert set(PriceAdjustment.objects.values_list("delta_pusd", flat=True)) == {1_000_000_000_000}


def test_a_suggested_model_is_taken_and_the_own_price_removed(admin: Client) -> None:
    Price.objects.create(provider="openai", model="known", deployment_id="", lines={"input": "0.000001"}, origin="book")
    admin.post(SET, {"model": "group", **OWN})
    answer = admin.post(SET, {"model": "group", "base_model": "known", "remove": "on"}, follow=True)
    assert "$1.00 input" in answer.content.decode()
    assert own_lines() is None
    answer = admin.post(SET, {"model": "group", "base_model": "absent"}, follow=True)
    assert "has no price: its calls are unpriced" in answer.content.decode()


def test_a_job_is_cancelled(admin: Client) -> None:
    call(1)
    admin.post(SET, {"model": "group", **OWN})
    job = start(admin)
    assert admin.post(f"{JOBS}{job.id}/").status_code == 302
    continue_repricing()
    assert admin.get(f"{JOBS}{job.id}/").context["one"].changed == "0"
    admin.post(f"{JOBS}{job.id}/")
    job.refresh_from_db()
    assert job.state == "cancelled"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "__all__"),
        ({"model": ""}, "model"),
        ({"model": "absent", **OWN}, "model"),
        ({**OWN, "base_model": "x"}, "__all__"),
        ({**OWN, "remove": "on"}, "__all__"),
        ({"price_input": "-1"}, "price_input"),
        ({"price_input": "cheap"}, "price_input"),
        ({"price_input": "1e-999999"}, "price_input"),
        ({"price_input": "NaN"}, "price_input"),
        ({"price_input": "1000001"}, "price_input"),
        ({"lines": "input"}, "lines"),
        ({"lines": "inputs=1"}, "lines"),
        ({"lines": "input@batch=-1"}, "lines"),
        ({"lines": "input@batch=Infinity"}, "lines"),
        ({"lines": "input@batch=1e-999999"}, "lines"),
        ({"lines": "input@batch=1e999999"}, "lines"),
        ({"lines": "input@batch=0.1\ninput@batch=0.2"}, "lines"),
        ({"price_input": "1", "lines": "input=0.1"}, "lines"),
        ({"lines": "\n".join(f"{key}={usd}" for key, usd in MANY.items())}, "__all__"),
        ({"lines": "\n".join(f"input@t{number}=0" for number in range(300))}, "lines"),
    ],
)
def test_what_no_price_can_be_is_refused_at_its_field(admin: Client, fields: dict[str, str], field: str) -> None:
    answer = admin.post(SET, {"model": "group", **fields})
    assert answer.status_code == 200
    assert list(answer.context["form"].errors) == [field]
    assert own_lines() is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": "absent"}, "model"),
        ({"rows": "x"}, "rows"),
        ({"rows": "since"}, "since"),
        ({"rows": "since", "since": "yesterday"}, "since"),
        ({"reason": "x" * 256}, "reason"),
    ],
)
def test_what_no_job_can_be_is_refused_at_its_field(admin: Client, fields: dict[str, str], field: str) -> None:
    for send in (admin.get, admin.post):
        answer = send(NEW, {"model": "group", "rows": "unpriced", **fields})
        assert (answer.status_code, list(answer.context["form"].errors)) == (200, [field])
    assert not RepriceJob.objects.exists()


def test_names_with_a_nul_are_no_error_of_the_server(admin: Client) -> None:
    for page in (f"{SET}?model=%00", f"{JOBS}?before=%00", f"{NEW}?model=a%00", f"{JOBS}%00/"):
        assert admin.get(page).status_code in {200, 404}, page
    assert admin.post(SET, {"model": "a\0", **OWN}).status_code == 200


def test_a_price_of_the_file_is_changed_there(admin: Client) -> None:
    with scopes_disabled():
        row = Deployment(id="file", model_group="filed", provider="openai", upstream_model="new", source="config")
        save_deployment(row, price_lines={"input": "0.000001"})
    answer = admin.post(SET, {"model": "filed", **OWN})
    assert "stands in config.yaml" in str(answer.context["form"].errors["model"])


def test_a_viewer_sees_all_and_changes_nothing(admin: Client, viewer: Client) -> None:
    call(1)
    admin.post(SET, {"model": "group", **OWN})
    job = start(admin)
    for page in (UNPRICED, JOBS, f"{JOBS}{job.id}/"):
        answer = viewer.get(page)
        assert answer.status_code == 200
        assert not answer.context["may_set"]
    assert viewer.get(f"{JOBS}absent/").status_code == 404
    for page in (SET, NEW, f"{JOBS}{job.id}/"):
        assert viewer.post(page, {"model": "group", "rows": "unpriced", **OWN}).status_code == 403
    job.refresh_from_db()
    assert (job.state, RepriceJob.objects.count()) == ("running", 1)


@pytest.mark.parametrize("role", [Role.ORGANIZATION_ADMIN, Role.BILLING_VIEWER, Role.MEMBER])
def test_tenants_do_not_open_the_platforms_pages(client: Client, people: People, role: Role) -> None:
    client.force_login(User.objects.create(username="tenant", role=role, organization=people.home))
    for page in (SET, UNPRICED, JOBS, NEW, f"{JOBS}any/"):
        assert client.get(page).status_code == (302 if role == Role.MEMBER else 403), page
        assert client.post(page, {"model": "group", **OWN}).status_code in {302, 403}, page
    assert own_lines() is None
