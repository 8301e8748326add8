"""The rate limit headers that Anthropic's clients read, made from those of OpenAI.

Source: https://platform.claude.com/docs/en/api/rate-limits#response-headers.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime

OPENAI = b"x-ratelimit-"
MEMBERS = {b"limit", b"remaining", b"reset"}
WORDS = {b"requests", b"tokens", b"input-tokens", b"output-tokens"}


def rate_limit_headers(headers: Iterable[tuple[bytes, bytes]], now_s: float) -> list[tuple[bytes, bytes]]:
    """`x-ratelimit-reset-requests: 12.3s` is `anthropic-ratelimit-requests-reset` with the instant in whole seconds."""
    result = []
    for name, value in headers:
        if name.startswith(OPENAI):
            member, _, word = name.removeprefix(OPENAI).partition(b"-")
            if member in MEMBERS and word in WORDS:
                text = _instant(now_s + float(value.removesuffix(b"s"))) if member == b"reset" else value
                result.append((b"anthropic-ratelimit-%s-%s" % (word, member), text))
    return result


def _instant(at_s: float) -> bytes:
    return f"{datetime.fromtimestamp(math.ceil(at_s), UTC):%Y-%m-%dT%H:%M:%SZ}".encode()
