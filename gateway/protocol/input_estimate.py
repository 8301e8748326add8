"""The estimated input tokens of a request, for all formats that clients speak.

A row is charged by it where the upstream reports no input, the counting endpoints answer with it where no upstream
counts, and limits may reserve by it. It counts text, tool definitions, images, documents and audio; it reads lengths
and headers and encodes nothing large anew. It knows the request alone, so an image has the formula of its format:

- OpenAI (https://platform.openai.com/docs/guides/images-vision#calculating-costs): 85 tokens, and for a detail other
  than low 170 more for each 512-pixel tile of the image, after it was scaled into 2048 × 2048 and to a shorter side of
  768. A size that cannot be read counts as 1024 × 1024.
- Anthropic (https://platform.claude.com/docs/en/build-with-claude/vision): width × height / 750, of a longer side of at
  most 1568, at most 1600 tokens. A size that cannot be read counts as 1500 tokens.
- A document has 2,000 tokens for each 50,000 bytes begun, as for one page; a text has those of its characters. One that
  is named by an address or an id counts as one page.
- Audio has 10 tokens a second (https://platform.openai.com/docs/guides/audio); a second has 48,000 bytes of WAV or PCM,
  16,000 of any other format.
"""

from collections.abc import Callable
from math import ceil

import orjson

from gateway.protocol.image_size import read_image_size
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.usage import estimate_tokens

MESSAGE_TOKENS = 4  # the role, and the marks around a message or an item
#: What is left of a value with more nodes is taken to be like the part that was read.
MAX_NODES = 5_000

#: The fields of a request that hold what the model reads; those of the second kind are given to it as JSON.
CONTENT_FIELDS = ("messages", "system", "input", "prompt", "instructions", "suffix")
JSON_FIELDS = ("tools", "functions", "response_format", "text", "output_config", "output_format")

#: Members that the model does not read, or not as text.
SKIPPED = frozenset(
    {
        *("type", "role", "id", "status", "call_id", "tool_call_id", "tool_use_id", "item_id", "cache_control"),
        *("signature", "encrypted_content", "encrypted_index", "thinking_blocks", "summary", "data", "extra_content"),
        *("annotations", "logprobs", "citations", "media_type", "mime_type", "detail", "file_id", "phase"),
    }
)

IMAGE_BASE, IMAGE_TILE, IMAGE_UNKNOWN = 85, 170, 765
CLAUDE_IMAGE_UNKNOWN, CLAUDE_IMAGE_MOST = 1500, 1600
PAGE_BYTES, PAGE_TOKENS = 50_000, 2000
AUDIO_TOKENS_PER_S = 10
RAW_BYTES_PER_S, PACKED_BYTES_PER_S = 48_000, 16_000
RAW_AUDIO = ("wav", "pcm16", "pcm", "l16")


def estimate_request(body: JsonMapping) -> int:
    """The input tokens of a parsed request: chat, completions, embeddings, messages or responses."""
    total = 0
    for name in CONTENT_FIELDS:
        value = body.get(name)
        if value:
            total += estimate_tokens(value) if type(value) is str else estimate_content(value)
    return total + estimate_settings(body)


def estimate_settings(body: JsonMapping) -> int:
    """The input tokens of a request's tools and formats."""
    return sum([_json_tokens(body[name]) for name in JSON_FIELDS if body.get(name)])


def estimate_content(*values: Json) -> int:
    """The input tokens of messages, items, prompts or inputs. An array of numbers is an array of tokens."""
    total = nodes = messages = 0
    todo = list(values)
    while todo:
        value = todo.pop()
        nodes += 1
        if nodes > MAX_NODES:
            return total + total * len(todo) // (messages if messages and _is_message(todo[0]) else nodes)
        if type(value) is str:
            total += _data_tokens(value) if value.startswith("data:") else estimate_tokens(value)
        elif type(value) is dict:
            kind = value.get("type")
            count = PARTS.get(kind) if type(kind) is str else None
            if count is not None:
                total += count(value)
                continue
            if _is_message(value):
                total += MESSAGE_TOKENS
                messages += 1
                content = value.get("content")
                if type(content) is str and len(value) == 2:
                    total += estimate_tokens(content)
                    continue
            for name, member in value.items():
                if member and name not in SKIPPED:
                    todo.append(member)
        elif type(value) is list or type(value) is tuple:
            if value and type(value[0]) is int:
                total += len(value)
            else:
                todo += value
    return total


def _is_message(value: Json) -> bool:
    return type(value) is dict and ("role" in value or "call_id" in value)


def _json_tokens(value: Json) -> int:
    try:
        return len(orjson.dumps(value)) // 4 + 1
    except TypeError:  # numbers or a depth that it does not write
        return estimate_content(value)


# Parts that are no text. Members of a wrong type count as absent: the check of the request refuses them elsewhere.


def _text(holder: JsonMapping, name: str) -> str:
    value = holder.get(name)
    return value if type(value) is str else ""


def _member(holder: JsonMapping, name: str) -> JsonObject:
    value = holder.get(name)
    return value if type(value) is dict else {}


def _payload(url: str) -> int:
    """The place of a data URL's base64; 0 where it has none."""
    mark = url.find(";base64,", 0, 256)
    return mark + len(";base64,") if mark >= 0 else 0


def _openai_image(part: JsonMapping) -> int:
    image = part.get("image_url")
    holder = image if type(image) is dict else part
    if (_text(holder, "detail") or _text(part, "detail")) == "low":
        return IMAGE_BASE
    url = _text(image, "url") if type(image) is dict else _text(part, "image_url")
    start = _payload(url) if url.startswith("data:") else 0
    size = read_image_size(url, start) if start else None
    if size is None:
        return IMAGE_UNKNOWN
    scale = min(1.0, 2048 / max(size))
    scale = min(scale, 768 / min(size))
    tiles = 1
    for side in size:
        tiles *= max(ceil(side * scale / 512), 1)
    return IMAGE_BASE + IMAGE_TILE * tiles


def _claude_image(part: JsonMapping) -> int:
    source = _member(part, "source")
    size = read_image_size(_text(source, "data")) if source.get("type") == "base64" else None
    if size is None:
        return CLAUDE_IMAGE_UNKNOWN
    scale = min(1.0, 1568 / max(size))
    return min(ceil(size[0] * size[1] * scale * scale / 750), CLAUDE_IMAGE_MOST)


def _claude_document(part: JsonMapping) -> int:
    source = _member(part, "source")
    about = estimate_tokens(_text(part, "title")) + estimate_tokens(_text(part, "context"))
    kind, data = source.get("type"), _text(source, "data")
    if kind == "text":
        return about + estimate_tokens(data)
    if kind == "content":
        return about + estimate_content(source.get("content"))
    if _text(source, "media_type").startswith("text/"):
        return about + len(data) * 3 // 16 + 1
    return about + _document_tokens(len(data))


def _openai_file(part: JsonMapping) -> int:
    file = _member(part, "file") or part
    data = _text(file, "file_data")
    tokens = _data_tokens(data) if data.startswith("data:") else _document_tokens(len(data))
    return tokens + estimate_tokens(_text(file, "filename"))


def _data_tokens(url: str) -> int:
    """The tokens of what a data URL holds. Any other text counts as text."""
    start = _payload(url)
    if not start:
        return estimate_tokens(url)
    if url.startswith("data:image/"):
        return _openai_image({"image_url": url})
    if url.startswith("data:text/"):
        return (len(url) - start) * 3 // 16 + 1
    return _document_tokens(len(url) - start)


def _document_tokens(base64_size: int) -> int:
    return (base64_size * 3 // 4 // PAGE_BYTES + 1) * PAGE_TOKENS


def _audio(part: JsonMapping) -> int:
    audio = _member(part, "input_audio") or part
    speed = RAW_BYTES_PER_S if _text(audio, "format") in RAW_AUDIO else PACKED_BYTES_PER_S
    return ceil(len(_text(audio, "data")) * 3 // 4 * AUDIO_TOKENS_PER_S / speed) + 1


def _tool_use(part: JsonMapping) -> int:
    return estimate_tokens(_text(part, "name")) + _json_tokens(part.get("input")) + MESSAGE_TOKENS


def _compaction(item: JsonMapping) -> int:
    return estimate_tokens(_text(item, "encrypted_content")) * 3 // 4  # base64


def _made_image(_: JsonMapping) -> int:
    return IMAGE_UNKNOWN


#: type of a part or an item → its tokens
PARTS: dict[str, Callable[[JsonMapping], int]] = {
    "image_url": _openai_image,
    "input_image": _openai_image,
    "computer_screenshot": _openai_image,
    "image_generation_call": _made_image,
    "image": _claude_image,
    "document": _claude_document,
    "file": _openai_file,
    "input_file": _openai_file,
    "input_audio": _audio,
    "tool_use": _tool_use,
    "server_tool_use": _tool_use,
    "compaction": _compaction,
}
