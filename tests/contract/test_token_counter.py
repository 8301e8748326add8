"""/utils/token_counter as its callers see it."""

import pytest

from gateway.protocol.json.types import JsonObject
from tests.contract.management import Api, People, refused

pytestmark = pytest.mark.django_db

TEXT = "How many tokens are these words? " * 10
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def count(api: Api, **fields: object) -> int:
    answer = api.post("/utils/token_counter", {"model": "gpt", **fields}).json()
    total: int = answer["total_tokens"]
    return total


def test_the_answer_has_litellms_shape(api: Api, people: People):
    body = {"model": "gpt", "messages": [{"role": "user", "content": TEXT}]}
    answer = api.post("/utils/token_counter?call_endpoint=false", body, by=people.owner).json()
    total = answer.pop("total_tokens")
    assert 40 < total < 200
    assert answer == {
        "request_model": "gpt",
        "model_used": "gpt",
        "tokenizer_type": "estimate",
        "count_source": "estimate",
        "original_response": None,
        "error": False,
        "error_message": None,
        "status_code": None,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": TEXT}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]},
        {"prompt": TEXT},
        {"contents": [{"role": "user", "parts": [{"text": TEXT}]}]},
    ],
)
def test_every_form_of_text_counts(api: Api, fields: JsonObject):
    plain = count(api, **fields)
    assert 40 < plain < 200
    assert count(api, **fields, tools=[TOOL], system=None) > plain
    assert count(api, **fields, system=TEXT) > plain + 40
    assert count(api, **fields, tools=[{**TOOL, "weight": 0.5}]) > plain  # a fraction is a Decimal here


def test_a_count_of_nothing_is_refused(api: Api, people: People):
    refused(api.post("/utils/token_counter", {"messages": []}), 400, "model")
    refused(api.post("/utils/token_counter", {"model": "gpt"}), 400, "messages")
    refused(api.post("/utils/token_counter", {"model": "gpt", "prompt": "a", "stream": True}), 400, "stream")
    refused(api.post("/utils/token_counter?call_endpoint=true", {"model": "gpt", "prompt": "a"}), 400, "call_endpoint")
    refused(api.post("/utils/token_counter", {"model": "gpt", "prompt": "a"}, by=None), 401, None)
