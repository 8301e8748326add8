"""GET /health: the deployments by what the gateway knows of them without a call that costs money.

A deployment is unhealthy if the gateway cannot use it as it is stored, if its upstream refuses the credential, if its
newest call of the last minutes failed at the upstream, or if it is out of its group. The look back is bounded: of a
deployment without a recent call nothing bad is known.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import SpendLog
from gateway.models import Deployment, DeploymentHealth
from gateway.models.encryption import CredentialUnusable
from gateway.protocol.json.types import JsonObject
from gateway.protocol.secret_fields import strip_user
from gateway.rest.models import ModelView
from gateway.routing.breaker import SOUND, DeploymentState, Ejection, State
from gateway.routing.deployment_target import DeploymentUnusable
from gateway.routing.live_states import LIVE_STATES
from gateway.stores.catalog import target_of
from gateway.stores.deployment_health import read_health
from tenants.rest.fields import read_query, render_instant

RECENT = timedelta(minutes=15)
MAX_CALLS = 2000
MAX_MODELS = 20
#: Errors of the gateway itself, which say nothing of the deployment that was to answer.
OWN_ERRORS = frozenset({"gateway_unavailable", "internal_error", "shutting_down"})


class Health(ModelView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"model", "model_id"})
        rows = Deployment.objects.filter(enabled=True).order_by("model_group", "id")
        if "model" in query:
            rows = rows.filter(model_group=query["model"])
        if "model_id" in query:
            rows = rows.filter(id=query["model_id"])
        healthy: list[JsonObject] = []
        unhealthy: list[JsonObject] = []
        calls, states = _read_newest_calls(), LIVE_STATES.read()
        probes = read_health([row.id for row in rows])
        for row in rows:
            call, state = calls.get(row.id), states.get(row.id, SOUND)
            problem = _find_problem(row, call, state)
            shown = {**_render(row, call), **_render_state(state), **_render_probe(probes.get(row.id)), **problem}
            (unhealthy if problem else healthy).append(shown)
        return Response(
            {
                "healthy_endpoints": healthy,
                "unhealthy_endpoints": unhealthy,
                "healthy_count": len(healthy),
                "unhealthy_count": len(unhealthy),
            }
        )


def _read_newest_calls() -> Mapping[str, SpendLog]:
    """The newest ended call of each deployment."""
    columns = ("deployment_id", "status_code", "error_code", "error_message", "ended_at")
    newest: Iterable[SpendLog] = SpendLog.objects.order_by("-id").only(*columns)[:MAX_CALLS]
    since = timezone.now() - RECENT
    calls: dict[str, SpendLog] = {}
    for call in newest:
        if call.ended_at is not None and call.ended_at >= since and call.error_code not in OWN_ERRORS:
            calls.setdefault(call.deployment_id, call)
    return calls


def _find_problem(row: Deployment, call: SpendLog | None, state: DeploymentState) -> JsonObject:
    try:
        target_of(row)
    except CredentialUnusable:
        return {"error": "The stored credential cannot be opened here; give it again.", "error_code": "model_unusable"}
    except DeploymentUnusable as error:
        return {"error": f"The model cannot be used: {error}.", "error_code": "model_unusable"}
    if state.refused_since_s is not None:
        return {"error": "The upstream refuses the stored credential.", "error_code": "upstream_auth_failed"}
    if call is not None and call.error_code and call.status_code >= 500:
        return {"error": call.error_message or "The newest call failed.", "error_code": call.error_code}
    if state.ejection is not None:
        rest = "one call at a time tries it" if state.state is State.HALF_OPEN else "it gets no calls for now"
        return {"error": f"Out after {state.ejection.error_class} errors: {rest}.", "error_code": "cooling_down"}
    return {}


def _render(row: Deployment, call: SpendLog | None) -> JsonObject:
    return {
        "model": f"{row.provider}/{row.upstream_model}",
        "model_name": row.model_group,
        "model_id": row.id,
        "api_base": strip_user(row.api_base),
        "last_call_at": render_instant(call.ended_at) if call is not None else None,
    }


def _render_state(state: DeploymentState) -> JsonObject:
    """The state by the breaker of this process; where there is a Redis, by those of all processes."""
    last_error = state.last_error
    return {
        "state": str(state.state),
        "cooldown": None if state.ejection is None else _render_ejection(state.ejection),
        "models_in_cooldown": [
            {"model": model, **_render_ejection(ejection)}
            for model, ejection in sorted(state.models.items())[:MAX_MODELS]
        ],
        "credentials_refused_since": None if state.refused_since_s is None else _instant(state.refused_since_s),
        "last_error": None
        if last_error is None
        else {"error_class": str(last_error[0]), "at": _instant(last_error[1])},
    }


def _render_ejection(ejection: Ejection) -> JsonObject:
    return {
        "error_class": str(ejection.error_class),
        "until": _instant(ejection.until_s),
        "ejections": ejection.number,
    }


def _render_probe(health: DeploymentHealth | None) -> JsonObject:
    if health is None:
        return {"last_probe": None}
    return {
        "last_probe": {
            "at": render_instant(health.probed_at),
            "kind": health.kind,
            "result": health.result,
            "latency_s": round(health.latency_s, 3),
            "message": health.message,
        }
    }


def _instant(seconds: float) -> str | None:
    return render_instant(datetime.fromtimestamp(int(seconds), UTC))
