"""The page that tests a deployment, in Chromium before a running gateway."""

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, StorageState, expect

from tests.browser.conftest import Console

pytestmark = pytest.mark.browser

DEPLOYMENTS = "/console/gateway/deployment/"


def open_test(console: Console, group: str) -> Page:
    page = console.open(f"{DEPLOYMENTS}?q={group}")
    page.locator("#result_list").get_by_role("link", name=group).click()
    page.locator(".tg-above").get_by_role("link", name="Test").click()
    expect(page.get_by_role("button", name="Test")).to_be_visible()
    return page


def test_a_deployment_is_tested_with_its_answer_cost_and_spend_log(console: Console) -> None:
    page = open_test(console, "tollgate-echo")
    page.get_by_label("Prompt").fill("hello there")
    page.get_by_role("button", name="Test").click()
    result = page.locator("section", has=page.get_by_role("heading", name="Result"))
    expect(result.get_by_role("status")).to_have_text("answered")
    expect(result).to_contain_text("hello there")
    expect(result).to_contain_text("$0")
    result.get_by_role("link", name="Spend log").click()
    expect(page.locator("#result_list")).to_contain_text("tollgate-echo")
    expect(page.locator("#result_list")).to_contain_text("probe")


def test_a_deployment_of_the_file_shows_why_it_fails(console: Console) -> None:
    page = open_test(console, "from-file")
    page.get_by_role("button", name="Test").click()
    result = page.locator("section", has=page.get_by_role("heading", name="Result"))
    expect(result.get_by_role("status")).to_have_text("failed")
    expect(result).to_contain_text("The upstream could not be reached.")
    assert "sk-upstream-file" not in page.content()
    page.get_by_role("link", name="Back").click()
    expect(page.locator("main")).to_contain_text("Last probe (Test): connect")


def test_the_kind_of_call_can_be_chosen(console: Console) -> None:
    page = open_test(console, "tollgate-echo")
    page.get_by_label("Kind of call").select_option("embedding")
    page.get_by_role("button", name="Test").click()
    expect(page.locator("section", has=page.get_by_role("heading", name="Result"))).to_contain_text("a vector of")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(
    open_console: Callable[..., Console], signed_in: StorageState, scheme: str, tmp_path: Path
) -> None:
    console = open_console(storage_state=signed_in, color_scheme=scheme)
    page = open_test(console, "from-file")
    page.get_by_role("button", name="Test").click()
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    page.screenshot(path=tmp_path / f"test-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    violations = Axe().run(page).response["violations"]
    assert not violations, [violation["id"] for violation in violations]
    console.check()
