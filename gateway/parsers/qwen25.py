"""Qwen 2.5, Qwen 3 and Hermes: `<tool_call>{"name": …, "arguments": …}</tool_call>`, repeated.

The parser also takes what models write: a missing outer brace, a missing closing mark, several objects in one block.
"""

from gateway.parsers.contract import CallTextParser, parser_of

OPENING, CLOSING = "<tool_call>", "</tool_call>"


class Qwen25(CallTextParser):
    marks = (OPENING, CLOSING)
    end_tokens = ("<|im_end|>", "<|endoftext|>")

    _is_unclosed = False  # the block of the last call lacks its closing mark

    def _open_mark(self, mark: str) -> None:
        if mark == OPENING:
            self._is_closing = self._is_unclosed = False
            self._buffer(mark)
            self._state = self._in_block
        elif self._is_unclosed:
            self._is_closing = self._is_unclosed = False
        else:
            self._write(mark)

    def _in_block(self, text: str, pos: int) -> int:
        pos = self._skip_space(text, pos)
        if pos < len(text) and self._state == self._in_block:
            if text[pos] == "{":
                self._begin_object()
            else:
                self._reject_call()
        return pos

    def _begin_call(self, name: str, upstream_id: str = "") -> bool:
        self._is_unclosed = super()._begin_call(name, upstream_id)
        return self._is_unclosed

    def _end_object(self, *, is_complete: bool) -> None:
        self._state = self._after_object

    def _after_object(self, text: str, pos: int) -> int:
        if text[pos].isspace():
            return pos + 1
        if text[pos] == "{":
            self._begin_object()
        else:
            self._state = self._in_text
        return pos

    def _is_closing_mark(self, pending: str) -> bool:
        return self._is_unclosed and CLOSING.startswith(pending)


PARSER = parser_of(__name__, Qwen25)
