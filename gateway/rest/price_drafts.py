"""/api/price-drafts: prices that an import proposes, accepted and rejected one by one or all at once."""

from typing import Any

from django.db.models import Max, QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Price
from billing.prices import accept_drafts, find_drafts, find_former, reject_drafts
from gateway.protocol.errors import BadRequest
from gateway.rest.prices import PAGE_ROWS, PRICE_FILTERS, list_of
from tenants.api.fields import Body, Flag, Text
from tenants.api.resource import ApiView, Operation
from tenants.permissions import Area, Reach
from tenants.rest.fields import read_count, read_query

MAX_PAGES = 1000


class PriceDraftRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    provider = serializers.CharField()
    model = serializers.CharField()
    lines = serializers.DictField(child=serializers.CharField(), help_text="Line → USD per unit, as decimal text.")
    lines_in_force = serializers.DictField(child=serializers.CharField(), help_text="Empty for a new model.")


class DraftChoice(Body):
    ids = serializers.ListField(child=Text(), required=False, max_length=PAGE_ROWS)
    all = Flag(required=False, help_text="All drafts, instead of `ids`.")
    newest = Text(
        required=False,
        allow_blank=False,
        help_text="With `all`: `newest` of the list that was looked at. Drafts that came later are left alone.",
    )


class DecidedDrafts(serializers.Serializer[Any]):
    prices = serializers.IntegerField(help_text="How many drafts were decided on.")


class PriceDrafts(ApiView):
    area = Area.SETTINGS
    least_reach = Reach.PLATFORM
    noun = "price draft"
    operations = {
        "list_drafts": Operation(
            "List the drafts of prices",
            answer=list_of(
                PriceDraftRow,
                next_page=serializers.IntegerField(allow_null=True),
                newest=serializers.CharField(allow_null=True, help_text="The id of the draft that came last."),
            ),
        ),
        "accept": Operation("Put drafts of prices in force", 200, DecidedDrafts, DraftChoice),
        "reject": Operation("Put drafts of prices away", 200, DecidedDrafts, DraftChoice),
    }
    filters = PRICE_FILTERS

    def list_drafts(self, request: Request) -> Response:
        query = read_query(request, known={*self.filters})
        page = read_count(query, "page", default=1, maximum=MAX_PAGES)
        drafts = find_drafts(provider=query.get("provider", ""), model=query.get("model", ""))
        newest = drafts.aggregate(newest=Max("id"))["newest"]
        rows = list(drafts[(page - 1) * PAGE_ROWS : page * PAGE_ROWS + 1])
        former = find_former(rows[:PAGE_ROWS])
        data = [
            {
                "id": row.id,
                "provider": row.provider,
                "model": row.model,
                "lines": row.lines,
                "lines_in_force": former.get((row.provider, row.model), {}),
            }
            for row in rows[:PAGE_ROWS]
        ]
        return Response({"data": data, "next_page": page + 1 if rows[PAGE_ROWS:] else None, "newest": newest})

    def accept(self, request: Request) -> Response:
        return Response({"prices": accept_drafts(_read_choice(request))})

    def reject(self, request: Request) -> Response:
        return Response({"prices": reject_drafts(_read_choice(request))})


def _read_choice(request: Request) -> QuerySet[Price]:
    read_query(request, known=())
    body = DraftChoice(data=request.data).read()
    ids = body.get("ids")
    if bool(ids) == bool(body.get("all")):
        raise BadRequest("Give either 'ids' or 'all': true.", param="ids")
    if ids and "newest" in body:
        raise BadRequest("'newest' is for 'all' alone.", param="newest")
    return find_drafts().filter(id__in=ids) if ids else find_drafts(newest=body.get("newest"))
