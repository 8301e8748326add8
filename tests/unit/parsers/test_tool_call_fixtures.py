"""Every wire case of the tool-call parsers: in its own pieces, in every two pieces, in characters and whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.parsers.answers import Answer, read_answer, read_however_cut

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "providers"
CASES = [
    case
    for path in sorted(FOLDER.glob("*.json"))
    if (case := json.loads(path.read_text(encoding="utf-8")))["kind"] == "tool_parse"
]


def test_every_parser_has_wire_cases() -> None:
    assert {case["context"]["parser"] for case in CASES} == {"qwen25", "llama3", "mistral"}


def expect(answer: Answer, expected: dict[str, Any]) -> None:
    functions = [call["function"] for call in expected["tool_calls"]]
    assert answer.calls == [(function["name"], function["arguments"]) for function in functions]
    assert answer.content == expected["content"]
    assert answer.reason == expected["finish_reason"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_wire_case_is_read_as_expected_however_it_is_cut(case: dict[str, Any]) -> None:
    context, wire = case["context"], case["provider_wire"]
    parser, reason = context["parser"], context["upstream_finish_reason"]
    tools = frozenset(context["tools"])
    for pieces in wire["splits"]:
        assert "".join(pieces) == wire["raw"]
        expect(read_answer(parser, pieces, reason=reason, tools=tools), case["openai"])
    expect(read_however_cut(parser, wire["raw"], reason=reason, tools=tools), case["openai"])
