"""The page of the routing settings in Chromium."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Console
from tests.e2e.gateway import MASTER_KEY, Gateway

pytestmark = pytest.mark.browser

PAGE = "/console/gateway/routersettings/"


def test_an_admin_sets_fallbacks_and_is_told_what_is_wrong(
    console: Console, gateway: Gateway, run_in_shell: Callable[[str], str]
) -> None:
    page = console.open("/console/")
    page.get_by_role("link", name="Routing", exact=False).first.click()
    expect(page.get_by_label("Strategy", exact=True)).to_have_value("")
    page.get_by_label("Strategy", exact=True).select_option("least-busy")
    page.locator("#id_fallbacks").fill("tollgate-echo => from-file")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Line 1: write it as “gpt-4o -> claude-sonnet, gemini-pro”.")).to_be_visible()
    page.locator("#id_fallbacks").fill("tollgate-echo -> from-file, absent")
    page.get_by_text("Retries by the class of the last error").click()
    page.locator("#id_retry_RateLimitErrorRetries").fill("44")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Must be a whole number from 0 to 10")).to_be_visible()
    page.locator("#id_retry_RateLimitErrorRetries").fill("3")
    page.locator("#id_num_retries").fill("1")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Fallbacks: no deployment serves 'absent'.")).to_be_visible()
    expect(page.locator("#id_fallbacks")).to_have_value("tollgate-echo -> from-file, absent")
    headers = {"authorization": f"Bearer {MASTER_KEY}"}
    answer = gateway.http.get("/api/routing-settings", headers=headers).json()
    assert answer["fallbacks"] == {"tollgate-echo": ["from-file", "absent"]}
    assert (answer["routing_strategy"], answer["num_retries"], answer["source"]) == ("least-busy", 1, "console")
    cleared = gateway.http.put("/api/routing-settings", json={}, headers=headers)
    assert cleared.status_code == 200, cleared.text
