"""Where a test run lives: a temporary TOLLGATE_HOME, set before Django reads its settings (`-p tests.environment`)."""

import atexit
import os
import shutil
import tempfile


def ensure_home() -> str:
    """The TOLLGATE_HOME of this run; made, and removed at its end, unless the caller gave one."""
    home = os.environ.get("TOLLGATE_HOME")
    if not home:
        home = os.environ["TOLLGATE_HOME"] = tempfile.mkdtemp(prefix="tollgate-tests-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


HOME = ensure_home()
