"""AttemptContext: the input of a translation from outside its core: identity, time, tokens and fetched media."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fetched:
    """A medium that the gateway fetched for a provider which takes inline data only; `data` is base64."""

    media_type: str
    data: str


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """One attempt. Ids are made of its own id, so that the core needs no randomness."""

    id: str
    at_s: float  # seconds since the epoch
    token: str = field(default="", repr=False)  # a bearer token that was fetched for the target
    fetched: Mapping[str, Fetched] = field(default_factory=dict)  # by URL
    labels: Mapping[str, str] = field(default_factory=dict)  # of the caller: organization, team, … (pipeline/labels.py)

    def new_id(self, prefix: str, number: int = 0, size: int = 24) -> str:
        """The same for the same prefix and number within an attempt: `call_` and 24 hex digits."""
        return prefix + hashlib.sha256(f"{self.id}:{prefix}:{number}".encode()).hexdigest()[:size]
