"""The objects of the openai package that the SDK answers with, and the errors that it raises.

The package takes longer to import than everything else together: `load_results` imports this module with the first
call.
"""

import re
from collections.abc import Mapping
from typing import ClassVar, TypeVar, cast, get_args

import httpx2
import openai
import orjson
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import BaseModel, ValidationError

from gateway.protocol.context_overflow import openai_text
from gateway.protocol.dialects.openai.wire import error_object
from gateway.protocol.errors import BadRequest, ConnectFault, Fault, UpstreamFault
from gateway.protocol.json.types import JsonObject
from gateway.sdk.details import DETAILS, HIDDEN_PARAMS, NO_DETAILS, CallFailed, Details

Model = TypeVar("Model", bound=openai.BaseModel)
#: There is no HTTP between the caller and the gateway, and the errors of the package want a request.
URL = "http://sdk.invalid/v1"
#: {type of an event: its class}
EVENTS: Mapping[str, type[openai.BaseModel]] = {
    kind: event
    for event in get_args(get_args(ResponseStreamEvent)[0])
    for kind in get_args(event.model_fields["type"].annotation)
}


class CallError:
    """The members that every error of the SDK has beside those of the package's class."""

    provider: str  # that was asked last; empty where none was
    deployment: str
    _details: Details

    @property
    def llm_provider(self) -> str:
        """LiteLLM's name."""
        return self.provider


class APIStatusError(CallError, openai.APIStatusError):
    pass


class BadRequestError(CallError, openai.BadRequestError):
    pass


class ContextWindowExceededError(BadRequestError):
    """LiteLLM's name of a request that is longer than the model's context."""


class ContentPolicyViolationError(BadRequestError):
    """LiteLLM's name of a request that a filter of the provider has refused."""


class AuthenticationError(CallError, openai.AuthenticationError):
    pass


class PermissionDeniedError(CallError, openai.PermissionDeniedError):
    pass


class NotFoundError(CallError, openai.NotFoundError):
    pass


class ConflictError(CallError, openai.ConflictError):
    pass


class UnprocessableEntityError(CallError, openai.UnprocessableEntityError):
    pass


class RateLimitError(CallError, openai.RateLimitError):
    pass


class InternalServerError(CallError, openai.InternalServerError):
    pass


class APIConnectionError(CallError, openai.APIConnectionError):
    status_code: int


class APITimeoutError(CallError, openai.APITimeoutError):
    status_code: int


#: {status: class}; other statuses below 500 are an APIStatusError.
BY_STATUS: Mapping[int, type[openai.APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}
BY_CODE: Mapping[str, type[openai.APIStatusError]] = {
    "context_length_exceeded": ContextWindowExceededError,
    "content_filter": ContentPolicyViolationError,
    "content_policy_violation": ContentPolicyViolationError,
}


class ResultMaker:
    """Makes results of the gateway's JSON."""

    errors: ClassVar[Mapping[str, type[Exception]]] = {
        **{name: getattr(openai, name) for name in openai.__all__ if name.endswith("Error")},
        **{kind.__name__: kind for kind in (*BY_STATUS.values(), *BY_CODE.values())},
        **{kind.__name__: kind for kind in (APIStatusError, InternalServerError, APIConnectionError, APITimeoutError)},
    }

    def json_schema(self, model: object, param: str) -> JsonObject:
        """The strict schema of a pydantic model: `name`, `schema`, `strict`. Raises BadRequest for anything else."""
        if not isinstance(model, type) or not issubclass(model, BaseModel):
            raise BadRequest(f"'{param}' must be a pydantic model or a mapping.", param=param, code="invalid_value")
        schema = openai.pydantic_function_tool(model)["function"]["parameters"]
        return {"name": re.sub("[^A-Za-z0-9_-]", "_", model.__name__)[:64], "schema": schema, "strict": True}

    def chat(self, body: bytes, details: Details) -> ChatCompletion:
        return _make(ChatCompletion, orjson.loads(body), details)

    def chat_chunk(self, data: JsonObject) -> ChatCompletionChunk:
        return _build(ChatCompletionChunk, data)

    def completion(self, body: bytes, details: Details) -> Completion:
        return _make(Completion, orjson.loads(body), details)

    def completion_chunk(self, data: JsonObject) -> Completion:
        return _build(Completion, data)

    def embedding(self, body: bytes, details: Details) -> CreateEmbeddingResponse:
        return _make(CreateEmbeddingResponse, orjson.loads(body), details)

    def response(self, body: bytes, details: Details = NO_DETAILS) -> Response:
        return _make(Response, orjson.loads(body), details)

    def deletion(self, data: JsonObject) -> openai.BaseModel:
        return _make(openai.BaseModel, data, NO_DETAILS)

    def items(self, data: JsonObject) -> ResponseItemList:
        return _make(ResponseItemList, data, NO_DETAILS)

    def response_event(self, data: JsonObject) -> ResponseStreamEvent:
        return cast("ResponseStreamEvent", _build(EVENTS.get(data["type"], openai.BaseModel), data))

    def error(self, failed: CallFailed) -> openai.APIError:
        fault, details = failed.fault, failed.details
        status = _status(fault)
        error = _make_error(fault, status)
        members = {
            "status_code": status,
            "code": fault.code,
            "param": fault.param,
            "type": fault.type,
            "provider": details.provider,
            "deployment": details.deployment,
            DETAILS: details,
        }
        for name, value in members.items():
            setattr(error, name, value)
        return error


def _build(kind: type[Model], data: JsonObject) -> Model:
    """Validation takes a tenth of the time of `construct`, which accepts what providers add to OpenAI's words."""
    try:
        return kind.model_validate(data)
    except ValidationError:
        return kind.construct(**data)


def _make(kind: type[Model], data: JsonObject, details: Details) -> Model:
    result = _build(kind, data)
    object.__setattr__(result, DETAILS, details)
    object.__setattr__(result, HIDDEN_PARAMS, details.hidden_params)
    return result


def _status(fault: Fault) -> int:
    """A credential that the provider refuses is the program's own: no failure of a gateway stands between them."""
    if isinstance(fault, UpstreamFault) and fault.upstream_status in {401, 403}:
        return fault.upstream_status
    return fault.status


def _make_error(fault: Fault, status: int) -> openai.APIError:
    request = httpx2.Request("POST", URL)
    if isinstance(fault, ConnectFault):
        return APIConnectionError(message=fault.message, request=request)
    if status == 504:
        return APITimeoutError(request=request)
    kind = BY_CODE.get(fault.code or "") if status == 400 else None
    kind = kind or BY_STATUS.get(status) or (InternalServerError if status >= 500 else APIStatusError)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fault.headers]
    response = httpx2.Response(status, headers=headers, request=request)
    return kind(openai_text(fault), response=response, body=error_object(fault)["error"])


RESULTS = ResultMaker()
