"""Rows that an earlier version wrote are read by this one, and the way back loses nothing."""

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.models import UsageHour
from billing.models.constraints import MAX_SUM
from gateway.models import StoredResponse
from gateway.state.packing import DEFLATED_FROM_BYTES, pack, unpack, unpack_response
from tenants.models import DEFAULT_ORGANIZATION

ASKED = [{"type": "message", "role": "user", "content": "Hi"}]
SAID = [{"type": "message", "role": "assistant", "content": "x" * DEFLATED_FROM_BYTES}]


@pytest.fixture
def way_back(transactional_db: None) -> Iterator[None]:
    yield
    call_command("migrate", verbosity=0)


def test_a_response_in_one_body_is_split_and_joined_again(way_back: None) -> None:
    before = [("gateway", "0003_conversation_deployment")]
    executor = MigrationExecutor(connection)
    executor.migrate(before)
    rows = executor.loader.project_state(before).apps.get_model("gateway", "StoredResponse").objects
    now = timezone.now()
    for number in range(450):  # of more than two batches
        whole = {"input": ASKED, "response": {"id": f"resp_{number}", "output": SAID, "tools": []}}
        rows.create(
            id=f"resp_{number}",
            organization_id=DEFAULT_ORGANIZATION,
            status="completed",
            created_at=now,
            expires_at=now,
            body=pack(whole),
        )

    call_command("migrate", verbosity=0)
    with scopes_disabled():
        split = {row.pk: unpack_response(row.body, row.head) for row in StoredResponse.objects.all()}
    assert split == {f"resp_{n}": (ASKED, {"id": f"resp_{n}", "output": SAID, "tools": []}) for n in range(450)}

    MigrationExecutor(connection).migrate(before)
    assert unpack(rows.get(pk="resp_449").body) == whole


@pytest.mark.only_on("sqlite")
def test_sums_that_became_a_real_become_whole_again(way_back: None) -> None:
    before = [("billing", "0001_initial")]
    executor = MigrationExecutor(connection)
    executor.migrate(before)
    hours = executor.loader.project_state(before).apps.get_model("billing", "UsageHour").objects
    hours.create(hour=timezone.now(), organization_id=DEFAULT_ORGANIZATION, input_tokens=2**63 - 1, cost_pusd=7)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE billing_usagehour SET input_tokens = input_tokens + 1")
        cursor.execute("SELECT typeof(input_tokens) FROM billing_usagehour")
        assert cursor.fetchone() == ("real",)

    call_command("migrate", verbosity=0)
    with scopes_disabled():
        hour = UsageHour.objects.get()
    assert (hour.input_tokens, hour.cost_pusd) == (MAX_SUM, 7)
