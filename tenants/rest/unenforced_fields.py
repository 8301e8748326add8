"""Fields of LiteLLM that this version does not enforce.

Such a field is accepted only while its value asks for nothing: a limit that is ignored costs money.
"""

from collections.abc import Collection, Mapping

from rest_framework.request import Request

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject
from tenants.rest.fields import read_body

#: Fields that limit, rewrite or grant something.
UNENFORCED = frozenset(
    {
        "access_group_ids",
        "admins",
        "agent_id",
        "aliases",
        "allowed_cache_controls",
        "allowed_passthrough_routes",
        "allowed_routes",
        "allowed_vector_store_indexes",
        "auto_rotate",
        "budget_duration",
        "budget_fallbacks",
        "budget_id",
        "budget_limits",
        "budget_reset_at",
        "config",
        "default_team_member_models",
        "disable_global_guardrails",
        "enable_prompt_caching",
        "end_user_budget_id",
        "enforced_params",
        "guardrails",
        "key_type",
        "logging",
        "max_budget",
        "max_parallel_requests",
        "mcp_rpm_limit",
        "members",
        "members_with_roles",
        "model_aliases",
        "model_itpm_limit",
        "model_max_budget",
        "model_otpm_limit",
        "model_rpm_limit",
        "model_tpm_limit",
        "object_permission",
        "permissions",
        "policies",
        "project_id",
        "prompts",
        "rotation_interval",
        "router_settings",
        "rpm_limit",
        "rpm_limit_type",
        "send_invite_email",
        "soft_budget",
        "spend",
        "tag_rpm_limit",
        "tag_tpm_limit",
        "team_member_budget",
        "team_member_key_duration",
        "team_member_permissions",
        "team_member_rpm_limit",
        "team_member_tpm_limit",
        "temp_budget_expiry",
        "temp_budget_increase",
        "throttle_on_budget_exceeded",
        "tpd_limit",
        "tpm_limit",
        "tpm_limit_type",
    }
)
#: Values that ask for nothing, beside null and the empty ones.
NEUTRAL: Mapping[str, object] = {"key_type": "default", "spend": 0}


def read_fields(request: Request, *, known: Collection[str]) -> JsonObject:
    """The fields of the body. Raises BadRequest for an unknown field and for a value that this version ignores."""
    body = read_body(request, known=UNENFORCED.union(known))
    for name, value in body.items():
        if name in UNENFORCED and not _asks_for_nothing(name, value):
            raise BadRequest(
                f"This version does not enforce {name!r}; leave it out.",
                code="unsupported_parameter",
                param=name,
            )
    return body


def unenforced_in(body: JsonObject) -> JsonObject:
    """The unenforced fields of a body; the answer repeats them."""
    return {name: value for name, value in body.items() if name in UNENFORCED}


def _asks_for_nothing(name: str, value: object) -> bool:
    if value is None or value is False or (isinstance(value, str | list | dict) and not value):
        return True
    return name in NEUTRAL and type(value) is type(NEUTRAL[name]) and value == NEUTRAL[name]
