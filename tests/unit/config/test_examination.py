"""The examination of a LiteLLM config.yaml honours, reports or refuses every key and never shows a secret."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config import (
    Config,
    ConfigInvalid,
    Kind,
    Problem,
    Report,
    examine_config,
    read_config,
)
from gateway.protocol.secret import Secret
from tests.unit.config.config_files import ENVIRON, REALISTIC, Write, item, only, problems_of, reports_of

# A realistic file


def test_realistic_file_is_read_whole(write: Write) -> None:
    config = read_config(write(REALISTIC), ENVIRON)
    assert [
        (e.model_group, e.provider, e.upstream_model, e.api_base, e.weight, e.order) for e in config.deployments
    ] == [
        ("gpt-3.5-turbo", "ollama", "qwen2.5:7b-instruct", "http://localhost:11434", 60, 0),
        ("gpt-3.5-turbo", "xinference", "qwen2.5-instruct", "http://127.0.0.1:9997/v1", 180, 0),
        ("bge-m3", "xinference", "bge-m3", "http://127.0.0.1:9997/v1", 1, 0),
        ("qwen-mindie", "mindie", "Qwen2.5-72B-Instruct", "http://10.0.0.7:1025/v1", 1, 0),
        ("llama-lightllm", "lightllm", "Llama-3-8B", "http://10.0.0.8:8088/v1", 1, 0),
        ("deepseek-r1", "hosted_vllm", "deepseek-ai/DeepSeek-R1", "http://vllm.internal:8000/v1", 3, 1),
        ("gpt-4o", "openai", "gpt-4o", "https://api.openai.com/v1", 1, 0),
    ]
    ollama, _, _, mindie, lightllm, vllm, openai = config.deployments
    assert (ollama.rpm, ollama.tpm, ollama.model_info) == (60, None, {"mode": "chat", "max_tokens": 8192})
    assert (mindie.timeout_s, mindie.stream_timeout_s, mindie.parameters) == (120, 12.5, {"temperature": 0.2})
    assert (lightllm.timeout_s, lightllm.parameters) == (120, {"temperature": 0.2})
    assert vllm.parameters == {
        "extra_headers": {"X-Route": "blue"},
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    assert vllm.credential == {
        "api_key": Secret("sk-vllm-secret-1"),
        "header:Authorization": Secret("Bearer secret-2"),
    }
    assert openai.id == "openai-main"
    assert openai.credential == {"api_key": Secret("sk-openai-secret-3")}
    assert openai.parameters == {"extra_headers": {"OpenAI-Organization": "org-1"}}
    assert openai.price_lines == {"input": "0.00000015", "output": "0.0000006", "cache_read": "0.000000075"}
    assert openai.model_info == {"base_model": "gpt-4o"}
    assert config.master_key == Secret("sk-master-secret-4")


def test_every_key_of_a_realistic_file_has_its_line(write: Write) -> None:
    config = read_config(write(REALISTIC), ENVIRON)
    kinds = {report.place: report.kind for report in config.reports}
    assert len(kinds) == len(config.reports)  # one line a place
    not_honoured = {place: kind for place, kind in kinds.items() if kind is not Kind.HONOURED}
    assert not_honoured == {
        "general_settings.database_url": Kind.IGNORED,
        "litellm_settings.drop_params": Kind.UNSUPPORTED,
    }
    for place in (
        "model_list[0].model_name",
        "model_list[0].litellm_params.model",
        "model_list[0].litellm_params.rpm",
        "model_list[0].litellm_params.weight",
        "model_list[0].model_info.mode",
        "model_list[3].litellm_params.temperature",
        "model_list[5].litellm_params.extra_headers.X-Route",
        "model_list[5].litellm_params.extra_body.chat_template_kwargs",
        "general_settings.master_key",
        "router_settings.routing_strategy",
        "environment_variables.VLLM_BASE",
    ):
        assert kinds[place] is Kind.HONOURED


def test_secrets_occur_in_no_repr_report_or_message(write: Write) -> None:
    path = write(REALISTIC + "  BROKEN: os.environ/NOT_SET\nunknown: {password: os.environ/VLLM_KEY}\n")
    examination = examine_config(path, ENVIRON)
    assert examination.problems
    with pytest.raises(ConfigInvalid) as caught:
        read_config(path, ENVIRON)
    texts = [repr(examination), str(caught.value), repr(caught.value), *map(str, examination.config.reports)]
    texts += [repr(read_config(write(REALISTIC), ENVIRON))]
    assert not [text for text in texts if "secret-" in text]
    assert caught.value.__context__ is None or caught.value.__suppress_context__


# The environment


def test_missing_variables_are_all_named_with_their_places(write: Write) -> None:
    path = write(
        item("api_base: os.environ/BASE\napi_key: os.environ/KEY\nextra_body: {a: [{b: os.environ/DEEP}]}")
        + "litellm_settings: {cache_params: {password: os.environ/REDIS_PASSWORD}}\n"
        + "anything: [os.environ/]\n"
    )
    with pytest.raises(ConfigInvalid) as caught:
        read_config(path, {"OTHER": "x"})
    assert str(caught.value).splitlines() == [
        "model_list[0].litellm_params.api_base: the environment variable BASE is not set",
        "model_list[0].litellm_params.api_key: the environment variable KEY is not set",
        "model_list[0].litellm_params.extra_body.a[0].b: the environment variable DEEP is not set",
        "litellm_settings.cache_params.password: the environment variable REDIS_PASSWORD is not set",
        "anything[0]: the environment variable (no name) is not set",
    ]
    base = Problem("model_list[0].litellm_params.api_base", "the environment variable BASE is not set")
    assert caught.value.problems[0] == base
    assert examine_config(path, {}).config.deployments == ()


@pytest.mark.parametrize("value", ["", "  "])
def test_empty_variable_is_refused(write: Write, value: str) -> None:
    problems = problems_of(write(item("api_key: os.environ/KEY")), KEY=value)
    assert problems == {"model_list[0].litellm_params.api_key": "the environment variable KEY is empty"}


@pytest.mark.parametrize("value", ["sk-\udcff", "sk-\0"])
def test_variable_that_cannot_be_stored_is_refused(write: Write, value: str) -> None:
    problems = problems_of(write(item("api_key: os.environ/KEY")), KEY=value)
    assert list(problems) == ["model_list[0].litellm_params.api_key"]


def test_variables_of_the_file_win_over_those_of_the_process(read: Any) -> None:
    config = read(
        item("api_key: os.environ/KEY\napi_base: os.environ/BASE")
        + "environment_variables:\n  KEY: os.environ/OUTER\n  BASE: http://h/v1\n  UNUSED: 1.50\n  EMPTY:\n",
        KEY="process",
        OUTER="outer",
    )
    entry = only(config)
    assert entry.credential == {"api_key": Secret("outer")}
    assert entry.api_base == "http://h/v1"
    kinds = {place: report.kind for place, report in reports_of(config).items() if place.startswith("env")}
    assert kinds == {
        "environment_variables.KEY": Kind.HONOURED,
        "environment_variables.BASE": Kind.HONOURED,
        "environment_variables.UNUSED": Kind.IGNORED,
        "environment_variables.EMPTY": Kind.IGNORED,
    }


def test_variables_of_the_file_do_not_name_each_other(write: Write) -> None:
    problems = problems_of(write("environment_variables: {A: x, B: os.environ/A, C: [1]}"))
    assert problems == {
        "environment_variables.B": "the environment variable A is not set",
        "environment_variables.C": "must be a text or a number",
    }


def test_reference_is_the_whole_value_only(read: Any) -> None:
    entry = only(read(item("a: x os.environ/NAME\nb: https://os.environ/NAME")))
    assert entry.parameters == {"a": "x os.environ/NAME", "b": "https://os.environ/NAME"}


def test_value_of_a_variable_is_not_resolved_again(read: Any) -> None:
    assert only(read(item("a: os.environ/A"), A="os.environ/B")).parameters == {"a": "os.environ/B"}


# Settings and top level


@pytest.mark.parametrize(
    ("section", "line", "kind", "is_warning"),
    [
        ("litellm_settings", "max_end_user_budget_id: guests", Kind.HONOURED, False),
        ("litellm_settings", "max_end_user_budget_id: 7", Kind.HONOURED, False),
        ("litellm_settings", "max_end_user_budget_id: null", Kind.HONOURED, False),
        ("litellm_settings", "max_budget: 10", Kind.UNSUPPORTED, True),
        ("litellm_settings", "budget_duration: 30d", Kind.UNSUPPORTED, True),
        ("litellm_settings", "upperbound_key_generate_params: {max_budget: 1}", Kind.UNSUPPORTED, True),
        ("litellm_settings", "success_callback: [langfuse]", Kind.UNSUPPORTED, False),
        ("litellm_settings", "cache: true", Kind.UNSUPPORTED, False),
        ("litellm_settings", "set_verbose: true", Kind.IGNORED, False),
        ("litellm_settings", "telemetry: false", Kind.IGNORED, False),
        ("litellm_settings", "no_such_key: 1", Kind.IGNORED, False),
        ("general_settings", "max_parallel_requests: 5", Kind.UNSUPPORTED, True),
        ("general_settings", "global_max_parallel_requests: 5", Kind.UNSUPPORTED, True),
        ("general_settings", "enforce_user_param: true", Kind.UNSUPPORTED, True),
        ("general_settings", "enforce_user_param: false", Kind.UNSUPPORTED, False),
        ("general_settings", "custom_auth: auth.check", Kind.UNSUPPORTED, True),
        ("general_settings", "store_model_in_db: true", Kind.IGNORED, False),
        ("general_settings", "alerting: [slack]", Kind.UNSUPPORTED, False),
        ("general_settings", "alerting: null", Kind.HONOURED, False),
        ("general_settings", "no_such_key: 1", Kind.IGNORED, False),
        ("router_settings", "routing_strategy: simple-shuffle", Kind.HONOURED, False),
        ("router_settings", "routing_strategy: usage-based-routing-v2", Kind.HONOURED, False),
        ("router_settings", "provider_budget_config: {openai: {budget_limit: 1}}", Kind.UNSUPPORTED, True),
        ("router_settings", "fallbacks: [{a: [b]}]", Kind.HONOURED, False),
        ("router_settings", "redis_host: x", Kind.IGNORED, False),
        ("router_settings", "no_such_key: 1", Kind.IGNORED, False),
    ],
)
def test_setting_is_reported(read: Any, section: str, line: str, kind: Kind, is_warning: bool) -> None:
    report = only_report(read(f"{section}:\n  {line}\n"))
    assert (report.place, report.kind, report.is_warning) == (
        f"{section}.{line.partition(':')[0]}",
        kind,
        is_warning,
    )
    assert report.reason


def only_report(config: Config) -> Report:
    (report,) = config.reports
    return report


@pytest.mark.parametrize(
    ("line", "kind", "is_warning"),
    [
        ("credential_list: [{credential_name: a}]", Kind.UNSUPPORTED, False),
        ("guardrails: [{guardrail_name: a}]", Kind.UNSUPPORTED, True),
        ("mcp_servers: {}", Kind.UNSUPPORTED, False),
        ("model_lst: []", Kind.IGNORED, False),
        ("no_such_key: 1", Kind.IGNORED, False),
        ("no_such_key: []", Kind.IGNORED, False),
        ("mcp_servers:", Kind.HONOURED, False),
    ],
)
def test_top_level_key_is_reported(read: Any, line: str, kind: Kind, is_warning: bool) -> None:
    report = only_report(read(line))
    assert (report.place, report.kind, report.is_warning) == (line.partition(":")[0], kind, is_warning)


def test_unknown_keys_of_an_item_are_reported(read: Any) -> None:
    text = item() + "    rpm: 5\n    litelm_params: {}\n"
    reports = {report.place: (report.kind, report.reason) for report in read(text).not_honoured}
    assert reports == {
        "model_list[0].rpm": (Kind.IGNORED, "belongs under litellm_params"),
        "model_list[0].litelm_params": (Kind.IGNORED, "unknown key"),
    }


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("sk-abc", "sk-abc"),
        ("os.environ/MASTER", "sk-env"),
        ("12345678", "12345678"),
        ("null", None),
        ("''", None),
    ],
)
def test_master_key_is_honoured(read: Any, line: str, key: str | None) -> None:
    config = read(f"general_settings: {{master_key: {line}}}", MASTER="sk-env")
    assert config.master_key == (Secret(key) if key else None)
    assert only_report(config).kind is Kind.HONOURED


def test_master_key_of_the_tutorials_is_a_warning(read: Any) -> None:
    config = read("general_settings: {master_key: sk-1234}")
    assert config.master_key == Secret("sk-1234")
    assert [report.place for report in config.warnings] == ["general_settings.master_key"]


# The file itself


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", "config.yaml", "must be a mapping"),
        ("- a\n- b\n", "config.yaml", "must be a mapping"),
        ("hunter2", "config.yaml", "must be a mapping"),
        ("a: b\n---\nc: d\n", "config.yaml", "not valid YAML: line"),
        ("a: [1, 2", "config.yaml", "not valid YAML: line"),
        ("a: b: hunter2", "config.yaml", "not valid YAML: line 1, column 5"),
        ("api_key: *hunter2", "config.yaml", "not valid YAML: line 1, column 10"),
        ('api_key: "hunter2\\q"', "config.yaml", "not valid YAML: line 1"),
        ("api_key: !hunter2 x", "api_key", "YAML tag"),
        ("a: !!python/object/apply:os.system [hunter2]", "a", "YAML tag"),
        ("a: !!set {hunter2}", "a", "YAML tag"),
        ("a: !!binary aHVudGVyMg==", "a", "YAML tag"),
        ("a: !!int hunter2", "a", "not a number"),
        ("a: \x07", "config.yaml", "character that YAML does not allow"),
        ("[a]: b", "(a key on line 1)", "must be plain text"),
        ("a: {b: 1, {c: d}: e}", "a.(a key on line 1)", "must be plain text"),
        ("a: &a [*a]", f"a{'[0]' * 40}"[:80] + "…", "aliases never end"),
        ("a: {<<: hunter2}", "a.<<", "can merge mappings only"),
        ("model_list: {}", "model_list", "must be a list"),
        ("model_list: [hunter2]", "model_list[0]", "must be a mapping"),
        ("model_list: [{model_name: a}]", "model_list[0].litellm_params", "is missing"),
        ("model_list: [{litellm_params: {model: ollama/x}}]", "model_list[0].model_name", "is missing"),
        (
            "model_list: [{model_name: ' ', litellm_params: {model: ollama/x}}]",
            "model_list[0].model_name",
            "is missing",
        ),
        ("model_list: [{model_name: a, litellm_params: hunter2}]", "model_list[0].litellm_params", "mapping"),
        ("general_settings: [hunter2]", "general_settings", "must be a mapping"),
        ("environment_variables: hunter2", "environment_variables", "must be a mapping"),
        ("include: hunter2", "include", "must be a list of files"),
        ("include: [[]]", "include[0]", "must be the path of a file"),
        ("include: [missing.yaml]", "missing.yaml", "cannot be read: No such file"),
    ],
)
def test_file_of_a_wrong_shape_is_refused(write: Write, text: str, place: str, says: str) -> None:
    path = write(text)
    problems = problems_of(path)
    assert place in problems
    assert says in problems[place]
    assert "hunter2" not in str(examine_config(path, {}))


def test_absent_and_empty_model_list_serve_nothing(read: Any) -> None:
    assert read("general_settings:\n").deployments == ()
    assert read("model_list:\n").deployments == ()
    assert read("model_list: []\n").deployments == ()


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"config\.yaml: cannot be read: No such file"):
        read_config(tmp_path / "config.yaml", {})
    with pytest.raises(ConfigInvalid, match="cannot be read: Is a directory"):
        read_config(tmp_path, {})


def test_file_that_is_not_utf8_is_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigInvalid, match=r"is not UTF-8 text \(byte 3\)"):
        read_config(path, {})
    path.write_bytes("\ufeffmodel_list: []\n".encode())
    assert read_config(path, {}).deployments == ()


def test_deep_nesting_and_growing_aliases_are_refused(write: Write) -> None:
    for text in ("a: " + "[" * 5000, "a: " + "[" * 60 + "]" * 60, "a: " + "{b: " * 60 + "1" + "}" * 60):
        with pytest.raises(ConfigInvalid, match="nested too deeply"):
            read_config(write(text), {})
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
    with pytest.raises(ConfigInvalid, match="aliases never end"):
        read_config(write(laughs), {})


def test_duplicate_keys_are_refused_at_every_depth(write: Write) -> None:
    text = """
    model_list:
      - model_name: a
        litellm_params:
          model: ollama/x
          api_key: hunter2
          api_key: hunter3
    litellm_settings: {a: 1}
    litellm_settings: {b: 1}
    """
    assert problems_of(write(text)) == {
        "model_list[0].litellm_params.api_key": "is given twice, on lines 6 and 7",
        "litellm_settings": "is given twice, on lines 8 and 9",
    }


def test_merged_key_may_be_overridden_and_the_first_merge_wins(read: Any) -> None:
    text = """
    a: &a {model: ollama/a, api_key: a}
    b: &b {api_key: b, rpm: 5}
    model_list:
      - model_name: m
        litellm_params: {<<: [*a, *b], model: ollama/own}
    """
    entry = only(read(text))
    assert (entry.upstream_model, entry.rpm, entry.credential) == ("own", 5, {"api_key": Secret("a")})


def test_dates_octals_and_words_stay_text(read: Any) -> None:
    entry = only(read(item("a: 2024-01-01\nb: 010\nc: 1:30\nd: 0x10\ne: 1.10.0\nf: '5'\ng: =\n")))
    assert entry.parameters == {
        "a": "2024-01-01", "b": "010", "c": "1:30", "d": "0x10", "e": "1.10.0", "f": "5", "g": "=",
    }  # fmt: skip


def test_all_problems_are_reported_at_once_one_line_each(write: Write) -> None:
    text = """
    model_list:
      - model_name: a
        litellm_params: {model: nowhere/x, api_key: os.environ/KEY, rpm: -1}
      - litellm_params: {model: ollama/x, api_base: nope}
      - model_name: c
        litellm_params: {model: ollama/x}
    general_settings: 5
    """
    with pytest.raises(ConfigInvalid) as caught:
        read_config(write(text), {})
    places = [line.partition(": ")[0] for line in str(caught.value).splitlines()]
    assert places == [
        "model_list[0].litellm_params.api_key",
        "model_list[0].litellm_params.model",
        "model_list[0].litellm_params.rpm",
        "model_list[1].model_name",
        "model_list[1].litellm_params.api_base",
        "general_settings",
    ]
    assert [entry.model_group for entry in examine_config(write(text), {}).config.deployments] == ["c"]


def test_included_lists_are_joined_and_other_values_replaced(write: Write, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write(item(name="inner", params="rpm: -1"), "models/a.yaml")
    write("litellm_settings: {b: 1}\ngeneral_settings: {master_key: sk-inner}\n", "settings.yaml")
    path = write(
        "include: [models/a.yaml, os.environ/SETTINGS]\n"
        "general_settings: {master_key: sk-outer, alerting: [slack]}\n" + item(name="outer")
    )
    examination = examine_config(path, {"SETTINGS": "settings.yaml"})
    config = examination.config
    assert [entry.model_group for entry in config.deployments] == ["outer"]
    assert [problem.place for problem in examination.problems] == ["models/a.yaml: model_list[0].litellm_params.rpm"]
    assert config.master_key == Secret("sk-inner")
    reports = reports_of(config)
    assert reports["general_settings"].reason == "overwritten by settings.yaml, which is included"
    assert reports["settings.yaml: litellm_settings.b"].kind is Kind.IGNORED
    assert reports["include[0]"].kind is Kind.HONOURED
    write(item(name="inner"), "models/a.yaml")
    config = read_config(path, {"SETTINGS": "settings.yaml"})
    assert [entry.model_group for entry in config.deployments] == ["outer", "inner"]


def test_included_file_cannot_include(write: Write) -> None:
    write("include: [config.yaml]\n", "b.yaml")
    problems = problems_of(write("include: [b.yaml]\n"))
    assert problems == {"b.yaml: include": "a file that is included cannot include others"}
