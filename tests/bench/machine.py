"""The machine under the benchmark: processes, cores, CPU time, memory and the disk's fsync."""

import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class BenchError(Exception):
    """The benchmark cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the measured program and which one the tools run on; None leaves it to the scheduler."""

    target: int | None
    load: int | None

    @classmethod
    def available(cls) -> "Cores":
        cores = sorted(os.sched_getaffinity(0))
        return cls(target=cores[0], load=cores[1]) if len(cores) > 1 else cls(target=None, load=None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, *, process: subprocess.Popen[bytes], at_most_s: float) -> None:
    until = time.monotonic() + at_most_s
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.3):
            return
        time.sleep(0.02)
    raise BenchError(f"nothing listens on port {port} after {at_most_s:.0f} s")


# Processes


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: state, parent, group, session, ...; [] when gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def _born(pid: int) -> str | None:
    """The start time of a living process, which tells it from a later one with the same pid."""
    stat = _stat(pid)
    return stat[19] if stat and stat[0] != "Z" else None


def family(pid: int) -> list[int]:
    """A process and its descendants; also those of its session whose parent has died."""
    children: dict[int, list[int]] = {}
    session: list[int] = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))):
            children.setdefault(int(stat[1]), []).append(int(entry))
            if int(stat[3]) == pid:
                session.append(int(entry))
    processors: list[int] = []
    pending = [pid, *session]
    while pending:
        member = pending.pop(0)
        if member not in processors:
            processors.append(member)
            pending += children.get(member, [])
    return processors


def pin(pids: Iterable[int], core: int | None) -> None:
    """Bind every thread of the processes to one core; later threads and children inherit it."""
    if core is None:
        return
    for pid in pids:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), {core})


@contextmanager
def running(
    argv: list[str],
    *,
    log: Path,
    core: int | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the length of the block; it and all it started have ended afterwards."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches only the benchmark, which then ends the others in order
        )
    try:
        pin([process.pid], core)
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes], patience_s: float = 15) -> None:
    members = {pid: _born(pid) for pid in family(process.pid)}
    name = Path(str(process.args[0] if isinstance(process.args, list) else process.args)).name
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            print(f"!! {name} did not end within {patience_s:.0f} s of SIGTERM and was killed")
            process.kill()
            process.wait(5)
    living = _living(members)
    until = time.monotonic() + 2
    while living and time.monotonic() < until:
        time.sleep(0.05)
        living = _living(members)
    if living:
        print(f"!! {name} left {len(living)} process(es) behind; they were killed")
        for pid in living:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _living(members: Mapping[int, str | None]) -> list[int]:
    return [pid for pid, born in members.items() if born is not None and _born(pid) == born]


# CPU and memory


def cpu_us(pids: Iterable[int]) -> dict[int, float]:
    """CPU microseconds used so far by each process, its ended threads included."""
    used: dict[int, float] = {}
    for pid in pids:
        with suppress(OSError):
            # Linux makes the clock of another process addressable by this id (clock_getcpuclockid(3)).
            used[pid] = time.clock_gettime_ns((~pid << 3) | 2) / 1e3
    return used


def cpu_between(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """CPU microseconds between two readings; a process that is new in the second counts from its start."""
    return sum(used - before.get(pid, 0.0) for pid, used in after.items())


def rss_mb(pids: Iterable[int]) -> float:
    pages = 0
    for pid in pids:
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * PAGE_BYTES / 2**20


def fsync_us(folder: Path, times: int = 200) -> float:
    """Median of a 4 KB append with fdatasync: what one durable commit costs at least."""
    block = b"x" * 4096
    path = folder / "fsync"
    samples: list[float] = []
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(times):
            began = time.perf_counter()
            os.write(handle, block)
            os.fdatasync(handle)
            samples.append((time.perf_counter() - began) * 1e6)
    finally:
        os.close(handle)
        path.unlink()
    return statistics.median(samples)
