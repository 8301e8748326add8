"""Usage: disjoint parts that add up, out of whatever a provider reports."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import anthropic.types.beta as anthropic_types
import botocore.session
import google.genai.types
import openai.types.responses
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.dialects.anthropic import wire as anthropic_wire
from gateway.protocol.dialects.bedrock import upstream_answer as bedrock
from gateway.protocol.dialects.gemini import upstream_answer as gemini
from gateway.protocol.dialects.ollama import upstream_answer as ollama
from gateway.protocol.usage import MAX_TOKENS, Usage, estimate_tokens, from_openai

COUNTS = [name for name in Usage.__dataclass_fields__ if name.endswith("_tokens")]


def read(**raw: Any) -> Usage:
    usage = from_openai(raw)
    assert usage is not None
    return usage


def parts(usage: Usage) -> dict[str, int]:
    return {name: getattr(usage, name) for name in COUNTS if getattr(usage, name)}


GOLDEN: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "plain": ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}, {"input": 10, "output": 4}),
    "cached": (
        {"prompt_tokens": 100, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 60}},
        {"input": 40, "cache_read": 60, "output": 4},
    ),
    "cache written": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 1,
            "prompt_tokens_details": {
                "cached_tokens": 20,
                "cache_creation_tokens": 50,
                "cache_creation_token_details": {"ephemeral_1h_input_tokens": 30},
            },
        },
        {"input": 30, "cache_read": 20, "cache_write_5m": 20, "cache_write_1h": 30, "output": 1},
    ),
    "OpenAI's cache_write_tokens": (
        {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cache_write_tokens": 4}},
        {"input": 6, "cache_write_5m": 4, "output": 1},
    ),
    "reasoning and audio": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "prompt_tokens_details": {"audio_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 12, "audio_tokens": 5},
        },
        {"input": 7, "input_audio": 3, "output": 3, "reasoning": 12, "output_audio": 5},
    ),
    "the names of the Responses API": (
        {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}},
        {"input": 8, "cache_read": 1, "output": 2},
    ),
    "an embedding": ({"prompt_tokens": 5, "total_tokens": 5}, {"input": 5}),
    "null details": (
        {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": None, "completion_tokens_details": None},
        {"input": 5, "output": 1},
    ),
    "whole floats": ({"prompt_tokens": 5.0, "completion_tokens": 1.0}, {"input": 5, "output": 1}),
}


@pytest.mark.parametrize(("raw", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_what_a_provider_reports_is_cut_into_disjoint_parts(raw: dict[str, Any], expected: dict[str, int]) -> None:
    usage = read(**raw)
    assert parts(usage) == {f"{name}_tokens": count for name, count in expected.items()}
    assert not usage.is_inconsistent


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": "12"},
        {"prompt_tokens": -3, "completion_tokens": -4},
        {"prompt_tokens": 10**18},
        {"prompt_tokens": True, "completion_tokens": []},
    ],
)
def test_usage_that_says_nothing_usable_is_none(raw: dict[str, Any]) -> None:
    assert from_openai(raw) is None


INCONSISTENT: dict[str, tuple[dict[str, Any], int, int]] = {
    "a negative output": ({"prompt_tokens": 10, "completion_tokens": -1}, 10, 0),
    "1e18 input": ({"prompt_tokens": 10**18, "completion_tokens": 7}, 0, 7),
    "a total only": ({"total_tokens": 5}, 5, 0),
    "a negative input": ({"prompt_tokens": -1, "completion_tokens": 7, "total_tokens": 100}, 93, 7),
    "a larger total": ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 99}, 10, 89),
    "more cached than there is": (
        {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 15}},
        15,
        1,
    ),
    "more written for an hour than written": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 1,
            "prompt_tokens_details": {
                "cache_creation_tokens": 2,
                "cache_creation_token_details": {"ephemeral_1h_input_tokens": 8},
            },
        },
        10,
        1,
    ),
    "more reasoning than output": (
        {"prompt_tokens": 1, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 8}},
        1,
        8,
    ),
    "a broken float": ({"prompt_tokens": 1.5, "completion_tokens": 5}, 0, 5),
}


@pytest.mark.parametrize(("raw", "total_in", "total_out"), INCONSISTENT.values(), ids=INCONSISTENT.keys())
def test_numbers_that_contradict_each_other_are_flagged_and_the_larger_total_counts(
    raw: dict[str, Any], total_in: int, total_out: int
) -> None:
    usage = read(**raw)
    assert usage.is_inconsistent
    assert (usage.total_input, usage.total_output) == (total_in, total_out)


READERS: dict[str, Callable[[dict[str, Any]], Usage | None]] = {
    "anthropic": anthropic_wire.read_usage,
    "bedrock": bedrock.read_usage,
    "gemini": gemini.read_usage,
    "ollama": ollama.read_usage,
    "openai": from_openai,
}
BLOCKS = sorted((Path(__file__).parents[2] / "fixtures" / "usage").glob("*.json"))


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.stem)
def test_each_providers_block_gives_its_disjoint_counts(path: Path) -> None:
    block = json.loads(path.read_text())
    usage = READERS[block["dialect"]](block["usage"])
    assert usage is not None
    assert (parts(usage), usage.is_inconsistent) == (block["counts"], block.get("is_inconsistent", False))


def name_fields(model: Any) -> Iterator[str]:
    """The names of a pydantic model's fields, and of those below them."""
    for name, field in model.model_fields.items():
        yield name
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                yield from name_fields(inner)


def name_members(value: Any) -> Iterator[str]:
    for name, member in value.items() if isinstance(value, dict) else ((None, item) for item in value):
        if name is not None:
            yield name
        if isinstance(member, dict | list):
            yield from name_members(member)


def camel_case(name: str) -> str:
    return re.sub("_([a-z])", lambda match: match[1].upper(), name)


TOKEN_USAGE = botocore.session.get_session().get_service_model("bedrock-runtime").shape_for("TokenUsage")
SDK_FIELDS = {
    "openai_chat": set(name_fields(openai.types.CompletionUsage)),
    "openai_responses": set(name_fields(openai.types.responses.ResponseUsage)),
    "anthropic_all": set(name_fields(anthropic_types.BetaUsage)),
    "gemini": {camel_case(name) for name in name_fields(google.genai.types.GenerateContentResponseUsageMetadata)},
    "bedrock": set(TOKEN_USAGE.members),
}


@pytest.mark.parametrize(("name", "fields"), SDK_FIELDS.items(), ids=SDK_FIELDS.keys())
def test_a_golden_block_has_every_field_that_the_providers_sdk_knows(name: str, fields: set[str]) -> None:
    """A field that a newer SDK brings is to be read, or to be put into the block as one that is no count."""
    block = next(path for path in BLOCKS if path.stem == name)
    assert fields - set(name_members(json.loads(block.read_text())["usage"])) == set()


#: Sums, and counts that others say already.
UNREAD = {"total_tokens", "totalTokens", "totalTokenCount", "prompt_cache_miss_tokens", "num_sources_used"}
NONSENSE = [-1, 1.5, "12", 10**18, True, [], {}]
OUTPUT_NAMES = re.compile("output|completion|candidates|thoughts|reasoning|eval_count$")


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
def test_nonsense_in_one_count_takes_nothing_from_the_other_side(path: Path, nonsense: object) -> None:
    block = json.loads(path.read_text())
    reader = READERS[block["dialect"]]
    golden = reader(block["usage"])
    assert golden is not None
    if golden.is_inconsistent:
        return
    for name, value in block["usage"].items():
        if type(value) is not int or name in UNREAD:
            continue
        usage = reader(block["usage"] | {name: nonsense})
        if usage is None:
            continue  # nothing else is reported: all is estimated
        assert usage.is_inconsistent, name
        assert min(getattr(usage, count) for count in COUNTS) >= 0
        if name == "prompt_eval_count" or not OUTPUT_NAMES.search(name):
            assert usage.total_output >= golden.total_output, name
        else:
            assert usage.total_input >= golden.total_input, name


NUMBERS = st.one_of(
    st.none(), st.integers(-5, 50), st.sampled_from([10**12, 10**12 + 1, 10**30, 1.0, 2.5, True, "7", [], {}])
)
DETAILS = st.one_of(
    NUMBERS,
    st.dictionaries(
        st.sampled_from(
            ["cached_tokens", "cache_creation_tokens", "audio_tokens", "reasoning_tokens", "cache_write_tokens"]
        ),
        NUMBERS,
    ),
    st.fixed_dictionaries(
        {"cache_creation_tokens": NUMBERS, "cache_creation_token_details": st.one_of(NUMBERS, st.just({"x": 1}))}
    ),
    st.fixed_dictionaries(
        {
            "cache_creation_tokens": NUMBERS,
            "cache_creation_token_details": st.fixed_dictionaries({"ephemeral_1h_input_tokens": NUMBERS}),
        }
    ),
)
RAW = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"), NUMBERS
        ),
        **dict.fromkeys(("prompt_tokens_details", "completion_tokens_details", "input_tokens_details"), DETAILS),
    },
)


@given(RAW)
def test_any_report_gives_counts_that_are_in_range_and_add_up(raw: dict[str, Any]) -> None:
    usage = from_openai(raw)
    if usage is None:
        return
    for name in COUNTS:
        assert type(getattr(usage, name)) is int
        assert 0 <= getattr(usage, name) <= MAX_TOKENS
    assert usage.total_input + usage.total_output > 0
    total = raw.get("total_tokens")
    if not usage.is_inconsistent and type(total) is int and total:
        assert usage.total_input + usage.total_output >= total


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.data())
def test_a_consistent_report_keeps_its_totals(prompt: int, completion: int, data: st.DataObject) -> None:
    cached = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - cached))
    hour = data.draw(st.integers(0, written))
    reasoning = data.draw(st.integers(0, completion))
    usage = from_openai(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": cached,
                "cache_creation_tokens": written,
                "cache_creation_token_details": {"ephemeral_1h_input_tokens": hour},
            },
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    )
    if prompt + completion == 0:
        assert usage is None
    else:
        assert usage is not None
        assert not usage.is_inconsistent
        assert (usage.total_input, usage.total_output) == (prompt, completion)


@given(st.text(st.characters(), max_size=200))
def test_an_estimate_is_a_small_whole_number_for_any_text(text: str) -> None:
    tokens = estimate_tokens(text)
    assert (tokens == 0) is (text == "")
    assert tokens <= len(text) * 2 + 1
