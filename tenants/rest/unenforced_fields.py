"""Fields of LiteLLM that this version does not enforce.

Such a field is accepted only while its value asks for nothing: a limit that is ignored costs money.
"""

from collections.abc import Collection, Mapping
from decimal import Decimal

from rest_framework.request import Request

from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonMapping, JsonObject
from tenants.rest.fields import read_body
from tenants.rest.json_body import MAX_ECHO_CHARS

#: Fields that limit, rewrite or grant something.
UNENFORCED = frozenset(
    {
        "access_group_ids",
        "admins",
        "agent_id",
        "allowed_cache_controls",
        "allowed_model_region",
        "allowed_models",
        "allowed_passthrough_routes",
        "allowed_vector_store_indexes",
        "budget_fallbacks",
        "budget_reset_at",
        "config",
        "default_model",
        "default_team_member_models",
        "disable_global_guardrails",
        "enable_prompt_caching",
        "end_user_budget_id",
        "enforced_params",
        "guardrails",
        "logging",
        "mcp_rpm_limit",
        "members",
        "members_with_roles",
        "model_aliases",
        "object_permission",
        "permissions",
        "policies",
        "project_id",
        "prompts",
        "router_settings",
        "rpm_limit_type",
        "send_invite_email",
        "spend",
        "sso_user_id",
        "tag_rpm_limit",
        "tag_tpm_limit",
        "team_member_budget",
        "team_member_key_duration",
        "team_member_permissions",
        "team_member_rpm_limit",
        "team_member_tpm_limit",
        "throttle_on_budget_exceeded",
        "tpm_limit_type",
    }
)
#: Numbers that ask for nothing, beside null and the empty values.
NEUTRAL: Mapping[str, int] = {"spend": 0}


def read_fields(request: Request, *, known: Collection[str]) -> JsonObject:
    """The fields of the body. Raises BadRequest for an unknown field and for a value that this version ignores."""
    body = read_body(request, known=UNENFORCED.union(known))
    check_fields(body, known=known)
    return body


def check_fields(body: JsonMapping, *, known: Collection[str]) -> None:
    """Raises BadRequest as `read_fields` does, for an object within a body."""
    for name, value in body.items():
        if name in known:
            continue
        if name not in UNENFORCED:
            raise BadRequest(f"Unknown field: {name[:MAX_ECHO_CHARS]!r}.", param=name[:MAX_ECHO_CHARS])
        if not _asks_for_nothing(name, value):
            raise BadRequest(
                f"This version does not enforce {name!r}; leave it out.",
                code="unsupported_parameter",
                param=name,
            )


def unenforced_in(body: JsonObject) -> JsonObject:
    """The unenforced fields of a body; the answer repeats them."""
    return {name: value for name, value in body.items() if name in UNENFORCED}


def _asks_for_nothing(name: str, value: object) -> bool:
    if value is None or value is False or (isinstance(value, str | list | dict) and not value):
        return True
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    return is_number and value == NEUTRAL.get(name)
