"""The wait that an upstream asks for, in each form that providers use."""

import pytest

from gateway.protocol.retry_after import find_retry_after_s, read_duration_s

DATE = "Fri, 20 Nov 2026 08:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("3", 3.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("0", 1.0),
        ("99999", 60.0),
        ("9" * 5000, 60.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1e9", None),
        ("\u00b2", None),
        ("\u0663", None),
        ("soon", None),
        ("Fri, 20 Nov 2026 08:00:20 GMT", 20.0),
        ("Fri, 20 Nov 2026 07:00:00 GMT", 1.0),
        ("Fri, 20 Nov 9999 08:00:00 GMT", 60.0),
        ("Fri, 99 Nov 2026 08:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_seconds_between_1_and_60(value: str | None, wait_s: float | None) -> None:
    headers = {"date": DATE} | ({} if value is None else {"retry-after": value})
    assert find_retry_after_s(headers) == wait_s


def test_a_date_is_compared_with_the_answers_own_clock() -> None:
    value = "Fri, 20 Nov 2026 08:00:20 GMT"
    assert find_retry_after_s({"retry-after": value}) is None
    assert find_retry_after_s({"retry-after": value, "date": "Fri, 20 Nov 2026 08:00:15 GMT"}) == 5.0


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after-ms": "2500", "retry-after": "9"}, 2.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, 60.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"}, 7.66),
        ({"x-ratelimit-remaining-tokens": "12", "x-ratelimit-reset-tokens": "7.66s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "3s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "8s",
            },
            8.0,
        ),
        (
            {
                "date": DATE,
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-11-20T08:00:12Z",
            },
            12.0,
        ),
        (
            {
                "date": DATE,
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "later",
            },
            None,
        ),
    ],
)
def test_providers_have_forms_of_their_own(headers: dict[str, str], wait_s: float | None) -> None:
    assert find_retry_after_s(headers) == wait_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("34s", 34.0),
        ("120ms", 0.12),
        ("6m0s", 360.0),
        ("1h1m1s", 3661.0),
        ("2m59.56s", 179.56),
        ("5", 5.0),
        ("", None),
        ("s", None),
        ("m5", None),
        ("-3s", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert read_duration_s(text) == pytest.approx(seconds)
