"""The constants and helpers that all formats of OpenAI's dialect share, inbound and towards an upstream.

Source: https://platform.openai.com/docs/api-reference. `api_base` includes `/v1`.
"""

import orjson

from gateway.protocol.call import Operation
from gateway.protocol.context_overflow import openai_text
from gateway.protocol.dialect import Hints
from gateway.protocol.errors import BadRequest, Fault
from gateway.protocol.fields import text
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.routing_options import OPTIONS

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
    {
        *("api_base", "base_url", "api_key", "api_version", "api_type", "azure_ad_token"),
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_bedrock_runtime_endpoint"),
        *("aws_role_name", "aws_session_name", "aws_profile_name", "aws_region_name", "aws_bearer_token_bedrock"),
        *("vertex_credentials", "vertex_project", "vertex_location"),
        *("custom_llm_provider", "configurable_clientside_auth_params"),
        *("extra_headers", "default_headers", "extra_body", "extra_query", "headers", "http_client"),
        *("litellm_params", "litellm_credential_name", "model_list", "user_config", "proxy_server_request"),
        *("organization_id", "mock_response"),
    }
)
#: Fields that hold the caller's own data (messages, schemas), where any name is plain data.
CALLER_DATA = frozenset({"messages", "tools", "functions", "response_format", "prompt", "input", "prediction"})
#: Fields addressed to the gateway; no upstream knows them.
OURS = OPTIONS | {"cache", "tags", "litellm_metadata", "litellm_session_id", "litellm_trace_id", "no-log"}
OUR_METADATA = frozenset({"tags", "spend_logs_metadata", "session_id", "trace_id", "generation_name"})
#: OpenAI's limits of `metadata`: pairs, characters of a key, characters of a value.
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
MAX_TAGS, MAX_TAG = 50, 255
MAX_SPEND_METADATA_BYTES = 16 * 1024  # of its JSON, which the spend log keeps


def refuse_redirection(body: JsonObject) -> None:
    """Raises BadRequest where a field outside the caller's own data would redirect the call."""
    todo: list[Json] = [{name: value for name, value in body.items() if name not in CALLER_DATA}]
    while todo:
        node = todo.pop()
        if type(node) is dict and not REDIRECTING.isdisjoint(node):
            name = min(REDIRECTING.intersection(node))
            raise BadRequest(f"'{name}' is not allowed in a request body.", param=name)
        children = node.values() if type(node) is dict else node
        todo += [child for child in children if type(child) is dict or type(child) is list]


def asks_usage(body: JsonObject) -> bool:
    """True where the client wants usage in its stream."""
    value = (body.get("stream_options") or {}).get("include_usage")
    if value is not None and type(value) is not bool:
        param = "stream_options.include_usage"
        raise BadRequest(f"Invalid value for '{param}': it must be true or false.", param=param, code="invalid_value")
    return bool(value)


def read_caller_data(body: JsonObject, hints: Hints) -> tuple[str, tuple[str, ...], JsonObject]:
    """(end user, tags, spend metadata): headers win over the body. Raises BadRequest for more than a row keeps."""
    end_user = hints.end_user or find_end_user(body)
    metadata = body.get("litellm_metadata") or body.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise BadRequest("Invalid value for 'metadata': it must be an object.", param="metadata")
    tags = hints.tags or tuple(_tags(body.get("tags")) or _tags(metadata.get("tags")))
    if tags and (len(tags) > MAX_TAGS or max(map(len, tags)) > MAX_TAG):
        raise _metadata_fault("tags", f"there must be at most {MAX_TAGS}, each of at most {MAX_TAG} characters")
    spend = metadata.get("spend_logs_metadata")
    row_metadata = hints.metadata or (spend if isinstance(spend, dict) else {})
    if row_metadata and not _fits_row(row_metadata):
        problem = f"it must have at most {MAX_SPEND_METADATA_BYTES} bytes of JSON, nested less than 255 levels deep"
        raise _metadata_fault("spend_logs_metadata", problem)
    return end_user, tags, dict(row_metadata)


def find_end_user(body: JsonMapping) -> str:
    """The end user whom a body names, in the order of LiteLLM's proxy; empty for none. It is the same for all
    endpoints: `user`, `litellm_metadata.user`, `metadata.user_id` (Anthropic's), `safety_identifier`."""
    ours, theirs = body.get("litellm_metadata"), body.get("metadata")
    candidates = (
        body.get("user"),
        ours.get("user") if type(ours) is dict else None,
        theirs.get("user_id") if type(theirs) is dict else None,
        body.get("safety_identifier"),
    )
    return next((value for value in candidates if type(value) is str and value), "")


def _fits_row(metadata: JsonMapping) -> bool:
    try:
        return len(orjson.dumps(metadata)) <= MAX_SPEND_METADATA_BYTES
    except orjson.JSONEncodeError:  # nested deeper than it can be written
        return False


def check_metadata(metadata: JsonMapping) -> None:
    """Raises BadRequest where OpenAI's `metadata`, without the gateway's own members, is larger than OpenAI takes."""
    if sum(name not in OUR_METADATA for name in metadata) > MAX_METADATA:
        raise _metadata_fault("metadata", f"it must hold at most {MAX_METADATA} pairs")
    for name, value in metadata.items():
        if name in OUR_METADATA:
            continue
        if len(name) > MAX_METADATA_KEY:
            raise _metadata_fault("metadata", f"a key must have at most {MAX_METADATA_KEY} characters")
        if type(value) is str and len(value) > MAX_METADATA_VALUE:
            raise _metadata_fault(f"metadata.{name}", f"it must have at most {MAX_METADATA_VALUE} characters")


def _metadata_fault(param: str, problem: str) -> BadRequest:
    return BadRequest(f"Invalid value for '{param}': {problem}.", param=param, code="invalid_value")


def _tags(value: Json) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or any(text(tag) for tag in value):
        raise BadRequest("Invalid value for 'tags': it must be an array of strings.", param="tags")
    return value


def error_object(fault: Fault) -> JsonObject:
    """OpenAI's error object."""
    return {"error": {"message": openai_text(fault), "type": fault.type, "param": fault.param, "code": fault.code}}


def error_body(fault: Fault) -> bytes:
    return orjson.dumps(error_object(fault))


def error_event(fault: Fault) -> bytes:
    return b"data: " + orjson.dumps(error_object(fault)) + b"\n\n"
