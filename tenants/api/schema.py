"""The OpenAPI description of a resource: what drf-spectacular cannot read from its class."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework import serializers

from tenants.api.paging import DEFAULT_SIZE, MAX_SIZE
from tenants.api.problems import MEDIA_TYPE
from tenants.rest.idempotency import PARAM_HEADER

#: Path, expression, method and view.
Endpoint: TypeAlias = tuple[str, str, str, Any]
LIST = "list_rows"
READ_METHODS = frozenset({"GET", "HEAD"})


PROBLEM_SCHEMA = {
    "type": "object",
    "description": "Problem details, RFC 9457.",
    "properties": {
        "type": {"type": "string", "description": "urn:tollgate:problem: and the code."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "param": {"type": "string", "nullable": True, "description": "The field or parameter that is wrong."},
        "errors": {
            "type": "array",
            "description": "Every field of the body that is wrong.",
            "items": {
                "type": "object",
                "properties": {"param": {"type": "string"}, "detail": {"type": "string"}},
                "required": ["param", "detail"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "param", "errors"],
}
PROBLEM = OpenApiResponse(PROBLEM_SCHEMA, description="The request was refused, or the gateway failed.")
PAGE_SIZE = {"type": "integer", "minimum": 1, "maximum": MAX_SIZE, "default": DEFAULT_SIZE}


class ResourceSchema(AutoSchema):
    """The view's `operations` say what each action takes and answers. All of them refuse with problem details."""

    def get_tags(self) -> list[str]:
        return [self.path.split("/")[2]]

    def get_summary(self) -> str | None:
        summary: str = self._operation.summary
        return summary

    def get_description(self) -> str:  # type: ignore[override]  # the stubs are of another class
        return ""

    def get_operation_id(self) -> str:
        verb, noun = self._action.partition("_")[0], self._resource.noun.replace(" ", "_")
        return f"{verb}_{noun}"

    def get_auth(self) -> list[dict[str, list[str]]]:
        return [{"key": []}]

    def get_override_parameters(self) -> list[Any]:
        parameters = [OpenApiParameter(name, str, OpenApiParameter.PATH, required=True) for name in self.path_names]
        if self._is_list or (self.method in READ_METHODS and not self.path_names):
            parameters += [
                OpenApiParameter(
                    name,
                    each.schema_type,
                    required=each.is_required,
                    enum=each.choices or None,
                    description=each.description,
                )
                for name, each in self._resource.filters.items()
            ]
        if self._is_list:
            parameters.append(OpenApiParameter("cursor", str, description="The `next_cursor` of the page before."))
            parameters.append(
                OpenApiParameter(
                    "page_size", {"type": "integer", "minimum": 1, "maximum": MAX_SIZE, "default": DEFAULT_SIZE}
                )
            )
        if self.method not in READ_METHODS:
            parameters.append(
                OpenApiParameter(
                    PARAM_HEADER.title(),
                    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                    OpenApiParameter.HEADER,
                    description="A write with the key of an earlier one is answered as that one.",
                )
            )
        return parameters

    @property
    def path_names(self) -> list[str]:
        return [part.removesuffix("}").removeprefix("{") for part in self.path.split("/") if part.startswith("{")]

    def get_request_serializer(self) -> Any:
        body = self._operation.body
        return None if body is None else body(partial=self.method == "PATCH")

    def get_response_serializers(self) -> Any:
        status, answer = self._operation.status, self._operation.answer
        if self._is_list:
            answer = page_of(answer)
        good = (
            OpenApiResponse(answer, description="Done.") if answer is not None else OpenApiResponse(description="Done.")
        )
        return {status: good, ("default", MEDIA_TYPE): PROBLEM}

    def _resolve_path_parameters(self, variables: Any) -> list[Any]:
        return []  # `get_override_parameters` has them

    @property
    def _resource(self) -> Any:
        return self.view

    @property
    def _operation(self) -> Any:
        return self._resource.operations[self._action]

    @property
    def _is_list(self) -> bool:
        return self._action == LIST

    @property
    def _action(self) -> str:
        return str(self._resource.action)


def page_of(row: type[serializers.BaseSerializer[Any]]) -> Any:
    """The serializer of a page of rows."""
    fields = {
        "data": row(many=True),
        "next_cursor": serializers.CharField(allow_null=True, help_text="Null on the last page."),
    }
    return type(f"{row.__name__}Page", (serializers.Serializer,), fields)


def select_endpoints(endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Hook of drf-spectacular: the operations of /api/, by their paths without the slash at the end."""
    return [
        (path.rstrip("/"), regex, method, callback)
        for path, regex, method, callback in endpoints
        if isinstance(getattr(getattr(callback, "cls", None), "schema", None), ResourceSchema)
    ]
