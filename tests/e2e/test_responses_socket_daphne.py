"""WebSocket mode of /v1/responses with `serve --server daphne`: the same promises."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e import test_responses_socket as suite
from tests.e2e.conftest import ENVIRONMENT
from tests.e2e.gateway import Gateway
from tests.e2e.test_responses_socket import *  # noqa: F403 - the whole suite

pytestmark = suite.pytestmark


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, config: JsonObject) -> Iterator[Gateway]:
    home: Path = tmp_path_factory.mktemp("daphne")
    daphne = Gateway(home, config=config, env=ENVIRONMENT)
    try:
        yield daphne.start("--server", "daphne")
    finally:
        daphne.close()


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "SERVER", ("--server", "daphne"))
