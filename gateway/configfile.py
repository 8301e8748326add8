"""Reading a config.yaml written for LiteLLM: what it asks for, what was not understood, and where.

Every key of the file ends in one of three ways: it is honoured, or it is reported as ignored or unsupported,
or it is a problem that stops the start. Problems are collected and told together. No value that may be a
secret stands in a problem or a report: they name places, never contents. Nothing here knows a database.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import yaml

from gateway.protocol.provider import HEADER_PREFIX, Provider
from gateway.protocol.secret import Secret
from gateway.providers.registry import PREFIXES

MAX_DEPTH = 40
MAX_NODES = 200_000  # aliases of aliases grow exponentially
MAX_NAME_CHARS = 255
MAX_ADDRESS_CHARS = 1024
MAX_COUNT = 2**31 - 1
MAX_PRICE_DECIMALS = 30
ENVIRONMENT_PREFIX = "os.environ/"


@dataclass(frozen=True, slots=True)
class Problem:
    place: str  # such as `model_list[2].litellm_params.api_base`
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ConfigInvalid(ValueError):
    """The file cannot be used. `problems` holds all that is wrong with it, the text has one line for each."""

    def __init__(self, place: str, message: str, *further: Problem) -> None:
        self.problems = (Problem(place, message), *further)
        super().__init__("\n".join(map(str, self.problems)))

    @property
    def place(self) -> str:
        return self.problems[0].place

    @property
    def message(self) -> str:
        return self.problems[0].message


class Kind(StrEnum):
    HONOURED = "honoured"
    IGNORED = "ignored"  # changes nothing here
    UNSUPPORTED = "unsupported"  # would change something in LiteLLM that this version lacks


@dataclass(frozen=True, slots=True)
class Report:
    place: str
    kind: Kind
    reason: str = ""
    is_warning: bool = False  # without it, less is limited, guarded or paid for than the file asks

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}{': ' if self.reason else ''}{self.reason}"


@dataclass(frozen=True, slots=True)
class DeploymentEntry:
    """One item of model_list, ready to be stored. `price_lines` are USD per token, exactly as written."""

    place: str
    id: str
    model_group: str
    provider: str
    upstream_model: str
    api_base: str
    credential: Mapping[str, Secret]
    price_lines: Mapping[str, str]
    parameters: Mapping[str, Any]
    model_info: Mapping[str, Any]
    weight: float
    order: int
    rpm: int | None
    tpm: int | None
    timeout_s: float | None
    stream_timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Config:
    deployments: tuple[DeploymentEntry, ...]
    master_key: Secret | None
    reports: tuple[Report, ...]

    @property
    def warnings(self) -> tuple[Report, ...]:
        return tuple(report for report in self.reports if report.is_warning)

    @property
    def not_honoured(self) -> tuple[Report, ...]:
        return tuple(report for report in self.reports if report.kind is not Kind.HONOURED)


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found in a file; `config` holds only the items that can be used."""

    config: Config
    problems: tuple[Problem, ...]


def read_config(path: str | Path, environ: Mapping[str, str]) -> Config:
    """Raises ConfigInvalid, which names every problem of the file and of the files it includes."""
    examination = examine_config(path, environ)
    if examination.problems:
        first, *further = examination.problems
        raise ConfigInvalid(first.place, first.message, *further)
    return examination.config


def examine_config(path: str | Path, environ: Mapping[str, str]) -> Examination:
    """Like read_config, but answers with the problems beside whatever could be read."""
    findings = _Findings()
    deployments: tuple[DeploymentEntry, ...] = ()
    master_key = None
    try:
        sections = _read_sections(Path(path), environ, findings)
        environment = _Environment(environ, sections.pop("environment_variables", None), findings)
        resolved = {
            name: _Section(section.place, environment.resolve(section.value, section.place))
            if not section.items
            else _Section(
                section.place,
                [],
                tuple((place, environment.resolve(item, place)) for place, item in section.items),
            )
            for name, section in sections.items()
        }
        for name, section in resolved.items():
            if name == "model_list":
                deployments = _read_models(section, environment, findings)
            elif name == "general_settings":
                master_key = _read_general_settings(section, findings)
            elif name in _SETTINGS:
                _report_settings(name, section, findings)
            else:
                _report_gap(findings, section.place, section.items or section.value, _TOP_LEVEL.get(name))
        environment.report_unused()
    except ConfigInvalid as error:
        findings.problems.extend(error.problems)
    config = Config(deployments, master_key, tuple(findings.reports))
    return Examination(config, tuple(findings.problems))


class _Findings:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.reports: list[Report] = []

    def refuse(self, place: str, message: str) -> None:
        self.problems.append(Problem(place, message))

    def honour(self, place: str, reason: str = "", *, is_warning: bool = False) -> None:
        self.reports.append(Report(place, Kind.HONOURED, reason, is_warning))

    def ignore(self, place: str, reason: str) -> None:
        self.reports.append(Report(place, Kind.IGNORED, reason))


# YAML: text to plain values, numbers as they were written


@dataclass(frozen=True, slots=True)
class Number:
    """A YAML number with its exact text: a float would already have lost a price's digits."""

    text: str
    value: int | Decimal


class FromEnvironment(str):
    """A text that came from an environment variable, so probably a secret."""

    __slots__ = ()


class Unresolved:
    """Stands where an environment variable was missing: that is told, and nothing else about the place."""


Value: TypeAlias = "bool | str | Number | Unresolved | list[Value] | dict[str, Value] | None"
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Only the plain types. Dates stay text, as do octal and base-60 numbers; `1e-7` is a number."""

    yaml_implicit_resolvers = {}


_PATTERNS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
    "int": r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)",
    "float": r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)",
    "merge": r"<<",
}
_NUMBER = re.compile(f"{_PATTERNS['int']}|{_PATTERNS['float']}")
for _kind, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), None)


def _compose(path: Path, name: str) -> yaml.Node:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigInvalid(name, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigInvalid(name, f"is not UTF-8 text (byte {error.start})") from None
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        # What stands in quotes is taken from the file and may be half of a password; names of tokens are not.
        problem = re.sub(r"(['\"])(?!<[a-z ]+>').*\1", "…", error.problem or "", flags=re.DOTALL)
        raise ConfigInvalid(name, f"is not valid YAML: {where}: {problem}") from None
    except yaml.YAMLError:
        raise ConfigInvalid(name, "holds a character that YAML does not allow") from None
    except RecursionError:
        raise ConfigInvalid(name, "is nested too deeply") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigInvalid(name, "must be a mapping at its top level, such as `model_list:`")
    return node


class _NodeReader:
    """YAML nodes to values. Nodes still have the duplicates and lines that a constructed dict has lost."""

    def __init__(self, findings: _Findings) -> None:
        self._findings = findings
        self._nodes = 0

    def read(self, node: yaml.Node, place: str, depth: int = 0) -> Value:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise _endless(place)
        if isinstance(node, yaml.CollectionNode) and node.tag not in {_TAG + "map", _TAG + "seq"}:
            self._findings.refuse(place, "has a YAML tag that is not accepted here")
            return Unresolved()
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, f"{place}.", depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(node.value)]
        return self._scalar(node, place)

    def mapping(self, node: yaml.MappingNode, prefix: str, depth: int = 0) -> dict[str, Value]:
        merged: dict[str, Value] = {}
        own: dict[str, Value] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._findings.refuse(f"{prefix}(a key on line {line})", "must be plain text")
            elif key_node.tag == _TAG + "merge":
                for name, value in self._merged(value_node, prefix, depth).items():
                    merged.setdefault(name, value)
            else:
                name = key_node.value
                if isinstance(self._text(name, f"{prefix}(a key on line {line})"), Unresolved):
                    continue
                place = prefix + name
                if name in lines:
                    self._findings.refuse(place, f"is given twice, on lines {lines[name]} and {line}")
                lines[name] = line
                own[name] = self.read(value_node, place, depth + 1)
        return merged | own

    def _merged(self, node: yaml.Node, prefix: str, depth: int) -> dict[str, Value]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Value] = {}
        for each in nodes:
            if not isinstance(each, yaml.MappingNode):
                self._findings.refuse(f"{prefix}<<", "can merge mappings only")
                continue
            if depth > MAX_DEPTH:
                raise _endless(f"{prefix}<<")
            found = self.mapping(each, prefix, depth + 1) | found
        return found

    def _scalar(self, node: yaml.Node, place: str) -> Value:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            return self._text(text, place)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in {"yes", "true", "on", "no", "false", "off"}:
            return text.lower() in {"yes", "true", "on"}
        if kind in {"int", "float"}:
            try:
                return Number(text, int(text) if kind == "int" else Decimal(text))
            except (ValueError, InvalidOperation):
                self._findings.refuse(place, "is not a number that can be read")
                return Unresolved()
        self._findings.refuse(place, "has a YAML tag that is not accepted here")
        return Unresolved()

    def _text(self, text: str, place: str) -> Value:
        if not _is_storable(text):
            self._findings.refuse(place, "holds a NUL or half a character, which no database takes")
            return Unresolved()
        return text


def _endless(place: str) -> ConfigInvalid:
    shown = place if len(place) <= 80 else f"{place[:80]}…"
    return ConfigInvalid(shown, "is nested too deeply, or its aliases never end")


def _is_storable(text: str) -> bool:
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


@dataclass(frozen=True, slots=True)
class _Section:
    """A top-level value. A list's items keep their own places: they may come from several files."""

    place: str
    value: Value
    items: tuple[tuple[str, Value], ...] = ()


def _read_sections(path: Path, environ: Mapping[str, str], findings: _Findings) -> dict[str, _Section]:
    """The top level of the file and of those that it includes: lists add up, other values are overwritten."""
    reader = _NodeReader(findings)
    sections: dict[str, _Section] = {}
    _add_file(sections, path, "", reader, findings)
    included = sections.pop("include", None)
    if included is None:
        return sections
    if included.value is not None and not isinstance(included.value, list):
        findings.refuse("include", "must be a list of files")
    environment = _Environment(environ, None, findings)
    for place, item in included.items:
        name = environment.resolve(item, place)
        if isinstance(name, Unresolved):
            continue
        if not isinstance(name, str) or not name:
            findings.refuse(place, "must be the path of a file")
            continue
        more: dict[str, _Section] = {}
        try:
            _add_file(more, path.parent / name, f"{name}: ", reader, findings)
        except ConfigInvalid as error:
            findings.problems.extend(error.problems)
            continue
        if "include" in more:
            findings.refuse(more.pop("include").place, "a file that is included cannot include others")
        findings.honour(place)
        for key, section in more.items():
            before = sections.get(key)
            if before is not None and isinstance(before.value, list) and isinstance(section.value, list):
                sections[key] = _Section(before.place, [], before.items + section.items)
                continue
            if before is not None and before.value is not None:
                findings.ignore(before.place, f"overwritten by {name}, which is included")
            sections[key] = section
    return sections


def _add_file(sections: dict[str, _Section], path: Path, prefix: str, reader: _NodeReader, findings: _Findings) -> None:
    node = _compose(path, prefix.removesuffix(": ") or path.name)
    assert isinstance(node, yaml.MappingNode)
    for key, value in reader.mapping(node, prefix).items():
        place = prefix + key
        items: tuple[tuple[str, Value], ...] = ()
        if isinstance(value, list):
            items = tuple((f"{place}[{i}]", item) for i, item in enumerate(value))
        sections[key] = _Section(place, value, items)


class _Environment:
    """What `os.environ/NAME` stands for: the process environment, under the file's environment_variables."""

    def __init__(self, environ: Mapping[str, str], block: _Section | None, findings: _Findings) -> None:
        self._environ = environ
        self._findings = findings
        self._own: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self._used: set[str] = set()
        if block is None or block.value is None:
            return
        if not isinstance(block.value, dict):
            findings.refuse(block.place, "must be a mapping of names to values")
            return
        own: dict[str, str] = {}
        for name, written in block.value.items():
            place = f"{block.place}.{name}"
            value = self.resolve(written, place)
            if isinstance(value, bool):
                value = str(value).lower()
            if isinstance(value, Number):
                value = value.text
            if isinstance(value, str):
                own[name] = value
                self._places[name] = place
            elif isinstance(value, list | dict):
                findings.refuse(place, "must be a text or a number")
            elif value is None:
                findings.ignore(place, "is empty")
        self._own = own
        self._used.clear()

    def get(self, name: str) -> str | None:
        self._used.add(name)
        return self._own.get(name, self._environ.get(name))

    def resolve(self, value: Value, place: str) -> Value:
        if isinstance(value, dict):
            return {key: self.resolve(item, f"{place}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, f"{place}[{i}]") for i, item in enumerate(value)]
        if not isinstance(value, str) or not value.startswith(ENVIRONMENT_PREFIX):
            return value
        name = value.removeprefix(ENVIRONMENT_PREFIX).strip()
        text = self.get(name)
        if text is None:
            self._findings.refuse(place, f"the environment variable {name or '(no name)'} is not set")
            return Unresolved()
        if not text.strip():
            self._findings.refuse(place, f"the environment variable {name} is empty")
            return Unresolved()
        if not _is_storable(text):
            self._findings.refuse(place, f"the environment variable {name} is not UTF-8 text")
            return Unresolved()
        return FromEnvironment(text)

    def report_unused(self) -> None:
        for name, place in self._places.items():
            if name in self._used:
                self._findings.honour(place)
            else:
                self._findings.ignore(place, "nothing in this file refers to it, and the server does not read it")


# What LiteLLM knows and this version does not


@dataclass(frozen=True, slots=True)
class _Gap:
    reason: str
    kind: Kind = Kind.UNSUPPORTED
    is_warning: bool = False


def _gaps(rows: Mapping[_Gap, str]) -> dict[str, _Gap]:
    return {name: gap for gap, names in rows.items() for name in names.split()}


def _loosens(reason: str) -> _Gap:
    return _Gap(reason, is_warning=True)


def _harmless(reason: str) -> _Gap:
    return _Gap(reason, Kind.IGNORED)


_LATER = _Gap("not in this version")
_UNKNOWN = _harmless("unknown key")
_NO_LIMITS = _loosens("this version does not enforce limits")
_NO_BUDGETS = _loosens("this version does not enforce budgets")
_NO_ACCESS_RULE = _loosens("this version does not apply this rule, so more is allowed than the file says")
_NO_PRICE = _loosens("this price is not applied: only plain prices per token are")
_NO_RETRY = _Gap("this version does not retry or fall back")
_NO_CLOUD = _Gap("belongs to a provider that this version does not have")
_NO_CACHE = _Gap("this version caches no answers")
_NO_CALLBACK = _Gap("this version sends no copies of calls elsewhere")
_NO_CHECKS = _Gap("this version does not check upstreams in the background")
_UNCHANGED = _Gap("requests reach the upstream unchanged in this version")
_VERIFIED = _Gap("certificates of upstreams are always verified")
_PER_CALL = _Gap("is decided by each call")
_PROCESS = _harmless("is read from the environment of the server, see docs/settings.md")

_RETRY_NAMES = """
    fallbacks default_fallbacks context_window_fallbacks content_policy_fallbacks max_fallbacks max_retries
    num_retries retry_policy retry_after cooldown_time allowed_fails allowed_fails_policy disable_cooldowns
"""
#: Keys of litellm_params that mean something to LiteLLM itself, and so must never reach an upstream's body.
_PARAMS = _gaps(
    {
        _NO_LIMITS: """max_parallel_requests itpm otpm default_api_key_tpm_limit default_api_key_rpm_limit
            max_file_size_mb""",
        _NO_BUDGETS: "max_budget budget_duration",
        _NO_ACCESS_RULE: "tags tag_regex guardrails allowed_model_region",
        _NO_PRICE: "tiered_pricing base_model",
        _NO_RETRY: f"""{_RETRY_NAMES} context_window_fallback_dict fallback_depth retry_strategy
            fastest_response""",
        _Gap("use timeout and stream_timeout"): "request_timeout force_timeout",
        _UNCHANGED: """drop_params additional_drop_params allowed_openai_params modify_params roles bos_token
            eos_token merge_reasoning_content_in_choices supports_system_message ensure_alternating_roles
            hf_model_name user_continue_message assistant_continue_message initial_prompt_value
            final_prompt_value custom_prompt_dict cache_control_injection_points use_chat_completions_api
            disable_add_transform_inline_image_block prompt_id prompt_variables prompt_label prompt_version
            text_completion""",
        _Gap("this version has no canned answers"): "mock_response mock_timeout mock_tool_calls",
        _Gap("credential_list is not in this version; write api_key here"): "litellm_credential_name",
        _NO_CLOUD: """api_version api_type azure tenant_id client_id client_secret region_name bucket_name
            index_name deployment_id vector_bucket_name embedding_model vector_store_id vector_store_ids
            knowledge_bases search_tool_name use_xai_oauth""",
        _harmless("a client never chooses an upstream's address or credential"): """use_in_pass_through
            configurable_clientside_auth_params""",
        _VERIFIED: "ssl_verify ssl_certificate ssl_security_level",
        _Gap("write extra_headers"): "headers default_headers provider_specific_header",
        _NO_CACHE: "cache caching caching_groups cache_key preset_cache_key ttl",
        _LATER: """model_info model_list model_config metadata id client shared_session use_client
            custom_tokenizer keepalive_seconds allow_client_keepalive_override provider_affinity_header
            use_litellm_proxy model_file_id_mapping secret_fields no-log no_log verbose logger_fn
            turn_off_message_logging proxy_server_request complete_response acompletion atext_completion
            aimg_generation self""",
        _PER_CALL: "messages prompt input stream stream_options",
    }
)
_PARAM_PREFIXES = {
    _NO_CLOUD: ("aws_", "azure_", "vertex_", "gcs_", "s3_", "watsonx_", "bedrock_", "milvus_", "valkey_"),
    _NO_CALLBACK: ("langfuse_", "langsmith_", "arize_", "posthog_", "humanloop_"),
    _LATER: ("litellm_", "auto_router_", "complexity_router_", "adaptive_router_", "quality_router_"),
}
_ROUTING = _gaps(
    {
        _NO_RETRY: f"{_RETRY_NAMES} model_group_retry_policy",
        _Gap("set it in litellm_params, or TOLLGATE_TIMEOUT_S"): "timeout stream_timeout request_timeout",
        _NO_CACHE: "cache cache_params cache_responses caching_groups cache_kwargs client_ttl",
        _Gap("write a second item in model_list instead"): "model_group_alias model_alias_map",
        _PROCESS: "redis_host redis_port redis_password redis_url redis_db",
        _harmless("changes only what LiteLLM prints"): "set_verbose debug_level suppress_debug_info",
    }
)
_SETTINGS = {
    "router_settings": _ROUTING
    | _gaps(
        {
            _loosens("calls are shared by weight only (simple-shuffle)"): "routing_strategy",
            _Gap("calls are shared by weight only"): """routing_strategy_args routing_groups weights
                deployment_affinity_ttl_seconds enable_health_check_routing enable_weighted_failover
                model_group_affinity_config""",
            _NO_ACCESS_RULE: """optional_pre_call_checks enable_tag_filtering tag_filtering_match_any
                tag_routing_prefix""",
            _Gap("this version does not look at context windows"): "enable_pre_call_checks",
            _NO_BUDGETS: "provider_budget_config",
            _NO_LIMITS: "default_max_parallel_requests",
            _LATER: "default_litellm_params alerting_config",
        }
    ),
    "litellm_settings": _ROUTING
    | _gaps(
        {
            _NO_BUDGETS: """max_budget budget_duration max_internal_user_budget internal_user_budget_duration
                max_end_user_budget max_end_user_budget_id budget_exceeded_status_code""",
            _NO_ACCESS_RULE: """default_key_generate_params upperbound_key_generate_params
                key_generation_settings default_team_settings default_team_params default_internal_user_params
                guardrails banned_keywords_list blocked_user_list""",
            _loosens("costs are not changed by it"): "cost_discount_config cost_margin_config",
            _UNCHANGED: "drop_params modify_params additional_drop_params",
            _NO_CALLBACK: "success_callback failure_callback callbacks service_callbacks",
            _harmless("messages are never logged"): """turn_off_message_logging redact_user_api_key_info
                redact_messages_in_exceptions""",
            _harmless("logs are always JSON"): "json_logs",
            _harmless("nothing is ever sent home"): "telemetry",
            _VERIFIED: "ssl_verify ssl_certificate",
            _LATER: """enable_redis_auth_cache custom_provider_map prompts enable_json_schema_validation
                public_routes require_auth_for_metrics_endpoint""",
        }
    ),
    "general_settings": _gaps(
        {
            _PROCESS: "database_url database_connection_pool_limit database_connection_timeout database_type",
            _harmless("deployments made in the console are always stored"): "store_model_in_db",
            _harmless("messages are never stored"): "store_prompts_in_spend_logs",
            _harmless("every call has a spend row"): "disable_spend_logs disable_error_logs",
            _loosens("spend rows are kept until they are deleted"): """maximum_spend_logs_retention_period
                maximum_spend_logs_retention_interval""",
            _NO_LIMITS: """max_parallel_requests global_max_parallel_requests token_rate_limit_type
                fail_closed_rate_limit_enforcement""",
            _NO_BUDGETS: "apply_user_budget_to_team_keys disable_budget_reservation disable_reset_budget",
            _harmless("see TOLLGATE_MAX_BODY_BYTES and TOLLGATE_MAX_UPSTREAM_BYTES"): """max_request_size_mb
                max_response_size_mb""",
            _NO_CHECKS: """background_health_checks health_check_interval health_check_details
                enable_health_check_routing use_shared_health_check""",
            _Gap("this version sends no alerts"): """alerting alerting_threshold alert_types alerting_args
                alert_to_webhook_url spend_report_frequency""",
            _NO_ACCESS_RULE: """enforce_user_param reject_clientside_metadata_tags allowed_ips allowed_routes
                admin_only_routes custom_auth enable_jwt_auth litellm_jwtauth enable_oauth2_auth
                enable_oauth2_proxy_auth role_permissions enforce_rbac custom_key_generate""",
            _Gap("secrets come from the environment or from files"): """key_management_system
                key_management_settings use_google_kms use_azure_key_vault""",
            _harmless("see TOLLGATE_DB_OUTAGE_GRACE_S"): "allow_requests_on_db_unavailable",
            _harmless("is always so"): "enforce_fallback_model_access cancel_on_disconnect",
            _harmless("has no meaning here"): """proxy_batch_write_at proxy_budget_rescheduler_min_time
                proxy_budget_rescheduler_max_time proxy_config_reload_interval_seconds infer_model_from_keys
                completion_model dangerously_permit_weak_or_unset_master_key""",
            _LATER: """litellm_key_header_name user_header_name user_header_mappings forward_openai_org_id
                forward_client_headers_to_llm_api pass_through_endpoints public_routes coordination_redis
                ui_access_mode disable_responses_id_security allow_unmanaged_response_ids""",
        }
    ),
}
_TOP_LEVEL = _gaps(
    {
        _Gap("not in this version; write api_key in litellm_params"): "credential_list",
        _NO_ACCESS_RULE: "guardrails policies policy_attachments",
        _LATER: """mcp_servers mcp_tools mcp_aliases callback_settings worker_registry vector_store_registry
            search_tools finetune_settings files_settings assistant_settings prompts agents""",
    }
)
#: model_info is kept whole; these keys of it decide something in LiteLLM.
_INFO = _gaps(
    {
        _NO_ACCESS_RULE: """team_id team_public_model_name access_groups access_windows supported_environments
            enable_tag_filtering""",
        _NO_CHECKS: "health_check_model health_check_timeout",
        _NO_PRICE: "base_model ptu_count tiered_pricing",
    }
)


def _report_gap(findings: _Findings, place: str, value: object, gap: _Gap | None) -> None:
    gap = gap or _UNKNOWN
    if value is None:
        findings.honour(place, "is empty, as if it were not there")
    else:
        findings.reports.append(Report(place, gap.kind, gap.reason, gap.is_warning and value is not False))


def _gap_of_param(name: str) -> _Gap | None:
    if name in _PARAMS:
        return _PARAMS[name]
    if _names_a_price(name):
        return _NO_PRICE
    return next((gap for gap, prefixes in _PARAM_PREFIXES.items() if name.startswith(prefixes)), None)


def _names_a_price(name: str) -> bool:
    return bool(re.search(r"(?:^|_)cost(?:_|$)", name))


def _report_settings(name: str, section: _Section, findings: _Findings) -> dict[str, Value]:
    """Reports each key of a settings section; answers with the section."""
    if section.value is None or isinstance(section.value, Unresolved):
        return {}
    if not isinstance(section.value, dict):
        findings.refuse(section.place, "must be a mapping")
        return {}
    for key, value in section.value.items():
        place = f"{section.place}.{key}"
        if key == "routing_strategy" and value == "simple-shuffle":
            findings.honour(place, "calls are shared by weight")
        elif (name, key) != ("general_settings", "master_key"):
            _report_gap(findings, place, value, _SETTINGS[name].get(key))
    return section.value


def _read_general_settings(section: _Section, findings: _Findings) -> Secret | None:
    settings = _report_settings("general_settings", section, findings)
    if "master_key" not in settings:
        return None
    place = f"{section.place}.master_key"
    key = _read_text(settings["master_key"], place, findings)
    if not key:
        if key == "" or settings["master_key"] is None:
            findings.honour(place, "is empty, as if it were not there")
        return None
    is_example = key == "sk-1234"
    findings.honour(
        place, "is the example of every tutorial: choose another" if is_example else "", is_warning=is_example
    )
    return Secret(key)


# model_list


_COSTS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write_5m",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
}
#: The names that LiteLLM serves without a prefix, and whose they are.
_BARE_NAMES = re.compile(r"(?:ft:)?(?:gpt-|chatgpt-|text-embedding-|o[134](?:-|$))")
_BARE_PROVIDER = "openai"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|password|credential|signature", re.IGNORECASE)
_SECRET_FIELD = re.compile(
    r"(?:.*[_-])?(?:api_?key|access_?token|auth_?token|bearer_?token|secret|password|authorization)",
    re.IGNORECASE,
)
_FRAMING_HEADERS = {
    *("host", "connection", "keep-alive", "upgrade", "te", "trailer", "expect"),
    *("content-length", "content-type", "transfer-encoding", "accept-encoding", "content-encoding"),
}


@dataclass(slots=True)
class _Draft:
    """An item of model_list before it is known which siblings it has."""

    place: str
    given_id: str | None
    written_base: str
    entry: dict[str, Any] = field(repr=False)
    weight: float | None = None
    order: int | None = None


def _read_models(section: _Section, environment: _Environment, findings: _Findings) -> tuple[DeploymentEntry, ...]:
    if section.value is not None and not isinstance(section.value, list | Unresolved):
        findings.refuse(section.place, "must be a list")
    drafts = []
    for place, item in section.items:
        if isinstance(item, dict):
            draft = _read_model(place, item, environment, findings)
            if draft is not None:
                drafts.append(draft)
        elif not isinstance(item, Unresolved):
            findings.refuse(place, "must be a mapping with model_name and litellm_params")
    _share_group(drafts, findings)
    return _identify(drafts, findings)


def _read_model(place: str, item: dict[str, Value], environment: _Environment, findings: _Findings) -> _Draft | None:
    """None where a problem was found, or where the item is not to be served."""
    fields = _Fields(place, item, findings)
    model_group = fields.text("model_name", longest=MAX_NAME_CHARS, required=True)
    if model_group is not None and "*" in model_group:
        findings.refuse(f"{place}.model_name", "wildcards are not supported in this version")
    has_params = isinstance(fields.left.get("litellm_params"), dict)
    params = fields.mapping("litellm_params", required=True)
    info = fields.mapping("model_info")
    for name, value in fields.left.items():
        is_misplaced = name in {"rpm", "tpm", "weight", "order"}
        gap = _harmless("belongs under litellm_params") if is_misplaced else _UNKNOWN
        _report_gap(findings, f"{place}.{name}", value, gap)
    if not has_params:
        return None

    named = _read_provider(params)
    entry: dict[str, Any] = {"model_group": model_group}
    written_base = ""
    credential: dict[str, Secret] = {}
    if named is not None:
        prefix, provider, entry["upstream_model"] = named
        entry["provider"] = provider.name
        written_base, entry["api_base"] = _read_address(params, provider)
        is_own_address = entry["api_base"] == provider.default_api_base.rstrip("/")
        credential |= _read_api_key(params, provider, prefix, environment, is_own_address=is_own_address)
    else:
        params.drop("api_base", "base_url", "api_key")
    entry["rpm"] = params.count("rpm", reason="kept, but not enforced as a limit in this version")
    entry["tpm"] = params.count("tpm", reason="kept, but not enforced as a limit in this version")
    weight = params.number("weight", zero=True)
    order = params.count("order", at_least=-MAX_COUNT)
    entry["timeout_s"] = params.number("timeout", zero=False)
    entry["stream_timeout_s"] = params.number("stream_timeout", zero=False)
    entry["price_lines"] = _read_prices(params, info)
    parameters = _read_parameters(params, credential)

    given_id = info.text("id", longest=MAX_NAME_CHARS)
    is_blocked = info.flag("blocked", reason="the deployment is not served")
    model_info = {
        name: plain
        for name, value in info.left.items()
        if (plain := _plain(value, f"{info.place}.{name}", findings)) is not None
    }
    for name, value in info.left.items():
        if name in _INFO or _names_a_price(name):
            _report_gap(findings, f"{info.place}.{name}", value, _INFO.get(name, _NO_PRICE))
        else:
            findings.honour(f"{info.place}.{name}", "kept with the deployment")
    entry |= {"credential": credential, "parameters": parameters, "model_info": model_info}
    if is_blocked or any(problem.place.startswith(f"{place}.") for problem in findings.problems):
        return None
    return _Draft(place, given_id, written_base, entry, weight, order)


def _read_provider(params: "_Fields") -> tuple[str, Provider, str] | None:
    """(prefix as written, provider, the model's name at the upstream)."""
    model = params.text("model", longest=MAX_NAME_CHARS, required=True)
    chosen = params.text("custom_llm_provider")
    if model is None:
        return None
    place = f"{params.place}.model"
    if "*" in model:
        params.findings.refuse(place, "wildcards are not supported in this version")
        return None
    known = f"known: {', '.join(sorted(PREFIXES))}"
    before, slash, after = model.partition("/")
    if chosen is not None:
        prefix, name = chosen, after if slash and before == chosen else model
        place = f"{params.place}.custom_llm_provider"
    elif slash:
        prefix, name = before, after
    elif _BARE_NAMES.match(model):
        prefix, name = _BARE_PROVIDER, model
    else:
        params.findings.refuse(place, f"names no provider: write `provider/name`; {known}")
        return None
    provider = PREFIXES.get(prefix)
    if provider is None:
        params.findings.refuse(place, f"the provider {prefix!r} is unknown; {known}")
        return None
    if prefix == _BARE_PROVIDER:
        # LiteLLM's way of forcing an endpoint; a call always goes out by the endpoint that it came in by.
        if name.startswith("responses/"):
            params.findings.refuse(place, "the endpoint `responses` is not supported in this version")
            return None
        name = name.removeprefix("chat_completions/")
    if not name:
        params.findings.refuse(place, "names no model: write `provider/name`")
        return None
    return provider.name, provider, name


def _read_address(params: "_Fields", provider: Provider) -> tuple[str, str]:
    """(the address as written, for the id; the address that is called)."""
    findings = params.findings
    names = [name for name in ("api_base", "base_url") if params.left.get(name) not in (None, "")]
    name = names[0] if names else "api_base"
    if len(names) == 2:
        findings.refuse(f"{params.place}.base_url", "api_base is given too, and means the same")
    given = params.left.get(name)
    place = f"{params.place}.{name}"
    written = params.text(name, longest=MAX_ADDRESS_CHARS, reason=None)
    params.drop("api_base", "base_url")
    if written is None:
        address = provider.default_api_base.rstrip("/")
        if address and given in (None, ""):
            findings.honour(place, f"not given: {address} is where {provider.title} usually answers")
        elif provider.needs_api_base and given in (None, ""):
            findings.refuse(place, f"is needed: the address of {provider.title} cannot be guessed")
        return "", address
    written = written.rstrip("/")
    wrong = _address_problem(written)
    if wrong:
        findings.refuse(place, wrong)
        return "", ""
    home = urlsplit(provider.default_api_base).path.rstrip("/")
    if home and not provider.needs_api_key and not urlsplit(written).path:
        # LiteLLM is given Ollama's root. A server of a known kind answers under the path of its usual
        # address; what stands behind an address of the general kind is not known, so that stays as it is.
        findings.honour(place, f"{home} added, where {provider.title} answers")
        return written, written + home
    findings.honour(place)
    return written, written


def _address_problem(address: str) -> str:
    if " " in address:
        return "holds a space"
    try:
        parts = urlsplit(address)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        has_host = False
    if not has_host or parts.scheme not in {"http", "https"}:
        return "must be an address that begins with http:// or https://"
    if "@" in parts.netloc:
        return "must not hold a user or a password; use api_key or extra_headers"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment; the path of the call is put after it"
    return ""


def _read_api_key(
    params: "_Fields", provider: Provider, prefix: str, environment: _Environment, *, is_own_address: bool
) -> dict[str, Secret]:
    findings, place = params.findings, f"{params.place}.api_key"
    given = params.left.get("api_key")
    is_given = bool(given.strip()) if isinstance(given, str) else given is not None
    text = params.text("api_key", reason="kept sealed")
    if text is None and provider.needs_api_key and is_own_address and not is_given:
        # As LiteLLM does, but only for the provider's own address: another host must not be sent its key.
        variable = f"{re.sub('[^A-Z0-9]', '_', prefix.upper())}_API_KEY"
        text = (environment.get(variable) or "").strip()
        if text.isprintable() and text:
            findings.honour(place, f"taken from the environment variable {variable}")
        else:
            findings.refuse(place, f"is needed, here or in the environment variable {variable}")
    return {"api_key": Secret(text)} if text else {}


def _read_prices(params: "_Fields", info: "_Fields") -> dict[str, str]:
    lines: dict[str, str] = {}
    for name, line in _COSTS.items():
        own, told = params.price(name), info.price(name, outranked=params.left_as_given(name))
        price = own if own is not None else told
        if price is not None:
            lines[line] = price
    return lines


def _read_parameters(params: "_Fields", credential: dict[str, Secret]) -> dict[str, Any]:
    """Whatever goes along with each upstream request. Headers that hold a credential go into `credential`."""
    findings = params.findings
    parameters: dict[str, Any] = {}
    headers: dict[str, str] = {}
    organization = params.text("organization")
    given = params.mapping("extra_headers")
    names = Counter(name.lower() for name in given.left)
    for name in list(given.left):
        if names[name.lower()] > 1:
            findings.refuse(f"{given.place}.{name}", "is given twice: in the name of a header case does not count")
        else:
            _read_header(name, given, headers, credential)
    if organization is not None and "openai-organization" not in names:
        headers["OpenAI-Organization"] = organization
    if headers:
        parameters["extra_headers"] = headers
    body = params.mapping("extra_body")
    extra_body: dict[str, Any] = {}
    for name, value in body.left.items():
        place = f"{body.place}.{name}"
        if name == "model" or _PARAMS.get(name) is _PER_CALL:
            findings.refuse(place, _PER_CALL.reason)
        else:
            extra_body[name] = _body_field(name, value, place, findings)
    if extra_body:
        parameters["extra_body"] = extra_body
    for name, value in params.left.items():
        place = f"{params.place}.{name}"
        gap = _gap_of_param(name)
        if gap is not None or value is None:
            _report_gap(findings, place, value, gap)
        else:
            parameters[name] = _body_field(name, value, place, findings)
    return parameters


def _read_header(name: str, given: "_Fields", headers: dict[str, str], credential: dict[str, Secret]) -> None:
    place = f"{given.place}.{name}"
    raw = given.left[name]
    if isinstance(raw, str) and re.search(r"[\r\n\0]", raw):
        given.findings.refuse(place, "a header must not hold a line break or a NUL")
        return
    is_secret = bool(_SECRET_HEADER.search(name)) or isinstance(raw, FromEnvironment)
    text = given.text(name, reason=f"sent with each upstream request{', and kept sealed' if is_secret else ''}")
    if not _HEADER_NAME.fullmatch(name):
        given.findings.refuse(place, "is not a name that a header can have")
    elif name.lower() in _FRAMING_HEADERS:
        given.findings.refuse(place, "this header is set by the gateway")
    elif text is not None and is_secret:
        credential[HEADER_PREFIX + name] = Secret(text)
    elif text is not None:
        headers[name] = text


def _body_field(name: str, value: Value, place: str, findings: _Findings) -> Any:
    if _names_a_secret(name, value):
        findings.refuse(place, "a credential in the body cannot be kept sealed; use api_key or extra_headers")
        return None
    is_unsealed = _holds_environment(value)
    findings.honour(
        place,
        f"sent in the body of each upstream request{', and kept unsealed' if is_unsealed else ''}",
        is_warning=is_unsealed,
    )
    return _plain(value, place, findings)


def _names_a_secret(name: str, value: Value) -> bool:
    if isinstance(value, dict):
        return any(_names_a_secret(inner, item) for inner, item in value.items())
    if isinstance(value, list):
        return any(_names_a_secret(name, item) for item in value)
    return bool(_SECRET_FIELD.fullmatch(name))


def _holds_environment(value: Value) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_environment, value.values()))
    if isinstance(value, list):
        return any(map(_holds_environment, value))
    return isinstance(value, FromEnvironment)


def _share_group(drafts: list[_Draft], findings: _Findings) -> None:
    """Weight and order of the siblings of a model group, as LiteLLM's simple-shuffle takes them."""
    groups: dict[str, list[_Draft]] = {}
    for draft in drafts:
        groups.setdefault(draft.entry["model_group"], []).append(draft)
    for siblings in groups.values():
        source = None
        if len(siblings) > 1 and all(draft.weight is None for draft in siblings):
            named_by_all = (key for key in ("rpm", "tpm") if all(draft.entry[key] for draft in siblings))
            source = next(named_by_all, None)
        orders = [draft.order for draft in siblings if draft.order is not None]
        for draft in siblings:
            weight = 1.0 if draft.weight is None else draft.weight
            if source is not None:
                weight = float(draft.entry[source])
                findings.honour(f"{draft.place}.litellm_params.weight", f"not given: {source} is the weight")
            # One without an order is tried after those that have one.
            order = draft.order if draft.order is not None else min(max(orders, default=-1) + 1, MAX_COUNT)
            draft.entry |= {"weight": weight, "order": order}


def _identify(drafts: Iterable[_Draft], findings: _Findings) -> tuple[DeploymentEntry, ...]:
    """Gives each its id: model_info.id, or one that a changed credential does not change."""
    places: dict[str, str] = {}
    seen: Counter[tuple[str, ...]] = Counter()
    entries = []
    for draft in drafts:
        deployment_id = draft.given_id
        if deployment_id is None:
            told = (
                draft.entry["model_group"],
                draft.entry["provider"],
                draft.entry["upstream_model"],
                draft.written_base,
            )
            text = json.dumps([*told, seen[told]], ensure_ascii=False)
            seen[told] += 1
            deployment_id = f"config-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
        if deployment_id in places:
            findings.refuse(f"{draft.place}.model_info.id", f"is the id of {places[deployment_id]} too")
            continue
        places[deployment_id] = draft.place
        entries.append(DeploymentEntry(place=draft.place, id=deployment_id, **draft.entry))
    return tuple(entries)


class _Fields:
    """A mapping that is read key by key. What is taken is reported; what is `left` the caller reports."""

    def __init__(self, place: str, values: dict[str, Value], findings: _Findings) -> None:
        self.place = place
        self.findings = findings
        self.left = dict(values)
        self._given = values

    def drop(self, *names: str) -> None:
        for name in names:
            self.left.pop(name, None)

    def left_as_given(self, name: str) -> bool:
        return self._given.get(name) is not None

    def mapping(self, name: str, *, required: bool = False) -> "_Fields":
        place = f"{self.place}.{name}"
        value = self.left.pop(name, None)
        if value is None and required:
            self.findings.refuse(place, "is missing")
        elif not isinstance(value, dict | None | Unresolved):
            self.findings.refuse(place, "must be a mapping")
        return _Fields(place, value if isinstance(value, dict) else {}, self.findings)

    def text(self, name: str, *, longest: int = 65_536, required: bool = False, reason: str | None = "") -> str | None:
        """The text without the space around it. A `reason` of None leaves the report to the caller."""
        place = f"{self.place}.{name}"
        is_given = name in self.left
        value = self.left.pop(name, None)
        if value is None or (isinstance(value, str) and not value.strip()):
            if required:
                self.findings.refuse(place, "is missing")
            elif is_given and reason is not None:
                self.findings.honour(place, "is empty, as if it were not there")
            return None
        text = _read_text(value, place, self.findings)
        if text is None:
            return None
        if len(text) > longest:
            self.findings.refuse(place, f"is longer than {longest} characters")
            return None
        if not text.isprintable():
            self.findings.refuse(place, "holds a line break or a control character")
            return None
        if reason is not None:
            self.findings.honour(place, reason)
        return text

    def flag(self, name: str, *, reason: str) -> bool:
        value = self.left.pop(name, None)
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower(), value)
        if isinstance(value, bool):
            self.findings.honour(f"{self.place}.{name}", reason if value else "")
            return value
        if value is not None and not isinstance(value, Unresolved):
            self.findings.refuse(f"{self.place}.{name}", "must be true or false")
        return False

    def count(self, name: str, *, at_least: int = 0, reason: str = "") -> int | None:
        place = f"{self.place}.{name}"
        amount = self._decimal(name)
        if amount is None:
            return None
        if not amount.is_finite() or not at_least <= amount <= MAX_COUNT or amount != int(amount):
            self.findings.refuse(place, f"must be a whole number from {at_least} to {MAX_COUNT}")
            return None
        self.findings.honour(place, reason)
        return int(amount)

    def number(self, name: str, *, zero: bool) -> float | None:
        place = f"{self.place}.{name}"
        amount = self._decimal(name)
        if amount is None:
            return None
        if not amount.is_finite() or not 0 <= amount <= MAX_COUNT or (amount == 0 and not zero):
            self.findings.refuse(place, f"must be a number {'from' if zero else 'above'} 0 and up to {MAX_COUNT}")
            return None
        self.findings.honour(place)
        return float(amount)

    def price(self, name: str, *, outranked: bool = False) -> str | None:
        """USD per token as exact decimal text: `6e-7` is `0.0000006`."""
        place = f"{self.place}.{name}"
        amount = self._decimal(name)
        if amount is None:
            return None
        if not amount.is_finite() or not 0 <= amount <= 1:
            self.findings.refuse(place, "must be a number from 0 to 1, in USD per token")
            return None
        exponent = amount.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -MAX_PRICE_DECIMALS:
            self.findings.refuse(place, f"has more than {MAX_PRICE_DECIMALS} decimals")
            return None
        if outranked:
            self.findings.ignore(place, "litellm_params gives this price too, and wins")
        else:
            self.findings.honour(place)
        return f"{abs(amount):f}"

    def _decimal(self, name: str) -> Decimal | None:
        place = f"{self.place}.{name}"
        is_given = name in self.left
        value = self.left.pop(name, None)
        if isinstance(value, Unresolved):
            return None
        if value is None or value == "":
            if is_given:
                self.findings.honour(place, "is empty, as if it were not there")
            return None
        if isinstance(value, Number):
            return Decimal(value.value)
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            return Decimal(value.strip())
        self.findings.refuse(place, "must be a number")
        return None


def _read_text(value: Value, place: str, findings: _Findings) -> str | None:
    if isinstance(value, Number):
        return value.text
    if isinstance(value, str):
        return str.strip(value)
    if isinstance(value, bool):
        findings.refuse(place, "must be text; YAML took it for true or false, so put it in quotes")
    elif isinstance(value, list | dict):
        findings.refuse(place, "must be text")
    return None


def _plain(value: Value, place: str, findings: _Findings) -> Any:
    """As JSON keeps it. Numbers become floats here, and only here: no price comes this way."""
    if isinstance(value, dict):
        return {name: _plain(item, f"{place}.{name}", findings) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, f"{place}[{i}]", findings) for i, item in enumerate(value)]
    if isinstance(value, Number):
        number = value.value if isinstance(value.value, int) else float(value.value)
        if not math.isfinite(number) if isinstance(number, float) else not -(2**63) <= number < 2**63:
            findings.refuse(place, "is too large a number")
        return number
    if isinstance(value, str):
        return str(value)
    return None if isinstance(value, Unresolved) else value
