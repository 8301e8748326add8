"""The rules of end users and tags: read once, and again when they change."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import OperationalError
from django_scopes import scopes_disabled

from gateway.pipeline.ports import Principal, Rules
from gateway.protocol.errors import Forbidden, GatewayFault
from tenants.limits import change_limits
from tenants.models import DEFAULT_ORGANIZATION, BudgetTemplate, EndUser, Organization, Scope
from tenants.revision import (
    EVERYTHING,
    Changed,
    changed_end_user,
    changed_key,
    changed_organization,
    changed_tag,
    changed_template,
)
from tenants.scope_rules import ScopeRulesDirectory
from tests.fakes.memory import chat

pytestmark = pytest.mark.django_db

CALL = chat()
HOME = Principal(organization_id=DEFAULT_ORGANIZATION, key_digest="")


class Loads:
    def __init__(self) -> None:
        self.count = 0
        self.fails = False

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.count += 1
        if self.fails:
            raise OperationalError("away")
        return await sync_to_async(function)(*arguments)


Story = Callable[[ScopeRulesDirectory, Loads], Awaitable[None]]


def tell(story: Story) -> None:
    async def run() -> None:
        loads = Loads()
        await story(ScopeRulesDirectory(in_thread=loads), loads)

    async_to_sync(run)()


async def find(directory: ScopeRulesDirectory, end_user: str = "", *tags: str) -> Rules:
    return await directory.find(HOME, replace(CALL, end_user=end_user, tags=tags))


def limit(scope: Scope, name: str, rpm: int | None) -> None:
    with scopes_disabled():
        change_limits(Organization.objects.get(id=DEFAULT_ORGANIZATION), scope, name, {"rpm_limit": rpm})


async def change(
    directory: ScopeRulesDirectory, change: Changed, write: Callable[..., object], *values: object
) -> None:
    await sync_to_async(write)(*values)
    directory.forget([change])


def values(rules: Rules) -> list[int]:
    return [rule.limit for rule in rules.limits]


ANN = changed_end_user(DEFAULT_ORGANIZATION, "ann")


def test_without_rules_calls_cost_one_read_in_all() -> None:
    async def story(directory: ScopeRulesDirectory, loads: Loads) -> None:
        for number in range(5):
            assert not await find(directory, f"user-{number}", f"tag-{number}")
        assert loads.count == 1

    tell(story)


def test_the_first_rule_of_an_organization_applies_with_its_change() -> None:
    async def story(directory: ScopeRulesDirectory, loads: Loads) -> None:
        assert values(await find(directory, "ann", "blue")) == []
        await change(directory, ANN, limit, Scope.END_USER, "ann", 5)
        assert values(await find(directory, "ann", "blue")) == [5]
        await change(directory, changed_tag(DEFAULT_ORGANIZATION, "blue"), limit, Scope.TAG, "blue", 7)
        assert values(await find(directory, "ann", "blue")) == [5, 7]
        await change(directory, ANN, limit, Scope.END_USER, "ann", None)
        assert values(await find(directory, "ann", "blue")) == [7]

    tell(story)


@pytest.mark.parametrize(
    ("forgotten", "reads"),
    [
        (changed_end_user(DEFAULT_ORGANIZATION, "ben"), 1),  # whether the organization has such rules at all
        (ANN, 2),
        (changed_organization(DEFAULT_ORGANIZATION), 3),
        (EVERYTHING, 3),
        (changed_organization("abroad"), 0),
        (changed_end_user("abroad", "ann"), 0),
        (changed_key("k"), 0),
    ],
)
def test_only_what_changed_is_read_again(forgotten: Changed, reads: int) -> None:
    limit(Scope.END_USER, "ann", 5)
    limit(Scope.TAG, "blue", 7)

    async def story(directory: ScopeRulesDirectory, loads: Loads) -> None:
        await find(directory, "ann", "blue")
        before = loads.count
        directory.forget([forgotten])
        for _ in range(2):
            assert values(await find(directory, "ann", "blue")) == [5, 7]
        assert loads.count == before + reads

    tell(story)


def test_a_default_budget_reaches_end_users_that_no_row_names() -> None:
    with scopes_disabled():
        organization = Organization.objects.get(id=DEFAULT_ORGANIZATION)
        template = BudgetTemplate.objects.create(organization=organization, is_end_user_default=True)
    limit(Scope.TEMPLATE, template.id, 3)

    async def story(directory: ScopeRulesDirectory, loads: Loads) -> None:
        assert values(await find(directory, "ann")) == [3]
        await change(directory, changed_template(template.id), limit, Scope.TEMPLATE, template.id, 4)
        assert values(await find(directory, "ann")) == [4]

    tell(story)


def test_an_end_user_who_is_blocked_is_refused_with_the_change() -> None:
    def block() -> None:
        with scopes_disabled():
            EndUser.objects.create(organization_id=DEFAULT_ORGANIZATION, external_id="ann", blocked=True)

    async def story(directory: ScopeRulesDirectory, loads: Loads) -> None:
        await find(directory, "ann")
        await change(directory, ANN, block)
        with pytest.raises(Forbidden):
            await find(directory, "ann")
        await find(directory, "ben")

    tell(story)


def test_many_calls_at_once_cause_one_read_and_an_outage_keeps_what_was_read() -> None:
    limit(Scope.END_USER, "ann", 5)

    async def story(directory: ScopeRulesDirectory, loads: Loads) -> None:
        results = await asyncio.gather(*(find(directory, "ann") for _ in range(50)))
        assert [values(rules) for rules in results] == [[5]] * 50
        assert loads.count == 2
        loads.fails = True
        directory.forget([EVERYTHING])
        assert values(await find(directory, "ann")) == [5]
        with pytest.raises(GatewayFault):
            await find(directory, "ben")

    tell(story)
