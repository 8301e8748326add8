"""Exchange: one row an attempt, opened before the upstream is dialled, closed before the last byte, on every path."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from gateway.pipeline.attempt_timer import COMMENT
from gateway.pipeline.ports import Attempt, ClientStalled, Principal
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Finish
from gateway.protocol.errors import ConnectFault, DeadlineExceeded, Fault, GatewayFault, UpstreamFault
from gateway.protocol.provider import PlainProvider, Target, UpstreamRequest
from gateway.protocol.secret import Secret
from gateway.protocol.timeouts import Timeouts
from gateway.protocol.usage import UsageSource
from gateway.providers.registry import PROVIDERS
from gateway.upstream.http1 import ConnectionBroken
from tests.fakes import anthropic
from tests.fakes.memory import (
    CREDENTIAL,
    DONE,
    FOREVER,
    JSON_ANSWER,
    PRINCIPAL,
    USAGE,
    WHOLE_ANSWER,
    WHOLE_STREAM,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    bind,
    chat,
    chunk,
    data_of,
    event,
    exchange_plan,
    play,
    services,
    target,
)

PLAIN, STREAMED = chat(), chat(stream=True)
REFUSED = ConnectFault("The upstream could not be reached.", is_retryable=True)
CLIENT_GONE = asyncio.CancelledError()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The visible facts of one request."""

    ledger: MemoryLedger
    reply: MemoryReply
    client: ScriptedClient
    log: list[Any]  # the order of it all
    fault: BaseException | None
    took_s: float

    @property
    def row(self) -> Attempt:
        """The one closed row."""
        assert len(self.ledger.closed) == 1
        return self.ledger.closed[0]

    @property
    def steps(self) -> list[str]:
        """The kinds of the log, repetitions left out."""
        kinds = [entry[0] for entry in self.log]
        return [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]


def ask(
    call: Call,
    *answers: Script | BaseException,
    plan: tuple[Target, ...] = (),
    ledger: MemoryLedger | None = None,
    reply: MemoryReply | None = None,
    gone_at_s: float | None = None,
    timeout_s: float | None = None,
    deadline_s: float | None = None,
    principal: Principal = PRINCIPAL,
    **limits: float,
) -> Outcome:
    """One request to as many upstreams as there are answers; `gone_at_s`: when the client disconnects."""

    async def story() -> Outcome:
        log: list[Any] = []
        ledger_used = replace(ledger or MemoryLedger(), log=log)
        outcome = replace(reply or MemoryReply(), log=log)
        client = ScriptedClient(answers, log)
        targets = plan or tuple(target(f"up{number}") for number in range(len(answers)))
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            exchange_plan(
                bind(call),
                targets,
                principal,
                services(client, ledger_used, **limits),
                outcome,
                request_id="request",
                timeout_s=timeout_s,
                deadline_s=deadline_s,
            )
        )
        if gone_at_s is not None:
            loop.call_later(gone_at_s, task.cancel)
        await asyncio.wait([task])
        took_s = loop.time()
        fault: BaseException | None = CLIENT_GONE if task.cancelled() else task.exception()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        return Outcome(ledger_used, outcome, client, log, fault, took_s)

    return play(story())


ANSWER = Script([WHOLE_ANSWER], headers=JSON_ANSWER)


def slow_first(timeout_s: float) -> tuple[Target, ...]:
    """Two deployments, the first with a time limit."""
    return target("up0", timeouts=Timeouts(timeout_s=timeout_s)), target("up1")


def assert_books_are_sound(outcome: Outcome) -> None:
    """The promises that hold on every path."""
    opened = [attempt.id for attempt in outcome.ledger.opened]
    assert [attempt.id for attempt in outcome.ledger.closed] == opened, "each opened row is closed once, in order"
    assert [attempt.number for attempt in outcome.ledger.closed] == list(range(len(opened)))
    dials = [index for index, entry in enumerate(outcome.log) if entry[0] == "dial"]
    opens = [index for index, entry in enumerate(outcome.log) if entry[0] == "open"]
    assert len(dials) <= len(opens)
    assert all(open_ < dial for open_, dial in zip(opens, dials, strict=False)), "dialled before the row was safe"
    for attempt in outcome.ledger.closed:
        assert attempt.ended_at is not None
        assert attempt.finish in set(Finish)
    for kind, data in outcome.log:
        if kind in {"events", "end", "body"} and b"[DONE]" in data:
            assert outcome.log.index((kind, data)) > outcome.log.index(
                ("close", outcome.ledger.closed[-1].target.deployment_id)
            )
    if outcome.fault is not None:
        assert b"[DONE]" not in outcome.reply.body, "a forged end"
    for response in outcome.client.responses:
        assert response.ended_by, "a connection was left open"
    assert CREDENTIAL.encode() not in outcome.reply.body


# Success


@pytest.mark.parametrize("call", [STREAMED, chat(stream=True, usage=True)], ids=["silent", "asks for usage"])
def test_a_streams_row_is_open_before_the_dial_and_closed_before_done(call: Call) -> None:
    outcome = ask(call, Script(WHOLE_STREAM))
    assert_books_are_sound(outcome)
    assert outcome.steps == ["open", "dial", "start", "events", "close", "end"]
    assert outcome.log[-1] == ("end", DONE)
    assert outcome.reply.body.count(b"[DONE]") == 1
    row = outcome.row
    assert (row.finish, row.status_code, row.error_code, row.is_sent) == (Finish.COMPLETE, 200, "", True)
    assert (row.usage.total_input, row.usage.total_output) == (7, 3)
    assert (row.usage_source, row.raw_usage) == (UsageSource.PROVIDER, USAGE)
    assert (row.upstream_id, row.served_model) == ("chatcmpl-1", "private")
    assert row.first_token_at is not None


def test_a_whole_answers_row_is_open_before_the_dial_and_closed_before_the_body() -> None:
    outcome = ask(PLAIN, Script([WHOLE_ANSWER[:20], WHOLE_ANSWER[20:]], headers=JSON_ANSWER))
    assert_books_are_sound(outcome)
    assert outcome.steps == ["open", "dial", "close", "body"]
    assert outcome.reply.status == 200
    assert orjson.loads(outcome.reply.body)["model"] == "public"
    assert (outcome.row.usage.total_input, outcome.row.usage_source) == (7, UsageSource.PROVIDER)
    assert outcome.client.responses[0].ended_by == "release"  # back to the pool


def test_usage_that_the_upstream_does_not_tell_is_estimated_and_marked() -> None:
    outcome = ask(STREAMED, Script([event(chunk("word " * 40)), event(chunk(finish="stop")), DONE]))
    assert outcome.row.usage_source is UsageSource.ESTIMATED
    assert outcome.row.usage.input_tokens == STREAMED.input_estimate
    assert 45 <= outcome.row.usage.output_tokens <= 55


def test_the_built_in_provider_goes_the_same_way() -> None:
    plan = (target(provider=PROVIDERS["mock"], credential={}),)
    outcome = ask(STREAMED, plan=plan)
    assert_books_are_sound(outcome)
    assert outcome.steps == ["open", "dial", "start", "events", "close", "end"]
    assert outcome.row.usage_source is UsageSource.PROVIDER


def test_nothing_is_gathered_an_event_leaves_as_soon_as_it_came() -> None:
    outcome = ask(STREAMED, Script([piece for chunk_ in WHOLE_STREAM for piece in (chunk_, 1.0)]))
    assert [entry[1] for entry in outcome.log if entry[0] == "events"] == [
        event_.replace(b"private", b"public") for event_ in WHOLE_STREAM[:3]
    ]


# Failure: every way in which an upstream fails, with what the client and the books are told


@dataclass(frozen=True, slots=True)
class Failure:
    answer: Script | BaseException
    status: int
    code: str | None
    finish: Finish
    is_charged: bool = False
    is_sent: bool = True
    goes_on: bool = False  # another target is tried
    is_repeated: bool = False  # and the same one where there is no other


def error_answer(status: int, body: Any = None, **headers: str) -> Script:
    raw = body if isinstance(body, bytes) else orjson.dumps(body or {"error": {"message": "no"}})
    return Script([raw], status=status, headers={**JSON_ANSWER, **headers})


ERROR, BROKEN, TIMEOUT = Finish.UPSTREAM_ERROR, Finish.UPSTREAM_BROKEN, Finish.TIMEOUT
FAILURES: dict[str, Failure] = {
    "connection refused": Failure(REFUSED, 502, "upstream_unreachable", ERROR, is_sent=False, goes_on=True),
    "status 400": Failure(error_answer(400, {"error": {"message": "no", "code": "bad_tool"}}), 400, "bad_tool", ERROR),
    "status 401": Failure(error_answer(401), 502, "upstream_auth_failed", ERROR, goes_on=True),
    "status 404": Failure(error_answer(404), 404, "model_not_found", ERROR, goes_on=True),
    "status 429": Failure(error_answer(429), 429, "rate_limit_exceeded", ERROR, goes_on=True),
    "status 500": Failure(error_answer(500, b"<html>"), 502, "upstream_error", ERROR, goes_on=True),
    "status 503": Failure(error_answer(503), 503, "overloaded", ERROR, goes_on=True),
    "status 504": Failure(error_answer(504), 504, "upstream_timeout", TIMEOUT, is_charged=True, goes_on=True),
    "a redirect": Failure(error_answer(302, location="http://evil.test"), 502, "upstream_error", ERROR),
    "status 204": Failure(Script([], status=204), 502, "upstream_error", ERROR),
    "an endless error": Failure(Script([b"x" * 65_536] * 1000, status=500), 502, "upstream_error", ERROR, goes_on=True),
    "an error that breaks off": Failure(
        Script([b'{"error"', ConnectionBroken("cut")], status=503), 503, "overloaded", ERROR, goes_on=True
    ),
    "silence before the status": Failure(
        Script(wait_s=FOREVER), 504, "upstream_timeout", TIMEOUT, is_charged=True, goes_on=True
    ),
    "silence within an error": Failure(
        Script([b'{"error"', FOREVER], status=500), 504, "upstream_timeout", TIMEOUT, is_charged=True, goes_on=True
    ),
    "an unknown compression": Failure(
        Script([b"x"], headers={"content-type": "text/event-stream", "content-encoding": "br"}),
        502,
        "upstream_error",
        ERROR,
    ),
}
WHOLE_FAILURES = FAILURES | {
    "HTML": Failure(Script([b"<html>"], headers={"content-type": "text/html"}), 502, "upstream_error", ERROR),
    "half a JSON": Failure(error_answer(200, WHOLE_ANSWER[:-9]), 502, "upstream_error", ERROR),
    "an error with status 200": Failure(error_answer(200, {"error": {"message": "x"}}), 502, "upstream_error", ERROR),
    "a body that is too large": Failure(
        error_answer(200, b"x" * (1024 * 1024 + 1)), 502, "upstream_error", BROKEN, is_charged=True
    ),
    "a broken connection": Failure(
        Script([WHOLE_ANSWER[:9], ConnectionBroken("cut")], headers=JSON_ANSWER),
        502,
        "upstream_incomplete_stream",
        BROKEN,
        is_charged=True,
        goes_on=True,
        is_repeated=True,
    ),
    "silence within the answer": Failure(
        Script([WHOLE_ANSWER[:9], FOREVER], headers=JSON_ANSWER),
        504,
        "upstream_timeout",
        TIMEOUT,
        is_charged=True,
        goes_on=True,
    ),
    "a slow drip": Failure(
        Script([b" ", 30.0] * 100, headers=JSON_ANSWER), 504, "upstream_timeout", TIMEOUT, is_charged=True, goes_on=True
    ),
}
STREAM_FAILURES = FAILURES | {
    "a whole answer": Failure(error_answer(200, WHOLE_ANSWER), 502, "upstream_error", ERROR),
    "an error with status 200": Failure(error_answer(200, {"error": {"message": "x"}}), 502, "upstream_error", ERROR),
    "HTML": Failure(Script([b"<html>"], headers={"content-type": "text/html"}), 502, "upstream_error", ERROR),
    "an error as the first event": Failure(Script([event({"error": {"message": "x"}})]), 502, "upstream_error", ERROR),
    "nothing": Failure(
        Script(), 502, "upstream_incomplete_stream", BROKEN, is_charged=True, goes_on=True, is_repeated=True
    ),
    "half an event": Failure(Script([WHOLE_STREAM[0][:30]]), 502, "upstream_error", BROKEN, is_charged=True),
    "silence before the first event": Failure(
        Script([FOREVER]), 504, "upstream_timeout", TIMEOUT, is_charged=True, goes_on=True
    ),
    "a broken connection before the first event": Failure(
        Script([ConnectionBroken("cut")]),
        502,
        "upstream_incomplete_stream",
        BROKEN,
        is_charged=True,
        goes_on=True,
        is_repeated=True,
    ),
}
TABLE = [
    *((PLAIN, failure, name) for name, failure in WHOLE_FAILURES.items()),
    *((STREAMED, failure, name) for name, failure in STREAM_FAILURES.items()),
]
IDS = [f"{'stream' if call.stream else 'whole'}: {name}" for call, _, name in TABLE]


@pytest.mark.parametrize(("call", "failure", "name"), TABLE, ids=IDS)
def test_a_failed_attempt_is_told_once_and_its_row_is_closed(call: Call, failure: Failure, name: str) -> None:
    times = 2 if failure.is_repeated else 1
    outcome = ask(call, *[failure.answer] * times, plan=(target("up0"),))
    assert_books_are_sound(outcome)
    assert isinstance(outcome.fault, Fault)
    assert (outcome.fault.status, outcome.fault.code) == (failure.status, failure.code)
    assert len(outcome.ledger.closed) == times
    for row in outcome.ledger.closed:
        assert (row.finish, row.is_sent, row.status_code) == (failure.finish, failure.is_sent, failure.status)
        assert row.error_code == failure.code
        assert row.error_message == outcome.fault.message
        assert (row.usage.total_input > 0) is failure.is_charged
        assert row.usage_source is (UsageSource.ESTIMATED if failure.is_charged else UsageSource.NONE)
    assert outcome.reply.body.replace(COMMENT, b"") == b""  # the edge renders the fault


@pytest.mark.parametrize(("call", "failure", "name"), TABLE, ids=IDS)
def test_another_target_is_tried_where_it_can_help(call: Call, failure: Failure, name: str) -> None:
    good = Script(WHOLE_STREAM) if call.stream else Script([WHOLE_ANSWER], headers=JSON_ANSWER)
    outcome = ask(call, failure.answer, good)
    assert_books_are_sound(outcome)
    assert len(outcome.client.requests) == (2 if failure.goes_on else 1)
    assert (outcome.fault is None) is failure.goes_on
    if failure.goes_on:
        assert outcome.reply.is_complete
        assert [attempt.target.deployment_id for attempt in outcome.ledger.closed] == ["up0", "up1"]
        assert outcome.ledger.closed[0].finish is failure.finish
        assert outcome.ledger.closed[1].finish is Finish.COMPLETE
        assert outcome.ledger.closed[0].id != outcome.ledger.closed[1].id
        assert {attempt.request_id for attempt in outcome.ledger.closed} == {"request"}


def test_the_fault_of_the_last_target_is_told_when_none_could_answer() -> None:
    outcome = ask(PLAIN, REFUSED, error_answer(500), error_answer(429, **{"retry-after": "7"}))
    assert_books_are_sound(outcome)
    assert isinstance(outcome.fault, UpstreamFault)
    assert (outcome.fault.status, outcome.fault.headers) == (429, ((b"retry-after", b"7"),))
    assert [attempt.is_sent for attempt in outcome.ledger.closed] == [False, True, True]


ECHO = "the header X-Team: sealed-in-a-header and the password hunter-22 are wrong"
ECHOES: Mapping[str, tuple[Call, Script, Target]] = {
    "an error": (PLAIN, error_answer(400, {"error": {"message": ECHO, "code": ECHO[:40]}}), target()),
    "a server's error": (PLAIN, error_answer(500, {"error": {"message": ECHO}}), target()),
    "an error with status 200": (PLAIN, error_answer(200, {"error": {"message": ECHO}}), target()),
    "an error as an answer": (PLAIN, Script([b'{"error": "%s"}' % ECHO.encode()], headers=JSON_ANSWER), target()),
    "an error in a stream": (STREAMED, Script([WHOLE_STREAM[0], event({"error": {"message": ECHO}})]), target()),
    "an error in Anthropic's stream": (
        anthropic.call({"stream": True, "messages": [anthropic.USER]}),
        Script([anthropic.event("error", error={"type": "api_error", "message": ECHO})]),
        anthropic.target(),
    ),
}


@pytest.mark.parametrize(("call", "answer", "where"), ECHOES.values(), ids=ECHOES.keys())
def test_no_error_repeats_what_is_sealed(call: Call, answer: Script, where: Target) -> None:
    sealed = frozenset({Secret("sealed-in-a-header"), Secret("hunter-22")})
    outcome = ask(call, answer, plan=(replace(where, other_secrets=sealed),))
    assert isinstance(outcome.fault, UpstreamFault)
    texts = (outcome.fault.message, outcome.fault.code, outcome.row.error_message, outcome.row.error_code)
    assert outcome.fault.message == "the header X-Team: *** and the password *** are wrong"
    assert "sealed-in" not in str(texts)
    assert "hunter" not in str(texts)


def shapes(text: str) -> list[bytes]:
    """Errors with this text, in the forms of all the wires."""
    google = {"code": 400, "message": text, "status": "INVALID_ARGUMENT", "details": [{"reason": text}]}
    forms: list[Any] = [
        {"error": {"message": text, "type": text, "code": text, "param": text}},
        {"type": "error", "error": {"type": "invalid_request_error", "message": text}},
        *({"error": google}, [{"error": google}], {"error": text}, {"detail": text}, {"message": text}),
        *({"Message": text}, {"detail": [{"msg": text}]}, {"object": "error", "message": text, "code": 400}, text),
    ]
    return [orjson.dumps(form) for form in forms] + [text.encode()]


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_no_provider_repeats_what_is_sealed(name: str) -> None:
    where = target(provider=PROVIDERS[name], other_secrets=frozenset({Secret("sealed-in-a-header")}))
    for status in (200, 400, 401, 429, 500):
        for body in shapes("wrong: sealed-in-a-header"):
            fault = where.provider.failure(where, status, {}, body)
            assert "sealed-in" not in f"{fault.message} {fault.code} {fault.param} {fault.type}", body


BROKEN_STREAMS: dict[str, tuple[Script, int, Finish]] = {
    "cut": (Script([WHOLE_STREAM[0]]), 502, BROKEN),
    "cut within an event": (Script([WHOLE_STREAM[0], WHOLE_STREAM[1][:20]]), 502, BROKEN),
    "a broken connection": (Script([WHOLE_STREAM[0], ConnectionBroken("cut")]), 502, BROKEN),
    "half a JSON": (Script([WHOLE_STREAM[0], b"data: {\n\n"]), 502, BROKEN),
    "an error": (Script([WHOLE_STREAM[0], event({"error": {"message": "x"}})]), 502, ERROR),
    "silence": (Script([WHOLE_STREAM[0], FOREVER]), 504, TIMEOUT),
}


@pytest.mark.parametrize(("answer", "status", "finish"), BROKEN_STREAMS.values(), ids=BROKEN_STREAMS.keys())
def test_a_stream_that_fails_after_its_first_event_is_never_begun_anew(
    answer: Script, status: int, finish: Finish
) -> None:
    outcome = ask(STREAMED, answer, Script(WHOLE_STREAM))
    assert_books_are_sound(outcome)
    assert len(outcome.client.requests) == 1
    assert isinstance(outcome.fault, UpstreamFault)
    assert outcome.fault.status == status
    row = outcome.row
    assert (row.finish, row.usage_source) == (finish, UsageSource.ESTIMATED)
    assert row.usage.input_tokens == STREAMED.input_estimate
    assert row.usage.output_tokens >= 1
    assert row.first_token_at is not None
    assert row.client_status == outcome.reply.status == 200


def test_an_attempt_that_fails_behind_a_keepalive_comment_was_seen_as_200() -> None:
    outcome = ask(STREAMED, Script([FOREVER]), timeout_s=60.0)
    assert outcome.reply.body.startswith(COMMENT)
    assert (outcome.row.status_code, outcome.row.client_status) == (504, 200)
    assert ask(STREAMED, error_answer(500)).row.client_status == 502


def test_usage_told_before_the_break_is_kept() -> None:
    early = event(chunk("a", usage={"prompt_tokens": 70, "completion_tokens": 1}))
    outcome = ask(STREAMED, Script([early, ConnectionBroken("cut")]))
    assert (outcome.row.usage.input_tokens, outcome.row.usage_source) == (70, UsageSource.PROVIDER)


@pytest.mark.parametrize("nonsense", [-1, 1.5, "12", 10**18, 1e30])
def test_nonsense_in_one_count_is_estimated_and_the_other_kept(nonsense: object) -> None:
    usage = {"prompt_tokens": nonsense, "completion_tokens": 7}
    row = ask(STREAMED, Script([event(chunk("a", usage=usage)), event(chunk(finish="stop")), DONE])).row
    assert (row.usage.input_tokens, row.usage.output_tokens) == (STREAMED.input_estimate, 7)
    assert (row.usage.is_inconsistent, row.usage_source) == (True, UsageSource.PARTIAL)


EARLY_USAGE = {"input_tokens": 3, "cache_read_input_tokens": 90_000, "cache_creation_input_tokens": 400}
MESSAGE_START = anthropic.event(
    "message_start", message={"id": "msg_1", "model": "claude", "usage": {**EARLY_USAGE, "output_tokens": 1}}
)
BLOCK_START = anthropic.event("content_block_start", index=0, content_block={"type": "text", "text": ""})
TEXT = anthropic.event("content_block_delta", index=0, delta={"type": "text_delta", "text": "word " * 40})
CUT_MESSAGES = {
    "cut": (Script([MESSAGE_START, BLOCK_START, TEXT]), None),
    "a broken connection": (Script([MESSAGE_START, BLOCK_START, TEXT, ConnectionBroken("cut")]), None),
    "an error": (Script([MESSAGE_START, BLOCK_START, TEXT, anthropic.event("error", error={"message": "x"})]), None),
    "a client that leaves": (Script([MESSAGE_START, BLOCK_START, TEXT, FOREVER]), 2.0),
}


@pytest.mark.parametrize(("answer", "gone_at_s"), CUT_MESSAGES.values(), ids=CUT_MESSAGES.keys())
@pytest.mark.parametrize(
    "call",
    [anthropic.call({"stream": True, "messages": [anthropic.USER]}), anthropic.messages_call({"stream": True})],
    ids=["chat", "messages"],
)
def test_the_input_that_is_reported_at_the_start_counts_when_the_answer_is_cut(
    call: Call, answer: Script, gone_at_s: float | None
) -> None:
    outcome = ask(call, answer, plan=(anthropic.target(),), gone_at_s=gone_at_s)
    assert_books_are_sound(outcome)
    usage = outcome.row.usage
    assert outcome.row.usage_source is UsageSource.PARTIAL
    assert (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_5m_tokens) == (3, 90_000, 400)
    assert 45 <= usage.output_tokens <= 55


@pytest.mark.parametrize("name", ["overloaded_error", "invalid_request_error"])
def test_the_input_that_is_reported_before_an_error_is_billed(name: str) -> None:
    error = anthropic.event("error", error={"type": name, "message": "x"})
    call = anthropic.call({"stream": True, "messages": [anthropic.USER]})
    outcome = ask(call, Script([MESSAGE_START, error]), plan=(anthropic.target(),))
    assert_books_are_sound(outcome)
    usage = outcome.row.usage
    assert (outcome.row.finish, outcome.row.usage_source) == (Finish.UPSTREAM_ERROR, UsageSource.PARTIAL)
    assert (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_5m_tokens) == (3, 90_000, 400)
    assert usage.output_tokens == 1
    assert (outcome.row.first_token_at, outcome.row.client_status) == (None, outcome.fault.status)


# The ledger


@pytest.mark.parametrize("call", [PLAIN, STREAMED], ids=["whole", "stream"])
def test_the_upstream_is_never_dialled_without_a_row(call: Call) -> None:
    outcome = ask(call, Script(WHOLE_STREAM), ledger=MemoryLedger(open_fails=GatewayFault("The ledger is away.")))
    assert isinstance(outcome.fault, GatewayFault)
    assert outcome.client.requests == []
    assert outcome.log == []


@pytest.mark.parametrize("call", [PLAIN, STREAMED], ids=["whole", "stream"])
def test_an_answer_whose_row_cannot_be_closed_is_not_completed(call: Call) -> None:
    answer = Script(WHOLE_STREAM) if call.stream else Script([WHOLE_ANSWER], headers=JSON_ANSWER)
    outcome = ask(call, answer, Script(WHOLE_STREAM), ledger=MemoryLedger(close_fails=GatewayFault("away")))
    assert isinstance(outcome.fault, GatewayFault)
    assert not outcome.reply.is_complete
    assert len(outcome.client.requests) == 1


def test_a_slow_ledger_holds_back_the_last_frame_only() -> None:
    outcome = ask(STREAMED, Script(WHOLE_STREAM), ledger=MemoryLedger(takes_s=3.0))
    assert_books_are_sound(outcome)
    assert outcome.steps == ["open", "dial", "start", "events", "close", "end"]
    assert outcome.took_s == pytest.approx(6.0)


def test_an_internal_error_closes_the_row_and_is_raised() -> None:
    outcome = ask(STREAMED, Script([WHOLE_STREAM[0], ZeroDivisionError()]))
    assert_books_are_sound(outcome)
    assert isinstance(outcome.fault, ZeroDivisionError)
    assert (outcome.row.status_code, outcome.row.error_code) == (500, "internal_error")
    assert outcome.row.usage_source is UsageSource.ESTIMATED


class Careless(PlainProvider):
    """A provider with a defect, before anything is sent."""

    name = title = "careless"
    aliases: tuple[str, ...] = ()
    default_api_base = ""
    needs_api_base = needs_api_key = False
    operations = PROVIDERS["mock"].operations

    own_parameters = own_secrets = frozenset[str]()
    replays_reasoning = False

    def token(self, target: Target) -> str:
        return ""

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        raise ZeroDivisionError

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        raise NotImplementedError


def test_an_internal_error_before_a_byte_was_sent_costs_nothing() -> None:
    outcome = ask(PLAIN, plan=(target(provider=Careless()),))
    assert_books_are_sound(outcome)
    assert isinstance(outcome.fault, ZeroDivisionError)
    assert not outcome.row.is_sent
    assert outcome.row.usage.total_input == 0


# The client leaves: at every moment of a request whose every step takes a while

SLOW_STREAM = Script([piece for event_ in WHOLE_STREAM for piece in (1.0, event_)], wait_s=1.0)
SLOW_ANSWER = Script([1.0, WHOLE_ANSWER[:9], 1.0, WHOLE_ANSWER[9:]], headers=JSON_ANSWER, wait_s=1.0)
SLOW_ERROR = Script([1.0, b'{"error":{}}', 1.0], status=400, headers=JSON_ANSWER, wait_s=1.0)
JOURNEYS = {
    "a stream": (STREAMED, (SLOW_STREAM,)),
    "a whole answer": (PLAIN, (SLOW_ANSWER,)),
    "an error": (PLAIN, (SLOW_ERROR,)),
    "the second of two targets": (STREAMED, (error_answer(500), SLOW_STREAM)),
}


@pytest.mark.parametrize(("call", "answers"), JOURNEYS.values(), ids=JOURNEYS.keys())
def test_wherever_the_client_leaves_the_row_is_closed_and_the_upstream_let_go(
    call: Call, answers: tuple[Script, ...]
) -> None:
    def journey(gone_at_s: float | None) -> Outcome:
        slow = MemoryLedger(takes_s=1.0)
        return ask(call, *answers, ledger=slow, reply=MemoryReply(reads_s=1.0), gone_at_s=gone_at_s)

    whole_s = journey(None).took_s
    for step in range(int(whole_s * 2)):
        gone_at_s = step / 2 + 0.25
        outcome = journey(gone_at_s)
        assert outcome.fault is CLIENT_GONE, f"left at {gone_at_s} s"
        assert_books_are_sound(outcome)
        last = outcome.ledger.closed[-1]
        if last.finish is Finish.CLIENT_GONE:
            assert (last.status_code, last.error_code) == (499, "client_gone")
        assert outcome.took_s <= gone_at_s + 1.0 + 0.001, "only the ledger is waited for"


def test_a_client_that_leaves_before_the_row_is_safe_costs_nothing() -> None:
    outcome = ask(PLAIN, SLOW_ANSWER, ledger=MemoryLedger(takes_s=1.0), gone_at_s=0.5)
    assert_books_are_sound(outcome)
    assert outcome.client.requests == []
    assert (outcome.row.is_sent, outcome.row.finish, outcome.row.usage.total_input) == (False, Finish.CLIENT_GONE, 0)


def test_a_client_that_leaves_within_a_stream_pays_an_estimate() -> None:
    outcome = ask(STREAMED, SLOW_STREAM, gone_at_s=3.5)
    assert (outcome.row.finish, outcome.row.usage_source) == (Finish.CLIENT_GONE, UsageSource.ESTIMATED)
    assert outcome.row.usage.input_tokens == STREAMED.input_estimate
    assert outcome.row.usage.output_tokens >= 1


def test_a_client_that_leaves_at_the_moment_of_a_time_out_gets_no_second_upstream() -> None:
    outcome = ask(STREAMED, Script(wait_s=FOREVER), Script(WHOLE_STREAM), plan=slow_first(2.0), gone_at_s=2.0)
    assert_books_are_sound(outcome)
    assert len(outcome.client.requests) == 1


def test_a_second_cancellation_does_not_leave_the_row_open() -> None:
    async def story() -> MemoryLedger:
        ledger = MemoryLedger(takes_s=1.0)
        client = ScriptedClient([Script([FOREVER])])
        task = asyncio.create_task(
            exchange_plan(
                bind(STREAMED),
                (target(),),
                PRINCIPAL,
                services(client, ledger),
                MemoryReply(),
                request_id="request",
                timeout_s=None,
            )
        )
        await asyncio.sleep(2)
        task.cancel()
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(1)
        return ledger

    ledger = play(story())
    assert ledger.log == [("open", "first"), ("close", "first")]


# Time


LIMITS: list[tuple[Call, dict[str, float | None], float | None, float]] = [
    (PLAIN, {}, None, 600),
    (PLAIN, {"timeout_s": 9}, None, 9),
    (PLAIN, {"timeout_s": 9, "stream_timeout_s": 3}, None, 9),
    (STREAMED, {"timeout_s": 9, "stream_timeout_s": 3}, None, 3),
    (STREAMED, {"timeout_s": 9}, None, 9),
    (STREAMED, {}, None, 600),
    (PLAIN, {"timeout_s": 9}, 4, 4),
    (PLAIN, {"timeout_s": 9}, 40, 9),
    (PLAIN, {}, 4, 4),
    (PLAIN, {}, 4000, 600),
]


@pytest.mark.parametrize(("call", "own", "client_limit_s", "limit_s"), LIMITS)
def test_the_shortest_time_limit_holds(
    call: Call, own: dict[str, float | None], client_limit_s: float | None, limit_s: float
) -> None:
    outcome = ask(call, Script(wait_s=FOREVER), plan=(target(timeouts=Timeouts(**own)),), timeout_s=client_limit_s)
    assert outcome.took_s == pytest.approx(limit_s, abs=0.1)
    assert isinstance(outcome.fault, UpstreamFault)
    is_clients = client_limit_s == limit_s
    assert outcome.fault.code == ("deadline_exceeded" if is_clients else "upstream_timeout")


@pytest.mark.parametrize("script", [Script([FOREVER]), Script([event(chunk("Hel"))[:9], FOREVER])])
def test_a_stream_that_is_silent_before_its_first_event_is_another_deployments_turn(script: Script) -> None:
    outcome = ask(STREAMED, script, Script(WHOLE_STREAM), stream_idle_timeout_s=20.0)
    assert_books_are_sound(outcome)
    assert outcome.fault is None
    assert [attempt.finish for attempt in outcome.ledger.closed] == [Finish.TIMEOUT, Finish.COMPLETE]
    assert outcome.took_s == pytest.approx(20, abs=0.1)


def test_a_head_does_not_give_a_stream_more_time_for_its_first_event() -> None:
    drip = [piece for _ in range(100) for piece in (1.0, b": ping\n\n")]
    outcome = ask(STREAMED, Script(drip), Script(WHOLE_STREAM), plan=slow_first(9.0))
    assert outcome.fault is None
    assert outcome.took_s == pytest.approx(9, abs=0.1)


def test_no_attempt_is_begun_when_the_clients_time_is_over() -> None:
    outcome = ask(PLAIN, Script(wait_s=FOREVER), ANSWER, timeout_s=5.0)
    assert_books_are_sound(outcome)
    assert len(outcome.client.requests) == 1
    assert isinstance(outcome.fault, DeadlineExceeded)
    assert (outcome.row.finish, outcome.row.status_code) == (Finish.TIMEOUT, 504)
    over = ask(PLAIN, ANSWER, timeout_s=-1.0)
    assert isinstance(over.fault, DeadlineExceeded)
    assert (over.ledger.opened, over.client.requests) == ([], [])


def test_a_failure_at_the_end_of_the_clients_time_is_told_as_it_is() -> None:
    outcome = ask(PLAIN, Script(wait_s=4.9, status=500), ANSWER, timeout_s=4.9)
    assert outcome.fault is not None
    assert (outcome.fault.status, len(outcome.client.requests)) == (502, 1)


def test_a_deadline_ends_a_stream_that_has_begun() -> None:
    events = [piece for event_ in WHOLE_STREAM for piece in (50.0, event_)]
    outcome = ask(STREAMED, Script(events), deadline_s=120.0)
    assert_books_are_sound(outcome)
    assert isinstance(outcome.fault, DeadlineExceeded)
    assert outcome.took_s == pytest.approx(120, abs=0.1)
    assert (outcome.row.finish, outcome.row.usage_source) == (Finish.TIMEOUT, UsageSource.ESTIMATED)


def test_a_key_shortens_the_time_of_its_calls() -> None:
    holder = replace(PRINCIPAL, timeouts=Timeouts(timeout_s=4.0))
    for own, limit_s in ((9.0, 4), (3.0, 3)):
        outcome = ask(PLAIN, Script(wait_s=FOREVER), plan=slow_first(own)[:1], principal=holder)
        assert outcome.took_s == pytest.approx(limit_s, abs=0.1)
        assert isinstance(outcome.fault, UpstreamFault)
        assert outcome.fault.code == "upstream_timeout"


def test_a_whole_answer_has_its_limit_to_the_last_byte() -> None:
    drip = Script([b" ", 1.0] * 100, headers=JSON_ANSWER, wait_s=3.0)
    outcome = ask(PLAIN, drip, plan=(target(timeouts=Timeouts(timeout_s=9)),))
    assert outcome.took_s == pytest.approx(9, abs=0.1)


def test_a_stream_may_last_as_long_as_it_speaks() -> None:
    slow = [piece for event_ in WHOLE_STREAM for piece in (50.0, event_)]
    outcome = ask(STREAMED, Script(slow), plan=(target(timeouts=Timeouts(timeout_s=60)),))
    assert outcome.fault is None
    assert outcome.took_s == pytest.approx(250)


def test_a_silent_stream_gets_comments_and_is_ended_after_its_limit() -> None:
    outcome = ask(STREAMED, Script([WHOLE_STREAM[0], FOREVER]), stream_idle_timeout_s=60.0, keepalive_s=15.0)
    comments = [entry for entry in outcome.log if entry == ("events", COMMENT)]
    assert len(comments) == 3
    assert outcome.took_s == pytest.approx(60, abs=0.1)


def test_a_dripping_stream_gets_comments_and_ends_at_its_total_limit() -> None:
    drip = [piece for _ in range(1000) for piece in (1.0, b" ")]
    outcome = ask(
        STREAMED,
        Script([WHOLE_STREAM[0], *drip]),
        stream_idle_timeout_s=60.0,
        keepalive_s=15.0,
        max_stream_duration_s=100.0,
    )
    comments = [entry for entry in outcome.log if entry == ("events", COMMENT)]
    assert len(comments) == 6
    assert outcome.took_s == pytest.approx(100, abs=0.1)
    assert outcome.fault is not None
    assert outcome.fault.code == "upstream_stream_timeout"
    assert outcome.row.finish == "timeout"
    assert outcome.row.usage_source is UsageSource.ESTIMATED


def test_comments_begin_before_the_upstreams_first_byte_and_do_not_hinder_another_target() -> None:
    outcome = ask(STREAMED, Script(wait_s=FOREVER), Script(WHOLE_STREAM), plan=slow_first(40.0), keepalive_s=15.0)
    assert_books_are_sound(outcome)
    assert outcome.fault is None
    assert outcome.reply.body.startswith(COMMENT * 2)
    assert data_of(outcome.reply.body)[-1] == "[DONE]"
    assert [attempt.finish for attempt in outcome.ledger.closed] == [Finish.TIMEOUT, Finish.COMPLETE]


def test_no_comment_is_sent_to_a_client_that_waits_for_a_whole_answer() -> None:
    outcome = ask(PLAIN, Script([WHOLE_ANSWER], headers=JSON_ANSWER, wait_s=100.0))
    assert outcome.reply.body.startswith(b"{")


def test_no_comment_follows_the_last_frame() -> None:
    outcome = ask(
        STREAMED, Script(WHOLE_STREAM), reply=MemoryReply(reads_s=20.0), keepalive_s=5.0, stalled_client_s=60.0
    )
    assert outcome.fault is None
    assert outcome.log[-1] == ("end", DONE)


def test_a_slow_ledger_is_not_the_upstreams_silence() -> None:
    outcome = ask(STREAMED, Script(WHOLE_STREAM), ledger=MemoryLedger(takes_s=100.0), stream_idle_timeout_s=10.0)
    assert outcome.fault is None


def test_a_client_that_reads_slowly_is_waited_for_and_pauses_the_upstream() -> None:
    outcome = ask(STREAMED, Script(WHOLE_STREAM), reply=MemoryReply(reads_s=50.0), stream_idle_timeout_s=10.0)
    assert outcome.fault is None
    assert outcome.row.finish is Finish.COMPLETE
    assert outcome.took_s == pytest.approx(250, abs=1)


@pytest.mark.parametrize(("keepalive_s", "stalled_client_s"), [(15.0, 120.0), (15.0, 3.0)])
def test_a_client_that_stops_reading_is_given_up(keepalive_s: float, stalled_client_s: float) -> None:
    outcome = ask(
        STREAMED,
        Script(WHOLE_STREAM),
        reply=MemoryReply(reads_s=FOREVER),
        keepalive_s=keepalive_s,
        stalled_client_s=stalled_client_s,
    )
    assert_books_are_sound(outcome)
    assert outcome.took_s == pytest.approx(stalled_client_s, abs=0.5)
    assert outcome.row.finish is Finish.CLIENT_GONE
    assert isinstance(outcome.fault, ClientStalled)  # no answer can reach the client


def test_a_request_takes_no_longer_than_its_parts() -> None:
    parts: list[tuple[Callable[[], Outcome], float]] = [
        (lambda: ask(STREAMED, SLOW_STREAM), 6.0),
        (lambda: ask(PLAIN, SLOW_ANSWER), 3.0),
        (lambda: ask(PLAIN, REFUSED, SLOW_ANSWER), 3.0),
    ]
    for journey, seconds in parts:
        assert journey().took_s == pytest.approx(seconds)
