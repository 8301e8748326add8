"""Invoices by API: imported, named, compared and taken back by the platform's roles."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from billing.models import InvoiceImport, InvoiceLine
from billing.reconciliation import imports
from billing.rest import invoices
from billing.rest.invoices import InvoiceNameRow
from tests.contract.management import Api
from tests.contract.own_api import ask, problem, send

pytestmark = pytest.mark.django_db
COSTS = (Path(__file__).resolve().parents[1] / "fixtures" / "invoices" / "openai_costs.json").read_text()
BODY = {"provider": "openai", "content": COSTS, "file_name": "costs.json"}
REPORT = "reports/reconciliation?start_date=2026-11-01&end_date=2026-11-30"


def test_an_invoice_is_imported_compared_and_taken_back(api: Api) -> None:
    made = ask(api, "POST", "invoice-imports", BODY, status=201)
    assert {name: made[name] for name in ("provider", "file_name", "first_day", "last_day", "records", "lines")} == {
        "provider": "openai",
        "file_name": "costs.json",
        "first_day": "2026-11-01",
        "last_day": "2026-11-01",
        "records": 5,
        "lines": 5,
    }
    assert made["ended_at"] is not None
    assert ask(api, "POST", "invoice-imports", BODY, status=201)["id"] == made["id"]
    assert [row["id"] for row in ask(api, "GET", "invoice-imports?provider=openai")["data"]] == [made["id"]]
    assert ask(api, "GET", "invoice-imports?provider=aws")["data"] == []
    assert ask(api, "GET", f"invoice-imports/{made['id']}") == ask(api, "GET", "invoice-imports")["data"][0]
    total = ask(api, "GET", f"{REPORT}&provider=openai")["total"]
    assert (total["their_cost"], total["days"]) == ("0.480012500000", {"openai": ["2026-11-01"]})
    ask(api, "DELETE", f"invoice-imports/{made['id']}", status=204)
    assert (InvoiceImport.objects.count(), InvoiceLine.objects.count()) == (0, 0)
    assert ask(api, "GET", REPORT)["rows"] == []


@pytest.mark.django_db(transaction=True)
def test_an_import_takes_place_outside_of_the_transaction_of_its_key(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite a transaction keeps all other writers waiting."""
    seen: list[bool] = []

    def watch(*arguments: Any, **options: Any) -> Any:
        seen.append(connection.in_atomic_block)
        return imports.import_invoice(*arguments, **options)

    monkeypatch.setattr(invoices, "import_invoice", watch)
    answers = [send(api, "POST", "invoice-imports", BODY, **{"Idempotency-Key": "once"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[1]["idempotent-replayed"] == "true"
    assert answers[1].json() == answers[0].json()
    other = send(api, "POST", "invoice-imports", {**BODY, "account": "b"}, **{"Idempotency-Key": "once"})
    problem(other, 422, "Idempotency-Key", "idempotency_key_mismatch")
    wrong = send(api, "POST", "invoice-imports", {**BODY, "content": "x"}, **{"Idempotency-Key": "wrong"})
    problem(wrong, 400, "content")
    assert seen == [False, False]
    assert InvoiceImport.objects.count() == 1


def test_the_report_comes_as_a_file(api: Api) -> None:
    ask(api, "POST", "invoice-imports", BODY, status=201)
    response = send(api, "GET", f"{REPORT}&format=csv")
    assert response["Content-Disposition"] == 'attachment; filename="reconciliation-2026-11-01-2026-11-30.csv"'
    lines = b"".join(response).decode().splitlines()
    assert lines[0].startswith("day,provider,model,our_cost,their_cost,difference")
    assert len(lines) == 1 + len(ask(api, "GET", REPORT)["rows"])


def test_a_name_is_written_and_forgotten(api: Api) -> None:
    body = {"provider": "aws", "name": "Claude4.5Sonnet", "model": "claude-sonnet-4-5"}
    made = ask(api, "POST", "invoice-names", body, status=201)
    assert made == {"id": made["id"], **body}
    assert InvoiceNameRow(made).data == made, "the types are those of the schema"
    changed = ask(api, "POST", "invoice-names", {**body, "model": "sonnet"}, status=201)
    assert (changed["id"], changed["model"]) == (made["id"], "sonnet")
    assert ask(api, "GET", "invoice-names")["data"] == [changed]
    ask(api, "DELETE", f"invoice-names/{made['id']}", status=204)
    problem(send(api, "GET", f"invoice-names/{made['id']}"), 404, "invoice_name_id")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"content": "no invoice"}, "content"),
        ({"content": COSTS.replace("usd", "eur")}, "content"),
        ({"content": ""}, "content"),
        ({"content": "a\0b"}, "content"),
        ({"content": "a\ud800b"}, "content"),
        ({"content": COSTS.replace("web search", "\\u0000")}, "content"),
        ({"provider": "unknown"}, "provider"),
        ({"provider": ["openai"]}, "provider"),
        ({"organization_id": "acme"}, "organization_id"),
        ({"account": "x" * 256}, "account"),
    ],
)
def test_a_wrong_import_is_refused_and_names_its_field(api: Api, change: dict[str, object], param: str) -> None:
    problem(send(api, "POST", "invoice-imports", {**BODY, **change}), 400, param)
    assert InvoiceImport.objects.count() == 0


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("start_date=2026-11-01", "end_date"),
        ("start_date=2026-11-02&end_date=2026-11-01", "end_date"),
        ("start_date=2026-11-01&end_date=2026-11-01&provider=acme", "provider"),
        ("start_date=2026-11-01&end_date=2026-11-01&format=xlsx", "format"),
        ("start_date=2026-11-01&end_date=2026-11-01&tz=UTC", "tz"),
    ],
)
def test_a_wrong_query_is_refused_and_names_its_parameter(api: Api, query: str, param: str) -> None:
    problem(send(api, "GET", f"reports/reconciliation?{query}"), 400, param)


def test_a_repeated_write_with_its_key_imports_once(api: Api) -> None:
    answers = [send(api, "POST", "invoice-imports", BODY, **{"idempotency-key": "one"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert json.loads(answers[0].content) == json.loads(answers[1].content)
    assert answers[1]["idempotent-replayed"] == "true"
