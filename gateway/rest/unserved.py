"""Paths that no route has: 501 for an endpoint of LiteLLM, 404 for any other."""

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from gateway.protocol.unserved_paths import is_unserved
from tenants.rest.views import UnknownRoute

answer_unserved = UnknownRoute.as_view()


@csrf_exempt
def answer_unknown_path(request: HttpRequest) -> HttpResponseBase:
    """An answer in JSON for every path outside the console."""
    if is_unserved(request.path):
        return answer_unserved(request)
    error = {"message": "Unknown path.", "type": "invalid_request_error", "param": None, "code": "not_found"}
    return JsonResponse({"error": error}, status=404)
