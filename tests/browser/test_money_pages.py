"""The pages of money in Chromium: a report and its chart, a model without a price, a changed price, a repricing,
an invoice."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Console

pytestmark = pytest.mark.browser
INVOICES = Path(__file__).resolve().parents[1] / "fixtures" / "invoices"

#: Calls of a deployment without a price, and of one whose calls cost $1 each.
CALLS = """
from uuid import UUID
from django.utils import timezone
from django_scopes import scopes_disabled
from uuid_utils import uuid7
from billing.models import SpendLog
from billing.rollup_rebuild import rebuild_day
from gateway.deployments import save_deployment
from gateway.models import Deployment
with scopes_disabled():
    for name, price in (("waiting", {}), ("paid", {"input": "0.000001"})):
        row = Deployment(id=f"the-{name}", model_group=name, provider="openai", upstream_model=f"own-{name}")
        save_deployment(row, credential={"api_key": "sk-x"}, price_lines=price)
        for _ in range(3):
            SpendLog.objects.create(
                id=UUID(int=uuid7().int), request_id=UUID(int=uuid7().int), writer_id="gone", operation="chat",
                organization_id="default", model_group=name, deployment_id=row.id, provider="openai",
                upstream_model=row.upstream_model, price_id=row.price_id, state="priced" if price else "unpriced",
                cost_pusd=10**12 if price else None, input_tokens=10**6, usage_source="provider", finish="complete",
                status_code=200, started_at=timezone.now(), ended_at=timezone.now(),
            )
    rebuild_day(timezone.now().date())
"""


@pytest.fixture(scope="module", autouse=True)
def calls(run_in_shell: Callable[[str], str]) -> None:
    run_in_shell(CALLS)


def open_job(console: Console) -> None:
    """Waits on the job's page, which renews itself, until the worker has done the job."""
    expect(console.page).to_have_url(re.compile(r"/console/repricing/[^/]+/$"))
    expect(console.page.locator("[role=status] .tg-badge")).to_have_text("done", timeout=60_000)


@pytest.mark.usefixtures("seeded")
def test_a_report_is_drawn_and_compared_and_sent_as_a_file(console: Console) -> None:
    page = console.open("/console/")
    page.get_by_role("link", name="Spend report").first.click()
    page.get_by_label("Time zone").fill("Asia/Kathmandu")
    page.get_by_label("By", exact=True).select_option("model_group")
    page.get_by_label("And by").select_option("provider")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="30 days").click()  # of this zone, where the day may be another one
    row = page.locator(".tg-report tbody tr", has_text="paid")
    expect(row).to_contain_text("$3.00")
    expect(page.locator(".tg-report tfoot")).to_contain_text("Total")
    assert page.evaluate("Chart.getChart('report-chart').data.datasets.length") > 1
    page.get_by_text("The chart as a table").click()
    expect(page.get_by_role("region", name="The chart as a table")).to_contain_text("$3.00")
    row.get_by_role("link", name="3").click()
    expect(page.locator("#result_list tbody .field-route", has_text="paid")).to_have_count(3)
    expect(page.locator("#result_list tbody .field-route")).to_have_count(3)
    page.go_back()
    page.get_by_role("link", name="7 days").click()
    expect(page.get_by_role("link", name="7 days")).to_have_attribute("aria-current", "true")
    expect(page.get_by_label("Time zone")).to_have_value("Asia/Kathmandu")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    text = download.value.path().read_text()
    assert "\npaid,openai,3.000000000000,3," in text.replace("\r", "")
    page.get_by_label("Time zone").fill("Atlantis/Poseidonis")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("alert")).to_contain_text("'tz' must be the name of a time zone")
    assert all("400" in error for error in console.errors), console.errors  # Chromium notes the status itself
    console.errors.clear()


@pytest.mark.usefixtures("seeded")
def test_hostile_names_on_pages_of_money_render_inert(console: Console) -> None:
    for path in (
        "/console/reports/spend/?group_by=key,user",
        "/console/reports/spend/?group_by=tag,upstream_model",
        "/console/reports/spend/?group_by=day,end_user",
        "/console/prices/?q=catalogued",
        "/console/unpriced/",
        "/console/prices/set/?model=priced-model",
        "/console/prices/contracts/",
        "/console/prices/drafts/",
        "/console/reconciliation/?provider=openai",
        "/console/reconciliation/invoices/",
        "/console/reconciliation/names/",
    ):
        page = console.open(path)
        expect(page.locator("main, body").first).to_contain_text("window.pwned=1")
        assert page.evaluate("window.pwned") is None, path
    page = console.open("/console/reports/spend/?group_by=%22%3E%3Cscript%3Ewindow.pwned=1%3C/script%3E")
    expect(page.get_by_role("alert")).to_contain_text("<script>window.pwned=1</script>")
    assert page.evaluate("window.pwned") is None
    assert all("400" in error for error in console.errors), console.errors  # Chromium notes the status itself
    console.errors.clear()


def test_a_model_without_a_price_is_priced_with_its_calls(console: Console) -> None:
    page = console.open("/console/")
    page.get_by_role("link", name="Calls without a price").first.click()
    row = page.locator("tbody tr", has_text="waiting")
    expect(row.locator("td").nth(1)).to_have_text("3")
    row.get_by_role("link", name="Set a price").click()
    page.get_by_label("Input", exact=True).fill("cheap")
    page.get_by_role("button", name="Set the price").click()
    expect(page.get_by_role("alert")).to_contain_text("Enter a number")
    page.get_by_label("Input", exact=True).fill("2.50")
    page.get_by_role("button", name="Set the price").click()
    expect(page.get_by_text("openai/own-waiting: $2.50 input")).to_be_visible()
    expect(page.locator("form[method=post] dd").first).to_have_text("3")
    expect(page.locator("form[method=post]").last).to_contain_text("+$7.50")
    page.get_by_label("Reason").fill("at last")
    page.get_by_role("button", name="Price 3 calls again").click()
    open_job(console)
    expect(page.locator("[role=status]")).to_contain_text("+$7.50")
    expect(console.open("/console/unpriced/").locator("tbody tr", has_text="waiting")).to_have_count(0)


def test_a_changed_price_reaches_old_calls_by_a_job(console: Console) -> None:
    page = console.open("/console/prices/set/?model=paid")
    expect(page.get_by_role("region", name="The price now")).to_contain_text("$1.00 input")
    page.get_by_label("Input", exact=True).fill("3")
    page.get_by_role("button", name="Set the price").click()
    expect(page.get_by_text("No call would have another cost.")).to_be_visible()
    page.get_by_label("Calls", exact=True).select_option("since")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("alert")).to_have_text("Say since when.")
    page.get_by_label("Since").fill("2026-01-01T00:00")
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("button", name="Price 3 calls again").click()
    open_job(console)
    expect(page.locator("[role=status]")).to_contain_text("+$6.00")
    report = console.open("/console/reports/spend/?period=7d")
    expect(report.locator(".tg-report tbody tr", has_text="paid")).to_contain_text("$9.00")
    console.open("/console/repricing/")
    expect(page.locator("tbody tr", has_text="paid").first).to_contain_text("+$6.00")


#: Calls that cost $1 each by the catalogue, and a draft of LiteLLM's for their model.
CATALOGUED = """
from uuid import UUID
from django.utils import timezone
from django_scopes import scopes_disabled
from uuid_utils import uuid7
from billing.models import Price, SpendLog
from billing.rollup_rebuild import rebuild_day
from gateway.deployments import save_deployment
from gateway.models import Deployment
with scopes_disabled():
    price = Price.objects.create(
        origin="book", provider="openai", model="dated", deployment_id="", lines={"input": "0.000001"}
    )
    Price.objects.create(
        origin="book", status="draft", provider="openai", model="drafted", deployment_id="", lines={"input": "0.000009"}
    )
    save_deployment(Deployment(id="the-dated", model_group="dated", provider="openai", upstream_model="dated"))
    for _ in range(2):
        SpendLog.objects.create(
            id=UUID(int=uuid7().int), request_id=UUID(int=uuid7().int), writer_id="gone", operation="chat",
            organization_id="default", model_group="dated", deployment_id="the-dated", provider="openai",
            upstream_model="dated", price_id=price.id, state="priced", cost_pusd=10**12, input_tokens=10**6,
            usage_source="provider", finish="complete", status_code=200, started_at=timezone.now(),
            ended_at=timezone.now(),
        )
    rebuild_day(timezone.now().date())
"""


def test_a_price_with_a_date_a_contract_and_a_draft(console: Console, run_in_shell: Callable[[str], str]) -> None:
    run_in_shell(CATALOGUED)
    page = console.open("/console/prices/")
    page.get_by_role("link", name="A price with a date").click()
    page.get_by_label("Provider").select_option("openai")
    page.get_by_label("Model", exact=True).fill("dated")
    page.get_by_label("In force from").fill("2026-01-01T00:00")
    page.get_by_role("button", name="Store the price").click()
    expect(page.get_by_role("alert")).to_contain_text("Give prices, or a percentage")
    page.get_by_label("Input", exact=True).fill("4")
    page.get_by_role("button", name="Store the price").click()
    expect(page.get_by_role("region", name="Versions, the newest first")).to_contain_text("in force")
    page.get_by_role("link", name="dated", exact=True).click()
    expect(page.locator("form[method=post]").last).to_contain_text("+$6.00")
    page.get_by_role("button", name="Price 2 calls again").click()
    open_job(console)
    report = console.open("/console/reports/spend/?period=7d")
    expect(report.locator(".tg-report tbody tr", has_text="dated")).to_contain_text("$8.00")

    page = console.open("/console/prices/new/?provider=openai&model=dated&organization=default")
    page.get_by_label("Percent").fill("-50")
    page.get_by_role("button", name="Store the price").click()
    page = console.open("/console/prices/contracts/")
    row = page.locator("tbody tr", has_text="dated")
    expect(row).to_contain_text("− 50 %")
    row.get_by_role("link", name="End").click()
    page.get_by_role("button", name="End the contract").click()
    expect(page.get_by_text("The contract has ended: 1 version.")).to_be_visible()

    page = console.open("/console/prices/drafts/?q=drafted")
    page.get_by_role("button", name="Accept drafted").click()
    expect(page.get_by_text("1 price is in force now.")).to_be_visible()
    expect(console.open("/console/prices/?q=drafted").locator("tbody tr")).to_contain_text("$9.00 input")


def test_an_invoice_is_uploaded_and_compared(console: Console, tmp_path: Path) -> None:
    page = console.open("/console/")
    page.get_by_role("link", name="Reconciliation").first.click()
    page.get_by_role("link", name="Invoices", exact=True).first.click()
    large = tmp_path / "large.csv"
    large.write_bytes(b"x" * 1_000_001)
    page.get_by_label("Provider").select_option("openai")
    page.get_by_label("Account").fill("browser")
    page.get_by_label("File").set_input_files(large)
    page.get_by_role("button", name="Import", exact=True).click()
    assert page.evaluate("document.querySelector('[type=file]').validationMessage").startswith("The file is larger")
    assert page.url.endswith("/invoices/"), "it was not sent"
    page.get_by_label("File").set_input_files(INVOICES / "aws_cur2.csv")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The invoice cannot be read: it is no export of OpenAI")
    page.get_by_label("File").set_input_files(INVOICES / "openai_costs.json")
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("Imported 2026-11-01: 5 sums of 5 records.")).to_be_visible()
    expect(page.locator(".tg-card").first).to_contain_text("$0.4800125")
    row = page.locator("tbody tr", has_text="gpt-4o").first
    expect(row).to_contain_text("not in ours")
    row.get_by_role("link").click()
    panel = page.get_by_role("region", name=re.compile(r"2026-11-01, OpenAI"))
    expect(panel.get_by_role("region", name="Tokens")).to_contain_text("input")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.path().read_text().startswith("day,provider,model,our_cost,their_cost,difference")

    page.get_by_role("link", name="Names", exact=True).click()
    page.get_by_label("Provider").select_option("openai")
    page.get_by_label("Name", exact=True).fill("gpt-4o-2024-08-06")
    page.get_by_label("Is compared as").fill("renamed-model")
    page.get_by_role("button", name="Store the name").click()
    expect(page.get_by_role("button", name="Forget gpt-4o-2024-08-06")).to_be_visible()

    console.open("/console/reconciliation/invoices/")
    page.get_by_role("link", name="Take back OpenAI, 2026-11-01").click()
    page.get_by_role("button", name="Take the import back").click()
    expect(page.get_by_text("The import is taken back, with its sums.")).to_be_visible()
    expect(page.locator("tbody tr", has_text="browser")).to_have_count(0)
