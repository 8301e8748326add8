"""A config.yaml in a folder of its own, written and read."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from gateway.config import (
    Config,
    read_config,
)
from tests.unit.config.config_files import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_text(dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def read(write: Write) -> Callable[..., Config]:
    def read(text: str, **environ: str) -> Config:
        return read_config(write(text), environ)

    return read
