"""The largest history of one response."""

from gateway.protocol.errors import BadRequest

#: Of JSON, as it is stored. While the response is made the history is in memory, several times as large.
MAX_HISTORY_BYTES = 64 * 1024 * 1024


def history_too_large(most: int, *, param: str) -> BadRequest:
    """`truncation: auto` does not help: the gateway does not read such a history, so it cannot shorten it."""
    return BadRequest(
        f"The history is larger than the {most:,} bytes that a response may build upon; compact a part of it to go on.",
        param=param,
        code="history_too_large",
    )
