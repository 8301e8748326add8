"""model_list: what becomes of each key of an item."""

from typing import Any

import pytest

from gateway.config import (
    ConfigInvalid,
    Kind,
    examine_config,
)
from gateway.protocol.secret import Secret
from tests.unit.config.config_files import Write, item, only, problems_of, reports_of

# Prices


@pytest.mark.parametrize(
    ("written", "exact"),
    [
        ("0.00000015", "0.00000015"),
        ("1.5e-7", "0.00000015"),
        ("6e-7", "0.0000006"),  # YAML 1.1 takes this for a string
        ("6E-7", "0.0000006"),
        (".5e-6", "0.0000005"),
        ("1.e-6", "0.000001"),
        (
            "0.0000030001999999999996",
            "0.0000030001999999999996",
        ),  # 17 digits: a float would keep them differently
        ("0.10", "0.10"),
        ("0", "0"),
        ("0.0", "0.0"),
        ("-0.0", "0.0"),
        ("1", "1"),
        ('"0.00000015"', "0.00000015"),
        ("os.environ/PRICE", "0.0000025"),
    ],
)
def test_price_is_read_exactly_as_written(read: Any, written: str, exact: str) -> None:
    config = read(item(f"input_cost_per_token: {written}"), PRICE="2.5e-6")
    assert only(config).price_lines == {"input": exact}


@pytest.mark.parametrize(
    "written",
    ["-1e-7", "1.01", ".inf", ".nan", "NaN", "sNaN", "true", "abc", "[1]", "{a: 1}", "1e-31",
     "1e-999999999", "1e999999999"],
)  # fmt: skip
def test_impossible_price_is_refused(write: Write, written: str) -> None:
    problems = problems_of(write(item(f"input_cost_per_token: {written}")))
    assert list(problems) == ["model_list[0].litellm_params.input_cost_per_token"]


def test_every_price_has_its_line_and_params_win_over_model_info(read: Any) -> None:
    config = read(
        item(
            """
            input_cost_per_token: 1e-6
            cache_creation_input_token_cost: 3e-6
            cache_creation_input_token_cost_above_1hr: 4e-6
            output_cost_per_reasoning_token: 5e-6
            input_cost_per_audio_token: 6e-6
            output_cost_per_audio_token: 7e-6
            output_cost_per_token: null
            """,
            """
            input_cost_per_token: 9e-6
            output_cost_per_token: 2e-6
            cache_read_input_token_cost: 0
            """,
        )
    )
    assert only(config).price_lines == {
        "input": "0.000001",
        "output": "0.000002",
        "cache_read": "0",
        "cache_write_5m": "0.000003",
        "cache_write_1h": "0.000004",
        "reasoning": "0.000005",
        "input_audio": "0.000006",
        "output_audio": "0.000007",
    }
    assert only(config).model_info == {}
    assert reports_of(config)["model_list[0].model_info.input_cost_per_token"].kind is Kind.IGNORED


def test_prices_under_conditions_and_beside_tokens_have_their_lines(read: Any) -> None:
    config = read(
        item(
            """
            input_cost_per_token: 1e-6
            input_cost_per_token_above_200k_tokens: 2e-6
            output_cost_per_token_batches: 3e-6
            cache_read_input_token_cost_flex: 4e-7
            cache_creation_input_token_cost_above_1hr_above_200k_tokens: 5e-6
            input_cost_per_token_above_272k_tokens_priority: 6e-6
            input_cost_per_second: 0.0004
            output_cost_per_second: 0.0002
            input_cost_per_image: 0.01
            input_cost_per_character: 2.5e-7
            """,
            "input_cost_per_query: 2",
        )
    )
    assert only(config).price_lines == {
        "input": "0.000001",
        "input>200000": "0.000002",
        "output@batch": "0.000003",
        "cache_read@flex": "0.0000004",
        "cache_write_1h>200000": "0.000005",
        "input@priority>272000": "0.000006",
        "second": "0.0004",
        "output_second": "0.0002",
        "image": "0.01",
        "character": "0.00000025",
        "request": "2",
    }
    assert config.warnings == ()


def test_one_price_under_two_names_must_be_the_same(write: Write, read: Any) -> None:
    names = "cache_read_input_token_cost: 1e-7\ninput_cost_per_token_cache_hit: {}"
    assert only(read(item(names.format("1e-7")))).price_lines == {"cache_read": "0.0000001"}
    assert list(problems_of(write(item(names.format("2e-7"))))) == [
        "model_list[0].litellm_params.input_cost_per_token_cache_hit"
    ]


def test_a_base_model_is_kept_and_not_sent(read: Any) -> None:
    config = read(item("base_model: azure/gpt-4o", "base_model: openai/gpt-4o"))
    assert only(config).parameters == {"base_model": "azure/gpt-4o"}
    assert only(config).model_info == {"base_model": "openai/gpt-4o"}
    assert config.warnings == ()


def test_without_a_price_there_are_no_lines(read: Any) -> None:
    assert only(read(item())).price_lines == {}


@pytest.mark.parametrize(
    "name",
    ["tiered_pricing", "search_context_cost_per_query", "input_cost_per_pixel", "output_cost_per_image_token",
     "input_cost_per_token_above_0k_tokens", "input_cost_per_token_balanced", "off_peak_pricing_cost"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["litellm_params", "model_info"])
def test_price_of_another_kind_is_a_warning(read: Any, name: str, where: str) -> None:
    line = f"{name}: 0.001"
    config = read(item(line) if where == "litellm_params" else item(info=line))
    report = reports_of(config)[f"model_list[0].{where}.{name}"]
    assert (report.kind, report.is_warning) == (Kind.UNSUPPORTED, True)
    assert name not in only(config).parameters


# Providers and models


@pytest.mark.parametrize(
    ("model", "extra", "provider", "upstream_model"),
    [
        ("ollama/llama3", "", "ollama", "llama3"),
        ("hosted_vllm/org/model/x", "", "hosted_vllm", "org/model/x"),
        ("openai/gpt-4o", "", "openai", "gpt-4o"),
        ("openai/chat_completions/gpt-4o", "", "openai", "gpt-4o"),
        ("gpt-4o-mini", "", "openai", "gpt-4o-mini"),
        ("ft:gpt-4o:me", "", "openai", "ft:gpt-4o:me"),
        ("o1", "", "openai", "o1"),
        ("o3-mini", "", "openai", "o3-mini"),
        ("o4-mini", "", "openai", "o4-mini"),
        ("text-embedding-3-small", "", "openai", "text-embedding-3-small"),
        ("chatgpt-4o-latest", "", "openai", "chatgpt-4o-latest"),
        ("qwen", "custom_llm_provider: ollama", "ollama", "qwen"),
        ("gpt-4o", "custom_llm_provider: hosted_vllm", "hosted_vllm", "gpt-4o"),
        ("Qwen/Qwen3-8B", "custom_llm_provider: hosted_vllm", "hosted_vllm", "Qwen/Qwen3-8B"),
        ("hosted_vllm/Qwen/Qwen3-8B", "custom_llm_provider: hosted_vllm", "hosted_vllm", "Qwen/Qwen3-8B"),
        ("mock/echo", "", "mock", "echo"),
    ],
)
def test_provider_follows_from_prefix_or_name(
    read: Any, model: str, extra: str, provider: str, upstream_model: str
) -> None:
    entry = only(read(item(f"api_key: k\n{extra}", model=f'"{model}"')))
    assert (entry.provider, entry.upstream_model) == (provider, upstream_model)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("claude-3-opus", "names no provider"),
        ("o1ama", "names no provider"),
        ("meta-llama/Llama-3", "'meta-llama' is unknown; known: "),
        ("nobody/claude-3", "'nobody' is unknown; known: "),
        ("/x", "'' is unknown"),
        ("ollama/", "names no model"),
        ("openai/responses/gpt-5", "not supported in this version"),
        ("ollama/*", "must have no `*`, or as many as the public name"),
        ("*", "names no provider"),
        ("", "is missing"),
    ],
)
def test_model_that_cannot_be_served_is_refused(write: Write, model: str, says: str) -> None:
    problems = problems_of(write(item(model=f'"{model}"')))
    assert list(problems) == ["model_list[0].litellm_params.model"]
    assert says in problems["model_list[0].litellm_params.model"]


def test_unknown_provider_names_the_known_ones(write: Write) -> None:
    message = problems_of(write(item(model="nowhere/x")))["model_list[0].litellm_params.model"]
    assert "hosted_vllm" in message
    assert "ollama" in message
    message = problems_of(write(item("custom_llm_provider: nowhere")))[
        "model_list[0].litellm_params.custom_llm_provider"
    ]
    assert "hosted_vllm" in message


@pytest.mark.parametrize(
    ("name", "model", "upstream_model"),
    [
        ("openai/*", "openai/*", "*"),
        ("*", "openai/*", "*"),
        ("*", "openai/gpt-4o", "gpt-4o"),
        ("a*b*", "openai/*/*", "*/*"),
    ],
)
def test_a_name_may_be_a_pattern(read: Any, name: str, model: str, upstream_model: str) -> None:
    entry = only(read(item("api_key: k", name=f'"{name}"', model=f'"{model}"')))
    assert (entry.model_group, entry.upstream_model) == (name, upstream_model)


def test_a_pattern_that_cannot_be_served_is_refused(write: Write) -> None:
    problems = problems_of(write(item(name='"**"', model="ollama/x")))
    assert list(problems) == ["model_list[0].model_name"]


# Addresses and credentials


@pytest.mark.parametrize(
    ("model", "written", "called"),
    [
        ("ollama/x", "http://h:11434", "http://h:11434"),
        ("xinference/x", "http://h:9997", "http://h:9997/v1"),
        ("ollama/x", "http://h:11434/", "http://h:11434"),
        ("ollama/x", "http://h:11434/v1", "http://h:11434/v1"),
        ("ollama/x", "http://h/proxy", "http://h/proxy"),
        ("xinference/x", "http://[::1]:9997/v1/", "http://[::1]:9997/v1"),
        ("openai/x", "http://h:8088", "http://h:8088"),
        ("openai_compatible/x", "http://h:8088", "http://h:8088"),
    ],
)
@pytest.mark.parametrize("name", ["api_base", "base_url"])
def test_address_is_called_where_the_server_answers(
    read: Any, model: str, written: str, called: str, name: str
) -> None:
    assert only(read(item(f'{name}: "{written}"', model=model))).api_base == called


@pytest.mark.parametrize(
    "written",
    ["localhost:8000", "ftp://h/x", "http://", "http:///v1", "http://h:99999/v1", "http://h:0/", "http://[::1/v1",
     '"http://h/ v1"', '"http://h/v1\\r\\nX: y"', "http://user:hunter2@h/v1", "http://h/v1?key=hunter2", "http://h/#hunter2",
     "[http://h]", "true", f"http://h/{'x' * 1100}"],
)  # fmt: skip
def test_impossible_address_is_refused_and_not_shown(write: Write, written: str) -> None:
    problems = problems_of(write(item(f"api_base: {written}")))
    assert list(problems) == ["model_list[0].litellm_params.api_base"]
    assert "hunter2" not in str(problems)


def test_two_addresses_are_refused(write: Write) -> None:
    problems = problems_of(write(item("api_base: http://a\nbase_url: http://b")))
    assert list(problems) == ["model_list[0].litellm_params.base_url"]


def test_address_that_cannot_be_guessed_is_needed(write: Write) -> None:
    problems = problems_of(write(item(model="openai_compatible/x")))
    assert list(problems) == ["model_list[0].litellm_params.api_base"]


def test_usual_address_is_used_and_reported(read: Any) -> None:
    config = read(item(model="xinference/bge-m3"))
    assert only(config).api_base == "http://127.0.0.1:9997/v1"
    assert "http://127.0.0.1:9997/v1" in reports_of(config)["model_list[0].litellm_params.api_base"].reason


def test_key_of_the_environment_goes_only_to_the_providers_own_address(read: Any, write: Write) -> None:
    config = read(item(model="openai/gpt-4o"), OPENAI_API_KEY="sk-env")
    assert only(config).credential == {"api_key": Secret("sk-env")}
    assert "OPENAI_API_KEY" in reports_of(config)["model_list[0].litellm_params.api_key"].reason
    elsewhere = read(item("api_base: http://elsewhere/v1", model="openai/gpt-4o"), OPENAI_API_KEY="sk-env")
    assert only(elsewhere).credential == {}
    missing = problems_of(write(item(model="openai/gpt-4o")))
    assert "OPENAI_API_KEY" in missing["model_list[0].litellm_params.api_key"]


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("sk-1", "sk-1"),
        ("'  sk-1  '", "sk-1"),
        ("12345", "12345"),
        ("012345", "012345"),
        ("1234e56", "1234e56"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("|\n  sk-1\n", "sk-1"),
        ("' '", None),
        ("''", None),
        ("null", None),
    ],
)
def test_api_key_is_text_as_written(read: Any, written: str, key: str | None) -> None:
    entry = only(read(item(f"api_key: {written}")))
    assert entry.credential == ({"api_key": Secret(key)} if key else {})


@pytest.mark.parametrize("written", ["true", "[a]", "{a: b}", '"hunter2\\nX: y"', '"hunter2\\0"'])
def test_api_key_that_is_not_one_line_of_text_is_refused(write: Write, written: str) -> None:
    problems = problems_of(write(item(f"api_key: {written}")))
    assert list(problems) == ["model_list[0].litellm_params.api_key"]
    assert "hunter2" not in str(problems)


# Headers and body


def test_headers_that_hold_credentials_are_sealed_and_others_are_parameters(read: Any) -> None:
    entry = only(
        read(
            item(
                """
                organization: org-1
                extra_headers:
                  X-Team: red
                  X-Number: 7
                  x-api-key: sk-h
                  Cookie: a=b
                  X-Plain: os.environ/VALUE
                  openai-organization: org-2
                  X-Empty:
                """
            ),
            VALUE="from-env",
        )
    )
    assert entry.parameters == {"extra_headers": {"X-Team": "red", "X-Number": "7", "openai-organization": "org-2"}}
    assert entry.credential == {
        "header:x-api-key": Secret("sk-h"),
        "header:Cookie": Secret("a=b"),
        "header:X-Plain": Secret("from-env"),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", r'"hunter2\r\nHost: evil"'),
        ("X-A", r'"hunter2\n"'),
        ("X-A", r'"hunter2\0"'),
        ("X-A", r'"hunter2\x07"'),
        (r'"X-A\r\nB"', "hunter2"),
        ('"X A"', "hunter2"),
        ('""', "hunter2"),
        ("Host", "hunter2"),
        ("Content-Length", "1"),
        ("transfer-encoding", "chunked"),
        ("X-A", "[a]"),
        ("X-A", "true"),
    ],
)
def test_header_that_could_break_a_request_is_refused(write: Write, name: str, value: str) -> None:
    examination = examine_config(write(item(f"extra_headers:\n  {name}: {value}")), {})
    assert len(examination.problems) == 1
    assert examination.problems[0].place.startswith("model_list[0].litellm_params.extra_headers.")
    assert "hunter2" not in str(examination.problems)


def test_extra_keys_go_into_the_body_as_json(read: Any) -> None:
    config = read(
        item(
            """
            temperature: 0.1
            top_k: 40
            seed: 1_000
            reasoning_effort: low
            think: yes
            user: null
            stop: ["</s>", 0.5]
            guided: {schema: {a: [1, 2.5, null, false]}}
            from_env: os.environ/BODY
            """
        ),
        BODY="text",
    )
    parameters = only(config).parameters
    assert parameters == {
        "temperature": 0.1,
        "top_k": 40,
        "seed": 1000,
        "reasoning_effort": "low",
        "think": True,
        "stop": ["</s>", 0.5],
        "guided": {"schema": {"a": [1, 2.5, None, False]}},
        "from_env": "text",
    }
    assert type(parameters["from_env"]) is str
    assert reports_of(config)["model_list[0].litellm_params.temperature"].kind is Kind.HONOURED


def test_header_names_ignore_case(write: Write) -> None:
    problems = problems_of(write(item("extra_headers: {X-A: 1, x-a: 2}")))
    assert list(problems) == [
        "model_list[0].litellm_params.extra_headers.X-A",
        "model_list[0].litellm_params.extra_headers.x-a",
    ]


def test_value_of_the_environment_in_the_body_is_a_warning(read: Any) -> None:
    config = read(item("a: os.environ/A\nextra_body: {b: [os.environ/A], c: 1}"), A="x")
    assert [(report.place, report.kind) for report in config.warnings] == [
        ("model_list[0].litellm_params.extra_body.b", Kind.HONOURED),
        ("model_list[0].litellm_params.a", Kind.HONOURED),
    ]


@pytest.mark.parametrize("name", ["model_name", "model", "id"])
def test_name_of_more_than_one_line_is_refused(write: Write, name: str) -> None:
    fields = {"model_name": "m", "model": "ollama/m", "id": "i"} | {name: '"ollama/a\\r\\nX: y"'}
    text = item(info=f"id: {fields['id']}", model=fields["model"], name=fields["model_name"])
    (place,) = problems_of(write(text))
    assert place.endswith(f".{name}")


@pytest.mark.parametrize("name", ["api_key", "x_api_key", "access_token", "password", "client-secret", "Authorization"])
def test_credential_in_the_body_is_refused(write: Write, name: str) -> None:
    problems = problems_of(write(item(f"extra_body: {{{name}: hunter2}}")))
    assert list(problems) == [f"model_list[0].litellm_params.extra_body.{name}"]
    assert "hunter2" not in str(problems)
    nested = problems_of(write(item(f"a: {{b: [{{{name}: [hunter2]}}]}}")))
    assert list(nested) == ["model_list[0].litellm_params.a"]


@pytest.mark.parametrize("name", ["model", "messages", "stream", "prompt", "input", "stream_options"])
def test_body_field_of_the_call_cannot_be_overridden(write: Write, name: str) -> None:
    problems = problems_of(write(item(f"extra_body: {{{name}: x}}")))
    assert problems == {f"model_list[0].litellm_params.extra_body.{name}": "is decided by each call"}


def test_tags_and_abilities_are_read(read: Any) -> None:
    entry = only(read(item("tags: [free, eu]")))
    assert entry.parameters["tags"] == ["free", "eu"]
    assert "tags" not in only(read(item("tags: []"))).parameters


@pytest.mark.parametrize("tags", ["free", "[1]", "{a: b}", '[""]'])
def test_tags_that_are_no_texts_are_refused(write: Write, tags: str) -> None:
    assert list(problems_of(write(item(f"tags: {tags}")))) == ["model_list[0].litellm_params.tags"]


@pytest.mark.parametrize(
    ("name", "kind", "is_warning"),
    [
        ("tag_regex", Kind.UNSUPPORTED, True),
        ("itpm", Kind.UNSUPPORTED, True),
        ("mock_response", Kind.UNSUPPORTED, False),
        ("fallbacks", Kind.UNSUPPORTED, False),
        ("drop_params", Kind.UNSUPPORTED, False),
        ("max_retries", Kind.UNSUPPORTED, False),
        ("cooldown_time", Kind.UNSUPPORTED, False),
        ("litellm_credential_name", Kind.UNSUPPORTED, False),
        ("litellm_something_new", Kind.UNSUPPORTED, False),
        ("api_version", Kind.UNSUPPORTED, False),
        ("aws_secret_access_key", Kind.UNSUPPORTED, False),
        ("vertex_credentials", Kind.UNSUPPORTED, False),
        ("azure_ad_token", Kind.UNSUPPORTED, False),
        ("client_secret", Kind.UNSUPPORTED, False),
        ("ssl_verify", Kind.UNSUPPORTED, False),
        ("headers", Kind.UNSUPPORTED, False),
        ("stream", Kind.UNSUPPORTED, False),
        ("metadata", Kind.UNSUPPORTED, False),
        ("configurable_clientside_auth_params", Kind.IGNORED, False),
    ],
)
def test_litellm_key_without_its_feature_is_reported_and_not_sent(
    read: Any, name: str, kind: Kind, is_warning: bool
) -> None:
    config = read(item(f"{name}: x"))
    report = reports_of(config)[f"model_list[0].litellm_params.{name}"]
    assert (report.kind, report.is_warning) == (kind, is_warning)
    assert report.reason
    assert only(config).parameters == {}
    assert report in config.not_honoured
    assert (report in config.warnings) == is_warning


@pytest.mark.parametrize("name", ["team_id", "access_groups", "access_windows", "supported_environments"])
def test_model_info_that_restricts_is_stored_with_a_warning(read: Any, name: str) -> None:
    config = read(item(info=f"{name}: x\nmode: chat"))
    assert only(config).model_info == {name: "x", "mode": "chat"}
    assert [report.place for report in config.warnings] == [f"model_list[0].model_info.{name}"]


def test_blocked_item_is_not_served(read: Any) -> None:
    config = read(item(info="blocked: true"))
    assert config.deployments == ()
    assert "not served" in reports_of(config)["model_list[0].model_info.blocked"].reason
    assert len(read(item(info="blocked: false")).deployments) == 1


# Numbers


@pytest.mark.parametrize(
    ("line", "attribute", "value"),
    [
        ("rpm: 60", "rpm", 60),
        ("rpm: 0", "rpm", 0),
        ("rpm: 6e1", "rpm", 60),
        ('tpm: "1000"', "tpm", 1000),
        ("tpm: os.environ/N", "tpm", 12),
        ("tpm: null", "tpm", None),
        ("order: -3", "order", -3),
        ("weight: 0", "weight", 0.0),
        ("weight: 0.25", "weight", 0.25),
        ("timeout: 0.5", "timeout_s", 0.5),
        ("timeout: os.environ/N", "timeout_s", 12.0),
        ("stream_timeout: 30", "stream_timeout_s", 30.0),
        ("connect_timeout: 2", "connect_timeout_s", 2.0),
        ("stream_idle_timeout: 20", "stream_idle_timeout_s", 20.0),
        ("max_stream_duration: 900", "max_stream_duration_s", 900.0),
    ],
)
def test_number_is_read(read: Any, line: str, attribute: str, value: object) -> None:
    assert getattr(only(read(item(line), N="12")), attribute) == value


@pytest.mark.parametrize(
    "line",
    ["rpm: -1", "rpm: 1.5", "rpm: 2147483648", "rpm: true", "rpm: many", "rpm: [1]", "rpm: .inf", "rpm: 010",
     "tpm: 1:30", "weight: -0.1", "weight: .nan", "order: 1.5", "order: -2147483648", "timeout: 0",
     "timeout: -1", "timeout: 1e400", "stream_timeout: soon", "connect_timeout: 0",
     "max_stream_duration: -1", f"rpm: {'9' * 5000}"],
)  # fmt: skip
def test_impossible_number_is_refused(write: Write, line: str) -> None:
    problems = problems_of(write(item(line)))
    assert list(problems) == [f"model_list[0].litellm_params.{line.partition(':')[0]}"]


def test_parameter_too_large_for_json_is_refused(write: Write) -> None:
    for number in ("1e999", "9223372036854775808", "-9223372036854775809"):
        assert list(problems_of(write(item(f"top: [{number}]")))) == ["model_list[0].litellm_params.top[0]"]


def two(first: str, second: str) -> str:
    head = "model_list:\n"
    items = [f"  - {{model_name: g, litellm_params: {{model: ollama/{x}}}}}\n" for x in (first, second)]
    return head + "".join(items)


@pytest.mark.parametrize(
    ("first", "second", "weights", "orders"),
    [
        ("a", "b", (1, 1), (0, 0)),
        ("a, rpm: 6", "b, rpm: 600", (6, 600), (0, 0)),
        ("a, tpm: 10", "b, tpm: 30", (10, 30), (0, 0)),
        ("a, rpm: 6, tpm: 1", "b, tpm: 3", (1, 3), (0, 0)),
        ("a, rpm: 6", "b", (1, 1), (0, 0)),
        ("a, rpm: 0", "b, rpm: 5", (1, 1), (0, 0)),
        ("a, rpm: 6, weight: 9", "b, rpm: 600", (9, 1), (0, 0)),
        ("a, order: 1", "b, order: 2", (1, 1), (1, 2)),
        ("a", "b, order: 2", (1, 1), (3, 2)),
        ("a", "b, order: -2", (1, 1), (-1, -2)),
        ("a", "b, order: 2147483647", (1, 1), (2147483647, 2147483647)),
    ],
)
def test_siblings_share_calls_as_simple_shuffle_does(
    read: Any, first: str, second: str, weights: tuple[int, int], orders: tuple[int, int]
) -> None:
    entries = read(two(first, second)).deployments
    assert tuple(entry.weight for entry in entries) == weights
    assert tuple(entry.order for entry in entries) == orders


# Ids


def test_id_does_not_depend_on_the_credential_and_the_parameters(read: Any) -> None:
    before = only(read(item("api_base: http://h/v1\napi_key: a\nrpm: 1"))).id
    after = only(read(item("api_base: http://h/v1/\napi_key: b\ntemperature: 1\nextra_headers: {X-Key: z}"))).id
    assert before == after
    assert before.startswith("config-")
    assert before == "config-" + before.removeprefix("config-").lower()


@pytest.mark.parametrize(
    "other", [item("api_base: http://i/v1"), item("api_base: http://h/v1", model="hosted_vllm/n"),
              item("api_base: http://h/v1", model="sglang/m"), item("api_base: http://h/v1", name="n")]
)  # fmt: skip
def test_id_differs_with_name_model_and_address(read: Any, other: str) -> None:
    assert only(read(other)).id != only(read(item("api_base: http://h/v1"))).id


def test_equal_items_differ_by_their_ordinal(read: Any) -> None:
    once, twice = read(two("a", "a")).deployments
    assert once.id != twice.id
    assert once.id == only(read(two("a", "b")[: two("a", "b").rindex("  - ")])).id
    # an item that comes before, of another name, does not change the ids
    assert [entry.id for entry in read(two("z", "a")).deployments][1] == once.id


def test_id_may_be_given_as_text_or_number_but_once_only(read: Any, write: Write) -> None:
    assert only(read(item(info="id: 7"))).id == "7"
    twice = item(info="id: x") + item(info="id: x").removeprefix("model_list:\n")
    assert problems_of(write(twice)) == {"model_list[1].model_info.id": "is the id of model_list[0] too"}
    assert list(problems_of(write(item(info=f"id: {'x' * 256}")))) == ["model_list[0].model_info.id"]


# A provider's own


def test_a_providers_own_parameters_are_read_with_their_types_and_its_secrets_sealed(read: Any) -> None:
    params = "aws_region_name: eu-west-1, aws_access_key_id: AKIAOWNSECRET1, aws_secret_access_key: own-secret-2"
    [entry] = read(
        f"model_list: [{{model_name: m, litellm_params: {{model: bedrock/converse/x, {params}}}}}]"
    ).deployments
    assert entry.parameters == {"aws_region_name": "eu-west-1"}
    assert {name: secret.reveal() for name, secret in entry.credential.items()} == {
        "aws_access_key_id": "AKIAOWNSECRET1",
        "aws_secret_access_key": "own-secret-2",
    }
    [local] = read("model_list: [{model_name: m, litellm_params: {model: ollama/x, num_ctx: 8192}}]").deployments
    assert local.parameters == {"num_ctx": 8192}


def test_the_role_and_the_bearer_token_of_bedrock_are_read(read: Any) -> None:
    params = "aws_role_name: arn, aws_session_tags: [team], aws_request_metadata: key, aws_bearer_token_bedrock: t-1"
    [entry] = read(f"model_list: [{{model_name: m, litellm_params: {{model: bedrock/x, {params}}}}}]").deployments
    assert entry.parameters == {
        "aws_role_name": "arn",
        "aws_session_tags": ["team"],
        "aws_request_metadata": "key",
    }
    assert {name: secret.reveal() for name, secret in entry.credential.items()} == {"aws_bearer_token_bedrock": "t-1"}


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("litellm_params: {model: lightllm/x, tool_call_parser: qwen}", "tool_call_parser: is unknown"),
        ("litellm_params: {model: openai/x, api_key: k}, model_info: {capabilities: {visions: true}}", "visions"),
    ],
)
def test_an_unknown_parser_or_capability_is_refused(read: Any, item: str, says: str) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        read(f"model_list: [{{model_name: m, {item}}}]")
