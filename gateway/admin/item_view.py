"""Items of a stored response or a conversation for the console. All values are text, which templates escape."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from gateway.protocol.dialects.responses.items import PRIVATE
from gateway.protocol.json.types import Json, JsonMapping
from tenants.admin.console import indent_json

MAX_TEXT_CHARS = 10_000  # of one text; the download has all of it
MAX_LIST_CHARS = 100_000  # of all texts of one list
ROLES = {"user": _("User"), "assistant": _("Assistant"), "system": _("System"), "developer": _("Developer")}
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})


@dataclass(frozen=True, slots=True)
class Part:
    """`kind`: text, code, or note (a description of content that is not shown)."""

    kind: str
    text: str
    cut: int = 0  # the number of characters that are not shown

    @classmethod
    def of(cls, kind: str, text: str) -> "Part":
        return cls(kind, text[:MAX_TEXT_CHARS], max(0, len(text) - MAX_TEXT_CHARS))


@dataclass(frozen=True, slots=True)
class ItemView:
    """`kind` selects the style: user, assistant, instruction, call, output, reasoning or other."""

    kind: str
    title: Promise | str
    parts: tuple[Part, ...]
    subject: str = ""  # the tool's name
    id: str = ""
    call_id: str = ""
    status: str = ""  # empty for "completed"
    is_folded: bool = False


@dataclass(frozen=True, slots=True)
class ItemList:
    items: tuple[ItemView, ...]
    hidden: int  # the number of items that are not shown


def render_items(items: Sequence[JsonMapping], earlier_items: Iterable[JsonMapping] = ()) -> ItemList:
    """The items of a page. `earlier_items` may hold the tool calls whose outputs are among `items`."""
    names = {
        item.get("call_id"): str(item.get("name", "")) for item in (*earlier_items, *items) if item.get("type") in CALLS
    }
    views: list[ItemView] = []
    characters = 0
    for item in items:
        if characters > MAX_LIST_CHARS:
            break
        views.append(_render_item(item, names))
        characters += 200 + sum(len(part.text) for part in views[-1].parts)
    return ItemList(tuple(views), len(items) - len(views))


class _Labels(TypedDict):
    id: str
    call_id: str
    status: str


def _render_item(item: JsonMapping, names: Mapping[Json, str]) -> ItemView:
    kind, status = str(item.get("type", "message")), str(item.get("status") or "")
    labels: _Labels = {
        "id": str(item.get("id") or ""),
        "call_id": str(item.get("call_id") or ""),
        "status": "" if status == "completed" else status,
    }
    if kind == "message":
        role = str(item.get("role", ""))
        style = role if role in {"user", "assistant"} else "instruction"
        return ItemView(style, ROLES.get(role, role), _parts(item.get("content")), **labels)
    if kind in CALLS:
        text = str(item.get(CALLS[kind], ""))
        return ItemView(
            "call", _("Tool call"), (Part.of("code", indent_json(text)),), str(item.get("name", "")), **labels
        )
    if kind in OUTPUTS:
        name = str(item.get("name") or names.get(item.get("call_id"), ""))
        return ItemView("output", _("Tool output"), _parts(item.get("output"), kind="code"), name, **labels)
    if kind == "reasoning":
        parts = (*_parts(item.get("summary")), *_parts(item.get("content")))
        parts = parts or (Part("note", str(_("Encrypted: only its provider can read it."))),)
        return ItemView("reasoning", _("Reasoning"), parts, is_folded=True, **labels)
    if kind == "compaction":
        note = Part("note", str(_("An encrypted summary of the earlier conversation.")))
        return ItemView("other", _("Compaction"), (note,), **labels)
    public = {name: value for name, value in item.items() if name != PRIVATE}
    code = Part.of("code", json.dumps(public, indent=2, ensure_ascii=False))
    return ItemView("other", kind.replace("_", " ").capitalize(), (code,), is_folded=True, **labels)


def _parts(content: Json, kind: str = "text") -> tuple[Part, ...]:
    """The parts of a content, which is a text or a list of parts."""
    if isinstance(content, str):
        return (Part.of(kind, indent_json(content) if kind == "code" else content),) if content else ()
    return tuple(_part(part, kind) for part in content or () if isinstance(part, Mapping))


def _part(part: JsonMapping, kind: str) -> Part:
    for name in ("text", "refusal"):
        if isinstance(part.get(name), str):
            return Part.of(kind, part[name])
    for name, title in (("image_url", _("Image")), ("file_data", _("File")), ("file_url", _("File"))):
        if isinstance(part.get(name), str):
            filename = f" {part['filename']}" if part.get("filename") else ""
            return Part.of("note", f"{title}{filename}: {_describe_source(part[name])}")
    return Part.of("code", json.dumps(part, indent=2, ensure_ascii=False))


def _describe_source(text: str) -> str:
    """The address of a file, or the type and size of its data. The console never loads images."""
    head, comma, data = text.partition(",")
    if head.startswith("data:") and comma:
        return f"{head.removeprefix('data:').partition(';')[0]}, {len(data) * 3 // 4 / 1024:,.0f} KB"
    return text if text.startswith(("http://", "https://")) else f"{len(text) * 3 // 4 / 1024:,.0f} KB"
