"""The marks for clients that set none: at most four, none too early, and never beside a client's own."""

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.cache_breakpoints import Breakpoints, plan_breakpoints
from gateway.protocol.capabilities import default_capabilities
from gateway.protocol.dialects.anthropic.cache_breakpoints import MARK, add_breakpoints
from gateway.protocol.json.types import JsonObject
from gateway.providers.anthropic import PROVIDER
from tests.fakes import bedrock
from tests.fakes.anthropic import NOW, call, messages_call, target
from tests.fakes.bedrock import CLAUDE, NOVA

LONG = "All the rules of the house. " * 400  # 2,800 tokens
TOOL = {"name": "run", "description": "d", "input_schema": {"type": "object"}}
LONG_TOOL = {**TOOL, "description": LONG}
SOURCE = {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}


def user(content: Any) -> JsonObject:
    return {"role": "user", "content": content}


def assistant(text: str) -> JsonObject:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


# Where


@pytest.mark.parametrize(
    ("tools", "system", "contents", "expected"),
    [
        ([LONG_TOOL], "short", ["hi"], Breakpoints(True, True, (0,))),
        ([TOOL], LONG, ["hi"], Breakpoints(False, True, (0,))),
        ([TOOL], "short", [LONG], Breakpoints(False, False, (0,))),
        ([], "", [LONG, "a", "b", "c", "d"], Breakpoints(False, False, (2, 4))),
        ([], "", ["a", "b", "c", "d", LONG], Breakpoints(False, False, (4,))),
        ([TOOL], "short", ["hi"], Breakpoints()),
        ([], "", [], Breakpoints()),
        ([], LONG, [], Breakpoints(False, True, ())),
        ([LONG_TOOL], "", ["hi"], Breakpoints(True, False, (0,))),
    ],
)
def test_a_place_counts_what_stands_before_it(
    tools: Any, system: str, contents: list[str], expected: Breakpoints
) -> None:
    turns = [user(text) if place % 2 == 0 else assistant(text) for place, text in enumerate(contents)]
    assert plan_breakpoints(tools, system, turns, 1024) == expected


def test_the_size_of_an_image_is_not_that_of_its_text() -> None:
    image = {"type": "image", "source": SOURCE}
    assert plan_breakpoints([], "", [user([image])], 1024).messages == ()
    assert plan_breakpoints([], "", [user([image] * 3)], 1024).messages == (0,)


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-opus-4-1", 1024), ("claude-opus-4-6", 4096), ("anthropic.claude-haiku-4-5-20251001-v1:0", 4096),
        ("claude-sonnet-4-5", 1024), ("claude-sonnet-4-6", 2048), ("claude-3-5-haiku-latest", 2048),
        ("claude-3-haiku-20240307", 2048), ("amazon.nova-pro-v1:0", 1024), ("gpt-4o", 1024), ("claude-opus-5", 4096),
    ],
)  # fmt: skip
def test_the_minimum_is_the_models_own(model: str, tokens: int) -> None:
    capabilities = default_capabilities(model)
    assert capabilities.cache_minimum_tokens == tokens
    assert not capabilities.cache_breakpoints  # only where a deployment asks for it


# Anthropic


def test_tools_system_and_the_last_two_turns_of_the_user_are_marked() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": "21"}
    turns = [user("one"), assistant("two"), user([{"type": "text", "text": "three"}]), assistant("4"), user([result])]
    body: JsonObject = {"tools": [LONG_TOOL, TOOL], "system": "Be brief", "messages": turns}
    assert add_breakpoints(body, 1024) == {"tools", "system", "messages"}
    assert body == {
        "tools": [LONG_TOOL, {**TOOL, "cache_control": MARK}],
        "system": [{"type": "text", "text": "Be brief", "cache_control": MARK}],
        "messages": [
            user("one"),
            assistant("two"),
            user([{"type": "text", "text": "three", "cache_control": MARK}]),
            assistant("4"),
            user([{**result, "cache_control": MARK}]),
        ],
    }


OWN: list[JsonObject] = [
    {"cache_control": MARK},
    {"tools": [{**LONG_TOOL, "cache_control": MARK}]},
    {"system": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
    {"messages": [user([{"type": "text", "text": LONG, "cache_control": MARK}])]},
    {
        "messages": [
            user([{"type": "tool_result", "content": [{"type": "text", "text": LONG, "cache_control": MARK}]}]),
        ]
    },
]


@pytest.mark.parametrize("own", OWN)
def test_a_clients_own_mark_stands_alone(own: JsonObject) -> None:
    body = {"tools": [LONG_TOOL], "system": LONG, "messages": [user(LONG)], **own}
    before = copy.deepcopy(body)
    assert add_breakpoints(body, 1024) == frozenset()
    assert body == before


@pytest.mark.parametrize(
    "content",
    ["", "  ", [], [{"type": "text", "text": " "}], [{"type": "container_upload", "file_id": "f"}]],
)
def test_what_takes_no_mark_gets_none(content: Any) -> None:
    body: JsonObject = {"tools": [{**LONG_TOOL, "defer_loading": True}], "system": " ", "messages": [user(content)]}
    before = copy.deepcopy(body)
    assert not add_breakpoints(body, 1)
    assert body == before


TEXTS = st.sampled_from(["", "short", LONG])
BLOCKS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=3)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXTS | BLOCKS}), max_size=6
)


@given(tools=st.lists(st.sampled_from([TOOL, LONG_TOOL]), max_size=2), system=TEXTS | BLOCKS, turns=TURNS)
def test_there_are_never_more_than_four_and_the_text_stays(tools: Any, system: Any, turns: Any) -> None:
    body = orjson.loads(orjson.dumps({"tools": tools, "system": system, "messages": turns}))
    add_breakpoints(body, 1024)
    text = orjson.dumps(body)
    assert text.count(b'"cache_control"') <= 4
    stripped = orjson.loads(text.replace(b',"cache_control":{"type":"ephemeral"}', b""))

    def as_blocks(value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) and value.strip() else value

    for name, value in (("system", system), *(("content", turn["content"]) for turn in turns)):
        holder = stripped if name == "system" else stripped["messages"].pop(0)
        assert as_blocks(holder[name]) == as_blocks(value)


# The requests


def sent(client_call: Any, **flags: Any) -> Any:
    return orjson.loads(PROVIDER.request(client_call, target(flags), NOW).body)


CHAT = {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "Hi"}]}
MESSAGES = {"system": LONG, "messages": [user("Hi")]}


@pytest.mark.parametrize("client_call", [call(CHAT), messages_call(MESSAGES)], ids=["chat", "messages"])
def test_a_request_to_anthropic_is_marked_where_the_deployment_says_so(client_call: Any) -> None:
    body = sent(client_call, cache_breakpoints=True)
    assert body["system"] == [{"type": "text", "text": LONG, "cache_control": MARK}]
    assert body["messages"] == [user([{"type": "text", "text": "Hi", "cache_control": MARK}])]
    assert b"cache_control" not in orjson.dumps(sent(client_call))
    assert b"cache_control" not in orjson.dumps(sent(client_call, cache_breakpoints=True, cache_minimum_tokens=4096))


def test_a_message_with_marks_passes_as_it_is() -> None:
    marked = messages_call({**MESSAGES, "messages": [user([{"type": "text", "text": "Hi", "cache_control": MARK}])]})
    assert sent(marked, cache_breakpoints=True) == sent(marked)


def test_numbers_of_a_marked_message_keep_their_digits() -> None:
    marked = sent(messages_call({**MESSAGES, "temperature": 0.30000000000000004}), cache_breakpoints=True)
    assert marked["temperature"] == 0.30000000000000004


POINT = {"cachePoint": {"type": "default"}}
WEATHER = {"type": "function", "function": {"name": "w", "description": LONG, "parameters": {"type": "object"}}}


def test_a_request_to_bedrock_gets_cache_points() -> None:
    marked = bedrock.chat([*CHAT["messages"]], tools=[WEATHER])
    body = bedrock.encode(marked, bedrock.target(CLAUDE, flags={"cache_breakpoints": True}))
    assert [body["toolConfig"]["tools"][-1], body["system"][-1], body["messages"][-1]["content"][-1]] == [POINT] * 3
    assert orjson.dumps(body).count(b"cachePoint") == 3
    nova = bedrock.encode(marked, bedrock.target(NOVA, flags={"cache_breakpoints": True}))
    assert POINT not in nova["toolConfig"]["tools"]
    assert nova["system"][-1] == POINT
    assert b"cachePoint" not in orjson.dumps(bedrock.encode(marked, bedrock.target(CLAUDE)))


def test_a_model_of_bedrock_that_does_not_cache_hears_nothing_of_it() -> None:
    llama = bedrock.target("meta.llama3-3-70b-instruct-v1:0", flags={"cache_breakpoints": True})
    plain = bedrock.chat([*CHAT["messages"]])
    assert b"cachePoint" not in orjson.dumps(bedrock.encode(plain, llama))
    assert bedrock.dropped(plain, llama) == ()


def test_a_clients_cache_point_stands_alone() -> None:
    part = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}
    marked = bedrock.chat([{"role": "system", "content": [part]}, {"role": "user", "content": LONG}])
    claude = bedrock.target(CLAUDE, flags={"cache_breakpoints": True})
    assert bedrock.encode(marked, claude) == bedrock.encode(marked, bedrock.target(CLAUDE))
