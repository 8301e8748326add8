"""The console's pages of alerts: channels, scheduled reports and deliveries, by the rights of the API."""

import re
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.alerts.channels import create_channel
from billing.alerts.record import TESTS_OF_CHANNEL, NewAlert, record_alert, send_test
from billing.models import Alert, AlertChannel, AlertDelivery, AlertKind, ReportSchedule
from billing.report_schedules.writes import Settings, create_schedule
from tenants.models import AuditEntry, Organization, Role, User
from tests.contract.management import People

pytestmark = pytest.mark.django_db
LIST, NEW_CHANNEL, NEW_REPORT = "/console/alerts/", "/console/alerts/channels/new/", "/console/alerts/reports/new/"
URL = "https://hooks.example/token-7f3a9c"
CHANNEL = {"name": "on call", "kind": "webhook", "url": URL, "is_enabled": "on"}
REPORT = {
    "name": "weekly spend",
    "period": "last_week",
    "group_first": "team",
    "group_second": "model_group",
    "format": "xlsx",
    "frequency": "weekly",
    "weekday": "friday",
    "day": "5",
    "hour": "7",
    "time_zone": "Europe/Berlin",
    "is_enabled": "on",
}


def enter(client: Client, role: Role | None, people: People) -> Client:
    user = (
        User.objects.create_superuser("root", password="correct horse battery")
        if role is None
        else User.objects.create(username=role.value, role=role, organization=people.home)
    )
    client.force_login(user)
    return client


def add_channel(place: Organization | None, name: str = "ops", **fields: Any) -> AlertChannel:
    with scopes_disabled():
        values = {"kind": "webhook", "url": URL} | fields
        return create_channel(organization=place, name=name, **values).channel


def add_schedule(place: Organization | None, channel: AlertChannel) -> ReportSchedule:
    with scopes_disabled():
        ids = [channel.id]
        return create_schedule(place, Settings("daily", "team", "yesterday", frequency="daily", channel_ids=ids))


def fill(client: Client, path: str, **fields: Any) -> Any:
    """The answer to the form of a page."""
    page = client.get(path).content.decode()
    nonces = re.findall(r'name="issue_nonce" value="([^"]+)"', page)
    return client.post(path, {**fields, **({"issue_nonce": nonces[0]} if nonces else {})})


def told(answer: Any) -> list[str]:
    return [str(message) for message in get_messages(answer.wsgi_request)]


def test_an_admin_adds_a_webhook_whose_secret_is_shown_once(client: Client, people: People) -> None:
    enter(client, Role.ORGANIZATION_ADMIN, people)
    answer = fill(client, NEW_CHANNEL, **CHANNEL, organization=people.abroad.id)
    [secret] = re.findall(r"whsec_[A-Za-z0-9+/=]+", answer.content.decode())
    assert "no-store" in answer["Cache-Control"]
    with scopes_disabled():
        channel = AlertChannel.objects.get()
    assert channel.organization_id == people.home.id, "whatever the form says"
    assert client.post(NEW_CHANNEL, {**CHANNEL, "issue_nonce": "used"}).status_code == 302
    with scopes_disabled():
        assert AlertChannel.objects.count() == 1
        assert AuditEntry.objects.filter(object_type="alertchannel", actor=Role.ORGANIZATION_ADMIN.value).exists()
    pages = [client.get(LIST), client.get(f"/console/alerts/channels/{channel.id}/")]
    for page in pages:
        text = page.content.decode()
        assert secret not in text
        assert "token-7f3a9c" not in text
        assert "https://hooks.example/…" in text


def test_a_channel_is_changed_rotated_and_deleted(client: Client, people: People) -> None:
    enter(client, Role.ORGANIZATION_ADMIN, people)
    channel = add_channel(people.home)
    path = f"/console/alerts/channels/{channel.id}/"
    sealed = channel.credential
    fill(client, path, name="renamed", alert_kinds=["spend.spike"])
    with scopes_disabled():
        channel.refresh_from_db()
    assert (channel.name, channel.alert_kinds, channel.is_enabled) == ("renamed", ["spend.spike"], False)
    assert channel.credential == sealed, "an empty address stays as it is"
    answer = fill(client, path, name="renamed", url="ftp://a.example")
    assert "Must be an http or https address" in answer.content.decode()
    assert "whsec_" in fill(client, path, action="rotate").content.decode()
    assert "whsec_" not in client.post(path, {"action": "rotate", "issue_nonce": "used"}).content.decode()
    client.post(path, {"action": "delete"})
    with scopes_disabled():
        assert not AlertChannel.objects.exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"url": "ftp://a.example"}, "Must be an http or https address"),
        ({"kind": "email", "url": ""}, "Must be 1 to 20 addresses"),
        ({"kind": "slack", "secret": "mine"}, "has none"),
        ({"name": ""}, "This field is required"),
    ],
)
def test_a_wrong_channel_is_told_at_its_field(client: Client, people: People, change: Any, text: str) -> None:
    enter(client, None, people)
    answer = fill(client, NEW_CHANNEL, **{**CHANNEL, **change})
    assert answer.status_code == 200
    assert text in answer.content.decode()
    with scopes_disabled():
        assert not AlertChannel.objects.exists()


def test_a_rotation_that_cannot_be_is_told(client: Client, people: People) -> None:
    enter(client, None, people)
    channel = add_channel(people.home, kind="slack")
    path = f"/console/alerts/channels/{channel.id}/"
    with scopes_disabled():
        nonce = re.findall(r'name="issue_nonce" value="([^"]+)"', client.get(NEW_CHANNEL).content.decode())[0]
    answer = client.post(path, {"action": "rotate", "issue_nonce": nonce})
    assert "only a webhook" in told(answer)[0]


def test_a_test_is_sent_and_its_limit_told(client: Client, people: People) -> None:
    enter(client, Role.ORGANIZATION_ADMIN, people)
    path = f"/console/alerts/channels/{add_channel(people.home).id}/"
    for _ in range(TESTS_OF_CHANNEL):
        assert "on its way" in told(client.post(path, {"action": "test"}))[-1]
    assert "At most 5 tests" in told(client.post(path, {"action": "test"}))[-1]
    text = client.get(LIST).content.decode()
    assert text.count("A test of the alert channel ops") == TESTS_OF_CHANNEL


def test_a_report_is_scheduled_changed_sent_and_deleted(client: Client, people: People) -> None:
    enter(client, Role.ORGANIZATION_ADMIN, people)
    channel = add_channel(people.home)
    assert client.post(NEW_REPORT, {**REPORT, "channels": [channel.id]}).status_code == 302
    with scopes_disabled():
        row = ReportSchedule.objects.get()
    assert (row.organization_id, row.group_by, row.weekday, row.day) == (
        people.home.id,
        "team,model_group",
        "friday",
        None,
    )
    assert "Every week, Friday 07:00 Europe/Berlin" in client.get(LIST).content.decode()
    path = f"/console/alerts/reports/{row.id}/"
    monthly = {**REPORT, "frequency": "monthly", "day": "31", "group_second": "", "channels": [channel.id]}
    assert client.post(path, monthly).status_code == 302
    assert "Every month, day 31 07:00 Europe/Berlin" in client.get(LIST).content.decode()
    narrow = {**monthly, "filters": "team = red\r\n\r\nstatus=failure", "measures": "latency"}
    assert client.post(path, narrow).status_code == 302
    row.refresh_from_db()
    assert (row.filters, row.measures) == ({"team": "red", "status": "failure"}, "latency")
    assert "team=red\nstatus=failure" in client.get(path).content.decode()
    assert "on its way" in told(client.post(path, {"action": "run"}))[-1]
    with scopes_disabled():
        assert AlertDelivery.objects.get().channel_id == channel.id
    client.post(path, {"action": "delete"})
    with scopes_disabled():
        assert not ReportSchedule.objects.exists()


def test_a_report_that_goes_nowhere_is_told(client: Client, people: People) -> None:
    enter(client, Role.ORGANIZATION_ADMIN, people)
    row = add_schedule(people.home, add_channel(people.home))
    with scopes_disabled():
        AlertChannel.objects.update(is_enabled=False)
    answer = client.post(f"/console/alerts/reports/{row.id}/", {"action": "run"})
    assert "none of its channels is enabled" in told(answer)[-1]
    with scopes_disabled():
        assert not AlertDelivery.objects.exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"time_zone": "Atlantis/Poseidonis"}, "must be the name of a time zone"),
        ({"group_second": "team"}, "must not have a dimension twice"),
        ({"channels": []}, "Must be 1 to 10 alert channels"),
        ({"hour": "24"}, "less than or equal to 23"),
        ({"filters": "colour=red"}, "is none of organization"),
        ({"filters": "team=red\nteam=blue"}, "has one member of team"),
        ({"filters": "team"}, "write it as"),
        ({"measures": "margin"}, "not one of the available choices"),
    ],
)
def test_a_wrong_schedule_is_told_at_its_field(client: Client, people: People, change: Any, text: str) -> None:
    enter(client, Role.ORGANIZATION_ADMIN, people)
    answer = client.post(NEW_REPORT, {**REPORT, "channels": [add_channel(people.home).id], **change})
    assert answer.status_code == 200
    assert text in answer.content.decode()
    with scopes_disabled():
        assert not ReportSchedule.objects.exists()


def test_a_platform_admin_makes_those_of_the_platform_and_of_any_organization(client: Client, people: People) -> None:
    enter(client, None, people)
    for owner in ("", people.abroad.id):
        fill(client, NEW_CHANNEL, **{**CHANNEL, "kind": "slack"}, organization=owner)
    with scopes_disabled():
        channels = {channel.organization_id: channel.id for channel in AlertChannel.objects.all()}
    assert channels.keys() == {None, people.abroad.id}
    crossed = client.post(NEW_REPORT, {**REPORT, "channels": [channels[None]], "organization": people.abroad.id})
    assert "Choose among the channels that stand here" in crossed.content.decode()
    assert [pk for pk, _name in crossed.context["form"].fields["channels"].choices] == [channels[people.abroad.id]]
    client.post(NEW_REPORT, {**REPORT, "channels": [channels[people.abroad.id]], "organization": people.abroad.id})
    with scopes_disabled():
        assert ReportSchedule.objects.get().organization_id == people.abroad.id


def test_the_form_of_a_platform_admin_has_all_channels_of_one_owner(client: Client, people: People) -> None:
    with scopes_disabled():
        for number in range(12):
            place = Organization.objects.create(id=f"place-{number:02d}", name=f"Place {number:02d}")
            AlertChannel.objects.bulk_create(
                AlertChannel(id=f"c-{number:02d}-{one:02d}", organization=place, name="c", kind="webhook")
                for one in range(20)
            )
    platform, last = add_channel(None).id, [f"c-11-{one:02d}" for one in range(20)]
    enter(client, None, people)

    def choices(answer: Any) -> list[str]:
        return sorted(pk for pk, _name in answer.context["form"].fields["channels"].choices)

    assert choices(client.get(NEW_REPORT)) == [platform]
    assert choices(client.get(NEW_REPORT, {"organization": "place-11"})) == last
    asked = client.post(NEW_REPORT, {**REPORT, "name": "kept", "organization": "place-11", "show_channels": "1"})
    assert choices(asked) == last
    page = asked.content.decode()
    assert 'value="kept"' in page
    assert '<option value="place-11" selected>' in page
    assert asked.context["form"]["is_enabled"].value() is True
    off = {name: value for name, value in REPORT.items() if name != "is_enabled"} | {"show_channels": "1"}
    assert client.post(NEW_REPORT, off).context["form"]["is_enabled"].value() is False
    assert 'role="alert"' not in page
    for owner in ("absent", "a\0b", "x" * 300):
        assert choices(client.post(NEW_REPORT, {**REPORT, "organization": owner, "show_channels": "1"})) == []
    with scopes_disabled():
        assert not ReportSchedule.objects.exists()
    answer = client.post(NEW_REPORT, {**REPORT, "organization": "place-11", "channels": last[-1:]})
    assert answer.status_code == 302
    with scopes_disabled():
        assert ReportSchedule.objects.get().channel_ids == last[-1:]


def test_who_chooses_no_owner_gets_the_channels_of_the_own_organization(client: Client, people: People) -> None:
    own, foreign = add_channel(people.home), add_channel(people.abroad, "theirs")
    enter(client, Role.ORGANIZATION_ADMIN, people)
    for answer in (
        client.get(NEW_REPORT, {"organization": people.abroad.id}),
        client.post(NEW_REPORT, {**REPORT, "organization": people.abroad.id, "show_channels": "1"}),
    ):
        assert [pk for pk, _name in answer.context["form"].fields["channels"].choices] == [own.id]
        assert "show_channels" not in answer.content.decode()
    client.post(NEW_REPORT, {**REPORT, "channels": [foreign.id]})
    with scopes_disabled():
        assert not ReportSchedule.objects.exists()


@pytest.mark.parametrize("role", [Role.BILLING_VIEWER, Role.PLATFORM_VIEWER])
def test_a_viewer_reads_and_changes_nothing(client: Client, people: People, role: Role) -> None:
    channel = add_channel(people.home)
    row = add_schedule(people.home, channel)
    enter(client, role, people)
    text = client.get(LIST).content.decode()
    assert "ops" in text
    assert 'value="test"' not in text
    assert 'value="run"' not in text
    for path in (
        NEW_CHANNEL,
        NEW_REPORT,
        f"/console/alerts/channels/{channel.id}/",
        f"/console/alerts/reports/{row.id}/",
    ):
        assert client.get(path).status_code == 403, path
        assert client.post(path, {"action": "delete"}).status_code == 403, path


def test_a_tenant_sees_its_own_alone(client: Client, people: People) -> None:
    foreign, platform = add_channel(people.abroad, "theirs"), add_channel(None, "the platform's")
    own = add_channel(people.home, "ours")
    schedules = [add_schedule(people.abroad, foreign), add_schedule(None, platform)]
    with scopes_disabled():
        for place in (people.home, people.abroad):
            alert = NewAlert(AlertKind.SPIKE, place.id, f"a spike of {place.id}", place.id)
            record_alert(alert, timezone.now())
    enter(client, Role.ORGANIZATION_ADMIN, people)
    answer = client.get(LIST)
    assert [channel.id for channel in answer.context["channels"]] == [own.id]
    assert [one.schedule.id for one in answer.context["schedules"]] == []
    [alert] = answer.context["alerts"]
    assert [one.channel for one in alert.deliveries] == ["ours"], "not the platform's"
    choices = client.get(NEW_REPORT).context["form"].fields["channels"].choices
    assert [pk for pk, _name in choices] == [own.id]
    for path in (
        *(f"/console/alerts/channels/{channel.id}/" for channel in (foreign, platform)),
        *(f"/console/alerts/reports/{row.id}/" for row in schedules),
        "/console/alerts/channels/absent/",
        "/console/alerts/reports/%00/",
    ):
        for action in ("", "test", "run", "rotate", "delete"):
            assert client.post(path, {"action": action}).status_code == 404, (path, action)
    with scopes_disabled():
        assert AlertChannel.objects.count() == 3
        assert ReportSchedule.objects.count() == 2


def test_alerts_are_paged_and_filtered_by_the_state_of_their_deliveries(client: Client, people: People) -> None:
    channel = add_channel(people.home)
    with scopes_disabled():
        for number in range(60):
            record_alert(NewAlert(AlertKind.SPIKE, str(number), f"spike {number}", people.home.id), timezone.now())
        failed = Alert.objects.get(key="3")
        AlertDelivery.objects.filter(alert=failed).update(state="failed", error="status 500", attempts=8)
    enter(client, Role.ORGANIZATION_ADMIN, people)
    first = client.get(LIST)
    assert len(first.context["alerts"]) == 50
    second = client.get(f"{LIST}{first.context['older']}")
    assert [one.alert.title for one in second.context["alerts"]] == [f"spike {number}" for number in range(9, -1, -1)]
    assert second.context["older"] == ""
    [only] = client.get(LIST, {"state": "failed"}).context["alerts"]
    assert only.alert.id == failed.id
    assert [(one.channel, one.error) for one in only.deliveries] == [(channel.name, "status 500")]
    for odd in ({"state": "'"}, {"before": "\0"}, {"before": "z" * 500}, {"state": "\0"}):
        assert client.get(LIST, odd).status_code == 200, odd


def test_the_list_costs_the_same_queries_for_many_rows(
    client: Client, people: People, django_assert_max_num_queries: Any
) -> None:
    enter(client, None, people)
    for number in range(20):
        channel = add_channel(people.home, f"ops-{number}")
        add_schedule(people.home, channel)
        with scopes_disabled():
            send_test(channel, timezone.now())
    with django_assert_max_num_queries(20):
        assert client.get(LIST).status_code == 200
