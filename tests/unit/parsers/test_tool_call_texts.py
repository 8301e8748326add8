"""Texts that the grammars accept, and text that is no call: each row in any chunking."""

import json
from collections.abc import Sequence

import pytest

from gateway.parsers.contract import MAX_CALLS
from gateway.parsers.registry import PARSERS
from gateway.parsers.scanner import MAX_BUFFERED_CHARS, MAX_NAME_CHARS
from gateway.protocol.events import Finished, TextDelta, ToolArgumentsDelta, ToolCallStarted
from tests.unit.parsers.answers import TOOLS, counted_ids, opened, read_answer, read_however_cut

Row = tuple[str, str | None, Sequence[tuple[str, str]]]

CALL = '{"name": "run", "arguments": {"a": 1}}'
RUN = ("run", '{"a": 1}')
CLOCK = '{"name": "clock_now", "arguments": {}}'
NOW = ("clock_now", "{}")

QWEN25: dict[str, Row] = {
    "text around": (f"Hi \n<tool_call>{CALL}</tool_call>\n\nDone. \n", "Hi\nDone.", [RUN]),
    "text between": (
        f" A\n<tool_call>{CALL}</tool_call> B <tool_call>{CLOCK}</tool_call>C ",
        " A\nB\nC",
        [RUN, NOW],
    ),
    "only space around": (f"\n <tool_call>{CALL}</tool_call>\n", None, [RUN]),
    "a call and text at once": (f"<tool_call>{CALL}</tool_call>B", "B", [RUN]),
    "end tokens": (f"A<tool_call>{CALL}</tool_call><|im_end|>", "A", [RUN]),
    "end tokens without a call": ("Hello <|im_end|>\n<|endoftext|>", "Hello \n", []),
    "no closing mark": (f"<tool_call>\n{CALL}", None, [RUN]),
    "a part of the closing mark": (f"<tool_call>\n{CALL}\n</tool_c", None, [RUN]),
    "no closing mark before the next call": (f"<tool_call>{CALL}\n<tool_call>{CLOCK}", None, [RUN, NOW]),
    "no outer brace at the end": ('<tool_call>{"name": "run", "arguments": {"a": 1}', None, [RUN]),
    "no outer brace before the next call": (f"<tool_call>{CALL[:-1]}<tool_call>{CLOCK}</tool_call>", None, [RUN, NOW]),
    "two objects in a block": (f"<tool_call>\n{CALL}\n{CLOCK}\n</tool_call>", None, [RUN, NOW]),
    "text before the closing mark": (f"<tool_call>{CALL} so</tool_call> be it", "so be it", [RUN]),
    "one brace too many": (f"<tool_call>{CALL}}}</tool_call>", "}", [RUN]),
    "other keys": (
        '<tool_call>{"id": "x", "name": "run", "arguments": {"a": 1}, "t": [1, {"}": "]"}], "n": -1.5e+3, "ok": true}',
        None,
        [RUN],
    ),
    "arguments first": ('<tool_call>{"arguments": {"a": 1}, "name": "run"}</tool_call>', None, [RUN]),
    "parameters": ('<tool_call>{"name": "run", "parameters": {"a": 1}}</tool_call>', None, [RUN]),
    "arguments twice": ('<tool_call>{"name": "run", "arguments": {"a": 1}, "arguments": {}}</tool_call>', None, [RUN]),
    "arguments in a string": ('<tool_call>{"name": "run", "arguments": "{\\"a\\": 1}"}</tool_call>', None, [RUN]),
    "arguments in a string first": ('<tool_call>{"arguments": "{\\"a\\": 1}", "name": "run"}', None, [RUN]),
    "arguments null": ('<tool_call>{"name": "run", "arguments": null}</tool_call>', None, [("run", "{}")]),
    "arguments blank": ('<tool_call>{"name": "run", "arguments": " "}</tool_call>', None, [("run", "{}")]),
    "arguments a plain string": ('<tool_call>{"name": "run", "arguments": "ls"}</tool_call>', None, [("run", '"ls"')]),
    "arguments an array": ('<tool_call>{"name": "run", "arguments": [1, "]"]}', None, [("run", '[1, "]"]')]),
    "arguments a string of two objects": (
        '<tool_call>{"name": "run", "arguments": "{}{}"}</tool_call>',
        None,
        [("run", '"{}{}"')],
    ),
    "arguments a string that nothing can carry": (
        '<tool_call>{"name": "run", "arguments": "{\\"a\\": \\"\\ud800\\"}"}</tool_call>',
        None,
        [("run", '"{\\"a\\": \\"\\ud800\\"}"')],
    ),
    "inside function": (f'<tool_call>{{"type": "function", "function": {CALL}}}</tool_call>', None, [RUN]),
    "marks in a string": (
        '<tool_call>{"name": "run", "arguments": {"s": "</tool_call><tool_call>\\"{<|im_end|>"}}</tool_call>',
        None,
        [("run", '{"s": "</tool_call><tool_call>\\"{<|im_end|>"}')],
    ),
    "unclosed arguments": (
        '<tool_call>{"name": "run", "arguments": {"a": 1</tool_call>Next',
        "Next",
        [("run", '{"a": 1')],
    ),
    "arguments with a stray sign": (
        '<tool_call>{"name": "run", "arguments": {"a": <1, </t}}</tool_call>',
        None,
        [("run", '{"a": <1, </t}')],
    ),
    "an escaped name": ('<tool_call>{"n\\u0061me": "r\\u0075n", "arguments": {"a": 1}}</tool_call>', None, [RUN]),
    "an unknown name": ('<tool_call>{"name": "其他", "arguments": {}}</tool_call>', None, [("其他", "{}")]),
    "no object": ("A <tool_call>run()</tool_call> B\n", "A <tool_call>run()</tool_call> B\n", []),
    "no name": ('<tool_call>{"a": {"b": "}"}}</tool_call>', '<tool_call>{"a": {"b": "}"}}</tool_call>', []),
    "an empty name": ('<tool_call>{"name": "", "arguments": {}}', '<tool_call>{"name": "", "arguments": {}}', []),
    "a name that is no string": (
        '<tool_call>{"name": {}, "arguments": {}}',
        '<tool_call>{"name": {}, "arguments": {}}',
        [],
    ),
    "a name that nothing can carry": (
        '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>',
        [],
    ),
    "an empty object": ("<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", []),
    "broken JSON before a call": (
        f'<tool_call>{{"name": <tool_call>{CALL}</tool_call>',
        '<tool_call>{"name":',
        [RUN],
    ),
    "an opening mark before a call": (f"<tool_call> <tool_call>{CALL}</tool_call>", "<tool_call>", [RUN]),
    "a block that is no call after one": (
        f"<tool_call>{CALL}</tool_call>\n<tool_call>x</tool_call>\n",
        "<tool_call>x</tool_call>",
        [RUN],
    ),
    "a closing mark alone": ("a </tool_call> b", "a </tool_call> b", []),
    "cut in the mark": ("Hi\n<tool_", "Hi\n<tool_", []),
    "cut in the block": ("Hi\n<tool_call>\n", "Hi\n<tool_call>\n", []),
    "cut in the name": ('<tool_call>{"name": "ru', '<tool_call>{"name": "ru', []),
    "cut before the arguments": ('<tool_call>{"name": "run", "argu', '<tool_call>{"name": "run", "argu', []),
    "cut behind the arguments": ('<tool_call>{"name": "run", "arguments": {"a": 1}, "i', None, [RUN]),
    "cut in arguments without a name": ('<tool_call>{"arguments": {"a": 1', '<tool_call>{"arguments": {"a": 1', []),
    "words behind the arguments": ('<tool_call>{"name": "run", "arguments": {"a": 1}, "so" it', ', "so" it', [RUN]),
    "a bare object": (CALL, CALL, []),
    "nothing": ("", None, []),
    "space": (" \n", " \n", []),
}

TAG = "<|python_tag|>"
LLAMA = '{"name": "run", "parameters": {"a": 1}}'
LLAMA_NOW = '{"type": "function", "name": "clock_now", "parameters": {}}'
LLAMA3: dict[str, Row] = {
    "bare": (LLAMA, None, [RUN]),
    "bare behind space": (f"\n {LLAMA}<|eot_id|>", None, [RUN]),
    "bare with a type": (LLAMA_NOW, None, [NOW]),
    "bare without parameters": ('{"name": "clock_now"}', None, [NOW]),
    "bare with arguments": (CALL, None, [RUN]),
    "bare with parameters first": ('{"parameters": {"a": 1}, "name": "run"}', None, [RUN]),
    "bare, named by function": ('{"type": "function", "function": "run", "parameters": {"a": 1}}', None, [RUN]),
    "bare calls": (f"{LLAMA} ; {LLAMA_NOW};{LLAMA}{LLAMA_NOW}\n", None, [RUN, NOW, RUN, NOW]),
    "bare calls without outer brace": (f"{LLAMA[:-1]}; {LLAMA_NOW[:-1]}", None, [RUN, NOW]),
    "bare and text": (f"{LLAMA}; Done.\n", "Done.", [RUN]),
    "bare and an answer": (f'{LLAMA}\n{{"a": 1}}', '{"a": 1}', [RUN]),
    "bare and an unknown name": (f'{LLAMA}\n{{"name": "Bob"}}', '{"name": "Bob"}', [RUN]),
    "bare of an unknown name": ('{"name": "Bob", "parameters": {}}', '{"name": "Bob", "parameters": {}}', []),
    "bare of an unknown name, parameters first": (
        '{"parameters": {}, "name": "Bob"}',
        '{"parameters": {}, "name": "Bob"}',
        [],
    ),
    "bare, an answer with a tool's name": ('{"name": "run", "pace": 5}', '{"name": "run", "pace": 5}', []),
    "bare behind text": (f"Sure: {LLAMA}", f"Sure: {LLAMA}", []),
    "bare, cut": ('\n {"name": "run", "par', '\n {"name": "run", "par', []),
    "bare, no JSON": ("{x} is a set", "{x} is a set", []),
    "bare, a tag behind an answer": (f'{{"a": 1}} {TAG}{LLAMA}', '{"a": 1}', [RUN]),
    "an unknown name behind the tag": (f'{TAG}{{"name": "Bob", "parameters": {{}}}}', None, [("Bob", "{}")]),
    "a tag for each": (f"{TAG}{LLAMA}<|eom_id|>{TAG} {LLAMA_NOW}<|eot_id|>", None, [RUN, NOW]),
    "a tag behind a semicolon": (f"{TAG}{LLAMA};{TAG}{LLAMA_NOW}", None, [RUN, NOW]),
    "two semicolons": (f"{TAG}{LLAMA};; x", "; x", [RUN]),
    "code behind the tag": (f'Sure. {TAG}print("hi")<|eom_id|>', 'Sure. print("hi")', []),
    "an answer behind the tag": (f'{TAG} {{"a": 1}}', ' {"a": 1}', []),
    "a call behind code": (f"{TAG}x = 1\n{TAG}{LLAMA}", "x = 1", [RUN]),
    "a part of the tag": ("1 <|python_ta 2 <|", "1 <|python_ta 2 <|", []),
    "a tag alone": (f"Hm. {TAG}", "Hm. ", []),
    "unclosed parameters": (f'{TAG}{{"name": "run", "parameters": {{"a": 1<|eot_id|>', None, [("run", '{"a": 1')]),
    "end tokens in the middle": ("a<|eot_id|> b", "a b", []),
}

MISTRAL: dict[str, Row] = {
    "an array": (f"[TOOL_CALLS][{CALL}, {CLOCK}]</s>", None, [RUN, NOW]),
    "an array, spread out": (f"A [TOOL_CALLS]\n[\n {CALL},\n {CLOCK}\n]\nB", "A\nB", [RUN, NOW]),
    "an unclosed array": (f"[TOOL_CALLS] [{CALL}, {CLOCK}", None, [RUN, NOW]),
    "an unclosed array with a comma": (f"[TOOL_CALLS] [{CALL}, ", None, [RUN]),
    "an array without outer braces": (f"[TOOL_CALLS] [{CALL[:-1]}, {CLOCK[:-1]}] x", "x", [RUN, NOW]),
    "an array that breaks off": (f"[TOOL_CALLS] [{CALL}, sorry]", "sorry]", [RUN]),
    "an element that is no call": (
        f'[TOOL_CALLS] [{{"a": 1}}, {CALL}, {{"b": 2}}]',
        '[TOOL_CALLS] [{"a": 1}\n, {"b": 2}]',
        [RUN],
    ),
    "an empty array": ("[TOOL_CALLS] []", "[TOOL_CALLS] []", []),
    "an array of numbers": ("[TOOL_CALLS] [1, 2]\n", "[TOOL_CALLS] [1, 2]\n", []),
    "an object": (f"[TOOL_CALLS] {CALL}", None, [RUN]),
    "repeated marks": (f"[TOOL_CALLS] [{CALL}]\n[TOOL_CALLS] [{CLOCK}]", None, [RUN, NOW]),
    "names": ('[TOOL_CALLS]run{"a": 1}[TOOL_CALLS]clock_now{}</s>', None, [RUN, NOW]),
    "names with a token": ('[TOOL_CALLS]run[ARGS]{"a": 1}[TOOL_CALLS]clock_now [ARGS] {}', None, [RUN, NOW]),
    "a name set off": ('[TOOL_CALLS] run {"a": 1}', None, [RUN]),
    "a name and an id": ('[TOOL_CALLS]run[CALL_ID]aB3dE6gH9[ARGS]{"a": 1}', None, [RUN]),
    "a name and an id without a token": ('[TOOL_CALLS]run[CALL_ID]aB3dE6gH9{"a": 1}', None, [RUN]),
    "text behind a name's arguments": ('[TOOL_CALLS]run{"a": 1} and [more]', "and [more]", [RUN]),
    "prose set off": ("[TOOL_CALLS] see {this}", "[TOOL_CALLS] see {this}", []),
    "a name alone": ("[TOOL_CALLS]clock_now", "[TOOL_CALLS]clock_now", []),
    "a token alone": ("[TOOL_CALLS]clock_now[ARGS]null", "[TOOL_CALLS]clock_now[ARGS]null", []),
    "an unknown token": ("[TOOL_CALLS]run[ARRAY]{}", "[TOOL_CALLS]run[ARRAY]{}", []),
    "two ids": ("[TOOL_CALLS]run[CALL_ID]a[CALL_ID]b[ARGS]{}", "[TOOL_CALLS]run[CALL_ID]a[CALL_ID]b[ARGS]{}", []),
    "a broken id": ("[TOOL_CALLS]run[CALL_ID]a b", "[TOOL_CALLS]run[CALL_ID]a b", []),
    "an id in quotes": ('[TOOL_CALLS]run[CALL_ID]"x"[ARGS]{}', '[TOOL_CALLS]run[CALL_ID]"x"[ARGS]{}', []),
    "nothing behind the mark": ("Hm [TOOL_CALLS]", "Hm [TOOL_CALLS]", []),
    "a mark behind a mark": (f"[TOOL_CALLS][TOOL_CALLS][{CALL}]", "[TOOL_CALLS]", [RUN]),
    "a mark behind a name": (f"[TOOL_CALLS]clock_now[TOOL_CALLS][{CALL}]", "[TOOL_CALLS]clock_now", [RUN]),
    "a mark behind an id": ("[TOOL_CALLS]run[CALL_ID]x[TOOL_CALLS]run{}", "[TOOL_CALLS]run[CALL_ID]x", [("run", "{}")]),
    "a mark behind an element": (f"[TOOL_CALLS][{CALL}[TOOL_CALLS][{CLOCK}]", None, [RUN, NOW]),
    "brackets behind the mark": ("[TOOL_CALLS][[]] [TOOL_CALLS][TOOL", "[TOOL_CALLS][[]] [TOOL_CALLS][TOOL", []),
    "a part of the mark": ("see [1], [TOOL", "see [1], [TOOL", []),
    "an end token": ("Hello.</s>", "Hello.", []),
    "an end token and a line end": ("Hello. </s>\n", "Hello. \n", []),
    "an end token before a call": (f"Hello.</s> [TOOL_CALLS][{CALL}]", "Hello.", [RUN]),
    "HTML": ("<s>old</s> new</s>", "<s>old</s> new", []),
}

ROWS = [
    pytest.param(parser, *row, id=f"{parser}: {title}")
    for parser, rows in {"qwen25": QWEN25, "llama3": LLAMA3, "mistral": MISTRAL}.items()
    for title, row in rows.items()
]


@pytest.mark.parametrize(("parser", "text", "content", "calls"), ROWS)
def test_a_text_is_read_the_same_however_it_is_cut(
    parser: str, text: str, content: str | None, calls: list[tuple[str, str]]
) -> None:
    answer = read_however_cut(parser, text)
    assert (answer.content, answer.calls) == (content, calls)
    assert answer.reason == ("tool_calls" if calls else "stop")


# Reasons

CUT: dict[str, tuple[str, str, str]] = {
    "arguments": ("qwen25", '<tool_call>{"name": "run", "arguments": {"a": "x', "length"),
    "arguments in a string": ("qwen25", '<tool_call>{"name": "run", "arguments": "{\\"a\\": \\"x', "length"),
    "behind the arguments": ("qwen25", '<tool_call>{"name": "run", "arguments": {"a": "x"}', "tool_calls"),
    "in the closing mark": ("qwen25", '<tool_call>{"name": "run", "arguments": {"a": "x"}}\n</tool', "tool_calls"),
    "behind the block": ("qwen25", '<tool_call>{"name": "run", "arguments": {"a": "x"}}</tool_call>\n', "length"),
    "in the text after": ("qwen25", '<tool_call>{"name": "run", "arguments": {"a": "x"}}</tool_call> so', "length"),
    "in the next call": (
        "qwen25",
        '<tool_call>{"name": "run", "arguments": {"a": "x"}}</tool_call><tool_call>{"n',
        "length",
    ),
    "in the array": ("mistral", '[TOOL_CALLS][{"name": "run", "arguments": {"a": "x"}}, ', "tool_calls"),
    "behind the array": ("mistral", '[TOOL_CALLS][{"name": "run", "arguments": {"a": "x"}}]', "length"),
    "in named arguments": ("mistral", '[TOOL_CALLS]run[ARGS]{"a": "x', "length"),
    "behind named arguments": ("mistral", '[TOOL_CALLS]run{"a": "x"}', "length"),
    "bare": ("llama3", '{"name": "run", "parameters": {"a": "x', "length"),
    "before the outer brace": ("llama3", '{"name": "run", "parameters": {"a": "x"}', "tool_calls"),
    "behind the outer brace": ("llama3", '{"name": "run", "parameters": {"a": "x"}}', "length"),
}


@pytest.mark.parametrize(("parser", "text", "reason"), CUT.values(), ids=CUT)
def test_a_call_cut_by_the_limit_stays_with_reason_length(parser: str, text: str, reason: str) -> None:
    answer = read_however_cut(parser, text, reason="length")
    ((name, arguments),) = answer.calls
    assert name == "run"
    assert arguments in {'{"a": "x', '{"a": "x"}'}
    assert answer.reason == reason


@pytest.mark.parametrize("cut", ["\\", "\\u", "\\u00", "\\ud83d", "\\ud83d\\", "\\ud83d\\ude0"])
def test_cut_arguments_in_a_string_end_at_the_last_whole_character(cut: str) -> None:
    written = '{"a": "\\u00e9 x' + cut
    text = '<tool_call>{"name": "run", "arguments": "' + json.dumps(written[: -len(cut)])[1:-1] + cut
    assert read_however_cut("qwen25", text, reason="length").calls == [("run", '{"a": "\\u00e9 x')]


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "stop"),
        ("", "stop"),
        ("tool_calls", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
    ],
)
def test_without_a_call_the_reason_is_never_tool_calls(parser: str, reason: str, expected: str) -> None:
    assert read_answer(parser, ["Hi"], reason=reason).reason == expected


@pytest.mark.parametrize("reason", ["stop", "", "function_call", "tool_calls"])
def test_with_a_call_the_reason_is_tool_calls(reason: str) -> None:
    assert read_answer("llama3", [LLAMA], reason=reason).reason == "tool_calls"


def test_the_reason_content_filter_stays() -> None:
    assert read_answer("llama3", [LLAMA], reason="content_filter").reason == "content_filter"


BREAKS: dict[str, tuple[str, str, bool]] = {
    "text": ("qwen25", "Hello <tool", False),
    "a block": ("qwen25", "<tool_call>", True),
    "a name": ("qwen25", '<tool_call>{"name": "ru', True),
    "arguments": ("qwen25", '<tool_call>{"name": "run", "arguments": {', True),
    "a complete call": ("qwen25", '<tool_call>{"name": "run", "arguments": {}', False),
    "a next call": ("qwen25", '<tool_call>{"name": "run", "arguments": {}}</tool_call><tool_call>{', True),
    "perhaps an answer": ("llama3", '{"type": "fun', False),
    "a declared name": ("llama3", '{"name": "run"', True),
    "bare arguments": ("llama3", '{"name": "run", "parameters": {', True),
    "behind a bare call": ("llama3", LLAMA + ";", False),
    "a tag": ("llama3", TAG + '{"na', True),
    "a mark": ("mistral", "[TOOL_CALLS] ", True),
    "half a name": ("mistral", "[TOOL_CALLS]ru", True),
    "between elements": ("mistral", f"[TOOL_CALLS][{CALL}, ", False),
}


@pytest.mark.parametrize(("parser", "text", "is_open"), BREAKS.values(), ids=BREAKS)
def test_a_parser_is_open_inside_a_call_only(parser: str, text: str, is_open: bool) -> None:
    reading = opened(parser)
    for char in text:
        reading.feed(char)
    assert reading.is_open is is_open


# As it comes

AT_ONCE: dict[str, tuple[str, list[str], list[object]]] = {
    "text": ("qwen25", ["Hel", "lo 1 <", " 2"], [TextDelta("Hel"), TextDelta("lo 1"), TextDelta(" < 2")]),
    "arguments": (
        "qwen25",
        ['<tool_call>{"name": "run", "arguments": {', '"a": ', '"x'],
        [
            ToolCallStarted(0, "call_000000000000000000000001", "run"),
            ToolArgumentsDelta(0, "{"),
            ToolArgumentsDelta(0, '"a": '),
            ToolArgumentsDelta(0, '"x'),
        ],
    ),
    "an answer in JSON": ("llama3", ['{"answer"', ": [1, "], [TextDelta('{"answer"'), TextDelta(": [1,")]),
    "an answer with an unknown name": (
        "llama3",
        ['{"name": "Bob"', ', "age'],
        [TextDelta('{"name": "Bob"'), TextDelta(', "age')],
    ),
}


@pytest.mark.parametrize(("parser", "pieces", "events"), AT_ONCE.values(), ids=AT_ONCE)
def test_decided_events_are_emitted_at_once(parser: str, pieces: list[str], events: list[object]) -> None:
    reading = opened(parser)
    assert [event for piece in pieces for event in reading.feed(piece)] == events


@pytest.mark.parametrize("parser", PARSERS)
def test_events_carry_their_choice(parser: str) -> None:
    reading = PARSERS[parser].open(TOOLS, new_id=counted_ids(), choice=3)
    call = {"qwen25": f"<tool_call>{CALL}</tool_call>", "llama3": TAG + LLAMA, "mistral": f"[TOOL_CALLS][{CALL}]"}[
        parser
    ]
    events = reading.feed(f"A {call} B") + reading.finish("stop")
    assert {type(event) for event in events} == {TextDelta, ToolCallStarted, ToolArgumentsDelta, Finished}
    assert {getattr(event, "choice", None) for event in events} == {3}


# Ids


def test_ids_come_from_the_injected_function() -> None:
    answer = read_answer("qwen25", [f"<tool_call>{CALL}</tool_call>" * 2])
    assert answer.ids == ["call_000000000000000000000001", "call_000000000000000000000002"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("[TOOL_CALLS]run{}[TOOL_CALLS]run{}", ["000000001", "000000002"]),
        ("[TOOL_CALLS]run[CALL_ID]aB3dE6gH9[ARGS]{}", ["aB3dE6gH9"]),
        ("[TOOL_CALLS]run[CALL_ID]aB3dE6gH9[ARGS]{}[TOOL_CALLS]run[CALL_ID]aB3dE6gH9{}", ["aB3dE6gH9", "000000001"]),
        ("[TOOL_CALLS]run[CALL_ID][ARGS]{}", ["000000001"]),
        (f"[TOOL_CALLS]run[CALL_ID]{'x' * 41}[ARGS]{{}}", ["000000001"]),
        ('[TOOL_CALLS][{"id": "a/b", "name": "run", "arguments": {}}]', ["000000001"]),
        ('[TOOL_CALLS][{"id": "aB3dE6gH9", "name": "run", "arguments": {}}]', ["aB3dE6gH9"]),
        ('[TOOL_CALLS][{"name": "run", "id": "aB3dE6gH9", "arguments": {}}]', ["aB3dE6gH9"]),
        ('[TOOL_CALLS][{"name": "run", "arguments": {}, "id": "aB3dE6gH9"}]', ["000000001"]),
        ('[TOOL_CALLS][{"arguments": {}, "id": "aB3dE6gH9", "name": "run"}]', ["000000001"]),
    ],
)
def test_mistrals_ids_are_its_own_or_nine_new_characters(text: str, ids: list[str]) -> None:
    assert read_however_cut("mistral", text).ids == ids


@pytest.mark.parametrize("parser", ["qwen25", "llama3"])
def test_ids_of_other_models_are_replaced(parser: str) -> None:
    text = {"qwen25": '<tool_call>{"id": "x", "name": "run"}', "llama3": '{"name": "run", "id": "x"}'}[parser]
    assert read_however_cut(parser, text).ids == ["call_000000000000000000000001"]


# Limits and switches

SEVERAL = {
    "qwen25": f"A\n<tool_call>{CALL}</tool_call>\nB\n<tool_call>{CLOCK}</tool_call>\nC",
    "llama3": f"{LLAMA}; {LLAMA_NOW}; {LLAMA[:-2]}",
    "mistral": f"A [TOOL_CALLS] [{CALL}, {CLOCK}] B",
}


@pytest.mark.parametrize(("parser", "text"), SEVERAL.items())
def test_without_parallel_calls_only_the_first_one_passes(parser: str, text: str) -> None:
    answer = read_however_cut(parser, text, parallel=False)
    assert answer.calls == [RUN]
    assert answer.reason == "tool_calls"
    assert answer.content == {"qwen25": "A\nB\nC", "llama3": None, "mistral": "A\nB"}[parser]
    reading = opened(parser, parallel=False)
    reading.feed(text)
    assert reading.dropped_calls == {"qwen25": 1, "llama3": 2, "mistral": 1}[parser]


def test_bare_json_without_tools_is_an_answer() -> None:
    answer = read_however_cut("llama3", LLAMA, tools=frozenset())
    assert (answer.content, answer.calls) == (LLAMA, [])


@pytest.mark.parametrize("parser", PARSERS)
def test_calls_beyond_the_limit_are_content(parser: str) -> None:
    calls = [f'{{"name": "run", "arguments": {{"n": {number}}}}}' for number in range(MAX_CALLS + 2)]
    text = {
        "qwen25": "".join(f"<tool_call>{call}</tool_call>" for call in calls),
        "llama3": ";".join(calls),
        "mistral": f"[TOOL_CALLS][{','.join(calls)}]",
    }[parser]
    for pieces in ([text], list(text)):
        answer = read_answer(parser, pieces)
        assert answer.calls == [("run", f'{{"n": {number}}}') for number in range(MAX_CALLS)]
        assert answer.content is not None
        assert answer.content.endswith(text[text.index(calls[MAX_CALLS]) :])


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(("extra", "is_call"), [(0, True), (1, False)])
def test_a_name_beyond_the_limit_is_content(parser: str, extra: int, is_call: bool) -> None:
    name = "n" * (MAX_NAME_CHARS + extra)
    texts = {
        "qwen25": [f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>'],
        "llama3": [f'{TAG}{{"name": "{name}", "arguments": {{}}}}'],
        "mistral": [f'[TOOL_CALLS][{{"name": "{name}", "arguments": {{}}}}]', f"[TOOL_CALLS]{name}{{}}"],
    }[parser]
    for text in texts:
        for pieces in ([text], list(text)):
            answer = read_answer(parser, pieces)
            assert answer.calls == ([(name, "{}")] if is_call else [])
            assert answer.content == (None if is_call else text.removeprefix(TAG))


def test_a_name_without_an_end_becomes_content() -> None:
    reading = opened("llama3")
    assert not reading.feed('{"name": "')
    assert reading.feed("Once upon a time " * 100)


LONG = "x" * MAX_BUFFERED_CHARS


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("qwen25", '<tool_call>{"arguments": {"s": "' + LONG + '"}, "name": "run"}</tool_call>'),
        ("qwen25", '<tool_call>{"name": "run", "arguments": "' + LONG + '"}</tool_call>'),
        ("qwen25", "<tool_call>" + " " * MAX_BUFFERED_CHARS + CALL),
        ("llama3", '{"type": "' + LONG + '", "name": "run"}'),
        ("mistral", "[TOOL_CALLS][" + "\n" * MAX_BUFFERED_CHARS + CALL + "]"),
    ],
)
def test_text_beyond_the_buffers_limit_is_content(parser: str, text: str) -> None:
    for size in (len(text), 1000):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        answer = read_answer(parser, pieces)
        assert not answer.calls
        assert answer.content == text


def test_streamed_arguments_have_no_limit() -> None:
    arguments = '{"s": "' + LONG + '\\""}'
    text = '<tool_call>{"name": "run", "arguments": ' + arguments + "}</tool_call>"
    for size in (len(text), 1000):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert read_answer("qwen25", pieces).calls == [("run", arguments)]


HOSTILE = {
    "escapes": '<tool_call>{"name": "run", "arguments": {"s": "' + "\\n" * 300_000,
    "escaped quotes": '<tool_call>{"name": "run", "arguments": {"s": "' + '\\"' * 300_000,
    "depth": '<tool_call>{"arguments": ' + '{"a":[' * 100_000,
    "depth in a string": '<tool_call>{"name": "run", "arguments": "' + "{" * 500_000 + '"}',
    "marks": "<tool_call>" * 50_000,
    "objects": "<tool_call>{" * 50_000,
    "closing marks": "</tool_call>" * 50_000,
    "signs": "<" * 300_000,
    "space": "x" + " " * 1_000_000,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_takes_linear_time_and_loses_nothing(text: str) -> None:
    answer = read_answer("qwen25", [text])
    if answer.calls:
        assert text.endswith((answer.calls[0][1], answer.calls[0][1] + "}"))
    else:
        assert answer.content == text
