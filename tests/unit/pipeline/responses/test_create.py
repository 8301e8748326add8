"""A create of /v1/responses on its way: where it goes, what is kept of it, and how its stream ends whatever happens."""

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.pipeline.ports import Attempt, Catalog
from gateway.pipeline.responses.close import TurnClose
from gateway.pipeline.responses.create import answer, interpret, open_turn
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.responses.turn import ResponseTurn
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.event_log import read_events
from gateway.protocol.errors import BadRequest, ClientFault, Fault, GatewayFault
from gateway.protocol.usage import UsageSource
from gateway.providers.registry import PROVIDERS
from gateway.upstream.http1 import ConnectionBroken
from tests.fakes import anthropic
from tests.fakes.conversations import PlainSeal
from tests.fakes.memory import (
    FOREVER,
    PRINCIPAL,
    WHOLE_STREAM,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    commit,
    play,
    services,
    target,
)
from tests.fakes.responses import MemoryResponses
from tests.fakes.responses_grammar import check

FIRST, SECOND = target("first"), target("second")
CATALOG = Catalog({(None, "public"): (FIRST, SECOND)})
TOO_LONG = Script(
    [b'{"error": {"message": "maximum context length is 9"}}'], status=400, headers={"content-type": "application/json"}
)
WHOLE = Script(WHOLE_STREAM)


class Gateway:
    def __init__(self, *answers: Script | BaseException) -> None:
        nothing: Any = None
        self.responses = MemoryResponses()
        self.ledger = MemoryLedger()
        self.client = ScriptedClient(answers)
        self.response_services = ResponseServices(
            self.responses, nothing, commit, lambda _: PlainSeal(), retention_days=30
        )

    async def create(
        self, *, catalog: Catalog = CATALOG, **fields: Any
    ) -> tuple[ResponseTurn, MemoryReply, Fault | None]:
        inbound = Inbound("request", {}, orjson.dumps({"model": "public", "input": "say hello", **fields}))
        exchange_services = services(self.client, self.ledger)
        turn = await open_turn(interpret(inbound), PRINCIPAL, exchange_services, self.response_services)
        self.close = TurnClose(turn, exchange_services.now, self.responses)
        reply = MemoryReply()
        try:
            await answer(turn, self.close, inbound, PRINCIPAL, catalog, exchange_services, reply)
        except Fault as fault:
            return turn, reply, fault
        return turn, reply, None


def test_only_a_create_that_stores_nothing_passes_a_quota_that_is_used_up() -> None:
    async def refuse(organization_id: str) -> None:
        raise ClientFault("full", status=403, code="storage_quota_exceeded", param="store")

    gateway = Gateway(WHOLE)
    gateway.response_services = replace(gateway.response_services, check_room=refuse)
    with pytest.raises(ClientFault, match="full"):
        play(gateway.create(stream=True))
    _, reply, _ = play(gateway.create(stream=True, store=False))
    assert b"response.completed" in reply.body


def test_a_response_is_kept_before_its_last_event_leaves() -> None:
    gateway = Gateway(WHOLE)
    turn, reply, _ = play(gateway.create(stream=True))
    stored = gateway.responses.rows[turn.response_id]
    events = read_events(reply.body)
    check(events)
    assert events[-1]["response"]["output"] == stored.response["output"]
    assert (stored.status, stored.spend_id) == ("completed", gateway.ledger.closed[0].id)


def test_what_is_not_to_be_stored_is_not_kept() -> None:
    gateway = Gateway(WHOLE)
    _, reply, _ = play(gateway.create(stream=True, store=False))
    assert read_events(reply.body)[-1]["type"] == "response.completed"
    assert gateway.responses.rows == {}


def test_a_stream_that_cannot_be_kept_ends_as_failed() -> None:
    gateway = Gateway(WHOLE)
    gateway.ledger.close_fails = GatewayFault("The gateway could not record the call.")
    _, reply, fault = play(gateway.create(stream=True))
    assert fault is not None
    events = read_events(reply.body + gateway.close.error_event(fault))
    check(events)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"


def test_what_is_too_long_loses_its_older_half_where_the_client_allows_it() -> None:
    gateway = Gateway(TOO_LONG, WHOLE)
    old = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"turn {n}"} for n in range(8)]

    async def story() -> Fault | None:
        first = Gateway(WHOLE)
        first.responses = gateway.responses
        first.response_services = gateway.response_services
        parent, _, _ = await first.create(stream=True, input=old)
        _, _, fault = await gateway.create(stream=True, truncation="auto", previous_response_id=parent.response_id)
        return fault

    assert play(story()) is None
    longer, shorter = (orjson.loads(request.body)["messages"] for request in gateway.client.requests)
    assert len(shorter) < len(longer)
    assert shorter[0]["role"] == "user"
    assert shorter == longer[-len(shorter) :]
    assert len({(row.request_id, row.number) for row in gateway.ledger.closed}) == 2


def step(number: int) -> list[dict[str, Any]]:
    call = {"type": "function_call", "call_id": f"call_{number}", "name": "f", "arguments": "{}"}
    return [call, {"type": "function_call_output", "call_id": f"call_{number}", "output": "7"}]


def test_a_history_that_the_client_keeps_is_cut_as_well_and_the_task_and_its_last_step_stay() -> None:
    gateway = Gateway(TOO_LONG, TOO_LONG, TOO_LONG)
    task = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "the task"}]
    turn, _, fault = play(gateway.create(stream=True, truncation="auto", input=[*task, *step(1), *step(2), *step(3)]))
    assert fault is not None  # nothing was left to leave out
    assert fault.code == "context_length_exceeded"
    sent = [orjson.loads(request.body)["messages"] for request in gateway.client.requests]
    assert [[message["role"] for message in messages] for messages in sent] == [
        ["system", "user", *["assistant", "tool"] * steps] for steps in (3, 2, 1)
    ]
    assert sent[2][-1]["tool_call_id"] == "call_3"
    assert len(turn.request.input) == 8  # what is kept


def test_where_nothing_can_be_told_the_input_is_missing() -> None:
    _, _, fault = play(Gateway().create(input=[{"type": "of_the_future", "x": 1}]))
    assert fault is not None
    assert (fault.status, fault.param, fault.code) == (400, "input", "missing_required_parameter")


def test_a_refusal_of_a_message_names_the_input() -> None:
    claude = Catalog({(None, "public"): (target(provider=PROVIDERS["anthropic"]),)})
    picture = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/bmp;base64,QQ=="}]}]
    _, _, fault = play(Gateway().create(input=picture, catalog=claude))
    assert fault is not None
    assert (fault.status, fault.param) == (400, "input")


def test_what_is_too_long_is_refused_without_leave_to_cut_it() -> None:
    _, _, fault = play(Gateway(TOO_LONG).create(stream=True))
    assert fault is not None
    assert (fault.status, fault.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize("parent", ["resp_unknown", "not an id", "x" * 200])
def test_an_unknown_parent_is_told_by_its_name(parent: str) -> None:
    with pytest.raises(BadRequest) as refused:
        play(Gateway().create(previous_response_id=parent))
    assert (refused.value.param, refused.value.code) == ("previous_response_id", "previous_response_not_found")


# Usage that is reported early


def native_event(kind: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **members}))


EARLY = {"input_tokens": 90_403, "input_tokens_details": {"cached_tokens": 90_000}, "output_tokens": 0}
IN_PROGRESS = native_event("response.in_progress", response={"id": "up", "model": "m", "output": [], "usage": EARLY})
MESSAGE = {"type": "message", "id": "m", "role": "assistant", "status": "in_progress", "content": []}
PART = {"type": "output_text", "text": "", "annotations": []}
PLACE = {"item_id": "m", "output_index": 0, "content_index": 0}
NATIVE_TEXT = (
    native_event("response.output_item.added", output_index=0, item=MESSAGE)
    + native_event("response.content_part.added", **PLACE, part=PART)
    + native_event("response.output_text.delta", **PLACE, delta="word " * 40, logprobs=[])
)
CLAUDE_USAGE = {"input_tokens": 403, "cache_read_input_tokens": 90_000, "output_tokens": 1}
MESSAGE_START = anthropic.event("message_start", message={"id": "msg_1", "model": "claude", "usage": CLAUDE_USAGE})
CLAUDE_TEXT = anthropic.event(
    "content_block_start", index=0, content_block={"type": "text", "text": ""}
) + anthropic.event("content_block_delta", index=0, delta={"type": "text_delta", "text": "word " * 40})
FAILED = native_event(
    "response.failed", response={"id": "up", "status": "failed", "error": {"code": "server_error", "message": "x"}}
)
OPENAI = target(provider=PROVIDERS["openai"], api_base=PROVIDERS["openai"].default_api_base)
UPSTREAMS = {
    "native": (OPENAI, IN_PROGRESS, NATIVE_TEXT, FAILED),
    "translated": (
        replace(anthropic.target(), model_group="public"),
        MESSAGE_START,
        CLAUDE_TEXT,
        anthropic.event("error", error={"type": "api_error", "message": "x"}),
    ),
}


def early_row(upstream: str, end: str, *, has_text: bool = True) -> Attempt:
    """The row of a stream that reports its input, sends some text, and does not come to its end."""
    destination, start, text, error = UPSTREAMS[upstream]
    ends: dict[str, list[Any]] = {
        "cut": [],
        "a broken connection": [ConnectionBroken("cut")],
        "an error event": [error],
        "a client that leaves": [FOREVER],
    }
    gateway = Gateway(Script([start, *([text] if has_text else []), *ends[end]]))

    async def story() -> None:
        create = asyncio.ensure_future(gateway.create(stream=True, catalog=Catalog({(None, "public"): (destination,)})))
        if end == "a client that leaves":
            asyncio.get_running_loop().call_later(2.0, create.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await create

    play(story())
    [row] = gateway.ledger.closed
    return row


@pytest.mark.parametrize("end", ["cut", "a broken connection", "an error event", "a client that leaves"])
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_the_input_that_is_reported_early_counts_when_the_stream_does_not_end(upstream: str, end: str) -> None:
    row = early_row(upstream, end)
    assert row.usage_source is UsageSource.PARTIAL
    assert (row.usage.input_tokens, row.usage.cache_read_tokens) == (403, 90_000)
    assert 45 <= row.usage.output_tokens <= 55


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_an_error_before_the_first_text_costs_the_input_that_was_reported(upstream: str) -> None:
    row = early_row(upstream, "an error event", has_text=False)
    assert row.usage_source is UsageSource.PARTIAL
    assert (row.usage.input_tokens, row.usage.cache_read_tokens) == (403, 90_000)
    assert row.usage.output_tokens <= 1


def test_a_failed_response_costs_what_it_reports() -> None:
    usage = {**EARLY, "output_tokens": 7, "total_tokens": 90_410}
    error = {"code": "server_error", "message": "x"}
    failed = native_event("response.failed", response={"id": "up", "status": "failed", "error": error, "usage": usage})
    gateway = Gateway(Script([failed]))
    _, _, fault = play(gateway.create(stream=True, catalog=Catalog({(None, "public"): (OPENAI,)})))
    assert fault is not None
    [row] = gateway.ledger.closed
    assert (row.usage.total_input, row.usage.output_tokens) == (90_403, 7)
    assert row.usage_source is UsageSource.PROVIDER
