"""Count: the upstream's own count where it speaks the client's wire; whatever goes wrong, there is still an answer."""

from typing import Any

import orjson
import pytest

from gateway.pipeline.upstream_token_count import TIMEOUT_S, count_upstream
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic.client import DIALECT
from gateway.protocol.errors import ConnectFault, UpstreamFault
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.providers.registry import PROVIDERS
from tests.fakes.memory import (
    CREDENTIAL,
    FOREVER,
    JSON_ANSWER,
    MemoryLedger,
    Script,
    ScriptedClient,
    play,
    services,
    target,
)

BODY = {"model": "public", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "temperature": 0.5}
CALL = DIALECT.decode_count(orjson.dumps(BODY), Hints(betas="beta-1"))


def claude(**changes: Any) -> Target:
    fields = {
        "provider": PROVIDERS["anthropic"],
        "upstream_model": "claude-sonnet-4-5",
        "api_base": "http://first.test",
    }
    return target(**(fields | changes))


class Tokens:
    async def get(self, kind: str, target: Target, tags: object = ()) -> str:
        return f"token of {kind}"


def count(*answers: Script | BaseException, where: Target | None = None) -> tuple[int | None, ScriptedClient]:
    ledger, client = MemoryLedger(), ScriptedClient(answers)
    counted = play(count_upstream(CALL, where or claude(), services(client, ledger, tokens=Tokens())))
    assert ledger.opened == [], "counting costs nothing and has no row"
    assert all(response.ended_by for response in client.responses)
    return counted, client


def count_answer(body: Any, status: int = 200, wait_s: float = 0.0) -> Script:
    return Script([orjson.dumps(body)], status=status, headers=JSON_ANSWER, wait_s=wait_s)


def test_the_upstreams_own_count_is_taken() -> None:
    counted, client = count(count_answer({"input_tokens": 1234}))
    assert counted == 1234
    request = client.requests[0]
    assert request.url == "http://first.test/v1/messages/count_tokens"
    assert orjson.loads(request.body) == {"model": "claude-sonnet-4-5", "messages": BODY["messages"]}
    assert request.headers["x-api-key"] == CREDENTIAL
    assert request.headers["anthropic-beta"] == "beta-1"


def test_a_foundry_deployment_of_the_same_wire_counts_too() -> None:
    where = claude(provider=PROVIDERS["azure_ai"], api_base="https://r.services.ai.azure.com", credential={})
    counted, client = count(count_answer({"input_tokens": 9}), where=where)
    assert counted == 9
    assert client.requests[0].url == "https://r.services.ai.azure.com/anthropic/v1/messages/count_tokens"
    assert client.requests[0].headers["authorization"] == "Bearer token of entra"


@pytest.mark.parametrize(
    "where",
    [
        claude(provider=PROVIDERS["openai"], upstream_model="gpt-4o"),
        claude(provider=PROVIDERS["bedrock"]),
        claude(provider=PROVIDERS["gemini"], upstream_model="gemini-2.5-flash"),
        claude(
            provider=PROVIDERS["vertex_ai"],
            parameters={"vertex_project": "p"},
            credential={"api_key": Secret("k")},
        ),
    ],
    ids=lambda where: str(where.provider.name),
)
def test_what_does_not_count_in_this_format_is_not_asked(where: Target) -> None:
    assert count(where=where)[0] is None


@pytest.mark.parametrize(
    "answer",
    [
        count_answer({"error": {}}, 400),
        count_answer({"error": {}}, 500),
        count_answer({"input_tokens": 1}, 302),
        count_answer({"input_tokens": "12"}),
        count_answer({"input_tokens": -1}),
        count_answer({"input_tokens": True}),
        count_answer({"input_tokens": 10**13}),
        count_answer([]),
        Script([b"<html>"]),
        Script([b'{"input_tokens": 1'], headers=JSON_ANSWER),
        Script([b"x" * (1024 * 1024 + 1)], headers=JSON_ANSWER),
        count_answer({"input_tokens": 1}, wait_s=TIMEOUT_S + 1),
        Script([b"{", FOREVER], headers=JSON_ANSWER),
        ConnectFault("The upstream could not be reached."),
        UpstreamFault("The upstream broke off before it answered."),
    ],
    ids=str,
)
def test_an_unusable_count_is_none(answer: Script | BaseException) -> None:
    assert count(answer)[0] is None
