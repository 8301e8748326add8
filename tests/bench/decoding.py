"""CPU time of one streamed chunk: a provider's decoder and the encoding to OpenAI's chat chunks, without a network.

Run by run.py in a process of its own, as `python -m tests.bench.decoding ROUNDS [CORE]`; prints JSON:
[{"name", "chunks", "rounds_us": [µs per chunk of the upstream, one figure a round]}].
"""

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.protocol.sse import EventSplitter, event_data
from gateway.providers.registry import PROVIDERS
from tests.fakes.memory import DONE, chat, chunk, event, target
from tests.fakes.wires import WIRES, ScriptedAnswer, pieces

TEXT_CHUNKS, CALL_CHUNKS = 2700, 300
WORDS = ("The ", "gateway ", "reads ", "what ", "the ", "model ", "says, ", "naïvely ", "或者 ", "so.\n")
CALL = ("write_file", {"path": "notes.md", "text": "word " * (CALL_CHUNKS * 7 // 5)})
ANSWER = ScriptedAnswer("m", [WORDS[index % len(WORDS)] for index in range(TEXT_CHUNKS)], [CALL])
MOMENT = AttemptContext("attempt-1", 1_800_000_000.0)
#: The lengths of reads in frames, from the draw below: mostly one frame, at times several, or one cut in two.
JOINED_SHARE, CUT_SHARE = 0.2, 0.1
SEED = 7


def openai_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    """The frames of OpenAI and of the servers that speak its dialect."""
    yield event(chunk("", choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]))
    for word in what.words:
        yield event(chunk(word))
    for name, arguments in what.calls:
        start: JsonObject = {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        yield event(_calls(start))
        for piece in pieces(json.dumps(arguments)):
            yield event(_calls({"index": 0, "function": {"arguments": piece}}))
    yield event(chunk(finish="tool_calls"))
    yield event(chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3000, "total_tokens": 3007}))
    yield DONE


def _calls(call: JsonObject) -> JsonObject:
    return chunk(choices=[{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}])


def tagged_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    """The same call as text, for a parser to find."""
    name, arguments = what.calls[0]
    call = f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
    for word in (*what.words, *pieces(call)):
        yield event(chunk(word))
    yield event(chunk(finish="stop"))
    yield DONE


@dataclass(frozen=True, slots=True)
class Case:
    """A provider as it is deployed, and the stream that it sends."""

    name: str
    model: str  # provider/upstream model
    frames: Callable[[ScriptedAnswer], Iterator[bytes]] = openai_frames
    flags: JsonObject = field(default_factory=dict)

    def target(self) -> Target:
        provider, _, model = self.model.partition("/")
        return target(
            provider=PROVIDERS[provider],
            upstream_model=model,
            api_base=PROVIDERS[provider].default_api_base or "https://upstream.test",
            credential={"api_key": Secret("x")},
            capabilities=Capabilities(**self.flags),
        )


PARSED: JsonObject = {"tool_call_parser": "qwen25"}
CASES = (
    Case("openai (bytes pass)", "openai/gpt-4o"),
    Case("deepseek (bytes pass)", "deepseek/deepseek-chat"),
    Case("hosted_vllm", "hosted_vllm/qwen3"),
    Case("azure", "azure/gpt-4o"),
    Case("azure_ai", "azure_ai/mistral-large"),
    Case("azure_ai, Claude", "azure_ai/claude-sonnet-4-5", WIRES["anthropic"].frames),
    Case("anthropic", "anthropic/claude-sonnet-4-5", WIRES["anthropic"].frames),
    Case("bedrock", "bedrock/amazon.nova-pro-v1:0", WIRES["bedrock"].frames),
    Case("vertex_ai", "vertex_ai/gemini-2.5-flash", WIRES["gemini"].frames),
    Case("gemini", "gemini/gemini-2.5-flash", WIRES["gemini"].frames),
    Case("ollama", "ollama/qwen3", WIRES["ollama"].frames),
    Case("xinference", "xinference/qwen3"),
    Case("mindie", "mindie/qwen3"),
    Case("lightllm", "lightllm/qwen3"),
    Case("lightllm, qwen25", "lightllm/qwen3", tagged_frames, PARSED),
    Case("lightllm, qwen25 and thoughts", "lightllm/qwen3", tagged_frames, PARSED | {"think_tags": True}),
)


def reads_of(frames: list[bytes]) -> list[bytes]:
    """The reads of a connection: mostly a frame at a time, some together, some in two halves."""
    draw, reads, index = random.Random(SEED), [], 0
    while index < len(frames):
        luck = draw.random()
        if luck < JOINED_SHARE:
            count = draw.randint(2, 5)
            reads.append(b"".join(frames[index : index + count]))
        elif luck < JOINED_SHARE + CUT_SHARE:
            count, cut = 1, draw.randint(1, len(frames[index]) - 1)
            reads += [frames[index][:cut], frames[index][cut:]]
        else:
            count = 1
            reads.append(frames[index])
        index += count
    return reads


class Measured:
    """One case, made ready: only `run` is timed."""

    def __init__(self, case: Case) -> None:
        frames = list(case.frames(ANSWER))
        self.name, self.chunks = case.name, len(frames)
        self.rounds_us: list[float] = []
        self._target, self._reads = case.target(), reads_of(frames)
        self._call = chat(stream=True, usage=True, tools=[{"type": "function", "function": {"name": CALL[0]}}])

    def run(self) -> bytes:
        relay = self._target.provider.relay(self._call, self._target, MOMENT)
        gc.collect()
        written = []
        began = time.process_time_ns()
        written += [relay.feed(read) for read in self._reads]
        written.append(relay.finish())
        self.rounds_us.append((time.process_time_ns() - began) / 1000 / self.chunks)
        return b"".join(written)

    def check(self) -> None:
        """A decoder that loses something is not fast. This run is the warm-up, too."""
        splitter = EventSplitter()
        data = [event_data(one) for one in splitter.feed(self.run()) + splitter.finish()]
        deltas = [c["delta"] for one in data if one and one != b"[DONE]" for c in json.loads(one)["choices"]]
        text = "".join(delta.get("content") or "" for delta in deltas)
        calls = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
        arguments = "".join(call["arguments"] for call in calls)
        if text.strip() != "".join(ANSWER.words).strip() or json.loads(arguments) != CALL[1] or data[-1] != b"[DONE]":
            sys.exit(f"{self.name}: the answer is not the upstream's")
        self.rounds_us.clear()


def main(rounds: int, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    cases = [Measured(case) for case in CASES]
    for each in cases:
        each.check()
    for _ in range(rounds):
        for each in cases:
            each.run()
    print(json.dumps([{"name": c.name, "chunks": c.chunks, "rounds_us": c.rounds_us} for c in cases]))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
