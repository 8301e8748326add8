"""The slots of reports: half for one organization, and given back whatever happens."""

from contextlib import ExitStack

import pytest

from billing.reports.guard import ReportSlots
from gateway.protocol.errors import RateLimited


def test_an_organization_has_half_of_the_slots():
    slots = ReportSlots(4)
    with ExitStack() as running:
        for _ in range(2):
            running.enter_context(slots.hold("acme"))
        with pytest.raises(RateLimited) as refusal, slots.hold("acme"):
            pass
        with slots.hold("umbrella"), slots.hold("umbrella"):
            pass
    assert (refusal.value.status, refusal.value.code) == (429, "too_many_reports")
    assert dict(refusal.value.headers) == {b"retry-after": b"5"}


def test_all_together_have_all_slots():
    slots = ReportSlots(2)
    with slots.hold(None), slots.hold("acme"):
        for other in (None, "umbrella"):
            with pytest.raises(RateLimited, match="The gateway") as refusal, slots.hold(other):
                pass
            assert (refusal.value.status, refusal.value.code) == (429, "too_many_reports")


def test_a_slot_is_free_after_a_failure():
    slots = ReportSlots(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), slots.hold("acme"):
            raise ValueError("broken")
    with slots.hold("acme"):
        pass


def test_one_slot_serves_an_organization():
    with ReportSlots(1).hold("acme"):
        pass
