"""Rows that are written in parts are the same JSON."""

import json
from typing import Any

import pytest
from rest_framework.renderers import JSONRenderer

from billing.rest.rows_renderer import PART_ROWS, RowsRenderer

ROW = {"name": 'é \u2028 " [', "none": None, "inner": [1, {}]}
ROWS = [{**ROW, "id": number} for number in range(PART_ROWS + 1)]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        [1],
        [None],
        ROWS[:PART_ROWS],
        ROWS,
        {"data": ROWS, "total": 1, "next": None, "empty": [], "object": {"a": [1]}},
        {"data": []},
        "text",
    ],
)
def test_parts_make_the_text_that_the_whole_has(data: Any) -> None:
    assert RowsRenderer().render(data) == JSONRenderer().render(data)


def test_an_indent_that_the_client_asks_for_is_json_too() -> None:
    text = RowsRenderer().render({"data": ROWS, "none": None}, "application/json; indent=2")
    assert json.loads(text) == {"data": ROWS, "none": None}
    assert b"\n" in text
