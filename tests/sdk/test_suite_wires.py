"""The cases of tests/e2e/test_responses_wires.py, by the SDK."""

from collections.abc import Iterator

import pytest

from tests.e2e import test_responses_wires
from tests.e2e.test_providers import TWISTS, deployed
from tests.fakes.google import FakeGoogle
from tests.fakes.wire_server import FakeWires
from tests.sdk.suite import SDKGateway, cases

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:The load_credentials_from_dict method:DeprecationWarning"),
]

globals().update(cases(test_responses_wires))


@pytest.fixture(autouse=True)
def _own_credential(request: pytest.FixtureRequest) -> None:
    if request.node.originalname == "test_errors_have_their_class" and request.getfixturevalue("status") == 401:
        pytest.skip("a credential that the provider refuses is the program's own: 401, not 502")


@pytest.fixture(scope="module")
def gateway(wires: FakeWires, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SDKGateway]:
    home = tmp_path_factory.mktemp("sdk-wires")
    with FakeGoogle() as google:
        running = SDKGateway(
            home,
            {
                "model_list": deployed(wires.root, google, home, (*TWISTS, "thinks", "short")),
            },
        )
        yield running
        running.close()
