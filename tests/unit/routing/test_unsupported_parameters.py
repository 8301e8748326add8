"""Learned: a refusal names a parameter, which is left out of that deployment's calls from then on."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Finish
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic import client as anthropic_client
from gateway.protocol.errors import Fault, UpstreamFault
from gateway.protocol.provider import Target
from gateway.providers.registry import PROVIDERS
from gateway.routing import unsupported_parameters
from gateway.routing.unsupported_parameters import (
    ESSENTIAL,
    MAX_LESSONS,
    MAX_NAMES,
    REMEMBERED_S,
    UnsupportedParameters,
    find_refusal,
)
from tests.fakes import anthropic
from tests.fakes.memory import (
    JSON_ANSWER,
    PRINCIPAL,
    WHOLE_ANSWER,
    WHOLE_STREAM,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    bind,
    chat,
    decode,
    exchange_plan,
    play,
    services,
    target,
)


def fault(message: str, status: int = 400) -> UpstreamFault:
    return UpstreamFault(message, status=status, kind="invalid_request_error")


UNSUPPORTED = "Unsupported parameter: '{}' is not supported with this model."

AWS_KEYS = '{"access_key_id": "AKID", "secret_access_key": "s"}'

# What a refusal says


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.", "top_p"),
        ("The model returned the following errors: `temperature` and `top_p` cannot both be specified", "top_p"),
        ("temperature and top_p cannot both be specified for this model. Please use only one.", "top_p"),
        ("TEMPERATURE AND TOP_P CANNOT BOTH BE SPECIFIED", "top_p"),
        ("`temperature` is deprecated for this model.", "temperature"),
        ("`top_p` is deprecated for this model.", "top_p"),
        ("`top_k` has been deprecated", "top_k"),
        ("`temperature` is fine. `seed` is deprecated.", None),
        ("`max_tokens` is deprecated for this model.", None),
        (UNSUPPORTED.format("temperature"), "temperature"),
        (UNSUPPORTED.format("max_tokens") + " Use 'max_completion_tokens' instead.", "max_tokens"),
        ("Unsupported value: 'temperature' does not support 0.2 with this model.", "temperature"),
        ("unsupported parameter: logit_bias", "logit_bias"),
        ("Unsupported parameter: `seed`", "seed"),
        ("Unsupported value: 'messages[0].role' does not support 'system' with this model.", "messages"),
        ("Invalid value for 'temperature': must be at most 2.", None),
        ("Unsupported parameter: ''", None),
        ("Unrecognized request argument supplied: reasoning_effort", "reasoning_effort"),
        ("Unrecognized request arguments supplied: safe_prompt, top_k", "safe_prompt"),
        ("Unknown parameter: 'top_k'.", "top_k"),
        ("Unknown parameter: 'metadata.mine'.", None),
        ("Unknown parameter: 'reasoning[0]'.", None),
        ("Unrecognized request argument supplied: reasoning.effort", None),
        ("Unrecognized request argument supplied: a field of mine", None),
        ("The model said: Unrecognized request argument supplied: seed", None),
        ("Invalid input: Unknown parameter: 'seed'", None),
        ("1 validation error: input_value=\"Unsupported parameter: 'temperature'\"", None),
        ("The input was: unsupported parameter: 'temperature'", None),
        ("`seed` and `temperature` may be deprecated", None),
        ("", None),
    ],
)
def test_a_refusal_names_a_parameter(message: str, name: str | None) -> None:
    refusal = find_refusal(fault(message))
    assert (refusal.name if refusal is not None else None) == name


@pytest.mark.parametrize("status", [401, 403, 404, 408, 422, 429, 500, 502, 503])
def test_only_a_400_teaches(status: int) -> None:
    assert find_refusal(fault(UNSUPPORTED.format("seed"), status)) is None


# What is remembered


def test_what_was_refused_is_left_out_of_the_next_call() -> None:
    memory, first = UnsupportedParameters(), target()
    again = memory.note(first, chat(seed=1), fault(UNSUPPORTED.format("seed")))
    assert again is not None
    assert again.unsupported_parameters == {"seed"}
    assert again.deployment_id == first.deployment_id
    assert first.unsupported_parameters == frozenset()
    assert memory.apply(first).unsupported_parameters == {"seed"}
    assert memory.apply(target("other")).unsupported_parameters == frozenset()


def test_a_target_of_which_nothing_is_known_stays_as_it_is() -> None:
    original = target()
    assert UnsupportedParameters().apply(original) is original


def test_what_is_learned_adds_up() -> None:
    memory, call = UnsupportedParameters(), chat(seed=1, temperature=0.5)
    memory.note(target(), call, fault(UNSUPPORTED.format("seed")))
    again = memory.note(memory.apply(target()), call, fault(UNSUPPORTED.format("temperature")))
    assert again is not None
    assert again.unsupported_parameters == {"seed", "temperature"}
    assert memory.apply(target()).unsupported_parameters == {"seed", "temperature"}


def test_what_two_calls_learn_at_once_adds_up() -> None:
    memory, started = UnsupportedParameters(), target()  # both began before either was refused
    memory.note(started, chat(seed=1), fault(UNSUPPORTED.format("seed")))
    memory.note(started, chat(temperature=1), fault(UNSUPPORTED.format("temperature")))
    assert memory.apply(started).unsupported_parameters == {"seed", "temperature"}


@pytest.mark.parametrize("name", sorted(ESSENTIAL))
def test_without_an_essential_parameter_nothing_is_tried(name: str) -> None:
    memory = UnsupportedParameters()
    call = decode({"model": "public", "messages": [{"role": "user", "content": "x"}]})
    call = Call(**{field: getattr(call, field) for field in call.__slots__} | {"body": {**call.body, name: "x"}})
    assert memory.note(target(), call, fault(UNSUPPORTED.format(name))) is None
    assert memory.apply(target()).unsupported_parameters == frozenset()


@pytest.mark.parametrize("name", ["functions", "function_call", "n", "dimensions", "encoding_format", "modalities"])
def test_what_gives_an_answer_of_another_shape_is_essential_too(name: str) -> None:
    assert name in ESSENTIAL


def test_what_the_client_did_not_send_teaches_nothing() -> None:
    memory = UnsupportedParameters()
    assert memory.note(target(), chat(), fault(UNSUPPORTED.format("seed"))) is None
    assert memory.apply(target()).unsupported_parameters == frozenset()


def test_what_is_left_out_already_teaches_nothing() -> None:
    knows = target(unsupported_parameters=frozenset({"seed"}))
    assert UnsupportedParameters().note(knows, chat(seed=1), fault(UNSUPPORTED.format("seed"))) is None


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsupported_parameters, "MAX_SUBJECTS", 2)
    memory, refusal = UnsupportedParameters(), fault(UNSUPPORTED.format("seed"))
    again = [memory.note(target(name), chat(seed=1), refusal) for name in ("one", "two", "three")]
    assert all(retry is not None and retry.unsupported_parameters == {"seed"} for retry in again), (
        "this call is still tried once more"
    )
    assert [bool(memory.apply(target(name)).unsupported_parameters) for name in ("one", "two", "three")] == [
        False,
        True,
        True,
    ]


def test_a_full_memory_still_learns_of_those_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsupported_parameters, "MAX_SUBJECTS", 1)
    memory, call = UnsupportedParameters(), chat(seed=1, temperature=1)
    memory.note(target(), call, fault(UNSUPPORTED.format("seed")))
    memory.note(memory.apply(target()), call, fault(UNSUPPORTED.format("temperature")))
    assert memory.apply(target()).unsupported_parameters == {"seed", "temperature"}


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default is supported.",
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
    ],
)
def test_a_refused_value_is_left_out_of_this_call_alone(message: str) -> None:
    memory = UnsupportedParameters()
    retry = memory.note(target(), chat(temperature=0.2, top_p=0.5), fault(message))
    assert retry is not None
    assert len(retry.unsupported_parameters) == 1
    assert memory.apply(target()).unsupported_parameters == frozenset(), "another caller's value may be a good one"


def test_a_refusal_is_forgotten_in_time() -> None:
    now = 0.0
    memory = UnsupportedParameters(lambda: now)
    memory.note(target(), chat(seed=1), fault(UNSUPPORTED.format("seed")))
    now = REMEMBERED_S - 1
    assert memory.apply(target()).unsupported_parameters == {"seed"}
    now = REMEMBERED_S + 1
    assert memory.apply(target()).unsupported_parameters == frozenset()


@pytest.mark.parametrize("change", [{"upstream_model": "newer"}, {"api_base": "http://elsewhere.test"}])
def test_a_deployment_that_was_changed_has_refused_nothing_yet(change: dict[str, str]) -> None:
    memory = UnsupportedParameters()
    memory.note(target(), chat(seed=1), fault(UNSUPPORTED.format("seed")))
    assert memory.apply(replace(target(), **change)).unsupported_parameters == frozenset()


# In an exchange


def refuses(name: str) -> Script:
    error = {"error": {"message": UNSUPPORTED.format(name), "type": "invalid_request_error", "param": name}}
    return Script([orjson.dumps(error)], status=400, headers=JSON_ANSWER)


ANSWERS = Script([WHOLE_ANSWER], headers=JSON_ANSWER)


class Gateway:
    """Exchanges that share what they learn."""

    def __init__(self, *answers: Script) -> None:
        self.client = ScriptedClient(answers)
        self.ledger = MemoryLedger()
        self.reply = MemoryReply()
        self._services = services(self.client, self.ledger)

    def ask(self, *calls: Call, plan: tuple[Target, ...] = (target(),)) -> Fault | None:
        """The fault of the last call."""

        async def story() -> Fault | None:
            result: Fault | None = None
            for call in calls:
                self.reply = MemoryReply()
                try:
                    await exchange_plan(
                        bind(call), plan, PRINCIPAL, self._services, self.reply, request_id="request", timeout_s=None
                    )
                    result = None
                except Fault as fault:
                    result = fault
            await asyncio.sleep(0)
            return result

        return play(story())

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [orjson.loads(request.body) for request in self.client.requests]


def test_a_refused_call_is_made_once_more_without_what_was_refused() -> None:
    gateway = Gateway(refuses("seed"), ANSWERS)
    assert gateway.ask(chat(seed=1, temperature=0.5)) is None
    assert [body.get("seed") for body in gateway.bodies] == [1, None]
    assert [body["temperature"] for body in gateway.bodies] == [0.5, 0.5]
    assert len({request.url for request in gateway.client.requests}) == 1
    assert (gateway.reply.status, gateway.reply.body) == (200, WHOLE_ANSWER.replace(b"private", b"public"))


def test_each_try_has_a_row_of_its_own() -> None:
    gateway = Gateway(refuses("seed"), ANSWERS)
    gateway.ask(chat(seed=1))
    assert [(row.number, row.finish, row.status_code) for row in gateway.ledger.closed] == [
        (0, Finish.UPSTREAM_ERROR, 400),
        (1, Finish.COMPLETE, 200),
    ]
    assert len({row.id for row in gateway.ledger.opened}) == 2


def test_the_next_call_leaves_it_out_at_once() -> None:
    gateway = Gateway(refuses("seed"), ANSWERS, ANSWERS)
    assert gateway.ask(chat(seed=1), chat(seed=2)) is None
    assert [body.get("seed") for body in gateway.bodies] == [1, None, None]
    assert len(gateway.ledger.closed) == 3


def test_a_stream_is_made_once_more_too() -> None:
    gateway = Gateway(refuses("seed"), Script(WHOLE_STREAM))
    assert gateway.ask(chat(stream=True, seed=1)) is None
    assert [body.get("seed") for body in gateway.bodies] == [1, None]
    assert gateway.reply.is_complete
    assert b"error" not in gateway.reply.body


def test_a_refusal_behind_the_first_words_is_told_and_not_tried_again() -> None:
    error = {"type": "invalid_request_error", "message": UNSUPPORTED.format("temperature")}
    begun = anthropic.begin() + anthropic.block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hel"})
    gateway = Gateway(Script([begun, anthropic.event("error", error=error)]), Script([anthropic.FULL]))
    result = gateway.ask(chat(stream=True, temperature=1), plan=(target(provider=PROVIDERS["anthropic"]),))
    assert result is not None
    assert result.status == 400
    assert b"Hel" in gateway.reply.body
    assert len(gateway.client.requests) == 1


def test_other_deployments_and_further_tries_of_one_are_counted_apart() -> None:
    down = Script([b"{}"], status=503, headers=JSON_ANSWER)
    gateway = Gateway(down, refuses("seed"), ANSWERS)
    assert gateway.ask(chat(seed=1), plan=(target("one"), target("two"))) is None
    assert [(row.fallbacks, row.retries) for row in gateway.ledger.closed] == [(0, 0), (1, 0), (1, 1)]


def test_a_limit_is_told_by_its_new_name() -> None:
    gateway = Gateway(refuses("max_tokens"), ANSWERS)
    assert gateway.ask(chat(max_tokens=7)) is None
    assert "max_tokens" not in gateway.bodies[1]
    assert gateway.bodies[1]["max_completion_tokens"] == 7


def messages(**fields: Any) -> Call:
    """A call of a client that speaks Anthropic's dialect."""
    body = {"model": "public", "max_tokens": 50, "messages": [{"role": "user", "content": "say hello"}], **fields}
    return anthropic_client.DIALECT.decode(orjson.dumps(body), Hints())


def test_what_another_dialects_client_asks_for_in_other_words_is_learned_too() -> None:
    deployment = target(provider=PROVIDERS["azure"], capabilities=Capabilities(reasoning_model=True))
    gateway = Gateway(refuses("reasoning_effort"), ANSWERS, ANSWERS)
    request = messages(thinking={"type": "enabled", "budget_tokens": 2048})
    assert "reasoning_effort" not in request.body
    assert gateway.ask(request, request, plan=(deployment,)) is None
    assert [body.get("reasoning_effort") for body in gateway.bodies] == ["medium", None, None]


@pytest.mark.parametrize("provider", ["azure", "openai", "openai_compatible"])
def test_another_dialects_limit_is_told_by_its_new_name(provider: str) -> None:
    gateway = Gateway(refuses("max_tokens"), ANSWERS)
    assert gateway.ask(messages(), plan=(target(provider=PROVIDERS[provider]),)) is None
    assert [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in gateway.bodies] == [
        (50, None),
        (None, 50),
    ]


@pytest.mark.parametrize("sent", [b"", b"{", b"[1]", b'"seed"', b'{"messages":[{"seed":1}]}'])
def test_what_was_not_sent_teaches_nothing(sent: bytes) -> None:
    memory = UnsupportedParameters()
    assert memory.note(target(), chat(), fault(UNSUPPORTED.format("seed")), sent) is None
    assert memory.apply(target()).unsupported_parameters == frozenset()


def test_the_same_refusal_twice_is_told() -> None:
    gateway = Gateway(refuses("seed"), refuses("seed"))
    result = gateway.ask(chat(seed=1))
    assert isinstance(result, UpstreamFault)
    assert (result.status, result.message) == (400, UNSUPPORTED.format("seed"))
    assert len(gateway.client.requests) == 2


def test_two_refused_parameters_are_learned_one_after_the_other() -> None:
    gateway = Gateway(refuses("seed"), refuses("temperature"), ANSWERS)
    assert gateway.ask(chat(seed=1, temperature=0.5)) is None
    assert [sorted({"seed", "temperature"} & body.keys()) for body in gateway.bodies] == [
        ["seed", "temperature"],
        ["temperature"],
        [],
    ]


def test_an_upstream_that_refuses_everything_is_asked_four_times_more_at_most() -> None:
    names = [f"field_{letter}" for letter in "abcdef"]
    gateway = Gateway(*[refuses(name) for name in names])
    result = gateway.ask(chat(**dict.fromkeys(names, 1)))
    assert result is not None
    assert result.status == 400
    assert len(gateway.client.requests) == len(gateway.ledger.closed) == 1 + MAX_LESSONS == 5


def test_the_refusals_of_all_deployments_of_a_call_count_together() -> None:
    names = [f"field_{letter}" for letter in "abcd"]
    down = Script([b"{}"], status=503, headers=JSON_ANSWER)
    gateway = Gateway(*[refuses(name) for name in names[:3]], down, *[refuses(name) for name in names[:2]])
    result = gateway.ask(chat(**dict.fromkeys(names, 1)), plan=(target("one"), target("two")))
    assert result is not None
    assert result.status == 400
    assert [row.target.deployment_id for row in gateway.ledger.closed] == ["one"] * 4 + ["two"] * 2


@pytest.mark.parametrize("provider", ["openai_compatible", "sglang", "openai"])
@pytest.mark.parametrize("asks_usage", [False, True], ids=["silent", "asks for usage"])
def test_stream_options_once_refused_are_not_put_back(provider: str, asks_usage: bool) -> None:
    gateway = Gateway(refuses("stream_options"), Script(WHOLE_STREAM), Script(WHOLE_STREAM))
    call = chat(stream=True, usage=asks_usage)
    assert gateway.ask(call, call, plan=(target(provider=PROVIDERS[provider]),)) is None
    assert ["stream_options" in body for body in gateway.bodies] == [True, False, False]


def test_a_deployments_own_parameter_is_not_sent_once_it_was_refused() -> None:
    gateway = Gateway(refuses("seed"), ANSWERS, ANSWERS)
    deployment = target(parameters={"seed": 7, "temperature": 0.5})
    assert gateway.ask(chat(), chat(seed=1), plan=(deployment,)) is None
    assert [body.get("seed") for body in gateway.bodies] == [7, None, None]
    assert [body["temperature"] for body in gateway.bodies] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", sorted(PROVIDERS.keys() - {"mock"}))
def test_no_provider_sends_a_deployments_parameter_that_was_refused(name: str) -> None:
    provider = PROVIDERS[name]
    own = {"seed": 7, "oddity": "odd-value"}
    deployment = target(provider=provider, parameters={**own, "vertex_project": "p", "aws_region_name": "eu-west-1"})
    memory = UnsupportedParameters()
    for refused in own:
        assert memory.note(memory.apply(deployment), chat(), fault(UNSUPPORTED.format(refused))) is not None
    sent = provider.request(chat(), memory.apply(deployment), AttemptContext("a", 0.0, token=AWS_KEYS)).body
    assert b"odd-value" not in sent
    assert b'"seed"' not in sent


def test_a_providers_own_parameter_is_no_field_of_the_body_and_stays() -> None:
    deployment = target(provider=PROVIDERS["vertex_ai"], parameters={"vertex_project": "p"})
    memory = UnsupportedParameters()
    memory.note(deployment, chat(), fault(UNSUPPORTED.format("vertex_project")))
    assert memory.apply(deployment).parameters == {"vertex_project": "p"}


def test_the_names_of_one_deployment_are_bounded() -> None:
    memory = UnsupportedParameters()
    names = [f"field_{first}{second}" for first in "abcdefghij" for second in "abcdefghij"]
    for name in names:
        memory.note(target(), chat(**{name: 1}), fault(UNSUPPORTED.format(name)))
    assert len(memory.apply(target()).unsupported_parameters) == MAX_NAMES


def test_what_was_left_out_of_a_passed_through_call_is_named() -> None:
    gateway = Gateway(refuses("seed"), ANSWERS)
    assert gateway.ask(chat(seed=1)) is None
    assert dict(gateway.reply.headers)[b"x-tollgate-dropped-params"] == b"seed"


@pytest.mark.parametrize("name", ["messages", "tools", "model", "response_format"])
def test_the_refusal_of_an_essential_parameter_is_told(name: str) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    gateway = Gateway(refuses(name))
    result = gateway.ask(chat(tools=[tool], response_format={"type": "json_object"}))
    assert result is not None
    assert result.status == 400
    assert len(gateway.client.requests) == 1


def test_another_deployment_is_asked_in_full() -> None:
    down = Script([b"{}"], status=503, headers=JSON_ANSWER)
    gateway = Gateway(refuses("seed"), down, ANSWERS)
    assert gateway.ask(chat(seed=1), plan=(target("one"), target("two"))) is None
    assert [body.get("seed") for body in gateway.bodies] == [1, None, 1]
    assert [row.target.deployment_id for row in gateway.ledger.closed] == ["one", "one", "two"]
