"""Every screen of the console against the rules of axe-core, in both colour schemes."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import StorageState

from tests.browser.conftest import Console
from tests.browser.test_alert_pages import ALERT_PAGES
from tests.browser.test_console import SCREENS
from tests.browser.test_stored_console import PAGES

pytestmark = pytest.mark.browser

OPTIONS = {"rules": {"target-size": {"enabled": True}}}  # a rule of WCAG 2.2, which axe leaves off
LOGIN = "/console/login/"
PATHS = [*SCREENS.values(), *PAGES, *ALERT_PAGES]
SHARES = 4  # so that no test comes near the time that one may take


def find_violations(console: Console, path: str) -> list[str]:
    violations = Axe().run(console.open(path), options=OPTIONS).response["violations"]
    return [f"{path}: {rule['id']}: {node['html'][:200]}" for rule in violations for node in rule["nodes"]]


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("share", range(SHARES))
def test_screens_have_no_violations(
    open_console: Callable[..., Console], signed_in: StorageState, theme: str, share: int
) -> None:
    console = open_console(storage_state=signed_in, color_scheme=theme)
    violations = [text for path in PATHS[share::SHARES] for text in find_violations(console, path)]
    assert not violations, "\n".join(violations)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_spend_log_and_the_login_have_no_violations(
    open_console: Callable[..., Console], signed_in: StorageState, theme: str
) -> None:
    console = open_console(storage_state=signed_in, color_scheme=theme)
    console.open("/console/billing/spendlog/?q=chatcmpl-priced")
    spend_log = console.page.locator("#result_list tbody a").first.evaluate("link => link.pathname")
    assert find_violations(console, spend_log) == []
    assert find_violations(open_console(color_scheme=theme), LOGIN) == []
