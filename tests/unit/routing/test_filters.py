"""Filters: which deployments of a group may get a call, by tags and by what the call needs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pipeline.ports import Catalog
from gateway.pipeline.routing_request import read_routing_request
from gateway.protocol.abilities import ABILITY_FLAGS, ALL_ABILITIES, find_invalid_ability, read_abilities
from gateway.protocol.deployment_tags import find_tags_problem
from gateway.protocol.provider import Target
from gateway.routing.filters import keep_fitting
from gateway.routing.request import RoutingRequest
from gateway.routing.target_group import TargetGroup
from tests.fakes.memory import PRINCIPAL, chat, decode, target

TAGS = st.frozensets(st.sampled_from(["a", "b", "default", "eu"]), max_size=3)
IMAGE: list[Any] = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
TOOL: list[Any] = [{"type": "function", "function": {"name": "f"}}]
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}


def tagged(**tags: str) -> TargetGroup:
    return TargetGroup(target(name, tags=frozenset(text.split())) for name, text in tags.items())


def kept(targets: Sequence[Target], request: RoutingRequest, *, has_tags: bool = True) -> list[str]:
    return [one.deployment_id for one in keep_fitting(TargetGroup.of(targets), request, has_tags=has_tags)[0]]


def asking(*tags: str, key: tuple[str, ...] = ()) -> RoutingRequest:
    return RoutingRequest(tags=frozenset(tags), key_tags=frozenset(key))


# Tags

GROUP = tagged(free="free", paid="paid eu", plain="", spare="default")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asking("free"), ["free"]),
        (asking("free", "eu"), ["free", "paid"]),
        (asking("unknown"), ["spare"]),
        (asking(), ["spare"]),
        (asking(key=("paid",)), ["paid"]),
        (asking("free", key=("paid",)), ["paid"]),
        (asking("default", key=("paid",)), ["paid"]),
        (asking("eu", key=("paid", "free")), ["paid"]),
        (asking("free", key=("of-the-cost-centre",)), ["free"]),
        (asking(key=("of-the-cost-centre",)), ["spare"]),
    ],
)
def test_tags_choose_deployments_and_those_of_a_key_bind(request_: RoutingRequest, expected: list[str]) -> None:
    assert kept(GROUP, request_) == expected
    assert kept(GROUP, request_, has_tags=False) == ["free", "paid", "plain", "spare"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asking("paid", "eu"), ["paid"]),
        (asking("eu"), ["paid"]),
        (asking("free", "eu"), ["spare"]),
        (asking(key=("paid", "eu")), ["paid"]),
        (asking(key=("paid", "cost-centre")), ["paid"]),
        (asking("free", key=("paid",)), ["paid"]),
    ],
)
def test_all_tags_may_be_needed(request_: RoutingRequest, expected: list[str]) -> None:
    found, _ = keep_fitting(GROUP, request_, has_tags=True, needs_all_tags=True)
    assert [one.deployment_id for one in found] == expected


@given(st.lists(TAGS, min_size=1, max_size=5), TAGS, TAGS)
def test_no_tag_of_a_request_reaches_past_the_tags_of_its_key(
    groups: list[frozenset[str]], tags: frozenset[str], key_tags: frozenset[str]
) -> None:
    targets = TargetGroup(target(str(number), tags=own) for number, own in enumerate(groups))
    found, dropped = keep_fitting(targets, RoutingRequest(tags=tags, key_tags=key_tags), has_tags=True)
    assert len(found) + len(dropped) == len(targets)
    if any(key_tags & one.tags for one in targets):
        assert found
        assert all(key_tags & one.tags for one in found)


@pytest.mark.parametrize("value", ["a", {"a": 1}, [1], [""], [" "], ["a\n"], ["a" * 256], ["a"] * 51, None, 1])
def test_tags_are_a_list_of_texts(value: object) -> None:
    assert find_tags_problem(value)
    assert not find_tags_problem(["free", "eu west"])


# Abilities


def lacking(name: str, *abilities: str) -> Target:
    return target(name, abilities=ALL_ABILITIES - set(abilities))


NEEDS: list[tuple[str, dict[str, Any]]] = [
    ("vision", {"messages": IMAGE}),
    ("vision", {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}]}),
    ("audio", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
    ("pdf", {"messages": [{"role": "user", "content": [{"type": "file"}]}]}),
    ("tools", {"tools": TOOL}),
    ("tool_choice", {"tools": TOOL, "tool_choice": "required"}),
    ("tool_choice", {"tools": TOOL, "tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ("json_schema", {"response_format": SCHEMA}),
    ("generation", {}),
]


@pytest.mark.parametrize(("ability", "fields"), NEEDS)
def test_a_call_goes_past_the_deployment_that_lacks_what_it_needs(ability: str, fields: dict[str, Any]) -> None:
    pair = (lacking("without", ability), target("with"))
    request = read_routing_request(chat(**fields), {}, PRINCIPAL, Catalog({(None, "public"): pair}))
    assert kept(pair, request) == ["with"]
    _, dropped = keep_fitting(TargetGroup(pair), request, has_tags=False)
    assert dropped[0].reason == f"lacks {ability}"
    assert not dropped[0].is_for_now


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": [{"type": "input_image"}]},
        {"type": "function_call_output", "output": [{"type": "input_image"}]},
    ],
)
def test_images_are_found_in_the_items_of_a_response(item: Any) -> None:
    catalog = Catalog({(None, "public"): (lacking("without", "vision"),)})
    call = replace(chat(), body={"input": [item]})
    assert "vision" in read_routing_request(call, {}, PRINCIPAL, catalog).needs


@pytest.mark.parametrize(
    "fields", [{}, {"tools": TOOL, "tool_choice": "auto"}, {"response_format": {"type": "json_object"}}, {"tools": []}]
)
def test_a_call_that_needs_little_goes_everywhere(fields: dict[str, Any]) -> None:
    few = lacking("few", "vision", "audio", "pdf", "tool_choice", "json_schema", "embeddings")
    request = read_routing_request(chat(**fields), {}, PRINCIPAL, Catalog({(None, "public"): (few,)}))
    assert kept((few,), request) == ["few"]


def test_needs_are_read_where_only_a_deployment_of_a_fallback_lacks_something() -> None:
    groups = {(None, "public"): (target("with"),), (None, "other"): (lacking("without", "vision"),)}
    request = read_routing_request(chat(messages=IMAGE), {}, PRINCIPAL, Catalog(groups))
    assert "vision" in request.needs
    none = read_routing_request(chat(messages=IMAGE), {}, PRINCIPAL, Catalog({(None, "public"): (target("with"),)}))
    assert none.needs == frozenset()


def test_an_embedding_goes_past_a_chat_model_of_its_group() -> None:
    pair = (target("chat", abilities=read_abilities({"mode": "chat"})), target("unknown"))
    call = decode({"model": "public", "input": "x"}, "embedding")
    request = read_routing_request(call, {}, PRINCIPAL, Catalog({(None, "public"): pair}))
    assert kept(pair, request) == ["unknown"]


@pytest.mark.parametrize(
    ("info", "lacks"),
    [
        ({}, set()),
        ({"supports_vision": True, "supports_response_schema": None, "mode": "made-up"}, set()),
        ({"supports_vision": False}, {"vision"}),
        ({"supports_function_calling": False, "supports_tool_choice": False}, {"tools", "tool_choice"}),
        ({"mode": "embedding"}, {"generation"}),
        ({"mode": "responses"}, {"embeddings"}),
        ({"mode": "rerank"}, {"generation", "embeddings"}),
        ({"mode": ["chat"], "supports_vision": 0}, set()),
    ],
)
def test_a_false_flag_takes_an_ability_away_and_an_absent_one_says_nothing(
    info: dict[str, Any], lacks: set[str]
) -> None:
    assert ALL_ABILITIES - read_abilities(info) == lacks


@pytest.mark.parametrize("flag", sorted(ABILITY_FLAGS))
def test_a_flag_is_true_false_or_null(flag: str) -> None:
    assert find_invalid_ability({flag: "false"}) == flag
    assert not find_invalid_ability({flag: False})
    assert not find_invalid_ability({flag: None})
