"""The health of deployments in the database: who probes which one next, and what the last probes have told.

A claim moves the next probe on before it is made, so one process at a time makes it; one that dies skips a turn.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import SystemRandom

from django_scopes import scopes_disabled

from gateway.models import Deployment, DeploymentHealth
from gateway.protocol.errors import UpstreamFault, sanitize
from gateway.routing.error_class import ErrorClass, error_class
from tenants.database import database_now

#: Turns come earlier or later by this share, so that deployments made together are not probed together.
JITTER = 0.1
MAX_MESSAGE = 1000
RANDOM = SystemRandom()
OK, UNKNOWN = "ok", "unknown"
CALL = "call"  # of model_info.health_check
Kind = DeploymentHealth.Kind


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error`: None where the deployment answered, or where the probe tells nothing of it (`is_unknown`)."""

    kind: str
    latency_s: float
    error: ErrorClass | None = None
    message: str = ""
    is_unknown: bool = False

    @property
    def result(self) -> str:
        return str(self.error) if self.error is not None else UNKNOWN if self.is_unknown else OK


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe that has ended, for the breaker of a process."""

    deployment_id: str
    probed_at: datetime
    kind: str
    result: str
    latency_s: float


def outcome_of(kind: str, latency_s: float, fault: UpstreamFault | None) -> Outcome:
    if fault is None:
        return Outcome(kind, latency_s)
    return Outcome(kind, latency_s, error_class(fault), fault.message)


def claim_due(interval_s: float, limit: int) -> list[Deployment]:
    """Takes the turns of enabled deployments whose next probe is due; at most `limit`."""
    with scopes_disabled():  # the worker probes the deployments of all organizations
        now = database_now()
        _add_missing(now, interval_s)
        due = DeploymentHealth.objects.filter(next_at__lte=now, deployment__enabled=True).select_related("deployment")
        claimed: list[Deployment] = []
        for row in due.order_by("next_at")[:limit]:
            turn = DeploymentHealth.objects.filter(pk=row.pk, next_at=row.next_at)
            if turn.update(next_at=now + _turn(interval_s)) and not is_exempt(row.deployment):
                claimed.append(row.deployment)
        return claimed


def is_exempt(deployment: Deployment) -> bool:
    return deployment.model_info.get("disable_background_health_check") is True


def wants_call(deployment: Deployment) -> bool:
    """The deployment is probed by a paid call."""
    return bool(deployment.model_info.get("health_check") == CALL)


def record_outcome(deployment_id: str, outcome: Outcome) -> None:
    """Nothing is stored for a deployment that is not there (any more)."""
    fields = {
        "probed_at": database_now(),
        "kind": outcome.kind,
        "result": outcome.result,
        "message": sanitize(outcome.message)[:MAX_MESSAGE],
        "latency_s": outcome.latency_s,
    }
    with scopes_disabled():  # the deployment is at hand, or was just probed for all
        if DeploymentHealth.objects.filter(deployment_id=deployment_id).update(**fields):
            return
        if Deployment.objects.filter(id=deployment_id).exists():
            row = DeploymentHealth(deployment_id=deployment_id, **fields)
            DeploymentHealth.objects.bulk_create([row], ignore_conflicts=True)


def read_health(deployment_ids: Collection[str]) -> dict[str, DeploymentHealth]:
    """The rows of deployments that have been probed. The caller may read these deployments."""
    rows = DeploymentHealth.objects.filter(deployment_id__in=deployment_ids).exclude(probed_at=None)
    return {row.deployment_id: row for row in rows}


def read_probed(since: datetime | None) -> tuple[datetime, Sequence[Probed]]:
    """(the database's clock, the probes since then); none where `since` is None."""
    now = database_now()
    if since is None:
        return now, ()
    rows = DeploymentHealth.objects.filter(probed_at__gt=since).order_by("probed_at")
    return now, [
        Probed(row.deployment_id, row.probed_at, row.kind, row.result, row.latency_s) for row in rows if row.probed_at
    ]


def _add_missing(now: datetime, interval_s: float) -> None:
    """Gives each enabled deployment a first turn, spread over one interval."""
    turns = DeploymentHealth.objects.filter(next_at__isnull=False).values("deployment_id")
    missing = list(Deployment.objects.filter(enabled=True).exclude(id__in=turns).values_list("id", flat=True))
    if not missing:
        return
    rows = [DeploymentHealth(deployment_id=name) for name in missing]
    DeploymentHealth.objects.bulk_create(rows, ignore_conflicts=True)
    for name in missing:
        first = now + timedelta(seconds=interval_s * RANDOM.random())
        DeploymentHealth.objects.filter(deployment_id=name, next_at=None).update(next_at=first)


def _turn(interval_s: float) -> timedelta:
    return timedelta(seconds=interval_s * RANDOM.uniform(1 - JITTER, 1 + JITTER))
