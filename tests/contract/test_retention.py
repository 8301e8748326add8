"""Which rows stay, for how long, and which are gone after a purge, in either database."""

import random
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.models import BackgroundRun, Conversation, ConversationItem, EventBatch, IdempotencyKey, StoredResponse
from gateway.state.packing import pack
from gateway.stores.conversations import PLACES
from gateway.stores.erasure import PAUSES_S, empty_log
from gateway.stores.retention import (
    GRACE,
    Batch,
    Candidate,
    Limits,
    Selection,
    count_expired,
    erase_selected,
    limits,
    purge_expired,
)
from gateway.tasks import purge_responses
from tenants.directory import load_principal
from tenants.keys import issue_key
from tenants.models import DEFAULT_ORGANIZATION, Organization
from tenants.organizations import OrganizationInvalid, create_organization, update_organization
from tenants.revision import current_revision

DAY = timedelta(days=1)
TEAM = "team:home"
MARKER = b"the words that must be gone"


@pytest.fixture(autouse=True)
def home(db: None) -> Iterator[None]:
    with scopes_disabled():
        abroad = Organization.objects.create(id="abroad", name="Abroad")
        yield
        abroad.delete()


def stored(name: str, *, parent: str = "", expires_in: timedelta = -DAY, **fields: Any) -> StoredResponse:
    created = timezone.now() - 30 * DAY + expires_in
    defaults = {
        "organization_id": DEFAULT_ORGANIZATION,
        "owner": TEAM,
        "status": "completed",
        "body": pack({"x": name}),
    }
    return StoredResponse.objects.create(
        id=name,
        parent_id=parent,
        model_group="m",
        **(defaults | {"created_at": created, "expires_at": timezone.now() + expires_in} | fields),
    )


def logged(name: str) -> None:
    """The rows that a background response has beside itself."""
    for number in range(3):
        EventBatch.objects.create(
            response_id=name,
            organization_id=DEFAULT_ORGANIZATION,
            first_number=number,
            last_number=number,
            body=pack([{"sequence_number": number}]),
        )


def running(name: str) -> None:
    BackgroundRun.objects.create(
        response_id=name,
        organization_id=DEFAULT_ORGANIZATION,
        key_digest="",
        request_id="",
        request=b"{}",
        queued_at=timezone.now(),
    )


def talked(name: str, *, ago: timedelta, said_ago: timedelta, owner: str = TEAM) -> None:
    now = timezone.now()
    Conversation.objects.create(
        id=name, organization_id=DEFAULT_ORGANIZATION, owner=owner, created_at=now - ago, metadata={}
    )
    for number in range(120):
        ConversationItem.objects.create(
            conversation_id=name,
            organization_id=DEFAULT_ORGANIZATION,
            item_id=f"{name}_{number}",
            position=round((now - said_ago).timestamp() * 1e6) * PLACES + number,
            body=b"{}",
        )


def claimed(name: str, owner: str = TEAM) -> None:
    IdempotencyKey.objects.create(
        organization_id=DEFAULT_ORGANIZATION,
        owner=owner,
        digest=name,
        body_digest="",
        response_id=name,
        writer_id="",
        created_at=timezone.now(),
    )


def there() -> set[str]:
    return set(StoredResponse.objects.values_list("pk", flat=True))


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("purge", *arguments, stdout=out)
    return out.getvalue()


# What has expired


def test_what_has_expired_goes_with_its_events_and_nothing_else() -> None:
    stored("gone", is_background=True)
    logged("gone")
    stored("kept", expires_in=DAY, is_background=True)
    logged("kept")
    assert purge_expired().responses == 1
    assert there() == {"kept"}
    assert set(EventBatch.objects.values_list("response_id", flat=True)) == {"kept"}


def test_a_response_that_expired_a_moment_ago_stays_for_a_follow_up_on_its_way() -> None:
    stored("just", expires_in=-GRACE / 2)
    stored("long ago", expires_in=-GRACE * 2)
    purge_expired()
    assert there() == {"just"}


def test_what_a_response_builds_upon_stays_until_that_one_expires() -> None:
    stored("first")
    stored("second", parent="first")
    last = stored("third", parent="second", expires_in=DAY)
    stored("fork", parent="first")
    stored("fork's child", parent="fork")
    assert purge_expired().responses == 2
    assert there() == {"first", "second", "third"}
    StoredResponse.objects.filter(pk=last.pk).update(expires_at=timezone.now() - DAY)
    assert purge_expired().responses == 3
    assert there() == set()


def test_a_chain_goes_in_one_purge_however_long_it_is_and_in_which_order_it_expired() -> None:
    longer = limits().rows * 2 + 7 if limits().rows < 100 else 130
    for number in range(longer):
        # The retention was shortened on the way: a parent may expire after its child
        stored(f"r{number}", parent=f"r{number - 1}" if number else "", expires_in=-DAY - timedelta(seconds=number))
    assert purge_expired().responses == longer
    assert there() == set()


def test_a_response_that_is_being_made_stays_and_so_does_what_it_builds_upon() -> None:
    stored("parent")
    stored("running", parent="parent", status="in_progress", is_background=True)
    assert purge_expired().responses == 0
    assert there() == {"parent", "running"}


def test_a_purge_of_one_organization_leaves_the_others() -> None:
    stored("home")
    stored("abroad", organization_id="abroad")
    assert count_expired("abroad") == (1, 0)
    assert purge_expired("abroad").responses == 1
    assert there() == {"home"}


@pytest.mark.parametrize("seed", range(8))
def test_after_a_purge_there_is_what_has_not_expired_and_what_it_builds_upon(seed: int) -> None:
    dice = random.Random(seed)
    parents: dict[str, str] = {}
    alive: set[str] = set()
    for number in range(150):
        name = f"r{number}"
        parents[name] = dice.choice([*parents, "", ""]) if parents else ""
        is_alive = dice.random() < 0.1
        if is_alive:
            alive.add(name)
        # some are so large that a batch has room for one only
        body = b"x" * (600 * 1024 if dice.random() < 0.03 else 20)
        stored(name, parent=parents[name], expires_in=DAY if is_alive else -DAY * dice.randint(1, 9), body=body)
    expected = set(alive)
    for name in alive:
        while name := parents[name]:
            expected.add(name)
    going, staying = count_expired()
    assert (going, staying) == (150 - len(expected), len(expected) - len(alive))
    assert purge_expired().responses == going
    assert there() == expected
    assert purge_expired().responses == 0


def test_a_purge_that_ran_out_of_time_says_so_and_the_next_one_goes_on() -> None:
    for number in range(limits().rows * 2 + 1):
        stored(f"r{number}")
    first = purge_expired(busy_s=0)
    assert (first.responses, first.is_done) == (limits().rows, False)
    purge_expired()
    assert there() == set()


def test_the_task_purges() -> None:
    stored("gone")
    purge_responses()
    assert there() == set()


# How much at once


def test_a_batch_is_bounded_by_rows_and_by_bytes_and_has_room_for_one_of_any_size() -> None:
    def row(name: str, size: int) -> Candidate:
        return Candidate(None, name, "", False, size)

    batch = Batch(Limits(rows=3, size=100))
    assert [batch.take(row(name, 40)) for name in "abc"] == [True, True, False]
    assert batch.take(row("a", 40))  # it is in there already
    assert batch.size == 80
    batch = Batch(Limits(rows=3, size=100))
    assert [batch.take(row(name, 0)) for name in "abcd"] == [True, True, True, False]
    assert Batch(Limits(rows=3, size=100)).take(row("huge", 10_000))
    assert limits().rows <= 1000


def test_no_transaction_erases_more_than_a_batch() -> None:
    for number in range(limits().rows + 20 if limits().rows < 100 else 120):
        stored(f"r{number}", is_background=True)
        logged(f"r{number}")
    with CaptureQueriesContext(connection) as captured:
        purge_expired()
    deletes = [query["sql"] for query in captured.captured_queries if query["sql"].startswith("DELETE")]
    assert deletes
    assert max(sql.count(",") + 1 for sql in deletes) <= limits().rows


# By hand


def test_all_of_an_owner_is_erased_whether_it_has_expired_or_not() -> None:
    stored("mine", expires_in=DAY)
    stored("mine, running", status="in_progress", is_background=True, expires_in=DAY)
    logged("mine, running")
    running("mine, running")
    talked("conv_mine", ago=DAY, said_ago=DAY)
    claimed("mine")
    stored("theirs", owner="team:other", expires_in=DAY)
    talked("conv_theirs", ago=DAY, said_ago=DAY, owner="team:other")
    claimed("theirs", owner="team:other")
    stored("abroad", organization_id="abroad", expires_in=DAY)
    erased = erase_selected(Selection(DEFAULT_ORGANIZATION, TEAM))
    assert (erased.responses, erased.conversations) == (2, 1)
    assert there() == {"theirs", "abroad"}
    assert set(Conversation.objects.values_list("pk", flat=True)) == {"conv_theirs"}
    assert set(ConversationItem.objects.values_list("conversation_id", flat=True)) == {"conv_theirs"}
    assert set(IdempotencyKey.objects.values_list("digest", flat=True)) == {"theirs"}
    assert not EventBatch.objects.exists()
    assert not BackgroundRun.objects.exists()


def test_what_was_made_before_a_day_is_erased_whoever_made_it() -> None:
    now = timezone.now()
    for owner in ("team:a", "user:b", "key:c"):
        for ago in (1, 5, 9):
            stored(f"{owner} {ago}", owner=owner, expires_in=DAY, created_at=now - ago * DAY)
    talked("conv_old", ago=9 * DAY, said_ago=8 * DAY)
    talked("conv_in_use", ago=9 * DAY, said_ago=DAY)
    erased = erase_selected(Selection(before=now - 4 * DAY))
    assert (erased.responses, erased.conversations) == (6, 1)
    assert there() == {"team:a 1", "user:b 1", "key:c 1"}
    assert set(Conversation.objects.values_list("pk", flat=True)) == {"conv_in_use"}


@pytest.mark.only_on("sqlite")  # VACUUM clears the files of PostgreSQL
@pytest.mark.django_db(transaction=True, available_apps=["gateway"])
def test_erased_words_are_in_no_file_any_more() -> None:
    path = Path(connection.settings_dict["NAME"])
    with scopes_disabled():
        for number in range(20):
            stored(f"r{number}", expires_in=DAY, body=b'{"x": "' + MARKER * (1 + 400 * number) + b'"}')
        _checkpoint()
        assert MARKER in path.read_bytes()
        erase_selected(Selection(owner=TEAM))
        _checkpoint()
    assert MARKER not in path.read_bytes()


@pytest.mark.only_on("sqlite")  # PostgreSQL has no log that a reader holds
@pytest.mark.django_db(transaction=True, available_apps=["gateway"])
def test_an_erasure_beside_a_read_makes_no_writer_wait_and_the_next_purge_empties_the_log() -> None:
    path = connection.settings_dict["NAME"]
    reading, writing = (sqlite3.connect(path, timeout=0, isolation_level=None) for _ in range(2))
    waits: list[int] = []

    def pause(_: float) -> None:
        writing.execute("BEGIN IMMEDIATE")
        writing.execute("ROLLBACK")
        waits.append(_busy_timeout())

    with scopes_disabled():
        stored("r1", expires_in=DAY)
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM gateway_storedresponse").fetchone()
        stored("r2", expires_in=DAY)  # the reader does not see it: it must stay in the log
        before = _busy_timeout()
        empty_log(pause)
        log = Path(f"{path}-wal")
        assert waits == [0] * len(PAUSES_S)  # it never waited while it had the write lock
        assert (_busy_timeout(), log.stat().st_size > 0) == (before, True)
        reading.close()
        assert purge_expired().responses == 0
    assert before > 0
    assert log.stat().st_size == 0
    writing.close()


def _busy_timeout() -> int:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        return int(cursor.fetchone()[0])


def _checkpoint() -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# The command


def test_a_dry_run_says_how_much_and_erases_nothing() -> None:
    stored("held")
    stored("last", parent="held", expires_in=DAY)
    stored("gone")
    talked("conv", ago=DAY, said_ago=DAY)
    before = there()
    output = run("--dry-run")
    assert "would purge 1 expired response\n" in output
    assert "1 expired response stay" in output
    assert run("--dry-run", "--owner", TEAM) == "would erase 3 responses and 1 conversation\n"
    assert there() == before
    assert "purged 1 expired response\n" in run()
    assert there() == {"held", "last"}
    assert run("--owner", TEAM, "--no-input") == "erased 2 responses and 1 conversation\n"
    assert there() == set()


def test_a_whole_organization_and_a_day_can_be_erased_by_the_command() -> None:
    stored("home", expires_in=DAY)
    stored("abroad", organization_id="abroad", expires_in=DAY)
    run("--organization", "abroad", "--all", "--no-input")
    assert there() == {"home"}
    run("--before", "2001-01-31", "--no-input")
    assert there() == {"home"}
    run("--before", (datetime.now(UTC) + DAY).isoformat(), "--no-input")
    assert there() == set()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--organization", "unknown"], "--organization"),
        (["--owner", "unknown"], "--owner"),
        (["--owner", "team:"], "--owner"),
        (["--all"], "--all"),
        (["--before", "yesterday"], "--before"),
    ],
)
def test_the_command_says_which_option_it_cannot_use(arguments: list[str], named: str) -> None:
    stored("kept", expires_in=DAY)
    with pytest.raises(CommandError, match=named):
        run(*arguments, "--no-input")
    assert there() == {"kept"}


# An organization's own number


def test_an_organizations_retention_reaches_its_keys_at_once() -> None:
    organization = create_organization(name="Careful", retention_days=7)
    key = issue_key(organization=organization).key
    before = current_revision()
    principal = load_principal(key.digest)
    assert principal is not None
    assert principal.retention_days == 7
    update_organization(organization, changes={"retention_days": None})
    principal = load_principal(key.digest)
    assert principal is not None
    assert principal.retention_days is None
    assert current_revision() > before


@pytest.mark.parametrize("days", [0, -1, 36_501])
def test_a_retention_that_cannot_be_is_refused(days: int) -> None:
    with pytest.raises(OrganizationInvalid) as refused:
        create_organization(name="Careless", retention_days=days)
    assert refused.value.param == "retention_days"
    assert not Organization.objects.filter(name="Careless").exists()
