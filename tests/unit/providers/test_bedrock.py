"""Bedrock: wire cases, addresses, credentials, and embeddings."""

import base64
import json
import struct
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from gateway.protocol.errors import BadRequest, ConnectFault, UpstreamFault
from gateway.protocol.secret import Secret
from gateway.protocol.usage import Usage
from gateway.providers.bedrock import PROVIDER, region, sign, upstream_model
from tests.fakes.bedrock import CLAUDE, KEYS, PROFILE, chat, embedding, encode, target, target_of
from tests.fakes.memory import decode
from tests.fakes.provider_cases import (
    MOMENT,
    Case,
    Streamed,
    call_of,
    cases,
    check_error,
    check_invariants,
    check_request,
    check_response,
    cuttings,
    like,
)

# The cases


@pytest.mark.parametrize("case", [c for c in cases("bedrock_", kind="request") if "sigv4" not in str(c.id)])
def test_requests_equal_their_wire_cases(case: Case) -> None:
    target = target_of(case)
    check_request(PROVIDER, target, case)
    if call_of(case).operation != "embedding":
        encode(call_of(case), target)


@pytest.mark.parametrize("case", cases("bedrock_", kind="response"))
def test_answers_equal_their_wire_cases(case: Case) -> None:
    metadata = check_response(PROVIDER, target_of(case), case)
    assert metadata.usage is not None


@pytest.mark.parametrize("case", cases("bedrock_", kind="error"))
def test_errors_equal_their_wire_cases(case: Case) -> None:
    fault = check_error(PROVIDER, target_of(case), case)
    assert "111122223333" not in fault.message


@pytest.mark.parametrize("case", cases("bedrock_", kind="stream"))
def test_streams_equal_their_wire_cases_however_they_are_cut(case: Case) -> None:
    expected, wire = case["openai"], case["provider_wire"]
    body = base64.b64decode(wire["body_b64"])
    for pieces in cuttings(body, wire.get("cuts", ())):
        call = call_of(case)
        relay = PROVIDER.relay(call, target_of(case), MOMENT)
        client_answer, fault = b"", None
        try:
            for piece in pieces:
                client_answer += relay.feed(piece)
            client_answer += relay.finish()
        except UpstreamFault as raised:
            fault = raised
        answer = Streamed(client_answer, relay.metadata)
        if "error_frame" in expected:
            assert fault is not None
            like(orjson.loads(call.dialect.error_body(fault)), expected["error_frame"])
            texts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in expected["chunks"]]
            assert answer.whole()["choices"][0]["message"]["content"] == "".join(texts)
        else:
            assert fault is None
            like(answer.whole(), expected["accumulated"])
            check_invariants(answer.chunks, has_usage=expected["include_usage"])
            usage = expected["accumulated"]["usage"]
            assert relay.metadata.usage is not None
            assert relay.metadata.usage.total_input == usage["prompt_tokens"]
            assert relay.metadata.usage.total_output == usage["completion_tokens"]
            assert relay.is_done == expected["done"]
        assert answer.is_done == expected["done"]


# Signing


@pytest.mark.parametrize("case", cases("bedrock_sigv4"))
def test_signatures_equal_the_published_ones(case: Case) -> None:
    context, wire = case["context"], case["provider_wire"]
    at_s = datetime.fromisoformat(context["now"]).timestamp()
    keys = (context["access_key"], context["secret_key"], context["session_token"] or "")
    url = f"https://{wire['host']}{wire['path']}"
    headers = sign(url, wire["body_text"].encode(), keys, region=context["region"], at_s=at_s)
    assert {"content-type": "application/json", **headers} == wire["headers"]


@pytest.mark.parametrize("token", ["", "FwoGZXIvYXdzEXAMPLE//////////wEaDH"])
@pytest.mark.parametrize("model", [CLAUDE, PROFILE, "amazon.titan-embed-text-v2:0", "weird model~ü"])
@pytest.mark.parametrize(
    "base", ["", "https://VPCE-1.bedrock-runtime.us-east-1.vpce.amazonaws.com:443", "http://[::1]:8080/aws"]
)
def test_signatures_equal_those_of_botocore(base: str, model: str, token: str) -> None:
    keys = KEYS | ({"aws_session_token": Secret(token)} if token else {})
    request = PROVIDER.request(
        chat([{"role": "user", "content": "Grüezi"}]), target(model, api_base=base, credential=keys), MOMENT
    )
    signed = AWSRequest(
        "POST", request.url, headers={"content-type": request.headers["content-type"]}, data=request.body
    )
    signed.headers["x-amz-date"] = datetime.fromtimestamp(MOMENT.at_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    if token:
        signed.headers["x-amz-security-token"] = token
    signed.context["timestamp"] = signed.headers["x-amz-date"]
    credentials = SimpleNamespace(
        access_key=keys["aws_access_key_id"].reveal(), secret_key=keys["aws_secret_access_key"].reveal(), token=token
    )
    theirs = SigV4Auth(credentials, "bedrock", "us-east-1")
    text = theirs.string_to_sign(signed, theirs.canonical_request(signed))
    assert request.headers["authorization"].endswith(f"Signature={theirs.signature(text, signed)}")
    assert request.headers["x-amz-date"] == signed.headers["x-amz-date"]
    assert request.headers.get("x-amz-security-token", "") == token


@pytest.mark.parametrize("name", ["api_key", "aws_bearer_token_bedrock"])
def test_an_api_key_is_the_bearer_and_wins(name: str) -> None:
    deployment = target(credential={**KEYS, name: Secret("bedrock-api-key-1")})
    request = PROVIDER.request(chat(), deployment, MOMENT)
    assert request.headers["authorization"] == "Bearer bedrock-api-key-1"
    assert "x-amz-date" not in request.headers
    assert PROVIDER.token(deployment) == ""


def test_credentials_of_the_machine_come_with_the_context() -> None:
    deployment = target(credential={})
    assert PROVIDER.token(deployment) == "aws"
    assert PROVIDER.token(target()) == ""
    as_role = target(parameters={"aws_role_name": "arn:aws:iam::1:role/r"})
    assert PROVIDER.token(as_role) == "aws"
    with pytest.raises(UpstreamFault):
        PROVIDER.request(chat(), as_role, MOMENT)
    keys = {"access_key_id": "ASIA1", "secret_access_key": "s", "session_token": "t"}
    request = PROVIDER.request(chat(), deployment, replace(MOMENT, token=json.dumps(keys)))
    assert "Credential=ASIA1/" in request.headers["authorization"]
    assert request.headers["x-amz-security-token"] == "t"
    for token in ("", "nonsense", "[]", '{"access_key_id":"a"}'):
        with pytest.raises(UpstreamFault) as refused:
            PROVIDER.request(chat(), deployment, replace(MOMENT, token=token))
        assert refused.value.code == "upstream_auth_failed"


LABELS = {"organization": "acme", "team": "research & data", "cost_center": "4711", "user": "ann@acme.example"}


def test_a_role_gets_the_labels_that_its_deployment_names_as_session_tags() -> None:
    role = {"aws_role_name": "arn:aws:iam::1:role/r"}
    assert PROVIDER.session_tags(target(parameters=role), LABELS) == ()
    for names in (["team", "cost_center", "key"], "cost_center, team,key"):
        tagged = target(parameters={**role, "aws_session_tags": names})
        assert PROVIDER.session_tags(tagged, LABELS) == (("cost_center", "4711"), ("team", "research _ data"))
    everything = target(parameters={"aws_session_tags": ["user"]})
    assert PROVIDER.session_tags(everything, {"user": "Jörg/Ω 1@" + "x" * 300}) == (("user", "Jörg/Ω 1@" + "x" * 247),)


@pytest.mark.parametrize("names", ["teams", ["team", 1], {"team": "a"}, 7, "team,,"])
def test_a_label_that_does_not_exist_is_refused(names: object) -> None:
    with pytest.raises(ConnectFault, match="aws_session_tags must name some of organization, team"):
        PROVIDER.session_tags(target(parameters={"aws_session_tags": names}), LABELS)


def test_the_metadata_of_a_request_has_the_labels_that_its_deployment_names() -> None:
    parameters = {"aws_request_metadata": "team,organization", "requestMetadata": {"team": "forged", "app": "chat"}}
    context = replace(MOMENT, labels={**LABELS, "team": "Jörg's"})
    body = json.loads(PROVIDER.request(chat(), target(parameters=parameters), context).body)
    assert body["requestMetadata"] == {"team": "J_rg_s", "app": "chat", "organization": "acme"}
    assert "additionalModelRequestFields" not in body
    plain = json.loads(PROVIDER.request(chat(), target(), context).body)
    assert "requestMetadata" not in plain


def metadata_of(parameters: dict[str, Any], clients: int, context: Any = MOMENT) -> dict[str, str]:
    """The requestMetadata of a call with so many entries of the client's own."""
    entries = {f"client-{number}": "x" for number in range(clients)}
    call = chat(bedrock={"requestMetadata": entries})
    body: Any = json.loads(PROVIDER.request(call, target(parameters=parameters), context).body)
    return dict(body["requestMetadata"])


def test_the_metadata_of_a_request_has_at_most_sixteen_entries_and_loses_none() -> None:
    parameters = {"aws_request_metadata": "team,organization", "requestMetadata": {"app": "chat"}}
    context = replace(MOMENT, labels=LABELS)
    found = metadata_of(parameters, 13, context)
    assert len(found) == 16
    assert {"team", "organization", "app", "client-12"} < found.keys()
    with pytest.raises(BadRequest, match="16 entries, of which 3 are set by the gateway") as refused:
        metadata_of(parameters, 14, context)
    assert refused.value.param == "bedrock.requestMetadata"
    too_many = {"requestMetadata": {f"own-{number}": "x" for number in range(17)}}
    with pytest.raises(ConnectFault, match="more than 16 entries"):
        metadata_of(too_many, 0)
    assert len(metadata_of({"requestMetadata": "text"}, 1)) == 1


@pytest.mark.parametrize(
    ("secrets", "parameters", "param"),
    [
        ([], {"aws_session_tags": "team"}, "aws_session_tags"),
        ([*KEYS], {"aws_session_tags": ["team"]}, "aws_session_tags"),
        (["api_key"], {"aws_session_tags": "team", "aws_role_name": "arn"}, "aws_session_tags"),
        ([*KEYS], {"aws_session_tags": "teams", "aws_role_name": "arn"}, "aws_session_tags"),
        ([*KEYS], {"aws_request_metadata": {"team": "a"}}, "aws_request_metadata"),
        ([*KEYS], {"aws_request_metadata": ["team", ["key"]]}, "aws_request_metadata"),
        ([], {"aws_web_identity_token": "t", "aws_role_name": "arn"}, "aws_web_identity_token"),
        ([], {"requestMetadata": "text"}, "requestMetadata"),
        ([], {"requestMetadata": {str(number): "x" for number in range(17)}}, "requestMetadata"),
        (
            [],
            {"requestMetadata": {str(number): "x" for number in range(15)}, "aws_request_metadata": "team,key"},
            "requestMetadata",
        ),
    ],
)
def test_parameters_without_effect_are_found(secrets: list[str], parameters: Any, param: str) -> None:
    found = PROVIDER.find_invalid_parameter(secrets, parameters)
    assert found is not None
    assert found[0] == param


@pytest.mark.parametrize(
    ("secrets", "parameters"),
    [
        ([], {}),
        ([*KEYS], {"aws_session_tags": "team, key", "aws_role_name": "arn", "aws_request_metadata": ["team"]}),
        (["api_key"], {"aws_session_tags": [], "aws_request_metadata": ""}),
        ([], {"requestMetadata": {"team": "x"} | {str(number): "x" for number in range(15)}}),
        ([], {"requestMetadata": True}),  # sealed
    ],
)
def test_parameters_with_effect_are_taken(secrets: list[str], parameters: Any) -> None:
    assert PROVIDER.find_invalid_parameter(secrets, parameters) is None


def test_headers_of_a_deployment_never_replace_signed_ones() -> None:
    request = PROVIDER.request(chat(), target(headers={"content-type": "text/plain", "x-team": "a"}), MOMENT)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-team"] == "a"


# Addresses


@pytest.mark.parametrize(
    ("model", "base", "parameters", "expected"),
    [
        (CLAUDE, "", {"aws_region_name": "eu-west-1"}, "eu-west-1"),
        (CLAUDE, "https://bedrock-runtime.us-west-2.amazonaws.com", {}, "us-west-2"),
        (CLAUDE, "https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com", {}, "us-gov-west-1"),
        (
            CLAUDE,
            "",
            {"aws_bedrock_runtime_endpoint": "https://bedrock-runtime.ap-south-1.amazonaws.com/"},
            "ap-south-1",
        ),
        (CLAUDE, "https://bedrock-runtime.us-west-2.amazonaws.com", {"aws_region_name": "eu-west-1"}, "eu-west-1"),
        (PROFILE, "", {}, "eu-west-1"),
        (f"converse/{PROFILE}", "", {}, "eu-west-1"),
        (f"us-west-2/{CLAUDE}", "", {}, "us-west-2"),
        (CLAUDE, "http://127.0.0.1:9", {}, ""),
    ],
)
def test_region(model: str, base: str, parameters: dict[str, str], expected: str) -> None:
    assert region(target(model, api_base=base, parameters={"aws_region_name": "", **parameters})) == expected


@pytest.mark.parametrize("name", ["eu-west-1.example.org/", "eu-west-1@example.org", "EU", "a" * 41])
def test_a_region_cannot_name_another_host(name: str) -> None:
    with pytest.raises(ConnectFault):
        PROVIDER.request(chat(), target(parameters={"aws_region_name": name}), MOMENT)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (CLAUDE, CLAUDE),
        (f"converse/{CLAUDE}", CLAUDE),
        (f"invoke/{CLAUDE}", CLAUDE),
        (f"converse/{PROFILE}", PROFILE),
        (f"converse/us-west-2/{CLAUDE}", CLAUDE),
    ],
)
def test_routes_are_removed_from_the_models_name(name: str, expected: str) -> None:
    assert upstream_model(target(name)) == expected


def test_addresses() -> None:
    plain = PROVIDER.request(chat(stream=True), target(), MOMENT)
    assert (
        plain.url == f"https://bedrock-runtime.us-east-1.amazonaws.com/model/{quote(CLAUDE, safe='')}/converse-stream"
    )
    assert plain.headers["accept"] == "application/vnd.amazon.eventstream"
    profile = PROVIDER.request(chat(), target(PROFILE, api_base="http://127.0.0.1:9"), MOMENT)
    assert urlsplit(profile.url).path == (
        "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A111122223333%3Aapplication-inference-profile%2Fabc123/converse"
    )
    china = PROVIDER.request(chat(), target(parameters={"aws_region_name": "cn-north-1"}), MOMENT)
    assert china.url.startswith("https://bedrock-runtime.cn-north-1.amazonaws.com.cn/model/")
    with pytest.raises(ConnectFault):
        PROVIDER.request(chat(), target(parameters={"aws_region_name": None}), MOMENT)


def test_addresses_hold_no_secret() -> None:
    request = PROVIDER.request(chat(), target(), MOMENT)
    assert all(secret.reveal() not in request.url + repr(request) for secret in KEYS.values())


# Embeddings


@pytest.mark.parametrize(
    ("model", "fields", "expected", "dropped"),
    [
        ("amazon.titan-embed-text-v2:0", {"input": "a"}, {"inputText": "a", "normalize": True}, ()),
        ("amazon.titan-embed-text-v1", {"input": ["a"], "dimensions": 256}, {"inputText": "a"}, ("dimensions",)),
        (
            "cohere.embed-english-v3",
            {"input": ["a", "b"], "dimensions": 256, "user": "u"},
            {"texts": ["a", "b"], "input_type": "search_document", "embedding_types": ["float"]},
            ("user", "dimensions"),
        ),
        (
            "us.cohere.embed-v4:0",
            {"input": "a", "dimensions": 256, "input_type": "search_query"},
            {"texts": ["a"], "input_type": "search_query", "embedding_types": ["float"], "output_dimension": 256},
            (),
        ),
    ],
)
def test_embedding_requests(model: str, fields: dict[str, Any], expected: Any, dropped: tuple[str, ...]) -> None:
    call = decode({"model": "alias-1", **fields}, "embedding")
    request = PROVIDER.request(call, target(model), MOMENT)
    assert orjson.loads(request.body) == expected
    assert request.dropped == dropped
    assert request.url.endswith(f"/model/{quote(model, safe='')}/invoke")
    if dropped:
        with pytest.raises(BadRequest):
            PROVIDER.request(call, target(model, flags={"on_unsupported": "error"}), MOMENT)


@pytest.mark.parametrize(
    ("model", "texts"),
    [
        ("amazon.titan-embed-text-v2:0", ["a", "b"]),
        ("amazon.titan-embed-text-v2:0", [1, 2]),
        ("cohere.embed-v4:0", ["a"] * 97),
        (CLAUDE, "a"),
    ],
)
def test_unsupported_embeddings_are_refused(model: str, texts: Any) -> None:
    with pytest.raises(BadRequest):
        PROVIDER.request(embedding(texts), target(model), MOMENT)


TITAN = b'{"embedding":[0.5,-1],"embeddingsByType":{"float":[0.5,-1]},"inputTextTokenCount":4}'


def test_embedding_answers() -> None:
    answer, metadata = PROVIDER.relay_body(embedding("a"), target("amazon.titan-embed-text-v2:0"), MOMENT, TITAN, {})
    assert orjson.loads(answer) == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1]}],
        "model": "alias-1",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    assert metadata.usage == Usage(input_tokens=4)
    for vectors in ("[[1.5],[2]]", '{"float":[[1.5],[2]]}'):
        body = b'{"embeddings":%s,"id":"x"}' % vectors.encode()
        headers = {"x-amzn-bedrock-input-token-count": "9"}
        call = embedding(["a", "b"], encoding_format="base64")
        answer, metadata = PROVIDER.relay_body(call, target("cohere.embed-v4:0"), MOMENT, body, headers)
        data = orjson.loads(answer)["data"]
        assert [struct.unpack("<f", base64.b64decode(item["embedding"])) for item in data] == [(1.5,), (2.0,)]
        assert metadata.usage == Usage(input_tokens=9)


@pytest.mark.parametrize("count", ["", "x", "-1", "0", "9" * 30, "²"])
def test_uncounted_tokens_of_an_embedding_are_estimated(count: str) -> None:
    body = b'{"embeddings":[[1]]}'
    call = embedding("abcdefgh")
    answer, metadata = PROVIDER.relay_body(
        call, target("cohere.embed-v4:0"), MOMENT, body, {"x-amzn-bedrock-input-token-count": count}
    )
    assert metadata.usage is None
    assert orjson.loads(answer)["usage"]["prompt_tokens"] == call.input_estimate


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"embedding":"x"}',
        b'{"embeddings":[]}',
        b'{"embedding":[true]}',
        b'{"embeddings":{"int8":[[1]]}}',
    ],
)
def test_an_unusable_embedding_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        PROVIDER.relay_body(embedding("a"), target("amazon.titan-embed-text-v2:0"), MOMENT, body, {})


def test_too_many_texts_are_split_and_joined() -> None:
    titan, cohere = target("amazon.titan-embed-text-v2:0"), target("cohere.embed-v4:0")
    call = embedding(["a", "b", "c"])
    parts = PROVIDER.split(call, titan)
    assert [part.body["input"] for part in parts] == [["a"], ["b"], ["c"]]
    assert PROVIDER.split(call, cohere) == ()
    assert PROVIDER.split(embedding("a"), titan) == PROVIDER.split(embedding(["a"]), titan) == ()
    assert [len(part.body["input"]) for part in PROVIDER.split(embedding(["x"] * 200), cohere)] == [96, 96, 8]
    answers = [PROVIDER.relay_body(part, titan, MOMENT, TITAN, {}) for part in parts]
    answer, metadata = PROVIDER.join(call, answers)
    assert [item["index"] for item in orjson.loads(answer)["data"]] == [0, 1, 2]
    assert orjson.loads(answer)["usage"]["prompt_tokens"] == 12
    assert metadata.usage == Usage(input_tokens=12)
