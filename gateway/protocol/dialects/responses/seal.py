"""The port that seals values into opaque texts: only the gateway can open them, and only for the same tenant.

A client gets such a text as the `encrypted_content` of a reasoning or compaction item, and sends it back as it is.
"""

from typing import Protocol

from gateway.protocol.json.types import JsonMapping


class Seal(Protocol):
    """A seal bound to one tenant."""

    def close(self, value: JsonMapping) -> str: ...

    def open(self, text: str) -> JsonMapping | None:
        """None for a text that the gateway did not seal, that was changed, or that belongs to another tenant."""
