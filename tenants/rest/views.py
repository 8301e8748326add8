"""The base of every view of the management API."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import ClassVar

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import NotFound
from gateway.protocol.unserved_paths import refuse_unserved
from tenants.audit import acting_as
from tenants.permissions import Row, visible_rows, writable_rows
from tenants.rest.authentication import IsKnown, caller_of, scope_of
from tenants.rest.fields import declare_body
from tenants.rest.idempotency import IdempotentWrites


class ManagementView(IdempotentWrites):
    """One route of the management API. `wire_names`: the names of a service's arguments → the names of fields."""

    wire_names: ClassVar[Mapping[str, str]] = {}
    metadata_class = None  # without it OPTIONS is refused like any other wrong method

    def dispatch(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        with ExitStack() as self.active_scope:
            return super().dispatch(request, *args, **kwargs)

    def rows(self, rows: QuerySet[Row]) -> QuerySet[Row]:
        """The rows of the view's area that the caller may change here, or may read where the route only reads."""
        reached = writable_rows if self.is_write(self.request) else visible_rows
        return reached(caller_of(self.request), self.area, rows)

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        self.active_scope.enter_context(scope_of(self, request))
        changed_by = request.headers.get("litellm-changed-by", "")
        self.active_scope.enter_context(acting_as(caller_of(request).name, changed_by))
        declare_body(request)

    def finalize_response(self, request: Request, response: Response, *args: object, **kwargs: object) -> Response:
        response["Cache-Control"] = "no-store"  # the answer may hold a new key
        return super().finalize_response(request, response, *args, **kwargs)


class UnknownRoute(ManagementView):
    """A path that is no route: 501 where LiteLLM has one, else 404, for the holder of any key."""

    permission_classes = [IsKnown]

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        refuse_unserved(request.path)
        raise NotFound("Unknown path.")  # the path is not repeated: clients of LiteLLM put keys into paths
