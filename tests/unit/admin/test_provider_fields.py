"""The fields of parameters that only some providers read: shown as a person types them."""

import pytest

from gateway.admin.provider_fields import read_value, render_value
from gateway.protocol.json.types import Json


@pytest.mark.parametrize(
    ("value", "text"),
    [(["team", "cost_center"], "team, cost_center"), ("team,user", "team,user"), (True, "true"), (4096, "4096")],
)
def test_a_text_that_is_not_changed_keeps_the_value_and_its_type(value: Json, text: str) -> None:
    assert render_value(value) == text
    kept = read_value("name", text, {"name": value})
    assert (kept, type(kept)) == (value, type(value))


def test_a_name_is_added_to_a_list_as_it_is_shown() -> None:
    stored: dict[str, Json] = {"aws_session_tags": ["team"]}
    shown = render_value(stored["aws_session_tags"])
    assert read_value("aws_session_tags", f"{shown}, user", stored) == "team, user"
