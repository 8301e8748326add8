"""Streams that break after the client had a part of them: an error in its dialect, or the rest from elsewhere."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT, PRICES, Backend
from tests.e2e.gateway import Gateway, decimal_cost, events, eventually
from tests.fakes.upstream import ABSENT, CREDENTIAL, LEAKS, Exchange, chat_chunks, lf_frame
from tests.fakes.wire_server import FakeWires
from tests.fakes.wires import WIRES, ScriptedAnswer, echo_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ASK: list[Any] = [{"role": "user", "content": "hi"}]
WHOLE = echo_of("hi")
USED = {"prompt_tokens": 30, "completion_tokens": 6, "total_tokens": 36}
#: {wire: how its streams break}
BREAKS = {"openai": ("cut", "end", "error"), "anthropic": ("cut", "end", "error"), "ollama": ("cut",)}
#: Deployments that go on: provider and model of each.
CONTINUING = {
    "claude": "anthropic/claude-sonnet-4-5",
    "llama": "ollama/llama3",
    "flagged": "openai_compatible/any",
    "vllm": "hosted_vllm/any",
}


class Continuing(FakeWires):
    """Goes on with a last message of the assistant, as such models do: with the rest of the whole answer."""

    async def _answer_in(self, exchange: Exchange, name: str, model: str, method: str) -> None:
        messages = exchange.json.get("messages") or [{}]
        if messages[-1].get("role") != "assistant" or "~" in model:
            await super()._answer_in(exchange, name, model, method)
            return
        content = messages[-1]["content"]
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        assert text == text.rstrip()
        assert WHOLE.startswith(text), "what no client has seen"
        rest = WHOLE[len(text) :]
        words = re.findall(r"\s*\S+", rest)
        if name in WIRES:
            await WIRES[name].answer(exchange, ScriptedAnswer(model, words, []), "", stream=True)
            return
        pieces: list[JsonObject] = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
        base = chat_chunks(exchange.json, "", ABSENT, "stop")[0] | {"id": "chatcmpl-other", "created": 7}
        await exchange.start(content_type="text/event-stream")
        for piece in pieces:
            chunk = {**base, "choices": [{"index": 0, "delta": piece, "finish_reason": None}]}
            await exchange.write(lf_frame(json.dumps(chunk).encode()))
        ended = {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await exchange.write(lf_frame(json.dumps(ended).encode()))
        await exchange.write(lf_frame(json.dumps({**base, "choices": [], "usage": USED}).encode()))
        await exchange.write(lf_frame(b"[DONE]"))
        await exchange.end()


@pytest.fixture(scope="module")
def wires() -> Iterator[Continuing]:
    with Continuing() as running:
        yield running


def row(group: str, order: int, model: str, root: str, **info: Any) -> JsonObject:
    base = root if model.startswith(("anthropic/", "ollama/")) else f"{root}/v1"
    params = {"model": model, "api_base": base, "api_key": CREDENTIAL, "order": order, **PRICES}
    return {"model_name": group, "litellm_params": params, "model_info": {"id": f"{group}-{order}", **info}}


@pytest.fixture(scope="module")
def gateway(wires: Continuing, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    rows = []
    for wire, twists in BREAKS.items():
        for twist in twists:
            broken = f"{wire}/{'claude' if wire == 'anthropic' else 'model'}~{twist}"
            rows.append(row(f"{wire}-{twist}", 0, broken, wires.root))
            for name, model in CONTINUING.items():
                group = f"{wire}-{twist}-{name}"
                flags = {"supports_assistant_prefill": True} if name in {"flagged", "vllm"} else {}
                rows += [row(group, 1, broken, wires.root), row(group, 2, model, wires.root, **flags)]
    for group, second in (("refused", "anthropic/claude-3-haiku~400"), ("incapable", "openai/model")):
        rows += [row(group, 1, "openai/model~cut", wires.root), row(group, 2, second, wires.root)]
    settings = {
        "recover": {"*": "continue", **{f"{wire}-{twist}": "error" for wire in BREAKS for twist in BREAKS[wire]}},
        "disable_cooldowns": True,
    }
    home = tmp_path_factory.mktemp(f"broken-{backend.name}")
    config = {"model_list": rows, "router_settings": settings}
    running = Gateway(home, config=config, env={**ENVIRONMENT, **backend.environment()})
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


def find_leaks(text: str) -> list[str]:
    return [leak for leak in (*LEAKS, "127.0.0.1") if leak in text]


def sdk_message(gateway: Gateway, key: str, group: str) -> anthropic.types.Message:
    """The message that Anthropic's SDK adds up of a stream."""
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0, timeout=30) as client,
        client.messages.stream(model=group, max_tokens=99, messages=ASK) as stream,
    ):
        return stream.get_final_message()


BROKEN = [f"{wire}-{twist}" for wire, twists in BREAKS.items() for twist in twists]
#: Each break, and each deployment that goes on after a cut.
CONTINUED = [
    f"{group}-{name}"
    for group in BROKEN
    for name in CONTINUING
    if name == "claude" or group in {"openai-cut", "anthropic-cut"}
]

# Without recovery


@pytest.mark.parametrize("group", BROKEN)
def test_a_message_ends_with_an_error_event(gateway: Gateway, group: str) -> None:
    key = gateway.issue_key()
    body = {"model": group, "max_tokens": 99, "messages": ASK, "stream": True}
    answer = gateway.call(key, "/v1/messages", **body)
    assert answer.status_code == 200
    *before, last = [json.loads(event) for event in events(answer.content)]
    assert answer.content.rsplit(b"event: ", 1)[1].startswith(b"error\n")
    assert (last["type"], set(last["error"])) == ("error", {"type", "message"})
    assert "message_stop" not in [event["type"] for event in before]
    assert not find_leaks(answer.text)
    text = "".join(event["delta"]["text"] for event in before if event["type"] == "content_block_delta")
    assert text
    assert WHOLE.startswith(text)
    with pytest.raises(anthropic.APIError):
        sdk_message(gateway, key, group)
    for spent in gateway.wait_priced(2, api_key=key):
        assert (spent["status"], spent["completion_tokens"] > 0, decimal_cost(spent) > 0) == ("failure", True, True)


@pytest.mark.parametrize("group", ["openai-cut", "openai-error"])
def test_a_completion_ends_with_an_error_and_no_done(gateway: Gateway, group: str) -> None:
    key = gateway.issue_key()
    answer = gateway.call(key, "/v1/completions", model=group, prompt="hi", stream=True)
    assert answer.status_code == 200
    *before, last = [json.loads(event) for event in events(answer.content)]
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert before
    assert not find_leaks(answer.text)
    with pytest.raises(openai.APIError):
        list(gateway.openai(key).completions.create(model=group, prompt="hi", stream=True))
    for spent in gateway.wait_priced(2, api_key=key):
        assert (spent["status"], decimal_cost(spent) > 0) == ("failure", True)


# With it


def assert_both_are_paid(gateway: Gateway, key: str, prompt_tokens: int, completion_tokens: int) -> None:
    rows = gateway.wait_priced(2, api_key=key)
    assert [spent["status"] for spent in rows] == ["failure", "success"]
    assert sum(spent["prompt_tokens"] for spent in rows) == prompt_tokens
    assert sum(spent["completion_tokens"] for spent in rows) == completion_tokens
    costs = [decimal_cost(spent) for spent in rows]
    assert min(costs) > 0

    def is_settled() -> bool:
        spent = gateway.admin.get("/key/info", params={"key": key}).json()["info"]["spend"]
        return Decimal(str(spent)) == sum(costs)

    eventually(is_settled, within_s=20, what="the key's spend is the sum of both rows")


@pytest.mark.parametrize("group", CONTINUED)
def test_a_chat_goes_on(gateway: Gateway, group: str) -> None:
    key = gateway.issue_key(max_budget=1)
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(gateway.openai(key).chat.completions.create(model=group, messages=ASK, **options))
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == WHOLE
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert len([delta for delta in deltas if delta.role]) == 1
    usage = chunks[-1].usage
    assert usage is not None
    assert_both_are_paid(gateway, key, usage.prompt_tokens, usage.completion_tokens)


@pytest.mark.parametrize("group", CONTINUED)
def test_a_message_goes_on(gateway: Gateway, group: str) -> None:
    key = gateway.issue_key(max_budget=1)
    message = sdk_message(gateway, key, group)
    [block] = message.content
    assert block.type == "text"
    assert block.text == WHOLE
    assert message.stop_reason == "end_turn"
    usage = message.usage
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    assert_both_are_paid(gateway, key, usage.input_tokens + read + written, usage.output_tokens)


def test_the_stream_says_where_it_went_on(gateway: Gateway, wires: Continuing) -> None:
    answer = gateway.call(gateway.issue_key(), model="openai-cut-vllm", messages=ASK, stream=True)
    assert answer.text.count(": tollgate continued on openai-cut-vllm-2\n\n") == 1
    assert events(answer.content)[-1] == "[DONE]"
    assert not find_leaks(answer.text)
    sent = wires.last_request("any").json
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize("group", ["refused", "incapable"])
def test_where_nothing_can_go_on_the_first_error_is_told(gateway: Gateway, group: str) -> None:
    key = gateway.issue_key()
    answer = gateway.call(key, model=group, messages=ASK, stream=True)
    assert answer.status_code == 200
    last = json.loads(events(answer.content)[-1])
    assert last["error"]["code"] == "upstream_incomplete_stream"
    assert "tollgate continued" not in answer.text
    assert not find_leaks(answer.text)
    rows = gateway.wait_priced(2 if group == "refused" else 1, api_key=key)
    assert {spent["status"] for spent in rows} == {"failure"}
    assert decimal_cost(rows[0]) > 0


def test_a_response_is_not_continued_elsewhere(gateway: Gateway) -> None:
    key = gateway.issue_key()
    answer = gateway.call(key, "/v1/responses", model="openai-cut-claude", input="hi", stream=True)
    last = json.loads(events(answer.content)[-2])
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert WHOLE.startswith(last["response"]["output"][0]["content"][0]["text"])
    stored = gateway.http.get(f"/v1/responses/{last['response']['id']}", headers={"authorization": f"Bearer {key}"})
    assert stored.json() == last["response"]
    assert len(gateway.wait_priced(1, api_key=key)) == 1


def test_the_ledger_agrees_after_all_that(gateway: Gateway) -> None:
    def is_sound() -> bool:
        return gateway.manage("verify_ledger").returncode == 0

    eventually(is_sound, within_s=20, what="verify_ledger finds nothing")
