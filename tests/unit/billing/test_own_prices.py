"""Which of a deployment's own prices is in force at an instant."""

import random
from datetime import UTC, datetime, timedelta

from billing.models import Price
from billing.own_prices import OwnPrices

BEGIN = datetime(2026, 12, 1, tzinfo=UTC)


def test_the_one_that_began_last_is_in_force_and_the_next_one_is_told() -> None:
    rng = random.Random(7)
    for _ in range(200):
        dates = [BEGIN + timedelta(days=rng.randrange(5)) for _ in range(rng.randrange(6))]
        rows = [
            Price(id=f"{number}", effective_from=at, lines={"input": "1"} if rng.random() < 0.7 else {})
            for number, at in enumerate(dates)
        ]
        ordered = sorted(rows, key=lambda row: (row.effective_from, row.id), reverse=True)
        own = OwnPrices(rng.choice(["", "base"]), tuple(ordered))
        for now in (BEGIN + timedelta(days=day, microseconds=tick) for day in range(-1, 6) for tick in (-1, 0, 1)):
            begun = [row for row in ordered[::-1] if row.effective_from is not None and row.effective_from <= now]
            expected = own.base_id if not begun else begun[-1].id if begun[-1].lines else ""
            later = [at for at in dates if at > now]
            found = own.find(now)
            assert (found.price_id, found.changes_at) == (expected, min(later, default=None))
            assert [row.effective_from for row in own.find_later(now)] == sorted(later)
            ends = any(not row.lines for row in rows if row.effective_from is not None and row.effective_from > now)
            assert own.has_gap(now) == (not expected or ends)
