"""How large the history of one response may be."""

from gateway.protocol.errors import BadRequest

#: Of JSON, as it is stored. It is in memory for as long as the response is made, several times as large.
MAX_HISTORY_BYTES = 64 * 1024 * 1024


def history_too_large(most: int, *, param: str) -> BadRequest:
    """`truncation: auto` does not help: what is too large to be read cannot be shortened either."""
    return BadRequest(
        f"The history is larger than the {most:,} bytes that a response may build upon; compact a part of it to go on.",
        param=param,
        code="history_too_large",
    )
