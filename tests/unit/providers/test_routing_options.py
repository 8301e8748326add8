"""The routing options of a client's body stay at the gateway, at every provider and from every client's format."""

from typing import Any

import orjson
import pytest

from gateway.pipeline.interpret import NO_HINTS
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.anthropic.client import DIALECT as MESSAGES
from gateway.protocol.routing_options import OPTIONS
from gateway.protocol.secret import Secret
from gateway.providers.registry import PROVIDERS
from tests.fakes.memory import decode, target

MOMENT = AttemptContext("01a1f7ee-f382-757a-934c-dda522f02992", 1_800_000_000.0, token="token")
SENT: dict[str, Any] = {
    "fallbacks": ["named-fallback"],
    "context_window_fallbacks": [{"public": ["named-fallback"]}],
    "content_policy_fallbacks": [{"public": ["named-fallback"]}],
    "context_window_fallback_dict": {"public": "named-fallback"},
    "disable_fallbacks": False,
    "num_retries": 7,
    "timeout": 123.25,
}
INPUTS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "x"}]},
    "completion": {"prompt": "x"},
    "embedding": {"input": "x"},
    "messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5},
}
CREDENTIAL = {
    name: Secret("secret-text")
    for name in ("api_key", "aws_access_key_id", "aws_secret_access_key", "vertex_credentials", "aws_region_name")
}
#: An upstream model of the provider's own, where the operation depends on its name.
MODELS = {("bedrock", "embedding"): "amazon.titan-embed-text-v2:0", ("vertex_ai", "embedding"): "text-embedding-005"}


def read(form: str, fields: dict[str, Any]) -> Call:
    raw = orjson.dumps({"model": "public", **INPUTS[form], **fields})
    return MESSAGES.decode(raw, NO_HINTS) if form == "messages" else decode(raw, form)


@pytest.mark.parametrize("form", sorted(INPUTS))
@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_no_upstream_gets_the_routing_options(name: str, form: str) -> None:
    assert SENT.keys() == OPTIONS
    provider = PROVIDERS[name]
    operation = Operation.CHAT if form == "messages" else Operation(form)
    if operation not in provider.operations or name == "mock":
        pytest.skip("not served")
    where = target(
        provider=provider,
        credential=CREDENTIAL,
        api_base="http://127.0.0.1:9/v1",
        upstream_model=MODELS.get((name, form), "private"),
        parameters={"vertex_project": "p", "vertex_location": "europe-west4", "aws_region_name": "eu-west-1"},
    )
    plain = provider.request(read(form, {}), where, MOMENT)
    request = provider.request(read(form, SENT), where, MOMENT)
    assert orjson.loads(request.body) == orjson.loads(plain.body)
    assert request.dropped == plain.dropped
    nulls = provider.request(read(form, dict.fromkeys(OPTIONS)), where, MOMENT)
    assert orjson.loads(nulls.body) == orjson.loads(plain.body)
