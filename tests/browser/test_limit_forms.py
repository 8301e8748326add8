"""Limits and budgets in the console's forms, pages and lists, without a browser."""

from collections.abc import Iterator
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.protocol.amounts import PUSD
from tenants.access import digest_of
from tenants.budget_store import add_spend
from tenants.budget_templates import create_template
from tenants.budget_windows import find_window
from tenants.keys import issue_key
from tenants.limits import change_limits, render_limits
from tenants.models import (
    DEFAULT_ORGANIZATION,
    Budget,
    BudgetWindow,
    FormerKey,
    Organization,
    Scope,
    Team,
    User,
    VirtualKey,
)
from tenants.organizations import create_organization
from tenants.revision import current_revision
from tenants.teams import create_team

KEYS = "/console/tenants/virtualkey/"
TEAMS = "/console/tenants/team/"
USERS = "/console/tenants/user/"
ORGANIZATIONS = "/console/tenants/organization/"
BUDGETS = "/console/tenants/budget/"
LIMITS = {
    "max_budget": "12.5",
    "budget_duration": "1d",
    "soft_budget": "10",
    "rpm_limit": "60",
    "tpm_limit": "1000",
    "tpd_limit": "50000",
    "max_parallel_requests": "4",
    "budget_limits": "100 per month\n0.5 / 12h",
    "temp_budget_increase": "2",
    "temp_budget_expiry": "2099-01-01T00:00",
    "rpd_limit": "",
    "itpm_limit": "",
    "otpm_limit": "",
}
STORED = {
    "max_budget": 12.5,
    "budget_duration": "1d",
    "soft_budget": 10.0,
    "rpm_limit": 60,
    "tpm_limit": 1000,
    "tpd_limit": 50000,
    "max_parallel_requests": 4,
    "budget_limits": [
        {"budget_duration": "12h", "max_budget": 0.5},
        {"budget_duration": "30d", "max_budget": 100.0},
    ],
    "temp_budget_increase": 2.0,
    "temp_budget_expiry": "2099-01-01T00:00:00+00:00",
}


@pytest.fixture
def console(client: Client, db: None) -> Iterator[Client]:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    with scopes_disabled():
        yield client


@pytest.fixture
def home(db: None) -> Organization:
    return Organization.objects.get(pk=DEFAULT_ORGANIZATION)


def spend(organization: Organization, scope: Scope, scope_id: str, *, spent: float, held: float = 0) -> None:
    """Rows as the data path writes them, in the current windows of the scope's budgets."""
    for budget in Budget.objects.filter(organization=organization, scope=scope, scope_id=scope_id):
        span = find_window(budget.duration, ZoneInfo(organization.time_zone), timezone.now())
        BudgetWindow.objects.create(
            budget=budget,
            scope=scope,
            scope_id=scope_id,
            starts_at=span.starts_at,
            ends_at=span.ends_at,
            settled_pusd=int(spent * PUSD),
            leased_pusd=int(held * PUSD),
        )
    add_spend({(organization.id, scope, scope_id): int(spent * PUSD)})


def errors_of(page: object) -> dict[str, list[str]]:
    errors: dict[str, list[str]] = page.context["adminform"].form.errors  # type: ignore[attr-defined]
    return errors


def test_a_key_is_issued_with_limits(console: Client, home: Organization) -> None:
    nonce = console.get(f"{KEYS}add/").context["issue_nonce"]
    fields = {"alias": "ci", "organization": home.pk, "expiry": "never", "issue_nonce": nonce}
    assert b"Copy this key now" in console.post(f"{KEYS}add/", {**fields, **LIMITS}).content
    stored = render_limits(home, Scope.KEY, VirtualKey.objects.get(alias="ci").pk)
    assert {name: stored[name] for name in STORED} == STORED


def test_limits_of_a_key_are_changed_and_cleared(console: Client, home: Organization) -> None:
    key = issue_key(organization=home, alias="ci").key
    page = f"{KEYS}{key.pk}/change/"
    fields = {
        "alias": "ci",
        "expiry": "never",
        "metadata": "{}",
        "model_aliases": "{}",
        "timeouts": "{}",
        "type": "default",
    }
    assert console.post(page, {**fields, **LIMITS}).status_code == 302
    stored = render_limits(home, Scope.KEY, key.pk)
    assert {name: stored[name] for name in STORED} == STORED
    budget_id = Budget.objects.get(scope_id=key.pk, is_additional=False).pk

    revision = current_revision()
    assert console.post(page, {**fields, **LIMITS}).status_code == 302
    assert current_revision() == revision, "nothing changed"
    assert console.post(page, {**fields, **LIMITS, "max_budget": "20"}).status_code == 302
    assert Budget.objects.get(scope_id=key.pk, is_additional=False).pk == budget_id, "its windows stay"
    assert current_revision() > revision
    assert console.post(page, {**fields, **dict.fromkeys(LIMITS, "")}).status_code == 302
    empty = {name: [] if name == "budget_limits" else None for name in STORED}
    stored = render_limits(home, Scope.KEY, key.pk)
    assert {name: stored[name] for name in STORED} == empty


def test_limits_that_the_form_does_not_show_stay(console: Client, home: Organization) -> None:
    key = issue_key(organization=home, alias="ci").key
    change_limits(home, Scope.KEY, key.pk, {"model_max_budget": {"gpt-4o": 5}, "model_rpm_limit": {"gpt-4o": 3}})
    page = f"{KEYS}{key.pk}/change/"
    assert console.post(page, {"alias": "ci", "expiry": "never", **LIMITS}).status_code == 302
    stored = render_limits(home, Scope.KEY, key.pk)
    assert stored["model_rpm_limit"] == {"gpt-4o": 3}
    assert stored["model_max_budget"] == {"gpt-4o": {"budget_limit": 5.0, "time_period": None}}
    assert stored["rpm_limit"] == 60


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_budget", "-1"),
        ("max_budget", "a lot"),
        ("max_budget", "99999999"),
        ("rpm_limit", "-5"),
        ("tpm_limit", "1.5"),
        ("budget_limits", "5 per fortnight"),
        ("budget_limits", "5 per day\n6 per 1d"),
        ("temp_budget_expiry", ""),
        ("temp_budget_increase", ""),
    ],
)
def test_a_refused_limit_is_an_error_at_its_field(console: Client, home: Organization, field: str, value: str) -> None:
    key = issue_key(organization=home, alias="ci").key
    fields = {"alias": "renamed", "expiry": "never", **LIMITS, field: value}
    page = console.post(f"{KEYS}{key.pk}/change/", fields)
    assert page.status_code == 200
    assert set(errors_of(page)) == {field}
    assert render_limits(home, Scope.KEY, key.pk)["max_budget"] is None
    assert VirtualKey.objects.get(pk=key.pk).alias == "ci", "nothing is stored"


def test_a_window_needs_an_amount(console: Client, home: Organization) -> None:
    key = issue_key(organization=home, alias="ci").key
    fields = {"alias": "ci", "expiry": "never", "budget_duration": "1d"}
    assert set(errors_of(console.post(f"{KEYS}{key.pk}/change/", fields))) == {"max_budget"}


def test_limits_of_teams_users_and_organizations(console: Client, home: Organization) -> None:
    fields = {"alias": "research", "organization": home.pk, "team_id": "research", **LIMITS}
    assert console.post(f"{TEAMS}add/", fields).status_code == 302
    assert render_limits(home, Scope.TEAM, "research")["max_budget"] == 12.5
    assert console.post(f"{TEAMS}research/change/", {"alias": "research", "rpm_limit": "7"}).status_code == 302
    assert render_limits(home, Scope.TEAM, "research")["rpm_limit"] == 7
    assert render_limits(home, Scope.TEAM, "research")["max_budget"] is None

    fields = {"username": "ann", "organization": home.pk, **LIMITS}
    assert console.post(f"{USERS}add/", fields).status_code == 302
    assert render_limits(home, Scope.USER, "ann")["max_budget"] == 12.5

    assert console.post(f"{ORGANIZATIONS}add/", {"name": "Acme", **LIMITS}).status_code == 302
    acme = Organization.objects.get(name="Acme")
    assert render_limits(acme, Scope.ORGANIZATION, acme.pk)["max_budget"] == 12.5


def test_a_platform_admin_without_an_organization_has_no_limits(console: Client) -> None:
    root = User.objects.get(username="root")
    page = console.get(f"{USERS}{root.pk}/change/").content.decode()
    assert "id_max_budget" not in page
    assert 'id="usage-title"' not in page


def test_a_page_shows_what_is_used_held_and_left(console: Client, home: Organization) -> None:
    key = issue_key(organization=home, alias="ci").key
    change_limits(home, Scope.KEY, key.pk, {"max_budget": 10, "budget_duration": "1d", "rpm_limit": 1200})
    spend(home, Scope.KEY, key.pk, spent=3.25, held=0.5)
    page = console.get(f"{KEYS}{key.pk}/change/")
    (bar,) = page.context["usage_bars"]
    assert (bar.spent_pusd, bar.held_pusd, bar.limit_pusd) == (3_250_000_000_000, PUSD // 2, 10 * PUSD)
    assert (bar.spent_width, bar.held_width, bar.kind) == (32.5, 5.0, "")
    text = page.content.decode()
    for part in ("$3.25", "$0.50", "$6.25", "of", "$10.00", "starts anew", "1,200"):
        assert part in text, part


def test_a_rolling_budget_is_set_shown_and_kept(console: Client, home: Organization) -> None:
    key = issue_key(organization=home, alias="ci").key
    fields = {"alias": "ci", "expiry": "never", "max_budget": "10", "budget_limits": "5 per rolling 2h"}
    path = f"{KEYS}{key.pk}/change/"
    for duration in ("rolling 30d", "rolling 45m"):  # one that the form offers, and one that a request has set
        change_limits(home, Scope.KEY, key.pk, {"max_budget": 10, "budget_duration": duration})
        answer = console.post(path, {**fields, "budget_duration": duration})
        assert answer.status_code == 302, errors_of(answer)
        stored = render_limits(home, Scope.KEY, key.pk)
        assert stored["budget_duration"] == duration
        assert stored["budget_limits"] == [{"budget_duration": "rolling 2h", "max_budget": 5.0}]
        text = console.get(path).content.decode()
        assert f"in any {duration.removeprefix('rolling ')}" in text
        assert "starts anew" not in text


def test_bars_of_budgets_that_are_used_up_soft_or_zero(console: Client, home: Organization) -> None:
    kinds = {}
    for alias, limits, spent in (
        ("over", {"max_budget": 1}, 1.5),
        ("near", {"max_budget": 10}, 8),
        ("zero", {"max_budget": 0}, 0),
        ("soft", {"soft_budget": 1}, 2),
        ("past soft", {"max_budget": 10, "soft_budget": 1}, 2),
    ):
        key = issue_key(organization=home, alias=alias).key
        change_limits(home, Scope.KEY, key.pk, limits)
        spend(home, Scope.KEY, key.pk, spent=spent)
        (bar,) = console.get(f"{KEYS}{key.pk}/change/").context["usage_bars"]
        assert bar.spent_width <= 100
        kinds[alias] = bar.kind
    assert kinds == {"over": "danger", "near": "warning", "zero": "danger", "soft": "danger", "past soft": "warning"}


@pytest.mark.parametrize("path", [KEYS, TEAMS, ORGANIZATIONS, USERS])
def test_lists_read_the_spend_of_all_rows_with_few_queries(console: Client, home: Organization, path: str) -> None:
    def add(number: int) -> None:
        other = create_organization(name=f"organization-{number}")
        team = create_team(organization=other, alias=f"team-{number}")
        key = issue_key(organization=other, team=team, alias=f"key-{number}").key
        user = User.objects.create_user(f"user-{number}", organization=other)
        for scope, scope_id in (
            (Scope.ORGANIZATION, other.pk),
            (Scope.TEAM, team.pk),
            (Scope.KEY, key.pk),
            (Scope.USER, user.username),
        ):
            change_limits(other, scope, scope_id, {"max_budget": 10, "budget_duration": "1d"})
            spend(other, scope, scope_id, spent=2)

    def count() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            page = console.get(path)
        shown = page.content.decode().count("$2.00 / $10.00")
        usages = [row.usage for row in page.context["cl"].result_list if row.usage is not None]
        assert shown == sum(usage.main is not None for usage in usages)
        return len(queries)

    add(1)
    first = count()
    for number in range(2, 12):
        add(number)
    assert count() == first
    assert first <= 14


def test_a_form_of_another_team_does_not_change_this_one(console: Client, home: Organization) -> None:
    teams = [create_team(organization=home, alias=alias) for alias in ("first", "second")]
    for team in teams:
        change_limits(home, Scope.TEAM, team.pk, {"max_budget": 1})
    console.post(f"{TEAMS}{teams[0].pk}/change/", {"alias": "first", "max_budget": "2"})
    assert [render_limits(home, Scope.TEAM, team.pk)["max_budget"] for team in Team.objects.order_by("alias")] == [2, 1]


# The page of all budgets


def test_budgets_are_listed_with_their_owners_and_filtered(console: Client, home: Organization) -> None:
    other = create_organization(name="Acme")
    team = create_team(organization=home, alias="research")
    key = issue_key(organization=other, alias="ci").key
    user = User.objects.create_user("ann", organization=home)
    for organization, scope, scope_id, limits, spent in (
        (home, Scope.TEAM, team.pk, {"max_budget": 10, "budget_duration": "30d"}, 8.0),
        (home, Scope.USER, user.username, {"max_budget": 10, "budget_duration": "7d"}, 10.5),
        (other, Scope.KEY, key.pk, {"max_budget": 10}, 7.9),
        (other, Scope.ORGANIZATION, other.pk, {"soft_budget": 2, "budget_duration": "1d"}, 1.7),
        (home, Scope.TAG, "nightly", {"max_budget": 9_000_000, "budget_duration": "12h"}, 3.0),
        (home, Scope.TEMPLATE, "shared", {"max_budget": 1}, 1.0),
    ):
        change_limits(organization, scope, scope_id, limits)
        spend(organization, scope, scope_id, spent=spent)

    def list_owners(query: str = "") -> set[str]:
        return {row.owner_link[0] for row in console.get(f"{BUDGETS}{query}").context["cl"].result_list}

    assert list_owners() == {"research", "ann", "ci", "Acme", "nightly"}
    assert list_owners("?used=80") == {"research", "ann", "Acme"}
    assert list_owners("?used=100") == {"ann"}
    assert list_owners("?scope__exact=key") == {"ci"}
    assert list_owners(f"?organization__id__exact={other.pk}") == {"ci", "Acme"}
    assert list_owners("?q=nightly") == {"nightly"}
    page = console.get(BUDGETS).content.decode()
    for part in ("$10.50 / $10.00", f"{TEAMS}{team.pk}/change/", f"{KEYS}{key.pk}/change/", "per week"):
        assert part in page, part
    budget = Budget.objects.get(scope=Scope.TEAM)
    assert console.get(f"{BUDGETS}{budget.pk}/change/")["Location"] == f"{TEAMS}{team.pk}/change/"


def test_the_filter_of_used_budgets_sees_the_current_window_only(console: Client, home: Organization) -> None:
    change_limits(home, Scope.TEAM, "research", {"max_budget": 10, "budget_duration": "1d"})
    budget = Budget.objects.get()
    yesterday = timezone.now() - timedelta(days=1)
    BudgetWindow.objects.create(
        budget=budget,
        scope="team",
        scope_id="research",
        starts_at=yesterday,
        ends_at=timezone.now(),
        settled_pusd=PUSD * 10,
    )
    assert not console.get(f"{BUDGETS}?used=80").context["cl"].result_list
    change_limits(home, Scope.TEAM, "research", {"max_budget": 0})
    assert console.get(f"{BUDGETS}?used=80").context["cl"].result_list, "a budget of zero is used up"


def test_a_budget_that_is_raised_is_not_used_up(console: Client, home: Organization) -> None:
    raised = {"temp_budget_increase": 10, "temp_budget_expiry": "2099-01-01T00:00:00Z"}
    change_limits(home, Scope.TEAM, "research", {"max_budget": 10, **raised})
    spend(home, Scope.TEAM, "research", spent=11)
    assert not console.get(f"{BUDGETS}?used=80").context["cl"].result_list
    change_limits(home, Scope.TEAM, "research", {"temp_budget_increase": None, "temp_budget_expiry": None})
    assert console.get(f"{BUDGETS}?used=100").context["cl"].result_list


def test_the_page_of_budgets_reads_any_number_of_them_with_few_queries(console: Client, home: Organization) -> None:
    def add(number: int) -> None:
        other = create_organization(name=f"organization-{number}")
        key = issue_key(organization=other, alias=f"key-{number}").key
        team = create_team(organization=other, alias=f"team-{number}")
        for scope, scope_id in ((Scope.KEY, key.pk), (Scope.TEAM, team.pk), (Scope.MEMBER, f"{team.pk}:ann")):
            change_limits(other, scope, scope_id, {"max_budget": 10, "budget_duration": "1d"})

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            console.get(BUDGETS)
        return len(queries)

    add(1)
    first = count()
    for number in range(2, 12):
        add(number)
    assert count() == first
    assert first <= 12


def test_the_page_of_budgets_is_paged_by_an_index(console: Client) -> None:
    rows = console.get(BUDGETS).context["cl"].queryset[:50]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
    index = "budget_is_unique" if connection.vendor == "postgresql" else "sqlite_autoindex_tenants_budget"
    assert index in rows.explain()
    assert "TEMP B-TREE" not in rows.explain()


# Keys


def test_what_a_key_may_do_is_set_on_its_form(console: Client, home: Organization) -> None:
    template = create_template(organization=home, template_id="shared", limits={"max_budget": 7, "rpm_limit": 3})
    nonce = console.get(f"{KEYS}add/").context["issue_nonce"]
    fields = {
        "alias": "ci",
        "organization": home.pk,
        "expiry": "never",
        "issue_nonce": nonce,
        "type": "llm_api",
        "allowed_routes": "/v1/chat/completions\n/v1/models",
        "allowed_networks": "10.0.0.0/8",
        "model_aliases": '{"gpt-4": "gpt-4o"}',
        "rotation_interval": "30d",
        "budget_template": template.pk,
    }
    assert b"Copy this key now" in console.post(f"{KEYS}add/", fields).content
    key = VirtualKey.objects.get(alias="ci")
    assert (key.type, key.allowed_networks, key.rotation_interval) == ("llm_api", ["10.0.0.0/8"], "30d")
    assert key.allowed_routes == ["/v1/chat/completions", "/v1/models"]
    assert key.model_aliases == {"gpt-4": "gpt-4o"}
    assert key.rotates_at is not None
    page = console.get(f"{KEYS}{key.pk}/change/")
    (bar,) = page.context["usage_bars"]
    assert (bar.limit_pusd, bar.notes) == (7 * PUSD, ["from the template shared"])
    assert [line.value for line in page.context["usage_rates"]] == ["3"]
    refused = console.post(f"{KEYS}{key.pk}/change/", {**fields, "allowed_networks": "everywhere"})
    assert set(errors_of(refused)) == {"allowed_networks"}


def test_a_template_of_another_organization_is_refused(console: Client, home: Organization) -> None:
    other = create_organization(name="Acme")
    template = create_template(organization=other, template_id="theirs", limits={"max_budget": 7})
    key = issue_key(organization=home, alias="ci").key
    for page, fields in (
        (f"{KEYS}{key.pk}/change/", {"alias": "ci", "expiry": "never"}),
        (f"{TEAMS}{create_team(organization=home, alias='research').pk}/change/", {"alias": "research"}),
    ):
        assert set(errors_of(console.post(page, {**fields, "budget_template": template.pk}))) == {"budget_template"}


@pytest.mark.parametrize(("grace", "former_texts"), [("none", 0), ("24h", 1)])
def test_a_key_is_rotated_once_and_its_text_is_shown_once(
    console: Client, home: Organization, grace: str, former_texts: int
) -> None:
    issued = issue_key(organization=home, alias="ci")
    page = f"{KEYS}{issued.key.pk}/rotate/"
    nonce = console.get(page).context["issue_nonce"]
    answer = console.post(page, {"grace": grace, "issue_nonce": nonce})
    assert "no-store" in answer["Cache-Control"]
    text = answer.context["issued_text"]
    assert text in answer.content.decode()
    key = VirtualKey.objects.get(pk=issued.key.pk)
    assert key.digest == digest_of(text) != issued.key.digest
    working = FormerKey.objects.filter(key=key, digest=issued.key.digest, expires_at__gt=timezone.now())
    assert working.count() == former_texts
    assert console.post(page, {"grace": grace, "issue_nonce": nonce}).status_code == 302, "a reload rotates nothing"
    assert VirtualKey.objects.get(pk=key.pk).digest == key.digest
    assert "Rotated." in console.get(f"{KEYS}{key.pk}/history/").content.decode()
    assert text not in console.get(f"{KEYS}{key.pk}/change/").content.decode()


def test_a_key_that_does_not_exist_is_not_rotated(console: Client) -> None:
    answer = console.post(f"{KEYS}unknown/rotate/", {"grace": "none"}, follow=True)
    assert b"doesn\xe2\x80\x99t exist" in answer.content
