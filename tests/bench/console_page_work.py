"""The rows and the measurements of `console_pages.py`, which prepares Django and then imports this module."""

import argparse
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import islice
from typing import Any

from django.core.management import call_command
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_scopes import scopes_disabled
from report_work import DAYS, END, build_rollups, insert_rows

from billing.models import InvoiceImport, InvoiceLine, SpendLog
from gateway.models import StoredResponse
from gateway.state.packing import pack_response
from tenants.models import AuditEntry, EndUser, Organization, Team, User, VirtualKey

LIMIT_MS = 300
TIMES = 3
BATCH = 2_000
KEYS, TEAMS = 2_000, 50
LOG = "/console/billing/spendlog/"
REPORT = "/console/reports/spend/"
PAGES: Mapping[str, str] = {
    "dashboard": "/console/",
    "dashboard, 30 days": "/console/?period=30d",
    "report, 30 days": REPORT,
    "report, 30 days, by two": f"{REPORT}?group_by=team,model_group",
    "report, 30 days, by key": f"{REPORT}?group_by=key",
    "report, 30 days, by day": f"{REPORT}?group_by=day&tz=Asia/Kathmandu",
    "report, 90 days": f"{REPORT}?period=90d",
    "log": LOG,
    "log of a key": f"{LOG}?key_id=018f7a30-0000-7000-8000-100000000007",
    "log of a team": f"{LOG}?team_id=team-7",
    "log of a user": f"{LOG}?user_id=user-7",
    "log of failures": f"{LOG}?status=failure",
    "log, numbers of a report": f"{LOG}?team_id=team-7&counted=requests",
    "log, failures of a report": f"{LOG}?counted=requests&status=failure",
    "log, calls without a price": f"{LOG}?counted=unpriced",
    "log without a tag": f"{LOG}?without=tag,end_user&counted=requests",
    "log, nothing found": f"{LOG}?application=absent",
    "spend log": f"{LOG}{{log}}/change/",
    "calls without a price": "/console/unpriced/",
    "prices": "/console/prices/",
    "prices, searched": "/console/prices/?q=gpt",
    "contracts": "/console/prices/contracts/",
    "drafts": "/console/prices/drafts/",
    "repricing": "/console/repricing/",
    "reconciliation": "/console/reconciliation/",
    "invoices": "/console/reconciliation/invoices/",
    "stored responses": "/console/gateway/storedresponse/",
    "stored responses, searched": "/console/gateway/storedresponse/?q=key:absent",
    "stored response": "/console/gateway/storedresponse/{response}/change/",
    "virtual keys": "/console/tenants/virtualkey/",
    "virtual keys, searched": "/console/tenants/virtualkey/?q=key-7",
    "virtual key": "/console/tenants/virtualkey/{key}/change/",
    "teams": "/console/tenants/team/",
    "team": "/console/tenants/team/{team}/change/",
    "users": "/console/tenants/user/",
    "end users": "/console/tenants/enduser/",
    "organizations": "/console/tenants/organization/",
    "organization": "/console/tenants/organization/home/change/",
    "budgets": "/console/tenants/budget/",
    "audit": "/console/tenants/auditentry/",
    "audit, searched": "/console/tenants/auditentry/?q=absent",
    "deployments": "/console/gateway/deployment/",
    "routing": "/console/gateway/routersettings/1/change/",
}


def run(chosen: argparse.Namespace) -> None:
    call_command("migrate", verbosity=0)
    with scopes_disabled():
        begin = time.perf_counter()
        insert_rows(chosen.rows, state="priced", cost="1 + i % 100000007")
        fill_tenants(chosen.objects)
        fill_invoices()
        print(f"{chosen.rows:,} rows made in {time.perf_counter() - begin:.0f} s", flush=True)
        build_rollups()
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")
        first = SpendLog.objects.order_by("-id").values_list("pk", flat=True).first()
        places = {
            "log": first,
            "response": StoredResponse.objects.values_list("pk", flat=True).first(),
            "key": VirtualKey.objects.values_list("pk", flat=True).first(),
            "team": "team-7",
        }
    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.create_superuser("bench", password="correct horse battery"))
    client.get("/console/")  # which compiles the templates
    slow = [name for name, page in PAGES.items() if measure(client, name, page.format(**places)) > LIMIT_MS]
    print(f"above {LIMIT_MS} ms: {', '.join(slow) or 'none'}")
    connection.close()


def measure(client: Client, name: str, page: str) -> float:
    """Milliseconds: the best of some times."""
    took: list[float] = []
    longest, count = (0.0, ""), 0
    for _ in range(TIMES):
        with CaptureQueriesContext(connection) as queries:
            wall, cpu = time.perf_counter(), time.process_time()
            answer = client.get(page)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        took.append((wall if connection.vendor == "postgresql" else cpu) * 1000)
        count = len(queries)
        longest = max((float(query["time"]) * 1000, query["sql"]) for query in queries)
    mark = " !" if min(took) > LIMIT_MS else ""
    status = "" if answer.status_code == 200 else f" status {answer.status_code}"
    print(f"{name:28s} {min(took):7.0f} ms {count:3d} queries, longest {longest[0]:6.0f} ms{status}{mark}", flush=True)
    if mark:
        print(f"    {longest[1][:600]}")
    return min(took)


def fill_tenants(objects: int) -> None:
    home = Organization.objects.get_or_create(id="home", defaults={"name": "Home"})[0]
    now = timezone.now()
    body, head = pack_response([], {"id": "resp", "output": []})
    teams = [Team(id=f"team-{number}", organization=home, alias=f"team-{number}") for number in range(TEAMS)]
    Team.objects.bulk_create(teams)
    users = [User(username=f"user-{number}", organization=home) for number in range(KEYS)]
    User.objects.bulk_create(users, batch_size=BATCH)
    keys = (
        VirtualKey(
            id=f"018f7a30-0000-7000-8000-{100000000000 + number}",
            organization=home,
            team=teams[number % TEAMS],
            alias=f"key-{number}",
            digest=f"{number:064d}",
        )
        for number in range(KEYS)
    )
    write(VirtualKey, keys)
    write(EndUser, (EndUser(organization=home, external_id=f"customer-{number}") for number in range(objects // 10)))
    write(
        AuditEntry,
        (
            AuditEntry(
                organization_id="home",
                actor=f"user-{number % 50}",
                action="update",
                object_type="team",
                object_id=f"team-{number % TEAMS}",
                at=now - timedelta(seconds=number),
            )
            for number in range(objects)
        ),
    )
    write(
        StoredResponse,
        (
            StoredResponse(
                id=f"resp_{number:048d}",
                organization=home,
                owner=f"team:team-{number % TEAMS}",
                model_group=f"model-{number % 10}",
                status="completed",
                created_at=now - timedelta(seconds=number),
                expires_at=now + timedelta(days=30),
                body=body,
                head=head,
            )
            for number in range(objects)
        ),
    )


def fill_invoices() -> None:
    """An invoice of all days with the ten models of the rows, and as many that only the provider has."""
    first = END - timedelta(days=DAYS - 1)
    invoice = InvoiceImport.objects.create(
        source="openai",
        sha256="0" * 64,
        first_day=first,
        last_day=END,
        records=1,
        lines=1,
        ended_at=timezone.now(),
    )
    write(
        InvoiceLine,
        (
            InvoiceLine(
                invoice=invoice,
                source="openai",
                is_usage=False,
                day=first + timedelta(days=day),
                model=f"upstream-model-{number}",
                sku=component,
                component=component,
                quantity=10**6,
                amount_pusd=10**12,
            )
            for day in range(DAYS)
            for number in range(20)
            for component in ("input", "cache_read", "output")
        ),
    )


def write(model: type[models.Model], rows: Iterator[Any]) -> None:
    """In parts: no statement has all rows."""
    while part := list(islice(rows, BATCH)):
        model._default_manager.bulk_create(part)
