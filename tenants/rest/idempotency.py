"""Idempotency-Key on every write of a view, in one place: `IdempotentWrites` wraps the view's handler."""

from collections.abc import Callable
from functools import partial

from django.http import HttpResponse, HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from gateway.pipeline.responses.idempotency import HEADER, read_key
from tenants.idempotency import Answer, write_once
from tenants.permissions import Caller
from tenants.rest.authentication import Guarded, caller_of

PARAM_HEADER = HEADER.decode()
REPLAYED = "idempotent-replayed"

Handler = Callable[..., HttpResponseBase]


class IdempotentWrites(Guarded, APIView):
    """A view, or a viewset, whose writes take place once for each Idempotency-Key of a caller."""

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        super().initial(request, *args, **kwargs)
        name = (request.method or "").lower()
        handler: Handler | None = getattr(self, name, None)
        if handler is not None and PARAM_HEADER in request.headers and self.is_write(request):
            # As a viewset binds its actions
            setattr(self, name, partial(_answer_once, handler, self.is_repeatable))

    def is_repeatable(self, request: Request) -> bool:
        """The write is lengthy, and does no harm a second time: it takes place outside of the transaction of its key,
        which on SQLite would keep all other writers waiting."""
        return False


def _answer_once(
    handler: Handler, is_repeatable: Callable[[Request], bool], request: Request, *args: object, **kwargs: object
) -> HttpResponseBase:
    """Raises BadRequest for a header that is no key."""

    def write() -> Answer:
        response = handler(request, *args, **kwargs)
        return _read_answer(request, response)

    key = read_key({HEADER: request.headers[PARAM_HEADER].encode("latin-1", "replace")})
    content = "\0".join([request.method or "", request.get_full_path()]).encode() + b"\0" + request.body
    answer = write_once(
        caller=_name_of(caller_of(request)),
        key=key,
        request=content,
        write=write,
        is_repeatable=is_repeatable(request),
    )
    response = HttpResponse(answer.body, status=answer.status)
    del response["Content-Type"]  # an answer without a body has none
    for field, value in answer.headers.items():
        response[field] = value
    if answer.is_replayed:
        response[REPLAYED] = "true"
    return response


def _read_answer(request: Request, response: HttpResponseBase) -> Answer:
    """The answer as text: what DRF would render after the view, with the headers of the view."""
    if isinstance(response, Response):
        renderer = request.accepted_renderer
        context = {"response": response, "request": request}
        body = renderer.render(response.data, request.accepted_media_type, context)
        text = body.decode() if isinstance(body, bytes) else body
        content_type = {"Content-Type": response.content_type or renderer.media_type} if text else {}
        return Answer(response.status_code, {**response.headers, **content_type}, text)
    assert isinstance(response, HttpResponse), "a write answers with a body that is whole"
    return Answer(response.status_code, dict(response.headers), response.content.decode())


def _name_of(caller: Caller) -> str:
    """The name that a key keeps through its rotation."""
    if caller.key is not None:
        return f"key:{caller.key.id}"
    return f"user:{caller.username}" if caller.user is not None else "master"
