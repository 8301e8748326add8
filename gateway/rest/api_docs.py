"""GET /api/schema, the OpenAPI description of /api/, and GET /api/docs, its page for people. Both take the session of
the console; the schema takes any key too."""

from functools import cache
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.models import User
from tenants.permissions import Area, Caller, caller_of_user
from tenants.rest.authentication import BearerAuthentication, IsKnown
from tenants.rest.fields import read_query
from tenants.rest.views import ManagementView


class ConsoleSession(BaseAuthentication):
    """The user who is signed in to the console. For views that only read: a session needs no CSRF token here."""

    def authenticate(self, request: Request) -> tuple[Caller, None] | None:
        user = request._request.user
        return (caller_of_user(user), None) if isinstance(user, User) and user.is_active else None


class Schema(ManagementView):
    area = Area.SETTINGS
    authentication_classes = [ConsoleSession, BearerAuthentication]
    permission_classes = [IsKnown]

    def get(self, request: Request) -> Response:
        read_query(request, known=())
        return Response(describe_api())


@require_safe
def show_docs(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    return TemplateResponse(request, "console/api_docs.html", headers={"Cache-Control": "no-store"})


@cache
def describe_api() -> dict[str, Any]:
    """The schema, which is the same for every caller."""
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]  # drf-spectacular types a part of itself
    schema: dict[str, Any] = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return schema
