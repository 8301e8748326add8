"""The built-in provider: answers in this process, deterministically, in OpenAI's dialect. Needs no account.

Chat answers `Echo: ` and the last user message, completions echo the prompt, an embedding is eight numbers made of
the text's digest. A token is a word.
"""

import base64
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace

import orjson

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.json.types import Json, JsonObject
from gateway.protocol.listing import ListRequest
from gateway.protocol.provider import LocalAnswer, Target, UpstreamRequest
from gateway.providers.bases.openai_passthrough import OpenAIPassthrough

CREATED = 1_700_000_000
DIMENSIONS = 8


class Mock(OpenAIPassthrough):
    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        return None  # the provider has no upstream

    def has_responses(self, target: Target) -> bool:
        return False

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        if call.dialect.wire != "openai":  # another dialect: echoes the request for an OpenAI server
            raw = super().request(call, target, context).body
            call = replace(call, body=orjson.loads(raw), raw=raw)
        answer = {
            Operation.CHAT: _chat,
            Operation.COMPLETION: _completion,
            Operation.EMBEDDING: _embedding,
        }[call.operation]
        content_type = "text/event-stream" if call.stream else "application/json"
        return UpstreamRequest(
            url="",
            headers={},
            body=call.raw,
            local=LocalAnswer(answer(call, target.upstream_model), content_type),
        )


def _text_of(content: Json) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _head(call: Call, kind: str, prefix: str, model: str) -> JsonObject:
    digest = hashlib.sha256(call.raw).hexdigest()[:24]
    return {"id": f"{prefix}-{digest}", "object": kind, "created": CREATED, "model": model}


def _usage(question: str, answer: str) -> dict[str, int]:
    prompt, completion = len(question.split()), len(answer.split())
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _words(text: str) -> list[str]:
    """The text in pieces of one word, the space before it included."""
    words = text.split(" ")
    return words[:1] + [f" {word}" for word in words[1:]]


def _event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _chat(call: Call, model: str) -> Iterator[bytes]:
    messages = call.body["messages"]
    prompt_text = next((_text_of(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), "")
    answer = f"Echo: {prompt_text}"
    usage = _usage(" ".join(_text_of(m.get("content")) for m in messages), answer)
    if not call.stream:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
        head = _head(call, "chat.completion", "chatcmpl", model)
        yield orjson.dumps({**head, "choices": [choice], "usage": usage})
        return
    head = _head(call, "chat.completion.chunk", "chatcmpl", model)
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in _words(answer)]
    for delta in deltas:
        yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield _event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _completion(call: Call, model: str) -> Iterator[bytes]:
    prompt = call.body["prompt"]
    prompt_text = prompt if isinstance(prompt, str) else " ".join(str(part) for part in prompt)
    answer = f"Echo: {prompt_text}"
    head = _head(call, "text_completion", "cmpl", model)
    usage = _usage(prompt_text, answer)
    if not call.stream:
        choice = {"index": 0, "text": answer, "logprobs": None, "finish_reason": "stop"}
        yield orjson.dumps({**head, "choices": [choice], "usage": usage})
        return
    for word in _words(answer):
        yield _event({**head, "choices": [{"index": 0, "text": word, "logprobs": None, "finish_reason": None}]})
    yield _event({**head, "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]})
    yield _event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _embedding(call: Call, model: str) -> Iterator[bytes]:
    value = call.body["input"]
    is_one = isinstance(value, str) or (bool(value) and isinstance(value[0], int))
    inputs = [value] if is_one else value
    wants_base64 = call.body.get("encoding_format") == "base64"
    data = []
    for index, item in enumerate(inputs):
        digest = hashlib.sha256(orjson.dumps(item)).digest()
        vector = [byte / 255 for byte in digest[:DIMENSIONS]]
        packed = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": packed if wants_base64 else vector})
    tokens = sum(len(item.split()) if isinstance(item, str) else len(item) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


PROVIDER = Mock(name="mock", title="Built-in echo", needs_api_base=False)
