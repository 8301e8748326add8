"""A probe: one call to one deployment, its row, and what its caller learns."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.pipeline.probe import (
    CONCURRENT,
    MAX_ANSWER_BYTES,
    MAX_TEXT_CHARS,
    TIMEOUT_S,
    ProbeMode,
    ProbeOrder,
    Prober,
    ProbeResult,
    find_mode,
    probe,
    probe_principal,
    read_text,
)
from gateway.pipeline.responses.ports import ResponseServices
from gateway.protocol.call import Finish, Operation
from gateway.protocol.errors import BadRequest, GatewayFault, RateLimited
from gateway.protocol.provider import Target
from gateway.routing.breaker import Ejection
from gateway.routing.error_class import ErrorClass
from tests.fakes.conversations import PlainSeal
from tests.fakes.memory import (
    CREDENTIAL,
    EPOCH,
    FOREVER,
    JSON_ANSWER,
    MemoryLedger,
    Script,
    ScriptedClient,
    commit,
    play,
    routing,
    services,
    target,
)

ANSWERS: dict[ProbeMode, Any] = {
    ProbeMode.CHAT: {"choices": [{"index": 0, "message": {"role": "assistant", "content": "OK"}}]},
    ProbeMode.COMPLETION: {"choices": [{"index": 0, "text": "OK"}]},
    ProbeMode.EMBEDDING: {"object": "list", "data": [{"index": 0, "embedding": [0.5, 0.25]}]},
}
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def answered(mode: ProbeMode = ProbeMode.CHAT) -> Script:
    return Script([orjson.dumps({"model": "real", **ANSWERS[mode], "usage": USAGE})], headers=JSON_ANSWER)


def run(
    *answers: Script | BaseException,
    mode: ProbeMode = ProbeMode.CHAT,
    deployment: Target | None = None,
    **changes: Any,
) -> tuple[ProbeResult, MemoryLedger, ScriptedClient]:
    client, ledger = ScriptedClient(answers, max_bytes=2 * MAX_ANSWER_BYTES), MemoryLedger()
    order = ProbeOrder(deployment or target(), probe_principal("home", user_id="ada"), mode)

    async def story() -> ProbeResult:
        nothing: Any = None
        stores = ResponseServices(nothing, nothing, commit, lambda _: PlainSeal(), retention_days=30)
        return await probe(order, services(client, ledger, **changes), stores)

    return play(story()), ledger, client


@pytest.mark.parametrize(
    ("mode", "text", "path"),
    [
        (ProbeMode.CHAT, "OK", "/chat/completions"),
        (ProbeMode.COMPLETION, "OK", "/completions"),
        (ProbeMode.EMBEDDING, "a vector of 2 numbers", "/embeddings"),
    ],
)
def test_a_probe_is_one_small_call_with_a_row(mode: ProbeMode, text: str, path: str) -> None:
    result, ledger, client = run(answered(mode), mode=mode)
    assert (result.text, result.fault, result.served_model) == (text, None, "real")
    [request] = client.requests
    assert request.url.endswith(path)
    assert orjson.loads(request.body).get("max_tokens") in {None, 64}
    [row] = ledger.closed
    assert (row.principal.source, row.principal.user_id, row.finish) == ("probe", "ada", Finish.COMPLETE)
    assert [attempt.usage for attempt in result.attempts] == [row.usage]
    assert row.usage.total_input == 7


def test_a_deployment_of_the_mode_responses_is_asked_as_a_response() -> None:
    upstream = target(api_base="https://api.openai.com/v1")
    flags = replace(upstream.capabilities, responses=True)
    body = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "real",
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "OK", "annotations": []}],
            }
        ],
        "usage": {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9},
    }
    result, ledger, client = run(
        Script([orjson.dumps(body)], headers=JSON_ANSWER),
        mode=ProbeMode.RESPONSES,
        deployment=replace(upstream, capabilities=flags),
    )
    assert (result.text, result.fault) == ("OK", None)
    assert client.requests[0].url.endswith("/responses")
    assert orjson.loads(client.requests[0].body)["store"] is False
    assert ledger.closed[0].usage.total_output == 2


def test_an_upstreams_error_is_told_with_its_own_status_and_words_but_no_secret() -> None:
    text = {"error": {"message": f"Incorrect API key: {CREDENTIAL} at http://10.0.0.1/x", "code": "invalid_api_key"}}
    result, ledger, _ = run(Script([orjson.dumps(text)], status=401, headers=JSON_ANSWER))
    assert result.fault is not None
    assert (result.fault.code, result.fault.upstream_status) == ("upstream_auth_failed", 401)
    assert "Incorrect API key" in result.fault.upstream_text
    assert CREDENTIAL not in result.fault.upstream_text
    assert "10.0.0.1" not in result.fault.upstream_text
    assert len(ledger.closed) == 1
    assert ledger.closed[0].usage.total_input == 0


def test_a_failed_probe_is_not_tried_again() -> None:
    result, ledger, client = run(Script(status=503, headers=JSON_ANSWER))
    assert result.fault is not None
    assert len(client.requests) == len(ledger.closed) == 1


def test_a_silent_upstream_ends_the_probe_in_time() -> None:
    result, ledger, _ = run(Script(wait_s=FOREVER))
    assert result.fault is not None
    assert result.fault.code == "upstream_timeout"
    assert result.latency_s == pytest.approx(TIMEOUT_S, abs=1)
    assert ledger.closed[0].finish is Finish.TIMEOUT


def test_an_endless_answer_ends_the_probe_at_its_bound() -> None:
    pieces = [b'{"choices":[{"message":{"content":"'] + [b"x" * 65536] * 100
    result, ledger, client = run(Script(pieces, headers=JSON_ANSWER))
    assert result.fault is not None
    assert "too large" in result.fault.message
    assert client.max_bytes == MAX_ANSWER_BYTES
    assert len(ledger.closed) == 1


def test_a_deployment_that_is_cooling_down_is_asked_and_its_breaker_not_told() -> None:
    own = routing()

    def clock() -> float:
        return EPOCH

    own.breaker._now = clock  # the story's clock stands still before its loop runs
    ejection = Ejection(ErrorClass.SERVER, EPOCH + 60, 1)
    own.breaker.adopt("first", ejection)
    result, _, _ = run(answered(), routing=own)
    assert result.fault is None
    assert own.breaker.ejections == {"first": ejection}


def test_the_limits_of_the_deployment_hold_for_a_probe() -> None:
    with pytest.raises(RateLimited):
        run(answered(), deployment=target(tpm=1))


def test_the_mode_is_the_deployments_and_must_be_one_that_can_be_asked() -> None:
    assert find_mode(target()) is ProbeMode.CHAT
    assert find_mode(target(mode="embedding")) is ProbeMode.EMBEDDING
    assert find_mode(target(mode="embedding"), "chat") is ProbeMode.CHAT
    with pytest.raises(BadRequest) as refusal:
        find_mode(target(mode="image_generation"))
    assert (refusal.value.param, refusal.value.code) == ("mode", "not_offered")


@pytest.mark.parametrize("mode", list(ProbeMode))
@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"choices":[null],"data":7,"output":[{"content":[3]}]}', b"1"])
def test_an_answer_of_another_shape_has_no_text(mode: ProbeMode, body: bytes) -> None:
    assert read_text(mode, body) == ""


def test_a_long_text_is_cut() -> None:
    body = orjson.dumps({"choices": [{"message": {"content": "x" * (MAX_TEXT_CHARS + 1)}}]})
    assert len(read_text(ProbeMode.CHAT, body)) == MAX_TEXT_CHARS


class EndingSemaphore(threading.Semaphore):
    """The event loop ends while a thread is at it."""

    prober: Prober

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        self.prober.disconnect()
        return super().acquire(blocking, timeout)


def test_a_process_that_answers_no_calls_makes_no_probe() -> None:
    with pytest.raises(GatewayFault):
        Prober().call(ProbeOrder(target(), probe_principal("home"), ProbeMode.CHAT))


def test_a_process_that_ends_meanwhile_makes_no_probe() -> None:
    async def story() -> None:
        nothing: Any = None
        stores = ResponseServices(nothing, nothing, commit, lambda _: PlainSeal(), retention_days=30)
        free = EndingSemaphore()
        free.prober = prober = Prober(_free=free)
        prober.connect(services(ScriptedClient([answered()]), MemoryLedger()), stores)
        order = ProbeOrder(target(), probe_principal("home"), ProbeMode.CHAT)
        assert (await asyncio.to_thread(prober.call, order)).text == "OK"
        with pytest.raises(GatewayFault):
            prober.call(order)

    asyncio.run(story())


def test_threads_ask_beside_the_event_loop_and_no_more_than_a_few_at_once() -> None:
    asked, release = asyncio.Semaphore(0), asyncio.Event()

    class SlowClient(ScriptedClient):
        async def send(self, request: Any, **options: Any) -> Any:
            asked.release()
            await release.wait()
            return await ScriptedClient.send(self, request, **options)

    async def story() -> None:
        nothing: Any = None
        stores = ResponseServices(nothing, nothing, commit, lambda _: PlainSeal(), retention_days=30)
        prober = Prober()
        prober.connect(services(SlowClient([answered()] * CONCURRENT), MemoryLedger()), stores)
        order = ProbeOrder(target(), probe_principal("home"), ProbeMode.CHAT)
        calls = [asyncio.create_task(asyncio.to_thread(prober.call, order)) for _ in range(CONCURRENT)]
        for _ in calls:
            await asked.acquire()
        with pytest.raises(RateLimited):
            await asyncio.to_thread(prober.call, order)
        release.set()
        assert [result.text for result in await asyncio.gather(*calls)] == ["OK"] * CONCURRENT
        prober.disconnect()
        with pytest.raises(GatewayFault):
            prober.call(order)

    asyncio.run(story())


def test_every_operation_has_a_mode() -> None:
    assert {mode.value for mode in ProbeMode} >= {operation.value for operation in Operation}
