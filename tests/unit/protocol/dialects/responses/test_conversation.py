"""Items → messages: turns, calls with their outputs, and reasoning with its origin."""

import contextlib
import copy
import json
from collections import Counter
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.dialects.responses.conversation import (
    IMAGE_BEFORE,
    IMAGE_OMITTED,
    MAX_IMAGE_SIZE,
    MAX_IMAGES,
    SUMMARY_HEADING,
    build_messages,
    check_calls,
    collect_call_ids,
    drop_unpaired_calls,
)
from gateway.protocol.dialects.responses.items import PRIVATE, read_input
from gateway.protocol.dialects.responses.namespaces import Namespaces
from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.errors import BadRequest
from gateway.protocol.input_estimate import estimate_content
from gateway.protocol.items import (
    Assistant,
    Audio,
    Cache,
    File,
    Image,
    Message,
    Reasoning,
    System,
    Text,
    ToolCall,
    ToolResult,
    User,
)
from tests.unit.protocol.dialects.responses.test_items import JSON, OUTPUT, parts_of


class PlainSeal:
    """Marks a sealed text with a prefix; a text without it is not ours."""

    def close(self, value: Mapping[str, Any]) -> str:
        return "ours:" + json.dumps(value)

    def open(self, text: str) -> Mapping[str, Any] | None:
        mark, _, value = text.partition(":")
        opened: Mapping[str, Any] | None = json.loads(value) if mark == "ours" else None
        return opened


SEAL = PlainSeal()
USER: dict[str, Any] = {"role": "user", "content": "Hi"}
QUESTION = User((Text("Hi"),))
CLIENT_TOOLS = {"shell", "local_shell", "apply_patch"}


def read_items(items: Any) -> tuple[Item, ...]:
    numbers = count(1)
    return read_input(items, lambda prefix: f"{prefix}{next(numbers)}")


def messages_of(items: Any, *, instructions: str = "", origin: str = "here", history: int = 0) -> tuple[Message, ...]:
    return build_messages(read_items(items), instructions=instructions, origin=origin, seal=SEAL, history=history)


def refusal_of(items: Any, *, history: int = 0) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        messages_of(items, history=history)
    return caught.value


def call(call_id: str, **more: Any) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **more}


def output(call_id: str | None, text: Any = "done") -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def answer(text: str) -> Item:
    return {"role": "assistant", "content": [{"type": "output_text", "text": text}]}


def reasoning(origin: str = "here", **sealed: str) -> Item:
    return {"type": "reasoning", "summary": [], "encrypted_content": SEAL.close({"origin": origin, **sealed})}


def assistant(*ids: str, text: str = "", reasoned: tuple[Reasoning, ...] = ()) -> Assistant:
    return Assistant(
        (Text(text),) if text else (), tuple(ToolCall(tool_call, "f", "{}") for tool_call in ids), reasoned
    )


def result_of(call_id: str, text: str = "done") -> ToolResult:
    return ToolResult(call_id, (Text(text),))


# Messages


def test_a_text_is_a_message_behind_the_instructions() -> None:
    assert messages_of("Hi") == (QUESTION,)
    assert messages_of("Hi", instructions="Be brief.") == (System((Text("Be brief."),)), QUESTION)


def test_system_and_developer_messages_stay_where_they_are() -> None:
    messages = messages_of(
        [USER, {"role": "developer", "content": "D"}, answer("A"), {"role": "system", "content": "S"}, USER]
    )
    assert messages == (QUESTION, System((Text("D"),)), assistant(text="A"), System((Text("S"),)), QUESTION)


def test_the_texts_of_a_turn_are_one_text_and_its_refusals_one_refusal() -> None:
    parts = [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]
    no = {"type": "refusal", "refusal": "No."}
    messages = messages_of(
        [USER, {"role": "assistant", "content": parts}, {"role": "assistant", "content": [*parts, no]}]
    )
    assert messages[1:] == (Assistant((Text("ab\n\nab"),), refusal="No."),)


def test_an_empty_answer_is_no_turn() -> None:
    assert messages_of([USER, answer(""), {**answer("")}, USER]) == (QUESTION, QUESTION)


def test_parts_of_every_kind_become_parts() -> None:
    mark = {"mode": "explicit"}
    messages = messages_of(
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "t", "prompt_cache_breakpoint": {**mark, "ttl": "12h"}},
                    {"type": "text", "text": "u", "prompt_cache_breakpoint": mark},
                    {"type": "input_image", "image_url": "https://a.b/c.png", "detail": "original"},
                    {"type": "input_image", "image_url": "data:image/png;base64,eA=="},
                    {"type": "input_file", "file_url": "https://a.b/c.pdf"},
                    {"type": "input_file", "file_data": "data:application/pdf;base64,eA==", "filename": "c.pdf"},
                    {"type": "input_file", "file_data": "eA==", "filename": "c.pdf"},
                    {"type": "input_file", "file_id": "file-1"},
                    {"type": "input_audio", "input_audio": {"format": "wav", "data": "eA=="}},
                    {"type": "refusal", "refusal": "r"},
                    {"type": "computer_screenshot", "image_url": "https://a.b/d.png"},
                ],
            }
        ]
    )
    assert messages == (
        User(
            (
                Text("t", Cache("1h")),
                Text("u", Cache()),
                Image(url="https://a.b/c.png", detail="high"),
                Image(data="eA==", media_type="image/png"),
                File(url="https://a.b/c.pdf"),
                File("c.pdf", "application/pdf", "eA=="),
                File("c.pdf", "", "eA=="),
                File(file_id="file-1"),
                Audio("wav", "eA=="),
                Text("r"),
                Image(url="https://a.b/d.png"),
            )
        ),
    )


def test_an_image_that_only_one_server_has_is_refused_by_its_place() -> None:
    image = {"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_image", "file_id": "f"}]}
    fault = refusal_of([USER, image])
    assert (fault.param, fault.code) == ("input[1].content[1].file_id", "unsupported_parameter")
    assert refusal_of([USER, image], history=1).param == "input[0].content[1].file_id"
    assert refusal_of([image, USER], history=1).param == "input.content[1].file_id"
    outputs = [call("a"), output("a", [image["content"][1]])]
    assert refusal_of(outputs).param == "input[1].output[0].file_id"


# Turns, calls and outputs


def test_calls_and_the_text_beside_them_are_one_turn() -> None:
    calls = [answer("Let me look."), call("a"), call("b")]
    messages = messages_of([USER, *calls, output("a"), output("b", "too"), answer("Found."), USER])
    assert messages == (
        QUESTION,
        assistant("a", "b", text="Let me look."),
        result_of("a"),
        result_of("b", "too"),
        assistant(text="Found."),
        QUESTION,
    )


def test_an_output_follows_its_call_wherever_it_stands() -> None:
    messages = messages_of([USER, call("a"), answer("Wait."), USER, output("a")])
    assert messages == (QUESTION, assistant("a", text="Wait."), result_of("a"), QUESTION)
    messages = messages_of(
        [call("a"), call("b"), output("b", "2"), {"role": "system", "content": "S"}, output("a", "1")]
    )
    assert messages == (assistant("a", "b"), result_of("a", "1"), result_of("b", "2"), System((Text("S"),)))


def test_calls_that_were_answered_in_between_are_two_turns() -> None:
    messages = messages_of([call("a"), output("a"), call("b"), output("b")])
    assert messages == (assistant("a"), result_of("a"), assistant("b"), result_of("b"))


def test_calls_of_one_id_are_paired_in_their_order() -> None:
    items = [call("a"), output("a", "1"), USER, call("a"), output("a", "2")]
    assert messages_of(items) == (assistant("a"), result_of("a", "1"), QUESTION, assistant("a"), result_of("a", "2"))
    check_calls(read_items(items))


def test_a_custom_call_stays_custom() -> None:
    items = [
        {"type": "custom_tool_call", "call_id": "a", "name": "c", "input": "free text"},
        {"type": "custom_tool_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "x"}]},
    ]
    assert messages_of(items) == (
        Assistant(tool_calls=(ToolCall("a", "c", "free text", kind="custom"),)),
        result_of("a", "x"),
    )


def test_an_output_keeps_its_parts_other_than_text() -> None:
    image = {"type": "input_image", "image_url": "https://a.b"}
    messages = messages_of([call("a"), output("a", [{"type": "input_text", "text": "x"}, image])])
    assert messages[1] == ToolResult("a", (Text("x"), Image(url="https://a.b")))
    assert messages_of([call("a"), output("a", [])])[1] == ToolResult("a", ())


def test_an_output_without_a_call_names_the_tool() -> None:
    messages = messages_of([USER, {**output(None, "72°"), "name": "weather"}, output(None)])
    assert messages[1] == User((Text("Output of the tool weather:"), Text("72°")))
    assert isinstance(messages[2], User)
    check_calls(read_items([output(None)]))


@pytest.mark.parametrize(
    "unfinished",
    [
        call("a", arguments='{"city": "Pa', status="incomplete"),
        call("a", arguments='{"city": "Pa'),
        call("a", arguments="", status="in_progress"),
        {"type": "custom_tool_call", "call_id": "a", "name": "c", "input": "x", "status": "incomplete"},
    ],
)
def test_a_call_that_was_cut_is_left_out_and_nothing_else(unfinished: Item) -> None:
    items = [USER, reasoning(text="r"), answer("Let me"), call("b"), unfinished, output("b"), USER]
    check_calls(read_items(items))
    assert messages_of(items) == (
        QUESTION,
        assistant("b", text="Let me", reasoned=(Reasoning("r"),)),
        result_of("b"),
        QUESTION,
    )


def test_a_broken_call_with_an_output_stays() -> None:
    broken = call("a", arguments='{"', status="incomplete")
    messages = messages_of([broken, output("a", "bad arguments")])
    assert messages == (Assistant(tool_calls=(ToolCall("a", "f", '{"'),)), result_of("a", "bad arguments"))


def test_an_output_without_its_call_is_refused() -> None:
    for items in ([output("a")], [call("b"), output("b"), output("a")], [call("a"), output("a"), output("a")]):
        with pytest.raises(BadRequest) as caught:
            check_calls(read_items(items))
        assert caught.value.message == "No tool call found for function call output with call_id a."
        assert (caught.value.param, caught.value.code, caught.value.status) == ("input", None, 400)
    custom = {"type": "custom_tool_call_output", "call_id": "a", "output": ""}
    with pytest.raises(BadRequest, match=r"^No tool call found for custom tool call output with call_id a\.$"):
        check_calls(read_items([custom]))


@pytest.mark.parametrize("items", [[call("a"), USER], [call("a")], [call("b"), call("a"), output("b")]])
def test_a_call_without_an_output_is_refused(items: list[Item]) -> None:
    with pytest.raises(BadRequest) as caught:
        check_calls(read_items(items))
    assert caught.value.message == "No tool output found for function call a."
    assert caught.value.param == "input"


def test_calls_of_hosted_tools_need_no_output_here() -> None:
    check_calls(read_items([item for item in OUTPUT if item["type"] not in {"function_call", "custom_tool_call"}][7:]))


def test_the_other_half_of_a_deleted_pair_is_left_out() -> None:
    items = read_items([call("a"), USER, call("b"), output("b"), output("c"), USER, call("d"), answer("Wait.")])
    remaining = drop_unpaired_calls(items)
    assert [item.get("call_id") for item in remaining] == [None, "b", "b", None, "d", None]
    assert drop_unpaired_calls(remaining) == remaining
    check_calls([*remaining, *read_items([output("d")])])


# Reasoning


def test_reasoning_goes_back_to_its_origin_with_its_signature() -> None:
    items = [USER, reasoning(text="r", signature="s"), reasoning(redacted="x"), call("a"), output("a")]
    reasoned = (Reasoning("r", "s"), Reasoning(redacted="x"))
    assert messages_of(items) == (QUESTION, assistant("a", reasoned=reasoned), result_of("a"))
    assert messages_of(items, origin="elsewhere") == (QUESTION, assistant("a"), result_of("a"))


def test_reasoning_of_an_unknown_maker_is_left_out() -> None:
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "theirs:x"}
    bare = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]}
    assert messages_of([foreign, bare, answer("A")], origin="") == (assistant(text="A"),)


def test_unsealed_reasoning_goes_back_to_its_known_origin() -> None:
    (plain,) = read_items([{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}]}])
    items = [plain | {PRIVATE: {"origin": "here"}}, *read_items([answer("A")])]
    assert build_messages(items, instructions="", origin="here", seal=SEAL) == (
        assistant(text="A", reasoned=(Reasoning("r"),)),
    )
    assert build_messages(items, instructions="", origin="there", seal=SEAL) == (assistant(text="A"),)


def test_reasoning_that_led_to_nothing_is_no_turn() -> None:
    assert messages_of([USER, reasoning(text="r"), USER, answer("A")]) == (QUESTION, QUESTION, assistant(text="A"))


def test_a_calls_signature_goes_back_to_its_origin() -> None:
    items = read_items([call("a"), output("a")])
    items[0][PRIVATE] = {"origin": "here", "signature": "s"}
    for origin, signature in (("here", "s"), ("there", "")):
        messages = build_messages(items, instructions="", origin=origin, seal=SEAL)
        assert messages[0] == Assistant(tool_calls=(ToolCall("a", "f", "{}", signature=signature),))


# Compaction, references and items that only their own server can read


def test_a_compaction_becomes_its_summary() -> None:
    item = {"type": "compaction", "encrypted_content": SEAL.close({"summary": "They met."})}
    assert messages_of([answer("A"), item, USER]) == (
        assistant(text="A"),
        User((Text(SUMMARY_HEADING + "They met."),)),
        QUESTION,
    )


@pytest.mark.parametrize("sealed", ["theirs:x", 'ours:{"origin": "here"}', 'ours:{"summary": 1}'])
def test_a_compaction_that_is_not_ours_is_refused(sealed: str) -> None:
    fault = refusal_of([USER, {"type": "compaction", "encrypted_content": sealed}])
    assert (fault.param, fault.code) == ("input[1].encrypted_content", "invalid_value")


def test_a_reference_that_was_not_resolved_is_refused() -> None:
    assert refusal_of([{"type": "item_reference", "id": "msg_1"}]).param == "input[0].id"


def test_items_for_their_own_server_alone_are_left_out_within_a_turn() -> None:
    items = [USER, {"type": "web_search_call", "id": "ws_1"}, answer("A"), {"type": "of_next_year"}, call("a")]
    assert messages_of([*items, output("a")]) == (QUESTION, assistant("a", text="A"), result_of("a"))


# Built-in client tools

SHELL = {"type": "shell_call", "call_id": "a", "action": {"commands": ["ls"]}, "status": "completed"}
LOCAL = {"type": "local_shell_call", "id": "lsh_1", "call_id": "a", "action": {"type": "exec", "command": ["ls"]}}
PATCH = {"type": "apply_patch_call", "call_id": "a", "operation": {"type": "delete_file", "path": "a"}}
PRINTED = {"stdout": "a.txt", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}


def text(of: str, *, is_error: bool = False) -> ToolResult:
    return ToolResult("a", (Text(of),), is_error)


@pytest.mark.parametrize(
    ("pair", "name", "arguments", "result"),
    [
        (
            [SHELL, {"type": "shell_call_output", "call_id": "a", "output": [PRINTED]}],
            "shell",
            SHELL["action"],
            text(json.dumps([PRINTED], separators=(",", ":"))),
        ),
        ([SHELL, output("a", "a.txt")], "shell", SHELL["action"], text("a.txt")),
        ([LOCAL, output("a", "a.txt")], "local_shell", LOCAL["action"], text("a.txt")),
        (
            [LOCAL, {"type": "local_shell_call_output", "id": "a", "output": "a.txt"}],
            "local_shell",
            LOCAL["action"],
            text("a.txt"),
        ),
        (
            [PATCH, {"type": "apply_patch_call_output", "call_id": "a", "status": "failed", "output": "no such file"}],
            "apply_patch",
            PATCH["operation"],
            text("no such file", is_error=True),
        ),
        (
            [PATCH, {"type": "apply_patch_call_output", "call_id": "a", "status": "completed"}],
            "apply_patch",
            PATCH["operation"],
            text("completed"),
        ),
    ],
)
def test_a_call_of_a_client_tool_comes_with_its_output(
    pair: list[Item], name: str, arguments: Item, result: ToolResult
) -> None:
    for items in ([USER, *pair, USER], [USER, pair[0], answer("Wait."), pair[1], USER]):
        check_calls(read_items(items))
        before, turn, actual_result, after = messages_of(items)
        assert (before, after) == (QUESTION, QUESTION)
        assert isinstance(turn, Assistant)
        (tool_call,) = turn.tool_calls
        assert (tool_call.id, tool_call.name, json.loads(tool_call.arguments), tool_call.kind) == (
            "a",
            name,
            arguments,
            "function",
        )
        assert actual_result == result


@pytest.mark.parametrize(
    "half",
    [
        SHELL,
        LOCAL,
        PATCH,
        {"type": "shell_call_output", "call_id": "a", "output": [PRINTED]},
        {"type": "local_shell_call_output", "id": "a", "output": "x"},
        {"type": "apply_patch_call_output", "call_id": "a", "status": "completed"},
    ],
)
def test_one_half_of_such_a_pair_is_left_out(half: Item) -> None:
    check_calls(read_items([USER, half, USER]))
    assert messages_of([USER, half, USER]) == (QUESTION, QUESTION)


@pytest.mark.parametrize("kind", ["tool_search_call", "computer_call", "mcp_call", "of_next_year_call"])
def test_a_call_that_only_its_server_knows_is_left_out_with_its_output(kind: str) -> None:
    items = [USER, {"type": kind, "call_id": "a"}, output("a"), call("b"), output("b"), USER]
    check_calls(read_items(items))
    assert messages_of(items) == (QUESTION, assistant("b"), result_of("b"), QUESTION)
    with pytest.raises(BadRequest, match="No tool call found"):
        check_calls(read_items([*items, output("a")]))


def test_calls_of_both_kinds_under_one_id_are_paired_in_their_order() -> None:
    items = [LOCAL, output("a", "1"), call("a"), output("a", "2")]
    check_calls(read_items(items))
    assert [message for message in messages_of(items) if isinstance(message, ToolResult)] == [
        result_of("a", "1"),
        result_of("a", "2"),
    ]


def test_call_ids_are_those_of_all_calls() -> None:
    items = [USER, call("a"), output("a"), {**SHELL, "call_id": "b"}, {"type": "mcp_call"}, answer("A")]
    assert collect_call_ids(read_items(items)) == {"a", "b", ""}


# Namespaces


def test_a_call_in_a_namespace_has_the_upstream_name_of_its_tool() -> None:
    items = [call("a", namespace="crm"), call("b"), output("a"), output("b")]
    with_function = Namespaces([{"type": "function", "name": "crm__f"}])
    other = with_function.upstream_name("crm", "f")
    assert other != "crm__f"
    for namespaces, name in ((None, "crm__f"), (with_function, other)):
        messages = build_messages(read_items(items), instructions="", origin="here", seal=SEAL, namespaces=namespaces)
        assert isinstance(messages[0], Assistant)
        assert [tool_call.name for tool_call in messages[0].tool_calls] == [name, "f"]
    assert refusal_of([call("a", namespace=1)]).param == "input[0].namespace"


# Images of earlier answers

PNG = "iVBORw0KGgo="


def image(data: Any = PNG, **more: Any) -> Item:
    return {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": data, **more}


def seen_images(*images: tuple[str, str]) -> User:
    parts: list[Any] = []
    for media_type, data in images:
        parts += [Text(IMAGE_BEFORE), Image(data=data, media_type=media_type)]
    return User(tuple(parts))


def test_an_image_that_an_answer_had_is_shown_right_behind_its_turn() -> None:
    items = [USER, answer("Look:"), image(), call("a"), output("a"), USER]
    assert messages_of(items) == (
        QUESTION,
        assistant("a", text="Look:"),
        result_of("a"),
        seen_images(("image/png", PNG)),
        QUESTION,
    )
    assert messages_of([USER, image(), USER]) == (QUESTION, seen_images(("image/png", PNG)), QUESTION)
    assert messages_of([USER, reasoning(text="r"), image()]) == (QUESTION, seen_images(("image/png", PNG)))


@pytest.mark.parametrize(
    ("data", "media_type"), [("/9j/4AAQ", "image/jpeg"), ("R0lGODlh", "image/gif"), ("UklGRiQA", "image/webp")]
)
def test_the_type_of_an_image_comes_from_its_data(data: str, media_type: str) -> None:
    assert messages_of([image(data, output_format="png")]) == (seen_images((media_type, data)),)


def test_no_more_images_are_shown_again_than_providers_take() -> None:
    messages = messages_of([image(f"{PNG}{number}") for number in range(MAX_IMAGES + 1)])
    image_data = [part.data for part in messages[0].parts if isinstance(part, Image)]
    assert image_data == [f"{PNG}{number}" for number in range(1, MAX_IMAGES + 1)]
    assert messages[0].parts[0] == Text(IMAGE_OMITTED)
    large = PNG + "A" * MAX_IMAGE_SIZE
    svg = "PHN2Zz48L3N2Zz4="
    assert messages_of([image(large), image(svg), image()]) == (
        User((Text(IMAGE_OMITTED), Text(IMAGE_OMITTED), *seen_images(("image/png", PNG)).parts)),
    )


def test_a_model_without_vision_reads_that_there_was_an_image() -> None:
    items = read_items([answer("Look:"), image()])
    messages = build_messages(items, instructions="", origin="here", seal=SEAL, shows_images=False)
    assert messages == (assistant(text="Look:"), User((Text(IMAGE_OMITTED),)))


@pytest.mark.parametrize("data", [None, "", 1])
def test_an_image_without_its_picture_is_left_out(data: Any) -> None:
    assert messages_of([USER, image(data), USER]) == (QUESTION, QUESTION)


@given(st.lists(st.sampled_from(OUTPUT[:9] + OUTPUT[10:])))
def test_every_output_can_be_sent_again(items: list[Item]) -> None:
    """Input → stored → messages: each call comes once, and its result right after its turn."""
    stored = read_items(items)
    remaining = drop_unpaired_calls(stored)
    messages = build_messages(remaining, instructions="", origin="here", seal=SEAL)
    waiting: list[str] = []
    outputs = Counter(item.get("call_id") or item["id"] for item in remaining if item["type"].endswith("_output"))
    answered = set(outputs)
    for message in messages:
        if isinstance(message, ToolResult):
            assert waiting.pop(0) == message.tool_call_id
            continue
        assert waiting == [] or message is messages[-1]
        if isinstance(message, Assistant):
            waiting = []
            for tool_call in message.tool_calls:  # of several with one id the first ones have its outputs
                if outputs[tool_call.id]:
                    outputs[tool_call.id] -= 1
                    waiting.append(tool_call.id)
            assert all(tool_call.id in answered for tool_call in message.tool_calls if tool_call.name in CLIENT_TOOLS)
    call_ids = [
        tool_call.id
        for message in messages
        if isinstance(message, Assistant)
        for tool_call in message.tool_calls
        if tool_call.name not in CLIENT_TOOLS
    ]
    assert call_ids == [item["call_id"] for item in remaining if item["type"] in {"function_call", "custom_tool_call"}]
    texts = "".join(part.text for message in messages for part in message.parts if isinstance(part, Text))
    assert texts.count("Hi") == sum(item["id"].startswith("msg") and bool(item["content"]) for item in stored)


@given(st.permutations([call("a"), call("b"), call("a"), output("a", "1"), output("a", "2"), output("b", "3")]))
def test_pairs_hold_in_any_order_of_the_items(items: list[Item]) -> None:
    stored = read_items(items)
    check_calls(stored)
    messages = build_messages(stored, instructions="", origin="here", seal=SEAL)
    results = [(message.tool_call_id, message.parts) for message in messages if isinstance(message, ToolResult)]
    calls = [tool_call.id for message in messages if isinstance(message, Assistant) for tool_call in message.tool_calls]
    assert [call_id for call_id, _ in results] == calls
    expected_texts = [item["output"] for item in items if item.get("output") and item["call_id"] == "a"]
    assert [parts[0].text for call_id, parts in results if call_id == "a"] == expected_texts


@given(st.data())
def test_no_wrong_type_that_is_stored_is_worse_than_a_refusal(data: st.DataObject) -> None:
    """Any member of any item, or of its parts, replaced by anything."""
    items = copy.deepcopy([USER, *data.draw(st.lists(st.sampled_from(OUTPUT), min_size=1, max_size=4))])
    item = data.draw(st.sampled_from(items))
    holder = data.draw(st.sampled_from([item, *parts_of(item, "content"), *parts_of(item, "output")]))
    names = [*holder, "content", "output", "prompt_cache_breakpoint", "detail", "name", "encrypted_content"]
    holder[data.draw(st.sampled_from(names))] = data.draw(JSON)
    with contextlib.suppress(BadRequest):
        stored = read_items(items)
        assert estimate_content(stored) >= 0
        messages = build_messages(stored, instructions="", origin="here", seal=SEAL)
        assert QUESTION in messages or item is items[0]
        check_calls(stored)


# Size


def test_the_estimate_counts_all_texts_of_the_history() -> None:
    long = "word " * 400
    texts: list[Any] = [
        {"role": "user", "content": long},
        answer(long),
        call("a", arguments=long),
        output("a", long),
        output("a", [{"type": "input_text", "text": long}]),
        {"type": "compaction", "encrypted_content": long * 2},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": long}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": long}]},
        {"type": "shell_call", "call_id": "a", "action": {"commands": [long]}},
        {"type": "shell_call_output", "call_id": "a", "output": [{"stdout": long}]},
    ]
    for item in texts:
        assert estimate_content(read_items([item])) >= 500, item["type" if "type" in item else "role"]
    assert estimate_content((), long) >= 500
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64," + long}]}
    assert 765 <= estimate_content(read_items([image])) < 775
    assert estimate_content((), "") == 0
    assert estimate_content(read_items(OUTPUT)) > 0
