"""/api/prices, /api/unpriced-models and /api/reprice-jobs: for the platform's roles."""

from collections.abc import Mapping
from datetime import datetime, time
from typing import Any, TypeAlias

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.contracts import end_contract, read_percent, set_lines, set_percent
from billing.models import Price, RepriceJob
from billing.prices import list_prices, set_catalogue_price
from billing.repricing import Scope, cancel_job, preview, start_job
from billing.unpriced import find_unpriced
from gateway.deployments import find_deployments, set_base_model, set_price
from gateway.protocol.amounts import usd_text
from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.json.types import JsonObject
from gateway.stores.deployment_prices import RowPrices, find_deployments_of
from tenants.api.fields import Body, Flag, Text
from tenants.api.resource import ApiView, Filter, Operation
from tenants.permissions import Area, Reach
from tenants.rest.authentication import caller_of
from tenants.rest.fields import read_count, read_instant, read_query, render_instant

ListAnswer: TypeAlias = type[serializers.Serializer[Any]]

PAGE_ROWS = 500
MAX_PAGES = 10_000
#: A preview looks at so many rows, that a request may wait for; the command looks at all.
PREVIEW_ROWS = 20_000


EFFECTIVE_FROM = "The day or instant from which on it is in force; it may have passed, and later calls keep their cost."


class PriceRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    provider = serializers.CharField()
    model = serializers.CharField(allow_null=True, help_text="null: a contract for all models of the provider.")
    region = serializers.CharField()
    organization_id = serializers.CharField(allow_null=True, help_text="Whose contract it is.")
    percent = serializers.CharField(allow_null=True, help_text="Of a contract by percentage.")
    effective_from = serializers.DateTimeField(allow_null=True)
    lines = serializers.DictField(child=serializers.CharField(), help_text="Line → USD per unit, as decimal text.")


def list_of(row: type[serializers.Serializer[Any]], **others: serializers.Field[Any, Any, Any, Any]) -> ListAnswer:
    """The serializer of `{"data": [row, …], …}`."""
    name = f"{row.__name__.removesuffix('Row')}List"
    answer: ListAnswer = type(name, (serializers.Serializer,), {"data": row(many=True), **others})
    return answer


class NewPrice(Body):
    model = Text(
        allow_blank=False,
        help_text="A model group, or the id of a deployment; with a provider a model of the catalogue.",
    )
    lines = serializers.DictField(
        child=Text(), required=False, help_text="Line → USD per unit, as decimal text; {} is the catalogue's price."
    )
    provider = Text(required=False, allow_blank=False, help_text="Sets the catalogue's price of this provider's model.")
    effective_from = Text(required=False, allow_blank=False, help_text=f"Not with `base_model`. {EFFECTIVE_FROM}")
    base_model = Text(required=False, allow_blank=False, help_text="The model of the catalogue that stands behind it.")


class PricedDeployments(serializers.Serializer[Any]):
    deployments = serializers.ListField(
        child=serializers.CharField(), help_text="The ids of those that have it, or will."
    )


class UnpricedModelRow(serializers.Serializer[Any]):
    model_group = serializers.CharField()
    deployment_id = serializers.CharField()
    provider = serializers.CharField()
    upstream_model = serializers.CharField()
    requests = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    first_at = serializers.DateTimeField()
    last_at = serializers.DateTimeField()
    suggestion = serializers.CharField(help_text="A model of the catalogue that is alike; empty if none is.")


class NewRepriceJob(Body):
    model = Text(allow_blank=False, help_text="A model group, or the id of a deployment.")
    unpriced = Flag(required=False, help_text="Only rows without a cost.")
    since = Text(required=False, allow_blank=False, help_text="All rows since this day or instant.")
    dry_run = Flag(required=False, help_text="Only tell what would change.")
    reason = Text(required=False)


class RepriceJobRow(serializers.Serializer[Any]):
    id = serializers.CharField(allow_null=True, help_text="null for a preview.")
    model = serializers.CharField()
    unpriced = serializers.BooleanField()
    since = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField()
    state = serializers.CharField(help_text="preview, running, done or cancelled.")
    rows = serializers.IntegerField(help_text="Looked at so far.")
    changed = serializers.IntegerField()
    cost_change = serializers.CharField(help_text="USD, exact.")
    is_complete = serializers.BooleanField(help_text="All rows were looked at.")
    reason = serializers.CharField()
    actor = serializers.CharField()
    created_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)


#: Of every list of catalogue prices.
PRICE_FILTERS = {
    "provider": Filter("provider"),
    "model": Filter("model", "A part of the model's name."),
    "page": Filter("page", "`next_page` of the page before.", schema_type=int),
}
PRICE_LIST = list_of(PriceRow, next_page=serializers.IntegerField(allow_null=True))


class Prices(ApiView):
    area = Area.SETTINGS
    least_reach = Reach.PLATFORM
    noun = "price"
    operations = {
        "list_prices": Operation(
            "List the prices of the catalogue that are in force",
            answer=PRICE_LIST,
        ),
        "set": Operation("Set the price of a model group or deployment", 201, PricedDeployments, NewPrice),
    }
    filters = PRICE_FILTERS

    def list_prices(self, request: Request) -> Response:
        query = read_query(request, known={*self.filters})
        page = read_count(query, "page", default=1, maximum=MAX_PAGES)
        rows, has_more = list_prices(
            provider=query.get("provider", ""),
            model=query.get("model", ""),
            first=(page - 1) * PAGE_ROWS,
            most=PAGE_ROWS,
        )
        return Response({"data": [render_price(row) for row in rows], "next_page": page + 1 if has_more else None})

    def set(self, request: Request) -> Response:
        read_query(request, known=())
        body = NewPrice(data=request.data).read()
        if ("lines" in body) == ("base_model" in body):
            raise BadRequest("Give either 'lines' or 'base_model'.", param="lines")
        if "provider" in body and "base_model" in body:
            raise BadRequest("'base_model' is of a deployment: leave 'provider' out.", param="base_model")
        if "effective_from" in body and "base_model" in body:
            raise BadRequest("A 'base_model' has no date: it counts at once.", param="effective_from")
        if "provider" in body:
            set_catalogue_price(body["provider"], body["model"], body["lines"], read_begin(body))
            rows = find_deployments_of(body["provider"], body["model"])
        elif "base_model" in body:
            rows = set_base_model(body["model"], body["base_model"])
        else:
            rows = set_price(body["model"], body["lines"], read_begin(body))
        return Response({"deployments": [row.id for row in rows]}, status=201)


def read_begin(body: Mapping[str, Any]) -> datetime | None:
    return read_instant(body, "effective_from", time.min) if "effective_from" in body else None


class NewContract(Body):
    organization_id = Text(allow_blank=False)
    provider = Text(allow_blank=False, help_text="Of the catalogue's model.")
    model = Text(required=False, help_text="The catalogue's exact name; without it, all models of the provider.")
    lines = serializers.DictField(child=Text(), required=False, help_text="Line → USD per unit, as decimal text.")
    percent = Text(required=False, allow_blank=False, help_text="More than the catalogue's price; less where negative.")
    effective_from = Text(required=False, allow_blank=False, help_text=EFFECTIVE_FROM)


class ContractedPrices(serializers.Serializer[Any]):
    prices = serializers.IntegerField(help_text="How many versions of prices began, or ended.")


class Contracts(ApiView):
    area = Area.SETTINGS
    least_reach = Reach.PLATFORM
    noun = "contract"
    operations = {
        "list_prices": Operation("List the prices of contracts that are in force", answer=PRICE_LIST),
        "set": Operation("Set what an organization pays for models", 201, ContractedPrices, NewContract),
        "end": Operation("End a contract", answer=ContractedPrices),
    }
    filters = {
        "organization_id": Filter("organization_id"),
        "page": Filter("page", "`next_page` of the page before.", schema_type=int),
    }

    def list_prices(self, request: Request) -> Response:
        query = read_query(request, known={*self.filters})
        page = read_count(query, "page", default=1, maximum=MAX_PAGES)
        rows, has_more = list_prices(
            organization_id=query.get("organization_id"),
            has_contracts_only=True,
            first=(page - 1) * PAGE_ROWS,
            most=PAGE_ROWS,
        )
        return Response({"data": [render_price(row) for row in rows], "next_page": page + 1 if has_more else None})

    def set(self, request: Request) -> Response:
        read_query(request, known=())
        body = NewContract(data=request.data).read()
        if ("lines" in body) == ("percent" in body):
            raise BadRequest("Give either 'lines' or 'percent'.", param="lines")
        place = body["organization_id"], body["provider"], body.get("model", "")
        if "lines" in body:
            rows = set_lines(*place, body["lines"], read_begin(body))
        else:
            rows = set_percent(*place, read_percent(body["percent"]), read_begin(body))
        return Response({"prices": len([row for row in rows if row.model])}, status=201)

    def end(self, request: Request, price_id: str) -> Response:
        read_query(request, known=())
        row = Price.objects.filter(id=price_id, origin=Price.Origin.CONTRACT, status=Price.Status.ACTIVE).first()
        if row is None:
            raise NotFound("There is no such contract in force.", param="price_id")
        return Response({"prices": end_contract(row.organization_id, row.provider, row.model)})


class UnpricedModels(ApiView):
    area = Area.SETTINGS
    least_reach = Reach.PLATFORM
    noun = "unpriced model"
    operations = {
        "list_models": Operation("List the models that were called without a price", answer=list_of(UnpricedModelRow))
    }

    def list_models(self, request: Request) -> Response:
        read_query(request, known=())
        return Response({"data": [row.render() for row in find_unpriced()]})


class RepriceJobs(ApiView):
    area = Area.SETTINGS
    least_reach = Reach.PLATFORM
    noun = "reprice job"
    operations = {
        "list_jobs": Operation("List the newest reprice jobs", answer=list_of(RepriceJobRow)),
        "create": Operation("Price rows again, or preview it", 201, RepriceJobRow, NewRepriceJob),
        "show": Operation("Show a reprice job", answer=RepriceJobRow),
        "cancel": Operation("Cancel a reprice job", answer=RepriceJobRow),
    }

    def is_repeatable(self, request: Request) -> bool:
        """A preview writes nothing."""
        return self.action == "create" and isinstance(request.data, Mapping) and request.data.get("dry_run") is True

    def list_jobs(self, request: Request) -> Response:
        read_query(request, known=())
        return Response({"data": [render_job(job) for job in RepriceJob.objects.order_by("-id")[:PAGE_ROWS]]})

    def show(self, request: Request, reprice_job_id: str) -> Response:
        read_query(request, known=())
        return Response(render_job(find_job(reprice_job_id)))

    def create(self, request: Request) -> Response:
        read_query(request, known=())
        body = NewRepriceJob(data=request.data).read()
        if bool(body.get("unpriced")) == ("since" in body):
            raise BadRequest("Give either 'unpriced' or 'since'.", param="unpriced")
        ids = [row.id for row in find_deployments(body["model"])]
        since = read_instant(body, "since", time.min) if "since" in body else None
        scope = Scope(body["model"], bool(body.get("unpriced")), since, timezone.now(), ids)
        if body.get("dry_run"):
            return Response(render_preview(scope))
        caller = caller_of(request)
        actor = caller.user.username if caller.user is not None else "master key"
        return Response(render_job(start_job(scope, actor=actor, reason=body.get("reason", ""))), status=201)

    def cancel(self, request: Request, reprice_job_id: str) -> Response:
        read_query(request, known=())
        cancel_job(find_job(reprice_job_id).id)
        return Response(render_job(find_job(reprice_job_id)))


def find_job(job_id: str) -> RepriceJob:
    job = RepriceJob.objects.filter(id=job_id).first()
    if job is None:
        raise NotFound("There is no such reprice job.", param="reprice_job_id")
    return job


def render_price(row: Price) -> JsonObject:
    return {
        "id": row.id,
        "provider": row.provider,
        "model": row.model or None,
        "region": row.region,
        "organization_id": row.organization_id or None,
        "percent": row.percent or None,
        "effective_from": render_instant(row.effective_from),
        "lines": row.lines,
    }


def render_preview(scope: Scope) -> Mapping[str, object]:
    totals = preview(scope, RowPrices(), max_rows=PREVIEW_ROWS)
    return {
        "id": None,
        "model": scope.model,
        "unpriced": scope.is_unpriced,
        "since": render_instant(scope.since),
        "until": render_instant(scope.until),
        "state": "preview",
        "rows": totals.rows,
        "changed": totals.changed,
        "cost_change": usd_text(totals.delta_pusd),
        "is_complete": totals.rows < PREVIEW_ROWS,
        "reason": "",
        "actor": "",
        "created_at": None,
        "ended_at": None,
    }


def render_job(job: RepriceJob) -> Mapping[str, object]:
    return {
        "id": job.id,
        "model": job.model,
        "unpriced": job.is_unpriced,
        "since": render_instant(job.since),
        "until": render_instant(job.until),
        "state": job.state,
        "rows": job.rows,
        "changed": job.changed,
        "cost_change": usd_text(job.delta_pusd),
        "is_complete": job.state == RepriceJob.State.DONE,
        "reason": job.reason,
        "actor": job.actor,
        "created_at": render_instant(job.created_at),
        "ended_at": render_instant(job.ended_at),
    }
