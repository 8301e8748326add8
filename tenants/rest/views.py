"""The base of every view of the management API."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import ClassVar

from django.http import HttpRequest, HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gateway.protocol.errors import NotFound
from tenants.rest.authentication import IsKnown, caller_of, scope_of
from tenants.rest.fields import declare_body


class ManagementView(APIView):
    """One route of the management API. `wire_names`: the names of a service's arguments → the names of fields."""

    wire_names: ClassVar[Mapping[str, str]] = {}
    metadata_class = None  # without it OPTIONS is refused like any other wrong method

    def dispatch(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        with ExitStack() as self.active_scope:
            return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        self.active_scope.enter_context(scope_of(caller_of(request)))
        declare_body(request)

    def finalize_response(self, request: Request, response: Response, *args: object, **kwargs: object) -> Response:
        response["Cache-Control"] = "no-store"  # the answer may hold a new key
        return super().finalize_response(request, response, *args, **kwargs)


class UnknownRoute(ManagementView):
    """A path under a known prefix that is no route: 404 in the error shape, for the holder of any key."""

    permission_classes = [IsKnown]

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound("Unknown path.")  # the path is not repeated: clients of LiteLLM put keys into paths
