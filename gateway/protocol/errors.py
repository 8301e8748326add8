"""The whole exception tree of a request. Rendered for clients in edge/problems.py and nowhere else.

Fault
├── ClientFault            an error of the caller (4xx)
│   ├── BadRequest         400
│   ├── Unauthorized       401
│   ├── Forbidden          403
│   ├── NotFound           404
│   ├── MethodNotAllowed   405
│   ├── TooLarge           413
│   ├── RateLimited        429
│   └── BudgetExceeded     429
├── UpstreamFault          an error of the provider; `is_retryable` lets another deployment try
│   ├── ConnectFault       the request never left: the attempt cost nothing
│   └── DeadlineExceeded   504: the time that the client allows is over; tells nothing of a deployment
└── GatewayFault           an error of the gateway (5xx)

`type`, `code` and `param` are those of OpenAI's error object
(https://platform.openai.com/docs/guides/error-codes/api-errors); the classes of upstream faults follow the table
in docs/errors.md.
"""

import re
from collections.abc import Iterable


class Fault(Exception):
    """An error as the client sees it: `status, type, code, param, message`, and headers to add."""

    status = 500
    type = "api_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        kind: str | None = None,  # `type` on the wire
        code: str | None = None,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.type = kind or self.type
        self.code = code or self.code
        self.param = param
        self.headers = headers


class ClientFault(Fault):
    status = 400
    type = "invalid_request_error"


class BadRequest(ClientFault):
    pass


class Unauthorized(ClientFault):
    """LiteLLM's client knows it by its type, or by the words "Incorrect API key provided"."""

    status = 401
    type = "auth_error"
    code = "invalid_api_key"


class Forbidden(ClientFault):
    status = 403


class NotFound(ClientFault):
    status = 404
    code = "not_found"


class MethodNotAllowed(ClientFault):
    status = 405
    code = "method_not_allowed"


class TooLarge(ClientFault):
    status = 413
    code = "request_too_large"


class RateLimited(ClientFault):
    """`retry-after` is the instant at which the same request would be let in. `dimension`: the unit that the limit
    counts; empty where no limit has refused."""

    status = 429
    type = "throttling_error"
    code = "rate_limit_exceeded"
    dimension = ""


class BudgetExceeded(ClientFault):
    """Spent, or too small for this request (`insufficient_quota`), or only taken by running calls (`budget_held`). The
    message opens with "Budget has been exceeded!", which LiteLLM's clients look for."""

    status = 429
    type = "budget_exceeded"
    code = "insufficient_quota"


class UpstreamFault(Fault):
    """`finish` is the value for the spend log; `retry_after_s` the wait that the upstream asks for. `upstream_status`
    and `upstream_text` are those of the upstream's own error answer, sanitised, for admins; 0 and empty without one."""

    status = 502
    code: str | None = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        kind: str | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        is_retryable: bool = False,
        finish: str = "upstream_error",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, status=status, kind=kind, code=code, param=param, headers=headers)
        self.is_retryable = is_retryable
        self.finish = finish
        self.retry_after_s = retry_after_s
        self.upstream_status = 0
        self.upstream_text = ""


class ConnectFault(UpstreamFault):
    code = "upstream_unreachable"


class DeadlineExceeded(UpstreamFault):
    status = 504
    code = "deadline_exceeded"

    def __init__(self) -> None:
        super().__init__("The time that the client allows for this request is over.", finish="timeout")


class GatewayFault(Fault):
    status = 503
    code = "gateway_unavailable"


MAX_UPSTREAM_TEXT = 1000
MAX_CODE = 64
SECRET_SHAPES = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|AIza|AKIA|ASIA|ghp|hf)[-_A-Za-z0-9*.]{8,}"  # provider keys, masked ones included
    r"|\b[Bb]earer\s+\S+"
    r"|\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"  # JSON web tokens
)
ADDRESS_SHAPES = re.compile(
    r"(?i)\b[a-z][a-z0-9+.-]{0,15}://\S+"
    r"|\[[0-9a-f:.]*:[0-9a-f:.]*\](?::\d+)?"
    r"|\barn:\S+"
    r"|\b(?:org|proj)[-_][a-z0-9]{8,}"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|\b[\w-]{1,63}(?:\.[\w-]{1,63}){0,6}\.(?:internal|local|svc|lan|corp)(?:\.[\w.-]+)?(?::\d+)?\b"
    r"|\blocalhost(?::\d+)?\b"
    r"|\[address=[^\]]*\]\s*"
)
STACK_SHAPES = re.compile(r"Traceback \(most recent call last\)|\n\s+at |File \"[^\"]+\", line \d+", re.ASCII)


def sanitize(text: str, secrets: Iterable[str] = ()) -> str:
    """Upstream text for a client: without credentials, addresses and stack traces, and bounded."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = text[: 2 * MAX_UPSTREAM_TEXT]  # the shapes below are searched for in a bounded text
    if STACK_SHAPES.search(text):
        return "The upstream failed."
    text = ADDRESS_SHAPES.sub("[upstream]", SECRET_SHAPES.sub("***", text))
    text = "".join(character for character in text if character.isprintable() or character == "\n")
    return text[:MAX_UPSTREAM_TEXT]


def harmless_name(value: object, secrets: Iterable[str] = ()) -> str | None:
    """An upstream's `code` or `param` for a client; None for one that is no name, or may be a secret."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CODE or not value.isprintable():
        return None
    return value if sanitize(value, secrets) == value else None
