"""The arguments of LiteLLM that the SDK does not have, each with what stands in its place."""

from collections.abc import Mapping

NO_CACHE = "the SDK has no response cache"
NO_CALLBACKS = "the SDK has no callbacks; sdk.details(result) tells what a call has cost and who has answered"
NO_CLIENT = "the SDK has its own connections to upstreams"
NO_TEMPLATE = "prompts are the provider's own"
BY_EXTRA_BODY = "what a provider cannot express is left out, and a field of one provider goes into extra_body"

REASONS: Mapping[str, str] = {
    "mock_response": "model='mock/echo' answers without a provider",
    "mock_tool_calls": "model='mock/echo' answers without a provider",
    "mock_timeout": "model='mock/echo' answers without a provider",
    "model_list": "sdk.Router takes it",
    "deployment_id": "the deployment is the model's name: azure/deployment",
    "caching": NO_CACHE,
    "cache": NO_CACHE,
    "ttl": NO_CACHE,
    "callbacks": NO_CALLBACKS,
    "logger_fn": NO_CALLBACKS,
    "verbose": "Python's logging has the messages of the SDK",
    "client": NO_CLIENT,
    "shared_session": NO_CLIENT,
    "ssl_verify": "certificates are always verified, by those of the system",
    "force_timeout": "it is called timeout",
    "request_timeout": "it is called timeout",
    "fallback_models": "they are called fallbacks",
    "retry_policy": "sdk.Router takes it",
    "retry_strategy": "another deployment is tried first, then the same one after growing waits",
    "cooldown_time": "sdk.Router takes it",
    "budget_duration": "the SDK enforces no budgets",
    "max_budget": "the SDK enforces no budgets",
    "guardrails": "the SDK has no guardrails",
    "allowed_openai_params": BY_EXTRA_BODY,
    "additional_drop_params": BY_EXTRA_BODY,
    "extra_query": "requests to providers have no further query; fields go into extra_body",
    "roles": NO_TEMPLATE,
    "initial_prompt_value": NO_TEMPLATE,
    "final_prompt_value": NO_TEMPLATE,
    "bos_token": NO_TEMPLATE,
    "eos_token": NO_TEMPLATE,
    "hf_model_name": NO_TEMPLATE,
    "custom_prompt_dict": NO_TEMPLATE,
    "prompt_id": "the SDK has no store of prompts",
    "prompt_variables": "the SDK has no store of prompts",
    "input_cost_per_second": "prices are by token: input_cost_per_token",
    "output_cost_per_second": "prices are by token: output_cost_per_token",
    "conversation": "a session goes on by previous_response_id",
}
UNKNOWN = "fields of one provider alone go into extra_body"


def find_reason(name: str) -> str:
    return REASONS.get(name, UNKNOWN)
