"""The spend of keys that answers tell: read in few statements for the keys in use, and kept over an outage."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django_scopes import scopes_disabled

from gateway.protocol.amounts import PUSD
from tenants.budget_store import LeaseRequest, WindowCost, add_spend, lease, settle_costs
from tenants.budget_windows import find_window
from tenants.key_spend import MAX_KEYS, MAX_ROWS, KeySpend, read_spent
from tenants.limits import change_limits
from tenants.models import Budget, Scope
from tests.conftest import Person
from tests.contract.management import Api

pytestmark = pytest.mark.django_db


class Reads:
    def __init__(self) -> None:
        self.parts: list[Sequence[str]] = []
        self.pusd = 7
        self.fails = False

    async def __call__(self, function: object, key_ids: Sequence[str]) -> Mapping[str, int]:
        if self.fails:
            raise OperationalError
        self.parts.append(key_ids)
        return dict.fromkeys(key_ids, self.pusd)


def test_keys_in_use_are_read_and_others_are_not() -> None:
    async def story() -> None:
        reads = Reads()
        spend = KeySpend(reads)
        assert [spend.find("key") for _ in range(3)] == [None] * 3
        assert spend.find("") is None
        await spend.read()
        assert (spend.find("key"), reads.parts) == (7, [["key"]])
        reads.fails = True
        await spend.read()
        assert spend.find("key") == 7
        reads.fails, reads.pusd = False, 9
        await spend.read()
        assert spend.find("key") == 9

    asyncio.run(story())


def test_memory_and_statements_are_bounded() -> None:
    async def story() -> None:
        reads = Reads()
        spend = KeySpend(reads)
        for first in (0, MAX_KEYS):
            for number in range(MAX_KEYS + 5):
                spend.find(f"key-{first + number}")
            await spend.read()
        assert max(len(part) for part in reads.parts) == MAX_ROWS
        assert len(spend._known) == MAX_KEYS

    asyncio.run(story())


def test_the_spend_is_that_of_key_info(api: Api, owner: Person, team_mate: Person) -> None:
    with scopes_disabled():
        add_spend({(owner.key.organization_id, Scope.KEY, owner.key.id): 3 * PUSD})
        add_spend({(team_mate.key.organization_id, Scope.KEY, team_mate.key.id): 5 * PUSD})
        fields = {"max_budget": 9, "budget_duration": "1d"}
        change_limits(team_mate.key.organization, Scope.KEY, team_mate.key.id, fields)
        budget = Budget.objects.get(scope=Scope.KEY, scope_id=team_mate.key.id)
        span = find_window("1d", ZoneInfo("UTC"), datetime.now(UTC))
        place = (budget.id, budget.organization_id, Scope.KEY, team_mate.key.id)
        leased = lease([LeaseRequest(*place, span.starts_at, span.ends_at, PUSD)], "writer")
        assert isinstance(leased, list)
        with transaction.atomic():
            settle_costs([WindowCost(leased[0].window_id, "writer", datetime.now(UTC), PUSD)])
    with CaptureQueriesContext(connection) as queries:
        spent = read_spent([owner.key.id, team_mate.key.id, "unknown"])
    assert len(queries) <= 5
    assert spent == {owner.key.id: 3 * PUSD, team_mate.key.id: PUSD}
    assert [api.info(person.text)["spend"] for person in (owner, team_mate)] == [3.0, 1.0]
