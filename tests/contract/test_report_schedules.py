"""Scheduled reports: made once for each time they are due, from the rows of their own organization, and sent."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.core.mail import EmailMultiAlternatives
from django.db import connection
from django.test import override_settings
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.alerts.channels import create_channel, delete_channel
from billing.alerts.delivery import TOO_LARGE, Reply, deliver_due
from billing.alerts.messages import Outgoing
from billing.models import Alert, AlertChannel, AlertDelivery, ReportFile, ReportSchedule
from billing.report_schedules import made, runs
from billing.report_schedules.runs import (
    CUT,
    LEASE,
    RUNS,
    WAITS,
    claim,
    make_and_send,
    make_due_reports,
    make_now,
    purge_files,
)
from billing.report_schedules.writes import Settings, change_schedule, create_schedule
from gateway.protocol.errors import BadRequest
from tenants.models import AuditEntry, Organization, Role
from tests.contract.bookkeeping import run_workers
from tests.contract.management import Api, People, issue_role_key
from tests.contract.own_api import ask, problem, send
from tests.contract.test_spend_report import make, roll_up

pytestmark = pytest.mark.django_db(transaction=True)
URL = "https://hooks.example/token-7f3a9c"
BODY = {"name": "spend", "group_by": "team", "period": "last_week", "frequency": "weekly"}


@pytest.fixture(autouse=True)
def every_organization() -> Iterator[None]:
    with scopes_disabled():
        yield


def organization(name: str) -> Organization:
    return Organization.objects.get_or_create(id=name, defaults={"name": name})[0]


def add_channel(owner: str | None = "acme", **fields: Any) -> AlertChannel:
    values = {"name": "ops", "kind": "webhook", "url": URL}
    place = None if owner is None else organization(owner)
    return create_channel(organization=place, **(values | fields)).channel


def add_mail(owner: str = "acme") -> AlertChannel:
    return add_channel(owner, name="mail", kind="email", url="", recipients=["ops@example.com"])


def schedule(*channels: AlertChannel, owner: str | None = "acme", **fields: Any) -> ReportSchedule:
    """A report of yesterday, every day at midnight of UTC; it is due."""
    values = {"name": "daily", "group_by": "team", "period": "yesterday", "frequency": "daily", "hour": 0}
    ids = [channel.id for channel in channels]
    place = None if owner is None else organization(owner)
    row = create_schedule(place, Settings(**(values | {"time_zone": "UTC", "channel_ids": ids} | fields)))
    make_due(row)
    return row


def make_due(row: ReportSchedule) -> None:
    past = timezone.now() - timedelta(days=1)
    ReportSchedule.objects.filter(pk=row.pk).update(next_at=past, try_at=past)
    row.refresh_from_db()


def spend(owner: str, usd: int, **fields: Any) -> None:
    """The same on each of two days: a test that runs at midnight sees one of them."""
    organization(owner)
    for age in (0, 1):
        instant = timezone.now() - timedelta(days=age)
        make(organization_id=owner, cost_pusd=usd * 10**12, started_at=instant, ended_at=instant, **fields)
    roll_up()


def deliver() -> list[Outgoing]:
    """The requests of one round, all of which are taken."""
    seen: list[Outgoing] = []

    def send_all(requests: Sequence[Outgoing]) -> Sequence[Reply]:
        seen.extend(requests)
        return [Reply(status=200, body=b"{}")] * len(requests)

    with override_settings(EMAIL_HOST="mail.example"):
        deliver_due(send_all)
    return seen


def sent_mail() -> EmailMultiAlternatives:
    [message] = mail.outbox
    return message


def test_a_due_report_is_sent_once_to_its_channels_from_the_rows_of_its_organization(api: Api, people: People) -> None:
    spend("acme", 2, team_id="research")
    spend("umbrella", 5, team_id="raccoon")
    add_channel("acme", name="another")
    row = schedule(add_channel(), add_mail())
    assert make_due_reports(60) == 1
    assert make_due_reports(60) == 0
    row.refresh_from_db()
    assert row.next_at > timezone.now() - timedelta(seconds=60)
    assert (row.try_at, row.attempts, row.error) == (row.next_at, 0, "")
    [request] = deliver()
    event = json.loads(request.body)
    assert event["type"] == "report.spend"
    assert event["data"]["cost"] == "2.000000000000"
    assert [(one["team"], one["cost"]) for one in event["data"]["rows"]] == [("research", "2.000000000000")]
    [(name, content, kind)] = sent_mail().attachments
    days = f"start_date={event['data']['start_date']}&end_date={event['data']['end_date']}"
    answer = send(api, "GET", f"reports/spend?{days}&group_by=team&format=csv", by=admin_of("acme"))
    assert content.replace("\r", "") == answer.getvalue().decode().replace("\r", "")
    assert (name, kind) == (f"spend-{event['data']['start_date']}-{event['data']['end_date']}.csv", "text/csv")
    assert (
        send(api, "GET", event["data"]["report"].removeprefix("/api/"), by=admin_of("acme", "again")).status_code == 200
    )
    assert deliver() == []


def admin_of(owner: str, name: str = "ruler") -> str:
    return issue_role_key(organization(owner), Role.ORGANIZATION_ADMIN, name)


def test_a_report_of_the_platform_tells_the_spend_of_all() -> None:
    spend("acme", 2)
    spend("umbrella", 5)
    schedule(add_channel(None), owner=None, group_by="organization")
    assert make_due_reports(60) == 1
    [request] = deliver()
    assert {one["organization"]: one["cost"][:1] for one in json.loads(request.body)["data"]["rows"]} == {
        "acme": "2",
        "umbrella": "5",
    }


def test_a_report_of_some_members_has_their_rows_and_the_measures_of_its_schedule(api: Api, people: People) -> None:
    spend("acme", 2, team_id="research", end_user="ana")
    spend("acme", 3, team_id="sales", end_user="ana")
    spend("acme", 4, team_id="research", end_user="bob")
    spend("umbrella", 5, team_id="research", end_user="ana")
    fields = {"filters": {"end_user": "ana", "team": "research"}, "measures": "latency", "group_by": "model_group"}
    schedule(add_channel(), add_mail(), **fields)
    assert make_due_reports(60) == 1
    [request] = deliver()
    data = json.loads(request.body)["data"]
    assert data["filters"] == fields["filters"]
    assert (data["cost"], [row["cost"] for row in data["rows"]]) == ("2.000000000000", ["2.000000000000"])
    assert data["duration_p95_ms"] == data["rows"][0]["duration_p95_ms"]
    assert "margin" not in data.keys() | data["rows"][0].keys()
    answer = send(api, "GET", data["report"].removeprefix("/api/"), by=admin_of("acme"))
    message = sent_mail()
    [(_name, content, _kind)] = message.attachments
    assert content.replace("\r", "") == answer.getvalue().decode().replace("\r", "")
    assert "duration_p99_ms" in content
    assert "team=research, end_user=ana" in message.body


def test_a_report_of_a_member_that_is_gone_is_empty() -> None:
    spend("acme", 2, team_id="research")
    schedule(add_channel(), filters={"team": "absent", "organization": "umbrella"})
    assert make_due_reports(60) == 1
    data = json.loads(deliver()[0].body)["data"]
    assert (data["cost"], data["rows"]) == ("0.000000000000", [])
    assert not ReportSchedule.objects.get().error


def test_the_margin_leaves_for_channels_of_the_platform_alone(api: Api, people: People) -> None:
    spend("acme", 2)
    own, foreign, admin = add_channel(None), add_channel(), admin_of("acme")
    body = {**BODY, "measures": "margin"}
    for by, place in ((admin, {}), (None, {"organization_id": "acme"})):
        caller = {} if by is None else {"by": by}
        refusal = send(api, "POST", "report-schedules", {**body, **place, "channel_ids": [foreign.id]}, **caller)
        problem(refusal, 403, "measures")
    made = ask(api, "POST", "report-schedules", {**BODY, "channel_ids": [foreign.id]}, by=admin, status=201)
    problem(send(api, "PATCH", f"report-schedules/{made['id']}", {"measures": "margin,latency"}), 403, "measures")
    row = schedule(own, owner=None, measures="margin , latency", filters={"organization": "acme"})
    assert row.measures == "latency,margin"
    assert make_due_reports(60) == 1
    data = json.loads(deliver()[0].body)["data"]
    assert (data["cost"], data["margin"], data["provider_cost"]) == ("2.000000000000", f"{0:.12f}", "2.000000000000")


def test_what_was_missed_while_no_worker_ran_is_caught_up_once() -> None:
    row = schedule(add_channel())
    ReportSchedule.objects.update(next_at=timezone.now() - timedelta(days=40))
    assert make_due_reports(60) == 1
    assert make_due_reports(60) == 0
    row.refresh_from_db()
    assert row.next_at - timezone.now() <= timedelta(days=1)
    assert Alert.objects.count() == AlertDelivery.objects.count() == 1


def test_all_that_is_due_is_made_while_there_is_time() -> None:
    channel = add_channel()
    for _ in range(3):
        schedule(channel)
    assert make_due_reports(0) == 1
    assert make_due_reports(60) == 2
    assert Alert.objects.count() == 3


@pytest.mark.only_on("postgres")
def test_workers_that_look_at_once_send_a_report_once() -> None:
    for number in range(4):
        schedule(add_channel(f"place-{number}"), owner=f"place-{number}")
    run_workers(4, lambda rng: [make_due_reports(60) for _ in range(3)] and None)
    assert Alert.objects.count() == AlertDelivery.objects.count() == 4


def test_a_worker_that_ended_leaves_its_report_for_another_and_never_sends_it_too() -> None:
    row = schedule(add_channel())
    assert claim(row, timezone.now())
    assert make_due_reports(60) == 0, "it is claimed"
    late = ReportSchedule.objects.get()
    assert timezone.now() < late.try_at <= timezone.now() + LEASE
    ReportSchedule.objects.update(try_at=timezone.now())
    assert make_due_reports(60) == 1
    make_and_send(late)
    assert Alert.objects.count() == AlertDelivery.objects.count() == 1


def test_a_report_of_settings_that_changed_while_it_was_made_is_not_sent() -> None:
    row = schedule(add_channel())
    assert claim(row, timezone.now())
    other = change_schedule(ReportSchedule.objects.get(), Settings(group_by="key"))
    make_and_send(row)
    assert not Alert.objects.exists()
    assert make_due_reports(60) == 1
    assert Alert.objects.get().data["group_by"] == other.group_by == "key"


def test_a_schedule_that_is_off_or_of_a_blocked_organization_sends_nothing() -> None:
    off = schedule(add_channel(), is_enabled=False)
    assert make_due_reports(60) == 0
    off.delete()
    schedule(add_channel())
    Organization.objects.filter(id="acme").update(blocked=True)
    assert make_due_reports(60) == 0
    Organization.objects.filter(id="acme").update(blocked=False)
    assert make_due_reports(60) == 1


def test_schedules_and_files_go_with_their_organization() -> None:
    schedule(add_channel("gone"), owner="gone")
    make_due_reports(60)
    assert ReportFile.objects.count() == 1
    Organization.objects.get(id="gone").delete()
    assert not ReportSchedule.objects.exists()
    assert not ReportFile.objects.exists()
    assert make_due_reports(60) == 0


def test_a_channel_of_another_organization_gets_nothing_though_a_schedule_names_it() -> None:
    row = schedule(add_channel())
    others = [add_channel("umbrella").id, add_channel(None).id]
    ReportSchedule.objects.filter(pk=row.pk).update(channel_ids=others)
    assert make_due_reports(60) == 1
    assert not AlertDelivery.objects.exists()


def test_a_failure_is_tried_again_and_its_channels_are_told_in_the_end() -> None:
    row = schedule(add_channel())
    ReportSchedule.objects.update(group_by="nothing")
    for number, wait in enumerate(WAITS, 1):
        ReportSchedule.objects.update(try_at=timezone.now())
        assert make_due_reports(60) == 1
        row.refresh_from_db()
        assert row.attempts == number
        assert "'group_by'" in row.error
        assert timezone.now() < row.try_at <= timezone.now() + wait
        assert make_due_reports(60) == 0
    assert not Alert.objects.exists()
    ReportSchedule.objects.update(try_at=timezone.now())
    assert make_due_reports(60) == 1
    row.refresh_from_db()
    assert (row.attempts, row.last_sent_at) == (0, None)
    assert row.next_at > timezone.now() - timedelta(seconds=60)
    assert "'group_by'" in row.error
    [request] = deliver()
    data = json.loads(request.body)["data"]
    assert data["title"] == "daily: the report could not be made"
    assert data["error"] == row.error


def test_a_report_whose_process_ends_each_time_is_given_up() -> None:
    schedule(add_channel())
    ReportSchedule.objects.update(attempts=len(WAITS) + 1)
    assert make_due_reports(60) == 1
    assert Alert.objects.get().data["error"] == CUT
    assert make_due_reports(60) == 0


def test_a_schedule_whose_time_zone_is_gone_holds_up_no_other_and_tells_its_channels() -> None:
    broken, sound = schedule(add_channel()), schedule(add_channel("umbrella"), owner="umbrella")
    ReportSchedule.objects.filter(pk=broken.pk).update(time_zone="Mars/Olympus")
    assert make_due_reports(60) == 2
    assert Alert.objects.get().organization_id == "umbrella"
    make_due(sound)
    far = timezone.now() + timedelta(days=90)
    ReportSchedule.objects.filter(pk=broken.pk).update(next_at=far, try_at=far)  # planned by a clock that was ahead
    assert make_due_reports(60) == 2
    broken.refresh_from_db()
    assert "'Mars/Olympus' is not known here" in broken.error
    ReportSchedule.objects.filter(pk=broken.pk).update(try_at=timezone.now(), attempts=len(WAITS))
    assert make_due_reports(60) == 1
    alert = Alert.objects.get(organization_id="acme")
    assert alert.title == "daily: the report could not be made"
    broken.refresh_from_db()
    assert timezone.now() < broken.next_at == broken.try_at < timezone.now() + timedelta(days=2)
    assert make_due_reports(60) == 0
    with pytest.raises(BadRequest, match="Mars/Olympus"):
        make_now(broken, timezone.now())
    change_schedule(broken, Settings(time_zone="Europe/Berlin"))
    make_due(broken)
    assert make_due_reports(60) == 1
    assert Alert.objects.filter(organization_id="acme").count() == 2


@pytest.mark.parametrize(("frequency", "days"), [("daily", 3), ("weekly", 9), ("monthly", 40)])
def test_a_clock_that_was_far_ahead_silences_no_report(frequency: str, days: int) -> None:
    row = schedule(add_channel(), frequency=frequency)
    far = timezone.now() + timedelta(days=days)
    ReportSchedule.objects.update(next_at=far, try_at=far)
    assert make_due_reports(60) == 0
    row.refresh_from_db()
    assert timezone.now() < row.next_at == row.try_at < far
    make_due(row)
    ReportSchedule.objects.update(try_at=far)
    make_due_reports(60)
    assert make_due_reports(60) == 0
    assert Alert.objects.count() == 1


def test_hostile_names_stay_texts_in_every_channel() -> None:
    spend("acme", 1, tags=json.dumps(["=cmd|'/c calc'!A1", "<!channel> a\nb"]))
    name = "daily\r\nBcc: all@example.com"
    row = schedule(add_mail(), add_channel(kind="slack"), name=name, group_by="tag")
    make_due_reports(60)
    [request] = deliver()
    text = json.loads(request.body)["text"]
    assert "&lt;!channel&gt; a b: 1.000000000000 USD" in text
    message = sent_mail()
    assert "\n" not in message.subject
    assert message.recipients() == ["ops@example.com"]
    assert "Bcc" not in message.message()
    [(_name, content, _kind)] = message.attachments
    assert "'=cmd|" in content
    assert row.name == name


def test_a_file_that_is_too_large_for_a_mail_is_named_by_its_address() -> None:
    schedule(add_mail())
    make_due_reports(60)
    ReportFile.objects.update(content=None)
    deliver()
    message = sent_mail()
    assert message.attachments == []
    assert TOO_LARGE in message.body
    assert "report: /api/reports/spend?start_date=" in message.body


def test_files_are_deleted_when_they_are_old() -> None:
    schedule(add_channel())
    make_due_reports(60)
    purge_files(timezone.now())
    assert ReportFile.objects.exists()
    purge_files(timezone.now() + timedelta(days=4))
    assert not ReportFile.objects.exists()
    assert len(deliver()) == 1, "the total is in the alert"


def test_a_file_is_deleted_when_no_delivery_waits_for_it() -> None:
    schedule(add_channel(), add_mail())
    lonely = schedule(add_channel())
    ReportSchedule.objects.filter(pk=lonely.pk).update(channel_ids=[])
    make_due_reports(60)
    assert ReportFile.objects.count() == 2
    purge_files(timezone.now())
    assert ReportFile.objects.count() == 1, "that of the report without a channel is gone"
    deliver()
    purge_files(timezone.now())
    assert not ReportFile.objects.exists()
    assert Alert.objects.count() == 2


def test_a_schedule_goes_on_without_a_channel_that_was_deleted() -> None:
    first, second = add_channel(), add_mail()
    row = schedule(first, second)
    delete_channel(first)
    row.refresh_from_db()
    assert row.channel_ids == [second.id]


# The API


def test_a_schedule_is_made_changed_run_and_deleted_and_audited(api: Api, people: People) -> None:
    channel = add_channel(people.home.id)
    Organization.objects.filter(pk=people.home.pk).update(time_zone="Asia/Kathmandu")
    by = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    made = ask(api, "POST", "report-schedules", {**BODY, "channel_ids": [channel.id]}, by=by, status=201)
    expected = {"tz": "Asia/Kathmandu", "format": "csv", "weekday": "monday", "day": None, "hour": 8, "error": ""}
    assert made.items() >= (expected | BODY).items()
    assert made["organization_id"] == people.home.id
    path = f"report-schedules/{made['id']}"
    changed = ask(api, "PATCH", path, {"frequency": "monthly", "day": 31, "hour": 0, "tz": "UTC"}, by=by)
    assert (changed["weekday"], changed["day"], changed["hour"]) == (None, 31, 0)
    assert changed["next_at"] != made["next_at"]
    renamed = ask(api, "PATCH", path, {"name": "other"}, by=by)
    assert (renamed["name"], renamed["next_at"]) == ("other", changed["next_at"])
    narrow = {"filters": {"status": "failure", "team": "red"}, "measures": "latency"}
    assert ask(api, "PATCH", path, narrow, by=by).items() >= (narrow | {"next_at": changed["next_at"]}).items()
    assert ask(api, "PATCH", path, {"filters": {}, "measures": ""}, by=by)["filters"] == {}
    assert ask(api, "PATCH", path, {"is_enabled": False}, by=by)["next_at"] is None
    alert = ask(api, "POST", f"{path}/run", by=by, status=202)
    assert (alert["kind"], alert["details"]["schedule"]) == ("report.spend", "other")
    [row] = ask(api, "GET", f"alert-deliveries?alert_id={alert['id']}", by=by)["data"]
    assert row["channel_id"] == channel.id
    assert [one["id"] for one in ask(api, "GET", "report-schedules", by=by)["data"]] == [made["id"]]
    ask(api, "DELETE", path, by=by, status=204)
    problem(send(api, "GET", path, by=by), 404, "report_schedule_id")
    acts = AuditEntry.objects.filter(object_type="reportschedule").order_by("id").values_list("action", flat=True)
    assert list(acts) == ["create", *["update"] * 5, "delete"]


def test_a_creation_that_is_sent_twice_makes_one_schedule(api: Api, people: People) -> None:
    body = {**BODY, "channel_ids": [add_channel(None).id]}
    for _ in range(2):
        assert send(api, "POST", "report-schedules", body, **{"Idempotency-Key": "once"}).status_code == 201
    assert ReportSchedule.objects.count() == 1
    assert ReportSchedule.objects.get().organization_id is None


def test_a_run_makes_its_report_outside_of_the_transaction_of_its_key(
    api: Api, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite a transaction keeps all other writers waiting, and a report may take a minute."""
    row = schedule(add_channel())
    seen: list[bool] = []

    def watch(*arguments: Any, **options: Any) -> Any:
        seen.append(connection.in_atomic_block)
        return made.make(*arguments, **options)

    monkeypatch.setattr(runs, "make", watch)
    path = f"report-schedules/{row.id}/run"
    answers = [send(api, "POST", path, **{"Idempotency-Key": "once"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[1]["idempotent-replayed"] == "true"
    assert answers[1].json() == answers[0].json()
    assert seen
    assert not any(seen)
    assert Alert.objects.count() == AlertDelivery.objects.count() == 1
    problem(send(api, "POST", path, {"channel_ids": []}), 400, "channel_ids")
    problem(send(api, "POST", "report-schedules/absent/run"), 404, "report_schedule_id")


def test_runs_on_demand_are_limited_for_each_organization(api: Api, people: People) -> None:
    row, other = schedule(add_channel()), schedule(add_channel("umbrella"), owner="umbrella")
    for _ in range(RUNS):
        ask(api, "POST", f"report-schedules/{row.id}/run", status=202)
    refusal = send(api, "POST", f"report-schedules/{row.id}/run")
    problem(refusal, 429, None, "too_many_runs")
    assert refusal["Retry-After"] == "600"
    ask(api, "POST", f"report-schedules/{other.id}/run", status=202)
    assert make_due_reports(60) == 2, "its plan stays"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"group_by": "nothing"}, "group_by"),
        ({"group_by": "team,team"}, "group_by"),
        ({"tz": "Atlantis/Poseidonis"}, "tz"),
        ({"period": "tomorrow"}, "period"),
        ({"format": "focus"}, "format"),
        ({"frequency": "hourly"}, "frequency"),
        ({"weekday": "someday"}, "weekday"),
        ({"day": 1}, "day"),
        ({"frequency": "monthly", "day": 32}, "day"),
        ({"frequency": "monthly", "weekday": "monday"}, "weekday"),
        ({"hour": 24}, "hour"),
        ({"hour": -1}, "hour"),
        ({"channel_ids": []}, "channel_ids"),
        ({"channel_ids": ["absent"]}, "channel_ids"),
        ({"channel_ids": ["foreign"]}, "channel_ids"),
        ({"channel_ids": ["platform"]}, "channel_ids"),
        ({"channel_ids": [str(number) for number in range(11)]}, "channel_ids"),
        ({"next_at": "2026-01-01T00:00:00Z"}, "next_at"),
        ({"filters": {"colour": "red"}}, "filters.colour"),
        ({"filters": {"day": "2026-11-01"}}, "filters.day"),
        ({"filters": {"status": "maybe"}}, "filters.status"),
        ({"filters": {"team": ""}}, "filters.team"),
        ({"filters": {"team": "red\0"}}, "filters"),
        ({"filters": {"team": ["red", "blue"]}}, "filters.team"),
        ({"filters": ["team"]}, "filters"),
        ({"measures": "speed"}, "measures"),
    ],
)
def test_a_wrong_schedule_is_refused_by_its_field(api: Api, people: People, change: Any, param: str) -> None:
    channels = {"own": add_channel().id, "foreign": add_channel("umbrella").id, "platform": add_channel(None).id}
    by = admin_of("acme")
    if "channel_ids" in change:
        change = {"channel_ids": [channels.get(name, name) for name in change["channel_ids"]]}
    body = {**BODY, "channel_ids": [channels["own"]]}
    problem(send(api, "POST", "report-schedules", {**body, **change}, by=by), 400, param)
    assert not ReportSchedule.objects.exists()
    made = ask(api, "POST", "report-schedules", body, by=by, status=201)
    problem(send(api, "PATCH", f"report-schedules/{made['id']}", change, by=by), 400, param)
