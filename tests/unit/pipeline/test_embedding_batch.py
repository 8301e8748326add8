"""Batch: an embedding of more texts than one upstream call takes is several calls, one row and one answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

from gateway.pipeline import embedding_batch as batches
from gateway.pipeline.embedding_batch import AT_ONCE, MAX_PARTS
from gateway.pipeline.ports import Attempt
from gateway.protocol.call import Finish
from gateway.protocol.errors import BadRequest, ConnectFault, Fault, UpstreamFault
from gateway.protocol.provider import Target, UpstreamRequest
from gateway.protocol.usage import Usage, UsageSource
from gateway.providers.registry import PROVIDERS
from gateway.upstream.client import UpstreamAnswer
from tests.fakes.memory import (
    FOREVER,
    JSON_ANSWER,
    PRINCIPAL,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    bind,
    decode,
    exchange_plan,
    play,
    services,
    target,
)

TITAN = target(
    provider=PROVIDERS["bedrock"],
    upstream_model="amazon.titan-embed-text-v2:0",
    api_base="http://first.test",
)
REFUSED = ConnectFault("The upstream could not be reached.", is_retryable=True)


def titan(text: str, *, tokens: int | None = 3, wait_s: float = 0.0) -> Script:
    answer = {"embedding": [float(len(text)), 0.5]} | ({} if tokens is None else {"inputTextTokenCount": tokens})
    return Script([orjson.dumps(answer)], headers=JSON_ANSWER, wait_s=wait_s)


def failing(status: int, wait_s: float = 0.0) -> Script:
    return Script([b'{"message":"no"}'], status=status, headers=JSON_ANSWER, wait_s=wait_s)


@dataclass(slots=True)
class TitanClient(ScriptedClient):
    """Answers by the text that is asked for, and sees how many calls are under way."""

    by_text: Mapping[str, Script | BaseException] = field(default_factory=dict)
    under_way: int = 0
    most: int = 0
    cancelled: int = 0

    async def send(self, request: UpstreamRequest, *, connect_timeout_s: float | None = None) -> UpstreamAnswer:
        text = orjson.loads(request.body)["inputText"]
        self.log.append(("dial", text))
        self.requests.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            script = self.by_text.get(text, titan(text, wait_s=1.0))
            alone = ScriptedClient([script])
            try:
                answer = await alone.send(request)
            finally:
                self.responses += alone.responses
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        return answer


@dataclass(frozen=True, slots=True)
class Outcome:
    ledger: MemoryLedger
    reply: MemoryReply
    client: TitanClient
    fault: BaseException | None
    took_s: float

    @property
    def row(self) -> Attempt:
        assert len(self.ledger.opened) == len(self.ledger.closed) == 1, "one attempt is one row"
        return self.ledger.closed[0]

    @property
    def shown(self) -> Any:
        return orjson.loads(self.reply.body)


def ask(
    texts: Any,
    by_text: Mapping[str, Script | BaseException] | None = None,
    *,
    plan: tuple[Target, ...] = (TITAN,),
    gone_at_s: float | None = None,
    timeout_s: float | None = None,
    **fields: Any,
) -> Outcome:
    async def story() -> Outcome:
        ledger, reply, client = MemoryLedger(), MemoryReply(), TitanClient([], by_text=by_text or {})
        exchange_services = services(client, ledger, tokens=Tokens())
        call = decode({"model": "public", "input": texts, **fields}, "embedding")
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            exchange_plan(
                bind(call), plan, PRINCIPAL, exchange_services, reply, request_id="request", timeout_s=timeout_s
            )
        )
        if gone_at_s is not None:
            loop.call_later(gone_at_s, task.cancel)
        await asyncio.wait([task])
        fault = asyncio.CancelledError() if task.cancelled() else task.exception()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "something is still under way"
        return Outcome(ledger, reply, client, fault, loop.time())

    outcome = play(story())
    assert all(response.ended_by for response in outcome.client.responses), "a connection was left open"
    return outcome


tags_of_tokens: list[object] = []  # the session tags


class Tokens:
    async def get(self, kind: str, target: Target, tags: object = ()) -> str:
        tags_of_tokens.append(tags)
        return '{"access_key_id": "AKID", "secret_access_key": "s"}'


def test_the_session_tags_of_a_deployment_are_those_of_the_caller() -> None:
    parameters = {**TITAN.parameters, "aws_role_name": "r", "aws_session_tags": ["organization", "team"]}
    tags_of_tokens.clear()
    ask(["x"], plan=(replace(TITAN, parameters=parameters, credential={}),))
    assert tags_of_tokens == [(("organization", PRINCIPAL.organization_id), ("team", PRINCIPAL.team_id))]


def test_many_texts_are_many_calls_one_row_and_one_answer_in_order() -> None:
    texts = ["x" * (1 + number % 5) for number in range(30)]
    outcome = ask(texts)
    assert outcome.fault is None
    assert [item["index"] for item in outcome.shown["data"]] == list(range(30))
    assert [item["embedding"][0] for item in outcome.shown["data"]] == [len(text) for text in texts]
    assert outcome.shown["usage"] == {"prompt_tokens": 90, "total_tokens": 90}
    assert outcome.shown["model"] == "public"
    assert (outcome.row.usage, outcome.row.usage_source) == (Usage(input_tokens=90), UsageSource.PROVIDER)
    assert (outcome.row.finish, outcome.row.status_code, outcome.row.is_sent) == (Finish.COMPLETE, 200, True)


def test_no_more_than_eight_are_asked_at_once() -> None:
    outcome = ask([f"text {number}" for number in range(20)])
    assert outcome.client.most == AT_ONCE == 8
    assert outcome.took_s == pytest.approx(3.0)  # twenty of a second each, eight at once


def test_answers_that_come_in_another_order_stay_at_their_places() -> None:
    outcome = ask(["aaa", "bb", "c"], {"aaa": titan("aaa", wait_s=3.0), "bb": titan("bb", wait_s=2.0)})
    assert [item["embedding"][0] for item in outcome.shown["data"]] == [3, 2, 1]


def test_one_text_is_one_call() -> None:
    for texts in ("alone", ["alone"]):
        outcome = ask(texts)
        assert len(outcome.client.requests) == 1
        assert outcome.row.usage == Usage(input_tokens=3)


def test_usage_that_one_part_does_not_tell_is_estimated_for_the_whole() -> None:
    outcome = ask(["a", "b"], {"b": titan("b", tokens=None)})
    assert outcome.row.usage_source is UsageSource.ESTIMATED
    assert outcome.row.usage.input_tokens > 0


def test_the_encoding_that_was_asked_for_is_that_of_every_part() -> None:
    outcome = ask(["a", "b"], encoding_format="base64")
    assert all(isinstance(item["embedding"], str) for item in outcome.shown["data"])


def test_what_could_not_be_sent_is_named_once() -> None:
    outcome = ask(["a", "b"], user="ann")
    assert dict(outcome.reply.headers)[b"x-tollgate-dropped-params"] == b"user"


@pytest.mark.parametrize(("status", "told_status"), [(400, 400), (429, 429), (500, 502)])
def test_one_failed_part_fails_the_whole_and_ends_the_others(status: int, told_status: int) -> None:
    texts = [f"text {number}" for number in range(20)]
    outcome = ask(texts, {texts[3]: failing(status, wait_s=0.5)})
    assert isinstance(outcome.fault, UpstreamFault)
    assert outcome.fault.status == told_status
    assert len(outcome.client.requests) == AT_ONCE, "no further part is begun"
    assert outcome.client.cancelled == AT_ONCE - 1
    assert outcome.took_s == pytest.approx(0.5)
    assert outcome.reply.body == b""
    assert (outcome.row.finish, outcome.row.status_code) == (Finish.UPSTREAM_ERROR, told_status)


def test_the_fault_of_the_part_that_failed_first_is_told() -> None:
    outcome = ask(["a", "b", "c"], {"a": failing(500, wait_s=2.0), "c": failing(429, wait_s=1.0)})
    assert isinstance(outcome.fault, Fault)
    assert outcome.fault.status == 429


def test_what_was_answered_before_a_failure_is_paid() -> None:
    texts = ["a", "b", "c"]
    outcome = ask(texts, {"a": titan("a", wait_s=0.1), "b": titan("b", wait_s=0.1), "c": failing(500, wait_s=0.5)})
    assert (outcome.row.usage, outcome.row.usage_source) == (Usage(input_tokens=6), UsageSource.PROVIDER)
    outcome = ask(texts, {"a": titan("a", tokens=None), "b": failing(500, wait_s=0.5)})
    assert outcome.row.usage_source is UsageSource.ESTIMATED
    assert outcome.row.usage.input_tokens > 0


def test_a_failure_before_anything_was_answered_costs_nothing() -> None:
    outcome = ask(["a", "b"], {"a": failing(500)})
    assert (outcome.row.usage, outcome.row.usage_source) == (Usage(), UsageSource.NONE)


@pytest.mark.parametrize("first_s", [0.1, 5.0])
def test_a_part_that_cannot_be_sent_leaves_the_row_sent_where_another_was_answered(first_s: float) -> None:
    """The second of the parts is dialled when the first one's place is free."""
    texts = [f"text {number}" for number in range(9)]
    slow = {text: titan(text, wait_s=5.0) for text in texts[1:8]}
    outcome = ask(texts, {texts[0]: titan("a", wait_s=first_s), **slow, texts[8]: REFUSED})
    assert outcome.fault is REFUSED
    assert outcome.row.is_sent
    assert outcome.row.usage.input_tokens >= 3


def test_where_no_part_could_be_sent_nothing_was() -> None:
    outcome = ask(["a", "b"], {"a": REFUSED, "b": REFUSED})
    assert (outcome.row.is_sent, outcome.row.usage) == (False, Usage())


def test_another_deployment_is_asked_for_the_whole() -> None:
    other = replace(TITAN, deployment_id="second", api_base="http://second.test")
    outcome = ask(["a", "b"], {"a": failing(503)}, plan=(TITAN, other))
    assert isinstance(outcome.fault, UpstreamFault)
    hosts = [request.url.split("/")[2] for request in outcome.client.requests]
    assert hosts == ["first.test"] * 2 + ["second.test"] * 2
    assert [row.target.deployment_id for row in outcome.ledger.closed] == ["first", "second"]


def test_a_client_that_leaves_ends_all_parts() -> None:
    outcome = ask([f"text {number}" for number in range(20)], gone_at_s=1.5)
    assert isinstance(outcome.fault, asyncio.CancelledError)
    assert outcome.client.under_way == 0
    assert outcome.row.finish is Finish.CLIENT_GONE
    assert outcome.row.usage_source is UsageSource.ESTIMATED


def test_the_time_limit_is_that_of_the_whole() -> None:
    outcome = ask(["a", "b"], {"b": titan("b", wait_s=FOREVER)}, timeout_s=2.0)
    assert isinstance(outcome.fault, UpstreamFault)
    assert outcome.fault.code == "deadline_exceeded"
    assert outcome.took_s == pytest.approx(2.0)
    assert outcome.client.cancelled == 1


def test_the_parts_of_one_request_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PARTS == 2048
    monkeypatch.setattr(batches, "MAX_PARTS", 3)
    outcome = ask(["a"] * 4)
    assert isinstance(outcome.fault, BadRequest)
    assert outcome.fault.param == "input"
    assert outcome.client.requests == []
    assert not outcome.row.is_sent
    assert ask(["a"] * 3).fault is None


def test_token_arrays_are_refused_where_only_texts_are_taken() -> None:
    outcome = ask([[1, 2], [3]])
    assert isinstance(outcome.fault, BadRequest)
    assert outcome.fault.param == "input"
