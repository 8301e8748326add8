"""Hosted tools on an upstream without them: refused by their place, or left out and named as a deployment says."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.protocol.capabilities import Capabilities, find_invalid_flag
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.responses.client_request import decode, refuse_native_only
from gateway.protocol.dialects.responses.dialect import ResponsesDialect
from gateway.protocol.dialects.responses.hosted_tools import hosted_names, is_hosted
from gateway.protocol.errors import BadRequest
from gateway.protocol.ids import Ids
from gateway.protocol.items import ToolChoice
from gateway.protocol.json.types import JsonMapping
from gateway.protocol.provider import Target
from tests.fakes.memory import target
from tests.unit.protocol.dialects.responses.test_conversation import SEAL

RUN = {"type": "function", "name": "run", "parameters": {"type": "object"}}
SEARCH = {"type": "web_search", "external_web_access": False}
IMAGES = {"type": "image_generation"}
DROPPING = replace(target(), capabilities=Capabilities(hosted_tools="drop"))


def dialect(to: Target, tools: list[Any], **body: Any) -> ResponsesDialect:
    raw = orjson.dumps({"model": "m", "input": "hi", "tools": tools, **body})
    request = decode(raw, Hints(), Ids("0" * 48))
    return ResponsesDialect(
        request=request,
        items=request.input,
        history_size=0,
        known_items=request.input,
        input_estimate=1,
        seal=SEAL,
        created_s=0,
        now=lambda: 0.0,
        target=to,
    )


def test_a_deployment_leaves_them_out_and_names_them() -> None:
    inner = {"type": "namespace", "name": "ns", "tools": [{**RUN, "name": "inner"}, {"type": "mcp"}]}
    dated = {"type": "web_search_2025_08_26"}
    one = dialect(DROPPING, [SEARCH, RUN, IMAGES, dated, inner], surprise=1)
    call = one.call()
    assert [tool.name for tool in one.chat_request(call).tools] == ["run", "ns__inner"]
    names = ("tools.web_search", "tools.image_generation", "tools.mcp")
    assert one.unsupported_fields(call) == ("surprise", *names)


def test_a_request_of_hosted_tools_alone_has_no_tools() -> None:
    one = dialect(DROPPING, [SEARCH], tool_choice="auto")
    assert one.chat_request(one.call()).tools == ()


def test_a_deployment_refuses_them_by_default() -> None:
    one = dialect(target(), [RUN, SEARCH])
    with pytest.raises(BadRequest) as refused:
        one.chat_request(one.call())
    assert (refused.value.param, refused.value.code) == ("tools[1].type", "unsupported_tool")
    assert one.unsupported_fields(one.call()) == ()


@pytest.mark.parametrize("kind", ["shell", "local_shell", "apply_patch", "computer", "computer_use_preview", "functon"])
def test_a_tool_that_the_client_runs_or_an_unknown_one_is_never_left_out(kind: str) -> None:
    one = dialect(DROPPING, [SEARCH, {"type": kind}])
    with pytest.raises(BadRequest) as refused:
        one.chat_request(one.call())
    assert (refused.value.param, refused.value.code) == ("tools[1].type", "unsupported_tool")


CHOICES: list[tuple[JsonMapping | str, str]] = [
    ("required", "tool_choice"),
    ({"type": "web_search"}, "tool_choice.type"),
    ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, "tool_choice.tools[0].type"),
]


@pytest.mark.parametrize(("choice", "param"), CHOICES)
def test_a_choice_that_needs_a_hosted_tool_is_refused(choice: JsonMapping | str, param: str) -> None:
    tools = [SEARCH] if choice == "required" else [SEARCH, RUN]
    one = dialect(DROPPING, tools, tool_choice=choice)
    with pytest.raises(BadRequest) as refused:
        one.chat_request(one.call())
    assert (refused.value.param, refused.value.code) == (param, "unsupported_tool")


def test_a_choice_among_hosted_and_other_tools_keeps_the_others() -> None:
    allowed = [{"type": "web_search"}, {"type": "function", "name": "run"}]
    one = dialect(DROPPING, [SEARCH, RUN], tool_choice={"type": "allowed_tools", "mode": "auto", "tools": allowed})
    assert one.chat_request(one.call()).tool_choice == ToolChoice("auto", allowed=("run",))


def test_a_background_request_is_checked_by_the_most_lenient_deployment() -> None:
    one = replace(dialect(target(), [SEARCH]), target=None)
    one.check_translation(drops_hosted=True)
    with pytest.raises(BadRequest):
        one.check_translation(drops_hosted=False)


def test_names_are_few_however_many_dates_there_are() -> None:
    tools = [{"type": f"web_search_2025_{month:02}_{day:02}"} for month in range(99) for day in range(99)]
    assert hosted_names(tools) == ("tools.web_search",)
    assert not is_hosted("web_search_2025_08_26_x")


def test_without_a_policy_nothing_else_is_refused() -> None:
    refuse_native_only(dialect(target(), [RUN], tool_choice="required").request)


@pytest.mark.parametrize("value", ["dropped", "", 1, True, ["drop"], {"a": 1}])
def test_a_wrong_policy_is_found(value: Any) -> None:
    assert find_invalid_flag({"hosted_tools": value}) == ("hosted_tools", "must be one of refuse, drop")


@pytest.mark.parametrize("value", [None, "refuse", "drop"])
def test_a_policy_is_one_of_two_words(value: Any) -> None:
    assert find_invalid_flag({"hosted_tools": value}) is None
