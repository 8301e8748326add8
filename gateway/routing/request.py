"""RoutingRequest: what the choice of a deployment depends on, in a call."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoutingRequest:
    """Sizes are tokens. `needs` are abilities (protocol/abilities.py); `key_tags` are those of the key and its team;
    `session` is any text that stays the same for the calls of one conversation, empty for none."""

    input_tokens: int = 0
    needs: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    key_tags: frozenset[str] = frozenset()
    region: str = ""
    session: str = ""
    preferred: str = ""  # the deployment that answered the conversation before
    is_stream: bool = False


PLAIN = RoutingRequest()
