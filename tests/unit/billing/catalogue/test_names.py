"""The names under which the catalogue may have a deployment's price: nothing is guessed."""

import pytest

from billing.catalogue.names import PricedModel, find_names

PREFIXES = {"azure": "azure", "openai": "openai", "converse": "bedrock", "bedrock": "bedrock"}
PROFILE = "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0"


def names(provider: str, upstream: str, base: str = "") -> list[tuple[str, str]]:
    return [(one.provider, one.model) for one in find_names(provider, upstream, base, PREFIXES)]


@pytest.mark.parametrize(
    ("provider", "upstream", "expected"),
    [
        ("openai", "gpt-4o", ["gpt-4o"]),
        ("openai", "gpt-4o-evil", ["gpt-4o-evil"]),
        ("openai", "ft:gpt-4o:acme::1", ["ft:gpt-4o:acme::1"]),
        ("gemini", "models/gemini-2.5-pro", ["models/gemini-2.5-pro", "gemini-2.5-pro"]),
        ("vertex_ai", "publishers/google/models/gemini-2.5-pro", ["gemini-2.5-pro"]),
        ("bedrock", PROFILE, ["us.anthropic.claude-sonnet-4-5-20250929-v1:0"]),
        ("bedrock", "arn:aws:bedrock:eu-west-1::foundation-model/amazon.nova-pro-v1:0", ["amazon.nova-pro-v1:0"]),
        ("bedrock", "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc", []),
        ("fireworks_ai", "accounts/fireworks/models/kimi", ["kimi"]),
        ("together_ai", "meta/llama", []),
    ],
)
def test_a_name_is_the_one_at_the_upstream_without_its_path(provider: str, upstream: str, expected: list[str]) -> None:
    assert names(provider, upstream) == list(dict.fromkeys([(provider, upstream), *((provider, n) for n in expected)]))


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("azure/gpt-4o", [("azure", "gpt-4o"), ("azure", "azure/gpt-4o"), ("", "azure/gpt-4o")]),
        ("gpt-4o", [("azure", "gpt-4o"), ("", "gpt-4o")]),
        (
            "converse/amazon.nova",
            [("bedrock", "amazon.nova"), ("azure", "converse/amazon.nova"), ("", "converse/amazon.nova")],
        ),
        ("meta/llama", [("azure", "meta/llama"), ("", "meta/llama")]),
    ],
)
def test_a_base_model_replaces_the_name_at_the_upstream(base: str, expected: list[tuple[str, str]]) -> None:
    assert names("azure", "my-deployment", base) == expected


def test_a_name_is_listed_once() -> None:
    assert find_names("openai", "gpt-4o", "", {}) == (PricedModel("openai", "gpt-4o"),)
