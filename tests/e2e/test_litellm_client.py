"""LiteLLM's own Python client manages a running gateway.

The client is not among the development packages, because it brings a hundred others: install `litellm[proxy]` into an
environment of its own and name its interpreter in LITELLM_PYTHON. Without it the test is skipped, and says so.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import MASTER_KEY

SCRIPT = Path(__file__).with_name("litellm_client.py")
PYTHON = os.environ.get("LITELLM_PYTHON") or (sys.executable if find_spec("litellm") else "")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]


@pytest.mark.skipif(
    not PYTHON, reason="litellm[proxy] is not installed: name an interpreter that has it in LITELLM_PYTHON"
)
def test_litellms_client_works_unchanged(launch: Launch, backend: Backend, tmp_path: Path):
    gateway = launch(env=backend.environment())
    # Without the list of prices, which it would look for elsewhere, and with no key that it has stored at home
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    result = subprocess.run(
        [PYTHON, str(SCRIPT), gateway.url, MASTER_KEY], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.endswith("done\n")
