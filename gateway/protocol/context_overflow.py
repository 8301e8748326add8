"""The texts of a context overflow that clients search for, whatever words the upstream has.

LiteLLM's fallbacks look for OpenAI's sentence, Claude Code for Anthropic's.
"""

import re

from gateway.protocol.errors import Fault

CODE = "context_length_exceeded"
_NUMBER = r"(\d[\d,]{0,14})"
_LIMIT = re.compile(
    rf"maximum (?:context|prompt|model|allowed) length[^\d]{{0,10}}{_NUMBER}"
    rf"|> {_NUMBER} maximum"
    rf"|maximum number of tokens allowed[^\d]{{0,3}}{_NUMBER}"
    rf"|{_NUMBER} maximum context length"
    rf"|exceed context limit: \d+ \+ \d+ > {_NUMBER}"
    rf"|context (?:size|length|window)[^\d]{{0,20}}{_NUMBER}"
    rf"|cannot exceed {_NUMBER}",
    re.IGNORECASE | re.ASCII,
)
_ANY_NUMBER = re.compile(rf"(?<![\w.]){_NUMBER}(?![\w])", re.ASCII)


def openai_text(fault: Fault) -> str:
    """The message of the fault; that of an overflow in OpenAI's words."""
    text = fault.message
    if fault.code != CODE or "maximum context length is" in text:
        return text
    tokens, limit = _read_numbers(text)
    if tokens is None:
        return f"This model's maximum context length is exceeded. The upstream says: {text}"
    return (
        f"This model's maximum context length is {limit} tokens. However, your messages resulted in {tokens} tokens. "
        "Please reduce the length of the messages."
    )


def anthropic_text(fault: Fault) -> str:
    """The message of the fault; that of an overflow in Anthropic's words."""
    text = fault.message
    if fault.code != CODE or text.startswith("prompt is too long") or "exceed context limit" in text:
        return text
    tokens, limit = _read_numbers(text)
    return f"prompt is too long: {text}" if tokens is None else f"prompt is too long: {tokens} tokens > {limit} maximum"


def _read_numbers(text: str) -> tuple[int | None, int | None]:
    """(tokens of the input, the model's limit), or None twice where the text lacks one of them."""
    match = _LIMIT.search(text)
    if match is None or match.lastindex is None:
        return None, None
    limit = int(match[match.lastindex].replace(",", ""))
    numbers = (int(found[1].replace(",", "")) for found in _ANY_NUMBER.finditer(text))
    tokens = next((number for number in numbers if number > limit), None)
    return (None, None) if tokens is None else (tokens, limit)
