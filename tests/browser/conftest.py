"""A gateway with contents, and Chromium before it. Without Chromium the tests are skipped with the reason."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, StorageState, sync_playwright

from tests.e2e.gateway import Gateway

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
#: A name that is not loopback: its plain-HTTP pages are no secure context, as on any LAN.
LAN_HOST = "tollgate.test"
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {LAN_HOST} 127.0.0.1",
]
CONFIG = {
    "model_list": [
        {
            "model_name": "tollgate-echo",
            "litellm_params": {"model": "mock/tollgate-echo", "input_cost_per_token": 0, "output_cost_per_token": 0},
        },
        {
            "model_name": "from-file",
            "litellm_params": {
                "model": "openai/gpt-file",
                "api_base": "http://127.0.0.1:9/v1",
                "api_key": "sk-upstream-file",
                "input_cost_per_token": "6e-7",
            },
        },
    ]
}
SHELL_NOISE = re.compile(r"^\d+ objects imported automatically.*$", re.MULTILINE)

#: True for a list that is wider than its place.
IS_CUT = "[...document.querySelectorAll('#result_list')].some(e => e.scrollWidth > e.parentElement.clientWidth)"

Seen = list[str]


class Console:
    """A browser on the console; remembers what no page may do."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.external: Seen = []
        self.errors: Seen = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("request", self._saw_request)
        self.page.on("pageerror", lambda error: self.errors.append(f"{self.page.url}: {error}"))
        self.page.on("dialog", lambda dialog: self.errors.append(f"{self.page.url}: dialog {dialog.message}"))
        self.page.on("console", self._saw_message)

    def _saw_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.external.append(request.url)

    def _saw_message(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(f"{self.page.url}: {message.type} {message.text}")

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.url}{path}")
        self.page.wait_for_load_state("networkidle")
        return self.page

    def check(self) -> None:
        assert not self.external, f"requests to elsewhere: {self.external}"
        assert not self.errors, self.errors


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = next((path for path in CHROMIUM if shutil.which(path)), None)
    if path is None:
        pytest.skip(f"NO CHROMIUM: the console is not tested. Looked for {', '.join(CHROMIUM)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def gateway(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Without Chromium none is started."""
    hosts = {"TOLLGATE_ALLOWED_HOSTS": f"127.0.0.1,{LAN_HOST}"}
    running = Gateway(tmp_path_factory.mktemp("console"), config=CONFIG, env=hosts)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


@pytest.fixture(scope="module")
def run_in_shell(gateway: Gateway) -> Callable[[str], str]:
    def run(code: str) -> str:
        process = gateway.manage("shell", "-v", "0", "-c", code)
        assert process.returncode == 0, process.stderr[-4000:]
        return SHELL_NOISE.sub("", process.stdout).strip()

    return run


@pytest.fixture(scope="module")
def seeded(run_in_shell: Callable[[str], str]) -> None:
    run_in_shell("from tests.browser.seed import seed; seed()")


@pytest.fixture(scope="module")
def login_path(gateway: Gateway) -> str:
    """A one-time link of the command; the start of a gateway with a given master key prints none."""
    assert "/login/link/" not in gateway.output()
    link = re.search(r"http://\S+(/console/login/link/\S+/)", gateway.manage("login_link").stdout)
    assert link is not None
    return link[1]


@pytest.fixture(scope="module")
def signed_in(chromium: Browser, gateway: Gateway, login_path: str) -> StorageState:
    """The cookies of the platform admin, who came in by the link."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{gateway.url}{login_path}")
    page.get_by_role("button", name="Sign in").click()
    assert page.url == f"{gateway.url}/console/", page.content()
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def open_console(chromium: Browser, gateway: Gateway) -> Iterator[Callable[..., Console]]:
    opened: list[Console] = []

    def open_one(*, host: str = "127.0.0.1", **options: Any) -> Console:
        context = chromium.new_context(**{"viewport": {"width": 1440, "height": 950}, **options})
        console = Console(context, gateway.url.replace("127.0.0.1", host))
        opened.append(console)
        return console

    yield open_one
    for console in opened:
        console.context.close()
    for console in opened:
        console.check()


@pytest.fixture
def console(open_console: Callable[..., Console], signed_in: StorageState) -> Console:
    """Entered as the platform admin. At the test's end: no external request, no error in the browser's console."""
    return open_console(storage_state=signed_in)


@pytest.fixture
def stored_bytes(gateway: Gateway) -> Callable[[], bytes]:
    """All that this gateway has written: database, journal, broker, secrets, and its output."""

    def read() -> bytes:
        found = b""
        for path in [*Path(gateway.home).rglob("*"), gateway.log]:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a message that a worker has taken
                found += path.read_bytes()
        return found

    return read
