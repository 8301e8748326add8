"""A system message as text, which is all that it is at most providers."""

from gateway.protocol.errors import BadRequest
from gateway.protocol.items import System, Text


def system_texts(message: System) -> tuple[Text, ...]:
    """Raises BadRequest for a message that holds anything else: left out, it would be missed."""
    texts = tuple(part for part in message.parts if isinstance(part, Text))
    if len(texts) < len(message.parts):
        raise BadRequest(
            "A system message of this model holds text only.", param="messages", code="unsupported_parameter"
        )
    return texts
