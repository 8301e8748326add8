"""Pricing under fire: workers are killed in the middle of their batches, while wake-ups come doubled, late and out of
order, two schedules run, and the broker loses all that it has.

A kill falls while a worker is within a transaction; the database tells how many transactions that cut.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import psycopg
from celery import Celery
from redis import Redis

from tests.e2e.gateway import Gateway, eventually

#: Picodollars per token; the rows have no other counts.
RATES = {"input_tokens": 150_000, "output_tokens": 600_000, "reasoning_tokens": 600_000, "cache_read_tokens": 75_000}
LINES = {"input": "0.00000015", "output": "0.0000006", "cache_read": "0.000000075"}
ROWS_PER_KILL = 400
KILLS_PER_SEED = 12  # rows are made in steps, each within the time that a command has
WORKERS = 3
WHOLE_EVERY = 10  # else only the processes that it runs
FLUSH_EVERY = 7
#: Rows wait as `aborted`, which nobody prices, until a kill is due.
MAKE_ROWS = """
from django_scopes import scopes_disabled
from billing.models import Price
from tests.contract.bookkeeping import make_rows
with scopes_disabled():
    price, _ = Price.objects.get_or_create(id="of-the-kills", deployment_id="first", lines={lines})
    for _ in range({kills}):
        make_rows({rows}, price_id=price.id, state="aborted")
"""
RELEASE = (
    "UPDATE billing_spendlog SET state = 'metered' WHERE id IN "
    "(SELECT id FROM billing_spendlog WHERE state = 'aborted' ORDER BY id LIMIT %s)"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`rolled_back`: the transactions that were cut. `expected_pusd`: the sum of the rows, by their tokens."""

    kills: int
    rows: int
    rolled_back: int
    not_priced: int
    cost_pusd: int
    rollup_pusd: int
    rollup_requests: int
    expected_pusd: int
    verified: subprocess.CompletedProcess[str]


def run(gateway: Gateway, database: str, redis_url: str, kills: int) -> Outcome:
    rng = random.Random(kills)
    for first in range(0, kills, KILLS_PER_SEED):
        code = MAKE_ROWS.format(lines=LINES, kills=min(KILLS_PER_SEED, kills - first), rows=ROWS_PER_KILL)
        made = gateway.manage("shell", "-c", code, PYTHONPATH=os.getcwd())
        assert made.returncode == 0, made.stderr
    tasks = Celery(broker=redis_url)
    started: list[subprocess.Popen[bytes]] = [gateway.spawn("beat") for _ in range(2)]
    worker = _start(gateway, started)
    with _ended(started), psycopg.connect(database, autocommit=True) as connection, Redis.from_url(redis_url) as broker:
        before = _rolled_back(connection)
        for number in range(1, kills + 1):
            connection.execute(RELEASE, [ROWS_PER_KILL])
            for delay_s in (0.3, 0, 0):
                tasks.send_task("billing.tasks.price_pending", countdown=delay_s)
            _wait_for_work(connection)
            time.sleep(rng.uniform(0, 0.005))
            if not worker.children() and _has_ended(worker):  # Celery's worker ends where too many of its processes die
                worker = _start(gateway, started)
            if number % FLUSH_EVERY == 0:
                broker.flushall()
            if number % WHOLE_EVERY == 0:
                _kill(worker, is_whole=True)
                worker = _start(gateway, started)
            else:
                _kill(worker, is_whole=False)
        tasks.close()
        eventually(lambda: _count(connection, "state = 'metered'") == 0, within_s=120, what="all rows are priced")
        verified = gateway.manage("verify_ledger")
        cost, expected = connection.execute(
            "SELECT sum(cost_pusd), sum({}) FROM billing_spendlog".format(
                " + ".join(f"{name}::numeric * {rate}" for name, rate in RATES.items())
            ).encode()
        ).fetchall()[0]
        sums = connection.execute("SELECT sum(cost_pusd), sum(requests) FROM billing_usagehour").fetchall()[0]
        return Outcome(
            kills=kills,
            rows=_count(connection, "true"),
            rolled_back=_rolled_back(connection) - before,
            not_priced=_count(connection, "state <> 'priced'"),
            cost_pusd=int(cost),
            rollup_pusd=int(sums[0]),
            rollup_requests=int(sums[1]),
            expected_pusd=int(expected),
            verified=verified,
        )


def check(outcome: Outcome) -> None:
    assert outcome.rolled_back > 0, "kills fall into transactions"
    assert outcome.rows == outcome.kills * ROWS_PER_KILL
    assert outcome.not_priced == 0
    assert outcome.cost_pusd == outcome.expected_pusd
    assert outcome.rollup_pusd == outcome.expected_pusd, "nothing is summed twice"
    assert outcome.rollup_requests == outcome.rows
    assert outcome.verified.returncode == 0, outcome.verified.stdout + outcome.verified.stderr


@contextmanager
def _ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Ends them at the end of the block; the list may grow until then."""
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def _start(gateway: Gateway, started: list[subprocess.Popen[bytes]]) -> psutil.Process:
    started.append(gateway.spawn("worker", "--concurrency", str(WORKERS)))
    worker = psutil.Process(started[-1].pid)
    eventually(lambda: len(worker.children()) >= WORKERS, within_s=60, what="the worker has its processes")
    return worker


def _kill(worker: psutil.Process, *, is_whole: bool) -> None:
    eventually(lambda: worker.children() or _has_ended(worker), within_s=30, what="the worker has a process")
    victims = worker.children()
    if not victims:
        return
    if is_whole:
        worker.suspend()  # else it replaces its processes meanwhile
        victims = [*worker.children(recursive=True), worker]
    for victim in victims:
        if victim.is_running():
            os.kill(victim.pid, signal.SIGKILL)


def _wait_for_work(connection: psycopg.Connection) -> None:
    """Returns when a worker is within a transaction, or after a moment without any."""
    others = "datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if connection.execute(f"SELECT 1 FROM pg_stat_activity WHERE {others} LIMIT 1".encode()).fetchall():
            return
        time.sleep(0.001)


def _has_ended(worker: psutil.Process) -> bool:
    return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def _count(connection: psycopg.Connection, where: str) -> int:
    rows = connection.execute(f"SELECT count(*) FROM billing_spendlog WHERE {where}".encode()).fetchall()
    return int(rows[0][0])


def _rolled_back(connection: psycopg.Connection) -> int:
    rows = connection.execute(
        "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    ).fetchall()
    return int(rows[0][0])
