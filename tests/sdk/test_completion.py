"""completion, text_completion and embedding: arguments, answers, costs and errors."""

import asyncio
import json
import threading
from collections.abc import Callable
from decimal import Decimal

import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from gateway import sdk
from tests.fakes.upstream import CREDENTIAL, LEAKS, USAGE, FakeUpstream
from tests.fakes.wire_server import FakeWires
from tests.sdk.waiting import eventually

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def openai_at(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> FakeUpstream:
    monkeypatch.setenv("OPENAI_API_KEY", CREDENTIAL)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
    return upstream


def ask(model: str = "openai/up-chat", **options: object) -> ChatCompletion:
    answer = sdk.completion(model, HELLO, **options)  # type: ignore[arg-type]
    assert isinstance(answer, ChatCompletion)
    return answer


def test_a_call_takes_address_and_key_from_the_environment(openai_at: FakeUpstream) -> None:
    answer = ask(temperature=0.5)
    assert "hello" in str(answer.choices[0].message.content)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == USAGE["prompt_tokens"]
    sent = openai_at.last("up-chat")
    assert sent.headers["authorization"] == f"Bearer {CREDENTIAL}"
    assert sent.json == {"model": "up-chat", "messages": HELLO, "temperature": 0.5}


def test_arguments_win_over_the_environment(openai_at: FakeUpstream) -> None:
    ask("openai/up-args", api_key="sk-mine", base_url=openai_at.url, extra_headers={"X-Trace": "7"})
    sent = openai_at.last("up-args")
    assert sent.headers["authorization"] == "Bearer sk-mine"
    assert sent.headers["x-trace"] == "7"
    assert set(sent.json) == {"model", "messages"}


def test_a_bare_name_is_openais(openai_at: FakeUpstream) -> None:
    ask("gpt-4o")
    assert openai_at.last("gpt-4o").path == "/v1/chat/completions"


def test_extra_body_reaches_the_upstream(openai_at: FakeUpstream) -> None:
    ask("openai/up-extra", extra_body={"guided_choice": ["a", "b"]})
    assert openai_at.last("up-extra").json["guided_choice"] == ["a", "b"]


def test_the_asynchronous_call_answers_the_same(openai_at: FakeUpstream) -> None:
    answer = asyncio.run(sdk.acompletion("openai/up-chat", HELLO))
    assert isinstance(answer, ChatCompletion)
    assert answer.choices == ask().choices


async def test_a_synchronous_call_works_inside_a_running_loop(openai_at: FakeUpstream) -> None:
    assert "hello" in str(ask().choices[0].message.content)


def test_an_earlier_message_can_be_sent_back_as_it_is(openai_at: FakeUpstream) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    first = sdk.completion("openai/up-tools", HELLO, tools=[tool])
    assert isinstance(first, ChatCompletion)
    message = first.choices[0].message
    assert message.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "7"} for call in message.tool_calls]
    sdk.completion("openai/up-tools", [*HELLO, message, *results], tools=[tool])
    sent = openai_at.last("up-tools").json["messages"]
    assert sent[1]["tool_calls"][0]["function"]["name"] == "weather"


def test_text_completion_and_embedding(openai_at: FakeUpstream) -> None:
    text = sdk.text_completion("hello", "openai/up-text")
    assert isinstance(text, Completion)
    assert "hello" in text.choices[0].text
    vectors = sdk.embedding("openai/up-vectors", ["a", "b"])
    assert isinstance(vectors, CreateEmbeddingResponse)
    assert [row.index for row in vectors.data] == [0, 1]
    again = asyncio.run(sdk.aembedding("openai/up-vectors", ["a", "b"]))
    assert again.data[1].embedding == vectors.data[1].embedding


def test_words_that_openai_does_not_know_are_no_error(openai_at: FakeUpstream) -> None:
    answer = ask("openai/up-new-finish")
    assert answer.choices[0].finish_reason == "eos_from_the_future"
    assert answer.choices[0].message.content


# Costs


def test_the_cost_is_exact_and_of_the_price_that_is_given(openai_at: FakeUpstream) -> None:
    answer = ask(input_cost_per_token=0.00000015, output_cost_per_token=6e-7, cache_read_input_token_cost=7.5e-8)
    found = sdk.details(answer)
    expected = (1207 - 256) * Decimal("0.00000015") + 256 * Decimal("7.5e-8") + 311 * Decimal("6e-7")
    assert found.cost == expected
    assert answer._hidden_params["response_cost"] == float(expected)  # type: ignore[attr-defined]
    assert not found.usage_estimated
    assert found.provider == "openai"
    assert [attempt.status_code for attempt in found.attempts] == [200]
    assert "_hidden_params" not in answer.model_dump()


def test_a_known_model_has_the_price_of_the_catalogue(openai_at: FakeUpstream) -> None:
    cost = sdk.details(ask("openai/gpt-4o-mini")).cost
    assert cost is not None
    assert 0 < cost < Decimal("0.01")


def test_a_model_without_a_price_costs_nothing_known(openai_at: FakeUpstream) -> None:
    assert sdk.details(ask("openai/up-unheard")).cost is None


def test_usage_that_the_upstream_does_not_report_is_marked_as_estimated(openai_at: FakeUpstream) -> None:
    assert sdk.details(ask("openai/usage-none")).usage_estimated


def test_there_are_details_of_answers_alone() -> None:
    with pytest.raises(TypeError, match="no details of str"):
        sdk.details("text")


# Errors


def test_an_unknown_argument_is_an_error_with_its_name(openai_at: FakeUpstream) -> None:
    with pytest.raises(TypeError, match="'temprature'"):
        ask(temprature=1)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": 9}, "temperature"),
        ({"api_base": "ftp://there"}, "api_base"),
        ({"drop_params": False}, "drop_params"),
        ({"num_retries": -1}, "num_retries"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"api_base": "http://169.254.169.254/"}, "api_base"),
        ({"extra_headers": {"a\nb": "c"}}, "extra_headers.a\nb"),
        ({"extra_body": {"model": "other"}}, "extra_body.model"),
        ({"api_key": "a\r\nb"}, "api_key"),
        ({"custom_llm_provider": "nobody"}, "custom_llm_provider"),
        ({"stream": "yes"}, "stream"),
        ({"fallbacks": [7]}, "fallbacks"),
    ],
)
def test_a_wrong_argument_is_a_bad_request_that_names_it(
    openai_at: FakeUpstream, options: dict[str, object], param: str
) -> None:
    before = len(openai_at.requests)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**options)
    assert (caught.value.status_code, caught.value.param) == (400, param)
    assert len(openai_at.requests) == before


def test_a_value_that_json_does_not_have_is_a_bad_request(openai_at: FakeUpstream) -> None:
    with pytest.raises(openai.BadRequestError, match="JSON"):
        sdk.completion("openai/up-chat", [{"role": "user", "content": object()}])


@pytest.mark.parametrize("model", ["", "openai/", "no-provider", "openai/" + "x" * 5000, "openai/\ud800"])
def test_a_name_that_is_no_model_is_a_bad_request(openai_at: FakeUpstream, model: str) -> None:
    with pytest.raises(openai.BadRequestError):
        sdk.completion(model, HELLO)


@pytest.mark.parametrize("options", [{}, {"custom_llm_provider": "openai"}, {"fallbacks": ["os.environ/MY_SECRET"]}])
def test_the_name_of_a_model_is_never_read_from_the_environment(
    openai_at: FakeUpstream, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    """Programs let their users choose models."""
    monkeypatch.setenv("MY_SECRET", "hush/hush-9c1")
    model = "openai/up-429" if "fallbacks" in options else "os.environ/MY_SECRET"
    before = len(openai_at.requests)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(model, **options)
    assert "hush" not in f"{caught.value} {caught.value.body}"
    assert len(openai_at.requests) == before


def test_an_unknown_provider_is_a_bad_request() -> None:
    with pytest.raises(openai.BadRequestError, match="nobody"):
        sdk.completion("nobody/model", HELLO)


def test_a_missing_key_is_an_authentication_error_that_names_the_variable() -> None:
    with pytest.raises(sdk.AuthenticationError, match="OPENAI_API_KEY") as caught:
        sdk.completion("openai/gpt-4o", HELLO)
    assert isinstance(caught.value, openai.AuthenticationError)


STATUSES = [
    ("400", openai.BadRequestError, 400),
    ("401", openai.AuthenticationError, 401),
    ("403", openai.PermissionDeniedError, 403),
    ("404", openai.APIStatusError, 404),
    ("429", openai.RateLimitError, 429),
    ("500", openai.InternalServerError, 502),
    ("overflow", openai.BadRequestError, 400),
]


@pytest.mark.parametrize(("fault", "kind", "status"), STATUSES)
def test_the_errors_are_openais(
    openai_at: FakeUpstream, fault: str, kind: type[openai.APIStatusError], status: int
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(f"openai/up-{fault}", num_retries=0)
    error = caught.value
    assert isinstance(error, kind)
    assert error.status_code == status
    assert sdk.details(error).provider == error.provider == "openai"  # type: ignore[attr-defined]
    assert error.deployment.startswith(f"openai/up-{fault}")  # type: ignore[attr-defined]
    assert not any(leak in f"{error} {error.body}" for leak in LEAKS)


def test_a_context_overflow_has_litellms_class(openai_at: FakeUpstream) -> None:
    with pytest.raises(sdk.ContextWindowExceededError) as caught:
        ask("openai/up-overflow")
    assert caught.value.code == "context_length_exceeded"


def test_an_address_where_nothing_listens_is_a_connection_error() -> None:
    with pytest.raises(openai.APIConnectionError) as caught:
        ask("openai/up-chat", api_base="http://127.0.0.1:9/v1", api_key="k", num_retries=0)
    assert sdk.details(caught.value).attempts[0].error_code == "upstream_unreachable"


def test_a_timeout_is_a_timeout_error(openai_at: FakeUpstream) -> None:
    with pytest.raises(openai.APITimeoutError):
        ask("openai/up-silent", timeout=0.2)


def test_no_error_and_no_detail_shows_the_key(openai_at: FakeUpstream) -> None:
    with pytest.raises(openai.APIError) as caught:
        ask("openai/up-trace", api_key="sk-very-secret-key-0001", num_retries=0)
    shown = f"{caught.value} {caught.value!r} {sdk.details(caught.value)} {vars(caught.value)}"
    assert "very-secret" not in shown


# Fallbacks and retries


def test_a_fallback_answers_for_a_model_that_fails(openai_at: FakeUpstream) -> None:
    answer = ask("openai/up-500", fallbacks=["openai/up-stand-in"], num_retries=1)
    assert "hello" in str(answer.choices[0].message.content)
    attempts = sdk.details(answer).attempts
    assert [attempt.model for attempt in attempts] == ["up-500", "up-stand-in"]


def test_a_key_of_the_call_never_goes_to_its_fallback(openai_at: FakeUpstream) -> None:
    ask("openai/up-500", api_key="sk-of-the-first-alone", fallbacks=["openai/up-other"])
    assert openai_at.last("up-other").headers["authorization"] == f"Bearer {CREDENTIAL}"


# Other wires


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("anthropic/claude-x", {"api_key": "k"}),
        ("gemini/gemini-x", {"api_key": "k", "api_base": "{root}/v1beta"}),
        ("ollama/llama", {}),
        (
            "bedrock/nova",
            {
                "aws_access_key_id": "AKIA",
                "aws_secret_access_key": "s",
                "aws_region_name": "eu-west-1",
                "aws_bedrock_runtime_endpoint": "{root}",
            },
        ),
        ("azure/gpt", {"api_key": "k", "api_version": "2024-10-21"}),
        ("hosted_vllm/qwen", {"api_base": "{root}/vllm/v1"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_wire_answers(wires: FakeWires, model: str, options: dict[str, str]) -> None:
    options = {"api_base": wires.root, **options}
    answer = ask(model, **{name: text.format(root=wires.root) for name, text in options.items()})
    assert "hello" in str(answer.choices[0].message.content)
    assert sdk.details(answer).provider == model.partition("/")[0]


# Threads and loops


def test_two_threads_make_a_hundred_calls_each(openai_at: FakeUpstream) -> None:
    answers: list[str] = []

    def work(name: str) -> None:
        for number in range(100):
            text = f"{name} {number}"
            answer = sdk.completion("openai/up-many", [{"role": "user", "content": text}])
            assert isinstance(answer, ChatCompletion)
            answers.append(str(answer.choices[0].message.content) + json.dumps(text))

    run_together(lambda: work("one"), lambda: work("two"))
    assert len(answers) == 200
    assert all(json.loads('"' + answer.rsplit('"', 2)[1] + '"') in answer.rsplit('"', 2)[0] for answer in answers)


def run_together(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)


def test_calls_of_many_loops_share_the_connections(openai_at: FakeUpstream) -> None:
    for _ in range(3):
        asyncio.run(sdk.acompletion("openai/up-loops", HELLO))
    assert len(openai_at.of("up-loops")) == 3


def test_a_cancelled_call_ends_the_upstreams(openai_at: FakeUpstream) -> None:
    async def story() -> None:
        task = asyncio.create_task(sdk.acompletion("openai/up-silent", HELLO))
        await asyncio.to_thread(eventually, lambda: openai_at.of("up-silent"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    openai_at.requests.clear()
    asyncio.run(story())
    eventually(lambda: openai_at.last("up-silent").disconnected)
