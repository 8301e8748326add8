"""The examples of LiteLLM's documents for its package, with the import changed.

Sources: docs.litellm.ai: completion/input, stream, function_call, json_mode, vision, reliable_completions,
exception_mapping, embedding, text_completion, response_api, routing.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from gateway import sdk
from gateway.sdk.not_offered import REASONS
from gateway.sdk.options import ChatOptions, EmbeddingOptions, ResponseOptions
from gateway.sdk.router import GAPS, HARMLESS, RouterOptions
from tests.fakes.upstream import CREDENTIAL, Answer, FakeUpstream
from tests.fakes.wire_server import FakeWires

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = [{"content": "Hello, how are you?", "role": "user"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}


class CalendarEvent(BaseModel):
    name: str
    date: str
    participants: list[str]


@pytest.fixture(autouse=True)
def openai_at(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> FakeUpstream:
    monkeypatch.setenv("OPENAI_API_KEY", CREDENTIAL)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
    upstream.requests.clear()
    return upstream


def completion(**arguments: Any) -> Any:
    return sdk.completion(**{"model": "gpt-3.5-turbo", "messages": MESSAGES, **arguments})


# completion


def test_a_limit_of_tokens(openai_at: FakeUpstream) -> None:
    response = completion(max_tokens=10)
    assert isinstance(response.choices[0].message.content, str)
    assert openai_at.last("gpt-3.5-turbo").json["max_tokens"] == 10


def test_streaming() -> None:
    text = "".join(part.choices[0].delta.content or "" for part in completion(stream=True) if part.choices)
    assert "Hello, how are you?" in text


async def test_async_streaming() -> None:
    response: Any = await sdk.acompletion(model="gpt-3.5-turbo", messages=MESSAGES, stream=True)
    chunks = [chunk async for chunk in response]
    assert len(chunks) > 1


def test_parallel_function_calling(openai_at: FakeUpstream) -> None:
    messages: list[Any] = [{"role": "user", "content": "What's the weather like in San Francisco, Tokyo, and Paris?"}]
    response = completion(model="gpt-3.5-turbo-1106", messages=messages, tools=[WEATHER], tool_choice="auto")
    response_message = response.choices[0].message
    assert response_message.tool_calls
    messages.append(response_message)
    for tool_call in response_message.tool_calls:
        json.loads(tool_call.function.arguments)
        messages.append(
            {
                "tool_call_id": tool_call.id,
                "role": "tool",
                "name": tool_call.function.name,
                "content": "10 degrees",
            }
        )
    second = completion(model="gpt-3.5-turbo-1106", messages=messages)
    assert second.choices[0].message.content
    roles = [message["role"] for message in openai_at.last("gpt-3.5-turbo-1106").json["messages"]]
    assert roles[:3] == ["user", "assistant", "tool"]


def test_deprecated_function_calling(openai_at: FakeUpstream) -> None:
    completion(functions=[WEATHER["function"]], function_call="auto")
    assert openai_at.last("gpt-3.5-turbo").json["functions"]


def test_json_mode(openai_at: FakeUpstream) -> None:
    completion(response_format={"type": "json_object"})
    assert openai_at.last("gpt-3.5-turbo").json["response_format"] == {"type": "json_object"}


def test_a_pydantic_model_as_response_format(openai_at: FakeUpstream) -> None:
    completion(model="gpt-4o-2024-08-06", response_format=CalendarEvent)
    sent = openai_at.last("gpt-4o-2024-08-06").json["response_format"]
    assert (sent["type"], sent["json_schema"]["name"], sent["json_schema"]["strict"]) == (
        "json_schema",
        "CalendarEvent",
        True,
    )
    assert sent["json_schema"]["schema"]["required"] == ["name", "date", "participants"]


def test_a_pydantic_model_as_text_format() -> None:
    response: Any = sdk.responses("Alice and Bob meet on Friday.", "gpt-4o", text_format=CalendarEvent)
    assert response.text.format.name == "CalendarEvent"
    response = sdk.responses("hi", "gpt-4o", text={"verbosity": "low"}, text_format=CalendarEvent)
    assert (response.text.verbosity, response.text.format.type) == ("low", "json_schema")


@pytest.mark.parametrize("value", [dict, "CalendarEvent", 7])
def test_what_is_no_model_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        completion(response_format=value)
    assert caught.value.param == "response_format"
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses("hi", "gpt-4o", text_format=value)
    assert caught.value.param == "text_format"


def test_two_formats_are_refused() -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses("hi", "gpt-4o", text={"format": {"type": "text"}}, text_format=CalendarEvent)
    assert caught.value.param == "text_format"


def test_vision(openai_at: FakeUpstream) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://upload.wikimedia.org/boardwalk.jpg"}}
    content = [{"type": "text", "text": "What's in this image?"}, image]
    completion(model="gpt-4-vision-preview", messages=[{"role": "user", "content": content}])
    assert openai_at.last("gpt-4-vision-preview").json["messages"][0]["content"] == content


def test_embedding_and_text_completion() -> None:
    response = sdk.embedding(model="text-embedding-ada-002", input=["good morning from litellm"])
    assert response.data[0].embedding
    text: Any = sdk.text_completion(model="gpt-3.5-turbo-instruct", prompt="Say this is a test", max_tokens=7)
    assert text.choices[0].text


# Exceptions


def test_an_invalid_key_is_an_authentication_error(openai_at: FakeUpstream) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        completion(model="openai/up-401", api_key="bad-key")
    error: Any = caught.value
    assert (error.status_code, error.llm_provider) == (401, "openai")


def test_a_timeout_is_openais(openai_at: FakeUpstream) -> None:
    with openai_at.script("up-late", Answer(before_s=5)), pytest.raises(openai.APITimeoutError):
        completion(model="openai/up-late", timeout=0.05, num_retries=0)


@pytest.mark.parametrize(
    "name",
    ["ContextWindowExceededError", "ContentPolicyViolationError", "RateLimitError", "APIConnectionError", "APIError"],
)
def test_the_errors_have_their_names(name: str) -> None:
    assert issubclass(getattr(sdk, name), openai.APIError)


# Retries and fallbacks


def test_fallback_models(openai_at: FakeUpstream) -> None:
    response = completion(model="openai/up-500", fallbacks=["gpt-3.5-turbo", "gpt-4"], num_retries=1)
    assert sdk.details(response).attempts[-1].model == "gpt-3.5-turbo"


def test_fallbacks_may_bring_their_own_key_and_address(openai_at: FakeUpstream, wires: FakeWires) -> None:
    """The same model with another key, then another provider."""
    fallbacks = [
        {"model": "openai/up-500", "api_key": "sk-second"},
        {"model": "anthropic/claude-x", "api_key": "sk-third", "api_base": wires.root},
    ]
    response = completion(model="openai/up-500", api_key="sk-first", fallbacks=fallbacks, num_retries=0)
    assert "Hello, how are you?" in str(response.choices[0].message.content)
    keys = {request.headers["authorization"] for request in openai_at.of("up-500")}
    assert keys == {"Bearer sk-first", "Bearer sk-second"}
    assert wires.last_request("claude-x").headers["x-api-key"] == "sk-third"
    assert sdk.details(response).provider == "anthropic"
    assert "sk-" not in str(sdk.details(response))
    with pytest.raises(openai.BadRequestError) as caught:
        completion(fallbacks=[{"model": "gpt-4", "temprature": 1}])
    assert caught.value.param == "fallbacks"


def test_a_fallback_for_the_context_window() -> None:
    fallback_dict = {"openai/up-overflow": "gpt-3.5-turbo-16k"}
    response = completion(model="openai/up-overflow", context_window_fallback_dict=fallback_dict)
    assert sdk.details(response).attempts[-1].model == "gpt-3.5-turbo-16k"


# Router


def model_list() -> list[Any]:
    return [
        {"model_name": "gpt-3.5-turbo", "litellm_params": {"model": "openai/up-a", "rpm": 900}},
        {"model_name": "gpt-3.5-turbo", "litellm_params": {"model": "openai/up-b", "rpm": 10, "weight": 1}},
        {"model_name": "gpt-4", "litellm_params": {"model": "gpt-4", "api_key": CREDENTIAL}},
        {"model_name": "bad-model", "litellm_params": {"model": "openai/up-500"}},
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"routing_strategy": "simple-shuffle"},
        {"routing_strategy": "usage-based-routing-v2", "enable_pre_call_checks": True},
        {"routing_strategy": "latency-based-routing", "routing_strategy_args": {"ttl": 10}},
        {"routing_strategy": "least-busy"},
        {"routing_strategy": "cost-based-routing"},
        {"set_verbose": True, "debug_level": "DEBUG"},
        {"num_retries": 3, "timeout": 30, "allowed_fails": 1, "cooldown_time": 100},
        {"retry_policy": {"RateLimitErrorRetries": 3}, "allowed_fails_policy": {"RateLimitErrorAllowedFails": 100}},
        {"model_group_retry_policy": {"gpt-4": {"AuthenticationErrorRetries": 1}}},
        {"retry_after": 5, "disable_cooldowns": True, "default_fallbacks": ["gpt-4"]},
    ],
    ids=str,
)
async def test_a_router_answers_by_every_setting(settings: dict[str, Any]) -> None:
    async with sdk.Router(model_list=model_list(), **settings) as router:
        for model in ("gpt-3.5-turbo", "gpt-4"):
            response: Any = await router.acompletion(model=model, messages=MESSAGES)
            assert "how are you" in response.choices[0].message.content
        responses = await asyncio.gather(
            *(router.acompletion(model="gpt-3.5-turbo", messages=MESSAGES) for _ in range(5))
        )
        assert len(responses) == 5


def test_a_routers_fallbacks_and_aliases() -> None:
    router = sdk.Router(
        model_list=model_list(),
        fallbacks=[{"bad-model": ["gpt-4"]}],
        context_window_fallbacks=[{"gpt-4": ["gpt-3.5-turbo"]}],
        content_policy_fallbacks=[{"gpt-4": ["gpt-3.5-turbo"]}],
        model_group_alias={"gpt-4-alias": "gpt-4"},
        set_verbose=True,
    )
    with router:
        response: Any = router.completion(model="bad-model", messages=MESSAGES)
        assert sdk.details(response).attempts[-1].model == "gpt-4"
        response = router.completion(model="gpt-4-alias", messages=MESSAGES)
        assert response._hidden_params["model_id"]
        assert "gpt-4-alias" in router.get_model_names()
        assert router.embedding(model="gpt-4", input=["good morning"]).data
        text: Any = router.text_completion(model="gpt-4", prompt="hello")
        assert text.choices[0].text


# Arguments

#: The arguments of LiteLLM's functions, as its documents and signatures have them.
DOCUMENTED = {
    "completion": """timeout temperature top_p n stream stream_options stop max_tokens max_completion_tokens modalities
        prediction audio presence_penalty frequency_penalty logit_bias user response_format seed tools tool_choice
        parallel_tool_calls logprobs top_logprobs deployment_id functions function_call base_url api_version api_key
        model_list api_base num_retries max_retries context_window_fallback_dict fallbacks metadata
        input_cost_per_token output_cost_per_token initial_prompt_value roles final_prompt_value bos_token eos_token
        hf_model_name extra_headers custom_llm_provider drop_params mock_response reasoning_effort thinking
        web_search_options service_tier safety_identifier prompt_cache_key verbosity caching cache logger_fn verbose
        additional_drop_params allowed_openai_params ssl_verify client shared_session guardrails top_k
        aws_region_name vertex_project""",
    "embedding": """dimensions encoding_format timeout api_base api_version api_key user caching custom_llm_provider
        num_retries fallbacks metadata""",
    "responses": """include instructions max_output_tokens prompt metadata parallel_tool_calls previous_response_id
        reasoning store background stream temperature text text_format tool_choice tools top_p truncation user
        service_tier safety_identifier extra_headers extra_query extra_body timeout custom_llm_provider api_key
        api_base fallbacks num_retries""",
}
OWN: dict[str, frozenset[str]] = {
    "completion": frozenset(ChatOptions.__annotations__),
    "embedding": frozenset(EmbeddingOptions.__annotations__),
    "responses": frozenset(ResponseOptions.__annotations__),
}


@pytest.mark.parametrize("function", DOCUMENTED)
def test_every_documented_argument_is_honoured_or_refused_by_its_name(function: str) -> None:
    for name in DOCUMENTED[function].split():
        if name in OWN[function]:
            continue
        assert name in REASONS, name
        with pytest.raises(TypeError, match=f"'{name}': ") as caught:
            getattr(sdk, function)(model="mock/echo", **{_content(function): "hi", name: "value"})
        assert REASONS[name] in str(caught.value)


def _content(function: str) -> str:
    return "messages" if function == "completion" else "input"


def test_every_setting_of_a_router_is_honoured_or_refused_by_its_name() -> None:
    documented = """redis_url redis_host redis_port redis_password cache_responses cache_kwargs caching_groups
        client_ttl num_retries max_fallbacks timeout stream_timeout default_litellm_params default_max_parallel_requests
        set_verbose debug_level default_fallbacks fallbacks context_window_fallbacks content_policy_fallbacks
        model_group_alias enable_pre_call_checks enable_tag_filtering retry_after retry_policy
        model_group_retry_policy allowed_fails allowed_fails_policy cooldown_time disable_cooldowns routing_strategy
        optional_pre_call_checks routing_strategy_args provider_budget_config alerting_config"""
    known = RouterOptions.__annotations__.keys() | GAPS.keys() | HARMLESS
    assert set(documented.split()) <= known
    with pytest.raises(TypeError, match="'assistants_config'"):
        sdk.Router([], assistants_config={})  # type: ignore[call-arg]


def test_the_document_has_every_argument_that_is_refused() -> None:
    document = (ROOT / "docs/sdk.md").read_text(encoding="utf-8")
    assert [name for name in REASONS if f"`{name}`" not in document] == []
