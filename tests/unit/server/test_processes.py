"""The processes of a start: a child gets its whole grace, and no more."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from django.test import override_settings

from gateway.management.commands.serve import web_grace_s
from gateway.server.processes import CHILD_GRACE_S, ProcessGroup

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60
#: A child that creates files when it runs, gets SIGTERM, and ends, for which it waits until it may.
CHILD = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def stop(*_):
    (folder / "signalled").touch()
signal.signal(signal.SIGTERM, stop)
if "--follow" in sys.argv:
    sys.path.insert(0, sys.argv[sys.argv.index("--follow") + 1])
    from gateway.server.processes import follow_parent
    follow_parent(int(sys.argv[-1]), float(sys.argv[2]))
(folder / "pid").write_text(str(os.getpid()))
(folder / "runs").touch()
while not ((folder / "signalled").exists() and (folder / "may-end").exists()):
    time.sleep(0.01)
(folder / "ended").touch()
"""
#: Starts a child and is gone without a word.
PARENT = """
import os, subprocess, sys
reading, writing = os.pipe()
subprocess.Popen([sys.executable, *sys.argv[1:], str(reading)], pass_fds=(reading,))
sys.stdin.read()
os._exit(0)
"""


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(PATIENCE_S * 100):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came")


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessGroup:
    """A process group whose one child runs."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(sys, "argv", [str(script)])  # what the start was called with
    family = ProcessGroup()
    family.start(str(tmp_path))
    until((tmp_path / "runs").exists)
    return family


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_child_may_take_its_grace_to_end(child: ProcessGroup, tmp_path: Path) -> None:
    stopping = threading.Thread(target=child.stop, args=(10 * PATIENCE_S,), daemon=True)
    stopping.start()
    until((tmp_path / "signalled").exists)
    assert not (tmp_path / "ended").exists()
    (tmp_path / "may-end").touch()
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
    assert (tmp_path / "ended").exists()


def test_a_child_that_outlives_its_grace_is_killed(child: ProcessGroup, tmp_path: Path) -> None:
    child.stop(0)
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert not (tmp_path / "ended").exists()


@pytest.mark.parametrize(("grace_s", "is_orderly"), [(10 * PATIENCE_S, True), (0, False)])
def test_a_child_whose_parent_is_gone_ends_within_its_grace(tmp_path: Path, grace_s: float, is_orderly: bool) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    command = [sys.executable, "-c", PARENT, str(script), str(tmp_path), str(grace_s), "--follow", str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as parent:
        until((tmp_path / "runs").exists)
        parent.send_signal(signal.SIGKILL)
    pid = int((tmp_path / "pid").read_text())
    try:
        if is_orderly:
            until((tmp_path / "signalled").exists)
            (tmp_path / "may-end").touch()
        until(lambda: is_gone(pid))
        assert (tmp_path / "ended").exists() is is_orderly
    finally:
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_web_process_has_its_whole_drain_and_a_while_to_close() -> None:
    with override_settings(TOLLGATE_DRAIN_DELAY_S=20, TOLLGATE_DRAIN_GRACE_S=600):
        assert web_grace_s() == 20 + 600 + CHILD_GRACE_S


def test_the_parent_of_several_web_processes_loads_no_framework() -> None:
    program = "import sys, gateway.server.parent; print({'django', 'celery', 'uvicorn'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
