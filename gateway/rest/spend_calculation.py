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
from gateway.rest.model_info import find_serving_models
from gateway.rest.models import ModelView
from gateway.routing.model_patterns import PatternIndex, is_pattern, is_plain_name
from gateway.stores.deployment_prices import RowPrices, find_upstream_models
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
        ids = _find_deployments(*find_serving_models(self, request, model))
        if not ids:
            raise NotFound("The model does not exist.", param="model", code="model_not_found")
        prices = _find_prices(ids, caller_of(request).organization_id or "")
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


def _find_deployments(model: str, rows: Sequence[JsonObject]) -> list[tuple[str, str]]:
    """(Id, upstream model) of the deployments of the model group; without any, those of the most specific pattern that
    serves the name."""
    named: dict[str, list[str]] = {}
    for row in rows:
        named.setdefault(row["model_name"], []).append(row["model_info"]["id"])
    if model in named:
        return [(name, "") for name in named[model][:MAX_DEPLOYMENTS]]
    pattern = PatternIndex.of(filter(is_pattern, named)).find(model) if is_plain_name(model) else None
    if pattern is None:
        return []
    texts = find_upstream_models(named[pattern.text][:MAX_DEPLOYMENTS])
    models = {name: pattern.fill(text, model) for name, text in texts.items()}
    return [(name, upstream_model) for name, upstream_model in models.items() if is_plain_name(upstream_model)]


def _find_prices(deployments: Sequence[tuple[str, str]], organization_id: str) -> list[PriceLines]:
    """Those in force; one that cannot be read is none."""
    find, now = RowPrices(), timezone.now()
    ids = {find(name, organization_id, now, upstream_model) for name, upstream_model in deployments} - {""}
    prices: list[PriceLines] = []
    for row in Price.objects.filter(id__in=ids):
        with contextlib.suppress(ValueError):
            prices.append(PriceLines.read(row.lines))
    return prices
