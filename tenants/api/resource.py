"""The base of every resource of /api/: a viewset whose subclass names its rows, fields and services."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any, ClassVar, Generic

from django.db import transaction
from django.db.models import QuerySet
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import ViewSetMixin

from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.json.types import JsonObject
from gateway.protocol.unserved_paths import refuse_unserved
from tenants.api.fields import Body
from tenants.api.paging import PARAMETERS, read_page, read_primary_key
from tenants.api.problems import render_problem
from tenants.api.schema import ResourceSchema
from tenants.limits import LIMIT_FIELDS
from tenants.permissions import Caller, Reach, Row
from tenants.rest.authentication import caller_of
from tenants.rest.fields import read_instant, read_query
from tenants.rest.views import ManagementView, UnknownRoute

#: Where LiteLLM takes the telemetry of coding agents.
LITELLM_PREFIX = "/api/event_logging/"
#: The names that services and the checks of grants have for fields → the names in bodies.
NAMES: Mapping[str, str] = {name: f"limits.{name}" for name in LIMIT_FIELDS} | {
    "budget_template": "budget_template_id",
    "budget_id": "budget_template_id",
    "organization": "organization_id",
    "team": "team_id",
    "user": "user_id",
    "models": "allowed_models",
    "allowed_ips": "allowed_networks",
    "key_type": "type",
    "user_role": "role",
    "expires": "expires_at",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """A query parameter of a list, and the lookup that it stands for."""

    lookup: str
    description: str = ""
    choices: Sequence[str] = ()
    schema_type: type = str
    is_required: bool = False

    def read(self, query: Mapping[str, str], name: str) -> object:
        text = query[name]
        if self.schema_type is bool:
            if text not in {"true", "false"}:
                raise BadRequest(f"{name!r} must be true or false.", param=name)
            return text == "true"
        if self.schema_type is datetime:
            return read_instant(query, name, time.min)
        if self.choices and text not in self.choices:
            raise BadRequest(f"{name!r} must be one of {', '.join(self.choices)}.", param=name)
        return text


@dataclass(frozen=True, slots=True)
class Operation:
    """One action of a resource: what it says of itself, and who may call it."""

    summary: str
    status: int = 200
    answer: type[BaseSerializer[Any]] | None = None
    body: type[Body] | None = None
    least_reach: Reach | None = None  # else that of the resource


class ApiView(ViewSetMixin, ManagementView):
    """Actions under /api/, each of which is an operation of the schema."""

    schema = ResourceSchema()
    wire_names = NAMES
    noun: ClassVar[str]
    operations: ClassVar[Mapping[str, Operation]]
    filters: ClassVar[Mapping[str, Filter]] = {}

    @property
    def operation(self) -> Operation:
        return self.operations[self.action]

    def least_reach_for(self, request: Request) -> Reach:
        operation = self.operations.get(self.action or "")
        reach = operation.least_reach if operation is not None else None
        return self.least_reach if reach is None else reach

    def get_exception_handler(self) -> Callable[..., Response | None]:
        return render_problem


class Resource(ApiView, Generic[Row]):
    """The actions list_rows, show, create, update and delete_one of one kind of rows."""

    id_name: ClassVar[str]  # of the parameter of the path
    lookup_column: ClassVar[str] = "pk"

    # What the subclass says

    def queryset(self) -> QuerySet[Row]:
        """All rows; the base narrows them to those that the caller reaches."""
        raise NotImplementedError

    def render(self, rows: Sequence[Row]) -> list[JsonObject]:
        raise NotImplementedError

    def make(self, caller: Caller, body: dict[str, Any]) -> Row:
        raise NotImplementedError

    def change(self, caller: Caller, row: Row, body: dict[str, Any]) -> Row:
        raise NotImplementedError

    def delete_row(self, caller: Caller, row: Row) -> None:
        raise NotImplementedError

    # The actions

    def list_rows(self, request: Request, **names: str) -> Response:
        query = read_query(request, known={*self.filters, *PARAMETERS})
        rows = self.rows(self.queryset())
        for name, each in self.filters.items():
            if name in query:
                rows = rows.filter(**{each.lookup: each.read(query, name)})
        page = read_page(rows, query)
        return Response({"data": self.render(page.rows), "next_cursor": page.next_cursor})

    def show(self, request: Request, **names: str) -> Response:
        read_query(request, known=())
        return self.answer(self.find())

    def create(self, request: Request, **names: str) -> Response:
        body = self.read()
        with transaction.atomic():
            row = self.make(caller_of(request), {name: value for name, value in body.items() if value is not None})
        return self.answer(row)

    def update(self, request: Request, **names: str) -> Response:
        body = self.read(partial=True)
        with transaction.atomic():
            row = self.change(caller_of(request), self.find(), body)
        return self.answer(row)

    def delete_one(self, request: Request, **names: str) -> Response:
        self.refuse_body()
        with transaction.atomic():
            self.delete_row(caller_of(request), self.find())
        return Response(status=204)

    # What they share

    def answer(self, row: Row) -> Response:
        return Response(self.render([row])[0], status=self.operation.status)

    def read(self, *, partial: bool = False) -> dict[str, Any]:
        """The body of the action. Raises BadRequest."""
        body = self.operation.body
        assert body is not None
        read_query(self.request, known=())
        return body(data=self.request.data, partial=partial).read()

    def refuse_body(self) -> None:
        read_query(self.request, known=())
        Body(data=self.request.data).read()

    def find(self) -> Row:
        """The row that the path names, if the caller reaches it here. Raises NotFound."""
        text = self.kwargs[self.id_name]
        key = text if self.lookup_column != "pk" else read_primary_key(self.queryset().model, text)
        if key is None or "\0" in text:
            raise self.not_found()
        row = self.rows(self.queryset()).filter(**{self.lookup_column: key}).first()
        if row is None:
            raise self.not_found()
        return row

    def not_found(self) -> NotFound:
        return NotFound(f"{self.noun.capitalize()} not found.", param=self.id_name)


class UnknownResource(UnknownRoute):
    """A path under /api/ that is no route: all of them are ours but one of LiteLLM's."""

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        ManagementView.initial(self, request, *args, **kwargs)
        if request.path.startswith(LITELLM_PREFIX):
            refuse_unserved(request.path)
        raise NotFound("Unknown path.")

    def get_exception_handler(self) -> Callable[..., Response | None]:
        return render_problem
