"""Alerts: found once, sent to the channels that may hear of them, again after failures; and their API."""

import json
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from smtplib import SMTPServerDisconnected
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend as LocMail
from django.test import override_settings
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.alerts.channels import create_channel
from billing.alerts.delivery import BATCH, CUT, LEASE, OF_ORGANIZATION, UNDER_WAY, WAITS, Reply, deliver_due
from billing.alerts.find import (
    MAX_UNPRICED,
    find_budget_alerts,
    find_pricing_lag,
    find_refused_credentials,
    find_spikes,
    find_unpriced_alerts,
)
from billing.alerts.messages import Outgoing, sign
from billing.alerts.record import TESTS_OF_CHANNEL, TESTS_OF_ORGANIZATION, NewAlert, purge_alerts, record_alerts
from billing.models import Alert, AlertChannel, AlertDelivery, AlertKind, SpendLog, UsageHour
from gateway.protocol.amounts import PUSD
from gateway.server.alert_sender import send_all
from tenants.encryption import encrypt
from tenants.models import AuditEntry, Budget, BudgetWindow, Organization, Role, Scope
from tests.contract.bookkeeping import run_workers
from tests.contract.management import Api, People, issue_role_key
from tests.contract.own_api import ask, problem, send
from tests.contract.test_spend_report import make

pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 11, 10, tzinfo=UTC)
URL = "https://hooks.example/token-7f3a9c"


@pytest.fixture(autouse=True)
def every_organization() -> Iterator[None]:
    with scopes_disabled():
        yield


def organization(name: str) -> Organization:
    return Organization.objects.get_or_create(id=name, defaults={"name": name})[0]


def open_window(
    spent: int, limit: int | None, owner: str = "acme", soft: int | None = None, **fields: Any
) -> BudgetWindow:
    """A window of November, of a budget in dollars."""
    budget = Budget.objects.create(
        organization=organization(owner),
        scope=Scope.TEAM,
        scope_id=f"team-{Budget.objects.count()}",
        duration="1mo",
        limit_pusd=None if limit is None else limit * PUSD,
        soft_limit_pusd=None if soft is None else soft * PUSD,
    )
    values = {"starts_at": datetime(2026, 11, 1, tzinfo=UTC), "ends_at": datetime(2026, 12, 1, tzinfo=UTC)}
    return BudgetWindow.objects.create(
        budget=budget, scope=budget.scope, scope_id=budget.scope_id, settled_pusd=spent * PUSD, **(values | fields)
    )


def add_channel(owner: str | None = None, **fields: Any) -> AlertChannel:
    values = {"name": "ops", "kind": "slack", "url": URL}
    place = None if owner is None else organization(owner)
    return create_channel(organization=place, **(values | fields)).channel


def titles() -> list[str]:
    return sorted(AlertDelivery.objects.values_list("alert__title", flat=True))


def look(now: datetime = NOW) -> int:
    return record_alerts(find_budget_alerts(now), now)


def deliver(*replies: Reply) -> list[Outgoing]:
    """One round; the requests that it made."""
    seen: list[Outgoing] = []

    def send_all(requests: Sequence[Outgoing]) -> Sequence[Reply]:
        seen.extend(requests)
        return replies

    deliver_due(send_all)
    return seen


def make_due() -> None:
    AlertDelivery.objects.filter(state="pending").update(next_at=timezone.now() - timedelta(seconds=1))


def test_a_threshold_alerts_once_and_only_the_highest_that_was_passed() -> None:
    add_channel()
    window = open_window(spent=1, limit=10)
    assert look() == 0
    window.settled_pusd = 8 * PUSD
    window.save()
    assert look() == 3, "80 % is sent, 50 % is noted, and the pace passes the limit"
    assert titles() == [
        "The budget of team team-0 has reached 80 % of its limit",
        "The budget of team team-0 will pass its limit before 2026-12-01 00:00 UTC at this pace",
    ]
    assert look() == 0
    window.settled_pusd = 10 * PUSD
    window.save()
    assert look() == 2
    assert titles()[0] == "The budget of team team-0 has reached 100 % of its limit"


def test_a_window_that_is_over_a_credit_and_a_missing_limit_alert_nothing() -> None:
    add_channel()
    open_window(10, 10, starts_at=datetime(2026, 10, 1, tzinfo=UTC), ends_at=datetime(2026, 11, 1, tzinfo=UTC))
    open_window(10, 10, credit_pusd=10 * PUSD)
    open_window(10, None)
    assert look() == 0


def test_a_soft_limit_alerts() -> None:
    add_channel()
    open_window(3, None, soft=2)
    assert look() == 1
    assert titles() == ["The budget of team team-0 has reached its soft limit"]


def test_a_tenant_hears_of_its_own_budgets_and_the_platform_of_all() -> None:
    own, other, platform = add_channel("acme"), add_channel("umbrella"), add_channel()
    add_channel("acme", alert_kinds=["spend.spike"])
    add_channel("acme", name="off").delete()
    open_window(10, 10, owner="acme")
    look()
    reached = set(AlertDelivery.objects.values_list("channel_id", flat=True))
    assert reached == {own.id, platform.id}
    assert other.id not in reached


@pytest.mark.only_on("postgres")
def test_two_processes_that_look_at_once_write_an_alert_once() -> None:
    add_channel()
    for _ in range(5):
        open_window(10, 10)
    run_workers(4, lambda rng: [look() for _ in range(3)] and None)
    assert Alert.objects.count() == 5 * 4
    assert AlertDelivery.objects.count() == 5


def test_the_spend_of_an_hour_far_above_the_usual_alerts() -> None:
    add_channel("acme")
    place = organization("acme")
    hour = NOW - timedelta(hours=1)

    def spend(at: datetime, usd: int) -> None:
        names = {
            "team_id": "t",
            "user_id": "u",
            "key_id": "k",
            "model_group": "m",
            "provider": "p",
            "deployment_id": "d",
        }
        UsageHour.objects.create(hour=at, organization=place, requests=1, cost_pusd=usd * PUSD, **names)

    for age in range(1, 41):
        spend(hour - timedelta(hours=age), 2)
    assert list(find_spikes(NOW)) == []
    spend(hour, 7)
    assert list(find_spikes(NOW)) == [], "less than four times as much"
    UsageHour.objects.filter(hour=hour).update(cost_pusd=9 * PUSD)
    [found] = find_spikes(NOW)
    assert (found.organization_id, found.data["spent_usd"]) == ("acme", "9.000000000000")
    assert record_alerts([found], NOW) == 1
    assert record_alerts(find_spikes(NOW), NOW) == 0


def test_the_spend_of_a_deleted_organization_holds_no_other_alert_up() -> None:
    names = {"team_id": "t", "user_id": "u", "key_id": "k", "model_group": "m", "provider": "p", "deployment_id": "d"}
    for age in range(1, 41):
        usd = 9 if age == 1 else 1
        at = NOW - timedelta(hours=age)
        UsageHour.objects.create(hour=at, organization_id="gone", requests=1, cost_pusd=usd * PUSD, **names)
    assert list(find_spikes(NOW)) == []


def test_names_that_callers_chose_hide_no_deployment_without_a_price() -> None:
    now = timezone.now()
    for number in range(MAX_UNPRICED + 1):
        row = {"deployment_id": "d-1", "model_group": f"any-{number}", "upstream_model": f"any-{number}"}
        make(state="unpriced", cost_pusd=None, started_at=now, **row)
    make(state="unpriced", cost_pusd=None, started_at=now, deployment_id="d-2")
    assert sorted(one.data["deployment_id"] for one in find_unpriced_alerts(now)) == ["d-1", "d-2"]


def test_calls_without_a_price_alert_the_platform_once_a_day_for_each_deployment() -> None:
    add_channel()
    now = timezone.now()
    for number in range(3):
        make(state="unpriced", cost_pusd=None, started_at=now, deployment_id="d-1", upstream_model=f"m-{number}")
    found = list(find_unpriced_alerts(now))
    assert [(one.kind, one.organization_id) for one in found] == [(AlertKind.UNPRICED, None)]
    assert record_alerts(found, now) == 1
    assert record_alerts(find_unpriced_alerts(now), now) == 0


def test_a_refused_credential_alerts_the_platform_once_a_day_for_each_deployment() -> None:
    add_channel()
    now = timezone.now()
    refused = {"cost_pusd": 0, "error_code": "upstream_auth_failed", "status_code": 502, "finish": "upstream_error"}
    for _ in range(2):
        make(**refused, started_at=now, deployment_id="d-1")
    make(**refused, started_at=now - timedelta(hours=1), deployment_id="d-old")
    make(started_at=now, deployment_id="d-well")
    [found] = find_refused_credentials(now)
    assert (found.kind, found.organization_id, found.data["deployment_id"]) == (AlertKind.CREDENTIAL, None, "d-1")
    assert record_alerts([found], now) == 1
    assert record_alerts(find_refused_credentials(now), now) == 0


def test_rows_that_wait_long_for_their_cost_alert_the_platform() -> None:
    now = timezone.now()
    row = make(state="metered", cost_pusd=None, started_at=now, ended_at=now)
    assert list(find_pricing_lag(now)) == []
    SpendLog.objects.filter(pk=row.pk).update(ended_at=now - timedelta(minutes=11))
    [found] = find_pricing_lag(now)
    assert (found.kind, found.data["minutes"]) == (AlertKind.PRICING_LAG, 11)


# Deliveries


def alert_now(key: str = "k") -> None:
    record_alerts([NewAlert(AlertKind.BUDGET, key, "a title", None, {"spent_usd": "1"})], timezone.now())


def test_a_failure_is_tried_again_with_the_same_id_until_it_is_delivered() -> None:
    add_channel(kind="webhook")
    alert_now()
    make_due()
    [first] = deliver(Reply(status=500))
    row = AlertDelivery.objects.get()
    assert (row.state, row.attempts, row.status_code, row.error) == ("pending", 1, 500, "status 500")
    assert deliver(Reply(status=200)) == [], "not before its time"
    make_due()
    [second] = deliver(Reply(status=204))
    assert second.headers["webhook-id"] == first.headers["webhook-id"] == row.id
    row.refresh_from_db()
    assert (row.state, row.attempts, row.error) == ("delivered", 2, "")
    make_due()
    assert deliver() == []


@pytest.mark.parametrize("reply", [Reply(error="no connection"), Reply(status=302), Reply(status=200, body=b"{")])
def test_a_delivery_fails_after_its_last_attempt(reply: Reply) -> None:
    add_channel(kind="wecom")
    alert_now()
    for _ in range(len(WAITS) + 1):
        make_due()
        assert len(deliver(reply)) == 1
    row = AlertDelivery.objects.get()
    assert (row.state, row.attempts) == ("failed", len(WAITS) + 1)
    assert row.error


def test_a_receiver_that_is_gone_is_not_asked_again() -> None:
    add_channel(kind="webhook")
    alert_now()
    make_due()
    deliver(Reply(status=410))
    assert AlertDelivery.objects.get().state == "failed"


def test_a_process_that_ends_while_it_sends_leaves_the_delivery_for_another_one() -> None:
    add_channel()
    alert_now()
    make_due()
    with pytest.raises(KeyboardInterrupt):
        deliver_due(die)
    assert deliver() == [], "it is claimed"
    row = AlertDelivery.objects.get()
    assert timezone.now() < row.next_at <= timezone.now() + LEASE
    make_due()
    assert len(deliver(Reply(status=200))) == 1


def die(requests: Sequence[Outgoing]) -> Sequence[Reply]:
    raise KeyboardInterrupt


def test_an_attempt_whose_process_ended_is_counted_and_the_last_one_is_the_end() -> None:
    add_channel(kind="webhook")
    alert_now()
    for number in range(1, len(WAITS) + 2):
        make_due()
        with pytest.raises(KeyboardInterrupt):
            deliver_due(die)
        row = AlertDelivery.objects.get()
        assert (row.state, row.attempts, row.error) == ("pending", number, UNDER_WAY)
    make_due()
    assert deliver() == []
    row.refresh_from_db()
    assert (row.state, row.attempts, row.error) == ("failed", len(WAITS) + 1, CUT)
    assert row.ended_at is not None


def test_the_waiting_deliveries_of_one_organization_hold_up_no_other() -> None:
    add_channel("acme", name="slow")
    for number in range(3 * BATCH):
        record_alerts([NewAlert(AlertKind.SPIKE, f"acme-{number}", "a title", "acme")], timezone.now())
    make_due()
    add_channel("umbrella", name="other")
    add_channel(name="platform", alert_kinds=["pricing.lag"])
    record_alerts([NewAlert(AlertKind.SPIKE, "umbrella", "a title", "umbrella")], timezone.now())
    record_alerts([NewAlert(AlertKind.PRICING_LAG, "platform", "a title")], timezone.now())
    sent = deliver(*[Reply(status=200)] * (OF_ORGANIZATION + 2))
    assert len(sent) == OF_ORGANIZATION + 2
    delivered = AlertDelivery.objects.filter(state="delivered").order_by("channel__name")
    assert list(delivered.values_list("channel__name", flat=True).distinct()) == ["other", "platform", "slow"]
    for _ in range(3 * BATCH // OF_ORGANIZATION - 1):
        assert len(deliver(*[Reply(status=200)] * OF_ORGANIZATION)) == OF_ORGANIZATION
    assert deliver() == []


@pytest.mark.only_on("postgres")
def test_two_workers_send_a_delivery_once() -> None:
    for number in range(3):
        add_channel(name=f"ops-{number}")
    alert_now()
    make_due()
    sent: list[Outgoing] = []

    def send_all(requests: Sequence[Outgoing]) -> Sequence[Reply]:
        sent.extend(requests)
        return [Reply(status=200)] * len(requests)

    run_workers(4, lambda rng: deliver_due(send_all) and None)
    assert len(sent) == 3


def test_mail_goes_by_one_connection_and_names_a_missing_server() -> None:
    add_channel(kind="email", url="", recipients=["ops@example.com"])
    alert_now("first")
    make_due()
    deliver()
    assert AlertDelivery.objects.get().error == "TOLLGATE_SMTP_URL is not set"
    make_due()
    with override_settings(EMAIL_HOST="mail.example"):
        deliver()
    [sent] = mail.outbox
    assert (sent.to, sent.subject) == (["ops@example.com"], "a title")
    assert "spent_usd: 1" in sent.body


def test_a_mail_that_cannot_be_written_holds_no_other_delivery_up() -> None:
    broken = add_channel(kind="email", name="broken", url="", recipients=["ops@example.com"])
    broken.credential = encrypt({"for": broken.id, "values": {"recipients": ["ops\n@example.com"]}})
    broken.save()
    add_channel(kind="email", url="", recipients=["ops@example.com"])
    add_channel()
    record_alerts([NewAlert(AlertKind.BUDGET, "k", "The budget of end user a\rb\n\u2028c")], timezone.now())
    make_due()
    with override_settings(EMAIL_HOST="mail.example"):
        assert len(deliver(Reply(status=200))) == 1
    assert [sent.subject for sent in mail.outbox] == ["The budget of end user a b c"]
    states = dict(AlertDelivery.objects.values_list("channel__name", "state").order_by("state"))
    assert states == {"broken": "pending", "ops": "delivered"}
    assert AlertDelivery.objects.get(channel=broken).error


class CutMail(LocMail):
    """A server that ends the connection after the first mail; what is sent by it afterwards fails."""

    is_cut = False

    def send_messages(self, messages: Sequence[Any]) -> int:
        if self.is_cut or not mail.outbox:
            mail.outbox.extend([] if self.is_cut else messages)
            self.is_cut = True
            raise SMTPServerDisconnected
        return int(super().send_messages(messages))

    def close(self) -> None:
        self.is_cut = False


def test_a_mail_that_ends_the_connection_takes_no_other_with_it() -> None:
    for number in range(3):
        add_channel(kind="email", name=f"mail-{number}", url="", recipients=["ops@example.com"])
    alert_now()
    make_due()
    with override_settings(EMAIL_HOST="mail.example", EMAIL_BACKEND=f"{CutMail.__module__}.{CutMail.__qualname__}"):
        deliver()
    states = sorted(AlertDelivery.objects.values_list("state", "error"))
    refusal = "the mail server did not take it: SMTPServerDisconnected"
    assert states == [("delivered", ""), ("delivered", ""), ("pending", refusal)]


class SlowMail(LocMail):
    """The second mail takes the rest of the task's time."""

    def send_messages(self, messages: Sequence[Any]) -> int:
        if len(mail.outbox) == 1:
            raise SoftTimeLimitExceeded
        return int(super().send_messages(messages))


def test_what_was_sent_before_the_end_of_the_tasks_time_is_not_sent_again() -> None:
    add_channel()
    for number in range(3):
        add_channel(kind="email", name=f"mail-{number}", url="", recipients=["ops@example.com"])
    alert_now()
    make_due()
    slow = f"{SlowMail.__module__}.{SlowMail.__qualname__}"
    with override_settings(EMAIL_HOST="mail.example", EMAIL_BACKEND=slow), pytest.raises(SoftTimeLimitExceeded):
        deliver(Reply(status=200))
    assert len(mail.outbox) == 1
    states = sorted(AlertDelivery.objects.values_list("channel__kind", "state"))
    assert states == [("email", "delivered"), ("email", "pending"), ("email", "pending"), ("slack", "delivered")]


def test_an_answer_that_no_database_takes_holds_no_other_delivery_up() -> None:
    for number in range(2):
        add_channel(kind="wecom", name=f"ops-{number}")
    alert_now()
    make_due()
    hostile = rb'{"errcode":1,"errmsg":"\u0000\ud800"}'
    deliver(Reply(status=200, body=hostile), Reply(status=200, body=b'{"errcode":0}'))
    assert sorted(AlertDelivery.objects.values_list("state", flat=True)) == ["delivered", "pending"]


class Receiver(BaseHTTPRequestHandler):
    seen: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    seen: list[tuple[dict[str, str], bytes]] = []
    server = HTTPServer(("127.0.0.1", 0), type("OneReceiver", (Receiver,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_arrives_signed(receiver: tuple[str, list[tuple[dict[str, str], bytes]]]) -> None:
    url, seen = receiver
    made = create_channel(organization=None, name="ops", kind="webhook", url=url)
    alert_now()
    make_due()
    with override_settings(TOLLGATE_WEBHOOK_NETWORKS=["127.0.0.0/8"]):
        assert deliver_due(send_all) == 1
    [(headers, body)] = seen
    expected = sign(made.secret, headers["webhook-id"], headers["webhook-timestamp"], body)
    assert headers["webhook-signature"] == expected
    assert json.loads(body)["data"] == {"title": "a title", "spent_usd": "1"}
    assert AlertDelivery.objects.get().state == "delivered"


INNER = ["http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]/", "http://169.254.169.254/", "http://2130706433/"]


@pytest.mark.parametrize("url", [*INNER, "http://[::ffff:10.0.0.1]/", "http://0x7f.1/", "http://10.0.0.1/"])
def test_an_inner_address_is_never_connected_to(url: str) -> None:
    [reply] = send_all([Outgoing(url, b"{}", {})])
    assert reply == Reply(error="the address is not public")


def test_a_private_network_must_be_allowed(receiver: tuple[str, list[tuple[dict[str, str], bytes]]]) -> None:
    url, seen = receiver
    [reply] = send_all([Outgoing(url, b"{}", {})])
    assert reply.error == "the address is not public"
    assert seen == []


def test_old_alerts_go_with_their_deliveries() -> None:
    add_channel()
    alert_now()
    purge_alerts(timezone.now())
    assert AlertDelivery.objects.count() == 1
    purge_alerts(timezone.now() + timedelta(days=401))
    assert Alert.objects.count() == AlertDelivery.objects.count() == 0


# The API


def test_an_address_and_a_secret_are_never_shown_again(api: Api, people: People) -> None:
    made = ask(api, "POST", "alert-channels", {"name": "ops", "kind": "webhook", "url": URL}, status=201)
    assert made["secret"].startswith("whsec_")
    assert (made["organization_id"], made["hint"]) == (None, "https://hooks.example/…")
    path = f"alert-channels/{made['id']}"
    rotated = ask(api, "POST", f"{path}/rotate")
    assert rotated["secret"] != made["secret"]
    changed = ask(api, "PATCH", path, {"url": "https://other.example/token-88", "is_enabled": False})
    assert (changed["hint"], changed["is_enabled"]) == ("https://other.example/…", False)
    shown = [ask(api, "GET", path), ask(api, "GET", "alert-channels"), [*AuditEntry.objects.values()]]
    text = f"{shown} {AlertChannel.objects.values()}"
    for secret in (made["secret"], rotated["secret"], "token-7f3a9c", "token-88"):
        assert secret not in text


def test_a_channel_may_begin_disabled(api: Api, people: People) -> None:
    body = {"name": "ops", "kind": "slack", "url": URL, "is_enabled": False}
    assert ask(api, "POST", "alert-channels", body, status=201)["is_enabled"] is False


def test_another_secret_and_another_address_at_the_same_host_are_audited(api: Api, people: People) -> None:
    made = ask(api, "POST", "alert-channels", {"name": "ops", "kind": "webhook", "url": URL}, status=201)
    path = f"alert-channels/{made['id']}"
    ask(api, "POST", f"{path}/rotate")
    for _ in range(2):
        ask(api, "PATCH", path, {"url": f"{URL}-other"})
    entries = AuditEntry.objects.filter(object_type="alertchannel", object_id=made["id"]).order_by("id")
    assert [entry.action for entry in entries] == ["create", "credential", "credential"]
    changed = [entry.after["changed"] for entry in entries if entry.action == "credential" and entry.after]
    assert changed == [["old_secret", "old_until", "secret"], ["url"]]


def test_a_rotated_secret_signs_for_a_while(api: Api, people: People) -> None:
    made = ask(api, "POST", "alert-channels", {"name": "ops", "kind": "webhook", "url": URL}, status=201)
    rotated = ask(api, "POST", f"alert-channels/{made['id']}/rotate")
    delivery = ask(api, "POST", f"alert-channels/{made['id']}/test", status=202)
    assert (delivery["state"], delivery["channel_id"]) == ("pending", made["id"])
    make_due()
    [sent] = deliver(Reply(status=200))
    arguments = sent.headers["webhook-id"], sent.headers["webhook-timestamp"], sent.body
    expected = [sign(rotated["secret"], *arguments), sign(made["secret"], *arguments)]
    assert sent.headers["webhook-signature"].split() == expected
    [row] = ask(api, "GET", f"alert-deliveries?channel_id={made['id']}")["data"]
    assert (row["state"], row["status_code"]) == ("delivered", 200)
    assert ask(api, "GET", f"alerts/{row['alert_id']}")["kind"] == "test"


def test_tests_of_a_channel_and_of_an_organization_are_limited(api: Api, people: People) -> None:
    def add(name: str, owner: str | None) -> str:
        body = {"name": name, "kind": "slack", "url": URL, "organization_id": owner}
        return f"alert-channels/{ask(api, 'POST', 'alert-channels', body, status=201)['id']}/test"

    paths = [add(f"ops-{number}", people.home.id) for number in range(5)]
    for path in paths[:-1]:
        for _ in range(TESTS_OF_CHANNEL):
            ask(api, "POST", path, status=202)
    refusal = send(api, "POST", paths[0])
    problem(refusal, 429, None, "too_many_tests")
    assert refusal["Retry-After"] == "600"
    problem(send(api, "POST", paths[-1]), 429, None, "too_many_tests")
    ask(api, "POST", add("abroad", people.abroad.id), status=202)
    assert Alert.objects.count() == TESTS_OF_ORGANIZATION + 1
    Alert.objects.update(created_at=timezone.now() - timedelta(minutes=11))
    ask(api, "POST", paths[-1], status=202)


def test_a_channel_is_made_disabled_and_with_a_long_address(api: Api, people: People) -> None:
    body = {"name": "ops", "kind": "slack", "url": f"https://hooks.example/{'t' * 900}", "is_enabled": False}
    assert ask(api, "POST", "alert-channels", body, status=201)["is_enabled"] is False
    alert_now()
    assert not AlertDelivery.objects.exists()
    problem(send(api, "POST", "alert-channels", {**body, "url": URL + "t" * 2000}), 400, "url")


def test_a_channel_that_is_disabled_gets_nothing_any_more(api: Api, people: People) -> None:
    made = ask(api, "POST", "alert-channels", {"name": "ops", "kind": "slack", "url": URL}, status=201)
    add_channel(name="other")
    alert_now()
    ask(api, "PATCH", f"alert-channels/{made['id']}", {"is_enabled": False})
    make_due()
    assert len(deliver(Reply(status=200))) == 1
    [row] = ask(api, "GET", f"alert-deliveries?channel_id={made['id']}")["data"]
    assert (row["state"], row["error"]) == ("failed", "the channel was disabled")


def test_an_address_that_no_key_opens_is_a_conflict(api: Api, people: People) -> None:
    made = ask(api, "POST", "alert-channels", {"name": "ops", "kind": "webhook", "url": URL}, status=201)
    AlertChannel.objects.update(credential="gAAAA")
    path = f"alert-channels/{made['id']}"
    problem(send(api, "PATCH", path, {"url": URL}), 409, None, "credential_unusable")
    problem(send(api, "POST", f"{path}/rotate"), 409, None, "credential_unusable")
    assert ask(api, "PATCH", path, {"is_enabled": False})["is_enabled"] is False


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"kind": "webhook", "url": "ftp://a.example"}, "url"),
        ({"kind": "webhook", "url": "https://user:pass@a.example"}, "url"),
        ({"kind": "webhook", "url": "https://a.example:0"}, "url"),
        ({"kind": "webhook", "url": "https://a.example/ b"}, "url"),
        ({"kind": "webhook", "url": "https://[::1"}, "url"),
        ({"kind": "webhook"}, "url"),
        ({"kind": "webhook", "url": URL, "secret": "mine"}, "secret"),
        ({"kind": "slack", "url": URL, "secret": "mine"}, "secret"),
        ({"kind": "slack", "url": URL, "recipients": ["a@b.example"]}, "recipients"),
        ({"kind": "email", "recipients": ["nobody"]}, "recipients"),
        ({"kind": "email", "recipients": []}, "recipients"),
        ({"kind": "email", "url": URL}, "url"),
        ({"kind": "pager", "url": URL}, "kind"),
        ({"kind": "slack", "url": URL, "alert_kinds": ["nothing"]}, "alert_kinds"),
        ({"kind": "slack", "url": URL, "organization_id": "absent"}, "organization_id"),
    ],
)
def test_a_wrong_channel_is_refused_by_its_field(api: Api, people: People, body: Any, param: str) -> None:
    problem(send(api, "POST", "alert-channels", {"name": "ops", **body}), 400, param)
    assert not AlertChannel.objects.exists()


def test_a_channel_of_an_organization_is_made_by_its_admin_and_never_for_the_platform(api: Api, people: People) -> None:
    admin = issue_role_key(people.home, Role.ORGANIZATION_ADMIN)
    body = {"name": "ops", "kind": "slack", "url": URL}
    made = ask(api, "POST", "alert-channels", body, by=admin, status=201)
    assert made["organization_id"] == people.home.id
    other = send(api, "POST", "alert-channels", {**body, "organization_id": people.abroad.id}, by=admin)
    problem(other, 400, "organization_id")
