"""Perplexity's Sonar models, which search the web before they answer.

Sources: https://docs.perplexity.ai/api-reference/chat-completions-post, …/docs/sonar/pro-search/stream-mode and the
types of the package perplexityai 0.46. The sources of an answer become `url_citation` annotations at its end.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby

import orjson

from gateway.parsers.think import CLOSING, ThinkSplitter
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated, failure, read_error
from gateway.protocol.dialects.openai.upstream_choice import Reading
from gateway.protocol.dialects.openai.upstream_request import OPENAI_ONLY, Traits
from gateway.protocol.dialects.shared.parameters import unsupported
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.types import JsonObject
from gateway.protocol.listing import ListRequest
from gateway.protocol.provider import Target, UpstreamRequest

#: `stream_mode: concise` makes a stream of other events.
UNKNOWN = OPENAI_ONLY | {"logprobs", "modalities", "parallel_tool_calls", "seed", "stream_mode", "top_logprobs"}
ANY_OBJECT = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
THINKING = re.compile(r"reasoning|deep-research", re.IGNORECASE)


class Perplexity(OpenAITranslated):
    __slots__ = ()

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        request = super().request(call, target, context)
        body = orjson.loads(request.body)
        if body.get("tools"):
            raise unsupported("tools")
        body["messages"] = [_turn(list(same)) for _, same in groupby(body["messages"], lambda item: item["role"])]
        if body.get("response_format") == {"type": "json_object"}:
            body["response_format"] = ANY_OBJECT
        return replace(request, body=orjson.dumps(body))

    def reading(self, call: Call, target: Target) -> Reading:
        reading = super().reading(call, target)
        think = self.think if THINKING.search(target.upstream_model) else reading.think
        return replace(reading, think=think, fix=partial(_fix, is_whole=not call.stream))

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        error = read_error(body)
        return failure(target, 404 if error.get("type") == "invalid_model" else status, headers, error)

    def models_request(self, target: Target, context: AttemptContext, page: str = "") -> ListRequest | None:
        return None  # these models are in no list of the API


def _turn(same: list[JsonObject]) -> JsonObject:
    """Messages of one role as one: the roles have to take turns."""
    contents = [item.get("content") or "" for item in same]
    if all(isinstance(content, str) for content in contents):
        return {**same[0], "content": "\n\n".join(contents)}
    parts = [[{"type": "text", "text": one}] if isinstance(one, str) else one for one in contents]
    return {**same[0], "content": [part for some in parts for part in some]}


def _fix(answer: JsonObject, *, is_whole: bool) -> JsonObject:
    """A chunk has the message so far beside its delta, a whole answer an empty delta beside its message."""
    choices, usage = answer.get("choices"), answer.get("usage")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            message, delta = choice.pop("message", None), choice.pop("delta", None)
            content = choice["message" if is_whole else "delta"] = message if is_whole else delta
            if choice.get("finish_reason") and isinstance(content, dict):
                text = message.get("content") if isinstance(message, dict) else ""
                content["annotations"] = [*_annotations(answer, text if isinstance(text, str) else "")]
    if isinstance(usage, dict):
        answered, thought = usage.get("completion_tokens"), usage.get("reasoning_tokens")
        if type(answered) is int and type(thought) is int and thought > 0:
            # Tokens of reasoning are counted beside those of the answer, and in no total.
            details = {"completion_tokens_details": {"reasoning_tokens": thought}, "total_tokens": None}
            answer["usage"] = {**usage, "completion_tokens": answered + thought, **details}
    return answer


def _annotations(answer: JsonObject, text: str) -> Iterator[JsonObject]:
    """One for each source, at the first of the marks `[1]`, `[2]`… in the text that stand for it."""
    sources = answer.get("search_results") or answer.get("citations")
    if CLOSING in text:
        text = text.partition(CLOSING)[2].lstrip("\r\n")
    for number, item in enumerate(sources if isinstance(sources, list) else (), 1):
        source: JsonObject = item if isinstance(item, dict) else {"url": item}
        url, title, mark = source.get("url"), source.get("title"), f"[{number}]"
        if isinstance(url, str):
            start = max(text.find(mark), 0)
            end = start + len(mark) if mark in text else start
            citation = {"url": url, "title": title if isinstance(title, str) else url}
            yield {"type": "url_citation", "url_citation": {**citation, "start_index": start, "end_index": end}}


PROVIDER = Perplexity(
    name="perplexity",
    title="Perplexity",
    default_api_base="https://api.perplexity.ai",
    needs_api_key=True,
    operations=frozenset({Operation.CHAT, Operation.COMPLETION}),  # completions go out as chat
    traits=Traits(has_completions=False, asks_usage=False, takes_reasoning=False, unknown=UNKNOWN),
    think=ThinkSplitter,
)
