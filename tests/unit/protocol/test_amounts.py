"""Money as text: exact, with twelve decimals."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.amounts import usd_text


@pytest.mark.parametrize(
    ("pusd", "text"),
    [
        (0, "0.000000000000"),
        (1, "0.000000000001"),
        (-1, "-0.000000000001"),
        (10**12, "1.000000000000"),
        (123456789123456789012, "123456789.123456789012"),
        (-1_500_000_000_000, "-1.500000000000"),
    ],
)
def test_an_amount_is_written_exactly(pusd: int, text: str) -> None:
    assert usd_text(pusd) == text


@given(st.integers(-(2**63), 2**63))
def test_the_text_of_an_amount_is_the_amount(pusd: int) -> None:
    text = usd_text(pusd)
    assert int(Decimal(text).scaleb(12)) == pusd
    assert len(text.partition(".")[2]) == 12
