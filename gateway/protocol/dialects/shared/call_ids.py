"""The ids under which the calls of a history are sent, where an upstream refuses some forms and takes each once."""

import hashlib
import re
from collections import defaultdict, deque


class CallIds:
    """The client's own ids where they may be sent and were not yet, else others that are made of them: the same ones
    each time, so that a prompt stays what it was in the upstream's cache."""

    __slots__ = ("_form", "_numbers", "_prefix", "_used")

    def __init__(self, form: re.Pattern[str], prefix: str) -> None:
        self._form = form
        self._prefix = prefix
        self._used: set[str] = set()
        self._numbers: defaultdict[str, int] = defaultdict(int)  # of an id, the next to be tried

    def sent(self, given: str) -> str:
        """For one more call of this id."""
        made = given
        while made in self._used or not self._form.fullmatch(made):
            made = derive_id(self._prefix, given, self._numbers[given])
            self._numbers[given] += 1
        self._used.add(made)
        return made


class Unanswered:
    """The calls of a turn that have no result yet, by the client's ids: those of one id are answered in their order."""

    __slots__ = ("_sent", "_waiting")

    def __init__(self) -> None:
        self._waiting: defaultdict[str, deque[str]] = defaultdict(deque)
        self._sent: dict[str, None] = {}  # in the order of the calls

    def __bool__(self) -> bool:
        return bool(self._sent)

    def add(self, given: str, sent: str) -> None:
        self._waiting[given].append(sent)
        self._sent[sent] = None

    def answer(self, given: str) -> str | None:
        """What the call was sent as; None where there is none left of this id."""
        waiting = self._waiting.get(given)
        if not waiting:
            return None
        sent = waiting.popleft()
        del self._sent[sent]
        return sent

    def end(self) -> list[str]:
        """What nobody has answered, as it was sent; the next turn begins."""
        left = list(self._sent)
        self._waiting.clear()
        self._sent.clear()
        return left


def derive_id(prefix: str, given: str, number: int) -> str:
    return prefix + hashlib.sha256(f"{number}:{given}".encode()).hexdigest()[:24]
