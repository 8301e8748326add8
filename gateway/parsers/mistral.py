"""Mistral: `[TOOL_CALLS]` and an array of `{"name", "arguments", "id"}` (tokenizers before v11), or a name and its
arguments: `[TOOL_CALLS]name{…}`, `[TOOL_CALLS]name[ARGS]{…}`, `[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`.

Its ids are nine letters and digits. The client gets the model's id where it comes before the arguments; a later one
comes too late.
"""

from collections.abc import Callable

from gateway.parsers.contract import CallTextParser, parser_of
from gateway.parsers.scanner import MAX_NAME_CHARS

TOOL_CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
NAME_SIGNS = "_-.:/"  # the characters of a name beside letters and digits
ID_CHARS = 9
MAX_ID_CHARS = 40


class Mistral(CallTextParser):
    marks = (TOOL_CALLS,)
    common_end_tokens = ("</s>",)

    def __init__(
        self, tools: frozenset[str], *, new_id: Callable[[], str], parallel: bool = True, choice: int = 0
    ) -> None:
        super().__init__(tools, new_id=new_id, parallel=parallel, choice=choice)
        self._is_array = False
        self._is_separated = False
        self._name = ""
        self._upstream_id = ""
        self._control = ""
        self._used_ids: set[str] = set()

    def _call_id(self, upstream_id: str) -> str:
        is_usable = 0 < len(upstream_id) <= MAX_ID_CHARS and all(map(_is_id_char, upstream_id))
        if not is_usable or upstream_id in self._used_ids:
            upstream_id = "".join(filter(str.isalnum, self._new_id()))[-ID_CHARS:]
        self._used_ids.add(upstream_id)
        return upstream_id

    def _open_mark(self, mark: str) -> None:
        self._buffer(mark)
        self._is_closing = self._is_array = False
        self._name = self._upstream_id = ""
        self._state = self._in_block

    def _in_block(self, text: str, pos: int) -> int:
        pos = self._skip_space(text, pos)
        if pos == len(text) or self._state != self._in_block:
            return pos
        char = text[pos]
        if char == "[":
            self._buffer(char)
            self._is_array = True
            self._is_separated = False
            self._state = self._in_array
            return pos + 1
        if char == "{":
            self._begin_object()
        elif _is_name_char(char):
            self._state = self._in_name
        else:
            self._reject_call()
        return pos

    def _reject_at_bracket(self, text: str, pos: int) -> int:
        """Rejects the call; the bracket that was read last may begin a mark."""
        if self._undecided[-1] != "[":
            self._reject_call()
            return pos
        self._undecided.pop()
        self._reject_call()
        if self._state == self._in_rest:
            self._write("[")
            return pos
        ahead = "[" + text[pos : pos + len(TOOL_CALLS) - 1]
        if ahead == TOOL_CALLS:
            self._open_mark(TOOL_CALLS)
        elif TOOL_CALLS.startswith(ahead):
            self._pending = ahead
        else:
            self._write("[")
            return pos
        return pos + len(ahead) - 1

    # An array

    def _in_array(self, text: str, pos: int) -> int:
        """Between the elements. The buffered text closes a call, or is content after an element that was no call."""
        pos = self._skip_space(text, pos)
        if pos == len(text) or self._state != self._in_array:
            return pos
        char = text[pos]
        if char == "{":
            self._begin_object()
            return pos
        if char == "," and not self._is_separated:
            self._is_separated = True
            self._buffer(char)
            return pos + 1
        if char == "]":
            self._buffer(char)
            pos += 1
        elif self._undecided[-1:] == ["["]:
            return self._reject_at_bracket(text, pos)
        if self._is_closing:
            self._take_buffer()
            self._is_closing = False
        self._reject_call()
        return pos

    def _end_object(self, *, is_complete: bool) -> None:
        if self._is_array:
            self._is_separated = False
            self._state = self._in_array
        else:
            self._is_closing = not is_complete
            self._state = self._in_text

    def _reject_call(self, *, is_complete: bool = False) -> None:
        super()._reject_call()
        if is_complete and self._is_array and self._state == self._in_text:
            self._is_separated = False
            self._state = self._in_array

    # A name and its arguments

    def _in_name(self, text: str, pos: int) -> int:
        if not _is_name_char(text[pos]):
            self._state = self._after_name
            return pos
        if len(self._name) == MAX_NAME_CHARS:
            self._reject_call()
            return pos
        self._name += text[pos]
        self._buffer(text[pos])
        return pos + 1

    def _after_name(self, text: str, pos: int) -> int:
        """Before the arguments. A space may follow the name of a declared tool only: prose may hold braces too."""
        stop = self._skip_space(text, pos)
        if stop == len(text) or self._state != self._after_name:
            return stop
        is_set_off = self._undecided[-1].isspace()
        if text[stop] == "[":
            self._control = ""
            self._state = self._in_control
        elif text[stop] == "{" and (not is_set_off or self._name in self._tools):
            self._begin_named_call()
        else:
            self._reject_call()
        return stop

    def _in_control(self, text: str, pos: int) -> int:
        self._control += text[pos]
        if ARGS.startswith(self._control):
            self._buffer(text[pos])
            if self._control == ARGS:
                self._state = self._before_arguments
        elif CALL_ID.startswith(self._control) and not self._upstream_id:
            self._buffer(text[pos])
            if self._control == CALL_ID:
                self._state = self._in_id
        else:
            return self._reject_at_bracket(text, pos)
        return pos + 1

    def _in_id(self, text: str, pos: int) -> int:
        char = text[pos]
        if char == "[":
            self._control = ""
            self._state = self._in_control
        elif char == "{":
            self._begin_named_call()
        elif _is_id_char(char) and len(self._upstream_id) < MAX_NAME_CHARS:
            self._upstream_id += char
            self._buffer(char)
            return pos + 1
        else:
            self._reject_call()
        return pos

    def _before_arguments(self, text: str, pos: int) -> int:
        pos = self._skip_space(text, pos)
        if pos < len(text) and self._state == self._before_arguments:
            if text[pos] == "{":
                self._begin_named_call()
            else:
                self._reject_call()
        return pos

    def _begin_named_call(self) -> None:
        if self._begin_call(self._name, self._upstream_id):
            self._begin_arguments(self._end_named_call)
        else:
            self._reject_call()

    def _end_named_call(self) -> None:
        self._state = self._in_text


def _is_name_char(char: str) -> bool:
    return char.isalnum() or char in NAME_SIGNS


def _is_id_char(char: str) -> bool:
    return (char.isascii() and char.isalnum()) or char in "_-"


PARSER = parser_of(__name__, Mistral)
