"""The servers under load: the mock upstream itself, nginx in front of it and Tollgate in front of it."""

import http.client
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from load import MODEL, PATH, Tools
from machine import BenchError, cpu_between, cpu_us, family, free_port, pin, running, wait_for_port

ROOT = Path(__file__).resolve().parents[2]
SETTLE_STEP_S = 0.25

NGINX = """daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx.err warn;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; client_max_body_size 16m; client_body_buffer_size 1m;
  client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
  uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 2048; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection "";
                  proxy_buffering off; }} }}
}}
"""

CONFIG = """model_list:
  - model_name: {model}
    litellm_params:
      model: openai_compatible/{model}
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: x
      input_cost_per_token: 1.5e-07
      output_cost_per_token: 6.0e-07
"""


#: Limits and budgets that are counted and never reached.
WALLS: dict[str, object] = {"rpm_limit": 10**9, "tpm_limit": 10**12, "max_budget": 10**6, "budget_duration": "30d"}


@dataclass(frozen=True, slots=True)
class Target:
    """Something with a port that answers chat completions. `pid` is None where CPU is not measured."""

    name: str
    port: int
    pid: int | None = None
    key: str | None = None
    has_workers: bool = False

    def web(self) -> list[int]:
        """The processes that carry requests: Tollgate's own one, nginx with its worker."""
        if self.pid is None:
            return []
        return [self.pid] if self.has_workers else family(self.pid)

    def workers(self) -> list[int]:
        """Tollgate's children: Celery's worker and beat, which price the rows."""
        return family(self.pid)[1:] if self.pid is not None and self.has_workers else []

    def settle(self, *, at_most_s: float = 2.0) -> None:
        """Wait until the workers have priced all rows, so that they do not disturb the next turn."""
        until = time.monotonic() + at_most_s
        idle = 0  # looks in a row that found them idle: between two batches they are so for a moment
        while self.has_workers and idle < 2 and time.monotonic() < until:
            before = cpu_us(self.workers())
            time.sleep(SETTLE_STEP_S)
            used = cpu_between(before, cpu_us(self.workers()))
            idle = idle + 1 if used < 0.1 * SETTLE_STEP_S * 1e6 else 0


@contextmanager
def mock_upstream(tools: Tools, *, port: int, work: Path, chunks: int = 50, gap_us: int = 0) -> Iterator[Target]:
    argv = [str(tools.mockup), "--port", str(port), "--chunks", str(chunks), "--gap-us", str(gap_us)]
    with running(argv, log=work / "mock.log", core=tools.core) as process:
        wait_for_port(port, process=process, at_most_s=5)
        yield Target(name="direct", port=port)


@contextmanager
def nginx_proxy(binary: str, *, upstream: int, work: Path, core: int | None) -> Iterator[Target]:
    port = free_port()
    conf = work / "nginx.conf"
    conf.write_text(NGINX.format(work=work, port=port, upstream=upstream))
    with running([binary, "-p", str(work), "-c", str(conf)], log=work / "nginx.log") as process:
        wait_for_port(port, process=process, at_most_s=5)
        pin(family(process.pid), core)
        yield Target(name="nginx", port=port, pid=process.pid)


@dataclass(slots=True)
class Tollgate:
    """One installation (home, keys, configuration) that can be started several times."""

    home: Path
    log: Path
    environment: dict[str, str]
    master_key: str
    port: int
    core: int | None
    has_walls: bool = False  # rate limits and budgets on the key and all that it belongs to
    key: str | None = None
    started_s: float = 0.0
    answered_probes: int = 0

    @classmethod
    def prepare(
        cls, *, work: Path, upstream: int, core: int | None, database_url: str | None, has_walls: bool = False
    ) -> "Tollgate":
        home = work / "home"
        home.mkdir()
        config = work / "config.yaml"
        config.write_text(CONFIG.format(model=MODEL, upstream=upstream))
        master_key = "sk-" + secrets.token_urlsafe(24)
        port = free_port()
        # Nothing of the caller's own installation may leak in: neither its database nor its keys.
        own = ("DATABASE_URL", "REDIS_URL", "LITELLM_MASTER_KEY", "DJANGO_SETTINGS_MODULE")
        environment = {k: v for k, v in os.environ.items() if k not in own and not k.startswith("TOLLGATE_")}
        environment |= {
            "TOLLGATE_HOME": str(home),
            "TOLLGATE_CONFIG": str(config),
            "TOLLGATE_MASTER_KEY": master_key,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "WEB_CONCURRENCY": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if database_url:
            environment["DATABASE_URL"] = database_url
        return cls(home, work / "tollgate.log", environment, master_key, port, core, has_walls)

    @contextmanager
    def serving(self, *, on_ready: Callable[[], None] = lambda: None) -> Iterator[Target]:
        """Started as a user starts it, on all cores, for the start-up time; pinned once it is ready.

        `on_ready` is called before the first request is sent.
        """
        began = time.monotonic()
        argv = [sys.executable, "manage.py", "serve"]
        with running(argv, log=self.log, cwd=ROOT, env=self.environment) as process:
            self._wait_until_ready(process, at_most_s=60)
            self.started_s = time.monotonic() - began
            on_ready()
            self.key = self.key or self._issue_key()
            self._probe()
            pin(family(process.pid), self.core)
            yield Target("tollgate", self.port, pid=process.pid, key=self.key, has_workers=True)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], *, at_most_s: float) -> None:
        until = time.monotonic() + at_most_s
        while time.monotonic() < until and process.poll() is None:
            try:
                if self._call("GET", "/health/readiness")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        ended = f"ended with status {process.returncode}" if process.returncode is not None else "is not ready"
        raise BenchError(f"tollgate {ended}; the end of its output:\n{self.last_words()}")

    def _issue_key(self) -> str:
        fields: dict[str, object] = {"key_alias": "bench", "models": [MODEL]}
        if self.has_walls:
            organization = {"organization_alias": "bench", **WALLS}
            fields["organization_id"] = self._make("/organization/new", organization, "organization_id")
            team = {"team_alias": "bench", "organization_id": fields["organization_id"], **WALLS}
            fields["team_id"] = self._make("/team/new", team, "team_id")
            user = {"user_alias": "bench", "organizations": [fields["organization_id"]], **WALLS}
            fields["user_id"] = self._make("/user/new", user | {"auto_create_key": False}, "user_id")
            fields |= WALLS | {"max_parallel_requests": 10**6}
        return self._make("/key/generate", fields, "key")

    def make_key(self) -> str:
        return self._make("/key/generate", {"models": [MODEL]}, "key")

    def _make(self, path: str, fields: Mapping[str, object], name: str) -> str:
        status, answer = self._call("POST", path, key=self.master_key, body=fields)
        if status != 200 or not isinstance(answer.get(name), str):
            raise BenchError(f"POST {path} answered {status}: {answer}\n{self.last_words()}")
        return str(answer[name])

    def _probe(self) -> None:
        """The first answer: the key and the model must work before anything is measured."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
        for _ in range(25):
            status, answer = self._call("POST", PATH, key=self.key, body=body)
            if status == 200:
                self.answered_probes += 1
                return
            time.sleep(0.2)  # a fresh key may need a moment to reach the directory
        raise BenchError(f"tollgate answers the probe with {status}: {answer}\n{self.last_words()}")

    def _call(
        self, method: str, path: str, *, key: str | None = None, body: Mapping[str, object] | None = None
    ) -> tuple[int, dict[str, object]]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            text = response.read()
        except http.client.HTTPException as broken:
            raise OSError(f"{method} {path}: {broken!r}") from broken
        finally:
            connection.close()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        return response.status, answer if isinstance(answer, dict) else {"text": text[:300].decode("utf-8", "replace")}

    def last_words(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
