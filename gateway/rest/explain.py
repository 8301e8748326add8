"""POST /api/explain: what would become of a request: which model, deployments, limits and budgets apply to it, how full
each of them is, and which would refuse it. Nothing is reserved and no upstream is asked.

Shape of the body: {"key": text or digest, "endpoint": one of ENDPOINTS, "request": the body of the call}.
"""

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.explanation.call import ENDPOINTS, explain
from gateway.protocol.errors import BadRequest, NotFound
from tenants.api.fields import Body, Choice, Object, Text
from tenants.api.resource import ApiView, Operation
from tenants.models import VirtualKey
from tenants.permissions import Area, Reach, reach_of
from tenants.rest.authentication import IsKnown, caller_of
from tenants.rest.fields import read_body, read_text
from tenants.rest.keys import require_key


class ExplainBody(Body):
    key = Text(help_text="The text or the digest of the key.")
    endpoint = Choice(sorted(ENDPOINTS), required=False)
    request = Object(help_text="The body of the call.")


class Explanation(serializers.Serializer[Any]):
    would_be_admitted = serializers.BooleanField()
    refused_by = serializers.ListField(child=Object())
    model = Object(required=False)
    deployments = serializers.ListField(child=Object(), required=False)
    routing = Object(required=False)
    estimate = Object(required=False)
    rate_limits = serializers.ListField(child=Object(), required=False)
    budgets = serializers.ListField(child=Object(), required=False)


class Explain(ApiView):
    """The caller has to see the key; every virtual key sees itself."""

    area = Area.KEYS
    permission_classes = [IsKnown]
    is_read = True
    noun = "request"
    operations = {
        "explain": Operation("Say what would become of a request", answer=Explanation, body=ExplainBody),
    }

    def explain(self, request: Request) -> Response:
        body = read_body(request, known={"key", "endpoint", "request"})
        key = require_key(read_text(body, "key"))
        if not self.rows(VirtualKey.objects.filter(pk=key.pk)).exists():
            raise NotFound("Key not found.", param="key")
        endpoint = read_text(body, "endpoint") or "chat/completions"
        dialect = ENDPOINTS.get(endpoint)
        if dialect is None:
            raise BadRequest(f"'endpoint' must be one of {', '.join(ENDPOINTS)}.", param="endpoint")
        sample = body.get("request")
        if not isinstance(sample, dict):
            raise BadRequest("'request' must be the body of a call.", param="request")
        caller = caller_of(request)
        has_figures = reach_of(caller, Area.MODELS) == Reach.PLATFORM
        return Response(explain(key, dialect, sample, has_figures=has_figures))
