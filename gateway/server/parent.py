"""The parent of several web processes: the standard library alone, so that watching costs 12 MB and not a Django.

`serve` prepares the start, listens, and replaces itself with this program, which keeps its process id.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.observe import JsonFormatter
from gateway.server.processes import ProcessGroup, save_memory

ROOT = Path(__file__).resolve().parents[2]
BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from gateway.server.parent import main; main()"


@dataclass(frozen=True, slots=True)
class ChildProcesses:
    """The children to start: `program` with the arguments of each, and the sockets that they inherit."""

    program: Sequence[str]
    arguments: Sequence[Sequence[str]]
    sockets: Sequence[int]
    grace_s: float


def become_parent(children: ChildProcesses) -> None:
    """Replaces this process. The sockets must be inheritable."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-c", BOOT, str(ROOT), json.dumps(asdict(children))])  # noqa: S606 - ours


def main() -> None:
    """Starts the children and watches them until SIGTERM or SIGINT."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    save_memory()
    children = ChildProcesses(**json.loads(sys.argv[2]))
    processes = ProcessGroup(children.program)
    try:
        for arguments in children.arguments:
            processes.start(*arguments, inherit=tuple(children.sockets))
        processes.wait()
    finally:
        processes.stop(children.grace_s)
    os._exit(0)  # idle threads must not hold the exit up
