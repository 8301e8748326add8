"""Seal: opaque texts that only the gateway can read, and only for the tenant they were made for.

Clients keep them and send them back: `encrypted_content` of reasoning and compaction items.
"""

from collections.abc import Mapping
from typing import Any, Protocol


class Seal(Protocol):
    """Bound to one tenant."""

    def close(self, value: Mapping[str, Any]) -> str: ...

    def open(self, text: str) -> Mapping[str, Any] | None:
        """None for a text that is not ours, was changed, or was made for another tenant."""
