"""The contract suites once more, with a real PostgreSQL as Django's database; unit tests know no database."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.services import Postgres

ROOT = Path(__file__).resolve().parents[2]
SUITES = ("tests/contract",)


@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(os.environ.get("DATABASE_URL")), reason="this run is on a given database already")
def test_the_contract_suites_pass_on_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    environment = {**os.environ, "DATABASE_URL": postgres.fresh_database(), "TOLLGATE_HOME": str(tmp_path)}
    mine = Path(__file__).relative_to(ROOT)
    command = [sys.executable, "-m", "pytest", *SUITES, f"--ignore={mine}", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
    lines = done.stdout.strip().splitlines() or ["no output"]
    assert done.returncode == 0, "\n".join(lines[-200:]) + done.stderr[-2000:]
    assert " passed" in lines[-1], lines[-1]
