"""The wait that an upstream asks for, in all the forms that providers use.

- `retry-after-ms` (OpenAI, Azure), `retry-after` in seconds, with a fraction, or as a date (RFC 9110 §10.2.3);
- `x-ratelimit-reset-requests`, `-tokens` as `6m0s`, `1.5s` or `120ms` (OpenAI, Groq, and servers like them), of those
  counters that have nothing left;
- `anthropic-ratelimit-…-reset` as an RFC 3339 instant, likewise.

Instants are compared with the answer's own `date`, so that no clock but the upstream's counts.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: Shorter and longer waits are brought into this range.
SHORTEST_S, LONGEST_S = 1.0, 60.0
MAX_CHARS = 64
DURATION = re.compile(
    r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?", re.ASCII
)
NUMBER = re.compile(r"\d{1,64}(?:\.\d{1,9})?", re.ASCII)
COUNTERS = ("requests", "tokens", "input-tokens", "output-tokens")


def find_retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, within the range above; None where the upstream asks for no wait, or in a form that is none of these.
    Header names are lower case."""
    for wait_s in _waits(headers):
        return bound_wait_s(wait_s)
    return None


def bound_wait_s(wait_s: float) -> float:
    return min(max(wait_s, SHORTEST_S), LONGEST_S)


def _waits(headers: Mapping[str, str]) -> Iterator[float]:
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        yield milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is None:
        seconds = _until(_date(text), headers)
    if seconds is not None:
        yield seconds
    resets = [reset for counter in COUNTERS if (reset := _reset_s(counter, headers)) is not None]
    if resets:
        yield max(resets)


def _reset_s(counter: str, headers: Mapping[str, str]) -> float | None:
    """Seconds until a counter that is used up has something left."""
    for prefix, read in (("x-ratelimit", read_duration_s), ("anthropic-ratelimit", None)):
        remaining, reset = (
            (f"{prefix}-remaining-{counter}", f"{prefix}-reset-{counter}")
            if read is not None
            else (f"{prefix}-{counter}-remaining", f"{prefix}-{counter}-reset")
        )
        if _number(headers.get(remaining)) == 0:
            text = headers.get(reset)
            seconds = read(text) if read is not None else _until(_instant(text), headers)
            if seconds is not None:
                return seconds
    return None


def read_duration_s(text: str | None) -> float | None:
    """`1h2m3.5s`, `120ms`, or bare seconds; also Google's `retryDelay` of RetryInfo ("34s")."""
    text = _short(text)
    bare = _number(text)
    if bare is not None or not text:
        return bare
    match = DURATION.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _number(text: str | None) -> float | None:
    text = _short(text)
    return float(text) if NUMBER.fullmatch(text) else None


def _short(text: str | None) -> str:
    return (text or "")[:MAX_CHARS].strip()


def _until(instant: datetime | None, headers: Mapping[str, str]) -> float | None:
    now = _date(headers.get("date"))
    return (instant - now).total_seconds() if instant is not None and now is not None else None


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(_short(text))
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _instant(text: str | None) -> datetime | None:
    try:
        instant = datetime.fromisoformat(_short(text))
    except ValueError:
        return None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
