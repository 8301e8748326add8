"""ErrorClass: the kinds of upstream failures that retries, fallbacks and breakers tell apart.

The names in configuration are those of LiteLLM's `retry_policy` and `allowed_fails_policy`
(https://docs.litellm.ai/docs/routing).
"""

from enum import StrEnum

from gateway.protocol.errors import ConnectFault, UpstreamFault


class ErrorClass(StrEnum):
    CONNECT = "connect"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    QUOTA = "quota"  # the provider's account has no money left
    SERVER = "server"  # 5xx, and answers that are none
    OVERLOADED = "overloaded"
    AUTHENTICATION = "authentication"  # the gateway's credential is refused
    NOT_FOUND = "not_found"  # the upstream does not know the model
    CONTEXT_WINDOW = "context_window"
    CONTENT_POLICY = "content_policy"
    BAD_REQUEST = "bad_request"
    MALFORMED = "malformed"  # the model wrote a tool call that is none


#: What a request may cause by itself, and what says nothing of other requests. A 404 may name a file or a store.
OF_THE_REQUEST = frozenset(
    {
        ErrorClass.CONTEXT_WINDOW,
        ErrorClass.CONTENT_POLICY,
        ErrorClass.BAD_REQUEST,
        ErrorClass.NOT_FOUND,
        ErrorClass.MALFORMED,
    }
)
CONTENT_POLICY_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
_BY_CODE = {
    "upstream_timeout": ErrorClass.TIMEOUT,
    "upstream_stream_timeout": ErrorClass.TIMEOUT,
    "upstream_auth_failed": ErrorClass.AUTHENTICATION,
    "insufficient_quota": ErrorClass.QUOTA,
    "rate_limit_exceeded": ErrorClass.RATE_LIMIT,
    "overloaded": ErrorClass.OVERLOADED,
    "model_not_found": ErrorClass.NOT_FOUND,
    "context_length_exceeded": ErrorClass.CONTEXT_WINDOW,
    "upstream_malformed_tool_call": ErrorClass.MALFORMED,
    **dict.fromkeys(CONTENT_POLICY_CODES, ErrorClass.CONTENT_POLICY),
}


def error_class(fault: UpstreamFault) -> ErrorClass:
    if isinstance(fault, ConnectFault):
        return ErrorClass.CONNECT
    known = _BY_CODE.get(fault.code or "")
    if known is not None:
        return known
    if fault.status == 429:
        return ErrorClass.RATE_LIMIT
    return ErrorClass.BAD_REQUEST if 400 <= fault.status < 500 else ErrorClass.SERVER
