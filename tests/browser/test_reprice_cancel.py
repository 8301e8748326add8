"""A repricing that is cancelled amid its calls, in Chromium: what it has done stays, and another job does the rest."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Console
from tests.e2e.gateway import BUSY, Gateway, eventually

pytestmark = pytest.mark.browser
ROWS = 10_000  # a hundred steps of the worker
#: Calls of a deployment without a price, counted as such.
CALLS = f"""
from uuid import UUID
from django.utils import timezone
from django_scopes import scopes_disabled
from uuid_utils import uuid7
from billing.bookkeeping import price_pending
from billing.models import SpendLog
from gateway.deployments import save_deployment
from gateway.models import Deployment
with scopes_disabled():
    deployment = Deployment(id="the-many", model_group="many", provider="openai", upstream_model="own-many")
    save_deployment(deployment, credential={{"api_key": "sk-x"}})
    now = timezone.now()
    SpendLog.objects.bulk_create(
        [
            SpendLog(
                id=UUID(int=uuid7().int), request_id=UUID(int=uuid7().int), writer_id="gone", operation="chat",
                organization_id="default", model_group="many", deployment_id="the-many", provider="openai",
                upstream_model="own-many", state="metered", input_tokens=10**6, usage_source="provider",
                finish="complete", status_code=200, started_at=now, ended_at=now,
            )
            for _ in range({ROWS})
        ],
        batch_size=500,
    )
    while price_pending():
        pass
"""
COUNT = """
from django_scopes import scopes_disabled
from billing.models import SpendLog
with scopes_disabled():
    print(SpendLog.objects.filter(model_group="many", state="{state}").count())
"""


@pytest.fixture(scope="module", autouse=True)
def calls(run_in_shell: Callable[[str], str]) -> None:
    run_in_shell(CALLS)
    eventually(lambda: count(run_in_shell, "unpriced") == ROWS, within_s=30, what="the worker has counted the calls")


def count(run_in_shell: Callable[[str], str], state: str) -> int:
    return int(run_in_shell(COUNT.format(state=state)))


def looked_at(html: str) -> int:
    found = re.search(r"Calls looked at</dt><dd[^>]*>([\d,]+)", html)
    assert found is not None, html
    return int(found[1].replace(",", ""))


def start(console: Console) -> str:
    """The path of the job's page."""
    console.page.get_by_role("button", name=re.compile(r"Price [\d,]+ calls again")).click()
    expect(console.page).to_have_url(re.compile(r"/console/repricing/[^/]+/$"))
    return console.page.url


def is_sound(gateway: Gateway) -> bool:
    return gateway.manage("verify_ledger").returncode == 0


def test_a_job_that_runs_is_cancelled_and_another_one_does_the_rest(
    console: Console, gateway: Gateway, run_in_shell: Callable[[str], str]
) -> None:
    page = console.open("/console/prices/set/?model=many")
    page.get_by_label("Input", exact=True).fill("2")
    page.get_by_role("button", name="Set the price").click()
    expect(page.locator("form[method=post] dd").first).to_have_text(f"{ROWS:,}")
    job = start(console)
    expect(page.locator("[role=status] .tg-badge")).to_have_text("running")
    eventually(
        lambda: looked_at(page.request.get(f"{job}?part=progress").text()) > 0,
        within_s=20,
        what="the worker has begun the job",
    )
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_text("The job is cancelled. What it has done stays.")).to_be_visible()
    expect(page.locator("[role=status] .tg-badge")).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Cancel the job")).to_have_count(0)
    done = looked_at(page.content())
    assert 0 < done < ROWS
    assert count(run_in_shell, "priced") == done, "the page has counted what the job has done"
    assert count(run_in_shell, "unpriced") == ROWS - done
    eventually(lambda: is_sound(gateway), within_s=20, what="verify_ledger finds nothing after the cancelling")
    assert looked_at(console.open(job.removeprefix(console.url)).content()) == done, "nothing continues it"

    console.open("/console/repricing/new/?model=many")
    start(console)
    expect(page.locator("[role=status] .tg-badge")).to_have_text("done", timeout=30_000 * BUSY)
    assert looked_at(page.content()) == ROWS - done
    assert count(run_in_shell, "priced") == ROWS
    eventually(lambda: is_sound(gateway), within_s=20, what="verify_ledger finds nothing at the end")
    report = console.open("/console/reports/spend/?period=7d")
    expect(report.locator(".tg-report tbody tr", has_text="many")).to_contain_text("$20,000.00")
    console.open("/console/repricing/")
    expect(page.locator("tbody tr", has_text="many")).to_contain_text(["done", "cancelled"])
