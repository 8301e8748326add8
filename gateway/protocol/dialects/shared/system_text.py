"""System messages for providers whose system messages hold text only."""

from gateway.protocol.errors import BadRequest
from gateway.protocol.items import System, Text


def system_texts(message: System) -> tuple[Text, ...]:
    """The texts of the message. Raises BadRequest for one that holds anything else, which must not get lost."""
    texts = tuple(part for part in message.parts if isinstance(part, Text))
    if len(texts) < len(message.parts):
        raise BadRequest(
            "A system message of this model holds text only.", param="messages", code="unsupported_parameter"
        )
    return texts
