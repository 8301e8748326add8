"""What `truncation: auto` leaves out: never half of a turn, never what holds for all of the conversation."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.dialects.responses.conversation import CallPairs
from gateway.protocol.dialects.responses.truncation import halve_history

Item = dict[str, Any]


def said(role: str, text: str = "x") -> Item:
    return {"type": "message", "id": f"msg_{role}_{text}", "role": role, "content": text}


def call(call_id: str) -> Item:
    return {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": "f", "arguments": "{}"}


def output(call_id: str) -> Item:
    return {"type": "function_call_output", "id": f"fco_{call_id}", "call_id": call_id, "output": "7"}


THOUGHT: Item = {"type": "reasoning", "id": "rs", "summary": []}
SUMMARY: Item = {"type": "compaction", "id": "cmp", "encrypted_content": "x"}


def left(items: list[Item]) -> list[Item] | None:
    places = halve_history(items)
    return None if places is None else [items[place] for place in places]


def test_of_a_talk_the_older_half_goes() -> None:
    talk = [said(("user", "assistant")[n % 2], str(n)) for n in range(9)]
    assert left(talk) == talk[4:]


def test_of_a_task_in_many_steps_the_task_and_the_last_step_stay() -> None:
    steps = [[THOUGHT, call(f"{n}a"), call(f"{n}b"), output(f"{n}b"), output(f"{n}a")] for n in range(4)]
    items = [said("user", "the task"), *(item for step in steps for item in step)]
    shorter = [items[0], *steps[2], *steps[3]]
    assert left(items) == shorter
    assert left(shorter) == [items[0], *steps[3]]
    assert left([items[0], *steps[3]]) is None


@pytest.mark.parametrize("lasting", [said("system"), said("developer"), SUMMARY], ids=lambda item: str(item["type"]))
def test_what_holds_for_all_of_it_stays(lasting: Item) -> None:
    items = [lasting, said("user", "1"), said("assistant", "2"), said("user", "3")]
    assert left(items) == [lasting, said("assistant", "2"), said("user", "3")]
    assert left([lasting, said("user", "3")]) is None


def test_text_and_calls_of_one_turn_go_together() -> None:
    items = [said("user", "1"), said("assistant", "hm"), call("a"), output("a"), said("assistant"), said("user", "2")]
    shorter = left(items)
    assert shorter == [said("assistant"), said("user", "2")]


def test_an_approval_goes_with_what_was_approved() -> None:
    asked = {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "s", "name": "t", "arguments": "{}"}
    answered = {"type": "mcp_approval_response", "id": "r", "approval_request_id": "mcpr_1", "approve": True}
    items = [said("user", "1"), asked, answered, said("assistant", "done"), said("user", "2")]
    assert left(items) == [said("assistant", "done"), said("user", "2")]


@pytest.mark.parametrize("items", [[], [said("user")], [said("assistant")], [call("a"), output("a")]])
def test_what_is_one_turn_stays_whole(items: list[Item]) -> None:
    assert left(items) is None


KINDS = {
    "user": lambda n: [said("user", str(n))],
    "developer": lambda n: [said("developer", str(n))],
    "assistant": lambda n: [said("assistant", str(n))],
    "step": lambda n: [THOUGHT, call(f"c{n}"), output(f"c{n}")],
    "two calls": lambda n: [call(f"a{n}"), call(f"b{n}"), output(f"a{n}"), output(f"b{n}")],
    "open call": lambda n: [call(f"o{n}"), said("assistant", f"and {n}")],
}


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=12))
def test_no_call_and_no_output_is_left_alone_and_it_comes_to_an_end(kinds: list[str]) -> None:
    items = [item for n, kind in enumerate(kinds) for item in KINDS[kind](n)]
    lasting = [item for item in items if item.get("role") == "developer"]
    users = [item for item in items if item.get("role") == "user"]
    open_calls = len(CallPairs(items).unanswered)
    for _ in range(len(items) + 1):
        shorter = left(items)
        if shorter is None:
            return
        assert len(shorter) < len(items)
        pairs = CallPairs(shorter)
        assert pairs.orphans == []
        assert len(pairs.unanswered) <= open_calls
        assert [item for item in shorter if item.get("role") == "developer"] == lasting
        assert users[-1:] == [item for item in shorter if item.get("role") == "user"][-1:]
        assert shorter[-1] == items[-1]
        items = shorter
    raise AssertionError("it never ends")
