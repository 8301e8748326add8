"""The requests that carry alerts: Standard Webhooks by its own reference values, and the chats."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from billing.alerts.messages import MAX_TEXT, WRITERS, Address, Message, find_refusal, sign, write_webhook
from billing.models import AlertChannel

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = Message("id-1", "budget.threshold", "The budget of team a has reached 80 %", {"spent_usd": "8.0"}, AT, AT)


def test_a_signature_is_that_of_the_specification() -> None:
    """The values of its reference libraries."""
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body) == expected


def test_a_webhook_is_signed_by_each_secret() -> None:
    sent = write_webhook(MESSAGE, Address("https://ops.example/hook", (SECRET, "whsec_b2xk")))
    assert json.loads(sent.body) == {
        "type": "budget.threshold",
        "timestamp": "2026-11-21T12:00:00Z",
        "data": {"title": MESSAGE.title, "spent_usd": "8.0"},
    }
    stamp = str(int(AT.timestamp()))
    assert sent.headers["webhook-id"] == "id-1"
    assert sent.headers["webhook-timestamp"] == stamp
    signatures = sent.headers["webhook-signature"].split()
    assert signatures == [sign(secret, "id-1", stamp, sent.body) for secret in (SECRET, "whsec_b2xk")]


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_a_message_has_a_bounded_text_and_shows_no_address_in_logs(kind: str) -> None:
    long = Message("id-1", "test", "x" * 10_000, {}, AT, AT)
    sent = WRITERS[kind](long, Address("https://chat.example/token-123", ()))
    assert "token-123" not in repr(sent)
    assert kind == "webhook" or len(sent.body) < MAX_TEXT + 100


def test_every_kind_of_channel_but_mail_has_a_writer() -> None:
    assert set(WRITERS) == set(AlertChannel.Kind.values) - {"email"}


def test_feishu_signs_nothing_with_the_text_as_the_key() -> None:
    body = json.loads(WRITERS["feishu"](MESSAGE, Address("https://f.example/", ("s3",))).body)
    key = f"{int(AT.timestamp())}\ns3".encode()
    assert body["sign"] == base64.b64encode(hmac.new(key, b"", hashlib.sha256).digest()).decode()
    assert body["content"]["text"].startswith(MESSAGE.title)


def test_dingtalk_signs_in_the_query() -> None:
    sent = WRITERS["dingtalk"](MESSAGE, Address("https://d.example/robot?access_token=t", ("s3",)))
    query = parse_qs(urlsplit(sent.url).query)
    stamp = str(int(AT.timestamp() * 1000))
    digest = hmac.new(b"s3", f"{stamp}\ns3".encode(), hashlib.sha256).digest()
    assert query == {"access_token": ["t"], "timestamp": [stamp], "sign": [base64.b64encode(digest).decode()]}


@pytest.mark.parametrize(
    ("kind", "body", "is_refused"),
    [
        ("feishu", b'{"code":0}', False),
        ("feishu", b'{"StatusCode":0}', False),
        ("feishu", b'{"code":19021,"msg":"sign match fail"}', True),
        ("dingtalk", b'{"errcode":310000,"errmsg":"sign not match"}', True),
        ("wecom", b'{"errcode":0,"errmsg":"ok"}', False),
        ("wecom", b"<html>", True),
        ("wecom", b"[]", True),
        ("wecom", b"[" * 60_000, True),
        ("wecom", b'{"errcode":{"a":1},"errmsg":[1]}', True),
        ("slack", b"ok", False),
        ("webhook", b"", False),
    ],
)
def test_an_error_in_an_answer_of_status_200_is_one(kind: str, body: bytes, is_refused: bool) -> None:
    assert bool(find_refusal(kind, body)) is is_refused


def test_the_error_of_a_stranger_is_a_text_that_every_database_takes() -> None:
    body = rb'{"errcode":"x\u0000y","errmsg":"a\u0000b\ud800c"}'
    assert find_refusal("wecom", body) == "error xy: ab?c"
    assert len(find_refusal("wecom", json.dumps({"errcode": "9" * 99, "errmsg": "m" * 999}).encode())) < 250


@pytest.mark.parametrize("kind", ["slack", "feishu"])
def test_a_name_in_a_message_is_no_mention(kind: str) -> None:
    """Callers choose the ids of their end users."""
    title = 'The budget of end user <!channel><at user_id="all"></at> & co'
    sent = WRITERS[kind](Message("id-1", "test", title, {}, AT, AT), Address("https://chat.example/t"))
    assert b"<" not in sent.body
    assert "end user" in sent.body.decode()
