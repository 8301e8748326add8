"""Every provider's usage blocks, whole and streamed, cost what a plain sum of decimals says, to the picodollar.

tests/prices/build_golden.py makes the blocks without the gateway's code.
"""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from billing.call_context import make_context, read_raw_usage
from billing.pricing import COUNTS, PriceLines, cost, count_cost
from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.capabilities import default_capabilities
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.protocol.usage import Usage
from gateway.providers.registry import PROVIDERS
from tests.fakes import bedrock
from tests.fakes.memory import decode
from tests.prices.build_golden import FILE, blocks

GOLDEN: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
CONTEXT = AttemptContext("attempt-1", 1_800_000_000.0)
DAY = datetime(2026, 11, 21, tzinfo=UTC)
#: Providers whose answers pass through other readers, each in its own wire format.
CORE = {"openai", "azure", "azure_ai", "anthropic", "bedrock", "gemini", "vertex_ai", "ollama"}
SELF_HOSTED = {"ollama", "xinference", "mindie", "lightllm"}


def sse(*events: Any) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (one.get("type", "x").encode(), json.dumps(one).encode()) for one in events
    )


def openai_answer(usage: Any, tier: str, *, stream: bool) -> bytes:
    head = {"id": "up-1", "model": "m", "created": 1, **({"service_tier": tier} if tier else {})}
    if not stream:
        message = {"role": "assistant", "content": "hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    chunks: list[Any] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    ]
    texts = [json.dumps({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
    return "".join(f"data: {text}\n\n" for text in [*texts, "[DONE]"]).encode()


def anthropic_answer(usage: Any, tier: str, *, stream: bool) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    if not stream:
        content = [{"type": "text", "text": "hi"}]
        return json.dumps({**message, "content": content, "stop_reason": "end_turn", "usage": usage}).encode()
    return sse(
        {"type": "message_start", "message": {**message, "usage": {**usage, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    )


def gemini_answer(usage: Any, tier: str, *, stream: bool) -> bytes:
    content = {"role": "model", "parts": [{"text": "hi"}]}
    answer = {"candidates": [{"index": 0, "content": content, "finishReason": "STOP"}], "usageMetadata": usage}
    if not stream:
        return json.dumps(answer).encode()
    early = {"promptTokenCount": usage["promptTokenCount"]}
    first = {"candidates": [{"index": 0, "content": content}], "usageMetadata": early}
    return b"".join(b"data: %b\r\n\r\n" % json.dumps(one).encode() for one in (first, answer))


def bedrock_answer(usage: Any, tier: str, *, stream: bool) -> bytes:
    end = {"usage": usage, **({"serviceTier": {"type": tier}} if tier else {})}
    if not stream:
        message = {"role": "assistant", "content": [{"text": "hi"}]}
        return json.dumps({"output": {"message": message}, "stopReason": "end_turn", **end}).encode()
    return bedrock.stream(bedrock.START, bedrock.delta(text="hi"), bedrock.stop(), ("metadata", {**end, "metrics": {}}))


def ollama_answer(usage: Any, tier: str, *, stream: bool) -> bytes:
    message = {"role": "assistant", "content": "hi"}
    line = {"model": "m", "created_at": "2026-11-21T00:00:00Z", "message": message, "done": True, "done_reason": "stop"}
    if not stream:
        return json.dumps({**line, **usage}).encode()
    lines = [{**line, "done": False}, {**line, "message": {**message, "content": ""}, **usage}]
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


ANSWERS = {
    "openai": openai_answer,
    "anthropic": anthropic_answer,
    "gemini": gemini_answer,
    "bedrock": bedrock_answer,
    "ollama": ollama_answer,
}


def read(block: dict[str, Any]) -> AnswerMetadata:
    """The facts that the provider's own relay reads from an answer with this usage."""
    provider = PROVIDERS[block["provider"]]
    target = Target(
        deployment_id="d1",
        model_group="public",
        organization_id=None,
        provider=provider,
        upstream_model=block["model"],
        api_base="http://up.test" if block["wire"] == "ollama" else "http://up.test/v1",
        credential={"api_key": Secret("sk-secret-of-the-upstream")},
        capabilities=default_capabilities(block["model"]),
    )
    body = {"model": "public", "max_tokens": 100, "messages": [{"role": "user", "content": "x"}]}
    call = decode({**body, "stream": True} if block["stream"] else body)
    raw = ANSWERS[block["wire"]](block["usage"], block["tier"], stream=block["stream"])
    if not block["stream"]:
        return provider.relay_body(call, target, CONTEXT, raw, {"content-type": "application/json"})[1]
    relay = provider.relay(call, target, CONTEXT)
    for first in range(0, len(raw), 97):
        relay.feed(raw[first : first + 97])
    relay.finish()
    return relay.metadata


def check(block: dict[str, Any]) -> None:
    metadata = read(block)
    usage = metadata.usage or Usage()
    counts = [getattr(usage, name) for name in COUNTS]
    assert {name: count for name, count in zip(COUNTS, counts, strict=True) if count} == block["counts"]
    assert not usage.is_inconsistent
    price = PriceLines.read(block["lines"])
    start = DAY.replace(hour=block["minute"] // 60, minute=block["minute"] % 60)
    context = make_context(metadata.service_tier, start, start, metadata.raw_usage)
    assert cost(usage, price, context) == block["pusd"], "the cost that a budget is charged and the caller is told"
    text = json.dumps(metadata.raw_usage)
    row_context = make_context(metadata.service_tier, start, start, read_raw_usage(price, text))
    assert count_cost(counts, price, row_context) == block["pusd"], "the cost of the row"


@pytest.mark.parametrize(
    ("provider", "wire", "stream"),
    sorted({(block["provider"], block["wire"], block["stream"]) for block in GOLDEN}),
)
def test_each_usage_block_costs_what_a_sum_of_decimals_says(provider: str, wire: str, stream: bool) -> None:
    apt = [block for block in GOLDEN if (block["provider"], block["wire"], block["stream"]) == (provider, wire, stream)]
    for block in apt:
        try:
            check(block)
        except AssertionError as error:
            raise AssertionError(f"{json.dumps(block)}: {error}") from error


def test_the_blocks_are_those_that_their_generator_makes() -> None:
    assert list(blocks()) == GOLDEN


def test_there_are_enough_blocks_of_every_provider_whole_and_streamed() -> None:
    kinds = Counter((block["provider"], block["stream"]) for block in GOLDEN)
    assert len(GOLDEN) >= 300
    for provider in CORE | SELF_HOSTED:
        assert min(kinds[provider, stream] for stream in (False, True)) >= 4


@pytest.mark.parametrize(
    ("wire", "counts", "lines", "usd"),
    [
        # trust.md's measured figures: a threshold of 200,000 and of 272,000, and one token above it
        ("gemini", {"input_tokens": 200_000}, {"input": "0.00000125", "input>200000": "0.0000025"}, "0.25"),
        ("gemini", {"input_tokens": 200_001}, {"input": "0.00000125", "input>200000": "0.0000025"}, "0.5000025"),
        ("openai", {"input_tokens": 272_000}, {"input": "0.000005", "input>272000": "0.00001"}, "1.36"),
        ("openai", {"input_tokens": 272_001}, {"input": "0.000005", "input>272000": "0.00001"}, "2.72001"),
        (
            "anthropic",
            {"cache_write_5m_tokens": 100_000},
            {"cache_write_5m": "0.00000375"},
            "0.375",
        ),
        ("anthropic", {"cache_write_1h_tokens": 100_000}, {"cache_write_1h": "0.000006"}, "0.6"),
        (
            "bedrock",
            {"cache_write_5m_tokens": 100_000},
            {"cache_write_5m": "0.000004125"},
            "0.4125",
        ),
        # 2.5 and 3.5 picodollars are rounded to the even one; checked by hand
        ("odd", {"input_tokens": 5}, {"input": "0.0000000000005"}, "0.000000000002"),
        ("odd", {"input_tokens": 7}, {"input": "0.0000000000005"}, "0.000000000004"),
    ],
)
def test_costs_that_were_checked_by_hand(wire: str, counts: dict[str, int], lines: dict[str, str], usd: str) -> None:
    whole, _, part = usd.partition(".")
    assert cost(Usage(**counts), PriceLines.read(lines)) == int(whole + part.ljust(12, "0"))
