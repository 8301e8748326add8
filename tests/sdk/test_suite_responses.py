"""The cases of tests/e2e/test_responses.py, by the SDK."""

from collections.abc import Iterator

import pytest

from tests.e2e import test_responses
from tests.e2e.conftest import ENVIRONMENT, served
from tests.fakes.raw import RawUpstreams
from tests.fakes.upstream import FakeUpstream
from tests.sdk.suite import SDKGateway, cases

pytestmark = pytest.mark.timeout(120)

globals().update(cases(test_responses))


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SDKGateway]:
    with RawUpstreams() as raw, pytest.MonkeyPatch.context() as environment:
        environment.setenv("FAKE_UPSTREAM_KEY", ENVIRONMENT["FAKE_UPSTREAM_KEY"])
        running = SDKGateway(tmp_path_factory.mktemp("sdk-responses"), served(upstream, raw))
        yield running
        running.close()
