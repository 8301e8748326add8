"""The probes of deployments in the database: whose turn it is, what they told, and who hears of it."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django_scopes import scopes_disabled

from gateway.deployments import delete_deployment, save_deployment
from gateway.models import Deployment, DeploymentHealth
from gateway.protocol.errors import ConnectFault
from gateway.routing.error_class import ErrorClass
from gateway.server.health_checks import HealthChecks, check_deployment
from gateway.stores.deployment_health import (
    Kind,
    Outcome,
    claim_due,
    outcome_of,
    read_health,
    read_probed,
    record_outcome,
)
from tenants.database import database_now
from tenants.models import DEFAULT_ORGANIZATION, Role, User

pytestmark = pytest.mark.django_db(transaction=True)

INTERVAL_S = 300.0


def deploy(base: str = "http://qwen.example:9997/v1", *, enabled: bool = True, **info: object) -> Deployment:
    row = Deployment(
        model_group="m", provider="xinference", upstream_model="qwen", api_base=base, model_info=info, enabled=enabled
    )
    with scopes_disabled():
        return save_deployment(row, credential={})


def make_due() -> None:
    DeploymentHealth.objects.update(next_at=database_now() - timedelta(seconds=1))


def test_first_turns_are_spread_over_an_interval() -> None:
    rows = [deploy() for _ in range(20)]
    assert claim_due(INTERVAL_S, 4) == []
    turns = list(DeploymentHealth.objects.values_list("next_at", flat=True))
    assert len(turns) == len(rows)
    now = database_now()
    assert all(now - timedelta(seconds=60) < turn <= now + timedelta(seconds=INTERVAL_S) for turn in turns)
    assert len(set(turns)) == len(rows)


def test_a_turn_is_claimed_once_and_no_more_than_asked_for() -> None:
    for _ in range(5):
        deploy()
    claim_due(INTERVAL_S, 0)
    make_due()
    first, second = claim_due(INTERVAL_S, 3), claim_due(INTERVAL_S, 3)
    assert (len(first), len(second)) == (3, 2)
    assert not {row.id for row in first} & {row.id for row in second}
    assert claim_due(INTERVAL_S, 3) == []


def test_two_replicas_share_the_turns() -> None:
    for _ in range(12):
        deploy()
    claim_due(INTERVAL_S, 0)
    make_due()
    claimed: list[str] = []
    failures: list[BaseException] = []

    def claim() -> None:
        try:
            claimed.extend(row.id for row in claim_due(INTERVAL_S, 12))
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=claim) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(claimed) == len(set(claimed)) == 12


def test_disabled_and_exempt_deployments_are_left_alone() -> None:
    deploy(enabled=False)
    deploy(disable_background_health_check=True)
    probed = deploy()
    claim_due(INTERVAL_S, 0)
    make_due()
    assert [row.id for row in claim_due(INTERVAL_S, 10)] == [probed.id]


def test_an_outcome_is_stored_told_and_goes_with_its_deployment() -> None:
    row = deploy()
    since, _ = read_probed(None)
    fault = ConnectFault("The upstream at http://10.0.0.1/v1 could not be reached.")
    record_outcome(row.id, outcome_of(Kind.CALL, 0.25, fault))
    health = read_health([row.id])[row.id]
    assert (health.kind, health.result, health.latency_s) == ("call", "connect", 0.25)
    assert "10.0.0.1" not in health.message
    _, probes = read_probed(since)
    assert [(probe.deployment_id, probe.result) for probe in probes] == [(row.id, "connect")]
    assert read_probed(probes[0].probed_at)[1] == []
    with scopes_disabled():
        delete_deployment(row)
    assert not DeploymentHealth.objects.exists()


def test_an_outcome_of_a_deployment_that_is_gone_is_dropped() -> None:
    record_outcome("gone", Outcome(Kind.TEST, 0.1))
    assert not DeploymentHealth.objects.exists()


def test_a_list_of_models_that_cannot_be_reached_is_a_failure() -> None:
    outcome = check_deployment(deploy("http://127.0.0.1:9/v1"))
    assert outcome is not None
    assert (outcome.kind, outcome.error, outcome.is_unknown) == ("models", ErrorClass.CONNECT, False)


def test_probes_run_in_threads_no_more_at_once_than_allowed() -> None:
    for _ in range(3):
        deploy()
    claim_due(INTERVAL_S, 0)
    make_due()
    release, running = threading.Event(), threading.Semaphore(0)

    def hang(deployment: Deployment) -> Outcome:
        running.release()
        release.wait(60)
        return Outcome(Kind.MODELS, 0.5)

    checks = HealthChecks(hang, concurrent=2)
    assert checks.run_due(INTERVAL_S) == 2  # it returns although both hang
    for _ in range(2):
        assert running.acquire(timeout=60)
    assert checks.run_due(INTERVAL_S) == 0
    release.set()
    wait_for(lambda: checks.run_due(INTERVAL_S) == 1)
    wait_for(lambda: DeploymentHealth.objects.filter(result="ok").count() == 3)


def wait_for(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(600):
        if condition():
            return
        waiting.wait(0.05)
    raise AssertionError("not in time")


def test_the_test_page_is_for_admins_of_the_platform_and_calls_on_post_alone(client: Client) -> None:
    row = deploy()
    path = f"/console/gateway/deployment/{row.id}/test/"
    for role, status in ((Role.PLATFORM_VIEWER, 403), (Role.ORGANIZATION_ADMIN, 403)):
        user = User.objects.create(username=role.value, role=role, organization_id=DEFAULT_ORGANIZATION)
        client.force_login(user)
        assert client.get(path).status_code == status, role
        assert client.post(path, {"prompt": "hello"}).status_code == status, role
    client.force_login(User.objects.create(username="root", is_superuser=True))
    assert b"No call was made" not in client.get(path).content
    answer = client.post(path, {"prompt": "hello"})
    assert b"No call was made" in answer.content  # this process has no event loop of calls
    assert not DeploymentHealth.objects.exists()
