"""Durations as requests and settings write them: a number and a unit, or a word."""

import re
from datetime import UTC, datetime, timedelta

from tenants.invalid import KeyInvalid

DURATION = re.compile(r"([0-9]{1,9}) ?([a-z]*)")
UNITS = {
    timedelta(seconds=1): ("s", "sec", "secs", "second", "seconds"),
    timedelta(minutes=1): ("m", "min", "mins", "minute", "minutes"),
    timedelta(hours=1): ("h", "hr", "hrs", "hour", "hours"),
    timedelta(days=1): ("d", "day", "days"),
    timedelta(weeks=1): ("w", "wk", "wks", "week", "weeks"),
    timedelta(days=30): ("mo", "mon", "month", "months"),
}
UNIT_OF_WORD = {word: unit for unit, words in UNITS.items() for word in words}
DURATION_WORDS = {"hourly": "1h", "daily": "1d", "weekly": "1w", "monthly": "1mo"}


def read_duration(text: object, param: str = "expires_at") -> timedelta:
    """A duration from a number and a unit: s, m, h, d, w, mo (30 days) or words for them (`30days`, `1hr`, `daily`).

    Raises KeyInvalid.
    """
    if not isinstance(text, str):
        raise KeyInvalid(param, "a duration is text like 60s, 10m, 24h, 30d, 1w or 1mo")
    word = text.strip().lower()
    match = DURATION.fullmatch(DURATION_WORDS.get(word, word))
    unit = UNIT_OF_WORD.get(match[2]) if match else None
    if match is None or unit is None:
        raise KeyInvalid(param, "a duration is a number and a unit: 60s, 10m, 24h, 30d, 1w or 1mo")
    try:
        duration = int(match[1]) * unit
        datetime.now(UTC) + duration
    except OverflowError:
        raise KeyInvalid(param, "the duration is too long") from None
    if not duration:
        raise KeyInvalid(param, "the duration must not be zero")
    return duration
