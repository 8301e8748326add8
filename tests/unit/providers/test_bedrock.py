"""Bedrock: the wire cases, frames however they are cut or damaged, and what botocore itself says of the same bytes."""

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit
from zlib import crc32

import orjson
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.eventstream import EventStreamBuffer
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import EventStreamJSONParser
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.call import Call
from gateway.protocol.capabilities import by_name, known
from gateway.protocol.dialects import bedrock, bedrock_request
from gateway.protocol.dialects.event_stream import MAX_FRAME_BYTES, Frame, FrameSplitter
from gateway.protocol.errors import BadRequest, ConnectFault, UpstreamFault
from gateway.protocol.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolArgumentsDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.protocol.moment import Fetched, Moment
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.protocol.usage import Usage
from gateway.providers.bedrock import PROVIDER, region, sign, upstream_model
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

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-2-lite-v1:0"
PROFILE = "arn:aws:bedrock:eu-west-1:111122223333:application-inference-profile/abc123"
KEYS = {
    "aws_access_key_id": Secret("AKIDEXAMPLE"),
    "aws_secret_access_key": Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
}
HI = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLED = {
    "role": "assistant",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "Rain"}
PNG = "iVBORw0KGgo="
SERVICE = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"), "bedrock-runtime")


def target(model: str = CLAUDE, *, parameters: Mapping[str, Any] | None = None, **changes: Any) -> Target:
    flags = changes.pop("flags", {})
    given = {
        "deployment_id": "d1",
        "model_group": "alias-1",
        "organization_id": None,
        "provider": PROVIDER,
        "upstream_model": model,
        "api_base": "",
        "credential": KEYS,
        "parameters": {"aws_region_name": "us-east-1", **(parameters or {})},
        "capabilities": known(flags, by_name(model)),
    }
    return Target(**(given | changes))


def target_of(case: Case) -> Target:
    context = case.get("context", {})
    return target(context.get("upstream_model", CLAUDE), flags=context)


def chat(messages: Any = HI, **fields: Any) -> Call:
    return decode({"model": "alias-1", "messages": messages, **fields})


def embedding(texts: Any, **fields: Any) -> Call:
    return decode({"model": "alias-1", "input": texts, **fields}, "embedding")


def sent(call: Call, where: Target | None = None, moment: Moment = MOMENT) -> dict[str, Any]:
    """The body, which botocore must find valid."""
    body = orjson.loads(PROVIDER.request(call, where or target(), moment).body)
    check_valid(body, "ConverseStream" if call.stream else "Converse")
    return body


def check_valid(body: dict[str, Any], operation: str = "Converse") -> None:
    shape = SERVICE.operation_model(operation).input_shape
    report = ParamValidator().validate({"modelId": "m", **body}, shape)
    assert not report.has_errors(), report.generate_report()


def dropped(call: Call, where: Target | None = None) -> tuple[str, ...]:
    return PROVIDER.request(call, where or target(), MOMENT).dropped


# Frames


def header(name: str, value: bytes | str, kind: int = 7) -> bytes:
    made = bytes([len(name)]) + name.encode() + bytes([kind])
    if isinstance(value, str):
        value = value.encode()
    return made + (struct.pack(">H", len(value)) if kind in {6, 7} else b"") + value


def raw_frame(headers: bytes, payload: bytes) -> bytes:
    lengths = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
    frame = lengths + struct.pack(">I", crc32(lengths)) + headers + payload
    return frame + struct.pack(">I", crc32(frame))


def frame(kind: str, payload: Any, *, message: str = "event") -> bytes:
    headers = header(f":{message}-type", kind) + header(":content-type", "application/json")
    return raw_frame(headers + header(":message-type", message), json.dumps(payload).encode())


def stream(*events: tuple[str, Any]) -> bytes:
    return b"".join([frame(kind, payload) for kind, payload in events])


START = ("messageStart", {"role": "assistant"})
END = ("metadata", {"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, "metrics": {"latencyMs": 1}})


def stop(reason: str = "end_turn") -> tuple[str, Any]:
    return ("messageStop", {"stopReason": reason})


def delta(index: int = 0, **content: Any) -> tuple[str, Any]:
    return ("contentBlockDelta", {"contentBlockIndex": index, "delta": content})


def tool_start(index: int, call_id: str, name: str, **more: Any) -> tuple[str, Any]:
    use = {"toolUseId": call_id, "name": name, **more}
    return ("contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": use}})


def block_stop(index: int = 0) -> tuple[str, Any]:
    return ("contentBlockStop", {"contentBlockIndex": index})


def read(body: bytes, **options: Any) -> list[Event]:
    decoder = bedrock.ConverseDecoder(**options)
    events = decoder.feed(body)
    return events + decoder.finish()


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def split_all(body: bytes) -> list[Frame]:
    return list(FrameSplitter().feed(body))


# The cases


@pytest.mark.parametrize("case", [c for c in cases("bedrock_", kind="request") if "sigv4" not in str(c.id)])
def test_requests_are_as_their_cases(case: Case) -> None:
    where = target_of(case)
    check_request(PROVIDER, where, case)
    if call_of(case).operation != "embedding":
        sent(call_of(case), where)


@pytest.mark.parametrize("case", cases("bedrock_", kind="response"))
def test_answers_are_as_their_cases(case: Case) -> None:
    facts = check_response(PROVIDER, target_of(case), case)
    assert facts.usage is not None


@pytest.mark.parametrize("case", cases("bedrock_", kind="error"))
def test_errors_are_as_their_cases(case: Case) -> None:
    fault = check_error(PROVIDER, target_of(case), case)
    assert "111122223333" not in fault.message


@pytest.mark.parametrize("case", cases("bedrock_", kind="stream"))
def test_streams_are_as_their_cases_however_they_are_cut(case: Case) -> None:
    expected, wire = case["openai"], case["provider_wire"]
    body = base64.b64decode(wire["body_b64"])
    for pieces in cuttings(body, wire.get("cuts", ())):
        call = call_of(case)
        relay = PROVIDER.relay(call, target_of(case), MOMENT)
        shown, fault = b"", None
        try:
            for piece in pieces:
                shown += relay.feed(piece)
            shown += relay.finish()
        except UpstreamFault as raised:
            fault = raised
        answer = Streamed(shown, relay.facts)
        if "error_frame" in expected:
            assert fault is not None
            like(orjson.loads(call.dialect.error_body(fault)), expected["error_frame"])
            told = [chunk["choices"][0]["delta"].get("content") or "" for chunk in expected["chunks"]]
            assert answer.whole()["choices"][0]["message"]["content"] == "".join(told)
        else:
            assert fault is None
            like(answer.whole(), expected["accumulated"])
            check_invariants(answer.chunks, has_usage=expected["include_usage"])
            usage = expected["accumulated"]["usage"]
            assert relay.facts.usage is not None
            assert relay.facts.usage.total_input == usage["prompt_tokens"]
            assert relay.facts.usage.total_output == usage["completion_tokens"]
            assert relay.is_done == expected["done"]
        assert answer.is_done == expected["done"]


# Signing


@pytest.mark.parametrize("case", cases("bedrock_sigv4"))
def test_signatures_are_the_known_answers(case: Case) -> None:
    context, wire = case["context"], case["provider_wire"]
    at_s = datetime.fromisoformat(context["now"]).timestamp()
    keys = (context["access_key"], context["secret_key"], context["session_token"] or "")
    url = f"https://{wire['host']}{wire['path']}"
    made = sign(url, wire["body_text"].encode(), keys, region=context["region"], at_s=at_s)
    assert {"content-type": "application/json", **made} == wire["headers"]


@pytest.mark.parametrize("token", ["", "FwoGZXIvYXdzEXAMPLE//////////wEaDH"])
@pytest.mark.parametrize("model", [CLAUDE, PROFILE, "amazon.titan-embed-text-v2:0", "weird model~ü"])
@pytest.mark.parametrize(
    "base", ["", "https://VPCE-1.bedrock-runtime.us-east-1.vpce.amazonaws.com:443", "http://[::1]:8080/aws"]
)
def test_signatures_are_those_of_botocore(base: str, model: str, token: str) -> None:
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
def test_an_api_key_is_sent_as_bearer_and_wins(name: str) -> None:
    where = target(credential={**KEYS, name: Secret("bedrock-api-key-1")})
    request = PROVIDER.request(chat(), where, MOMENT)
    assert request.headers["authorization"] == "Bearer bedrock-api-key-1"
    assert "x-amz-date" not in request.headers
    assert PROVIDER.token(where) == ""


def test_credentials_of_the_machine_come_with_the_moment() -> None:
    where = target(credential={})
    assert PROVIDER.token(where) == "aws"
    assert PROVIDER.token(target()) == ""
    as_role = target(parameters={"aws_role_name": "arn:aws:iam::1:role/r"})
    assert PROVIDER.token(as_role) == "aws"
    with pytest.raises(UpstreamFault):
        PROVIDER.request(chat(), as_role, MOMENT)
    keys = {"access_key_id": "ASIA1", "secret_access_key": "s", "session_token": "t"}
    request = PROVIDER.request(chat(), where, replace(MOMENT, token=json.dumps(keys)))
    assert "Credential=ASIA1/" in request.headers["authorization"]
    assert request.headers["x-amz-security-token"] == "t"
    for token in ("", "nonsense", "[]", '{"access_key_id":"a"}'):
        with pytest.raises(UpstreamFault) as refused:
            PROVIDER.request(chat(), where, replace(MOMENT, token=token))
        assert refused.value.code == "upstream_auth_failed"


def test_a_deployments_headers_do_not_replace_what_is_signed() -> None:
    request = PROVIDER.request(chat(), target(headers={"content-type": "text/plain", "x-team": "a"}), MOMENT)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-team"] == "a"


# Where


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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (CLAUDE, CLAUDE),
        (f"converse/{CLAUDE}", CLAUDE),
        (f"invoke/{CLAUDE}", CLAUDE),
        (f"converse/{PROFILE}", PROFILE),
        (f"converse/us-west-2/{CLAUDE}", CLAUDE),
    ],
)
def test_routes_are_no_part_of_the_models_name(given: str, expected: str) -> None:
    assert upstream_model(target(given)) == expected


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


def test_no_secret_stands_in_the_address() -> None:
    request = PROVIDER.request(chat(), target(), MOMENT)
    assert all(secret.reveal() not in request.url + repr(request) for secret in KEYS.values())


# Messages


def test_results_stand_first_and_missing_ones_are_filled() -> None:
    two = {
        "role": "assistant",
        "content": "Let me see. ",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}},
            {"id": "b", "type": "function", "function": {"name": "weather", "arguments": "not json"}},
        ],
    }
    messages = [*HI, two, {"role": "tool", "tool_call_id": "b", "content": " "}, {"role": "user", "content": "And?"}]
    body = sent(chat(messages, tools=[WEATHER]))
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"text": "Let me see. "},
                {"toolUse": {"toolUseId": "a", "name": "weather", "input": {}}},
                {"toolUse": {"toolUseId": "b", "name": "weather", "input": {"_raw": "not json"}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "b", "content": [{"text": "(empty)"}]}},
                {"toolResult": {"toolUseId": "a", "content": [{"text": "no result"}], "status": "error"}},
                {"text": "And?"},
            ],
        },
    ]


def test_a_conversation_that_ends_with_calls_gets_their_results() -> None:
    body = sent(chat([*HI, CALLED]))
    assert body["messages"][-1]["role"] == "user"
    assert body["messages"][-1]["content"][0]["toolResult"]["toolUseId"] == "call_1"


def test_tools_of_the_history_are_declared() -> None:
    body = sent(chat([*HI, CALLED, RESULT]))
    assert body["toolConfig"] == {
        "tools": [
            {
                "toolSpec": {
                    "name": "weather",
                    "description": "weather",
                    "inputSchema": {"json": {"type": "object", "properties": {}}},
                }
            }
        ]
    }
    orphan = sent(chat([*HI, RESULT]))
    assert orphan["toolConfig"]["tools"][0]["toolSpec"]["name"] == "tool"


def test_choice_none_with_tools_in_the_history_is_told_in_words() -> None:
    body = sent(
        chat([{"role": "system", "content": "Be kind."}, *HI, CALLED, RESULT], tools=[WEATHER], tool_choice="none")
    )
    assert body["system"] == [{"text": "Do not call tools."}, {"text": "Be kind."}]
    assert body["toolConfig"].keys() == {"tools"}


def test_ids_in_another_form_become_the_same_other_ones() -> None:
    given = "call/1 " + "x" * 80
    called = {**CALLED, "tool_calls": [{**CALLED["tool_calls"][0], "id": given}]}
    body = sent(chat([*HI, called, {**RESULT, "tool_call_id": given}], tools=[WEATHER]))
    use, result = body["messages"][1]["content"][0]["toolUse"], body["messages"][2]["content"][0]["toolResult"]
    assert use["toolUseId"] == result["toolUseId"] == bedrock_request.tool_id(given)
    assert len(use["toolUseId"]) <= 64
    assert len(body["messages"][2]["content"]) == 1


def test_numbers_of_arguments_keep_their_digits() -> None:
    arguments = '{"n": 123456789012345678901234567890, "f": 1.10}'
    called = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "w", "arguments": arguments}}],
    }
    request = PROVIDER.request(chat([*HI, called, {**RESULT, "tool_call_id": "a"}]), target(), MOMENT)
    assert arguments.encode() in request.body


def test_system_messages() -> None:
    messages = [
        {"role": "system", "content": "One"},
        {"role": "developer", "content": [{"type": "text", "text": "Two"}]},
    ]
    late = {"role": "system", "content": "Three"}
    body = sent(chat([*messages, *HI, late]))
    assert body["system"] == [{"text": "One"}, {"text": "Two"}]
    assert body["messages"] == [{"role": "user", "content": [{"text": "Hi"}, {"text": "<system>Three</system>"}]}]
    with_role = sent(chat([*HI, late, *HI]), target(flags={"system_role": True}))
    assert [message["role"] for message in with_role["messages"]] == ["user", "system", "user"]
    only = sent(chat([late]))
    assert only["messages"] == [{"role": "user", "content": [{"text": "."}]}]
    with pytest.raises(BadRequest):
        sent(chat([{"role": "system", "content": [image(f"data:image/png;base64,{PNG}")]}, *HI]))


def test_blank_text_is_left_out() -> None:
    body = sent(chat([{"role": "user", "content": " \n"}, {"role": "assistant", "content": ""}, *HI]))
    assert [message["content"] for message in body["messages"]] == [[{"text": "."}], [{"text": "."}], [{"text": "Hi"}]]


def test_the_assistants_last_word_is_for_models_that_go_on() -> None:
    messages = [*HI, {"role": "assistant", "content": "Well, \n"}]
    with pytest.raises(BadRequest) as refused:
        sent(chat(messages))
    assert refused.value.param == "messages"
    body = sent(chat(messages), target(flags={"prefill": True}))
    assert body["messages"][-1]["content"] == [{"text": "Well,"}]
    first = sent(chat([{"role": "assistant", "content": "Hello"}, *HI]))
    assert first["messages"][0] == {"role": "user", "content": [{"text": "."}]}


def test_reasoning_goes_back_as_it_came() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "aGk="},
        {"type": "thinking", "thinking": "nobody signed this"},
    ]
    body = sent(chat([*HI, {**CALLED, "thinking_blocks": blocks}, RESULT], tools=[WEATHER]))
    assert body["messages"][1]["content"][:-1] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "aGk="}},
    ]


# Media


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("kind", "form"), [("png", "png"), ("jpeg", "jpeg"), ("jpg", "jpeg"), ("gif", "gif"), ("webp", "webp")]
)
def test_images(kind: str, form: str) -> None:
    body = sent(chat(user(image(f"data:image/{kind};base64,{PNG}"))))
    assert body["messages"][0]["content"] == [{"image": {"format": form, "source": {"bytes": PNG}}}]


def test_images_at_an_address_are_fetched() -> None:
    call = chat([*user(image("https://a.test/x"), image("https://a.test/x"), image("http://b.test/y")), CALLED, RESULT])
    assert PROVIDER.media(call) == ("https://a.test/x", "http://b.test/y")
    assert PROVIDER.media(embedding("a")) == ()
    with pytest.raises(BadRequest):
        sent(call)
    fetched = {
        "https://a.test/x": Fetched("image/jpeg; charset=binary", "YQ=="),
        "http://b.test/y": Fetched("image/webp", "Yg=="),
    }
    body = sent(call, moment=replace(MOMENT, fetched=fetched))
    formats = [block["image"]["format"] for block in body["messages"][0]["content"]]
    assert formats == ["jpeg", "jpeg", "webp"]


@pytest.mark.parametrize(
    ("part", "flags"),
    [
        (image("s3://bucket/secret.png"), {}),
        (image("file:///etc/passwd"), {}),
        (image(f"data:image/tiff;base64,{PNG}"), {}),
        (image(f"data:image/png;base64,{PNG}"), {"vision": False}),
        ({"type": "input_audio", "input_audio": {"data": "YQ==", "format": "mp3"}}, {"audio": False}),
        ({"type": "file", "file": {"file_id": "file-1"}}, {}),
        ({"type": "file", "file": {"filename": "a.bin", "file_data": "data:application/octet-stream;base64,YQ=="}}, {}),
    ],
)
def test_media_that_cannot_be_sent_are_refused(part: dict[str, Any], flags: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        sent(chat(user(part)), target(flags=flags))
    assert refused.value.param == "messages"


def test_documents_and_audio() -> None:
    pdf = {"type": "file", "file": {"filename": "Q3 (final).pdf", "file_data": "data:application/pdf;base64,YQ=="}}
    text = {"type": "file", "file": {"filename": "x", "file_data": "data:text/x-log;base64,Yg=="}}
    sheet = {"type": "file", "file": {"filename": "x.XLSX", "file_data": "Yw=="}}
    audio = {"type": "input_audio", "input_audio": {"data": "ZA==", "format": "mp3"}}
    body = sent(chat(user(pdf, text, sheet, audio)))
    assert body["messages"][0]["content"] == [
        {"document": {"format": "pdf", "name": "file-1", "source": {"bytes": "YQ=="}}},
        {"document": {"format": "txt", "name": "file-2", "source": {"bytes": "Yg=="}}},
        {"document": {"format": "xlsx", "name": "file-3", "source": {"bytes": "Yw=="}}},
        {"audio": {"format": "mp3", "source": {"bytes": "ZA=="}}},
        {"text": "."},
    ]


# Parameters


@pytest.mark.parametrize(
    ("sampling", "fields", "expected", "lost"),
    [
        ("full", {"temperature": 1.8, "top_p": 0.5}, {"temperature": 1, "topP": 0.5}, ()),
        ("one_of", {"temperature": 0, "top_p": 0.5}, {"temperature": 0}, ("top_p",)),
        ("one_of", {"top_p": 0.5}, {"topP": 0.5}, ()),
        ("none", {"temperature": 1, "top_p": 0.5, "top_k": 3}, None, ("temperature", "top_p", "top_k")),
    ],
)
def test_sampling(sampling: str, fields: dict[str, Any], expected: Any, lost: tuple[str, ...]) -> None:
    where = target(flags={"sampling": sampling})
    assert sent(chat(**fields), where).get("inferenceConfig") == expected
    assert dropped(chat(**fields), where) == lost


def test_parameters_that_cannot_be_said_are_named_or_refused() -> None:
    call = chat(
        n=2, seed=0, logprobs=True, logit_bias={"1": 2}, user="u", verbosity="low", presence_penalty=1, stop=["a", "\n"]
    )
    assert set(dropped(call)) == {
        "n",
        "seed",
        "logprobs",
        "logit_bias",
        "user",
        "verbosity",
        "presence_penalty",
        "stop",
    }
    with pytest.raises(BadRequest) as refused:
        sent(chat(seed=1), target(flags={"on_unsupported": "error"}))
    assert (refused.value.param, refused.value.code) == ("seed", "unsupported_parameter")
    assert dropped(chat(n=1, temperature=0.5)) == ()
    assert dropped(chat(user="u", service_tier="scale"), target(flags={"on_unsupported": "error"})) == (
        "service_tier",
        "user",
    )


def test_limits() -> None:
    assert sent(chat(max_tokens=9000), target(flags={"max_output_tokens": 8000}))["inferenceConfig"] == {
        "maxTokens": 8000
    }
    assert "inferenceConfig" not in sent(chat())


def test_top_k_by_family() -> None:
    assert sent(chat(top_k=5), target(flags={"sampling": "full"}))["additionalModelRequestFields"] == {"top_k": 5}
    assert sent(chat(top_k=5), target(NOVA))["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 5}}
    assert dropped(chat(top_k=5), target("meta.llama3-1-8b-instruct-v1:0")) == ("top_k",)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"auto": {}}),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "weather"}}, {"tool": {"name": "weather"}}),
    ],
)
def test_tool_choice(choice: Any, expected: Any) -> None:
    assert sent(chat(tools=[WEATHER], tool_choice=choice))["toolConfig"]["toolChoice"] == expected
    assert "toolConfig" not in sent(chat(tool_choice="auto"))


def test_allowed_tools() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [other]}}
    config = sent(chat(tools=[WEATHER, other], tool_choice=allowed))["toolConfig"]
    assert [tool["toolSpec"]["name"] for tool in config["tools"]] == ["other"]
    assert config["toolChoice"] == {"any": {}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {"type": "auto"}),
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "weather"}}, {"type": "tool", "name": "weather"}),
    ],
)
def test_one_call_at_a_time_is_claudes_own_field_and_the_only_choice(choice: Any, expected: Any) -> None:
    body = sent(chat(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False))
    assert body["additionalModelRequestFields"] == {"tool_choice": {**expected, "disable_parallel_tool_use": True}}
    assert "toolChoice" not in body["toolConfig"]
    assert dropped(chat(tools=[WEATHER], parallel_tool_calls=False), target(NOVA)) == ("parallel_tool_calls",)
    assert "additionalModelRequestFields" not in sent(chat(parallel_tool_calls=False))


def test_strict_tools_are_for_models_with_structured_output() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
    assert sent(chat(tools=[strict]))["toolConfig"]["tools"][0]["toolSpec"]["strict"] is True
    loose = sent(chat(tools=[strict]), target(flags={"structured": "tool"}))
    assert "strict" not in loose["toolConfig"]["tools"][0]["toolSpec"]


def test_custom_tools_are_objects_around_their_text() -> None:
    custom = {"type": "custom", "custom": {"name": "shell", "description": "Runs"}}
    called = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "shell", "input": "ls"}}],
    }
    call = chat([*HI, called, {**RESULT, "tool_call_id": "a"}], tools=[custom])
    body = sent(call)
    assert body["messages"][1]["content"][0]["toolUse"]["input"] == {"input": "ls"}
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]["required"] == ["input"]
    events = [
        START,
        tool_start(0, "t", "shell"),
        delta(toolUse={"input": '{"inp'}),
        delta(toolUse={"input": 'ut":"pwd"}'}),
    ]
    found = read(stream(*events, block_stop(), stop("tool_use"), END), custom_tools=frozenset({"shell"}))
    assert found[1:3] == [ToolCallStarted(0, "t", "shell", kind="custom"), ToolArgumentsDelta(0, "pwd")]


SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "object", "properties": {"properties": {"type": ["object", "null"]}}},
        "type": {"enum": [{"properties": 1}]},
    },
    "$defs": {"x": {"type": "array", "items": {"type": "object"}}},
}


def response_format(schema: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}


def test_a_schema_goes_as_text_with_every_object_closed() -> None:
    body = sent(chat(response_format=response_format()))
    told = body["outputConfig"]["textFormat"]
    assert (told["type"], told["structure"]["jsonSchema"]["name"]) == ("json_schema", "thing")
    assert json.loads(told["structure"]["jsonSchema"]["schema"]) == {
        "type": "object",
        "properties": {
            "a": {
                "type": "object",
                "properties": {"properties": {"type": ["object", "null"], "additionalProperties": False}},
                "additionalProperties": False,
            },
            "type": {"enum": [{"properties": 1}]},
        },
        "$defs": {"x": {"type": "array", "items": {"type": "object", "additionalProperties": False}}},
        "additionalProperties": False,
    }


def test_a_schema_by_a_tool_is_answered_as_text() -> None:
    where = target(flags={"structured": "tool"})
    call = chat(response_format=response_format())
    config = sent(call, where)["toolConfig"]
    assert config["toolChoice"] == {"tool": {"name": bedrock_request.ANSWER_TOOL}}
    beside = sent(chat(response_format=response_format(), tools=[WEATHER]), where)["toolConfig"]
    assert beside["toolChoice"] == {"any": {}}
    assert [tool["toolSpec"]["name"] for tool in beside["tools"]] == ["weather", bedrock_request.ANSWER_TOOL]
    use = {"toolUse": {"toolUseId": "t", "name": bedrock_request.ANSWER_TOOL, "input": {"a": 1}}}
    answer = whole([use], "tool_use")
    shown = orjson.loads(PROVIDER.relay_body(call, where, MOMENT, answer, {})[0])
    assert shown["choices"][0]["message"]["content"] == '{"a":1}'
    assert shown["choices"][0]["finish_reason"] == "stop"
    streamed = [
        START,
        tool_start(0, "t", bedrock_request.ANSWER_TOOL),
        delta(toolUse={"input": '{"a":'}),
        delta(toolUse={"input": "1}"}),
    ]
    found = read(stream(*streamed, block_stop(), stop("tool_use"), END), answer_tool=bedrock_request.ANSWER_TOOL)
    assert text_of(found) == '{"a":1}'
    assert Finished("stop") in found
    relay = PROVIDER.relay(replace(call, stream=True), where, MOMENT)
    assert relay.feed(stream(*streamed)).count(b'"content"') == 2


def test_a_schema_in_words_and_json_mode() -> None:
    prompt = sent(chat(response_format=response_format()), target(flags={"structured": "prompt"}))
    assert prompt["system"][0]["text"].startswith("Respond with one JSON object only. It must follow")
    assert sent(chat(response_format={"type": "json_object"}))["system"] == [
        {"text": "Respond with one JSON object only."}
    ]
    assert dropped(chat(response_format=response_format()), target(flags={"structured": "none"})) == (
        "response_format",
    )


# Reasoning


@pytest.mark.parametrize(
    ("fields", "thinking", "limit"),
    [
        ({"reasoning_effort": "low", "max_tokens": 5000}, {"type": "enabled", "budget_tokens": 1024}, 5000),
        ({"reasoning_effort": "high", "max_tokens": 2000}, {"type": "enabled", "budget_tokens": 1999}, 2000),
        ({"reasoning_effort": "max"}, {"type": "enabled", "budget_tokens": 16384}, 16384 + 4096),
        ({"reasoning_effort": "none", "max_tokens": 2000}, None, 2000),
        ({"reasoning_effort": "high", "max_tokens": 1024}, None, 1024),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 3000}, "reasoning_effort": "low"},
            {"type": "enabled", "budget_tokens": 3000},
            7096,
        ),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "low", "max_tokens": 9}, None, 9),
    ],
)
def test_thinking_by_budget(fields: dict[str, Any], thinking: Any, limit: int) -> None:
    body = sent(chat(**fields), target(flags={"thinking": "budget"}))
    assert body.get("additionalModelRequestFields", {}).get("thinking") == thinking
    assert body["inferenceConfig"]["maxTokens"] == limit


def test_what_cannot_stand_beside_thinking_is_dropped() -> None:
    where = target(flags={"thinking": "budget", "sampling": "full"})
    call = chat(reasoning_effort="low", temperature=0.5, top_p=0.9, top_k=4)
    body = sent(call, where)
    assert body["inferenceConfig"].keys() == {"maxTokens"}
    assert body["additionalModelRequestFields"].keys() == {"thinking"}
    assert dropped(call, where) == ("temperature", "top_k", "top_p")
    assert sent(chat(reasoning_effort="low", top_p=0.97), where)["inferenceConfig"]["topP"] == 0.97


def test_thinking_is_dropped_where_it_would_be_refused() -> None:
    where = target(flags={"thinking": "budget"})
    assert dropped(chat(reasoning_effort="low", tools=[WEATHER], tool_choice="required"), where) == (
        "reasoning_effort",
    )
    open_turn = [*HI, CALLED, RESULT]
    assert dropped(chat(open_turn, reasoning_effort="low", tools=[WEATHER]), where) == ("reasoning_effort",)
    signed = {**CALLED, "thinking_blocks": [{"type": "thinking", "thinking": "Hm", "signature": "s"}]}
    for messages in ([*HI, signed, RESULT], [*open_turn, *HI]):
        assert (
            "thinking"
            in sent(chat(messages, reasoning_effort="low", tools=[WEATHER]), where)["additionalModelRequestFields"]
        )
    assert dropped(chat(reasoning_effort="low"), target("meta.llama3-1-8b-instruct-v1:0")) == ("reasoning_effort",)
    assert dropped(chat(reasoning_effort="huge"), target(flags={"thinking": "adaptive"})) == ("reasoning_effort",)
    forced = sent(chat(reasoning_effort="low", tools=[WEATHER], tool_choice="required"), where)
    assert "inferenceConfig" not in forced


def test_adaptive_thinking() -> None:
    where = target(flags={"thinking": "adaptive", "sampling": "none"})
    body = sent(chat(reasoning_effort="minimal"), where)
    assert body["additionalModelRequestFields"] == {"thinking": {"type": "adaptive"}}
    assert body["outputConfig"] == {"effort": "low"}
    off = sent(chat(reasoning_effort="none"), where)
    assert off["additionalModelRequestFields"] == {"thinking": {"type": "disabled"}}
    assert "outputConfig" not in off


def test_levels() -> None:
    where = target(NOVA, flags={"thinking": "level"})
    low = sent(chat(reasoning_effort="minimal", max_tokens=50), where)
    assert low["additionalModelRequestFields"] == {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}
    assert low["inferenceConfig"] == {"maxTokens": 50}
    high = chat(reasoning_effort="xhigh", max_tokens=50, temperature=0.5)
    assert "inferenceConfig" not in sent(high, where)
    assert dropped(high, where) == ("temperature", "max_tokens")
    other = sent(chat(reasoning_effort="high"), target("openai.gpt-oss-120b-1:0", flags={"thinking": "level"}))
    assert other["additionalModelRequestFields"] == {"reasoning_effort": "high"}


# Caching


def test_cache_marks_stand_after_what_they_mark() -> None:
    mark = {"type": "ephemeral"}
    hour = {"type": "ephemeral", "ttl": "1h"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Long", "cache_control": hour}]},
        {"role": "user", "content": [{"type": "text", "text": "Q", "cache_control": mark}]},
        CALLED,
        {**RESULT, "cache_control": mark},
    ]
    body = sent(chat(messages, tools=[{**WEATHER, "cache_control": mark}]))
    point = {"cachePoint": {"type": "default"}}
    assert body["system"] == [{"text": "Long"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    assert body["messages"][0]["content"] == [{"text": "Q"}, point]
    assert body["messages"][2]["content"][1] == point
    assert body["toolConfig"]["tools"][1] == point
    nova = sent(chat(messages, tools=[{**WEATHER, "cache_control": mark}]), target(NOVA))
    assert nova["system"][1] == point
    assert len(nova["toolConfig"]["tools"]) == 1
    assert dropped(chat(messages), target("meta.llama3-1-8b-instruct-v1:0")) == ("cache_control",)
    assert "cachePoint" in json.dumps(sent(chat(messages), target(PROFILE)))


def test_too_many_cache_marks_lose_the_first_of_the_conversation() -> None:
    mark = {"type": "ephemeral"}
    parts = [{"type": "text", "text": str(number), "cache_control": mark} for number in range(5)]
    messages = [{"role": "system", "content": [{"type": "text", "text": "S", "cache_control": mark}]}, *user(*parts)]
    body = sent(chat(messages, cache_control=mark))
    assert body["system"][1] == {"cachePoint": {"type": "default"}}
    kinds = ["c" if "cachePoint" in block else block["text"] for block in body["messages"][0]["content"]]
    assert kinds == ["0", "1", "2", "3", "c", "4", "c", "c"]


# What a deployment and a client may add


def test_parameters_of_the_deployment() -> None:
    given = {
        "temperature": 0.25,
        "max_completion_tokens": 7,
        "stop": ["X"],
        "guardrailConfig": {"guardrailIdentifier": "g1", "guardrailVersion": "1"},
        "performance_config": {"latency": "optimized"},
        "aws_session_name": "r",
        "anthropic_beta": ["b1"],
    }
    body = sent(chat(temperature=0.5), target(parameters=given))
    assert body["inferenceConfig"] == {"temperature": 0.5, "maxTokens": 7, "stopSequences": ["X"]}
    assert body["guardrailConfig"]["guardrailIdentifier"] == "g1"
    assert body["performanceConfig"] == {"latency": "optimized"}
    assert body["additionalModelRequestFields"] == {"anthropic_beta": ["b1"]}


def test_a_client_may_add_to_the_models_fields_and_nothing_else() -> None:
    extra = {"additionalModelRequestFields": {"x": 1}, "requestMetadata": {"a": "b"}}
    body = sent(chat(bedrock=extra))
    assert (body["additionalModelRequestFields"], body["requestMetadata"]) == ({"x": 1}, {"a": "b"})
    for wrong in ({"guardrailConfig": {}}, {"requestMetadata": 1}, "x"):
        with pytest.raises(BadRequest) as refused:
            sent(chat(bedrock=wrong))
        assert refused.value.param == "bedrock"


def test_service_tiers() -> None:
    assert sent(chat(service_tier="priority"))["serviceTier"] == {"type": "priority"}
    assert "serviceTier" not in sent(chat(service_tier="auto"))
    assert dropped(chat(service_tier="scale")) == ("service_tier",)


def test_learned_parameters_are_left_out() -> None:
    where = target(flags={"sampling": "full"}, learned=frozenset({"temperature", "seed"}))
    assert sent(chat(temperature=0.5, top_p=0.5), where)["inferenceConfig"] == {"topP": 0.5}
    assert dropped(chat(temperature=0.5), where) == ("temperature",)


def test_completions_are_asked_as_chat() -> None:
    call = decode({"model": "alias-1", "prompt": "Once"}, "completion")
    assert sent(call)["messages"] == [{"role": "user", "content": [{"text": "Once"}]}]
    shown = orjson.loads(PROVIDER.relay_body(call, target(), MOMENT, whole([{"text": "upon"}]), {})[0])
    assert (shown["object"], shown["choices"][0]["text"]) == ("text_completion", "upon")


# Whole answers


def whole(content: list[Any], reason: Any = "end_turn", **more: Any) -> bytes:
    usage = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
    message = {"role": "assistant", "content": content}
    return json.dumps({"output": {"message": message}, "stopReason": reason, "usage": usage, **more}).encode()


def test_a_whole_answer() -> None:
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "aGk="}},
        {"text": "Sure"},
        {"citationsContent": {"content": [{"text": ", as said"}], "citations": []}},
        {"toolUse": {"toolUseId": "s", "name": "search", "input": {}, "type": "server_tool_use"}},
        {"toolUse": {"toolUseId": "a", "name": "weather", "input": {"n": 12345678901234567890123}}},
        {"toolUse": {"toolUseId": "b", "name": "weather", "input": {}}},
        {"unknown": 1},
    ]
    found = bedrock.decode_body(whole(content, "end_turn"), upstream_id="rq")
    assert found == [
        Started("rq", ""),
        ReasoningDelta("Hm"),
        ReasoningDelta(signature="sig"),
        ReasoningDelta(redacted="aGk="),
        TextDelta("Sure"),
        TextDelta(", as said"),
        ToolCallStarted(0, "a", "weather"),
        ToolArgumentsDelta(0, '{"n":12345678901234567890123}'),
        ToolCallStarted(1, "b", "weather"),
        ToolArgumentsDelta(1, "{}"),
        UsageReported(Usage(input_tokens=3, output_tokens=2), {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}),
        Finished("tool_calls"),
    ]
    _, facts = PROVIDER.relay_body(chat(), target(), MOMENT, whole([{"text": "x"}]), {"x-amzn-requestid": "rq-7"})
    assert facts.upstream_id == "rq-7"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("something_new", "stop"),
        (None, "stop"),
        (["x"], "stop"),
    ],
)
def test_finish_reasons(reason: Any, finish: str) -> None:
    assert bedrock.decode_body(whole([{"text": "x"}], reason))[-1] == Finished(finish)
    assert Finished(finish) in read(stream(START, delta(text="x"), ("messageStop", {"stopReason": reason}), END))


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_a_malformed_answer_is_a_fault(reason: str) -> None:
    for attempt in (lambda: bedrock.decode_body(whole([], reason)), lambda: read(stream(START, stop(reason), END))):
        with pytest.raises(UpstreamFault) as fault:
            attempt()
        assert (fault.value.status, fault.value.code) == (502, "upstream_malformed_tool_call")
        assert fault.value.is_retryable


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"message":"x"}',
        b'{"output":[]}',
        b'{"output":{"message":{"content":"x"}}}',
        b'{"toolUse":' + b"[" * 5000,
        whole([{"toolUse": {"name": "x"}}]),
        whole([{"toolUse": {"toolUseId": 1, "name": "x"}}]),
        whole([{"text": 5}]),
    ],
)
def test_an_unusable_answer_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        bedrock.decode_body(body)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, None),
        ({"inputTokens": 0}, None),
        ({"inputTokens": 5, "outputTokens": 4}, Usage(input_tokens=5, output_tokens=4)),
        ({"inputTokens": -5, "outputTokens": 4}, Usage(output_tokens=4, is_inconsistent=True)),
        ({"inputTokens": "5", "outputTokens": True, "totalTokens": 9}, Usage(output_tokens=9, is_inconsistent=True)),
        (
            {
                "inputTokens": 1,
                "outputTokens": 2,
                "totalTokens": 3,
                "cacheReadInputTokens": 4,
                "cacheWriteInputTokens": 10,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 6}, {"ttl": "5m", "inputTokens": 4}, "x"],
            },
            Usage(1, cache_read_tokens=4, cache_write_5m_tokens=4, cache_write_1h_tokens=6, output_tokens=2),
        ),
        ({"cacheWriteInputTokens": 3, "cacheDetails": 7}, Usage(cache_write_5m_tokens=3)),
    ],
)
def test_usage_is_disjoint(raw: dict[str, Any], expected: Usage | None) -> None:
    assert bedrock.usage_of(raw) == expected


# Streams


TOOLS_STREAM = stream(
    START,
    delta(reasoningContent={"text": "Hm"}),
    delta(reasoningContent={"signature": "si"}),
    delta(reasoningContent={"signature": "g"}),
    block_stop(),
    delta(1, text="Grüß"),
    block_stop(1),
    tool_start(2, "a", "weather"),
    delta(2, toolUse={"input": ""}),
    delta(2, toolUse={"input": '{"city":'}),
    delta(2, toolUse={"input": '"Köln"}'}),
    block_stop(2),
    tool_start(3, "b", "clock"),
    block_stop(3),
    ("somethingNew", {"x": 1}),
    stop("tool_use"),
    END,
)
TOOLS_EVENTS = [
    Started("", ""),
    ReasoningDelta("Hm"),
    ReasoningDelta(signature="sig"),
    TextDelta("Grüß"),
    ToolCallStarted(0, "a", "weather"),
    ToolArgumentsDelta(0, '{"city":'),
    ToolArgumentsDelta(0, '"Köln"}'),
    ToolCallStarted(1, "b", "clock"),
    ToolArgumentsDelta(1, "{}"),
    Finished("tool_calls"),
    UsageReported(Usage(input_tokens=3, output_tokens=2), END[1]["usage"]),
]


def test_a_stream_with_calls_however_it_is_cut() -> None:
    for pieces in cuttings(TOOLS_STREAM):
        decoder = bedrock.ConverseDecoder()
        events = [event for piece in pieces for event in decoder.feed(piece)]
        assert events == TOOLS_EVENTS
        assert decoder.is_done
        assert decoder.finish() == []


def test_a_stream_tells_what_the_whole_answer_does() -> None:
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "sig"}}},
        {"text": "Grüß"},
        {"toolUse": {"toolUseId": "a", "name": "weather", "input": {"city": "Köln"}}},
        {"toolUse": {"toolUseId": "b", "name": "clock", "input": {}}},
    ]
    shown = orjson.loads(PROVIDER.relay_body(chat(), target(), MOMENT, whole(content, "tool_use"), {})[0])
    relay = PROVIDER.relay(chat(stream=True, stream_options={"include_usage": True}), target(), MOMENT)
    added = Streamed(relay.feed(TOOLS_STREAM) + relay.finish(), relay.facts)
    check_invariants(added.chunks, has_usage=True)
    like(added.whole()["choices"], shown["choices"])
    assert added.usage == shown["usage"]


def test_a_stream_that_is_cut_has_no_end() -> None:
    ends = TOOLS_STREAM.index(b"messageStop")
    for cut in range(len(TOOLS_STREAM)):
        decoder = bedrock.ConverseDecoder()
        events = decoder.feed(TOOLS_STREAM[:cut])
        assert events == TOOLS_EVENTS[: len(events)]
        if Finished("tool_calls") in events:
            decoder.finish()  # the answer is complete, only its usage is not known
            continue
        assert cut < len(TOOLS_STREAM) - 1
        with pytest.raises(UpstreamFault) as fault:
            decoder.finish()
        assert fault.value.code == "upstream_incomplete_stream"
    assert ends


def test_interleaved_blocks_keep_their_numbers() -> None:
    events = [
        tool_start(5, "a", "x"),
        tool_start(2, "b", "y"),
        delta(2, toolUse={"input": '{"b":1}'}),
        delta(5, toolUse={"input": '{"a":1}'}),
        delta(9, text="t"),
    ]
    found = read(stream(START, *events, stop("max_tokens"), END))
    assert found[3:6] == [ToolArgumentsDelta(1, '{"b":1}'), ToolArgumentsDelta(0, '{"a":1}'), TextDelta("t")]
    assert Finished("length") in found


def test_nothing_follows_the_end_but_usage() -> None:
    late = [
        delta(text="late"),
        tool_start(4, "z", "z"),
        delta(4, toolUse={"input": "x"}),
        block_stop(4),
        stop("max_tokens"),
    ]
    found = read(stream(START, delta(text="x"), stop(), *late, END, delta(text="later")))
    assert text_of(found) == "x"
    assert [event for event in found if isinstance(event, Finished)] == [Finished("stop")]
    assert isinstance(found[-1], UsageReported)


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["[REDACTED]"], ""),
        (["[RED", "ACTED]"], ""),
        (["[RED", " alert"], "[RED alert"),
        (["[REDACTED] no"], "[REDACTED] no"),
        (["[R"], "[R"),
    ],
)
def test_a_word_for_hidden_reasoning_is_not_shown(pieces: list[str], shown: str) -> None:
    thoughts = [delta(reasoningContent={"text": piece}) for piece in pieces]
    found = read(stream(START, *thoughts, block_stop(), delta(1, text="x"), stop(), END))
    assert "".join(event.text for event in found if isinstance(event, ReasoningDelta)) == shown
    whole_events = bedrock.decode_body(whole([{"reasoningContent": {"reasoningText": {"text": "".join(pieces)}}}]))
    assert "".join(event.text for event in whole_events if isinstance(event, ReasoningDelta)) == shown


def test_hidden_reasoning_in_pieces_is_joined() -> None:
    pieces = [delta(reasoningContent={"redactedContent": base64.b64encode(part).decode()}) for part in (b"a", b"bc")]
    assert ReasoningDelta(redacted=base64.b64encode(b"abc").decode()) in read(stream(START, *pieces, stop(), END))


@pytest.mark.parametrize(
    "body",
    [
        frame("contentBlockDelta", [1]),
        raw_frame(header(":message-type", "event") + header(":event-type", "messageStop"), b"{"),
        stream(delta(text=5)),
        stream(("contentBlockDelta", {"contentBlockIndex": 0, "delta": "x"})),
        stream(("contentBlockDelta", {"contentBlockIndex": "0", "delta": {"toolUse": {"input": "x"}}})),
        stream(delta(toolUse={"input": "x"})),
        stream(tool_start(0, "a", "x"), delta(toolUse={"input": {"a": 1}})),
        stream(tool_start(0, "", "x")),
        stream(("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": []}})),
    ],
)
def test_an_unusable_event_is_a_fault_after_all_text_before_it(body: bytes) -> None:
    with pytest.raises(UpstreamFault) as fault:
        read(stream(START) + body)
    assert fault.value.status == 502
    decoder = bedrock.ConverseDecoder()
    assert text_of(decoder.feed(stream(START, delta(text="kept")) + body)) == "kept"
    for attempt in (lambda: decoder.feed(b""), decoder.finish):
        with pytest.raises(UpstreamFault):
            attempt()


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("throttlingException", 429, "rate_limit_exceeded"),
        ("validationException", 400, None),
        ("internalServerException", 502, "upstream_error"),
        ("modelStreamErrorException", 502, "upstream_error"),
        ("serviceUnavailableException", 503, "overloaded"),
        ("somethingNewException", 502, "upstream_error"),
    ],
)
def test_exceptions_within_a_stream(name: str, status: int, code: str | None) -> None:
    with pytest.raises(UpstreamFault) as fault:
        read(
            stream(START) + frame(name, {"message": "Too many tokens for AKIDEXAMPLE"}, message="exception"),
            secrets=["AKIDEXAMPLE"],
        )
    assert fault.value.status == status or (
        name == "validationException" and fault.value.code == "context_length_exceeded"
    )
    assert fault.value.code == code or name == "validationException"
    assert "AKIDEXAMPLE" not in fault.value.message


def test_an_error_frame_without_a_body() -> None:
    headers = header(":message-type", "error") + header(":error-code", "ThrottlingException")
    with pytest.raises(UpstreamFault) as fault:
        read(raw_frame(headers + header(":error-message", "Too fast"), b""))
    assert (fault.value.status, fault.value.message) == (429, "Too fast")


# Damaged frames


def test_a_flipped_byte_is_found_wherever_it_is() -> None:
    body = stream(START, delta(text="Grüß"))
    for at in range(len(body)):
        damaged = bytes([*body[:at], body[at] ^ 0x10, *body[at + 1 :]])
        with pytest.raises(UpstreamFault) as fault:
            split_all(damaged)
        assert (fault.value.status, fault.value.code, fault.value.finish) == (502, "upstream_error", "upstream_broken")


def prelude(total: int, headers: int) -> bytes:
    lengths = struct.pack(">II", total, headers)
    return lengths + struct.pack(">I", crc32(lengths))


@pytest.mark.parametrize(
    "body",
    [
        prelude(MAX_FRAME_BYTES + 1, 0),
        prelude(2**32 - 1, 0),
        prelude(0, 0),
        prelude(12, 0),
        prelude(15, 0),
        prelude(100, 85),
        prelude(100, 2**32 - 1),
    ],
)
def test_lengths_that_cannot_be_are_found_before_the_frame_is_read(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        split_all(body)


@pytest.mark.parametrize(
    "headers",
    [
        b"\x05ab",
        b"\x02ab",
        b"\x02ab\x07\x00",
        b"\x02ab\x07\x00\x09x",
        b"\x02ab\x0a",
        b"\x02ab\x05\x00",
        header("a", b"\xff\xfe"),
        b"\x02\xff\xfe\x00",
        header("a", "x") * 2,
    ],
)
def test_headers_that_cannot_be_read_are_a_fault(headers: bytes) -> None:
    with pytest.raises(UpstreamFault):
        split_all(raw_frame(headers, b"{}"))


def test_the_largest_frame_is_taken() -> None:
    payload = b"x" * (MAX_FRAME_BYTES - 16)
    whole_frame = raw_frame(b"", payload)
    splitter = FrameSplitter()
    pieces = [whole_frame[at : at + 65536] for at in range(0, len(whole_frame), 65536)]
    frames = [found for piece in pieces for found in splitter.feed(piece)]
    assert [len(found.payload) for found in frames] == [len(payload)]
    assert not splitter.is_inside_frame


HEADERS = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: len(name.encode()) < 256),
    st.one_of(
        st.text(max_size=50).map(lambda text: (7, text.encode())),
        st.binary(max_size=50).map(lambda value: (6, value)),
        st.sampled_from(
            [(0, b""), (1, b""), (2, b"x"), (3, b"xx"), (4, b"x" * 4), (5, b"x" * 8), (8, b"x" * 8), (9, b"x" * 16)]
        ),
    ),
    max_size=5,
)


@given(frames=st.lists(st.tuples(HEADERS, st.binary(max_size=200)), max_size=5), size=st.integers(1, 64))
def test_frames_are_those_of_botocore(frames: list[tuple[dict[str, tuple[int, bytes]], bytes]], size: int) -> None:
    body = b"".join(
        raw_frame(
            b"".join(bytes([len(n.encode())]) + n.encode() + header("", v, k)[1:] for n, (k, v) in headers.items()),
            payload,
        )
        for headers, payload in frames
    )
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    theirs = [({n: v for n, v in m.headers.items() if isinstance(v, str)}, m.payload) for m in buffer]
    splitter = FrameSplitter()
    ours = [found for at in range(0, len(body), size) for found in splitter.feed(body[at : at + size])]
    assert [(dict(found.headers), found.payload) for found in ours] == theirs
    assert len(ours) == len(frames)
    assert not splitter.is_inside_frame


def test_the_streams_of_these_tests_are_streams_to_botocore() -> None:
    shape = SERVICE.operation_model("ConverseStream").get_event_stream_output()
    buffer = EventStreamBuffer()
    buffer.add_data(TOOLS_STREAM)
    parsed = [EventStreamJSONParser().parse(message.to_response_dict(), shape) for message in buffer]
    known_events = [event for event in parsed if "SDK_UNKNOWN_MEMBER" not in event and event]
    text = "".join(
        event["contentBlockDelta"]["delta"].get("text", "") for event in known_events if "contentBlockDelta" in event
    )
    assert text == "Grüß"
    assert known_events[-1]["metadata"]["usage"]["totalTokens"] == 5


@given(cut=st.integers(0, len(TOOLS_STREAM)), junk=st.binary(max_size=40))
def test_junk_in_a_stream_never_forges_an_end(cut: int, junk: bytes) -> None:
    decoder = bedrock.ConverseDecoder()
    events: list[Event] = []
    try:
        events += decoder.feed(TOOLS_STREAM[:cut] + junk)
        events += decoder.finish()
    except UpstreamFault:
        assert events == TOOLS_EVENTS[: len(events)]
    else:
        assert Finished("tool_calls") in events


# Errors


@pytest.mark.parametrize(
    ("name", "status", "message", "expected"),
    [
        ("ThrottlingException", 429, "Too many tokens, please wait", (429, "rate_limit_exceeded", True)),
        ("ServiceQuotaExceededException", 400, "Quota", (429, "insufficient_quota", True)),
        ("ModelNotReadyException", 429, "Wait", (503, "overloaded", True)),
        ("ServiceUnavailableException", 503, "", (503, "overloaded", True)),
        ("ModelTimeoutException", 408, "", (504, "upstream_timeout", True)),
        ("ModelErrorException", 424, "x", (502, "upstream_error", True)),
        ("InternalServerException", 500, "x", (502, "upstream_error", True)),
        ("ResourceNotFoundException", 404, "No model", (404, "model_not_found", True)),
        ("AccessDeniedException", 403, "no", (502, "upstream_auth_failed", True)),
        ("UnrecognizedClientException", 403, "bad token", (502, "upstream_auth_failed", True)),
        ("ExpiredTokenException", 400, "expired", (502, "upstream_auth_failed", True)),
        ("InvalidSignatureException", 403, "clock", (502, "upstream_auth_failed", True)),
        ("ValidationException", 400, "Input is too long for requested model.", (400, "context_length_exceeded", False)),
        ("ValidationException", 400, "The provided model identifier is invalid.", (404, "model_not_found", True)),
        ("ValidationException", 400, "tools.0 is wrong", (400, None, False)),
        (
            "ValidationException",
            400,
            "Invocation of model ID x with on-demand throughput isn’t supported. Retry with an inference profile",
            (404, "model_not_found", True),
        ),
        ("", 403, "", (502, "upstream_auth_failed", True)),
        ("", 500, "", (502, "upstream_error", True)),
        ("SomethingNew", 400, "odd", (400, None, False)),
    ],
)
def test_error_classes(name: str, status: int, message: str, expected: tuple[int, str | None, bool]) -> None:
    url = ":http://internal.amazon.com/coral/com.amazon.bedrock/"
    body = json.dumps({"message": message}).encode()
    fault = PROVIDER.failure(target(), status, {"x-amzn-errortype": name + url if name else ""}, body)
    assert (fault.status, fault.code, fault.is_retryable) == expected
    named_within = json.dumps({"__type": f"com.amazon.coral.service#{name}", "Message": message}).encode()
    again = PROVIDER.failure(target(), status, {}, named_within)
    assert (again.status, again.code, again.message) == (fault.status, fault.code, fault.message)


def test_retry_after_is_passed_on() -> None:
    headers = {"x-amzn-errortype": "ThrottlingException", "retry-after": "7"}
    assert PROVIDER.failure(target(), 429, headers, b"{}").headers == ((b"retry-after", b"7"),)


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[]", b'{"message":5}', b"\xff"])
def test_an_error_without_words_has_its_class(body: bytes) -> None:
    assert PROVIDER.failure(target(), 503, {}, body).code == "overloaded"


def test_accounts_and_keys_are_not_shown() -> None:
    words = "User arn:aws:iam::111122223333:user/x of 444455556666 with AKIDEXAMPLE at https://internal.amazon.com/x"
    body = json.dumps({"message": words}).encode()
    shown = PROVIDER.failure(target(), 400, {"x-amzn-errortype": "ValidationException"}, body).message
    for secret in ("111122223333", "444455556666", "AKIDEXAMPLE", "internal.amazon.com"):
        assert secret not in shown


# Embeddings


@pytest.mark.parametrize(
    ("model", "fields", "expected", "lost"),
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
def test_embedding_requests(model: str, fields: dict[str, Any], expected: Any, lost: tuple[str, ...]) -> None:
    call = decode({"model": "alias-1", **fields}, "embedding")
    request = PROVIDER.request(call, target(model), MOMENT)
    assert orjson.loads(request.body) == expected
    assert request.dropped == lost
    assert request.url.endswith(f"/model/{quote(model, safe='')}/invoke")
    if lost:
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
def test_embeddings_that_cannot_be_asked_are_refused(model: str, texts: Any) -> None:
    with pytest.raises(BadRequest):
        PROVIDER.request(embedding(texts), target(model), MOMENT)


TITAN = b'{"embedding":[0.5,-1],"embeddingsByType":{"float":[0.5,-1]},"inputTextTokenCount":4}'


def test_embedding_answers() -> None:
    shown, facts = PROVIDER.relay_body(embedding("a"), target("amazon.titan-embed-text-v2:0"), MOMENT, TITAN, {})
    assert orjson.loads(shown) == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1]}],
        "model": "alias-1",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    assert facts.usage == Usage(input_tokens=4)
    for vectors in ("[[1.5],[2]]", '{"float":[[1.5],[2]]}'):
        body = b'{"embeddings":%s,"id":"x"}' % vectors.encode()
        headers = {"x-amzn-bedrock-input-token-count": "9"}
        call = embedding(["a", "b"], encoding_format="base64")
        shown, facts = PROVIDER.relay_body(call, target("cohere.embed-v4:0"), MOMENT, body, headers)
        data = orjson.loads(shown)["data"]
        assert [struct.unpack("<f", base64.b64decode(item["embedding"])) for item in data] == [(1.5,), (2.0,)]
        assert facts.usage == Usage(input_tokens=9)


@pytest.mark.parametrize("count", ["", "x", "-1", "0", "9" * 30, "²"])
def test_tokens_of_an_embedding_that_nobody_counted_are_estimated(count: str) -> None:
    body = b'{"embeddings":[[1]]}'
    call = embedding("abcdefgh")
    shown, facts = PROVIDER.relay_body(
        call, target("cohere.embed-v4:0"), MOMENT, body, {"x-amzn-bedrock-input-token-count": count}
    )
    assert facts.usage is None
    assert orjson.loads(shown)["usage"]["prompt_tokens"] == call.input_estimate


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


def test_more_texts_than_a_call_takes_are_split_and_joined() -> None:
    titan, cohere = target("amazon.titan-embed-text-v2:0"), target("cohere.embed-v4:0")
    call = embedding(["a", "b", "c"])
    parts = PROVIDER.split(call, titan)
    assert [part.body["input"] for part in parts] == [["a"], ["b"], ["c"]]
    assert PROVIDER.split(call, cohere) == (call,)
    assert PROVIDER.split(chat(), titan) == (chat(),)
    assert [len(part.body["input"]) for part in PROVIDER.split(embedding(["x"] * 200), cohere)] == [96, 96, 8]
    answers = [PROVIDER.relay_body(part, titan, MOMENT, TITAN, {}) for part in parts]
    shown, facts = PROVIDER.join(call, answers)
    assert [item["index"] for item in orjson.loads(shown)["data"]] == [0, 1, 2]
    assert orjson.loads(shown)["usage"]["prompt_tokens"] == 12
    assert facts.usage == Usage(input_tokens=12)
