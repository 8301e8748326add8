"""The headers that tell a client what was done for it (LiteLLM's names)."""

import re
from collections.abc import Mapping

from gateway.pipeline.ports import Attempt, Headers
from gateway.protocol.amounts import usd_text
from gateway.protocol.errors import sanitize
from gateway.protocol.provider import Target

#: Before the names of the headers that tell the upstream's rate limits.
PREFIX = "llm_provider-"
#: The beginnings of their names: OpenAI, Azure and most others; Anthropic; the IETF's draft and Mistral.
LIMIT_NAMES = ("x-ratelimit-", "anthropic-ratelimit-", "ratelimit")
MAX_LIMITS = 32
MAX_LIMIT_NAME = 64
MAX_LIMIT_VALUE = 128


#: A number, a duration or an instant: it can hold neither an address nor a credential.
PLAIN_VALUE = re.compile(
    r"(?=.)(?:[0-9]{1,9}[dhm]){0,3}(?:[0-9]{1,20}(?:\.[0-9]{1,9})?(?:ms|s)?)?"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,18}(?:Z|[+-][0-9]{2}:?[0-9]{2})?"
)


def answer_headers(attempt: Attempt) -> Headers:
    """For a whole answer with its cost and duration; a stream's headers leave before these are known."""
    headers: Headers = [
        (b"x-litellm-model-id", header_text(attempt.target.deployment_id)),
        (b"x-litellm-model-group", header_text(attempt.call.model)),
        (b"x-litellm-attempted-fallbacks", b"%d" % attempt.fallbacks),
        (b"x-litellm-attempted-retries", b"%d" % attempt.retries),
    ]
    if attempt.is_hedge:
        headers.append((b"x-tollgate-hedged", b"true"))
    if attempt.dropped:
        headers.append((b"x-tollgate-dropped-params", header_text(",".join(attempt.dropped))))
    if attempt.reservation is not None:
        headers.extend(attempt.reservation.headers)
    headers.extend(attempt.upstream_limits)
    if attempt.ended_at is not None:
        duration_s = attempt.ended_at - attempt.started_at
        headers.append((b"openai-processing-ms", b"%d" % (duration_s * 1000)))
        headers.append((b"x-litellm-response-duration-ms", b"%.3f" % (duration_s * 1000)))
        headers.append((b"x-litellm-overhead-duration-ms", b"%.3f" % ((duration_s - attempt.upstream_s) * 1000)))
        if attempt.cost_pusd is not None:
            cost = usd_text(attempt.cost_pusd).encode()
            headers += [(b"x-litellm-response-cost", cost), (b"x-tollgate-cost", cost)]
    return headers


def upstream_limits(headers: Mapping[str, str], target: Target) -> Headers:
    """The rate limits of an upstream's answer, for the client: of known names only, each with a short value that holds
    no address and no credential. `headers` have lower-case names."""
    found = [(name, value) for name, value in headers.items() if name.startswith(LIMIT_NAMES)]
    return [
        (f"{PREFIX}{name}".encode(), value.encode())
        for name, value in found[:MAX_LIMITS]
        if _is_short(name, MAX_LIMIT_NAME) and (PLAIN_VALUE.fullmatch(value) or _is_harmless(value, target))
    ]


def _is_harmless(value: str, target: Target) -> bool:
    return _is_short(value, MAX_LIMIT_VALUE) and sanitize(value, target.reveal_secrets()) == value


def _is_short(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and text.isascii() and text.isprintable()


def header_text(text: str) -> bytes:
    """A header value: what Latin-1 cannot say is percent-encoded, controls cannot occur."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return "".join(
        c if " " <= c <= "~" else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "replace")) for c in text
    ).encode()
