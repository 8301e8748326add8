"""The routes, networks and model aliases of a key, on the data path."""

from collections.abc import Mapping
from dataclasses import replace

import orjson
import pytest

from gateway.pipeline.admit import admit, find_fallback, may_call, name_group
from gateway.pipeline.allowed_routes import GROUPS, compile_routes, is_route, is_route_allowed
from gateway.pipeline.client_address import client_address, is_within, parse_network
from gateway.pipeline.identify import Origin, identify
from gateway.pipeline.ports import Catalog, Principal
from gateway.pipeline.run import Inbound, run
from gateway.protocol.errors import Forbidden, NotFound
from tests.fakes.memory import (
    DIALECTS,
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

# Routes


@pytest.mark.parametrize(
    ("entries", "path", "is_allowed"),
    [
        (["/chat/completions"], "/v1/chat/completions", True),
        (["/v1/chat/completions"], "/chat/completions/", True),
        (["/v1/chat/completions"], "/v1/embeddings", False),
        (["/v1/chat"], "/v1/chat/completions", True),
        (["/v1/chat"], "/v1/chatter", False),
        (["/v1/responses"], "/v1/responses/resp_1/input_items", True),
        (["/v1/*"], "/v1/key", True),
        (["/v1/*"], "/key/info", False),
        (["/key/*"], "/key/generate", True),
        (["/key/inf*"], "/key/info", True),
        (["/v1/key"], "/key/generate", False),
        (["/*"], "/anything", True),
        (["/"], "/anything", False),
        (["llm_api_routes"], "/v1/messages/count_tokens", True),
        (["llm_api_routes"], "/v1/model/info", True),
        (["llm_api_routes"], "/key/info", True),
        (["llm_api_routes"], "/key/generate", False),
        (["llm_api_routes"], "/team/list", False),
        (["openai_routes"], "/v1/messages", False),
        (["info_routes"], "/key/list", True),
        (["info_routes"], "/v1/chat/completions", False),
        (["info_routes"], "/key/delete", False),
        (["management_routes"], "/key/sk-x/regenerate", True),
        (["management_routes"], "/v2/key/info", True),
        (["management_routes"], "/v1/chat/completions", False),
        (["management_routes"], "/v1/responses", False),
        (["mcp_routes"], "/v1/chat/completions", False),
        (["mcp_routes", "/v1/embeddings"], "/embeddings", True),
    ],
)
def test_a_list_of_routes_allows_its_paths_and_groups(entries: list[str], path: str, is_allowed: bool) -> None:
    assert is_route_allowed(path, [compile_routes(entries)]) is is_allowed


def test_every_list_of_routes_must_allow_the_path() -> None:
    lists = [compile_routes(["llm_api_routes"]), compile_routes(["/v1/embeddings"])]
    assert is_route_allowed("/v1/embeddings", lists)
    assert not is_route_allowed("/v1/chat/completions", lists)
    assert not is_route_allowed("/key/generate", lists)


def test_a_route_is_a_path_or_a_known_group() -> None:
    for entry in (*GROUPS, "/v1/*", "/chat/completions"):
        assert is_route(entry)
    for entry in ("", "chat", "*", "/a*b", "/a\n", "llm_routes", "/a\0"):
        assert not is_route(entry)


# Networks


def test_the_address_is_the_proxys_word_only_behind_a_proxy() -> None:
    assert client_address("6.6.6.6", "10.0.0.1", is_behind_proxy=False) == "10.0.0.1"
    assert client_address("6.6.6.6, 192.0.2.1", "10.0.0.1", is_behind_proxy=True) == "192.0.2.1"
    assert client_address("", "10.0.0.1", is_behind_proxy=True) == "10.0.0.1"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("2001:db8::5", True),
        ("[2001:db8::5]", True),
        ("2001:db9::5", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("", False),
        ("unix:", False),
        ("10.1.2.3.4", False),
    ],
)
def test_an_address_is_within_a_network_or_not(address: str, expected: bool) -> None:
    networks = [parse_network(text) for text in ("10.0.0.0/8", "2001:db8::/32", "192.0.2.7")]
    assert is_within(address, networks) is expected


# Identify


def find(
    principal: Principal, path: str, peer: str, headers: Mapping[bytes, bytes] = {}, *, proxy: bool = False
) -> None:
    directory = MemoryDirectory({"sk-x": principal})
    play(identify({b"x-api-key": b"sk-x", **headers}, directory, 0.0, Origin(path, peer, proxy)))


def test_a_route_outside_the_list_is_a_403_with_litellms_words() -> None:
    narrow = replace(PRINCIPAL, allowed_routes=(compile_routes(["/v1/embeddings"]),))
    find(narrow, "/embeddings", "10.0.0.1")
    with pytest.raises(Forbidden) as refused:
        find(narrow, "/v1/chat/completions", "10.0.0.1")
    assert refused.value.message == "Virtual key is not allowed to call this route."
    assert (refused.value.status, refused.value.type, refused.value.code) == (403, "auth_error", "route_not_allowed")


def test_a_caller_cannot_choose_its_address() -> None:
    narrow = replace(PRINCIPAL, allowed_networks=(parse_network("10.0.0.0/8"),))
    find(narrow, "/v1/models", "10.0.0.1")
    forged = {b"x-forwarded-for": b"10.0.0.1"}
    with pytest.raises(Forbidden) as refused:
        find(narrow, "/v1/models", "203.0.113.9", forged)
    assert refused.value.code == "address_not_allowed"
    find(narrow, "/v1/models", "203.0.113.9", forged, proxy=True)
    with pytest.raises(Forbidden):
        find(narrow, "/v1/models", "10.0.0.1", {b"x-forwarded-for": b"10.0.0.1, 203.0.113.9"}, proxy=True)
    with pytest.raises(Forbidden):
        find(narrow, "/v1/models", "")


# Model aliases

SECRET, OTHER = target("secret"), target("other")
CATALOG = Catalog({(None, "secret"): (SECRET,), (None, "other"): (OTHER,)})
ALIASED = replace(PRINCIPAL, model_aliases=(("gpt", "secret"), ("secret", "other"), ("lost", "absent")))


def test_an_alias_is_resolved_once() -> None:
    assert admit(chat(model="gpt"), ALIASED, CATALOG) == (SECRET,)
    assert admit(chat(model="secret"), ALIASED, CATALOG) == (OTHER,)
    with pytest.raises(NotFound, match="'lost'"):
        admit(chat(model="lost"), ALIASED, CATALOG)


def test_the_target_of_an_alias_must_be_allowed_and_is_not_told() -> None:
    narrow = replace(ALIASED, allowed_models=(frozenset({"gpt", "other"}),))
    assert not may_call(narrow, "gpt")
    assert may_call(narrow, "secret")
    with pytest.raises(Forbidden) as refused:
        admit(chat(model="gpt"), narrow, CATALOG)
    assert refused.value.message == "The requested model 'gpt' is not available for this API key."


def test_the_aliases_of_a_key_do_not_open_a_group_that_stands_in() -> None:
    """The group is named by the settings: the key's alias of that name is another model."""
    narrow = replace(ALIASED, allowed_models=(frozenset({"other"}),))
    call = chat(model="other")
    assert find_fallback(call, narrow, CATALOG, "secret") == ()
    assert find_fallback(call, replace(narrow, allowed_models=(frozenset({"secret"}),)), CATALOG, "secret") == (SECRET,)


def test_an_alias_of_the_installation_is_allowed_by_its_name_or_that_of_its_group() -> None:
    catalog = replace(CATALOG, aliases={"nick": "secret"})
    for allowed in ("nick", "secret"):
        key = replace(PRINCIPAL, allowed_models=(frozenset({allowed}),))
        assert admit(chat(model="nick"), key, catalog) == (SECRET,)
        assert name_group(chat(model="nick"), key, catalog).resolve_model("nick") == "secret"
    with pytest.raises(Forbidden):
        admit(chat(model="nick"), replace(PRINCIPAL, allowed_models=(frozenset({"other"}),)), catalog)


def test_the_client_of_an_alias_sees_the_name_that_it_asked_for() -> None:
    reply = MemoryReply()
    client = ScriptedClient([Script([WHOLE_ANSWER], headers=JSON_ANSWER)])
    inbound = Inbound("request", {}, chat(model="gpt").raw)
    play(run(inbound, DIALECTS["chat"], ALIASED, CATALOG, services(client, MemoryLedger()), reply))
    assert reply.status == 200
    assert orjson.loads(reply.body)["model"] == "gpt"
    assert orjson.loads(client.requests[0].body)["model"] == "private"
