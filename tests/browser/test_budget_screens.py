"""Budgets in the console, in Chromium before a running gateway."""

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, StorageState, expect

from tests.browser.conftest import Console
from tests.browser.test_accessibility import find_violations
from tests.browser.test_console import issue
from tests.e2e.gateway import Gateway, eventually

pytestmark = pytest.mark.browser

KEYS = "/console/tenants/virtualkey/"


def open_key(console: Console, alias: str) -> Page:
    page = console.open(f"{KEYS}?q={alias}")
    page.locator("#result_list").get_by_role("link", name=alias).click()
    expect(page.get_by_role("heading", name="Usage")).to_be_visible()
    return page


def test_a_budget_is_set_used_changed_and_cleared(console: Console, gateway: Gateway) -> None:
    page = console.open(f"{KEYS}add/")
    page.get_by_label("Budget", exact=True).fill("0.5")
    page.get_by_label("Starts anew").select_option("1d")
    page.get_by_label("Requests per minute").first.fill("60")
    text = issue(page, "with-a-budget")
    answer = httpx.post(
        f"{gateway.url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {text}"},
        json={"model": "tollgate-echo", "messages": [{"role": "user", "content": "hello"}]},
    )
    assert answer.status_code == 200, answer.text

    page = open_key(console, "with-a-budget")
    usage = page.locator("section", has=page.get_by_role("heading", name="Usage"))
    expect(usage).to_contain_text("All models · per day")
    expect(usage).to_contain_text("left of $0.50")
    expect(usage).to_contain_text("Requests per minute")
    expect(usage.locator(".tg-meter")).to_be_visible()

    page.get_by_label("Budget", exact=True).fill("many")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Enter a number.")).to_be_visible()
    page.get_by_label("Budget", exact=True).fill("2")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#result_list")).to_contain_text("/ $2.00")

    page = console.open("/console/tenants/budget/?q=&scope__exact=key")
    row = page.locator("#result_list tr", has_text="with-a-budget")
    expect(row).to_contain_text("$2.00")
    expect(row).to_contain_text("per day")
    row.get_by_role("link", name="with-a-budget").click()

    page.get_by_label("Budget", exact=True).fill("")
    page.get_by_label("Starts anew").select_option("")
    page.get_by_role("button", name="Save").click()
    page = open_key(console, "with-a-budget")
    expect(page.get_by_text("No budget: only the limits of what it belongs to bind.")).to_be_visible()
    expect(console.open("/console/tenants/budget/").locator("body")).not_to_contain_text("with-a-budget")


def test_a_key_is_rotated_and_both_texts_work(console: Console, gateway: Gateway) -> None:
    former = issue(console.open(f"{KEYS}add/"), "to-rotate")
    page = open_key(console, "to-rotate")
    page.get_by_role("link", name="Rotate", exact=True).click()
    page.get_by_role("button", name="Rotate key").click()
    text = page.locator("#issued-key").inner_text()
    assert text != former
    expect(page.get_by_text("The former text works until")).to_be_visible()

    def is_known(key: str) -> bool:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.get(f"{gateway.url}/v1/models", headers=headers).status_code == 200

    eventually(lambda: is_known(text) and is_known(former), within_s=3, what="both texts work")


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_with_bars_have_no_violations_and_fit(
    open_console: Callable[..., Console], signed_in: StorageState, theme: str
) -> None:
    console = open_console(storage_state=signed_in, color_scheme=theme, viewport={"width": 1280, "height": 950})
    page = console.open(f"{KEYS}?q=script")
    key = page.locator("#result_list tbody a").first.evaluate("link => link.pathname")
    entry = "/console/tenants/auditentry/"
    page = console.open(entry)
    entry = page.locator("#result_list tbody a").first.evaluate("link => link.pathname")
    paths = [
        key,
        key.replace("/change/", "/rotate/"),
        entry,
        "/console/tenants/organization/default/change/",
        "/console/tenants/budget/?used=80",
    ]
    violations: list[str] = []
    for path in paths:
        violations += find_violations(console, path)
        assert not console.page.evaluate("document.documentElement.scrollWidth > innerWidth"), path
    assert not violations, "\n".join(violations)
