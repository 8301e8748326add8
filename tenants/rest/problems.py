"""Errors of the management API, all in OpenAI's shape."""

import logging
from collections.abc import Mapping

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import DataError, IntegrityError, InterfaceError, OperationalError, ProgrammingError
from django.http import Http404, UnreadablePostError
from rest_framework import exceptions
from rest_framework.response import Response

from gateway.protocol.errors import (
    BadRequest,
    ClientFault,
    Fault,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthorized,
)
from tenants.invalid import ArgumentInvalid
from tenants.permissions import refuse
from tenants.rest.authentication import HasReach
from tenants.rest.views import ManagementView
from tenants.row_security.settings import is_row_refused

logger = logging.getLogger(__name__)

UNAUTHORIZED = "Authentication Error: Incorrect API key provided, or none; it may be unknown, expired or blocked."


def render_problem(exc: Exception, context: Mapping[str, object]) -> Response:
    """DRF's exception handler. It answers every exception, so that no error page in HTML reaches a client."""
    view = context.get("view")
    fault = _fault_of(exc, view.wire_names if isinstance(view, ManagementView) else {})
    if fault.status >= 500 and fault.status != 501:
        # The view, not the address, which may hold a key.
        logger.error("management request failed", exc_info=exc, extra={"view": type(view).__name__})
    error = {"message": fault.message, "type": fault.type, "param": fault.param, "code": fault.code}
    response = Response({"error": error}, status=fault.status)
    for name, value in fault.headers:
        response[name.decode()] = value.decode()
    if fault.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


def _fault_of(exc: Exception, wire_names: Mapping[str, str]) -> Fault:
    match exc:
        case Fault():
            return exc
        case ArgumentInvalid():
            param = wire_names.get(exc.param, exc.param)
            return BadRequest(f"Invalid {param}: {exc.message}.", param=param, code=exc.code)
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return Unauthorized(UNAUTHORIZED)
        case exceptions.PermissionDenied():
            return Forbidden(HasReach.message, code="insufficient_permissions")
        case PermissionDenied():
            return Forbidden("This is not allowed.", code="insufficient_permissions")
        case Http404() | exceptions.NotFound() | ObjectDoesNotExist():
            return NotFound("Not found.")
        case exceptions.MethodNotAllowed():
            return MethodNotAllowed("This method is not allowed here.")
        case exceptions.UnsupportedMediaType():
            return ClientFault("The body must be sent as application/json.", status=415, code="unsupported_media_type")
        case exceptions.NotAcceptable():
            return ClientFault("The answer can only be application/json.", status=406, code="not_acceptable")
        case RequestDataTooBig():
            return TooLarge(f"The body must not be larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes.")
        case SuspiciousOperation() | UnreadablePostError():
            return BadRequest("The request cannot be read.")
        case exceptions.APIException() if exc.status_code < 500:
            return ClientFault("The request is invalid.", status=exc.status_code, code=exc.default_code)
        case DataError():
            return BadRequest("A value does not fit the database.")
        case IntegrityError():
            return ClientFault("Another request changed the same thing. Try again.", status=409, code="conflict")
        case ProgrammingError() if is_row_refused(exc):
            return refuse()
        case OperationalError() | InterfaceError():
            return Fault("The database cannot be reached. Try again.", status=503, code="database_unavailable")
        case _:
            return Fault("The gateway failed.", code="internal_error")
