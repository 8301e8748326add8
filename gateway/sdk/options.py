"""The arguments of the SDK's functions beside their first ones. An argument that stands nowhere here is a TypeError.

Names are OpenAI's; those of DeploymentOptions and RoutingOptions are LiteLLM's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from gateway.protocol.provider import Provider
from gateway.sdk.not_offered import find_reason

Fallbacks = Sequence[str] | Sequence[Mapping[str, object]] | Mapping[str, object]
Object = Mapping[str, object]


class DeploymentOptions(TypedDict, total=False):
    """The provider's address and credentials, and how it is asked; beside these, the provider's own parameters."""

    api_key: str | None
    api_base: str | None
    base_url: str | None
    api_version: str | None
    custom_llm_provider: str | None
    organization: str | None
    extra_headers: Mapping[str, str] | None
    extra_body: Object | None
    stream_timeout: float | None
    base_model: str | None
    tool_call_parser: str | None
    input_cost_per_token: float | None
    output_cost_per_token: float | None
    cache_read_input_token_cost: float | None
    cache_creation_input_token_cost: float | None
    azure_ad_token: str | None
    tenant_id: str | None
    client_id: str | None
    client_secret: str | None
    aws_access_key_id: str | None
    aws_secret_access_key: str | None
    aws_session_token: str | None
    aws_region_name: str | None
    aws_bedrock_runtime_endpoint: str | None
    vertex_project: str | None
    vertex_location: str | None
    vertex_credentials: str | Object | None
    num_ctx: int | None
    keep_alive: str | int | None


class RoutingOptions(TypedDict, total=False):
    """The tries of a call, their number and their time. `max_retries` is another name of `num_retries`;
    `drop_params` is always true."""

    timeout: float | None
    num_retries: int | None
    max_retries: int | None
    fallbacks: Fallbacks | None
    context_window_fallbacks: Fallbacks | None
    content_policy_fallbacks: Fallbacks | None
    context_window_fallback_dict: Mapping[str, str] | None
    disable_fallbacks: bool | None
    drop_params: bool | None


class CallOptions(DeploymentOptions, RoutingOptions, total=False):
    user: str | None
    tags: Sequence[str] | None
    metadata: Object | None


class TextOptions(CallOptions, total=False):
    stream: bool | None
    stream_options: Object | None
    n: int | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[str, float] | None


class ChatOptions(TextOptions, total=False):
    audio: Object | None
    cache_control: Object | None
    function_call: str | Object | None
    functions: Sequence[Object] | None
    logprobs: bool | None
    max_completion_tokens: int | None
    modalities: Sequence[str] | None
    parallel_tool_calls: bool | None
    prediction: Object | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    reasoning_effort: str | None
    response_format: Object | type | None
    safety_identifier: str | None
    service_tier: str | None
    store: bool | None
    thinking: Object | None
    tool_choice: str | Object | None
    tools: Sequence[Object] | None
    top_k: int | None
    top_logprobs: int | None
    verbosity: str | None
    web_search_options: Object | None


class CompletionOptions(TextOptions, total=False):
    best_of: int | None
    echo: bool | None
    logprobs: int | None
    suffix: str | None


class EmbeddingOptions(CallOptions, total=False):
    dimensions: int | None
    encoding_format: str | None


class ResponseOptions(CallOptions, total=False):
    background: bool | None
    context_management: Sequence[Object] | None
    frequency_penalty: float | None
    include: Sequence[str] | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    parallel_tool_calls: bool | None
    presence_penalty: float | None
    previous_response_id: str | None
    prompt: Object | None
    prompt_cache_key: str | None
    prompt_cache_options: Object | None
    prompt_cache_retention: str | None
    reasoning: Object | None
    safety_identifier: str | None
    service_tier: str | None
    store: bool | None
    stream: bool | None
    stream_options: Object | None
    temperature: float | None
    text: Object | None
    text_format: type | None
    tool_choice: str | Object | None
    tools: Iterable[Object] | None
    top_logprobs: int | None
    top_p: float | None
    truncation: str | None


DEPLOYMENT = frozenset(DeploymentOptions.__annotations__)
#: What a Router takes of them for one call: its deployments have the rest.
ROUTER_DEPLOYMENT = frozenset({"extra_headers", "extra_body"})


def check_names(function: str, options: Mapping[str, object], known: Iterable[str]) -> None:
    """Raises TypeError as Python does for an argument that a function does not have."""
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}: {find_reason(unknown[0])}")


def own_options(provider: Provider) -> frozenset[str]:
    """The parameters that only this provider has."""
    return provider.own_parameters | provider.own_secrets
