"""A running gateway: `manage.py serve` in a process of its own, called over HTTP."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import psutil
from openai import AsyncOpenAI, DefaultHttpxClient, OpenAI

from gateway.protocol.json.types import JsonObject
from tests.fakes.migrated import OWN_VARIABLES, REPO, copy_migrated_file
from tests.fakes.ports import free_port

T = TypeVar("T")

MASTER_KEY = "sk-master-J4vT8qLw2XnR6zBk0YpD3mHs5GcF7aEu"
FINAL = {"priced", "unpriced", "aborted", "lost"}

#: A machine that runs many gateways at once may take so many times as long as an idle one: nothing here is timed.
BUSY = 5


def eventually(check: Callable[[], T | Literal[False]], *, within_s: float, what: str) -> T:
    """The first true answer of `check`; an assertion failure when none comes in the time that an idle machine needs,
    and BUSY times over."""
    deadline = time.monotonic() + BUSY * within_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {BUSY} times {within_s} s: {what}; last seen: {value!r}")
        time.sleep(0.03)


def write_config(path: Path, config: JsonObject) -> Path:
    """JSON is YAML. Prices given as text stand in the file bare, as people write them (`6e-7`)."""
    text = json.dumps(config, indent=1, ensure_ascii=False)
    path.write_text(re.sub(r'(_token(?:_cost)?": )"([^"]+)"', r"\1\2", text), encoding="utf-8")
    return path


def decimal_cost(row: JsonObject) -> Decimal:
    """The row's exact cost; plain decimal text, because a reader may not know exponents."""
    assert isinstance(row["cost"], str), row
    assert re.fullmatch(r"\d+(\.\d+)?", row["cost"]), row
    return Decimal(row["cost"])


def events(body: bytes) -> list[str]:
    """The data of every server-sent event, comments left out."""
    return [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]


def start_together(gateways: Sequence["Gateway"]) -> None:
    for gateway in gateways:
        gateway.begin()
    for gateway in gateways:
        gateway.wait_ready()


class Gateway:
    """Closes: `close()`, which kills all its processes. One address and one home over all restarts."""

    def __init__(
        self,
        home: Path,
        *,
        config: JsonObject | None = None,
        env: Mapping[str, str] | None = None,
        master: bool = True,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home / "var"
        self.log = home / "output.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.issued: list[str] = []
        self.env = {name: value for name, value in os.environ.items() if not OWN_VARIABLES.match(name)}
        self.env |= {
            "TOLLGATE_HOME": str(self.home),
            "PORT": str(self.port),
            "PYTHONUNBUFFERED": "1",
            **(env or {}),
        }
        if master:
            self.env["TOLLGATE_MASTER_KEY"] = MASTER_KEY
        if config is not None:
            self.env["TOLLGATE_CONFIG"] = str(write_config(home / "config.yaml", config))
        self.http = httpx.Client(base_url=self.url, timeout=30)
        self.admin = httpx.Client(
            base_url=self.url,
            timeout=30,
            headers={"authorization": f"Bearer {self.env.get('TOLLGATE_MASTER_KEY')}"},
        )
        self._sdk_http = DefaultHttpxClient()
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = uuid.uuid4().hex  # inherited by everything that descends from it

    # Life

    def start(self, *arguments: str, ready_within_s: float = 60) -> "Gateway":
        self.begin(*arguments)
        self.wait_ready(ready_within_s)
        return self

    def begin(self, *arguments: str) -> None:
        """Starts it and does not wait until it is ready."""
        if not {"DATABASE_URL", "TOLLGATE_MIGRATE"} & self.env.keys():
            copy_migrated_file(self.home)
        self._process = self.spawn("serve", *arguments)

    def wait_ready(self, ready_within_s: float = 60) -> None:
        eventually(self._is_ready, within_s=ready_within_s, what=f"{self.url} is ready")

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"serve ended with {self._process.returncode}:\n{self.output()[-4000:]}")
        try:
            return self.http.get("/health/readiness").status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """Every living process that descends from any start of this gateway, also when its parent is gone."""
        processes = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("E2E_MARK") == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    processes.append(process)
            except psutil.Error:
                continue
        return processes

    def stop(self, within_s: float = 30) -> None:
        """SIGTERM, as an init system sends it. Asserts an orderly end and that nothing of it is left."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(BUSY * within_s)
        deadline = time.monotonic() + BUSY * 5
        while (leftover := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not leftover, f"still running after SIGTERM: {[process.cmdline() for process in leftover]}"
        assert code in {0, -signal.SIGTERM, 128 + signal.SIGTERM}, f"exit code {code}"

    def kill(self, *, whole: bool) -> None:
        """SIGKILL: all of it at once, as a power cut; or the main process alone, as the OOM killer."""
        assert self._process is not None
        if whole:
            for process in self.processes():
                process.kill()
        self._process.kill()
        self._process.wait(10)

    def restart(self) -> "Gateway":
        if self._process is not None and self._process.poll() is None:
            self.stop()
        return self.start()

    def close(self) -> None:
        for client in (self.http, self.admin, self._sdk_http):
            client.close()
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if self._process is not None:
            self._process.wait(10)

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A long-running command of manage.py with the same settings. Closes: with the gateway."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=REPO,
                env={**self.env, "E2E_MARK": self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def manage(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Another command of manage.py with the same settings, to its end."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=REPO,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    # Use

    def issue_key(self, **fields: Any) -> str:
        response = self.admin.post("/key/generate", json=fields)
        assert response.status_code == 200, response.text
        key: str = response.json()["key"]
        self.issued.append(key)
        return key

    def openai(self, key: str) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30, http_client=self._sdk_http)

    def async_openai(self, key: str) -> AsyncOpenAI:
        """Closes: the caller (`async with`)."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def call(self, key: str, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        """One call without the SDK, for what the SDK hides: bytes, headers, frames."""
        if "chat" in path:
            body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **body}
        return self.http.post(path, json=body, headers={"authorization": f"Bearer {key}"})

    def spend_rows(self, **filters: str) -> list[JsonObject]:
        response = self.admin.get("/spend/logs", params=filters)
        assert response.status_code == 200, response.text
        rows: list[JsonObject] = response.json()
        return rows

    def settled_rows(self, **filters: str) -> list[JsonObject]:
        """The rows, or none while one of them is not in a final state."""
        rows = self.spend_rows(**filters)
        return rows if {row["cost_status"] for row in rows} <= FINAL else []

    def wait_rows(self, count: int, **filters: str) -> list[JsonObject]:
        """At least `count` rows, which must be there within 2 s."""
        return eventually(
            lambda: len(rows := self.spend_rows(**filters)) >= count and rows,
            within_s=2,
            what=f"{count} spend rows of {filters}",
        )

    def wait_priced(self, count: int = 1, *, within_s: float = 15, **filters: str) -> list[JsonObject]:
        """Exactly `count` rows, all in a final state, oldest first. The rows must be there within 2 s."""
        self.wait_rows(count, **filters)
        rows = eventually(
            lambda: self.settled_rows(**filters),
            within_s=within_s,
            what=f"the rows of {filters} are settled",
        )
        assert len(rows) == count, rows
        return sorted(rows, key=lambda row: row["startTime"])
