"""Workers that price new end users and tags at the same time make no more of them than a day has room for."""

import json
import random
from datetime import UTC, datetime

import pytest
from django.db.models import Count, Sum
from django.test import override_settings
from django_scopes import scopes_disabled

from billing.bookkeeping import price_pending
from billing.models import FIRST_DAY, UsageCoverage, UsageMember, UsageMemberDay
from billing.verification import verify_ledger
from tests.contract.bookkeeping import make_rows, run_workers

pytestmark = [
    pytest.mark.django_db(transaction=True, available_apps=["billing"]),
    pytest.mark.usefixtures("above_organizations"),
    pytest.mark.only_on("postgres"),
]
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ROOM = 5


@override_settings(TOLLGATE_ROLLUP_NAMES=ROOM)
def test_workers_at_the_limit_keep_it_together() -> None:
    UsageCoverage.objects.update_or_create(id=1, defaults={"complete_from": FIRST_DAY})
    for place in range(60):
        tags = json.dumps([f"tag-{place % 9}", f"tag-{place}"])
        make_rows(1, end_user=f"user-{place % 20}", tags=tags, started_at=NOON, cache_hit=True)

    def price(rng: random.Random) -> None:
        with scopes_disabled():
            while price_pending(rng.choice([1, 3])):
                pass

    run_workers(4, price)
    while price_pending():
        pass
    named = UsageMember.objects.exclude(name="").order_by().values("dimension").annotate(count=Count("id"))
    assert {row["dimension"]: row["count"] for row in named} == {"end_user": ROOM, "tag": ROOM}
    sums = UsageMemberDay.objects.order_by().values("member__dimension").annotate(count=Sum("requests"))
    counts = {row["member__dimension"]: row["count"] for row in sums}
    assert counts == {"end_user": 60, "tagged": 60, "tag": 60 + 51}
    assert list(verify_ledger()) == []
