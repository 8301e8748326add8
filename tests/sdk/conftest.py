"""A scripted upstream of every wire, and an environment without credentials."""

import os
from collections.abc import Iterator

import openai
import pytest

from gateway.sdk.process import PROCESS
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire_server import FakeWires
from tests.sdk.suite import SDKGateway


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def wires() -> Iterator[FakeWires]:
    with FakeWires() as server:
        yield server


@pytest.fixture
def key(gateway: SDKGateway) -> str:
    return gateway.issue_key()


@pytest.fixture
def client(gateway: SDKGateway, key: str) -> openai.OpenAI:
    return gateway.openai(key)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_BASE", "_BASE_URL", "_API_VERSION")) or name.startswith(("AWS_", "VERTEX")):
            monkeypatch.delenv(name)
    yield
    PROCESS.configure()


@pytest.fixture(scope="session", autouse=True)
def _closed_at_the_end() -> Iterator[None]:
    yield
    PROCESS.background.close()
