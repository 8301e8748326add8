"""Stored responses and conversations in Chromium: an administrator looks for a word of a conversation."""

from collections.abc import Callable

import pytest
from openai import OpenAI
from playwright.sync_api import StorageState, expect

from tests.browser.conftest import IS_CUT, Console
from tests.browser.seed import CONVERSATION, MARKUP, response_id
from tests.e2e.gateway import Gateway

pytestmark = pytest.mark.browser

RESPONSES = "/console/gateway/storedresponse/"
CONVERSATIONS = "/console/gateway/conversation/"
PAGES = (
    f"{RESPONSES}{response_id(1)}/change/",
    f"{RESPONSES}{response_id(2)}/change/",
    f"{RESPONSES}{response_id(3)}/change/",
    f"{RESPONSES}{response_id(2)}/delete/",
    f"{CONVERSATIONS}{CONVERSATION}/change/",
    f"{CONVERSATIONS}{CONVERSATION}/delete/",
)


def test_a_session_is_read_from_its_last_turn_to_its_first_and_erased(console: Console, gateway: Gateway) -> None:
    client = OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.issue_key(key_alias="session"), max_retries=0)
    first = client.responses.create(model="tollgate-echo", input="My name is Ada.", instructions="Be brief.")
    second = client.responses.create(
        model="tollgate-echo", input="What is my name?", previous_response_id=first.id, stream=False
    )
    page = console.open(f"{RESPONSES}?q={second.id}")
    page.locator("#result_list tbody a").first.click()
    expect(page.locator("#row-id")).to_have_text(second.id)
    expect(page.locator(".tg-item-user .tg-item-text")).to_have_text("What is my name?")
    expect(page.locator(".tg-item-assistant .tg-item-text")).to_have_text("Echo: What is my name?")
    page.get_by_role("link", name="Tokens, cost and timings").click()
    expect(page.get_by_role("heading", name="Tokens and cost")).to_be_visible()
    page.go_back()
    page.get_by_role("link", name="Previous turn").click()
    expect(page.locator(".tg-item-user .tg-item-text")).to_have_text("My name is Ada.")
    expect(page.get_by_text("Be brief.")).to_be_visible()
    page.get_by_role("link", name=second.id).click()
    expect(page.locator("#row-id")).to_have_text(second.id)

    page.get_by_role("link", name="Erase").click()
    page.get_by_role("button", name="Yes, I’m sure").click()
    expect(page.get_by_text("was deleted successfully")).to_be_visible()
    assert client.responses.with_raw_response.retrieve(first.id).status_code == 200
    with pytest.raises(Exception, match="not found"):
        client.responses.retrieve(second.id)


@pytest.mark.usefixtures("seeded")
def test_tool_calls_are_readable_and_reasoning_is_folded(console: Console) -> None:
    page = console.open(PAGES[0])
    call = page.locator(".tg-item-call")
    expect(call).to_contain_text("get_weather")
    expect(call.locator("pre")).to_contain_text('"city": "Paris"')
    thought = page.get_by_text("The user wants the weather.")
    expect(thought).to_be_hidden()
    page.locator("summary", has_text="Reasoning").click()
    expect(thought).to_be_visible()
    expect(page.get_by_text("image/png, 29 KB")).to_be_visible()
    expect(console.open(PAGES[1]).locator(".tg-item-output")).to_contain_text("get_weather")
    expect(console.open(PAGES[2]).locator(".tg-alert")).to_contain_text("server_error")


@pytest.mark.usefixtures("seeded")
def test_lists_are_filtered_by_what_they_show(console: Console) -> None:
    page = console.open(RESPONSES)
    page.get_by_text("Filters").first.click()
    page.get_by_label("By status").select_option("failed")
    page.get_by_role("button", name="Apply Filters").click()
    rows = page.locator("#result_list tbody")
    expect(rows).to_have_count(1)
    expect(rows.locator(".field-state .tg-badge")).to_have_text("failed")
    page = console.open(f"{RESPONSES}?q=user:{MARKUP}")
    expect(page.locator("#result_list tbody .field-state .tg-badge")).to_have_text("expired")


@pytest.mark.usefixtures("seeded")
def test_an_organizations_retention_is_set_and_a_bad_one_is_an_error_of_its_field(console: Console) -> None:
    page = console.open("/console/tenants/organization/default/change/")
    page.get_by_label("Retention").fill("0")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".field-retention_days")).to_contain_text("Must be between 1 and 36,500 days")
    page.get_by_label("Retention").fill("7")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/organization/")
    page = console.open("/console/tenants/organization/default/change/")
    expect(page.get_by_label("Retention")).to_have_value("7")


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("light", 1280), ("dark", 390)])
def test_stored_content_fits_and_stays_inert(
    open_console: Callable[..., Console], signed_in: StorageState, theme: str, width: int
) -> None:
    console = open_console(storage_state=signed_in, color_scheme=theme, viewport={"width": width, "height": 900})
    for path in PAGES:
        page = console.open(path)
        for folded in page.locator("summary").all():
            folded.click()
        assert page.evaluate("window.pwned") is None, path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert width < 1000 or not page.evaluate(IS_CUT), f"{path}: the list is wider than its place"
