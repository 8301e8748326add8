"""Model patterns: the most specific one serves a name, and what its `*` stands for stays in the upstream's model."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pipeline.ports import Catalog
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.provider import Target
from gateway.protocol.secret import Secret
from gateway.providers.registry import PROVIDERS
from gateway.routing.model_patterns import (
    MAX_BOUND,
    Pattern,
    PatternIndex,
    covers,
    find_pattern_problem,
    is_plain_name,
)
from tests.fakes.memory import chat, target

TEXTS = st.text("ab/-", max_size=5)
PATTERNS = st.lists(TEXTS, min_size=2, max_size=4).map("*".join)


def serving(group: str, model: str = "*", **changes: Any) -> Target:
    return target(group, model_group=group, upstream_model=model, **changes)


def catalog(*targets: Target, aliases: dict[str, str] | None = None) -> Catalog:
    return Catalog({(one.organization_id, one.model_group): (one,) for one in targets}, aliases or {})


def found(names: Catalog, model: str, organization_id: str = "home") -> tuple[str, str]:
    """(pattern, upstream model) of the only target."""
    (one,) = names.find(organization_id, model)
    return one.pattern, one.upstream_model


# Matching


@given(PATTERNS, st.text("ab/-*", max_size=12))
def test_a_pattern_matches_as_the_greedy_expression_of_litellm(text: str, name: str) -> None:
    expression = re.escape(text).replace(r"\*", "(.*)")
    expected = re.fullmatch(expression, name)
    assert Pattern.read(text).match(name) == (expected.groups() if expected else None)


@given(st.lists(PATTERNS, max_size=8, unique=True), st.text("ab/-", min_size=1, max_size=10))
def test_the_pattern_that_is_found_is_the_most_specific_of_all_that_match(texts: list[str], name: str) -> None:
    matching = [pattern for pattern in map(Pattern.read, texts) if pattern.match(name) is not None]
    pattern = PatternIndex.of(texts).find(name)
    if not matching:
        assert pattern is None
    else:
        assert pattern in matching
        assert pattern is not None
        assert pattern.specificity == max(one.specificity for one in matching)
        assert len(pattern.literals[0]) == max(len(one.literals[0]) for one in matching)


def test_the_longest_beginning_wins_and_exact_names_before_all() -> None:
    names = catalog(
        serving("*", "any-*"),
        serving("openai/*"),
        serving("openai/gpt-*", "g-*"),
        target("exact", model_group="openai/gpt-4o"),
    )
    assert found(names, "openai/gpt-4o") == ("", "private")
    assert found(names, "openai/gpt-5") == ("openai/gpt-*", "g-5")
    assert found(names, "openai/o3") == ("openai/*", "o3")
    assert found(names, "o3") == ("*", "any-o3")


def test_several_wildcards_go_to_their_places_in_this_order() -> None:
    names = catalog(serving("fo::*:static::*", "x-*/y-*"))
    assert found(names, "fo::hi::static::there")[1] == "x-hi:/y-there"


def test_a_model_without_wildcard_serves_every_name() -> None:
    (one,) = catalog(serving("*", "accounts/a#b")).find("home", "anything")
    assert (one.model_group, one.upstream_model) == ("anything", "accounts/a#b")


@given(st.text(max_size=20))
def test_the_groups_of_patterns_are_not_models(name: str) -> None:
    names = catalog(serving("openai/*"), serving("*"))
    assert names.find("home", "openai/*") == ()
    assert names.find("home", f"{name}*") == ()
    assert names.names("home") == {}
    assert set(names.names("home", with_patterns=True)) == {"openai/*", "*"}


# Organizations


def test_an_organization_has_its_own_patterns_and_never_anothers() -> None:
    names = catalog(
        serving("*", "shared-*"),
        serving("*", "own-*", organization_id="home"),
        serving("openai/*", "theirs-*", organization_id="abroad"),
    )
    assert found(names, "openai/m") == ("*", "own-openai/m")
    assert found(names, "openai/m", "abroad") == ("openai/*", "theirs-m")
    assert found(names, "openai/m", "elsewhere") == ("*", "shared-openai/m")


def test_names_that_are_remembered_stay_within_their_organization() -> None:
    names = catalog(serving("*", "own-*", organization_id="home"))
    assert names.find("home", "m")
    assert names.find("abroad", "m") == ()


def test_a_flood_of_names_is_not_remembered_without_end() -> None:
    names = catalog(serving("*"))
    for number in range(MAX_BOUND):
        assert names.find("home", f"m{number}")
    assert len(names.patterns._bound) <= MAX_BOUND // 2
    assert found(names, "m0") == ("*", "m0")


def test_an_alias_may_stand_for_a_name_that_a_pattern_serves() -> None:
    names = catalog(serving("openai/*"), aliases={"fast": "openai/mini", "loop": "openai/*"})
    assert found(names, "fast") == ("openai/*", "mini")
    assert names.find("home", "loop") == ()


# What is bound


def test_a_bound_target_has_the_capabilities_of_its_model_and_the_flags_and_price_of_the_deployment() -> None:
    one = serving("anthropic/*", flags={"vision": False}, price_id="p", capabilities=Capabilities(vision=False))
    (bound,) = catalog(one).find("home", "anthropic/claude-opus-4-6")
    assert (bound.capabilities.thinking, bound.capabilities.vision, bound.price_id) == ("adaptive", False, "p")
    assert bound.model_group == "anthropic/claude-opus-4-6"
    assert bound.group_names == ("anthropic/claude-opus-4-6", "anthropic/*")


def test_the_models_of_one_deployment_are_circuits_of_their_own() -> None:
    names = catalog(serving("openai/*"))
    first, second = names.find("home", "openai/a")[0], names.find("home", "openai/b")[0]
    assert first.circuit != second.circuit
    assert first.deployment_id == second.deployment_id
    assert target("plain").circuit == "plain"


# Hostile names

HOSTILE = [
    "../secret",
    "..",
    ".",
    "a/../b",
    "a/./b",
    "/absolute",
    "a//b",
    "a/",
    "a?b=c",
    "a#b",
    "a%2e%2e%2fb",
    "a b",
    "a\nb",
    "a\r\nx: y",
    "a\x00b",
    "a\\..\\b",
    "a*b",
    "a\u202eb",
    "ｇpt",
    "a" * 256,
    "a" * 10_240,
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("beginning", ["", "openai/", "m:"])
def test_a_hostile_name_is_served_by_no_pattern(text: str, beginning: str) -> None:
    names = catalog(serving("*", "x/*"), serving("openai/*"), serving("m:*"))
    name = beginning + text
    for one in names.find("home", name):
        assert is_plain_name(one.upstream_model)
        assert is_plain_name(name)
    if beginning != "m:" or text not in {"..", "."}:  # "m:.." is a name, of which a model would be ".."
        assert names.find("home", name) == ()


def test_a_name_that_would_become_a_hostile_model_is_served_by_no_pattern() -> None:
    names = catalog(serving("m:*"), serving("n*", "a/*"), serving("long-*", "x" * 200 + "*"))
    for name in ("m:..", "m:.", "m:/../x", "n..", "n", "long-" + "y" * 100):
        assert names.find("home", name) == ()
    assert names.find("home", "m:x")


URL_PROVIDERS = {
    "azure": {"parameters": {"api_version": "2024-10-21"}, "api_base": "https://host.test"},
    "bedrock": {"parameters": {"aws_region_name": "us-east-1"}, "api_base": ""},
    "gemini": {"api_base": "https://host.test/v1beta"},
    "vertex_ai": {"parameters": {"vertex_project": "p", "vertex_location": "us-east1"}, "api_base": ""},
}


@pytest.mark.parametrize("provider", sorted(URL_PROVIDERS))
@given(name=st.text(st.characters(codec="utf-8"), max_size=40) | st.text("ab./?#%:@&=+~,-", max_size=12))
def test_no_name_leaves_the_models_place_in_an_address(provider: str, name: str) -> None:
    one = serving("*", provider=PROVIDERS[provider], credential={"api_key": Secret("k")}, **URL_PROVIDERS[provider])
    plain = catalog(one).find("home", "abc")
    (shape,) = (address_of(bound, "abc") for bound in plain)
    for bound in catalog(one).find("home", name):
        url = address_of(bound, name)
        assert url.count("?") == shape.count("?")
        assert "#" not in url
        assert {"..", "."}.isdisjoint(url.partition("?")[0].split("/"))
        assert url.partition("?")[2].count("&") == shape.partition("?")[2].count("&")
        assert url.split("/")[2].endswith((".test", ".amazonaws.com", ".googleapis.com"))


def address_of(bound: Target, name: str) -> str:
    call = chat(model=name)
    return bound.provider.request(call, bound, AttemptContext("id", 1_800_000_000.0, token="t")).url


# What an operator writes


@pytest.mark.parametrize(
    ("group", "model", "param"),
    [
        ("openai/*", "*", None),
        ("openai/*", "gpt-4o", None),
        ("a*b*", "x*y*", None),
        ("plain", "plain", None),
        ("plain", "*", "upstream_model"),
        ("a*b*", "*", "upstream_model"),
        ("a*", "**", "upstream_model"),
        ("a**", "x", "model_group"),
        ("*a" * 9, "x", "model_group"),
    ],
)
def test_a_pattern_and_its_model_have_as_many_wildcards(group: str, model: str, param: str | None) -> None:
    problem = find_pattern_problem(group, model)
    assert (problem[0] if problem else None) == param


def test_an_entry_covers_its_name_or_the_names_that_begin_with_it() -> None:
    assert covers({"openai/*"}, "openai/gpt-4o")
    assert covers({"openai/gpt-4o"}, "openai/gpt-4o")
    assert not covers({"gpt-4o"}, "openai/secret")
    assert not covers({"openai/*"}, "openai")
