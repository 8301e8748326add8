"""`truncation: auto`: what of a conversation that is too long for a model is left out."""

from collections.abc import Iterator, Sequence

from gateway.protocol.dialects.responses.conversation import OUTPUT_TYPES, CallPairs
from gateway.protocol.dialects.responses.items import Item

#: What else would be forgotten with them holds for the whole conversation.
LASTING_ROLES = frozenset({"system", "developer"})


def halve_history(items: Sequence[Item]) -> list[int] | None:
    """The places of the items that stay when the older half of what may go has gone; None where nothing may.

    A turn of the model goes as a whole, with the outputs of its calls. System and developer messages stay, and so do
    summaries, the last message of a user, and the last turn.
    """
    asked = max((place for place, item in enumerate(items) if _is_message(item, "user")), default=-1)
    *earlier, _ = _turns(items) or [[]]
    loose = [turn for turn in earlier if asked not in turn and not _lasts(items[turn[0]])]
    if not loose:
        return None
    gone = {place for turn in loose[: (len(loose) + 1) // 2] for place in turn}
    return [place for place in range(len(items)) if place not in gone]


def _is_message(item: Item, *roles: str) -> bool:
    return item["type"] == "message" and item["role"] in roles


def _lasts(item: Item) -> bool:
    return item["type"] == "compaction" or _is_message(item, *LASTING_ROLES)


def _turns(items: Sequence[Item]) -> list[list[int]]:
    """What belongs together, by places; the one with the last item is the last."""
    answers = {output: call for call, output in CallPairs(items).outputs.items()}
    approvals = {item["id"]: place for place, item in enumerate(items) if item["type"] == "mcp_approval_request"}
    turns: dict[int, list[int]] = {}  # by the place of their first item
    turn_of: dict[int, int] = {}
    for place, (item, goes_on) in enumerate(_made(items)):
        answered = answers.get(place, approvals.get(item.get("approval_request_id", "")))
        begun = turn_of.get(answered, place) if answered is not None else turn_of[place - 1] if goes_on else place
        turn_of[place] = begun
        turns.setdefault(begun, []).append(place)
    return sorted(turns.values(), key=lambda turn: turn[-1])


def _made(items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it goes on with what the model was making."""
    was_made = False
    for item in items:
        kind = item["type"]
        is_made = kind not in OUTPUT_TYPES and kind != "compaction" and not kind.endswith(("_output", "_response"))
        is_made = is_made and not _is_message(item, "user", *LASTING_ROLES)
        yield item, is_made and was_made
        was_made = is_made
