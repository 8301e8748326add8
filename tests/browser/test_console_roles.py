"""Who reads and writes what in the console, without a browser."""

from collections.abc import Callable, Iterator

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from gateway.models import Deployment
from tenants.audit import Entry, record
from tenants.budget_templates import create_template
from tenants.end_users import create_end_user
from tenants.keys import issue_key
from tenants.limits import change_limits, render_limits
from tenants.models import DEFAULT_ORGANIZATION, Membership, Organization, Role, Scope, User, VirtualKey
from tenants.organizations import create_organization
from tenants.teams import create_team
from tests.browser.seed import seed
from tests.browser.test_console import SCREENS

TENANTS = "/console/tenants"
KEYS = f"{TENANTS}/virtualkey/"
SignIn = Callable[..., Client]

#: Screens that a role does not open, beside the forms that it does not write.
STORED_SCREENS = {"stored responses", "stored responses, filtered", "conversations"}
FORMS = {name for name in SCREENS if name.startswith(("add ", "issue ", "set ", "price calls", "schedule "))}
PLATFORM_SCREENS = {
    "calls without a price",
    "repricing",
    "set a price",
    "set a price with a date",
    "price calls again",
    "contracts",
    "drafts of prices",
    "reconciliation",
    "invoices",
    "names in invoices",
}
CLOSED: dict[str, set[str]] = {
    "platform_admin": set(),
    "platform_viewer": FORMS,
    "organization_admin": PLATFORM_SCREENS
    | {"deployments", "add a deployment", "routing", "add an organization", "add a user"},
    "billing_viewer": STORED_SCREENS
    | FORMS
    | PLATFORM_SCREENS
    | {"deployments", "routing", "virtual keys", "teams", "end users", "organizations", "audit", "simulate"},
}


@pytest.fixture(autouse=True)
def unscoped(db: None) -> Iterator[None]:
    with scopes_disabled():
        yield


@pytest.fixture
def home() -> Organization:
    return create_organization(name="home")


@pytest.fixture
def sign_in(home: Organization) -> SignIn:
    """Signs a user of this role in, in `home`."""

    def sign(role: str, **fields: object) -> Client:
        is_admin = role == "platform_admin"
        rights = {"is_superuser": is_admin} if is_admin else {"role": role}
        user = User.objects.create_user(f"the-{role}", organization=home, **rights, **fields)
        client = Client()
        client.force_login(user)
        return client

    return sign


@pytest.mark.parametrize("role", CLOSED)
def test_each_screen_opens_for_its_roles_alone(sign_in: SignIn, role: str) -> None:
    seed()
    client = sign_in(role)
    closed = {name for name, path in SCREENS.items() if client.get(path).status_code == 403}
    opened = {name for name, path in SCREENS.items() if client.get(path).status_code == 200}
    assert closed == CLOSED[role]
    assert opened == SCREENS.keys() - closed
    links = client.get("/console/").content.decode()
    for name in ("virtual keys", "deployments", "teams", "audit", "budgets"):
        assert (f'href="{SCREENS[name]}"' in links) == (name not in closed), name


@pytest.mark.parametrize("role", [Role.MEMBER, Role.MEMBER_VIEWER])
def test_members_do_not_enter(sign_in: SignIn, home: Organization, role: str) -> None:
    client = sign_in(role)
    team = create_team(organization=home, alias="team")
    user = User.objects.get(username=f"the-{role}")
    Membership.objects.create(organization=home, team=team, user=user, role=Membership.Role.ADMIN)
    for path in SCREENS.values():
        assert client.get(path)["Location"].startswith("/console/login/"), path


def add_tenant(organization: Organization, name: str) -> dict[str, str]:
    """A row of each screen: {screen: id}."""
    team = create_team(organization=organization, alias=f"{name}-team")
    key = issue_key(organization=organization, team=team, alias=f"{name}-key").key
    user = User.objects.create_user(f"{name}-user", organization=organization)
    end_user = create_end_user(organization=organization, name=f"{name}-customer", changes={}, limits={})
    template = create_template(organization=organization, template_id=f"{name}-template", limits={"max_budget": 1})
    change_limits(organization, Scope.KEY, key.pk, {"max_budget": 1})
    record(Entry("update", "team", f"{name}-object", organization.pk, {}, {"alias": name}))
    return {
        "virtualkey": key.pk,
        "team": team.pk,
        "user": str(user.pk),
        "enduser": str(end_user.pk),
        "budgettemplate": template.pk,
        "organization": organization.pk,
        "budget": "",
        "auditentry": "",
    }


def test_an_organization_admin_sees_its_own_organization_alone(sign_in: SignIn, home: Organization) -> None:
    other = create_organization(name="foreign")
    own, foreign = add_tenant(home, "own"), add_tenant(other, "foreign")
    client = sign_in("organization_admin")
    for screen in own:
        page = client.get(f"{TENANTS}/{screen}/")
        assert page.status_code == 200, screen
        text = page.content.decode()
        assert "own-" in text or screen in {"organization", "budget"}, screen
        assert "foreign" not in text, screen
    for screen, key in own.items():
        if key:
            assert client.get(f"{TENANTS}/{screen}/{key}/change/").status_code == 200, screen
            unknown = client.get(f"{TENANTS}/{screen}/{'0' * 9}/change/")
            for part in ("change", "history", "delete", "rotate"):
                if part == "rotate" and screen != "virtualkey":
                    continue
                answer = client.get(f"{TENANTS}/{screen}/{foreign[screen]}/{part}/")
                assert answer.status_code in {302, 403}, (screen, part)
            answer = client.get(f"{TENANTS}/{screen}/{foreign[screen]}/change/")
            assert (answer.status_code, answer["Location"]) == (unknown.status_code, unknown["Location"])
    for field, screen in (("team", "virtualkey"), ("user", "virtualkey")):
        query = {"app_label": "tenants", "model_name": screen, "field_name": field, "term": "foreign"}
        assert client.get("/console/autocomplete/", query).json()["results"] == []


def test_an_organization_admin_changes_its_own_organization_alone(sign_in: SignIn, home: Organization) -> None:
    other = create_organization(name="foreign")
    own, foreign = add_tenant(home, "own"), add_tenant(other, "foreign")
    client = sign_in("organization_admin")
    key = {"alias": "renamed", "expiry": "never", "rpm_limit": "5"}
    client.post(f"{KEYS}{foreign['virtualkey']}/change/", key)
    assert VirtualKey.objects.get(pk=foreign["virtualkey"]).alias == "foreign-key"
    client.post(KEYS, {"action": "block", "_selected_action": [foreign["virtualkey"]]})
    client.post(KEYS, {"action": "delete_selected", "_selected_action": [foreign["virtualkey"]], "post": "yes"})
    assert not VirtualKey.objects.get(pk=foreign["virtualkey"]).blocked
    before = VirtualKey.objects.get(pk=foreign["virtualkey"]).digest
    client.post(f"{KEYS}{foreign['virtualkey']}/rotate/", {"grace": "none"})
    assert VirtualKey.objects.get(pk=foreign["virtualkey"]).digest == before

    assert client.post(f"{KEYS}{own['virtualkey']}/change/", key).status_code == 302
    assert VirtualKey.objects.get(pk=own["virtualkey"]).alias == "renamed"
    assert render_limits(home, Scope.KEY, own["virtualkey"])["rpm_limit"] == 5

    for screen, fields in (
        ("virtualkey", {"alias": "planted", "expiry": "never"}),
        ("team", {"alias": "planted"}),
        ("enduser", {"external_id": "planted"}),
        ("budgettemplate", {"template_id": "planted", "max_budget": "1"}),
    ):
        nonce = client.get(f"{KEYS}add/").context["issue_nonce"]
        answer = client.post(f"{TENANTS}/{screen}/add/", {**fields, "issue_nonce": nonce, "organization": other.pk})
        assert "organization" in answer.context["adminform"].form.errors, screen


def test_an_organization_admin_gives_no_rights_that_it_does_not_have(sign_in: SignIn, home: Organization) -> None:
    boss = User.objects.create_superuser("boss", organization=home)
    root = User.objects.create_superuser("root")
    client = sign_in("organization_admin")
    for user in (boss, root):
        nonce = client.get(f"{KEYS}add/").context["issue_nonce"]
        fields = {"alias": "up", "expiry": "never", "type": "management", "organization": home.pk, "user": user.pk}
        answer = client.post(f"{KEYS}add/", {**fields, "issue_nonce": nonce})
        assert answer.context["adminform"].form.errors
        assert not VirtualKey.objects.exists()
    me = User.objects.get(username="the-organization_admin")
    for user in (boss, me):
        page = f"{TENANTS}/user/{user.pk}/"
        assert client.post(f"{page}change/", {"email": "a@example.org", "is_superuser": "on"}).status_code in {302, 403}
        assert client.get(f"{page}password/").status_code in {302, 403}
    me.refresh_from_db()
    assert (me.is_superuser, me.email) == (False, "")
    assert client.post(f"{TENANTS}/organization/{home.pk}/change/", {"name": "mine"}).status_code == 403


def test_a_platform_viewer_reads_everything_and_writes_nothing(sign_in: SignIn) -> None:
    other = create_organization(name="foreign")
    rows = add_tenant(other, "foreign")
    client = sign_in("platform_viewer")
    for screen, key in rows.items():
        assert client.get(f"{TENANTS}/{screen}/").status_code == 200
        if key:
            page = f"{TENANTS}/{screen}/{key}/change/"
            assert client.get(page).status_code == 200
            assert client.post(page, {"alias": "renamed"}).status_code == 403, screen
    assert client.get(f"{KEYS}{rows['virtualkey']}/rotate/").status_code == 403
    client.post(KEYS, {"action": "block", "_selected_action": [rows["virtualkey"]]})
    assert not VirtualKey.objects.get(pk=rows["virtualkey"]).blocked
    deployment = Deployment.objects.create(model_group="group", provider="ollama", upstream_model="llama")
    client.post("/console/gateway/deployment/", {"action": "disable", "_selected_action": [deployment.pk]})
    assert Deployment.objects.get(pk=deployment.pk).enabled


def test_the_default_organization_is_not_proposed_to_others(sign_in: SignIn, home: Organization) -> None:
    form = sign_in("organization_admin").get(f"{TENANTS}/team/add/").context["adminform"].form
    assert form["organization"].value() == home.pk
    assert DEFAULT_ORGANIZATION not in {str(value) for value, _ in form.fields["organization"].choices}
