"""Every example of docs/sdk.md and of the README's section runs, as it stands, against scripted upstreams."""

from pathlib import Path

import pytest

from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire_server import FakeWires
from tests.sdk.examples import environment, examples, run_example


def test_the_documents_have_examples() -> None:
    assert len(examples()) >= 8


@pytest.mark.parametrize("example", examples(), ids=lambda text: text.split("\n")[2][:30])
async def test_an_example_runs(
    example: str, upstream: FakeUpstream, wires: FakeWires, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # where the store of an example is
    for name, value in environment(upstream, wires).items():
        monkeypatch.setenv(name, value)
    await run_example(example, wires)
