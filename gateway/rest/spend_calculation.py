"""POST /spend/calculate, with LiteLLM's fields: what a call would cost, or what an answer cost, at the prices in force.

Of a model group whose deployments have several prices it is the dearest.
"""

import contextlib
from collections.abc import Sequence

from django.conf import settings
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.call_context import make_context
from billing.models import Price
from billing.pricing import PriceContext, PriceLines, bound_counts, cost
from gateway.protocol.amounts import PUSD, usd_text
from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.input_estimate import estimate_request
from gateway.protocol.json.types import JsonObject
from gateway.protocol.usage import Usage, from_openai
from gateway.rest.model_info import find_models
from gateway.rest.models import ModelView
from gateway.stores.deployment_prices import RowPrices
from tenants.rest.authentication import IsKnown, caller_of
from tenants.rest.fields import read_body, read_query, read_text

MAX_DEPLOYMENTS = 100


class CalculateSpend(ModelView):
    """`messages`: the cost of their estimated tokens as input. `completion_response`: the cost of its usage."""

    permission_classes = [IsKnown]
    is_read = True

    def post(self, request: Request) -> Response:
        read_query(request, known=())
        body = read_body(request, known={"model", "messages", "completion_response"})
        usage, context = _read_usage(body)
        model = read_text(body, "model") or _read_model(body)
        ids = [row["model_info"]["id"] for row in find_models(self, request) if row["model_name"] == model]
        if not ids:
            raise NotFound("The model does not exist.", param="model", code="model_not_found")
        prices = _find_prices(ids[:MAX_DEPLOYMENTS], caller_of(request).organization_id or "")
        costs = [pusd for price in prices if (pusd := cost(usage, price, context)) is not None]
        if not costs:
            raise BadRequest("The model has no price for this usage.", param="model", code="model_unpriced")
        return Response({"cost": max(costs) / PUSD, "cost_usd": usd_text(max(costs))})


def _read_usage(body: JsonObject) -> tuple[Usage, PriceContext]:
    now = timezone.now()
    answer = body.get("completion_response")
    if answer is None:
        if not isinstance(body.get("messages"), list):
            raise BadRequest("Give 'messages' or a 'completion_response'.", param="messages")
        return Usage(input_tokens=estimate_request(body)), make_context("", now, None, None)
    if body.get("messages") is not None:
        raise BadRequest("Give 'messages' or a 'completion_response', not both.", param="messages")
    raw = answer.get("usage") if isinstance(answer, dict) else None
    usage = from_openai(raw) if isinstance(raw, dict) else None
    if usage is None:
        raise BadRequest("'completion_response' must have a 'usage'.", param="completion_response")
    tier = answer.get("service_tier")
    context = make_context(tier if isinstance(tier, str) else "", now, None, raw)
    return bound_counts(usage, settings.TOLLGATE_MAX_CALL_TOKENS), context


def _read_model(body: JsonObject) -> str:
    answer = body.get("completion_response")
    model = answer.get("model") if isinstance(answer, dict) else None
    if not isinstance(model, str) or not model:
        raise BadRequest("Name the 'model'.", param="model")
    return model


def _find_prices(deployment_ids: Sequence[str], organization_id: str) -> list[PriceLines]:
    """Those in force; one that cannot be read is none."""
    find, now = RowPrices(), timezone.now()
    ids = {find(deployment_id, organization_id, now, "") for deployment_id in deployment_ids} - {""}
    prices: list[PriceLines] = []
    for row in Price.objects.filter(id__in=ids):
        with contextlib.suppress(ValueError):
            prices.append(PriceLines.read(row.lines))
    return prices
