"""`truncation: auto`: which items of a conversation stay when it is too long for a model."""

from collections.abc import Iterator, Sequence

from gateway.protocol.dialects.responses.conversation import OUTPUT_TYPES, CallPairs
from gateway.protocol.dialects.responses.stored import Item

#: Messages of these roles hold for the whole conversation, so they always stay.
INSTRUCTION_ROLES = frozenset({"system", "developer"})


def halve_history(items: Sequence[Item]) -> list[int] | None:
    """The indexes of the items that stay without the older half of the removable turns; None without such a turn.

    A turn of the model is removed as a whole, with the outputs of its calls. System and developer messages stay, and so
    do summaries, the last message of a user, and the last turn.
    """
    last_question = max((index for index, item in enumerate(items) if _is_message(item, "user")), default=-1)
    *earlier, _ = _group_turns(items) or [[]]
    removable = [turn for turn in earlier if last_question not in turn and not _is_permanent(items[turn[0]])]
    if not removable:
        return None
    removed = {index for turn in removable[: (len(removable) + 1) // 2] for index in turn}
    return [index for index in range(len(items)) if index not in removed]


def _is_message(item: Item, *roles: str) -> bool:
    return item["type"] == "message" and item["role"] in roles


def _is_permanent(item: Item) -> bool:
    return item["type"] == "compaction" or _is_message(item, *INSTRUCTION_ROLES)


def _group_turns(items: Sequence[Item]) -> list[list[int]]:
    """The turns as lists of indexes, ordered by their last item."""
    calls = {output: call for call, output in CallPairs(items).outputs.items()}
    approvals = {item["id"]: index for index, item in enumerate(items) if item["type"] == "mcp_approval_request"}
    turns: dict[int, list[int]] = {}  # by the index of their first item
    turn_of: dict[int, int] = {}
    for index, (item, continues_turn) in enumerate(_mark_continuations(items)):
        answered = calls.get(index, approvals.get(item.get("approval_request_id", "")))
        if answered is not None:
            first = turn_of.get(answered, index)
        else:
            first = turn_of[index - 1] if continues_turn else index
        turn_of[index] = first
        turns.setdefault(first, []).append(index)
    return sorted(turns.values(), key=lambda turn: turn[-1])


def _mark_continuations(items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
    """(item, True where the model wrote it right after the item before) for each item."""
    follows_model = False
    for item in items:
        is_model = _is_from_model(item)
        yield item, is_model and follows_model
        follows_model = is_model


def _is_from_model(item: Item) -> bool:
    kind = item["type"]
    if kind in OUTPUT_TYPES or kind == "compaction" or kind.endswith(("_output", "_response")):
        return False
    return not _is_message(item, "user", *INSTRUCTION_ROLES)
