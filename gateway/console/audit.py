"""The actor of changes that are made in the console: the user who is signed in."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from tenants.audit import acting_as


class AuditMiddleware:
    """Names the user of a session as the actor of what the request changes."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method in {"GET", "HEAD"}:
            return self._get_response(request)
        with acting_as(request.user.get_username() if request.user.is_authenticated else ""):
            return self._get_response(request)
