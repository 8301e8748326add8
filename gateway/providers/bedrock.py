"""Amazon Bedrock: chat by Converse, embeddings by InvokeModel, signed with SigV4 or sent with a Bedrock API key.

Sources: botocore's model bedrock-runtime 2023-09-30; https://docs.aws.amazon.com/general/latest/gr/sigv4_signing.html;
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html and
model-parameters-embed-v4.html. This file signs requests itself, because botocore's SigV4Auth reads the clock.
"""

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypedDict
from urllib.parse import quote, urlsplit

import orjson

from gateway.protocol import items
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.bedrock import upstream_answer as bedrock_answer
from gateway.protocol.dialects.bedrock import upstream_request as bedrock_request
from gateway.protocol.dialects.bedrock.aws_event_stream import CONTENT_TYPE
from gateway.protocol.dialects.openai.embedding_answer import encode_embeddings, input_texts, join_lists, split_texts
from gateway.protocol.dialects.shared.emulation import to_chat_request
from gateway.protocol.dialects.shared.parameters import SettledRequest, refuse_dropped, settle_request
from gateway.protocol.dialects.shared.translate import TranslatedRelay, translate_body
from gateway.protocol.dialects.shared.whole_answer import WholeDecoder
from gateway.protocol.errors import BadRequest, ConnectFault, UpstreamFault
from gateway.protocol.items import ChatRequest
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.listing import ListRequest, ModelPage, read_answer, read_names
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest
from gateway.protocol.retry_after import find_retry_after_s
from gateway.protocol.secret import Secret
from gateway.protocol.usage import MAX_TOKENS, Usage
from gateway.providers.bases.own_credentials import ask_for

SERVICE = "bedrock"
ALGORITHM = "AWS4-HMAC-SHA256"
DEFAULT_REGION = "us-east-1"  # of the signature, where a custom endpoint does not name its region
REGION_IN_HOST = re.compile(r"bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.")
REGION_IN_ARN = re.compile(r"arn:aws[a-z-]*:bedrock:([a-z0-9-]+):")
REGION = re.compile(r"[a-z0-9-]{1,40}")
REGION_PREFIX = re.compile(r"([a-z]{2}(?:-[a-z]+)+-\d)/(.+)")
#: Prefixes of model names in LiteLLM. Here the call decides the operation.
ROUTES = ("converse/", "invoke/")

#: Parameters of a deployment that only this file reads.
OURS = frozenset({"base_model", "input_type", "truncate", "normalize", "parallel_tool_calls"})
#: Parameters of a deployment that are members of Converse's body; any other one is a field of the model.
CONVERSE_MEMBERS = {
    "guardrailConfig": "guardrailConfig",
    "guardrail_config": "guardrailConfig",
    "performanceConfig": "performanceConfig",
    "performance_config": "performanceConfig",
    "requestMetadata": "requestMetadata",
}
ADDITIONAL = "additionalModelRequestFields"
EXTRA_MEMBERS = frozenset({ADDITIONAL, "requestMetadata"})
#: Parameters that name another identity than that of the deployment's keys.
PLATFORM_IDENTITIES = ("aws_profile_name", "aws_web_identity_token")
IDENTITIES = ("aws_role_name", *PLATFORM_IDENTITIES)
#: Names in a credential: an API key of Bedrock, which wins, and the keys of a user or a session of AWS.
BEARERS = frozenset({"api_key", "aws_bearer_token_bedrock"})
KEY_PAIR = frozenset({"aws_access_key_id", "aws_secret_access_key"})
#: What a deployment may tell AWS about a caller: by session tags of its role, and in Converse's requestMetadata. The
#: reports of AWS (CUR 2.0, model invocation logs) have them. Patterns: STS, Tag; bedrock-runtime, RequestMetadata.
LABELS = ("organization", "team", "user", "key", "cost_center")
SESSION_TAGS, REQUEST_METADATA = "aws_session_tags", "aws_request_metadata"
OWN_PARAMETERS = frozenset(
    {
        *("aws_region_name", "aws_bedrock_runtime_endpoint", "base_model"),
        *("aws_role_name", "aws_session_name", "aws_profile_name", SESSION_TAGS, REQUEST_METADATA),
    }
)
MAX_LABEL = 256
MAX_METADATA = 16  # entries of requestMetadata
MAX_TEXTS = 96
INPUT_COUNT_HEADER = "x-amzn-bedrock-input-token-count"


class Bedrock(PlainProvider):
    name = "bedrock"
    title = "Amazon Bedrock"
    aliases = ()
    default_api_base = ""
    needs_api_base = False  # the region decides the address
    needs_api_key = False  # an AWS key pair is the alternative
    operations = frozenset({Operation.CHAT, Operation.COMPLETION, Operation.EMBEDDING})
    own_parameters = OWN_PARAMETERS
    own_secrets = KEY_PAIR | {"aws_session_token", "aws_bearer_token_bedrock"}
    replays_reasoning = True

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        if call.operation is Operation.EMBEDDING:
            body, dropped = embedding_body(call, target)
            return _signed_request(target, context, "invoke", orjson.dumps(body), dropped, accept="application/json")
        body, dropped = _chat_body(call, target, context)
        is_streamed = call.stream and not _needs_whole_answer(call, target)
        action = "converse-stream" if is_streamed else "converse"
        accept = CONTENT_TYPE if is_streamed else "application/json"
        return _signed_request(target, context, action, orjson.dumps(body), dropped, accept=accept)

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay:
        tools = _answer_tools(call, target)
        decoder = (
            WholeDecoder(partial(bedrock_answer.decode_body, **tools))
            if _needs_whole_answer(call, target)
            else bedrock_answer.StreamDecoder(**tools, secrets=target.reveal_secrets())
        )
        return TranslatedRelay(decoder, call.dialect.answer(call, context))

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        if call.operation is Operation.EMBEDDING:
            return _embedding_answer(call, body, headers)
        upstream_id = headers.get("x-amzn-requestid", "")
        events = bedrock_answer.decode_body(body, upstream_id=upstream_id, **_answer_tools(call, target))
        return translate_body(events, call.dialect.answer(call, context))

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        return bedrock_answer.read_failure(
            headers.get("x-amzn-errortype", ""),
            status,
            body,
            secrets=target.reveal_secrets(),
            retry_after_s=find_retry_after_s(headers),
        )

    def wire(self, target: Target) -> str:
        return SERVICE

    def takes_prefill(self, target: Target) -> bool:
        return target.capabilities.prefill

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        """The addresses of media: Converse takes content only."""
        if call.operation is Operation.EMBEDDING:
            return ()
        urls = [
            part.url
            for message in call.dialect.chat_request(call).messages
            for part in message.parts
            if isinstance(part, items.Image | items.File) and part.url.startswith(("http://", "https://"))
        ]
        return tuple(dict.fromkeys(urls))

    def token(self, target: Target) -> str:
        """`aws` for a deployment without keys of its own, which uses the machine's identity, and for one that names a
        role or profile. Shape of `context.token`, as JSON: {access_key_id, secret_access_key, session_token}."""
        if _bearer(target):
            return ""
        is_other = any(target.parameters.get(name) for name in IDENTITIES)
        return "aws" if is_other or _key_pair(target.credential) is None else ""

    def find_borrowed_identity(self, secrets: Collection[str], parameters: JsonMapping) -> tuple[str, str] | None:
        """A role needs keys of the deployment's own, which assume it."""
        if BEARERS.intersection(secrets):
            return None
        for name in PLATFORM_IDENTITIES:
            if parameters.get(name):
                return (
                    name,
                    "names an identity of the gateway's machine, which a deployment of an organization does not use",
                )
        return None if KEY_PAIR.issubset(secrets) else ask_for("aws_access_key_id and aws_secret_access_key")

    def find_invalid_parameter(self, secrets: Collection[str], parameters: JsonMapping) -> tuple[str, str] | None:
        for name in (SESSION_TAGS, REQUEST_METADATA):
            if _read_label_names(parameters.get(name)) is None:
                return name, f"must name some of {', '.join(LABELS)}"
        if parameters.get(SESSION_TAGS) and not parameters.get("aws_role_name"):
            return SESSION_TAGS, "needs aws_role_name: the tags are those of a role's session"
        if parameters.get(SESSION_TAGS) and BEARERS.intersection(secrets):
            return SESSION_TAGS, "has no effect beside an API key, which assumes no role: leave one of them out"
        if parameters.get("aws_web_identity_token"):
            return (
                "aws_web_identity_token",
                "is not supported: let AWS_WEB_IDENTITY_TOKEN_FILE of the machine name a file",
            )
        if not isinstance(parameters.get("requestMetadata") or {}, dict | bool):  # true: it is sealed
            return "requestMetadata", "must be an object"
        metadata = _read_metadata(parameters)
        if len(metadata.keys() | set(_read_label_names(parameters.get(REQUEST_METADATA)) or ())) > MAX_METADATA:
            return "requestMetadata", f"has more than {MAX_METADATA} entries, with those of {REQUEST_METADATA}"
        return None

    def session_tags(self, target: Target, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        chosen = _choose_labels(target, SESSION_TAGS, labels)
        return tuple(sorted((name, _session_label(value)) for name, value in chosen))

    # The models of the region

    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        """ListFoundationModels. Its host is `bedrock` instead of `bedrock-runtime`; a custom endpoint keeps its own."""
        area = region(target)
        base = _endpoint(target).replace("bedrock-runtime", "bedrock", 1)
        if not base and not area:
            raise ConnectFault("The deployment names no AWS region.")
        base = base or f"https://bedrock.{area}.amazonaws.com{'.cn' if area.startswith('cn-') else ''}"
        url = f"{base}/foundation-models"
        headers = {**target.headers, "content-type": "application/json", "accept-encoding": "identity"}
        return ListRequest(url, headers | _authorization_headers(target, context, url, b"", "GET"))

    def models(self, body: bytes) -> ModelPage:
        answer = read_answer(body)
        return ModelPage(read_names(answer.get("modelSummaries") if isinstance(answer, dict) else None, "modelId"))

    # More texts than one call takes

    def split(self, call: Call, target: Target) -> tuple[Call, ...]:
        return split_texts(call, 1 if "titan" in _family_name(target) else MAX_TEXTS)

    def join(self, call: Call, answers: Sequence[tuple[bytes, AnswerMetadata]]) -> tuple[bytes, AnswerMetadata]:
        return join_lists(call, answers)


# Chat


def _chat_body(call: Call, target: Target, context: AttemptContext) -> tuple[JsonObject, tuple[str, ...]]:
    """(the body, the parameters it could not carry). A deployment's other parameters are additional fields."""
    settled = _settle(call, target)
    parameters = settled.other_parameters
    extra = _extra(settled.request)
    others = {name: value for name, value in settled.request.others.items() if name != SERVICE}
    encoded = bedrock_request.encode_request(
        replace(settled.request, others=others),
        target.capabilities,
        model=_family_name(target),
        fetched=context.fetched,
    )
    body = encoded.body
    body |= {member: parameters.pop(name) for name, member in CONVERSE_MEMBERS.items() if name in parameters}
    labels = {name: _ascii_label(value) for name, value in _choose_labels(target, REQUEST_METADATA, context.labels)}
    metadata = _join_metadata(extra.get("requestMetadata", {}), {**_read_metadata(body), **labels})
    deployment_fields = parameters.pop(ADDITIONAL, None)
    additional = {
        **parameters,
        **(deployment_fields if isinstance(deployment_fields, dict) else {}),
        **body.get(ADDITIONAL, {}),
        **extra.get(ADDITIONAL, {}),
    }
    objects = {"requestMetadata": metadata, ADDITIONAL: additional}
    body |= {name: value for name, value in objects.items() if value}
    return body, (*settled.dropped, *encoded.dropped)


def _extra(request: ChatRequest) -> JsonMapping:
    """The members of Converse's body that the client sets itself, under the provider's name."""
    extra = request.others.get(SERVICE, {})
    if not isinstance(extra, dict) or any(
        name not in EXTRA_MEMBERS or not isinstance(value, dict) for name, value in extra.items()
    ):
        raise BadRequest(f"'{SERVICE}' may hold {' and '.join(sorted(EXTRA_MEMBERS))} only.", param=SERVICE)
    return extra


def _needs_whole_answer(call: Call, target: Target) -> bool:
    return bedrock_request.needs_whole_answer(call.dialect.chat_request(call), _family_name(target))


class _AnswerTools(TypedDict):
    """The options by which a decoder reads the tool calls of an answer."""

    answer_tool: str
    custom_tools: frozenset[str]


def _answer_tools(call: Call, target: Target) -> _AnswerTools:
    request = _settle(call, target).request
    return {
        "answer_tool": bedrock_request.answer_tool(request, target.capabilities),
        "custom_tools": frozenset(tool.name for tool in request.tools if tool.kind == "custom"),
    }


def _settle(call: Call, target: Target) -> SettledRequest:
    """The chat request with the deployment's parameters; `other_parameters` are those for the request's body."""
    settled = settle_request(to_chat_request(call), target.parameters, target.unsupported_parameters)
    request, dropped = settled.request, settled.dropped
    parallel = target.parameters.get("parallel_tool_calls")
    if request.parallel_tools is None and parallel is not None:
        request = replace(request, parallel_tools=parallel)
    if request.parallel_tools is not None and "parallel_tool_calls" in target.unsupported_parameters:
        request, dropped = replace(request, parallel_tools=None), (*dropped, "parallel_tool_calls")
    body_parameters = {
        name: value
        for name, value in settled.other_parameters.items()
        if name not in OURS and not name.startswith("aws_")
    }
    return SettledRequest(request, body_parameters, dropped)


# Labels of the caller


def _choose_labels(target: Target, parameter: str, labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """The labels that the deployment's parameter names, a list or names with commas between, and the caller has.
    Raises ConnectFault for a name that is none."""
    names = _read_label_names(target.parameters.get(parameter))
    if names is None:
        raise ConnectFault(f"The deployment's {parameter} must name some of {', '.join(LABELS)}.", is_retryable=True)
    return [(name, labels[name]) for name in names if labels.get(name)]


def _read_label_names(value: Json) -> list[str] | None:
    """The names in a list, or with commas between; None where one is no label."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) and value else value or []
    if not isinstance(names, list | tuple):
        return None
    chosen = [name for name in names if isinstance(name, str) and name in LABELS]
    return list(dict.fromkeys(chosen)) if len(chosen) == len(names) else None


def _read_metadata(parameters: JsonMapping) -> JsonMapping:
    value = parameters.get("requestMetadata")
    return value if isinstance(value, dict) else {}


def _join_metadata(clients: JsonMapping, own: JsonMapping) -> JsonObject:
    """The entries of the client and, over them, those of the deployment. None is left out where they are too many: the
    reports of AWS would lack it. Raises BadRequest and ConnectFault."""
    if len(own) > MAX_METADATA:
        raise ConnectFault(f"The deployment's requestMetadata has more than {MAX_METADATA} entries.", is_retryable=True)
    metadata = {**clients, **own}
    if len(metadata) > MAX_METADATA:
        raise BadRequest(
            f"requestMetadata may hold {MAX_METADATA} entries, of which {len(own)} are set by the gateway.",
            param=f"{SERVICE}.requestMetadata",
        )
    return metadata


def _session_label(text: str) -> str:
    r"""The text in the characters of a session tag: letters, digits and spaces of all scripts, and _.:/=+-@."""
    return "".join(sign if unicodedata.category(sign)[0] in "LNZ" or sign in "_.:/=+-@" else "_" for sign in text)[
        :MAX_LABEL
    ]


def _ascii_label(text: str) -> str:
    r"""The text in the characters of requestMetadata: [a-zA-Z0-9\s:_@$#=/+,-.]."""
    return re.sub(r"[^a-zA-Z0-9 :_@$#=/+,.-]", "_", text)[:MAX_LABEL]


# Embeddings


def _family_name(target: Target) -> str:
    return str(target.parameters.get("base_model") or upstream_model(target)).lower()


def embedding_body(call: Call, target: Target) -> tuple[JsonObject, tuple[str, ...]]:
    """(the body, the parameters it could not carry). Raises BadRequest for a model of another family."""
    texts = input_texts(call.body)
    model = _family_name(target)
    dimensions = call.body.get("dimensions")
    dropped = ["user"] if call.body.get("user") else []
    body: JsonObject
    if "titan-embed-text" in model or "titan-embed-g1" in model:
        if len(texts) != 1:
            raise BadRequest("This model takes one text a call.", param="input", code="unsupported_parameter")
        body = {"inputText": texts[0]}
        if "text-v1" not in model and "g1" not in model:
            body["normalize"] = target.parameters.get("normalize", True)
            body |= {"dimensions": dimensions} if dimensions is not None else {}
        elif dimensions is not None:
            dropped.append("dimensions")
    elif "cohere.embed" in model:
        if len(texts) > MAX_TEXTS:
            raise BadRequest(f"This model takes {MAX_TEXTS} texts a call.", param="input", code="unsupported_parameter")
        kind = call.body.get("input_type") or target.parameters.get("input_type") or "search_document"
        body = {"texts": list(texts), "input_type": kind, "embedding_types": ["float"]}
        if target.parameters.get("truncate"):
            body["truncate"] = target.parameters["truncate"]
        if dimensions is not None and "embed-v4" in model:
            body["output_dimension"] = dimensions
        elif dimensions is not None:
            dropped.append("dimensions")
    else:
        raise BadRequest("This model makes no embeddings here.", param="model", code="unsupported_parameter")
    refuse_dropped(dropped, target.capabilities, hints=bedrock_request.HINTS)
    return body, tuple(dropped)


def _embedding_answer(call: Call, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, AnswerMetadata]:
    """OpenAI's list of embeddings.

    Shape: Titan sends one vector and its tokens; Cohere a list, or lists by type where the request names types, and its
    tokens in a header only (github.com/vercel/ai/pull/15973).
    """
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        raise UpstreamFault("The upstream's answer is not JSON.", is_retryable=True) from None
    answer = answer if isinstance(answer, dict) else {}
    vectors: Json = answer.get("embeddings")
    if isinstance(vectors, dict):
        vectors = vectors.get("float")
    if "embedding" in answer:
        vectors = [answer["embedding"]]
    if not isinstance(vectors, list) or len(vectors) != len(input_texts(call.body)):
        raise UpstreamFault("The upstream's answer does not hold one embedding for each input.", is_retryable=True)
    count = answer.get("inputTextTokenCount")
    header = headers.get(INPUT_COUNT_HEADER, "")
    if type(count) is not int and header.isascii() and header.isdigit() and len(header) <= len(str(MAX_TOKENS)):
        count = int(header)
    metadata = AnswerMetadata(upstream_id=headers.get("x-amzn-requestid", ""))
    if type(count) is int and 0 < count <= MAX_TOKENS:
        metadata.usage, metadata.raw_usage = Usage(input_tokens=count), {"inputTokens": count}
    encoded = encode_embeddings(
        vectors,
        model=call.model,
        prompt_tokens=metadata.usage.input_tokens if metadata.usage is not None else call.input_estimate,
        encoding_format=call.body.get("encoding_format"),
    )
    return encoded, metadata


# Addresses and credentials


def upstream_model(target: Target) -> str:
    """The model's id, inference profile or ARN, without the routes that may stand before it."""
    name = target.upstream_model
    for route in ROUTES:
        name = name.removeprefix(route)
    match = REGION_PREFIX.fullmatch(name)
    return match.group(2) if match else name


def _endpoint(target: Target) -> str:
    """The deployment's endpoint, its host in lower case as the HTTP client sends it: the signature covers it."""
    address = target.api_base or str(target.parameters.get("aws_bedrock_runtime_endpoint") or "")
    parts = urlsplit(address.rstrip("/"))
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=user + at + host.lower()).geturl()


def region(target: Target) -> str:
    """The region in the parameters, the endpoint, or the model's name, in this order; empty where none has one.

    Raises ConnectFault for a name that cannot be a part of a host.
    """
    configured = str(target.parameters.get("aws_region_name") or "")
    if configured and not REGION.fullmatch(configured):
        raise ConnectFault("The deployment's aws_region_name is not the name of a region.", is_retryable=True)
    in_host = REGION_IN_HOST.search(urlsplit(_endpoint(target)).hostname or "")
    name = target.upstream_model
    for route in ROUTES:
        name = name.removeprefix(route)
    in_name = REGION_PREFIX.fullmatch(name) or REGION_IN_ARN.match(name)
    return configured or (in_host.group(1) if in_host else "") or (in_name.group(1) if in_name else "")


def _signed_request(
    target: Target, context: AttemptContext, action: str, body: bytes, dropped: tuple[str, ...], *, accept: str
) -> UpstreamRequest:
    area = region(target)
    base = _endpoint(target)
    if not base:
        if not area:
            raise ConnectFault("The deployment names no AWS region.", is_retryable=True)
        base = f"https://bedrock-runtime.{area}.amazonaws.com{'.cn' if area.startswith('cn-') else ''}"
    url = f"{base}/model/{quote(upstream_model(target), safe='')}/{action}"
    headers = {**target.headers, "content-type": "application/json", "accept": accept, "accept-encoding": "identity"}
    headers |= _authorization_headers(target, context, url, body)
    return UpstreamRequest(url=url, headers=headers, body=body, dropped=dropped)


def _authorization_headers(
    target: Target, context: AttemptContext, url: str, body: bytes, method: str = "POST"
) -> dict[str, str]:
    bearer = _bearer(target)
    if bearer:
        return {"authorization": f"Bearer {bearer}"}
    keys = None if PROVIDER.token(target) else _key_pair(target.credential)
    keys = keys or _fetched_keys(context.token)
    return sign(url, body, keys, region=region(target) or DEFAULT_REGION, at_s=context.at_s, method=method)


def _bearer(target: Target) -> str:
    for name in sorted(BEARERS):
        secret = target.credential.get(name)
        if secret:
            return secret.reveal()
    return ""


Keys = tuple[str, str, str]  # access key id, secret access key, session token


def _key_pair(credential: Mapping[str, Secret]) -> Keys | None:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    key, secret, token = [credential[name].reveal() if credential.get(name) else "" for name in names]
    return (key, secret, token) if key and secret else None


def _fetched_keys(token: str) -> Keys:
    try:
        keys = orjson.loads(token)
        return keys["access_key_id"], keys["secret_access_key"], keys.get("session_token") or ""
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise UpstreamFault(
            "The gateway has no credentials for the upstream.", code="upstream_auth_failed", is_retryable=True
        ) from None


def sign(url: str, body: bytes, keys: Keys, *, region: str, at_s: float, method: str = "POST") -> dict[str, str]:
    """The headers that sign a JSON request without a query, whose path is already percent-encoded.

    AWS signs the path encoded once more, S3 excepted: `%3A` in the address is `%253A` here.
    """
    access_key, secret_key, session_token = keys
    parts = urlsplit(url)
    stamp = datetime.fromtimestamp(at_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/{SERVICE}/aws4_request"
    signed = {"content-type": "application/json", "host": _host(parts.scheme, parts.netloc), "x-amz-date": stamp}
    if session_token:
        signed["x-amz-security-token"] = session_token
    names = ";".join(signed)
    canonical = "\n".join(
        [
            method,
            quote(parts.path, safe="/-_.~"),
            "",
            *[f"{name}:{value}" for name, value in signed.items()],
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    text = "\n".join([ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    del signed["host"], signed["content-type"]
    signed["authorization"] = (
        f"{ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return signed


def _host(scheme: str, netloc: str) -> str:
    """The host as the HTTP client sends it: in lower case, without user and without the scheme's default port."""
    host = netloc.rpartition("@")[2].lower()
    return host.removesuffix(":443" if scheme == "https" else ":80")


PROVIDER = Bedrock()
