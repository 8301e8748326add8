"""The facts of a call beside its tokens: the same on the data path and from the row."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from billing.call_context import make_context, make_context_at, read_raw_usage
from billing.pricing import PriceLines
from gateway.protocol.json.types import JsonObject

START = datetime(2026, 11, 21, 23, 30, 0, 250_000, UTC)


@pytest.mark.parametrize(
    ("usage", "units"),
    [
        ({"server_tool_use": {"web_search_requests": 3}}, {"web_search": 3}),
        (
            {"server_side_tool_usage_details": {"web_search_calls": 2, "document_search_calls": 1}},
            {"web_search": 2, "file_search": 1},
        ),
        ({"num_search_queries": 1, "citation_tokens": 90}, {"web_search": 1, "citation": 90}),
        ({"server_tool_use": None, "num_search_queries": -1}, {}),
        ({"server_tool_use": {"web_search_requests": True}, "citation_tokens": 10**30}, {}),
        ({}, {}),
    ],
)
def test_tool_calls_are_read_from_the_usage_object(usage: JsonObject, units: dict[str, int]) -> None:
    assert make_context("", START, None, usage).units == units


def test_the_time_of_day_is_in_utc() -> None:
    local = START.astimezone(timezone(timedelta(hours=8)))
    assert make_context("", local, None, None).minute == 23 * 60 + 30


def test_a_tier_is_read_without_case_and_fast_mode_is_one() -> None:
    assert make_context("PRIORITY", START, None, None).service_tier == "priority"
    assert make_context("standard", START, None, {"speed": "fast"}).service_tier == "fast"


def test_seconds_and_instants_give_the_same_context() -> None:
    end = START + timedelta(days=1, seconds=2, microseconds=3)
    context = make_context_at("flex", START.timestamp(), end.timestamp(), None)
    assert context == make_context("flex", START, end, None)
    assert context.duration_us == 86_402 * 10**6 + 3


@pytest.mark.parametrize("text", ["", "not json", "[1]", "{}"])
def test_a_usage_object_is_read_where_the_price_needs_it(text: str) -> None:
    price = PriceLines.read({"input": "1", "web_search": "0.01"})
    assert not read_raw_usage(price, text)
    assert read_raw_usage(price, '{"a": 1}') == {"a": 1}
    assert read_raw_usage(PriceLines.read({"input": "1"}), '{"a": 1}') is None
    assert read_raw_usage(None, '{"a": 1}') is None
