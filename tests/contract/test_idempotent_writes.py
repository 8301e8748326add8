"""A management write that is sent twice with one Idempotency-Key takes place once, on both databases."""

from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone
from django_scopes import scopes_disabled
from pytest_django import Settings

from gateway.protocol.errors import ClientFault
from tenants.idempotency import MAX_PER_CALLER, VALID, Answer, purge_writes, write_once
from tenants.models import AuditEntry, IdempotentWrite, Organization, Role, Team
from tests.contract.management import MASTER, Api, People, issue_role_key, key_count, refused

pytestmark = pytest.mark.django_db
ONCE = {"idempotency-key": "order-1"}


def age(by: timedelta) -> None:
    IdempotentWrite.objects.update(created_at=timezone.now() - by)


def test_a_repeated_write_gets_the_first_answer(api: Api):
    first = api.post("/key/generate", {"key_alias": "ci"}, headers=ONCE)
    again = api.post("/key/generate", {"key_alias": "ci"}, headers=ONCE)
    assert (first.status_code, again.status_code) == (200, 200), again.content
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again["idempotent-replayed"] == "true"
    assert again["Content-Type"] == first["Content-Type"] == "application/json"
    assert again["Cache-Control"] == "no-store"
    assert key_count() == 1
    assert AuditEntry.objects.filter(object_type="virtualkey").count() == 1


def test_the_stored_answer_shows_no_key(api: Api):
    text = api.post("/key/generate", {}, headers=ONCE).json()["key"]
    row = IdempotentWrite.objects.get()
    stored = repr(vars(row))
    assert text not in stored
    assert "order-1" not in stored
    assert MASTER not in stored


@pytest.mark.parametrize("path", ["/key/generate", "/key/service-account/generate", "/team/new", "/key/generate?a=b"])
def test_another_request_with_the_key_is_422(api: Api, path: str):
    assert api.post("/key/generate", {"key_alias": "ci"}, headers=ONCE).status_code == 200
    body = {"key_alias": "other"} if path == "/key/generate" else {"key_alias": "ci"}
    refused(api.post(path, body, headers=ONCE), 422, "Idempotency-Key", "idempotency_key_mismatch")
    assert key_count() == 1


def test_a_key_is_the_callers_own(api: Api, people: People):
    callers = [MASTER, issue_role_key(people.home, Role.ORGANIZATION_ADMIN, "ada"), people.owner]
    texts = [api.post("/key/generate", {}, by=by, headers=ONCE).json()["key"] for by in callers]
    assert len(set(texts)) == 3
    assert [api.post("/key/generate", {}, by=by, headers=ONCE).json()["key"] for by in callers] == texts
    refused(api.post("/key/generate", {}, by=None, headers=ONCE), 401)


def test_a_rotated_key_is_the_same_caller(api: Api, people: People):
    body = {"key_alias": "deploy"}
    first = api.post("/key/generate", body, by=people.owner, headers=ONCE)
    rotated = api.post("/key/regenerate", {"key": people.owner}).json()["key"]
    assert api.post("/key/generate", body, by=rotated, headers=ONCE).content == first.content


def test_a_refused_write_leaves_the_key_free(api: Api):
    refused(api.post("/team/new", {"team_alias": "x", "max_budget": "much"}, headers=ONCE), 400, "max_budget")
    assert not IdempotentWrite.objects.exists()
    response = api.post("/team/new", {"team_alias": "x", "max_budget": 1}, headers=ONCE)
    assert response.status_code == 200
    assert "idempotent-replayed" not in response.headers


@pytest.mark.parametrize("value", ["", "x" * 256, "käse", "a\tb"])
def test_a_header_that_is_no_key_is_refused(api: Api, value: str):
    refused(api.post("/key/generate", {}, headers={"idempotency-key": value}), 400, "Idempotency-Key", "invalid_value")
    assert key_count() == 0


def test_a_read_ignores_the_header(api: Api):
    client = api.client
    for _ in range(2):
        assert client.get("/key/list", headers={**api.headers(MASTER), **ONCE}).status_code == 200
    assert api.post("/key/health", {}, headers=ONCE).status_code == 200
    assert not IdempotentWrite.objects.exists()


def test_after_a_day_a_key_is_free_and_its_answer_erased(api: Api):
    api.post("/key/generate", {}, headers=ONCE)
    age(VALID - timedelta(minutes=1))
    assert purge_writes() == 0
    assert api.post("/key/generate", {}, headers=ONCE)["idempotent-replayed"] == "true"
    age(VALID + timedelta(minutes=1))
    assert api.post("/key/generate", {"key_alias": "new"}, headers=ONCE).status_code == 200
    assert key_count() == 2
    age(VALID + timedelta(minutes=1))
    assert purge_writes() == 1
    assert not IdempotentWrite.objects.exists()


def test_a_caller_keeps_a_bounded_number_of_answers(api: Api):
    IdempotentWrite.objects.bulk_create(
        IdempotentWrite(caller=caller, key_digest=str(number), request_digest="", answer="", created_at=timezone.now())
        for caller, count in (("master", MAX_PER_CALLER), ("key:other", 3))
        for number in range(count)
    )
    assert api.post("/key/generate", {}, headers=ONCE).status_code == 200
    rows = IdempotentWrite.objects
    assert rows.filter(caller="master").count() == MAX_PER_CALLER
    assert not rows.filter(caller="master", key_digest="0").exists()
    assert rows.filter(caller="key:other").count() == 3
    assert api.post("/key/generate", {}, headers=ONCE)["idempotent-replayed"] == "true"


def test_an_answer_that_cannot_be_opened_is_said_and_not_repeated(api: Api, settings: Settings):
    api.post("/key/generate", {}, headers=ONCE)
    old = settings.TOLLGATE_ENCRYPTION_KEYS
    new = Fernet.generate_key().decode()
    settings.TOLLGATE_ENCRYPTION_KEYS = [new]
    refused(api.post("/key/generate", {}, headers=ONCE), 409, "Idempotency-Key", "idempotency_answer_lost")
    assert key_count() == 1
    settings.TOLLGATE_ENCRYPTION_KEYS = [new, *old]
    assert api.post("/key/generate", {}, headers=ONCE)["idempotent-replayed"] == "true"


def test_an_answer_moved_to_another_caller_is_refused(api: Api, people: People):
    api.post("/key/generate", {}, headers=ONCE)
    stranger = api.post("/key/generate", {"key_alias": "own"}, by=people.stranger, headers=ONCE)
    assert stranger.status_code == 200
    mine, theirs = IdempotentWrite.objects.order_by("id")
    IdempotentWrite.objects.filter(pk=theirs.pk).update(answer=mine.answer)
    response = api.post("/key/generate", {"key_alias": "own"}, by=people.stranger, headers=ONCE)
    refused(response, 409, "Idempotency-Key", "idempotency_answer_lost")


# At the same time


@pytest.fixture
def shared(transactional_db: None, api: Api) -> Api:
    with scopes_disabled():
        Organization.objects.get_or_create(id="default", defaults={"name": "Default"})
    return api


def run_threads(*functions: Callable[[], object]) -> None:
    def run(function: Callable[[], object]) -> None:
        try:
            function()
        finally:
            connection.close()

    threads = [Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_parallel_requests_write_once(shared: Api):
    answers: list[Any] = []

    def generate() -> None:
        answers.append(Api(Client()).post("/key/generate", {"key_alias": "once"}, headers=ONCE))

    run_threads(*[generate] * 6)
    assert key_count() == 1
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 409}, statuses
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    for answer in answers:
        if answer.status_code == 409:
            refused(answer, 409, "Idempotency-Key", "idempotency_conflict")
            assert answer["x-should-retry"] == "true"


@pytest.mark.only_on("postgres")
def test_while_a_write_runs_the_same_one_is_409(shared: Api):
    """SQLite has one writer: there the second request waits for the first."""
    started, goes_on = Event(), Event()
    results: list[object] = []

    def slow() -> Answer:
        started.set()
        assert goes_on.wait(60)
        return Answer(200, {}, "done")

    def send(write: Callable[[], Answer]) -> None:
        try:
            results.append(write_once(caller="master", key="k", request=b"r", write=write).body)
        except ClientFault as fault:
            results.append(fault.status)

    def second() -> None:
        assert started.wait(60)
        send(lambda: Answer(200, {}, "twice"))
        goes_on.set()

    run_threads(lambda: send(slow), second)
    assert results == [409, "done"]
    send(lambda: Answer(200, {}, "third"))
    assert results[2] == "done"


def test_other_writers_go_on_while_a_repeatable_write_works(shared: Api):
    def write_elsewhere() -> None:
        with scopes_disabled():
            Team.objects.create(id="meanwhile", organization_id="default", alias="meanwhile")

    def write() -> Answer:
        assert not connection.in_atomic_block
        run_threads(write_elsewhere)
        return Answer(200, {}, "done")

    def send(request: bytes, write: Callable[[], Answer]) -> Answer:
        return write_once(caller="master", key="k", request=request, write=write, is_repeatable=True)

    assert send(b"r", write) == Answer(200, {}, "done")
    with scopes_disabled():
        assert Team.objects.filter(id="meanwhile").exists()
    assert send(b"r", lambda: Answer(200, {}, "twice")) == Answer(200, {}, "done", is_replayed=True)
    with pytest.raises(ClientFault) as refusal:
        send(b"other", lambda: Answer(200, {}, "other"))
    assert refusal.value.status == 422


def test_of_two_repeatable_writes_at_once_both_have_one_answer(shared: Api):
    def send(write: Callable[[], Answer]) -> str:
        return write_once(caller="master", key="k", request=b"r", write=write, is_repeatable=True).body

    def write() -> Answer:
        assert send(lambda: Answer(200, {}, "first")) == "first"
        return Answer(200, {}, "second")

    assert send(write) == "first"
    assert send(lambda: Answer(200, {}, "third")) == "first"
    assert IdempotentWrite.objects.count() == 1


class Killed(BaseException):
    pass


def test_a_write_that_is_cut_off_leaves_nothing(shared: Api):
    def die() -> Answer:
        with scopes_disabled(), transaction.atomic():
            Team.objects.create(id="half", organization_id="default", alias="half")
        raise Killed

    with pytest.raises(Killed):
        write_once(caller="master", key="k", request=b"r", write=die)
    with scopes_disabled():
        assert not Team.objects.filter(id="half").exists()
    assert write_once(caller="master", key="k", request=b"r", write=lambda: Answer(200, {}, "ok")).body == "ok"
