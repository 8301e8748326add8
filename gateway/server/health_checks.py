"""Probes of deployments by a schedule, in threads of the worker: an upstream that hangs delays no other task."""

import logging
import threading
import time
from collections.abc import Callable

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from gateway.models import Deployment
from gateway.pipeline.probe import PROBER
from gateway.protocol.errors import BadRequest, Fault, UpstreamFault
from gateway.routing.error_class import ErrorClass
from gateway.server.background_worker import RUNNER
from gateway.stores.deployment_health import Kind, Outcome, claim_due, outcome_of, record_outcome, wants_call
from gateway.stores.deployment_probe import probe_deployment, usable_target
from gateway.upstream.listing import list_models
from gateway.upstream.proxy import ProxyRules
from tenants.permissions import MASTER

logger = logging.getLogger(__name__)

CONCURRENT = 4
START_S = 30.0
#: The errors of a list of models that say something of calls too. Many servers have no such list, or limit it apart.
CONCLUSIVE = frozenset({ErrorClass.CONNECT, ErrorClass.TIMEOUT, ErrorClass.AUTHENTICATION, ErrorClass.SERVER})


class HealthChecks:
    """`check` probes one deployment, in a thread."""

    def __init__(self, check: Callable[[Deployment], Outcome | None], *, concurrent: int = CONCURRENT) -> None:
        self._check = check
        self._free = threading.BoundedSemaphore(concurrent)
        self._concurrent = concurrent

    def run_due(self, interval_s: float) -> int:
        """Starts the probes that are due, as many as there are free threads; returns how many."""
        slots = 0
        while slots < self._concurrent and self._free.acquire(blocking=False):
            slots += 1
        claimed: list[Deployment] = []
        try:
            claimed = claim_due(interval_s, slots) if slots else []
            for deployment in claimed:
                threading.Thread(target=self._run, args=(deployment,), name="health check", daemon=True).start()
        finally:
            for _ in range(slots - len(claimed)):
                self._free.release()
        return len(claimed)

    def _run(self, deployment: Deployment) -> None:
        try:
            outcome = self._check(deployment)
            if outcome is not None:
                record_outcome(deployment.id, outcome)
        except DatabaseError as error:
            logger.error("a probe was not recorded", extra={"why": type(error).__name__})
        finally:
            connection.close()
            self._free.release()


def check_deployment(deployment: Deployment) -> Outcome | None:
    """None where the outcome is recorded already, or the gateway itself could not make the probe."""
    return _call(deployment) if wants_call(deployment) else _list(deployment)


def _list(deployment: Deployment) -> Outcome:
    began = time.monotonic()
    try:
        names = list_models(
            usable_target(deployment),
            connect_timeout_s=settings.TOLLGATE_CONNECT_TIMEOUT_S,
            proxies=ProxyRules(settings.UPSTREAM_PROXIES, settings.UPSTREAM_NO_PROXY),
        )
    except BadRequest as fault:
        return Outcome(Kind.MODELS, 0.0, message=fault.message, is_unknown=True)
    except UpstreamFault as fault:
        outcome = outcome_of(Kind.MODELS, time.monotonic() - began, fault)
        if outcome.error in CONCLUSIVE:
            return outcome
        return Outcome(Kind.MODELS, outcome.latency_s, message=fault.message, is_unknown=True)
    return Outcome(Kind.MODELS, time.monotonic() - began, is_unknown=names is None)


def _call(deployment: Deployment) -> Outcome | None:
    RUNNER.wake()  # its event loop makes the call
    if not PROBER.wait_connected(START_S):
        return None
    try:
        probe_deployment(deployment, MASTER, kind=Kind.CALL)
    except BadRequest as fault:
        return Outcome(Kind.CALL, 0.0, message=fault.message, is_unknown=True)
    except Fault as fault:
        logger.warning("a probe was not made", extra={"deployment": deployment.id, "why": fault.message})
    return None


HEALTH_CHECKS = HealthChecks(check_deployment)
