"""A report that takes too long ends, in either database, and leaves the connection as it was."""

import threading
from collections.abc import Callable

import psycopg
import pytest
from django.db import OperationalError, connection

from billing.reports.guard import limit_time
from gateway.protocol.errors import ClientFault, GatewayFault
from tenants.rest.client_departure import ClientDeparture

pytestmark = pytest.mark.django_db
#: It would count for minutes.
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n"


def run(statement: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def run_after(action: Callable[[], None]) -> None:
    action()
    run(ENDLESS)


def test_a_statement_that_takes_too_long_is_ended() -> None:
    with pytest.raises(GatewayFault, match=r"longer than 0\.2 seconds") as refusal, limit_time(0.2):
        run(ENDLESS)
    assert (refusal.value.status, refusal.value.code) == (503, "report_timeout")
    assert run("SELECT 1") == 1


def test_the_limit_ends_with_the_block() -> None:
    with limit_time(60):
        assert run("SELECT 1") == 1
    if connection.vendor == "postgresql":
        assert run("SELECT current_setting('statement_timeout')") == "0"


def test_any_other_failure_stays_itself() -> None:
    with pytest.raises(OperationalError, match="away"), limit_time(60):
        raise OperationalError("away")


def test_the_report_of_a_client_that_has_left_is_not_made() -> None:
    departure = ClientDeparture()
    departure.note()
    with pytest.raises(ClientFault) as refusal, limit_time(60, departure):
        raise AssertionError("it was begun")
    assert refusal.value.status == 499


@pytest.mark.only_on("sqlite")
def test_the_statement_of_a_client_that_leaves_is_ended_by_its_own_connection() -> None:
    departure = ClientDeparture()
    with pytest.raises(ClientFault), limit_time(60, departure):
        run_after(departure.note)
    assert run("SELECT 1") == 1


@pytest.mark.only_on("postgres")
def test_the_statement_of_a_client_that_leaves_is_ended() -> None:
    departure = ClientDeparture()
    parameters = connection.get_connection_params() | {"autocommit": True}
    settings = {
        name: parameters[name] for name in ("dbname", "user", "password", "host", "port") if parameters.get(name)
    }

    def leave_when_it_runs() -> None:
        running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"
        with psycopg.connect(**settings) as watcher:
            while watcher.execute(running, [ENDLESS]).fetchone() == (0,):
                pass
        departure.note()

    leaving = threading.Thread(target=leave_when_it_runs)
    with pytest.raises(ClientFault), limit_time(60, departure):
        run_after(leaving.start)
    leaving.join()
    assert run("SELECT 1") == 1
