"""The contents of the console's screens in these tests: rows of every state, and names that try to be markup.

Run inside a gateway's own settings: `manage.py shell -c "from tests.browser.seed import seed; seed()"`.
"""

import json
from datetime import timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from django.utils import timezone
from django_scopes import scopes_disabled
from uuid_utils import uuid7

from billing.alerts.record import NewAlert, record_alert
from billing.models import (
    AlertChannel,
    AlertDelivery,
    AlertKind,
    InvoiceImport,
    InvoiceLine,
    InvoiceName,
    Price,
    ReportSchedule,
    SpendLog,
    Writer,
)
from billing.report_schedules.writes import Settings, create_schedule
from billing.rollup_rebuild import rebuild_day
from gateway.deployments import save_deployment
from gateway.models import Conversation, ConversationItem, Deployment, StoredResponse
from gateway.protocol.json.types import JsonObject
from gateway.state.packing import pack, pack_response
from tenants.audit import Entry, acting_as, record
from tenants.budget_templates import create_template
from tenants.budget_windows import find_window
from tenants.encryption import encrypt
from tenants.end_users import create_end_user
from tenants.keys import find_or_create_user, issue_key
from tenants.limits import change_limits
from tenants.models import DEFAULT_ORGANIZATION, Budget, BudgetWindow, Organization, Scope, VirtualKey
from tenants.revision import bump_revision
from tenants.teams import create_team

MARKUP = '"><script>window.pwned=1</script><img src=x onerror="window.pwned=1">'
EXPRESSION = "'}; window.pwned=1; ({'{{ constructor }}"
CONVERSATION = "conv_" + "c" * 48


def response_id(number: int) -> str:
    return f"resp_{number:048x}"


STATES = {
    "priced": {"cost_pusd": 13_112_500_000, "usage_source": "provider", "status_code": 200, "finish": "complete"},
    "unpriced": {"usage_source": "provider", "status_code": 200, "finish": "complete", "price_error": "no price"},
    "lost": {"cost_pusd": 7, "usage_source": "estimated", "finish": "gateway_crash"},
    "aborted": {"status_code": 502, "finish": "upstream_error", "error_code": "upstream_error"},
    "open": {},  # no metered row: the running worker would price it under the tests' eyes
}


def seed() -> None:
    with scopes_disabled():
        organization = Organization.objects.get(pk=DEFAULT_ORGANIZATION)
        Organization.objects.create(name=MARKUP, blocked=True)
        team = create_team(
            organization=organization, team_id=EXPRESSION, alias=MARKUP, allowed_models=[MARKUP, "a", "b"]
        )
        user = find_or_create_user(organization=organization, user_id=MARKUP)
        metadata = {"note": MARKUP}
        key = issue_key(organization=organization, alias=MARKUP, team=team, user=user, metadata=metadata).key
        issue_key(organization=organization, alias="simulated")
        issue_key(organization=organization, alias="over", expires_at=timezone.now() - timedelta(days=1))
        deployment = save_deployment(
            Deployment(
                model_group="priced-model",
                provider="openai",
                upstream_model=EXPRESSION,
                parameters={"user": MARKUP},
            ),
            credential={"api_key": "sk-upstream-seed"},
            price_lines={"input": "0.0000025", "output": "0.00001"},
        )
        Price.objects.create(
            provider="openai", model="catalogued", region=MARKUP[:64], deployment_id="", lines={"input": "0.000001"}
        )
        Price.objects.create(
            provider="openai", model="catalogued", deployment_id="", lines={"input": "0.000001", "output@batch": "0.5"}
        )
        terms = {"origin": "contract", "organization_id": organization.pk, "lines": {"input": "0.000001"}}
        Price.objects.create(provider="openai", model=MARKUP, deployment_id="", **terms)
        Price.objects.create(
            provider="openai",
            model=MARKUP,
            deployment_id="",
            status="draft",
            origin="book",
            lines={"output": "0.000002"},
        )
        _invoice()
        _limits(organization, key)
        tomorrow = timezone.now() + timedelta(days=1)
        Writer.objects.create(id="seed", seen_at=tomorrow)  # lives, so that the open row is not settled as lost
        for state, fields in STATES.items():
            _spend_log(state, fields, key, deployment)
        _attempts(key, deployment)
        _session(deployment)
        _talk()
        _alerts(organization)
        bump_revision()
        rebuild_day(timezone.now().date())  # the rows were not priced by the gateway


def _limits(organization: Organization, key: VirtualKey) -> None:
    """A key whose budget is nearly used up, in part by calls that run, and names that try to be markup."""
    limits = {"max_budget": 10, "budget_duration": "30d", "soft_budget": 8, "rpm_limit": 60}
    change_limits(organization, Scope.KEY, key.pk, {**limits, "model_max_budget": {MARKUP: 5}})
    for budget in Budget.objects.filter(scope=Scope.KEY, scope_id=key.pk):
        span = find_window(budget.duration, ZoneInfo(organization.time_zone), timezone.now())
        BudgetWindow.objects.create(
            budget=budget,
            scope=Scope.KEY,
            scope_id=key.pk,
            starts_at=span.starts_at,
            ends_at=span.ends_at,
            settled_pusd=8_250_000_000_000,
            leased_pusd=400_000_000_000,
        )
    create_template(organization=organization, template_id=MARKUP, limits=limits, is_end_user_default=True)
    create_end_user(organization=organization, name=MARKUP, changes={"alias": EXPRESSION}, limits={})
    change_limits(organization, Scope.TAG, MARKUP, limits)
    with acting_as(MARKUP, EXPRESSION):
        record(Entry("update", "team", MARKUP, organization.pk, {"alias": MARKUP}, {"alias": EXPRESSION}))


def _invoice() -> None:
    """An import of this day, and a name: texts of the provider that try to be markup."""
    now = timezone.now()
    shared = {"source": "openai", "account": MARKUP}
    invoice = InvoiceImport.objects.create(
        **shared,
        file_name=EXPRESSION,
        sha256="0" * 64,
        first_day=now.date(),
        last_day=now.date(),
        records=2,
        lines=2,
        actor=MARKUP,
        ended_at=now,
    )
    for component, quantity in (("input", 4_000_000), ("output", 2_000_000)):
        InvoiceLine.objects.create(
            **shared,
            invoice=invoice,
            is_usage=False,
            day=now.date(),
            model=MARKUP,
            sku=MARKUP,
            component=component,
            quantity=quantity,
            amount_pusd=quantity * 2_000_000,
        )
    InvoiceName.objects.create(source="openai", name=MARKUP, model=EXPRESSION)


def _alerts(organization: Organization) -> None:
    """A channel that the worker has nothing to send to, a schedule that is not due, and deliveries of every state."""
    tomorrow = timezone.now() + timedelta(days=1)
    channel = AlertChannel(
        id="seeded-channel", organization=organization, name=MARKUP, kind="webhook", hint="https://hooks.example/…"
    )
    channel.credential = encrypt({"for": channel.id, "values": {"url": "https://hooks.example/x", "secret": "whsec_"}})
    channel.alert_kinds = ["spend.spike"]
    channel.save()
    schedule = create_schedule(
        organization,
        Settings(MARKUP, "team,tag", "last_month", frequency="monthly", channel_ids=[channel.id], is_enabled=False),
    )
    ReportSchedule.objects.filter(pk=schedule.pk).update(id="seeded-report", error=EXPRESSION)
    for state, error in (("delivered", ""), ("pending", "status 503"), ("failed", MARKUP)):
        alert = NewAlert(
            AlertKind.SPIKE, f"seed-{state}", f"The spend of {MARKUP} is far above the usual", organization.id
        )
        record_alert(alert, tomorrow)
        AlertDelivery.objects.filter(alert__key=alert.key).update(state=state, error=error, attempts=2)


def _session(deployment: Deployment) -> None:
    """Three turns: a tool call, its answer, and one that failed; and a fork that has expired."""
    now = timezone.now()
    spend = SpendLog.objects.filter(upstream_id="chatcmpl-priced").get()
    picture = "data:image/png;base64," + "A" * 40_000
    question = {"type": "input_text", "text": f"What is the weather in Paris?\n{MARKUP}"}
    look = {"type": "input_image", "image_url": picture, "detail": "auto"}
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather", "status": "completed"}
    thought = {"type": "summary_text", "text": f"The user wants the weather.\n{EXPRESSION}"}
    answer = "It is **18 °C** in Paris, with a light wind from the west.\n\n" + "Take a jacket for the evening. " * 12
    turns: list[tuple[str, list[JsonObject], list[JsonObject]]] = [
        (
            "completed",
            [
                {"type": "message", "id": "msg_1", "role": "developer", "content": "Answer in one sentence."},
                {"type": "message", "id": "msg_2", "role": "user", "content": [question, look]},
            ],
            [
                {"type": "reasoning", "id": "rs_1", "summary": [thought], "encrypted_content": "sealed"},
                {**call, "arguments": json.dumps({"city": "Paris", "note": MARKUP})},
            ],
        ),
        (
            "completed",
            [{"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": '{"celsius": 18}'}],
            [
                {
                    "type": "message",
                    "id": "msg_3",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": answer, "annotations": []}],
                },
                {"type": "web_search_call", "id": "ws_1", "action": {"query": MARKUP}},
            ],
        ),
        ("failed", [{"type": "message", "id": "msg_4", "role": "user", "content": "And tomorrow?"}], []),
    ]
    parent = ""
    for number, (status, items, output) in enumerate(turns, 1):
        response = {
            "id": response_id(number),
            "status": status,
            "output": output,
            "instructions": "You are the weather service of the harbour." if number == 1 else None,
            "tools": [{"type": "function", "name": "get_weather"}, {"type": "function", "name": MARKUP}],
            "error": {"code": "server_error", "message": "The upstream failed."} if status == "failed" else None,
            "usage": {
                "input_tokens": 2297,
                "input_tokens_details": {"cached_tokens": 1024},
                "output_tokens": 737,
                "output_tokens_details": {"reasoning_tokens": 120},
                "total_tokens": 3034,
            },
        }
        body, head = pack_response(items, response)
        StoredResponse.objects.create(
            id=response_id(number),
            organization_id=DEFAULT_ORGANIZATION,
            owner=f"team:{EXPRESSION}",
            parent_id=parent,
            depth=number,
            model_group="priced-model",
            deployment_id=deployment.pk,
            provider=deployment.provider,
            status=status,
            is_streamed=number == 1,
            created_at=now + timedelta(seconds=number),
            completed_at=now + timedelta(seconds=number + 2) if status == "completed" else None,
            expires_at=now + timedelta(days=30),
            input_tokens=2297,
            output_tokens=737,
            metadata={"note": MARKUP} if number == 1 else {},
            spend_id=str(spend.pk),
            body=body,
            head=head,
        )
        parent = response_id(number)
    body, head = pack_response([], {"status": "completed", "output": []})
    StoredResponse.objects.create(
        id=response_id(9),
        organization_id=DEFAULT_ORGANIZATION,
        owner=f"user:{MARKUP}",
        parent_id=response_id(1),
        depth=2,
        model_group="tollgate-echo",
        status="completed",
        is_background=True,
        created_at=now - timedelta(days=31),
        expires_at=now - timedelta(minutes=5),  # the worker's purge leaves it alone for an hour
        body=body,
        head=head,
    )


def _talk() -> None:
    now = timezone.now()
    row = Conversation.objects.create(
        id=CONVERSATION,
        organization_id=DEFAULT_ORGANIZATION,
        owner=f"team:{EXPRESSION}",
        metadata={"topic": MARKUP},
        created_at=now,
    )
    for number in range(130):
        item = {
            "type": "message",
            "id": f"msg_{number}",
            "role": "assistant" if number % 2 else "user",
            "content": f"Line {number} {MARKUP}",
        }
        ConversationItem.objects.create(
            conversation=row,
            organization_id=DEFAULT_ORGANIZATION,
            item_id=item["id"],
            position=number + 1,
            body=pack(item),
        )


LEFT_OUT = {"id": "gone", "name": MARKUP, "reason": "is cooling down after server errors, 4 s left"}
ATTEMPTS: list[tuple[str, dict[str, object], dict[str, object]]] = [
    (
        "aborted",
        {"error_message": f"The upstream is overloaded. {MARKUP}", "error_code": "overloaded", "status_code": 503},
        {"reason": "first", "class": "overloaded", "upstream_status": 529, "dropped": [LEFT_OUT], "more": 3},
    ),
    (
        "unpriced",
        {
            "error_message": "Slow down.",
            "error_code": "rate_limit_exceeded",
            "status_code": 429,
            "usage_source": "none",
        },
        {"reason": "same_deployment", "wait_s": 0.46, "class": "rate_limit", "upstream_status": 429},
    ),
    ("priced", {}, {"reason": "fallback"}),
]


def _attempts(key: object, deployment: Deployment) -> None:
    """One request: two attempts that failed, and the one that answered."""
    request_id = UUID(int=uuid7().int)
    for number, (state, fields, routing) in enumerate(ATTEMPTS):
        shared = {"request_id": request_id, "attempt": number, "routing": json.dumps(routing)}
        _spend_log(state, {**STATES[state], "upstream_id": f"tried-{number}", **fields, **shared}, key, deployment)


def _spend_log(state: str, fields: dict[str, object], key: object, deployment: Deployment) -> None:
    now = timezone.now()
    row = SpendLog(
        id=UUID(int=uuid7().int),
        request_id=UUID(int=uuid7().int),
        state=state,
        writer_id="seed",
        organization_id=DEFAULT_ORGANIZATION,
        team_id=EXPRESSION,
        user_id=MARKUP,
        key_id=key.pk,
        key_digest=key.digest,
        key_alias=MARKUP,
        end_user=MARKUP,
        tags=json.dumps([MARKUP, EXPRESSION]),
        metadata=json.dumps({"note": MARKUP}),
        operation="chat",
        stream=True,
        model_group="priced-model",
        deployment_id=deployment.pk,
        provider=deployment.provider,
        upstream_model=deployment.upstream_model,
        price_id=deployment.price_id,
        served_model=MARKUP,
        upstream_id=f"chatcmpl-{state}",
        usage=json.dumps({"prompt_tokens": 2297, "note": MARKUP}),
        input_tokens=2297,
        output_tokens=737,
        started_at=now,
        first_token_at=now + timedelta(seconds=1),
        ended_at=None if state == "open" else now + timedelta(seconds=4),
    )
    for name, value in fields.items():
        setattr(row, name, value)
    row.save(force_insert=True)
