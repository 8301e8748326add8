"""The examples of docs/sdk.md and of the README's section, run as they stand against scripted upstreams.

`python -m tests.sdk.examples` runs all of them by the installed package alone: it needs no package of the tests.
"""

import ast
import asyncio
import inspect
import os
import re
import sys
import tempfile
from pathlib import Path
from types import CodeType
from typing import Any

from tests.fakes.upstream import CREDENTIAL, FakeUpstream
from tests.fakes.wire_server import FakeWires

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FRAMEWORKS = {"django", "rest_framework", "channels", "celery"}


def examples() -> list[str]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## As a library\n")[2]
    texts = [(ROOT / "docs/sdk.md").read_text(encoding="utf-8"), section.partition("\n## ")[0]]
    return [example for text in texts for example in EXAMPLE.findall(text)]


def environment(upstream: FakeUpstream, wires: FakeWires) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": upstream.url,
        "OPENAI_API_KEY": CREDENTIAL,
        "ANTHROPIC_API_BASE": wires.root,
        "ANTHROPIC_API_KEY": CREDENTIAL,
    }


async def run_example(example: str, wires: FakeWires) -> None:
    example = re.sub(r"https://endpoint\d\.openai\.azure\.com", wires.root, example)
    code: CodeType = compile(example, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {}
    running = eval(code, names)
    if inspect.isawaitable(running):
        await running


def main() -> None:
    with FakeUpstream() as upstream, FakeWires() as wires, tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where the store of an example is
        os.environ |= environment(upstream, wires)
        for example in examples():
            asyncio.run(run_example(example, wires))
        loaded = FRAMEWORKS & sys.modules.keys()
        assert not loaded, loaded
        print(f"{len(examples())} examples have run by {sys.modules['gateway'].__path__[0]}")


if __name__ == "__main__":
    main()
