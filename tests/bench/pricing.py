"""The rate at which workers price spend rows, and at which one worker prices them again, on PostgreSQL.

    python -m tests.bench.pricing [--rows 20000] [--workers 2]

`workers` processes price the same rows together. Beside each rate stands the CPU that the process used for a row, which
a busy machine changes less. Rows are of three keys, two model groups and three hours. All processes end with the
script.
"""

import argparse
import os
import subprocess
import sys

from tests.fakes.services import running_postgres

SEED = """
from django_scopes import scopes_disabled
from billing.models import Price
from tests.contract.bookkeeping import make_rows
lines = {"input": "0.00000015", "output": "0.0000006", "cache_read": "0.000000075"}
with scopes_disabled():
    price = Price.objects.create(deployment_id="first", lines=lines)
    for _ in range(ROWS // 1000):
        make_rows(1000, price_id=price.id)
"""
TELL = """
took, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(f"{name}: {rows:,} rows, {rows / took:,.0f} rows/s, {cpu / max(rows, 1) * 1e6:.0f} µs of CPU a row")
"""
PRICE = f"""
import time
from billing.bookkeeping import price_pending
name, rows, wall, cpu = "priced", 0, time.perf_counter(), time.process_time()
while count := price_pending():
    rows += count
{TELL}
"""
REPRICE = f"""
import time
from datetime import timedelta
from django.utils import timezone
from billing.models import Price
from billing.repricing import Scope, run_step, start_job
lines = {{"input": "0.0000002", "output": "0.0000006", "cache_read": "0.00000002"}}
price = Price.objects.create(deployment_id="first", lines=lines)
job = start_job(Scope("first", False, None, timezone.now() + timedelta(days=1)), actor="bench")
name, wall, cpu = "priced again", time.perf_counter(), time.process_time()
while run_step(job.id, lambda *call: price.id):
    pass
job.refresh_from_db()
rows = job.changed
{TELL}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with running_postgres() as postgres:
        env = {**os.environ, "DATABASE_URL": postgres.migrated_database(), "PYTHONPATH": os.getcwd()}
        run(SEED.replace("ROWS", str(options.rows)), env, 1)
        run(PRICE, env, options.workers)
        run(REPRICE, env, 1)
    print(f"load average: {os.getloadavg()[0]:.1f}")


def run(code: str, env: dict[str, str], workers: int) -> None:
    command = [sys.executable, "manage.py", "shell", "-v", "0", "-c", code]
    processes = [subprocess.Popen(command, env=env) for _ in range(workers)]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
