"""Llama 3: `{"name": …, "parameters": …}` after `<|python_tag|>`, or bare as the whole answer; a semicolon, white space
or nothing separates more calls.

The tag never reaches the client. A bare object is a call only if the answer begins with it and it names a declared
tool.
"""

from collections.abc import Callable

from gateway.parsers.contract import CallTextParser, parser_of


class Llama3(CallTextParser):
    marks = ("<|python_tag|>",)
    end_tokens = ("<|eom_id|>", "<|eot_id|>", "<|end_of_text|>")

    def __init__(
        self, tools: frozenset[str], *, new_id: Callable[[], str], parallel: bool = True, choice: int = 0
    ) -> None:
        super().__init__(tools, new_id=new_id, parallel=parallel, choice=choice)
        self._callable: frozenset[str] | None = tools  # None: after a tag, any name
        self._is_separated = False
        if tools:
            self._state = self._at_object

    def _open_mark(self, mark: str) -> None:
        self._callable = None
        self._state = self._at_object

    def _at_object(self, text: str, pos: int) -> int:
        """At the beginning of the answer or after the tag. White space is content if no call follows."""
        stop = pos
        while stop < len(text) and text[stop].isspace():
            stop += 1
        self._write(text[pos:stop])
        if stop < len(text):
            self._state = self._in_text
            if text[stop] == "{":
                self._begin_object(self._callable)
        return stop

    def _end_object(self, *, is_complete: bool) -> None:
        self._is_closing = not is_complete
        self._is_separated = False
        self._state = self._after_object

    def _after_object(self, text: str, pos: int) -> int:
        char = text[pos]
        if char.isspace():
            return pos + 1
        if char == ";" and not self._is_separated:
            self._is_separated = True
            return pos + 1
        self._state = self._in_text
        if char == "{":
            self._begin_object(self._callable)
        return pos


PARSER = parser_of(__name__, Llama3)
