"""configure(store="postgresql://…"): its table, its outages, and its address in no error."""

import asyncio
import traceback
from urllib.parse import urlsplit

import openai
import psycopg
import pytest
from openai.types.responses import Response

from gateway import sdk
from gateway.sdk.postgres_database import PostgresDatabase
from gateway.sdk.process import PROCESS
from tests.fakes.services import Postgres, running_postgres
from tests.sdk.waiting import eventually

SECRET = "s3cret"
TABLE = "tollgate_sdk.gateway_storedresponse"


def create(text: str, **options: object) -> Response:
    response = sdk.responses(text, "mock/echo", **options)  # type: ignore[arg-type]
    assert isinstance(response, Response)
    return response


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_a_gateways_own_tables_are_left_alone(postgres: Postgres) -> None:
    url = postgres.migrated_database()
    sdk.configure(store=url)
    response = create("hello")
    assert execute(url, f"SELECT id FROM {TABLE}") == [(response.id,)]
    assert execute(url, "SELECT count(*) FROM public.gateway_storedresponse") == [(0,)]


def test_a_role_that_may_only_use_the_table_is_enough(postgres: Postgres) -> None:
    url = postgres.fresh_database()
    sdk.configure(store=url)
    name = urlsplit(url).path.removeprefix("/")
    role = f"reader_{name}"
    execute(url, f"CREATE ROLE {role} LOGIN")
    execute(url, f"GRANT USAGE ON SCHEMA tollgate_sdk TO {role}")
    execute(url, f"GRANT SELECT, INSERT, DELETE ON {TABLE} TO {role}")
    place = urlsplit(url).netloc.rpartition("@")[2]
    sdk.configure(store=url.replace(urlsplit(url).netloc, f"{role}@{place}"))
    assert sdk.get_responses(create("hello").id).output_text == "Echo: hello"


async def test_processes_that_begin_together_make_one_table(postgres: Postgres) -> None:
    url = postgres.fresh_database()
    await asyncio.gather(*(PostgresDatabase(url).prepare() for _ in range(8)))
    assert execute(url, f"SELECT count(*) FROM {TABLE}") == [(0,)]


def test_a_table_of_another_version_is_refused(postgres: Postgres) -> None:
    url = postgres.fresh_database()
    sdk.configure(store=url)
    execute(url, f"ALTER TABLE {TABLE} DROP COLUMN head")
    with pytest.raises(OSError, match="lacks head"):
        sdk.configure(store=url)


def test_a_deleted_response_and_expired_ones_leave_the_table(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.fresh_database()
    sdk.configure(store=url)
    monkeypatch.setattr("gateway.sdk.database_store.PURGE_AFTER", 2)
    deleted, parent = create("gone"), create("old")
    sdk.delete_responses(deleted.id)
    child = create("new", previous_response_id=parent.id)
    old = create("also old")
    execute(url, f"UPDATE {TABLE} SET expires_at = '2020-01-01' WHERE id IN ('{parent.id}', '{old.id}')")
    create("again")
    create("again")
    ids = {row[0] for row in execute(url, f"SELECT id FROM {TABLE}")}
    assert ids >= {parent.id, child.id}  # an ancestor lives as long as what builds upon it
    assert not ids & {old.id, deleted.id}
    assert create("more", previous_response_id=child.id).output_text == "Echo: more"


def test_an_outage_is_an_error_of_the_call_and_passes() -> None:
    with running_postgres() as server:
        sdk.configure(store=server.fresh_database())
        first = create("one")
        server.stop()
        with pytest.raises(openai.InternalServerError) as caught:
            create("two")
        assert caught.value.code == "store_unavailable"
        with pytest.raises(openai.InternalServerError):
            sdk.get_responses(first.id)
        server.start()
        third = create("three", previous_response_id=first.id)
        assert sdk.get_responses(third.id).output_text == "Echo: three"
        sdk.configure()


def test_connections_are_few_and_end_with_the_store(postgres: Postgres) -> None:
    url = postgres.fresh_database()
    name = urlsplit(url).path.removeprefix("/")

    def connections() -> int:
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
        return int(str(execute(postgres.fresh_database(), query)[0][0]))

    sdk.configure(store=url)
    first = create("first")

    async def together() -> None:
        await asyncio.gather(
            *(sdk.aresponses(f"{number}", "mock/echo", previous_response_id=first.id) for number in range(40))
        )

    asyncio.run(together())
    assert 1 <= connections() <= 8
    sdk.configure()
    eventually(lambda: connections() == 0)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{SECRET}@127.0.0.1:1/db",
        f"postgresql://ada:x@{SECRET}@127.0.0.1:1/db",
        f"postgresql://ada:x/{SECRET}@127.0.0.1:1/db",
        f"postgresql://ada:x#{SECRET}@127.0.0.1:1/db",
        f"postgresql://ada:x?{SECRET}@127.0.0.1:1/db",
        f"postgresql://ada:%zz{SECRET}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?password={SECRET}",
        f"postgresql://127.0.0.1:1/db?pasword={SECRET}",
        f"postgresql://ada:{SECRET}@[127.0.0.1:1/db",
        f"sqlite://ada:{SECRET}@[127.0.0.1:1/db",
    ],
)
def test_no_error_tells_the_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        sdk.configure(store=url)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert SECRET not in told
    assert SECRET not in repr(PROCESS.store) + repr(vars(PROCESS))
    assert create("hello").output_text == "Echo: hello"
