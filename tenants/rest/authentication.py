"""The door of the management API: who calls, within which scope, how requests are read, how errors look.

A caller is the master key or a virtual key, never a session. Everything that a client can send wrongly ends
as a 4xx in OpenAI's error shape.
"""

import hmac
import json
import logging
import re
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from django.conf import settings
from django.core.exceptions import (
    ObjectDoesNotExist,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.db import DataError, IntegrityError, InterfaceError, OperationalError
from django.db.models import Q
from django.http import Http404, UnreadablePostError
from django.utils import timezone
from django_scopes import scope, scopes_disabled
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.parsers import BaseParser
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.pipeline.identify import Plane, presented_key
from gateway.protocol.errors import (
    BadRequest,
    ClientFault,
    Fault,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    TooLarge,
)
from gateway.protocol.json.body import MAX_DEPTH
from tenants.access import digest_of, master_digest
from tenants.keys import KeyInvalid
from tenants.models import VirtualKey

if TYPE_CHECKING:
    from rest_framework.views import APIView  # which itself imports this module, by way of the settings

logger = logging.getLogger(__name__)

UNAUTHORIZED = "Authentication Error, the API key is missing, unknown, expired or blocked."
MASTER_NAME = "master key"
LONGEST_ECHO = 100


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is behind a request; stands in `request.user`."""

    key: VirtualKey | None

    @property
    def is_master(self) -> bool:
        return self.key is None

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def name(self) -> str:
        """As it is kept in `created_by`: never a key's text."""
        return MASTER_NAME if self.key is None else self.key.id


def caller_of(request: Request) -> Caller:
    return cast(Caller, request.user)


def scope_of(caller: Caller) -> AbstractContextManager[None]:
    """The one place that decides what a caller of the management API can reach."""
    if caller.key is None:
        return cast("AbstractContextManager[None]", scopes_disabled())
    return cast("AbstractContextManager[None]", scope(organization=caller.key.organization))


class BearerAuthentication(BaseAuthentication):
    """The key of the request, or 401 with one and the same body, whatever is wrong with it."""

    def authenticate(self, request: Request) -> tuple[Any, None]:
        # As UTF-8, a header that is not ASCII stays so, and is refused.
        headers = {name.lower().encode(): value.encode() for name, value in request.headers.items()}
        text = presented_key(headers, Plane.MANAGEMENT)
        if not text or not text.isascii():
            raise exceptions.AuthenticationFailed
        digest = digest_of(text)
        master = master_digest()
        if master is not None and hmac.compare_digest(master, digest):
            return Caller(key=None), None
        key = _usable_key(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise exceptions.AuthenticationFailed
        return Caller(key=key), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class IsMaster(BasePermission):
    """Management is the master key's; a virtual key is answered 403."""

    message = "This call needs the master key."

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return caller_of(request).is_master


class IsKnown(BasePermission):
    """The master key or any virtual key; the view limits what a virtual key sees."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return caller_of(request).is_authenticated


class StrictJSONParser(BaseParser):
    """One JSON object that no two parsers could read differently; fractions become Decimal, never float."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return parse_object(stream.read())


def declare_body(request: Request) -> None:
    """DRF takes a body without Content-Length (chunked) or Content-Type for an absent one; /key/generate
    would then issue an unrestricted key, so both are stated here."""
    body = request.body
    if len(body) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        raise RequestDataTooBig
    request.META["CONTENT_LENGTH"] = str(len(body))
    request.META["CONTENT_TYPE"] = request.META.get("CONTENT_TYPE") or StrictJSONParser.media_type


def read_body(request: Request, *, known: Collection[str]) -> dict[str, Any]:
    """The fields of the body, an empty body having none. An unknown one is refused, not ignored."""
    body = dict(request.data)
    for name in body:
        if name not in known:
            raise BadRequest(f"Unknown field: {name[:LONGEST_ECHO]!r}.", param=name[:LONGEST_ECHO])
    return body


def read_query(request: Request, *, known: Collection[str]) -> dict[str, str]:
    """The query parameters that hold something, each at most once."""
    found: dict[str, str] = {}
    for name, values in request.query_params.lists():
        param = name[:LONGEST_ECHO]
        if name not in known:
            raise BadRequest(f"Unknown query parameter: {param!r}.", param=param)
        if len(values) > 1:
            raise BadRequest(f"The query parameter {param!r} is given more than once.", param=param)
        text = str(values[0])
        if "\0" in text:
            raise BadRequest(f"The query parameter {param!r} must not contain a NUL character.", param=param)
        if text:
            found[name] = text
    return found


def read_count(query: Mapping[str, str], name: str, *, default: int, maximum: int) -> int:
    """A whole number from 1 to `maximum`."""
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= maximum:
        raise BadRequest(f"{name!r} must be a whole number from 1 to {maximum}.", param=name)
    return int(text)


def instant(value: datetime | None) -> str | None:
    """ISO 8601 in UTC."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises BadRequest (400) for anything else."""
    try:
        value = json.loads(
            raw.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError:
        raise BadRequest("The body is not valid UTF-8.") from None
    except RecursionError:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error.msg} (character {error.pos}).") from None
    except (ValueError, ArithmeticError):
        raise BadRequest("The body holds a number with too many digits.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    for name, item in value.items():
        _check_text(name, name)
        _check_value(item, name)
    return value


def render_problem(exc: Exception, context: Mapping[str, Any]) -> Response:
    """DRF's exception handler, and so the boundary of the management API: nothing passes through as HTML."""
    fault = _fault_of(exc, getattr(context.get("view"), "wire_names", {}))
    if fault.status >= 500:
        # The view, not the address: that may hold a key.
        view = type(context.get("view")).__name__
        logger.error("management request failed", exc_info=exc, extra={"view": view})
    error = {"message": fault.message, "type": fault.type, "param": fault.param, "code": fault.code}
    response = Response({"error": error}, status=fault.status)
    if fault.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


def _usable_key(digest: str) -> VirtualKey | None:
    with scopes_disabled():  # identification comes before any scope: the digest tells the organization
        return (
            VirtualKey.objects.select_related("organization", "team", "user")
            .filter(digest=digest, blocked=False, organization__blocked=False)
            .exclude(team__blocked=True)
            .exclude(user__is_active=False)
            .filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))
            .first()
        )


def _refuse_constant(name: str) -> NoReturn:
    raise BadRequest(f"The body is not valid JSON: {name} is not a number.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            param = name[:LONGEST_ECHO].encode("utf-8", "replace").decode("utf-8")
            raise BadRequest(f"The key {param!r} stands twice in one object.", param=param)
        found[name] = value
    return found


def _check_value(value: object, param: str, depth: int = 2) -> None:
    """`depth` is that of `value` itself, the body being the first level."""
    if isinstance(value, str):
        _check_text(value, param)
    elif isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", param=param)
        if isinstance(value, dict):
            for key in value:
                _check_text(key, param)
        for item in value.values() if isinstance(value, dict) else value:
            _check_value(item, param, depth + 1)


def _check_text(text: str, param: str) -> None:
    """What no database of ours can keep must not come further than here."""
    shown = param[:LONGEST_ECHO].encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    if "\0" in text:
        raise BadRequest(f"{shown!r} must not contain a NUL character.", param=shown)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest(f"{shown!r} must not contain half a surrogate pair.", param=shown) from None


def _fault_of(exc: Exception, wire_names: Mapping[str, str]) -> Fault:
    match exc:
        case Fault():
            return exc
        case KeyInvalid():
            param = wire_names.get(exc.param, exc.param)
            return BadRequest(f"Invalid {param}: {exc.message}.", param=param)
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return ClientFault(UNAUTHORIZED, status=401, code="invalid_api_key")
        case exceptions.PermissionDenied():
            return Forbidden(IsMaster.message, code="insufficient_permissions")
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
        case OperationalError() | InterfaceError():
            return Fault("The database cannot be reached. Try again.", status=503, code="database_unavailable")
        case _:
            return Fault("The gateway failed.", code="internal_error")
