"""The environment of a test run, set before Django reads its settings (`-p tests.environment`): a temporary
TOLLGATE_HOME, and the embedded database and no DATABASE_URL of the caller."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def ensure_home() -> str:
    """Returns the TOLLGATE_HOME of this process. The run creates a folder and removes it at its end, unless the caller
    has named one. Each worker of a run in several processes has a folder of its own in it."""
    home = os.environ.get("TOLLGATE_HOME")
    if not home:
        home = os.environ["TOLLGATE_HOME"] = tempfile.mkdtemp(prefix="tollgate-tests-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and Path(home).name != worker:  # what a worker starts inherits its home
        home = os.environ["TOLLGATE_HOME"] = str(Path(home) / worker)
        Path(home).mkdir(parents=True, exist_ok=True)
    return home


HOME = ensure_home()
os.environ.pop("DATABASE_URL", None)
