"""A call as the conversation that a provider is asked, where completions are asked as chat."""

from dataclasses import replace

from gateway.protocol.call import Call, Operation
from gateway.protocol.items import ChatRequest


def to_chat_request(call: Call) -> ChatRequest:
    """Of a completion, what a chat has no place for stands among the fields that no member carries: a provider names
    those as dropped, or refuses them where its deployment says so."""
    conversation = call.dialect.chat_request(call)
    if call.operation is not Operation.COMPLETION:
        return conversation
    return replace(
        conversation, others={**conversation.others, **dict.fromkeys(call.dialect.unsupported_fields(call), True)}
    )
