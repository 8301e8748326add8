"""The console's pages of reconciliation: imported, compared, named and taken back, by the rights of the API."""

import html
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from billing.models import InvoiceImport, InvoiceLine, InvoiceName
from gateway.console.invoice_imports import MAX_FILE_BYTES
from gateway.edge.body_limit import MAX_BYTES
from tenants.models import AuditEntry, Role, User
from tests.contract.management import Api, People
from tests.contract.own_api import ask, send

pytestmark = pytest.mark.django_db
COMPARISON = "/console/reconciliation/"
INVOICES, NAMES = f"{COMPARISON}invoices/", f"{COMPARISON}names/"
COSTS = (Path(__file__).resolve().parents[1] / "fixtures" / "invoices" / "openai_costs.json").read_bytes()
NOVEMBER = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
OPENAI = {"provider": "openai", "account": "research"}


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


def upload(client: Client, content: bytes = COSTS, name: str = "costs.json", **fields: str) -> Any:
    return client.post(INVOICES, {**OPENAI, "file": SimpleUploadedFile(name, content), **fields})


def told(answer: Any) -> list[str]:
    return [str(message) for message in get_messages(answer.wsgi_request)]


def errors_of(answer: Any, field: str) -> str:
    assert answer.status_code == 200
    return str(answer.context["form"].errors[field][0])


def add_import(number: int = 0, **fields: Any) -> InvoiceImport:
    day = datetime(2026, 11, 1, tzinfo=UTC).date()
    values = {"source": "openai", "first_day": day, "last_day": day, "records": 1, "lines": 1} | fields
    return InvoiceImport.objects.create(sha256=f"{number:064d}", **values)


def add_line(invoice: InvoiceImport, model: str, day: int = 1, **fields: Any) -> None:
    values = {"sku": model, "component": "input", "quantity": 10**6, "amount_pusd": 10**12, "is_usage": False} | fields
    at = invoice.first_day + timedelta(days=day - 1)
    InvoiceLine.objects.create(invoice=invoice, source=invoice.source, day=at, model=model, **values)


def test_an_uploaded_invoice_is_compared_and_taken_back(admin: Client, api: Api) -> None:
    answer = upload(admin)
    assert answer.status_code == 302
    assert told(answer) == ["Imported 2026-11-01: 5 sums of 5 records."]
    row = InvoiceImport.objects.get()
    assert (row.source, row.account, row.file_name, row.actor) == ("openai", "research", "costs.json", "root")
    page = admin.get(answer["Location"])
    total = ask(api, "GET", "reports/reconciliation?start_date=2026-11-01&end_date=2026-11-01&provider=openai")["total"]
    assert page.context["total"]["theirs"].exact == "$0.4800125"
    assert total["their_cost"] == "0.480012500000"
    assert page.context["total"]["explained"] == f"{total['explained_percent']} %"
    assert {str(cause.title): cause.amount.exact for cause in page.context["causes"]} == {
        cause.replace("_", " "): f"+${amount.rstrip('0').ljust(4, '0')}" for cause, amount in total["causes"].items()
    }
    assert admin.get(COMPARISON).context["fields"]["start_date"] == "2026-11-01", "the newest import's days"
    [listed] = admin.get(INVOICES).context["rows"]
    assert listed.comparison == answer["Location"]
    question = admin.get(f"{INVOICES}{listed.delete}").content.decode()
    assert "Take this import back?" in question
    admin.post(INVOICES, {"delete": row.id})
    assert (InvoiceImport.objects.count(), InvoiceLine.objects.count()) == (0, 0)
    with scopes_disabled():
        assert list(
            AuditEntry.objects.filter(object_type="invoice_import").order_by("id").values_list("action", "actor")
        ) == [("create", "root"), ("delete", "root")]
    assert told(admin.post(INVOICES, {"delete": row.id}))[-1] == "There is no such import any more."


def test_an_import_of_more_days_than_a_report_spans_leads_to_its_last_ones(admin: Client) -> None:
    day = datetime(2026, 11, 30, tzinfo=UTC).date()
    invoice = add_import(first_day=day - timedelta(days=366), last_day=day, ended_at=datetime(2026, 12, 1, tzinfo=UTC))
    add_line(invoice, "late", 367)
    [row] = admin.get(INVOICES).context["rows"]
    page = admin.get(row.comparison)
    assert (page.status_code, len(page.context["rows"])) == (200, 1)
    assert page.context["fields"]["start_date"] == "2025-11-30"


def test_the_same_file_again_is_the_same_import(admin: Client) -> None:
    upload(admin)
    assert "replace" not in " ".join(told(upload(admin)))
    assert (InvoiceImport.objects.count(), InvoiceLine.objects.count()) == (1, 5)
    later = upload(admin, COSTS.replace(b"\n", b"\n "))
    assert told(later)[-1] == "They replace 5 sums of earlier imports of these days."
    assert (InvoiceImport.objects.count(), InvoiceLine.objects.count()) == (2, 5)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"no invoice", "it is no export of"),
        (b"", "empty"),
        (COSTS.replace(b"usd", b"eur"), "the currency is 'eur'"),
        (b'{"data": [\xff]}', "line 1 is no UTF-8 text"),
        (b"start_time,amount_value\na,b,c\n", "it is no export of"),
        (b"a" * (MAX_FILE_BYTES + 1), "larger than 1 MB"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_words(admin: Client, content: bytes, text: str) -> None:
    assert text in errors_of(upload(admin, content), "file")
    assert InvoiceImport.objects.count() == 0


def test_the_line_of_a_wrong_record_is_named(admin: Client) -> None:
    fixture = Path(__file__).resolve().parents[1] / "fixtures" / "invoices" / "openai_costs.csv"
    lines = fixture.read_text().splitlines()
    answer = upload(admin, "\n".join([*lines, f"{lines[-1]},<script>"]).encode(), "costs.csv")
    assert f"line {len(lines) + 1} has " in errors_of(answer, "file")
    assert InvoiceImport.objects.count() == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"provider": "acme"}, "provider"), ({"account": "x" * 256}, "account"), ({"account": "a\0b"}, "account")],
)
def test_a_wrong_field_is_told_at_it(admin: Client, fields: dict[str, str], field: str) -> None:
    assert errors_of(upload(admin, **fields), field)
    assert errors_of(admin.post(INVOICES, OPENAI), "file")
    assert InvoiceImport.objects.count() == 0


def test_a_file_and_its_form_are_within_the_bodies_that_arrive() -> None:
    """Its headers, the fields at their widest, and the token of the form."""
    assert MAX_FILE_BYTES + 4 * 4 * 255 + 8_192 <= MAX_BYTES


def test_a_form_without_its_token_imports_nothing(admin: Client) -> None:
    guarded = Client(enforce_csrf_checks=True)
    guarded.force_login(User.objects.get(username="root"))
    assert upload(guarded).status_code == 403
    assert guarded.post(INVOICES, {"delete": add_import().id}).status_code == 403
    assert InvoiceImport.objects.count() == 1


@pytest.mark.parametrize("role", [Role.PLATFORM_VIEWER, Role.ORGANIZATION_ADMIN, Role.BILLING_VIEWER])
def test_only_platform_admins_import_and_only_the_platform_reads(client: Client, people: People, role: Role) -> None:
    row = add_import()
    name = InvoiceName.objects.create(source="openai", name="a", model="b")
    client.force_login(User.objects.create(username=role.value, role=role, organization=people.home))
    reads = 200 if role == Role.PLATFORM_VIEWER else 403
    for page in (COMPARISON, INVOICES, NAMES, f"{INVOICES}?delete={row.id}", f"{COMPARISON}?format=csv"):
        answer = client.get(page)
        assert answer.status_code == reads, page
        text = b"".join(answer).decode()
        assert not re.findall(r'type="file"|name="delete"|name="forget"|name="model"|Take back', text), page
    assert upload(client).status_code == 403
    assert client.post(INVOICES, {"delete": row.id}).status_code == 403
    assert client.post(NAMES, {"provider": "openai", "name": "x", "model": "y"}).status_code == 403
    assert client.post(NAMES, {"forget": str(name.pk)}).status_code == 403
    assert (InvoiceImport.objects.count(), InvoiceName.objects.get().name) == (1, "a")


def test_the_comparison_comes_as_the_files_of_the_api(admin: Client, api: Api) -> None:
    upload(admin)
    links = dict(admin.get(COMPARISON, NOVEMBER).context["files"])
    file = admin.get(f"{COMPARISON}{links['CSV']}")
    assert file["Content-Disposition"] == 'attachment; filename="reconciliation-2026-11-01-2026-11-30.csv"'
    query = "reports/reconciliation?start_date=2026-11-01&end_date=2026-11-30"
    assert b"".join(file) == b"".join(send(api, "GET", f"{query}&format=csv"))
    assert admin.get(f"{COMPARISON}{links['JSON']}").content == send(api, "GET", query).content
    assert admin.get(COMPARISON, {**NOVEMBER, "format": "xlsx"}).status_code == 400


def test_a_row_opens_with_all_of_its_tokens_and_causes(admin: Client) -> None:
    invoice = add_import(ended_at=datetime(2026, 11, 2, tzinfo=UTC))
    add_line(invoice, "m" * 200)
    add_line(invoice, "m" * 200, component="tax", quantity=None, amount_pusd=5)
    page = admin.get(COMPARISON, NOVEMBER)
    [row] = page.context["rows"]
    assert len(row.model) < 200
    assert page.context["chosen"] is None
    chosen = admin.get(f"{COMPARISON}{row.link}").context["chosen"]
    assert chosen["model"] == "m" * 200
    [kind] = chosen["kinds"]
    assert (kind.name, kind.theirs, kind.ours, kind.difference, kind.their_rate) == (
        "input",
        "1,000,000",
        "0",
        "+1,000,000",
        "1",
    )
    assert [(str(cause.title), cause.amount.exact, cause.tokens) for cause in chosen["causes"]] == [
        ("not in ours", "+$1.00", "+1,000,000"),
        ("taxes", "+$0.000000000005", ""),
    ]
    assert admin.get(f"{COMPARISON}{row.link}x").context["chosen"] is None


def test_usage_without_amounts_is_compared_in_tokens(admin: Client) -> None:
    invoice = add_import(ended_at=datetime(2026, 11, 2, tzinfo=UTC))
    add_line(invoice, "counted", is_usage=True, amount_pusd=None)
    [row] = admin.get(COMPARISON, NOVEMBER).context["rows"]
    assert (row.is_counted_only, row.theirs.text, row.difference.text) == (True, "–", "–")
    page = admin.get(f"{COMPARISON}{row.link}")
    assert [kind.theirs for kind in page.context["chosen"]["kinds"]] == ["1,000,000"]
    assert "only its usage was imported" in page.content.decode()


def test_rows_come_in_pages_by_the_largest_difference_or_by_day(admin: Client) -> None:
    invoice = add_import(ended_at=datetime(2026, 11, 2, tzinfo=UTC))
    for day in range(1, 4):
        for number in range(20):
            add_line(invoice, f"model-{number:02d}", day, amount_pusd=10**12 * (1 + 20 * day + number))
    page = admin.get(COMPARISON, NOVEMBER)
    assert [row.difference.text for row in page.context["rows"]][:2] == ["+$80.00", "+$79.00"]
    assert (len(page.context["rows"]), page.context["count"]) == (50, "60")
    second = admin.get(f"{COMPARISON}{page.context['next_page']}")
    assert (len(second.context["rows"]), second.context["next_page"]) == (10, "")
    beyond = admin.get(COMPARISON, {**NOVEMBER, "page": "9"})
    assert [row.model for row in beyond.context["rows"]] == [row.model for row in second.context["rows"]]
    assert "No invoice has these days" not in beyond.content.decode()
    by_day = admin.get(COMPARISON, {**NOVEMBER, "sort": "day"}).context["rows"]
    assert [row.model for row in by_day[:2]] == ["model-00", "model-01"]
    [days] = page.context["days"]
    assert (days.count, days.missing) == (3, 27)
    assert len(page.content) < 150_000


def test_pages_of_hostile_rows_are_bounded(admin: Client) -> None:
    invoice = add_import(ended_at=datetime(2026, 11, 2, tzinfo=UTC))
    for number in range(60):
        add_line(invoice, '"' * 250 + f"{number:04d}")
        add_import(number + 1, account='"' * 250 + f"{number}", file_name='"' * 255, actor='"' * 255)
        InvoiceName.objects.create(source="openai", name='"' * 250 + f"{number}", model='"' * 255)
    for page in (COMPARISON, INVOICES, NAMES):
        assert len(admin.get(page, NOVEMBER if page == COMPARISON else {}).content) < 250_000, page


@pytest.mark.parametrize(
    "query",
    [
        {"start_date": "2026-11-01"},
        {"start_date": "2026-11-02", "end_date": "2026-11-01"},
        {**NOVEMBER, "provider": "acme"},
        {**NOVEMBER, "provider": "a\0b"},
        {"provider": "a\0b"},
        {**NOVEMBER, "page": "0"},
        {**NOVEMBER, "page": "9" * 200},
        {**NOVEMBER, "sort": "name"},
    ],
)
def test_a_wrong_choice_is_told_on_the_page(admin: Client, query: dict[str, str]) -> None:
    answer = admin.get(COMPARISON, query)
    assert answer.status_code == 400
    assert 'role="alert"' in answer.content.decode()


@pytest.mark.parametrize("page", [f"{INVOICES}?before=a%00b", f"{INVOICES}?delete=a%00b", f"{NAMES}?page=%FF"])
def test_wrong_places_of_lists_are_none(admin: Client, page: str) -> None:
    assert admin.get(page).status_code == 200


def test_imports_are_listed_page_by_page_and_say_where_they_were_interrupted(admin: Client) -> None:
    for number in range(53):
        add_import(number)
    first = admin.get(INVOICES)
    assert "interrupted" in first.content.decode()
    second = admin.get(f"{INVOICES}{first.context['older']}")
    assert (len(first.context["rows"]), len(second.context["rows"]), second.context["older"]) == (50, 3, "")


def test_a_name_is_stored_changed_and_forgotten(admin: Client) -> None:
    fields = {"provider": "openai", "name": "GPT four", "model": "gpt-4"}
    assert admin.post(NAMES, fields).status_code == 302
    admin.post(NAMES, {**fields, "model": "gpt-4o"})
    row = InvoiceName.objects.get()
    assert (row.source, row.name, row.model) == ("openai", "GPT four", "gpt-4o")
    invoice = add_import(ended_at=datetime(2026, 11, 2, tzinfo=UTC))
    add_line(invoice, "GPT four")
    assert [one.model for one in admin.get(COMPARISON, NOVEMBER).context["rows"]] == ["gpt-4o"]
    assert "Forget GPT four" in html.unescape(admin.get(NAMES).content.decode())
    admin.post(NAMES, {"forget": str(row.pk)})
    assert not InvoiceName.objects.exists()
    for absent in (str(row.pk), "x", "9" * 18, "9" * 40, "-1", ""):
        assert told(admin.post(NAMES, {"forget": absent}))[-1] == "There is no such name any more."
    for wrong in ({"name": ""}, {"model": " "}, {"name": "a\0b"}, {"provider": "acme"}, {"model": "m" * 256}):
        assert errors_of(admin.post(NAMES, {**fields, **wrong}), next(iter(wrong)))


def test_a_page_makes_as_many_queries_for_many_rows_as_for_one(admin: Client) -> None:
    def count(page: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert admin.get(page).status_code == 200
        return len(queries)

    invoice = add_import(ended_at=datetime(2026, 11, 2, tzinfo=UTC))
    add_line(invoice, "first")
    InvoiceName.objects.create(source="openai", name="name", model="model")
    few = {page: count(page) for page in (COMPARISON, INVOICES, NAMES)}
    for number in range(30):
        add_line(add_import(number + 1), f"model-{number}")
        InvoiceName.objects.create(source="openai", name=f"name-{number}", model="model")
    assert {page: count(page) for page in few} == few
