"""Same dialect on both sides: the upstream's bytes go to the client as they are.

The relay changes the model's name, usage where the client did not ask for it, and the few habits of servers that break
clients (answer_fixes.py). It parses every event, so that nothing broken leaves and Close learns the usage, but
encodes only a changed one anew. OpenAI's chat and completions formats
(https://platform.openai.com/docs/api-reference/chat-streaming) share this file.
"""

from math import ceil

import orjson

from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.answer_fixes import FIXED, ROLE_GONE, SAME, AnswerFixes, fix_choice, remove_role
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.openai.client_answer import billed_usage
from gateway.protocol.dialects.shared.translate import EventPasser, incomplete
from gateway.protocol.error_classes import error_in_answer
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.answer import load_answer
from gateway.protocol.json.body import edit_members, replace_member
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.sse import EventSplitter, event_data
from gateway.protocol.usage import estimate_tokens, from_openai

DONE = b"data: [DONE]\n\n"


def broken(message: str) -> UpstreamFault:
    return UpstreamFault(message, finish="upstream_broken")


def read_metadata(metadata: AnswerMetadata, answer: JsonMapping) -> None:
    """Writes the id, model, tier and usage of any piece of an answer to the metadata."""
    if not metadata.upstream_id and isinstance(answer.get("id"), str):
        metadata.upstream_id = answer["id"]
    if not metadata.model and isinstance(answer.get("model"), str):
        metadata.model = answer["model"]
    if isinstance(answer.get("service_tier"), str):
        metadata.service_tier = answer["service_tier"]
    usage = answer.get("usage")
    if isinstance(usage, dict):
        read = from_openai(usage)
        if read is not None:
            metadata.usage, metadata.raw_usage = read, usage


def relay_whole_body(call: Call, body: bytes, required: str) -> tuple[bytes, AnswerMetadata]:
    """A whole answer that must hold the list `required`. Raises UpstreamFault for anything else."""
    try:
        answer = load_answer(body)
    except orjson.JSONDecodeError:
        raise UpstreamFault("The upstream's answer is not JSON.") from None
    if not isinstance(answer, dict):
        raise UpstreamFault("The upstream's answer is not a JSON object.")
    if answer.get("error"):
        raise error_in_answer(answer["error"])
    if not isinstance(answer.get(required), list):
        raise UpstreamFault(f"The upstream's answer holds no {required}.")
    metadata = AnswerMetadata()
    read_metadata(metadata, answer)
    if metadata.usage is None and call.operation is not Operation.EMBEDDING:
        metadata.output_estimate = sum(estimate_tokens(_text_of(choice)) for choice in answer[required])
    mended = [fix_choice(choice) for choice in answer[required]] if call.operation is Operation.CHAT else ()
    edits: JsonObject = {required: answer[required]} if any(mended) else {}
    usage = _billed_usage(metadata, answer)
    if usage is not None:
        edits["usage"] = usage
    if metadata.model == call.model and not edits:
        return body, metadata
    try:
        if edits:
            return edit_members(body, {**edits, "model": call.model}), metadata
        if metadata.model:
            return replace_member(body, "model", call.model, answer), metadata
        return edit_members(body, {"model": call.model}), metadata
    except RecursionError:
        raise UpstreamFault("The upstream's answer is nested too deeply.") from None


def _billed_usage(metadata: AnswerMetadata, answer: JsonMapping) -> JsonObject | None:
    """The usage object for the client where the upstream's own would show other counts than those that are billed."""
    usage = answer.get("usage")
    if metadata.usage is None or metadata.raw_usage is not usage or not isinstance(usage, dict):
        return None
    return billed_usage(metadata.usage, usage)


def _text_of(choice: Json) -> str:
    """All text that a choice or a delta carries, tool arguments and reasoning included."""
    if not isinstance(choice, dict):
        return ""
    text = choice.get("text")
    if isinstance(text, str):
        return text
    holder = choice.get("message") or choice.get("delta")
    if not isinstance(holder, dict):
        return ""
    reasoning = holder.get("reasoning_content") or holder.get("reasoning")
    parts = [holder.get("content"), reasoning, holder.get("refusal")]
    tool_calls = holder.get("tool_calls")
    for tool_call in tool_calls if isinstance(tool_calls, list) else ():
        function = tool_call.get("function") if isinstance(tool_call, dict) else None
        if isinstance(function, dict):
            parts += [function.get("name"), function.get("arguments")]
    return "".join(part for part in parts if isinstance(part, str))


class EventRelay(EventPasser):
    """StreamRelay for chat and completions."""

    __slots__ = (
        "_call",
        "_choices_finished",
        "_choices_seen",
        "_fixes",
        "_last_usage",
        "_old_model",
        "_renames",
        "_splitter",
        "_text_size",
        "metadata",
    )

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.metadata = AnswerMetadata()
        self._call = call
        self._splitter = EventSplitter()
        self._choices_seen: set[int] = set()
        self._choices_finished: set[int] = set()
        self._fixes = AnswerFixes()
        self._last_usage = b""  # the chunk of usage, which waits for the cost
        self._old_model: Json = None  # the upstream's name, and how its member is rewritten
        self._renames: tuple[tuple[bytes, bytes], ...] = ()
        self._text_size = 0.0

    def feed(self, piece: bytes) -> bytes:
        return self._relay_events(self._splitter.feed(piece))

    def finish(self) -> bytes:
        self._raise_fault()
        if self.is_done:
            return self._last_usage + DONE
        rest = self._relay_events(self._splitter.finish())
        self._raise_fault()
        choice_count = self._call.body.get("n") or 1
        if len(self._choices_finished) >= choice_count and self._choices_finished >= self._choices_seen:
            self.is_done = True  # several servers close without [DONE]
        if not self.is_done:
            raise incomplete()
        return rest + self._last_usage + DONE

    def _through(self, event: bytes) -> bytes:
        data = event_data(event)
        if not data or self.is_done:  # comments, empty events, and anything after the end
            return b""
        if data == b"[DONE]":
            if self._fixes.has_open_call(self._choices_finished):
                raise incomplete()
            self.is_done = True
            return b""
        try:
            chunk = load_answer(data)
        except orjson.JSONDecodeError:
            raise broken("The upstream sent an event that is not JSON.") from None
        if not isinstance(chunk, dict):
            raise broken("The upstream sent an event that is not a JSON object.")
        if chunk.get("error") or chunk.get("object") == "error":
            raise error_in_answer(chunk.get("error") or chunk)
        choices = chunk.get("choices")
        changed = SAME
        if isinstance(choices, list):
            for choice in choices:
                changed = max(changed, self._note(choice))
        metadata = self.metadata
        if "usage" in chunk or not metadata.upstream_id:
            read_metadata(metadata, chunk)
            if "usage" in chunk and not self._call.include_usage:
                if chunk["usage"] is not None and not choices:
                    return b""
                del chunk["usage"]
                if chunk.get("model"):
                    chunk["model"] = self._call.model
                return b"data: " + orjson.dumps(chunk) + b"\n\n"
            usage = _billed_usage(metadata, chunk)
            if usage is not None:
                chunk["usage"] = usage
                changed = FIXED
            if self._call.tells_cost and not choices and isinstance(chunk.get("usage"), dict):
                self._last_usage = b"data: " + orjson.dumps({**chunk, "model": self._call.model}) + b"\n\n"
                return b""
        if changed == ROLE_GONE:
            event = remove_role(event) or b""
        if changed == FIXED or not event:
            if chunk.get("model"):
                chunk["model"] = self._call.model
            return b"data: " + orjson.dumps(chunk) + b"\n\n"
        return self._renamed(event, chunk)

    def _note(self, choice: Json) -> int:
        """Fixes the choice. Returns the extent of the change."""
        if not isinstance(choice, dict):
            return SAME
        index, delta, reason = choice.get("index", 0), choice.get("delta"), choice.get("finish_reason")
        number = index if type(index) is int else 0
        changed = SAME
        text = delta.get("content") if isinstance(delta, dict) and len(delta) == 1 else None
        if not isinstance(text, str):  # more than a piece of text
            if isinstance(delta, dict):
                changed = self._fixes.delta(number, delta)
            elif delta is None and "delta" in choice:
                choice["delta"] = {}
                changed = FIXED
            text = _text_of(choice)
        if reason is not None:
            changed = max(changed, self._fixes.finish(number, choice))
        if type(index) is int and len(self._choices_seen) < 1024:
            self._choices_seen.add(index)
            if reason:
                self._choices_finished.add(index)
        self._text_size += len(text) / 4 if text.isascii() else estimate_tokens(text)
        self.metadata.output_estimate = ceil(self._text_size)
        return changed

    def _renamed(self, event: bytes, chunk: JsonObject) -> bytes:
        model = chunk.get("model")
        if model is None or model == self._call.model:
            return event + b"\n\n"
        if model != self._old_model:
            self._old_model = model
            new, old = orjson.dumps(self._call.model), orjson.dumps(model)
            self._renames = tuple((colon + old, colon + new) for colon in (b'"model":', b'"model": '))
        if event.count(b'"model"') == 1:  # only the member itself: within a string its quotes would be escaped
            for old, new in self._renames:
                if old in event:
                    return event.replace(old, new, 1) + b"\n\n"
        chunk["model"] = self._call.model
        return b"data: " + orjson.dumps(chunk) + b"\n\n"
