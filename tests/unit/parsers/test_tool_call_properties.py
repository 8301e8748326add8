"""Random arguments, texts and chunkings: a client gets the text that a model wrote."""

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.parsers.registry import PARSERS
from tests.unit.parsers.answers import read_answer

# What a model may write as arguments

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "</s>",
        "; {",
        '"}]',
        "\\",
        '\\"',
        "你好 🌦",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS


def nested(depth: int) -> st.SearchStrategy[object]:
    """JSON values with at most this many levels."""
    values: st.SearchStrategy[object] = LEAVES
    for _ in range(depth):
        values = LEAVES | st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3)
    return values


@st.composite
def arguments(draw: st.DrawFn) -> str:
    value = draw(st.dictionaries(TEXTS, nested(draw(st.integers(0, 9))), max_size=4))
    return json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 0, 2, "\t"])),
        separators=draw(st.sampled_from([None, (",", ":"), (" , ", " : ")])),
    )


NAMES = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
SPACES = st.sampled_from(["", "", " ", "\n", " \n\t"])
Call = tuple[str, str]
Render = Callable[[list[Call]], st.SearchStrategy[str]]


@st.composite
def objects(draw: st.DrawFn, name: str, written: str, key: str = "arguments") -> str:
    """The call as an object: any order of keys, any space, perhaps a type or the arguments in a string."""
    if draw(st.integers(0, 4)) == 0:
        written = json.dumps(written, ensure_ascii=draw(st.booleans()))
    members = [
        f'"name"{draw(SPACES)}:{draw(SPACES)}{json.dumps(name)}',
        f'"{key}"{draw(SPACES)}:{draw(SPACES)}{written}',
    ]
    if draw(st.booleans()):
        members.append('"type": "function"')
    comma = draw(SPACES) + "," + draw(SPACES)
    return "{" + draw(SPACES) + comma.join(draw(st.permutations(members))) + draw(SPACES) + "}"


@st.composite
def qwen25(draw: st.DrawFn, calls: list[Call]) -> str:
    blocks = [f"<tool_call>{draw(SPACES)}{draw(objects(*call))}{draw(SPACES)}</tool_call>" for call in calls]
    return "\n".join(blocks)


@st.composite
def llama3(draw: st.DrawFn, calls: list[Call]) -> str:
    tag = draw(st.sampled_from(["<|python_tag|>", ""]))
    separator = draw(st.sampled_from([";", "; ", " ;\n", "\n"]))
    end = draw(st.sampled_from(["", "<|eom_id|>", "<|eot_id|>"]))
    return tag + separator.join(draw(objects(*call, key="parameters")) for call in calls) + end


@st.composite
def mistral_array(draw: st.DrawFn, calls: list[Call]) -> str:
    elements = f"{draw(SPACES)},{draw(SPACES)}".join(draw(objects(*call)) for call in calls)
    end = draw(st.sampled_from(["", "</s>"]))
    return f"[TOOL_CALLS]{draw(SPACES)}[{draw(SPACES)}{elements}{draw(SPACES)}]{end}"


@st.composite
def mistral_names(draw: st.DrawFn, calls: list[Call]) -> str:
    between = draw(st.sampled_from(["", "[ARGS]", "[CALL_ID]aB3dE6gH9[ARGS]"]))
    return "".join(f"[TOOL_CALLS]{name}{between}{written}" for name, written in calls)


GRAMMARS: dict[str, tuple[str, Render]] = {
    "qwen25": ("qwen25", qwen25),
    "llama3": ("llama3", llama3),
    "mistral, an array": ("mistral", mistral_array),
    "mistral, names": ("mistral", mistral_names),
}


@st.composite
def cuttings(draw: st.DrawFn, text: str) -> list[str]:
    at = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


@pytest.mark.parametrize(("parser", "render"), GRAMMARS.values(), ids=GRAMMARS)
@given(data=st.data())
def test_arguments_arrive_as_the_model_wrote_them(parser: str, render: Render, data: st.DataObject) -> None:
    calls = data.draw(st.lists(st.tuples(NAMES, arguments()), min_size=1, max_size=3))
    text = data.draw(render(calls))
    tools = frozenset(name for name, _ in calls)
    for pieces in (data.draw(cuttings(text)), [text], list(text)):
        answer = read_answer(parser, pieces, tools=tools)
        assert answer.calls == calls
        assert answer.content is None
        assert answer.reason == "tool_calls"


@pytest.mark.parametrize(("parser", "render"), GRAMMARS.values(), ids=GRAMMARS)
@given(data=st.data())
def test_a_cut_answer_is_the_beginning_of_the_whole_one(parser: str, render: Render, data: st.DataObject) -> None:
    """Any cut leaves whole calls first, then at most one unfinished call; the rest is content."""
    calls = data.draw(st.lists(st.tuples(NAMES, arguments()), min_size=1, max_size=2))
    text = data.draw(render(calls))
    cut = text[: data.draw(st.integers(0, len(text)))]
    tools = frozenset(name for name, _ in calls)
    answer = read_answer(parser, [cut], reason="length", tools=tools)
    assert answer == read_answer(parser, data.draw(cuttings(cut)), reason="length", tools=tools)
    for (name, written), (called, begun) in zip(calls, answer.calls, strict=False):
        assert called == name
        assert written.startswith(begun)
    assert [call for call in answer.calls[:-1] if call not in calls] == []
    assert answer.reason in {"length", "tool_calls"}
    if answer.reason == "tool_calls":
        assert answer.calls[-1] == calls[len(answer.calls) - 1]


# Text

END_TOKENS = re.compile(
    r"<\|im_end\|>|<\|endoftext\|>|<\|eom_id\|>|<\|eot_id\|>|<\|end_of_text\|>|</s>|<\|python_tag\|>"
)


@pytest.mark.parametrize("parser", PARSERS)
@given(text=st.text(st.sampled_from("<[{tool_cal>/|pyhn_gTOL CALS]}\"'\\;:, \n\t\x85你🌦")), data=st.data())
def test_text_that_holds_no_call_is_content_to_the_last_byte(parser: str, text: str, data: st.DataObject) -> None:
    for pieces in (data.draw(cuttings(text)), [text], list(text)):
        answer = read_answer(parser, pieces)
        assert (answer.content or "", answer.calls, answer.reason) == (text, [], "stop")


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<tool_", "</tool", "<|im_end|>", "<|python_tag|>", "<|py", "<|eot_id|>"),
        *("[TOOL_CALLS]", "[TOOL_", "[ARGS]", "[CALL_ID]", "</s>", "</", "null", "run", " ", "\n"),
        *(
            "{",
            "}",
            "[",
            "]",
            ",",
            ";",
            ":",
            '"',
            "\\",
            "{}",
            '{"name":',
            '"arguments":',
            '"parameters":',
            '"function":',
        ),
        *('"id":', '"run"', '"other"', '{"name": "run", "arguments": {}}', '"name": "run", "arguments": {"a": [1'),
        '"{\\"a\\": 1}"',
    ]
)


@pytest.mark.parametrize("parser", PARSERS)
@given(fragments=st.lists(FRAGMENTS, max_size=24), reason=st.sampled_from(["stop", "length"]), data=st.data())
def test_any_text_is_read_the_same_however_it_is_cut(
    parser: str, fragments: list[str], reason: str, data: st.DataObject
) -> None:
    text = "".join(fragments)
    answer = read_answer(parser, [text], reason=reason)
    assert read_answer(parser, list(text), reason=reason) == answer
    assert read_answer(parser, data.draw(cuttings(text)), reason=reason) == answer
    if not answer.calls:
        assert END_TOKENS.sub("", answer.content or "") == END_TOKENS.sub("", text)


@pytest.mark.parametrize("parser", PARSERS)
@given(
    fragments=st.lists(
        FRAGMENTS.filter(lambda piece: '"' not in piece or piece.endswith("}}")) | st.none(), max_size=24
    )
)
def test_every_word_appears_exactly_once(parser: str, fragments: list[str | None]) -> None:
    """Outside strings, a word appears in the content, a name, arguments or an id, and in one of them only."""
    words = [f"w{number}w" for number, fragment in enumerate(fragments) if fragment is None]
    missing = iter(words)
    answer = read_answer(parser, ["".join(next(missing) if fragment is None else fragment for fragment in fragments)])
    places = " ".join([answer.content or "", *(part for call in answer.calls for part in call), *answer.ids])
    assert [places.count(word) for word in words] == [1] * len(words)
