"""The keys of LiteLLM's config.yaml that this version does not honour, with the reasons."""

import re
from dataclasses import dataclass

from gateway.config.report import Findings, Kind, Report


@dataclass(frozen=True, slots=True)
class Gap:
    reason: str
    kind: Kind = Kind.UNSUPPORTED
    is_warning: bool = False


def _loosens(reason: str) -> Gap:
    return Gap(reason, is_warning=True)


def harmless(reason: str) -> Gap:
    return Gap(reason, Kind.IGNORED)


_LATER = Gap("not in this version")
UNKNOWN = harmless("unknown key")
_NO_LIMITS = _loosens("this version does not enforce limits")
_NO_BUDGETS = _loosens("this version does not enforce budgets")
_NO_ACCESS_RULE = _loosens("this version does not apply this rule, so more is allowed than the file says")
_NO_PRICE = _loosens("this price is not applied: it has no counterpart, see docs/prices.md")
_NO_RETRY = Gap("this version does not retry or fall back")
_NO_CLOUD = Gap("belongs to a provider that this version does not have")
_NO_CACHE = Gap("this version caches no answers")
_NO_CALLBACK = Gap("this version sends no copies of calls elsewhere")
_UNCHANGED = Gap("requests reach the upstream unchanged in this version")
_VERIFIED = Gap("certificates of upstreams are always verified")
PER_CALL = Gap("is decided by each call")
_PROCESS = harmless("is read from the environment of the server, see docs/settings.md")

_RETRY_NAMES = """
    fallbacks default_fallbacks context_window_fallbacks content_policy_fallbacks max_fallbacks max_retries
    num_retries retry_policy retry_after cooldown_time allowed_fails allowed_fails_policy disable_cooldowns
"""
_ROWS: dict[str, dict[Gap, str]] = {
    # LiteLLM's own keys, which must never reach the body of an upstream request.
    "litellm_params": {
        _NO_LIMITS: """itpm otpm default_api_key_tpm_limit default_api_key_rpm_limit
            max_file_size_mb""",
        _NO_ACCESS_RULE: "tag_regex guardrails allowed_model_region",
        _NO_PRICE: "tiered_pricing",
        _NO_RETRY: f"{_RETRY_NAMES} context_window_fallback_dict fallback_depth retry_strategy fastest_response",
        Gap("use timeout and stream_timeout"): "request_timeout force_timeout",
        _UNCHANGED: """drop_params additional_drop_params allowed_openai_params modify_params roles bos_token eos_token
            merge_reasoning_content_in_choices supports_system_message ensure_alternating_roles hf_model_name
            user_continue_message assistant_continue_message initial_prompt_value final_prompt_value custom_prompt_dict
            cache_control_injection_points use_chat_completions_api disable_add_transform_inline_image_block prompt_id
            prompt_variables prompt_label prompt_version text_completion""",
        Gap("this version has no canned answers"): "mock_response mock_timeout mock_tool_calls",
        Gap("credential_list is not in this version; write api_key here"): "litellm_credential_name",
        _NO_CLOUD: """api_version api_type azure tenant_id client_id client_secret region_name bucket_name index_name
            deployment_id vector_bucket_name embedding_model vector_store_id vector_store_ids knowledge_bases
            search_tool_name use_xai_oauth""",
        harmless("a client never chooses an upstream's address or credential"): """use_in_pass_through
            configurable_clientside_auth_params""",
        _VERIFIED: "ssl_verify ssl_certificate ssl_security_level",
        Gap("write extra_headers"): "headers default_headers provider_specific_header",
        _NO_CACHE: "cache caching caching_groups cache_key preset_cache_key ttl",
        _LATER: """model_info model_list model_config metadata id client shared_session use_client custom_tokenizer
            keepalive_seconds allow_client_keepalive_override provider_affinity_header use_litellm_proxy
            model_file_id_mapping secret_fields no-log no_log verbose logger_fn turn_off_message_logging
            proxy_server_request complete_response acompletion atext_completion aimg_generation self""",
        PER_CALL: "messages prompt input stream stream_options",
    },
    # Keys of both router_settings and litellm_settings.
    "routing": {
        Gap("set num_retries"): "max_retries retry_after",
        Gap("write timeout"): "request_timeout",
        _NO_CACHE: "cache cache_params cache_responses caching_groups cache_kwargs client_ttl",
        Gap("write model_group_alias"): "model_alias_map",
        _PROCESS: "redis_host redis_port redis_password redis_url redis_db",
        harmless("changes only what LiteLLM prints"): "set_verbose debug_level suppress_debug_info",
    },
    "router_settings": {
        Gap("write model_group_routing_strategy, or nothing"): """routing_groups weights
            deployment_affinity_ttl_seconds enable_health_check_routing enable_weighted_failover
            model_group_affinity_config""",
        _NO_ACCESS_RULE: "optional_pre_call_checks tag_routing_prefix",
        harmless("context windows are always looked at"): "enable_pre_call_checks",
        _NO_BUDGETS: "provider_budget_config",
        _NO_LIMITS: "default_max_parallel_requests",
        _LATER: "default_litellm_params alerting_config",
    },
    "litellm_settings": {
        _NO_BUDGETS: """max_budget budget_duration max_internal_user_budget internal_user_budget_duration
            max_end_user_budget budget_exceeded_status_code""",
        _NO_ACCESS_RULE: """default_key_generate_params upperbound_key_generate_params key_generation_settings
            default_team_settings default_team_params default_internal_user_params guardrails banned_keywords_list
            blocked_user_list""",
        _loosens("costs are not changed by it"): "cost_discount_config cost_margin_config",
        _UNCHANGED: "drop_params modify_params additional_drop_params",
        _NO_CALLBACK: "success_callback failure_callback callbacks service_callbacks",
        harmless("messages are never logged"): """turn_off_message_logging redact_user_api_key_info
            redact_messages_in_exceptions""",
        harmless("logs are always JSON"): "json_logs",
        harmless("the gateway sends no telemetry"): "telemetry",
        _VERIFIED: "ssl_verify ssl_certificate",
        _LATER: """enable_redis_auth_cache custom_provider_map prompts enable_json_schema_validation public_routes""",
        harmless("see TOLLGATE_METRICS_AUTH"): "require_auth_for_metrics_endpoint",
    },
    "general_settings": {
        _PROCESS: "database_url database_connection_pool_limit database_connection_timeout database_type",
        harmless("deployments made in the console are always stored"): "store_model_in_db",
        harmless("messages are never stored"): "store_prompts_in_spend_logs",
        harmless("every call has a spend row"): "disable_spend_logs disable_error_logs",
        _loosens("see TOLLGATE_SPEND_LOG_RETENTION_DAYS"): """maximum_spend_logs_retention_period
            maximum_spend_logs_retention_interval""",
        _NO_LIMITS: """max_parallel_requests global_max_parallel_requests token_rate_limit_type
            fail_closed_rate_limit_enforcement""",
        _NO_BUDGETS: "apply_user_budget_to_team_keys disable_budget_reservation disable_reset_budget",
        harmless("see TOLLGATE_MAX_BODY_BYTES and TOLLGATE_MAX_UPSTREAM_BYTES"): """max_request_size_mb
            max_response_size_mb""",
        harmless("see TOLLGATE_HEALTH_CHECK_INTERVAL_S"): "background_health_checks health_check_interval",
        harmless("is always so"): """enforce_fallback_model_access cancel_on_disconnect enable_health_check_routing
            use_shared_health_check health_check_details""",
        Gap("alerts go to the channels of /api/alert-channels"): """alerting alerting_threshold alert_types
            alerting_args alert_to_webhook_url spend_report_frequency""",
        _NO_ACCESS_RULE: """enforce_user_param reject_clientside_metadata_tags allowed_ips allowed_routes
            admin_only_routes custom_auth enable_jwt_auth litellm_jwtauth enable_oauth2_auth enable_oauth2_proxy_auth
            role_permissions enforce_rbac custom_key_generate""",
        Gap("secrets come from the environment or from files"): """key_management_system key_management_settings
            use_google_kms use_azure_key_vault""",
        harmless("see TOLLGATE_DB_OUTAGE_GRACE_S"): "allow_requests_on_db_unavailable",
        harmless("has no meaning here"): """proxy_batch_write_at proxy_budget_rescheduler_min_time
            proxy_budget_rescheduler_max_time proxy_config_reload_interval_seconds infer_model_from_keys
            completion_model dangerously_permit_weak_or_unset_master_key""",
        _LATER: """litellm_key_header_name user_header_name user_header_mappings forward_openai_org_id
            forward_client_headers_to_llm_api pass_through_endpoints public_routes coordination_redis ui_access_mode
            disable_responses_id_security allow_unmanaged_response_ids""",
    },
    "top_level": {
        Gap("not in this version; write api_key in litellm_params"): "credential_list",
        _NO_ACCESS_RULE: "guardrails policies policy_attachments",
        _LATER: """mcp_servers mcp_tools mcp_aliases callback_settings worker_registry vector_store_registry
            search_tools finetune_settings files_settings assistant_settings prompts agents""",
    },
    # model_info is stored whole; LiteLLM acts on these keys.
    "model_info": {
        _NO_ACCESS_RULE: """team_id team_public_model_name access_groups access_windows supported_environments
            enable_tag_filtering""",
        Gap("a probe ends after 30 s, or at the deployment's own time-out"): "health_check_timeout",
        _NO_PRICE: "ptu_count tiered_pricing",
    },
}
_PREFIXES = {
    _NO_CLOUD: ("aws_", "azure_", "vertex_", "gcs_", "s3_", "watsonx_", "bedrock_", "milvus_", "valkey_"),
    _NO_CALLBACK: ("langfuse_", "langsmith_", "arize_", "posthog_", "humanloop_"),
    _LATER: ("litellm_", "auto_router_", "complexity_router_", "adaptive_router_", "quality_router_"),
}
_GAPS = {
    section: {name: gap for gap, names in rows.items() for name in names.split()} for section, rows in _ROWS.items()
}
PARAMS, TOP_LEVEL, _INFO = _GAPS["litellm_params"], _GAPS["top_level"], _GAPS["model_info"]
SETTINGS = {
    "router_settings": _GAPS["routing"] | _GAPS["router_settings"],
    "litellm_settings": _GAPS["routing"] | _GAPS["litellm_settings"],
    "general_settings": _GAPS["general_settings"],
}


def report_gap(findings: Findings, place: str, value: object, gap: Gap | None) -> None:
    gap = gap or UNKNOWN
    if value is None:
        findings.honour_empty(place)
    else:
        findings.reports.append(Report(place, gap.kind, gap.reason, gap.is_warning and value is not False))


def gap_of_param(name: str) -> Gap | None:
    by_prefix = (gap for gap, prefixes in _PREFIXES.items() if name.startswith(prefixes))
    return PARAMS.get(name) or _gap_of_price(name) or next(by_prefix, None)


def gap_of_info(name: str) -> Gap | None:
    return _INFO.get(name) or _gap_of_price(name)


def _gap_of_price(name: str) -> Gap | None:
    return _NO_PRICE if re.search(r"(?:^|_)cost(?:_|$)", name) else None
