"""`truncation: auto` removes whole turns, and never an item that holds for the whole conversation."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.dialects.responses.conversation import CallPairs
from gateway.protocol.dialects.responses.truncation import halve_history

Item = dict[str, Any]


def message(role: str, text: str = "x") -> Item:
    return {"type": "message", "id": f"msg_{role}_{text}", "role": role, "content": text}


def call(call_id: str) -> Item:
    return {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": "f", "arguments": "{}"}


def output(call_id: str) -> Item:
    return {"type": "function_call_output", "id": f"fco_{call_id}", "call_id": call_id, "output": "7"}


REASONING: Item = {"type": "reasoning", "id": "rs", "summary": []}
SUMMARY: Item = {"type": "compaction", "id": "cmp", "encrypted_content": "x"}


def shorten(items: list[Item]) -> list[Item] | None:
    places = halve_history(items)
    return None if places is None else [items[place] for place in places]


def test_the_older_half_of_a_conversation_goes() -> None:
    conversation = [message(("user", "assistant")[n % 2], str(n)) for n in range(9)]
    assert shorten(conversation) == conversation[4:]


def test_the_task_and_the_last_of_its_steps_stay() -> None:
    steps = [[REASONING, call(f"{n}a"), call(f"{n}b"), output(f"{n}b"), output(f"{n}a")] for n in range(4)]
    items = [message("user", "the task"), *(item for step in steps for item in step)]
    shorter = [items[0], *steps[2], *steps[3]]
    assert shorten(items) == shorter
    assert shorten(shorter) == [items[0], *steps[3]]
    assert shorten([items[0], *steps[3]]) is None


@pytest.mark.parametrize(
    "permanent", [message("system"), message("developer"), SUMMARY], ids=lambda item: str(item["type"])
)
def test_permanent_items_stay(permanent: Item) -> None:
    items = [permanent, message("user", "1"), message("assistant", "2"), message("user", "3")]
    assert shorten(items) == [permanent, message("assistant", "2"), message("user", "3")]
    assert shorten([permanent, message("user", "3")]) is None


def test_text_and_calls_of_one_turn_go_together() -> None:
    items = [
        message("user", "1"),
        message("assistant", "hm"),
        call("a"),
        output("a"),
        message("assistant"),
        message("user", "2"),
    ]
    shorter = shorten(items)
    assert shorter == [message("assistant"), message("user", "2")]


def test_an_approval_goes_with_its_request() -> None:
    approval_request = {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "server_label": "s",
        "name": "t",
        "arguments": "{}",
    }
    approval = {"type": "mcp_approval_response", "id": "r", "approval_request_id": "mcpr_1", "approve": True}
    items = [message("user", "1"), approval_request, approval, message("assistant", "done"), message("user", "2")]
    assert shorten(items) == [message("assistant", "done"), message("user", "2")]


@pytest.mark.parametrize("items", [[], [message("user")], [message("assistant")], [call("a"), output("a")]])
def test_a_single_turn_stays_whole(items: list[Item]) -> None:
    assert shorten(items) is None


KINDS = {
    "user": lambda n: [message("user", str(n))],
    "developer": lambda n: [message("developer", str(n))],
    "assistant": lambda n: [message("assistant", str(n))],
    "step": lambda n: [REASONING, call(f"c{n}"), output(f"c{n}")],
    "two calls": lambda n: [call(f"a{n}"), call(f"b{n}"), output(f"a{n}"), output(f"b{n}")],
    "open call": lambda n: [call(f"o{n}"), message("assistant", f"and {n}")],
}


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=12))
def test_no_call_and_no_output_is_left_alone_and_it_comes_to_an_end(kinds: list[str]) -> None:
    items = [item for n, kind in enumerate(kinds) for item in KINDS[kind](n)]
    permanent = [item for item in items if item.get("role") == "developer"]
    users = [item for item in items if item.get("role") == "user"]
    open_calls = len(CallPairs(items).unanswered)
    for _ in range(len(items) + 1):
        shorter = shorten(items)
        if shorter is None:
            return
        assert len(shorter) < len(items)
        pairs = CallPairs(shorter)
        assert pairs.orphans == []
        assert len(pairs.unanswered) <= open_calls
        assert [item for item in shorter if item.get("role") == "developer"] == permanent
        assert users[-1:] == [item for item in shorter if item.get("role") == "user"][-1:]
        assert shorter[-1] == items[-1]
        items = shorter
    raise AssertionError("it never ends")
