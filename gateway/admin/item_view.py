"""Items of a stored response or a conversation as a person reads them. All of it is text; templates escape it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from gateway.protocol.dialects.responses.items import PRIVATE

Item = Mapping[str, Any]

MOST_CHARACTERS = 10_000  # of one text; the file that can be downloaded has all of it
MOST_ON_A_PAGE = 100_000  # characters of one list
ROLES = {"user": _("User"), "assistant": _("Assistant"), "system": _("System"), "developer": _("Developer")}
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})


@dataclass(frozen=True, slots=True)
class Part:
    """`kind`: text, code, or note (what stands for something that is not shown)."""

    kind: str
    text: str
    cut: int = 0  # so many characters follow

    @classmethod
    def of(cls, kind: str, text: str) -> "Part":
        return cls(kind, text[:MOST_CHARACTERS], max(0, len(text) - MOST_CHARACTERS))


@dataclass(frozen=True, slots=True)
class Shown:
    """`kind` says how it looks: user, assistant, instruction, call, output, reasoning or other."""

    kind: str
    title: Any
    parts: tuple[Part, ...]
    subject: str = ""  # the tool's name
    id: str = ""
    call_id: str = ""
    status: str = ""  # where it is not "completed"
    is_folded: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    items: tuple[Shown, ...]
    hidden: int  # so many more


def listing(items: Sequence[Item], known: Iterable[Item] = ()) -> Listing:
    """`known`: where the calls may stand whose outputs are among `items`."""
    names = {item.get("call_id"): str(item.get("name", "")) for item in (*known, *items) if item.get("type") in CALLS}
    shown: list[Shown] = []
    characters = 0
    for item in items:
        if characters > MOST_ON_A_PAGE:
            break
        shown.append(_shown(item, names))
        characters += 200 + sum(len(part.text) for part in shown[-1].parts)
    return Listing(tuple(shown), len(items) - len(shown))


def _shown(item: Item, names: Mapping[Any, str]) -> Shown:
    kind, status = str(item.get("type", "message")), str(item.get("status") or "")
    given: dict[str, Any] = {
        "id": str(item.get("id") or ""),
        "call_id": str(item.get("call_id") or ""),
        "status": "" if status == "completed" else status,
    }
    if kind == "message":
        role = str(item.get("role", ""))
        look = role if role in {"user", "assistant"} else "instruction"
        return Shown(look, ROLES.get(role, role), _parts(item.get("content")), **given)
    if kind in CALLS:
        text = str(item.get(CALLS[kind], ""))
        return Shown("call", _("Tool call"), (Part.of("code", pretty(text)),), str(item.get("name", "")), **given)
    if kind in OUTPUTS:
        name = str(item.get("name") or names.get(item.get("call_id"), ""))
        return Shown("output", _("Tool output"), _parts(item.get("output"), kind="code"), name, **given)
    if kind == "reasoning":
        parts = (*_parts(item.get("summary")), *_parts(item.get("content")))
        parts = parts or (Part("note", str(_("Its text is sealed: only the provider that made it can read it."))),)
        return Shown("reasoning", _("Reasoning"), parts, is_folded=True, **given)
    if kind == "compaction":
        note = Part("note", str(_("A sealed summary of what was said before.")))
        return Shown("other", _("Compaction"), (note,), **given)
    shown = {name: value for name, value in item.items() if name != PRIVATE}
    code = Part.of("code", json.dumps(shown, indent=2, ensure_ascii=False))
    return Shown("other", kind.replace("_", " ").capitalize(), (code,), is_folded=True, **given)


def _parts(content: Any, kind: str = "text") -> tuple[Part, ...]:
    """Of a text, or of a list of parts."""
    if isinstance(content, str):
        return (Part.of(kind, pretty(content) if kind == "code" else content),) if content else ()
    return tuple(_part(part, kind) for part in content or () if isinstance(part, Mapping))


def _part(part: Mapping[str, Any], kind: str) -> Part:
    for name in ("text", "refusal"):
        if isinstance(part.get(name), str):
            return Part.of(kind, part[name])
    for name, title in (("image_url", _("Image")), ("file_data", _("File")), ("file_url", _("File"))):
        if isinstance(part.get(name), str):
            filename = f" {part['filename']}" if part.get("filename") else ""
            return Part.of("note", f"{title}{filename}: {_address(part[name])}")
    return Part.of("code", json.dumps(part, indent=2, ensure_ascii=False))


def _address(text: str) -> str:
    """An address, or what data there is: images are not loaded, neither from elsewhere nor from the row."""
    head, comma, data = text.partition(",")
    if head.startswith("data:") and comma:
        return f"{head.removeprefix('data:').partition(';')[0]}, {len(data) * 3 // 4 / 1024:,.0f} KB"
    return text if text.startswith(("http://", "https://")) else f"{len(text) * 3 // 4 / 1024:,.0f} KB"


def pretty(text: str) -> str:
    """JSON indented; what is not JSON, as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
