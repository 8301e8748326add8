"""The deployments that go on with a text which the conversation ends with: by their wire and name, or as they say."""

import orjson
import pytest

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.capabilities import Capabilities, apply_flags, default_capabilities
from gateway.protocol.continuation import continue_call
from gateway.protocol.provider import Target
from gateway.providers.registry import PROVIDERS
from tests.fakes import anthropic, memory

GOOGLE = "https://europe-west1-aiplatform.googleapis.com"


def at(provider: str, model: str, api_base: str = "https://up.example", **flags: bool) -> Target:
    capabilities = apply_flags(flags, default_capabilities(model))
    fields = {"upstream_model": model, "api_base": api_base, "flags": flags, "capabilities": capabilities}
    return memory.target(provider=PROVIDERS[provider], **fields)


@pytest.mark.parametrize(
    ("target", "takes"),
    [
        (at("anthropic", "claude-sonnet-4-5"), True),
        (at("anthropic", "claude-sonnet-4-20250514"), True),
        (at("anthropic", "claude-3-5-haiku-latest"), True),
        (at("anthropic", "claude-opus-4-6"), False),
        (at("anthropic", "claude-opus-4-6", prefill=True), True),
        (at("anthropic", "claude-sonnet-4-5", prefill=False), False),
        (at("bedrock", "eu.anthropic.claude-haiku-4-5-20251001-v1:0"), True),
        (at("bedrock", "anthropic.claude-sonnet-4-20250514-v1:0"), True),
        (at("bedrock", "anthropic.claude-opus-4-6-v1"), False),
        (at("bedrock", "amazon.nova-pro-v1:0"), False),
        (at("vertex_ai", "claude-sonnet-4-5@20250929", GOOGLE), True),
        (at("vertex_ai", "gemini-2.5-pro", GOOGLE), False),
        (at("azure_ai", "claude-haiku-4-5", "https://a.services.ai.azure.com/anthropic"), True),
        (at("azure_ai", "gpt-4o", "https://a.services.ai.azure.com/openai/v1"), False),
        (at("ollama", "qwen2.5"), True),
        (at("ollama", "qwen2.5", prefill=False), False),
        (at("openai", "gpt-4o"), False),
        (at("azure", "gpt-4o"), False),
        (at("gemini", "gemini-2.5-pro"), False),
        (at("openai_compatible", "claude-3-haiku"), False),
        (at("openai_compatible", "qwen2.5", prefill=True), True),
        (at("hosted_vllm", "qwen2.5", prefill=True), True),
    ],
    ids=lambda value: (
        f"{value.provider.name} {value.upstream_model} {value.flags}" if isinstance(value, Target) else ""
    ),
)
def test_a_deployment_takes_a_prefill_or_not(target: Target, takes: bool) -> None:
    assert target.provider.takes_prefill(target) is takes


CONTINUED = {
    "hosted_vllm": {"continue_final_message": True, "add_generation_prompt": False},
    "sglang": {"continue_final_message": True},
    "llamacpp": {},
    "openai_compatible": {},
}


@pytest.mark.parametrize("name", CONTINUED)
@pytest.mark.parametrize("call", [memory.chat(stream=True), anthropic.messages_call({"stream": True})])
def test_a_server_is_told_that_it_goes_on_with_the_last_message(name: str, call: Call) -> None:
    where = at(name, "qwen2.5", prefill=True)

    def fields(sent: Call) -> dict[str, object]:
        body = orjson.loads(where.provider.request(sent, where, AttemptContext("a", 1.0)).body)
        return {name: body[name] for name in CONTINUED["hosted_vllm"] if name in body}

    assert fields(continue_call(call, "Once", None)) == CONTINUED[name]
    assert fields(call) == {}


def test_nothing_is_guessed_of_an_unknown_model() -> None:
    assert not Capabilities().prefill
