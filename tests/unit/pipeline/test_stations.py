"""Identify, Interpret and Admit, and the headers of an answer."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pipeline.admit import ROUTING_FIELDS, admit, find_fallback, may_call
from gateway.pipeline.answer_headers import answer_headers, header_text
from gateway.pipeline.identify import CARRIERS, Plane, identify, presented_key
from gateway.pipeline.interpret import interpret, read_hints, read_timeout
from gateway.pipeline.ports import Attempt, Catalog, Dimension, LimitRule, Principal, Rules
from gateway.pipeline.routing_request import read_route_options
from gateway.pipeline.run import Inbound, run
from gateway.protocol.call import Call, Operation
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.errors import BadRequest, Fault, Forbidden, GatewayFault, NotFound, Unauthorized
from gateway.protocol.routing_options import FALLBACK_FIELDS
from gateway.providers.registry import PROVIDERS
from gateway.routing.error_class import ErrorClass
from gateway.routing.settings import RoutingSettings
from gateway.routing.walk import RouteOptions
from tests.fakes.memory import (
    DIALECTS,
    EPOCH,
    JSON_ANSWER,
    PRINCIPAL,
    WHOLE_ANSWER,
    MemoryDirectory,
    MemoryLedger,
    MemoryReply,
    Script,
    ScriptedClient,
    chat,
    play,
    services,
    target,
)

# Identify

CARRIED: list[tuple[dict[bytes, bytes], str]] = [
    ({b"authorization": b"Bearer sk-1"}, "sk-1"),
    ({b"authorization": b"bearer  sk-1 "}, "sk-1"),
    ({b"authorization": b"sk-1"}, "sk-1"),
    ({b"x-api-key": b"sk-1"}, "sk-1"),
    ({b"api-key": b"sk-1"}, "sk-1"),
    ({b"x-litellm-api-key": b"Bearer sk-1"}, "sk-1"),
    ({b"x-litellm-api-key": b"sk-1", b"authorization": b"Bearer sk-2"}, "sk-1"),
    ({b"authorization": b"Bearer sk-1", b"x-api-key": b"sk-2"}, "sk-1"),
    ({b"authorization": b"", b"x-api-key": b"sk-2"}, "sk-2"),
    ({b"authorization": b"  ", b"x-api-key": b"sk-2"}, "sk-2"),
    ({}, ""),
    ({b"authorization": b"Bearer "}, ""),
    ({b"authorization": b"Bearer", b"x-api-key": b"sk-2"}, ""),
    ({b"authorization": b"x" * 5000}, ""),
    ({b"cookie": b"sk-1"}, ""),
]


@pytest.mark.parametrize("plane", Plane)
@pytest.mark.parametrize(("headers", "key"), CARRIED)
def test_every_carrier_of_a_key_is_read_in_one_order(headers: dict[bytes, bytes], key: str, plane: Plane) -> None:
    assert presented_key(headers, plane) == key


def test_googles_carrier_opens_the_data_plane_only() -> None:
    headers = {b"x-goog-api-key": b"sk-1"}
    assert presented_key(headers, Plane.DATA) == "sk-1"
    assert presented_key(headers, Plane.MANAGEMENT) == ""
    assert [name for name, planes in CARRIERS if Plane.MANAGEMENT not in planes] == [b"x-goog-api-key"]


HOLDERS = {
    "sk-good": PRINCIPAL,
    "sk-expired": replace(PRINCIPAL, expires_at_s=99.0),
    "sk-expires-now": replace(PRINCIPAL, expires_at_s=100.0),
    "sk-expires-later": replace(PRINCIPAL, expires_at_s=100.1),
}


@pytest.mark.parametrize("key", ["sk-good", "sk-expires-later"])
def test_a_valid_key_is_its_holder(key: str) -> None:
    directory = MemoryDirectory(HOLDERS)
    principal = asyncio.run(identify({b"authorization": f"Bearer {key}".encode()}, directory, 100.0))
    assert principal is HOLDERS[key]


def test_every_refused_key_gets_the_same_answer() -> None:
    refusals = set()
    for value in (b"", b"Bearer sk-unknown", b"Bearer sk-expired", b"Bearer sk-expires-now", b"x" * 5000):
        with pytest.raises(Unauthorized) as refused:
            asyncio.run(identify({b"authorization": value}, MemoryDirectory(HOLDERS), 100.0))
        fault = refused.value
        refusals.add((fault.status, fault.type, fault.code, fault.param, fault.message, fault.headers))
    assert len(refusals) == 1
    assert next(iter(refusals))[:3] == (401, "auth_error", "invalid_api_key")
    assert "Incorrect API key provided" in next(iter(refusals))[4], "by these words LiteLLM's client knows the error"


def test_a_missing_key_asks_nobody_and_an_outage_is_no_401() -> None:
    directory = MemoryDirectory(fails=GatewayFault("away"))
    with pytest.raises(Unauthorized):
        asyncio.run(identify({}, directory, 0))
    assert directory.lookups == []
    with pytest.raises(GatewayFault):
        asyncio.run(identify({b"x-api-key": b"sk-1"}, directory, 0))


# Interpret


def test_hints_are_read_from_litellms_headers() -> None:
    hints = read_hints(
        {
            b"x-litellm-customer-id": "安娜".encode(),
            b"x-litellm-end-user-id": b"second",
            b"x-litellm-tags": b" a, b ,,c\0 ",
            b"x-litellm-spend-logs-metadata": b'{"job": 7}',
        }
    )
    assert (hints.end_user, hints.tags, hints.metadata) == ("安娜", ("a", "b", "c"), {"job": 7})
    assert read_hints({b"x-litellm-end-user-id": b"\xffann"}).end_user == "\ufffdann"
    assert read_hints({b"accept": b"x"}) == read_hints({})


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"7", b"\xff", b"null"])
def test_spend_metadata_that_is_no_object_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        read_hints({b"x-litellm-spend-logs-metadata": value})
    assert refused.value.param == "x-litellm-spend-logs-metadata"


TIMEOUTS: list[tuple[dict[bytes, bytes], bool, float | None]] = [
    ({}, False, None),
    ({b"x-litellm-timeout": b"2.5"}, False, 2.5),
    ({b"x-litellm-timeout": b"2.5"}, True, 2.5),
    ({b"x-litellm-timeout": b"2", b"x-litellm-stream-timeout": b"1"}, True, 1),
    ({b"x-litellm-timeout": b"2", b"x-litellm-stream-timeout": b"1"}, False, 2),
    ({b"x-litellm-timeout": b"1e7"}, False, 1e6),
]


@pytest.mark.parametrize(("headers", "stream", "seconds"), TIMEOUTS)
def test_a_client_may_ask_for_a_shorter_time(headers: dict[bytes, bytes], stream: bool, seconds: float | None) -> None:
    assert read_timeout(headers, {}, stream=stream) == seconds


@pytest.mark.parametrize(("value", "seconds"), [(None, 2), (1.5, 1.5), (3, 2)])
def test_of_a_time_in_the_body_and_one_in_a_header_the_shorter_counts(value: Any, seconds: float) -> None:
    assert read_timeout({b"x-litellm-timeout": b"2"}, {"timeout": value}, stream=False) == seconds
    assert read_timeout({}, {"timeout": value}, stream=True) == value


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"nan", b"inf", b"1e999", b"1_0", b"1" * 10_000, b"soon", b"\xff"])
def test_a_time_that_is_no_positive_number_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        read_timeout({b"x-litellm-timeout": value}, {}, stream=False)
    assert refused.value.param == "x-litellm-timeout"


@pytest.mark.parametrize(
    ("fields", "headers", "param"),
    [
        ({"user": "x" * 256}, {}, "user"),
        ({}, {b"x-litellm-customer-id": b"x" * 256}, "user"),
        ({"tags": ["ok", "x" * 256]}, {}, "tags"),
        ({}, {b"x-litellm-tags": b"a," + b"x" * 256}, "tags"),
    ],
)
def test_a_hint_that_no_column_holds_is_refused(fields: Any, headers: dict[bytes, bytes], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        interpret(chat(**fields).raw, headers, DIALECTS["chat"])
    assert refused.value.param == param


# Admit


@pytest.mark.parametrize(
    ("lists", "model", "may"),
    [
        ([], "gpt", True),
        ([["gpt"]], "gpt", True),
        ([["gpt"]], "gpt-4", False),
        ([["gpt-*"]], "gpt-4", True),
        ([["gpt-*"]], "gpt", False),
        ([["*"]], "anything", True),
        ([["*"], ["gpt"]], "gpt", True),
        ([["*"], ["gpt"]], "claude", False),
        ([["gpt", "claude"], ["gpt"]], "claude", False),
        ([["no-default-models"]], "gpt", False),
        ([["GPT"]], "gpt", False),
        ([["g*t"]], "gpt", False),
    ],
)
def test_every_list_of_models_must_allow_the_model(lists: list[list[str]], model: str, may: bool) -> None:
    principal = Principal("home", "d", allowed_models=tuple(frozenset(names) for names in lists))
    assert may_call(principal, model) is may


SHARED, OWN, FOREIGN = target("shared"), target("own", organization_id="home"), target("foreign")
CATALOG = Catalog(
    {
        (None, "public"): (SHARED,),
        ("home", "mine"): (OWN,),
        ("abroad", "theirs"): (FOREIGN,),
        (None, "both"): (SHARED,),
        ("home", "both"): (OWN,),
        (None, "text"): (target("text", provider=PROVIDERS["lightllm"]),),
    }
)


@pytest.mark.parametrize(("model", "expected"), [("public", SHARED), ("mine", OWN), ("both", OWN)])
def test_an_organization_reaches_its_own_and_the_shared_deployments(model: str, expected: Any) -> None:
    assert admit(chat(model=model), PRINCIPAL, CATALOG) == (expected,)


@pytest.mark.parametrize("model", ["absent", "theirs", "PUBLIC"])
def test_a_model_that_is_absent_or_anothers_is_the_same_404(model: str) -> None:
    with pytest.raises(NotFound) as refused:
        admit(chat(model=model), PRINCIPAL, CATALOG)
    assert (refused.value.status, refused.value.param, refused.value.code) == (404, "model", "model_not_found")
    assert refused.value.message == f"The model '{model}' does not exist or you do not have access to it."


def test_a_forbidden_model_is_a_403_that_names_it_and_the_master_key_may_call_all() -> None:
    narrow = replace(PRINCIPAL, allowed_models=(frozenset({"mine"}),))
    with pytest.raises(Forbidden) as refused:
        admit(chat(), narrow, CATALOG)
    assert (refused.value.status, refused.value.param, refused.value.code) == (403, "model", "model_not_found")
    assert "public" in refused.value.message
    assert admit(chat(), replace(narrow, is_master=True), CATALOG) == (SHARED,)


@pytest.mark.parametrize("model", ["public", "absent", "theirs"])
def test_a_key_with_a_list_gets_the_same_403_for_every_model_outside_it(model: str) -> None:
    narrow = replace(PRINCIPAL, allowed_models=(frozenset({"mine"}),))
    with pytest.raises(Forbidden) as refused:
        admit(chat(model=model), narrow, CATALOG)
    assert refused.value.message == f"The requested model '{model}' is not available for this API key."


@pytest.mark.parametrize("field", sorted(ROUTING_FIELDS))
def test_a_field_that_chooses_another_model_is_refused_unless_the_deployment_allows_it(field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        admit(chat(**{field: ["other/model"]}), PRINCIPAL, CATALOG)
    assert (refused.value.param, refused.value.status) == (field, 400)
    assert admit(chat(**{field: None}), PRINCIPAL, CATALOG) == (SHARED,)
    open_one = replace(SHARED, deployment_id="aggregator", capabilities=Capabilities(routing_fields=True))
    both = Catalog({(None, "public"): (SHARED, open_one)})
    assert admit(chat(**{field: ["other/model"]}), PRINCIPAL, both) == (open_one,)
    assert find_fallback(chat(**{field: ["other/model"]}), PRINCIPAL, both, "public") == (open_one,)


NARROW = replace(PRINCIPAL, allowed_models=(frozenset({"public", "other"}),))
ALIASED = Catalog(CATALOG.groups, {"other": "mine"})


def options(call: Call, principal: Principal = PRINCIPAL, catalog: Catalog = CATALOG, **headers: bytes) -> RouteOptions:
    lines = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return read_route_options(call, lines, principal, catalog)


@pytest.mark.parametrize("field", sorted(FALLBACK_FIELDS))
def test_a_fallback_that_the_caller_may_not_have_is_refused_by_name_and_never_passed_over(field: str) -> None:
    for principal, name, status in ((NARROW, "mine", 403), (NARROW, "absent", 403), (PRINCIPAL, "absent", 404)):
        with pytest.raises(Fault) as refused:
            admit(chat(**{field: [{"public": ["public", name]}]}), principal, CATALOG)
        assert (refused.value.status, refused.value.param, refused.value.code) == (status, field, "model_not_found")
        assert f"'{name}'" in refused.value.message
    with pytest.raises(NotFound, match="does not serve embedding requests"):
        admit(replace(chat(**{field: [{"public": ["text"]}]}), operation=Operation.EMBEDDING), PRINCIPAL, CATALOG)
    assert admit(chat(**{field: [{"public": ["mine"]}]}), PRINCIPAL, CATALOG) == (SHARED,)


def test_a_fallback_of_another_tenant_is_unknown() -> None:
    with pytest.raises(NotFound):
        admit(chat(fallbacks=["theirs"]), PRINCIPAL, CATALOG)


def test_a_fallback_may_be_an_alias_that_the_key_may_call() -> None:
    call = chat(fallbacks=["other"])
    assert admit(call, NARROW, ALIASED) == (SHARED,)
    assert options(call, NARROW, ALIASED).fallbacks == ("mine",)
    assert find_fallback(call, NARROW, ALIASED, "mine") == (OWN,)
    assert find_fallback(chat(), NARROW, ALIASED, "mine") == ()
    assert find_fallback(chat(), NARROW, ALIASED, "other") == (OWN,)  # as the settings name it
    own_alias = replace(PRINCIPAL, model_aliases=(("mine-too", "mine"),))
    assert options(chat(fallbacks=["mine-too"]), own_alias).fallbacks == ("mine",)


def test_a_client_says_in_the_body_how_its_call_is_routed() -> None:
    assert options(chat()) == RouteOptions()
    assert options(chat(num_retries=0, disable_fallbacks=True)) == RouteOptions(0, is_without_fallbacks=True)
    assert options(chat(num_retries=3), x_litellm_num_retries=b"1").retries == 1
    assert options(chat(fallbacks=None, disable_fallbacks=False)) == RouteOptions()
    assert options(chat(fallbacks=[])).fallbacks == ()
    several = options(chat(fallbacks=["mine"], context_window_fallback_dict={"public": "text"}))
    assert (several.fallbacks, several.context_window_fallbacks) == (("mine",), ("text",))


WILD = Catalog({(None, "openai/*"): (target("wild", model_group="openai/*", upstream_model="*"),)})


@pytest.mark.parametrize("models", [[], ["openai/*"], ["openai/gpt*"], ["openai/gpt-4o"], ["*"]])
def test_a_key_uses_a_pattern_by_any_entry_that_covers_the_name(models: list[str]) -> None:
    key = replace(PRINCIPAL, allowed_models=(frozenset(models),) if models else ())
    (bound,) = admit(chat(model="openai/gpt-4o"), key, WILD)
    assert (bound.model_group, bound.upstream_model) == ("openai/gpt-4o", "gpt-4o")


@pytest.mark.parametrize("models", [["gpt-4o"], ["openai/gpt-4o"], ["openai/gpt*"], ["anthropic/*"]])
def test_a_key_reaches_no_other_model_through_a_pattern(models: list[str]) -> None:
    key = replace(PRINCIPAL, allowed_models=(frozenset(models),))
    with pytest.raises(Forbidden):
        admit(chat(model="openai/secret"), key, WILD)


@pytest.mark.parametrize("name", ["openai/*", "openai/../x", "openai/" + "y" * 10_000, "openai/a b", "openai/a%2fb"])
def test_a_name_that_no_pattern_serves_is_a_404(name: str) -> None:
    with pytest.raises(NotFound) as refused:
        admit(chat(model=name), PRINCIPAL, WILD)
    assert len(refused.value.message) < 400


def test_a_fallback_that_a_pattern_serves_needs_the_keys_access_too() -> None:
    key = replace(PRINCIPAL, allowed_models=(frozenset({"openai/gpt-4o"}),))
    call = chat(model="openai/gpt-4o")
    assert find_fallback(call, key, WILD, "openai/secret") == ()
    (bound,) = find_fallback(call, PRINCIPAL, WILD, "openai/mini")
    assert bound.upstream_model == "mini"


def test_an_alias_shares_the_fallbacks_of_its_group_and_opens_no_other() -> None:
    catalog = Catalog({(None, "public"): (SHARED,), (None, "secret"): (OWN,)}, {"alias": "public", "hop": "secret"})
    key = replace(PRINCIPAL, allowed_models=(frozenset({"alias", "public"}),))
    (found,) = admit(chat(model="alias"), key, catalog)
    settings = RoutingSettings(fallbacks={"public": ("hop", "secret", "public")})
    assert settings.fallbacks_of(found.group_names, ErrorClass.SERVER) == ("hop", "secret")
    assert find_fallback(chat(model="alias"), key, catalog, "hop") == ()
    assert find_fallback(chat(model="alias"), key, catalog, "secret") == ()


@pytest.mark.parametrize(
    ("entry", "binds"), [("openai/*", True), ("openai/gpt-4o", True), ("gpt-4o", False), ("", True)]
)
def test_a_limit_of_a_model_may_end_in_a_wildcard(entry: str, binds: bool) -> None:
    rule = LimitRule("c", "key", Dimension.REQUESTS, 1, 60, entry)
    assert bool(Rules((rule,)).for_model("openai/gpt-4o")) is binds


def test_a_group_that_does_not_know_the_operation_is_a_404() -> None:
    with pytest.raises(NotFound):
        admit(replace(chat(model="text"), operation=Operation.EMBEDDING), PRINCIPAL, CATALOG)


def test_the_names_of_models_are_those_that_can_be_reached() -> None:
    assert set(CATALOG.names("home")) == {"public", "mine", "both", "text"}
    assert CATALOG.names("home")["both"] is OWN
    assert CATALOG.names("abroad")["both"] is SHARED


# All of them, in order

REFUSALS: list[tuple[bytes, dict[bytes, bytes], int]] = [
    (b"{", {}, 400),
    (b'{"model":"absent","messages":[{"role":"user"}]}', {}, 404),
    (chat().raw, {b"x-litellm-timeout": b"x"}, 400),
]


@pytest.mark.parametrize(("body", "headers", "status"), REFUSALS)
def test_a_refused_request_has_no_row_and_reaches_no_upstream(
    body: bytes, headers: dict[bytes, bytes], status: int
) -> None:
    log: list[Any] = []
    client = ScriptedClient((), log)
    inbound = Inbound("request", headers, body)
    story = run(
        inbound,
        DIALECTS["chat"],
        PRINCIPAL,
        CATALOG,
        services(client, MemoryLedger(log)),
        MemoryReply(log),
    )
    with pytest.raises(Fault) as refused:
        play(story)
    assert (refused.value.status, log) == (status, [])


def test_a_request_goes_through_all_stations() -> None:
    ledger, reply = MemoryLedger(), MemoryReply()
    client = ScriptedClient([Script([WHOLE_ANSWER], headers=JSON_ANSWER)])
    inbound = Inbound("request", {b"x-litellm-tags": b"a"}, chat().raw)
    play(run(inbound, DIALECTS["chat"], PRINCIPAL, CATALOG, services(client, ledger), reply))
    assert reply.status == 200
    assert ledger.closed[0].call.tags == ("a",)


# The headers of an answer


def attempt(**changes: Any) -> Attempt:
    fields = {
        "id": "1",
        "request_id": "2",
        "number": 1,
        "principal": PRINCIPAL,
        "call": chat(),
        "target": target(),
        "started_at": EPOCH,
    }
    return Attempt(**(fields | changes))


def test_an_answer_tells_its_deployment_and_once_known_its_cost_and_time() -> None:
    early = dict(answer_headers(attempt(fallbacks=1, retries=2)))
    assert early[b"x-litellm-model-id"] == b"first"
    assert early[b"x-litellm-model-group"] == b"public"
    assert early[b"x-litellm-attempted-fallbacks"] == b"1"
    assert early[b"x-litellm-attempted-retries"] == b"2"
    assert b"x-litellm-response-cost" not in early
    late = dict(answer_headers(attempt(ended_at=EPOCH + 1.5, upstream_s=1.25, cost_pusd=1_500_000)))
    assert late[b"x-litellm-response-cost"] == b"0.000001500000"
    assert late[b"x-litellm-response-duration-ms"] == b"1500.000"
    assert late[b"x-litellm-overhead-duration-ms"] == b"250.000"
    assert b"x-litellm-response-cost" not in dict(answer_headers(attempt(ended_at=EPOCH)))


@given(st.text(max_size=20))
def test_a_header_value_holds_printable_ascii_only(text: str) -> None:
    assert header_text(text).decode("ascii").isprintable()
    if text.isascii() and text.isprintable():
        assert header_text(text) == text.encode()


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_no_name_of_a_deployment_or_model_can_add_a_header(name: str) -> None:
    for _, value in answer_headers(attempt(target=target(name), call=replace(chat(), model=name))):
        assert not any(byte < 32 or byte == 127 for byte in value)
