"""The console's pages without a browser: who enters, what a page costs, and what the forms store."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from django_scopes import get_scope, scopes_disabled
from hypothesis import given
from hypothesis import strategies as st

from billing.amounts import per_million, per_token, price_label
from billing.models import Price, SpendLog
from gateway.deployments import set_price
from gateway.models import Deployment
from gateway.models.encryption import unseal
from gateway.protocol.amounts import usd_exact, usd_short, usd_text
from gateway.stores.deployment_prices import prices_in_force
from tenants.models import DEFAULT_ORGANIZATION, Revision, Team, User, VirtualKey
from tests.browser.seed import ATTEMPTS, STATES, seed
from tests.browser.test_console import SCREENS

SCREEN_QUERIES = 12
MORE_QUERIES = {
    SCREENS["spend report"]: 18,  # its reports and charts each ask which sums are kept
    SCREENS["spend report, by two"]: 18,
    "/console/tenants/budgettemplate/": 15,  # it counts seven kinds of scopes that use a template
    "/console/reconciliation/": 26,  # it reads the names and the invoices of each provider, and ours in parts
}
PASSWORD = "correct horse battery"
DEPLOYMENT = {
    "model_group": "gpt-4o",
    "provider": "openai",
    "upstream_model": "gpt-4o-2024",
    "weight": "1",
    "order": "0",
    "parameters": "{}",
    "enabled": "on",
}

Queries = Callable[[int], AbstractContextManager[Any]]


@pytest.fixture(autouse=True)
def _outside_of_scopes(db: None) -> Iterator[None]:
    """The console leaves no scope behind, open or disabled."""
    before = get_scope()
    yield
    assert get_scope() == before


@pytest.fixture
def admin(db: None) -> User:
    user: User = User.objects.create_superuser("root", password=PASSWORD)
    return user


@pytest.fixture
def console(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


def stored_deployment() -> Deployment:
    with scopes_disabled():
        deployment: Deployment = Deployment.objects.get(model_group="gpt-4o")
    return deployment


def post_deployment(console: Client, deployment: Deployment | None = None, **fields: str) -> Any:
    place = "add" if deployment is None else f"{deployment.pk}/change"
    return console.post(f"/console/gateway/deployment/{place}/", {**DEPLOYMENT, **fields})


# Who enters


@pytest.mark.parametrize(
    "fields",
    [
        {"is_superuser": False, "is_staff": True, "organization_id": DEFAULT_ORGANIZATION},
        {"is_superuser": False, "organization_id": DEFAULT_ORGANIZATION},
        {"is_superuser": True, "is_staff": True, "is_active": False},
    ],
    ids=["staff", "member", "inactive admin"],
)
def test_only_platform_admins_enter(client: Client, fields: dict[str, Any]) -> None:
    user = User.objects.create(username="reader", **fields)
    client.force_login(user)
    for path in SCREENS.values():
        answer = client.get(path)
        assert answer.status_code == 302, path
        assert answer["Location"].startswith("/console/login/"), path


def test_strangers_see_only_the_login_page(client: Client) -> None:
    for path in SCREENS.values():
        assert client.get(path)["Location"].startswith("/console/login/"), path
    assert client.get("/console/model-groups/").status_code == 302


def test_pages_with_a_form_keep_the_origin_of_their_posts(client: Client, admin: User) -> None:
    """Under `no-referrer` browsers send `Origin: null`, which the check against forged requests refuses."""
    assert client.get("/console/login/")["Referrer-Policy"] == "same-origin"
    client.force_login(admin)
    for path in SCREENS.values():
        answer = client.get(path)
        assert answer["Referrer-Policy"] == "same-origin", path
        assert "no-store" in answer["Cache-Control"], path


# What a page costs


def test_screens_need_few_queries_whatever_they_list(console: Client, django_assert_max_num_queries: Queries) -> None:
    seed()
    for name, path in SCREENS.items():
        with django_assert_max_num_queries(MORE_QUERIES.get(path, SCREEN_QUERIES)):
            assert console.get(path).status_code == 200, name
    with scopes_disabled():
        log = SpendLog.objects.get(upstream_id="chatcmpl-priced")
    with django_assert_max_num_queries(SCREEN_QUERIES):
        assert console.get(f"/console/billing/spendlog/{log.pk}/change/").status_code == 200


def test_spend_logs_are_never_counted(console: Client, django_assert_max_num_queries: Queries) -> None:
    seed()
    with django_assert_max_num_queries(SCREEN_QUERIES) as captured:
        console.get("/console/billing/spendlog/?state__exact=priced&when=24h")
    queries = [query["sql"] for query in captured.captured_queries]
    assert not [sql for sql in queries if "COUNT(" in sql and "billing_spendlog" in sql], queries


def test_spend_logs_cannot_be_written(console: Client) -> None:
    seed()
    with scopes_disabled():
        log = SpendLog.objects.get(upstream_id="chatcmpl-priced")
    for place in (f"{log.pk}/change", f"{log.pk}/delete", "add"):
        assert console.post(f"/console/billing/spendlog/{place}/", {"post": "yes"}).status_code in {200, 403}
    with scopes_disabled():
        assert SpendLog.objects.count() == len(STATES) + len(ATTEMPTS)


# Keys


def new_form(console: Client) -> dict[str, str]:
    nonce = console.get("/console/tenants/virtualkey/add/").context["issue_nonce"]
    return {"issue_nonce": nonce, "alias": "", "organization": DEFAULT_ORGANIZATION, "expiry": "never"}


def test_a_form_issues_one_key_however_often_it_is_sent(console: Client) -> None:
    form = new_form(console)
    assert b"issued-key" in console.post("/console/tenants/virtualkey/add/", form).content
    again = console.post("/console/tenants/virtualkey/add/", form)
    assert again.status_code == 302
    with scopes_disabled():
        assert VirtualKey.objects.count() == 1


def test_editing_a_key_changes_only_edited_fields(console: Client) -> None:
    seed()
    with scopes_disabled():
        key = VirtualKey.objects.exclude(metadata={}).get()
        before = Revision.objects.get().value
    page = f"/console/tenants/virtualkey/{key.pk}/change/"
    form = console.get(page).context["adminform"].form
    values = {name: form[name].value() for name in form.fields if form[name].value() is not None}
    values = {name: value for name, value in values.items() if value is not False}
    assert console.post(page, {**values, "allowed_models": "a, b\n a"}).status_code == 302
    with scopes_disabled():
        stored = VirtualKey.objects.get(pk=key.pk)
        assert stored.allowed_models == ["a", "b"]
        assert (stored.metadata, stored.team_id, stored.alias) == (key.metadata, key.team_id, key.alias)
        assert stored.digest == key.digest
        assert Revision.objects.get().value > before


def test_key_of_another_organizations_team_is_refused_at_the_field(console: Client) -> None:
    seed()
    with scopes_disabled():
        team = Team.objects.get()
        elsewhere = VirtualKey.objects.first().organization.__class__.objects.exclude(pk=team.organization_id).first()
    form = {**new_form(console), "organization": elsewhere.pk, "team": team.pk}
    answer = console.post("/console/tenants/virtualkey/add/", form)
    assert answer.status_code == 200
    assert answer.context["adminform"].form.errors == {"team": ["The team belongs to another organization"]}


# Deployments


def test_prices_are_stored_exactly_per_token(console: Client) -> None:
    fields = {"api_key": "sk-u", "price_input": "0.075", "price_output": "10.000", "price_cache_read": "0"}
    assert post_deployment(console, **fields).status_code == 302
    deployment = stored_deployment()
    lines = Price.objects.get(id=deployment.price_id).lines
    assert lines == {"input": "0.000000075", "output": "0.00001", "cache_read": "0"}
    assert post_deployment(console, deployment, **{**fields, "price_output": "10"}).status_code == 302
    assert stored_deployment().price_id == deployment.price_id, "the same price is no new version"


def test_lines_without_a_field_survive_an_edit_and_an_empty_price_is_unknown(console: Client) -> None:
    post_deployment(console, api_key="sk-u", price_input="1")
    deployment = stored_deployment()
    price = Price.objects.create(deployment_id=deployment.pk, lines={"input": "0.000001", "reasoning": "0.5"})
    with scopes_disabled():
        Deployment.objects.update(price_id=price.pk)
    post_deployment(console, deployment, price_input="2")
    assert Price.objects.get(id=stored_deployment().price_id).lines == {"input": "0.000002", "reasoning": "0.5"}
    with scopes_disabled():
        Deployment.objects.update(price_id=Price.objects.filter(lines={"input": "0.000001"}).get().pk)
    post_deployment(console, deployment, price_input="")
    assert stored_deployment().price_id == ""


def test_a_page_from_before_a_price_began_does_not_end_it(console: Client) -> None:
    post_deployment(console, api_key="sk-u", price_input="1", price_output="4")
    deployment = stored_deployment()
    page = console.get(f"/console/gateway/deployment/{deployment.pk}/change/")
    assert 'name="initial-price_input"' in page.content.decode()
    form = page.context["adminform"].form
    shown = {name: str(form[name].value()) for name in ("price_input", "price_output")}
    posted = shown | {form.add_initial_prefix(name): value for name, value in shown.items()}
    set_price(deployment.pk, {"input": "0.000002", "output": "0.000008"}, timezone.now() - timedelta(minutes=1))

    def lines() -> object:
        return prices_in_force([stored_deployment()])[deployment.pk].lines

    assert post_deployment(console, deployment, **posted, weight="3").status_code == 302
    assert (stored_deployment().weight, lines()) == (3, {"input": "0.000002", "output": "0.000008"})
    assert post_deployment(console, deployment, **{**posted, "price_input": "3"}).status_code == 302
    assert lines() == {"input": "0.000003", "output": "0.000008"}


def test_credential_is_kept_replaced_and_removed(console: Client) -> None:
    def key_now() -> str:
        deployment = stored_deployment()
        values = unseal(context=deployment.pk, sealed=deployment.credential)
        return values["api_key"].reveal() if values else ""

    post_deployment(console, api_key="sk-first")
    deployment = stored_deployment()
    page = console.get(f"/console/gateway/deployment/{deployment.pk}/change/").content
    assert b"sk-first" not in page
    post_deployment(console, deployment)
    assert key_now() == "sk-first"
    post_deployment(console, deployment, api_key="sk-second")
    assert key_now() == "sk-second"
    refused = post_deployment(console, deployment, clear_api_key="on")
    assert "api_key" in refused.context["adminform"].form.errors, "openai needs one"
    post_deployment(console, deployment, provider="ollama", clear_api_key="on")
    assert key_now() == ""


def test_deployments_of_the_file_refuse_every_write(console: Client) -> None:
    post_deployment(console, api_key="sk-u")
    deployment = stored_deployment()
    with scopes_disabled():
        Deployment.objects.update(source=Deployment.Source.CONFIG)
    assert post_deployment(console, deployment, upstream_model="other").status_code == 403
    assert console.post(f"/console/gateway/deployment/{deployment.pk}/delete/", {"post": "yes"}).status_code == 403
    act = {"action": "disable", "_selected_action": [deployment.pk]}
    console.post("/console/gateway/deployment/", act)
    console.post("/console/gateway/deployment/", {**act, "action": "delete_selected", "post": "yes"})
    stored = stored_deployment()
    assert (stored.upstream_model, stored.enabled) == ("gpt-4o-2024", True)


# Users


def test_users_are_added_with_and_without_a_password(console: Client) -> None:
    add = "/console/tenants/user/add/"
    refused = console.post(add, {"username": "lost"})
    assert "organization" in refused.context["adminform"].form.errors
    weak = console.post(add, {"username": "weak", "is_superuser": "on", "password": "password"})
    assert "password" in weak.context["adminform"].form.errors
    console.post(add, {"username": "member", "organization": DEFAULT_ORGANIZATION})
    console.post(add, {"username": "admin-2", "is_superuser": "on", "password": PASSWORD})
    member, second = User.objects.get(username="member"), User.objects.get(username="admin-2")
    assert not member.has_usable_password()
    assert not member.is_staff
    assert second.check_password(PASSWORD)
    assert second.is_staff


def test_admins_cannot_lock_themselves_out(console: Client, admin: User) -> None:
    console.post(f"/console/tenants/user/{admin.pk}/change/", {"email": "root@example.org"})
    admin.refresh_from_db()
    assert (admin.email, admin.is_superuser, admin.is_active) == ("root@example.org", True, True)
    assert console.post(f"/console/tenants/user/{admin.pk}/delete/", {"post": "yes"}).status_code == 403


# Amounts


@pytest.mark.parametrize(
    ("pusd", "whole", "exact", "short"),
    [
        (0, "0.000000000000", "$0.00", "$0.00"),
        (1, "0.000000000001", "$0.000000000001", "$0.000000000001"),
        (123_450_000, "0.000123450000", "$0.00012345", "$0.00012"),
        (10**12, "1.000000000000", "$1.00", "$1.00"),
        (1_234_565 * 10**9, "1234.565000000000", "$1,234.565", "$1,234.56"),
        (-5, "-0.000000000005", "-$0.000000000005", "-$0.000000000005"),
        (2**63 - 1, "9223372.036854775807", "$9,223,372.036854775807", "$9,223,372.04"),
    ],
)
def test_amounts_as_text(pusd: int, whole: str, exact: str, short: str) -> None:
    assert (usd_text(pusd), usd_exact(pusd), usd_short(pusd)) == (whole, exact, short)


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_exact_amounts_lose_nothing(pusd: int) -> None:
    for text in (usd_text(pusd), usd_exact(pusd).replace("$", "").replace(",", "")):
        assert int(Decimal(text).scaleb(12)) == pusd


@given(st.decimals(min_value=0, max_value=1_000_000, places=12, allow_nan=False))
def test_price_per_million_and_per_token_are_inverse(price: Decimal) -> None:
    assert Decimal(per_million(per_token(price))) == price
    assert Decimal(per_token(price)) * 1_000_000 == price
    assert Decimal(price_label(per_token(price)).replace("$", "").replace(",", "")) == price
