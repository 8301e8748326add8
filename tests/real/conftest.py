"""One gateway before a real inference server, and the SDK to both of them."""

import os
from collections.abc import Iterator

import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway
from tests.real.server import API_KEY, CHAT, EMBEDDING, TOOLS, RunningServer, Server

INPUT_PRICE, OUTPUT_PRICE = "0.0000015", "4e-6"
WRONG_KEY = "sk-wrong-5Tj9Rm2Kc7Xp"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if items and "REAL_SERVER_PYTHON" not in os.environ:
        raise pytest.UsageError("these tests need the inference server of `make e2e-real`")


#: How the server may be deployed: as itself, as a server whose bytes pass, as one whose answers become events.
WAYS = ("llamacpp", "openai_compatible", "hosted_vllm")
UPSTREAM_MODELS = {"small": CHAT, "caller": TOOLS, "vectors": EMBEDDING}


def served(server: Server) -> JsonObject:
    """Public model `small-llamacpp` is `tiny-chat` at the server, and so on."""

    def at(name: str, model: str, **params: str) -> JsonObject:
        params = {"model": model, "api_base": server.url, "api_key": API_KEY, **params}
        return {"model_name": name, "litellm_params": params}

    prices = {"input_cost_per_token": INPUT_PRICE, "output_cost_per_token": OUTPUT_PRICE}
    rows = [at(f"{name}-{way}", f"{way}/{model}", **prices) for way in WAYS for name, model in UPSTREAM_MODELS.items()]
    return {"model_list": [*rows, at("locked", f"llamacpp/{CHAT}", api_key=WRONG_KEY)]}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with RunningServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def direct(server: Server) -> Iterator[openai.OpenAI]:
    """The server itself, without the gateway."""
    with openai.OpenAI(base_url=server.url, api_key=API_KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("gateway"), config=served(server))
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


@pytest.fixture
def key(gateway: Gateway) -> str:
    return gateway.issue_key()


@pytest.fixture
def client(gateway: Gateway, key: str) -> openai.OpenAI:
    return gateway.openai(key)
