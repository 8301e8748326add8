"""The headers that tell a client what was done for it (LiteLLM's names)."""

from gateway.pipeline.ports import Attempt, Headers
from gateway.protocol.amounts import usd_text


def answer_headers(attempt: Attempt) -> Headers:
    """For a whole answer with its cost and duration; a stream's headers leave before these are known."""
    headers: Headers = [
        (b"x-litellm-model-id", header_text(attempt.target.deployment_id)),
        (b"x-litellm-model-group", header_text(attempt.call.model)),
        (b"x-litellm-attempted-fallbacks", b"%d" % attempt.fallbacks),
        (b"x-litellm-attempted-retries", b"%d" % attempt.retries),
    ]
    if attempt.dropped:
        headers.append((b"x-tollgate-dropped-params", header_text(",".join(attempt.dropped))))
    if attempt.reservation is not None:
        headers.extend(attempt.reservation.headers)
    if attempt.ended_at is not None:
        duration_s = attempt.ended_at - attempt.started_at
        headers.append((b"openai-processing-ms", b"%d" % (duration_s * 1000)))
        headers.append((b"x-litellm-response-duration-ms", b"%.3f" % (duration_s * 1000)))
        headers.append((b"x-litellm-overhead-duration-ms", b"%.3f" % ((duration_s - attempt.upstream_s) * 1000)))
        if attempt.cost_pusd is not None:
            headers.append((b"x-litellm-response-cost", usd_text(attempt.cost_pusd).encode()))
    return headers


def header_text(text: str) -> bytes:
    """A header value: what Latin-1 cannot say is percent-encoded, controls cannot occur."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return "".join(
        c if " " <= c <= "~" else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "replace")) for c in text
    ).encode()
