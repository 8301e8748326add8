"""Structure bombs of an upstream are refused before they are built; large texts and vectors are not."""

import json
from collections.abc import Mapping

import orjson
import pytest

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.answer import MAX_CONTAINERS, MAX_VALUES, load_answer
from gateway.protocol.provider import Provider
from gateway.providers.registry import PROVIDERS
from tests.fakes.memory import chat, target

CONTEXT = AttemptContext("attempt-1", 1_800_000_000.0)
BOMBS = {
    "arrays": b"[" + b"[]," * MAX_CONTAINERS + b"[]]",
    "objects": b"[" + b"{}," * MAX_CONTAINERS + b"{}]",
    "numbers": b"[" + b"1," * MAX_VALUES + b"1]",
}
GENERATING = {name: provider for name, provider in PROVIDERS.items() if name != "mock"}
HEADERS: Mapping[str, str] = {"content-type": "application/json"}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_structure_bomb_is_refused(bomb: bytes) -> None:
    with pytest.raises(UpstreamFault, match="too many values"):
        load_answer(bomb)


@pytest.mark.parametrize("provider", GENERATING.values(), ids=GENERATING)
def test_every_provider_refuses_a_bomb(provider: Provider) -> None:
    body = b'{"choices":%b}' % BOMBS["arrays"]
    with pytest.raises(UpstreamFault, match="too many values"):
        provider.relay_body(chat(), target(provider=provider, upstream_model="claude"), CONTEXT, body, HEADERS)


def test_brackets_within_a_text_are_text() -> None:
    text = '{"a": [1, 2]}, "\\' * (MAX_CONTAINERS // 2)
    assert load_answer(orjson.dumps({"text": text})) == {"text": text}


def test_a_list_of_long_vectors_passes() -> None:
    vectors = [[0.125] * 3072] * 200
    assert load_answer(json.dumps(vectors).encode()) == vectors
