"""Classification of upstream error answers, by the table of docs/errors.md."""

import math
import re
from collections.abc import Mapping

from gateway.protocol.errors import UpstreamFault, sanitize
from gateway.protocol.json.types import Json, JsonMapping

TOO_LONG = re.compile(
    r"prompt is too long|input is too long|maximum context length|context_length_exceeded"
    r"|input token count .* exceeds the maximum|exceed context limit|too many (?:input )?tokens|context window"
    r"|exceeds the available context size|longer than the (?:model's|maximum) (?:context|model) length"
    r"|exceeds the context length|maximum prompt length",
    re.IGNORECASE,
)
#: The statuses of error codes that an error inside an answer may hold.
NAMED = {
    "content_filter": 400,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "model_not_found": 404,
    "overloaded": 503,
    "rate_limit_exceeded": 429,
}


def classify(
    status: int,
    *,
    message: str,
    code: str | None = None,
    param: str | None = None,
    retry_after_s: float | None = None,
) -> UpstreamFault:
    """The class of an upstream's error answer, by the table of docs/errors.md."""

    def fault(status: int, kind: str, code: str | None, text: str, *, retry: bool = False) -> UpstreamFault:
        wait_s = retry_after_s if status in {429, 503} else None
        result = UpstreamFault(
            text,
            status=status,
            kind=kind,
            param=param,
            headers=() if wait_s is None else ((b"retry-after", b"%d" % math.ceil(wait_s)),),
            is_retryable=retry,
            retry_after_s=wait_s,
        )
        result.code = code  # no default where the upstream gives no code
        return result

    invalid = "invalid_request_error"
    if status in {400, 413, 422} and (code == "context_length_exceeded" or TOO_LONG.search(message)):
        return fault(400, invalid, "context_length_exceeded", message)
    if status in {401, 402, 403}:
        # The caller's key is fine: the provider refuses the gateway's own.
        return UpstreamFault(
            "The gateway could not authenticate with the upstream.",
            code="upstream_auth_failed",
            is_retryable=True,
        )
    if status == 404:
        return fault(404, invalid, "model_not_found", message or "The upstream does not know this model.", retry=True)
    if status == 413:
        return fault(413, invalid, "request_too_large", message or "The upstream finds the request too large.")
    if status == 429:
        quota = code == "insufficient_quota"
        return fault(
            429,
            "rate_limit_error",
            "insufficient_quota" if quota else "rate_limit_exceeded",
            message or "The upstream's rate limit is reached.",
            retry=True,
        )
    if status in {408, 504}:
        return UpstreamFault(
            "The upstream timed out.",
            status=504,
            code="upstream_timeout",
            is_retryable=True,
            finish="timeout",
        )
    if status in {503, 529}:
        return fault(503, "api_error", "overloaded", message or "The upstream is overloaded.", retry=True)
    if status == 200:
        return UpstreamFault(message or "The upstream answered with an error.")
    if 400 <= status < 500:
        return fault(400, invalid, code, message or "The upstream refused the request.")
    return UpstreamFault(message or "The upstream failed.", code="upstream_error", is_retryable=True)


def error_in_answer(error: Json) -> UpstreamFault:
    """The fault for an error object, or an error text, in place of an answer."""
    details: JsonMapping = error if isinstance(error, Mapping) else {"message": error}
    code, message = details.get("code"), details.get("message")
    message = sanitize(message) if isinstance(message, str) else ""
    status = _status(code)
    if status is None and TOO_LONG.search(message):
        status = 400
    if status is None:
        return UpstreamFault(message or "The upstream answered with an error.")
    name = code if isinstance(code, str) and code in NAMED else None
    if name == "context_length_exceeded":
        message = message or "The input is longer than the model's context."
    return classify(status, message=message, code=name)


def _status(code: Json) -> int | None:
    """The HTTP status that an error's `code` stands for: as a number, in digits, or by a name."""
    if isinstance(code, str):
        if code in NAMED:
            return NAMED[code]
        code = int(code) if len(code) == 3 and code.isascii() and code.isdigit() else None
    return code if type(code) is int and 400 <= code < 600 else None
