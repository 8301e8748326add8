"""Endpoints of LiteLLM that this version does not serve: 501, because a client takes a 404 on deletion for success."""

from django.http import HttpRequest, JsonResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.request import Request

from gateway.protocol.errors import Fault
from gateway.version import VERSION
from tenants.rest.authentication import IsKnown
from tenants.rest.views import ManagementView

FAMILIES = (
    "access_group|budget|cache|config|credentials|customer|end_user|fallback|global|guardrails|invitation|mcp"
    "|model_group|organization|policies|project|prompts|scim|search_tools|sso|tag|user|utils|vector_store"
)
ROUTES = (
    r"key/(?:service-account/generate|bulk_update|aliases|health|(?:[^/]+/)?regenerate|[^/]+/reset_spend)",
    r"team/(?:update|delete|member_(?:add|delete|update)|bulk_member_add|block|unblock|model/(?:add|delete))",
    r"team/(?:permissions_(?:list|update)|daily/activity)",
    r"model/(?:block|unblock)",
    r"spend/(?:logs/v2|tags|keys|users|calculate)",
    r"v2/(?:key/info|team/list|user/(?:info|list))",
    r"health(?:/services)?",
)


class Unserved(ManagementView):
    permission_classes = [IsKnown]

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        raise Fault(f"Tollgate {VERSION} does not serve this endpoint of LiteLLM.", status=501, code="not_implemented")


@csrf_exempt
def answer_unknown_path(request: HttpRequest) -> JsonResponse:
    """404 in JSON for every path outside the console."""
    error = {"message": "Unknown path.", "type": "invalid_request_error", "param": None, "code": "not_found"}
    return JsonResponse({"error": error}, status=404)


urlpatterns = [
    re_path(rf"^(?:v2/)?(?:{FAMILIES})(?:/.*)?$", Unserved.as_view()),
    *(re_path(rf"^{route}/?$", Unserved.as_view()) for route in ROUTES),
]
