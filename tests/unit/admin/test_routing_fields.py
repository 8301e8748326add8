"""The fields of the routing page: what they show is what they read."""

import pytest

from gateway.admin.routing_fields import NumberField, read_after, read_numbers, write_after, write_numbers


@pytest.mark.parametrize("value", [7, 0.1, 12345.678, 86_399.5, 1_000_000])
def test_a_number_is_shown_with_all_its_digits(value: float) -> None:
    field = NumberField(label="Cooldown", default=value)
    assert field.clean(field.prepare_value(value)) == value
    assert float(field.widget.attrs["placeholder"]) == value
    assert read_numbers(write_numbers({"timeout": value})) == {"timeout": value}
    assert read_after(write_after({"after": value})) == {"after": value}
