"""The pages of alerts in Chromium: a channel, its test, a scheduled report, and hostile names."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Console

pytestmark = pytest.mark.browser
#: The pages of rows that the seed makes.
ALERT_PAGES = ("/console/alerts/channels/seeded-channel/", "/console/alerts/reports/seeded-report/")


@pytest.mark.usefixtures("seeded")
def test_a_channel_is_added_tested_and_a_report_scheduled(console: Console) -> None:
    page = console.open("/console/")
    page.get_by_role("link", name="Alerts").first.click()
    page.get_by_role("link", name="Add a channel").click()
    page.get_by_label("Name").fill("on call")
    page.get_by_label("Kind").select_option("webhook")
    page.get_by_label("Address").fill("http://127.0.0.1:9/hook")
    page.get_by_role("button", name="Add the channel").click()
    expect(page.locator("#channel-secret")).to_have_text(re.compile(r"^whsec_\S{40,}$"))
    page.get_by_role("link", name="Done").click()
    page.get_by_role("button", name="Send a test to on call").click()
    expect(page.get_by_text("A test is on its way")).to_be_visible()
    row = page.locator("tbody tr", has_text="A test of the alert channel on call")
    expect(row.locator(".tg-delivery")).to_contain_text("waiting")

    page.get_by_role("link", name="Schedule a report").first.click()
    page.get_by_label("Name").fill("weekly spend")
    page.get_by_label("Time zone").fill("Asia/Kathmandu")
    page.get_by_label("How often").select_option("weekly")
    page.get_by_label("Day of the week").select_option("friday")
    page.get_by_label("Platform: on call").check()
    page.get_by_role("button", name="Schedule the report").click()
    expect(page.locator("tbody tr", has_text="weekly spend")).to_contain_text("Every week, Friday 08:00 Asia/Kathmandu")
    page.get_by_role("button", name="Send weekly spend now").click()
    expect(page.get_by_text("The report is on its way")).to_be_visible()
    expect(page.locator("tbody tr", has_text="report.spend")).to_contain_text("USD")


@pytest.mark.usefixtures("seeded")
def test_hostile_names_on_pages_of_alerts_render_inert(console: Console) -> None:
    for path in (
        "/console/alerts/",
        "/console/alerts/?state=failed",
        *ALERT_PAGES,
        "/console/alerts/reports/new/",
    ):
        page = console.open(path)
        expect(page.locator("main, body").first).to_contain_text("window.pwned=1")
        assert page.evaluate("window.pwned") is None, path
