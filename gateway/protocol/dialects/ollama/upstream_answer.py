"""Answers of Ollama's native API → events: the lines of JSON of /api/chat and /api/generate, and the vectors of
/api/embed.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md. The rules: docs/dialects/ollama.md.
"""

import orjson

from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.dialects.openai.embedding_answer import encode_embeddings
from gateway.protocol.dialects.openai.passthrough import broken
from gateway.protocol.dialects.openai.upstream_answer import AnswerReader
from gateway.protocol.dialects.openai.upstream_choice import Reading
from gateway.protocol.dialects.shared.translate import StreamReader, incomplete
from gateway.protocol.error_classes import TOO_LONG, error_in_answer
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.events import Event, UsageReported
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.sse import MAX_EVENT_BYTES
from gateway.protocol.usage import Usage, from_openai


class _AnswerReader:
    """The objects of one answer → events."""

    def __init__(self, reading: Reading, context: AttemptContext) -> None:
        self._reader = AnswerReader(reading, context)
        self.is_done = False

    def feed(self, line: Json) -> list[Event]:
        if not isinstance(line, dict):
            raise broken("The upstream sent a line that is not a JSON object.")
        if line.get("error"):
            is_too_long = isinstance(line["error"], str) and TOO_LONG.search(line["error"])
            raise error_in_answer({"code": "context_length_exceeded"} if is_too_long else line["error"])
        self.is_done = line.get("done") is True
        message = _find_message(line) or {}
        delta = {**message, "reasoning_content": message.get("thinking")}
        reason = (line.get("done_reason") or "stop") if self.is_done else None
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": _read_logprobs(line.get("logprobs"))}
        events = self._reader.feed({"model": line.get("model"), "choices": [choice]})
        if self.is_done:
            usage = read_usage(line)
            if usage is not None:
                raw = {name: line.get(name) for name in RAW_COUNTS if name in line}
                events.append(UsageReported(usage, raw))
            events += self._reader.finish(is_complete=True)
        return events


def _find_message(line: JsonObject) -> JsonObject | None:
    """The message of a line; a completion has its text in the line itself. None where there is neither."""
    message, text = line.get("message"), line.get("response")
    if isinstance(message, dict):
        return message
    return {"content": text, "thinking": line.get("thinking")} if isinstance(text, str) else None


def _read_logprobs(value: Json) -> JsonObject | None:
    """The log probabilities in OpenAI's shape, whose types want every member."""
    if not isinstance(value, list):
        return None
    tokens = [item for item in value if isinstance(item, dict)]
    return {
        "content": [
            {**_read_logprob(item), "top_logprobs": _read_top_logprobs(item.get("top_logprobs"))} for item in tokens
        ]
    }


def _read_top_logprobs(value: Json) -> list[JsonObject]:
    return [_read_logprob(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _read_logprob(token: JsonObject) -> JsonObject:
    return {name: token.get(name) for name in ("token", "logprob", "bytes")}


RAW_COUNTS = ("prompt_eval_count", "prompt_eval_cached_count", "eval_count")


def read_usage(line: JsonObject) -> Usage | None:
    """The counts of a line. `prompt_eval_count` includes `prompt_eval_cached_count`; servers of 2024 left it out where
    the whole prompt was in the cache. Source: https://github.com/ollama/ollama/pull/16916."""
    return from_openai(
        {
            "prompt_tokens": line.get("prompt_eval_count"),
            "completion_tokens": line.get("eval_count"),
            "cached_tokens": line.get("prompt_eval_cached_count"),
        }
    )


class StreamDecoder(StreamReader):
    """Decoder of a streamed answer: one JSON object a line."""

    __slots__ = ("_lines", "_parts", "_size")

    def __init__(self, reading: Reading, context: AttemptContext) -> None:
        super().__init__()
        self._lines = _AnswerReader(reading, context)
        self._parts: list[bytes] = []  # of the unfinished line
        self._size = 0

    def feed(self, piece: bytes) -> list[Event]:
        *whole, rest = piece.split(b"\n")
        events: list[Event] = []
        if whole:
            whole[0] = b"".join([*self._parts, whole[0]])
            self._parts.clear()
            self._size = 0
            events = self._events(whole)
        if rest and not self.is_done:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > MAX_EVENT_BYTES:
                raise broken("The upstream sent a line that is too large.")
        return events

    def finish(self) -> list[Event]:
        events = self._events([b"".join(self._parts)])
        self._parts.clear()
        self._raise_fault()
        if not self.is_done:
            raise incomplete()
        return events

    def _events(self, received: list[bytes]) -> list[Event]:
        events: list[Event] = []
        try:
            for line in received:
                if line.strip() and not self.is_done:
                    events += self._read(line)
        except UpstreamFault as fault:
            self._defer_fault(fault, events)
        return events

    def _read(self, line: bytes) -> list[Event]:
        try:
            answer = load_answer(line)
        except orjson.JSONDecodeError:
            raise broken("The upstream sent a line that is not JSON.") from None
        events = self._lines.feed(answer)
        self.is_done = self._lines.is_done
        return events


def decode_body(body: bytes, reading: Reading, context: AttemptContext) -> list[Event]:
    """The events of a whole answer. Raises UpstreamFault for an unusable one."""
    answer = _parse_object(body)
    if not answer.get("error") and _find_message(answer) is None:
        raise UpstreamFault("The upstream's answer holds no message.")
    return _AnswerReader(reading, context).feed({**answer, "done": True})


def _parse_object(body: bytes) -> JsonObject:
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        raise UpstreamFault("The upstream's answer is not JSON.") from None
    if not isinstance(answer, dict):
        raise UpstreamFault("The upstream's answer is not a JSON object.")
    return answer


def decode_embeddings(body: bytes, request_body: JsonMapping, *, model: str) -> tuple[bytes, AnswerMetadata]:
    """An answer of /api/embed as OpenAI's list of embeddings. `model` is the public name."""
    answer = _parse_object(body)
    if answer.get("error"):
        raise error_in_answer(answer["error"])
    vectors = answer.get("embeddings")
    if not isinstance(vectors, list):
        raise UpstreamFault("The upstream's answer holds no embeddings.")
    usage = read_usage(answer)
    metadata = AnswerMetadata(model=str(answer.get("model") or ""), usage=usage)
    if usage is not None:
        metadata.raw_usage = {"prompt_eval_count": answer.get("prompt_eval_count")}
    encoded = encode_embeddings(
        vectors,
        model=model,
        prompt_tokens=usage.total_input if usage else 0,
        encoding_format=request_body.get("encoding_format"),
    )
    return encoded, metadata
