"""The library gateway.sdk loads without the frameworks of the server."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = {"django", "django_scopes", "rest_framework", "channels", "celery", "redis", "httpx", "psycopg"}
SHOW = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def loaded_by(program: str) -> set[str]:
    """The packages that are in memory at the end of a program, in a process without Django's settings."""
    environ = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    command = [sys.executable, "-c", f"{program}; {SHOW}"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.split())


def test_the_library_loads_no_framework() -> None:
    packages = loaded_by("from gateway import sdk")
    assert "gateway" in packages
    assert not packages & (FRAMEWORKS | {"openai", "pydantic"})


def test_a_call_of_the_library_loads_no_framework() -> None:
    packages = loaded_by("from gateway import sdk; sdk.responses('hello', 'mock/echo')")
    assert "openai" in packages
    assert not packages & FRAMEWORKS
