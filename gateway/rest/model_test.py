"""POST /model/test: one real call of a few tokens to a deployment, saved or not, and what came of it.

The answer is 200 once the call was made: `status` says how it ended. Any other status says that none was made.
"""

from rest_framework.request import Request
from rest_framework.response import Response

from gateway.config.load import FIELDS as ENTRY_FIELDS
from gateway.deployments import prepare_unsaved
from gateway.models import Deployment
from gateway.protocol.amounts import usd_text
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.rest.models import ModelView, find_model, read_entry, read_object, reading_refusals
from gateway.stores.deployment_probe import ProbeReport, probe_deployment
from tenants.ids import new_id
from tenants.permissions import Reach, refuse
from tenants.rest.authentication import caller_of, reach_in
from tenants.rest.fields import read_body, read_text
from tenants.rest.idempotency import PARAM_HEADER

FIELDS = frozenset({"model_id", "model_name", "litellm_params", "model_info", "mode", "prompt"})
UNSAVED_NAME = "unsaved"


class ModelTest(ModelView):
    """A saved deployment is tested by those who may change it, an unsaved one by admins of the platform."""

    least_reach = Reach.ORGANIZATION

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        if PARAM_HEADER in request.headers:  # it would hold a transaction around a call of many seconds
            raise BadRequest(f"Each test is a new call; leave '{PARAM_HEADER}' out.", param=PARAM_HEADER)

    def post(self, request: Request) -> Response:
        body = read_body(request, known=FIELDS)
        if body.get("litellm_params") is None:
            row = find_model(body.get("model_id"), self.rows(Deployment.objects.all()), param="model_id")
        elif reach_in(self, request) < Reach.PLATFORM:
            raise refuse("Only an admin of the platform tests a model before it is saved.", param="litellm_params")
        else:
            row = _read_unsaved(body)
        mode, prompt = read_text(body, "mode") or "", read_text(body, "prompt") or ""
        return Response(render_report(row, probe_deployment(row, caller_of(request), mode=mode, prompt=prompt)))


def _read_unsaved(body: JsonMapping) -> Deployment:
    if body.get("model_id") is not None:
        raise BadRequest("Give 'model_id' or 'litellm_params', not both.", param="model_id")
    info = read_object(body, "model_info")
    info.pop("id", None)
    entry, _ = read_entry(
        {
            "model_name": body.get("model_name") or UNSAVED_NAME,
            "litellm_params": read_object(body, "litellm_params"),
            "model_info": info,
        }
    )
    row = Deployment(id=new_id(), **{name: getattr(entry, name) for name in ENTRY_FIELDS})
    credential = {name: secret.reveal() for name, secret in entry.credential.items()}
    with reading_refusals():
        prepare_unsaved(row, credential=credential, price_lines=dict(entry.price_lines))
    return row


def render_report(row: Deployment, report: ProbeReport) -> JsonObject:
    result, fault = report.result, report.result.fault
    tokens_in = sum(attempt.usage.total_input for attempt in result.attempts)
    tokens_out = sum(attempt.usage.total_output for attempt in result.attempts)
    return {
        "status": "success" if fault is None else "error",
        "model_id": row.id,
        "model_name": row.model_group,
        "mode": result.mode.value,
        "request_id": result.request_id,
        "latency_s": round(result.latency_s, 3),
        "answer": result.text,
        "served_model": result.served_model,
        "usage": {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        },
        "cost": None if report.cost_pusd is None else usd_text(report.cost_pusd),
        "cost_status": "unpriced" if report.cost_pusd is None else "priced",
        "error": None
        if fault is None
        else {
            "message": fault.message,
            "type": fault.type,
            "code": fault.code,
            "status": fault.status,
            "upstream_status": fault.upstream_status or None,
            "upstream_message": fault.upstream_text,
        },
    }
