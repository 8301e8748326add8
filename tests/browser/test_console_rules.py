"""The rules of the console's lists, histories and forms, without a browser."""

import gzip
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.models import SpendLog
from gateway.deployments import save_deployment
from gateway.models import Deployment, StoredResponse
from gateway.routing.breaker import Breaker, Ejection
from gateway.routing.error_class import ErrorClass
from gateway.routing.live_states import LIVE_STATES
from tenants.keys import issue_key
from tenants.models import DEFAULT_ORGANIZATION, Organization, Team, User, VirtualKey
from tenants.organizations import create_organization
from tenants.teams import create_team
from tests.browser.seed import response_id, seed
from tests.browser.test_console import SCREENS

KEYS = "/console/tenants/virtualkey/"
TEAMS = "/console/tenants/team/"
DETAIL = f"/console/gateway/storedresponse/{response_id(1)}/change/"
MAX_LIST_BYTES = 150_000
ROWS_PER_PAGE = 50


@pytest.fixture
def console(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


@pytest.fixture
def unscoped(db: None) -> Iterator[None]:
    with scopes_disabled():
        yield


# Lists


def test_status_filter_agrees_with_the_status_of_each_row(console: Client, unscoped: None) -> None:
    default = Organization.objects.get(pk=DEFAULT_ORGANIZATION)
    blocked = create_organization(name="blocked", blocked=True)
    team = create_team(organization=default, alias="blocked team")
    issue_key(organization=default, alias="active")
    issue_key(organization=blocked, alias="of a blocked organization")
    issue_key(organization=default, team=team, alias="of a blocked team")
    issue_key(organization=default, alias="expired", expires_at=timezone.now() - timedelta(days=1))
    Team.objects.update(blocked=True)
    aliases = {}
    for status in ("active", "blocked", "expired"):
        aliases[status] = {key.alias for key in console.get(f"{KEYS}?status={status}").context["cl"].result_list}
    assert aliases == {
        "active": {"active"},
        "blocked": {"of a blocked organization", "of a blocked team"},
        "expired": {"expired"},
    }


@pytest.mark.parametrize("text", ["chatcmpl-priced", "nothing"])
def test_search_by_upstream_id_uses_its_index(unscoped: None, text: str) -> None:
    rows = SpendLog.objects.filter(SpendLog.match_upstream_id(text)).order_by("-id")[:51]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
    assert "spend_log_upstream_id" in rows.explain()


def test_spend_log_is_found_by_its_upstream_id(console: Client) -> None:
    seed()
    (row,) = console.get("/console/billing/spendlog/?q=chatcmpl-priced").context["cl"].result_list
    assert row.state == "priced"


def test_failed_calls_show_their_error_in_the_colour_of_errors(console: Client) -> None:
    seed()
    page = console.get("/console/billing/spendlog/?state__exact=aborted").content.decode()
    badge = page[page.index("tg-badge-danger") :]
    assert ">502<" in badge
    assert '<span class="tg-muted">upstream_error</span>' in badge


def test_duration_of_a_stored_response_is_never_negative(console: Client, unscoped: None) -> None:
    seed()
    created = StoredResponse.objects.get(pk=response_id(1)).created_at
    StoredResponse.objects.update(completed_at=created - timedelta(milliseconds=261), spend_id="")
    assert console.get(DETAIL).context["took"] == "0 ms"
    spend = SpendLog.objects.get(upstream_id="chatcmpl-priced")
    StoredResponse.objects.update(spend_id=str(spend.pk), created_at=spend.started_at)
    assert console.get(DETAIL).context["took"] == "4.00 s", "the spend log has the exact end"


def test_list_pages_of_many_rows_are_small(console: Client, unscoped: None) -> None:
    seed()
    default = Organization.objects.get(pk=DEFAULT_ORGANIZATION)
    log = SpendLog.objects.get(upstream_id="chatcmpl-priced")
    for number in range(ROWS_PER_PAGE):
        create_organization(name=f"organization-{number}")
        team = create_team(organization=default, alias=f"team-{number}", allowed_models=["model-group"] * 3)
        issue_key(organization=default, alias=f"key-{number}", team=team, allowed_models=["gpt-4o", "gpt-4o-mini"])
        User.objects.create_user(f"user-{number}", organization=default, email=f"user-{number}@example.org")
        Deployment.objects.create(model_group=f"group-{number}", provider="openai", upstream_model="gpt-4o")
        log.pk = log.request_id = uuid4()
        log.save(force_insert=True)
    sizes = {}
    for name, path in SCREENS.items():
        sizes[name] = len(console.get(path, follow=True).content)
    assert max(sizes.values()) <= MAX_LIST_BYTES, sizes


@pytest.mark.parametrize("path", [SCREENS["dashboard"], SCREENS["virtual keys"], SCREENS["issue a key"]])
def test_pages_are_compressed(console: Client, path: str) -> None:
    assert console.get(path, headers={"accept-encoding": "gzip"})["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("path", ["/static/unfold/css/styles.css", "/static/console/tollgate.css"])
def test_static_files_are_compressed(console: Client, path: str) -> None:
    """The copies stand in TOLLGATE_HOME, since the folders of installed packages may be read-only."""
    plain = console.get(path)
    squeezed = console.get(path, headers={"accept-encoding": "br, gzip"})
    text, packed = (b"".join(answer) for answer in (plain, squeezed))
    assert "Content-Encoding" not in plain
    assert squeezed["Content-Encoding"] == "gzip"
    assert squeezed["Vary"] == plain["Vary"] == "Accept-Encoding"
    assert gzip.decompress(packed) == text
    assert int(squeezed["Content-Length"]) == len(packed) < len(text) / 3
    assert console.get(path, headers={"if-none-match": plain["ETag"]}).status_code == 304
    assert (settings.TOLLGATE_HOME / "static").stat().st_mode & 0o777 == 0o700


def test_static_files_are_served_where_no_copy_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings, "TOLLGATE_HOME", tmp_path / "absent" / "home")
    answer = Client().get("/static/console/tollgate.css", headers={"accept-encoding": "gzip"})
    assert answer.status_code == 200
    assert "Content-Encoding" not in answer


# Language


@pytest.mark.parametrize("language", ["zh-CN", "de", "ar"])
def test_the_console_is_english_whatever_the_browser_prefers(console: Client, language: str) -> None:
    for path in (SCREENS["virtual keys"], SCREENS["issue a key"], SCREENS["users"]):
        page = console.get(path, headers={"accept-language": language}).content
        assert b'<html lang="en" dir="ltr"' in page


# Histories


def test_actions_on_several_rows_are_in_their_histories(console: Client, unscoped: None) -> None:
    default = Organization.objects.get(pk=DEFAULT_ORGANIZATION)
    key = issue_key(organization=default, alias="key").key
    team = create_team(organization=default, alias="team")
    deployment = Deployment.objects.create(model_group="group", provider="ollama", upstream_model="llama")
    for place, row, action, texts in (
        (KEYS, key, "block", {"Blocked."}),
        (TEAMS, team, "block", {"Blocked."}),
        ("/console/tenants/organization/", default, "unblock", set()),
        ("/console/tenants/organization/", default, "block", {"Blocked."}),
        ("/console/gateway/deployment/", deployment, "disable", {"Disabled."}),
    ):
        answer = console.post(place, {"action": action, "_selected_action": [row.pk]})
        assert answer.status_code == 302, place
        entries = LogEntry.objects.filter(object_id=row.pk, content_type__model=row._meta.model_name)
        assert set(entries.values_list("change_message", flat=True)) == texts, place
        history = console.get(f"{place}{row.pk}/history/").content.decode()
        assert all(text in history for text in texts), place


# Forms


def test_key_form_offers_owners_of_its_organization_only(console: Client, unscoped: None) -> None:
    default = Organization.objects.get(pk=DEFAULT_ORGANIZATION)
    other = create_organization(name="other")
    own, foreign = (create_team(organization=each, alias="team").pk for each in (default, other))
    for name, organization in (("own", default), ("foreign", other)):
        User.objects.create_user(name, organization=organization)

    def offer(field: str, **parameters: str) -> set[str]:
        query = {"app_label": "tenants", "model_name": "virtualkey", "field_name": field, **parameters}
        results = console.get("/console/autocomplete/", query).json()["results"]
        return {row["id"] if field == "team" else row["text"] for row in results}

    assert offer("team") == {own, foreign}
    assert offer("team", organization=default.pk) == {own}
    assert offer("user", organization=default.pk) == {"own", "root"}, "platform admins have no organization"


def test_deleting_a_team_with_keys_asks_for_its_name(console: Client, unscoped: None) -> None:
    default = Organization.objects.get(pk=DEFAULT_ORGANIZATION)
    team, empty = (create_team(organization=default, alias=alias) for alias in ("research", "empty"))
    issue_key(organization=default, team=team, alias="key")
    page = f"{TEAMS}{team.pk}/delete/"
    assert b'name="name"' in console.get(page).content
    for name in ({}, {"name": "other"}):
        assert console.post(page, {"post": "yes", **name})["Location"] == page
    several = {"action": "delete_selected", "_selected_action": [team.pk, empty.pk], "post": "yes"}
    assert b"has keys: delete it on its own page" in console.post(TEAMS, several).content
    assert Team.objects.count() == 2
    assert VirtualKey.objects.count() == 1
    console.post(page, {"post": "yes", "name": "research"})
    assert b'name="name"' not in console.get(f"{TEAMS}{empty.pk}/delete/").content
    console.post(f"{TEAMS}{empty.pk}/delete/", {"post": "yes"})
    assert (Team.objects.count(), VirtualKey.objects.count()) == (0, 0)


# Deployments


def test_a_deployment_shows_what_keeps_calls_from_it(console: Client, unscoped: None) -> None:
    rows = {
        name: save_deployment(Deployment(model_group=name, provider="mock", upstream_model="echo"))
        for name in ("fine", "refused", "tried", "many")
    }
    now = time.time()
    breaker = Breaker(lambda: now, lambda: 0.5)
    refused, tried = rows["refused"].pk, rows["tried"].pk
    breaker.note_failure(refused, ErrorClass.AUTHENTICATION, [refused, "another"])
    breaker.adopt(tried, Ejection(ErrorClass.RATE_LIMIT, now - 1, 1))
    breaker.adopt(f"{rows['many'].pk}\nsome-model", Ejection(ErrorClass.SERVER, now + 5, 1))
    LIVE_STATES.connect(breaker)
    try:
        listed = console.get("/console/gateway/deployment/").content.decode()
        pages = {
            name: console.get(f"/console/gateway/deployment/{row.pk}/change/").content.decode()
            for name, row in rows.items()
        }
    finally:
        LIVE_STATES.disconnect()
    for text in ("credential refused", "cooling down", "being tried", "1 cooling down"):
        assert listed.count(f">{text}</span>") == 1
        assert text.capitalize() not in pages["fine"]
    assert "Some of its models get no calls, or one at a time: some-model." in pages["many"]
    assert "Credential refused. The upstream has refused it since " in pages["refused"]
    assert "Cooling down. It gets no calls until " in pages["refused"]
    assert "Being tried. One call at a time tries it, after errors of the class “rate limit”." in pages["tried"]
    assert "credential refused" not in console.get("/console/gateway/deployment/").content.decode()
