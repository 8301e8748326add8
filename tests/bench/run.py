"""`make bench`: Tollgate against its upstream and nginx, interleaved; see README.md beside this file."""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from books import Books, Postgres, own_postgres
from keys import Keys, add_keys, measure_keys
from load import Load, Tools, write_bodies
from machine import BenchError, Cores, cpu_between, cpu_us, family, free_port, fsync_us, pin, rss_mb
from report import CONNECTIONS, SCENARIOS, Decoding, Report, Turn, decoding_table
from sessions import Sessions, measure_sessions
from streams import chunks_for, measure_streams
from targets import ROOT, Target, Tollgate, mock_upstream, nginx_proxy

WARMUP_S = 0.5
DECODING_ROUNDS = 7  # of half a second for all providers together
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", choices=("decoding", "load", "sessions", "keys"), help="one of the parts; all but keys without it"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="per Tollgate turn; the others take half of it")
    parser.add_argument("--streams", type=int, default=100, help="how many open streams at once; 0 leaves them out")
    parser.add_argument("--gap-ms", type=float, default=20, help="pause between two events of an open stream")
    parser.add_argument("--quick", action="store_true", help="one short round of everything: two minutes")
    parser.add_argument("--details", action="store_true", help="also the tables behind the figures")
    parser.add_argument(
        "--limits", action="store_true", help="with limits and budgets on key, user, team, organization"
    )
    parser.add_argument("--json-out", type=Path, help="write every figure of every round to this file")
    database = parser.add_mutually_exclusive_group()
    database.add_argument("--database-url", help="passed on as DATABASE_URL; without it the embedded SQLite")
    database.add_argument("--postgres", action="store_true", help="start a PostgreSQL of our own and use it")
    chosen = parser.parse_args(argv)
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.streams = 1, min(chosen.seconds, 3), min(chosen.streams, 50)
    if chosen.only == "keys" and (chosen.postgres or chosen.database_url):
        parser.error("--only keys measures the embedded database")
    if chosen.rounds < 1 or chosen.seconds <= 0 or chosen.streams < 0 or chosen.gap_ms <= 0:
        parser.error("--rounds, --seconds and --gap-ms must be positive, --streams must not be negative")
    return chosen


class Bench:
    """One run: holds what all its parts need and counts what Tollgate was asked and has answered."""

    def __init__(
        self,
        chosen: argparse.Namespace,
        *,
        work: Path,
        compiler: str,
        postgres: Postgres | None,
        decoding: list[Decoding],
    ) -> None:
        self.chosen = chosen
        self.work = work
        self.postgres = postgres
        self.cores = Cores.available()
        self.tools = Tools.compile(compiler, work, self.cores.load)
        self.bodies = write_bodies(work)
        self.upstream = free_port()
        url = postgres.url if postgres else chosen.database_url
        self.tollgate = Tollgate.prepare(
            work=work, upstream=self.upstream, core=self.cores.target, database_url=url, has_walls=chosen.limits
        )
        self.books = Books(home=self.tollgate.home, database_url=url)
        self.report = Report(
            seconds=chosen.seconds,
            rounds=chosen.rounds,
            database="PostgreSQL (own)" if postgres else "given by URL" if url else "SQLite (embedded)",
            cores=self.cores,
            fsync_us=fsync_us(work),
            decoding=decoding,
        )
        self.sent = self.answered = 0

    def run(self) -> bool:
        """True when the spend rows agree with the answers."""
        self._first_start()
        self._second_start()
        return self.report.verdict is not None and self.report.verdict.agrees

    def _first_start(self) -> None:
        """An empty home; the open streams are measured here, in a process that has done nothing else yet."""
        gap_us = round(self.chosen.gap_ms * 1000)
        chunks = chunks_for(self.chosen.gap_ms)
        say("first start of tollgate (migrations) ...")
        with (
            mock_upstream(self.tools, port=self.upstream, work=self.work, chunks=chunks, gap_us=gap_us) as direct,
            self.tollgate.serving(on_ready=self.books.open) as tollgate,
        ):
            self.report.cold_start_s = self.tollgate.started_s
            for target in (direct, tollgate) if self.chosen.streams else ():
                say(f"{self.chosen.streams} open streams: {target.name} ...")
                result, warmup = measure_streams(
                    target,
                    tools=self.tools,
                    bodies=self.bodies,
                    streams=self.chosen.streams,
                    gap_ms=self.chosen.gap_ms,
                )
                self.report.streams.append(result)
                self._count(target, warmup)
                self._count(target, result.load)
            tollgate.settle()

    def _second_start(self) -> None:
        with ExitStack() as stack:
            direct = stack.enter_context(mock_upstream(self.tools, port=self.upstream, work=self.work))
            targets = [direct]
            if binary := find_nginx():
                proxy = nginx_proxy(binary, upstream=self.upstream, work=self.work, core=self.cores.target)
                targets.append(stack.enter_context(proxy))
            else:
                say("!! nginx is not installed: no ratio to nginx in this run")
            say("second start of tollgate ...")
            tollgate = stack.enter_context(self.tollgate.serving())
            self.report.warm_start_s = self.tollgate.started_s
            targets.append(tollgate)
            tollgate.settle(at_most_s=10)  # the worker starts after the web process is ready; that is not pricing
            workers, rows = cpu_us(tollgate.workers()), self.answered
            for number in range(1, self.chosen.rounds + 1):
                self._round(number, targets)
            self.report.resident_mb = rss_mb([*tollgate.web(), *tollgate.workers()])
            say("waiting for the spend rows to be priced ...")
            probes = self.tollgate.answered_probes
            self.report.verdict = self.books.verify(sent=self.sent + probes, answered=self.answered + probes)
            used = cpu_between(workers, cpu_us(tollgate.workers()))
            self.report.worker_us_per_row = used / max(1, self.answered - rows)

    def sessions(self) -> Sessions:
        """After all else: its calls are not among those whose spend rows were counted."""
        with mock_upstream(self.tools, port=self.upstream, work=self.work), self.tollgate.serving() as tollgate:
            return measure_sessions(
                tollgate,
                tools=self.tools,
                work=self.work,
                rounds=self.chosen.rounds,
                seconds=self.chosen.seconds / 2,
                say=say,
            )

    def keys(self) -> Keys:
        """A gateway of its own start, whose database has many keys; it needs the embedded one."""
        with mock_upstream(self.tools, port=self.upstream, work=self.work):
            with self.tollgate.serving():
                say("first start of tollgate (migrations) ...")
            texts = add_keys(self.tollgate.home)
            with self.tollgate.serving() as tollgate:
                tollgate.settle(at_most_s=10)
                body = self.bodies["plain"].read_bytes()
                return measure_keys(self.tollgate, tollgate, body, texts, seconds=self.chosen.seconds, say=say)

    def _round(self, number: int, targets: list[Target]) -> None:
        for scenario in SCENARIOS:
            for connections in CONNECTIONS:
                turns = [self._turn(number, scenario, connections, target) for target in targets]
                speeds = ", ".join(f"{turn.target} {turn.load.rps:.0f}" for turn in turns)
                say(f"round {number}/{self.chosen.rounds}, {scenario}, {connections} conn.: {speeds} req/s")
                self.report.turns += turns

    def _turn(self, number: int, scenario: str, connections: int, target: Target) -> Turn:
        web, workers = cpu_us(target.web()), cpu_us(target.workers())
        database = cpu_us(self._database_processes(target))
        # A target without workers needs less time for a steady figure, and the whole run must stay short.
        seconds = self.chosen.seconds if target.has_workers else max(1.0, self.chosen.seconds / 2)
        load = self.tools.drive(
            port=target.port,
            body=self.bodies[scenario],
            connections=connections,
            seconds=seconds,
            warmup=WARMUP_S,
            transit=scenario == "streamed",
            key=target.key,
        )
        web_used = cpu_between(web, cpu_us(target.web()))
        rss = rss_mb(target.web())
        target.settle()
        self._count(target, load)
        requests = max(1, load.issued)
        database_now = cpu_us(self._database_processes(target))
        return Turn(
            round=number,
            scenario=scenario,
            connections=connections,
            target=target.name,
            load=load,
            web_us=web_used / requests if target.pid else None,
            worker_us=cpu_between(workers, cpu_us(target.workers())) / requests if target.has_workers else None,
            database_us=cpu_between(database, database_now) / requests if database_now else None,
            rss_mb=rss if target.pid else None,
        )

    def _database_processes(self, target: Target) -> list[int]:
        return family(self.postgres.pid) if self.postgres and target.has_workers else []

    def _count(self, target: Target, load: Load) -> None:
        if target.has_workers:
            self.sent += load.issued
            self.answered += load.ok


def say(text: str) -> None:
    print(text, flush=True)


def measure_decoding(rounds: int) -> list[Decoding]:
    """In a process of its own, pinned as the gateway is."""
    say(f"decoding of each provider, {rounds} rounds ...")
    core = Cores.available().target
    program = [sys.executable, "-m", "tests.bench.decoding", str(rounds)]
    program += [] if core is None else [str(core)]
    ran = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise BenchError("a provider's decoder could not be measured")
    return [Decoding(**row) for row in json.loads(ran.stdout)]


def find_nginx() -> str | None:
    """On Debian it lies in a folder that is not on the PATH of an ordinary user."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def allow_many_streams() -> None:
    """Every open stream takes the gateway two descriptors; the usual soft limit of 1,024 is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    """Unwind, so that every process is ended; a second signal must not interrupt that (it is bounded)."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(signum).name)


def main() -> int:
    chosen = options()
    rounds = 2 if chosen.quick else DECODING_ROUNDS
    decoding = measure_decoding(rounds) if chosen.only in {None, "decoding"} else []
    if chosen.only == "decoding":
        say("\n" + decoding_table(decoding))
        if chosen.json_out:
            chosen.json_out.write_text(json.dumps([asdict(result) for result in decoding], indent=1) + "\n")
        return 0
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        missing = "no C compiler (`cc`) on PATH" if sys.platform == "linux" else "this is not Linux"
        say(f"!! BENCH SKIPPED: {missing}. The load generator and the mock upstream are small C programs for Linux.")
        return 0
    for each in SIGNALS:
        signal.signal(each, _interrupt)
    allow_many_streams()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollgate-bench-")))
        postgres = stack.enter_context(own_postgres()) if chosen.postgres else None
        bench = Bench(chosen, work=work, compiler=compiler, postgres=postgres, decoding=decoding)
        if postgres:
            pin(family(postgres.pid), bench.cores.load)
        if chosen.only == "keys":
            say("\n" + bench.keys().text())
            return 0
        agrees = chosen.only == "sessions" or bench.run()
        if chosen.only != "load":
            bench.report.sessions = bench.sessions()
    say("\n" + bench.report.text(details=chosen.details or chosen.only == "sessions"))
    if chosen.json_out:
        bench.report.write_json(chosen.json_out)
    return 0 if agrees else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as reason:
        sys.exit(f"!! bench: {reason}")
    except KeyboardInterrupt:
        sys.exit("!! bench: interrupted; every started process was ended")
