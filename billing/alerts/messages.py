"""The requests that carry an alert to each kind of channel. Pure.

Sources: Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md);
Slack's incoming webhooks; the custom bots of Feishu, DingTalk and WeCom.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import urlencode

from gateway.protocol.json.types import JsonMapping, JsonObject

PREFIX = "whsec_"
MAX_TEXT = 2000  # the smallest limit of the chats
TEXT_ROWS = 10
MAX_MEMBER = 80


@dataclass(frozen=True, slots=True)
class Message:
    """`id` stays the same when an alert is sent again; `at` is when this attempt is made. `rows`: those of a report,
    whose dimensions are `group_by` of `data`; None for other alerts."""

    id: str
    kind: str
    title: str
    data: JsonMapping
    happened_at: datetime
    at: datetime
    rows: Sequence[JsonMapping] | None = None

    @property
    def text(self) -> str:
        return "\n".join([self.title, *self.lines])[:MAX_TEXT]

    @property
    def lines(self) -> list[str]:
        """The data, and the rows that cost most."""
        lines = [f"{name}: {_render(value)}" for name, value in self.data.items() if value not in ("", None)]
        if not self.rows:
            return lines
        names = str(self.data.get("group_by", "")).split(",")
        largest = sorted(self.rows, key=lambda row: -Decimal(str(row["cost"])))[:TEXT_ROWS]
        return [*lines, "", *(f"{_name_members(row, names)}: {row['cost']} USD" for row in largest)]


def _render(value: object) -> str:
    """An object, such as the filters of a report, in one line."""
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(" ".join(f"{name}={member}".split()) for name, member in value.items())


def _name_members(row: JsonMapping, names: Sequence[str]) -> str:
    """One line, whatever callers have named their tags and users."""
    members = (" ".join(str(row.get(name, "")).split())[:MAX_MEMBER] for name in names)
    return ", ".join(member or "–" for member in members)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One POST. The address and the headers hold secrets."""

    url: str = field(repr=False)
    body: bytes
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """`secrets`: those that sign, the newest first; a webhook that is rotated has two for a while."""

    url: str = field(repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)


def write_webhook(message: Message, address: Address) -> Outgoing:
    """`{"type", "timestamp", "data": {"title", …}}`, signed as Standard Webhooks say; of a report `data` has `rows`."""
    stamp = str(int(message.at.timestamp()))
    rows: JsonObject = {} if message.rows is None else {"rows": [dict(row) for row in message.rows]}
    body = _encode(
        {
            "type": message.kind,
            "timestamp": message.happened_at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "data": {"title": message.title, **message.data, **rows},
        }
    )
    signatures = " ".join(sign(secret, message.id, stamp, body) for secret in address.secrets)
    headers = {"webhook-id": message.id, "webhook-timestamp": stamp, "webhook-signature": signatures}
    return Outgoing(address.url, body, {"content-type": "application/json", **headers})


def sign(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """`v1,` and the base64 of the HMAC-SHA256; the secret is `whsec_` and base64."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def write_slack(message: Message, address: Address) -> Outgoing:
    """Between angle brackets Slack reads links and mentions, and alerts name what callers chose."""
    text = message.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _post(address.url, {"text": text})


def write_feishu(message: Message, address: Address) -> Outgoing:
    """https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot: the text is the key, and nothing is signed."""
    text = message.text.replace("<", "＜")  # of `<at user_id="all">`, which has no escape
    body: JsonObject = {"msg_type": "text", "content": {"text": text}}
    for secret in address.secrets[:1]:
        stamp = str(int(message.at.timestamp()))
        digest = hmac.new(f"{stamp}\n{secret}".encode(), digestmod=hashlib.sha256).digest()
        body |= {"timestamp": stamp, "sign": base64.b64encode(digest).decode()}
    return _post(address.url, body)


def write_dingtalk(message: Message, address: Address) -> Outgoing:
    """https://open.dingtalk.com/document/robots/customize-robot-security-settings: milliseconds, and in the query."""
    url = address.url
    for secret in address.secrets[:1]:
        stamp = str(int(message.at.timestamp() * 1000))
        digest = hmac.new(secret.encode(), f"{stamp}\n{secret}".encode(), hashlib.sha256).digest()
        query = urlencode({"timestamp": stamp, "sign": base64.b64encode(digest).decode()})
        url += ("&" if "?" in url else "?") + query
    return _post(url, {"msgtype": "text", "text": {"content": message.text}})


def write_wecom(message: Message, address: Address) -> Outgoing:
    return _post(address.url, {"msgtype": "text", "text": {"content": message.text}})


WRITERS: Mapping[str, Callable[[Message, Address], Outgoing]] = {
    "webhook": write_webhook,
    "slack": write_slack,
    "feishu": write_feishu,
    "dingtalk": write_dingtalk,
    "wecom": write_wecom,
}


def find_refusal(kind: str, body: bytes) -> str:
    """The error in a body of status 200, which the Chinese chats use for errors; empty for none."""
    if kind not in {"feishu", "dingtalk", "wecom"}:
        return ""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return "the answer is not JSON"
    if not isinstance(answer, dict):
        return "the answer is not a JSON object"
    code = answer.get("code", answer.get("StatusCode", 0)) if kind == "feishu" else answer.get("errcode", 0)
    if code == 0:
        return ""
    return f"error {_shorten(code, 20)}: {_shorten(answer.get('msg') or answer.get('errmsg'), 200)}"


def _shorten(value: object, most_chars: int) -> str:
    """A text or an integer of a stranger's answer, as every database takes it; empty for anything else."""
    text = str(value)[:most_chars] if isinstance(value, str | int) else ""
    return text.encode(errors="replace").decode().replace("\0", "")


def _post(url: str, body: JsonObject) -> Outgoing:
    return Outgoing(url, _encode(body), {"content-type": "application/json"})


def _encode(body: JsonObject) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
