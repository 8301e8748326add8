"""Items of the Responses API: reading, storing and rendering."""

import copy
from collections.abc import Callable
from itertools import count
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseItem, ResponseOutputItem
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from pydantic import TypeAdapter

from gateway.protocol.dialects.responses.items import (
    ID_PATTERN,
    INCLUDABLE,
    MAX_ITEMS,
    PREFIXES,
    PRIVATE,
    read_input,
    render_item,
    render_response,
)
from gateway.protocol.errors import BadRequest

NOTHING: frozenset[str] = frozenset()
OUTPUT_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)
STORED_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)

TEXT = {"type": "output_text", "text": "Hi", "annotations": []}
CITED = {
    "type": "output_text",
    "text": "Hi",
    "annotations": [{"type": "url_citation", "url": "https://a.b", "title": "t", "start_index": 0, "end_index": 2}],
    "logprobs": [{"token": "Hi", "bytes": [72, 105], "logprob": -0.1, "top_logprobs": []}],
}
OUTPUT: list[dict[str, Any]] = [
    {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [TEXT]},
    {
        "id": "msg_2",
        "type": "message",
        "role": "assistant",
        "status": "incomplete",
        "content": [CITED, {"type": "refusal", "refusal": "No."}],
        "phase": "commentary",
    },
    {"id": "msg_3", "type": "message", "role": "assistant", "status": "completed", "content": [], "phase": None},
    {
        "id": "fc_1",
        "type": "function_call",
        "call_id": "call_1",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
        "namespace": None,
        "caller": None,
    },
    {
        "id": "fco_1",
        "type": "function_call_output",
        "call_id": "call_1",
        "output": "done",
        "status": "completed",
        "name": None,
    },
    {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "c", "input": "x", "status": "completed"},
    {
        "id": "ctco_1",
        "type": "custom_tool_call_output",
        "call_id": "call_2",
        "output": [{"type": "input_text", "text": "y"}],
        "status": "completed",
    },
    {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "s"}],
        "content": [{"type": "reasoning_text", "text": "r"}],
        "encrypted_content": None,
        "status": None,
    },
    {"id": "rs_2", "type": "reasoning", "summary": [], "content": None, "encrypted_content": "sealed"},
    {"id": "cmp_1", "type": "compaction", "encrypted_content": "sealed", "created_by": None},
    {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "q", "sources": [{"type": "url", "url": "https://a.b"}]},
    },
    {"id": "fs_1", "type": "file_search_call", "status": "completed", "queries": ["q"], "results": [{"text": "x"}]},
    {
        "id": "ci_1",
        "type": "code_interpreter_call",
        "status": "completed",
        "container_id": "c",
        "code": "1",
        "outputs": [{"type": "logs", "logs": "1"}],
    },
    {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "iVBOR"},
    {
        "id": "cu_1",
        "type": "computer_call",
        "call_id": "call_3",
        "status": "completed",
        "pending_safety_checks": [],
        "action": {"type": "wait"},
    },
    {
        "id": "cuo_1",
        "type": "computer_call_output",
        "call_id": "call_3",
        "status": "completed",
        "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,eA=="},
    },
    {
        "id": "lsh_1",
        "type": "local_shell_call",
        "call_id": "call_4",
        "status": "completed",
        "action": {"type": "exec", "command": ["ls"], "env": {}},
    },
    {"id": "lsho_1", "type": "local_shell_call_output", "output": "x", "status": None},
    {"id": "sh_1", "type": "shell_call", "call_id": "call_5", "status": "completed", "action": {"commands": ["ls"]}},
    {"id": "sho_1", "type": "shell_call_output", "call_id": "call_5", "status": "completed", "output": []},
    {
        "id": "apc_1",
        "type": "apply_patch_call",
        "call_id": "call_6",
        "status": "completed",
        "operation": {"type": "delete_file", "path": "p"},
    },
    {"id": "apco_1", "type": "apply_patch_call_output", "call_id": "call_6", "status": "completed", "output": None},
    {"id": "mcp_1", "type": "mcp_call", "server_label": "l", "name": "n", "arguments": "{}", "output": "x"},
    {"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "l", "tools": [], "error": None},
    {"id": "mcpr_1", "type": "mcp_approval_request", "server_label": "l", "name": "n", "arguments": "{}"},
    {"id": "mcpa_1", "type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    {"id": "tsc_1", "type": "tool_search_call", "arguments": {}, "execution": "server", "status": "completed"},
    {"id": "tso_1", "type": "tool_search_output", "tools": [], "execution": "server", "status": "completed"},
    {"id": "at_1", "type": "additional_tools", "role": "developer", "tools": []},
    {"id": "prog_1", "type": "program", "call_id": "call_7", "code": "1", "fingerprint": "f"},
    {"id": "progo_1", "type": "program_output", "call_id": "call_7", "result": "1", "status": "completed"},
    {"id": "x_1", "type": "of_next_year", "content": {"deep": [{"er": None}]}, "call_id": 7, "output": {"a": []}},
]


def numbered() -> Callable[[str], str]:
    numbers = count(1)
    return lambda prefix: f"{prefix}new{next(numbers)}"


def read_items(value: Any) -> tuple[dict[str, Any], ...]:
    return read_input(value, numbered())


def refusal_of(value: Any) -> tuple[str | None, str | None]:
    with pytest.raises(BadRequest) as caught:
        read_items(value)
    assert caught.value.status == 400
    assert str(caught.value.param) in caught.value.message
    return caught.value.param, caught.value.code


# Reading


def test_a_text_is_one_message_of_the_user() -> None:
    assert read_items("Hi") == (
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Hi"}],
            "type": "message",
            "status": "completed",
            "id": "msg_new1",
        },
    )
    assert read_items(None) == read_items([]) == ()


@pytest.mark.parametrize("item", OUTPUT, ids=lambda item: item["id"])
def test_an_item_of_an_output_is_taken_back_as_it_stands(item: dict[str, Any]) -> None:
    given = copy.deepcopy(item)
    (stored,) = read_items([given])
    assert given == item, "the request's own object was changed"
    assert {name: member for name, member in stored.items() if item.get(name) is not None} == {
        name: member for name, member in item.items() if member is not None
    }
    assert render_item(stored, INCLUDABLE) == stored


def test_the_examples_are_items_of_every_type_that_an_output_may_hold() -> None:
    union = get_args(ResponseOutputItem)[0]
    kinds = {kind for stored_item in get_args(union) for kind in get_args(stored_item.model_fields["type"].annotation)}
    assert {item["type"] for item in OUTPUT} == kinds | {"of_next_year"}
    for item in OUTPUT:
        if item["type"] not in {"of_next_year", "file_search_call"}:
            OUTPUT_ITEM.validate_python(item)


def test_every_type_of_item_has_a_prefix_for_its_ids() -> None:
    hints = [get_type_hints(member)["type"] for member in get_args(ResponseInputItemParam)]
    kinds = {kind for hint in hints for kind in get_args(hint) if isinstance(kind, str)}
    assert kinds - {"item_reference", "compaction_trigger"} <= set(PREFIXES)
    assert len(set(PREFIXES.values())) == len(PREFIXES)


@pytest.mark.parametrize("role", ["user", "system", "developer", "assistant"])
def test_an_easy_message_is_stored_in_the_form_that_is_listed(role: str) -> None:
    (stored,) = read_items([{"role": role, "content": "Hi"}])
    assert (stored["type"], stored["status"], stored["id"]) == ("message", "completed", "msg_new1")
    assert stored["content"][0]["type"] == ("output_text" if role == "assistant" else "input_text")
    STORED_ITEM.validate_python(stored)


def test_an_assistants_message_may_be_of_any_form_that_clients_send() -> None:
    bare = {"type": "output_text", "text": "a"}
    mixed = [bare, {"type": "input_text", "text": "b"}, {"type": "refusal", "refusal": "c"}]
    (stored,) = read_items([{"role": "assistant", "content": mixed, "id": None, "status": None}])
    assert stored["content"][0] == {**bare, "annotations": []}
    assert stored["content"][1:] == mixed[1:]
    assert stored["status"] == "completed"
    assert bare == {"type": "output_text", "text": "a"}


def test_calls_and_outputs_get_the_status_that_a_listed_one_must_have() -> None:
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": ""}
    output = {"type": "function_call_output", "call_id": "a", "output": "1"}
    custom = {"type": "custom_tool_call", "call_id": "b", "name": "c", "input": ""}
    for item in read_items([call, output, custom]):
        assert item["status"] == "completed"
        STORED_ITEM.validate_python(item)


def test_a_reference_may_come_without_its_type_and_keeps_its_id() -> None:
    assert read_items([{"id": "msg_9"}]) == ({"id": "msg_9", "type": "item_reference"},)
    assert read_items([{"id": "msg 9", "type": "item_reference"}])[0]["id"] == "msg 9"


def test_an_image_by_either_address_is_taken_with_the_detail_that_a_listed_one_must_have() -> None:
    image = {"type": "input_image", "image_url": "https://a.b/c.png"}
    by_id = {"type": "input_image", "file_id": "file-1", "detail": "high"}
    (stored,) = read_items([{"role": "user", "content": [image, by_id]}])
    assert stored["content"] == [{**image, "detail": "auto"}, by_id]


# Ids


def test_every_item_has_an_id_of_its_own() -> None:
    fake = {"role": "assistant", "content": "x", "id": "__fake_id__"}
    stored = read_items(
        [fake, fake, {"role": "user", "content": "y"}, {**OUTPUT[3], "id": None}, {"type": "of_next_year"}]
    )
    assert [item["id"] for item in stored] == ["__fake_id__", "msg_new1", "msg_new2", "fc_new3", "item_new4"]


@pytest.mark.parametrize("unusable", ["", "a b", "../x", "é", "x" * 129, "a\n"])
def test_an_id_that_could_not_stand_in_a_path_is_replaced(unusable: str) -> None:
    (stored,) = read_items([{**OUTPUT[0], "id": unusable}])
    assert stored["id"] == "msg_new1"
    assert ID_PATTERN.fullmatch("x" * 128)


# Refusals


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        (1, "input", "invalid_value"),
        ({}, "input", "invalid_value"),
        ([1], "input[0]", "invalid_value"),
        ([{}], "input[0].type", "missing_required_parameter"),
        ([{"type": 1}], "input[0].type", "invalid_value"),
        ([{"type": "input_text", "text": "x"}], "input[0].type", "invalid_value"),
        ([{"role": "user", "content": "x"}, {"type": "input_image"}], "input[1].type", "invalid_value"),
        ([{"type": "x", "id": 1}], "input[0].id", "invalid_value"),
        ([{"type": "message", "content": "x"}], "input[0].role", "missing_required_parameter"),
        ([{"role": "robot", "content": "x"}], "input[0].role", "invalid_value"),
        ([{"role": "user"}], "input[0].content", "missing_required_parameter"),
        ([{"role": "user", "content": 1}], "input[0].content", "invalid_value"),
        ([{"role": "user", "content": {}}], "input[0].content", "invalid_value"),
        ([{"role": "user", "content": ["x"]}], "input[0].content[0]", "invalid_value"),
        ([{"role": "user", "content": [{}]}], "input[0].content[0].type", "missing_required_parameter"),
        ([{"role": "user", "content": "x", "status": []}], "input[0].status", "invalid_value"),
        ([{"role": "user", "content": "x", "phase": 1}], "input[0].phase", "invalid_value"),
        (
            ["x", {"role": "user", "content": []}],
            "input[0]",
            "invalid_value",
        ),
        (
            [{"role": "user", "content": "x"}, {"role": "user", "content": [TEXT, {"type": "text_of_old"}]}],
            "input[1].content[1].type",
            "invalid_value",
        ),
        (
            [{"role": "user", "content": [{"type": "input_text"}]}],
            "input[0].content[0].text",
            "missing_required_parameter",
        ),
        ([{"role": "user", "content": [{"type": "input_text", "text": 1}]}], "input[0].content[0].text", None),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input[0].content[0].image_url", None),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": {"url": "x"}}]}],
            "input[0].content[0].image_url",
            None,
        ),
        ([{"role": "user", "content": [{"type": "input_file"}]}], "input[0].content[0].file_data", None),
        (
            [{"role": "user", "content": [{"type": "input_file", "file_id": "f", "filename": 1}]}],
            "input[0].content[0].filename",
            None,
        ),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "input[0].content[0].input_audio", None),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]}],
            "input[0].content[0].input_audio.format",
            None,
        ),
        (
            [{"role": "assistant", "content": [{**TEXT, "annotations": [1]}]}],
            "input[0].content[0].annotations[0]",
            None,
        ),
        ([{"role": "assistant", "content": [{**TEXT, "logprobs": {}}]}], "input[0].content[0].logprobs", None),
        ([{"role": "assistant", "content": [{"type": "refusal"}]}], "input[0].content[0].refusal", None),
        ([{"type": "function_call", "name": "f", "arguments": ""}], "input[0].call_id", "missing_required_parameter"),
        ([{"type": "function_call", "call_id": "", "name": "f", "arguments": ""}], "input[0].call_id", None),
        ([{"type": "function_call", "call_id": "a", "arguments": ""}], "input[0].name", None),
        ([{"type": "function_call", "call_id": "a", "name": "", "arguments": ""}], "input[0].name", None),
        ([{"type": "function_call", "call_id": "a", "name": "f", "arguments": {}}], "input[0].arguments", None),
        ([{"type": "function_call_output", "call_id": 1, "output": ""}], "input[0].call_id", None),
        ([{"type": "function_call_output", "call_id": "a"}], "input[0].output", "missing_required_parameter"),
        ([{"type": "function_call_output", "call_id": "a", "output": {}}], "input[0].output", None),
        ([{"type": "function_call_output", "output": "x", "name": 1}], "input[0].name", None),
        (
            [{"type": "function_call_output", "call_id": "a", "output": [{"type": "x"}]}],
            "input[0].output[0].type",
            None,
        ),
        ([{"type": "custom_tool_call", "call_id": "a", "name": "c"}], "input[0].input", None),
        ([{"type": "custom_tool_call", "call_id": "a", "name": "", "input": ""}], "input[0].name", None),
        ([{"type": "custom_tool_call_output", "output": ""}], "input[0].call_id", None),
        ([{"type": "reasoning", "summary": "x"}], "input[0].summary", None),
        ([{"type": "reasoning", "content": [{"type": "reasoning_text"}]}], "input[0].content[0].text", None),
        ([{"type": "reasoning", "encrypted_content": {}}], "input[0].encrypted_content", None),
        ([{"type": "compaction"}], "input[0].encrypted_content", "missing_required_parameter"),
        ([{"type": "item_reference"}], "input[0].id", "missing_required_parameter"),
    ],
)
def test_a_value_that_is_no_item_is_refused_by_its_place(value: Any, param: str, code: str | None) -> None:
    place, actual_code = refusal_of(value)
    assert place == param
    assert actual_code == code if code else actual_code in {"invalid_value", "missing_required_parameter"}


def test_more_items_than_allowed_are_refused() -> None:
    item = {"role": "user", "content": ""}
    assert len(read_items([item] * MAX_ITEMS)) == MAX_ITEMS
    assert refusal_of([item] * (MAX_ITEMS + 1)) == ("input", "invalid_value")


def test_another_list_of_items_is_named_by_its_own_name() -> None:
    with pytest.raises(BadRequest) as caught:
        read_input([{"role": "user", "content": [1]}], numbered(), param="items")
    assert caught.value.param == "items[0].content[0]"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_no_wrong_type_anywhere_is_worse_than_a_refusal(data: st.DataObject) -> None:
    """Any member of any item, or of its parts, replaced by anything."""
    item = copy.deepcopy(data.draw(st.sampled_from(OUTPUT)))
    holders = [item, *(part for name in ("content", "output", "summary") for part in parts_of(item, name))]
    holder = data.draw(st.sampled_from(holders))
    holder[data.draw(st.sampled_from([*holder, "type", "content", "output", PRIVATE]))] = data.draw(JSON)
    try:
        stored: tuple[dict[str, Any], ...] = read_items([item])
    except BadRequest as refusal:
        stored, param = (), refusal.param
    else:
        param = "input[0]"
    assert str(param).startswith("input[0]")
    for stored_item in stored:
        assert ID_PATTERN.fullmatch(stored_item["id"]) or stored_item["type"] == "item_reference"
        assert PRIVATE not in stored_item
        render_item(stored_item, NOTHING)


def parts_of(item: dict[str, Any], name: str) -> list[dict[str, Any]]:
    parts = item.get(name)
    return parts if isinstance(parts, list) else []


# Rendering


def test_a_private_member_is_neither_read_nor_rendered() -> None:
    private = {"origin": "someone", "signature": "secret"}
    (stored,) = read_items([{**OUTPUT[3], PRIVATE: private}])
    assert PRIVATE not in stored
    assert PRIVATE not in render_item({**OUTPUT[3], PRIVATE: private}, INCLUDABLE)
    response = {"id": "resp_1", "output": [{**OUTPUT[3], PRIVATE: private}], PRIVATE: 1}
    assert render_response(response, NOTHING) == {"id": "resp_1", "output": [OUTPUT[3]]}
    assert response["output"][0][PRIVATE] == private


IMAGE = {"type": "input_image", "image_url": "https://a.b", "detail": "auto"}


@pytest.mark.parametrize(
    ("item", "name", "hidden"),
    [
        (OUTPUT[8], "reasoning.encrypted_content", {"encrypted_content": ...}),
        (OUTPUT[1], "message.output_text.logprobs", {"content": [{**CITED, "logprobs": []}, OUTPUT[1]["content"][1]]}),
        (
            {"type": "message", "role": "user", "content": [IMAGE]},
            "message.input_image.image_url",
            {"content": [{**IMAGE, "image_url": None}]},
        ),
        (OUTPUT[10], "web_search_call.action.sources", {"action": {"type": "search", "query": "q"}}),
        ({**OUTPUT[10], "action": {}, "results": [1]}, "web_search_call.results", {"results": ...}),
        (OUTPUT[11], "file_search_call.results", {"results": ...}),
        (OUTPUT[12], "code_interpreter_call.outputs", {"outputs": None}),
        (OUTPUT[15], "computer_call_output.output.image_url", {"output": {"type": "computer_screenshot"}}),
    ],
)
def test_optional_members_are_rendered_only_where_included(
    item: dict[str, Any], name: str, hidden: dict[str, Any]
) -> None:
    before = copy.deepcopy(item)
    assert render_item(item, frozenset({name})) == item
    changed = {key: member for key, member in {**item, **hidden}.items() if member is not ...}
    assert render_item(item, INCLUDABLE - {name}) == changed
    assert item == before, "what is stored was changed"


def test_every_name_that_can_be_included_is_tested() -> None:
    cases = test_optional_members_are_rendered_only_where_included.pytestmark[0].args[1]
    assert {name for _, name, _ in cases} == INCLUDABLE


def test_a_compaction_is_always_rendered_whole() -> None:
    assert render_item(OUTPUT[9], NOTHING) == OUTPUT[9]
