"""Ids of the calls in a history, for an upstream that refuses some forms of ids and takes each id once."""

import hashlib
import re
from collections import defaultdict, deque


class CallIds:
    """Assigns each call the client's own id where the upstream takes it and it is not in use yet, else an id derived
    from it. The same history gets the same ids each time, which keeps the prompt in the upstream's cache."""

    __slots__ = ("_form", "_numbers", "_prefix", "_used")

    def __init__(self, form: re.Pattern[str], prefix: str) -> None:
        self._form = form
        self._prefix = prefix
        self._used: set[str] = set()
        self._numbers: defaultdict[str, int] = defaultdict(int)  # by id: the next number to try

    def assign(self, client_id: str) -> str:
        """The id for the upstream of one more call with this id of the client."""
        upstream_id = client_id
        while upstream_id in self._used or not self._form.fullmatch(upstream_id):
            upstream_id = derive_id(self._prefix, client_id, self._numbers[client_id])
            self._numbers[client_id] += 1
        self._used.add(upstream_id)
        return upstream_id


class UnansweredCalls:
    """The calls of a turn that have no result yet, by the client's ids. Calls of one id are answered in their order."""

    __slots__ = ("_upstream_ids", "_waiting")

    def __init__(self) -> None:
        self._waiting: defaultdict[str, deque[str]] = defaultdict(deque)
        self._upstream_ids: dict[str, None] = {}  # in the order of the calls

    def __bool__(self) -> bool:
        return bool(self._upstream_ids)

    def add(self, client_id: str, upstream_id: str) -> None:
        self._waiting[client_id].append(upstream_id)
        self._upstream_ids[upstream_id] = None

    def answer(self, client_id: str) -> str | None:
        """The upstream's id of the call; None where no call of this id waits for a result."""
        waiting = self._waiting.get(client_id)
        if not waiting:
            return None
        upstream_id = waiting.popleft()
        del self._upstream_ids[upstream_id]
        return upstream_id

    def end(self) -> list[str]:
        """Ends the turn. Returns the upstream's ids of the calls without a result."""
        unanswered = list(self._upstream_ids)
        self._waiting.clear()
        self._upstream_ids.clear()
        return unanswered


def derive_id(prefix: str, client_id: str, number: int) -> str:
    return prefix + hashlib.sha256(f"{number}:{client_id}".encode()).hexdigest()[:24]
