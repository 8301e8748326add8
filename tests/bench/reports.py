"""The cost of reports, of pricing and of building rollups, over generated rows of 30 days: see README.md.

Each quarter of an hour has calls of 60 of 2,000 keys in 50 teams, of two of ten models each. Everything lies in a
temporary folder.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import django
from books import own_postgres

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def database(*, is_postgres: bool) -> Iterator[None]:
    home = Path(tempfile.mkdtemp(prefix="tollgate-bench-reports-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        os.environ |= {"TOLLGATE_HOME": str(home), "DJANGO_SETTINGS_MODULE": "gateway.settings"}
        if is_postgres:
            os.environ["DATABASE_URL"] = stack.enter_context(own_postgres()).url
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pricing-rows", type=int, default=20_000)
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL of its own; SQLite without it")
    parser.add_argument("--by-rows", action="store_true", help="the same reports from the spend rows, once each")
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with database(is_postgres=chosen.postgres):
        django.setup()
        importlib.import_module("report_work").run(chosen)


if __name__ == "__main__":
    main()
