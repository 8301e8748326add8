"""Splits `<think>…</think>` at the beginning of an answer from the answer: ReasoningDelta, then TextDelta.

Line ends next to the two tags belong to the tags, as in the models' own chat templates. The text after the closing tag
is the answer, byte for byte: a later tag is part of it.
"""

from collections.abc import Callable

from gateway.protocol.events import Event, ReasoningDelta, TextDelta

OPENING, CLOSING = "<think>", "</think>"
LINE_ENDS = "\r\n"
#: The white space that waits for the text after it. Before the opening tag a longer run is text; at the end of the
#: reasoning it passes in blocks of this size.
MAX_WAITING_SPACE = 1 << 12


class ThinkSplitter:
    """Splits one choice of one answer.

    `is_opened`: the chat template writes the opening tag, so the answer begins with reasoning, with or without the tag.
    Otherwise an answer that does not begin with the tag has no reasoning.
    """

    def __init__(self, *, is_opened: bool = False, choice: int = 0) -> None:
        self._is_opened = is_opened
        self._choice = choice
        self._state: Callable[[str], str] = self._at_start
        self._pending = ""  # read again with the text after it
        self._trailing = ""  # line ends at the end of the reasoning so far
        self._has_reasoning = False
        self._events: list[Event] = []

    def feed(self, text: str) -> list[Event]:
        if self._state == self._in_answer:
            return [TextDelta(text, choice=self._choice)] if text else []
        text, self._pending = self._pending + text, ""
        while text:
            text = self._state(text)
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """The remaining events. Reasoning without a closing tag stays reasoning."""
        if self._state == self._at_start and not self._is_opened:
            self._in_answer(self._pending)
        else:
            self._reason(self._trailing + self._pending)
        return self._events

    # States: each returns the text that the next one reads.

    def _at_start(self, text: str) -> str:
        rest = text.lstrip()
        if len(text) - len(rest) < MAX_WAITING_SPACE:
            if rest.startswith(OPENING):
                self._state = self._in_reasoning
                return rest[len(OPENING) :]
            if OPENING.startswith(rest):
                self._pending = text
                return ""
        self._state = self._in_reasoning if self._is_opened else self._in_answer
        return text

    def _in_reasoning(self, text: str) -> str:
        end = text.find(CLOSING)
        if end >= 0:
            self._write(text[:end])
            self._trailing = ""
            self._state = self._after_reasoning
            return text[end + len(CLOSING) :]
        start = text.rfind("<", max(0, len(text) - len(CLOSING) + 1))
        if start < 0 or not CLOSING.startswith(text[start:]):
            start = len(text)
        self._pending = text[start:]
        self._write(text[:start])
        return ""

    def _after_reasoning(self, text: str) -> str:
        rest = text.lstrip(LINE_ENDS)
        if rest:
            self._state = self._in_answer
        return rest

    def _in_answer(self, text: str) -> str:
        if text:
            self._events.append(TextDelta(text, choice=self._choice))
        return ""

    def _write(self, text: str) -> None:
        if not self._has_reasoning:
            text = text.lstrip(LINE_ENDS)
        body = text.rstrip(LINE_ENDS)
        if body:
            self._reason(self._trailing + body)
            self._trailing = ""
        self._trailing += text[len(body) :]
        end = len(self._trailing) - len(self._trailing) % MAX_WAITING_SPACE
        if end:
            self._reason(self._trailing[:end])
            self._trailing = self._trailing[end:]

    def _reason(self, text: str) -> None:
        if text:
            self._has_reasoning = True
            self._events.append(ReasoningDelta(text, choice=self._choice))
