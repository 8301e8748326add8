"""Databases with all migrations, made once: a gateway of the tests starts with a copy, which takes no second of CPU."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.environment import HOME

REPO = Path(__file__).resolve().parents[2]
OWN_VARIABLES = re.compile(r"(TOLLGATE_|LITELLM_|DJANGO_|(DATABASE_URL|REDIS_URL|HOST|PORT|WEB_CONCURRENCY)$)")
FILE = "db.sqlite3"


def migrate(home: Path, **env: str) -> None:
    """Runs all migrations in a process of its own. By default in the SQLite file of `home`."""
    inherited = {name: value for name, value in os.environ.items() if not OWN_VARIABLES.match(name)}
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity=0"],
        cwd=REPO,
        env={**inherited, "TOLLGATE_HOME": str(home), **env},
        check=True,
        timeout=240,
    )


@cache
def _migrated_file() -> Path:
    """The file that all workers of this run copy."""
    run = Path(HOME).parent if os.environ.get("PYTEST_XDIST_WORKER") else Path(HOME)
    whole = run / "migrated.sqlite3"
    with (run / "migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            migrate(run / "migrated")
            (run / "migrated" / FILE).rename(whole)
    return whole


def copy_migrated_file(home: Path) -> None:
    """Gives a TOLLGATE_HOME without a database a migrated one."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (home / FILE).exists():
        shutil.copyfile(_migrated_file(), home / FILE)
        (home / FILE).chmod(0o600)
