"""Tools of namespaces at upstreams without namespaces: their names there, and the way back."""

import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.protocol.dialects.responses.namespaces import Namespaces

LEGAL = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")  # what OpenAI, Anthropic, Gemini and Bedrock all take


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name}


def namespace(name: str, *tools: str) -> dict[str, Any]:
    return {"type": "namespace", "name": name, "tools": [function(tool) for tool in tools]}


def test_a_name_says_the_namespace_and_the_tool() -> None:
    names = Namespaces([namespace("crm", "find"), namespace("mcp__files__", "read")])
    assert names.upstream_name("crm", "find") == "crm__find"
    assert names.upstream_name("mcp__files__", "read") == "mcp__files__read"
    assert names.tools_by_name == {"crm__find": ("crm", "find"), "mcp__files__read": ("mcp__files__", "read")}
    assert names.upstream_name("", "find") == "find"
    assert names.upstream_name("_own", "find") == "_own__find"


def test_names_that_collide_stay_apart() -> None:
    names = Namespaces([namespace("a", "b__c"), namespace("a__b", "c"), function("a__b__c")])
    upstream_names = [names.upstream_name("a", "b__c"), names.upstream_name("a__b", "c")]
    assert len({*upstream_names, "a__b__c"}) == 3
    assert [names.tools_by_name[name] for name in upstream_names] == [("a", "b__c"), ("a__b", "c")]


def test_a_name_is_the_same_in_each_request_with_the_same_tools() -> None:
    tools = [namespace("crm.v2", "find"), namespace("x" * 70, "y")]
    first, second = Namespaces(tools), Namespaces(tools)
    second.upstream_name("old", "gone")
    assert list(first.tools_by_name) == list(second.tools_by_name)[:2]
    assert list(Namespaces(tools[1:]).tools_by_name) == list(first.tools_by_name)[1:]


def test_a_tool_of_the_history_alone_is_found_again() -> None:
    names = Namespaces()
    assert names.tools_by_name[names.upstream_name("crm", "gone")] == ("crm", "gone")


ANY = st.text(min_size=1, max_size=70)


@given(st.lists(st.tuples(ANY, ANY), max_size=8, unique=True), st.lists(ANY, max_size=3))
@example([("1", "2"), ("_1", "2")], ["_1__2"])
@example([("a", "b__c"), ("a__b", "c")], [])
@example([("x" * 70, "y"), ("x" * 70, "z"), ("x" * 60, "yz")], [])
@example([("a.b", "c"), ("a_b", "c"), ("a", "b__c")], ["a_b__c"])
def test_every_name_is_legal_everywhere_unlike_all_others_and_leads_back(
    places: list[tuple[str, str]], plain: list[str]
) -> None:
    names = Namespaces([*(namespace(*place) for place in places), *map(function, plain)])
    upstream_names = [names.upstream_name(*place) for place in places]
    assert all(LEGAL.fullmatch(name) for name in upstream_names)
    assert len({*upstream_names, *plain}) == len(upstream_names) + len({*plain})
    assert [names.tools_by_name[name] for name in upstream_names] == places
