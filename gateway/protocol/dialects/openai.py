"""OpenAI's dialect towards an upstream, and what all its inbound formats share.

Source: https://platform.openai.com/docs/api-reference. `api_base` includes `/v1`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.protocol.call import Call, Operation
from gateway.protocol.dialect import Facts, Hints, StreamRelay
from gateway.protocol.dialects.openai_models import OpenAIModels
from gateway.protocol.errors import BadRequest, Fault, UpstreamFault, harmless_name, sanitize
from gateway.protocol.fields import text
from gateway.protocol.json_body import ABSENT, JsonObject, add_members, edit_members, replace_member
from gateway.protocol.moment import Moment
from gateway.protocol.passthrough import EventRelay, body_through
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest

WIRE = "openai"
PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.COMPLETION: "/completions",
    Operation.EMBEDDING: "/embeddings",
}

#: The list that an answer must hold.
ANSWERS = {Operation.CHAT: "choices", Operation.COMPLETION: "choices", Operation.EMBEDDING: "data"}

#: Fields that would send the call elsewhere or under another credential. A client may never set them.
REDIRECTING = frozenset(
    """
    api_base base_url api_key api_version api_type azure_ad_token aws_access_key_id aws_secret_access_key
    aws_session_token aws_bedrock_runtime_endpoint aws_role_name aws_profile_name aws_region_name
    vertex_credentials vertex_project vertex_location custom_llm_provider configurable_clientside_auth_params
    extra_headers default_headers extra_body extra_query headers http_client litellm_params
    litellm_credential_name model_list user_config proxy_server_request organization_id mock_response
    """.split()  # noqa: SIM905 - thirty names read better without their quotes
)
#: Below these a caller's own data begins (messages, schemas), where any name is just data that nobody acts on.
CALLER_DATA = frozenset({"messages", "tools", "functions", "response_format", "prompt", "input", "prediction"})
#: Fields addressed to the gateway; no upstream knows them.
OURS = frozenset({"tags", "litellm_metadata", "litellm_session_id", "litellm_trace_id", "no-log"})
OUR_METADATA = frozenset({"tags", "spend_logs_metadata", "session_id", "trace_id", "generation_name"})


def refuse_redirection(body: JsonObject) -> None:
    """Raises BadRequest where a field outside the caller's own data would redirect the call."""
    todo: list[Any] = [{name: value for name, value in body.items() if name not in CALLER_DATA}]
    while todo:
        node = todo.pop()
        if type(node) is dict:
            if not REDIRECTING.isdisjoint(node):
                name = min(REDIRECTING.intersection(node))
                raise BadRequest(f"'{name}' is not allowed in a request body.", param=name)
            node = node.values()
        todo += [child for child in node if type(child) is dict or type(child) is list]


def asks_usage(body: JsonObject) -> bool:
    """Whether the client wants usage in its stream."""
    asked = (body.get("stream_options") or {}).get("include_usage")
    if asked is not None and type(asked) is not bool:
        param = "stream_options.include_usage"
        raise BadRequest(f"Invalid value for '{param}': it must be true or false.", param=param, code="invalid_value")
    return bool(asked)


def caller_facts(body: JsonObject, hints: Hints) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """(end user, tags, spend metadata): headers win over the body."""
    end_user = hints.end_user or body.get("user") or ""
    metadata = body.get("litellm_metadata") or body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise BadRequest("Invalid value for 'metadata': it must be an object.", param="metadata")
    tags = hints.tags or tuple(_tags(body.get("tags")) or _tags(metadata.get("tags")))
    spend = metadata.get("spend_logs_metadata")
    return end_user, tags, dict(hints.metadata or (spend if isinstance(spend, dict) else {}))


def _tags(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or any(text(tag) for tag in value):
        raise BadRequest("Invalid value for 'tags': it must be an array of strings.", param="tags")
    return value


def error_object(fault: Fault) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": fault.message, "type": fault.type, "param": fault.param, "code": fault.code}}


def error_body(fault: Fault) -> bytes:
    return orjson.dumps(error_object(fault))


def error_event(fault: Fault) -> bytes:
    return b"data: " + orjson.dumps(error_object(fault)) + b"\n\n"


TOO_LONG = re.compile(
    r"prompt is too long|input is too long|maximum context length|context_length_exceeded"
    r"|input token count .* exceeds the maximum|exceed context limit|too many (?:input )?tokens|context window",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class OpenAIUpstream(OpenAIModels, PlainProvider):
    """A provider that speaks this dialect; a row of data for most of them."""

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    default_api_base: str = ""
    needs_api_base: bool = True
    needs_api_key: bool = False
    operations: frozenset[Operation] = field(default=frozenset(Operation))
    asks_stream_usage: bool = True  # the server knows `stream_options.include_usage`
    own_parameters: frozenset[str] = frozenset()
    own_secrets: frozenset[str] = frozenset()
    replays_reasoning: bool = False

    def request(self, call: Call, target: Target, moment: Moment) -> UpstreamRequest:
        headers = {"content-type": "application/json", "accept-encoding": "identity", **target.headers}
        api_key = target.credential.get("api_key")
        if api_key:
            headers["authorization"] = f"Bearer {api_key.reveal()}"
        return UpstreamRequest(
            url=target.api_base + PATHS[call.operation],
            headers=headers,
            body=self._body(call, target),
            dropped=tuple(sorted(target.learned.intersection(call.body))),
        )

    def _body(self, call: Call, target: Target) -> bytes:
        """The client's bytes with the upstream's model in them; encoded anew only where more has to change."""
        body = call.body
        extra: dict[str, Any] = {name: value for name, value in target.parameters.items() if name not in body}
        changes = _without_ours(body) | dict.fromkeys(target.learned.intersection(body), ABSENT)
        if "max_tokens" in changes:  # what reasoning models call it
            changes["max_completion_tokens"] = body["max_tokens"]
        asks_usage = self.asks_stream_usage and "stream_options" not in target.learned
        if call.stream and asks_usage and not call.include_usage:
            if "stream_options" in body:
                changes["stream_options"] = {**(body["stream_options"] or {}), "include_usage": True}
            else:
                extra["stream_options"] = {"include_usage": True}
        if changes:
            raw = edit_members(call.raw, {**changes, "model": target.upstream_model})
        elif target.upstream_model != call.model:
            raw = replace_member(call.raw, "model", target.upstream_model, body)
        else:
            raw = call.raw
        return add_members(raw, extra)

    def relay(self, call: Call, target: Target, moment: Moment) -> StreamRelay:
        return EventRelay(call)

    def relay_body(
        self, call: Call, target: Target, moment: Moment, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, Facts]:
        return body_through(call, body, ANSWERS[call.operation])

    def wire(self, target: Target) -> str:
        return WIRE

    def token(self, target: Target) -> str:
        return ""

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        error = _error_of(body)
        secrets = [secret.reveal() for secret in target.credential.values()]
        return classify(
            status,
            message=sanitize(str(error.get("message") or ""), secrets),
            code=harmless_name(error.get("code"), secrets),
            param=harmless_name(error.get("param"), secrets),
            retry_after=headers.get("retry-after"),
        )


def _without_ours(body: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that take out what is addressed to the gateway."""
    changes: dict[str, Any] = dict.fromkeys(OURS.intersection(body), ABSENT)
    metadata = body.get("metadata")
    if metadata and not OUR_METADATA.isdisjoint(metadata):
        kept = {name: value for name, value in metadata.items() if name not in OUR_METADATA}
        changes["metadata"] = kept or ABSENT
    return changes


def _error_of(body: bytes) -> Mapping[str, Any]:
    """The error object of the shapes in use: OpenAI's, a bare one (older vLLM), a string, FastAPI's `detail`."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    if "message" in answer:
        return answer
    return {"message": answer["detail"]} if isinstance(answer.get("detail"), str) else {}


def classify(
    status: int,
    *,
    message: str,
    code: str | None = None,
    param: str | None = None,
    retry_after: str | None = None,
) -> UpstreamFault:
    """The class of an upstream's error answer, by the table of docs/errors.md."""

    def fault(status: int, kind: str, code: str | None, text: str, *, retry: bool = False) -> UpstreamFault:
        headers = _retry_after(retry_after) if status in {429, 503} else ()
        made = UpstreamFault(text, status=status, type=kind, param=param, headers=headers, is_retryable=retry)
        made.code = code  # none of its own where the upstream gave none
        return made

    invalid = "invalid_request_error"
    if status in {400, 413, 422} and (code == "context_length_exceeded" or TOO_LONG.search(message)):
        return fault(400, invalid, "context_length_exceeded", message)
    if status in {401, 402, 403}:
        # The caller's key is fine; what is wrong is between the gateway and its provider.
        return UpstreamFault(
            "The gateway could not authenticate with the upstream.",
            code="upstream_auth_failed",
            is_retryable=True,
        )
    if status == 404:
        return fault(404, invalid, "model_not_found", message or "The upstream does not know this model.", retry=True)
    if status == 413:
        return fault(413, invalid, "request_too_large", message or "The upstream finds the request too large.")
    if status == 429:
        quota = code == "insufficient_quota"
        return fault(
            429,
            "rate_limit_error",
            "insufficient_quota" if quota else "rate_limit_exceeded",
            message or "The upstream's rate limit is reached.",
            retry=True,
        )
    if status in {408, 504}:
        return UpstreamFault(
            "The upstream timed out.",
            status=504,
            code="upstream_timeout",
            is_retryable=True,
            finish="timeout",
        )
    if status in {503, 529}:
        return fault(503, "api_error", "overloaded", "The upstream is overloaded.", retry=True)
    if status == 200:
        return UpstreamFault("The upstream answered with an error.")
    if 400 <= status < 500:
        return fault(400, invalid, code, message or "The upstream refused the request.")
    return UpstreamFault("The upstream failed.", code="upstream_error", is_retryable=True)


def _retry_after(value: str | None) -> tuple[tuple[bytes, bytes], ...]:
    """The upstream's Retry-After in seconds, held between 1 and 60; anything else is not passed on."""
    if value is None or not value.strip().isascii() or not value.strip().isdigit():
        return ()
    return ((b"retry-after", b"%d" % min(max(int(value.strip()[:9]), 1), 60)),)
