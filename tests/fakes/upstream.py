"""A scripted upstream in the OpenAI dialect: it answers, waits, breaks and lies exactly as a test says.

The requested model chooses the behaviour: a script of the test, else the row of that name
in `ODDITIES` (the answer is right, its form unusual), `USAGES` (only the usage is odd) or `FAULTS` (the caller
must see an error), else a plain answer. It runs under uvicorn in a thread, so tests can wait on records.
"""

import asyncio
import base64
import contextlib
import gzip
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import uvicorn

from gateway.protocol.json.types import JsonObject

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# What a gateway must never show: every error of this upstream carries all of it.
CREDENTIAL = "sk-upstream-credential-7Qw3nR9xT2mK5vB8"
SECRET = "sk-upstream-internal-4Hd6Lp0sZ1cF7jYe"
INTERNAL_HOST = "llm-backend-17.internal.example"
INTERNAL_URL = f"http://{INTERNAL_HOST}:8000/private"
TRACE = f"""Traceback (most recent call last):
  File "/srv/llm/engine/worker.py", line 214, in generate
    raise RuntimeError("device lost while calling {INTERNAL_URL} with {SECRET}")
RuntimeError: device lost while calling {INTERNAL_URL} with {SECRET}
"""
LEAKS = (CREDENTIAL, SECRET, INTERNAL_HOST, "Traceback", "/srv/llm")

ABSENT: JsonObject = {"absent": True}
USAGE: JsonObject = {
    "prompt_tokens": 1207,
    "completion_tokens": 311,
    "total_tokens": 1518,
    "prompt_tokens_details": {"cached_tokens": 256, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
}
EMBEDDING_USAGE: JsonObject = {"prompt_tokens": 421, "total_tokens": 421}
VECTOR_SIZE = 8
FREE_TEXT = "print('naïve 北京')"


@dataclass(slots=True)
class Recorded:
    """One request as it arrived, and how far its answer went."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    sent_bytes: int = 0
    finished: bool = False
    disconnected: bool = False
    at: float = field(default_factory=time.monotonic)
    model: str = field(init=False, default="")  # read once: all requests of a run are looked through again and again

    def __post_init__(self) -> None:
        with contextlib.suppress(ValueError, AttributeError):
            self.model = str(self.json.get("model", ""))

    @property
    def json(self) -> JsonObject:
        return json.loads(self.body) if self.body else {}


class Exchange:
    """One request being answered. `reply` is whole; `start`, `write`, `end` are its parts."""

    def __init__(self, recorded: Recorded, send: Send) -> None:
        self.recorded = recorded
        self.json = recorded.json
        self._send = send

    @property
    def streams(self) -> bool:
        return self.json.get("stream") is True

    async def start(
        self, status: int = 200, content_type: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        lines = {"content-type": content_type, "server": "fake", "x-internal-host": INTERNAL_HOST}
        encoded = [(k.encode(), v.encode()) for k, v in {**lines, **(headers or {})}.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.recorded.sent_bytes += len(data)
        await asyncio.sleep(0)  # uvicorn swallows writes to a gone client without a pause; let that be noticed

    async def end(self) -> None:
        self.recorded.finished = True
        await self._send({"type": "http.response.body", "body": b""})

    async def reply(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        await self.start(status, content_type, {"content-length": str(len(body)), **(headers or {})})
        await self.write(body)
        await self.end()


Behaviour = Callable[[Exchange], Awaitable[None]]


# The dialect: what a well-behaved upstream answers


def last_text(request: JsonObject) -> str:
    """The text that the answer echoes: the last message's, or the prompt's."""
    content = (request.get("messages") or [{}])[-1].get("content", request.get("prompt"))
    if isinstance(content, list):
        texts = [part if isinstance(part, str) else part.get("text", "") for part in content]
        return " ".join(str(text) for text in texts if text)
    return str(content or "")


def words_of(request: JsonObject, text: str | None) -> list[str]:
    whole = f"You said {last_text(request)!r}. 这是一个很好的问题 — naïve 🚀 answer." if text is None else text
    return re.findall(r"\S+\s*", whole)


def tool_calls(request: JsonObject) -> list[JsonObject]:
    """One call of the first tool and one of the last, when the request offers tools and no result yet."""
    tools = request.get("tools") or []
    answered = (request.get("messages") or [{}])[-1].get("role") == "tool"
    if not tools or answered or request.get("tool_choice") == "none":
        return []
    if tools[0]["type"] == "custom":  # one of free text
        custom = {"name": tools[0]["custom"]["name"], "input": FREE_TEXT}
        return [{"id": "call_0", "type": "custom", "custom": custom}]
    if tools[0]["function"]["name"] == "run":  # a free-text tool that was sent as a function
        function = {"name": "run", "arguments": json.dumps({"input": FREE_TEXT})}
        return [{"id": "call_0", "type": "function", "function": function}]
    names = [tool["function"]["name"] for tool in (tools[0], tools[-1])]
    arguments = ('{"city": "Paris", "unit": "c"}', '{"city": "北京"}')
    return [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": text}}
        for i, (name, text) in enumerate(zip(names, arguments, strict=True))
    ]


def logprobs(words: list[str]) -> JsonObject:
    tokens = [{"token": word, "logprob": -0.25, "bytes": list(word.encode()), "top_logprobs": []} for word in words]
    return {"content": tokens, "refusal": None}


def head(request: JsonObject, kind: str) -> JsonObject:
    return {
        "id": "chatcmpl-static-1",
        "object": kind,
        "created": 1_790_000_000,
        "model": request.get("model", ""),
        "system_fingerprint": "fp_fake",
    }


def with_usage(answer: JsonObject, usage: Any) -> JsonObject:
    return answer if usage is ABSENT else {**answer, "usage": usage}


def chat_answer(request: JsonObject, text: str | None, usage: Any, finish: str) -> JsonObject:
    words, calls = words_of(request, text), tool_calls(request)
    message: JsonObject = {"role": "assistant", "content": None if calls else "".join(words), "refusal": None}
    if calls:
        message["tool_calls"] = calls
    choices = [
        {
            "index": index,
            "message": message,
            "logprobs": logprobs(words) if request.get("logprobs") else None,
            "finish_reason": "tool_calls" if calls else finish,
        }
        for index in range(request.get("n") or 1)
    ]
    return with_usage({**head(request, "chat.completion"), "choices": choices, "x_vendor": {"node": 7}}, usage)


def chat_deltas(request: JsonObject, text: str | None) -> Iterator[tuple[JsonObject, JsonObject | None]]:
    """(delta, logprobs) of one choice, tool calls interleaved as parallel calls may be."""
    yield {"role": "assistant", "content": ""}, None
    calls = tool_calls(request)
    if not calls:
        for word in words_of(request, text):
            yield {"content": word}, logprobs([word]) if request.get("logprobs") else None
        return
    members = {"function": "arguments", "custom": "input"}
    texts = [call[call["type"]][members[call["type"]]] for call in calls]
    for index, call in enumerate(calls):
        kind = call["type"]
        yield {"tool_calls": [{"index": index, **call, kind: {**call[kind], members[kind]: ""}}]}, None
    for start in range(0, max(map(len, texts)), 5):
        for index, text_of_call in enumerate(texts):
            if piece := text_of_call[start : start + 5]:
                kind = calls[index]["type"]
                yield {"tool_calls": [{"index": index, kind: {members[kind]: piece}}]}, None


def chat_chunks(request: JsonObject, text: str | None, usage: Any, finish: str) -> list[JsonObject]:
    base = head(request, "chat.completion.chunk")
    reports_usage = bool((request.get("stream_options") or {}).get("include_usage")) and usage is not ABSENT
    early: JsonObject = {"usage": None} if reports_usage else {}
    last = "tool_calls" if tool_calls(request) else finish
    indexes = range(request.get("n") or 1)
    chunks = [
        {
            **base,
            "choices": [{"index": index, "delta": delta, "logprobs": scores, "finish_reason": None}],
            "x_vendor": {"node": 7},
            **early,
        }
        for delta, scores in chat_deltas(request, text)
        for index in indexes
    ]
    chunks += [
        {**base, "choices": [{"index": i, "delta": {}, "logprobs": None, "finish_reason": last}], **early}
        for i in indexes
    ]
    return chunks + ([{**base, "choices": [], "usage": usage}] if reports_usage else [])


def completion_answer(request: JsonObject, text: str | None, usage: Any, finish: str) -> JsonObject:
    prompts = request["prompt"] if isinstance(request.get("prompt"), list) else [request.get("prompt")]
    texts = ["".join(words_of({"prompt": prompt}, text)) for prompt in prompts]
    choices = [
        {"index": index, "text": words, "logprobs": None, "finish_reason": finish}
        for index, words in enumerate(words for words in texts for _ in range(request.get("n") or 1))
    ]
    return with_usage({**head(request, "text_completion"), "choices": choices}, usage)


def completion_chunks(request: JsonObject, text: str | None, usage: Any, finish: str) -> list[JsonObject]:
    base = head(request, "text_completion")
    reports_usage = bool((request.get("stream_options") or {}).get("include_usage")) and usage is not ABSENT
    early: JsonObject = {"usage": None} if reports_usage else {}
    pieces: list[tuple[str, str | None]] = [(word, None) for word in words_of(request, text)] + [("", finish)]
    chunks = [
        {**base, "choices": [{"index": 0, "text": word, "logprobs": None, "finish_reason": end}], **early}
        for word, end in pieces
    ]
    return chunks + ([{**base, "choices": [], "usage": usage}] if reports_usage else [])


def vector(index: int) -> list[float]:
    """Exact in float32, so that the float and the base64 form of it are equal."""
    return [(index * VECTOR_SIZE + i) / 64 - 0.5 for i in range(VECTOR_SIZE)]


def embedding_answer(request: JsonObject, usage: Any) -> JsonObject:
    value = request.get("input")
    many = isinstance(value, list) and bool(value) and not isinstance(value[0], int)
    vectors: list[Any] = [vector(index) for index in range(len(value) if many and value else 1)]
    if request.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{VECTOR_SIZE}f", *row)).decode() for row in vectors]
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(vectors)]
    return with_usage({"object": "list", "model": request.get("model"), "data": data}, usage)


# Framing of server-sent events


def lf_frame(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def crlf_frame(data: bytes) -> bytes:
    return b"data: " + data + b"\r\n\r\n"


def cr_frame(data: bytes) -> bytes:
    return b"data: " + data + b"\r\r"


def tight_frame(data: bytes) -> bytes:
    """No space after the colon, as some servers write it."""
    return b"data:" + data + b"\n\n"


def dressed_frame(data: bytes) -> bytes:
    """Comments and an event name around the data."""
    return b": keep-alive\n\nevent: message\ndata: " + data + b"\n\n: more\n\n"


def folded_frame(data: bytes) -> bytes:
    """JSON over several data lines; the parser must join them with a line feed."""
    if data == b"[DONE]":
        return lf_frame(data)
    lines = json.dumps(json.loads(data), indent=1, ensure_ascii=False).encode().split(b"\n")
    return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


Ending = Literal["done", "end", "cut", "stall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A right answer with the twists named by its fields.

    `stop_after` chunks are sent (all, when None), then `inserted` raw bytes, then the `ending`: `done` is
    [DONE] and a clean end, `end` a clean end without it, `cut` a closed connection, `stall` silence for ever.
    """

    text: str | None = None
    usage: Any = None
    finish: str = "stop"
    before_s: float = 0
    gap_s: float = 0
    stop_after: int | None = None
    inserted: bytes = b""
    ending: Ending = "done"
    trailing: bytes = b""
    prefix: bytes = b""
    frame: Callable[[bytes], bytes] = lf_frame
    piece_bytes: int | None = None
    compressed: bool = False

    async def __call__(self, exchange: Exchange) -> None:
        await asyncio.sleep(self.before_s)
        if exchange.streams and not exchange.recorded.path.endswith("/embeddings"):
            await self._stream(exchange)
            return
        body = json.dumps(self._whole(exchange), ensure_ascii=False).encode()
        headers = {"content-encoding": "gzip"} if self.compressed else {}
        if self.ending in {"cut", "stall"}:
            await exchange.start(headers={"content-length": str(len(body))})
            await exchange.write(body[: len(body) // 2])
            await asyncio.sleep(0 if self.ending == "cut" else 3600)
            return
        await asyncio.sleep(self.gap_s)
        await exchange.reply(gzip.compress(body) if self.compressed else body, headers=headers)

    def _whole(self, exchange: Exchange) -> JsonObject:
        request, path = exchange.json, exchange.recorded.path
        if path.endswith("/embeddings"):
            return embedding_answer(request, EMBEDDING_USAGE if self.usage is None else self.usage)
        make = chat_answer if path.endswith("/chat/completions") else completion_answer
        return make(request, self.text, USAGE if self.usage is None else self.usage, self.finish)

    async def _stream(self, exchange: Exchange) -> None:
        make = chat_chunks if exchange.recorded.path.endswith("/chat/completions") else completion_chunks
        chunks = make(exchange.json, self.text, USAGE if self.usage is None else self.usage, self.finish)
        squeeze = zlib.compressobj(wbits=31) if self.compressed else None

        async def write(data: bytes) -> None:
            step = self.piece_bytes or max(len(data), 1)
            for start in range(0, len(data), step):
                piece = data[start : start + step]
                if squeeze:
                    piece = squeeze.compress(piece) + squeeze.flush(zlib.Z_SYNC_FLUSH)
                await exchange.write(piece)

        await exchange.start(content_type="text/event-stream", headers={"content-encoding": "gzip"} if squeeze else {})
        await write(self.prefix)
        for chunk in chunks[: self.stop_after]:
            await write(self.frame(json.dumps(chunk, ensure_ascii=False).encode()))
            await asyncio.sleep(self.gap_s)
        await write(self.inserted)
        if self.ending == "stall":
            await asyncio.sleep(3600)
        if self.ending == "done":
            await write(self.frame(b"[DONE]"))
            await write(self.trailing)
        if self.ending != "cut":
            if squeeze:
                await exchange.write(squeeze.flush())
            await exchange.end()


@dataclass(frozen=True, slots=True)
class Talking:
    """A stream of words that goes on until its client leaves."""

    gap_s: float

    async def __call__(self, exchange: Exchange) -> None:
        first, word, _ = chat_chunks(exchange.json, "word", ABSENT, "stop")
        await exchange.start(content_type="text/event-stream")
        await exchange.write(lf_frame(json.dumps(first).encode()))
        while True:
            await exchange.write(lf_frame(json.dumps(word).encode()))
            await asyncio.sleep(self.gap_s)


@dataclass(frozen=True, slots=True)
class Reply:
    """One fixed reply to every request. `{authorization}` becomes the header of the caller."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(self, exchange: Exchange) -> None:
        authorization = exchange.recorded.headers.get("authorization", "").encode()
        body = self.body.replace(b"{authorization}", authorization)
        await exchange.reply(body, status=self.status, content_type=self.content_type, headers=self.headers)


async def stalled_error(exchange: Exchange) -> None:
    """An error status, the beginning of its body, and then nothing."""
    await exchange.start(500, headers={"content-length": "5000"})
    await exchange.write(b'{"error":{"message":"wait')
    await asyncio.sleep(3600)


async def bomb(exchange: Exchange) -> None:
    """200 kB that inflate to 200 MB."""
    squeeze = zlib.compressobj(wbits=31)
    await exchange.start(headers={"content-encoding": "gzip"})
    for _ in range(200):
        await exchange.write(squeeze.compress(b" " * 1024 * 1024))
    await exchange.write(squeeze.flush())
    await exchange.end()


# An endless answer ends here all the same, to spare the machine when the gateway does not stop it.
ENDLESS_BYTES = 128 * 1024 * 1024
#: More than the socket buffers of a whole call hold: Linux lets one of them grow to 32 MiB (net.ipv4.tcp_rmem).
KERNEL_BYTES = 64 * 1024 * 1024
BLOCK = "x" * 16 * 1024


async def endless_line(exchange: Exchange) -> None:
    """One event whose line never ends."""
    await exchange.start(content_type="text/event-stream")
    await exchange.write(b"data: ")
    while exchange.recorded.sent_bytes < ENDLESS_BYTES:
        await exchange.write(BLOCK.encode())


async def flood(exchange: Exchange) -> None:
    """A right answer without an end, as fast as the reader takes it."""
    if exchange.streams:
        block = lf_frame(json.dumps(chat_chunks(exchange.json, BLOCK, ABSENT, "stop")[1]).encode())
        await exchange.start(content_type="text/event-stream")
    else:
        block = BLOCK.encode()
        await exchange.start()
        await exchange.write(b'{"id":"chatcmpl-flood","choices":[{"index":0,"message":{"content":"')
    while exchange.recorded.sent_bytes < ENDLESS_BYTES:
        await exchange.write(block)
    await exchange.end()


def problem(status: int, kind: str, code: str | None, *, retry_after: str | None = None) -> Reply:
    """An error in the OpenAI shape whose text gives away all that it can."""
    message = f"Refused {{authorization}} (engine key {SECRET}) at {INTERNAL_URL}: {TRACE}"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    return Reply(status, body, headers={"retry-after": retry_after} if retry_after else {})


HALF_CHUNK = b'data: {"id":"chatcmpl-static-1","object":"chat.completion.chunk","choices":[{"ind\n\n'
ERROR_FRAME = lf_frame(
    json.dumps({"error": {"message": TRACE, "type": "server_error", "param": None, "code": SECRET}}).encode()
)
WORDS_FRAME = lf_frame(json.dumps({"error": {"message": f"GPU 3 is lost at {INTERNAL_URL} {CREDENTIAL}"}}).encode())
LATE_CHUNK = lf_frame(
    b'{"id":"chatcmpl-static-1","object":"chat.completion.chunk","created":1790000000,"model":"late",'
    b'"choices":[{"index":0,"delta":{"content":"AFTER THE END"},"finish_reason":null}]}'
)

ODDITIES: dict[str, Behaviour] = {
    "slow": Answer(before_s=0.5, gap_s=0.05),
    "bytewise": Answer(piece_bytes=1),
    "crlf": Answer(frame=crlf_frame),
    "cr": Answer(frame=cr_frame),
    "tight": Answer(frame=tight_frame),
    "dressed": Answer(frame=dressed_frame),
    "folded": Answer(frame=folded_frame, piece_bytes=7),
    "bom": Answer(prefix=b"\xef\xbb\xbf"),
    "no-done": Answer(ending="end"),
    "double-done": Answer(trailing=lf_frame(b"[DONE]")),
    "after-done": Answer(trailing=LATE_CHUNK + lf_frame(b"[DONE]")),
    "gzip": Answer(compressed=True),
    "new-finish": Answer(finish="eos_from_the_future"),
}
USAGES: dict[str, Behaviour] = {
    "usage-none": Answer(usage=ABSENT),
    "usage-null": Answer(usage={"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}),
    "usage-zero": Answer(usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
    "usage-negative": Answer(usage={"prompt_tokens": -5, "completion_tokens": -311, "total_tokens": -316}),
    "usage-huge": Answer(usage={"prompt_tokens": 10**18, "completion_tokens": 10**18, "total_tokens": 2 * 10**18}),
    "usage-text": Answer(usage={"prompt_tokens": "many", "completion_tokens": [], "total_tokens": {}}),
}
FAULTS: dict[str, Behaviour] = {
    "400": problem(400, "invalid_request_error", "bad_temperature"),
    "401": problem(401, "invalid_request_error", "invalid_api_key"),
    "403": problem(403, "insufficient_permissions", "forbidden"),
    "404": problem(404, "invalid_request_error", "model_not_found"),
    "422": problem(422, "invalid_request_error", None),
    "429": problem(429, "rate_limit_error", "rate_limit_exceeded", retry_after="7"),
    "500": problem(500, "server_error", None),
    "503": problem(503, "server_error", "overloaded"),
    "overflow": Reply(
        400,
        b'{"error":{"message":"The input token count (9000) exceeds the maximum of tokens: '
        b'maximum context length 8192"}}',
    ),
    "words": Reply(500, f'{{"error":{{"message":"GPU 3 is lost at {INTERNAL_URL}"}}}}'.encode()),
    "words-frame": Answer(stop_after=4, gap_s=0.05, inserted=WORDS_FRAME, ending="end"),
    "trace": Reply(500, f"{TRACE}{{authorization}}".encode(), "text/plain"),
    "html": Reply(200, f"<html><body>Welcome to {INTERNAL_URL} {SECRET}</body></html>".encode(), "text/html"),
    "half-json": Reply(200, f'{{"id":"chatcmpl-1","internal":"{INTERNAL_URL}","choices":[{{"ind'.encode()),
    "scalar": Reply(200, b'"fine"'),
    "empty": Reply(200, b""),
    "error-200": Reply(200, json.dumps({"error": {"message": TRACE, "code": SECRET}}).encode()),
    "flood": flood,
    "bomb": bomb,
    "endless-line": endless_line,
    "500-stalled": stalled_error,
    "silent": Answer(before_s=3600),
    "stall": Answer(stop_after=4, gap_s=0.05, ending="stall"),
    "cut": Answer(stop_after=4, gap_s=0.05, ending="cut"),
    "unfinished": Answer(stop_after=4, gap_s=0.05, ending="end"),
    "bad-chunk": Answer(stop_after=4, gap_s=0.05, inserted=HALF_CHUNK),
    "error-frame": Answer(stop_after=4, gap_s=0.05, inserted=ERROR_FRAME, ending="end"),
}


class FakeUpstream:
    """Closes: itself, as a context manager. `url` is the API base, `requests` all requests so far."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self._scripts: dict[str, Behaviour] = {}
        self._next: list[Behaviour] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        # asyncio does this only for sockets made with IPPROTO_TCP; without it each small write waits 40 ms
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            proxy_headers=False,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            server_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="fake-upstream", daemon=True)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > deadline:
                raise TimeoutError("the fake upstream did not start")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self._socket.close()

    @contextmanager
    def script(self, model: str, behaviour: Behaviour) -> Iterator[None]:
        """Inside the block, requests for this (upstream) model are answered so."""
        self._scripts[model] = behaviour
        try:
            yield
        finally:
            del self._scripts[model]

    def script_next(self, *behaviours: Behaviour) -> None:
        """The next requests that carry a model, whichever, are answered so, one each."""
        self._next.extend(behaviours)

    def of(self, model: str) -> list[Recorded]:
        return [recorded for recorded in list(self.requests) if recorded.model == model]

    def last(self, model: str | None = None) -> Recorded:
        requests = self.requests if model is None else self.of(model)
        if not requests:
            raise LookupError(f"the upstream has no request for {model}")
        return requests[-1]

    def _behaviour(self, model: str) -> Behaviour:
        if self._next:
            return self._next.pop(0)
        name = model.removeprefix("up-")
        for table in (self._scripts, ODDITIES, USAGES, FAULTS):
            if behaviour := table.get(model) or table.get(name):
                return behaviour
        return Answer()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        recorded = Recorded(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            body=bytes(body),
        )
        self.requests.append(recorded)
        answering = asyncio.create_task(self._answer(Exchange(recorded, send)))
        leaving = asyncio.create_task(self._client_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not recorded.finished:
                recorded.disconnected = True
        finally:
            for task in (answering, leaving):
                task.cancel()
            results = await asyncio.gather(answering, leaving, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    @staticmethod
    async def _client_left(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _answer(self, exchange: Exchange) -> None:
        recorded = exchange.recorded
        match recorded.method, recorded.path:
            case "GET", "/v1/models":
                rows = [{"id": "up-chat", "object": "model", "created": 1_790_000_000, "owned_by": "fake"}]
                await exchange.reply(json.dumps({"object": "list", "data": rows}).encode())
            case "POST", "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings":
                await self._behaviour(recorded.model)(exchange)
            case _:
                await exchange.reply(b'{"detail":"Not Found"}', status=404)
