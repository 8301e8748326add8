"""A setting that cannot be used ends the start with one line that names its variable, and without its secrets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.gateway import OWN_VARIABLES, REPO

SECRET = "s3cret-of-the-database"
BAD = {
    "TOLLGATE_HOME": ["{file}", "{file}/below", "/proc/no-such-place"],
    "PORT": ["99999", "-1", "abc", "1.5"],
    "WEB_CONCURRENCY": ["0", "1e9"],
    "DATABASE_URL": [
        f"mysql://u:{SECRET}@h/x",
        f"nonsense {SECRET}",
        f"postgresql://u:{SECRET}@h:port/x",
        f"foo://u:{SECRET}@h/x",
    ],
    "TOLLGATE_ROW_SECURITY": ["maybe", "1"],  # SQLite has none
    "REDIS_URL": [f"http://u:{SECRET}@h", "nonsense", f"redis://u:{SECRET}@h:port/0"],
    "DATABASE_URL_FILE": ["/no-such-file", "/tmp", "{binary}"],
    "TOLLGATE_MASTER_KEY_FILE": ["/no-such-file"],
    "TOLLGATE_ENCRYPTION_KEYS": ["abc", "=", "ä" * 44],
    "TOLLGATE_MEDIA_NETWORKS": ["10.0.0.0/33", "home"],
    "TOLLGATE_UPSTREAM_PROXY": [f"socks5://u:{SECRET}@proxy:1080", f"http://u:{SECRET}@proxy:port", "proxy:3128"],
    "TOLLGATE_UPSTREAM_NO_PROXY": ["example.org:port"],
    "HTTPS_PROXY": [f"socks5://u:{SECRET}@proxy:1080"],
    "TOLLGATE_TRUSTED_ORIGINS": ["gate.example.org"],
    "TOLLGATE_LOG_LEVEL": ["loud"],
    "TOLLGATE_TIME_ZONE": ["Mars", "../../etc/passwd"],
    "TOLLGATE_TLS": ["maybe"],
    "TOLLGATE_RETENTION_DAYS": ["1.5", "999999999999", "nan"],
    "TOLLGATE_ROLLUP_RETENTION_DAYS": ["-1", "30"],  # 30: no rows are deleted
    "TOLLGATE_QUARTER_HOUR_RETENTION_DAYS": ["30"],
    "TOLLGATE_TIMEOUT_S": ["1e300", "inf", "0"],
    "HOST": ["no.such.host.invalid"],
    "TOLLGATE_CONFIG": ["/no-such-file.yaml"],
}


@pytest.mark.e2e
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    env = {key: text for key, text in os.environ.items() if not OWN_VARIABLES.match(key)}
    env["TOLLGATE_HOME"] = str(tmp_path / "home")
    env[name] = value.format(file=tmp_path / "file", binary=tmp_path / "binary")
    process = subprocess.run(
        [sys.executable, "manage.py", "serve", "--web-only"], cwd=REPO, env=env, capture_output=True, timeout=90
    )
    output = (process.stdout + process.stderr).decode()
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert SECRET not in output
    assert len(output.strip().splitlines()) == 1, output
    assert name in output or value in output or "no-such-file.yaml" in output


@pytest.mark.parametrize(
    ("rows", "quarters", "days", "text"),
    [
        ("30", "0", "29", "TOLLGATE_ROLLUP_RETENTION_DAYS must be 0 or at least TOLLGATE_SPEND_LOG_RETENTION_DAYS"),
        ("30", "29", "0", "TOLLGATE_QUARTER_HOUR_RETENTION_DAYS must be 0 or at least"),
        ("30", "41", "40", "TOLLGATE_QUARTER_HOUR_RETENTION_DAYS must not exceed TOLLGATE_ROLLUP_RETENTION_DAYS"),
        ("30", "30", "30", ""),
    ],
)
def test_sums_are_kept_as_long_as_their_rows(tmp_path: Path, rows: str, quarters: str, days: str, text: str) -> None:
    env = {key: value for key, value in os.environ.items() if not OWN_VARIABLES.match(key)}
    env |= {"TOLLGATE_HOME": str(tmp_path), "TOLLGATE_SPEND_LOG_RETENTION_DAYS": rows}
    env |= {"TOLLGATE_QUARTER_HOUR_RETENTION_DAYS": quarters, "TOLLGATE_ROLLUP_RETENTION_DAYS": days}
    process = subprocess.run([sys.executable, "manage.py", "check"], cwd=REPO, env=env, capture_output=True, timeout=90)
    output = (process.stdout + process.stderr).decode()
    assert (process.returncode == 0) == (text == ""), output
    assert text in output


@pytest.mark.parametrize("blocked", ["secrets", "broker"])
def test_a_folder_of_the_home_that_cannot_be_made_is_named(tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).write_text("a file")
    env = {key: text for key, text in os.environ.items() if not OWN_VARIABLES.match(key)}
    env["TOLLGATE_HOME"] = str(tmp_path)
    process = subprocess.run([sys.executable, "manage.py", "serve"], cwd=REPO, env=env, capture_output=True, timeout=90)
    output = (process.stdout + process.stderr).decode()
    assert process.returncode == 1
    assert "Traceback" not in output
    assert f"TOLLGATE_HOME: cannot use the folder {tmp_path / blocked}" in output


@pytest.mark.timeout(120)
def test_nobody_else_reads_the_home_also_when_it_existed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "spool" / "one").mkdir(parents=True)
    (home / "secrets").mkdir()
    for name in ("db.sqlite3", "db.sqlite3-wal", "start.lock", "spool/one/rows", "secrets/secret_key", "other"):
        (home / name).write_text("a" * 50 if name.startswith("secrets") else "")
        (home / name).chmod(0o644)
    (home / "secrets").chmod(0o755)
    home.chmod(0o755)
    env = {key: text for key, text in os.environ.items() if not OWN_VARIABLES.match(key)}
    env["TOLLGATE_HOME"] = str(home)
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    process = subprocess.run(command, cwd=REPO, env=env, capture_output=True, timeout=90, umask=0o022)
    assert process.returncode == 0, process.stderr.decode()
    others = {path: path.stat().st_mode & 0o077 for path in (home, *home.rglob("*"))}
    assert {path.name for path, mode in others.items() if mode} == {"other"}  # not the gateway's
    assert (home / "secrets" / "encryption_keys").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("variables", "http", "https", "direct"),
    [
        ({}, "", "", []),
        (
            {"HTTPS_PROXY": "http://one:1", "http_proxy": "two:2", "NO_PROXY": "a, .b"},
            "http://two:2",
            "http://one:1",
            ["a", ".b"],
        ),
        ({"ALL_PROXY": "http://one:1", "https_proxy": "http://two:2"}, "http://one:1", "http://two:2", []),
        (
            {"TOLLGATE_UPSTREAM_PROXY": "http://own:3", "HTTPS_PROXY": "socks5://one:1", "NO_PROXY": "a"},
            "http://own:3",
            "http://own:3",
            ["a"],
        ),
        ({"TOLLGATE_UPSTREAM_PROXY": "direct", "HTTPS_PROXY": "http://one:1"}, "", "", []),
        ({"TOLLGATE_UPSTREAM_NO_PROXY": "b", "NO_PROXY": "a"}, "", "", ["b"]),
    ],
)
def test_the_proxy_of_upstreams_is_the_settings_or_else_the_environments(
    tmp_path: Path, variables: dict[str, str], http: str, https: str, direct: list[str]
) -> None:
    env = {key: text for key, text in os.environ.items() if not OWN_VARIABLES.match(key) and "proxy" not in key.lower()}
    program = (
        "import json; from gateway import settings as s; print(json.dumps([s.UPSTREAM_PROXIES, s.UPSTREAM_NO_PROXY]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPO,
        env=env | {"TOLLGATE_HOME": str(tmp_path)} | variables,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    assert json.loads(output) == [{"http": http, "https": https}, direct]
