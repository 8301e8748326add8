"""The quota of stored bytes: the worker's count, and the check of a create, in either database."""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.models import Conversation, ConversationItem, EventBatch
from gateway.protocol.dialects.responses.stored import Owner
from gateway.protocol.errors import ClientFault
from gateway.state.group_commit import GroupCommit
from gateway.state.reader import Found, Query
from gateway.state.spool import Spool
from gateway.state.statement import DatabaseAway
from gateway.state.unit_of_work import UnitOfWork
from gateway.stores.responses import STATEMENTS, ResponseStore
from gateway.stores.storage_quota import READ_EVERY_S, StorageQuota, count_stored
from tenants.models import DEFAULT_ORGANIZATION, Organization
from tests.contract.replica import backend, in_thread, reader
from tests.fakes.background import stored as stored_response

HOME = Owner(DEFAULT_ORGANIZATION, "team:home")

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["gateway"])


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def stored_bytes() -> int:
    with scopes_disabled():
        return Organization.objects.get(pk=DEFAULT_ORGANIZATION).stored_bytes


def test_the_count_and_what_is_stored_since_refuse_further_creates(tmp_path: Path) -> None:
    async def story() -> None:
        source, clock = reader(), Clock()
        quota = StorageQuota(source, 1_000, now=clock)
        commits = GroupCommit(backend(), Spool(tmp_path, "one", STATEMENTS))
        store = ResponseStore(commits, source, in_thread, on_stored=quota.note)
        await source.open()
        await commits.open()
        try:
            await quota.check(DEFAULT_ORGANIZATION)
            response = stored_response("resp_1", "completed", owner=HOME, input=({"text": secrets.token_hex(2_000)},))
            unit = UnitOfWork()
            store.add(unit, response)
            await commits.commit(unit)
            for _ in range(2):  # first by what this process has stored, then by the worker's count
                with pytest.raises(ClientFault) as refused:
                    await quota.check(DEFAULT_ORGANIZATION)
                assert (refused.value.status, refused.value.code) == (403, "storage_quota_exceeded")
                assert refused.value.param == "store"
                await quota.check("another")
                await in_thread(count_stored)
                clock.now += READ_EVERY_S
            assert await in_thread(stored_bytes) > 0
            await store.delete(HOME, "resp_1")
            await in_thread(count_stored)
            assert await in_thread(stored_bytes) == 0
            clock.now += READ_EVERY_S
            await quota.check(DEFAULT_ORGANIZATION)
        finally:
            await commits.close()
            await source.close()

    asyncio.run(asyncio.wait_for(story(), 30))


def test_items_and_events_count_too() -> None:
    with scopes_disabled():
        home = {"organization_id": DEFAULT_ORGANIZATION}
        Conversation.objects.create(id="conv_1", owner="team:a", created_at=timezone.now(), **home)
        EventBatch.objects.create(response_id="resp_1", first_number=0, last_number=1, body=b"x" * 100, **home)
        fields: dict[str, Any] = {"conversation_id": "conv_1", "item_id": "msg_1", "position": 1, "body": b"y" * 23}
        ConversationItem.objects.create(**fields, **home)
    count_stored()
    assert stored_bytes() == 123


def test_while_the_database_is_away_the_last_count_stays() -> None:
    class Away:
        async def open(self) -> None: ...

        async def fetch(self, query: Query, parameters: Sequence[object]) -> list[Found]:
            raise DatabaseAway("away")

        async def close(self) -> None: ...

    asyncio.run(StorageQuota(Away(), 1).check(DEFAULT_ORGANIZATION))
