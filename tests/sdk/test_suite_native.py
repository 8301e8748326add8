"""The cases of tests/e2e/test_responses_native.py, by the SDK."""

from collections.abc import Iterator

import pytest

from tests.e2e import test_responses_native
from tests.fakes.native import FakeNative
from tests.sdk.suite import SDKGateway, cases

pytestmark = pytest.mark.timeout(120)

globals().update(cases(test_responses_native))


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeNative]:
    with FakeNative() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: FakeNative, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SDKGateway]:
    running = SDKGateway(tmp_path_factory.mktemp("sdk-native"), {"model_list": test_responses_native.served(upstream)})
    yield running
    running.close()
