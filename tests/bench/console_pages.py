"""The time of the console's pages over a large spend log, and the queries that each makes: see README.md.

Everything lies in a temporary folder. On SQLite the database works in the process, so its CPU time is in the figure; on
PostgreSQL the wall time counts.
"""

import argparse
import importlib
import sys

import django
from reports import ROOT, database


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="spend logs")
    parser.add_argument("--objects", type=int, default=100_000, help="audit entries, and stored responses")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL of its own; SQLite without it")
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with database(is_postgres=chosen.postgres):
        django.setup()
        importlib.import_module("console_page_work").run(chosen)


if __name__ == "__main__":
    main()
