"""The console in Chromium, before a running gateway."""

import os
import re
import subprocess
from collections.abc import Callable

import pytest
from playwright.sync_api import APIResponse, Page, Route, StorageState, expect

from tests.browser.conftest import IS_CUT, LAN_HOST, Console
from tests.browser.seed import MARKUP
from tests.e2e.gateway import Gateway, eventually

pytestmark = pytest.mark.browser

SCREENS = {
    "dashboard": "/console/",
    "spend report": "/console/reports/spend/",
    "spend report, by two": "/console/reports/spend/?period=7d&group_by=day,user&tz=Asia/Kathmandu",
    "alerts": "/console/alerts/",
    "add an alert channel": "/console/alerts/channels/new/",
    "schedule a report": "/console/alerts/reports/new/",
    "spend logs": "/console/billing/spendlog/",
    "spend logs, filtered": "/console/billing/spendlog/?when=24h&state__exact=unpriced&provider=openai",
    "spend logs, none found": "/console/billing/spendlog/?q=nothing",
    "stored responses": "/console/gateway/storedresponse/",
    "stored responses, filtered": "/console/gateway/storedresponse/?when=24h&status__exact=completed&q=key:x",
    "conversations": "/console/gateway/conversation/",
    "simulate": "/console/simulate/",
    "prices": "/console/prices/?q=catalogued",
    "versions of a price": "/console/prices/versions/?provider=openai&model=catalogued",
    "set a price": "/console/prices/set/?model=priced-model",
    "set a price with a date": "/console/prices/new/",
    "contracts": "/console/prices/contracts/",
    "drafts of prices": "/console/prices/drafts/",
    "calls without a price": "/console/unpriced/",
    "repricing": "/console/repricing/",
    "price calls again": "/console/repricing/new/?model=priced-model",
    "reconciliation": "/console/reconciliation/",
    "invoices": "/console/reconciliation/invoices/",
    "names in invoices": "/console/reconciliation/names/",
    "virtual keys": "/console/tenants/virtualkey/",
    "issue a key": "/console/tenants/virtualkey/add/",
    "deployments": "/console/gateway/deployment/",
    "add a deployment": "/console/gateway/deployment/add/",
    "routing": "/console/gateway/routersettings/1/change/",
    "organizations": "/console/tenants/organization/",
    "add an organization": "/console/tenants/organization/add/",
    "teams": "/console/tenants/team/",
    "add a team": "/console/tenants/team/add/",
    "budgets": "/console/tenants/budget/",
    "budgets, filtered": "/console/tenants/budget/?used=80&scope__exact=key",
    "budget templates": "/console/tenants/budgettemplate/",
    "add a budget template": "/console/tenants/budgettemplate/add/",
    "end users": "/console/tenants/enduser/",
    "add an end user": "/console/tenants/enduser/add/",
    "audit": "/console/tenants/auditentry/",
    "users": "/console/tenants/user/",
    "add a user": "/console/tenants/user/add/",
    "change the password": "/console/password_change/",
}
#: List → what stands in the row that has a hostile name.
HOSTILE = {
    "spend logs": "script",
    "stored responses": "constructor",
    "conversations": "script",
    "virtual keys": "script",
    "deployments": "constructor",
    "organizations": "script",
    "teams": "script",
    "budgets": "script",
    "budget templates": "script",
    "end users": "script",
    "audit": "script",
    "users": "script",
}


def issue(page: Page, alias: str) -> str:
    page.get_by_label("Alias").fill(alias)
    page.get_by_role("button", name="Issue key").click()
    text = page.locator("#issued-key").inner_text()
    assert re.fullmatch(r"sk-\S{20,}", text), text
    return text


def add_deployment(page: Page, name: str, **fields: str) -> None:
    page.get_by_label("Model group").fill(name)
    page.get_by_label("Provider").select_option("openai")
    page.get_by_label("Upstream model").fill("gpt-4o")
    for field, value in fields.items():
        page.locator(f"#id_{field}").fill(value)
    page.get_by_role("button", name="Save").click()


# Coming in


def test_login_link_opens_the_console_once(
    open_console: Callable[..., Console], run_in_shell: Callable[[str], str]
) -> None:
    token = run_in_shell("from tenants import access; print(access.create_login_link(access.ensure_platform_admin()))")
    first = open_console()
    first.open(f"/console/login/link/{token}/")  # a preview reads it too, and does not use it up
    first.open(f"/console/login/link/{token}/")
    first.page.get_by_role("button", name="Sign in").click()
    assert first.page.url == f"{first.url}/console/"
    expect(first.page.get_by_role("link", name="Virtual keys")).to_be_visible()

    second = open_console()
    answer = second.page.goto(f"{second.url}/console/login/link/{token}/")
    assert answer is not None
    assert answer.status == 403
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    expect(second.page.get_by_role("heading", name="This link does not work")).to_be_visible()
    assert all("403" in error for error in second.errors), second.errors  # Chromium notes the status itself
    second.errors.clear()


def test_password_opens_the_console_and_a_wrong_one_does_not(
    open_console: Callable[..., Console], run_in_shell: Callable[[str], str]
) -> None:
    run_in_shell(
        "from tenants.models import User;"
        "User.objects.create_superuser('second-admin', password='correct horse battery');"
        "User.objects.create_user('member', password='correct horse battery', organization_id='default')"
    )
    console = open_console()
    for name, password in (("second-admin", "wrong"), ("member", "correct horse battery")):
        page = console.open("/console/virtualkey/")
        assert "/console/login/" in page.url
        page.get_by_label("User id").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("may not enter the console")
    page = console.open("/console/tenants/virtualkey/")
    page.get_by_label("User id").fill("second-admin")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/console/tenants/virtualkey/")


def test_quick_start_stands_in_for_the_dashboard_until_the_first_call(console: Console, gateway: Gateway) -> None:
    page = console.open("/console/")
    expect(page.get_by_text("waiting for the first call")).to_be_visible()
    expect(page.locator("#snippet-curl")).to_contain_text(f"{gateway.url}/v1/chat/completions")
    key = gateway.issue_key(key_alias="first")
    command = page.locator("#snippet-curl").inner_text()
    ran = subprocess.run(["bash", "-c", command], env=os.environ | {"KEY": key}, capture_output=True, text=True)
    assert '"object":"chat.completion"' in ran.stdout, "the command works as it is pasted"
    expect(page.get_by_role("heading", name="Latest calls")).to_be_visible()  # the page notices the call by itself
    gateway.wait_priced()
    page = console.open("/console/")
    expect(page.locator(".tg-card", has_text="Requests")).to_contain_text("1")
    expect(page.locator(".tg-table tbody tr")).to_have_count(1)
    expect(page.locator(".tg-table tbody")).to_contain_text("tollgate-echo")


# Keys


def test_issued_key_is_shown_in_exactly_one_response(
    console: Console, gateway: Gateway, stored_bytes: Callable[[], bytes]
) -> None:
    answers: list[tuple[str, APIResponse, str]] = []

    def record(route: Route) -> None:
        answer = route.fetch(max_redirects=0)
        answers.append((route.request.method, answer, answer.text()))
        route.fulfill(response=answer)

    console.context.route("**/console/**", record)
    text = issue(console.open("/console/tenants/virtualkey/add/"), "shown-once")
    assert gateway.call(text, model="tollgate-echo").status_code == 200

    console.page.reload()
    assert text not in console.page.content()
    expect(console.page.get_by_text("has issued its key already")).to_be_visible()
    for path in ("/console/tenants/virtualkey/", "/console/", "/console/tenants/virtualkey/?q=shown-once"):
        assert text not in console.open(path).content()
    console.page.get_by_role("link", name="shown-once").click()
    expect(console.page.get_by_text(f"sk-...{text[-4:]}").first).to_be_visible()
    console.context.unroute_all(behavior="wait")
    (call,) = (each for each in answers if text in each[2] + each[1].url + str(each[1].headers))
    method, answer, body = call
    assert (method, body.count(text)) == ("POST", 1)
    assert "no-store" in answer.headers["cache-control"]
    assert text.encode() not in stored_bytes()


def test_copy_reports_success_on_plain_http(open_console: Callable[..., Console], signed_in: StorageState) -> None:
    cookies = [{**cookie, "domain": LAN_HOST} for cookie in signed_in["cookies"]]
    console = open_console(host=LAN_HOST, storage_state={"cookies": cookies, "origins": []})
    text = issue(console.open("/console/tenants/virtualkey/add/"), "copied")
    assert console.page.evaluate("[window.isSecureContext, typeof navigator.clipboard]") == [False, "undefined"]
    button = console.page.locator(".tg-secret [data-copy]")
    button.click()
    expect(button).to_have_text(re.compile("Copied"))
    page = console.open("/console/tenants/virtualkey/add/")
    page.get_by_label("Alias").press("Control+V")
    expect(page.get_by_label("Alias")).to_have_value(text)


def test_key_is_blocked_unblocked_and_deleted(console: Console, gateway: Gateway) -> None:
    text = issue(console.open("/console/tenants/virtualkey/add/"), "short-lived")
    assert gateway.call(text, model="tollgate-echo").status_code == 200

    def act(name: str) -> None:
        page = console.open("/console/tenants/virtualkey/?q=short-lived")
        page.locator("input.action-select").first.check()
        page.locator("select[name=action]").select_option(label=name)
        page.locator("button[name=index]").click()

    for name, badge, status in (("Block", "blocked", 401), ("Unblock", "active", 200)):
        act(f"{name} the selected keys")
        expect(console.page.locator(".field-status .tg-badge")).to_have_text(badge)
        eventually(
            lambda status=status: gateway.call(text, model="tollgate-echo").status_code == status,
            within_s=3,
            what=f"{name} acts",
        )
    act("Delete selected virtual keys")
    expect(console.page.get_by_text("Are you sure")).to_be_visible()
    console.page.get_by_role("button", name="Yes, I’m sure").click()
    expect(console.page.get_by_text("No results")).to_be_visible()
    eventually(lambda: gateway.call(text, model="tollgate-echo").status_code == 401, within_s=3, what="deletion acts")


def test_models_are_suggested_and_a_used_alias_is_an_error_of_its_field(console: Console) -> None:
    page = console.open("/console/tenants/virtualkey/add/")
    page.get_by_role("button", name="tollgate-echo").click()
    expect(page.get_by_label("Models")).to_have_value("tollgate-echo")
    issue(page, "taken")
    page = console.open("/console/tenants/virtualkey/add/")
    page.get_by_label("Alias").fill("taken")
    page.get_by_role("button", name="Issue key").click()
    expect(page.locator(".field-alias")).to_contain_text("is taken by another key")


# Deployments


def test_credential_of_a_deployment_is_never_shown_again(console: Console, stored_bytes: Callable[[], bytes]) -> None:
    secret = "sk-upstream-5d0fQ2mVx7"
    page = console.open("/console/gateway/deployment/add/")
    page.get_by_label("Provider").select_option("openai")
    expect(page.get_by_label("API base")).to_have_attribute("placeholder", "https://api.openai.com/v1")
    add_deployment(page, "with-secret", api_key=secret, price_input="2.50", price_output="10")
    row = page.locator("#result_list tbody", has_text="with-secret")
    expect(row).to_contain_text("$2.50 in · $10.00 out")
    row.get_by_role("link", name="with-secret").click()
    expect(page.get_by_label("API key").first).to_have_attribute("placeholder", "•••• set")
    expect(page.get_by_label("API key").first).to_have_value("")
    page.get_by_label("Upstream model").fill("gpt-4o-mini")
    page.get_by_role("button", name="Save").click()
    page.locator("#result_list tbody", has_text="gpt-4o-mini").get_by_role("link").first.click()
    expect(page.get_by_label("API key").first).to_have_attribute("placeholder", "•••• set")
    for path in ("/console/gateway/deployment/", "/console/"):
        assert secret not in console.open(path).content()
    assert secret.encode() not in stored_bytes()


def test_refused_deployment_says_why_at_the_field(console: Console) -> None:
    page = console.open("/console/gateway/deployment/add/")
    add_deployment(page, "refused", api_key="sk-x", weight="-1")
    expect(page.locator(".field-weight")).to_contain_text("Must not be negative")
    page = console.open("/console/gateway/deployment/add/")
    add_deployment(page, "refused", price_input="cheap")
    expect(page.locator(".field-price_input")).to_contain_text("Enter a number")
    expect(page.locator(".field-api_key")).to_contain_text("OpenAI needs an API key")


def test_what_a_deployment_does_not_take_is_one_row_of_choices(console: Console) -> None:
    page = console.open("/console/gateway/deployment/add/")
    boxes = page.locator("#id_lacking label")
    tops = {round(box["y"]) for place in range(boxes.count()) if (box := boxes.nth(place).bounding_box())}
    assert len(tops) == 1
    page.get_by_label("Images").check()
    page.get_by_label("Answers with").select_option("chat")
    add_deployment(page, "far/*", api_key="sk-x", upstream_model="*", tags="eu")
    page.locator("#result_list tbody", has_text="far/*").get_by_role("link").first.click()
    expect(page.get_by_label("Images")).to_be_checked()
    expect(page.get_by_label("Audio")).not_to_be_checked()
    expect(page.get_by_label("Tags", exact=True)).to_have_value("eu")


def test_deployment_from_the_file_is_read_only(console: Console) -> None:
    page = console.open("/console/gateway/deployment/?q=from-file")
    page.get_by_role("link", name="from-file").click()
    expect(page.get_by_text("Managed by config.yaml")).to_be_visible()
    expect(page.get_by_text("•••• set")).to_be_visible()
    expect(page.locator("#deployment_form input:not([type=hidden]), #deployment_form select")).to_have_count(0)
    expect(page.get_by_role("button", name="Save")).to_have_count(0)
    assert "sk-upstream-file" not in page.content()


# Spend logs


@pytest.mark.usefixtures("seeded")
def test_spend_logs_distinguish_unpriced_free_and_pending(console: Console) -> None:
    page = console.open("/console/billing/spendlog/?model_group=priced-model")
    rows = page.locator("#result_list tbody")
    expect(rows).to_have_count(7)  # a request of three attempts has one row, and one for its attempts
    costs = rows.locator(".field-cost_display").all_inner_texts()
    assert [cost.strip() for cost in costs] == [
        "UNPRICED\n$0.0131125",
        "not priced yet",
        "nothing sent",
        "LOST\n$0.000000000007",
        "UNPRICED",
        "$0.0131125",
    ]
    page.get_by_text("Filters").first.click()
    page.get_by_label("By price state").select_option("unpriced")
    page.get_by_role("button", name="Apply Filters").click()
    expect(page.locator("#result_list tbody .field-cost_display", has_text="unpriced").first).to_be_visible()
    expect(page.locator("#result_list tbody .field-cost_display", has_text="$")).to_have_text(["unpriced$0.0131125"])


@pytest.mark.usefixtures("seeded")
def test_spend_log_detail_shows_price_times_tokens_and_is_found_by_its_ids(console: Console) -> None:
    page = console.open("/console/billing/spendlog/?q=chatcmpl-priced")
    page.locator("#result_list tbody a").first.click()
    table = page.locator(".tg-table")
    for line in (("Input", "2,297", "$2.50", "$0.0057425"), ("Output", "737", "$10.00", "$0.00737")):
        row = table.locator("tbody tr", has_text=line[0])
        assert [text.strip() for text in row.locator("td").all_inner_texts()] == list(line)
    expect(table.locator("tfoot")).to_contain_text("$0.013112500000")
    expect(page.locator("#raw-usage")).to_contain_text('"prompt_tokens": 2297')
    request_id = page.locator("#row-id").inner_text()
    page = console.open(f"/console/billing/spendlog/?q={request_id}")
    expect(page.locator("#result_list tbody")).to_have_count(1)


# Every screen


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_render_inert(console: Console, name: str) -> None:
    page = console.open(SCREENS[name])
    hostile = page.locator("#result_list tbody", has_text=HOSTILE[name])
    path = hostile.first.locator("a").first.evaluate("link => link.pathname")
    console.open(path)
    assert page.evaluate("window.pwned") is None, path
    for title in ("History", "Delete"):
        console.open(path)
        link = page.get_by_role("link", name=title)
        if link.count():
            link.first.click()
            page.wait_for_load_state("networkidle")
            assert page.evaluate("window.pwned") is None, (path, title)


@pytest.mark.usefixtures("seeded")
def test_a_hostile_name_is_inert_where_it_is_found(console: Console) -> None:
    page = console.open("/console/")
    page.keyboard.press("Control+k")
    page.locator("#search-input-command").press_sequentially("script")
    expect(page.locator("#command-results-list")).to_contain_text("<script>")
    assert page.evaluate("window.pwned") is None
    expect(console.open(SCREENS["teams"]).locator("#result_list")).to_contain_text(MARKUP)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(
    ("theme", "width", "height"), [("light", 1440, 950), ("dark", 1440, 950), ("light", 1280, 800), ("light", 390, 844)]
)
def test_screens_fit_and_load_nothing_from_elsewhere(
    open_console: Callable[..., Console], signed_in: StorageState, theme: str, width: int, height: int
) -> None:
    console = open_console(storage_state=signed_in, color_scheme=theme, viewport={"width": width, "height": height})
    for name, path in SCREENS.items():
        answer = console.page.goto(f"{console.url}{path}")
        console.page.wait_for_load_state("networkidle")
        assert answer is not None, name
        assert answer.status == 200, name
        assert "unsafe-inline" not in answer.headers["content-security-policy"].split("script-src", 1)[1].split(";")[0]
        assert console.page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} overflows"
        assert console.page.evaluate("document.documentElement.classList.contains('dark')") is (theme == "dark")
        if width > 1000:
            assert not console.page.evaluate(IS_CUT), f"{name}: the list is wider than its place"


@pytest.mark.usefixtures("seeded")
def test_the_attempts_of_a_request_unfold_under_its_row(console: Console) -> None:
    page = console.open("/console/billing/spendlog/?when=24h")
    detail = page.locator(".tg-row-detail").filter(has_text="a group that stands in")
    expect(detail).to_be_hidden()
    button = page.get_by_role("button", name="3 attempts")
    expect(button).to_have_attribute("aria-expanded", "false")
    button.press("Enter")
    expect(detail).to_be_visible()
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(detail).to_contain_text("The upstream is overloaded.")
    expect(detail).to_contain_text("is cooling down after server errors, 4 s left")
    assert not page.evaluate(IS_CUT), "the list is wider than its place"
    assert page.evaluate("window.pwned") is None
    detail.get_by_role("link").first.click()
    expect(page.get_by_role("heading", name="Attempts of this request")).to_be_visible()
    expect(page.locator(".tg-attempts tr[aria-current=true]")).to_contain_text("first choice")
    assert page.evaluate("window.pwned") is None


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_simulate_shows_the_way_of_a_request(
    open_console: Callable[..., Console], signed_in: StorageState, theme: str
) -> None:
    console = open_console(storage_state=signed_in, color_scheme=theme)
    page = console.open("/console/simulate/")
    page.get_by_label("Virtual key").fill(MARKUP)
    page.get_by_label("Model", exact=True).fill("priced-model")
    page.get_by_label("with a tool").check()
    page.get_by_role("button", name="Simulate").click()
    expect(page.get_by_role("status")).to_have_text("refused")  # the key's team may call other models alone
    page.get_by_label("Virtual key").fill("sk-nobody-has-this-key")
    page.get_by_role("button", name="Simulate").click()
    expect(page.get_by_role("alert")).to_have_text("There is no such key.")
    page.get_by_label("Virtual key").fill("simulated")
    page.get_by_role("button", name="Simulate").click()
    expect(page.get_by_role("status")).to_have_text("admitted")
    expect(page.locator("main, body").first).to_contain_text("priced-model")
    expect(page.get_by_role("region", name="priced-model").locator("tbody tr")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    assert page.evaluate("window.pwned") is None
