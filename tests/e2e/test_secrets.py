"""A virtual key's text and a provider credential are nowhere: not in the data, the logs, the output."""

from pathlib import Path

import psycopg
import pytest
import redis

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Launch
from tests.e2e.gateway import MASTER_KEY, Gateway
from tests.fakes.upstream import CREDENTIAL, SECRET

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PROMPT = "canary-prompt-Zx81-Kq55"


def provoke(gateway: Gateway, key: str) -> None:
    """Calls of every kind, good and bad, with a key that the tests look for."""
    for model in (
        "chat",
        "priced",
        "gone",
        "fault-401",
        "fault-500",
        "fault-cut",
        "fault-trace",
        "no-such-model",
    ):
        for stream in (False, True):
            gateway.call(key, model=model, stream=stream, messages=[{"role": "user", "content": PROMPT}])
    gateway.call(key[:-3] + "xyz")
    gateway.call(key, messages=key)
    gateway.call(key, api_key=CREDENTIAL)
    gateway.http.get(f"/v1/models/{key}", headers={"x-api-key": key})
    for path in ("/key/info", "/spend/logs", "/key/list"):
        gateway.admin.get(path, params={"key": key, "api_key": key})
        gateway.http.get(path, headers={"authorization": f"Bearer {key}"})
    gateway.admin.post("/key/generate", json={"key": key})
    gateway.admin.post("/key/update", json={"key": key, "models": 5})
    gateway.admin.post("/key/block", json={"key": key})
    gateway.call(key)
    gateway.admin.post("/key/unblock", json={"key": key})


def dump_postgres(url: str) -> str:
    """Every row of every table, as text."""
    lines = []
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for (table,) in tables:
            lines += [row[0] for row in connection.execute(f"SELECT t::text FROM {table} t".encode())]
    assert any("litellm" in line or "up-chat" in line for line in lines), "the dump reads the deployments"
    return "\n".join(map(str, lines))


def dump_redis(url: str) -> bytes:
    with redis.Redis.from_url(url) as connection:
        values = []
        for name in connection.scan_iter():
            values += [name, connection.dump(name) or b""]
        return b"\n".join(values)


def found_in_files(folder: Path, needles: list[str]) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    contents = {path: path.read_bytes() for path in files}
    return [
        f"{needle[:9]}… in {path.relative_to(folder)}"
        for path, content in contents.items()
        for needle in needles
        if needle.encode() in content
    ]


def test_no_key_and_no_credential_is_kept_or_shown(gateway: Gateway, key: str) -> None:
    provoke(gateway, key)
    needles = [*gateway.issued, CREDENTIAL, SECRET, MASTER_KEY, PROMPT]
    assert found_in_files(gateway.home, needles) == []  # the database and its journal, the spool, the broker's folder
    places = {"output": gateway.output()}
    if url := gateway.env.get("DATABASE_URL"):
        places["database"] = dump_postgres(url)
    if url := gateway.env.get("REDIS_URL"):
        places["redis"] = dump_redis(url).decode("latin-1")
    places["command lines"] = "\n".join(" ".join(process.cmdline()) for process in gateway.processes())
    assert [f"{needle[:9]}… in {name}" for name, text in places.items() for needle in needles if needle in text] == []


def test_debug_logs_show_none_either(launch: Launch, config: JsonObject) -> None:
    gateway = launch(config, env={"TOLLGATE_LOG_LEVEL": "DEBUG"})
    key = gateway.issue_key()
    provoke(gateway, key)
    gateway.stop()
    needles = [key, CREDENTIAL, SECRET, MASTER_KEY, PROMPT]
    assert [needle[:9] for needle in needles if needle in gateway.output()] == []
    assert found_in_files(gateway.home, needles) == []


def test_a_generated_master_key_is_shown_once_and_kept_nowhere_in_clear(launch: Launch) -> None:
    gateway = launch(master=False)
    words = [word.strip("\"',.") for word in gateway.output().split() if word.strip("\"',.").startswith("sk-")]
    masters = {word for word in words if gateway.http.get("/key/list", headers={"x-api-key": word}).status_code == 200}
    assert len(masters) == 1
    [master] = masters
    assert len(master) >= 32
    before = len(gateway.output())
    gateway.restart()
    assert master not in gateway.output()[before:]
    assert gateway.http.get("/key/list", headers={"x-api-key": master}).status_code == 200
