"""`serve --server daphne`: the guarded Daphne keeps the promises of the default server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT, Launch
from tests.e2e.gateway import Gateway, eventually
from tests.e2e.test_crash import COST, Streams, asked_by, decimal_cost, settled_rows
from tests.e2e.test_faults import (  # noqa: F401 - collected here once more, over this server
    leaks,
    test_a_failure_is_told_in_the_openai_shape,
    test_a_slow_reader_pauses_the_upstream,
    test_a_stream_that_breaks_ends_with_an_error_and_no_done,
    test_silent_streams_are_kept_alive_with_comments,
)
from tests.e2e.test_openai_sdk import *  # noqa: F403 - the whole suite of the SDK
from tests.fakes.upstream import Answer, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, config: JsonObject) -> Iterator[Gateway]:
    home: Path = tmp_path_factory.mktemp("daphne")
    daphne = Gateway(home, config=config, env=ENVIRONMENT)
    try:
        yield daphne.start("--server", "daphne")
    finally:
        daphne.close()


def test_a_client_that_leaves_lets_the_upstream_go(gateway: Gateway, key: str, upstream: FakeUpstream) -> None:
    with upstream.script("up-priced", Answer(gap_s=0.1, text="w " * 100)):
        stream = gateway.openai(key).chat.completions.create(
            model="priced", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        next(iter(stream))
        recorded = upstream.last("up-priced")
        stream.close()
        eventually(lambda: recorded.disconnected, within_s=3, what="the upstream call is cancelled")
    [row] = gateway.wait_priced(api_key=key)
    assert row["usage_estimated"] is True


def test_sigterm_drains_running_streams(launch: Launch, config: JsonObject, upstream: FakeUpstream) -> None:
    daphne = launch(config, start=False)
    daphne.start("--server", "daphne")
    key = daphne.issue_key()
    with upstream.script("up-priced", Answer(gap_s=0.1, text="w " * 20)):
        streams = Streams(daphne, key, 10, "daphne-").start()
        eventually(lambda: len(asked_by(upstream, "daphne-")) == 10, within_s=5, what="10 streams run")
        daphne.stop()
        assert streams.join() == dict.fromkeys(streams.names, True)
    assert daphne.processes() == []
    daphne.start()
    rows = settled_rows(daphne, key, streams.names, within_s=15)
    assert {(row["cost_status"], decimal_cost(row)) for row in rows} == {("priced", COST)}
