"""The texts of days in invoices."""

from datetime import date

import pytest

from billing.reconciliation.lines import InvoiceUnreadable, read_day


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-11-01", date(2026, 11, 1)),
        ("2026-11-01T01:00:00+02:00", date(2026, 10, 31)),
        ("2026-11-01 23:30:00 UTC", date(2026, 11, 1)),
        ("11/02/2026", date(2026, 11, 2)),
    ],
)
def test_a_day_is_that_of_utc(text: str, day: date) -> None:
    assert read_day(text, "Date") == day


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-13-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2019-12-31"]
)
def test_what_is_no_day_of_an_invoice_is_refused(text: str) -> None:
    with pytest.raises(InvoiceUnreadable, match="Date is"):
        read_day(text, "Date")
