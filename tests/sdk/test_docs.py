"""Every example of docs/sdk.md and of the README's section runs, as it stands, against scripted upstreams."""

import ast
import inspect
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tests.fakes.upstream import CREDENTIAL, FakeUpstream
from tests.fakes.wire_server import FakeWires

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> list[str]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## As a library\n")[2]
    texts = [(ROOT / "docs/sdk.md").read_text(encoding="utf-8"), section.partition("\n## ")[0]]
    return [example for text in texts for example in EXAMPLE.findall(text)]


def test_the_documents_have_examples() -> None:
    assert len(examples()) >= 8


@pytest.mark.parametrize("example", examples(), ids=lambda text: text.split("\n")[2][:30])
async def test_an_example_runs(
    example: str, upstream: FakeUpstream, wires: FakeWires, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # where the store of an example is
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
    monkeypatch.setenv("ANTHROPIC_API_BASE", wires.root)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, CREDENTIAL)
    example = re.sub(r"https://endpoint\d\.openai\.azure\.com", wires.root, example)
    code: CodeType = compile(example, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {}
    running = eval(code, names)
    if inspect.isawaitable(running):
        await running
