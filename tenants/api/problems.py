"""Errors of /api/ as problem details (RFC 9457), application/problem+json.

Shape: `type`, `title`, `status`, `detail`, and our members `code`, `param` and `errors`, a list of {param, detail} with
every field of the body that is wrong.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple

from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, NotFound
from tenants.rest import problems
from tenants.rest.views import ManagementView

MEDIA_TYPE = "application/problem+json"


class FieldProblem(NamedTuple):
    param: str
    detail: str


class BodyInvalid(BadRequest):
    """A body with fields that cannot be; it names all of them."""

    def __init__(self, fields: Sequence[FieldProblem]) -> None:
        super().__init__(
            "; ".join(f"{name}: {detail}" for name, detail in fields), code="invalid_fields", param=fields[0].param
        )
        self.fields = fields


def render_problem(exc: Exception, context: Mapping[str, object]) -> Response:
    """DRF's exception handler of /api/. The classes of errors are those of the other routes."""
    response = problems.render_problem(exc, context)
    view = context.get("view")
    names = view.wire_names if isinstance(view, ManagementView) else {}
    error = response.data["error"]
    param = error["param"] if isinstance(exc, NotFound) else names.get(error["param"], error["param"])
    code = error["code"] or "invalid_request"
    fields = exc.fields if isinstance(exc, BodyInvalid) else [FieldProblem(param, error["message"])] if param else []
    response.data = {
        "type": f"urn:tollgate:problem:{code}",
        "title": HTTPStatus(response.status_code).phrase,
        "status": response.status_code,
        "detail": error["message"],
        "code": code,
        "param": param,
        "errors": [field._asdict() for field in fields],
    }
    response.content_type = MEDIA_TYPE
    return response
