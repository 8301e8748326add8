"""configure(store=…): sessions that outlive their process, and that processes share, in SQLite and PostgreSQL."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import openai
import pytest
from openai.types.responses import Response

from gateway import sdk
from tests.fakes.services import Postgres

ROOT = Path(__file__).resolve().parents[2]
#: A program of one turn: it prints the id of its response, and is killed.
TURN = """
import os, signal, sys
from gateway import sdk
sdk.configure(store=sys.argv[1])
response = sdk.responses(sys.argv[2], "mock/echo", previous_response_id=sys.argv[3] or None)
print(response.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sessions.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.fresh_database()


def create(text: str, **options: object) -> Response:
    response = sdk.responses(text, "mock/echo", **options)  # type: ignore[arg-type]
    assert isinstance(response, Response)
    return response


def killed_turn(store: str, text: str, parent: str = "") -> str:
    command = [sys.executable, "-c", TURN, store, text, parent]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def test_a_session_outlives_the_process_that_is_killed_between_two_turns(store: str) -> None:
    first = killed_turn(store, "My name is Ada.")
    second = killed_turn(store, "And I live in Paris.", first)
    sdk.configure(store=store)
    third = create("Who am I?", previous_response_id=second)
    assert sdk.get_responses(third.id).previous_response_id == second
    assert sdk.list_input_items(first).data[0].content[0].text == "My name is Ada."  # type: ignore[union-attr]
    assert sdk.get_responses(second).output_text == "Echo: And I live in Paris."


def test_processes_share_a_store_at_the_same_time(store: str) -> None:
    sdk.configure(store=store)
    mine = create("mine")
    theirs = killed_turn(store, "theirs", mine.id)
    assert sdk.get_responses(theirs).previous_response_id == mine.id
    sdk.delete_responses(mine.id)
    with pytest.raises(openai.BadRequestError) as caught:
        create("more", previous_response_id=theirs)
    assert caught.value.code == "previous_response_not_found"


def test_a_forked_process_goes_on_with_the_session(store: str) -> None:
    """The program of a child is forked where no other thread runs: this one has many."""
    program = f"""
import os
from gateway import sdk
sdk.configure(store={store!r})
first = sdk.responses("one", "mock/echo")
child = os.fork()
second = sdk.responses("two", "mock/echo", previous_response_id=first.id)
assert sdk.get_responses(second.id).output_text == "Echo: two"
if child == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print("done")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize("place", ["memory", "sqlite", "postgres"])
def test_a_program_ends_in_silence(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    stores = {"memory": "None", "sqlite": "'sqlite:///sessions.db'"}
    store = stores.get(place) or repr(request.getfixturevalue("postgres").fresh_database())
    program = f"""
import asyncio
from gateway import sdk
sdk.configure(store={store})
sdk.responses("one", "mock/echo")
asyncio.run(sdk.aresponses("two", "mock/echo"))
left = sdk.responses("three", "mock/echo", stream=True)
next(left)
print("done")
"""
    command = [sys.executable, "-W", "error", "-c", program]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_deleted_response_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    sdk.configure(store=f"sqlite:///{path}")
    response = create("a very particular text")
    sdk.delete_responses(response.id)
    with pytest.raises(openai.NotFoundError):
        sdk.get_responses(response.id)
    sdk.configure()
    assert b"a very particular text" not in path.read_bytes()


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    sdk.configure(store=f"sqlite:///{path}")
    create("hello")
    assert {file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {0}


def test_expired_responses_leave_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sessions.db"
    sdk.configure(store=f"sqlite:///{path}")
    monkeypatch.setattr("gateway.sdk.database_store.PURGE_AFTER", 2)
    parent = create("old")
    child = create("new", previous_response_id=parent.id)
    old = create("also old")
    expire(path, parent.id, old.id)
    with pytest.raises(openai.NotFoundError):
        sdk.get_responses(old.id)
    create("again")
    assert stored_ids(path) >= {parent.id, child.id}  # an ancestor lives as long as what builds upon it
    assert old.id not in stored_ids(path)
    assert create("more", previous_response_id=child.id).output_text == "Echo: more"


def expire(path: Path, *ids: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for response_id in ids:
            connection.execute(
                "UPDATE gateway_storedresponse SET expires_at = '2020-01-01 00:00:00' WHERE id = ?", [response_id]
            )


def stored_ids(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT id FROM gateway_storedresponse")}


def test_background_responses_are_stored_when_they_have_ended(store: str) -> None:
    sdk.configure(store=store)
    response = create("hello", background=True)
    while sdk.get_responses(response.id).status == "in_progress":
        pass
    sdk.configure()
    sdk.configure(store=store)
    assert sdk.get_responses(response.id).output_text == "Echo: hello"


@pytest.mark.parametrize(
    "address",
    ["", "mysql://there/x", "sqlite://", "sqlite:///", "sessions.db", "sqlite://host/file.db", "postgresql:x"],
)
def test_an_address_that_is_no_store_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///"):
        sdk.configure(store=address)
    assert create("hello").output_text == "Echo: hello"


def test_a_file_that_cannot_be_opened_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be opened"):
        sdk.configure(store=f"sqlite:///{tmp_path}/no-folder/sessions.db")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database at all" * 100)
    with pytest.raises(OSError, match="cannot be opened"):
        sdk.configure(store=f"sqlite:///{damaged}")


def test_a_store_that_is_gone_is_an_error_of_the_call(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    sdk.configure(store=f"sqlite:///{path}")
    for file in tmp_path.iterdir():
        os.remove(file)
    with pytest.raises(openai.InternalServerError) as caught:
        create("hello")
    assert caught.value.code == "store_unavailable"
