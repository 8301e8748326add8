"""A scripted upstream that speaks every wire format the gateway does: the path names the format.

The model chooses the answer: after `~` stands a status (`claude~429`), or how its stream goes wrong (`cut`,
`end`, `error`, `damaged`), or that it comes in single bytes (`bytewise`), or that calls are written into the text in
the way of a family of models (`as-qwen25`), or that the model thinks first (`thinks`) or is stopped by the limit of
tokens (`short`). Several twists of one name may follow each other.
"""

import json
import re

from tests.fakes.self_hosted import COMPLETIONS, SELF_HOSTED, as_text
from tests.fakes.upstream import (
    ABSENT,
    ERROR_FRAME,
    FAULTS,
    Answer,
    Ending,
    Exchange,
    FakeUpstream,
    Recorded,
    chat_chunks,
    lf_frame,
    vector,
)
from tests.fakes.wires import FILLED, PAUSE_S, SCHEMA_ASKED, WHOLE_FRAMES, WIRES, script_answer

PROJECT = r"/v1/projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)"
PATHS = (
    (re.compile(r"/v1/messages/(?P<method>count_tokens)"), "anthropic"),
    (re.compile(r"(/anthropic)?/v1/messages"), "anthropic"),
    (re.compile(r"/v1beta/models/(?P<model>[^:]+):(?P<method>\w+)"), "gemini"),
    (re.compile(PROJECT + r"/publishers/google/models/(?P<model>[^:]+):(?P<method>\w+)"), "gemini"),
    (re.compile(PROJECT + r"/publishers/anthropic/models/(?P<model>[^:]+):(rawP|streamRawP)redict"), "anthropic"),
    (re.compile(PROJECT + r"/endpoints/openapi/(?P<method>chat/completions)"), "openai"),
    (re.compile(r"/model/(?P<model>.+)/(?P<method>converse|converse-stream|invoke)"), "bedrock"),
    (re.compile(r"/api/(?P<method>chat|embed)"), "ollama"),
    (re.compile(r"/api/generate"), "ollama_completion"),
    (re.compile(r"/openai/deployments/(?P<model>[^/]+)/(?P<method>.+)"), "openai"),
    (re.compile(r"/models/(?P<method>chat/completions|embeddings)"), "openai"),
    (re.compile(r"/v1/(?P<method>chat/completions|completions|embeddings)"), "openai"),
    (re.compile(rf"/(?P<server>{'|'.join(SELF_HOSTED)})/v1/(?P<method>chat/completions|completions|embeddings)"), ""),
)  # fmt: skip
STREAMING_METHODS = {"streamGenerateContent", "converse-stream"}


class FakeWires(FakeUpstream):
    """Closes: itself, as a context manager. `root` is the bare host; the base of a wire stands in its documentation."""

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def last_request(self, model: str) -> Recorded:
        """The last request for this upstream model, wherever its wire names it."""
        requests = [one for one in self.requests if one.model == model or f"/{model}" in one.path]
        if not requests:
            raise LookupError(f"the upstream has no request for {model}")
        return requests[-1]

    async def _answer(self, exchange: Exchange) -> None:
        recorded = exchange.recorded
        for pattern, name in PATHS:
            if match := pattern.fullmatch(recorded.path):
                parts = match.groupdict()
                model = parts.get("model") or recorded.model
                await self._answer_in(exchange, name or parts["server"], model, parts.get("method") or "")
                return
        await exchange.reply(b'{"detail":"Not Found"}', status=404)

    async def _answer_in(self, exchange: Exchange, name: str, model: str, method: str) -> None:
        recorded, twist = exchange.recorded, model.partition("~")[2]
        if name == "openai":
            await self._answer_openai(exchange, twist)
        elif name in SELF_HOSTED:
            await self._answer_self_hosted(exchange, name, model, method)
        elif method == "batchEmbedContents":
            rows = [{"values": vector(index)} for index in range(len(exchange.json["requests"]))]
            await exchange.reply(json.dumps({"embeddings": rows}).encode())
        elif method == "count_tokens":
            await exchange.reply(json.dumps({"input_tokens": len(recorded.body)}).encode())
        elif method == "predict":
            counts = {"statistics": {"token_count": 3, "truncated": False}}
            predicted = [
                {"embeddings": {"values": vector(i), **counts}} for i in range(len(exchange.json["instances"]))
            ]
            await exchange.reply(json.dumps({"predictions": predicted}).encode())
        elif method == "embed":
            rows_of_ollama = [vector(index) for index in range(len(exchange.json["input"]))]
            await exchange.reply(json.dumps({"embeddings": rows_of_ollama, "prompt_eval_count": 5}).encode())
        elif method == "invoke":
            await exchange.reply(json.dumps({"embedding": vector(0), "inputTextTokenCount": 3}).encode())
        else:
            stream = exchange.streams or method in STREAMING_METHODS
            await WIRES[name].answer(exchange, script_answer(recorded, model), twist, stream=stream)

    @staticmethod
    async def _answer_self_hosted(exchange: Exchange, server: str, model: str, method: str) -> None:
        twist = model.partition("~")[2]
        if method == "embeddings":
            await Answer()(exchange)
        elif method == "completions":
            await COMPLETIONS[server](exchange)
        else:
            what = script_answer(exchange.recorded, model)
            if twist.startswith("as-"):
                what, twist = as_text(what, twist.removeprefix("as-")), ""
            await SELF_HOSTED[server].answer(exchange, what, twist, stream=exchange.streams)

    @staticmethod
    async def _answer_openai(exchange: Exchange, twist: str) -> None:
        if twist.isdigit():
            await FAULTS[twist](exchange)
        elif twist == "error":
            last = lf_frame(json.dumps(chat_chunks(exchange.json, None, ABSENT, "stop")[WHOLE_FRAMES]).encode())
            await Answer(stop_after=WHOLE_FRAMES, gap_s=PAUSE_S, inserted=last + ERROR_FRAME, ending="end")(exchange)
        elif twist == "short":
            await Answer(text=script_answer(exchange.recorded, exchange.recorded.model).text, finish="length")(exchange)
        elif twist in {"cut", "end"}:
            ending: Ending = "cut" if twist == "cut" else "end"
            await Answer(stop_after=WHOLE_FRAMES + 1, gap_s=PAUSE_S, ending=ending)(exchange)
        elif twist:
            await Answer(piece_bytes=1)(exchange)
        else:
            await Answer(text=FILLED if SCHEMA_ASKED.search(exchange.recorded.body) else None)(exchange)
